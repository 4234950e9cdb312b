"""Attempts without an outcome, and how they come to have one: exactly one for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.attempt import Outcome
from penstock.task_runners import Started
from penstock_runners.dask_cluster.flight import Open

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.task_runners import Attempt, Event
    from penstock_runners.dask_cluster.roster import DaskWorker

__all__ = ["Ends"]

CANCELLED_EARLY: Final = "cancelled before it began"


class Ends:
    """The open attempts of one session.

    Args:
        report: takes events.
    """

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report
        self.open: dict[int, Open] = {}
        """By id of the attempt."""
        self.calls: dict[int, Open] = {}
        """What was sent, by the number of the call."""
        self.count = 0
        """How many outcomes there were."""

    def take(self, attempt: Attempt) -> Open:
        """Note a new attempt."""
        one = self.open[attempt.id] = Open(attempt)
        return one

    def note_start(self, one: Open, worker: DaskWorker, at: float) -> None:
        """Its function has begun; that is told once."""
        if not one.is_started:
            one.is_started = True
            if one.attempt.report_start:
                self._report(Started(one.attempt.id, worker.label, at))

    def end(self, one: Open, outcome: Outcome) -> None:
        """Report an outcome."""
        del self.open[one.attempt.id]
        self.calls.pop(one.number, None)
        self.count += 1
        self._report(outcome)

    def refuse(self, attempt: Attempt, outcome: Outcome) -> None:
        """Report what keeps an attempt from being sent."""
        self.end(self.open[attempt.id], outcome)

    def lose(self, one: Open, reason: str, *, began: bool | None, worker: str = "") -> None:
        """Its worker is lost."""
        self.end(one, Outcome(one.attempt.id, "lost", reason=reason, began=began, worker=worker))

    def stop_early(self, one: Open) -> None:
        """It was cancelled in time."""
        self.end(one, Outcome(one.attempt.id, "stopped", reason=CANCELLED_EARLY, began=False))

    def leave(self, *, is_ours: bool) -> None:
        """End what is open, as the session ends; with the cluster, if it is ours."""
        for one in tuple(self.open.values()):
            if one.batch is None or not one.batch.has_begun:
                self.stop_early(one)
            elif is_ours:
                reason = "the cluster it ran on is closed"
                self.end(one, Outcome(one.attempt.id, "stopped", reason=reason))
            else:
                reason = "a Dask worker cannot be made to stop; it goes on there"
                self.end(one, Outcome(one.attempt.id, "abandoned", reason=reason))
