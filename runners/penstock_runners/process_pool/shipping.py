"""How functions, arguments and results are pickled, in both directions.

Functions go to a worker once. One that can be imported goes by name, others by value, with
cloudpickle, which costs 20 to 90 us; so the bytes are used again while the function can only have
the same content: while all it sees is the same, and cannot change in place.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import pickle
import sys
import types
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import cloudpickle

from penstock_runners.process_pool import culprit
from penstock_runners.process_pool.batching import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Function", "FunctionStore", "Packing", "load_call", "pack_call", "pack_result"]

LARGE_BYTES: Final = 64 * 1024
"""From here on, a buffer goes over the pipe by itself, without being copied into a pickle."""
_SCALARS: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})
_UNCHANGING: tuple[Any, ...] = (
    types.BuiltinFunctionType,
    types.ModuleType,
    types.CodeType,
    range,
    *_SCALARS,
)
_ABSENT: Final = object()
_MOST_FUNCTIONS: Final = 1024


class Packing(NamedTuple):
    """A value fit for a frame.

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


class Function:
    """A function as workers get it: a number, bytes, and how long it takes."""

    def __init__(self, number: int, blob: bytes) -> None:
        self.number = number
        self.blob = blob
        self.pace = Pace()


class FunctionStore:
    """The functions that a pool has sent; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._by_content: OrderedDict[bytes, Function] = OrderedDict()
        self._seen: OrderedDict[int, tuple[Any, tuple[Any, ...], Function]] = OrderedDict()
        """By id: the function, kept alive so that the id stays its own; what it saw; and where."""

    def find(self, fn: Callable[..., Any]) -> Function:
        """Return the function as it is now. Raises `TypeError` if it cannot be pickled."""
        sight = what_it_sees(fn)
        if sight is not None:
            known = self._seen.get(id(fn))
            if known is not None and _is_same(sight, known[1]):
                return known[2]
        blob = _pack_function(fn)
        content = hashlib.blake2b(blob, digest_size=16).digest()
        function = self._by_content.get(content)
        if function is None:
            function = self._by_content[content] = Function(next(self._numbers), blob)
        self._by_content.move_to_end(content)
        if sight is not None:
            self._seen[id(fn)] = (fn, sight, function)
            self._seen.move_to_end(id(fn))
        while len(self._by_content) > _MOST_FUNCTIONS:
            self._by_content.popitem(last=False)
        while len(self._seen) > _MOST_FUNCTIONS:
            self._seen.popitem(last=False)
        return function


def what_it_sees(fn: Any) -> tuple[Any, ...] | None:
    """Return the objects that decide what the pickle of a function holds, to compare by identity.

    None if one of them could change in place: then nothing but pickling it again will tell.
    """
    if reference_to(fn) is not None:
        return ()
    found: list[Any] = []
    return tuple(found) if _collect(fn, found, set()) else None


def reference_to(fn: Any) -> tuple[str, str] | None:
    """Return module and qualified name, if a worker that imports them gets this function.

    A function whose name leads to an object with the function as its ``fn``, as a task is, counts.
    """
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if type(module) is not str or type(name) is not str or module == "__main__" or "<" in name:
        return None
    by_value = cloudpickle.list_registry_pickle_by_value()
    if by_value and any(module == one or module.startswith(f"{one}.") for one in by_value):
        return None
    found = _look_up(module, name)
    return (module, name) if found is fn or getattr(found, "fn", None) is fn else None


def _look_up(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _collect(value: Any, found: list[Any], visited: set[int]) -> bool:
    if id(value) in visited:
        return True
    visited.add(id(value))
    found.append(value)
    if isinstance(value, types.FunctionType):
        return reference_to(value) is not None or all(
            _collect(part, found, visited) for part in _parts_of_function(value)
        )
    if isinstance(value, type):
        return reference_to(value) is not None  # else its methods may see anything
    if type(value) in (tuple, frozenset):
        return all(_collect(part, found, visited) for part in value)
    return isinstance(value, _UNCHANGING)


def _parts_of_function(fn: types.FunctionType) -> Iterator[Any]:
    names, surroundings = _names_in(fn.__code__), fn.__globals__
    yield fn.__code__
    yield from (surroundings.get(name, _ABSENT_MARK) for name in names)
    yield from fn.__defaults__ or ()
    yield from (fn.__kwdefaults__ or {}).values()
    yield from vars(fn).values()
    for cell in fn.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet, so it may be bound later
            yield _ABSENT


@functools.lru_cache(maxsize=1024)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    inner = (_names_in(one) for one in code.co_consts if isinstance(one, types.CodeType))
    return tuple(dict.fromkeys([*code.co_names, *itertools.chain.from_iterable(inner)]))


_ABSENT_MARK: Final = "penstock: no such global"
"""For a name that is no global (an attribute, say), and may become one."""


def _is_same(sight: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(sight) == len(other) and all(map(operator.is_, sight, other))


class _ByName:
    """Pickles as the import of a function."""

    def __init__(self, module: str, name: str, is_wrapped: bool) -> None:
        self._place = module, name, is_wrapped

    def __reduce__(self) -> Any:
        return import_function, self._place


def import_function(module: str, name: str, is_wrapped: bool) -> Any:
    """Return the function that goes by a name, in a worker: of a task, the function in it."""
    __import__(module)
    found = _look_up(module, name)
    if found is None:
        raise AttributeError(f"module {module!r} has no {name!r} in the worker")
    return found.fn if is_wrapped else found


def _pack_function(fn: Callable[..., Any]) -> bytes:
    place = reference_to(fn)
    if place is not None:
        return pickle.dumps(_ByName(*place, is_wrapped=_look_up(*place) is not fn), 5)
    try:
        blob: bytes = cloudpickle.dumps(fn, 5)
    except Exception:  # noqa: BLE001  (user code; the text has all that is worth knowing)
        raise TypeError(culprit.explain_function(fn)) from None
    return blob


# --- arguments and results --------------------------------------------------------------


def pack_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Packing:
    """Pack arguments. Raises `TypeError` that names the one that cannot be pickled."""
    if not kwargs and all(map(_is_small_scalar, args)):
        return Packing(args, [], is_inline=True)
    try:
        return _pack((args, dict(kwargs)))
    except Exception:  # noqa: BLE001  (as above)
        raise TypeError(culprit.explain_call(fn, args, kwargs)) from None


def load_call(payload: Any, buffers: list[bytearray]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return args and kwargs, in the worker."""
    if type(payload) is tuple:
        return payload, {}
    if payload is None:
        payload, *buffers = buffers
    call: tuple[tuple[Any, ...], dict[str, Any]] = pickle.loads(payload, buffers=buffers)
    return call


def pack_result(value: Any) -> Packing:
    """Pack a result. Raises `TypeError` that names what in it cannot be pickled."""
    if _is_small_scalar(value):
        return Packing(value, [], is_inline=True)
    try:
        return _pack(value)
    except Exception:  # noqa: BLE001  (as above)
        raise TypeError(culprit.explain_value("result", value)) from None


def _is_small_scalar(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bytes:
        return bool(len(value) < LARGE_BYTES // 4)
    if kind is int:
        return bool(-(2**255) < value < 2**255)
    return bool(kind in _SCALARS)


def _pack(value: Any) -> Packing:
    data, buffers = _dump_plain(value) or _dump(cloudpickle.dumps, value)
    if len(data) >= LARGE_BYTES:
        return Packing(None, [data, *buffers])
    return Packing(data, buffers)


def _dump_plain(value: Any) -> tuple[bytes, list[memoryview]] | None:
    if cloudpickle.list_registry_pickle_by_value():
        return None
    try:
        data, buffers = _dump(pickle.dumps, value)
    except Exception:  # noqa: BLE001  (cloudpickle may know how, or tell why not)
        return None
    # What `__main__` defines is known by that name here only.
    return None if b"__main__" in data else (data, buffers)


def _dump(dumps: Callable[..., bytes], value: Any) -> tuple[bytes, list[memoryview]]:
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

    return dumps(value, 5, buffer_callback=is_in_band), buffers
