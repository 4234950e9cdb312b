"""The far side as one package of source, which a plugin of Dask's puts into every worker.

The package has a name of its own for each content, so that runs of several versions of Penstock can
share a cluster, and none is in the way of a Penstock that is installed there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from typing import Any, Final, NamedTuple

from distributed import WorkerPlugin

__all__ = ["Bundle", "FarSidePlugin", "bundle", "call_far_side"]

_PARTS: Final = (("penstock.worker", None), ("penstock_runners.dask_cluster", "far"))
"""Packages, and the module of each that is wanted; None for all."""


class Bundle(NamedTuple):
    """A package by source."""

    name: str
    sources: dict[str, str]
    """By full name; that of the package itself is its `__init__`."""


@functools.cache
def bundle() -> Bundle:
    """Return the far side of this version."""
    found: dict[str, str] = {}
    for package, wanted in _PARTS:
        for entry in importlib.resources.files(package).iterdir():
            module, dot, suffix = entry.name.partition(".")
            if suffix == "py" and dot and (wanted is None or module == wanted):
                found[module] = entry.read_text(encoding="utf-8")
    content = "\0".join(f"{module}\0{source}" for module, source in sorted(found.items()))
    name = f"_penstock_far_{hashlib.blake2b(content.encode(), digest_size=8).hexdigest()}"
    sources = {
        name if module == "__init__" else f"{name}.{module}": source.replace(
            "from penstock.worker", f"from {name}"
        )
        for module, source in found.items()
    }
    return Bundle(name, sources)


class FarSidePlugin(WorkerPlugin):
    """Makes the package importable in a worker, before that runs anything of ours.

    Args:
        name: of the plugin; it is the run's own, so that it can be taken back.
        far_side: what to put there.
    """

    def __init__(self, name: str, far_side: Bundle) -> None:
        self.name = name
        self.package = far_side.name
        self.sources = far_side.sources

    def setup(self, worker: Any) -> None:
        """Install the package, unless it is there: called by Dask in each worker."""
        import importlib
        import importlib.abc
        import importlib.machinery
        import sys

        del worker
        package, sources = self.package, self.sources

        class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
            def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
                del path, target
                if fullname not in sources:
                    return None
                return importlib.machinery.ModuleSpec(
                    fullname, self, is_package=fullname == package
                )

            def get_source(self, fullname: str) -> str:
                return sources[fullname]

            def get_code(self, fullname: str) -> Any:
                file = f"{fullname.replace('.', '/')}.py"
                return compile(sources[fullname], file, "exec", dont_inherit=True)

        if package not in sys.modules:
            sys.meta_path.append(Finder())
            importlib.import_module(f"{package}.far")


def call_far_side(package: str, function: str, *arguments: Any) -> Any:
    """Call a function of the far side, in a worker. This function goes there by value."""
    import sys

    return getattr(sys.modules[f"{package}.far"], function)(*arguments)


# Dask tries plain pickle first, which would send these by name, for a worker that cannot import
# them. In `__main__` there are none such, so that cloudpickle sends them by value.
for _part in (FarSidePlugin, FarSidePlugin.__init__, FarSidePlugin.setup, call_far_side):
    _part.__module__ = "__main__"
