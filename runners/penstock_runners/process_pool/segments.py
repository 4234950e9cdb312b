"""Memory that holds one value for all workers of this machine, mapped and not copied.

The driver writes a constant of many calls into an anonymous file, once; a worker that needs it
maps the file by way of the driver's `/proc`. So there is no name that could be left behind. Arrays
in it are read-only, and as each call unpickles the rest anew, no call sees another's changes.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from typing import TYPE_CHECKING, Any, Final

from penstock.worker import packing

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.worker.packing import Packing

__all__ = ["Segment", "blob_of", "is_available", "opened"]

_ALIGNMENT: Final = 64
_COUNT: Final = struct.Struct("<Q")


def is_available() -> bool:
    """Whether this system has anonymous files that another process can open."""
    return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def blob_of(packed: Packing) -> bytes:
    """Return a packed value for a worker to keep, where there is no memory to be shared."""
    return pickle.dumps((packed.payload, [bytes(buffer) for buffer in packed.buffers]), 5)


def opened(blob: bytes | bytearray) -> Callable[[], Any]:
    """Return what gives the value of a constant, from a path or from what `blob_of` made."""
    if blob[:1] == b"/":
        return MappedSegment(blob.decode()).load
    kept = bytes(blob)
    return lambda: packing.load(*pickle.loads(kept))


class Segment:
    """The driver's end: owns the file."""

    def __init__(self, packed: Packing) -> None:
        payload, buffers = packed.payload, packed.buffers
        parts = [memoryview(part).cast("B") for part in ([payload] if payload else []) + buffers]
        self._descriptor = os.memfd_create("penstock-constant")
        try:
            head = _COUNT.pack(len(parts)) + b"".join(_COUNT.pack(part.nbytes) for part in parts)
            position = self._write(memoryview(head), 0)
            for part in parts:
                position = self._write(part, -position % _ALIGNMENT + position)
        except BaseException:
            self.close()
            raise
        self.nbytes = position
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _write(self, part: memoryview, position: int) -> int:
        while part.nbytes:
            count = os.pwrite(self._descriptor, part[: 1 << 30], position)
            part, position = part[count:], position + count
        return position

    def close(self) -> None:
        """Give the memory back, when the last worker has let go of it, too."""
        os.close(self._descriptor)


class MappedSegment:
    """A worker's end: unmapped when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)
        (count,) = _COUNT.unpack_from(whole)
        position = _COUNT.size * (1 + count)
        self._parts: list[memoryview] = []
        for index in range(count):
            (size,) = _COUNT.unpack_from(whole, _COUNT.size * (1 + index))
            position += -position % _ALIGNMENT
            self._parts.append(whole[position : position + size])
            position += size

    def load(self) -> Any:
        """Return the value, made anew but for its large buffers, which are read-only."""
        return pickle.loads(self._parts[0], buffers=self._parts[1:])
