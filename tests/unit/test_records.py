"""The form of a record: it comes back as it was written, or says why it cannot be used."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.eviction import Candidate, to_evict
from penstock.record_files import path_of
from penstock.records import (
    RecordMetadata,
    UnreadableRecordError,
    pack,
    start_size,
    total_size,
    unpack,
    unpack_metadata,
)

NOON = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
METADATA = RecordMetadata("key", NOON)
MOMENTS = st.datetimes(timezones=st.just(datetime.UTC))
TEXT = st.text(st.characters(codec=None), max_size=20)


def record_of(*parts: bytes, signing_key: bytes | None = None) -> bytearray:
    return bytearray(b"".join(pack(METADATA, parts, signing_key)))


@given(
    st.builds(
        RecordMetadata,
        key=TEXT,
        created_at=MOMENTS,
        expires_at=st.none() | MOMENTS,
        run_name=TEXT,
        size_bytes=st.integers(0, 1 << 63),
        parts=st.dictionaries(TEXT, st.lists(TEXT) | st.integers() | st.none()),
    ),
    st.lists(st.binary(max_size=200), max_size=4),
    st.none() | st.binary(min_size=1),
)
def test_a_record_comes_back_as_it_was(
    metadata: RecordMetadata, parts: list[bytes], signing_key: bytes | None
) -> None:
    content = bytearray(b"".join(pack(metadata, parts, signing_key)))
    head, views = unpack(content, signing_key)
    assert head.metadata == metadata
    assert [bytes(view) for view in views] == parts
    assert total_size(content[:128]) == len(content)
    start = content[: start_size(content[:128])]
    assert unpack_metadata(start, signing_key) == metadata


@given(st.lists(st.binary(max_size=200), max_size=4), st.data())
def test_a_changed_record_is_never_believed(parts: list[bytes], data: st.DataObject) -> None:
    content = record_of(*parts)
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[index]))
    with pytest.raises(UnreadableRecordError):
        unpack(content)


def test_the_parts_are_views_that_are_aligned_and_can_be_written_to() -> None:
    content = record_of(b"a" * 100, b"b" * 10)
    _, (one, two) = unpack(content)
    two[0] = ord("c")
    assert content.count(b"c" + b"b" * 9) == 1
    assert not one.readonly
    for part in (b"a" * 100, b"cbbb"):
        assert content.index(part) % 64 == 0


@pytest.mark.parametrize(
    ("changed", "why", "is_damaged"),
    [
        (lambda content: content[:50], "not whole: only 50 bytes", True),
        (lambda content: content[:200], "ends within its metadata", True),
        (lambda content: content[:-1], "not whole: 63 bytes of value instead of 64", True),
        (lambda content: b"x" + content[1:], "does not begin as a record", True),
        (lambda content: content[:8] + b"\x07" + content[9:], "format 7, and only 2", False),
        (lambda content: content[:41] + b"\x01" + content[42:], "signed, and no key", False),
        (lambda content: content.replace(b"key", b"kez"), "its metadata was changed", True),
        (lambda content: content.replace(b"value", b"vague"), "its value was changed", True),
    ],
)
def test_it_is_said_what_is_wrong(changed: Any, why: str, is_damaged: bool) -> None:
    with pytest.raises(UnreadableRecordError, match=why) as caught:
        unpack(bytearray(changed(record_of(b"value"))))
    assert caught.value.is_damaged is is_damaged


def test_a_signature_vouches_for_metadata_and_value() -> None:
    signed = record_of(b"value", signing_key=b"secret")
    assert unpack(signed, b"secret")[0].metadata == METADATA
    for changed in (signed.replace(b"value", b"vague"), signed.replace(b"key", b"kez")):
        with pytest.raises(UnreadableRecordError):
            unpack(changed, b"secret")


def test_what_decides_about_a_value_is_known_before_the_rest_is_read() -> None:
    metadata = METADATA._replace(expires_at=NOON, serializer="json", run_name="train-1")
    head, _ = unpack(bytearray(b"".join(pack(metadata, [b"value"]))))
    assert (head.key, head.expires_at, head.serializer) == ("key", NOON, "json")
    assert head.metadata == metadata


def test_what_metadata_json_does_not_hold_is_noted_as_it_shows() -> None:
    metadata = METADATA._replace(parts={"limit": {1}, "ok": 2})
    (start,) = pack(metadata, [])
    assert unpack_metadata(start).parts == {"limit": "{1}", "ok": 2}


# --- where records are -----------------------------------------------------------------


@pytest.mark.parametrize("key", ["d41d8cd98f00b204", "reports/2026-05-04", "a.b_c=1+2"])
def test_a_plain_key_is_found_under_its_own_name(key: str) -> None:
    assert path_of(key) == key + ".record"


@pytest.mark.parametrize("key", ["../x", "/x", ".x", "a b", "", "x/", "ü", "x" * 200, "a.record/b"])
def test_any_other_key_is_found_under_its_hash(key: str) -> None:
    assert path_of(key).startswith("hashed/")
    assert len(path_of(key)) == len("hashed/") + 32 + len(".record")


# --- what has to go --------------------------------------------------------------------


def candidate(path: str, used_at: float, *, size: int = 10, expires_at: Any = None) -> Candidate:
    return Candidate(path, size, used_at, expires_at)


def paths(candidates: list[Candidate]) -> list[str]:
    return [each.path for each in candidates]


def test_what_expired_or_is_damaged_goes() -> None:
    second = datetime.timedelta(seconds=1)
    everything = [
        candidate("expired", 9, expires_at=NOON),
        candidate("soon", 9, expires_at=NOON + second),
        candidate("unending", 9),
        Candidate("damaged", 10, 9, None, is_damaged=True),
    ]
    assert paths(to_evict(everything, now=NOON)) == ["expired", "damaged"]


def test_then_the_longest_unused_goes_until_the_rest_fits() -> None:
    everything = [
        candidate("b", 2),
        candidate("c", 3),
        candidate("a", 1),
        candidate("big", 4, size=70),
    ]
    assert paths(to_evict(everything, now=NOON, max_bytes=100)) == []
    assert paths(to_evict(everything, now=NOON, max_bytes=99)) == ["a"]
    assert paths(to_evict(everything, now=NOON, max_bytes=80)) == ["a", "b"]
    assert paths(to_evict(everything, now=NOON, max_bytes=0)) == ["a", "b", "c", "big"]


def test_what_expired_makes_room_for_the_rest() -> None:
    everything = [candidate("kept", 1), candidate("expired", 2, size=90, expires_at=NOON)]
    assert paths(to_evict(everything, now=NOON, max_bytes=10)) == ["expired"]
