"""Results that stayed on the cluster, and how they stand among the arguments of other calls."""

from __future__ import annotations

import contextlib
import operator
import threading
from typing import TYPE_CHECKING, Any

from penstock.attempt import KeptResult
from penstock.worker.here import given

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KeptOnCluster", "collecting"]

_collecting = threading.local()


class KeptOnCluster(KeptResult):
    """A value in the memory of a Dask worker, held there by a future without a recipe.

    When its worker is gone, the future is cancelled, and nothing runs again by itself.
    """

    def __init__(self, nbytes: int, runner: Any, future: Any, worker: str) -> None:
        super().__init__(nbytes, runner)
        self.future = future
        self.worker = worker
        """Where it was made; there may be copies elsewhere."""
        self._heirs: list[Any] = []
        """What stands for the value now, if this was lost; one at most."""

    @property
    def is_lost(self) -> bool:
        """Whether no worker has it any more."""
        return not self._heirs and self.future.status not in ("finished", "pending")

    def current(self) -> Any:
        """Return what holds the value now: itself, who took its place, or the value itself."""
        here: Any = self
        while type(here) is KeptOnCluster and here._heirs:
            here = here._heirs[0]
        return here

    def fetch(self) -> Any:
        """Bring the value to this process."""
        kept = self.current()
        if type(kept) is not KeptOnCluster:
            return kept
        if kept.future.client.status != "running":
            raise LookupError(
                "the result stayed on the cluster, and the connection to it is closed; read it "
                'inside of the flow, or have it brought home by result_on="driver"'
            )
        try:
            return kept.future.result()
        except Exception as error:
            if not kept.is_lost:  # it cannot be pickled, say
                if isinstance(error, LookupError):  # which would be taken for a loss
                    raise RuntimeError(f"the result could not be brought: {error!r}") from error
                raise
            raise LookupError(f"the result was lost with worker {kept.worker}") from error

    def superseded_by(self, value: Any) -> None:
        """Let references to this lost result find the value, as it was made again."""
        self._heirs.append(value)

    def __reduce__(self) -> Any:
        found: list[KeptOnCluster] | None = getattr(_collecting, "found", None)
        if found is None:
            raise TypeError(
                "a result that stayed on a Dask cluster is an argument for tasks of the same "
                "runner only"
            )
        kept = self.current()
        if type(kept) is not KeptOnCluster:
            return operator.getitem, ([kept], 0)
        if kept not in found:
            found.append(kept)
        return given, (found.index(kept),)


@contextlib.contextmanager
def collecting() -> Iterator[list[KeptOnCluster]]:
    """Note the kept results that are pickled in this thread; each stands as its place there."""
    found: list[KeptOnCluster] = []
    before = getattr(_collecting, "found", None)
    _collecting.found = found
    try:
        yield found
    finally:
        _collecting.found = before
