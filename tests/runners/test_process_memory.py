"""The memory of workers: limits, replacement, and what is said of one that was killed (row 35)."""

import os
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from tests.support import wait_until

from penstock.sizes import format_size, parse_size
from penstock.testing.harness import RunnerHarness, live_children
from penstock.testing.subjects import Gate, pass_gate
from penstock_runners import process
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.process_pool import crew
from penstock_runners.process_pool.endings import describe_exit
from penstock_runners.process_pool.memory import MemoryWatch, resident_bytes
from penstock_runners.process_pool.workers import Worker

MB = 1_000_000
LIMIT = "250 MB"
TOO_MUCH = 300 * MB

pytestmark = pytest.mark.skipif(
    resident_bytes(os.getpid()) is None, reason="the system does not tell what a process uses"
)


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Leaves no worker, and what it hoards, to the next test."""

    warm_seconds = 0.0


def opened(workers: int, directory: pathlib.Path, limit: int | str | None) -> RunnerHarness:
    runner = ColdProcessPoolTaskRunner(workers, worker_memory_limit=limit)
    harness = RunnerHarness(runner, directory, 20.0)
    harness.open()
    return harness


def hoard(nbytes: int) -> int:
    """Take memory that is not given back when the task ends."""
    vars(sys).setdefault("hoard", []).append(bytearray(b"x") * nbytes)
    return os.getpid()


def hoard_and_wait(nbytes: int, begun: Gate, gate: Gate) -> int:
    hoard(nbytes)
    pass_gate(begun, gate)
    return os.getpid()


def hoard_later(done: Gate) -> int:
    def work() -> None:
        wait_for_end.wait()
        hoard(TOO_MUCH)
        done.open()

    wait_for_end = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    threading.Timer(0.2, wait_for_end.set).start()
    return os.getpid()


# --- the limit ----------------------------------------------------------------------------


def test_a_worker_above_the_limit_is_killed_and_costs_one_attempt(tmp_path: pathlib.Path) -> None:
    harness = opened(2, tmp_path, LIMIT)
    gate = harness.gate()
    (innocent,) = harness.hold(1, gate)
    greedy = harness.attempt(hoard_and_wait, TOO_MUCH, harness.gate(), harness.gate())
    harness.submit(greedy)
    lost = harness.outcome(greedy)
    assert (lost.kind, lost.began) == ("lost", True)
    said = re.fullmatch(
        r"process \d+ used (\d+) MB, more than worker_memory_limit=250 MB, and was killed "
        r"while it ran this attempt",
        lost.reason.splitlines()[0],
    )
    assert said, lost.reason
    assert int(said[1]) > 250
    gate.open()
    assert harness.value(harness.outcome(innocent)) == "passed"
    assert harness.value(harness.run(abs, -1)) == 1, "the pool goes on"
    harness.close()


def test_the_reason_shows_where_the_memory_went(tmp_path: pathlib.Path) -> None:
    harness = opened(1, tmp_path, LIMIT)
    outcome = harness.run(hoard_and_wait, TOO_MUCH, harness.gate(), harness.gate())
    assert "in hoard_and_wait" in outcome.reason
    harness.close()


def test_without_a_limit_nobody_is_killed(tmp_path: pathlib.Path) -> None:
    harness = opened(1, tmp_path, None)
    begun, gate = harness.gate(), harness.gate()
    attempt = harness.attempt(hoard_and_wait, TOO_MUCH, begun, gate)
    harness.submit(attempt)
    begun.wait("it has its memory")
    wait_until(lambda: (seen_bytes(harness) or 0) > TOO_MUCH)
    gate.open()
    assert harness.outcome(attempt).kind == "returned"
    harness.close()


def test_an_idle_worker_above_the_limit_is_replaced_in_silence(tmp_path: pathlib.Path) -> None:
    harness = opened(1, tmp_path, LIMIT)
    done = harness.gate()
    first = harness.value(harness.run(hoard_later, done))
    done.wait("it has its memory")
    assert harness.value(harness.run(os.getpid)) == first
    wait_until(lambda: first not in live_children())
    assert harness.value(harness.run(os.getpid)) != first
    assert {outcome.kind for outcome in harness.outcomes.values()} == {"returned"}
    harness.close()


def test_what_a_long_attempt_left_behind_is_not_the_fault_of_the_next(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryWatch, "look", lambda self, workers, now: [])
    harness = opened(1, tmp_path, LIMIT)
    gate = harness.gate()
    begun = harness.gate()
    attempts = [
        harness.attempt(hoard_and_wait, TOO_MUCH, begun, gate),
        harness.attempt(os.getpid),
    ]
    harness.submit(*attempts)
    begun.wait("it runs")
    time.sleep(crew.LONG_SECONDS)  # so that it counts as long
    gate.open()
    first, second = (harness.value(harness.outcome(attempt)) for attempt in attempts)
    assert first != second
    harness.close()


def test_a_worker_that_grows_in_short_attempts_is_replaced_between_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "LONG_SECONDS", 20.0)  # no attempt here is long, on a slow machine
    harness = opened(1, tmp_path, LIMIT)
    attempts = [harness.attempt(hoard, 10 * MB) for _ in range(100)]
    harness.submit(*attempts)
    workers = [harness.value(harness.outcome(attempt)) for attempt in attempts]
    assert len(set(workers)) > 1
    harness.close()


def test_an_attempt_that_ends_before_the_kill_is_lost_all_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(1, tmp_path, LIMIT)
    begun, gate = harness.gate(), harness.gate()
    monkeypatch.setattr(crew, "STACK_SECONDS", 1.0)
    monkeypatch.setattr(Worker, "ask_for_stack", lambda worker: gate.open())
    attempt = harness.attempt(hoard_and_wait, TOO_MUCH, begun, gate)
    harness.submit(attempt)
    outcome = harness.outcome(attempt)
    assert outcome.kind == "lost"
    assert outcome.reason.endswith("and was about to be killed for that")
    assert outcome.worker != harness.run(os.getpid).worker, "it is replaced all the same"
    harness.close()


def test_an_attempt_that_is_cancelled_while_its_worker_is_being_killed_is_stopped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = opened(1, tmp_path, LIMIT)
    monkeypatch.setattr(crew, "STACK_SECONDS", 1.0)
    attempt = harness.attempt(hoard_and_wait, TOO_MUCH, harness.gate(), harness.gate())
    monkeypatch.setattr(
        Worker, "ask_for_stack", lambda worker: harness.runner.cancel([attempt.id], hard=True)
    )
    harness.submit(attempt)
    assert harness.outcome(attempt).kind == "stopped"
    harness.close()


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "2G", "GB", "", "-1GB", "0 B", "1e9 B", b"1B"])
def test_a_limit_that_is_no_size_is_refused_with_what_is_taken(value: Any) -> None:
    with pytest.raises(ValueError, match=r"worker_memory_limit must be .* such as '2GB' or"):
        ProcessPoolTaskRunner(1, worker_memory_limit=value)


def test_a_limit_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "resident_bytes", lambda process_id: None)
    with pytest.raises(ValueError, match="worker_memory_limit cannot be kept here"):
        ProcessPoolTaskRunner(1, worker_memory_limit="1GB")
    ProcessPoolTaskRunner(1)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (12345, 12345),
        ("2GB", 2_000_000_000),
        ("512 MiB", 512 << 20),
        (" 1.5 gib ", 3 << 29),
        ("64kB", 64_000),
        ("1KiB", 1024),
        ("3 TB", 3 * 10**12),
        ("100 B", 100),
    ],
)
def test_a_size_is_a_number_of_bytes_or_has_a_unit(text: int | str, nbytes: int) -> None:
    assert parse_size("limit", text) == nbytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (1, "1 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (2_345_678_901, "2.35 GB"),
        (2_000_000_000, "2 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_a_size_is_told_in_three_digits(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text


# --- killed from outside --------------------------------------------------------------------


def seen_bytes(harness: RunnerHarness) -> int | None:
    assert isinstance(harness.runner, ProcessPoolTaskRunner)
    assert harness.runner._lease is not None
    workers = harness.runner._lease.pool._crew.workers
    return workers[0].memory_bytes if workers else None


def test_a_worker_killed_from_outside_tells_what_it_last_used(tmp_path: pathlib.Path) -> None:
    harness = opened(1, tmp_path, None)
    worker = harness.value(harness.run(os.getpid))
    begun = harness.gate()
    attempt = harness.attempt(hoard_and_wait, TOO_MUCH, begun, harness.gate())
    harness.submit(attempt)
    begun.wait("it has its memory")
    wait_until(lambda: (seen_bytes(harness) or 0) > TOO_MUCH)
    os.kill(worker, signal.SIGKILL)
    reason = harness.outcome(attempt).reason
    said = re.fullmatch(
        rf"process {worker} was killed by SIGKILL while it ran this attempt "
        r"\(it last used (\d+) MB: likely out of memory, or killed from outside\)",
        reason,
    )
    assert said, reason
    assert 300 <= int(said[1]) < 600
    harness.close()


WHEN = "while it ran this attempt"


@pytest.mark.parametrize(
    ("code", "memory", "text"),
    [
        (3, 5, f"ended with exit code 3 {WHEN}"),
        (None, None, f"ended {WHEN}, nobody knows how"),
        (-signal.SIGSEGV, 5, f"was killed by SIGSEGV {WHEN}"),
        (-99, None, f"was killed by signal 99 {WHEN}"),
        (
            -signal.SIGKILL,
            None,
            f"was killed by SIGKILL {WHEN} (likely out of memory, or killed from outside)",
        ),
        (
            -signal.SIGKILL,
            1_200_000_000,
            f"was killed by SIGKILL {WHEN} "
            "(it last used 1.2 GB: likely out of memory, or killed from outside)",
        ),
    ],
)
def test_an_end_is_told_in_words(code: int | None, memory: int | None, text: str) -> None:
    assert describe_exit(code, WHEN, memory) == text


def test_nobody_tells_the_memory_of_a_process_that_is_gone() -> None:
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert resident_bytes(child) is None, "dead, and not yet reaped"
    os.waitpid(child, 0)
    assert resident_bytes(child) is None


# --- looking costs little -------------------------------------------------------------------


def test_nobody_looks_at_an_idle_pool(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    harness = opened(1, tmp_path, "100 GB")
    original = MemoryWatch.is_above

    def is_above(watch: MemoryWatch, worker: Worker) -> bool:
        looks.append(worker.process_id)
        return original(watch, worker)

    monkeypatch.setattr(MemoryWatch, "is_above", is_above)
    harness.run(abs, -1)
    wait_until(lambda: len(looks) == 1)  # once after its end
    time.sleep(0.3)
    assert len(looks) == 1
    harness.close()
