"""The operating system's lock on an open file, which goes when the file is closed by any death."""

from __future__ import annotations

import sys
import time

__all__ = ["is_taken", "take"]

if sys.platform == "win32":
    import msvcrt

    def take(handle: int) -> bool:
        """Take the lock of an open file, without waiting; whether nobody else has it."""
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def is_taken(handle: int) -> bool:
        """Whether somebody has the lock of the file that is open here a second time."""
        if not take(handle):
            return True
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        return False

else:
    import fcntl

    _TRIES = 200
    _PAUSE_SECONDS = 0.0005

    def take(handle: int) -> bool:
        """Take the lock of an open file, without waiting; whether nobody else has it."""
        for _ in range(_TRIES):
            if _flock(handle, fcntl.LOCK_EX):
                return True
            if is_taken(handle):
                return False
            # Nobody has it: somebody just asks `is_taken`, as we do, which takes a moment.
            time.sleep(_PAUSE_SECONDS)
        return False

    def is_taken(handle: int) -> bool:
        """Whether somebody has the lock of the file that is open here a second time."""
        if not _flock(handle, fcntl.LOCK_SH):
            return True
        fcntl.flock(handle, fcntl.LOCK_UN)
        return False

    def _flock(handle: int, kind: int) -> bool:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
