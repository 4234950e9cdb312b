"""Locks among all processes that see a folder.

The lock is the operating system's, on an open file, and not the file: a file outlives the process
that made it, and then nobody knows whether its lock is still meant. When a process dies, of
whatever cause, its files are closed, and its locks are free.

A file is deleted when its lock is released, so that they do not pile up. Who opened it before that
and locks it after has the lock of a file that nobody else will find; so it is looked whether the
file is still the one in the folder, and if it is not, begun anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from penstock.locking import _advisory
from penstock.locking.base import LockManager

__all__ = ["FileLockManager", "FileSystemLockManager"]


class _Held:
    """A lock that is held here."""

    __slots__ = ("handle", "holder", "timer")

    def __init__(self, holder: str, handle: int) -> None:
        self.holder = holder
        self.handle = handle
        self.timer: threading.Timer | None = None


class FileLockManager(LockManager):
    """Locks that every process sees which uses the same folder, and that die with their holder.

    The folder has to be on a file system whose locks work; over a network not all do. A lock with
    a `hold_timeout` is given back by its process, which a process that is stopped does not do.

    Args:
        lock_files_directory: the folder; ``~`` is the user's home. It is made when it is needed.
        shared: make folder and files for all whom the user's umask lets in, not for this user only.
    """

    def __init__(
        self, lock_files_directory: str | os.PathLike[str], *, shared: bool = False
    ) -> None:
        self.lock_files_directory: Path = Path(lock_files_directory).expanduser().resolve()
        self.shared = shared
        self._set_up()

    def _set_up(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[str, _Held] = {}
        _managers[id(self)] = self

    def try_lock(self, key: str, holder: str, hold_timeout: float | None = None) -> bool:
        """Take the lock if it is free or the holder's own, without waiting; whether it is."""
        with self._guard:
            held = self._held.get(key)
            if held is None:
                handle = self._open_locked(self._path(key))
                if handle is None:
                    return False
                held = self._held[key] = _Held(holder, handle)
            elif held.holder != holder:
                return False
            self._set_timer(key, held, hold_timeout)
            return True

    def release_lock(self, key: str, holder: str) -> None:
        """Give a lock back.

        Raises:
            ValueError: the holder does not hold it.
        """
        with self._guard:
            held = self._held.get(key)
            if held is None or held.holder != holder:
                raise ValueError(f"{holder!r} does not hold the lock {key!r}")
            self._give_back(key)

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the lock, in any process."""
        with self._guard:
            if key in self._held:
                return True
        path = self._path(key)
        while True:
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                if _advisory.is_taken(handle):
                    return True
                if _is_at(handle, path):
                    return False
            finally:
                os.close(handle)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this holder holds the lock, by this manager."""
        with self._guard:
            held = self._held.get(key)
            return held is not None and held.holder == holder

    # --- with the guard held -----------------------------------------------------------

    def _open_locked(self, path: str) -> int | None:
        """Return the file, open and locked; None if somebody else has the lock."""
        while True:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666 if self.shared else 0o600)
            except FileNotFoundError:
                self._make_folder()
                continue
            locked = False
            try:
                if not _advisory.take(handle):
                    return None
                locked = _is_at(handle, path)
            finally:
                if not locked:
                    os.close(handle)
            if locked:
                return handle

    def _make_folder(self) -> None:
        self.lock_files_directory.parent.mkdir(parents=True, exist_ok=True)
        self.lock_files_directory.mkdir(mode=0o777 if self.shared else 0o700, exist_ok=True)

    def _give_back(self, key: str) -> None:
        held = self._held.pop(key)
        self._set_timer(key, held, None)
        with contextlib.suppress(OSError):  # some systems do not delete what is open
            os.unlink(self._path(key))
        os.close(held.handle)

    def _set_timer(self, key: str, held: _Held, hold_timeout: float | None) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        if hold_timeout is not None:
            held.timer = threading.Timer(hold_timeout, self._expire, (key, held))
            held.timer.daemon = True
            held.timer.start()

    # -----------------------------------------------------------------------------------

    def _expire(self, key: str, held: _Held) -> None:
        with self._guard:
            # Another lock of the key, or the same with a new time, is not this timer's business.
            if self._held.get(key) is held and held.timer is threading.current_thread():
                self._give_back(key)

    def _path(self, key: str) -> str:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16)
        return os.path.join(self.lock_files_directory, digest.hexdigest() + ".lock")

    def _forget_after_fork(self) -> None:
        # A lock goes when all have closed its file. A child must not keep its parent's alive.
        held = self._held
        self._set_up()
        for each in held.values():
            os.close(each.handle)

    def __getstate__(self) -> dict[str, Any]:
        return {"lock_files_directory": self.lock_files_directory, "shared": self.shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._set_up()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FileLockManager)
            and self.lock_files_directory == other.lock_files_directory
        )

    def __hash__(self) -> int:
        return hash(self.lock_files_directory)

    def __repr__(self) -> str:
        return f"FileLockManager({str(self.lock_files_directory)!r})"


FileSystemLockManager = FileLockManager
"""As Prefect calls it."""


def _is_at(handle: int, path: str) -> bool:
    """Whether the open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


# By id, since those of one folder are equal.
_managers: weakref.WeakValueDictionary[int, FileLockManager] = weakref.WeakValueDictionary()


def _forget_all_after_fork() -> None:
    for manager in list(_managers.values()):
        manager._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_after_fork)
