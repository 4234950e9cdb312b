"""Reducing the numbers of all files to totals and rankings."""

from __future__ import annotations

import heapq
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .duplicates import DuplicateGroup
    from .measure import FileMeasure, FunctionMeasure
    from .sources import Skipped

__all__ = ["NUMBERS", "Census", "FunctionRow", "Totals", "rank"]

NUMBERS = ("lines", "statements", "branches", "nesting", "arguments")


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function in a ranking; its numbers are those of `FunctionMeasure`."""

    path: str
    line: int
    name: str
    lines: int
    statements: int
    branches: int
    nesting: int
    arguments: int

    @property
    def where(self) -> str:
        """The place as editors and terminals understand it."""
        return f"{self.path}:{self.line}"

    def numbers(self) -> list[str]:
        """Return the numbers in the order of `NUMBERS`."""
        return [str(getattr(self, name)) for name in NUMBERS]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a census counts over all files."""

    files: int
    skipped: int
    lines: int
    statements: int
    functions: int
    duplicate_groups: int
    duplicated_functions: int
    repeated_lines: int


@dataclass(frozen=True, slots=True)
class Census:
    """The result: totals, the heads of the rankings, and everything that was left out."""

    totals: Totals
    largest: tuple[FunctionRow, ...]
    most_branching: tuple[FunctionRow, ...]
    deepest: tuple[FunctionRow, ...]
    duplicates: tuple[DuplicateGroup, ...]
    skipped: tuple[Skipped, ...]

    def counts(self) -> Iterator[tuple[str, str]]:
        """Yield each total with its name, for people."""
        for name, count in asdict(self.totals).items():
            yield name.replace("_", " "), f"{count:,}"

    def rankings(self) -> Iterator[tuple[str, tuple[FunctionRow, ...]]]:
        """Yield each ranking of functions with its title."""
        yield "Largest functions", self.largest
        yield "Most branching functions", self.most_branching
        yield "Deepest functions", self.deepest


def rank(
    measures: Mapping[str, FileMeasure],
    groups: Sequence[DuplicateGroup],
    skipped: Iterable[Skipped],
    *,
    top: int,
) -> Census:
    """Reduce the numbers of all files, by path, to a census with the `top` of each ranking."""
    found = [
        (path, function) for path, measured in measures.items() for function in measured.functions
    ]
    left_out = tuple(sorted(skipped, key=attrgetter("path", "reason")))
    totals = Totals(
        files=len(measures),
        skipped=len(left_out),
        lines=sum(measured.lines for measured in measures.values()),
        statements=sum(measured.statements for measured in measures.values()),
        functions=len(found),
        duplicate_groups=len(groups),
        duplicated_functions=sum(len(group.places) for group in groups),
        repeated_lines=sum(group.repeated_lines for group in groups),
    )
    return Census(
        totals=totals,
        largest=_head(found, "lines", top),
        most_branching=_head(found, "branches", top),
        deepest=_head(found, "nesting", top),
        duplicates=tuple(groups[:top]),
        skipped=left_out,
    )


def _head(
    found: Iterable[tuple[str, FunctionMeasure]], by: str, top: int
) -> tuple[FunctionRow, ...]:
    def order(entry: tuple[str, FunctionMeasure]) -> tuple[int, int, str, int, str]:
        path, function = entry
        return (-getattr(function, by), -function.statements, path, function.line, function.name)

    head = heapq.nsmallest(top, found, key=order)
    return tuple(FunctionRow(path=path, **asdict(function)) for path, function in head)
