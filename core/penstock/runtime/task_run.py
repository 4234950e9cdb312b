"""The task run that the calling code is part of; empty values where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.context import current_task_run
from penstock.runtime._lookup import look_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.runs import Run, TaskRun

__all__ = [
    "api_url",
    "id",
    "name",
    "parameters",
    "resources",
    "run_count",
    "tags",
    "task_inputs",
    "task_name",
    "ui_url",
    "upstream_states",
]

id: str | None
name: str | None
task_name: str | None
tags: list[str]
parameters: dict[str, Any]
resources: dict[str, list[int]]
run_count: int
task_inputs: dict[str, list[str]]
upstream_states: dict[str, list[Any]]
api_url: None
ui_url: None


def _of(run: TaskRun | None, field: str, empty: Any) -> Any:
    return empty if run is None else getattr(run, field)


def _inputs() -> dict[str, list[str]]:
    run = current_task_run()
    if run is None:
        return {}
    return {
        parameter: [str(source.id) for source in sources]
        for parameter, sources in run.task_inputs.items()
    }


def _resources() -> dict[str, list[int]]:
    """Return the indices that the code has of each resource, by its run or by one around it."""
    current = current_task_run()
    if current is None:
        return {}
    run: Run | None = current
    while run is not None:
        has: Mapping[str, tuple[int, ...]] = getattr(run, "resources", {})
        if has:
            return {name: list(indices) for name, indices in has.items()}
        run = run.parent
    return {name: [] for name in current.plan.resources}


def _id() -> str | None:
    run = current_task_run()
    return None if run is None else str(run.id)


_FIELDS = {
    "id": _id,
    "name": lambda: _of(current_task_run(), "name", None),
    "task_name": lambda: _of(current_task_run(), "task_name", None),
    "tags": lambda: sorted(_of(current_task_run(), "tags", ())),
    "parameters": lambda: _of(current_task_run(), "parameters", {}),
    "resources": _resources,
    "run_count": lambda: _of(current_task_run(), "run_count", 0),
    "task_inputs": _inputs,
    "upstream_states": lambda: _of(current_task_run(), "upstream_states", {}),
    "api_url": lambda: None,
    "ui_url": lambda: None,
}


def __getattr__(name: str) -> Any:
    return look_up("task_run", name, _FIELDS)


def __dir__() -> list[str]:
    return sorted(_FIELDS)
