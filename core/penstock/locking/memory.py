"""Locks among the threads of this process."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from penstock.locking.base import LockManager

__all__ = ["MemoryLockManager"]


class _Held(NamedTuple):
    holder: str
    until: float | None
    """By the monotonic clock; None is until it is released."""


class MemoryLockManager(LockManager):
    """Locks that other threads of this process see, and no other process."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._changed = threading.Condition()

    def try_lock(self, key: str, holder: str, hold_timeout: float | None = None) -> bool:
        """Take the lock if it is free or the holder's own, without waiting; whether it is."""
        until = None if hold_timeout is None else time.monotonic() + hold_timeout
        with self._changed:
            held = self._now_held(key)
            if held is not None and held.holder != holder:
                return False
            self._held[key] = _Held(holder, until)
            return True

    def release_lock(self, key: str, holder: str) -> None:
        """Give a lock back.

        Raises:
            ValueError: the holder does not hold it.
        """
        with self._changed:
            held = self._now_held(key)
            if held is None or held.holder != holder:
                raise ValueError(f"{holder!r} does not hold the lock {key!r}")
            del self._held[key]
            self._changed.notify_all()

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the lock."""
        with self._changed:
            return self._now_held(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this holder holds the lock."""
        with self._changed:
            held = self._now_held(key)
            return held is not None and held.holder == holder

    def _now_held(self, key: str) -> _Held | None:
        held = self._held.get(key)
        if held is not None and held.until is not None and time.monotonic() >= held.until:
            del self._held[key]
            return None
        return held

    def _pause(self, seconds: float) -> None:
        # A release between the question and this wait goes unnoticed, for these few milliseconds.
        with self._changed:
            self._changed.wait(seconds)
