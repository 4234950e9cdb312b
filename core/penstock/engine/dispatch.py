"""The dispatcher: which task runners serve a root run, and which run they get next.

Runs that are ready wait here, where cancelling and priorities cost nothing, until the runner has
credit. Everything here happens under the turn, but for `report`, which only enqueues.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import TYPE_CHECKING, Any

from penstock.attempt import Attempt, Outcome, Series
from penstock.context import CURRENT
from penstock.engine.admission import Admission
from penstock.engine.execution import user_function
from penstock.engine.resources import Resources
from penstock.worker.prints import leave_capture

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Mapping, Sequence

    from penstock.attempt import Environment, ResultPlace
    from penstock.by_value import ByValue
    from penstock.engine.admission import Timers
    from penstock.engine.resources import Place
    from penstock.engine.series import RunSeries
    from penstock.runs import Run
    from penstock.task_runners import Broken, Capabilities, TaskRunner

__all__ = ["Dispatcher", "RunnerHandle"]

_log = logging.getLogger("penstock.engine")

PRIORITY_WEIGHT = 1_000_000


def rank(run: Run | RunSeries) -> int:
    """Return how urgent a run is: by its priority, then by how deep in the graph it stands.

    Depth first: what is finished early can be used, and its inputs let go.
    """
    return run.priority * PRIORITY_WEIGHT + run.depth


def _place_of_result(run: Run, environment: Environment | None) -> ResultPlace:
    """Return where a result is to be: it has to come home if the driver is to store it."""
    keeping, wanted = run.plan.keeping, run.plan.result_on
    if wanted == "storage":
        return "driver"
    if keeping is None or not keeping.is_written:
        return wanted
    is_stored_there = environment is not None and environment.writer is not None
    return wanted if is_stored_there else "driver"


class RunnerHandle:
    """One task runner that serves this root run, and the runs that wait for it."""

    __slots__ = (
        "allowance",
        "batch",
        "broken",
        "by_value",
        "capabilities",
        "description",
        "opened",
        "ready",
        "resources",
        "runner",
        "starved",
    )

    def __init__(self, runner: TaskRunner, description: str) -> None:
        self.runner: TaskRunner = runner
        self.capabilities: Capabilities = runner.capabilities
        self.description: str = description
        self.opened: bool = False
        self.starved: bool = False  # had no credit when last asked, and nothing has ended since
        self.allowance: int = 0  # of the credit last asked for; what has ended since comes on top
        self.broken: BaseException | None = None
        self.by_value: ByValue = runner.by_value()
        self.batch: list[Attempt] = []
        self.ready: list[Place] = []
        counts = not self.capabilities.schedules_resources
        self.resources: Resources = Resources(runner.resources if counts else {})


class Dispatcher:
    """Hands attempts to task runners as fast as these want them.

    Args:
        report: takes the runners' events; any thread.
        go: tells a run that its place is there; it answers by `take`, or by ending.
        tag_limits: how many runs with a tag may run at once.
        options: passed to `TaskRunner.open`.
        environment_of: what an attempt says of its run in a worker elsewhere.
        timers: for runs that may not start yet; needed where a task has a rate.
    """

    def __init__(
        self,
        report: Callable[[Any], None],
        go: Callable[[Run], None],
        tag_limits: Mapping[str, int],
        options: Mapping[str, Any],
        environment_of: Callable[[Run], Environment | None] = lambda _: None,
        timers: Timers | None = None,
    ) -> None:
        self.admission: Admission = Admission(tag_limits, self._admitted, timers)
        self.attempts: dict[int, Run] = {}
        self.pauses: int = 0  # of the flow runs inside, how many are paused now
        self._report = report
        self._go = go
        self._options = options
        self._environment_of = environment_of
        self._handles: dict[Any, RunnerHandle] = {}
        self._next_attempt_id = 1
        self._series: list[RunSeries] = []  # those that are not over
        self._order = itertools.count()
        self._hungry: set[RunnerHandle] = set()

    # --- runners -----------------------------------------------------------------------

    def handle_for(
        self, key: Any, make: Callable[[], TaskRunner], description: str
    ) -> RunnerHandle:
        """Return the handle under this key; the first to ask makes the runner."""
        handle = self._handles.get(key)
        if handle is None:
            # From any thread, so that two may come here at once: one handle must win.
            handle = self._handles.setdefault(key, RunnerHandle(make().for_run(), description))
        return handle

    def handles(self) -> list[RunnerHandle]:
        """Return the runners that serve this root run."""
        return list(self._handles.values())

    # --- runs --------------------------------------------------------------------------

    def enqueue(self, run: Run) -> None:
        """Take a run that is ready for an attempt."""
        if run.plan.is_held and not self.admission.admit(run):
            return
        self._line_up(run)

    def enqueue_series(self, series: RunSeries) -> None:
        """Take a series whose runs are ready."""
        if not series.is_over:  # as each of them was made before the driver came to look at it
            self._series.append(series)
        self._line_up(series)

    def _line_up(self, run: Run | RunSeries) -> None:
        handle: RunnerHandle = run.plan.runner
        self._put(handle, (-rank(run), next(self._order), run))

    def _put(self, handle: RunnerHandle, place: Place) -> None:
        heapq.heappush(handle.ready, place)
        if not handle.starved:
            self._hungry.add(handle)

    def withdraw(self, run: Run) -> bool:
        """Take back a run that no runner has got yet; true if there was one."""
        plan = run.plan
        if plan.is_held and self.admission.withdraw(run):
            return True
        if not (plan.resources and plan.runner.resources.withdraw(run)):
            ready = plan.runner.ready
            for index, entry in enumerate(ready):
                waits: Any = entry[2]
                if waits.is_series:
                    if waits.has_waiting(run):  # over in a moment, and then not handed out
                        return True
                elif waits is run:
                    ready[index] = ready[-1]
                    ready.pop()
                    heapq.heapify(ready)
                    break
            else:
                return False
        self.release(run)
        return True

    def release(self, run: Run) -> None:
        """An attempt is over, or will not be: give back whatever it holds."""
        plan = run.plan
        if not plan.is_held:
            return
        self.admission.release(run)
        if plan.resources:
            self._release_resources(run)

    def _release_resources(self, run: Run) -> None:
        handle: RunnerHandle = run.plan.runner
        handle.resources.release(run)
        for place in handle.resources.freed():
            self._put(handle, place)

    def admit_here(self, run: Run) -> bool:
        """Let a direct call begin now; or have its waiters told when it may."""
        if not self.admission.admit(run):
            return False
        self.admission.begin(run)
        return True

    def leave(self, run: Run) -> None:
        """A direct call is over, perhaps broken off while it waited to be admitted."""
        if not self.admission.withdraw(run):
            self.release(run)

    def _admitted(self, run: Run) -> None:
        if run.was_submitted:
            self._line_up(run)
        else:  # called directly: its thread waits for this
            for waiter in run.waiters:
                waiter.finished(run)

    # --- attempts ----------------------------------------------------------------------

    def run_of(self, attempt_id: int) -> Run | None:
        """Return the run that has an attempt under way; None if none has it any more."""
        run = self.attempts.get(attempt_id)
        if run is None and self._series:
            series, index = self.item_of(attempt_id)
            if series is not None and not series.has_returned(index):
                series.run(index)  # which may well have given up that attempt
                run = self.attempts.get(attempt_id)
        return run

    def item_of(self, attempt_id: int) -> tuple[RunSeries | None, int]:
        """Return the series, and the item in it, that an attempt is of, if it is of one."""
        for series in self._series:
            index = series.index_of(attempt_id)
            if index is not None:
                return series, index
        return None, -1

    def forget_series(self, series: RunSeries) -> None:
        """Look for no attempt in this series any more."""
        if series in self._series:
            self._series.remove(series)

    def end_attempt(self, outcome: Outcome) -> Run | None:
        """Return the run that an outcome is for; None for a late one, which nobody wants."""
        run = self.run_of(outcome.attempt_id)
        if run is None:
            return None
        del self.attempts[outcome.attempt_id]
        handle: RunnerHandle = run.plan.runner
        self.feed_again(handle)
        if run.plan.is_held:
            if outcome.began is not False:
                self.admission.begin(run)
            self.release(run)
        return run

    def hand_out(self) -> None:
        """Give each runner what it has credit for."""
        while self._hungry and not self.pauses:
            handle = self._hungry.pop()
            if handle.ready or handle.broken is not None:
                self._feed(handle)

    def resume(self) -> None:
        """Go on after a pause."""
        self.pauses -= 1
        if self.pauses:
            return
        for handle in self._handles.values():
            self.feed_again(handle)

    def _feed(self, handle: RunnerHandle) -> None:
        if not self._open(handle):
            return
        ready, go = handle.ready, self._go
        while ready:
            if handle.allowance <= 0:
                if handle.batch:  # the runner cannot count what it has not got
                    self._hungry.add(handle)
                    break
                try:
                    handle.allowance = handle.runner.credit()
                except Exception as error:  # noqa: BLE001  (it is not asked again: nothing would remind us)
                    _log.exception("Task runner %s failed to take work", handle.description)
                    handle.broken = error
                    self._fail_all(handle)
                    return
                if handle.allowance <= 0:
                    handle.starved = True
                    break
            place = heapq.heappop(ready)
            run = place[2]
            if run.is_series:
                self._feed_piece(handle, place)
                continue
            if run.plan.resources:
                if not handle.resources.acquire(place):
                    self.admission.park(run)
                    continue
                if not self.admission.unpark(run):
                    self._release_resources(run)
                    continue
            handle.allowance -= 1
            go(run)
        self._submit_batch(handle)
        if ready and handle.capabilities.runs_in_caller:
            self._hungry.add(handle)  # its credit is back at once: no outcome will remind us

    def _feed_piece(self, handle: RunnerHandle, place: Place) -> None:
        """Give a runner the next of a series, as much as it has credit for."""
        series: Any = place[2]
        if series.template is None and not series.is_over:
            try:
                series.template = self._template_of(series)
            except Exception:  # noqa: BLE001  (each run meets it again, and tells of it as its own)
                for run in series.take_apart():
                    self._line_up(run)
                return
        piece = series.take(handle.allowance, self._next_attempt_id, series.template)
        if not series.is_handed_out:
            heapq.heappush(handle.ready, place)  # for what is left, at the same place in the order
        if piece is None:
            return
        if not isinstance(piece, Series):
            handle.allowance -= 1
            self._go(piece)
            return
        self._next_attempt_id += len(piece)
        handle.allowance -= len(piece)
        self._submit_batch(handle)  # what was there before
        self._submit(handle, piece)

    def _submit_batch(self, handle: RunnerHandle) -> None:
        attempts, handle.batch = handle.batch, []
        if attempts:
            self._submit(handle, attempts)

    def _submit(self, handle: RunnerHandle, attempts: Sequence[Attempt]) -> None:
        try:
            handle.runner.submit(attempts)
        except Exception as error:  # noqa: BLE001  (its fault: no attempt of the call may be lost)
            _log.exception("Task runner %s failed to take work", handle.description)
            reason = f"the task runner failed to take it: {error!r}"
            for attempt in attempts:
                self._report(Outcome(attempt.id, "lost", reason=reason, began=None))

    def _template_of(self, series: RunSeries) -> Attempt:
        """Return what the attempts of a series have in common."""
        run = series.specimen()
        return self._attempt(run, 0, None, self._environment_of(run))

    def take(self, run: Run) -> None:
        """Make the next attempt of a run whose place is there."""
        plan = run.plan
        handle: RunnerHandle = plan.runner
        capabilities = handle.capabilities
        number = self._next_attempt_id
        self._next_attempt_id = number + 1
        self.attempts[number] = run
        run.attempt_id = number
        context = environment = None
        if capabilities.pickles:
            try:
                environment = self._environment_of(run)
            except Exception as error:  # noqa: BLE001  (a value of the user's that cannot travel)
                self._report(Outcome(number, "raised", error=error, began=False))
                return
        elif run.context is not None:
            # A retry must not find what the attempt before has set.
            context = run.context.copy() if plan.retries.retries else run.context
            context.run(CURRENT.set, run)
            leave_capture(context)
        handle.batch.append(self._attempt(run, number, context, environment))

    def _attempt(
        self,
        run: Run,
        number: int,
        context: contextvars.Context | None,
        environment: Environment | None,
    ) -> Attempt:
        plan = run.plan
        capabilities: Capabilities = plan.runner.capabilities
        return Attempt(
            number,
            plan.subject.fn if plan.is_plain else user_function(run, capabilities),
            run.args,
            run.kwargs,
            context,
            True,
            plan.is_async and capabilities.async_functions and not run.is_flow_run,
            rank(run),
            run.name if capabilities.pickles else plan.name,
            environment,
            plan.resources,
            plan.workers,
            run.siblings,
            plan.timeout_seconds is not None,
            _place_of_result(run, environment),
        )

    def _open(self, handle: RunnerHandle) -> bool:
        if handle.broken is not None:
            self._fail_all(handle)
            return False
        if not handle.opened:
            try:
                handle.runner.open(self._report, self._options)
            except Exception as error:  # noqa: BLE001  (every run that waits must end, and say why)
                _log.exception("Task runner %s could not be opened", handle.description)
                handle.broken = error
                self._fail_all(handle)
                return False
            handle.opened = True
        return True

    def _fail_all(self, handle: RunnerHandle) -> None:
        error = handle.broken
        # Not its repr: the text may hold a traceback, on lines of its own.
        reason = f"task runner {handle.description} is broken: {type(error).__name__}: {error}"
        for place in handle.resources.give_up():
            heapq.heappush(handle.ready, place)
        while handle.ready:
            waits: Any = heapq.heappop(handle.ready)[2]
            for run in waits.take_apart() if waits.is_series else (waits,):
                self._go(run)
        attempts, handle.batch = handle.batch, []
        for attempt in attempts:
            self._report(Outcome(attempt.id, "abandoned", reason=reason, began=False))

    def feed_again(self, handle: RunnerHandle) -> None:
        """A runner may have credit again."""
        handle.starved = False
        if handle.ready:
            self._hungry.add(handle)

    def note_broken(self, event: Broken) -> None:
        """A runner is gone as a whole: whatever waits for it ends as crashed."""
        for handle in self._handles.values():
            if handle.runner is event.runner:
                handle.broken = event.error
                if handle.ready or handle.resources.has_waiting():
                    self._hungry.add(handle)

    def cancel(self, run: Run, *, hard: bool) -> None:
        """Ask the runner to drop, or stop, the attempt it has."""
        handle: RunnerHandle = run.plan.runner
        try:
            handle.runner.cancel([run.attempt_id], hard=hard)
        except Exception:  # noqa: BLE001  (its fault: what was decided holds all the same)
            _log.exception("Task runner %s failed to cancel", handle.description)

    def close(self, grace_seconds: float) -> None:
        """Close every runner that was opened."""
        for handle in self._handles.values():
            if handle.opened:
                handle.opened = False
                try:
                    handle.runner.close(grace_seconds)
                except Exception:  # noqa: BLE001  (logged; the other runners must be closed, too)
                    _log.exception("Task runner %s could not be closed", handle.description)
