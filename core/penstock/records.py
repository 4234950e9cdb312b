"""The form of a record: one value with what is known about it, as bytes that prove themselves.

::

    head      magic, format, kind of seal, number of parts, length of the metadata,
              length of the payload, SHA-256 of the payload
    seal      SHA-256 of everything but itself and the payload; HMAC-SHA256 if it is signed
    lengths   one for each part
    metadata  JSON, filled up with spaces so that the payload is aligned
    payload   the parts, each filled up so that the next is aligned

The payload is vouched for by the head, and the head with all that describes the payload by the
seal. So the metadata can be trusted without a look at the payload, which may be large, and no
byte of a record can be changed, cut off or added without its being noticed. The key is in the
metadata: a record that was moved to another key's place is noticed, too.
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
_FORMAT = 1
_CHECKSUM, _SIGNATURE = 0, 1
_HEAD = "<8sBBIIQ32s"
_HEAD_SIZE = struct.calcsize(_HEAD)
_SEAL_SIZE = 32
_FIXED_SIZE = _HEAD_SIZE + _SEAL_SIZE
_ALIGNMENT = 64  # as Arrow wants its buffers; numpy needs less


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


class _Head(NamedTuple):
    sealed_by: int
    part_count: int
    metadata_size: int
    payload_size: int
    payload_digest: bytes
    seal: bytes


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
    text = _metadata_text(metadata)
    text += b" " * (-(_FIXED_SIZE + len(lengths) + len(text)) % _ALIGNMENT)
    sealed_by = _CHECKSUM if signing_key is None else _SIGNATURE
    head = struct.pack(
        _HEAD, _MAGIC, _FORMAT, sealed_by, len(views), len(text), size, digest.digest()
    )
    return [head + _seal(head, lengths + text, signing_key) + lengths + text, *pieces]


def _seal(head: Buffer, rest: Buffer, signing_key: bytes | None) -> bytes:
    sealed = b"".join((head, rest))
    if signing_key is None:
        return hashlib.sha256(sealed).digest()
    return hmac.digest(signing_key, sealed, "sha256")


def _metadata_text(metadata: RecordMetadata) -> bytes:
    members = {
        **metadata._asdict(),
        "created_at": metadata.created_at.isoformat(),
        "expires_at": metadata.expires_at and metadata.expires_at.isoformat(),
        "parts": dict(metadata.parts),
        "replaced": dict(metadata.replaced),
    }
    return json.dumps(members, default=repr).encode()


# --- from bytes ------------------------------------------------------------------------


def start_size(start: Buffer) -> int:
    """Return how many bytes `unpack_metadata` needs, given at least the first 128."""
    head = _read_head(start)
    return _FIXED_SIZE + 8 * head.part_count + head.metadata_size


def total_size(start: Buffer) -> int:
    """Return how long the whole record is, given at least the first 128 bytes."""
    return start_size(start) + _read_head(start).payload_size


def unpack_metadata(start: Buffer, signing_key: bytes | None = None) -> RecordMetadata:
    """Return the metadata of a record, given at least its first `start_size` bytes.

    Raises:
        UnreadableRecordError: what is there was changed or is no record.
    """
    return _checked(_read_head(start), start, signing_key)


def unpack(
    content: bytearray, signing_key: bytes | None = None
) -> tuple[RecordMetadata, list[memoryview]]:
    """Return the metadata and the parts of a whole record; the parts are views of `content`.

    Raises:
        UnreadableRecordError: what is there was changed, is not whole, or is no record.
    """
    head = _read_head(content)
    metadata = _checked(head, content, signing_key)
    payload_at = _FIXED_SIZE + 8 * head.part_count + head.metadata_size
    view = memoryview(content)
    payload = view[payload_at:]
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
    return metadata, parts


def _read_head(start: Buffer) -> _Head:
    if len(start) < _FIXED_SIZE:
        raise UnreadableRecordError(f"it is not whole: only {len(start)} bytes")
    magic, version, sealed_by, part_count, metadata_size, payload_size, digest = struct.unpack_from(
        _HEAD, start
    )
    if magic != _MAGIC:
        raise UnreadableRecordError("it does not begin as a record does")
    if version != _FORMAT:
        raise UnreadableRecordError(
            f"it is of format {version}, and only {_FORMAT} is known here", is_damaged=False
        )
    seal = bytes(start[_HEAD_SIZE:_FIXED_SIZE])
    return _Head(sealed_by, part_count, metadata_size, payload_size, digest, seal)


def _checked(head: _Head, start: Buffer, signing_key: bytes | None) -> RecordMetadata:
    if signing_key is None and head.sealed_by == _SIGNATURE:
        raise UnreadableRecordError("it is signed, and no key is set here", is_damaged=False)
    if signing_key is not None and head.sealed_by != _SIGNATURE:
        raise UnreadableRecordError("it is not signed", is_damaged=False)
    view = memoryview(start)
    text_at = _FIXED_SIZE + 8 * head.part_count
    rest = view[_FIXED_SIZE : text_at + head.metadata_size]
    if rest.nbytes != 8 * head.part_count + head.metadata_size:
        raise UnreadableRecordError("it is not whole: it ends within its metadata")
    if not hmac.compare_digest(_seal(view[:_HEAD_SIZE], rest, signing_key), head.seal):
        if signing_key is not None:
            raise UnreadableRecordError(
                "its signature does not fit the key that is set here", is_damaged=False
            )
        raise UnreadableRecordError("its metadata was changed: the checksum differs")
    return _read_metadata(str(view[text_at : text_at + head.metadata_size], "utf-8"))


def _read_metadata(text: str) -> RecordMetadata:
    # Members that are not known here were added by a version that is newer and still of this
    # format; those that are missing have the value they had before there was such a member.
    members: dict[str, Any] = json.loads(text)
    known = {name: members[name] for name in RecordMetadata._fields if name in members}
    moment = datetime.datetime.fromisoformat
    known["created_at"] = moment(known["created_at"])
    if known.get("expires_at"):
        known["expires_at"] = moment(known["expires_at"])
    return RecordMetadata(**known)
