"""Attempts that wait for a worker, in lanes by what they ask of one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock_runners.attempt_queue import AttemptQueue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.task_runners import Attempt
    from penstock_runners.dask_cluster.roster import Roster

__all__ = ["Lane", "Lanes"]

_log = logging.getLogger("penstock.dask")

PATIENCE_SECONDS: Final = 0.5
"""For so long, attempts wait for the workers that are there; then more could be used."""
WARN_SECONDS: Final = 30.0
"""For so long an attempt may wait for a worker that fits, before that is said."""


class Lane(NamedTuple):
    """Attempts that ask for the same."""

    names: tuple[str, ...]
    """Of workers, if not any will do."""
    resources: Mapping[str, float]
    queue: AttemptQueue


class Lanes:
    """All that waits here."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Any, ...], Lane] = {}
        self._since: dict[tuple[Any, ...], float] = {}
        """By lane, since when it has not been empty."""
        self._warned: set[tuple[Any, ...]] = set()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def push(self, attempt: Attempt) -> None:
        """Line up an attempt."""
        key = attempt.workers, tuple(sorted(attempt.resources.items()))
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key[0], dict(key[1]), AttemptQueue())
        lane.queue.push(attempt)

    def drop(self, attempt_id: int) -> None:
        """Take an attempt out."""
        any(lane.queue.drop(attempt_id) for lane in self)

    def clear(self) -> None:
        """Take out all of them."""
        self._lanes.clear()

    def note(self, now: float) -> None:
        """See who had to wait after all that could be handed out was."""
        for key, lane in self._lanes.items():
            if lane.queue:
                self._since.setdefault(key, now)
            else:
                self._since.pop(key, None)

    def wanting(self, now: float, roster: Roster) -> int:
        """Return how many attempts could use more workers than there are."""
        if len(roster) and not any(now - at > PATIENCE_SECONDS for at in self._since.values()):
            return 0
        return sum(len(lane.queue) for lane in self)

    def warn(self, now: float, roster: Roster) -> None:
        """Say of attempts that have waited long, once, what it is that no worker has."""
        for key, since in self._since.items():
            if now - since <= WARN_SECONDS or key in self._warned:
                continue
            self._warned.add(key)
            names, resources = key[0], dict(key[1])
            if not any(worker.fits(names, resources) for worker in roster):
                _log.warning(
                    "Tasks wait for a worker that no worker is: they ask for workers=%s, "
                    "resources=%s. There are: %s",
                    list(names) or "any",
                    resources or "none",
                    roster.offers(),
                )
