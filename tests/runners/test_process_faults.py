"""What goes wrong around the process runner: dead workers, dead drivers, and what cannot travel."""

import ctypes
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cloudpickle
import pytest
from tests.support import wait_until

from penstock.task_runners import Attempt, Broken, Event, Outcome, RemoteError
from penstock.testing.harness import RunnerHarness
from penstock.testing.subjects import Gate, pass_gate
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.process_pool.slots import IDLE
from penstock_runners.process_pool.workers import Worker


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def harness(tmp_path: pathlib.Path) -> Iterator[RunnerHarness]:
    harness = RunnerHarness(ProcessPoolTaskRunner(2), tmp_path, 20.0)
    harness.open()
    yield harness
    harness.close()


def note(log: str, label: int, seconds: float = 0.0) -> int:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{label}\n")
    time.sleep(seconds)
    return label


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def die_in_batch(log: str, label: int, victim: int) -> int:
    note(log, label)
    if label == victim:
        os._exit(5)
    return label


def exit_in_thread(log: str) -> int:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return note(log, 0)


def outgrow_memory() -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, limits[1]))
    try:
        bytearray(1 << 33)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def error_of(outcome: Outcome) -> RemoteError:
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, RemoteError)
    return outcome.error


@pytest.mark.parametrize(
    ("die", "how"),
    [
        (exit_at_once, "exit code 3"),
        (kill_itself, "was killed by SIGKILL while it ran this attempt ("),
        (segfault, "SIGSEGV"),
        (abort, "SIGABRT"),
    ],
)
def test_of_eight_attempts_the_one_that_dies_is_lost(
    harness: RunnerHarness, tmp_path: pathlib.Path, die: Callable[[], None], how: str
) -> None:
    log = str(tmp_path / "log")
    good = [harness.attempt(note, log, label) for label in range(7)]
    bad = harness.attempt(die)
    harness.submit(*good[:3], bad, *good[3:])
    lost = harness.outcome(bad)
    assert (lost.kind, lost.began) == ("lost", True)
    assert how in lost.reason
    assert "process " in lost.reason
    assert [harness.value(harness.outcome(attempt)) for attempt in good] == list(range(7))
    assert sorted(pathlib.Path(log).read_text().split()) == [str(label) for label in range(7)]
    assert harness.value(harness.run(note, log, 8)) == 8


def test_a_crash_in_native_code_tells_where(harness: RunnerHarness) -> None:
    reason = harness.run(segfault).reason
    assert "in segfault" in reason
    assert "penstock_runners" not in reason


@pytest.mark.parametrize("victim", [0, 1, 57, 199])
def test_a_death_in_a_batch_costs_one_and_nothing_runs_twice(
    harness: RunnerHarness, tmp_path: pathlib.Path, victim: int
) -> None:
    log = str(tmp_path / "log")
    warm_up = [harness.attempt(die_in_batch, log, -1, victim) for _ in range(50)]
    harness.submit(*warm_up)
    for attempt in warm_up:
        harness.outcome(attempt)
    pathlib.Path(log).write_text("")
    attempts = [harness.attempt(die_in_batch, log, label, victim) for label in range(200)]
    harness.submit(*attempts)
    kinds = [harness.outcome(attempt).kind for attempt in attempts]
    assert kinds.count("lost") == 1
    assert kinds[victim] == "lost"
    assert kinds.count("returned") == 199
    runs = sorted(map(int, pathlib.Path(log).read_text().split()))
    assert runs == list(range(200)), "each ran once, the victim included"


def test_exit_in_a_thread_of_a_task_is_no_death(
    harness: RunnerHarness, tmp_path: pathlib.Path
) -> None:
    attempts = [harness.attempt(exit_in_thread, str(tmp_path / "log")) for _ in range(8)]
    harness.submit(*attempts)
    assert [harness.outcome(attempt).kind for attempt in attempts] == ["returned"] * 8


def test_a_limit_of_memory_hurts_one_attempt(
    harness: RunnerHarness, tmp_path: pathlib.Path
) -> None:
    bad = harness.attempt(outgrow_memory)
    good = [harness.attempt(note, str(tmp_path / "log"), label) for label in range(7)]
    harness.submit(*good, bad)
    assert error_of(harness.outcome(bad)).type_name == "MemoryError"
    assert [harness.value(harness.outcome(attempt)) for attempt in good] == list(range(7))


def test_an_idle_worker_that_is_killed_costs_nothing(harness: RunnerHarness) -> None:
    for _ in range(3):
        os.kill(harness.value(harness.run(os.getpid)), signal.SIGKILL)
        attempts = [harness.attempt(os.getpid) for _ in range(4)]
        harness.submit(*attempts)
        ends = [harness.outcome(attempt) for attempt in attempts]
        assert [end.kind for end in ends if end.kind != "returned"] == []


def leave_a_child_and_die(path: str) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    pathlib.Path(path).write_text(str(child))
    os._exit(4)


def test_a_death_is_noticed_though_a_child_has_the_pipe_open(
    harness: RunnerHarness, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "child"
    began = time.monotonic()
    try:
        outcome = harness.run(leave_a_child_and_die, str(path))
        assert outcome.kind == "lost"
        assert time.monotonic() - began < 5
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)


def fork_and_return(path: str) -> str:
    child = os.fork()
    if child == 0:
        return "the child, which must not answer"
    os.waitpid(child, 0)
    return "the parent"


def test_a_forked_child_that_returns_from_a_task_is_not_heard(harness: RunnerHarness) -> None:
    assert harness.value(harness.run(fork_and_return, "")) == "the parent"
    assert harness.value(harness.run(abs, -1)) == 1  # the harness counts the outcomes


# --- killing ----------------------------------------------------------------------------


def sleep_long(begun: Gate) -> None:
    begun.open()
    time.sleep(30)


def hold_the_gil(begun: Gate) -> None:
    begun.open()
    ctypes.PyDLL(None).sleep(30)


@pytest.mark.parametrize("stuck", [sleep_long, hold_the_gil])
def test_what_is_stuck_in_c_is_stopped_within_two_seconds(
    harness: RunnerHarness, stuck: Callable[[Gate], None]
) -> None:
    begun = harness.gate()
    attempt = harness.attempt(stuck, begun)
    others = [harness.attempt(abs, -number) for number in range(10)]
    harness.submit(attempt)
    begun.wait("the attempt runs")
    harness.submit(*others)
    asked = time.monotonic()
    harness.runner.cancel([attempt.id], hard=True)
    outcome = harness.outcome(attempt)
    assert time.monotonic() - asked < 2
    assert (outcome.kind, outcome.began) == ("stopped", True)
    assert f"in {stuck.__name__}" in outcome.reason, "the stack shows where it was stuck"
    assert [harness.value(harness.outcome(other)) for other in others] == list(range(10))


def test_what_is_in_the_pipe_of_a_worker_and_has_not_begun_is_dropped(
    tmp_path: pathlib.Path,
) -> None:
    harness = RunnerHarness(ProcessPoolTaskRunner(1), tmp_path, 20.0)
    harness.open()
    log = str(tmp_path / "log")
    for label in range(60):  # short so far: so they will travel in batches
        harness.run(pass_or_note, None, None, log, -label)
    begun, gate = harness.gate(), harness.gate()
    first = harness.attempt(pass_or_note, begun, gate, log, 100)
    later = [harness.attempt(pass_or_note, None, None, log, label) for label in range(3)]
    harness.submit(first, *later)
    begun.wait("the first of the batch runs")
    harness.runner.cancel([later[0].id])
    harness.runner.cancel([later[1].id], hard=True)
    for attempt in later[:2]:
        outcome = harness.outcome(attempt)
        assert (outcome.kind, outcome.began) == ("stopped", False)
    gate.open()
    assert harness.value(harness.outcome(first)) == 100
    assert harness.value(harness.outcome(later[2])) == 2
    harness.close()
    assert pathlib.Path(log).read_text().split()[-2:] == ["100", "2"]


def test_a_kill_that_comes_too_late_does_not_hit_the_next_attempt(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = RunnerHarness(ProcessPoolTaskRunner(1), tmp_path, 20.0)
    harness.open()
    log = str(tmp_path / "log")
    for label in range(60):  # short so far: so the second will be sent ahead
        harness.run(pass_or_note, None, None, log, -label)
    begun, gate = harness.gate(), harness.gate()
    first = harness.attempt(pass_or_note, begun, gate, log, 100)
    second = harness.attempt(pass_or_note, None, None, log, 101)
    kill = Worker.kill

    def kill_late(worker: Worker) -> None:
        number = worker.slot.number
        gate.open()
        wait_until(lambda: worker.slot.number not in (number, IDLE), 10)
        kill(worker)

    harness.submit(first)
    begun.wait("the first runs")
    harness.submit(second)
    assert isinstance(harness.runner, ProcessPoolTaskRunner)
    assert harness.runner._lease is not None
    (worker,) = harness.runner._lease.pool._crew.workers
    wait_until(lambda: len(worker.sent) == 2, 10)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "kill", kill_late)
        harness.runner.cancel([first.id], hard=True)
        assert harness.outcome(first).kind == "stopped"
    assert harness.value(harness.outcome(second)) == 101
    harness.close()
    assert pathlib.Path(log).read_text().split()[-2:] == ["100", "101"], "once each"


def pass_or_note(begun: Gate | None, gate: Gate | None, log: str, label: int) -> int:
    if begun is not None and gate is not None:
        pass_gate(begun, gate)
    return note(log, label)


DRIVER = """
import ctypes, os, pathlib, sys, time
from penstock.task_runners import Attempt
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.process_pool.slots import IDLE
from penstock_runners.process_pool.workers import Worker
directory = sys.argv[1]
def tell():
    (pathlib.Path(directory) / str(os.getpid())).touch()
def busy():
    tell()
    while True:
        pass
def hold():
    tell()
    ctypes.PyDLL(None).sleep(30)
runner = ProcessPoolTaskRunner(2)
runner.open(lambda event: None, {})
runner.submit([Attempt(1, busy), Attempt(2, hold)])
time.sleep(30)
"""


def test_no_worker_outlives_a_killed_driver(tmp_path: pathlib.Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 10)
    finally:
        driver.kill()
        driver.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    try:
        wait_until(lambda: not any(map(is_alive, workers)), 2)
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)


INTERRUPTED = """
import pathlib, sys, time
from penstock.task_runners import Attempt
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.process_pool.slots import IDLE
from penstock_runners.process_pool.workers import Worker
directory = pathlib.Path(sys.argv[1])
def work(path):
    pathlib.Path(path).touch()
    time.sleep(30)
runner = ProcessPoolTaskRunner(2)
runner.open(lambda event: None, {})
try:
    runner.submit([Attempt(n, work, (str(directory / str(n)),)) for n in range(2)])
    (directory / "submitted").touch()
    while True:
        time.sleep(0.01)  # short: Python may go to sleep on a signal that came just before
except KeyboardInterrupt:
    runner.close()
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("moment", "delay_seconds"), [("submitted", 0.0), ("submitted", 0.05), ("1", 0.0)]
)
def test_ctrl_c_ends_the_driver_and_workers_say_nothing(
    tmp_path: pathlib.Path, moment: str, delay_seconds: float
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as driver:
        try:
            wait_until((tmp_path / moment).exists, 10)
            time.sleep(delay_seconds)
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: the workers get it too
            output, _ = driver.communicate(timeout=10)
        finally:
            driver.kill()
    assert (output, driver.returncode) == (b"", 130)


def is_alive(process_id: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# --- the initializer --------------------------------------------------------------------


def fail_to_initialize(log: str) -> None:
    note(log, os.getpid())
    raise OSError("no licence server")


def test_an_initializer_that_fails_breaks_the_runner(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    events: list[Event] = []
    is_broken = threading.Event()

    def report(event: Event) -> None:
        events.append(event)
        if isinstance(event, Broken):
            is_broken.set()

    runner = ProcessPoolTaskRunner(
        1, initializer=fail_to_initialize, initargs=(str(log),)
    ).for_run()
    runner.open(report, {})
    runner.submit([Attempt(number, abs, (-1,)) for number in range(5)])
    assert is_broken.wait(20)
    assert [type(event) for event in events] == [Outcome] * 5 + [Broken]
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert {(outcome.kind, outcome.began) for outcome in outcomes} == {("lost", False)}
    broken = events[-1]
    assert isinstance(broken, Broken)
    assert broken.runner is runner
    assert "OSError: no licence server" in str(broken.error)
    assert "fail_to_initialize" in str(broken.error), "with its traceback"
    assert len(log.read_text().split()) == 3, "three times, then no more"
    runner.submit([Attempt(9, abs, (-1,))])
    wait_until(lambda: len(events) == 7, 5)
    late = events[-1]
    assert isinstance(late, Outcome)
    assert late.kind == "lost"
    runner.close()
    runner.close()
