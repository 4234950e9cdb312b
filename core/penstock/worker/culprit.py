"""Finds what inside a value cannot be pickled, to name it in the error.

Works by pickling ever smaller parts, and so is for the moment after a failure only.
"""

from __future__ import annotations

import inspect
import time
import types
from typing import TYPE_CHECKING, Any, Final

from .packing import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["argument_name", "explain_call", "explain_function", "explain_value"]

_DEEPEST: Final = 20
_PATIENCE_SECONDS: Final = 2.0
"""A search in large values ends here, at the smallest part found so far."""


def explain_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Say which argument of a call cannot be pickled, by its name in the signature."""
    named = [(name, value) for name, value in _named_arguments(fn, args, kwargs)]
    for name, value in named:
        if _why_not(value) is not None:
            return explain_value(f"argument {name!r}", value)
    return f"arguments: {_why_not((args, dict(kwargs))) or 'they cannot be pickled together'}"


def argument_name(fn: Callable[..., Any], place: int | str) -> str:
    """Return what the argument at a place of a call is called, by position or keyword."""
    if isinstance(place, str):
        return place
    try:
        return next(reversed(inspect.signature(fn).bind_partial(*range(place + 1)).arguments))
    except (TypeError, ValueError, StopIteration):  # no signature, or one that does not fit
        return str(place)


def explain_function(fn: Callable[..., Any]) -> str:
    """Say what a function holds that cannot be pickled."""
    return explain_value(f"function {getattr(fn, '__qualname__', None) or repr(fn)!s}", fn)


def explain_value(first: str, value: Any) -> str:
    """Say what in a value cannot be pickled: ``result -> [3] -> .x: cannot pickle ...``."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    path = [first]
    reason = _why_not(value) or "it cannot be pickled"
    seen = {id(value)}
    while len(path) < _DEEPEST and time.monotonic() < deadline:
        guilty = _guilty_part(value, seen)
        if guilty is None:
            break
        label, value, reason = guilty
        path.append(label)
        seen.add(id(value))
    return f"{' -> '.join(path)}: {reason}"


def _guilty_part(value: Any, seen: set[int]) -> tuple[str, Any, str] | None:
    for label, part in _parts(value):
        reason = None if id(part) in seen else _why_not(part)
        if reason is not None:
            return label, part, reason
    return None


def _why_not(value: Any) -> str | None:
    try:
        dumps(value)
    except Exception as error:  # noqa: BLE001  (whatever user code raises is the answer)
        return str(error) or type(error).__name__
    return None


def _named_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    try:
        bound = inspect.signature(fn).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):  # no signature, or one that does not fit: the call will tell
        yield from ((str(number), value) for number, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, type | types.ModuleType):
        return
    if isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"[{_short(key)}]", item) for key, item in value.items())
        yield from ((f"key {_short(key)}", key) for key in value)
    elif isinstance(value, set | frozenset):
        yield from ((f"item {_short(item)}", item) for item in value)
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
        return
    yield from _parts_of_object(value)


def _parts_of_function(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield f"closure {name!r}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in fn.__code__.co_names:
        if name in fn.__globals__:
            yield f"global {name!r}", fn.__globals__[name]
    for index, default in enumerate(fn.__defaults__ or ()):
        yield f"default {index}", default
    yield from ((f".{name}", item) for name, item in vars(fn).items())


def _parts_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:  # noqa: BLE001  (then the value itself is the culprit)
        return
    if not isinstance(reduced, tuple):
        return
    _, arguments, state, *_ = (*reduced, None)
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", item) for name, item in part.items())
        elif part is not None:
            yield "its state", part
    for argument in arguments if isinstance(arguments, tuple) else ():
        yield f"its {type(argument).__name__}", argument


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (a name in a message, no more)
        return f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."
