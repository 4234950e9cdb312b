"""Which worker gets which attempts next, packed into one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.shipping import pack_call
from penstock.worker.packing import are_small_scalars
from penstock_runners import batching
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.batches import (
    MOST_BATCH_BYTES,
    Batch,
    PackedCall,
    Places,
    Row,
    travels_alone,
)
from penstock_runners.process_pool.jobs import Stretch
from penstock_runners.process_pool.parcels import BATCH_SECONDS
from penstock_runners.process_pool.workers import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
        if not batch.held:
            return False
        for one in batch.held:
            worker.put_on(one)
        if worker.calls_left is not None:
            worker.calls_left -= batch.count
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
            one = self._queue.pop()
            if one is None:
                break
            if one.common.fn is not fn or known is None:  # else it was looked at just now
                fn = one.common.fn
                known = self._function_of(one)
                if known is None:
                    continue
            function, one.pace = known
            is_alone = travels_alone(one.common, one.pace)
            if not batch.admits(one, is_alone):
                self._queue.push_front(one)
                break
            if isinstance(one, Stretch):
                if not is_alone:
                    self._add_stretch(batch, one, function)
                    continue
                one = self._first_of(one)
            call = self._pack(one, function)
            if call is not None:
                batch.add(one, call, is_alone)
        return batch

    def _first_of(self, stretch: Stretch) -> Job:
        """Return the first of a stretch, set apart; the others go back."""
        (job,) = stretch.take(1).unfold()
        if len(stretch):
            self._queue.push_front(stretch)
        return job

    def _add_stretch(self, batch: Batch, stretch: Stretch, function: Parcel) -> None:
        """Add as much of a stretch as there is room for; the others go back."""
        some = stretch.take(batch.room_for(stretch))
        row, error = self._pack_stretch(some, function)
        count = len(row.payloads)
        if len(stretch):
            self._queue.push_front(stretch)
        if count < len(some):
            packed = some.take(count)
            if error is not None:
                self._refuse(some.take(1).unfold()[0], error)
            if len(some):
                self._queue.push_front(some)
            some = packed
        if count:
            batch.add_row(some, row)

    def _function_of(self, one: Job | Stretch) -> tuple[Parcel, Pace] | None:
        try:
            return self._parcels.function(one.common.fn)
        except BaseException as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._refuse(self._first_of(one) if isinstance(one, Stretch) else one, error)
            return None

    def _pack(self, job: Job, function: Parcel) -> PackedCall | None:
        attempt, needed = job.attempt, [function]
        try:
            places = self._constants_of(attempt, needed)
            packing = self._pack_arguments(attempt.fn, attempt.args, attempt.kwargs, places)
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

    def _pack_stretch(self, stretch: Stretch, function: Parcel) -> tuple[Row, BaseException | None]:
        """Pack a stretch up to where it is too large, or an argument cannot be packed.

        Returns:
            As much of it as was packed; and the error with which the next one ends, or None.
        """
        template, needed = stretch.common, [function]
        fn, calls = template.fn, stretch.series.calls[stretch.start : stretch.stop]
        error: BaseException | None = None
        places: Places = ()
        payloads: list[Any] = []
        counts: list[int] | None = None
        buffers: list[Any] = []
        nbytes = 0
        try:
            if template.siblings is not None and template.siblings.constants:
                places = self._constants_of(stretch.series[stretch.start], needed)
            if not places and are_plain(calls):
                payloads = [args for args, _ in calls]
            else:
                counts = []
                for args, kwargs in calls:
                    packing = self._pack_arguments(fn, args, kwargs, places)
                    payloads.append(packing.payload)
                    counts.append(len(packing.buffers))
                    buffers += packing.buffers
                    nbytes += packing.nbytes
                    if nbytes >= MOST_BATCH_BYTES:
                        break
        except BaseException as problem:  # noqa: BLE001  (user code; the attempt's own affair)
            error = problem
        shared = None
        if template.environment is not None:
            parcel = self._parcels.surroundings(template.environment.shared)
            needed.append(parcel)
            shared = parcel.number
        row = Row(function.number, payloads, counts, buffers, nbytes, places, shared, needed)
        return row, error

    def _constants_of(self, attempt: Attempt, needed: list[Parcel]) -> Places:
        """Return which arguments go to a worker once, and add them to what is needed."""
        if attempt.siblings is None:
            return ()
        places: list[tuple[int | str, int]] = []
        for place in attempt.siblings.constants:
            parcel = self._parcels.constant(attempt, place)
            if parcel is not None:
                places.append((place, parcel.number))
                needed.append(parcel)
        return tuple(places)

    def _pack_arguments(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        constants: Places,
    ) -> Packing:
        """Pack arguments, but for constants."""
        if constants:
            places = {place for place, _ in constants}
            args = tuple(None if place in places else value for place, value in enumerate(args))
            kwargs = {name: None if name in places else value for name, value in kwargs.items()}
        return pack_call(fn, args, kwargs, self._parcels.by_value)

    def _refuse(self, job: Job, error: BaseException) -> None:
        self._end(job, Outcome(job.attempt.id, "raised", error=error, began=False))


def are_plain(calls: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> bool:
    """Whether calls have arguments that can stand among the plain values of a message."""
    values: list[Any] = []
    for args, kwargs in calls:
        if kwargs:
            return False
        values += args
    return are_small_scalars(values)


def takes_another_batch(worker: Worker) -> bool:
    """Whether a busy worker gets one batch more into its pipe."""
    # What is slow gets nothing sent after it: that saves nothing, and might have to come back.
    return (
        not worker.has_slow
        and worker.calls <= batching.MOST_CALLS
        and worker.seconds_ahead <= BATCH_SECONDS
    )
