"""Which modules a worker cannot import, so that what they define has to go to it by value."""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import os
import site
import sys
import sysconfig
import threading
from typing import TYPE_CHECKING, Any, Final

import cloudpickle

from penstock.worker.packing import is_by_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

__all__ = ["ByValue", "is_by_value", "is_importable", "is_installed"]

_registry_lock = threading.RLock()
_COMMON_PREFIX: Final = "_penstock_"
"""Of modules that are made in every worker: see `penstock.worker.here`."""
_NEVER_SENT: Final = frozenset(
    {
        "__main__",
        "__mp_main__",
        "cloudpickle",
        "dask",
        "distributed",
        "penstock",
        "penstock_runners",
    }
)
"""Packages that no copy of one function is of use without, wherever they were loaded from; and the
main module, which cloudpickle sends anyway."""


class ByValue:
    """The modules whose functions and classes are pickled by value; a context that sees to it.

    ``__main__`` always is one; so are those that the user has registered with cloudpickle, and
    those that only this process can import: loaded from a file, say, or made by a test runner.
    Inside of `with_helpers` so are all files of a project that are loaded, if workers have none.

    Args:
        modules: further names; what is inside of them counts, too.
        only_installed: whether workers have what is installed and nothing else, as on other
            machines, where the files beside a script are not.
    """

    def __init__(self, modules: Sequence[str] = (), *, only_installed: bool = False) -> None:
        self._modules = tuple(modules)
        self._only_installed = only_installed
        self._looked_at: dict[str, tuple[ModuleType | None, int, bool]] = {}
        self._depth = 0
        self._registered: list[ModuleType] = []
        self._named: tuple[str, ...] = tuple(modules)
        self._helpers: tuple[str, ...] = ()
        """Modules and packages of the project, found among those that are loaded."""
        self.names: tuple[bytes, ...] = tuple(name.encode() for name in modules)
        """All of them, as they would stand in a pickle; but for ``__main__``."""

    def __contains__(self, module: str) -> bool:
        if module == "__main__" or (self._modules and _is_within(module, self._modules)):
            return True
        registered = cloudpickle.list_registry_pickle_by_value()
        if registered and _is_within(module, registered):
            return True
        return not self._can_import(module)

    def note(self, module: Any) -> None:
        """Look at the module of a function: what it defines may be among the arguments, too."""
        if type(module) is not str or module == "__main__" or module in self._named:
            return
        if module in self:
            self._named += (module,)
            self._show_names()

    def find_helpers(self) -> bool:
        """Look at what was loaded since the last time; return whether there are any helpers."""
        if self._only_installed:
            helpers = _project.parts()
            if helpers is not self._helpers:
                self._helpers = helpers
                self._show_names()
        return bool(self._helpers)

    def _show_names(self) -> None:
        self.names = tuple(name.encode() for name in (*self._named, *self._helpers))

    def _can_import(self, module: str) -> bool:
        now = sys.modules.get(module), len(sys.path)
        known = self._looked_at.get(module)
        if known is None or known[0] is not now[0] or known[1] != now[1]:
            can_import = is_importable(module) and (
                not self._only_installed or is_installed(module)
            )
            known = self._looked_at[module] = (*now, can_import)
        return known[2]

    def __enter__(self) -> None:
        _registry_lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._registered = _register(self._named)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            _unregister(self._registered)
        _registry_lock.release()

    @contextlib.contextmanager
    def with_helpers(self) -> Iterator[None]:
        """As the block of this object, and what its helpers define goes by value, too."""
        with self:
            registered = _register(self._helpers)
            try:
                yield
            finally:
                _unregister(registered)


class _Project:
    """What is loaded of files that are not installed, in the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._parts: tuple[str, ...] = ()

    def parts(self) -> tuple[str, ...]:
        """Return modules and outermost packages; the same tuple while there are no others."""
        with self._lock:
            if len(sys.modules) != len(self._seen):
                loaded = set(sys.modules)
                found = {_part_that_is_not_installed(name) for name in loaded - self._seen}
                new = sorted(part for part in found if part is not None)
                if not set(new) <= set(self._parts):
                    self._parts = tuple(dict.fromkeys((*self._parts, *new)))
                self._seen = loaded
            return self._parts


_project: Final = _Project()


def _register(names: Iterable[str]) -> list[ModuleType]:
    """Have cloudpickle send what these modules define; return those it did not send before."""
    registered: list[ModuleType] = []
    for name in names:
        module = sys.modules.get(name)
        if module is None or sys.modules.get(module.__name__) is not module:
            continue
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
    return registered


def _unregister(registered: list[ModuleType]) -> None:
    while registered:
        cloudpickle.unregister_pickle_by_value(registered.pop())


def _part_that_is_not_installed(name: str) -> str | None:
    """Return the outermost package of a module that is of a project, or None: it is installed."""
    if name.partition(".")[0] in _NEVER_SENT:
        return None
    for end in (*(i for i, char in enumerate(name) if char == "."), len(name)):
        part = name[:end]
        place: str | None = getattr(sys.modules.get(part), "__file__", None)
        if place is not None:  # else a namespace, and what is in it counts
            return None if _is_installed_at(place) else part
    return None


def _is_within(module: str, names: Any) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in names)


def is_importable(name: str) -> bool:
    """Whether a fresh interpreter with our `sys.path` would import this module from its place."""
    module = sys.modules.get(name)
    if name.startswith(_COMMON_PREFIX) or name in sys.builtin_module_names:
        return True
    if importlib.machinery.FrozenImporter.find_spec(name) is not None:
        return True
    path: Sequence[str] | None = None
    spec: importlib.machinery.ModuleSpec | None = None
    for end in (*(i for i, char in enumerate(name) if char == "."), len(name)):
        spec = importlib.machinery.PathFinder.find_spec(name[:end], path)
        if spec is None:
            return _is_made_by_an_importer(name)
        path = spec.submodule_search_locations
    origin = getattr(module, "__file__", None)
    return spec is not None and (origin is None or spec.origin == origin)


def is_installed(name: str) -> bool:
    """Whether a module is part of Python or of what is installed with it, and no file of a project.

    One that has no file counts as installed: who made it here would make it elsewhere.
    """
    place: str | None = getattr(sys.modules.get(name), "__file__", None)
    if place is None:
        return True
    return _is_installed_at(place)


@functools.lru_cache(maxsize=4096)
def _is_installed_at(place: str) -> bool:
    return os.path.realpath(place).startswith(_installed_places())


@functools.cache
def _installed_places() -> tuple[str, ...]:
    places = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    scripts = {sysconfig.get_path("scripts"), sysconfig.get_path("data")}
    return tuple(os.path.join(os.path.realpath(place), "") for place in places - scripts)


def _is_made_by_an_importer(name: str) -> bool:
    """Whether something on `sys.meta_path` that is no path finds it, as editable installs have."""
    top = name.partition(".")[0]
    for finder in sys.meta_path:
        if finder in (
            importlib.machinery.PathFinder,
            importlib.machinery.BuiltinImporter,
            importlib.machinery.FrozenImporter,
        ):
            continue
        find = getattr(finder, "find_spec", None)
        # A worker has the finders that `site` puts there, such as those of editable installs.
        if find is not None and "editable" in type(finder).__module__ + repr(finder).lower():
            return find(top, None) is not None
    return False
