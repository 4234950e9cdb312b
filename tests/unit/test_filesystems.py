"""Files below one place: a local folder, and what fsspec reaches."""

from __future__ import annotations

import os
import pathlib
import pickle
import stat
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import pytest

from penstock.filesystems import (
    FileEntry,
    FileSystem,
    LocalFileSystem,
    RemoteFileSystem,
    filesystem_of,
)

Path = pathlib.Path


@pytest.fixture(params=["a folder", "memory", "written beside"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileSystem:
    if request.param == "memory":
        return RemoteFileSystem(f"memory://{uuid.uuid4()}/base")
    if request.param == "written beside":  # `file` is none of the stores that put as a whole
        return RemoteFileSystem(f"file://{tmp_path}/base")
    return LocalFileSystem(tmp_path / "base")


# --- every file system -----------------------------------------------------------------


def test_seed_146_what_was_written_is_read_back(files: FileSystem) -> None:
    where = files.write_path("a/b.bin", b"\x00content")
    assert where.endswith("base/a/b.bin")
    assert files.read_path("a/b.bin") == b"\x00content"
    assert files.read_start("a/b.bin", 3) == b"\x00co"
    assert files.read_start("a/b.bin", 300) == b"\x00content"
    writable = files.read_writable("a/b.bin")
    assert type(writable) is bytearray
    assert writable == b"\x00content"


def test_writing_again_replaces_and_leaves_nothing_beside(files: FileSystem) -> None:
    files.write_path("x", b"one")
    files.write_path("x", b"")
    files.write_parts("x", [b"t", bytearray(b"w"), memoryview(b"o")])
    assert files.read_path("x") == b"two"
    assert [entry.path for entry in files.entries()] == ["x"]


def test_a_path_may_not_lead_out(files: FileSystem) -> None:
    for path in ("../outside", "/etc/passwd", "a/../../outside", "..", "."):
        with pytest.raises(ValueError, match="leads out"):
            files.write_path(path, b"")
        with pytest.raises(ValueError, match="leads out"):
            files.read_path(path)


def test_what_is_not_there_is_said_to_be_missing(files: FileSystem) -> None:
    for read in (files.read_path, files.read_writable):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    with pytest.raises(FileNotFoundError):
        files.read_start("no/thing", 3)
    assert files.entry_at("nothing") is None
    assert files.delete_path("nothing") is False
    assert list(files.entries()) == []
    assert files.delete_unfinished(older_than_seconds=0) == 0
    files.note_use("nothing")


def test_deleting_takes_one_file_away(files: FileSystem) -> None:
    files.write_path("a", b"1")
    files.write_path("b", b"2")
    assert files.delete_path("a") is True
    assert files.entry_at("a") is None
    assert files.read_path("b") == b"2"


def test_entries_tell_size_and_time_and_leave_out_hidden_names(files: FileSystem) -> None:
    before = time.time()
    for path in ("a", "deep/er/b", ".hidden", ".folder/c"):
        files.write_path(path, b"123")
    entries = sorted(files.entries())
    assert [(entry.path, entry.size_bytes) for entry in entries] == [("a", 3), ("deep/er/b", 3)]
    for entry in entries:
        assert entry.used_at is not None
        assert before - 2 <= entry.used_at <= time.time() + 2
        assert files.entry_at(entry.path) == entry
    assert files.entry_at("deep") is None


def test_a_file_system_travels_by_pickle(files: FileSystem) -> None:
    files.write_path("x", b"1")
    again: FileSystem = pickle.loads(pickle.dumps(files))
    assert again == files
    assert hash(again) == hash(files)
    assert again.read_path("x") == b"1"


def test_what_cannot_be_written_leaves_what_was_there(files: FileSystem) -> None:
    files.write_path("x", b"before")
    unfit: Any = "text"
    with pytest.raises(TypeError):
        files.write_path("x", unfit)
    assert files.read_path("x") == b"before"
    assert [entry.path for entry in files.entries()] == ["x"]


def test_a_reader_sees_the_old_or_the_new_whole(files: FileSystem) -> None:
    contents = {bytes([number]) * 50_000 for number in range(4)}
    files.write_path("x", min(contents))
    ended = threading.Event()

    def write() -> None:
        for content in sorted(contents) * 25:
            files.write_path("x", content)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        while not ended.is_set():
            seen.add(files.read_path("x"))
    finally:
        writer.join()
    assert seen <= contents


# --- a local folder --------------------------------------------------------------------


def test_two_of_the_same_folder_are_equal(tmp_path: Path) -> None:
    assert LocalFileSystem(tmp_path) == LocalFileSystem(str(tmp_path))
    assert LocalFileSystem(tmp_path) != LocalFileSystem(tmp_path / "other")


def test_a_folder_that_is_made_is_for_its_user_only(tmp_path: Path) -> None:
    files = LocalFileSystem(tmp_path / "new/base")
    assert not (tmp_path / "new").exists()
    full = Path(files.write_path("in/ner/x", b""))
    for folder in (tmp_path / "new/base", full.parent.parent, full.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(full.stat().st_mode) == 0o600
    assert files.others_who_can_write() is None


def test_a_shared_folder_is_made_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        full = Path(LocalFileSystem(tmp_path / "base", shared=True).write_path("in/x", b""))
    finally:
        os.umask(before)
    assert stat.S_IMODE(full.parent.stat().st_mode) == 0o775
    assert stat.S_IMODE(full.stat().st_mode) == 0o664


@pytest.mark.parametrize(
    ("mode", "who"), [(0o770, "its group"), (0o707, "every user"), (0o755, None)]
)
def test_who_else_can_write_is_told(tmp_path: Path, mode: int, who: str | None) -> None:
    tmp_path.chmod(mode)
    assert LocalFileSystem(tmp_path).others_who_can_write() == who


def test_a_folder_that_is_not_there_yet_is_written_by_nobody(tmp_path: Path) -> None:
    assert LocalFileSystem(tmp_path / "none").others_who_can_write() is None


def test_use_is_noted_after_a_while(tmp_path: Path) -> None:
    files = LocalFileSystem(tmp_path)
    path = Path(files.write_path("x", b""))
    long_ago = time.time() - 10_000
    os.utime(path, (long_ago, long_ago))
    files.note_use("x")
    noted = path.stat().st_mtime
    assert noted > long_ago + 9_000
    files.note_use("x")
    assert path.stat().st_mtime == noted


def test_what_a_killed_writer_left_is_no_entry_and_can_be_deleted(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from penstock.filesystems import LocalFileSystem\n"
        "def parts():\n"
        "    yield b'begun'\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalFileSystem(sys.argv[1]).write_parts('x', parts())\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert killed.returncode != 0
    files = LocalFileSystem(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert list(files.entries()) == []
    assert files.delete_unfinished(older_than_seconds=1000) == 0
    assert files.delete_unfinished(older_than_seconds=0) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_a_moved_file_is_deleted_remotely_too(tmp_path: Path) -> None:
    (tmp_path / ".penstock-abc").touch()
    files = RemoteFileSystem(f"file://{tmp_path}")
    assert files.delete_unfinished(older_than_seconds=1000) == 0
    assert files.delete_unfinished(older_than_seconds=0) == 1


# --- from what people write ------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["{0}", "file://{0}"])
def test_a_folder_is_a_local_file_system(tmp_path: Path, spelling: str) -> None:
    assert filesystem_of(spelling.format(tmp_path)) == LocalFileSystem(tmp_path)
    assert filesystem_of(tmp_path) == LocalFileSystem(tmp_path)


def test_the_home_of_the_user_is_found() -> None:
    assert filesystem_of("~/x") == LocalFileSystem(Path.home() / "x")


@pytest.mark.parametrize("url", ["memory://x", "s3://bucket/results", "simplecache::s3://bucket"])
def test_a_url_is_a_remote_file_system_and_connects_to_nothing(url: str) -> None:
    assert filesystem_of(url) == RemoteFileSystem(url)


def test_a_file_system_is_taken_as_it_is() -> None:
    files = LocalFileSystem("x")
    assert filesystem_of(files) is files


@pytest.mark.parametrize("place", [3, None, ""])
def test_anything_else_is_refused(place: Any) -> None:
    with pytest.raises(TypeError, match="a place for results is"):
        filesystem_of(place)


def test_a_remote_file_system_needs_a_url() -> None:
    with pytest.raises(ValueError, match="needs a URL"):
        RemoteFileSystem("folder")


def test_settings_are_not_shown() -> None:
    assert "hidden" not in repr(RemoteFileSystem("s3://bucket", {"secret": "hidden"}))


def test_the_methods_to_supply_are_few() -> None:
    """One of a user's own has five methods, and the rest works."""

    class InADict(FileSystem):
        def __init__(self) -> None:
            self.kept: dict[str, bytes] = {}

        def read_path(self, path: str) -> bytes:
            try:
                return self.kept[path]
            except KeyError:
                raise FileNotFoundError(path) from None

        def write_path(self, path: str, content: bytes) -> str:
            self.kept[path] = content
            return path

        def delete_path(self, path: str) -> bool:
            return self.kept.pop(path, None) is not None

        def entry_at(self, path: str) -> FileEntry | None:
            return FileEntry(path, len(self.kept[path]), None) if path in self.kept else None

        def entries(self) -> Any:
            return iter([FileEntry(path, len(self.kept[path]), None) for path in self.kept])

    files = InADict()
    files.write_parts("x", [b"1", b"2"])
    assert files.read_writable("x") == b"12"
    assert files.read_start("x", 1) == b"1"
    assert files.others_who_can_write() is None
    assert filesystem_of(files) is files
