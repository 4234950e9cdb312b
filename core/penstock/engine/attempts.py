"""What becomes of an attempt that a task runner has: its begin, its time limit, its end."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.engine import interrupts
from penstock.engine.commands import Report
from penstock.engine.keeping import KeepingResults
from penstock.engine.performing import logs_ends
from penstock.engine.series import has_hooks
from penstock.engine.stored_elsewhere import with_lost_inputs
from penstock.remote_runs import revived
from penstock.states import State, StateType
from penstock.tracebacks import cut_own_frames

if TYPE_CHECKING:
    from penstock.engine.loop import Timer
    from penstock.runs import Run
    from penstock.task_runners import Returned

__all__ = ["KILL_SECONDS", "Attempts"]

CANCELLED, CANCELLING, CRASHED = StateType.CANCELLED, StateType.CANCELLING, StateType.CRASHED

KILL_SECONDS = 0.5
"""How long a runner that kills what runs may take to report it, once a time limit is reached."""


class Attempts(KeepingResults):
    """The part of the engine that hears of attempts. Under the turn."""

    _deadlines: dict[int, Timer]
    _overdue: set[int]
    """Attempts whose time was up, and whose end is on its way."""

    def count_in(self, run: Run) -> None:
        """Note a new run with the runs around it; see `Engine.count_in`."""
        raise NotImplementedError

    def close_books(self, run: Run) -> None:
        """Note how a run ended; see `Engine.close_books`."""
        raise NotImplementedError

    def finish(self, run: Run) -> None:
        """A submitted run is over; see `Engine.finish`."""
        raise NotImplementedError

    def attempt_began(self, attempt_id: int, at: float) -> None:
        """The function of an attempt has begun: its state, its time limit."""
        run = self.dispatcher.run_of(attempt_id)
        if run is None:
            return
        if run.plan.runner.starved:  # what runs may not count against its credit any more
            self.dispatcher.feed_again(run.plan.runner)
        starting, run.starting = run.starting, None
        if starting is None:
            return
        elapsed = max(0.0, self.clock.monotonic() - at)
        if run.state.type is CANCELLING:
            return
        if run.plan.is_held:
            self.dispatcher.admission.begin(run)
        self.enter(run, starting, self.clock.time() - elapsed)
        if run.cancel_requested:  # before anybody knew that it had begun
            self.enter(run, State(CANCELLING, "Cancelling", run.cancel_reason))
        timeout = run.plan.timeout_seconds
        if timeout is not None and not run.is_flow_run:
            self._deadlines[attempt_id] = self.loop.call_at(
                at + timeout, lambda: self._time_is_up(run, attempt_id)
            )

    def _time_is_up(self, run: Run, attempt_id: int) -> None:
        del self._deadlines[attempt_id]
        if self.dispatcher.attempts.get(attempt_id) is not run:
            return
        self.dispatcher.cancel(run, hard=True)
        if run.plan.runner.capabilities.kill == "hard":  # it will say where the function stood
            self._overdue.add(attempt_id)
            patience = self.clock.monotonic() + KILL_SECONDS
            self._deadlines[attempt_id] = self.loop.call_at(
                patience, lambda: self._time_is_long_up(run, attempt_id)
            )
        else:
            self._give_up(run, attempt_id)

    def _time_is_long_up(self, run: Run, attempt_id: int) -> None:
        del self._deadlines[attempt_id]
        self._overdue.discard(attempt_id)
        if self.dispatcher.attempts.get(attempt_id) is run:
            self._give_up(run, attempt_id)

    def _give_up(self, run: Run, attempt_id: int) -> None:
        outcome = Outcome(attempt_id, "abandoned")
        self.dispatcher.end_attempt(outcome)
        cancelled = run.cancel_requested
        report = Report(outcome, self.clock.time(), timed_out=not cancelled, cancelled=cancelled)
        self.step(run, report)

    def attempt_ended(self, outcome: Outcome) -> None:
        """An attempt is over: what happened inside of it, and the answer to its run's life."""
        if outcome.began_at is not None:
            self.attempt_began(outcome.attempt_id, outcome.began_at)
        timer = self._deadlines.pop(outcome.attempt_id, None)
        if timer is not None:
            self.loop.take_back(timer)
        run = self.dispatcher.end_attempt(outcome)
        if run is None:
            return  # late: the run has gone on without it
        if run.is_flow_run:
            self._flow_body_returned(run, outcome)
            return
        if outcome.children is not None:
            for child in revived(pickle.loads(outcome.children), run):
                self.count_in(child)
                self.close_books(child)
        if outcome.kind == "raised" and run.upstream:
            outcome = with_lost_inputs(run, outcome)
        starting, run.starting = run.starting, None
        if starting is not None and outcome.began is False:
            run.run_count -= 1
        elif starting is not None and run.state.type is not CANCELLING:
            self.enter(run, starting, self.clock.time() - outcome.duration_seconds)
        if outcome.stored_bytes is not None:
            outcome = self.take_stored(run, outcome)  # type: ignore[arg-type]  # no flow run
        report = self.report(run, outcome)
        lost = outcome.lost_inputs
        if lost and not report.cancelled:
            if self.wait_for_lost(run, lost, report):
                return
            report = report._replace(outcome=outcome._replace(kind="abandoned"))
        self.step(run, report)

    def series_returned(self, event: Returned) -> None:
        """Attempts of a series have returned."""
        count = len(event.values)
        series, index = self.dispatcher.item_of(event.first_id)
        if series is not None and not has_hooks(series.plan) and not logs_ends():
            ahead = self.clock.time() - self.clock.monotonic()
            if series.take_returned(index, event, ahead):
                self.loop.in_flight -= count
                self.dispatcher.feed_again(series.plan.runner)
                return
        for place in range(count):
            self.attempt_ended(
                Outcome(
                    event.first_id + place,
                    "returned",
                    event.values[place],
                    duration_seconds=event.seconds[place],
                    worker=event.worker,
                    began_at=event.began_at[place],
                )
            )

    def report(self, run: Run, outcome: Outcome) -> Report:
        """Return what the driver knows about the end of an attempt."""
        error, timed_out = outcome.error, False
        cancelled = run.cancel_requested or outcome.kind == "stopped"
        if outcome.attempt_id in self._overdue:
            self._overdue.discard(outcome.attempt_id)
            timed_out = outcome.kind != "returned" and not run.cancel_requested
        if isinstance(error, BaseException):
            cut_own_frames(error)
            timed_out = timed_out or isinstance(error, interrupts.DeadlineReached)
            if isinstance(error, (KeyboardInterrupt, interrupts.Interrupted)):
                cancelled = True
            if isinstance(error, interrupts.Interrupted):
                run.cancel_reason = run.cancel_reason or str(error)
        return Report(outcome, self.clock.time(), timed_out, cancelled and not timed_out)

    def _flow_body_returned(self, run: Run, outcome: Outcome) -> None:
        """A sub-flow that was submitted: its own thread has carried it to its end."""
        if not run.state.is_final():
            reason = outcome.reason or f"its thread ended with {outcome.error!r}"
            wanted = run.cancel_requested or outcome.kind == "stopped"
            state: State[Any] = (
                State(CANCELLED, "Cancelled", run.cancel_reason)
                if wanted
                else State(CRASHED, "Crashed", f"Flow run was {outcome.kind}: {reason}")
            )
            self.enter(run, state)
        self.finish(run)
