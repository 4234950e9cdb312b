"""The opt-in alias under which a program written for Prefect runs on Penstock unchanged.

    python -m penstock.compat script.py [arguments...]

runs a script so, and ``with prefect_alias(): ...`` does the same for the imports inside of it.
While it holds, ``prefect.tasks`` *is* the module `penstock.tasks`, and so on for every path that
we have. It holds in this process only: worker processes get functions by value, and need it no
more, but a module of your own that a worker imports, and that imports `prefect`, is not served.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import runpy
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

__all__ = ["main", "prefect_alias"]

_ALIAS, _OURS = "prefect", "penstock"


@contextlib.contextmanager
def prefect_alias(*, shadow_installed: bool = False) -> Iterator[None]:
    """Let `import prefect` and its submodules give our modules until the context ends.

    Names that were imported stay usable afterwards. Inside another `prefect_alias` this one
    changes nothing.

    Args:
        shadow_installed: go ahead although the real Prefect is installed, and hide it.

    Raises:
        RuntimeError: the real Prefect has been imported, or is installed and not to be hidden.
    """
    if any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        yield
        return
    _check_no_prefect(shadow_installed)
    finder = _AliasFinder()
    sys.meta_path.insert(0, finder)  # before the finder that would load our files a second time
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.aliased:
            sys.modules.pop(name, None)


def _check_no_prefect(shadow_installed: bool) -> None:
    imported = [name for name in sys.modules if name.partition(".")[0] == _ALIAS]
    if imported:
        raise RuntimeError(
            f"{imported[0]!r} has been imported already, and parts of two libraries under one "
            "name would not fit together: take the alias before anything imports prefect"
        )
    if shadow_installed:
        return
    spec = importlib.util.find_spec(_ALIAS)
    if spec is not None and spec.origin is not None:  # a bare directory of that name has none
        raise RuntimeError(
            f"prefect is installed ({spec.origin}): prefect_alias(shadow_installed=True) hides it"
        )


class _AliasFinder(MetaPathFinder):
    """Answers for `prefect` and all below it."""

    def __init__(self) -> None:
        self.aliased: list[str] = []

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  (part of the interface)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        top, _, below = fullname.partition(".")
        if top != _ALIAS:
            return None
        ours = f"{_OURS}.{below}" if below else _OURS
        if not _exists(ours):
            raise ModuleNotFoundError(
                f"Penstock has no module {ours!r} to take the place of {fullname!r}",
                name=fullname,
            )
        return ModuleSpec(fullname, _AliasLoader(ours, self.aliased))


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if name.startswith(f"{error.name}.") or name == error.name:
            return False
        raise  # a module of ours is there, and what it needs is not


class _AliasLoader(Loader):
    """Puts our module where the import system has made an empty one.

    It takes up whatever stands in `sys.modules` after `exec_module`. Handing our module over
    earlier, from `create_module`, would give it a spec with the alias for a name.
    """

    def __init__(self, ours: str, aliased: list[str]) -> None:
        self._ours = ours
        self._aliased = aliased

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._ours)
        self._aliased.append(module.__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script as `__main__` with the alias in place; the rest of the line is its own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0].startswith("-"):
        sys.stderr.write("usage: python -m penstock.compat script.py [arguments...]\n")
        return 2
    sys.argv[:] = words
    sys.path[0] = str(Path(words[0]).resolve().parent)  # as `python script.py` does
    with prefect_alias():
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    # Not this copy of the module: there must be one _AliasFinder for all who ask.
    sys.exit(importlib.import_module("penstock.compat").main())
