"""The kit for places of results, over those we ship and over one that somebody else would write."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from penstock.filesystems import FileEntry, FileSystem, RemoteFileSystem
from penstock.results import ResultStore
from penstock.testing.result_store import ResultStoreConformance

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


class TestLocalFolder(ResultStoreConformance):
    def make_store(self, folder: pathlib.Path, **options: Any) -> ResultStore:
        return ResultStore(folder / "store", **options)


class TestMemory(ResultStoreConformance):
    def make_store(self, folder: pathlib.Path, **options: Any) -> ResultStore:
        return ResultStore(f"memory://{folder}", **options)


class TestWrittenBeside(ResultStoreConformance):
    """A protocol whose files do not appear as a whole, and so are moved into place."""

    def make_store(self, folder: pathlib.Path, **options: Any) -> ResultStore:
        return ResultStore(RemoteFileSystem(f"file://{folder}/store"), **options)


class Shelf(FileSystem):
    """As few methods as a file system can have."""

    shelves: ClassVar[dict[str, dict[str, tuple[bytes, float]]]] = {}

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def files(self) -> dict[str, tuple[bytes, float]]:
        return self.shelves.setdefault(self.name, {})

    def read_path(self, path: str) -> bytes:
        try:
            return self.files[path][0]
        except KeyError:
            raise FileNotFoundError(path) from None

    def write_path(self, path: str, content: bytes) -> str:
        self.files[path] = (bytes(content), time.time())
        return path

    def delete_path(self, path: str) -> bool:
        return self.files.pop(path, None) is not None

    def entry_at(self, path: str) -> FileEntry | None:
        found = self.files.get(path)
        return None if found is None else FileEntry(path, len(found[0]), found[1])

    def entries(self) -> Iterator[FileEntry]:
        for path, (content, written_at) in list(self.files.items()):
            yield FileEntry(path, len(content), written_at)


class TestAStrangers(ResultStoreConformance):
    def make_store(self, folder: pathlib.Path, **options: Any) -> ResultStore:
        return ResultStore(Shelf(str(folder)), **options)


# --- the kit itself --------------------------------------------------------------------


class CannotDelete(Shelf):
    def delete_path(self, path: str) -> bool:
        return path in self.files


class ListsNothing(Shelf):
    def entries(self) -> Iterator[FileEntry]:
        return iter(())


class Appends(Shelf):
    def write_path(self, path: str, content: bytes) -> str:
        before = self.files.get(path, (b"", 0.0))[0]
        return super().write_path(path, before + bytes(content))


class DropsTheLastByte(Shelf):
    def write_path(self, path: str, content: bytes) -> str:
        return super().write_path(path, bytes(content)[:-1])


@pytest.mark.parametrize(
    ("files", "check"),
    [
        (CannotDelete, "test_a_collection_makes_the_store_as_small_as_it_is_to_be"),
        (ListsNothing, "test_a_collection_makes_the_store_as_small_as_it_is_to_be"),
        (Appends, "test_the_later_value_takes_the_place_of_the_earlier"),
        (DropsTheLastByte, "test_none_is_a_value"),
    ],
)
def test_the_kit_notices_a_file_system_that_breaks_a_promise(
    files: type[Shelf], check: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(AssertionError):
        getattr(TestAStrangers(), check)(ResultStore(files(str(tmp_path))))
