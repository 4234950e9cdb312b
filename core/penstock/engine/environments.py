"""What an attempt says of its run in a worker elsewhere: plain values, most of them made once."""

from __future__ import annotations

import dataclasses
import logging
import marshal
import pickle
from typing import TYPE_CHECKING, Any, Final

from penstock.attempt import Environment
from penstock.context import TAGS
from penstock.shipping import pack_variables
from penstock.worker import packing

if TYPE_CHECKING:
    from penstock.by_value import ByValue
    from penstock.runs import FlowRun, TaskRun
    from penstock.settings import Settings

__all__ = ["environment_of"]

LARGEST_PARAMETER_BYTES: Final = 64 * 1024
"""A larger parameter of a flow does not go along with every task run."""


def environment_of(
    run: TaskRun, settings: Settings, known: dict[Any, bytes], writer: bytes | None = None
) -> Environment:
    """Return what an attempt of a run says of it in a worker elsewhere.

    Args:
        run: the run.
        settings: of the driver.
        known: what attempts share, once it was made.
        writer: what stores a large result where it is made.

    Raises:
        TypeError: a context variable that is to go along has a value that cannot be pickled.
    """
    plan, flow_run, context = run.plan, run.flow_run, run.context
    tags = _NO_TAGS if context is None else context.get(TAGS, _NO_TAGS)
    attempt_of_flow = 0 if flow_run is None else flow_run.run_count
    by_value: ByValue = plan.runner.by_value
    key = by_value, plan.name, plan.tags, tags, plan.log_prints, attempt_of_flow
    shared = known.get(key)
    if shared is None:
        shared = known[key] = marshal.dumps(_shared(run, tags, settings, by_value))
    inputs: tuple[Any, ...] = ()
    if run.task_inputs:
        inputs = tuple(
            (parameter, tuple(source.id_bits for source in sources))
            for parameter, sources in run.task_inputs.items()
        )
    resources: tuple[Any, ...] = ()
    if plan.resources:
        resources = tuple(
            (name, amount, run.resources.get(name, ())) for name, amount in plan.resources.items()
        )
    # The fields of `Own`; to make one, and a plain tuple of it, would take ten times as long.
    own = run.id_bits, run.name, run.run_count, run.number, inputs, resources
    variables = None
    if plan.propagate and context is not None:
        values = {each: context[each] for each in plan.propagate if each in context}
        variables = pack_variables(values, by_value) if values else None
    return Environment(shared, own, variables, writer)


_NO_TAGS: Final[frozenset[str]] = frozenset()


def _shared(
    run: TaskRun, tags: frozenset[str], settings: Settings, by_value: ByValue
) -> dict[str, Any]:
    return {
        "levels": _log_levels(),
        "log_prints": run.plan.log_prints,
        "name": run.plan.name,
        "tags": tuple(run.plan.tags),
        "tags_around": tuple(tags),
        "flow_run": None if run.flow_run is None else _flow_run_fields(run.flow_run, by_value),
        "settings": pickle.dumps(dataclasses.asdict(settings)),
    }


def _log_levels() -> dict[str, int]:
    """Return the level of every logger that has one of its own, the root as ``""``."""
    levels = {"": logging.root.level}
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
    return levels


def _flow_run_fields(run: FlowRun, by_value: ByValue) -> dict[str, Any]:
    around = run.flow_run
    scheduled = next(
        (state.scheduled_at for state in run.states if state.name == "Scheduled"), None
    )
    return {
        "id": run.id_bits,
        "name": run.name,
        "flow_name": run.flow_name,
        "version": getattr(run.flow, "version", None),
        "tags": tuple(run.tags),
        "log_prints": run.plan.log_prints,
        "run_count": run.run_count,
        "at": run.states[0].at,
        "scheduled_at": scheduled,
        "parent_id": None if around is None else around.id_bits,
        "root_id": run.root.id_bits,
        "parameters": {name: _packed(value, by_value) for name, value in run.parameters.items()},
        "options": _options_for_results(run, by_value),
    }


def _options_for_results(run: FlowRun, by_value: ByValue) -> dict[str, bytes]:
    """Return what tasks inside take from the flow around them."""
    options = getattr(run.flow, "options", {})
    names = "persist_result", "result_storage", "result_serializer"
    given = {name: options[name] for name in names if options.get(name) is not None}
    packed = {name: _packed(value, by_value) for name, value in given.items()}
    # What cannot go along is not there: those tasks store by the settings.
    return {name: value for name, value in packed.items() if isinstance(value, bytes)}


class _TooLarge(Exception):
    """Raised in the middle of pickling, to make an end of it."""


class _Limited:
    """A file for a pickler that takes so many bytes and no more."""

    def __init__(self, most: int) -> None:
        self.parts: list[bytes] = []
        self._left = most

    def write(self, part: Any) -> int:
        size = memoryview(part).nbytes
        self._left -= size
        if self._left < 0:
            raise _TooLarge
        self.parts.append(bytes(part))
        return size


def _packed(value: Any, by_value: ByValue) -> bytes | str:
    """Return a parameter's pickle, or as text why it does not go along."""
    file = _Limited(LARGEST_PARAMETER_BYTES)
    by_value.find_helpers()
    try:
        with by_value.with_helpers():
            packing.Pickler(file, protocol=4).dump(value)
    except _TooLarge:
        return "it is too large to go along with every task run: pass it to the task"
    except Exception as error:  # noqa: BLE001  (user code; told to who asks for the parameter)
        return f"it could not be pickled: {error}"
    return b"".join(file.parts)
