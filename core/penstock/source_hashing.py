"""What a function's own source says, as a hash.

Comments, docstrings, decorators and layout do not count, nor do the file and the lines it is in.
Where there is no source, and for a lambda, the bytecode is taken instead; its hash changes with
the version of Python, that of the source does not. What the function reaches is followed by
`source_graph`.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from typing import Any

from penstock.function_syntax import canonical_source
from penstock.hashing import stable_hash

__all__ = ["code_hash", "source_hash", "underlying"]

# By identity: code objects of equal bytecode are equal, whatever their source.
_known: dict[int, tuple[weakref.ref[types.CodeType], str]] = {}


def source_hash(fn: Any) -> str:
    """Hash the source of a function, or of the method a callable object is called by.

    What the function calls, and what it captures, is not followed.

    Raises:
        UnhashableInputError: a `functools.partial` binds something without a stable hash.
    """
    if isinstance(fn, functools.partial):  # what it binds is not among the run's inputs
        bound = stable_hash({"args": fn.args, "keywords": fn.keywords})
        return stable_hash((source_hash(fn.func), bound))
    function = underlying(fn)
    return stable_hash(fn) if function is None else code_hash(function)


def underlying(fn: Any) -> types.FunctionType | None:
    """Return the function in which the work of a callable is written, if it is in Python."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if hasattr(fn, "__wrapped__"):
        fn = inspect.unwrap(fn)
    if isinstance(fn, types.FunctionType):
        return fn
    call = inspect.getattr_static(type(fn), "__call__", None)
    return underlying(call) if isinstance(call, types.FunctionType) else None


def code_hash(fn: types.FunctionType) -> str:
    """Hash what is written in a function; found once for each code object."""
    code = fn.__code__
    known = _known.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    found = stable_hash(canonical_source(fn) or code)
    key = id(code)
    _known[key] = (weakref.ref(code, lambda _: _known.pop(key, None)), found)
    return found
