"""How a cluster that grows by need hears of the work that waits here, and not with its scheduler.

Tasks are put there that stand for it and never run, as they ask for what no worker has. A scheduler
counts such tasks when it is asked how many workers it could use, by whatever makes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Demand", "stand_ins_for"]

SECONDS_EACH: Final = 0.5
"""What Dask takes a task for that has never run (its `unknown-task-duration`)."""
MOST: Final = 1000


class Demand:
    """The tasks that stand for waiting work.

    Args:
        make: puts so many on the cluster, and returns their futures.
        drop: takes them back.
    """

    def __init__(
        self, make: Callable[[int], list[Any]], drop: Callable[[list[Any]], object]
    ) -> None:
        self._make = make
        self._drop = drop
        self.futures: list[Any] = []

    def update(self, waiting: int, seconds_each: float | None) -> None:
        """Say how much waits. What was said before stands while it is about right.

        Args:
            waiting: how many attempts.
            seconds_each: how long one takes on average, if that is known.
        """
        wanted, told = stand_ins_for(waiting, seconds_each), len(self.futures)
        if (wanted and told / 2 < wanted < told * 2) or wanted == told:
            return
        before, self.futures = self.futures, self._make(wanted) if wanted else []
        if before:
            self._drop(before)


def stand_ins_for(waiting: int, seconds_each: float | None) -> int:
    """Return how many tasks of the usual duration stand for so many attempts: no more of them."""
    seconds = waiting * (SECONDS_EACH if seconds_each is None else seconds_each)
    return min(MOST, waiting, math.ceil(seconds / SECONDS_EACH))
