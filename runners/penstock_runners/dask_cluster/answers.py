"""What a batch's answer means to the engine. Nothing of the user's is unpickled for it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.attempt import Outcome, OutcomeKind, Packed, PackedState, RemoteError
from penstock.worker import running
from penstock_runners.dask_cluster.kept import KeptOnCluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock_runners.dask_cluster.roster import DaskWorker

__all__ = ["Answer", "opened", "outcome_of"]


class Answer(NamedTuple):
    """The answer of a batch."""

    missing: list[bytes]
    """Digests of parcels that the worker does not have; then nothing was run."""
    left: list[int]
    """Numbers of calls that were not begun."""
    endings: list[tuple[Any, ...]]
    """Number, how, payload, buffers, seconds, children, stored bytes."""

    @property
    def kept(self) -> list[str]:
        """The keys of results that stay with the worker."""
        return [ending[2][0] for ending in self.endings if ending[1] == running.KEPT]


def opened(packed: bytes) -> Answer:
    """Return what `far.run_batch` has packed."""
    return Answer(*pickle.loads(packed))


def outcome_of(
    attempt_id: int,
    ending: tuple[Any, ...],
    worker: DaskWorker,
    runner: Any,
    kept: Mapping[str, Any],
) -> Outcome:
    """Return the outcome that an ending tells of.

    Args:
        attempt_id: of which attempt.
        ending: one of an answer's.
        worker: where it was.
        runner: who keeps results.
        kept: futures of kept results, by key.
    """
    _, how, payload, buffers, seconds, children, stored = ending
    error = None
    kind: OutcomeKind = "returned"
    value: Any = payload
    if how == running.RAISED:
        kind, value, error = "raised", None, RemoteError(*payload)
    elif how in (running.PACKED, running.STATE):
        if payload is None:
            payload, *buffers = buffers
        form = PackedState if how == running.STATE else Packed
        value = form(payload, tuple(buffers))
    elif how == running.KEPT:
        key, nbytes = payload
        value = KeptOnCluster(nbytes, runner, kept[key], worker.address)
    label = worker.label
    return Outcome(attempt_id, kind, value, error, "", True, seconds, label, (), children, stored)
