"""Which worker gets which attempts next, packed into one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.attempt import Outcome
from penstock.shipping import pack_call
from penstock_runners import batching
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.parcels import BATCH_SECONDS
from penstock_runners.process_pool.workers import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from penstock.attempt import Attempt
    from penstock.worker.packing import Packing
    from penstock_runners.batching import Pace
    from penstock_runners.process_pool.jobs import Client, Job, JobQueue
    from penstock_runners.process_pool.parcels import Parcel, ParcelStore
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Feeder"]

_MOST_BATCH_BYTES: Final = 1 << 20
"""A batch this large goes as it is: copying costs more than a message, and needs memory twice."""


class Feeder:
    """Takes attempts out of the queue and sends them to workers.

    Args:
        queue: where they wait.
        workers: how many workers there may be.
        parcels: what goes to a worker once.
        end: reports the outcome of one that cannot be sent.
    """

    def __init__(
        self,
        queue: JobQueue,
        workers: int,
        parcels: ParcelStore,
        end: Callable[[Job, Outcome], None],
    ) -> None:
        self._queue = queue
        self._most_workers = workers
        self._parcels = parcels
        self._end = end

    def worker_with_room(self, workers: Iterable[Worker]) -> Worker | None:
        """Return who should get the next batch: who is idle, or has least to do; None if none."""
        best: Worker | None = None
        for worker in workers:
            if worker.phase is not Phase.READY or worker.is_spent or worker.killing:
                continue
            if not worker.sent:
                return worker
            if takes_another_batch(worker) and (
                best is None or worker.seconds_ahead < best.seconds_ahead
            ):
                best = worker
        return best

    def feed(self, worker: Worker) -> bool:
        """Send a batch to a worker; False if there is none for it."""
        is_busy = bool(worker.sent)
        jobs, calls, buffers, new = self._next_batch(worker, is_busy)
        if not jobs:
            return False
        for job in jobs:
            job.worker = worker
            worker.sent[job.number] = job
            worker.seconds_ahead += job.estimate_seconds
        if worker.calls_left is not None:
            worker.calls_left -= len(jobs)
        self._send(worker, new, calls, buffers)
        return True

    def forget(self, worker: Worker, numbers: Collection[int]) -> None:
        """Have a worker let go of parcels at once."""
        known = [number for number in numbers if worker.unlearn(number)]
        if known:
            worker.orders.send((frames.CALLS, tuple(known), (), ()))

    def _send(
        self,
        worker: Worker,
        new: list[Parcel],
        calls: list[tuple[Any, ...]],
        buffers: list[Any],
    ) -> None:
        head = (
            frames.CALLS,
            tuple(worker.forget()),
            tuple(parcel.number for parcel in new),
            tuple(calls),
        )
        worker.orders.send(head, [*(parcel.blob for parcel in new), *buffers])

    def _next_batch(
        self, worker: Worker, is_busy: bool
    ) -> tuple[list[Job], list[tuple[Any, ...]], list[Any], list[Parcel]]:
        jobs: list[Job] = []
        calls: list[tuple[Any, ...]] = []
        buffers: list[Any] = []
        new: list[Parcel] = []
        client: Client | None = worker.client
        most = batching.most_in_batch(len(self._queue), self._most_workers)
        if worker.calls_left is not None:
            most = min(most, worker.calls_left)
        seconds, nbytes = 0.0, 0
        fn: Any = None
        known: tuple[Parcel, Pace] | None = None
        while len(jobs) < most and seconds < BATCH_SECONDS and nbytes < _MOST_BATCH_BYTES:
            job = self._queue.pop()
            if job is None:
                break
            attempt = job.attempt
            chunk = 0 if attempt.siblings is None else attempt.siblings.chunk
            if attempt.fn is not fn or known is None:  # else it was looked at just now
                fn = attempt.fn
                known = self._function_of(job)
                if known is None:
                    continue
            function, pace = known
            alone = (pace.travels_alone and not chunk) or bool(attempt.resources)
            if (alone and (jobs or is_busy)) or (client is not None and client is not job.client):
                self._queue.push_front(job)
                break
            packed = self._pack(job)
            if packed is None:
                continue
            packing, constants, needed = packed
            client = job.client
            job.pace = pace
            job.estimate_seconds = pace.seconds or 0.0
            surroundings = None
            environment = attempt.environment
            if environment is not None:
                parcel = self._parcels.surroundings(environment.shared)
                needed.append(parcel)
                surroundings = parcel.number, environment.own, environment.variables
            needed.append(function)
            new += [parcel for parcel in needed if worker.learn(parcel.number)]
            calls.append(
                (
                    job.number,
                    function.number,
                    packing.payload,
                    len(packing.buffers),
                    constants,
                    surroundings,
                )
            )
            buffers += packing.buffers
            jobs.append(job)
            if chunk:  # the user has said how many, whatever they take
                most = max(most, chunk) if len(jobs) < chunk else len(jobs)
            else:
                seconds += job.estimate_seconds
            nbytes += packing.nbytes
            if alone:
                worker.has_slow = True
                break
        return jobs, calls, buffers, new

    def _function_of(self, job: Job) -> tuple[Parcel, Pace] | None:
        try:
            return self._parcels.function(job.attempt.fn)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None

    def _pack(
        self, job: Job
    ) -> tuple[Packing, tuple[tuple[int | str, int], ...], list[Parcel]] | None:
        """Return the arguments, places that constants belong in, and the parcels of these."""
        attempt = job.attempt
        try:
            if attempt.siblings is None or not attempt.siblings.constants:
                args, kwargs = attempt.args, attempt.kwargs
                return pack_call(attempt.fn, args, kwargs, self._parcels.by_value), (), []
            return self._pack_beside_constants(attempt)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None

    def _pack_beside_constants(
        self, attempt: Attempt
    ) -> tuple[Packing, tuple[tuple[int | str, int], ...], list[Parcel]]:
        args: list[Any] = list(attempt.args)
        kwargs = dict(attempt.kwargs)
        places: list[tuple[int | str, int]] = []
        parcels: list[Parcel] = []
        assert attempt.siblings is not None
        for place in attempt.siblings.constants:
            parcel = self._parcels.constant(attempt, place)
            if parcel is None:
                continue
            if isinstance(place, int):
                args[place] = None
            else:
                kwargs[place] = None
            places.append((place, parcel.number))
            parcels.append(parcel)
        packing = pack_call(attempt.fn, tuple(args), kwargs, self._parcels.by_value)
        return packing, tuple(places), parcels

    def _refuse(self, job: Job, error: BaseException) -> None:
        self._end(job, Outcome(job.attempt.id, "raised", error=error, began=False))


def takes_another_batch(worker: Worker) -> bool:
    """Whether a busy worker gets one batch more into its pipe."""
    # What is slow gets nothing sent after it: that saves nothing, and might have to come back.
    return (
        not worker.has_slow
        and len(worker.sent) <= batching.MOST_CALLS
        and worker.seconds_ahead <= BATCH_SECONDS
    )
