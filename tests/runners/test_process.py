"""What is special about the process runner: its workers, its batches, and what it sends them."""

import contextlib
import gc
import multiprocessing
import operator
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from tests.support import wait_until

from penstock.task_runners import Siblings
from penstock.testing.harness import RunnerHarness, live_children
from penstock.testing.subjects import Gate, pass_gate
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.process_pool import pool
from penstock_runners.process_pool.registry import POOLS
from penstock_runners.thread_variables import THREAD_VARIABLES


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def opened(runner: ProcessPoolTaskRunner, directory: pathlib.Path) -> RunnerHarness:
    harness = RunnerHarness(runner, directory, 20.0)
    harness.open()
    return harness


@pytest.fixture
def harness(tmp_path: pathlib.Path) -> Iterator[RunnerHarness]:
    harness = opened(ProcessPoolTaskRunner(2), tmp_path)
    yield harness
    harness.close()


# --- configuration ------------------------------------------------------------------------


def test_a_spec_is_a_number_of_processes() -> None:
    assert ProcessPoolTaskRunner.from_spec("4").max_workers == 4
    assert ProcessPoolTaskRunner.from_spec("").max_workers >= 1


@pytest.mark.parametrize("argument", ["0", "-1", "many", "2.5", "2,3"])
def test_any_other_spec_is_refused_with_what_is_taken(argument: str) -> None:
    with pytest.raises(ValueError, match="a number of processes, 1 or more, as in 'process:4'"):
        ProcessPoolTaskRunner.from_spec(argument)


@pytest.mark.parametrize("value", [0, -3, 2.0, "4", True])
def test_an_impossible_number_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(ValueError, match="max_workers must be a whole number, 1 or more"):
        ProcessPoolTaskRunner(max_workers=value)
    with pytest.raises(ValueError, match="max_tasks_per_worker must be a whole number"):
        ProcessPoolTaskRunner(max_tasks_per_worker=value)


def test_an_initializer_that_cannot_be_pickled_is_named_at_open(tmp_path: pathlib.Path) -> None:
    runner = ProcessPoolTaskRunner(1, initializer=print, initargs=(threading.Lock(),))
    with pytest.raises(TypeError, match=r"initializer -> \[1\]: cannot pickle '_thread.lock'"):
        opened(runner, tmp_path)


@pytest.mark.parametrize(
    ("given", "in_env", "expected"),
    [
        ({}, {}, ["1"] * 7),
        ({"MKL_NUM_THREADS": "7"}, {}, ["1", "1", "7", "1", "1", "1", "1"]),
        ({"NUMBA_NUM_THREADS": "7"}, {"NUMBA_NUM_THREADS": "2"}, [*["1"] * 5, "2", "1"]),
        # Where OMP_NUM_THREADS is the fall-back, it must not be hidden.
        ({"OMP_NUM_THREADS": "3"}, {}, ["3", None, None, None, "1", "1", None]),
        ({}, {"OMP_NUM_THREADS": "3"}, ["3", None, None, None, "1", "1", None]),
    ],
)
def test_numerical_libraries_share_the_cores_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    given: dict[str, str],
    in_env: dict[str, str],
    expected: list[str | None],
) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    harness = opened(ProcessPoolTaskRunner(1000, env=in_env), tmp_path)
    seen = [harness.value(harness.run(os.getenv, name)) for name in THREAD_VARIABLES]
    harness.close()
    assert seen == expected


def test_the_users_variables_reach_the_workers(tmp_path: pathlib.Path) -> None:
    harness = opened(ProcessPoolTaskRunner(1, env={"MINE": "here"}), tmp_path)
    assert harness.value(harness.run(os.getenv, "MINE")) == "here"
    harness.close()


def remember(value: str) -> None:
    os.environ["REMEMBERED"] = value


def test_the_initializer_runs_before_anything_else(tmp_path: pathlib.Path) -> None:
    harness = opened(ProcessPoolTaskRunner(1, remember, ("it",)), tmp_path)
    assert harness.value(harness.run(os.getenv, "REMEMBERED")) == "it"
    harness.close()


# --- the life of workers --------------------------------------------------------------------


def test_workers_are_warm_for_the_next_run(tmp_path: pathlib.Path) -> None:
    workers = []
    for _ in range(2):
        harness = opened(ProcessPoolTaskRunner(1), tmp_path)
        workers.append(harness.value(harness.run(os.getpid)))
        harness.close()
    assert workers[0] == workers[1]
    other = opened(ProcessPoolTaskRunner(1, env={"A": "1"}), tmp_path)
    assert other.value(other.run(os.getpid)) != workers[0], "another environment, another pool"
    other.close()


def test_a_changed_module_path_or_directory_is_known_to_the_workers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (None, tmp_path):
        if place is not None:
            monkeypatch.chdir(place)
            monkeypatch.syspath_prepend(place)
        harness = opened(ProcessPoolTaskRunner(1), tmp_path)
        seen = harness.value(harness.run(where)), harness.value(harness.run(os.getcwd))
        assert seen == (list(sys.path), os.getcwd())
        harness.close()


def where() -> list[str]:
    return sys.path


def test_pools_that_nobody_uses_are_few(tmp_path: pathlib.Path) -> None:
    before = live_children().keys()
    for number in range(6):
        harness = opened(ProcessPoolTaskRunner(1, env={"C": str(number)}), tmp_path)
        harness.run(abs, -1)
        harness.close()
    deadline = time.monotonic() + 5
    while len(live_children().keys() - before) > 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_there_are_no_more_workers_than_work(tmp_path: pathlib.Path) -> None:
    before = live_children().keys()
    harness = opened(ProcessPoolTaskRunner(50), tmp_path)
    assert harness.value(harness.run(abs, -1)) == 1
    assert len(live_children().keys() - before) == 1
    harness.close()


def test_a_worker_is_replaced_after_its_number_of_attempts(tmp_path: pathlib.Path) -> None:
    harness = opened(ProcessPoolTaskRunner(1, max_tasks_per_worker=3), tmp_path)
    attempts = [harness.attempt(os.getpid) for _ in range(8)]
    harness.submit(*attempts)
    workers = [harness.value(harness.outcome(attempt)) for attempt in attempts]
    assert [workers.count(worker) for worker in dict.fromkeys(workers)] == [3, 3, 2]
    harness.close()


def start_a_child() -> int:
    process = multiprocessing.get_context("fork").Process(target=abs, args=(-1,))
    process.start()
    process.join(10)
    assert process.exitcode == 0
    return 1


def test_tasks_may_have_processes_of_their_own(harness: RunnerHarness) -> None:
    assert harness.value(harness.run(start_a_child)) == 1


SCRIPT = """
import sys, time
from queue import SimpleQueue
from penstock.task_runners import Attempt
from penstock_runners.process import ProcessPoolTaskRunner

class Point:
    def __init__(self, x):
        self.x = x

def moved(point, by):
    return Point(point.x + by)

events = SimpleQueue()
runner = ProcessPoolTaskRunner(2)
runner.open(events.put, {})
runner.submit([Attempt(1, moved, (Point(1),), {"by": 2}), Attempt(2, lambda x: x, (5,))])
ends = {event.attempt_id: event for event in (events.get(timeout=20), events.get(timeout=20))}
import pickle
point = pickle.loads(ends[1].value.data)
print(type(point) is Point, point.x, ends[2].value)
if "busy" in sys.argv:
    runner.submit([Attempt(3, time.sleep, (20,))])
    time.sleep(0.1)
sys.stdout.flush()
"""


@pytest.mark.parametrize("how", ["script", "stdin", "-c", "busy"])
def test_a_script_needs_no_main_guard_and_leaves_in_silence(
    tmp_path: pathlib.Path, how: str
) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    commands = {"script": [str(path)], "stdin": ["-"], "-c": ["-c", SCRIPT]}
    command = commands.get(how, [str(path), how])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True 3 5\n", "", 0)
    assert time.monotonic() - began < 10


def test_the_pools_end_when_asked(tmp_path: pathlib.Path) -> None:
    before = live_children().keys()
    harness = opened(ProcessPoolTaskRunner(2, env={"B": "1"}), tmp_path)
    harness.run(abs, -1)
    assert live_children().keys() - before
    harness.close()
    POOLS.end()
    assert not live_children().keys() - before


# --- batches --------------------------------------------------------------------------------


def nap(seconds: float, begun: Gate | None = None, gate: Gate | None = None) -> float:
    time.sleep(seconds)
    if begun is not None and gate is not None:
        pass_gate(begun, gate)
    return seconds


def test_no_result_waits_for_a_slow_one_in_its_batch(tmp_path: pathlib.Path) -> None:
    harness = opened(ProcessPoolTaskRunner(1), tmp_path)
    for _ in range(20):
        harness.run(nap, 0)
    begun, gate = harness.gate(), harness.gate()
    quick = [harness.attempt(nap, 0) for _ in range(20)]
    slow = harness.attempt(nap, 0, begun, gate)
    after = harness.attempt(nap, 0)
    harness.submit(*quick, slow, after)
    for attempt in quick:
        assert harness.value(harness.outcome(attempt)) == 0
    assert slow.id not in harness.outcomes
    gate.open()
    harness.outcome(slow)
    harness.outcome(after)
    harness.close()


def test_what_waits_behind_a_slow_one_goes_to_an_idle_worker(harness: RunnerHarness) -> None:
    for _ in range(20):
        harness.run(nap, 0)
    begun, gate = harness.gate(), harness.gate()
    slow = harness.attempt(nap, 0, begun, gate)
    quick = [harness.attempt(nap, 0) for _ in range(50)]
    harness.submit(slow, *quick)
    for attempt in quick:
        assert harness.value(harness.outcome(attempt)) == 0
    assert slow.id not in harness.outcomes
    gate.open()
    harness.outcome(slow)


@pytest.mark.parametrize("is_fast_asleep", [False, True])
def test_what_is_sent_at_once_is_watched(
    harness: RunnerHarness, monkeypatch: pytest.MonkeyPatch, is_fast_asleep: bool
) -> None:
    if is_fast_asleep:
        monkeypatch.setattr(pool, "RESTLESS_SECONDS", 0.0)
    harness.run(nap, 0)  # a worker is ready, and has nothing to do
    if is_fast_asleep:
        assert isinstance(harness.runner, ProcessPoolTaskRunner)
        assert harness.runner._lease is not None
        the_pool = harness.runner._lease.pool
        wait_until(lambda: the_pool.is_fast_asleep)
    gate = harness.gate()
    slow = harness.attempt(nap, 0, harness.gate(), gate, report_start=True)
    harness.submit(slow)

    def is_known_to_run() -> bool:
        harness.read_events()
        return slow.id in harness.starts

    wait_until(is_known_to_run)
    assert slow.id not in harness.outcomes, "its end is how this is known"
    gate.open()
    harness.outcome(slow)


def test_two_runs_on_one_pool_do_not_wait_for_each_other_to_close(tmp_path: pathlib.Path) -> None:
    first, second = (opened(ProcessPoolTaskRunner(1), tmp_path / name) for name in "ab")
    (tmp_path / "a").mkdir()
    gate = first.gate()
    (held,) = first.hold(1, gate)
    waiting = second.attempt(abs, -1)
    second.submit(waiting)
    second.runner.close()
    assert second.outcome(waiting).kind == "stopped"
    second.close()
    gate.open()
    assert first.value(first.outcome(held)) == "passed"
    first.close()


def constants_kept() -> int:
    """Return how many files of constants are open here."""
    links = []
    for path in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(path))
    return sum("penstock-constant" in link for link in links)


def test_constants_that_outlive_their_pool_are_let_go_in_silence(tmp_path: pathlib.Path) -> None:
    harness = opened(ProcessPoolTaskRunner(1, env={"D": "1"}), tmp_path)
    siblings = Siblings((0,))
    attempt = harness.attempt(len, bytes(1_000_000), siblings=siblings)
    harness.submit(attempt)
    assert harness.value(harness.outcome(attempt)) == 1_000_000
    assert constants_kept() == 1
    harness.close()
    POOLS.end()
    assert constants_kept() == 0
    del attempt, siblings  # a warning, hence an error, if that used what is closed
    gc.collect()


def test_constants_are_let_go_when_no_attempt_has_them(harness: RunnerHarness) -> None:
    siblings = Siblings((0,))
    attempts = [
        harness.attempt(operator.getitem, bytes(1_000_000), index, siblings=siblings)
        for index in range(20)
    ]
    harness.submit(*attempts)
    assert {harness.value(harness.outcome(attempt)) for attempt in attempts} == {0}
    assert constants_kept() == 1
    del attempts, siblings
    deadline = time.monotonic() + 10
    while constants_kept():
        assert time.monotonic() < deadline
        harness.run(abs, -1)
