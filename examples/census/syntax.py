"""Parsing, and what the steps must agree on: what a function is called and what a docstring is."""

from __future__ import annotations

import ast
import re
import warnings

from .sources import Unusable

__all__ = ["FUNCTIONS", "FunctionNode", "is_bare_string", "length", "parse", "scope_of"]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

FILENAME = "<census>"  # what the parser's own warnings name, and so what can be silenced

TRIES = 10
"""Of the parser, which counts its depth for all threads together: where garbage is collected in
the middle of it, another thread may come in between, and the count is off for both of them
(https://github.com/python/cpython/issues/106905)."""


def parse(text: str) -> ast.Module:
    """Parse `text`, or raise `Unusable` with a reason that is the same on every machine.

    Without its cause: the reason says all, and a log with a thousand of them stays readable.
    """
    _silence_warnings_about_sources()
    try:
        return _parsed(text)
    except SyntaxError as error:
        raise Unusable(f"syntax error: {error.msg} (line {error.lineno})") from None
    except ValueError as error:
        raise Unusable(f"syntax error: {error}") from None
    except (RecursionError, MemoryError):  # the parser's stacks, not the machine's memory
        raise Unusable("nested too deeply for the parser") from None


def _parsed(text: str) -> ast.Module:
    for _ in range(TRIES):
        try:
            return ast.parse(text, FILENAME)
        except SystemError as error:
            problem = error
    raise problem


def scope_of(node: ast.AST, scope: str) -> str:
    """Return the prefix of the qualified names of what is defined within `node`."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return f"{scope}{name}.<locals>."
        case ast.ClassDef(name=name):
            return f"{scope}{name}."
    return scope


def is_bare_string(node: ast.AST) -> bool:
    """Return whether `node` is a statement that is only a string: a docstring, or used as one."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def length(node: FunctionNode) -> int:
    """Return a function's lines from `def` to its end, blank lines and comments included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _silence_warnings_about_sources() -> None:
    """Ignore what the parser warns of: invalid escapes in other people's code are not our news.

    A filter for our file name alone and not `warnings.catch_warnings`, which swaps the filters of
    the whole process: two threads that leave it in the wrong order leave them swapped.
    """
    ours = ("ignore", None, Warning, re.compile(re.escape(FILENAME)), 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", module=re.escape(FILENAME))
