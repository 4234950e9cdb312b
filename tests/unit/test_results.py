"""The store of values on this machine: who may change it, what is collected, what is noted.

What holds for every place is in the kit, `penstock.testing.result_store`.
"""

from __future__ import annotations

import datetime
import logging
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock import eviction, results, serializers
from penstock.exceptions import UnsafeStorageError
from penstock.filesystems import LocalFileSystem
from penstock.locking import FileLockManager
from penstock.results import ResultStore

if TYPE_CHECKING:
    import pathlib

NOON = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)


# --- who may change it -----------------------------------------------------------------


@pytest.mark.parametrize(("mode", "who"), [(0o770, "its group"), (0o707, "every user")])
def test_a_folder_that_others_can_write_is_refused(
    tmp_path: pathlib.Path, mode: int, who: str
) -> None:
    tmp_path.chmod(mode)
    store = ResultStore(tmp_path)
    message = rf"{who} can write there.*chmod go-w {tmp_path}.*allow_shared_folder"
    attempts: list[Any] = [
        lambda: store.read("key"),
        lambda: store.read_metadata("key"),
        lambda: store.exists("key"),
        lambda: store.write("key", 1),
        lambda: store.delete("key"),
        lambda: list(store.records()),
        store.stats,
        store.collect,
    ]
    for attempt in attempts:
        with pytest.raises(UnsafeStorageError, match=message):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_opened_to_others_later_is_refused_from_then_on(
    tmp_path: pathlib.Path,
) -> None:
    store = ResultStore(tmp_path / "store")
    store.write("key", 1)
    (tmp_path / "store").chmod(0o777)
    with pytest.raises(UnsafeStorageError):
        store.read("key")
    (tmp_path / "store").chmod(0o755)
    assert store.exists("key")


def test_a_shared_folder_can_be_allowed(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o777)
    store = ResultStore(tmp_path, allow_shared_folder=True)
    before = os.umask(0o002)
    try:
        store.write("team/key", 1)
    finally:
        os.umask(before)
    assert store.exists("team/key")
    assert stat.S_IMODE((tmp_path / "team/key.record").stat().st_mode) == 0o664


def test_what_the_store_makes_is_for_its_user_only(tmp_path: pathlib.Path) -> None:
    ResultStore(tmp_path / "store").write("team/key", 1)
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_making_a_store_touches_nothing(tmp_path: pathlib.Path) -> None:
    store = ResultStore(tmp_path / "store")
    assert store.read("key") is None
    assert list(tmp_path.iterdir()) == []


def test_an_empty_signing_key_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="signing key of a result store is empty"):
        ResultStore(tmp_path, signing_key="")


def test_the_signing_key_is_not_shown(tmp_path: pathlib.Path) -> None:
    shown = repr(ResultStore(tmp_path, signing_key="hidden"))
    assert "hidden" not in shown
    assert shown.endswith("'pickle', signed>")


# --- what is noted ---------------------------------------------------------------------


def test_metadata_longer_than_what_is_read_first_is_read_whole(tmp_path: pathlib.Path) -> None:
    store = ResultStore(tmp_path)
    parts = {f"helper {number}": "0" * 32 for number in range(500)}
    written = store.write("key", 1, parts=parts)
    assert store.read_metadata("key") == written
    assert written.parts == parts
    assert list(store.records()) == [written]


def test_an_expiry_without_a_time_zone_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        ResultStore(tmp_path).write("key", 1, expires_at=datetime.datetime(2026, 5, 4))


def test_a_place_that_cannot_be_read_is_a_miss_with_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ResultStore(tmp_path)
    (tmp_path / "key.record").mkdir()
    with caplog.at_level(logging.WARNING, "penstock.results"):
        assert store.read("key") is None
    (line,) = caplog.messages
    assert line.startswith("Result 'key' cannot be used, as if it were not there: IsADirectoryErr")


FORMER = (
    b"\x89PENREC\n\x01\x00\x01\x00\x00\x00\x98\x00\x00\x00@" + b"\0" * 7 + b"\xaa" * 64
    + b"\x05" + b"\0" * 7 + b'{"key": "key", "created_at": "2026-05-04T12:00:00+00:00"}'.ljust(152)
    + b"\x80\x05K\x01.".ljust(64, b"\0")
)  # fmt: skip
"""A record of the first format, but for its digests."""


def test_a_record_of_the_former_format_is_a_miss_and_is_replaced(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ResultStore(tmp_path)
    (tmp_path / "key.record").write_bytes(FORMER)
    with caplog.at_level(logging.WARNING, "penstock.results"):
        assert store.read("key") is None
        assert store.read_metadata("key") is None
        assert store.stats().unreadable == 1
    assert {line.partition(": it ")[2] for line in caplog.messages} == {
        "is of format 1, and only 2 is known here"
    }
    assert store.collect().records == 0  # who has the former version may still read it
    store.write("key", 2)
    record = store.read("key")
    assert record is not None
    assert record.value == 2


# --- what is collected -----------------------------------------------------------------


def test_what_was_read_lately_is_kept(tmp_path: pathlib.Path) -> None:
    store = ResultStore(tmp_path)
    for age, key in enumerate(("newest", "middle", "oldest")):
        store.write(key, 1)
        moment = time.time() - 10_000 * (age + 1)
        os.utime(tmp_path / f"{key}.record", (moment, moment))
    assert store.read("oldest") is not None
    size = store.stats().size_bytes // 3
    assert store.collect(max_bytes=2 * size).records == 1
    assert sorted(store.keys()) == ["newest", "oldest"]


def test_what_is_written_anew_while_a_collection_thinks_stays(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ResultStore(tmp_path)
    store.write("key", "old", expires_at=NOON)
    store.write("other", "old", expires_at=NOON)

    def decide(candidates: Any, **limits: Any) -> list[eviction.Candidate]:
        store.write("key", "made anew")
        return eviction.to_evict(candidates, **limits)

    monkeypatch.setattr(results, "to_evict", decide)
    assert store.collect(now=NOON).records == 1
    record = store.read("key")
    assert record is not None
    assert record.value == "made anew"


def test_what_cannot_be_deleted_is_left_with_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(LocalFileSystem):
        def delete_path(self, path: str | pathlib.Path) -> bool:
            raise PermissionError("in use")

    store = ResultStore(Stubborn(tmp_path))
    store.write("key", 1, expires_at=NOON)
    with caplog.at_level(logging.WARNING, "penstock.results"):
        assert store.collect() == (0, 0)
    assert caplog.messages == ["Result 'key.record' cannot be deleted: in use"]


def test_a_collection_clears_what_killed_writers_left_long_ago(tmp_path: pathlib.Path) -> None:
    store = ResultStore(tmp_path)
    for name, age_seconds in ((".penstock-old", 7200), (".penstock-new", 60)):
        (tmp_path / name).touch()
        moment = time.time() - age_seconds
        os.utime(tmp_path / name, (moment, moment))
    store.collect()
    assert [path.name for path in tmp_path.iterdir()] == [".penstock-new"]


# --- in workers ------------------------------------------------------------------------

WORKER = """
import pickle, sys
class Without:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "penstock":
            raise ImportError(name)
sys.meta_path.insert(0, Without())
work, store = pickle.load(sys.stdin.buffer)
print(work(store))
"""


def test_a_store_works_by_value_in_a_worker_that_has_no_penstock(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 6, for workers that write their large results themselves."""
    # Serializers of the user's own travel along by name, and here those of other tests would.
    known = {"pickle": serializers.PickleSerializer, "json": serializers.JSONSerializer}
    monkeypatch.setattr(serializers, "_by_name", known)

    def work(store: Any) -> Any:
        store.write("key", [1, 2], run_name="far away")
        return store.read("key").value

    store = ResultStore(
        tmp_path / "store", signing_key=b"secret", lock_manager=FileLockManager(tmp_path / "locks")
    )
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "penstock"]
    mine = [*ours, sys.modules[__name__]]
    for module in mine:
        cloudpickle.register_pickle_by_value(module)
    try:
        order = cloudpickle.dumps((work, store))
    finally:
        for module in mine:
            cloudpickle.unregister_pickle_by_value(module)
    done = subprocess.run([sys.executable, "-c", WORKER], input=order, capture_output=True)
    assert done.stdout.decode().strip() == "[1, 2]", done.stderr.decode()
    record = store.read("key")
    assert record is not None
    assert record.metadata.run_name == "far away"
