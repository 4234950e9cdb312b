"""What runs in a Dask worker: batches of calls, one after the other, and what is asked about them.

Sent to the workers as source, with `penstock.worker`, in one package of a name of its own: nothing
of Penstock needs to be installed there. So this imports the standard library, `penstock.worker`
(which becomes that package) and, where a worker is needed, what is there anyway: `distributed`.
"""

from __future__ import annotations

import logging
import marshal
import pickle
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from distributed import get_client, get_worker

from penstock.worker import errors, packing, running
from penstock.worker.here import Here, giving
from penstock.worker.output import forwarding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["refuse", "run_batch"]

T = TypeVar("T")

_log = logging.getLogger("penstock.dask")

MOST_PARCELS: Final = 1024
MOST_CLAIMS: Final = 100_000
MOST_CHANNELS: Final = 64
GIVE_BACK_SECONDS: Final = 0.2
"""After so long in a batch, the rest of it goes back: it was taken for shorter."""
PULSE_SECONDS: Final = 0.02
"""How often a batch of several is looked at, for a call in it that takes long."""
PULSE_REST_SECONDS: Final = 1.0
"""So long after the last such batch, nobody looks any more."""
FLUSH_BUDGET_SECONDS: Final = 1.0
"""How much of an attempt's time may go into seeing that its log records are on their way."""
MOST_TOLD_BYTES: Final = 64 * 1024
"""Answers up to here are told at once, as an event; a larger one is fetched."""

# What an event tells; the second item is the number of a batch or a call.
BATCH_BEGAN: Final = 0
CALL_BEGAN: Final = 1
OUTPUT: Final = 2
ANSWER: Final = 3

"""A smaller answer is told as an event: then it is out of here before anything else begins."""

_lock = threading.Lock()
_parcels: OrderedDict[bytes, Any] = OrderedDict()
"""By digest: as bytes until first needed, then what they hold."""
_claims: OrderedDict[tuple[str, int], str] = OrderedDict()
"""By sender and number of a call, who was first to claim it: to begin it, or to refuse it."""


class Envelope:
    """The answer of a batch with results that stay with the workers; travels as plain bytes.

    Here it holds on to those, until the driver has claimed them.
    """

    def __init__(self, answer: bytes, kept: list[Any]) -> None:
        self.answer = answer
        self.kept = kept

    def __reduce__(self) -> Any:
        return bytes, (self.answer,)

    def __sizeof__(self) -> int:
        return 100 + len(self.answer)


# Dask tells the scheduler of the type of each result, and this one can be imported here only:
# what `__main__` defines is pickled by value.
for _part in (Envelope, Envelope.__init__, Envelope.__reduce__, Envelope.__sizeof__):
    _part.__module__ = "__main__"


def refuse(sender: str, numbers: Sequence[int]) -> list[int]:
    """Let no call of these begin any more; return those that have."""
    return [number for number in numbers if not _claim(sender, number, "driver")]


def _claim(sender: str, number: int, who: str) -> bool:
    with _lock:
        owner = _claims.setdefault((sender, number), who)
        while len(_claims) > MOST_CLAIMS:
            _claims.popitem(last=False)
    return owner == who


def run_batch(payload: bytes, arguments: Sequence[Any]) -> bytes | Envelope:
    """Run a batch.

    Args:
        payload: `marshal` of sender, topic, number of the batch, parcels by digest (None: known
            here), and calls.
        arguments: values of results and of large parcels that calls refer to by their place.

    Returns:
        The answer: the `pickle` of digests of parcels that are not known here (and nothing
        was run), numbers that were not begun, and endings. Empty if it was told as an event.
    """
    sender, topic, number, parcels, large, calls = marshal.loads(payload)  # noqa: S302  (plain values)
    missing = _take_parcels(parcels, large, arguments)
    channel = _channel(topic)
    if missing:
        channel.send(ANSWER, number, pickle.dumps((missing, [], [])))
        return b""
    if len(calls) > 1:
        channel.send(BATCH_BEGAN, number)
    else:
        channel.send(CALL_BEGAN, calls[0][0])
    # Not to have heard of it means that it has not begun; and that this process may die of it now
    # must not cost what has ended here.
    for each in tuple(_channels.values()):
        each.flush()
    return _Batch(sender, channel, number, calls, arguments).run()


def _take_parcels(
    parcels: Mapping[bytes, bytes | None], large: Mapping[bytes, int], arguments: Sequence[Any]
) -> list[bytes]:
    missing: list[bytes] = []
    with _lock:
        for digest, place in large.items():
            _parcels.setdefault(digest, arguments[place])
        for digest, blob in parcels.items():
            if blob is not None:
                _parcels.setdefault(digest, blob)
            elif digest not in _parcels:
                missing.append(digest)
                continue
            _parcels.move_to_end(digest)
        while len(_parcels) > MOST_PARCELS:
            _parcels.popitem(last=False)
    return missing


def _opened(digest: bytes, load: Callable[[Any], Any]) -> Any:
    """Return what a parcel holds; loaded once."""
    found = _parcels[digest]
    if type(found) is bytes:
        found = load(found)
        with _lock:
            _parcels[digest] = found
    return found


class _Channel:
    """Events to the driver, in order. The scheduler says when it has them.

    What is only written to a socket could be lost with this process: the scheduler may hear of
    its death elsewhere before it reads.
    """

    def __init__(self, topic: str) -> None:
        self.worker: Any = None
        self._topic = topic
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, Any] | threading.Event] = []
        self._is_sending = False

    def send(self, kind: int, number: int, what: Any = None) -> None:
        """Send an event, and do not wait."""
        self._put((kind, number, what))

    def flush(self, seconds: float = 5.0) -> None:
        """Wait until the scheduler has all that was sent, whatever becomes of us."""
        if self._is_sending:
            arrived = threading.Event()
            self._put(arrived)
            arrived.wait(seconds)

    def _put(self, item: tuple[int, int, Any] | threading.Event) -> None:
        with self._lock:
            self._waiting.append(item)
            if self._is_sending:
                return
            self._is_sending = True
        self.worker.loop.add_callback(self._send_all)

    async def _send_all(self) -> None:
        while True:
            with self._lock:
                items, self._waiting = self._waiting, []
                if not items:
                    self._is_sending = False
                    return
            events = [item for item in items if type(item) is tuple]
            try:
                if events:
                    await self.worker.scheduler.log_event(topic=self._topic, msg=events)
            except Exception:  # noqa: BLE001  (no such call in another version, or no scheduler)
                self.worker.log_event(self._topic, events)
            finally:
                for item in items:
                    if type(item) is threading.Event:
                        item.set()


_channels: OrderedDict[str, _Channel] = OrderedDict()
"""By topic: one for each run that works here."""


def _channel(topic: str) -> _Channel:
    with _lock:
        channel = _channels.get(topic)
        if channel is None:
            channel = _channels[topic] = _Channel(topic)
        _channels.move_to_end(topic)
        while len(_channels) > MOST_CHANNELS:
            _channels.popitem(last=False)
    channel.worker = get_worker()
    return channel


class _Batch:
    """Calls that came together."""

    def __init__(
        self,
        sender: str,
        channel: _Channel,
        number: int,
        calls: Sequence[tuple[Any, ...]],
        arguments: Sequence[Any],
    ) -> None:
        self._sender = sender
        self._channel = channel
        self._batch_number = number
        self._calls = calls
        self._arguments = arguments
        self._kept: list[Any] = []
        self.current: tuple[int, float] | None = None
        """Number of the call that runs, and since when."""

    def run(self) -> bytes | Envelope:
        """Run the calls, as far as there is time, and nobody refuses them."""
        endings: list[tuple[Any, ...]] = []
        left: list[int] = []
        began = time.monotonic()
        if len(self._calls) > 1:
            pulse.watch(self)
        try:
            for call in self._calls:
                number = call[0]
                if endings and time.monotonic() - began > GIVE_BACK_SECONDS:
                    if _claim(self._sender, number, "driver"):
                        left.append(number)
                elif _claim(self._sender, number, "worker"):
                    endings.append(self._run_call(call))
        finally:
            pulse.leave(self)
            with _lock:
                for call in self._calls:
                    _claims.pop((self._sender, call[0]), None)
        answer = pickle.dumps(([], left, endings), 5)
        if len(answer) <= MOST_TOLD_BYTES:
            self._channel.send(ANSWER, self._batch_number, answer)
            answer = b""
        else:
            self._channel.send(ANSWER, self._batch_number)
        return Envelope(answer, self._kept) if self._kept else answer

    def _run_call(self, call: tuple[Any, ...]) -> tuple[Any, ...]:
        number, function, payload, buffers, constants, surroundings, keep_from, start, count = call
        own_arguments = self._arguments[start : start + count]
        shared: Mapping[str, Any] = {}
        own: tuple[Any, ...] = ()
        variables: bytes | None = None
        writer: bytes | None = None
        if surroundings is not None:
            digest, own, variables, writer = surroundings
            shared = _opened(digest, _load_surroundings)
            forwarding.install(shared["levels"], is_own_process=False)
        here = Here(shared, own, self._sender_of_records(number))

        def load() -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
            packed = payload, buffers
            if type(payload) is int:  # too large for the message, it came beside it
                packed = pickle.loads(own_arguments[payload])
            with giving(own_arguments):
                args, kwargs = running.loading("arguments", packing.load_call, *packed)
            for place, digest in constants:
                value = running.loading("constants", _load_constant, _parcels[digest])
                if isinstance(place, int):
                    args = (*args[:place], value, *args[place + 1 :])
                else:
                    kwargs[place] = value
            return running.loading("function", _opened, function, pickle.loads), args, kwargs

        began = time.monotonic()
        self.current = number, began
        try:
            keep = self._keeping(keep_from)
            ending = _with_help(running.run(here, load, variables, writer, keep))
        finally:
            self.current = None
        packed = [bytes(buffer) for buffer in ending.buffers]
        seconds = time.monotonic() - began
        end = number, ending.how, ending.payload, packed, seconds, ending.children
        return (*end, ending.stored_bytes)

    def _keeping(self, keep_from: int | None) -> Callable[[Any, packing.Packing], Any] | None:
        """Return what leaves a result of at least so many bytes with this worker."""
        if keep_from is None:
            return None

        def keep(value: Any, packed: packing.Packing) -> Any:
            nbytes = packed.nbytes
            if packed.is_inline or nbytes < keep_from:
                return None
            try:
                client: Any = get_client()
                # In a list, as the items of one would be scattered each by itself.
                (future,) = client.scatter([value], direct=True, hash=False)
            except Exception as error:  # noqa: BLE001  (a worker's client may fail to connect)
                _log.debug("The result is sent home, as it cannot be kept here: %r", error)
                return None
            self._kept.append(future)
            return future.key, nbytes

        return keep

    def _sender_of_records(self, number: int) -> Callable[[tuple[Any, ...]], None]:
        spent = 0.0

        def emit(record: tuple[Any, ...]) -> None:
            nonlocal spent
            self._channel.send(OUTPUT, number, pickle.dumps(record))
            if spent < FLUSH_BUDGET_SECONDS:  # it may be the last that is heard of this worker
                began = time.monotonic()
                self._channel.flush()
                spent += time.monotonic() - began

        return emit

    def report_if_slow(self, now: float, reported: int) -> int:
        """Tell that a call has begun which takes long; return the number told of last."""
        current = self.current
        if current is None or current[0] == reported or now - current[1] < PULSE_SECONDS:
            return reported
        self._channel.send(CALL_BEGAN, current[0])
        return current[0]


def _with_help(ending: running.Ending) -> running.Ending:
    """Have a failed import say what to do about a module that is not here."""
    error = ending.error
    if not isinstance(error, ModuleNotFoundError):
        return ending
    error.add_note(
        f"(this Dask worker cannot import {error.name!r}: install it where the workers run. If it "
        "is yours, import it at the top of the module that uses it, or name it in "
        "ship_modules=[...] of the task runner: then what is used of it goes along)"
    )
    return ending._replace(payload=errors.pack_error(error))


def _load_surroundings(blob: bytes) -> Mapping[str, Any]:
    surroundings: dict[str, Any] = marshal.loads(blob)  # noqa: S302  (plain values)
    # What Dask itself says here is its owner's affair: a client sets these levels, too.
    surroundings["levels"] = {
        name: level
        for name, level in surroundings["levels"].items()
        if name.partition(".")[0] != "distributed"
    }
    return surroundings


def _load_constant(parcel: bytes) -> Any:
    payload, buffers = pickle.loads(parcel)
    return packing.load(payload, buffers)


class _Pulse:
    """A thread that looks at batches of several calls, as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: dict[_Batch, int] = {}
        self._work = threading.Event()
        self._is_running = False

    def watch(self, batch: _Batch) -> None:
        """Begin to look at a batch."""
        with self._lock:
            self._batches[batch] = 0
            self._work.set()
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="penstock-pulse", daemon=True).start()

    def leave(self, batch: _Batch) -> None:
        """It is over."""
        with self._lock:
            self._batches.pop(batch, None)
            if not self._batches:
                self._work.clear()

    def _run(self) -> None:
        while True:
            self._work.wait(PULSE_REST_SECONDS)
            with self._lock:
                if not self._batches:
                    self._is_running = False
                    return
            time.sleep(PULSE_SECONDS)
            now = time.monotonic()
            for batch, reported in tuple(self._batches.items()):
                told = batch.report_if_slow(now, reported)
                with self._lock:
                    if batch in self._batches:
                        self._batches[batch] = told


pulse: Final = _Pulse()
