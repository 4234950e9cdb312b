"""Why a call would run, or be served from the cache; and why a stored result was made.

Pure: what is known of the stored results is handed over, and the time, too. What a key was made of
stands in the record of each result; here the parts of a new key are compared with those of the
nearest earlier result of the same task: the one with most parts equal, of these the latest.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, NamedTuple

from penstock.durations import format_duration, since
from penstock.key_parts import KeyParts, explain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.records import RecordMetadata

__all__ = [
    "Comparison",
    "Explanation",
    "explain_call",
    "explain_record",
    "made_by",
    "not_cached",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a call now, and why; as text, a sentence or two."""

    task_name: str
    is_cached: bool
    """Whether the stored result would be taken; otherwise the call would run."""
    reasons: tuple[str, ...]
    key: str | None = None
    """What the result is stored under; None if calls like this are not cached."""
    record: RecordMetadata | None = None
    """The stored result that would be taken or, if there is none, the one compared with."""
    at: datetime.datetime | None = None
    """When this was found out."""

    def __str__(self) -> str:
        """Return the verdict with its reasons, and below which result they are about."""
        verdict = "is cached" if self.is_cached else "would run"
        joint = ";" if self.key is None else ":"
        text = f"task {self.task_name!r} {verdict}{joint} {'; '.join(self.reasons)}"
        if self.is_cached or self.record is None or self.at is None:
            return text
        return f"{text}\n(compared with the result {made_by(self.record, self.at)})"


class Comparison(NamedTuple):
    """How a key differs from that of the nearest earlier result of the same task."""

    reasons: tuple[str, ...]
    earlier: RecordMetadata | None


def not_cached(task_name: str, why: str) -> Explanation:
    """Explain a call that no result is stored for."""
    return Explanation(task_name, is_cached=False, reasons=(f"not cached: {why}",))


def explain_call(
    task_name: str,
    call: KeyParts,
    own: RecordMetadata | None,
    stored: Iterable[RecordMetadata],
    now: datetime.datetime,
    *,
    problem: str = "",
    refresh: bool = False,
) -> Explanation:
    """Explain what would become of a call now.

    Args:
        task_name: of the task that is called.
        call: its key, with its parts.
        own: the result stored under the key, if there is one that can be read.
        stored: all results there are; gone through only where they are needed.
        now: the time.
        problem: why what is stored under the key cannot be used.
        refresh: whether the task runs in any case.
    """

    def would_run(record: RecordMetadata | None, *reasons: str) -> Explanation:
        return Explanation(task_name, False, reasons, call.key, record, now)

    if refresh:
        return would_run(own, "refresh_cache is set")
    if problem:
        return would_run(own, f"the stored result cannot be used: {problem}")
    if own is not None:
        if own.is_expired(now):
            return would_run(own, _expired(own, now))
        reasons = [made_by(own, now)]
        if own.expires_at is not None:
            reasons.append(f"expires {since(own.expires_at, now)}")
        return Explanation(task_name, True, tuple(reasons), call.key, own, now)
    found = _compare(task_name, call, stored)
    expired = found.earlier is not None and found.earlier.is_expired(now)
    also = (_expired(found.earlier, now),) if expired and found.earlier else ()
    return would_run(found.earlier, *found.reasons, *also)


def explain_record(record: RecordMetadata, stored: Iterable[RecordMetadata]) -> Comparison:
    """Say what had changed when a result was made, against those made before it."""
    if record.replaced:
        return Comparison((_why_anew(record),), None)
    call = _key_parts(record)
    if call is None:
        return Comparison(("the parts of its key were not kept",), None)
    before = (each for each in stored if each.created_at < record.created_at)
    return _compare(record.task_name, call, before)


def made_by(record: RecordMetadata, now: datetime.datetime) -> str:
    """Say which run made a result, and when."""
    run = f" by run {record.run_name!r}" if record.run_name else ""
    moment = record.created_at.isoformat(" ", "seconds")
    return f"made{run} {since(record.created_at, now)} ({moment})"


def _expired(record: RecordMetadata, now: datetime.datetime) -> str:
    assert record.expires_at is not None
    return f"expired {since(record.expires_at, now)}"


def _why_anew(record: RecordMetadata) -> str:
    """Say why a result was made although there was one of the same key."""
    known = record.replaced
    if known.get("problem"):
        return f"the result of the same key could not be used: {known['problem']}"
    expires_at = known.get("expires_at")
    expired_at = None if expires_at is None else datetime.datetime.fromisoformat(expires_at)
    if expired_at is not None and expired_at <= record.created_at:
        ago = format_duration((record.created_at - expired_at).total_seconds())
        return f"the result of run {known['run_name']!r} had expired {ago} before"
    return (
        f"made anew, in place of the result of run {known['run_name']!r}: by refresh_cache, or by "
        "both at once"
    )


def _compare(task_name: str, call: KeyParts, stored: Iterable[RecordMetadata]) -> Comparison:
    nearest: tuple[int, datetime.datetime, KeyParts, RecordMetadata] | None = None
    for record in stored:
        parts = _key_parts(record) if record.task_name == task_name else None
        if parts is None or parts.key == call.key:
            continue
        likeness = _likeness(parts, call)
        if nearest is None or (likeness, record.created_at) > nearest[:2]:
            nearest = likeness, record.created_at, parts, record
    if nearest is None:
        return Comparison(("no earlier result",), None)
    return Comparison(tuple(explain(nearest[2], call)), nearest[3])


def _likeness(one: KeyParts, other: KeyParts) -> int:
    return sum(
        name in one.parts and one.parts[name].digest == part.digest
        for name, part in other.parts.items()
    )


def _key_parts(record: RecordMetadata) -> KeyParts | None:
    """Return the parts of a result's key; None if none were kept, as for the value of a flow."""
    if not record.parts:
        return None
    try:
        return KeyParts.from_json({"key": record.key, "parts": record.parts})
    except ValueError:  # written by another version
        return None
