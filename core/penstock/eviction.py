"""Which records have to go: those that expired, and the longest unused of a store too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable

__all__ = ["Candidate", "to_evict"]


class Candidate(NamedTuple):
    """What is known of a record without its value."""

    path: str
    size_bytes: int
    used_at: float
    """Seconds since 1970."""
    expires_at: datetime.datetime | None
    is_damaged: bool = False
    """Nobody can read it, now or later."""


def to_evict(
    candidates: Iterable[Candidate], *, now: datetime.datetime, max_bytes: int | None = None
) -> list[Candidate]:
    """Return what has to go, first what is of no use, and then the longest unused.

    Args:
        candidates: all there is.
        now: the time to measure by.
        max_bytes: how large what stays may be together; None is as large as it likes.
    """
    useless: list[Candidate] = []
    useful: list[Candidate] = []
    for each in candidates:
        expired = each.expires_at is not None and now >= each.expires_at
        (useless if expired or each.is_damaged else useful).append(each)
    if max_bytes is None:
        return useless
    excess = sum(each.size_bytes for each in useful) - max_bytes
    going = useless
    for each in sorted(useful, key=lambda each: (each.used_at, each.path)):
        if excess <= 0:
            break
        going.append(each)
        excess -= each.size_bytes
    return going
