"""Limits on how many runs may be under way at once: those with a tag, those of a task. Pure."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from penstock.runs import Run

__all__ = ["Limits", "Owner", "TaskLimit"]


class Owner:
    """A task's function as a part of keys: what the copies of a task have in common.

    By identity, since any callable can be a task, also one that is equal to others or cannot be
    hashed.
    """

    __slots__ = ("fn",)

    def __init__(self, fn: Any) -> None:
        self.fn: Any = fn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owner) and other.fn is self.fn

    def __hash__(self) -> int:
        return id(self.fn)


class TaskLimit(NamedTuple):
    """The limit of one task, which its copies with other options share."""

    most: int
    owner: Owner
    kind: Literal["max_concurrency"] = "max_concurrency"


class Limits:
    """Counts the places that runs have of each limit, and keeps those that have to wait, in order.

    Args:
        limits: how many places there are, by tag; those of tasks come by `add`.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits: dict[Hashable, int] = {}
        self._limits.update(limits.items())
        self._taken: dict[Hashable, int] = dict.fromkeys(self._limits, 0)
        self._holding: dict[Run, Sequence[Hashable]] = {}
        # A run that waits stands in the line of each of its limits, with the same number.
        self._lines: dict[Hashable, OrderedDict[Run, int]] = {}
        self._arrivals = 0

    def limited(self, tags: frozenset[str]) -> tuple[str, ...]:
        """Return which of these tags have a limit."""
        return tuple(sorted(tag for tag in tags if tag in self._limits))

    def add(self, limit: TaskLimit) -> None:
        """Count the runs of a task from now on."""
        self._limits.setdefault(limit, limit.most)
        self._taken.setdefault(limit, 0)

    def has_waiting(self) -> bool:
        """Whether any run stands in a line."""
        return any(self._lines.values())

    def acquire(self, run: Run) -> bool:
        """Take a place of each limit of the run, or none and line up."""
        if self._take(run):
            return True
        self._arrivals += 1
        for key in run.plan.limits:  # all of them: what it shares now may be given back before it
            self._lines.setdefault(key, OrderedDict())[run] = self._arrivals
        return False

    def _take(self, run: Run) -> bool:
        needed = self._needed(run)
        if not all(self._has_room(key) for key in needed):
            return False
        for key in needed:
            self._taken[key] += 1
        self._holding[run] = needed
        return True

    def _has_room(self, key: Hashable) -> bool:
        return self._taken[key] < self._limits[key]

    def _needed(self, run: Run) -> Sequence[Hashable]:
        """Return the limits that no run around this one has a place of already.

        A run shares the places of the runs that it is part of: these may wait for it, and a
        limit of one would then stop both for ever.
        """
        needed: Sequence[Hashable] = run.plan.limits
        around = run.parent
        while around is not None and needed:
            held = self._holding.get(around, ())
            needed = [key for key in needed if key not in held]
            around = around.parent
        return needed

    def release(self, run: Run) -> list[Run]:
        """Give back the run's places, and return the runs that have theirs now."""
        freed = self._holding.pop(run, ())
        for key in freed:
            self._taken[key] -= 1
        admitted: list[Run] = []
        for waiting in self._waiting_for(freed):
            # Whoever can go now needs one of these, so that the lines need not be gone through.
            if not any(self._has_room(key) for key in freed):
                break
            if self._take(waiting):
                admitted.append(waiting)
        for each in admitted:
            self.withdraw(each)
        return admitted

    def _waiting_for(self, keys: Sequence[Hashable]) -> Iterator[Run]:
        """Yield the runs in the lines of these limits in the order in which they came."""
        lines = [self._lines[key].items() for key in keys if key in self._lines]
        previous: Run | None = None
        for run, _ in heapq.merge(*lines, key=lambda entry: entry[1]):
            if run is not previous:  # it stands in two of these lines
                yield run
            previous = run

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the lines; true if it stood there."""
        found = [line.pop(run, None) for key in run.plan.limits if (line := self._lines.get(key))]
        return any(number is not None for number in found)
