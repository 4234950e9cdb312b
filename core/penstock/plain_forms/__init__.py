"""How values of other types are restated as simpler ones, for hashing.

A *plain form* is a function from a value to built-in values that say all that makes it what it
is. `BY_TYPE` has those of the standard library that is loaded anyway. `BY_NAME` has those of
modules that are not imported for this: the key is the top package and the class's qualified
name, which moves less between releases than the submodule does.

- `standard`: the standard library;  `code`: functions, classes, modules
- `arrays`: numpy;  `frames`: pandas;  `arrow`: pyarrow;  `polars_frames`: polars
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.plain_forms import arrays, arrow, code, frames, polars_frames, standard
from penstock.plain_forms.base import NoStableHashError, Parts, full_name, top_name

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = [
    "ADVICE",
    "BY_NAME",
    "BY_TYPE",
    "COMPLETE",
    "NoStableHashError",
    "Parts",
    "full_name",
    "top_name",
]

BY_TYPE: dict[Any, PlainForm] = {**standard.BY_TYPE, **code.BY_TYPE}

BY_NAME: dict[str, PlainForm] = {
    **standard.BY_NAME,
    **code.BY_NAME,
    **arrays.BY_NAME,
    **frames.BY_NAME,
    **arrow.BY_NAME,
    **polars_frames.BY_NAME,
}

COMPLETE = (
    standard.COMPLETE | arrays.COMPLETE | frames.COMPLETE | arrow.COMPLETE | polars_frames.COMPLETE
)
"""Forms that hold for subclasses too: their own attributes are caches and internals."""

ADVICE = {
    "_io._IOBase": "it is an open file: pass its path",
    "_asyncio.Future": "await it, and pass what it gives",
    "builtins.coroutine": "await it, and pass what it gives",
    "builtins.generator": "reading it uses it up: pass a list",
    "collections.Iterator": "reading it uses it up: pass a list",
    "logging.Logger": "get a logger inside the task: get_run_logger()",
    "polars.LazyFrame": "it is a plan and not yet data: pass lazy_frame.collect(), or its path",
    "polars.Expr": "it is a plan and not yet data: make it inside the task",
    "pyarrow.RecordBatchReader": "reading it uses it up: pass reader.read_all()",
    "pyarrow.Dataset": "it is a plan and not yet data: pass dataset.to_table(), or its path",
}
"""What to do about objects that have no hash and cannot get one, by name of a base class."""
