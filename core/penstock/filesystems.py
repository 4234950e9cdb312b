"""Where bytes are kept under a path: the local file system."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["LocalFileSystem"]


class LocalFileSystem:
    """Files below one folder.

    Args:
        basepath: the folder; ``~`` is the user's home. Paths are taken from there, and may not
            lead out of it.

    Example:
        >>> files = LocalFileSystem(basepath="~/results")
        >>> files.write_path("day/one.json", b"{}")  # doctest: +SKIP
    """

    def __init__(self, basepath: str | Path | None = None) -> None:
        self.basepath: Path = Path(basepath if basepath is not None else ".").expanduser().resolve()

    def _resolved(self, path: str | Path) -> Path:
        full = (self.basepath / path).resolve()
        if not full.is_relative_to(self.basepath):
            raise ValueError(f"{str(path)!r} leads out of the folder {str(self.basepath)!r}")
        return full

    def read_path(self, path: str | Path) -> bytes:
        """Return what is stored at a path.

        Raises:
            FileNotFoundError: nothing is.
        """
        return self._resolved(path).read_bytes()

    def write_path(self, path: str | Path, content: bytes) -> str:
        """Store bytes at a path, making folders as needed, and return the full path.

        The file is there as a whole or not at all: it is written beside, and moved into place.
        """
        full = self._resolved(path)
        full.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=full.parent, prefix=f".{full.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(full)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return str(full)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalFileSystem) and self.basepath == other.basepath

    def __hash__(self) -> int:
        return hash(self.basepath)

    def __repr__(self) -> str:
        return f"LocalFileSystem(basepath={str(self.basepath)!r})"
