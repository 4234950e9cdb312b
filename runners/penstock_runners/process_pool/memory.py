"""The memory of workers: how much each one uses, and which of them use too much.

A look comes 50 ms after there is something to see, a worker that works or has worked since, and
again while that is so: every 50 ms if there is a limit to keep, at a cost of 0.4 % of a CPU, and
else every 250 ms, to be able to say what a worker used that was killed. So the figure of an idle
worker is right, and that of a busy one is at most this old.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from penstock.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock_runners.process_pool.workers import Worker

__all__ = ["LOOK_SECONDS", "MemoryWatch", "resident_bytes"]

LOOK_SECONDS: Final = 0.05
LAZY_SECONDS: Final = 0.25
_PAGE_BYTES: Final[int] = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(process_id: int) -> int | None:
    """Return what a process has in memory; None if it has ended, or the system does not tell."""
    try:
        descriptor = os.open(f"/proc/{process_id}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        words = os.read(descriptor, 128).split()
    except OSError:  # it ended just now
        return None
    finally:
        os.close(descriptor)
    # 0: it has ended, and nobody has asked for its exit code so far.
    return int(words[1]) * _PAGE_BYTES or None


class MemoryWatch:
    """Looks at the workers of a pool, when it is time."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes
        self.due_at: float | None = None
        """When the next look is due; None: there is nothing to see."""

    def look(self, workers: Sequence[Worker], now: float) -> list[Worker]:
        """Look, if it is time for that, and return the workers above the limit."""
        if not any(worker.sent or worker.has_worked for worker in workers):
            self.due_at = None
        elif self.due_at is None:
            self.due_at = now + LOOK_SECONDS
        elif self.due_at <= now:
            self.due_at = now + (LAZY_SECONDS if self._limit_bytes is None else LOOK_SECONDS)
            seen = [worker for worker in workers if worker.sent or worker.has_worked]
            return [worker for worker in seen if self.is_above(worker)]
        return []

    def is_above(self, worker: Worker) -> bool:
        """Look at one worker; True if it uses more than it may."""
        worker.has_worked = False
        used = resident_bytes(worker.process_id)
        if used is None:
            return False
        worker.memory_bytes = used
        return self._limit_bytes is not None and used > self._limit_bytes

    def explain(self, worker: Worker) -> str:
        """Return why a worker above the limit has to go."""
        assert self._limit_bytes is not None
        assert worker.memory_bytes is not None
        limit = format_size(self._limit_bytes)
        used = format_size(worker.memory_bytes)
        return f"{worker.name} used {used}, more than worker_memory_limit={limit}"
