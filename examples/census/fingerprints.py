"""Fingerprints of functions that survive renaming: a copy keeps most of what its original has.

A function becomes the sequence of its syntax nodes, without names, literals, annotations,
decorators and docstrings. Every run of `GRAM` nodes is hashed, and of every `WINDOW` neighbouring
hashes the smallest is kept: *winnowing*, S. Schleimer, D. Wilkerson, A. Aiken, "Winnowing: Local
Algorithms for Document Fingerprinting", SIGMOD 2003. Its promise: two functions that share a run
of `GRAM + WINDOW - 1` nodes share a fingerprint, while about 2 / (WINDOW + 1) of the hashes remain.

The hashes are zlib's and hashlib's; Python's own `hash()` differs from process to process.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sources import Unusable
from .syntax import FUNCTIONS, is_bare_string, length, parse, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .syntax import FunctionNode

__all__ = ["FEWEST_KINDS", "GRAM", "WINDOW", "FunctionPrint", "fingerprint", "winnow"]

GRAM = 8
WINDOW = 4
FEWEST_KINDS = 12  # of hashes; short or repetitive functions are alike by chance

LEFT_OUT = frozenset({"annotation", "ctx", "decorator_list", "returns", "type_params"})
TOKEN_BYTES = 2


@dataclass(frozen=True, slots=True)
class FunctionPrint:
    """One function as the search for duplicates sees it.

    Attributes:
        name: The qualified name.
        line: Where `def` stands.
        lines: How long it is.
        shape: A digest of the whole sequence, equal for copies that differ in names only.
        hashes: The winnowed fingerprints, sorted, each once.
    """

    name: str
    line: int
    lines: int
    shape: str
    hashes: tuple[int, ...]


def fingerprint(text: str) -> tuple[FunctionPrint, ...]:
    """Fingerprint every function of a file that has enough of a face.

    Depends on the text alone, so that the result holds for as long as the text stays the same.
    A text that does not parse has no functions; `measure` is the one to complain.
    """
    try:
        module = parse(text)
    except Unusable:
        return ()
    prints = []
    for name, node in _functions(module):
        sequence = _sequence(node)
        found = list(winnow(_gram_hashes(sequence)))
        if len(set(found)) >= FEWEST_KINDS:
            shape = hashlib.blake2b(sequence, digest_size=12).hexdigest()
            prints.append(FunctionPrint(name, node.lineno, length(node), shape, _distinct(found)))
    return tuple(sorted(prints, key=lambda found: (found.line, found.name)))


def winnow(hashes: Sequence[int], window: int = WINDOW) -> Iterator[int]:
    """Yield the smallest of every `window` neighbouring hashes, each place once.

    Of equals the rightmost, as in the paper: it stays the smallest for longest.
    """
    least = -1  # where the smallest hash of the current window stands
    for end in range(window - 1, len(hashes)):
        start = end - window + 1
        if least < start:  # it slid out of the window, or this is the first one
            least = min(range(end, start - 1, -1), key=hashes.__getitem__)
        elif hashes[end] <= hashes[least]:
            least = end
        else:
            continue
        yield hashes[least]


def _functions(module: ast.Module) -> Iterator[tuple[str, FunctionNode]]:
    """Yield every function with its qualified name; only statements can contain one."""
    todo: list[tuple[ast.AST, str]] = [(module, "")]
    while todo:
        node, scope = todo.pop()
        if isinstance(node, FUNCTIONS):
            yield scope + node.name, node
        within = scope_of(node, scope)
        todo.extend(
            (child, within)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
        )


def _sequence(function: FunctionNode) -> bytes:
    """Return the kinds of a function's nodes in reading order, `TOKEN_BYTES` for each."""
    sequence = bytearray()
    todo: list[ast.AST] = [function]
    while todo:
        node = todo.pop()
        sequence += _token(type(node).__name__)
        todo.extend(reversed(_parts(node)))
    return bytes(sequence)


class _EndOfBlock(ast.AST):
    """Stands after each block: `if a: b; c` is not `if a: b` followed by `c`."""


END_OF_BLOCK = _EndOfBlock()


def _parts(node: ast.AST) -> list[ast.AST]:
    """Return the children of a node that count for its shape, in reading order."""
    parts: list[ast.AST] = []
    for field in node._fields:
        if field in LEFT_OUT:
            continue
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            parts.append(value)
        elif isinstance(value, list) and value:
            parts += [
                part for part in value if isinstance(part, ast.AST) and not is_bare_string(part)
            ]
            if isinstance(value[0], ast.stmt):
                parts.append(END_OF_BLOCK)
    return parts


@functools.cache
def _token(kind: str) -> bytes:
    if kind == "AnnAssign":  # an annotated copy is a copy
        kind = "Assign"
    return zlib.crc32(kind.encode()).to_bytes(4)[-TOKEN_BYTES:]


def _gram_hashes(sequence: bytes) -> list[int]:
    size = TOKEN_BYTES * GRAM
    return [
        zlib.crc32(sequence[at : at + size])
        for at in range(0, len(sequence) - size + 1, TOKEN_BYTES)
    ]


def _distinct(hashes: Iterable[int]) -> tuple[int, ...]:
    """Return the hashes in order, a repeated one made different each time it comes.

    So that ten equal statements in a row do not look like a hundred of them.
    """
    times = Counter[int]()
    distinct = set()
    for found in hashes:
        again = times[found]
        times[found] += 1
        distinct.add(zlib.crc32(again.to_bytes(4), found) if again else found)
    return tuple(sorted(distinct))
