"""Functions under `functools.cache` or `lru_cache` by value, which cloudpickle cannot pickle.

The other process gets the function with an empty cache of the same size.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from .here import travelling

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CACHED", "fill_cached", "make_cached", "reduce"]

CACHED: Final = type(functools.cache(len))


def reduce(cached: Any) -> tuple[Any, ...]:
    """Return how to get such a function in another process, as `__reduce__` does.

    It is made first and filled then, as a function may refer to itself by its cached name.
    """
    parameters = cached.cache_parameters()
    size, typed = parameters["maxsize"], parameters["typed"]
    return make_cached, (size, typed), cached.__wrapped__, None, None, fill_cached


@travelling
def make_cached(size: int | None, typed: bool) -> Any:
    """Return a cached function that does what it is filled with."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return call.target(*args, **kwargs)  # type: ignore[attr-defined]  # see `fill_cached`

    return functools.lru_cache(size, typed)(call)


@travelling
def fill_cached(cached: Any, fn: Callable[..., Any]) -> None:
    """Give a function that was just made its content, and its looks."""
    cached.__wrapped__.target = fn
    functools.update_wrapper(cached, fn)
