"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["format_size", "parse_size"]

_FACTORS: Final = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_TEXT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?)b\s*", re.ASCII | re.IGNORECASE)


def parse_size(name: str, value: object) -> int:
    """Return a number of bytes, given as one or as text such as ``"2GB"`` or ``"512 MiB"``.

    A unit without its B is refused: what G means differs from tool to tool.

    Args:
        name: whose value it is, for the message.
        value: what the user wrote.
    """
    nbytes = 0
    if type(value) is int:
        nbytes = value
    elif isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        number, unit = match.groups()
        nbytes = int(float(number) * _FACTORS[unit.lower()])
    if nbytes < 1:
        raise ValueError(
            f"{name} must be a whole number of bytes, 1 or more, or text such as '2GB' or "
            f"'512 MiB' (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), not {value!r}"
        )
    return nbytes


def format_size(nbytes: int) -> str:
    """Return a size in three digits, with decimal units: ``"1.23 GB"``, ``"512 bytes"``."""
    size, unit = float(nbytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:  # or it would be rounded to four digits
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
