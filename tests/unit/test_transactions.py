"""Transactions: what is committed together, rolled back together, and in which order."""

# ruff: noqa: PT012  (what ends with the error is a block of several lines)

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.exceptions import DefinitionError
from penstock.locking import MemoryLockManager
from penstock.results import ResultStore
from penstock.settings import temporary_settings
from penstock.storage_choice import store_of
from penstock.transactions import (
    CommitMode,
    IsolationLevel,
    Transaction,
    atransaction,
    get_transaction,
    transaction,
)

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

PATIENCE_SECONDS = 20.0


@pytest.fixture
def store(tmp_path: pathlib.Path) -> ResultStore:
    return ResultStore(f"memory://{tmp_path}", lock_manager=MemoryLockManager())


class Told:
    """Hooks that write down that they were called."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def hook(self, line: str) -> Callable[[Transaction], None]:
        def told(txn: Transaction) -> None:
            self.lines.append(line)

        return told

    def work(self, name: str, **options: Any) -> Transaction:
        """Do one thing in a transaction of its own, as a task does."""
        with transaction(**options) as txn:
            self.stage(txn, name)
        return txn

    def stage(self, txn: Transaction, name: str) -> None:
        txn.stage(
            f"value of {name}",
            on_commit=[self.hook(f"commit {name}")],
            on_rollback=[self.hook(f"undo {name}")],
        )


@pytest.fixture
def told() -> Told:
    return Told()


# --- one transaction -------------------------------------------------------------------


def test_a_transaction_goes_through_its_states(told: Told) -> None:
    txn = transaction()
    assert txn.is_pending()
    with txn as entered:
        assert entered is txn is get_transaction()
        assert txn.is_active()
        told.stage(txn, "a")
        assert txn.is_staged()
        assert told.lines == []
    assert txn.is_committed()
    assert told.lines == ["commit a"]
    assert get_transaction() is None


def test_an_error_rolls_it_back_and_goes_on(told: Told) -> None:
    with pytest.raises(RuntimeError, match="later"), transaction() as txn:
        told.stage(txn, "a")
        raise RuntimeError("later")
    assert txn.is_rolled_back()
    assert told.lines == ["undo a"]
    assert get_transaction() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_whatever_ends_the_block_rolls_it_back(told: Told, error: type[BaseException]) -> None:
    with pytest.raises(error), transaction() as txn:
        told.stage(txn, "a")
        raise error
    assert told.lines == ["undo a"]


def test_only_what_is_staged_has_something_to_undo(told: Told) -> None:
    with pytest.raises(RuntimeError), transaction():
        raise RuntimeError
    assert told.lines == []


def test_hooks_of_the_commit_go_in_order_those_of_the_rollback_in_reverse(told: Told) -> None:
    def stage(txn: Transaction) -> None:
        txn.stage(
            None,
            on_commit=[told.hook("commit 1"), told.hook("commit 2")],
            on_rollback=[told.hook("undo 1"), told.hook("undo 2")],
        )

    with transaction() as txn:
        stage(txn)
    with pytest.raises(RuntimeError), transaction() as txn:
        stage(txn)
        raise RuntimeError
    assert told.lines == ["commit 1", "commit 2", "undo 2", "undo 1"]


def test_it_can_be_committed_and_rolled_back_by_hand(told: Told) -> None:
    with transaction() as txn:
        told.stage(txn, "a")
        assert txn.commit() is True
        assert txn.commit() is False
        assert txn.rollback() is False
    with transaction() as txn:
        told.stage(txn, "b")
        assert txn.rollback() is True
        assert txn.rollback() is False
        assert txn.commit() is False
    assert told.lines == ["commit a", "undo b"]


def test_what_is_staged_after_a_rollback_is_undone_at_once(told: Told) -> None:
    with transaction() as txn:
        txn.rollback()
        told.stage(txn, "late")
        assert told.lines == ["undo late"]
    assert txn.is_rolled_back()


def test_a_transaction_is_used_once(store: ResultStore) -> None:
    txn = transaction()
    with txn:
        pass
    with pytest.raises(RuntimeError, match="entered once only"), txn:
        pass
    with pytest.raises(RuntimeError, match="COMMITTED cannot begin"):
        txn.begin()


# --- its record ------------------------------------------------------------------------


def test_the_commit_writes_the_staged_value(store: ResultStore) -> None:
    with transaction("key", store) as txn:
        assert txn.read() is None
        txn.stage({"a": 1}, written_with={"run_name": "work-1"})
        assert not store.exists("key")
    record = txn.read()
    assert record is not None
    assert record.value == {"a": 1}
    assert record.metadata.run_name == "work-1"


def test_a_block_with_a_key_runs_once(store: ResultStore) -> None:
    """The sample of Prefect's documentation: `is_committed()` tells that there is nothing to do."""
    ran: list[bool] = []
    for _ in range(3):
        with transaction(key="download-and-write", store=store) as txn:
            if not txn.is_committed():
                ran.append(True)
    assert ran == [True]


def test_what_is_committed_already_changes_no_more(store: ResultStore, told: Told) -> None:
    store.write("key", "first")
    with pytest.raises(RuntimeError), transaction("key", store) as txn:
        told.stage(txn, "second")
        raise RuntimeError
    assert txn.is_committed()
    assert told.lines == []
    record = txn.read()
    assert record is not None
    assert record.value == "first"


def test_a_damaged_record_is_none(store: ResultStore) -> None:
    store.filesystem.write_path("key.record", b"damaged")
    with transaction("key", store) as txn:
        assert txn.is_active()
    assert store.exists("key")


def test_overwrite_goes_to_work_all_the_same(store: ResultStore) -> None:
    store.write("key", "first")
    with transaction("key", store, overwrite=True) as txn:
        assert txn.is_active()
        txn.stage("second")
    record = store.read("key")
    assert record is not None
    assert record.value == "second"


def test_it_can_be_told_to_write_nothing(store: ResultStore, told: Told) -> None:
    with transaction("key", store, write_on_commit=False) as txn:
        told.stage(txn, "a")
    assert txn.is_committed()
    assert told.lines == ["commit a"]
    assert not store.exists("key")


def test_without_a_store_the_settings_choose_one(tmp_path: pathlib.Path) -> None:
    with temporary_settings(results_local_storage_path=str(tmp_path / "store")):
        with transaction("key"):
            pass
        assert store_of().exists("key")


def test_061_what_cannot_be_stored_is_a_warning_and_the_block_goes_on(
    store: ResultStore, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), transaction("key", store) as txn:
        txn.stage(threading.Lock(), on_rollback=[told.hook("undo")])
    assert txn.is_rolled_back()
    assert told.lines == ["undo"]
    (line,) = caplog.messages
    assert "'key' cannot be stored, so it is not committed; the run goes on" in line
    assert "_thread.lock cannot be pickled" in line


def test_a_store_that_fails_rolls_it_back_with_the_error_in_the_log(
    tmp_path: pathlib.Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with transaction("key", ResultStore(tmp_path / "file"), overwrite=True) as txn:
        told.stage(txn, "a")
    assert txn.is_rolled_back()
    assert told.lines == ["commit a", "undo a"]
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'key' cannot be stored, so it is not committed" in warning.getMessage()
    assert "FileExistsError" in warning.getMessage() or "NotADirectory" in warning.getMessage()


def test_modes_and_levels_may_be_given_by_name() -> None:
    by_name = transaction(commit_mode="eager", isolation_level="SERIALIZABLE")
    assert by_name.commit_mode is CommitMode.EAGER
    assert by_name.isolation_level is IsolationLevel.SERIALIZABLE
    with pytest.raises(DefinitionError, match="commit_mode is one of EAGER, LAZY, OFF, not 'now'"):
        transaction(commit_mode="now")
    with pytest.raises(DefinitionError, match="isolation_level is one of READ_COMMITTED"):
        transaction(isolation_level="loose")


def test_the_error_of_a_commit_hook_is_shown_with_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(txn: Transaction) -> None:
        raise ValueError("of the hook")

    with transaction() as txn:
        txn.stage(None, on_commit=[fail])
    first, second = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert first.exc_info is not None
    assert second.exc_info is None
    assert second.getMessage().endswith("was not committed: ValueError('of the hook')")


# --- one in another --------------------------------------------------------------------


def test_those_inside_are_committed_with_the_one_around(told: Told, store: ResultStore) -> None:
    with transaction() as outer:
        first = told.work("first", key="first", store=store)
        with transaction() as middle:
            assert middle.parent is outer
            assert middle.get_parent() is outer
            told.work("second")
        told.stage(outer, "outer")
        assert told.lines == []
        assert first.is_staged()
        assert not store.exists("first")
    assert told.lines == ["commit first", "commit second", "commit outer"]
    assert all(txn.is_committed() for txn in (outer, first, middle))
    assert store.exists("first")


def test_a_failure_undoes_what_was_done_the_last_first(told: Told, store: ResultStore) -> None:
    """As the first sample of Prefect's documentation: a task that comes later fails."""
    with pytest.raises(ValueError, match="Not enough data!"), transaction() as outer:
        told.work("write_file", key="write_file", store=store)
        told.work("send_mail")
        with transaction() as quality_test:
            raise ValueError("Not enough data!")
    assert told.lines == ["undo send_mail", "undo write_file"]
    assert outer.is_rolled_back()
    assert quality_test.is_rolled_back()
    assert not store.exists("write_file")


def test_a_failure_inside_counts_also_if_somebody_catches_it(told: Told) -> None:
    with transaction() as outer:
        told.work("before")
        with pytest.raises(RuntimeError), transaction():
            raise RuntimeError
        assert outer.is_rolled_back()
        told.work("after")
        assert told.lines == ["undo before", "undo after"]
    assert outer.is_rolled_back()


def test_it_counts_for_all_around(told: Told) -> None:
    with transaction() as outer:
        told.work("outside")
        with transaction():
            told.work("inside")
            with pytest.raises(RuntimeError), transaction():
                raise RuntimeError
    assert outer.is_rolled_back()
    assert told.lines == ["undo inside", "undo outside"]


def test_an_eager_one_is_committed_at_once_and_stays_so(told: Told) -> None:
    with pytest.raises(RuntimeError), transaction():
        told.work("eager", commit_mode=CommitMode.EAGER)
        assert told.lines == ["commit eager"]
        told.work("lazy")
        raise RuntimeError
    assert told.lines == ["commit eager", "undo lazy"]


def test_mode_and_level_are_those_of_the_one_around(store: ResultStore) -> None:
    with (
        transaction(commit_mode=CommitMode.EAGER, isolation_level=IsolationLevel.SERIALIZABLE),
        transaction() as inner,
    ):
        assert inner.commit_mode is CommitMode.EAGER
        assert inner.isolation_level is IsolationLevel.SERIALIZABLE
    with transaction() as alone:
        assert alone.commit_mode is CommitMode.LAZY
        assert alone.isolation_level is IsolationLevel.READ_COMMITTED


def test_off_is_committed_by_hand_or_not_at_all(told: Told) -> None:
    with transaction(commit_mode=CommitMode.OFF) as txn:
        told.work("a")
    assert txn.is_rolled_back()
    with transaction(commit_mode=CommitMode.OFF) as txn:
        told.work("b")
        txn.commit()
    assert txn.is_committed()
    assert told.lines == ["undo a", "commit b"]


def test_off_inside_another_is_committed_with_it(told: Told) -> None:
    with transaction():
        told.work("a", commit_mode=CommitMode.OFF)
        assert told.lines == []
    assert told.lines == ["commit a"]


@pytest.mark.parametrize("fate", ["commit", "undo"])
def test_one_that_ends_after_the_one_around_shares_its_fate(told: Told, fate: str) -> None:
    """Such as a task that was submitted in the block, and not waited for."""
    outer = Transaction()
    outer.begin()
    late = Transaction(parent=outer)
    late.begin()
    outer.end(failed=fate == "undo")
    told.stage(late, "late")
    assert told.lines == []
    late.end()
    assert told.lines == [f"{fate} late"]


def test_what_cannot_be_committed_inside_does_not_keep_the_rest(
    told: Told, store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction() as outer:
        with transaction("key", store) as inner:
            inner.stage(threading.Lock())
        told.work("other")
    assert inner.is_rolled_back()
    assert outer.is_committed()
    assert told.lines == ["commit other"]


# --- values ----------------------------------------------------------------------------


def test_values_are_seen_inside_and_by_hooks_and_can_be_shadowed() -> None:
    seen: list[Any] = []
    with pytest.raises(RuntimeError), transaction() as outer:
        outer.set("file", "a.txt")
        with transaction() as inner:
            inner.set("line", 3)
            inner.stage(None, on_rollback=[lambda txn: seen.append(txn.get("file"))])
            assert inner.get("file") == "a.txt"
            inner.set("file", "b.txt")
        assert outer.get("file") == "a.txt"
        with pytest.raises(ValueError, match="no value 'line'"):
            outer.get("line")
        with transaction() as other:
            outer.set("late", 1)
            assert other.get("late") == 1
        raise RuntimeError
    assert seen == ["b.txt"]


def test_a_value_is_a_copy_until_it_is_set_again() -> None:
    with transaction() as txn:
        txn.set("rows", [1])
        rows = txn.get("rows")
        rows.append(2)
        assert txn.get("rows") == [1]
        txn.set("rows", rows)
        assert txn.get("rows") == [1, 2]


def test_what_cannot_be_copied_is_the_thing_itself() -> None:
    lock = threading.Lock()
    with transaction() as txn:
        txn.set("lock", lock)
        assert txn.get("lock") is lock


@pytest.mark.parametrize("default", [None, 0, "x"])
def test_a_default_is_for_what_nobody_set(default: Any) -> None:
    with transaction() as txn:
        assert txn.get("name", default) == default
        with pytest.raises(ValueError, match="no value 'name'"):
            txn.get("name")


# --- hooks that fail -------------------------------------------------------------------


def fail(txn: Transaction) -> None:
    raise RuntimeError("the hook broke")


def test_a_hook_of_the_rollback_that_fails_keeps_no_other_from_its_work(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="the cause"), transaction() as outer:
        told.work("first")
        with transaction() as second:
            second.stage(None, on_rollback=[told.hook("undo second"), fail])
        raise ValueError("the cause")
    assert told.lines == ["undo second", "undo first"]
    assert outer.is_rolled_back()
    assert [str(error) for error in second.hook_errors] == ["the hook broke"]
    assert "Rollback hook 'fail' failed" in caplog.messages


def test_a_hook_of_the_commit_that_fails_rolls_back(
    told: Told, store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction("key", store) as txn:
        txn.stage(None, on_commit=[fail, told.hook("next")], on_rollback=[told.hook("undo")])
    assert txn.is_rolled_back()
    assert told.lines == ["undo"]
    assert not store.exists("key")
    assert len(txn.hook_errors) == 1
    assert "Commit hook 'fail' failed" in caplog.messages


def test_hooks_are_told_of_in_the_log(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test-of-transactions")
    with caplog.at_level(logging.INFO), transaction(logger=logger) as txn:
        txn.stage(None, on_commit=[told.hook("x")])
    assert caplog.messages == ["Running commit hook 'told'", "Commit hook 'told' finished"]
    assert {record.name for record in caplog.records} == {"test-of-transactions"}


# --- alone with a key ------------------------------------------------------------------

ALONE = IsolationLevel.SERIALIZABLE


def test_others_wait_until_a_serializable_one_has_ended(store: ResultStore) -> None:
    ran: list[int] = []

    def work(number: int) -> None:
        with transaction("key", store, isolation_level=ALONE) as txn:
            if not txn.is_committed():
                ran.append(number)

    with transaction("key", store, isolation_level=ALONE) as txn:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        assert store.lock_manager is not None
        assert store.lock_manager.is_locked("key")
        txn.stage("the one value")
    for worker in workers:
        worker.join(PATIENCE_SECONDS)
    assert ran == []
    assert not store.lock_manager.is_locked("key")


@pytest.mark.parametrize("failing", ["the block", "a hook", "the store", "the reading"])
def test_the_lock_is_given_back_whatever_fails(
    store: ResultStore, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.lock_manager is not None

    def break_down(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if failing == "the store":
        monkeypatch.setattr(store, "write", break_down)
    if failing == "the reading":
        monkeypatch.setattr(store, "read", break_down)
    with pytest.raises(KeyboardInterrupt), transaction("key", store, isolation_level=ALONE) as txn:
        txn.stage(None, on_commit=[break_down] if failing == "a hook" else [])
        if failing == "the block":
            raise KeyboardInterrupt
    assert not store.lock_manager.is_locked("key")


def test_the_lock_is_held_until_the_one_around_commits(store: ResultStore) -> None:
    assert store.lock_manager is not None
    with transaction():
        with transaction("key", store, isolation_level=ALONE):
            pass
        assert store.lock_manager.is_locked("key")
    assert not store.lock_manager.is_locked("key")


def test_two_inside_one_may_want_the_same_key(store: ResultStore) -> None:
    assert store.lock_manager is not None
    with transaction("key", store, isolation_level=ALONE):
        for _ in range(2):
            with transaction("key", store):
                pass
        assert store.lock_manager.is_locked("key")
    assert not store.lock_manager.is_locked("key")


def test_one_may_try_whether_it_would_have_to_wait(store: ResultStore) -> None:
    first = Transaction("key", store, isolation_level=ALONE)
    second = Transaction("key", store, isolation_level=ALONE)
    assert first.try_begin()
    assert not second.try_begin()
    assert second.is_pending()
    first.stage("value")
    first.end()
    assert second.try_begin()
    assert second.is_committed()
    record = second.read()
    assert record is not None
    assert record.value == "value"


def test_it_needs_something_to_lock_with(tmp_path: pathlib.Path) -> None:
    store = ResultStore(tmp_path)
    with pytest.raises(ValueError, match="no locks for that: give the ResultStore a lock_manager"):
        Transaction("key", store, isolation_level=ALONE).begin()


# --- awaited ---------------------------------------------------------------------------


def test_async_blocks_do_the_same(told: Told, store: ResultStore) -> None:
    async def hook(txn: Transaction) -> None:
        await asyncio.sleep(0)
        told.lines.append(f"async {txn.state.name}")

    async def main() -> None:
        async with atransaction() as outer:
            async with atransaction("key", store, isolation_level=ALONE) as inner:
                assert get_transaction() is inner
                inner.stage(1, on_commit=[hook])
            assert outer.is_active()
        assert store.exists("key")
        with pytest.raises(RuntimeError):
            async with atransaction() as outer:
                outer.stage(None, on_rollback=[hook, told.hook("sync")])
                raise RuntimeError

    asyncio.run(main())
    assert told.lines == ["async STAGED", "sync", "async ROLLED_BACK"]


def test_async_hooks_are_completed_in_sync_blocks_too(told: Told) -> None:
    async def hook(txn: Transaction) -> None:
        await asyncio.sleep(0)
        told.lines.append("awaited")

    with transaction() as txn:
        txn.stage(None, on_commit=[hook])
    assert told.lines == ["awaited"]


def test_waiting_for_the_lock_leaves_the_event_loop_free(store: ResultStore) -> None:
    async def main() -> bool:
        taken = asyncio.Event()

        async def second() -> bool:
            await taken.wait()
            async with transaction("key", store, isolation_level=ALONE) as txn:
                return txn.is_committed()

        waiting = asyncio.create_task(second())  # outside of the block, so not a part of it
        async with transaction("key", store, isolation_level=ALONE) as first:
            taken.set()
            await asyncio.sleep(0.02)
            assert not waiting.done()
            first.stage("value")
        return await asyncio.wait_for(waiting, PATIENCE_SECONDS)

    assert asyncio.run(main()) is True


def test_a_block_belongs_to_the_one_it_was_entered_in_also_in_another_async_task() -> None:
    async def inner() -> Transaction:
        async with transaction() as txn:
            return txn

    async def main() -> None:
        async with transaction() as outer:
            made = await asyncio.gather(inner(), inner())
        assert [txn.parent for txn in made] == [outer, outer]
        assert all(txn.is_committed() for txn in made)

    asyncio.run(main())
