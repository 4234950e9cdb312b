"""One batch: what goes to a worker in one frame, and when it is full."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from penstock_runners.process_pool import frames
from penstock_runners.process_pool.parcels import BATCH_SECONDS

if TYPE_CHECKING:
    from penstock.attempt import Attempt
    from penstock.worker.packing import Packing
    from penstock_runners.batching import Pace
    from penstock_runners.process_pool.jobs import Job, Stretch
    from penstock_runners.process_pool.parcels import Parcel
    from penstock_runners.process_pool.workers import Worker

__all__ = ["MOST_BATCH_BYTES", "Batch", "PackedCall", "Places", "Row", "travels_alone"]

MOST_BATCH_BYTES: Final = 1 << 20
"""A batch this large goes as it is: copying costs more than a message, and needs memory twice."""

Places: TypeAlias = tuple[tuple[int | str, int], ...]
"""Of constants: where each belongs among the arguments, and which parcel it is."""


class PackedCall(NamedTuple):
    """An attempt as it travels, and the parcels that a worker must have for it."""

    function: int
    packing: Packing
    constants: Places
    """Places among the arguments, and the parcels that belong in them."""
    surroundings: tuple[int, tuple[Any, ...], bytes | None, bytes | None] | None
    """A parcel that many attempts share, what is this one's own, its context variables, and what
    stores its result."""
    needed: list[Parcel]


class Row(NamedTuple):
    """A stretch as it travels."""

    function: int
    payloads: list[Any]
    counts: list[int] | None
    """How many buffers belong to each payload; None: there are none."""
    buffers: list[Any]
    nbytes: int
    constants: Places
    shared: int | None
    """The parcel with what they say of their runs; None if they are of none."""
    needed: list[Parcel]


class Batch:
    """What goes to one worker in one frame. It has room until it is long, or large, enough."""

    def __init__(self, worker: Worker, most: int) -> None:
        self.held: list[Job | Stretch] = []
        self.count = 0
        """How many calls these are."""
        self.has_room = most > 0
        self._worker = worker
        self._client = worker.client
        self._most = most
        self._seconds = 0.0
        self._nbytes = 0
        self._calls: list[tuple[Any, ...] | list[Any]] = []
        self._buffers: list[Any] = []
        self._new: list[Parcel] = []
        self._needed: list[Parcel] = []

    def admits(self, one: Job | Stretch, is_alone: bool) -> bool:
        """Whether it may go along: with those of its own run, and not if it travels alone."""
        if is_alone and (self.held or self._worker.sent):
            return False
        return self._client is None or self._client is one.client

    def add(self, job: Job, call: PackedCall, is_alone: bool) -> None:
        """Take a job with its call, and what the worker has not got of what that needs."""
        function, packing, constants, surroundings, needed = call
        buffers = packing.buffers
        self._calls.append(
            (job.number, function, packing.payload, len(buffers), constants, surroundings)
        )
        if not packing.is_inline:
            self._buffers += buffers
            self._nbytes += packing.nbytes
        if needed != self._needed:  # else as for the call before
            self._needed = needed
            self._new += (one for one in needed if self._worker.learn(one.number))
        self._count_in(job, is_alone)

    def room_for(self, stretch: Stretch) -> int:
        """Return how many of a stretch there is room for; one at least."""
        chunk = self._chunk_of(stretch.common)
        most = self._most - self.count
        assert stretch.pace is not None
        if chunk:
            most = chunk - self.count
        elif stretch.pace.seconds:
            left = (BATCH_SECONDS - self._seconds) / stretch.pace.seconds
            most = min(most, math.ceil(left))
        return min(len(stretch), max(1, most))

    def add_row(self, stretch: Stretch, row: Row) -> None:
        """Take a stretch, and what the worker has not got of what that needs."""
        series = stretch.series
        self._calls.append(
            [
                stretch.number,
                row.function,
                row.payloads,
                row.counts,
                row.constants,
                row.shared,
                series.origin,
                series.offset + stretch.start,
            ]
        )
        self._buffers += row.buffers
        self._nbytes += row.nbytes
        self._needed = row.needed
        self._new += (one for one in row.needed if self._worker.learn(one.number))
        self._count_in(stretch, is_alone=False)

    def _count_in(self, one: Job | Stretch, is_alone: bool) -> None:
        """Add what has been packed, and decide whether there is room for more after it."""
        assert one.pace is not None
        one.estimate_seconds = one.pace.seconds or 0.0
        self._client = one.client
        self.held.append(one)
        self.count += len(one)
        chunk, count = self._chunk_of(one.common), self.count
        if is_alone:
            self._worker.has_slow = True
            self._most = count
        elif chunk:  # the user has said how many, whatever they take
            self._most = max(self._most, chunk) if count < chunk else count
        else:
            self._seconds += one.estimate_seconds * len(one)
        self.has_room = (
            count < self._most and self._seconds < BATCH_SECONDS and self._nbytes < MOST_BATCH_BYTES
        )

    def _chunk_of(self, attempt: Attempt) -> int:
        """Return how many the user wants sent together, as far as the worker may have so many."""
        chunk, most = chunk_of(attempt), self._worker.calls_left
        return chunk if most is None else min(chunk, most)

    def send(self) -> None:
        """Send it."""
        head = (
            frames.CALLS,
            tuple(self._worker.forget()),
            tuple(parcel.number for parcel in self._new),
            tuple(self._calls),
        )
        self._worker.orders.send(head, [*(parcel.blob for parcel in self._new), *self._buffers])


def chunk_of(attempt: Attempt) -> int:
    """Return how many of its siblings the user wants sent together; 0 leaves that to us."""
    return 0 if attempt.siblings is None else attempt.siblings.chunk


def travels_alone(attempt: Attempt, pace: Pace) -> bool:
    """Whether an attempt goes to its worker with no other beside it."""
    return bool(attempt.resources) or (pace.travels_alone and not chunk_of(attempt))
