"""The form of a record: one value with what is known about it, as bytes that prove themselves.

::

    start     magic, format
    seal      SHA-256 of all that follows, up to the payload; HMAC-SHA256 if it is signed
    head      kind of seal, number of parts, lengths of key, name and text, length of the payload,
              when it expires, SHA-256 of the payload
    lengths   one for each part
    key       what it is stored under
    name      of the serializer that wrote the value
    text      what else is known, as JSON, filled up with spaces so that the payload is aligned
    payload   the parts, each filled up so that the next is aligned

The payload is vouched for by the head, and the head with all that describes the payload by the
seal. So the metadata can be trusted without a look at the payload, which may be large, and no
byte of a record can be changed, cut off or added without its being noticed. The key is among what
is sealed: a record that was moved to another key's place is noticed, too.

What decides whether a value may be used is not in the text: to read that takes as long as all the
rest of a small record, and is left to those who ask about the record.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "RecordHead",
    "RecordMetadata",
    "UnreadableRecordError",
    "pack",
    "start_size",
    "total_size",
    "unpack",
    "unpack_metadata",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

_MAGIC = b"\x89PENREC\n"
_FORMAT = 2
_CHECKSUM, _SIGNATURE = 0, 1
_START = "<8sB32s"
_HEAD = "<BIIIIQq32s"
_BOTH = _START + _HEAD[1:]
_SEALED_AT = struct.calcsize(_START)
_FIXED_SIZE = struct.calcsize(_BOTH)
_ALIGNMENT = 64  # as Arrow wants its buffers; numpy needs less
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_NEVER = (1 << 63) - 1
_IN_HEAD = ("key", "expires_at", "serializer")
"""What of the metadata is not in the text."""


class RecordMetadata(NamedTuple):
    """What a store knows about one value."""

    key: str
    created_at: datetime.datetime
    expires_at: datetime.datetime | None = None
    """From when on the value is not to be used; None is never."""
    run_id: str = ""
    """The task run that made the value."""
    run_name: str = ""
    task_name: str = ""
    serializer: str = ""
    """The name of the serializer that wrote the value."""
    size_bytes: int = 0
    """How long the value is as bytes, without what is here."""
    python_version: str = ""
    penstock_version: str = ""
    parts: Mapping[str, Any] = {}
    """What the key was made of, by name, as JSON has it: what a later key is compared with."""
    replaced: Mapping[str, Any] = {}
    """What is known of the record in whose place it came, as JSON has it; empty if there was none.

    Its `run_name` and `expires_at`, or, if it could not be used, why in `problem`.
    """

    def is_expired(self, now: datetime.datetime) -> bool:
        """Whether the value is not to be used any more."""
        return self.expires_at is not None and now >= self.expires_at


class UnreadableRecordError(Exception):
    """What stands where a record should be cannot be used; says why.

    Attributes:
        is_damaged: nobody will be able to read it; otherwise it may be that somebody can who has
            another key or another version.
    """

    def __init__(self, reason: str, *, is_damaged: bool = True) -> None:
        super().__init__(reason)
        self.is_damaged = is_damaged


class RecordHead(NamedTuple):
    """What stands before the payload, found as it was written."""

    key: str
    serializer: str
    expires_at: datetime.datetime | None
    text: bytes
    """What else is known, not read yet."""
    part_count: int
    payload_at: int
    payload_size: int
    payload_digest: bytes

    @property
    def metadata(self) -> RecordMetadata:
        """All that is known about the value."""
        # Members that are not known here were added by a version that is newer and still of this
        # format; those that are missing have the value they had before there was such a member.
        members: dict[str, Any] = json.loads(self.text)
        known = {name: members[name] for name in RecordMetadata._fields if name in members}
        known.update({name: getattr(self, name) for name in _IN_HEAD})
        known["created_at"] = datetime.datetime.fromisoformat(known["created_at"])
        return RecordMetadata(**known)


# --- to bytes --------------------------------------------------------------------------


def pack(
    metadata: RecordMetadata, parts: Sequence[Buffer], signing_key: bytes | None = None
) -> list[Buffer]:
    """Return a record as bytes, in pieces that follow one another; the parts are not copied."""
    views = [memoryview(part).cast("B") for part in parts]
    lengths = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    pieces: list[Buffer] = []
    digest, size = hashlib.sha256(), 0
    for view in views:
        for piece in (view, b"\0" * (-view.nbytes % _ALIGNMENT)):
            digest.update(piece)
            pieces.append(piece)
            size += len(piece)
    key, name = _encoded(metadata.key), _encoded(metadata.serializer)
    text = _text_of(metadata)
    text += b" " * (-(_FIXED_SIZE + len(lengths) + len(key) + len(name) + len(text)) % _ALIGNMENT)
    head = struct.pack(
        _HEAD,
        _CHECKSUM if signing_key is None else _SIGNATURE,
        len(views),
        len(key),
        len(name),
        len(text),
        size,
        _microseconds(metadata.expires_at),
        digest.digest(),
    )
    sealed = head + lengths + key + name + text
    return [
        struct.pack(_START, _MAGIC, _FORMAT, _seal(sealed, signing_key)) + sealed,
        *pieces,
    ]


def _seal(sealed: Buffer, signing_key: bytes | None) -> bytes:
    if signing_key is None:
        return hashlib.sha256(sealed).digest()
    return hmac.digest(signing_key, sealed, "sha256")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _microseconds(moment: datetime.datetime | None) -> int:
    return _NEVER if moment is None else (moment - _EPOCH) // _MICROSECOND


def _text_of(metadata: RecordMetadata) -> bytes:
    members = {
        **metadata._asdict(),
        "created_at": metadata.created_at.isoformat(),
        "parts": dict(metadata.parts),
        "replaced": dict(metadata.replaced),
    }
    for name in _IN_HEAD:
        del members[name]
    return json.dumps(members, default=repr).encode()


# --- from bytes ------------------------------------------------------------------------


def start_size(start: Buffer) -> int:
    """Return how many bytes `unpack_metadata` needs, given at least the first 128."""
    part_count, key_size, name_size, text_size = _fields(start)[4:8]
    size: int = _FIXED_SIZE + 8 * part_count + key_size + name_size + text_size
    return size


def total_size(start: Buffer) -> int:
    """Return how long the whole record is, given at least the first 128 bytes."""
    payload_size: int = _fields(start)[8]
    return start_size(start) + payload_size


def unpack_metadata(start: Buffer, signing_key: bytes | None = None) -> RecordMetadata:
    """Return the metadata of a record, given at least its first `start_size` bytes.

    Raises:
        UnreadableRecordError: what is there was changed or is no record.
    """
    return _read_head(start, signing_key).metadata


def unpack(
    content: bytearray, signing_key: bytes | None = None
) -> tuple[RecordHead, list[memoryview]]:
    """Return head and parts of a whole record; the parts are views of `content`.

    Raises:
        UnreadableRecordError: what is there was changed, is not whole, or is no record.
    """
    head = _read_head(content, signing_key)
    payload = memoryview(content)[head.payload_at :]
    if payload.nbytes != head.payload_size:
        raise UnreadableRecordError(
            f"it is not whole: {payload.nbytes} bytes of value instead of {head.payload_size}"
        )
    if hashlib.sha256(payload).digest() != head.payload_digest:
        raise UnreadableRecordError("its value was changed: the checksum differs")
    parts: list[memoryview] = []
    at = 0
    for length in struct.unpack_from(f"<{head.part_count}Q", content, _FIXED_SIZE):
        parts.append(payload[at : at + length])
        at += length + -length % _ALIGNMENT
    return head, parts


def _fields(start: Buffer) -> tuple[Any, ...]:
    """Return what stands in start, seal and head, in the order it is written in."""
    if len(start) < _FIXED_SIZE:
        raise UnreadableRecordError(f"it is not whole: only {len(start)} bytes")
    fields = struct.unpack_from(_BOTH, start)
    if fields[0] != _MAGIC:
        raise UnreadableRecordError("it does not begin as a record does")
    if fields[1] != _FORMAT:
        raise UnreadableRecordError(
            f"it is of format {fields[1]}, and only {_FORMAT} is known here", is_damaged=False
        )
    return fields


def _read_head(start: Buffer, signing_key: bytes | None) -> RecordHead:
    _, _, seal, sealed_by, part_count, key_size, name_size, text_size, *of_payload = _fields(start)
    payload_size, expires, payload_digest = of_payload
    if signing_key is None and sealed_by == _SIGNATURE:
        raise UnreadableRecordError("it is signed, and no key is set here", is_damaged=False)
    if signing_key is not None and sealed_by != _SIGNATURE:
        raise UnreadableRecordError("it is not signed", is_damaged=False)
    key_at = _FIXED_SIZE + 8 * part_count
    name_at = key_at + key_size
    text_at = name_at + name_size
    payload_at = text_at + text_size
    if len(start) < payload_at:
        raise UnreadableRecordError("it is not whole: it ends within its metadata")
    sealed = memoryview(start)[_SEALED_AT:payload_at]
    if not hmac.compare_digest(_seal(sealed, signing_key), seal):
        if signing_key is not None:
            raise UnreadableRecordError(
                "its signature does not fit the key that is set here", is_damaged=False
            )
        raise UnreadableRecordError("its metadata was changed: the checksum differs")
    return RecordHead(
        str(start[key_at:name_at], "utf-8", "surrogatepass"),
        str(start[name_at:text_at], "utf-8", "surrogatepass"),
        None if expires == _NEVER else _EPOCH + expires * _MICROSECOND,
        bytes(start[text_at:payload_at]),
        part_count,
        payload_at,
        payload_size,
        payload_digest,
    )
