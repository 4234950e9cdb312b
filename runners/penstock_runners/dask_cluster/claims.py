"""Dask futures that nobody waits for: results to be made known as ours, and tasks to be let go.

Whatever a client sends makes it wait, for 10 ms, before it sends the next thing, which may be a
task. So these messages follow tasks that go out, or wait for a quiet moment.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock_runners.dask_cluster.wire import Wire

__all__ = ["Claims"]

MOST_SPENT: Final = 64
"""So many are let go at once, also when there is no quiet moment."""
CLAIM_SECONDS: Final = 0.005
"""For so long, what is made known of kept results waits for tasks that go out first."""


class Claims:
    """The futures of one session that have no other place.

    Args:
        wire: to the cluster.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._answered: dict[int, Any] = {}
        """By number of a batch that is over: its future, while Dask has not noticed."""
        self._spent: list[Any] = []
        """Such futures, later, to be let go."""
        self._unclaimed: list[Any] = []
        """Futures of kept results that the scheduler does not know to be ours."""
        self._unconfirmed: list[tuple[str, weakref.ref[Any]]] = []
        """Such results, and those of which Dask has not said yet that it has them: the worker of
        each, and the future."""
        self.by: float | None = None
        """When they have to be made known."""

    def futures_of(self, keys: Sequence[str], worker: str) -> list[Any]:
        """Return futures of results that stay with a worker, to be claimed soon."""
        futures = self._wire.futures_of(keys)
        if futures:
            known = [(place, each) for place, each in self._unconfirmed if _is_pending(each)]
            self._unconfirmed = known + [(worker, weakref.ref(each)) for each in futures]
            self._unclaimed += futures
            if self.by is None:
                self.by = time.monotonic() + CLAIM_SECONDS
        return futures

    def note_lost(self, worker: str) -> None:
        """A worker is gone. What it held, and Dask may not know to be ours, nobody will tell of."""
        futures = [reference() for place, reference in self._unconfirmed if place == worker]
        lost = [each for each in futures if each is not None and each.status == "pending"]
        if lost:
            self._wire.lose(lost)

    def let_go(self, number: int, future: Any, *, is_large: bool) -> None:
        """Have no more use for the future of a batch; its worker may hold results for it."""
        if is_large:
            self.claim()
            future.release()
        elif future.status == "pending":
            self._answered[number] = future
        else:
            self._spent.append(future)

    def note_ended(self, number: int) -> None:
        """Dask has noticed that the task of a batch is over."""
        future = self._answered.pop(number, None)
        if future is not None:
            self._spent.append(future)

    def claim(self) -> None:
        """Make results known as ours."""
        unclaimed, self._unclaimed, self.by = self._unclaimed, [], None
        if unclaimed and not self._wire.is_lost:
            self._wire.claim(unclaimed)

    def claim_if_due(self, *, has_sent: bool) -> None:
        """Do so if a task has just gone out, or none did for too long."""
        if has_sent or (self.by is not None and time.monotonic() >= self.by):
            self.claim()

    def tidy(self, *, is_quiet: bool) -> None:
        """Let go of what is spent, in a quiet moment or when it is much."""
        if (is_quiet and self.by is None) or len(self._spent) >= MOST_SPENT:
            self.claim()  # only then may the futures go whose workers hold the results
            self._spent.clear()

    def answered(self) -> list[Any]:
        """Return the futures that Dask takes for unfinished."""
        return list(self._answered.values())

    def close(self) -> None:
        """Let go of all."""
        self._spent.clear()
        self._answered.clear()


def _is_pending(reference: weakref.ref[Any]) -> bool:
    future = reference()
    return future is not None and future.status == "pending"
