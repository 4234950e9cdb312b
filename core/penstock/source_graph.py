"""All code of the user's own that a function reaches, and the values it depends on.

How it works. Each function and class is a node: what is written in it, and what it refers to. Nodes
are numbered in the order in which they are first met, and refer to each other by number. So neither
the names of files and modules nor lines matter, and functions may call each other in circles.

What is followed, from each function of the user's own:

- the global variables that its code looks up, and the variables it captures;
- attributes of modules: each name that it looks up as an attribute, of whatever object, and that
  such a module has;
- imports inside of the function: the modules are imported for it, if they are the user's own;
- what is wrapped around it or by it: decorators, tasks, partials, methods, properties;
- classes: bases, all members, annotations; of their instances, the class.

What is not: the standard library, installed packages and Penstock, which count by name; the types
of the arguments (their values are inputs); what is found by `getattr` with a text.

A variable that is neither code nor a module is a constant: it counts by its value if that has a
stable hash, else by its type. That holds for lists and dicts too: one that the program changes
changes the key, which costs a hit where ignoring it could give a wrong one.
"""

from __future__ import annotations

import builtins
import collections
import functools
import importlib
import importlib.util
import operator
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.class_members import members_of
from penstock.code_names import names_in
from penstock.exceptions import UnhashableInputError
from penstock.hashing import stable_hash
from penstock.key_parts import KeyPart, short_text
from penstock.own_code import OwnCode
from penstock.plain_forms import top_name
from penstock.source_hashing import code_hash, source_hash, underlying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from penstock.code_names import Import

__all__ = ["SourceGraph", "source_graph"]

_MISSING = object()
_CONTAINERS = (list, tuple, dict)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""Types whose values never change."""
_DEEPEST = 4
_REMEMBERED = 256


class SourceGraph(NamedTuple):
    """What a function reaches."""

    hash: str
    """Changes when anything that counts does."""
    parts: Mapping[str, KeyPart]
    """The same by name: ``source``, then ``helper f()``, ``class C``, ``constant N``."""


def source_graph(fn: Any) -> SourceGraph:
    """Follow a function, or another callable, through the user's own code.

    Raises:
        UnhashableInputError: a `functools.partial` binds something without a stable hash.
    """
    if type(fn) is not types.FunctionType or fn.__closure__ is not None:
        return _Walk(fn).graph()  # to remember it would keep alive what it holds
    walk = _walks.get(fn)
    if walk is None or not walk.is_current():
        walk = _walks[fn] = _Walk(fn)
        if len(_walks) > _REMEMBERED:
            del _walks[next(iter(_walks))]
    return walk.graph()


class _Walk:
    """One way through the code from a function, and all that it looked at on the way."""

    def __init__(self, fn: Any) -> None:
        self._root = underlying(fn)
        scope = {} if self._root is None else self._root.__globals__
        self._own = OwnCode(str(scope.get("__name__", "")))
        self._numbers: dict[int, int] = {}
        self._queue: collections.deque[types.FunctionType | type] = collections.deque()
        self._labels: dict[str, object] = {}
        self._parts: dict[str, KeyPart] = {"source": KeyPart(source_hash(fn))}
        self._found: list[tuple[Mapping[str, Any], str, object]] = []
        self._held: list[tuple[object, str, object]] = []
        self._changing: list[tuple[object, str | None]] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        nodes = [self._refer(fn, "the task")]
        while self._queue:
            node = self._queue.popleft()
            nodes.append(self._class(node) if isinstance(node, type) else self._function(node))
        self._hash = stable_hash(nodes)
        self._parts["reach"] = KeyPart(self._hash)

    def graph(self) -> SourceGraph:
        return SourceGraph(self._hash, types.MappingProxyType(self._parts))

    def is_current(self) -> bool:
        """Whether all that was looked at is as it was: much faster than to look again."""
        return (
            all(scope.get(name, _MISSING) is value for scope, name, value in self._found)
            and all(getattr(each, name, _MISSING) is value for each, name, value in self._held)
            and all(_holds(each, items) for each, items in self._contents)
            and all(_hash_of(value) == known for value, known in self._changing)
        )

    # --- nodes -------------------------------------------------------------------------

    def _function(self, fn: types.FunctionType) -> object:
        for name in ("__code__", "__defaults__", "__kwdefaults__", "__wrapped__"):
            self._held.append((fn, name, getattr(fn, name, _MISSING)))
        if not self._own.has_scope(fn.__globals__, fn.__code__.co_filename):
            return ("installed", _place(fn), self._captured(fn, only_code=True))
        written = code_hash(fn)
        refers = {
            "globals": self._globals(fn),
            "captured": self._captured(fn),
            "wrapped": self._wrapped(fn),
        }
        if fn is not self._root:  # its defaults are inputs of the run
            label = f"{fn.__code__.co_qualname.replace('<locals>.', '')}()"
            refers["defaults"] = self._refer(fn.__defaults__, f"defaults of {label}")
            refers["keyword defaults"] = self._refer(fn.__kwdefaults__, f"defaults of {label}")
            self._note("helper", label, fn, KeyPart(written))
        return (written, refers)

    def _class(self, cls: type) -> object:
        if not self._own.has_named(cls.__module__):
            return ("installed", _place(cls))
        bases = [self._refer(base, base.__name__) for base in (*cls.__bases__, type(cls))]
        stated, members = members_of(cls)
        written = stable_hash((cls.__name__, stated))
        self._note("class", cls.__qualname__, cls, KeyPart(written))
        self._held.append((cls, "__bases__", cls.__bases__))
        refers = {}
        for name, value in members.items():
            self._found.append((vars(cls), name, vars(cls).get(name, _MISSING)))
            refers[name] = self._refer(value, f"{cls.__qualname__}.{name}")
        return (written, bases, refers)

    # --- what a function refers to -----------------------------------------------------

    def _globals(self, fn: types.FunctionType) -> object:
        names, refers = names_in(fn.__code__), {}
        for name in names.globals:
            value = self._look_up(fn.__globals__, name)
            if isinstance(value, types.ModuleType):
                refers[name] = self._module(value, names.attributes)
            elif value is not _MISSING:
                refers[name] = self._refer(value, name)
            else:
                refers[name] = "built-in" if hasattr(builtins, name) else "nowhere"
        for each in names.imports:
            module = self._imported(each, fn.__globals__)
            if module is not None:
                looked_up = (*names.attributes, *each.taken)
                refers[f"import {'.' * each.dots}{each.module}"] = self._module(module, looked_up)
        return refers

    def _module(self, module: types.ModuleType, attributes: Iterable[str]) -> object:
        if not self._own.has_module(module):
            return ("installed", module.__name__)
        number = self._numbers.setdefault(id(module), len(self._numbers))
        refers: dict[str, object] = {}
        for name in attributes:
            value = self._look_up(vars(module), name)
            if isinstance(value, types.ModuleType):
                if id(value) not in self._numbers:
                    refers[name] = self._module(value, attributes)
            elif value is not _MISSING:
                refers[name] = self._refer(value, name)
        return ("module", number, refers)

    def _imported(self, each: Import, scope: Mapping[str, Any]) -> types.ModuleType | None:
        """Return a module of the user's own that a function imports; None if there is none."""
        name = _absolute(each, scope.get("__package__") or "")
        if name is None or not self._own.has_named(name):
            return None
        module = _import(name)
        for taken in each.taken:
            if module is not None and hasattr(module, "__path__") and not hasattr(module, taken):
                _import(f"{name}.{taken}")
        return module

    def _captured(self, fn: types.FunctionType, *, only_code: bool = False) -> object:
        refers: dict[str, object] = {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            value = getattr(cell, "cell_contents", _MISSING)  # missing: not bound yet
            self._held.append((cell, "cell_contents", value))
            if value is not _MISSING and (not only_code or _holds_code(value)):
                refers[name] = self._refer(value, f"{fn.__qualname__}: {name}")
        return refers

    def _wrapped(self, value: Any) -> object:
        wrapped = getattr(value, "__wrapped__", None)
        return None if wrapped is None else self._refer(wrapped, "")

    def _look_up(self, scope: Mapping[str, Any], name: str) -> Any:
        value = scope.get(name, _MISSING)
        self._found.append((scope, name, value))
        return value

    # --- one value ---------------------------------------------------------------------

    def _refer(self, value: Any, label: str, depth: int = 0) -> object:
        """Return what stands for a value in the node that refers to it."""
        if isinstance(value, types.FunctionType | type):
            if isinstance(value, type) and value.__module__ == "builtins":
                return ("built-in", value.__name__)
            if id(value) not in self._numbers:
                self._numbers[id(value)] = len(self._numbers)
                self._queue.append(value)
            return ("node", self._numbers[id(value)])
        inside = _wrapped_in(value)
        if inside is None and not self._own.has_named(type(value).__module__):
            inside = _held_by(value)
        if inside is not None:
            held = [self._refer(each, f"{label}.{name}", depth) for name, each in inside.items()]
            return (top_name(type(value)), held)
        if type(value) in _CONTAINERS and depth < _DEEPEST and _holds_code(value):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            entries = [
                (_hash_of(key) or "", self._refer(each, f"{label}[{short_text(key)}]", depth + 1))
                for key, each in items
            ]
            self._contents.append((value, [*_items(value)]))
            return (type(value).__name__, sorted(entries, key=lambda pair: pair[0]))
        return self._constant(value, label, depth)

    def _constant(self, value: Any, label: str, depth: int) -> object:
        if isinstance(value, types.ModuleType):
            return ("module", value.__name__)
        known = _hash_of(value)
        if type(value) not in _PLAIN:
            self._changing.append((value, known))
        is_empty = value is None or (type(value) in _CONTAINERS and not value)
        if known is not None and not is_empty and not callable(value):
            self._note("constant", label, value, KeyPart(known, short_text(value)))
        cls = type(value)
        if cls.__module__ == "builtins" or not self._own.has_named(cls.__module__):
            return ("value", known or _place(cls))
        refers = {}
        state = getattr(value, "__dict__", {})
        for name in sorted(state):
            if depth < _DEEPEST and _holds_code(state[name]):
                refers[name] = self._refer(self._look_up(state, name), f"{label}.{name}", depth + 1)
        return ("value", known, self._refer(cls, cls.__name__), refers)

    def _note(self, kind: str, label: str, thing: object, part: KeyPart) -> None:
        name = f"{kind} {label}"
        number = 2
        while self._labels.setdefault(name, thing) is not thing:
            name, number = f"{kind} {label} #{number}", number + 1
        self._parts[name] = part


def _absolute(each: Import, package: str) -> str | None:
    try:
        return importlib.util.resolve_name("." * each.dots + each.module, package)
    except ImportError:  # the function will meet it when it runs
        return None


def _import(name: str) -> types.ModuleType | None:
    try:
        return sys.modules.get(name) or importlib.import_module(name)
    except Exception:  # noqa: BLE001  (the task will meet it when it runs; here it counts by name)
        return None


def _hash_of(value: object) -> str | None:
    try:
        return stable_hash(value)
    except UnhashableInputError:
        return None


def _wrapped_in(value: Any) -> dict[str, Any] | None:
    """Return what a wrapper of some code holds; None if the value is no such wrapper."""
    for kinds, names in _WRAPPERS:
        if isinstance(value, kinds):
            return {name: getattr(value, name) for name in names}
    return None


_WRAPPERS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (functools.partial | functools.partialmethod, ("func", "args", "keywords")),
    (types.MethodType, ("__func__", "__self__")),
    (staticmethod | classmethod, ("__func__",)),
    (property, ("fget", "fset", "fdel")),
    (functools.cached_property, ("func",)),
    (functools.singledispatchmethod, ("func", "dispatcher")),
)


def _held_by(value: Any) -> dict[str, Any] | None:
    """Return the function in an object of somebody else's class: a task, a cache, a dispatcher."""
    state = getattr(value, "__dict__", {}) if callable(value) else {}
    for name in ("fn", "__wrapped__", "func", "py_func"):
        if callable(state.get(name)):
            return {name: state[name]}
    return None


def _items(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _holds(container: Any, items: list[Any]) -> bool:
    return len(container) == len(items) and all(map(operator.is_, _items(container), items))


def _holds_code(value: Any, depth: int = 0) -> bool:
    if type(value) in _CONTAINERS and depth < _DEEPEST:
        return any(_holds_code(each, depth + 1) for each in _items(value))
    return callable(value) or _wrapped_in(value) is not None


def _place(thing: Any) -> str:
    """Name something installed: by its top package, as modules inside move between releases."""
    top = str(getattr(thing, "__module__", None)).partition(".")[0]
    return f"{top}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


_walks: dict[types.FunctionType, _Walk] = {}
