"""The suite that every place for results passes: the contract of `FileSystem` and `ResultStore`.

The whole test module of a package that brings a file system::

    from penstock.results import ResultStore
    from penstock.testing.result_store import ResultStoreConformance

    from ourpackage import OurFileSystem


    class TestOurFileSystem(ResultStoreConformance):
        def make_store(self, folder, **options):
            return ResultStore(OurFileSystem(f"test-bucket/{folder}"), **options)
"""

from __future__ import annotations

import abc
import datetime
import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.exceptions import SerializationError
from penstock.record_files import path_of

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from penstock.results import ResultStore

__all__ = ["ResultStoreConformance"]

_NOON = datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC)
_HOUR = datetime.timedelta(hours=1)

_UNUSUAL_KEYS = (
    "", " ", ".", "..", "/", "a", "A", "a/b", "a/b/c", "a//b", "/a", "a/", "../a", "a/../b", ".a",
    "a.record", "a.record/b", "a b", "a\nb", "a\\b", "C:/a", "ü", "u\u0308", "\udc80", "a?b*c",
    "hashed/x", "k" * 150, "k" * 151, "k/" * 400 + "k",
)  # fmt: skip


class ResultStoreConformance(abc.ABC):
    """Subclass it in a test module, with a name that begins with `Test`, and add `make_store`."""

    @abc.abstractmethod
    def make_store(self, folder: pathlib.Path, **options: Any) -> ResultStore:
        """Return a new store at a place of its own for each folder, empty at first.

        Two of the same folder are at the same place.

        Args:
            folder: an empty folder to use, or just a name that is not used twice.
            options: arguments to pass on to `ResultStore`.
        """

    @pytest.fixture
    def store(self, tmp_path: pathlib.Path) -> ResultStore:
        """A store that is empty."""
        return self.make_store(tmp_path)

    @pytest.fixture(autouse=True)
    def warnings(self) -> Iterator[list[str]]:
        """The lines that stores write to the log."""
        lines: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # one line
        logger = logging.getLogger("penstock.results")
        logger.addHandler(handler)
        yield lines
        logger.removeHandler(handler)

    # --- one record --------------------------------------------------------------------

    def test_what_was_written_is_read_with_what_is_known_about_it(
        self, store: ResultStore, tmp_path: pathlib.Path, warnings: list[str]
    ) -> None:
        """Also by another store of the same place."""
        parts = {"inputs": {"lr": ["d41d8cd9", "0.1"]}, "source": "8f00b204", "helpers": {}}
        written = store.write(
            "key",
            {"rows": [1, 2.5, None]},
            expires_at=_NOON + _HOUR,
            run_id="3a60",
            run_name="train-1",
            task_name="train",
            parts=parts,
            now=_NOON,
        )
        for each in (store, self.make_store(tmp_path)):
            record = each.read("key", now=_NOON)
            assert record is not None
            assert record.value == {"rows": [1, 2.5, None]}
            assert record.metadata == written == each.read_metadata("key")
            assert each.exists("key", now=_NOON)
        assert written.parts == parts
        assert (written.created_at, written.expires_at) == (_NOON, _NOON + _HOUR)
        assert (written.run_id, written.run_name, written.task_name) == ("3a60", "train-1", "train")
        assert written.serializer == "pickle"
        assert written.size_bytes == len(pickle.dumps({"rows": [1, 2.5, None]}, protocol=5))
        assert written.python_version
        assert written.penstock_version
        assert warnings == []

    def test_what_is_not_there_is_a_miss_without_a_word(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """A first run is nothing to warn of."""
        assert store.read("key") is None
        assert store.read_metadata("key") is None
        assert not store.exists("key")
        assert not store.delete("key")
        assert list(store.records()) == []
        assert store.stats().records == 0
        assert warnings == []

    def test_the_later_value_takes_the_place_of_the_earlier(self, store: ResultStore) -> None:
        """Be it longer or shorter."""
        for value in ("short", "long" * 1000, "short again"):
            store.write("key", value)
            record = store.read("key")
            assert record is not None
            assert record.value == value
        assert store.stats().records == 1

    def test_none_is_a_value(self, store: ResultStore) -> None:
        """And is told from a miss."""
        store.write("key", None)
        record = store.read("key")
        assert record is not None
        assert record.value is None

    def test_any_text_is_a_key_and_no_two_are_the_same(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """Where a place cannot tell two keys apart the later wins, and the other is a miss."""
        for key in _UNUSUAL_KEYS:
            store.write(key, key)
        kept = []
        for key in _UNUSUAL_KEYS:
            record = store.read(key)
            if record is not None:
                assert record.value == key
                kept.append(key)
        assert len(kept) + len(warnings) == len(_UNUSUAL_KEYS)
        assert sorted(store.keys()) == sorted(kept)
        assert len(kept) >= len({key.lower() for key in _UNUSUAL_KEYS})
        for key in kept:
            assert store.delete(key)
        assert store.stats().records == 0

    def test_large_buffers_come_back_and_can_be_changed(self, store: ResultStore) -> None:
        """A value from the store is no worse than the one that was computed."""
        store.write("key", [_Cells(b"abc" * 50_000), _Cells(b""), _Cells(b"xyz")])
        record = store.read("key")
        assert record is not None
        one, two, three = record.value
        assert (bytes(one.cells), bytes(two.cells), bytes(three.cells)) == (
            b"abc" * 50_000,
            b"",
            b"xyz",
        )
        one.cells[0] = ord("z")

    def test_what_cannot_be_written_leaves_what_was_there(self, store: ResultStore) -> None:
        """The error comes before anything is touched."""
        store.write("key", 1)
        with pytest.raises(SerializationError):
            store.write("key", threading.Lock())
        record = store.read("key")
        assert record is not None
        assert record.value == 1

    def test_a_store_travels_by_pickle(self, store: ResultStore) -> None:
        """To workers that write their results themselves."""
        again: ResultStore = pickle.loads(pickle.dumps(store))
        again.write("key", 1)
        assert store.exists("key")

    # --- expiry ------------------------------------------------------------------------

    def test_what_expired_is_a_miss_that_can_be_asked_about(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """Row 077; that a time is over is no reason for a warning."""
        store.write("key", 1, expires_at=_NOON)
        assert store.exists("key", now=_NOON - _HOUR)
        assert not store.exists("key", now=_NOON)
        assert store.read("key", now=_NOON) is None
        metadata = store.read_metadata("key")
        assert metadata is not None
        assert metadata.expires_at == _NOON
        assert warnings == []

    # --- damage ------------------------------------------------------------------------

    @pytest.mark.parametrize("signing_key", [None, b"secret"])
    def test_a_record_cut_off_anywhere_is_a_miss(
        self, tmp_path: pathlib.Path, warnings: list[str], signing_key: bytes | None
    ) -> None:
        """With one warning each time, that names the key."""
        store = self.make_store(tmp_path, signing_key=signing_key)
        store.write("the key", _Reads())
        whole = store.filesystem.read_path(path_of("the key"))
        _Reads.count = 0
        for length in range(len(whole)):
            store.filesystem.write_path(path_of("the key"), whole[:length])
            assert store.read("the key") is None
        store.filesystem.write_path(path_of("the key"), whole + b"\0")
        assert store.read("the key") is None
        assert _Reads.count == 0
        assert len(warnings) == len(whole) + 1
        assert all("'the key'" in line for line in warnings)

    @pytest.mark.parametrize("signing_key", [None, b"secret"])
    def test_a_record_with_any_byte_changed_is_a_miss(
        self, tmp_path: pathlib.Path, warnings: list[str], signing_key: bytes | None
    ) -> None:
        """And nothing of it is unpickled."""
        store = self.make_store(tmp_path, signing_key=signing_key)
        store.write("key", _Reads())
        whole = store.filesystem.read_path(path_of("key"))
        _Reads.count = 0
        for index in range(len(whole)):
            changed = bytearray(whole)
            changed[index] ^= 1 << index % 8
            store.filesystem.write_path(path_of("key"), bytes(changed))
            assert store.read("key") is None
        assert _Reads.count == 0
        assert len(warnings) == len(whole)
        store.filesystem.write_path(path_of("key"), whole)
        assert store.read("key") is not None

    def test_the_record_of_another_key_is_a_miss(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """Also if it is whole and signed."""
        store.write("a", "value of a")
        moved = store.filesystem.read_path(path_of("a"))
        store.filesystem.write_path(path_of("b"), moved)
        assert store.read("b") is None
        assert store.read_metadata("b") is None
        assert list(store.keys()) == ["a"]
        assert len(warnings) == 3

    def test_a_value_that_cannot_be_loaded_is_a_miss(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """Say, its class is not there any more."""
        store.write("key", _DoesNotLoad())
        assert store.read("key") is None
        (line,) = warnings
        assert "RuntimeError: from another time" in line

    def test_a_record_by_a_serializer_that_is_not_known_here_is_a_miss(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """It may be known elsewhere, and so is not collected."""
        serializer = type(store.serializer)()
        serializer.name = "from-elsewhere"
        store.serializer, own = serializer, store.serializer
        store.write("key", 1)
        store.serializer = own
        assert store.read("key") is None
        assert "from-elsewhere" in warnings[0]
        assert store.collect().records == 0

    # --- security ----------------------------------------------------------------------

    def test_with_a_key_only_what_was_signed_with_it_is_read(
        self, tmp_path: pathlib.Path, warnings: list[str]
    ) -> None:
        """Nothing else is unpickled."""
        for signing_key in (None, b"another"):
            self.make_store(tmp_path, signing_key=signing_key).write("key", _Reads())
            _Reads.count = 0
            store = self.make_store(tmp_path, signing_key=b"secret")
            assert store.read("key") is None
            assert not store.exists("key")
            assert _Reads.count == 0
        assert "not signed" in warnings[0]
        assert "signature does not fit" in warnings[-1]
        self.make_store(tmp_path, signing_key="secret").write("key", 1)
        assert store.exists("key")

    def test_what_is_signed_is_not_read_without_the_key(
        self, tmp_path: pathlib.Path, warnings: list[str]
    ) -> None:
        """Since nobody can tell then whether it was changed."""
        self.make_store(tmp_path, signing_key=b"secret").write("key", 1)
        store = self.make_store(tmp_path)
        assert store.read("key") is None
        assert "no key is set" in warnings[0]
        assert store.collect().records == 0

    def test_a_store_of_json_does_not_unpickle(
        self, tmp_path: pathlib.Path, warnings: list[str]
    ) -> None:
        """Who chose it may have done so in order to run no code of others."""
        self.make_store(tmp_path).write("key", _Reads())
        _Reads.count = 0
        assert self.make_store(tmp_path, serializer="compressed/json").read("key") is None
        assert _Reads.count == 0
        assert "may run code" in warnings[0]

    def test_what_any_known_serializer_wrote_is_read(self, tmp_path: pathlib.Path) -> None:
        """So that the choice of another does not empty the cache."""
        for name in ("pickle", "json", "compressed/pickle", "compressed/json"):
            self.make_store(tmp_path, serializer=name).write("key", {"by": name})
            record = self.make_store(tmp_path).read("key")
            assert record is not None
            assert record.value == {"by": name}
            assert record.metadata.serializer == name

    # --- all of them -------------------------------------------------------------------

    def test_everything_there_is_counted(self, store: ResultStore) -> None:
        """What expired and what is damaged, too."""
        store.write("old", 1, now=_NOON - _HOUR, expires_at=_NOON)
        store.write("new", 2, now=_NOON)
        store.filesystem.write_path(path_of("damaged"), b"damaged")
        store.filesystem.write_path("notes.txt", b"no record")
        stats = store.stats(now=_NOON)
        assert (stats.records, stats.expired, stats.unreadable) == (2, 1, 1)
        assert (stats.oldest, stats.newest) == (_NOON - _HOUR, _NOON)
        sizes = [len(store.filesystem.read_path(path_of(key))) for key in ("old", "new", "damaged")]
        assert stats.size_bytes == sum(sizes)

    def test_a_collection_takes_what_is_of_no_use(self, store: ResultStore) -> None:
        """And leaves the rest as it was."""
        store.write("old", 1, expires_at=_NOON)
        store.write("lasting", 2, expires_at=_NOON + _HOUR)
        store.write("unending", 3)
        store.filesystem.write_path(path_of("damaged"), b"damaged")
        store.filesystem.write_path("notes.txt", b"no record")
        size = len(store.filesystem.read_path(path_of("old"))) + len(b"damaged")
        assert store.collect(now=_NOON) == (2, size)
        assert sorted(store.keys()) == ["lasting", "unending"]
        assert store.filesystem.read_path("notes.txt") == b"no record"
        assert store.collect(now=_NOON) == (0, 0)

    def test_a_collection_makes_the_store_as_small_as_it_is_to_be(self, store: ResultStore) -> None:
        """And no smaller."""
        for number in range(5):
            store.write(str(number), b"x" * 1000)
        each = store.stats().size_bytes // 5
        assert store.collect(max_bytes=5 * each).records == 0
        assert store.collect(max_bytes=3 * each) == (2, 2 * each)
        assert store.stats().size_bytes == 3 * each
        assert store.collect(max_bytes=0).records == 3

    # --- at once -----------------------------------------------------------------------

    def test_who_reads_while_others_write_and_collect_gets_a_whole_value(
        self, store: ResultStore, warnings: list[str]
    ) -> None:
        """Or a miss, where the record was collected; never a warning."""
        ended = threading.Event()
        wrong: list[Any] = []

        def write(number: int) -> None:
            for _ in range(30):
                store.write("key", [number] * 5000)

        def read() -> None:
            while not ended.is_set():
                record = store.read("key")
                if record is not None and record.value != [record.value[0]] * 5000:
                    wrong.append(record)

        def collect() -> None:
            while not ended.is_set():
                store.collect(max_bytes=0)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        others = [threading.Thread(target=each) for each in (read, read, collect)]
        for thread in (*writers, *others):
            thread.start()
        for thread in writers:
            thread.join()
        ended.set()
        for thread in others:
            thread.join()
        assert wrong == []
        assert warnings == []


class _Cells:
    """Offers its memory to pickle, as an array does."""

    def __init__(self, cells: Any) -> None:
        self.cells: Any = cells if isinstance(cells, memoryview) else bytearray(cells)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _Cells, (pickle.PickleBuffer(self.cells),)


class _Reads:
    """Counts how often one is unpickled."""

    count = 0

    def __reduce__(self) -> Any:
        return _count_read, ()


def _count_read() -> _Reads:
    _Reads.count += 1
    return _Reads()


class _DoesNotLoad:
    def __reduce__(self) -> Any:
        return _fail_to_load, ()


def _fail_to_load() -> None:
    raise RuntimeError("from another time")
