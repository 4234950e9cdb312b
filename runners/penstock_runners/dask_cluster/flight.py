"""Attempts between here and the workers, and what the loss of a worker means for each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from penstock_runners.dask_cluster.kept import KeptOnCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.attempt import Attempt
    from penstock_runners.batching import Pace
    from penstock_runners.dask_cluster.roster import DaskWorker

__all__ = ["Batch", "Open", "nearness_of"]


@dataclasses.dataclass(slots=True, eq=False)
class Open:
    """An attempt without an outcome."""

    attempt: Attempt
    number: int = 0
    """Of the call, on this journey; no number is used twice."""
    pace: Pace | None = None
    batch: Batch | None = None
    """What it travels in; None while it waits here."""
    is_started: bool = False
    """A worker has said that it began."""
    is_unwanted: bool = False
    """Cancelled: it must not begin."""
    is_given_up: bool = False
    """Cancelled, and perhaps begun: its end is not waited for."""


@dataclasses.dataclass(slots=True, eq=False)
class Batch:
    """Calls that went to a worker as one Dask task."""

    number: int
    worker: DaskWorker
    calls: dict[int, Open] = dataclasses.field(default_factory=dict[int, Open])
    """By number, in the order in which they run; without those that have ended."""
    parcels: set[bytes] = dataclasses.field(default_factory=set[bytes])
    """Digests of what its calls need."""
    future: Any = None
    """Dask's, of its answer."""
    has_begun: bool = False
    has_ended: bool = False
    """All of it was run; the answer is too large to be told."""
    is_coming: bool = False
    """That answer is on its way."""

    def fates(self) -> Iterator[tuple[Open, bool | None]]:
        """Yield each attempt with whether it had begun, if the worker is lost now.

        None: nobody knows, or it had ended, and what came of it is lost. A batch of one tells of
        its begin before it begins; one of several tells so as a whole, and then of each call that
        takes long.
        """
        running = [one for one in self.calls.values() if one.is_started]
        last = running[-1] if running else None
        is_past = last is not None
        for one in self.calls.values():
            if not self.has_begun:
                yield one, False
            elif self.has_ended or last is None:
                yield one, None
            elif one is last:
                is_past = False
                yield one, True
            else:
                yield one, None if is_past else False


def nearness_of(attempt: Attempt | None) -> dict[str, int]:
    """Return how many bytes of an attempt's arguments each worker has, by address."""
    near: dict[str, int] = {}
    for value in () if attempt is None else _arguments_of(attempt):
        kept = value.current() if type(value) is KeptOnCluster else None
        if type(kept) is KeptOnCluster:
            near[kept.worker] = near.get(kept.worker, 0) + kept.nbytes
    return near


def _arguments_of(attempt: Attempt) -> Iterator[Any]:
    """Yield the arguments, and what is in lists among them."""
    for value in (*attempt.args, *attempt.kwargs.values()):
        yield value
        if type(value) in (list, tuple):
            yield from value
