"""What stands on a pipe between driver and worker: frames, and how both sides read and write them.

A frame is a head (`marshal` of plain values: loading it never runs user code) and any number of
large buffers, which are written to the pipe as they are and read straight into their own memory.

A head is a tuple, the first item of which says what it is. Only for answers without buffers, of
which there are by far the most, it is a list of these, written one by one and read all at once.

A *call* is a tuple: its number, function, payload, count of buffers, constants, surroundings. A
*row* of them is a list: the number of the first, function, payloads, counts of buffers or None,
constants, the parcel of their surroundings or None, origin, offset; for the last two see
`penstock.attempt.Series`. An *answer* is a tuple: number, ending, payload, when the function was
called, seconds, children, bytes stored.
"""

from __future__ import annotations

import io
import marshal
import os
import struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Frame",
    "FrameReader",
    "Part",
    "answer_part",
    "answers_start",
    "frame",
    "parse_answers",
    "write_all",
]

Part: TypeAlias = "bytes | bytearray | memoryview"
Frame: TypeAlias = "tuple[Any, list[bytearray]]"

# The first item of a head.
CONFIGURE: Final = 0
"""To the worker, first of all: initializer, its arguments."""
CALLS: Final = 1
"""To the worker: numbers of parcels to forget, numbers of new parcels, calls and rows of calls."""
RECALL: Final = 2
"""To the worker, on its control pipe: numbers of calls to give back unless begun. What has ended
is reported with the answer."""
STOP: Final = 3
"""To the worker: leave, when what was sent before is done."""
READY: Final = 4
"""To the driver: the initializer has run."""
INITIALIZER_FAILED: Final = 5
"""To the driver, before leaving: the traceback."""
DONE: Final = 6
"""To the driver: an answer, and the buffers of its payload."""
GIVEN_BACK: Final = 7
"""To the driver: numbers that were asked for, numbers that will not be begun."""

OUTPUT: Final = 8
"""To the driver: number of the call, a log record."""

_SIZES: Final = struct.Struct("<II")
_LIST: Final = struct.Struct("<cI")
"""How `marshal` begins a list: its items follow."""
_CHUNK_BYTES: Final = 256 * 1024
_MOST_PARTS: Final = 64
"""For one system call; the limit of the kernel is 1024."""


def frame(head: tuple[Any, ...], buffers: Sequence[Part] = ()) -> list[Part]:
    """Return the parts to write, in order."""
    packed = marshal.dumps(head)
    start = _SIZES.pack(len(packed), len(buffers))
    if not buffers:
        return [start + packed]
    lengths = struct.pack(f"<{len(buffers)}Q", *(memoryview(buffer).nbytes for buffer in buffers))
    return [start + lengths + packed, *buffers]


def load_head(packed: Part) -> Any:
    """Load plain values that the other side of a pipe has packed."""
    return marshal.loads(packed)  # noqa: S302  (from our own worker; it runs no code)


def answer_part(answer: tuple[Any, ...]) -> bytes:
    """Return an answer as it stands in a list of them, with others before and behind it."""
    return marshal.dumps(answer, 2)  # from version 3 on, it refers to what else is in the list


def answers_start(count: int, size: int) -> bytes:
    """Return what goes before so many answers, so many bytes, to make a frame of them."""
    return _SIZES.pack(_LIST.size + size, 0) + _LIST.pack(b"[", count)


def parse_answers(data: bytes) -> list[tuple[Any, ...]]:
    """Return the answers that stand in some memory, one behind the other."""
    file = io.BytesIO(data)
    answers: list[tuple[Any, ...]] = []
    while file.tell() < len(data):
        answers.append(marshal.load(file))  # noqa: S302  (as above)
    return answers


class FrameReader:
    """Reads frames from a descriptor, blocking or not; keeps what is not yet whole."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Read into, again and again: to get so much memory and give it back takes 20 us.
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        self._rest = b""
        self._head: Any = ()
        self._buffers: list[bytearray] = []
        self._missing: list[memoryview] = []
        """The parts of the buffers of the frame at hand that have not come yet."""

    def read(self) -> Iterable[Frame]:
        """Read once and return what is whole. Raises `EOFError` at the end of the pipe."""
        if self._missing:
            return self._read_into_buffers()
        count = os.readv(self._descriptor, (self._chunk,))
        if not count:
            raise EOFError
        return self._parse(self._rest + bytes(self._chunk[:count]))

    def _parse(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        position = 0
        size = len(data)
        while size - position >= _SIZES.size:
            length, count = _SIZES.unpack_from(data, position)
            lengths_end = position + _SIZES.size + 8 * count
            end = lengths_end + length
            if end > size:
                break
            head = load_head(data[lengths_end:end])
            if not count:
                frames.append((head, []))
                position = end
                continue
            lengths = struct.unpack_from(f"<{count}Q", data, position + _SIZES.size)
            position = self._begin_buffers(head, lengths, data, end)
            if self._missing:
                break
            frames.append((self._head, self._buffers))
        self._rest = data[position:]
        return frames

    def _begin_buffers(
        self, head: tuple[Any, ...], lengths: Sequence[int], data: bytes, position: int
    ) -> int:
        self._head = head
        self._buffers = [bytearray(length) for length in lengths]
        for buffer in self._buffers:
            here = data[position : position + len(buffer)]
            buffer[: len(here)] = here
            position += len(here)
            if len(here) < len(buffer):
                self._missing.append(memoryview(buffer)[len(here) :])
        return position

    def _read_into_buffers(self) -> list[Frame]:
        count = os.readv(self._descriptor, self._missing[:_MOST_PARTS])
        if not count:
            raise EOFError
        advance(self._missing, count)
        if self._missing:
            return []
        return [(self._head, self._buffers)]


def advance(views: list[memoryview], count: int) -> None:
    """Take so many bytes off the front of a list of views."""
    whole = 0
    for view in views:
        if view.nbytes > count:
            break
        count -= view.nbytes
        whole += 1
    del views[:whole]
    if count:
        views[0] = views[0][count:]


def as_views(parts: Iterable[Part]) -> list[memoryview]:
    """Return the parts as bytes that can be sliced without a copy."""
    views = [memoryview(part) for part in parts]
    return [view.cast("B") if view.nbytes else view for view in views if view.nbytes]


def write_all(descriptor: int, parts: Iterable[Part]) -> None:
    """Write all of it to a blocking descriptor."""
    views = as_views(parts)
    while views:
        advance(views, os.writev(descriptor, views[:_MOST_PARTS]))
