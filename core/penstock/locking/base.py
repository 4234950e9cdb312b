"""The interface of a lock manager: `LockManager`, whose docstring is the contract."""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
else:
    import penstock._asyncio as asyncio

__all__ = ["LockManager"]

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02


class LockManager(abc.ABC):
    """Locks, each with a key that any text can be, and a holder that is named by any text.

    A lock has one holder at most. To take it again does no harm, and one release gives it back.
    When the process of a holder dies, so do its locks. All methods may be called from several
    threads at once. Four are to supply; those that wait ask again and again.
    """

    @abc.abstractmethod
    def try_lock(self, key: str, holder: str, hold_timeout: float | None = None) -> bool:
        """Take the lock if it is free or the holder's own, without waiting; whether it is.

        Args:
            key: names the lock.
            holder: who takes it.
            hold_timeout: after so many seconds it is free again; None is when it is released.
        """

    @abc.abstractmethod
    def release_lock(self, key: str, holder: str) -> None:
        """Give a lock back.

        Raises:
            ValueError: the holder does not hold it.
        """

    @abc.abstractmethod
    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the lock."""

    @abc.abstractmethod
    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this holder holds the lock, by this manager."""

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Take the lock, and wait for it if somebody else holds it; whether it was taken.

        Args:
            key: names the lock.
            holder: who takes it.
            acquire_timeout: how many seconds to wait; None is for ever, 0 is not at all.
            hold_timeout: after so many seconds it is free again; None is when it is released.
        """
        for pause in _pauses(acquire_timeout):
            if self.try_lock(key, holder, hold_timeout):
                return True
            self._pause(pause)
        return self.try_lock(key, holder, hold_timeout)

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """As `acquire_lock`, without holding up the event loop."""
        for pause in _pauses(acquire_timeout):
            if self.try_lock(key, holder, hold_timeout):
                return True
            await asyncio.sleep(pause)
        return self.try_lock(key, holder, hold_timeout)

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock; whether that came about in time."""
        for pause in _pauses(timeout):
            if not self.is_locked(key):
                return True
            self._pause(pause)
        return not self.is_locked(key)

    async def await_for_lock(
        self,
        key: str,
        timeout: float | None = None,  # noqa: ASYNC109  (as in `wait_for_lock`; False, no error)
    ) -> bool:
        """As `wait_for_lock`, without holding up the event loop."""
        for pause in _pauses(timeout):
            if not self.is_locked(key):
                return True
            await asyncio.sleep(pause)
        return not self.is_locked(key)

    def _pause(self, seconds: float) -> None:
        """Wait before asking again; may end early where a release can be noticed."""
        time.sleep(seconds)


def _pauses(timeout: float | None) -> Iterator[float]:
    """Give the waits between questions, growing from short ones, until the time is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE_SECONDS
    while True:
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return
        yield min(pause, left)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
