"""A census as JSON and Markdown, and the writing of both.

Nothing here tells when or where a census was taken: equal code gives equal bytes.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .ranking import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .ranking import Census

__all__ = ["FORMAT", "as_json", "as_markdown", "checked_output", "printable", "write"]

FORMAT = "penstock-code-census/1"


def checked_output(output: str) -> Path:
    """Return the folder to write to, or say at once why it will not do."""
    folder = Path(output).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"output={output!r} cannot be a folder: {existing} is a file. Give another place."
        )
    if not os.access(existing, os.W_OK):
        raise PermissionError(
            f"output={output!r} cannot be written: {existing} is read-only. Give another place."
        )
    return folder


def write(census: Census, folder: Path) -> tuple[Path, ...]:
    """Write `census.json` and `census.md` into `folder`, which is made if need be.

    Each appears whole or not at all: who reads an earlier report never meets half of a new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in (("census.json", as_json(census)), ("census.md", as_markdown(census))):
        path = folder / name
        draft = folder / f".{name}.{uuid.uuid4().hex}"
        try:
            draft.write_bytes(content.encode())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        written.append(path)
    return tuple(written)


def as_json(census: Census) -> str:
    """Return the report for programs."""
    return json.dumps({"format": FORMAT, **asdict(census)}, indent=2) + "\n"


def as_markdown(census: Census) -> str:
    """Return the report for people, as GitHub shows it."""
    return "\n".join(_markdown(census)) + "\n"


def printable(text: str) -> str:
    """Return text that any encoding and any terminal takes: a file name may hold any byte."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _markdown(census: Census) -> Iterator[str]:
    yield "# Code census"
    yield from _grid(("total", "count"), census.counts())
    for title, functions in census.rankings():
        yield f"\n## {title}"
        rows = ((*row.numbers(), _code(row.name), _code(row.where)) for row in functions)
        yield from _grid((*NUMBERS, "function", "where"), rows)
    yield "\n## Near-duplicates"
    groups = (
        (
            f"{group.similarity:.2f}",
            str(group.repeated_lines),
            "<br>".join(f"{_code(place.name)} {_code(place.where)}" for place in group.places),
        )
        for group in census.duplicates
    )
    yield from _grid(("similarity", "repeated lines", "functions"), groups)
    yield "\n## Skipped"
    skipped = ((_code(left_out.path), _prose(left_out.reason)) for left_out in census.skipped)
    yield from _grid(("path", "reason"), skipped)


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table, or a word where it would be empty."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        yield "\nNone."
        return
    yield f"\n| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from lines


def _code(text: str) -> str:
    """Return a code span, in which `__init__` stays as it is and `|` does not end the cell."""
    text = printable(text).replace("|", "\\|")
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{fence} {text} {fence}"


def _prose(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", printable(text))
