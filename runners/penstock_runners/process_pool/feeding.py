"""Which worker gets which attempts next, packed into one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.attempt import Outcome
from penstock_runners.process_pool import batching, frames, shipping
from penstock_runners.process_pool.workers import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from penstock_runners.process_pool.jobs import Client, Job, JobQueue
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Feeder"]

_MOST_BATCH_BYTES: Final = 1 << 20
"""A batch this large goes as it is: copying costs more than a message, and needs memory twice."""


class Feeder:
    """Takes attempts out of the queue and sends them to workers.

    Args:
        queue: where they wait.
        workers: how many workers there may be.
        end: reports the outcome of one that cannot be sent.
    """

    def __init__(self, queue: JobQueue, workers: int, end: Callable[[Job, Outcome], None]) -> None:
        self._queue = queue
        self._most_workers = workers
        self._end = end
        self._functions = shipping.FunctionStore()

    def worker_with_room(self, workers: Iterable[Worker]) -> Worker | None:
        """Return who should get the next batch: who is idle, or has least to do; None if none."""
        best: Worker | None = None
        for worker in workers:
            if worker.phase is not Phase.READY or worker.is_spent or worker.killing:
                continue
            if not worker.sent:
                return worker
            if batching.takes_another_batch(
                len(worker.sent), worker.seconds_ahead, worker.has_slow
            ) and (best is None or worker.seconds_ahead < best.seconds_ahead):
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
        blobs = [function.blob for function in new]
        head = (
            frames.CALLS,
            tuple(worker.forget()),
            tuple(function.number for function in new),
            tuple(calls),
        )
        worker.orders.send(head, [*blobs, *buffers])
        return True

    def _next_batch(
        self, worker: Worker, is_busy: bool
    ) -> tuple[list[Job], list[tuple[Any, ...]], list[Any], list[shipping.Function]]:
        jobs: list[Job] = []
        calls: list[tuple[Any, ...]] = []
        buffers: list[Any] = []
        new: list[shipping.Function] = []
        client: Client | None = worker.client
        most = batching.most_in_batch(len(self._queue), self._most_workers)
        if worker.calls_left is not None:
            most = min(most, worker.calls_left)
        seconds, nbytes = 0.0, 0
        fn: Any = None
        function: shipping.Function | None = None
        while len(jobs) < most and seconds < batching.BATCH_SECONDS and nbytes < _MOST_BATCH_BYTES:
            job = self._queue.pop()
            if job is None:
                break
            if job.attempt.fn is not fn or function is None:  # else it was looked at just now
                fn = job.attempt.fn
                function = self._function_of(job)
                if function is None:
                    continue
            alone = function.pace.travels_alone or bool(job.attempt.resources)
            if (alone and (jobs or is_busy)) or (client is not None and client is not job.client):
                self._queue.push_front(job)
                break
            packing = self._pack(job)
            if packing is None:
                continue
            client = job.client
            job.function = function
            job.estimate_seconds = function.pace.seconds or 0.0
            if worker.learn(function.number):
                new.append(function)
            calls.append((job.number, function.number, packing.payload, len(packing.buffers)))
            buffers += packing.buffers
            jobs.append(job)
            seconds += job.estimate_seconds
            nbytes += packing.nbytes
            if alone:
                worker.has_slow = True
                break
        return jobs, calls, buffers, new

    def _function_of(self, job: Job) -> shipping.Function | None:
        try:
            return self._functions.find(job.attempt.fn)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None

    def _pack(self, job: Job) -> shipping.Packing | None:
        attempt = job.attempt
        try:
            return shipping.pack_call(attempt.fn, attempt.args, attempt.kwargs)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None

    def _refuse(self, job: Job, error: BaseException) -> None:
        self._end(job, Outcome(job.attempt.id, "raised", error=error, began=False))
