"""Tables: with rules and colours on a terminal, plain columns for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["is_terminal", "printable", "show_pairs", "show_table"]


def printable(text: str) -> str:
    """Return a text without what would steer a terminal: whoever wrote it may be anybody."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def is_terminal() -> bool:
    """Whether a person reads what is written to stdout."""
    return Console().is_terminal


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout; off a terminal with two spaces or more between the columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not is_terminal():
        _show_plainly([[column.upper() for column in columns], *cells])
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # rather than cut off: people copy from here
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def show_pairs(pairs: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Write names with their values below each other; values are not cut off."""
    _show_plainly([[printable(name), printable(value)] for name, value in pairs], indent)


def _show_plainly(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(f"{indent}{'  '.join(padded)}".rstrip())
