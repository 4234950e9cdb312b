"""The interface of a file system: `FileSystem`, whose docstring is the contract."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["UNFINISHED", "Buffer", "FileEntry", "FileSystem", "Reach"]

Buffer: TypeAlias = bytes | bytearray | memoryview
Reach: TypeAlias = Literal["process", "machine", "network"]

UNFINISHED = ".penstock-"
"""Begins the name of a file that is being written, and is moved into its place when it is whole."""


class FileEntry(NamedTuple):
    """A file in a file system."""

    path: str
    """From the base of the file system, with ``/`` between the names."""
    size_bytes: int
    used_at: float | None
    """When it was written or, where the file system notes it, last read; seconds since 1970."""


class FileSystem(abc.ABC):
    """Bytes under paths that are relative to one place.

    A path is names with ``/`` between them; folders come to be as needed. What is written is there
    as a whole or not at all, also when the writer is killed, and whoever reads it meanwhile gets
    what was there before. All methods may be called from several threads and processes at once.
    An instance can be pickled. Making one does no input or output.

    Attributes:
        reach: from where the same files are seen: this process only, this machine, or any machine
            on the network. Workers elsewhere use what they reach, and the driver does the rest.
    """

    reach: Reach = "process"

    @abc.abstractmethod
    def read_path(self, path: str) -> bytes:
        """Return what is stored at a path.

        Raises:
            FileNotFoundError: nothing is.
        """

    @abc.abstractmethod
    def write_path(self, path: str, content: bytes) -> str:
        """Store bytes at a path, in place of what was there, and return the full path."""

    @abc.abstractmethod
    def delete_path(self, path: str) -> bool:
        """Delete what is at a path; whether there was anything."""

    @abc.abstractmethod
    def entry_at(self, path: str) -> FileEntry | None:
        """Return size and time of the file at a path, or None if there is none."""

    @abc.abstractmethod
    def entries(self) -> Iterator[FileEntry]:
        """Iterate over all files, but for those of which a name in the path begins with a dot."""

    def read_start(self, path: str, size_bytes: int) -> bytes:
        """Return the first bytes of a file, at most so many."""
        return self.read_path(path)[:size_bytes]

    def read_writable(self, path: str) -> bytearray:
        """Return what is stored at a path in memory that the caller may change."""
        return bytearray(self.read_path(path))

    def read_used(self, path: str) -> bytearray:
        """As `read_writable`, and note the use."""
        content = self.read_writable(path)
        self.note_use(path)
        return content

    def write_parts(self, path: str, parts: Iterable[Buffer]) -> str:
        """Store the parts, one after the other, as one file."""
        return self.write_path(path, b"".join(parts))

    def note_use(self, path: str) -> None:  # noqa: B027  (most file systems note no such thing)
        """Note that a file is in use, for `FileEntry.used_at`; need not be exact to the minute."""

    def delete_unfinished(self, *, older_than_seconds: float) -> int:  # noqa: ARG002
        """Delete what killed writers left behind and return how many files there were."""
        return 0

    def others_who_can_write(self) -> str | None:
        """Say which other users can change the files; None if there are none, or it is unknown."""
        return None
