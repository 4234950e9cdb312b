"""Completes an awaitable from synchronous code, whether or not an event loop runs here."""

from __future__ import annotations

import contextvars
import inspect
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable
else:
    import penstock._asyncio as asyncio

__all__ = ["finish"]


def finish(value: Any) -> Any:
    """Return `value`, or what it gives when awaited; its exceptions are raised here.

    It is awaited in an event loop of its own, in this thread or, when a loop runs in this thread
    already, in a helper thread that sees a copy of the current context variables. Either way the
    caller waits, so what is awaited must not need the loop of the caller.
    """
    if not inspect.isawaitable(value):
        return value
    if has_running_loop():
        return _finish_in_thread(value)
    return asyncio.run(_completed(value))


def has_running_loop() -> bool:
    """Whether an event loop runs in this thread.

    A function, so that the error which says no is over, and not the context of the caller's.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _completed(awaitable: Awaitable[Any]) -> Any:
    """Await anything awaitable: `asyncio.run` itself takes coroutines only."""
    return await awaitable


def _finish_in_thread(awaitable: Awaitable[Any]) -> Any:
    outcome: Future[Any] = Future()

    def complete() -> None:
        try:
            outcome.set_result(asyncio.run(_completed(awaitable)))
        except BaseException as error:  # noqa: BLE001  (raised again in the caller)
            outcome.set_exception(error)

    helper = threading.Thread(
        target=contextvars.copy_context().run,
        args=(complete,),
        name="penstock-finish",
        daemon=True,  # an interrupted caller is not held up by a hook that hangs
    )
    helper.start()
    try:
        return outcome.result()
    finally:
        if outcome.done():  # else we were interrupted, and do not wait for it
            helper.join()
