"""Files wherever fsspec reaches: S3, GCS, Azure, SFTP, memory and so on."""

from __future__ import annotations

import contextlib
import datetime
import posixpath
import secrets
import time
from typing import TYPE_CHECKING, Any

from penstock.filesystems.base import UNFINISHED, FileEntry, FileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.filesystems.base import Reach

__all__ = ["RemoteFileSystem"]

_PUT_AS_A_WHOLE = frozenset({
    "abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "r2", "s3", "s3a",
})  # fmt: skip
"""Protocols of stores where an object appears when all of it has arrived.

To any other a file is written beside, and moved into its place.
"""
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
"""What the file systems of fsspec call the time of a file."""


class RemoteFileSystem(FileSystem):
    """Files below a URL that fsspec understands, such as ``s3://bucket/results``.

    Each protocol needs its own package installed (``s3fs`` for ``s3://``, ``gcsfs`` for ``gs://``)
    and takes its credentials as that package's documentation says.

    Args:
        basepath: the URL. Paths are taken from there, and may not lead out of it.
        settings: what to pass to the file system of fsspec, such as ``{"anon": True}``.

    Example:
        >>> files = RemoteFileSystem("memory://results")
        >>> files.write_path("day/one.json", b"{}")
        'memory:///results/day/one.json'
    """

    def __init__(self, basepath: str, settings: Mapping[str, Any] | None = None) -> None:
        protocol, separator, _ = basepath.partition("://")
        if not separator or not protocol:
            raise ValueError(
                f"a RemoteFileSystem needs a URL such as s3://bucket, not {basepath!r}"
            )
        self.basepath: str = basepath
        self.settings: dict[str, Any] = dict(settings or {})
        self._protocol = protocol
        self.reach: Reach = "process" if protocol == "memory" else "network"
        self._found: tuple[Any, str] | None = None

    @property
    def _opened(self) -> tuple[Any, str]:
        """The file system of fsspec, and the base as it calls it."""
        if self._found is not None:
            return self._found
        # Imported here since it takes 70 ms, and most programs keep their results on a disk.
        from fsspec.core import url_to_fs

        files, url = url_to_fs(self.basepath, **self.settings)
        self._found = (files, str(files._strip_protocol(url)).rstrip("/"))
        return self._found

    def _full(self, path: str) -> str:
        _, base = self._opened
        clean = posixpath.normpath(str(path))
        if clean.startswith(("/", "../")) or clean in ("..", "."):
            raise ValueError(f"{path!r} leads out of {self.basepath!r}")
        return f"{base}/{clean}"

    def read_path(self, path: str) -> bytes:
        """Return what is stored at a path.

        Raises:
            FileNotFoundError: nothing is.
        """
        content: bytes = self._opened[0].cat_file(self._full(path))
        return content

    def read_start(self, path: str, size_bytes: int) -> bytes:
        """Return the first bytes of a file, at most so many."""
        content: bytes = self._opened[0].cat_file(self._full(path), start=0, end=size_bytes)
        return content

    def write_path(self, path: str, content: bytes) -> str:
        """Store bytes at a path, in place of what was there, and return the URL."""
        files, _ = self._opened
        full = self._full(path)
        if self._protocol in _PUT_AS_A_WHOLE:
            files.pipe_file(full, content)
        else:
            self._write_beside(full, content)
        return str(files.unstrip_protocol(full))

    def _write_beside(self, full: str, content: bytes) -> None:
        files, _ = self._opened
        folder = posixpath.dirname(full)
        beside = f"{folder}/{UNFINISHED}{secrets.token_hex(8)}"
        files.makedirs(folder, exist_ok=True)
        try:
            files.pipe_file(beside, content)
            files.mv(beside, full)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong with the writing is what counts
                files.rm_file(beside)
            raise

    def delete_path(self, path: str) -> bool:
        """Delete what is at a path; whether there was anything."""
        files, _ = self._opened
        full = self._full(path)
        if not files.isfile(full):  # some stores do not tell whether there was anything to delete
            return False
        try:
            files.rm_file(full)
        except FileNotFoundError:
            return False
        return True

    def entry_at(self, path: str) -> FileEntry | None:
        """Return size and time of the file at a path, or None if there is none."""
        files, _ = self._opened
        full = self._full(path)
        files.invalidate_cache(posixpath.dirname(full))
        try:
            found = files.info(full)
        except FileNotFoundError:
            return None
        return _entry(path, found) if found["type"] == "file" else None

    def entries(self) -> Iterator[FileEntry]:
        """Iterate over all files, but for those of which a name in the path begins with a dot."""
        for path, found in self._all().items():
            if not path.startswith(".") and "/." not in path:
                yield _entry(path, found)

    def _all(self) -> dict[str, Any]:
        files, base = self._opened
        files.invalidate_cache()  # others write here, too
        try:
            found: dict[str, Any] = files.find(base, detail=True)
        except FileNotFoundError:
            return {}
        start = len(base) + 1
        return {name[start:]: each for name, each in found.items() if name[start:]}

    def delete_unfinished(self, *, older_than_seconds: float) -> int:
        """Delete what killed writers left behind and return how many files there were."""
        before = time.time() - older_than_seconds
        left = [
            path
            for path, found in self._all().items()
            if posixpath.basename(path).startswith(UNFINISHED)
            and (_time_of(found) or before) <= before
        ]
        return sum(self.delete_path(path) for path in left)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_found": None}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RemoteFileSystem)
            and self.basepath == other.basepath
            and self.settings == other.settings
        )

    def __hash__(self) -> int:
        return hash(self.basepath)

    def __repr__(self) -> str:
        return f"RemoteFileSystem(basepath={self.basepath!r})"  # settings may hold credentials


def _entry(path: str, found: dict[str, Any]) -> FileEntry:
    return FileEntry(path, int(found["size"] or 0), _time_of(found))


def _time_of(found: dict[str, Any]) -> float | None:
    for name in _TIMES:
        moment = found.get(name)
        if isinstance(moment, str):
            with contextlib.suppress(ValueError):
                moment = datetime.datetime.fromisoformat(moment)
        if isinstance(moment, datetime.datetime):
            return moment.timestamp()
        if isinstance(moment, int | float):
            return float(moment)
    return None
