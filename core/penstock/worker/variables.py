"""Context variables across processes: in each, one object stands for one variable.

A `ContextVar` cannot be pickled. One that is a global of a module that both sides import goes by
that name. Any other (of a script, say) is made anew in the worker, once for each variable of the
driver, so that a function which refers to it and a value sent for it meet.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import uuid
from contextvars import ContextVar
from typing import Any, Final

from .here import travelling

__all__ = ["import_variable", "make_variable", "place_of", "reduce"]

_lock = threading.Lock()
_origin: Final = uuid.uuid4().hex
"""This process: its variables are numbered within it."""
_numbers: dict[ContextVar[Any], int] = {}
_made: dict[tuple[str, int], ContextVar[Any]] = {}


def reduce(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """Return how to get the variable in another process, as `__reduce__` does."""
    for key, made in tuple(_made.items()):
        if made is variable:  # it came from elsewhere, and goes back
            return make_variable, (*key, variable.name, *_default(variable))
    place = place_of(variable)
    if place is not None and place[0] != "__main__":
        return import_variable, (*place, _key(variable), variable.name, _default(variable))
    return make_variable, (*_key(variable), variable.name, *_default(variable))


def place_of(variable: ContextVar[Any]) -> tuple[str, str] | None:
    """Return the module and the name that a variable is a global by, or None."""
    for name, module in tuple(sys.modules.items()):
        for attribute, value in tuple(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return name, attribute
    return None


@travelling
def import_variable(
    module: str,
    attribute: str,
    key: tuple[str, int],
    name: str,
    default: tuple[Any, ...],
) -> ContextVar[Any]:
    """Return a global of a module; where there is no such module, what stands for it."""
    try:
        __import__(module)
    except ImportError:
        return make_variable(*key, name, *default)
    variable: ContextVar[Any] = getattr(sys.modules[module], attribute)
    return variable


@travelling
def make_variable(origin: str, number: int, name: str, *default: Any) -> ContextVar[Any]:
    """Return what stands for a variable of another process here, always the same object."""
    if origin == _origin:  # home again
        return next(own for own, its in _numbers.items() if its == number)
    with _lock:
        variable = _made.get((origin, number))
        if variable is None:
            made: ContextVar[Any] = (
                ContextVar(name, default=default[0]) if default else ContextVar(name)
            )
            variable = _made[origin, number] = made
        return variable


def _key(variable: ContextVar[Any]) -> tuple[str, int]:
    with _lock:
        return _origin, _numbers.setdefault(variable, len(_numbers))


def _default(variable: ContextVar[Any]) -> tuple[Any, ...]:
    """Return its default in a tuple, or an empty one: what an empty context says."""
    try:
        return (contextvars.Context().run(variable.get),)
    except LookupError:
        return ()
