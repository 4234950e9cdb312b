"""Counting what the functions of one file are made of."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .syntax import FUNCTIONS, is_bare_string, length, parse, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .syntax import FunctionNode

__all__ = ["FileMeasure", "FunctionMeasure", "measure"]

NESTING = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar,
    ast.Match,
)  # fmt: skip
DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
COUNT_FOR_NOTHING = (ast.Name, ast.Constant, ast.expr_context, ast.operator, ast.cmpop)


@dataclass(frozen=True, slots=True)
class FunctionMeasure:
    """The numbers of one function; a `def` nested in it has numbers of its own.

    Attributes:
        name: The qualified name, `Class.method` or `outer.<locals>.inner`.
        line: Where `def` stands.
        lines: From `def` to the end, comments and blank lines included.
        statements: Simple and compound statements, docstrings apart.
        branches: Cyclomatic complexity (T. McCabe, 1976), with `and`, `or`, conditional
            expressions, comprehensions and `case` counted as the decisions that they are.
        nesting: How many compound statements stand in each other; `elif` adds none.
        arguments: Parameters, `self`, `*args` and `**kwargs` included.
    """

    name: str
    line: int
    lines: int
    statements: int
    branches: int
    nesting: int
    arguments: int


@dataclass(frozen=True, slots=True)
class FileMeasure:
    """The numbers of one file; `statements` covers all of it, inside functions and out."""

    lines: int
    statements: int
    functions: tuple[FunctionMeasure, ...]


class _Count:
    """The running numbers of one function, or of the code outside of any."""

    __slots__ = ("branches", "nesting", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.branches = 1
        self.nesting = 0


def measure(text: str) -> FileMeasure:
    """Measure every function of a file; raises `Unusable` when it does not parse.

    Walks with a stack of its own: deep code is no reason to fail, nor to depend on how much of
    Python's stack the caller has used already.
    """
    outside = _Count()
    functions: list[tuple[str, FunctionNode, _Count]] = []
    # A node, how many compound statements it stands in, whose numbers it adds to, its scope.
    todo: list[tuple[ast.AST, int, _Count, str]] = [(parse(text), 0, outside, "")]
    while todo:
        node, depth, count, scope = todo.pop()
        count.branches += _decisions(node)
        if isinstance(node, ast.stmt):
            count.statements += not is_bare_string(node)
            if isinstance(node, NESTING):
                depth += 1
                count.nesting = max(count.nesting, depth)
        within = scope_of(node, scope)
        if isinstance(node, FUNCTIONS):
            inner = _Count()
            functions.append((scope + node.name, node, inner))
            todo.extend((child, depth, count, scope) for child in _evaluated_outside(node))
            todo.extend((child, 0, inner, within) for child in node.body)
            continue
        continued = _elif(node)
        todo.extend(
            (child, depth - (child is continued), count, within)
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, COUNT_FOR_NOTHING)
        )
    measures = [_measured(*function) for function in functions]
    return FileMeasure(
        lines=_line_count(text),
        statements=outside.statements + sum(function.statements for function in measures),
        functions=tuple(sorted(measures, key=lambda function: (function.line, function.name))),
    )


def _measured(name: str, node: FunctionNode, count: _Count) -> FunctionMeasure:
    return FunctionMeasure(
        name=name,
        line=node.lineno,
        lines=length(node),
        statements=count.statements,
        branches=count.branches,
        nesting=count.nesting,
        arguments=_argument_count(node.args),
    )


def _evaluated_outside(node: FunctionNode) -> Iterator[ast.AST]:
    """Yield what a `def` evaluates where it stands: decorators and defaults."""
    yield from node.decorator_list
    yield from node.args.defaults
    yield from (default for default in node.args.kw_defaults if default is not None)


def _decisions(node: ast.AST) -> int:
    """Return how many ways `node` itself adds to the one that leads through a function."""
    if isinstance(node, DECISIONS):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return int(not _is_else(node))
    return 0


def _is_else(case: ast.match_case) -> bool:
    """Return whether a `case` takes all that is left: `case _:` or `case name:`."""
    match case:
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            return True
    return False


def _elif(node: ast.AST) -> ast.If | None:
    """Return the `if` that continues this one; `else: if` parses to the same tree as `elif`."""
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        return node.orelse[0]
    return None


def _argument_count(args: ast.arguments) -> int:
    named = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
    return named + (args.vararg is not None) + (args.kwarg is not None)


def _line_count(text: str) -> int:
    """Count as Python does; `splitlines` also ends lines at form feeds and the like."""
    return text.count("\n") + (text != "" and not text.endswith("\n"))
