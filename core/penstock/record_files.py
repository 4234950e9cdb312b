"""Records as files: where each one is, whether it is what was asked for, who may have changed it.

Knows nothing of values: what is in a record is bytes here.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from penstock.exceptions import UnsafeStorageError
from penstock.records import (
    RecordHead,
    RecordMetadata,
    UnreadableRecordError,
    pack,
    start_size,
    total_size,
    unpack,
    unpack_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.filesystems import FileEntry, FileSystem
    from penstock.filesystems.base import Buffer

__all__ = ["RecordFiles", "Surveyed", "path_of"]

_SUFFIX = ".record"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*"
_PLAIN_KEY = re.compile(f"{_NAME}(/{_NAME})*")
_LONGEST_PLAIN_KEY = 150
_START_BYTES = 4096
"""Holds the metadata of almost every record."""


class Surveyed(NamedTuple):
    """A file that is a record by its name, and what its beginning says."""

    entry: FileEntry
    metadata: RecordMetadata | None
    """None if it cannot be read."""
    why_not: Exception | None = None

    @property
    def is_damaged(self) -> bool:
        """Whether nobody can read it, now or later."""
        return isinstance(self.why_not, UnreadableRecordError) and self.why_not.is_damaged


class RecordFiles:
    """The records of a file system.

    Args:
        filesystem: where they are.
        signing_key: signs what is written; what is not signed with it is not read.
        allow_shared_folder: take a place in which other users can write.
    """

    def __init__(
        self, filesystem: FileSystem, signing_key: bytes | None, *, allow_shared_folder: bool
    ) -> None:
        self.filesystem = filesystem
        self.allow_shared_folder = allow_shared_folder
        self.signing_key = signing_key

    def read(self, key: str) -> tuple[RecordHead, list[memoryview]]:
        """Return the whole record of a key, and note that it is in use.

        Raises:
            FileNotFoundError: there is none.
            UnreadableRecordError: what is there is not a record of this key that was left as it
                was written.
        """
        content = self.filesystem.read_used(path_of(key))
        head, parts = unpack(content, self.signing_key)
        _check_key(head, key)
        return head, parts

    def read_metadata(self, key: str) -> RecordMetadata:
        """Return what the record of a key says before its value; raises as `read` does."""
        path = path_of(key)
        entry = self.filesystem.entry_at(path)
        if entry is None:
            raise FileNotFoundError(path)
        metadata = self._metadata_at(entry)
        _check_key(metadata, key)
        return metadata

    def write(self, metadata: RecordMetadata, parts: Sequence[Buffer]) -> None:
        """Write a record in the place of its key."""
        self.filesystem.write_parts(path_of(metadata.key), pack(metadata, parts, self.signing_key))

    def survey(self) -> Iterator[Surveyed]:
        """Iterate over all records, those included that cannot be read."""
        for entry in self.filesystem.entries():
            if not entry.path.endswith(_SUFFIX):
                continue
            try:
                metadata = self._metadata_at(entry)
                if path_of(metadata.key) != entry.path:
                    _check_key(metadata, entry.path)
            except FileNotFoundError:  # deleted since
                continue
            except Exception as error:  # noqa: BLE001  (told to the caller)
                yield Surveyed(entry, None, error)
            else:
                yield Surveyed(entry, metadata)

    def _metadata_at(self, entry: FileEntry) -> RecordMetadata:
        start = self.filesystem.read_start(entry.path, _START_BYTES)
        needed, total = start_size(start), total_size(start)
        if total != entry.size_bytes:
            raise UnreadableRecordError(
                f"it is not whole: {entry.size_bytes} bytes instead of {total}"
            )
        if needed > len(start):
            start = self.filesystem.read_start(entry.path, needed)
        return unpack_metadata(start, self.signing_key)

    def check_safe(self) -> None:
        """Refuse a place in which other users can write, unless it is allowed.

        Asked every time: it takes a microsecond, and access can be widened later.

        Raises:
            UnsafeStorageError: they can.
        """
        if self.allow_shared_folder:
            return
        others = self.filesystem.others_who_can_write()
        if others is not None:
            place = str(getattr(self.filesystem, "basepath", self.filesystem))
            raise UnsafeStorageError(
                f"results are not kept in {place!r}: {others} can write there, and reading a "
                f"result may run what somebody else put in its place. Ways out: chmod go-w {place} "
                "(as its owner), choose another folder, or allow it by allow_shared_folder=True "
                "or PENSTOCK_RESULTS_ALLOW_SHARED_FOLDER=true."
            )


def path_of(key: str) -> str:
    """Return where the record of a key is: a path that reads like the key, where that can be."""
    if len(key) <= _LONGEST_PLAIN_KEY:
        if key.isalnum() and key.isascii():  # as almost all are: a digest
            return key + _SUFFIX
        # No folder is to have the name of a record.
        if _PLAIN_KEY.fullmatch(key) and _SUFFIX + "/" not in key:
            return key + _SUFFIX
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"hashed/{digest.hexdigest()}{_SUFFIX}"


def _check_key(found: RecordHead | RecordMetadata, key: str) -> None:
    # Also a signed record must not pass for that of another key.
    if found.key != key:
        raise UnreadableRecordError(f"it belongs to the key {found.key!r}")
