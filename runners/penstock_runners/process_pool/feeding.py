"""Which worker gets which attempts next, packed into one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.shipping import pack_call
from penstock_runners import batching
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.batches import Batch, PackedCall, Places, travels_alone
from penstock_runners.process_pool.parcels import BATCH_SECONDS
from penstock_runners.process_pool.workers import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from penstock.attempt import Attempt
    from penstock.worker.packing import Packing
    from penstock_runners.batching import Pace
    from penstock_runners.process_pool.jobs import Job, JobQueue
    from penstock_runners.process_pool.parcels import Parcel, ParcelStore
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Feeder"]


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
        batch = self._next_batch(worker)
        if not batch.jobs:
            return False
        for job in batch.jobs:
            job.worker = worker
            worker.sent[job.number] = job
            worker.seconds_ahead += job.estimate_seconds
        if worker.calls_left is not None:
            worker.calls_left -= len(batch.jobs)
        batch.send()
        return True

    def forget(self, worker: Worker, numbers: Collection[int]) -> None:
        """Have a worker let go of parcels at once."""
        known = [number for number in numbers if worker.unlearn(number)]
        if known:
            worker.orders.send((frames.CALLS, tuple(known), (), ()))

    def _next_batch(self, worker: Worker) -> Batch:
        most = batching.most_in_batch(len(self._queue), self._most_workers)
        if worker.calls_left is not None:
            most = min(most, worker.calls_left)
        batch = Batch(worker, most)
        fn: Any = None
        known: tuple[Parcel, Pace] | None = None
        while batch.has_room:
            job = self._queue.pop()
            if job is None:
                break
            if job.attempt.fn is not fn or known is None:  # else it was looked at just now
                fn = job.attempt.fn
                known = self._function_of(job)
                if known is None:
                    continue
            function, job.pace = known
            is_alone = travels_alone(job.attempt, job.pace)
            if not batch.admits(job, is_alone):
                self._queue.push_front(job)
                break
            call = self._pack(job, function)
            if call is not None:
                batch.add(job, call, is_alone)
        return batch

    def _function_of(self, job: Job) -> tuple[Parcel, Pace] | None:
        try:
            return self._parcels.function(job.attempt.fn)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None

    def _pack(self, job: Job, function: Parcel) -> PackedCall | None:
        attempt, needed = job.attempt, [function]
        places: Places = ()
        try:
            if attempt.siblings is None or not attempt.siblings.constants:
                args, kwargs = attempt.args, attempt.kwargs
                packing = pack_call(attempt.fn, args, kwargs, self._parcels.by_value)
            else:
                packing, places = self._pack_beside_constants(attempt, needed)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(job, error)
            return None
        environment, surroundings = attempt.environment, None
        if environment is not None:
            shared = self._parcels.surroundings(environment.shared)
            needed.append(shared)
            surroundings = (
                shared.number,
                environment.own,
                environment.variables,
                environment.writer,
            )
        return PackedCall(function.number, packing, places, surroundings, needed)

    def _pack_beside_constants(
        self, attempt: Attempt, needed: list[Parcel]
    ) -> tuple[Packing, Places]:
        """Pack the arguments but for the constants, which are added to what is needed."""
        args: list[Any] = list(attempt.args)
        kwargs = dict(attempt.kwargs)
        places: list[tuple[int | str, int]] = []
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
            needed.append(parcel)
        packing = pack_call(attempt.fn, tuple(args), kwargs, self._parcels.by_value)
        return packing, tuple(places)

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
