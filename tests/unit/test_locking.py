"""Locks by key: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from penstock.locking import FileLockManager, LockManager, MemoryLockManager, _advisory

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

PATIENCE_SECONDS = 20.0


@pytest.fixture(params=["memory", "files"])
def locks(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> LockManager:
    return MemoryLockManager() if request.param == "memory" else FileLockManager(tmp_path / "locks")


# --- every lock manager ----------------------------------------------------------------


def test_a_lock_has_one_holder(locks: LockManager) -> None:
    assert not locks.is_locked("key")
    assert locks.acquire_lock("key", "one")
    assert locks.is_locked("key")
    assert locks.is_lock_holder("key", "one")
    assert not locks.is_lock_holder("key", "two")
    assert not locks.acquire_lock("key", "two", acquire_timeout=0)
    locks.release_lock("key", "one")
    assert not locks.is_locked("key")
    assert not locks.is_lock_holder("key", "one")
    assert locks.acquire_lock("key", "two", acquire_timeout=0)


def test_keys_do_not_concern_each_other(locks: LockManager) -> None:
    assert locks.try_lock("a/b", "one")
    assert locks.try_lock("a/../b ü\udc80" + "long" * 100, "two")
    assert not locks.is_locked("a")


def test_taking_a_lock_again_needs_one_release(locks: LockManager) -> None:
    assert locks.try_lock("key", "one")
    assert locks.try_lock("key", "one")
    locks.release_lock("key", "one")
    assert not locks.is_locked("key")


def test_only_the_holder_releases(locks: LockManager) -> None:
    with pytest.raises(ValueError, match="'one' does not hold the lock 'key'"):
        locks.release_lock("key", "one")
    locks.try_lock("key", "one")
    with pytest.raises(ValueError, match="'two' does not hold"):
        locks.release_lock("key", "two")
    assert locks.is_lock_holder("key", "one")


def test_a_lock_is_waited_for(locks: LockManager) -> None:
    locks.try_lock("key", "one")
    got = threading.Event()

    def wait() -> None:
        assert locks.acquire_lock("key", "two", acquire_timeout=PATIENCE_SECONDS)
        got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not got.wait(0.05)
    locks.release_lock("key", "one")
    assert got.wait(PATIENCE_SECONDS)
    waiter.join()
    assert locks.is_lock_holder("key", "two")


def test_waiting_ends_in_time(locks: LockManager) -> None:
    locks.try_lock("key", "one")
    began = time.monotonic()
    assert not locks.acquire_lock("key", "two", acquire_timeout=0.05)
    assert not locks.wait_for_lock("key", timeout=0.05)
    assert 0.1 <= time.monotonic() - began < PATIENCE_SECONDS


def test_waiting_for_a_free_lock_takes_nothing(locks: LockManager) -> None:
    assert locks.wait_for_lock("key")
    assert not locks.is_locked("key")


def test_a_lock_can_be_held_for_a_time(locks: LockManager) -> None:
    assert locks.acquire_lock("key", "one", hold_timeout=0.05)
    assert locks.is_locked("key")
    assert locks.wait_for_lock("key", timeout=PATIENCE_SECONDS)
    with pytest.raises(ValueError, match="does not hold"):
        locks.release_lock("key", "one")


def test_taking_it_again_sets_the_time_anew(locks: LockManager) -> None:
    assert locks.acquire_lock("key", "one", hold_timeout=0.05)
    assert locks.acquire_lock("key", "one")
    assert not locks.wait_for_lock("key", timeout=0.2)


def test_waiting_leaves_the_event_loop_free(locks: LockManager) -> None:
    async def both() -> list[bool]:
        assert await locks.aacquire_lock("key", "one")
        waiters = [
            asyncio.create_task(locks.aacquire_lock("key", "two", PATIENCE_SECONDS)),
            asyncio.create_task(locks.await_for_lock("key", PATIENCE_SECONDS)),
        ]
        assert not await locks.aacquire_lock("key", "three", acquire_timeout=0.02)
        assert not await locks.await_for_lock("key", timeout=0.02)
        waiters[0].cancel()  # one that was given up takes no lock
        locks.release_lock("key", "one")
        return [await waiters[1], locks.is_locked("key")]

    assert asyncio.run(both()) == [True, False]


def test_of_many_threads_one_is_in_at_a_time(locks: LockManager) -> None:
    inside: list[int] = []
    crowded: list[int] = []

    def visit(number: int) -> None:
        for _ in range(20):
            assert locks.acquire_lock("key", str(number), acquire_timeout=PATIENCE_SECONDS)
            inside.append(number)
            if len(inside) > 1:
                crowded.append(number)
            inside.remove(number)
            locks.release_lock("key", str(number))

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert not crowded
    assert not locks.is_locked("key")


# --- among processes -------------------------------------------------------------------

HOLDER = """
import sys
from penstock.locking import FileLockManager
locks = FileLockManager(sys.argv[1])
assert locks.acquire_lock("key", "holder", acquire_timeout=20)
print("held", flush=True)
sys.stdin.readline()
locks.release_lock("key", "holder")
print("released", flush=True)
sys.stdin.readline()
"""

FORKING_HOLDER = """
import os, signal, sys, time
from penstock.locking import FileLockManager
first, second = FileLockManager(sys.argv[1]), FileLockManager(sys.argv[1])
assert second.try_lock("key", "holder")
if os.fork() == 0:
    assert not second.is_lock_holder("key", "holder")
    assert second.is_locked("key")
    print("held", os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
signal.pause()
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(program: str, folder: pathlib.Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_another_process_sees_the_lock(
    tmp_path: pathlib.Path, processes: list[subprocess.Popen[str]]
) -> None:
    holder = start(HOLDER, tmp_path)
    processes.append(holder)
    assert answer(holder) == ["held"]
    locks = FileLockManager(tmp_path)
    assert locks.is_locked("key")
    assert not locks.is_lock_holder("key", "holder")  # not by this manager
    assert not locks.try_lock("key", "holder")
    with pytest.raises(ValueError, match="does not hold"):
        locks.release_lock("key", "holder")
    go_on(holder)
    assert answer(holder) == ["released"]
    assert not locks.is_locked("key")
    assert locks.try_lock("key", "me")


def test_a_lock_dies_with_its_holder(
    tmp_path: pathlib.Path, processes: list[subprocess.Popen[str]]
) -> None:
    locks = FileLockManager(tmp_path)
    for _ in range(3):
        holder = start(HOLDER, tmp_path)
        processes.append(holder)
        assert answer(holder) == ["held"]
        assert not locks.try_lock("key", "me")
        holder.send_signal(signal.SIGKILL)
        assert locks.acquire_lock("key", "me", acquire_timeout=PATIENCE_SECONDS)
        locks.release_lock("key", "me")
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_was_forked_does_not_keep_the_lock_of_its_parent_alive(
    tmp_path: pathlib.Path, processes: list[subprocess.Popen[str]]
) -> None:
    holder = start(FORKING_HOLDER, tmp_path)
    processes.append(holder)
    word, child = answer(holder)
    assert word == "held"
    try:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        locks = FileLockManager(tmp_path)
        assert locks.acquire_lock("key", "me", acquire_timeout=PATIENCE_SECONDS)
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_two_managers_in_one_process_keep_each_other_out(tmp_path: pathlib.Path) -> None:
    one, two = FileLockManager(tmp_path), FileLockManager(tmp_path)
    assert one == two
    assert one.try_lock("key", "holder")
    assert not two.try_lock("key", "holder")
    assert two.is_locked("key")


def test_the_lock_of_a_file_that_is_gone_counts_for_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened while one holder had it, and locked when it had gone and the next had a new file."""
    first, second, late = (FileLockManager(tmp_path) for _ in range(3))
    first.try_lock("key", "first")
    really_take = _advisory.take
    handles: list[int] = []

    def take(handle: int) -> bool:
        handles.append(handle)
        if len(handles) == 1:
            first.release_lock("key", "first")
            assert second.try_lock("key", "second")
        return really_take(handle)

    monkeypatch.setattr(_advisory, "take", take)
    assert not late.try_lock("key", "late")
    assert second.is_lock_holder("key", "second")
    assert late.is_locked("key")
    second.release_lock("key", "second")
    assert late.try_lock("key", "late")


def test_a_manager_travels_without_its_locks(tmp_path: pathlib.Path) -> None:
    locks = FileLockManager(tmp_path)
    locks.try_lock("key", "one")
    again: FileLockManager = pickle.loads(pickle.dumps(locks))
    assert again == locks
    assert hash(again) == hash(locks)
    assert again.is_locked("key")
    assert not again.is_lock_holder("key", "one")


def test_asking_whether_it_is_locked_makes_nobody_miss_it(tmp_path: pathlib.Path) -> None:
    """To ask takes a shared lock for a moment; who wants the lock meanwhile still gets it."""
    asker = FileLockManager(tmp_path)
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            asker.is_locked("key")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        locks = FileLockManager(tmp_path)
        for _ in range(100):
            assert locks.try_lock("key", "me")
            locks.release_lock("key", "me")
    finally:
        ended.set()
        thread.join()


def test_lock_files_are_for_their_user_only_and_do_not_pile_up(tmp_path: pathlib.Path) -> None:
    locks = FileLockManager(tmp_path / "new/locks")
    assert not (tmp_path / "new").exists()
    locks.try_lock("key", "one")
    (file,) = (tmp_path / "new/locks").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    locks.release_lock("key", "one")
    assert list(file.parent.iterdir()) == []
