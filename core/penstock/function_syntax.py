"""The syntax of a function as it runs, apart from how and where it is written down.

The text in a file may have been edited since the function was loaded. So the statement around the
function is compiled again, and only if that gives the very code that runs is the syntax believed.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import functools
import linecache
import types
import warnings
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["canonical_source"]

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_TRIES = 10

_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUTURES = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag,
    __future__.all_feature_names,
    0,
)


def canonical_source(fn: types.FunctionType) -> str | None:
    """Write a function's syntax without comments, docstrings, decorators, layout and place.

    Returns None where there is no source, where it is not that of the running function, and for
    a lambda, whose lines hold more than the lambda.
    """
    code = fn.__code__
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, fn.__globals__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code, which has been compiled once
            statement = _statement_at(_parsed(text), code.co_firstlineno)
            if statement is None or not _compiles_to(statement, code):
                return None
        node = _definition_of(statement, code)
        return None if node is None else _written(node, without=("decorator_list",))
    except (SyntaxError, ValueError, RecursionError):
        return None


@functools.lru_cache(maxsize=16)
def _parsed(text: str) -> ast.Module:
    for _ in range(_TRIES - 1):
        # When other threads parse as well, the parser may lose count of its depth:
        # https://github.com/python/cpython/issues/106905
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _statement_at(module: ast.Module, line: int) -> ast.stmt | None:
    for statement in module.body:
        if _first_line(statement) <= line <= (statement.end_lineno or statement.lineno):
            return statement
    return None


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, _DOCUMENTED) else []
    return min([node.lineno, *(each.lineno for each in decorators)])


def _compiles_to(statement: ast.stmt, code: types.CodeType) -> bool:
    flags = code.co_flags & _FUTURES
    module = ast.Module([statement], type_ignores=[])
    again = compile(module, code.co_filename, "exec", flags=flags, dont_inherit=True)
    return any(each == code for each in _codes_in(again))


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_in(constant)


def _definition_of(statement: ast.stmt, code: types.CodeType) -> _Definition | None:
    for node in ast.walk(statement):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == code.co_name
            and _first_line(node) == code.co_firstlineno
        ):
            return node
    return None


def _written(node: object, without: tuple[str, ...] = ()) -> str:
    """Write a syntax tree without places and empty fields, the same in all Python versions."""
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    given = [
        f"{name}={_written(value)}"
        for name, value in fields.items()
        if value is not None and value != [] and name not in without
    ]
    return f"{type(node).__name__}({','.join(given)})"
