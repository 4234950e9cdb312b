"""Ending runs on request: what waits is dropped, what runs is asked to end, or given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.engine.arguments import runs_needed_for
from penstock.engine.attempts import Attempts
from penstock.engine.commands import CancelRun
from penstock.engine.series import apart
from penstock.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.runs import FlowRun, Run

__all__ = ["Cancelling"]

RUNNING, CANCELLED, CANCELLING = StateType.RUNNING, StateType.CANCELLED, StateType.CANCELLING


class Cancelling(Attempts):
    """The part of the engine that ends runs on request."""

    _sleepers: set[Run]

    def cancel(self, runs: Sequence[Run], reason: str, *, kill: bool) -> bool:
        """Ask runs to end as cancelled; true if any of them was not over."""

        def ask() -> bool:
            self.loop.drain()  # what has begun, or ended, by now counts as such
            open_runs = [run for run in runs if not run.state.is_final()]
            for run in open_runs:
                self.cancel_one(run, reason, kill=kill)
            self.loop.drain()
            return bool(open_runs)

        return bool(self.loop.run_home(ask))

    def cancel_one(self, run: Run, reason: str, *, kill: bool, only_waiting: bool = False) -> None:
        """Ask one run to end. Under the turn.

        Args:
            run: not over, or nothing happens.
            reason: the message of its state.
            kill: stop it if it runs, as far as its runner can.
            only_waiting: leave it alone if it runs.
        """
        if run.state.is_final() or not run.was_submitted:
            return  # what was called directly ends with the code that called it
        if self.dispatcher.attempts.get(run.attempt_id) is run:
            self._cancel_attempt(run, reason, kill=kill, only_waiting=only_waiting)
            return
        run.cancel_reason = reason
        if run.left < 0:  # not begun: `_begin` will find it over
            self.enter(run, State(CANCELLED, "Cancelled", reason))
            return
        self._sleepers.discard(run)
        self.dispatcher.withdraw(run)
        if run.life is None or run.is_flow_run:  # nothing of it has begun
            self.enter(run, State(CANCELLED, "Cancelled", reason))
            self.finish(run)
        else:
            self.step(run, None, CancelRun(reason))

    def _cancel_attempt(self, run: Run, reason: str, *, kill: bool, only_waiting: bool) -> None:
        """Ask for the end of an attempt that a task runner has."""
        run.cancel_reason = run.cancel_reason or reason
        if only_waiting:  # the runner drops it if it has not begun, and else knows nothing of this
            self.dispatcher.cancel(run, hard=False)
            return
        run.cancel_requested = True
        if run.state.type is RUNNING and not run.is_flow_run:  # its own thread moves a sub-flow
            self.enter(run, State(CANCELLING, "Cancelling", reason))
        if run.is_flow_run:
            self.cancel_children(run, reason, kill=kill)  # type: ignore[arg-type]
        self.dispatcher.cancel(run, hard=kill)

    def cancel_children(
        self, run: FlowRun, reason: str, *, kill: bool, keep_for: Any = None
    ) -> None:
        """Ask every run inside of a flow run that is not over to end; see `CancelChildren`."""
        run.is_ending = run.is_ending or (kill and keep_for is None)

        def ask() -> None:
            for stream in run.streams if kill else ():
                stream.pull_no_more()
            keep = runs_needed_for(keep_for) & run.active
            run.is_ending = run.is_ending or (kill and not keep)
            for child in self._make_children(run) - keep:
                self.cancel_one(child, reason, kill=kill, only_waiting=not kill)
            self.loop.drain()

        self.loop.run_home(ask)

    def _make_children(self, run: FlowRun) -> set[Run]:
        """Return the submitted runs that are not over, each a run of its own from here on."""
        for child in list(run.active):
            if child.is_series:
                child.make_all()
        return set(apart(list(run.active)))  # a copy: other threads make runs meanwhile

    def abandon_children(self, run: FlowRun) -> None:
        """End, on paper, what did not end when it was asked to."""

        def end_all() -> None:
            self.loop.drain()
            for child in self._make_children(run):
                child.cancel_reason = child.cancel_reason or "the flow run ended"
                child.cancel_requested = True
                if self.dispatcher.attempts.get(child.attempt_id) is child:
                    self.attempt_ended(
                        Outcome(
                            child.attempt_id,
                            "abandoned",
                            reason="it could not be stopped",
                            began=child.starting is None,
                        )
                    )
                else:
                    self.cancel_one(child, child.cancel_reason, kill=True)

        self.loop.run_home(end_all)
