"""How functions and arguments leave the driver: each function, and each constant, once.

A function that a worker can import goes by name, others by value, with cloudpickle, which costs
20 to 90 us; so the bytes are used again while the function can only have the same content: while
all it sees is the same, and cannot change in place.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import operator
import pickle
import types
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from penstock.by_value import ByValue
from penstock.worker import culprit, packing
from penstock.worker.packing import Packing, import_function, look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Function", "FunctionStore", "pack_call", "pack_value", "pack_variables"]

T = TypeVar("T")

_UNCHANGING: tuple[Any, ...] = (
    types.BuiltinFunctionType,
    types.ModuleType,
    types.CodeType,
    ContextVar,
    range,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
)
_ABSENT: Final = object()
_MOST_FUNCTIONS: Final = 1024


class Function:
    """A function as workers get it: a number, and the bytes that are its pickle."""

    __slots__ = ("blob", "number")

    def __init__(self, number: int, blob: bytes) -> None:
        self.number: int = number
        self.blob: bytes = blob


class FunctionStore:
    """The functions that a runner has sent; the least recently used are forgotten.

    Args:
        ship_modules: names of modules to go by value, as if workers could not import them.
        only_installed: whether workers can import what is installed, and nothing else.
    """

    def __init__(self, ship_modules: Sequence[str] = (), *, only_installed: bool = False) -> None:
        self.by_value: ByValue = ByValue(ship_modules, only_installed=only_installed)
        self._numbers = itertools.count(1)
        self._by_content: OrderedDict[bytes, Function] = OrderedDict()
        self._seen: OrderedDict[int, tuple[Any, tuple[Any, ...], Function]] = OrderedDict()
        """By id: the function, kept alive so that the id stays its own; what it saw; and where."""

    def find(self, fn: Callable[..., Any]) -> Function:
        """Return the function as it is now. Raises `TypeError` if it cannot be pickled."""
        sight = what_it_sees(fn, self.by_value)
        if sight != ():  # else it goes by its name, and so does what its module defines
            self.by_value.note(getattr(fn, "__module__", None))
        if sight is not None:
            known = self._seen.get(id(fn))
            if known is not None and _is_same(sight, known[1]):
                return known[2]
        blob = _pack_function(fn, self.by_value)
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


def what_it_sees(fn: Any, by_value: ByValue) -> tuple[Any, ...] | None:
    """Return the objects that decide what the pickle of a function holds, to compare by identity.

    None if one of them could change in place: then nothing but pickling it again will tell.
    """
    if reference_to(fn, by_value) is not None:
        return ()
    found: list[Any] = []
    return tuple(found) if _collect(fn, found, set(), by_value) else None


def reference_to(fn: Any, by_value: ByValue) -> tuple[str, str] | None:
    """Return module and qualified name, if a worker that imports them gets this function.

    A function whose name leads to an object with the function as its ``fn``, as a task is, counts.
    """
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if type(module) is not str or type(name) is not str or "<" in name or module in by_value:
        return None
    found = look_up(module, name)
    return (module, name) if found is fn or getattr(found, "fn", None) is fn else None


def _collect(value: Any, found: list[Any], visited: set[int], by_value: ByValue) -> bool:
    if id(value) in visited:
        return True
    visited.add(id(value))
    found.append(value)
    if isinstance(value, types.FunctionType):
        return reference_to(value, by_value) is not None or all(
            _collect(part, found, visited, by_value) for part in _parts_of_function(value)
        )
    if isinstance(value, type):
        return reference_to(value, by_value) is not None  # else its methods may see anything
    if type(value) in (tuple, frozenset):
        return all(_collect(part, found, visited, by_value) for part in value)
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


def _pack_function(fn: Callable[..., Any], by_value: ByValue) -> bytes:
    place = reference_to(fn, by_value)
    if place is not None:
        return pickle.dumps(_ByName(*place, is_wrapped=look_up(*place) is not fn), 5)
    return _by_value(by_value, lambda: packing.dumps(fn), lambda: culprit.explain_function(fn))


def _by_value(by_value: ByValue, pack: Callable[[], T], explain: Callable[[], str]) -> T:
    """Pack something with what it needs of modules that workers cannot import."""
    if by_value.find_helpers():
        # What else is in those modules may not be fit to travel. Then they go by their names:
        # perhaps the workers have them, and if not, they say that.
        with by_value.with_helpers(), contextlib.suppress(Exception):
            return pack()
    with by_value:
        try:
            return pack()
        except Exception:  # noqa: BLE001  (user code; the text has all that is worth knowing)
            raise TypeError(explain()) from None


# --- arguments and surroundings --------------------------------------------------------


def pack_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], by_value: ByValue
) -> Packing:
    """Pack arguments. Raises `TypeError` that names the one that cannot be pickled."""
    if not kwargs and all(map(packing.is_small_scalar, args)):
        return Packing(args, [], is_inline=True)
    return _pack((args, dict(kwargs)), by_value, lambda: culprit.explain_call(fn, args, kwargs))


def pack_value(what: str, value: Any, by_value: ByValue) -> Packing:
    """Pack one value. Raises `TypeError` that says what in it cannot be pickled."""
    return _pack(value, by_value, lambda: culprit.explain_value(what, value))


def _pack(value: Any, by_value: ByValue, explain: Callable[[], str]) -> Packing:
    by_value.find_helpers()
    plain = packing.pack_plainly(value, by_value.names)
    return plain or _by_value(by_value, lambda: packing.pack(value), explain)


def pack_variables(values: Mapping[ContextVar[Any], Any], by_value: ByValue) -> bytes:
    """Pack context variables with their values. Raises `TypeError` that names the bad one."""
    for value in values.values():
        by_value.note(type(value).__module__)
    pairs = list(values.items())
    return _by_value(by_value, lambda: packing.dumps(pairs), lambda: _explain_variables(pairs))


def _explain_variables(pairs: Sequence[tuple[ContextVar[Any], Any]]) -> str:
    for variable, value in pairs:
        try:
            packing.dumps((variable, value))
        except Exception:  # noqa: BLE001  (as above)
            return culprit.explain_value(f"context variable {variable.name!r}", value)
    return "context variables: they cannot be pickled together"
