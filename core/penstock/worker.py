"""What a worker executes: one attempt of one function, to an outcome that always travels.

Workers in other processes get these functions by value and need nothing of Penstock installed,
so this module imports the standard library and `attempt` only.
"""

from __future__ import annotations

import inspect
import time
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from penstock.attempt import Attempt, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["call", "call_async", "run_here"]


def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a function; a generator it returns is consumed whole and comes back as a list."""
    value = fn(*args, **kwargs)
    if type(value) is GeneratorType:
        return list(value)
    return value


async def call_async(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """As `call`, for coroutine functions, async generators and what they return."""
    value = fn(*args, **kwargs)
    if inspect.isawaitable(value):
        value = await value
    if type(value) is AsyncGeneratorType:
        return [item async for item in value]
    if type(value) is GeneratorType:
        return list(value)
    return value


def run_here(attempt: Attempt, worker: str = "") -> Outcome:
    """Run a sync attempt in the calling thread, in its own context, and report how it ended.

    Every exception is an outcome, `SystemExit` and `KeyboardInterrupt` included: only the driver
    decides what they mean.
    """
    began = time.monotonic()
    try:
        if attempt.context is not None:
            value = attempt.context.run(call, attempt.fn, attempt.args, attempt.kwargs)
        else:
            value = call(attempt.fn, attempt.args, attempt.kwargs)
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        return Outcome(
            attempt.id, "raised", None, error, "", True, time.monotonic() - began, worker
        )
    return Outcome(attempt.id, "returned", value, None, "", True, time.monotonic() - began, worker)
