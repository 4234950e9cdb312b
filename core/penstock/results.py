"""Where the values of tasks are kept, each under a key, with what is known about it.

A `ResultStore` is a file system, a serializer, and the rules that make it safe to believe:

- A record is written as a whole or not at all, and proves itself when it is read (`records`).
  What is damaged, half there, or written in a way that is not known here counts as not there, and
  a warning in the log says why. It is never an error, and never a wrong value.
- Reading a pickle can run code. So a folder that other users can write is refused unless that is
  allowed; with a signing key, only what was signed with it is unpickled; and a store whose own
  serializer runs no code, such as JSON, reads nothing that could.

A store may be used from several threads and processes at once. It takes no lock: of two that write
one key the later wins, and readers get the one or the other. Who wants a value made only once
holds the key's lock meanwhile (`locking`).
"""

from __future__ import annotations

import copy
import datetime
import logging
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._version import __version__
from penstock.eviction import Candidate, to_evict
from penstock.filesystems import FileSystem, LocalFileSystem, filesystem_of
from penstock.record_files import RecordFiles, Surveyed, path_of
from penstock.records import RecordMetadata, UnreadableRecordError
from penstock.serializers import Serializer, serializer_named

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping

    from penstock.locking import LockManager
    from penstock.records import RecordHead

__all__ = [
    "Collected",
    "RecordMetadata",
    "ResultRecord",
    "ResultStore",
    "StoreStats",
    "Surveyed",
]

_log = logging.getLogger("penstock.results")

_UNFINISHED_SECONDS = 3600.0
"""How old a file is that a killed writer left; one that is younger may still be written."""


class ResultRecord:
    """What was read under a key.

    Attributes:
        value: what was stored.
    """

    __slots__ = ("_head", "value")

    def __init__(self, head: RecordHead, value: Any) -> None:
        self._head = head
        self.value: Any = value

    @property
    def metadata(self) -> RecordMetadata:
        """What is known about the value; read when it is asked for."""
        return self._head.metadata

    def __repr__(self) -> str:
        return f"<ResultRecord {self._head.key!r}>"


class StoreStats(NamedTuple):
    """What is in a store."""

    records: int
    """Those that can be read, also if they expired."""
    size_bytes: int
    """Of all files."""
    expired: int
    unreadable: int
    oldest: datetime.datetime | None
    newest: datetime.datetime | None

    @classmethod
    def of(cls, surveyed: Collection[Surveyed], now: datetime.datetime) -> StoreStats:
        """Count what a survey found."""
        found = [each.metadata for each in surveyed if each.metadata is not None]
        made = [metadata.created_at for metadata in found]
        return cls(
            records=len(found),
            size_bytes=sum(each.entry.size_bytes for each in surveyed),
            expired=sum(metadata.is_expired(now) for metadata in found),
            unreadable=len(surveyed) - len(found),
            oldest=min(made, default=None),
            newest=max(made, default=None),
        )


class Collected(NamedTuple):
    """What a collection took away."""

    records: int
    size_bytes: int


class ResultStore:
    """Values under keys.

    Making one does no input or output. It can be pickled, and takes its signing key along, but not
    its lock manager: who makes what is decided where the store was made.

    Args:
        filesystem: a folder, a URL, or a file system.
        serializer: how values are written, by name or as an object. What another serializer wrote
            is read as well, by the name in the record.
        signing_key: signs what is written; what is not signed with it is not read. Text counts by
            its UTF-8 bytes.
        allow_shared_folder: take a local folder in which other users can write. Files and folders
            are then made as the umask says, and not for this user only.
        lock_manager: what those wait with who want a key for themselves.
    """

    def __init__(
        self,
        filesystem: str | os.PathLike[str] | FileSystem,
        serializer: str | Serializer = "pickle",
        *,
        signing_key: bytes | str | None = None,
        allow_shared_folder: bool = False,
        lock_manager: LockManager | None = None,
    ) -> None:
        files = filesystem_of(filesystem)
        if allow_shared_folder and files is not filesystem and isinstance(files, LocalFileSystem):
            files = LocalFileSystem(files.basepath, shared=True)
        if isinstance(signing_key, str):
            signing_key = signing_key.encode()
        if signing_key is not None and not signing_key:
            raise ValueError("the signing key of a result store is empty")
        self.filesystem: FileSystem = files
        self.serializer: Serializer = serializer_named(serializer)
        self.lock_manager: LockManager | None = lock_manager
        self._files = RecordFiles(files, signing_key, allow_shared_folder=allow_shared_folder)

    def with_serializer(self, serializer: str | Serializer) -> ResultStore:
        """Return a store of the same place that writes in another way."""
        changed = copy.copy(self)
        changed.serializer = serializer_named(serializer)
        changed.lock_manager = self.lock_manager
        return changed

    def with_lock_manager(self, lock_manager: LockManager) -> ResultStore:
        """Return a store of the same place with other locks."""
        changed = copy.copy(self)
        changed.lock_manager = lock_manager
        return changed

    @property
    def is_signed(self) -> bool:
        """Whether records are signed with a key."""
        return self._files.signing_key is not None

    def check_safe(self) -> None:
        """Refuse a place in which other users can write, unless that is allowed.

        Raises:
            UnsafeStorageError: they can.
        """
        self._files.check_safe()

    # --- one record --------------------------------------------------------------------

    def read(self, key: str, *, now: datetime.datetime | None = None) -> ResultRecord | None:
        """Return the record of a key; None if there is none that can be used.

        Runs the user's code, as unpickling does. A value is made anew by every call.

        Raises:
            UnsafeStorageError: other users can write in the folder, and that was not allowed.
        """
        self._files.check_safe()
        try:
            head, parts = self._files.read(key)
            if head.expires_at is not None and head.expires_at <= (now or _now()):
                return None
            value = self._reader_named(head.serializer).load_parts(parts)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  (whatever ails it, the value can be made anew)
            _warn_unusable(key, error)
            return None
        return ResultRecord(head, value)

    def read_metadata(self, key: str) -> RecordMetadata | None:
        """Return what is known of a key's record, also of one that expired; None if none is there.

        The value is neither read nor checked, and no code of the user's runs.
        """
        self._files.check_safe()
        try:
            return self._files.read_metadata(key)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  (as in `read`)
            _warn_unusable(key, error)
            return None

    def exists(self, key: str, *, now: datetime.datetime | None = None) -> bool:
        """Whether there is a record that has not expired; its value is not looked at."""
        metadata = self.read_metadata(key)
        return metadata is not None and not metadata.is_expired(now or _now())

    def size_of(self, key: str) -> int | None:
        """Return how large the file of a key is, whatever is in it; None if there is none."""
        entry = self.filesystem.entry_at(path_of(key))
        return None if entry is None else entry.size_bytes

    def write(
        self,
        key: str,
        value: Any,
        *,
        expires_at: datetime.datetime | None = None,
        run_id: str = "",
        run_name: str = "",
        task_name: str = "",
        parts: Mapping[str, Any] | None = None,
        now: datetime.datetime | None = None,
    ) -> RecordMetadata:
        """Store a value under a key, in place of what was there.

        Args:
            key: any text. Where it has the form of a path it is one, below the store's place.
            value: whatever the serializer takes.
            expires_at: from when on it is not to be used; with its time zone.
            run_id: the task run that made it.
            run_name: its name.
            task_name: the name of its task.
            parts: what the key was made of, in types that JSON has.
            now: the time to note.

        Raises:
            SerializationError: the serializer cannot write the value.
            UnsafeStorageError: other users can write in the folder, and that was not allowed.
            OSError: the place cannot be written to.
        """
        self._files.check_safe()
        if expires_at is not None and expires_at.tzinfo is None:
            raise ValueError(f"expires_at has no time zone: {expires_at!r}")
        buffers = self.serializer.dump_parts(value)
        metadata = RecordMetadata(
            key,
            now or _now(),
            expires_at,
            run_id,
            run_name,
            task_name,
            self.serializer.name,
            sum(memoryview(each).nbytes for each in buffers),
            platform.python_version(),
            __version__,
            parts or {},
            self._to_be_replaced(key),
        )
        self._files.write(metadata, buffers)
        return metadata

    def _to_be_replaced(self, key: str) -> dict[str, Any]:
        try:
            before = self._files.read_metadata(key)
        except FileNotFoundError:
            return {}
        except Exception as error:  # noqa: BLE001  (told to who asks why the value was made anew)
            return {"problem": str(error)}
        expires_at = before.expires_at and before.expires_at.isoformat()
        return {"run_name": before.run_name, "expires_at": expires_at}

    def delete(self, key: str) -> bool:
        """Delete the record of a key; whether there was anything."""
        self._files.check_safe()
        return self.filesystem.delete_path(path_of(key))

    def examine(self, key: str) -> Surveyed | None:
        """Look at what is under a key as `read` would, but for the value; None if nothing is.

        All bytes are checked, and whether this store would read a value of that kind. No code of
        the user's runs. Where the record cannot be used, `why_not` says why.

        Raises:
            UnsafeStorageError: other users can write in the folder, and that was not allowed.
        """
        self._files.check_safe()
        entry = self.filesystem.entry_at(path_of(key))
        if entry is None:
            return None
        try:
            head, _ = self._files.read(key)
            self._reader_named(head.serializer)
            metadata = head.metadata
        except FileNotFoundError:  # deleted since
            return None
        except Exception as error:  # noqa: BLE001  (told to the caller)
            return Surveyed(entry, None, error)
        return Surveyed(entry, metadata)

    # --- all of them -------------------------------------------------------------------

    def survey(self) -> Iterator[Surveyed]:
        """Iterate over all records, in no order, with those that cannot be read, and why.

        Raises:
            UnsafeStorageError: other users can write in the folder, and that was not allowed.
        """
        self._files.check_safe()
        return self._files.survey()

    def keys(self) -> Iterator[str]:
        """Iterate over the keys of all records that can be read, also of those that expired."""
        return (metadata.key for metadata in self.records())

    def records(self) -> Iterator[RecordMetadata]:
        """Iterate over what is known of all records, also of those that expired, in no order.

        What cannot be read is left out, with a warning in the log.
        """
        for each in self.survey():
            if each.metadata is not None:
                yield each.metadata
            else:
                _warn_unusable(each.entry.path, each.why_not)

    def stats(self, *, now: datetime.datetime | None = None) -> StoreStats:
        """Count what is there."""
        return StoreStats.of(list(self.survey()), now or _now())

    def collect(
        self, max_bytes: int | None = None, now: datetime.datetime | None = None
    ) -> Collected:
        """Delete what expired or is damaged, and then the longest unused until the rest fits.

        May run in a thread of its own, and while others read and write: what was written anew
        since it was looked at stays. So do files that are no records, and records that cannot be
        read here but may be elsewhere, unless it is their turn as the longest unused.

        Args:
            max_bytes: how large the store may be; None is as large as it likes.
            now: the time to measure by.
        """
        surveyed = {each.entry.path: each for each in self.survey()}
        candidates = [_candidate(each) for each in surveyed.values()]
        records = size = 0
        for path, size_bytes, *_ in to_evict(candidates, now=now or _now(), max_bytes=max_bytes):
            if self.remove(surveyed[path]):
                records += 1
                size += size_bytes
        self.filesystem.delete_unfinished(older_than_seconds=_UNFINISHED_SECONDS)
        return Collected(records, size)

    def remove(self, seen: Surveyed) -> bool:
        """Delete what a survey found, unless it has changed since; whether it did."""
        path = seen.entry.path
        try:
            if self.filesystem.entry_at(path) != seen.entry:
                return False
            return self.filesystem.delete_path(path)
        except OSError as error:  # on some systems while it is read; the next collection gets it
            _log.warning("Result %r cannot be deleted: %s", path, error)
            return False

    def _reader_named(self, name: str) -> Serializer:
        own = self.serializer
        if name == own.name:
            return own
        reader = serializer_named(name)
        if reader.can_run_code and not own.can_run_code:
            raise UnreadableRecordError(
                f"it was written by {reader.name!r}, and reading that may run code, which this "
                f"store, set to {own.name!r}, does not"
            )
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "lock_manager": None}

    def __repr__(self) -> str:
        signed = ", signed" if self.is_signed else ""
        return f"<ResultStore {self.filesystem!r}, {self.serializer.name!r}{signed}>"


def _candidate(surveyed: Surveyed) -> Candidate:
    entry, metadata, _ = surveyed
    used_at = entry.used_at
    if used_at is None:
        used_at = 0.0 if metadata is None else metadata.created_at.timestamp()
    expires_at = None if metadata is None else metadata.expires_at
    return Candidate(entry.path, entry.size_bytes, used_at, expires_at, surveyed.is_damaged)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _warn_unusable(key: str, why: object) -> None:
    reason = why if isinstance(why, UnreadableRecordError) else f"{type(why).__name__}: {why}"
    _log.warning("Result %r cannot be used, as if it were not there: %s", key, reason)
