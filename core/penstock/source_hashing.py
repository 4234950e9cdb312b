"""What a function's source says, apart from how and where it is written down.

Comments, docstrings, decorators and layout do not count, nor do the file and the lines it is in.
Where there is no source, and for a lambda (whose lines hold more than the lambda), the bytecode
is taken instead; its hash changes with the version of Python, that of the source does not.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
import weakref
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

from penstock.hashing import stable_hash

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["source_hash"]

# By function and not by code: code objects of equal bytecode are equal, whatever their source.
_known: weakref.WeakKeyDictionary[Callable[..., Any], str] = weakref.WeakKeyDictionary()


def source_hash(fn: Any) -> str:
    """Hash the source of a function, or of the method a callable object is called by.

    What the function calls, and what it captures, is not followed.

    Raises:
        UnhashableInputError: a `functools.partial` binds something without a stable hash.
    """
    if isinstance(fn, functools.partial):  # what it binds is not among the run's inputs
        bound = stable_hash({"args": fn.args, "keywords": fn.keywords})
        return stable_hash((source_hash(fn.func), bound))
    fn = inspect.unwrap(getattr(fn, "__func__", fn))
    code = getattr(fn, "__code__", None)
    if not isinstance(code, types.CodeType):
        call = inspect.getattr_static(type(fn), "__call__", None)
        return source_hash(call) if isinstance(call, types.FunctionType) else stable_hash(fn)
    found = _known.get(fn)
    if found is None:
        found = _known[fn] = stable_hash(_bare_source(fn, code.co_name) or code)
    return found


def _bare_source(fn: Callable[..., Any], name: str) -> str | None:
    try:
        text = inspect.getsource(fn)
        # A method is indented: taking that away could change the text inside its strings.
        tree = ast.parse("if True:\n" + text if text[:1].isspace() else text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                node.decorator_list = []
                return _canonical(node)
    except (OSError, TypeError, ValueError, SyntaxError, TokenError, RecursionError):
        return None  # no source, or not the text of this function alone
    return None  # a lambda, or the file has changed since


def _canonical(node: object) -> str:
    """Write a syntax tree without places and empty fields, the same in all Python versions."""
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    given = [f"{n}={_canonical(v)}" for n, v in fields.items() if v is not None and v != []]
    return f"{type(node).__name__}({','.join(given)})"


_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
