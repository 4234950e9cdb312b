"""Results that are in a store: written where they were made, and read where they are needed.

What crosses is where a result is to be, and never the result: the driver sends a `ResultWriter`
along with an attempt, and a `StoredResult` among the arguments of the next.
"""

from __future__ import annotations

import datetime
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.attempt import KeptResult, Packed
from penstock.serializers import PickleSerializer
from penstock.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.results import ResultStore
    from penstock.worker.packing import Packing

__all__ = ["ResultWriter", "StoredResult", "StoredResultLost"]

# The expiry is for those who look for a result, not for the run that has it.
_BEFORE_ANY_EXPIRY = datetime.datetime.min.replace(tzinfo=datetime.UTC)


class StoredResultLost(LookupError):
    """A result cannot be read from its store."""


class ResultWriter(NamedTuple):
    """Writes the result of one run; goes pickled to the worker that makes it."""

    store: ResultStore
    key: str
    expiration: datetime.timedelta | None
    written_with: Mapping[str, Any]
    """What the record is to say besides: see `ResultStore.write`."""

    def __call__(self, value: Any, packing: Packing) -> int | None:
        """Write a result and return its size in the store, in bytes.

        None if it has to go home first: a `State` is for the driver to judge.

        Raises:
            Exception: whatever is wrong with the value or the store.
        """
        if isinstance(value, State):
            return None
        now = datetime.datetime.now(datetime.UTC)
        if type(self.store.serializer) is PickleSerializer:  # pickled it is already
            buffers = packing.buffers
            if packing.payload is not None:
                buffers = [packing.payload, *buffers]
            value = Packed(buffers[0], tuple(buffers[1:]))
        metadata = self.store.write(
            self.key,
            value,
            expires_at=None if self.expiration is None else now + self.expiration,
            now=now,
            **self.written_with,
        )
        return metadata.size_bytes


class StoredResult(KeptResult):
    """A result that is read from its store by who asks for it.

    As an argument for a worker elsewhere that reaches the store, it is read there.

    Args:
        store: where it is.
        key: under which key.
        nbytes: about how large it is.
        is_read_anew: it is not to be kept in memory, and is read whenever it is asked for.
    """

    is_stored = True
    how_lost = "its result is not in its store any more"

    def __init__(
        self, store: ResultStore, key: str, nbytes: int, *, is_read_anew: bool = True
    ) -> None:
        super().__init__(nbytes, store)
        self.key = key
        self.is_read_anew = is_read_anew
        self._made_again: list[Any] = []

    def fetch(self) -> Any:
        """Read the value."""
        if self._made_again:
            return self._made_again[0]
        return _read(self.runner, self.key)

    def is_there(self) -> bool:
        """Whether the value can be had; the record is looked at, and not read."""
        return bool(self._made_again) or self.runner.read_metadata(self.key) is not None

    def bring_home(self) -> None:
        """Have the value in memory from now on.

        Raises:
            LookupError: it cannot be read.
        """
        self._made_again = [self.fetch()]

    def superseded_by(self, value: Any) -> None:
        """Stand for the same value made again. One that is read anew is where it was."""
        if not self.is_read_anew:
            self._made_again = [value]

    def __reduce__(self) -> Any:
        if self._made_again:
            return operator.getitem, (self._made_again, 0)
        return _read, (self.runner, self.key)


def _read(store: ResultStore, key: str) -> Any:
    record = store.read(key, now=_BEFORE_ANY_EXPIRY)
    if record is None:
        raise StoredResultLost(
            f"the result with the key {key!r} is not in its store any more, and was kept nowhere "
            "else"
        )
    return record.value
