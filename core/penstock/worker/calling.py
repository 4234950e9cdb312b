"""How a function is called: awaited where it must be, and generators consumed whole."""

from __future__ import annotations

import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["call", "call_async", "call_to_end"]


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


def call_to_end(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """As `call`, and a coroutine or async generator is run to its end, in a loop of its own."""
    value = call(fn, args, kwargs)
    if type(value) is CoroutineType or type(value) is AsyncGeneratorType:
        import asyncio  # it costs each worker process 50 ms, and few have a use for it

        return asyncio.run(_end(value))
    return value


async def _end(value: Any) -> Any:
    if type(value) is AsyncGeneratorType:
        return [item async for item in value]
    value = await value
    return list(value) if type(value) is GeneratorType else value
