"""What a worker's answer means to the engine. Nothing of the user's is unpickled for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.attempt import Outcome, OutcomeKind, Packed, PackedState, RemoteError
from penstock.task_runners import Returned
from penstock.worker import running
from penstock_runners.process_pool import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["outcome_of", "returned"]


def returned(
    first_id: int, first_number: int, answers: Sequence[tuple[Any, ...]], worker: str
) -> Returned | None:
    """Return what answers say, if they are those of calls in a row that returned, and no more.

    Args:
        first_id: of the attempts.
        first_number: of the calls.
        answers: one or more, which came without buffers.
        worker: who says it.
    """
    numbers, hows, payloads, began_at, seconds, children, stored = zip(*answers, strict=True)
    if (
        numbers != tuple(range(first_number, first_number + len(answers)))
        or not _RETURNED.issuperset(hows)
        or any(children)
        or any(size is not None for size in stored)
    ):
        return None
    values = list(payloads)
    if running.PACKED in hows:
        values = [
            Packed(payload) if how == running.PACKED else payload
            for how, payload in zip(hows, payloads, strict=True)
        ]
    return Returned(first_id, values, list(began_at), list(seconds), worker)


_RETURNED: Final = frozenset({running.INLINE, running.PACKED})


def outcome_of(
    attempt_id: int,
    answer: tuple[Any, ...],
    buffers: list[bytearray],
    worker: str,
    began_at: float | None,
) -> Outcome:
    """Return the outcome that an answer tells of."""
    _, how, payload, _, seconds, children, stored = answer
    error = None
    if how == running.RAISED:
        error = RemoteError(*(payload if payload is not None else frames.load_head(buffers[0])))
        kind: OutcomeKind = "raised"
        value: Any = None
    else:
        kind = "returned"
        value = payload
    if how in (running.PACKED, running.STATE):
        if payload is None:
            first, *buffers = buffers
            payload = bytes(first)
        form = PackedState if how == running.STATE else Packed
        value = form(payload, tuple(buffers))
    ends = (), children, stored, began_at
    return Outcome(attempt_id, kind, value, error, "", True, seconds, worker, *ends)
