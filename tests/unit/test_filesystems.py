"""Files under one folder."""

from pathlib import Path

import pytest

from penstock.filesystems import LocalFileSystem


def test_seed_146_what_was_written_is_read_back(tmp_path: Path) -> None:
    files = LocalFileSystem(basepath=tmp_path)
    where = files.write_path("a/b.bin", b"\x00content")
    assert files.read_path("a/b.bin") == b"\x00content"
    assert Path(where) == (tmp_path / "a/b.bin").resolve()


def test_writing_again_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    files = LocalFileSystem(tmp_path)
    files.write_path("x", b"one")
    files.write_path("x", b"two")
    assert files.read_path("x") == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_path_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    files = LocalFileSystem(tmp_path / "inner")
    with pytest.raises(ValueError, match="leads out"):
        files.write_path("../outside", b"")
    with pytest.raises(ValueError, match="leads out"):
        files.read_path("/etc/passwd")


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalFileSystem(tmp_path).read_path("nothing")


def test_two_of_the_same_folder_are_equal(tmp_path: Path) -> None:
    assert LocalFileSystem(tmp_path) == LocalFileSystem(str(tmp_path))
    assert LocalFileSystem(tmp_path) != LocalFileSystem(tmp_path / "other")
