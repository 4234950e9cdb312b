"""Limits on how many runs with a tag may run at once. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.runs import Run

__all__ = ["TagLimits"]


class TagLimits:
    """Counts the running runs of each limited tag, and keeps those that have to wait, in order."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._taken = dict.fromkeys(limits, 0)
        self._holding: dict[Run, Sequence[str]] = {}
        self._waiting: deque[Run] = deque()

    def limited(self, tags: frozenset[str]) -> tuple[str, ...]:
        """Return which of these tags have a limit."""
        return tuple(sorted(tags & self._limits.keys()))

    def acquire(self, run: Run) -> bool:
        """Take a place of each limited tag of the run, or none and line up."""
        if self._take(run):
            return True
        self._waiting.append(run)
        return False

    def _take(self, run: Run) -> bool:
        tags = run.plan.limited_tags
        if any(self._taken[tag] >= self._limits[tag] for tag in tags):
            return False
        for tag in tags:
            self._taken[tag] += 1
        self._holding[run] = tags
        return True

    def release(self, run: Run) -> list[Run]:
        """Give back the run's places, and return the runs that have theirs now."""
        for tag in self._holding.pop(run, ()):
            self._taken[tag] -= 1
        admitted = [waiting for waiting in self._waiting if self._take(waiting)]
        if admitted:
            self._waiting = deque(each for each in self._waiting if each not in admitted)
        return admitted

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the line; true if it stood there."""
        try:
            self._waiting.remove(run)
        except ValueError:
            return False
        return True
