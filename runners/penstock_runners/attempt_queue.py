"""The order in which attempts that wait for a worker get one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.attempt import Attempt

__all__ = ["AttemptQueue"]


class AttemptQueue:
    """Waiting attempts: a higher priority goes first, equal ones in order of submission.

    One lane a priority, since nearly always there is one lane only: taking and dropping are then
    independent of the length. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, Attempt]] = {}
        self._top: OrderedDict[int, Attempt] | None = None
        """The lane of the highest priority; never an empty one."""

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __bool__(self) -> bool:
        return self._top is not None

    def push(self, attempt: Attempt) -> None:
        """Add an attempt at the end of its lane."""
        lane = self._lanes.get(attempt.priority)
        if lane is None:
            lane = self._lanes[attempt.priority] = OrderedDict()
            self._top = self._lanes[max(self._lanes)]
        lane[attempt.id] = attempt

    def push_front(self, attempt: Attempt) -> None:
        """Put an attempt back at the front of its lane."""
        self.push(attempt)
        self._lanes[attempt.priority].move_to_end(attempt.id, last=False)

    def first(self) -> Attempt | None:
        """Return the attempt whose turn it is, and leave it here; None if none waits."""
        lane = self._top
        return None if lane is None else next(iter(lane.values()))

    def pop(self) -> Attempt | None:
        """Take the attempt whose turn it is; None if none waits."""
        lane = self._top
        if lane is None:
            return None
        _, attempt = lane.popitem(last=False)
        if not lane:
            self._remove_lane(attempt.priority)
        return attempt

    def drop(self, attempt_id: int) -> bool:
        """Remove one attempt; False if it is not here."""
        for priority, lane in self._lanes.items():
            if lane.pop(attempt_id, None) is not None:
                if not lane:
                    self._remove_lane(priority)
                return True
        return False

    def drop_all(self) -> list[int]:
        """Remove every attempt and return their ids."""
        ids = [attempt_id for lane in self._lanes.values() for attempt_id in lane]
        self._lanes.clear()
        self._top = None
        return ids

    def _remove_lane(self, priority: int) -> None:
        del self._lanes[priority]
        self._top = self._lanes[max(self._lanes)] if self._lanes else None
