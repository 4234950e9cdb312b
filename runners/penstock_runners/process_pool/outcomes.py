"""What a worker's answer means to the engine. Nothing of the user's is unpickled for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome, OutcomeKind, Packed, RemoteError
from penstock.worker import running
from penstock_runners.process_pool import frames

if TYPE_CHECKING:
    from penstock.attempt import Attempt

__all__ = ["outcome_of"]


def outcome_of(
    attempt: Attempt,
    head: tuple[Any, ...],
    buffers: list[bytearray],
    worker: str,
    began_at: float | None,
) -> Outcome:
    """Return the outcome that a DONE frame tells of."""
    _, _, how, payload, _, seconds, children, stored = head
    error = None
    if how == running.RAISED:
        error = RemoteError(*(payload if payload is not None else frames.load_head(buffers[0])))
        kind: OutcomeKind = "raised"
        value: Any = None
    else:
        kind = "returned"
        value = payload
    if how == running.PACKED:
        if payload is None:
            first, *buffers = buffers
            payload = bytes(first)
        value = Packed(payload, tuple(buffers))
    ends = (), children, stored, began_at
    return Outcome(attempt.id, kind, value, error, "", True, seconds, worker, *ends)
