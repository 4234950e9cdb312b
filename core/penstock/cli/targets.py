"""Finds the flow that TARGET means: a file, a flow in a file, or a flow in a module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from penstock.cli.errors import UsageError
from penstock.flows import Flow

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LoadError", "find_flow"]


class LoadError(Exception):
    """The user's code raised while it was loaded.

    Attributes:
        reason: what it raised, with a traceback that begins in the user's code.
    """

    def __init__(self, place: str, reason: Exception) -> None:
        super().__init__(f"{place} could not be loaded")
        self.reason: Exception = _without_our_frames(reason)


def find_flow(target: str) -> Flow[..., Any]:
    """Load the code that a target names, and return the flow in it.

    Args:
        target: `path/to/file.py`, `path/to/file.py:flow` or `package.module:flow`; a flow goes by
            the name of its function or by its own.

    Raises:
        UsageError: there is no such file, module or flow, or more than one flow to choose from.
        LoadError: the code could not be loaded.
    """
    place, flow_name = _split(target)
    if Path(place).is_file():
        module = _load_file(Path(place).resolve())
    elif place.endswith(".py") or "/" in place or os.sep in place:
        what = f"{place} is a folder" if Path(place).is_dir() else f"there is no file {place}"
        raise UsageError(f"{what}. TARGET is FILE.py, FILE.py:FLOW or MODULE:FLOW.")
    else:
        module = _load_module(place)
    return _flow_named(flow_name, module, place) if flow_name else _only_flow(module, place)


def _split(target: str) -> tuple[str, str]:
    """Split off the flow's name at the last colon, unless that is part of a path."""
    place, colon, flow_name = target.rpartition(":")
    if not colon or Path(target).is_file() or "/" in flow_name or os.sep in flow_name:
        return target, ""
    return place, flow_name


# --- loading ---------------------------------------------------------------------------


def _load_file(path: Path) -> ModuleType:
    """Load a file as a module of its own, as `python FILE` would, but for its main block."""
    sys.path.insert(0, str(path.parent))
    name, is_importable = _module_name(path)
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if not is_importable:
        # No worker finds it under this name, so that its functions have to travel by value.
        cloudpickle.register_pickle_by_value(module)
    try:
        loader.exec_module(module)
    except Exception as error:
        raise LoadError(path.name, error) from error
    return module


def _module_name(path: Path) -> tuple[str, bool]:
    """Return the name to load a file under, and whether importing that name finds the file.

    Workers import what they are sent by this name, with the driver's `sys.path`.
    """
    stem = re.sub(r"\W", "_", path.stem)
    if stem == path.stem and path.suffix == ".py" and stem not in sys.modules:
        found = importlib.util.find_spec(stem)
        if found is not None and found.origin and Path(found.origin).resolve() == path:
            return stem, True
    number = 1
    while (name := f"{stem}_{number}") in sys.modules or importlib.util.find_spec(name):
        number += 1
    return name, False


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"there is no file {name}, and it is no name of a module either")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"there is no file {name}, and no module {error.name!r}") from error
        raise LoadError(name, error) from error
    except Exception as error:
        raise LoadError(name, error) from error


def _without_our_frames(error: Exception) -> Exception:
    """Cut the import system and ourselves off the front of a traceback."""
    ours = (os.path.dirname(__file__), importlib.__file__, "<frozen importlib")
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(ours):
        step = step.tb_next
    return error.with_traceback(step)


# --- choosing --------------------------------------------------------------------------


def _only_flow(module: ModuleType, place: str) -> Flow[..., Any]:
    own = {
        name: flow
        for name, flow in _flows_in(module).items()
        # A flow around something without a module of its own, say a partial, belongs here, too.
        if vars(flow).get("__module__", module.__name__) == module.__name__
    }
    if len(own) == 1:
        return next(iter(own.values()))
    if own:
        choices = "\n".join(f"  {place}:{name}" for name in own)
        raise UsageError(f"{place} defines {len(own)} flows, so say which:\n{choices}")
    raise UsageError(f"{place} defines no flow{_listed('; it imports', _flows_in(module))}")


def _flow_named(flow_name: str, module: ModuleType, place: str) -> Flow[..., Any]:
    flows = _flows_in(module)
    if flow_name in flows:
        return flows[flow_name]
    for flow in flows.values():
        if flow_name in (flow.name, getattr(flow, "__name__", None)):
            return flow
    raise UsageError(f"{place} has no flow {flow_name!r}{_listed('; there are', flows)}")


def _flows_in(module: ModuleType) -> dict[str, Flow[..., Any]]:
    """Return the flows of a module, each by the first name it has there."""
    flows: dict[str, Flow[..., Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Flow) and not any(value is flow for flow in flows.values()):
            flows[name] = value
    return flows


def _listed(words: str, flows: dict[str, Flow[..., Any]]) -> str:
    return f"{words}: {', '.join(sorted(flows))}" if flows else ""
