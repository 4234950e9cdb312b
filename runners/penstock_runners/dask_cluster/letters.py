"""What is sent to a worker: calls, and the parcels they need, unless it has them."""

from __future__ import annotations

import hashlib
import marshal
import pickle
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock.shipping import FunctionStore, pack_call, pack_value
from penstock.worker.culprit import argument_name
from penstock.worker.packing import is_small_scalar
from penstock_runners.batching import Pace
from penstock_runners.dask_cluster.kept import KeptOnCluster, collecting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.attempt import Attempt
    from penstock.by_value import ByValue
    from penstock_runners.dask_cluster.roster import DaskWorker

__all__ = ["BATCH_SECONDS", "Call", "LostInputs", "PostOffice", "TooLargeForWorkers"]

BATCH_SECONDS: Final = 0.05
"""A Dask task costs about a millisecond of the cluster: so much work makes that cheap."""
LARGE_BYTES: Final = 1 << 20
"""From here on, a value is put on the cluster by itself, once, and not into a message."""
KEEP_FROM_BYTES: Final = {"auto": 1 << 20, "cluster": 1, "driver": None}
"""How large a result has to be to stay with its worker."""


class LostInputs(Exception):
    """Arguments that stayed on the cluster were lost there."""

    def __init__(self, kept: list[KeptOnCluster]) -> None:
        super().__init__()
        self.kept = kept


class TooLargeForWorkers(MemoryError):
    """The arguments of a call need more memory than any worker may use."""


class Call(NamedTuple):
    """A call, ready to be sent."""

    plain: tuple[Any, ...]
    """As the far side takes it, but for the places of `inputs` in its message."""
    parcels: tuple[bytes, ...]
    """Digests of what it needs."""
    inputs: tuple[Any, ...]
    """Dask futures of arguments; its pickle refers to them by their place."""
    nbytes: int


class PostOffice:
    """Packs calls for one run.

    Args:
        put: puts bytes on the cluster, and returns their future; None if there is no worker.
        ship_modules: names of modules that go by value.
        is_elsewhere: whether workers may be on machines that have not the files of a project.
    """

    def __init__(
        self,
        put: Callable[[bytes], Any],
        ship_modules: Sequence[str] = (),
        *,
        is_elsewhere: bool = False,
    ) -> None:
        self._put = put
        self._functions = FunctionStore(ship_modules, only_installed=is_elsewhere)
        self._paces: dict[int, tuple[bytes, Pace]] = {}
        self._surroundings: dict[int, tuple[bytes, bytes]] = {}
        """By id: what is shared, which keeps the id its own, and the digest."""
        self.blobs: dict[bytes, bytes] = {}
        """The parcels, by digest."""
        self._on_cluster: dict[bytes, Any] = {}
        """Large parcels."""
        self._constants: dict[int, dict[int | str, bytes | None]] = {}
        self._siblings: dict[int, weakref.ref[Any]] = {}

    @property
    def by_value(self) -> ByValue:
        """The modules whose functions and classes go by value."""
        return self._functions.by_value

    def function(self, fn: Callable[..., Any]) -> tuple[bytes, Pace]:
        """Return a function's digest and pace. Raises `TypeError` if it cannot be pickled."""
        function = self._functions.find(fn)
        known = self._paces.get(function.number)
        if known is None:
            known = self._keep(function.blob), Pace(BATCH_SECONDS)
            self._paces[function.number] = known
        return known

    def _keep(self, blob: bytes) -> bytes:
        digest = hashlib.blake2b(blob, digest_size=12).digest()
        self.blobs[digest] = blob
        return digest

    def call(self, number: int, attempt: Attempt, function: bytes, most_bytes: int) -> Call:
        """Pack a call.

        Raises:
            TypeError: an argument cannot be pickled; the message names it.
            LostInputs: an argument was a result that is not there any more.
            TooLargeForWorkers: the arguments are larger than what any worker may hold.
        """
        parcels = [function]
        constants: list[tuple[int | str, bytes]] = []
        args, kwargs = list(attempt.args), dict(attempt.kwargs)
        if attempt.siblings is not None:
            for place in attempt.siblings.constants:
                digest = self._constant(attempt, place)
                if digest is not None:
                    constants.append((place, digest))
                    parcels.append(digest)
                    if isinstance(place, int):
                        args[place] = None
                    else:
                        kwargs[place] = None
        with collecting() as kept:
            packing = pack_call(attempt.fn, tuple(args), kwargs, self.by_value)
        lost = [one for one in kept if one.is_lost]
        if lost:
            raise LostInputs(lost)
        if most_bytes and packing.nbytes > most_bytes:
            raise TooLargeForWorkers(
                f"the arguments are {packing.nbytes / 1e9:.1f} GB when packed, and no worker may "
                f"use more than {most_bytes / 1e9:.1f} GB: split them, pass where the data can be "
                "read from, or give the workers more memory (memory_limit)"
            )
        payload, buffers = packing.payload, [bytes(buffer) for buffer in packing.buffers]
        inputs: list[Any] = [one.future for one in kept]
        nbytes = packing.nbytes
        if nbytes >= LARGE_BYTES:
            future = self._put(pickle.dumps((payload, buffers), 5))
            if future is not None:
                inputs.append(future)
                payload, buffers, nbytes = len(inputs) - 1, [], 0
        surroundings = None
        if attempt.environment is not None:
            digest = self._surrounding(attempt.environment.shared)
            parcels.append(digest)
            _, own, variables, writer = attempt.environment
            surroundings = digest, own, variables, writer
        plain = (
            number,
            function,
            payload,
            buffers,
            tuple(constants),
            surroundings,
            KEEP_FROM_BYTES[attempt.result_on],
        )
        return Call(plain, tuple(parcels), tuple(inputs), nbytes)

    def _surrounding(self, shared: bytes) -> bytes:
        known = self._surroundings.get(id(shared))
        if known is None:
            known = self._surroundings[id(shared)] = shared, self._keep(shared)
        return known[1]

    def _constant(self, attempt: Attempt, place: int | str) -> bytes | None:
        """Return the digest of an argument that many attempts have, if it is worth one."""
        value = attempt.args[place] if isinstance(place, int) else attempt.kwargs[place]
        if is_small_scalar(value) or isinstance(value, KeptOnCluster):
            return None
        siblings = attempt.siblings
        assert siblings is not None
        known = self._constants.get(id(siblings))
        if known is None:
            known = self._constants[id(siblings)] = {}
            self._siblings[id(siblings)] = weakref.ref(siblings)
        if place not in known:
            what = f"argument {argument_name(attempt.fn, place)!r}"
            packing = pack_value(what, value, self.by_value)
            parcel = packing.payload, [bytes(buffer) for buffer in packing.buffers]
            known[place] = self._keep(pickle.dumps(parcel, 5))
        return known[place]

    def sweep(self) -> None:
        """Let go of constants that no attempt has any more."""
        for key, reference in tuple(self._siblings.items()):
            if reference() is None:
                del self._siblings[key]
                for digest in self._constants.pop(key).values():
                    if digest is not None:
                        self.blobs.pop(digest, None)
                        self._on_cluster.pop(digest, None)

    def letter(
        self, sender: str, topic: str, number: int, calls: Sequence[Call], worker: DaskWorker
    ) -> tuple[bytes, list[Any]]:
        """Return the message of a batch, and the futures that go beside it."""
        beside: list[Any] = []
        parcels: dict[bytes, bytes | None] = {}
        large: dict[bytes, int] = {}
        for digest in dict.fromkeys(digest for call in calls for digest in call.parcels):
            if digest in worker.parcels:
                parcels[digest] = None
                continue
            future = self._large_parcel(digest)
            if future is None:
                parcels[digest] = self.blobs[digest]
            else:
                large[digest] = len(beside)
                beside.append(future)
        plain = [_at(call, beside) for call in calls]
        return marshal.dumps((sender, topic, number, parcels, large, tuple(plain))), beside

    def _large_parcel(self, digest: bytes) -> Any:
        blob = self.blobs[digest]
        if len(blob) < LARGE_BYTES:
            return None
        future = self._on_cluster.get(digest)
        if future is None or future.status not in ("finished", "pending"):
            future = self._put(blob)
            if future is None:
                return None
            self._on_cluster[digest] = future
        return future

    def close(self) -> None:
        """Let go of what is on the cluster."""
        self._on_cluster.clear()


def _at(call: Call, beside: list[Any]) -> tuple[Any, ...]:
    """Return a call with the place in the message where its inputs begin."""
    start = len(beside)
    beside.extend(call.inputs)
    return (*call.plain, start, len(call.inputs))
