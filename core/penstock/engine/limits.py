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
        tags = self._needed(run)
        if any(self._taken[tag] >= self._limits[tag] for tag in tags):
            return False
        for tag in tags:
            self._taken[tag] += 1
        self._holding[run] = tags
        return True

    def _needed(self, run: Run) -> Sequence[str]:
        """Return the limited tags that no run around this one has a place for already.

        A run shares the places of the runs that it is part of: these may wait for it, and a
        limit of one would then stop both for ever.
        """
        tags: Sequence[str] = run.plan.limited_tags
        around = run.parent
        while around is not None and tags:
            held = self._holding.get(around, ())
            tags = [tag for tag in tags if tag not in held]
            around = around.parent
        return tags

    def release(self, run: Run) -> list[Run]:
        """Give back the run's places, and return the runs that have theirs now."""
        freed = self._holding.pop(run, ())
        for tag in freed:
            self._taken[tag] -= 1
        admitted: list[Run] = []
        for waiting in self._waiting:
            # Whoever can go now needs one of these, so that the line need not be gone through.
            if all(self._taken[tag] >= self._limits[tag] for tag in freed):
                break
            if self._take(waiting):
                admitted.append(waiting)
        for each in admitted:
            self._waiting.remove(each)
        return admitted

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the line; true if it stood there."""
        try:
            self._waiting.remove(run)
        except ValueError:
            return False
        return True
