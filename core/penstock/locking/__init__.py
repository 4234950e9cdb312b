"""Locks by key: who makes a value alone, and who waits for it.

`MemoryLockManager` serves one process, `FileLockManager` all processes that see a folder. One of
your own is a subclass of `LockManager`.
"""

from __future__ import annotations

from penstock.locking.base import LockManager
from penstock.locking.filesystem import FileLockManager, FileSystemLockManager
from penstock.locking.memory import MemoryLockManager

__all__ = ["FileLockManager", "FileSystemLockManager", "LockManager", "MemoryLockManager"]
