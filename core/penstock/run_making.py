"""Where and how the runs of a task are made: for a call, for a submit, for a map."""

from __future__ import annotations

import contextvars
import dataclasses
import itertools
import types
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from penstock.context import TAGS, current_run
from penstock.definitions import Definition
from penstock.engine.arguments import look_through, prerequisites, put_values, tolerated
from penstock.engine.series import RunSeries, can_be_series
from penstock.engine.visiting import engine_for
from penstock.exceptions import RunnerCannotError
from penstock.futures import PenstockFuture, SeriesFuture
from penstock.logging import run_logger
from penstock.runs import FlowRun, Plan, TaskRun, made_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from penstock.attempt import Siblings
    from penstock.engine.driver import Engine
    from penstock.runs import Run
    from penstock.settings import Settings
    from penstock.states import State

__all__ = ["Place", "RunMaking", "log_creation"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_NO_KEYWORDS: Mapping[str, Any] = types.MappingProxyType({})
MOST_AT_ONCE = 64
"""Of the runs of a map: the engine takes so many together, and hands out between them."""
MOST_IN_SERIES = 1024
"""So that the first ones run while the rest is looked at."""


class Place(NamedTuple):
    """Where runs of a task are made, and when."""

    plan: Plan
    engine: Any
    flow_run: FlowRun | None
    parent: Run | None
    first: State[Any]


class RunMaking(Definition[P, R_co]):
    """The half of a task that makes its runs; `Task` says what they are like."""

    def plan(
        self,
        defaults: Settings,
        flow_run: FlowRun | None,
        engine: Engine,
        tags: frozenset[str],
    ) -> Plan:
        """Settle all options for the runs of one flow run; see `Task.plan`."""
        raise NotImplementedError

    # --- runs to be submitted ----------------------------------------------------------

    def submit_run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: Any = None
    ) -> TaskRun:
        """Make a run and hand it to the engine. For `submit`; use that."""
        place = self._place_to_submit()
        run = self._run_to_submit(place, args, kwargs, prerequisites(wait_for))
        place.engine.submit([run])
        return run

    def submit_runs(
        self,
        calls: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]],
        wait_for: Any,
        prepare: Callable[[TaskRun], None],
    ) -> list[TaskRun]:
        """Make a run of each call and hand them to the engine, many at once. For `map`; use that.

        Args:
            calls: positional and keyword arguments of each.
            wait_for: futures that must be over first.
            prepare: called with each run before the engine has it.
        """
        place = self._place_to_submit()
        # A runner that runs in its caller would have Ctrl-C wait until many of them have run.
        most = 1 if place.plan.runner.capabilities.runs_in_caller else MOST_AT_ONCE
        wait_for = prerequisites(wait_for)
        runs: list[TaskRun] = []
        for some in batched(calls, most):
            made = len(runs)
            place = place._replace(first=made_at(place.engine.clock.time()))
            try:
                for args, kwargs in some:
                    run = self._run_to_submit(place, args, kwargs, wait_for)
                    prepare(run)
                    runs.append(run)
            finally:  # also after Ctrl-C: what counts as begun must come to an end
                place.engine.submit(runs[made:])
        return runs

    def place_of_series(self) -> Place | None:
        """Return where runs are made just now, if many can be one object there. For `map`."""
        place = self._place_to_submit()
        flow_run = place.flow_run
        if (
            flow_run is None
            or place.parent is not flow_run
            or flow_run.logs_creation
            or not (flow_run.ledger is None or flow_run.ledger.is_empty())
            or not can_be_series(place.plan)
        ):
            return None
        return place

    def submit_series(
        self,
        place: Place,
        calls: Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]],
        siblings: Siblings | None,
    ) -> list[PenstockFuture[Any]]:
        """Submit calls as runs that are one object while they can be. For `map`; use that.

        Args:
            place: as `place_of_series` gave it.
            calls: positional and keyword arguments of each; nothing of them is a future.
            siblings: what the attempts have in common.
        """
        plan, engine, flow_run, _, _ = place
        assert flow_run is not None
        context = contextvars.copy_context()
        futures: list[PenstockFuture[Any]] = []
        counter = flow_run.counters.setdefault(plan.name, itertools.count())
        for some in batched(calls, MOST_IN_SERIES):
            if not futures:
                args, kwargs = some[0]
                self._binder(*args, **kwargs)  # all of them have the same form
            numbers = list(itertools.islice(counter, len(some)))  # at once: in a row
            series = RunSeries(
                plan,
                engine,
                flow_run,
                some,
                context=context,
                siblings=siblings,
                priority=self.priority,
                first_number=numbers[0],
                first_index=len(futures),
            )
            engine.submit([series])
            futures += [SeriesFuture(series, index) for index in range(len(some))]
        return futures

    # --- one run -----------------------------------------------------------------------

    def _place(self) -> Place:
        """Return where runs of the task are made just now."""
        parent = current_run()
        engine = engine_for(parent)
        flow_run = cast(
            "FlowRun | None",
            parent if parent is None or parent.is_flow_run else parent.flow_run,
        )
        tags = TAGS.get()
        planned = self if self._unbound is None else self._unbound
        key = (planned, tags)
        plans = engine.plans if flow_run is None else flow_run.plans
        plan = plans.get(key)
        if plan is None:
            plan = plans[key] = planned.plan(engine.settings, flow_run, engine, tags)
        if planned is not self:  # not kept: each access to a method makes a bound task
            plan = dataclasses.replace(plan, subject=self, run_name=self._run_name)
        return Place(plan, engine, flow_run, parent, made_at(engine.clock.time()))

    def _place_to_submit(self) -> Place:
        place = self._place()
        plan = place.plan
        if plan.refusal:
            raise RunnerCannotError(
                f"task {self.name!r} cannot be submitted to the task runner "
                f"{plan.runner.description!r}: {plan.refusal}"
            )
        return place

    def _run_to_submit(
        self, place: Place, args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: Any
    ) -> TaskRun:
        run = self._new_run(place, args, kwargs, wait_for)
        if self.priority:
            run.priority = self.priority
        run.context = contextvars.copy_context()
        log_creation(run, "Submitted task run %r for execution.")
        return run

    def _new_run(
        self, place: Place, args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: Any
    ) -> TaskRun:
        parameters = self._binder(*args, **kwargs)
        run = self._bare_run(place, args, kwargs)
        flow_run = place.flow_run
        if flow_run is not None:
            name = place.plan.name
            counter = flow_run.counters.get(name)
            if counter is None:
                counter = flow_run.counters.setdefault(name, itertools.count())
            run.number = next(counter)
        seen = look_through(parameters, flow_run, wait_for)
        if seen is not None:
            run.upstream, run.task_inputs, has_marks = seen
            if has_marks and not run.upstream:
                run.args = tuple(put_values(value) for value in args)
                run.kwargs = {name: put_values(value) for name, value in kwargs.items()}
            if wait_for is not None:
                run.tolerates = frozenset(tolerated(wait_for))
        place.engine.count_in(run)
        return run

    def _bare_run(self, place: Place, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TaskRun:
        """Return a run of which the runs around it know nothing yet."""
        plan, engine, flow_run, parent, first = place
        return TaskRun(plan, engine, flow_run, parent, args, kwargs or _NO_KEYWORDS, first, -1)


def batched(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most so many."""
    left = iter(items)
    while some := list(itertools.islice(left, most)):
        yield some


def log_creation(run: TaskRun, second: str) -> None:
    """Write the lines about a new run, the second of them as given, to the flow run's log."""
    flow_run = run.flow_run
    if flow_run is None or not flow_run.logs_creation:
        return
    logger = run_logger(flow_run)
    level = flow_run.creation_level
    logger.log(level, "Created task run %r for task %r", run.name, run.plan.name)
    logger.log(level, second, run.name)
