"""Where bytes are kept under a path: in a local folder, or wherever fsspec reaches.

`filesystem_of` makes a file system of what people write: a path, a URL, or one of their own, which
is a subclass of `FileSystem`. The docstring of that is the contract.
"""

from __future__ import annotations

import os
import re
from typing import Any

from penstock.filesystems.base import FileEntry, FileSystem
from penstock.filesystems.local import LocalFileSystem
from penstock.filesystems.remote import RemoteFileSystem

__all__ = [
    "FileEntry",
    "FileSystem",
    "LocalFileSystem",
    "RemoteFileSystem",
    "filesystem_of",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")  # `simplecache::s3://` is one, `C:/` is none


def filesystem_of(place: str | os.PathLike[str] | FileSystem) -> FileSystem:
    """Return the file system at a place.

    Args:
        place: a folder, a URL that fsspec understands, or a file system, which is returned as it
            is. A ``file://`` URL is the folder it names.

    Raises:
        TypeError: it is none of these.
    """
    given: Any = place
    if isinstance(given, FileSystem):
        return given
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str) or not given:
        raise TypeError(
            "a place for results is a folder, a URL such as s3://bucket/results, or a "
            f"penstock.filesystems.FileSystem, not {place!r}"
        )
    if given.startswith(("file://", "local://")):
        return LocalFileSystem(given.partition("://")[2])
    return RemoteFileSystem(given) if _URL.match(given) else LocalFileSystem(given)
