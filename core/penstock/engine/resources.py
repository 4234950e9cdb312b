"""What the workers of a task runner have, such as GPUs: who has how much of it. Pure.

The rule: who needs what is free has it at once, unless somebody who goes before (by priority, and
then by arrival) waits for any of the same. So a run that needs much gets it, however many need
little; and whoever needs nothing of what is short goes on. A run inside of another one goes before
all that are not: what that one has may be what they wait for.
"""

from __future__ import annotations

import bisect
import functools
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from penstock.runs import is_inside_a_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

    from penstock.runs import Run

__all__ = ["Place", "Resources"]

Place: TypeAlias = "tuple[int, int, Any]"
"""A run with its place among those that are ready: what is smaller goes first."""
_Entry: TypeAlias = "tuple[bool, Place]"

MOST_INDICES: Final = 1024
"""Of a resource of which there is more, nobody wants to know which part they have."""


class Resources:
    """The account of one task runner's resources.

    Amounts may be fractions. Where there is a whole number of something, a whole amount of it is
    so many indices, those of devices, say. What the runner does not list is not counted.

    Args:
        totals: what there is, by name.
    """

    def __init__(self, totals: Mapping[str, float]) -> None:
        self._free = {name: _exact(total) for name, total in totals.items()}
        self._indices: dict[str, list[int]] = {
            name: list(range(int(total)))
            for name, total in totals.items()
            if total == int(total) <= MOST_INDICES
        }
        self._held: dict[Run, tuple[dict[str, Fraction], dict[str, tuple[int, ...]]]] = {}
        self._waiting: dict[Run, _Entry] = {}
        self._lines: dict[str, list[_Entry]] = {name: [] for name in totals}  # sorted

    def acquire(self, place: Place) -> bool:
        """Give a run what it needs, or have it wait until `freed` returns it.

        What it has is in its `resources` then. A run shares what the runs around it have, since
        these may wait for it, and takes the rest.
        """
        run = place[2]
        entry = not is_inside_a_task(run), place
        needed = self._needed(run)
        for name, amount in needed.items():
            line = self._lines[name]
            if self._free[name] < amount or (line and line[0] < entry):
                self._line_up(run, entry)
                return False
        own: dict[str, tuple[int, ...]] = {}
        for name, amount in needed.items():
            self._free[name] -= amount
            if amount.denominator == 1 and name in self._indices:
                free = self._indices[name]
                own[name] = tuple(free[: int(amount)])
                del free[: int(amount)]
        run.resources = {
            name: self._shared(run, name, _exact(amount)) + own.get(name, ())
            for name, amount in run.plan.resources.items()
            if name in self._free
        }
        self._held[run] = needed, own
        return True

    def _line_up(self, run: Run, entry: _Entry) -> None:
        self._waiting[run] = entry
        for name in self._names(run):
            bisect.insort(self._lines[name], entry)

    def _names(self, run: Run) -> list[str]:
        # All of them: what it shares now may be given back before it has its own.
        return [name for name in run.plan.resources if name in self._lines]

    def _needed(self, run: Run) -> dict[str, Fraction]:
        """Return what a run needs besides what the runs around it have."""
        needed: dict[str, Fraction] = {}
        for name, amount in run.plan.resources.items():
            if name in self._free:
                missing = _exact(amount) - self._around(run, name)
                if missing > 0:
                    needed[name] = missing
        return needed

    def _around(self, run: Run, name: str) -> Fraction:
        """Return how much of something the runs around this one have."""
        amount = _exact(0)
        around = run.parent
        while around is not None:
            if around in self._held:
                amount += self._held[around][0].get(name, 0)
            around = around.parent
        return amount

    def _shared(self, run: Run, name: str, amount: Fraction) -> tuple[int, ...]:
        """Return the indices that a run shares with those around it."""
        indices: tuple[int, ...] = ()
        around = run.parent
        while around is not None and amount.denominator == 1:
            if around in self._held:
                indices += self._held[around][1].get(name, ())
            around = around.parent
        return tuple(sorted(indices))[: int(amount)]

    def release(self, run: Run) -> None:
        """Take back what a run has, if it has anything."""
        held, own = self._held.pop(run, ({}, {}))
        for name, amount in held.items():
            self._free[name] += amount
        for name, indices in own.items():
            self._indices[name] = sorted((*self._indices[name], *indices))
        if held:
            run.resources = {}  # type: ignore[attr-defined]  # task runs only ask for any

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the lines; true if it stood there."""
        entry = self._waiting.pop(run, None)
        if entry is None:
            return False
        for name in self._names(run):
            line = self._lines[name]
            del line[bisect.bisect_left(line, entry)]
        return True

    def has_waiting(self) -> bool:
        """Whether any run stands in a line."""
        return bool(self._waiting)

    def freed(self) -> list[Place]:
        """Return those who may ask again, and have them wait no more.

        They have nothing yet: until each has asked, one with a higher priority may come.
        """
        left = dict(self._free)
        found: list[Place] = []
        heads = {name: 0 for name, line in self._lines.items() if line}
        # Each look is at one that can go, or else is the last one at a line.
        while heads:
            _, place = min(self._lines[name][at] for name, at in heads.items())
            needed, names = self._needed(place[2]), self._names(place[2])
            can_go = all(name in heads and left[name] >= amount for name, amount in needed.items())
            if can_go:
                found.append(place)
                for name, amount in needed.items():
                    left[name] -= amount
            for name in names:
                if name in heads:
                    heads[name] += 1
                    if not can_go or heads[name] == len(self._lines[name]):
                        del heads[name]
        for place in found:
            self.withdraw(place[2])
        return found

    def give_up(self) -> list[Place]:
        """Return everybody who waits, and have them wait no more."""
        waiting, self._waiting = [place for _, place in self._waiting.values()], {}
        for line in self._lines.values():
            line.clear()
        return waiting


@functools.lru_cache(maxsize=256)
def _exact(amount: float) -> Fraction:
    """Return an amount in which ten tenths are one, and three thirds."""
    from fractions import Fraction  # 2 ms of every start, where nothing has resources

    return Fraction(amount).limit_denominator(1_000_000)
