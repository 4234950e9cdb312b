"""Runs as another process sees them: what stands for the driver's there, and what comes back.

In a worker elsewhere a stand-in, made from the attempt's `Environment`, answers what code may ask
of its run, and is the parent of runs inside. Descriptions of those come back with the outcome, and
the driver makes runs of them again. What goes out is made by `penstock.engine.environments`.
"""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import time
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from penstock.attempt import RemoteError
from penstock.remote_errors import exception_of
from penstock.retries import RetryPolicy
from penstock.runs import FlowRun, Plan, TaskRun, made_at
from penstock.states import State, StateType
from penstock.worker.errors import pack_error
from penstock.worker.here import Own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from penstock.runs import Run
    from penstock.worker.here import Here

__all__ = ["description_of", "revived", "settings_of", "standing_in", "tags_around"]


# --- there ------------------------------------------------------------------------------


class _Elsewhere:
    """Stands for a task or flow that is defined in another process."""

    def __init__(
        self,
        name: str,
        version: str | None,
        bind: Callable[[], dict[str, Any]],
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.options = options
        self.version = version
        self._bind = bind

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the run by name."""
        del args, kwargs  # a stand-in has none
        return self._bind()

    def __repr__(self) -> str:
        return f"<{self.name!r}, defined in another process>"


class Parameters(dict[str, Any]):
    """A flow's parameters; asking for one that did not travel says why."""

    def __init__(self, packed: Mapping[str, bytes | str]) -> None:
        super().__init__()
        self._missing: dict[str, str] = {}
        for name, value in packed.items():
            if isinstance(value, str):
                self._missing[name] = value
                continue
            try:
                self[name] = pickle.loads(value)
            except Exception as error:  # noqa: BLE001  (user code; told to who asks for it)
                self._missing[name] = f"it cannot be unpickled here: {error!r}"

    def __missing__(self, name: str) -> Any:
        if name in self._missing:
            raise KeyError(f"the flow's parameter {name!r} is not here: {self._missing[name]}")
        raise KeyError(name)


def _plan_of(
    subject: Any,
    name: str,
    tags: frozenset[str],
    *,
    log_prints: bool = False,
    resources: Mapping[str, float] | None = None,
) -> Plan:
    return Plan(
        subject=subject,
        name=name,
        tags=tags,
        retries=RetryPolicy.of(0, (), None, None, name),
        crash_retries=0,
        timeout_seconds=None,
        log_prints=log_prints,
        hooks={},
        handlers=(),
        run_name=None,
        retry_condition=None,
        is_async=False,
        is_generator=False,
        resources=resources or {},
    )


def standing_in(here: Here) -> TaskRun:
    """Return the run that stands for the driver's in this worker; always the same one.

    Its engine is None until code in the task makes runs of its own.
    """
    if here.run is None:
        shared, now = here.shared, time.time()
        around = shared.get("flow_run")
        flow_run = None if around is None else _flow_run_standing_in(around)
        name = shared.get("name", "")
        subject = _Elsewhere(name, None, lambda: _parameters_of(here))
        tags = frozenset(shared.get("tags", ()))
        log_prints = bool(shared.get("log_prints"))
        own = Own(*here.own)
        amounts = {name: amount for name, amount, _ in own.resources}
        plan = _plan_of(subject, name, tags, log_prints=log_prints, resources=amounts)
        run = TaskRun(plan, None, flow_run, flow_run, (), {}, made_at(now), own.number)
        run.take_identity(own.id_bits, own.name)
        run.run_count = own.run_count
        run.resources = {name: indices for name, _, indices in own.resources}
        run.task_inputs = {
            parameter: tuple(_known_by_id(source) for source in sources)
            for parameter, sources in own.inputs
        }
        run.move_to(State(StateType.RUNNING, "Running", None, None, now))
        here.run = run
    found: TaskRun = here.run
    return found


def _parameters_of(here: Here) -> dict[str, Any]:
    if here.call is None:
        return {}
    fn, args, kwargs = here.call
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except (TypeError, ValueError):  # some builtins do not say
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    return dict(bound.arguments)


def _flow_run_standing_in(fields: Mapping[str, Any]) -> FlowRun:
    around: FlowRun | None = None
    if fields["parent_id"] is not None:
        around = _known_by_id(fields["root_id"])
        if fields["parent_id"] != fields["root_id"]:
            around = _known_by_id(fields["parent_id"], around)
    parameters = Parameters(fields["parameters"])
    options = {name: pickle.loads(value) for name, value in fields["options"].items()}
    subject = _Elsewhere(fields["flow_name"], fields["version"], lambda: parameters, options)
    tags = frozenset(fields["tags"])
    plan = _plan_of(subject, fields["flow_name"], tags, log_prints=fields["log_prints"])
    first = made_at(fields["at"])
    run = FlowRun(plan, None, around, around, (), {}, first, fields["name"])
    run.take_identity(fields["id"], fields["name"])
    run.run_count = fields["run_count"]
    if fields["scheduled_at"] is not None:
        at = fields["scheduled_at"]
        run.move_to(State(StateType.SCHEDULED, "Scheduled", at=at, scheduled_at=at))
    run.move_to(State(StateType.RUNNING, "Running", None, None, fields["at"]))
    return run


def _known_by_id(identity: int, around: FlowRun | None = None) -> FlowRun:
    """Return a run of which nothing but the id is known here."""
    plan = _plan_of(_Elsewhere("elsewhere", None, dict), "elsewhere", frozenset())
    run = FlowRun(plan, None, around, around, (), {}, made_at(time.time()), "elsewhere")
    run.take_identity(identity, "elsewhere")
    return run


def tags_around(here: Here) -> frozenset[str]:
    """Return the tags of the `tags()` blocks around the call that made the run."""
    return frozenset(here.shared.get("tags_around", ()))


def settings_of(here: Here) -> dict[str, Any]:
    """Return the driver's settings."""
    packed = here.shared.get("settings")
    values: dict[str, Any] = {} if packed is None else pickle.loads(packed)
    return values


# --- back -------------------------------------------------------------------------------


def description_of(run: Run) -> tuple[Any, ...]:
    """Return a run that is over as plain values."""
    ended_badly = run.state.type in (StateType.FAILED, StateType.CRASHED)
    error = run.state.exception() if ended_badly else None
    return (
        run.is_flow_run,
        str(run.id),
        None if run.parent is None else str(run.parent.id),
        run.name,
        run.plan.name,
        tuple(run.plan.tags),
        run.run_count,
        run.seen,
        tuple(
            (state.type.value, state.name, state.message, state.at, state.provisional)
            for state in run.states
        ),
        None if error is None else pack_error(error),
    )


def revived(descriptions: Sequence[tuple[Any, ...]], around: Run) -> Iterator[Run]:
    """Yield the runs that were described, in the order in which they ended.

    Args:
        descriptions: of runs inside of an attempt, those further inside before.
        around: the run whose attempt it was.
    """
    known: dict[str, Run] = {str(around.id): around}
    for description in reversed(descriptions):
        known[description[1]] = _revive(description, known.get(description[2] or "", around))
    for description in descriptions:
        yield known[description[1]]


def _revive(description: tuple[Any, ...], parent: Run) -> Run:
    is_flow_run, identity, _, name, plan_name, tags, run_count, seen, states, error = description
    plan = _plan_of(_Elsewhere(plan_name, None, dict), plan_name, frozenset(tags))
    flow_run: Any = parent if parent.is_flow_run else parent.flow_run
    history: list[State[Any]] = [
        State(StateType(kind), state_name, message, None, at, provisional=provisional)
        for kind, state_name, message, at, provisional in states
    ]
    if error is not None:
        history[-1] = dataclasses.replace(history[-1], data=exception_of(RemoteError(*error)))
    run: Run
    if is_flow_run:
        run = FlowRun(plan, parent.engine, flow_run, parent, (), {}, history[0], name)
    else:
        run = TaskRun(plan, parent.engine, flow_run, parent, (), {}, history[0], -1)
    for state in history[1:]:
        run.move_to(state)
    run.take_identity(uuid.UUID(identity).int, name)
    run.run_count = run_count
    run.seen = seen
    run.forget_inputs()
    return run
