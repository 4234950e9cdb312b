"""A census as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from .report import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .ranking import Census

__all__ = ["as_tables"]

NUMBER_HEADS = ("lines", "stmts", "branches", "depth", "args")  # `NUMBERS`, for 80 columns
PLACES_SHOWN = 4  # of a group of duplicates; the files have all of them


def as_tables(census: Census, *, top: int) -> Iterator[Table]:
    """Yield the tables, at most `top` rows each, those without any left out."""
    totals = Table("", Column(justify="right"), show_header=False, box=SIMPLE_HEAD, pad_edge=False)
    totals.title, totals.title_justify = "Code census", "left"
    for name, count in census.counts():
        totals.add_row(name, count)
    yield totals
    for table in _lists(census, top):
        if table.row_count:
            yield table


def _lists(census: Census, top: int) -> Iterator[Table]:
    for title, functions in census.rankings():
        table = _table(title, NUMBER_HEADS, ("function",))
        for row in functions[:top]:
            table.add_row(*row.numbers(), _text(f"{row.name}  {row.where}"))
        yield table
    table = _table("Near-duplicates", ("alike", "lines"), ("functions",))
    for group in census.duplicates[:top]:
        places = [f"{place.name}  {place.where}" for place in group.places]
        if len(places) > PLACES_SHOWN:
            hidden = len(places) - PLACES_SHOWN + 1
            places[PLACES_SHOWN - 1 :] = [f"and {hidden} more"]
        names = Text("\n").join(map(_text, places))
        table.add_row(f"{group.similarity:.2f}", str(group.repeated_lines), names)
    yield table
    table = _table("Skipped", (), ("path", "reason"))
    for left_out in census.skipped[:top]:
        table.add_row(_text(left_out.path), _text(left_out.reason))
    yield table


def _table(title: str, numbers: Iterable[str], texts: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in numbers:
        table.add_column(column, justify="right")
    for column in texts:
        table.add_column(column, overflow="fold")
    return table


def _text(text: str) -> Text:
    return Text(printable(text))  # not a `str`, in which rich takes [brackets] for markup
