"""Shared memory in which each worker says what it is at, to be read also after its death.

A slot holds the number of the running call, since when it is loaded and since when it runs, a flag
by which the driver holds the worker before its next call, and the *journal*: the outcomes that are
made but not yet written to the pipe. Thus a death in a batch costs the one call that ran: those
before it are in the journal, those after it have not begun.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any, Final

from penstock_runners.process_pool.frames import (
    Part,
    answers_start,
    parse_answers,
    write_all,
)

__all__ = ["Slot", "SlotTable"]

SLOT_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 64
_NUMBER, _BEGAN, _CALLED, _HOLD, _COUNT, _LENGTH = range(6)

IDLE: Final = 0
"""The number of no call."""


class SlotTable:
    """The memory of all workers of a pool, owned by the driver."""

    def __init__(self, workers: int) -> None:
        self.descriptor = _anonymous_file()
        os.truncate(self.descriptor, workers * SLOT_BYTES)
        self._slots = [Slot(self.descriptor, index) for index in range(workers)]

    def slot(self, index: int) -> Slot:
        """Return a worker's slot."""
        return self._slots[index]

    def close(self) -> None:
        """Give the memory back."""
        for slot in self._slots:
            slot.close()
        os.close(self.descriptor)


class Slot:
    """One worker's part of the table, mapped: by the worker to write, by the driver to read.

    Words are read and written whole, and the number is written after the begin: who reads a number
    reads the begin that belongs to it, or an older one.
    """

    def __init__(self, descriptor: int, index: int) -> None:
        self._map = mmap.mmap(descriptor, SLOT_BYTES, offset=index * SLOT_BYTES)
        self._whole = memoryview(self._map)
        head = self._whole[:_HEAD_BYTES]
        self._words = head.cast("q")
        self._times = head.cast("d")
        head.release()
        self._journal = self._whole[_HEAD_BYTES:]

    def close(self) -> None:
        """Unmap."""
        for view in (self._words, self._times, self._journal, self._whole):
            view.release()
        self._map.close()

    def clear(self) -> None:
        """Make it ready for a new worker."""
        for word in range(_LENGTH + 1):
            self._words[word] = 0

    def begin(self, number: int, now: float) -> None:
        """Say that a call begins: first, its function and arguments are loaded."""
        self._words[_CALLED] = 0
        self._times[_BEGAN] = now
        self._words[_NUMBER] = number

    def call(self, now: float) -> None:
        """Say that the function itself is called."""
        self._times[_CALLED] = now

    def end(self) -> None:
        """Say that no call runs."""
        self._words[_NUMBER] = IDLE

    @property
    def number(self) -> int:
        """The call that runs."""
        return self._words[_NUMBER]

    @property
    def began(self) -> float:
        """Since when, by the monotonic clock."""
        return self._times[_BEGAN]

    @property
    def called(self) -> float:
        """When the function itself was called, by the monotonic clock; 0.0 before that."""
        return self._times[_CALLED]

    @property
    def is_held(self) -> bool:
        """Whether the worker has to wait before its next call."""
        return self._words[_HOLD] != 0

    def hold(self, now: bool) -> None:
        """Make the worker wait before its next call, or let it go on."""
        self._words[_HOLD] = now

    def note(self, part: Part) -> bool:
        """Add an answer to the journal; False if it does not fit."""
        start = self._words[_LENGTH]
        end = start + len(part)
        if end > len(self._journal):
            return False
        self._journal[start:end] = part
        self._words[_COUNT] += 1
        self._words[_LENGTH] = end  # last: what is not whole does not count
        return True

    def write_journal(self, descriptor: int) -> None:
        """Move the journal to the pipe. A death in the middle leaves it in both."""
        length = self._words[_LENGTH]
        if length:
            with self._journal[:length] as written:
                write_all(descriptor, (answers_start(self._words[_COUNT], length), written))
            self._words[_COUNT] = self._words[_LENGTH] = 0

    def journal(self) -> list[tuple[Any, ...]]:
        """Return the answers that a dead worker left."""
        length = self._words[_LENGTH]
        if not 0 < length <= len(self._journal):
            return []
        return parse_answers(bytes(self._journal[:length]))


def _anonymous_file() -> int:
    """Return a descriptor of memory that has no name, so that nothing can be left behind."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
