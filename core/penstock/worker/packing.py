"""How values are pickled, in both directions: plain pickle first, cloudpickle where it must be."""

from __future__ import annotations

import io
import pickle
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cloudpickle

from . import cached, variables
from .here import travelling

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = [
    "Packing",
    "Pickler",
    "are_small_scalars",
    "dumps",
    "import_function",
    "is_by_value",
    "load",
    "load_call",
    "look_up",
    "pack",
    "pack_plainly",
]

LARGE_BYTES: Final = 64 * 1024
"""From here on, a buffer travels by itself, without being copied into a pickle."""
_LARGE_INTEGER: Final = 2**255
_SCALARS: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})


class Packing(NamedTuple):
    """A value fit to travel.

    Of `payload`, a tuple or scalar is the value itself, bytes are its pickle, and with None the
    pickle is the first of the buffers.
    """

    payload: Any
    buffers: list[Any]
    is_inline: bool = False

    @property
    def nbytes(self) -> int:
        """The size of what is not inline."""
        size = len(self.payload) if type(self.payload) is bytes else 0
        return size + sum(memoryview(buffer).nbytes for buffer in self.buffers)


if TYPE_CHECKING:  # which has no types; it is one of these
    _CloudPickler = pickle.Pickler
else:
    _CloudPickler = cloudpickle.Pickler


class Pickler(_CloudPickler):
    """Knows what functions may well refer to: context variables, and functions with a cache."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle an object, as `pickle.Pickler` has it."""
        if type(obj) is ContextVar:
            return variables.reduce(obj)
        if type(obj) is cached.CACHED and is_by_value(obj.__module__):
            return cached.reduce(obj)
        return super().reducer_override(obj)


def is_by_value(module: str) -> bool:
    """Whether what a module defines is pickled by value just now."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return module == "__main__" or any(
        module == name or module.startswith(f"{name}.") for name in registered
    )


def dumps(
    value: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes:
    """Return the pickle of nearly any value: functions, classes and modules go by value."""
    file = io.BytesIO()
    Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def is_small_scalar(value: Any) -> bool:
    """Whether a value is plain and small enough to stand among the plain values of a message."""
    kind = type(value)
    if kind is str or kind is bytes:
        return bool(len(value) < LARGE_BYTES // 4)
    if kind is int:
        return bool(-_LARGE_INTEGER < value < _LARGE_INTEGER)
    return bool(kind in _SCALARS)


def are_small_scalars(values: Collection[Any]) -> bool:
    """Whether all are what `is_small_scalar` says."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return bool(min(values) > -_LARGE_INTEGER and max(values) < _LARGE_INTEGER)
    return _SCALARS.issuperset(kinds) and all(map(is_small_scalar, values))


def pack(value: Any) -> Packing:
    """Pack a value, with its large buffers beside its pickle."""
    return pack_plainly(value) or _packing(*_dump(dumps, value))


def pack_plainly(value: Any, by_value: Sequence[bytes] = ()) -> Packing | None:
    """Pack a value as `pack` does, if it needs no cloudpickle, which takes longer; else None.

    Args:
        value: anything.
        by_value: names of modules that the other side cannot import; what they define needs it.
            So does what ``__main__`` defines.
    """
    if is_small_scalar(value):
        return Packing(value, [], is_inline=True)
    dumped = _dump_plain(value, by_value)
    return None if dumped is None else _packing(*dumped)


def _packing(data: bytes, buffers: list[memoryview]) -> Packing:
    if len(data) >= LARGE_BYTES:
        return Packing(None, [data, *buffers])
    return Packing(data, buffers)


def load(payload: Any, buffers: Sequence[Any]) -> Any:
    """Return a value that `pack` has packed as something else than inline."""
    if payload is None:
        payload, *buffers = buffers
    return pickle.loads(payload, buffers=buffers)


def load_call(payload: Any, buffers: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return args and kwargs. A tuple is the args themselves: scalars, and there are no kwargs."""
    if type(payload) is tuple:
        return payload, {}
    call: tuple[tuple[Any, ...], dict[str, Any]] = load(payload, buffers)
    return call


def _dump_plain(value: Any, by_value: Sequence[bytes]) -> tuple[bytes, list[memoryview]] | None:
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        data, buffers = _dump(_pickle_dumps, value)
    except Exception:  # noqa: BLE001  (cloudpickle may know how, or tell why not)
        return None
    # What these modules define is known by their names here only.
    if b"__main__" in data or any(name in data for name in by_value):
        return None
    return data, buffers


def _pickle_dumps(value: Any, buffer_callback: Callable[..., object]) -> bytes:
    return pickle.dumps(value, 5, buffer_callback=buffer_callback)


def _dump(dump: Callable[..., bytes], value: Any) -> tuple[bytes, list[memoryview]]:
    buffers: list[memoryview] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not in one piece
            return True
        if raw.nbytes < LARGE_BYTES:
            return True
        buffers.append(raw)
        return False

    return dump(value, buffer_callback=is_in_band), buffers


# --- functions by name -----------------------------------------------------------------


def look_up(module: str, name: str) -> Any:
    """Return what goes by a qualified name in a module that is imported, or None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@travelling
def import_function(module: str, name: str, is_wrapped: bool) -> Any:
    """Return the function that goes by a name, in a worker: of a task, the function in it."""
    __import__(module)
    found = look_up(module, name)
    if found is None:
        raise AttributeError(f"module {module!r} has no {name!r} in the worker")
    return found.fn if is_wrapped else found
