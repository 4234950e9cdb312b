"""Which attempts travel together: several short calls, or one that is not known to be short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock.attempt import Outcome
from penstock_runners.batching import most_in_batch
from penstock_runners.dask_cluster.letters import BATCH_SECONDS, LostInputs, TooLargeForWorkers

if TYPE_CHECKING:
    import itertools
    from collections.abc import Callable

    from penstock.task_runners import Attempt
    from penstock_runners.attempt_queue import AttemptQueue
    from penstock_runners.batching import Pace
    from penstock_runners.dask_cluster.letters import Call, PostOffice

__all__ = ["Picked", "Picker"]

MOST_LETTER_BYTES: Final = 1 << 20


class Picked(NamedTuple):
    """An attempt, packed for its journey."""

    attempt: Attempt
    call: Call
    pace: Pace


class Picker:
    """Takes batches off queues, and packs them.

    Args:
        post: packs calls.
        numbers: for calls.
        refuse: takes the outcome of an attempt that cannot be sent.
    """

    def __init__(
        self,
        post: PostOffice,
        numbers: itertools.count[int],
        refuse: Callable[[Attempt, Outcome], None],
    ) -> None:
        self._post = post
        self._numbers = numbers
        self._refuse = refuse

    def pick(self, queue: AttemptQueue, slots: int, most_bytes: int) -> list[Picked]:
        """Return the next batch; empty if what was there cannot be sent.

        Args:
            queue: where attempts wait.
            slots: over how many the tail is to be spread.
            most_bytes: what a worker may hold at most; 0 is any amount.
        """
        picked: list[Picked] = []
        seconds, nbytes = 0.0, 0
        most = most_in_batch(len(queue), max(1, slots))
        while len(picked) < most and seconds < BATCH_SECONDS and nbytes < MOST_LETTER_BYTES:
            attempt = queue.pop()
            if attempt is None:
                break
            chunk = 0 if attempt.siblings is None else attempt.siblings.chunk
            found = self._function_of(attempt)
            if found is None:
                continue
            function, pace = found
            alone = (pace.travels_alone and not chunk) or bool(attempt.resources)
            if alone and picked:
                queue.push_front(attempt)
                break
            call = self._pack(attempt, function, most_bytes)
            if call is None:
                continue
            picked.append(Picked(attempt, call, pace))
            nbytes += call.nbytes
            if alone:
                break
            if chunk:  # the user has said how many, whatever they take
                most = max(most, chunk) if len(picked) < chunk else len(picked)
            else:
                seconds += pace.seconds or 0.0
        return picked

    def _function_of(self, attempt: Attempt) -> tuple[bytes, Pace] | None:
        try:
            return self._post.function(attempt.fn)
        except Exception as error:  # noqa: BLE001  (user code; the attempt's own affair)
            self._end(attempt, error)
            return None

    def _pack(self, attempt: Attempt, function: bytes, most_bytes: int) -> Call | None:
        try:
            return self._post.call(next(self._numbers), attempt, function, most_bytes)
        except LostInputs as lost:
            workers = ", ".join(sorted({each.worker for each in lost.kept}))
            reason = f"arguments were lost with worker {workers}"
            kept: Any = tuple(lost.kept)
            outcome = Outcome(attempt.id, "lost", reason=reason, began=False, lost_inputs=kept)
            self._refuse(attempt, outcome)
        except (Exception, TooLargeForWorkers) as error:  # noqa: BLE001  (as above)
            self._end(attempt, error)
        return None

    def _end(self, attempt: Attempt, error: Exception) -> None:
        self._refuse(attempt, Outcome(attempt.id, "raised", error=error, began=False))
