"""Files in a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.filesystems.base import UNFINISHED, FileEntry, FileSystem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.filesystems.base import Buffer, Reach

__all__ = ["LocalFileSystem"]

_USE_SECONDS = 600.0
"""How exact the time of the last use is; to note every use would be a write for every read."""
_SMALL_BYTES = 1 << 16
_TO_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
# Any path does, where a backslash or a drive may be in it.
_NEEDS_A_LOOK = ("", ".", "/") if os.sep == "/" else ("", *map(chr, range(128)))


class LocalFileSystem(FileSystem):
    """Files below one folder.

    Args:
        basepath: the folder; ``~`` is the user's home. Paths are taken from there, and may not
            lead out of it. A folder that has to be made is made for this user only.
        shared: make folders and files for all whom the user's umask lets in, instead.

    Example:
        >>> files = LocalFileSystem(basepath="~/results")
        >>> files.write_path("day/one.json", b"{}")  # doctest: +SKIP
    """

    reach: Reach = "machine"

    def __init__(self, basepath: str | Path | None = None, *, shared: bool = False) -> None:
        self.basepath: Path = Path(basepath if basepath is not None else ".").expanduser().resolve()
        self.shared = shared
        self._base = str(self.basepath)
        self._within = self._base.rstrip(os.sep) + os.sep

    def _full(self, path: str | Path) -> str:
        if type(path) is str and ".." not in path and path[:1] not in _NEEDS_A_LOOK:
            return self._within + path
        # As text: every read of the cache comes by here, and pathlib would take longer than it.
        # Links are followed; who can place one in the folder can write there anyway.
        full = os.path.normpath(os.path.join(self._base, path))
        if not full.startswith(self._within):
            raise ValueError(f"{str(path)!r} leads out of the folder {self._base!r}")
        return full

    def read_path(self, path: str | Path) -> bytes:
        """Return what is stored at a path.

        Raises:
            FileNotFoundError: nothing is.
        """
        with open(self._full(path), "rb", buffering=0) as file:
            return file.read()

    def read_start(self, path: str | Path, size_bytes: int) -> bytes:
        """Return the first bytes of a file, at most so many."""
        with open(self._full(path), "rb", buffering=0) as file:
            return file.read(size_bytes)

    def read_writable(self, path: str | Path) -> bytearray:
        """Return what is stored at a path, read straight into memory that the caller may change."""
        return self._read(self._full(path))[0]

    def read_used(self, path: str | Path) -> bytearray:
        """As `read_writable`, and note the use; one look at the file serves both."""
        full = self._full(path)
        content, used_at = self._read(full)
        if time.time() - used_at > _USE_SECONDS:
            with contextlib.suppress(OSError):  # gone since, or on a disk that is read only
                os.utime(full)
        return content

    def _read(self, full: str) -> tuple[bytearray, float]:
        handle = os.open(full, _TO_READ)
        try:
            found = os.fstat(handle)
            if found.st_size <= _SMALL_BYTES:
                content = bytearray(os.read(handle, _SMALL_BYTES))
            else:
                content = _read_large(handle, found.st_size)
        finally:
            os.close(handle)
        return content, found.st_mtime

    def write_path(self, path: str | Path, content: bytes) -> str:
        """Store bytes at a path, making folders as needed, and return the full path.

        The file is there as a whole or not at all: it is written beside, and moved into place.
        """
        return self.write_parts(path, (content,))

    def write_parts(self, path: str | Path, parts: Iterable[Buffer]) -> str:
        """Store the parts, one after the other, as one file."""
        full = self._full(path)
        folder = os.path.dirname(full)
        beside = os.path.join(folder, UNFINISHED + secrets.token_hex(8))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        mode = 0o666 if self.shared else 0o600
        try:
            handle = os.open(beside, flags, mode)
        except FileNotFoundError:
            self._make_folder(folder)
            handle = os.open(beside, flags, mode)
        try:
            with open(handle, "wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(beside, full)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise
        return full

    def _make_folder(self, folder: str) -> None:
        """Make a folder, and the base and those between with the same access."""
        mode = 0o777 if self.shared else 0o700
        below = os.path.relpath(folder, self._base)
        os.makedirs(os.path.dirname(self._base), exist_ok=True)
        for part in (self._base, *_prefixes(below)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.join(self._base, part), mode)

    def delete_path(self, path: str | Path) -> bool:
        """Delete the file at a path; whether there was one."""
        try:
            os.unlink(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def entry_at(self, path: str | Path) -> FileEntry | None:
        """Return size and time of the file at a path, or None if there is none."""
        try:
            found = os.stat(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return FileEntry(str(path), found.st_size, found.st_mtime)

    def entries(self) -> Iterator[FileEntry]:
        """Iterate over all files, but for those of which a name in the path begins with a dot."""
        for path, found in self._walk():
            if not path.rpartition("/")[2].startswith("."):
                yield FileEntry(path, found.st_size, found.st_mtime)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(self._base, folder)) as listing:
                    items = list(listing)
            except (FileNotFoundError, NotADirectoryError):  # gone since, or never made
                continue
            for item in items:
                path = f"{folder}/{item.name}" if folder else item.name
                with contextlib.suppress(FileNotFoundError):
                    if item.is_dir(follow_symlinks=False):
                        if not item.name.startswith("."):
                            folders.append(path)
                    elif item.is_file():
                        yield path, item.stat()

    def note_use(self, path: str | Path) -> None:
        """Give the file the present time, unless it was given one a short while ago."""
        full = self._full(path)
        with contextlib.suppress(OSError):  # gone since, or on a disk that is read only
            if time.time() - os.stat(full).st_mtime > _USE_SECONDS:
                os.utime(full)

    def delete_unfinished(self, *, older_than_seconds: float) -> int:
        """Delete what killed writers left behind and return how many files there were."""
        before = time.time() - older_than_seconds
        left = [
            path
            for path, found in self._walk()
            if path.rpartition("/")[2].startswith(UNFINISHED) and found.st_mtime <= before
        ]
        return sum(self.delete_path(path) for path in left)

    def others_who_can_write(self) -> str | None:
        """Say which other users can change the files, by owner and mode of the folder."""
        if os.name == "nt":  # access is not in the mode there
            return None
        try:
            found = os.stat(self._base)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if found.st_uid not in (os.geteuid(), 0):
            return f"the user of id {found.st_uid}, who owns it,"
        if found.st_mode & stat.S_IWOTH:
            return "every user"
        return "its group" if found.st_mode & stat.S_IWGRP else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalFileSystem) and self._base == other._base

    def __hash__(self) -> int:
        return hash(self._base)

    def __repr__(self) -> str:
        return f"LocalFileSystem(basepath={self._base!r})"


def _read_large(handle: int, size: int) -> bytearray:
    content = bytearray(size)
    with open(handle, "rb", buffering=0, closefd=False) as file:
        view, filled = memoryview(content), 0
        while filled < size:  # one call reads 2 GB at most
            count = file.readinto(view[filled:])
            if not count:
                break
            filled += count
        view.release()
    del content[filled:]
    return content


def _prefixes(path: str) -> list[str]:
    names = [name for name in path.split(os.sep) if name != "."]
    return [os.path.join(*names[:count]) for count in range(1, len(names) + 1)]
