"""The driver: performs what the lives of runs ask for, and keeps the runs that wait.

One `Engine` serves one root run with everything inside of it, or, outside of any flow, all task
runs of the process (`ambient`).
"""

from __future__ import annotations

import functools
import logging
import random
import threading
from typing import TYPE_CHECKING, Any

from penstock.attempt import KeptResult, Outcome
from penstock.engine import interrupts
from penstock.engine.arguments import put_values, tolerated, upstream_problem
from penstock.engine.cancelling import Cancelling
from penstock.engine.commands import (
    READY,
    RECALL,
    RESOLVE,
    Execute,
    Sleep,
)
from penstock.engine.dispatch import Dispatcher
from penstock.engine.environments import environment_of
from penstock.engine.keeping import WAITS
from penstock.engine.loop import Clock, Loop, RealClock
from penstock.engine.recovery import has_kept_result, is_lost
from penstock.engine.stored_elsewhere import can_be_read_there, writer_for
from penstock.engine.task_run import failure, task_run
from penstock.futures import PenstockFuture
from penstock.logging import replay
from penstock.states import State, StateType
from penstock.stored_results import StoredResult
from penstock.task_runners import Broken, Output, Returned, SlotsChanged, Started
from penstock.transactions import transaction_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.attempt import Environment
    from penstock.engine.dispatch import RunnerHandle
    from penstock.engine.series import RunSeries
    from penstock.runs import MapGroup, Run
    from penstock.settings import Settings

__all__ = ["Engine"]

_task_log = logging.getLogger("penstock.task_runs")
_flow_log = logging.getLogger("penstock.flow_runs")
_log = logging.getLogger("penstock.engine")

COMPLETED, FAILED, CRASHED = StateType.COMPLETED, StateType.FAILED, StateType.CRASHED
RUNNING, CANCELLED, CANCELLING = StateType.RUNNING, StateType.CANCELLED, StateType.CANCELLING
SCHEDULED = StateType.SCHEDULED


class Begin:
    """Posted by a thread that may not drive: a new run, or series, is to be looked at."""

    __slots__ = ("run",)

    def __init__(self, run: Run | RunSeries) -> None:
        self.run: Run | RunSeries = run


class Engine(Cancelling):
    """Drives the runs of one root run.

    Args:
        settings: as they were when the root run began.
        clock: where the time comes from.
        rng: for the jitter of retries.
        standby: whether a thread may drive while the owner is busy; tests go without.
        tag_limits: how many runs with a tag may run at once.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        standby: bool = True,
        tag_limits: dict[str, int] | None = None,
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock if clock is not None else RealClock()
        self.rng: random.Random = rng if rng is not None else random.Random()
        self.loop: Loop = Loop(self._handle, self._hand_out, self.clock, standby=standby)
        limits = dict(settings.tag_limits) if tag_limits is None else tag_limits
        self.dispatcher: Dispatcher = Dispatcher(
            self.loop.post, self._go, limits, {}, self._environment_of, self.loop
        )
        self.plans: dict[Any, Any] = {}
        self.surroundings: dict[Any, bytes] = {}  # of task runs outside of any flow
        self.sole_runner: str | None = None  # whatever tasks and flows ask for
        self.root_counters: dict[str, int] = {}
        self.active: set[Run] = set()
        self._lock = threading.Lock()
        self._waits = {}
        self._loop_holders = {}
        self._sleepers = set()
        self._written = set()
        self._lost = {}
        self._resuming = {}
        self._deadlines = {}
        self._overdue = set()

    # --- new runs ----------------------------------------------------------------------

    def count_in(self, run: Run) -> None:
        """Note a new run with the runs around it."""
        flow_run, parent = run.flow_run, run.parent
        if parent is not None and not parent.is_flow_run:
            if parent.children is None:
                parent.children = []
            parent.children.append(run)
        if flow_run is not None:
            with self._lock:
                flow_run.tally.begun += 1

    def submit(self, runs: Sequence[Run] | Sequence[RunSeries]) -> None:
        """Take new runs, to be driven from here on."""
        if not self.loop.guards_signals():
            self._submit(runs)
            return
        interrupts.enter_library()
        try:
            self._submit(runs)
        finally:
            interrupts.leave_library()

    def _submit(self, runs: Sequence[Any]) -> None:
        for run in runs:
            if run.is_series:
                self._count_in_series(run)
            else:
                run.was_submitted = True
            (run.flow_run if run.flow_run is not None else self).active.add(run)
        loop = self.loop
        loop.beats += 1
        if not loop.may_drive() or not loop.try_turn():
            for run in runs:
                loop.post(Begin(run))
            loop.ensure_standby(urgent=not loop.may_drive())
            return
        try:
            for run in runs:
                self._begin(run)
            loop.drain()
        finally:
            loop.give_turn()
        loop.ensure_standby()

    def _count_in_series(self, series: RunSeries) -> None:
        """Note a new series with the flow run around it."""
        with self._lock:
            series.flow_run.tally.begun += len(series)

    def _begin(self, run: Any) -> None:
        if run.is_series:
            self._begin_series(run)
            return
        self.loop.in_flight += 1
        if run.flow_run is not None and run.flow_run.state.is_final() and not run.state.is_final():
            self.enter(run, State(CANCELLED, "Cancelled", "the flow run around it is over"))
        group = run.group
        if group is not None and group.has_ended() and not run.state.is_final():
            self.enter(run, State(CANCELLED, "Cancelled", group.reason()))
        if run.state.is_final():  # cancelled before the driver came to look at it
            self.finish(run)
            return
        waiting = 0
        for upstream in dict.fromkeys(run.upstream) if run.upstream else ():
            if run.depth <= upstream.depth:
                run.depth = upstream.depth + 1
            if not upstream.state.is_final():
                waiting += 1
                if upstream.dependents is None:
                    upstream.dependents = []
                upstream.dependents.append(run)
        run.left = waiting
        if waiting:
            return
        plan = run.plan
        if run.is_flow_run or (not run.upstream and plan.run_name is None and plan.keeping is None):
            # Nothing to decide before there is a place: its life begins then, in `_go`, so that
            # a run in the queue takes 0.5 kB less.
            self.dispatcher.enqueue(run)
        else:
            self.step(run, None)

    def _begin_series(self, series: RunSeries) -> None:
        self.loop.in_flight += len(series)
        if series.flow_run.state.is_final():  # so that no runner is opened for it
            for run in series.make_all():
                self.cancel_one(run, "the flow run around it is over", kill=True)
        else:
            self.dispatcher.enqueue_series(series)

    def series_over(self, series: RunSeries) -> None:
        """All of a series have ended, or are runs of their own: tell who waits. Under the turn."""
        self.dispatcher.forget_series(series)
        series.let_go()
        with self._lock:
            waiters, series.waiters = series.waiters, ()
        for waiter in waiters:
            waiter.finished(series)
        self._inactive(series)

    def cannot_offer(self, handle: RunnerHandle, resources: Mapping[str, float]) -> str:
        """Return why a runner can never give a run these resources, or an empty string."""
        return handle.runner.cannot_offer(resources)

    # --- stepping ----------------------------------------------------------------------

    def step(self, run: Run, answer: Any, error: BaseException | None = None) -> None:
        """Let a submitted run go on with this answer, until it has to wait. Under the turn."""
        life = run.life
        if life is None:
            if run.state.is_final():
                return  # cancelled by one of its own hooks
            life = run.life = task_run(run, self.rng)  # type: ignore[arg-type]  # no flow run
        fault: Exception | None
        try:
            while True:
                command: Any = life.send(answer) if error is None else life.throw(error)
                answer = error = None
                kind = type(command)
                if kind is Execute:
                    run.starting = command.state
                    run.run_count += 1  # now, as its function asks before `Started` is here
                    self.dispatcher.take(run)
                    return
                if command is READY:
                    self.dispatcher.enqueue(run)
                    return
                if kind is Sleep:
                    self._sleep(run, command.seconds)
                    return
                if command is RESOLVE:
                    answer = self.resolve(run)
                    if answer is RESOLVE:  # it waits for inputs to be made again
                        return
                    continue
                try:
                    if command is RECALL:
                        around = transaction_in(run.context)
                        answer = self.recall(run, around)  # type: ignore[arg-type]  # only task runs ask
                        if answer is WAITS:
                            return
                        continue
                    answer = self.perform(run, command)
                except Exception as problem:  # noqa: BLE001  (thrown to the life, which decides)
                    error = problem
                if run.life is None:
                    return  # cancelled by the very function that was called for it
        except StopIteration:
            fault = None
        except Exception as problem:  # noqa: BLE001  (a fault of ours must not lose the run)
            fault = problem
        if fault is not None:
            _log.error("The life of %r ended by a fault", run.name, exc_info=fault)
            if not run.state.is_final():
                self.break_off(run, fault)
        # Not while an exception is handled: it would stand above what goes wrong from here on.
        self.finish(run)

    def _sleep(self, run: Run, seconds: float) -> None:
        self._sleepers.add(run)

        def wake() -> None:
            if run in self._sleepers:
                self._sleepers.discard(run)
                self.step(run, None)

        self.loop.call_at(self.clock.monotonic() + seconds, wake)

    def _go(self, run: Run) -> None:
        """A place is there for a run that asked for one."""
        if run.is_flow_run:  # its own thread will live its life: `direct.drive`
            self.dispatcher.take(run)
        elif run.life is None:
            life = run.life = task_run(run, self.rng)  # type: ignore[arg-type]  # no flow run
            command = next(life)
            assert command is READY
            self.step(run, None)
        else:
            self.step(run, None)

    def _environment_of(self, run: Run) -> Environment | None:
        if run.is_flow_run:
            return None
        flow_run = run.flow_run
        known = self.surroundings if flow_run is None else flow_run.surroundings
        writer = None if run.plan.keeping is None else writer_for(run)  # type: ignore[arg-type]
        return environment_of(run, self.settings, known, writer)  # type: ignore[arg-type]  # no flow run

    def _hand_out(self) -> None:
        self.dispatcher.hand_out()

    def resolve(self, run: Run) -> Any:
        """Put the values of inputs that are over in place, or return why that cannot be.

        Returns:
            None; the final state that the run ends in; or `RESOLVE`, if inputs were lost and are
            made again: `resume` goes on then.
        """
        problem = upstream_problem(run, tolerated(run.args) | tolerated(dict(run.kwargs)))
        if problem is None:
            for upstream in run.upstream:
                if upstream.state.type is not COMPLETED:
                    upstream.mark_seen()  # its exception is handed to user code
            try:
                value_of = self._value_for(run)
                run.args = tuple(put_values(value, None, value_of) for value in run.args)
                if run.kwargs:
                    run.kwargs = {
                        name: put_values(value, None, value_of)
                        for name, value in run.kwargs.items()
                    }
            except LookupError as error:
                lost = [each.state.data for each in run.upstream if is_lost(each)]
                if lost and run.was_submitted and self.wait_for_lost(run, lost, RESOLVE):
                    return RESOLVE
                return failure(error, "Flow run" if run.is_flow_run else "Task run")
            except Exception as error:  # noqa: BLE001  (a container that cannot hold the values)
                return failure(error, "Flow run" if run.is_flow_run else "Task run")
        return problem

    def _value_for(self, run: Run) -> Callable[[State[Any]], Any]:
        """Return what gives the value of an input: what a runner keeps, it can have as it is."""
        handle = None if run.is_flow_run or not run.was_submitted else run.plan.runner
        if handle is None:
            return State.value
        runner, capabilities = handle.runner, handle.capabilities

        def value_of(state: State[Any]) -> Any:
            data = state.data
            if isinstance(data, KeptResult) and data.runner is runner:
                return data
            if isinstance(data, StoredResult) and can_be_read_there(data, capabilities):
                return data
            return state.value()

        return value_of

    # --- the end of a run --------------------------------------------------------------

    def close_books(self, run: Run) -> None:
        """Note how a run ended with the flow run around it, and let its inputs go."""
        state, flow_run = run.state, run.flow_run
        if run.is_flow_run or run.plan.keeping is not None or state.type is not COMPLETED:
            self.keep(run)
            state = run.state
        if state.type is not COMPLETED:
            if state.type in (FAILED, CRASHED):
                if flow_run is not None and not run.is_flow_run:
                    with self._lock:
                        flow_run.root.tally.failures.note(run.name, state)
                if run.seen:  # called directly: what made it fail is seen with it
                    run.seen = False
                    run.mark_seen()
                elif flow_run is not None:
                    with self._lock:
                        flow_run.tally.unseen.append(run)
            elif flow_run is not None:
                with self._lock:
                    flow_run.tally.cancelled += 1
        if has_kept_result(run):
            self.note_kept(run)
        else:
            run.forget_inputs()

    def finish(self, run: Run) -> None:
        """A submitted run is over: tell everybody who waits. Under the turn."""
        self.loop.in_flight -= 1
        self._sleepers.discard(run)
        self._resuming.pop(run, None)
        self.dispatcher.release(run)
        self.note_made_again(run)
        self.close_books(run)
        with self._lock:
            waiters, run.waiters = run.waiters, ()
            callbacks = run.callbacks
        for waiter in waiters:
            waiter.finished(run)
        dependents = run.dependents
        if dependents:
            run.dependents = None
            for each in dependents:
                each.left -= 1
                if each.left == 0 and not each.state.is_final():
                    if run.state.type is COMPLETED and not each.plan.handlers:
                        self._inputs_are_over(each)
                    else:  # it may end at once, and so on down a chain, too long for this stack
                        self.loop.post(functools.partial(self._inputs_are_over, each))
        group = run.group
        if group is not None and run.state.type in (FAILED, CRASHED):
            self._sibling_failed(group, run)
        if callbacks:
            run.callbacks = None
            future: PenstockFuture[Any] = PenstockFuture(run)
            for callback in callbacks:
                self.call_back(callback, future)
        # Last, as callbacks may submit more: a flow must not look idle in between.
        self._inactive(run)

    def _inactive(self, run: Run | RunSeries) -> None:
        flow_run = run.flow_run
        active = flow_run.active if flow_run is not None else self.active
        active.discard(run)
        if flow_run is not None and not active and flow_run.idle_waiters:
            idle, flow_run.idle_waiters = flow_run.idle_waiters, []
            for waiter in idle:
                waiter.finished(flow_run)

    def _inputs_are_over(self, run: Run) -> None:
        if run.state.is_final():
            return  # cancelled meanwhile
        if self._resuming and self.resume(run):
            return
        if run.is_flow_run:
            self.dispatcher.enqueue(run)
        else:
            self.step(run, None)

    def _sibling_failed(self, group: MapGroup, run: Run) -> None:
        if group.on_error == "continue" or group.has_ended():
            return
        group.failed_index = getattr(run, "map_index", None) or 0
        kill = group.on_error == "fail_fast"
        for sibling in list(group.runs):
            if sibling is not run and not sibling.state.is_final():
                self.cancel_one(sibling, group.reason(), kill=kill, only_waiting=not kill)

    # --- events ------------------------------------------------------------------------

    def _handle(self, event: Any) -> None:
        kind = type(event)
        if kind is Outcome:
            self.attempt_ended(event)
        elif kind is Returned:
            self.series_returned(event)
        elif kind is Started:
            self.attempt_began(event.attempt_id, event.at)
        elif kind is Begin:
            self._begin(event.run)
        elif kind is Broken:
            self.dispatcher.note_broken(event)
        elif kind is SlotsChanged:
            for handle in self.dispatcher.handles():
                self.dispatcher.feed_again(handle)
        elif kind is Output:
            speaker = self.dispatcher.run_of(event.attempt_id)
            for record in event.records:
                replay(record, speaker, event.worker)
        else:
            event()

    # --- the end -----------------------------------------------------------------------

    def close(self, grace_seconds: float = 0.0) -> None:
        """Close the task runners and the standby thread. No run may be under way."""
        with self.loop.turn():
            self.dispatcher.close(grace_seconds)
        self.loop.close()
        self.collect()
