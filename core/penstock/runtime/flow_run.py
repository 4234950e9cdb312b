"""The flow run that the calling code is part of; empty values where there is none."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from penstock.context import current_flow_run
from penstock.runtime._lookup import look_up

if TYPE_CHECKING:
    from penstock.runs import FlowRun

__all__ = [
    "api_url",
    "flow_name",
    "flow_version",
    "id",
    "job_variables",
    "name",
    "parameters",
    "parent_deployment_id",
    "parent_flow_run_id",
    "root_flow_run_id",
    "run_count",
    "scheduled_start_time",
    "tags",
    "ui_url",
]

id: str | None
name: str | None
flow_name: str | None
flow_version: str | None
tags: list[str]
parameters: dict[str, Any]
run_count: int
scheduled_start_time: datetime.datetime
parent_flow_run_id: str | None
root_flow_run_id: str | None
parent_deployment_id: None
job_variables: None
api_url: None
ui_url: None


def _of(run: FlowRun | None, field: str, empty: Any) -> Any:
    return empty if run is None else getattr(run, field)


def _id_of(run: FlowRun | None) -> str | None:
    return None if run is None else str(run.id)


def _parent() -> FlowRun | None:
    return _of(current_flow_run(), "flow_run", None)  # type: ignore[no-any-return]


def _scheduled() -> datetime.datetime:
    """When the run was to start: its set time, or when it was made; now, outside of runs."""
    run = current_flow_run()
    if run is None:
        return datetime.datetime.now(datetime.UTC)
    times = [state.scheduled_time for state in run.states if state.name == "Scheduled"]
    first = times[0] if times else run.states[0].timestamp
    return first if first is not None else datetime.datetime.now(datetime.UTC)


_FIELDS = {
    "id": lambda: _id_of(current_flow_run()),
    "name": lambda: _of(current_flow_run(), "name", None),
    "flow_name": lambda: _of(current_flow_run(), "flow_name", None),
    "flow_version": lambda: getattr(_of(current_flow_run(), "flow", None), "version", None),
    "tags": lambda: sorted(_of(current_flow_run(), "tags", ())),
    "parameters": lambda: _of(current_flow_run(), "parameters", {}),
    "run_count": lambda: _of(current_flow_run(), "run_count", 0),
    "scheduled_start_time": _scheduled,
    "parent_flow_run_id": lambda: _id_of(_parent()),
    "root_flow_run_id": lambda: _id_of(_of(current_flow_run(), "root", None)),
    "parent_deployment_id": lambda: None,
    "job_variables": lambda: None,
    "api_url": lambda: None,
    "ui_url": lambda: None,
}


def __getattr__(name: str) -> Any:
    return look_up("flow_run", name, _FIELDS)


def __dir__() -> list[str]:
    return sorted(_FIELDS)
