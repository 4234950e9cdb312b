"""Where a result goes, by its task and by the settings."""

from __future__ import annotations

import datetime
import logging
import stat
from typing import TYPE_CHECKING, Any

import pytest

from penstock.filesystems import LocalFileSystem, RemoteFileSystem
from penstock.locking import FileLockManager, MemoryLockManager
from penstock.results import ResultStore
from penstock.serializers import JSONSerializer
from penstock.settings import temporary_settings
from penstock.storage_choice import collect_if_due, store_of

if TYPE_CHECKING:
    import pathlib


def test_who_says_nothing_gets_a_folder_in_the_home_for_this_user_only(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_RESULTS_LOCAL_STORAGE_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = store_of()
    assert store.filesystem == LocalFileSystem(tmp_path / ".penstock/storage")
    assert store.serializer.name == "pickle"
    assert list(tmp_path.iterdir()) == []
    store.write("key", 1)
    assert stat.S_IMODE((tmp_path / ".penstock/storage").stat().st_mode) == 0o700


def test_the_settings_choose_for_who_says_nothing(tmp_path: pathlib.Path) -> None:
    with temporary_settings(
        results_local_storage_path=str(tmp_path),
        results_default_serializer="compressed/json",
        results_signing_key="secret",
        results_allow_shared_folder=True,
    ):
        tmp_path.chmod(0o777)
        store = store_of()
        assert store.filesystem == LocalFileSystem(tmp_path)
        store.write("key", 1)
    with temporary_settings(
        results_local_storage_path=str(tmp_path), results_allow_shared_folder=True
    ):
        assert store_of().read("key") is None  # signed
    record = store.read("key")
    assert record is not None
    assert record.metadata.serializer == "compressed/json"


def test_the_task_chooses_over_the_settings(tmp_path: pathlib.Path) -> None:
    with temporary_settings(results_local_storage_path="/none", results_default_serializer="none"):
        store = store_of(tmp_path, "json")
    assert store.filesystem == LocalFileSystem(tmp_path)
    assert store.serializer.name == "json"


def test_the_same_place_is_the_same_store_with_the_same_locks(tmp_path: pathlib.Path) -> None:
    store = store_of(tmp_path)
    assert store_of(str(tmp_path)) is store
    assert store_of(tmp_path, "json") is not store
    assert store_of(tmp_path, "json").lock_manager is store.lock_manager
    assert store.lock_manager == FileLockManager(tmp_path / ".locks")


def test_a_relative_folder_is_that_of_the_present_working_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert store_of("results").filesystem == LocalFileSystem(tmp_path / name / "results")


def test_a_store_is_taken_as_it_is(tmp_path: pathlib.Path) -> None:
    locks = MemoryLockManager()
    store = ResultStore(tmp_path, signing_key=b"secret", lock_manager=locks)
    assert store_of(store) is store
    changed = store_of(store, JSONSerializer())
    assert changed.lock_manager is locks
    assert changed.serializer.name == "json"
    assert store.serializer.name == "pickle"
    changed.write("key", 1)
    assert store.exists("key")  # signed by the same key


def test_the_locks_of_a_url_are_on_this_machine(tmp_path: pathlib.Path) -> None:
    with temporary_settings(results_local_storage_path=str(tmp_path)):
        store = store_of("memory://somewhere")
    assert store.filesystem == RemoteFileSystem("memory://somewhere")
    assert store.lock_manager == FileLockManager(tmp_path / ".locks")


def test_where_all_results_go_to_a_url_the_locks_are_in_the_home(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with temporary_settings(results_local_storage_path="memory://elsewhere"):
        assert store_of().lock_manager == FileLockManager(tmp_path / ".penstock/storage/.locks")


@pytest.mark.parametrize("place", [3, "", {}])
def test_what_is_no_place_is_refused(place: Any) -> None:
    with pytest.raises(TypeError, match="a place for results is"):
        store_of(place)


# --- collecting ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["{}", "memory://{}"])
def test_a_place_is_collected_when_it_is_time(tmp_path: pathlib.Path, place: str) -> None:
    store = store_of(place.format(tmp_path))
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.UTC)
    store.write("old", 1, expires_at=now)
    first = collect_if_due(store, now=now)
    assert first is not None
    assert first.records == 1
    store.write("old", 1, expires_at=now)
    assert collect_if_due(store, now=now + hour / 2) is None
    later = collect_if_due(store, now=now + 2 * hour)
    assert later is not None
    assert later.records == 1


def test_a_collection_keeps_to_the_size_of_the_settings(tmp_path: pathlib.Path) -> None:
    store = store_of(tmp_path)
    store.write("key", 1)
    with temporary_settings(results_max_bytes=0):
        collected = collect_if_due(store)
    assert collected is not None
    assert collected.records == 1


def test_a_collection_that_does_not_work_is_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = store_of(tmp_path / "file")
    with caplog.at_level(logging.WARNING, "penstock.results"):
        assert collect_if_due(store) is None
    (line,) = caplog.messages
    assert "was not cleared of old results" in line
