"""Which code is the user's own: neither the standard library's, nor installed, nor Penstock's."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OwnCode"]

_OURS = frozenset({"penstock", "penstock_runners"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class OwnCode:
    """Tells whose code something is, seen from one function.

    The package of that function is the user's own even where it is installed.
    """

    def __init__(self, module_name: str) -> None:
        top = _top(module_name)
        self._package = "" if top in sys.stdlib_module_names else top

    def has_module(self, module: Any) -> bool:
        """Whether a module is the user's own."""
        return self.has_scope(vars(module))

    def has_scope(self, scope: Mapping[str, Any], file: str = "") -> bool:
        """Whether a module is, by its global variables; without a `__file__`, by the file given."""
        name, path = scope.get("__name__"), scope.get("__file__") or file
        return self._has(name if isinstance(name, str) else "", path)

    def has_named(self, module_name: str) -> bool:
        """Whether a module is, that may not be imported yet."""
        module = sys.modules.get(module_name)
        if module is not None:
            return self.has_module(module)
        return self._has(module_name, _place_of(_top(module_name)))

    def _has(self, name: str, path: str | None) -> bool:
        top = _top(name)
        if top in _OURS:
            return False
        if top and top == self._package:
            return True
        if path is None:
            return False
        if not path or path.startswith("<"):  # typed in, or built into Python
            return top not in sys.stdlib_module_names
        return not _is_library(path)


def _top(module_name: str) -> str:
    return module_name.partition(".")[0]


@functools.lru_cache(maxsize=4096)
def _is_library(path: str) -> bool:
    path = os.path.abspath(path)
    if not _INSTALLED.isdisjoint(path.split(os.sep)):
        return True
    return path.startswith(_library_folders()) or os.path.realpath(path).startswith(
        _library_folders()
    )


@functools.lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(
        os.path.join(each, "") for path in named for each in (path, os.path.realpath(path))
    )


def _place_of(top_module: str) -> str | None:
    """Return where a module would be imported from, without doing so; None if nowhere."""
    try:
        spec = importlib.util.find_spec(top_module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    return spec.origin if spec.has_location else next(iter(folders), None) if folders else None
