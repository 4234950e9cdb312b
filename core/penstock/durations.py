"""Lengths of time, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime

__all__ = ["format_duration", "since"]

_UNITS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


def format_duration(seconds: float) -> str:
    """Return a length of time in its largest unit: ``"3 h"``, ``"2 days"``, ``"under 1 s"``."""
    for unit, length in _UNITS:
        count = int(seconds / length)
        # Below two of a unit the smaller one says more: 40 h, 90 min.
        if count >= 2 or (count >= 1 and unit == "s"):
            return f"{count} {unit}"
    return "under 1 s"


def since(moment: datetime.datetime, now: datetime.datetime) -> str:
    """Say where a moment lies: ``"3 h ago"``, ``"just now"``, ``"in 2 days"``."""
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        return f"in {format_duration(-seconds)}"
    return "just now" if seconds < 1 else f"{format_duration(seconds)} ago"
