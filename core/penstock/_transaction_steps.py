"""What the course of a transaction asks for, and the two who perform it: blocking, and awaiting.

The course is written once, as generators that yield steps (`transactions`).
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from penstock._awaiting import finish

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

    from penstock.locking import LockManager
else:
    import penstock._asyncio as asyncio

__all__ = ["Course", "RunHook", "Step", "TakeLock", "UseStore", "await_course", "run_course"]

T = TypeVar("T")


class RunHook(NamedTuple):
    """Call a hook of the user's, and await what it returns if that can be."""

    hook: Callable[[Any], Any]
    transaction: Any


class UseStore(NamedTuple):
    """Read or write; may take a while, and has to be awaited nowhere."""

    action: Callable[[], Any]


class TakeLock(NamedTuple):
    """Wait for a lock; whether it was taken."""

    manager: LockManager
    key: str
    holder: str
    timeout: float | None


Step: TypeAlias = RunHook | UseStore | TakeLock
Course: TypeAlias = "Generator[Step, Any, T]"


def run_course(course: Course[T]) -> T:
    """Perform the steps here and return what the course does."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            step = course.send(answer) if error is None else course.throw(error)
            answer = error = None
            try:
                answer = _perform(step)
            except Exception as failure:  # noqa: BLE001  (the course decides)
                error = failure
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        course.close()


async def await_course(course: Course[T]) -> T:
    """Perform the steps without holding up the event loop and return what the course does."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            step = course.send(answer) if error is None else course.throw(error)
            answer = error = None
            try:
                answer = await _perform_async(step)
            except Exception as failure:  # noqa: BLE001  (the course decides)
                error = failure
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        course.close()


def _perform(step: Step) -> Any:
    match step:
        case RunHook(hook, transaction):
            return finish(hook(transaction))
        case UseStore(action):
            return action()
        case TakeLock(manager, key, holder, timeout):
            return manager.acquire_lock(key, holder, timeout)


async def _perform_async(step: Step) -> Any:
    match step:
        case RunHook(hook, transaction):
            outcome = hook(transaction)
            return await outcome if inspect.isawaitable(outcome) else outcome
        case UseStore(action):
            return await asyncio.to_thread(action)
        case TakeLock(manager, key, holder, timeout):
            return await manager.aacquire_lock(key, holder, timeout)
