"""How a module of `runtime` finds an attribute: the environment first, then the current run."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["look_up"]


def look_up(module: str, name: str, fields: Mapping[str, Callable[[], Any]]) -> Any:
    """Return a field of the current run, or the value that a test has put in its place.

    ``PENSTOCK__RUNTIME__TASK_RUN__NAME=x`` (or with ``PREFECT__``) makes `task_run.name` say
    ``x``; what reads as JSON is taken as JSON where the field is no text.
    """
    if name not in fields:
        raise AttributeError(f"module 'penstock.runtime.{module}' has no attribute {name!r}")
    for prefix in ("PENSTOCK", "PREFECT"):
        text = os.environ.get(f"{prefix}__RUNTIME__{module.upper()}__{name.upper()}")
        if text is not None:
            return _read(text, name)
    return fields[name]()


def _read(text: str, name: str) -> Any:
    if name in ("tags", "parameters", "resources", "run_count", "task_inputs"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
