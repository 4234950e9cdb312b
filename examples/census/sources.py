"""Finding Python files below a folder, and reading one of them."""

from __future__ import annotations

import os
import stat
import sysconfig
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path

__all__ = ["LARGEST_BYTES", "Listing", "Skipped", "Unusable", "checked_root", "find", "read"]

LARGEST_BYTES = 5_000_000  # above this it is generated data, and parsing takes gigabytes

INSTALLED = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Unusable(Exception):
    """A file that can be seen but not taken into account; the text says why."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder left out of the census."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies below a root: paths relative to it, with `/`, in order."""

    files: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def checked_root(root: str | None) -> Path:
    """Return the folder to look at: `root`, or the running interpreter's standard library."""
    if root is None:
        return Path(sysconfig.get_path("stdlib"))
    folder = Path(root).expanduser().absolute()
    if not folder.exists():
        raise FileNotFoundError(
            f"root={root!r} does not exist (looked at {folder}). "
            "Give an existing folder of Python source, or leave it out for the standard library."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"root={root!r} is a file. Give the folder that holds it: {folder.parent}"
        )
    return folder


def find(root: Path, *, include_tests: bool) -> Listing:
    """List the `.py` files below `root`.

    Installed packages, caches and hidden folders are left out. Links to folders are not followed,
    so a loop of links ends; links to files are, as `import` would.
    """
    files: list[str] = []
    skipped: list[Skipped] = []

    def unreadable(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        skipped.append(Skipped(Path(where).as_posix(), f"unreadable folder: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if _is_wanted(name, include_tests)]
        below = Path(folder).relative_to(root)
        files += ((below / name).as_posix() for name in names if name.endswith(".py"))
    skipped.sort(key=lambda left_out: left_out.path)
    return Listing(tuple(sorted(files)), tuple(skipped))


def _is_wanted(folder: str, include_tests: bool) -> bool:
    if folder.startswith(".") or folder in INSTALLED:
        return False
    return include_tests or not (
        folder in {"test", "tests"} or folder.endswith(("_test", "_tests"))
    )


def read(path: Path) -> str:
    """Return a file's text, decoded as Python would (PEP 263).

    Raises:
        OSError: It cannot be read; another try may succeed.
        Unusable: No further try would help.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for its writer for ever
        raise Unusable("not a regular file")
    if about.st_size > LARGEST_BYTES:
        raise Unusable(f"larger than {LARGEST_BYTES // 1_000_000} MB")
    content = path.read_bytes()
    if b"\0" in content:
        raise Unusable("null bytes")
    try:
        return decode_source(content)
    except (SyntaxError, UnicodeDecodeError) as error:  # an unknown coding line, or wrong bytes
        raise Unusable(f"encoding error: {_without_path(error)}") from None


def _without_path(error: SyntaxError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not {error.encoding} at byte {error.start}"
    return error.msg
