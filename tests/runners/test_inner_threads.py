"""In a thread runner, numerical libraries keep to their share of the CPUs (`users.md` row 26)."""

import ctypes
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from penstock import cpus
from penstock.task_runners import TaskRunner
from penstock.testing.harness import RunnerHarness
from penstock.testing.manual import ManualTaskRunner
from penstock_runners import inner_threads, thread_variables
from penstock_runners.inline import SequentialTaskRunner
from penstock_runners.inner_threads import INNER_THREADS, InnerThreads
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.thread import ThreadPoolTaskRunner
from penstock_runners.thread_variables import THREAD_VARIABLES

HAD = 5


def blas() -> Any:
    """Return threadpoolctl's handle of the library that numpy uses."""
    assert np.ones((2, 2)).dot(np.ones(2))[0] == 2
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    if not found or found[0].internal_api != "openblas" or found[0].threading_layer == "openmp":
        pytest.skip("numpy has no OpenBLAS with threads of its own here")
    return found[0]


def set_blas_threads(number: int) -> None:
    library = blas()
    library.set_num_threads(number)
    library.clear_controlling_thread()


def blas_threads() -> int:
    number: int = blas().num_threads
    return number


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*THREAD_VARIABLES, "GOTO_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(thread_variables, "usable_cpus", lambda: 8)
    before = blas_threads()
    set_blas_threads(HAD)
    yield
    set_blas_threads(before)
    assert INNER_THREADS.share is None, "nothing is left of a runner"


def opened(slots: int, directory: pathlib.Path) -> RunnerHarness:
    harness = RunnerHarness(ThreadPoolTaskRunner(slots), directory, 10.0)
    harness.open()
    return harness


@pytest.mark.parametrize(("slots", "threads"), [(1, HAD), (2, 4), (4, 2), (8, 1), (20, 1)])
def test_inner_threads_are_cpus_by_slots_and_never_more_than_they_were(
    tmp_path: pathlib.Path, slots: int, threads: int
) -> None:
    harness = opened(slots, tmp_path)
    assert harness.value(harness.run(blas_threads)) == threads
    harness.close()
    assert blas_threads() == HAD, "restored at close"


def test_of_several_runners_the_one_with_most_slots_decides(tmp_path: pathlib.Path) -> None:
    outer = opened(2, tmp_path)
    inner = opened(4, tmp_path)
    assert outer.value(outer.run(blas_threads)) == 2
    inner.close()
    assert outer.value(outer.run(blas_threads)) == 4
    outer.close()
    assert blas_threads() == HAD


def test_what_one_thread_sets_another_can_restore(tmp_path: pathlib.Path) -> None:
    harness = opened(8, tmp_path)
    assert blas_threads() == 1
    closer = threading.Thread(target=harness.runner.close)
    closer.start()
    closer.join()
    assert blas_threads() == HAD
    harness.close()


def ask_for_three() -> tuple[int, int]:
    with threadpoolctl.threadpool_limits(3):
        inside = blas_threads()
    return inside, blas_threads()


def test_a_task_may_ask_for_more(tmp_path: pathlib.Path) -> None:
    harness = opened(8, tmp_path)
    assert harness.value(harness.run(ask_for_three)) == (3, 1)
    harness.close()


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_environment_of_the_user_wins(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(HAD))
    harness = opened(8, tmp_path)
    assert harness.value(harness.run(blas_threads)) == HAD
    assert harness.runner.summary() == f"8 threads, numerical libraries as {name}={HAD} says"
    harness.close()


def test_a_variable_of_another_library_says_nothing_about_this_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    harness = opened(8, tmp_path)
    assert harness.value(harness.run(blas_threads)) == 1
    harness.close()


def test_openmp_is_set_in_the_worker_threads_only(tmp_path: pathlib.Path) -> None:
    try:
        openmp = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("there is no OpenMP library here")
    had = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(7)  # of this thread
    harness = opened(8, tmp_path)
    gate = harness.gate()
    harness.hold(3, gate)
    assert harness.value(harness.run(openmp.omp_get_max_threads)) == 1
    gate.open()
    harness.close()
    assert openmp.omp_get_max_threads() == 7
    openmp.omp_set_num_threads(had)


def test_a_look_that_fails_is_logged_and_stops_no_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(threadpoolctl, "ThreadpoolController", fail)
        harness = opened(8, tmp_path)
    assert harness.value(harness.run(blas_threads)) == HAD
    harness.close()
    assert "not limited to their share of CPUs" in caplog.text
    assert "no such luck" in caplog.text


def test_a_forked_child_begins_anew() -> None:
    owner = InnerThreads()
    owner.open(8)
    owner.forget_in_child()
    owner.open(2)
    assert blas_threads() == 4
    owner.close(2)
    assert blas_threads() == HAD


LATE = """
import sys, threading, time
from queue import SimpleQueue
import penstock
from penstock.task_runners import Attempt
from penstock_runners.thread import ThreadPoolTaskRunner

def load():
    import numpy
    return numpy.ones(2).dot(numpy.ones(2))

def threads():
    import threadpoolctl
    found = threadpoolctl.threadpool_info()
    return [one["num_threads"] for one in found if one["user_api"] == "blas"]

events = SimpleQueue()
runner = ThreadPoolTaskRunner(1000)
runner.open(lambda event: hasattr(event, "kind") and events.put(event), {})

def run(number, fn):
    runner.submit([Attempt(number, fn)])
    return events.get(timeout=20).value

run(1, time.monotonic)
print("threadpoolctl" in sys.modules, "numpy" in sys.modules)
run(2, load)
time.sleep(%r)
run(3, time.monotonic)
print("threadpoolctl" in sys.modules, set(threads()) <= {1})
runner.close()
print(max(threads(), default=0) == %r)
"""


def test_a_library_that_a_task_loads_is_limited_from_the_next_submit_on() -> None:
    environment = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    fresh = "import numpy, threadpoolctl; print(threadpoolctl.threadpool_info()[0]['num_threads'])"
    default = subprocess.run(
        [sys.executable, "-c", fresh], capture_output=True, text=True, check=True, env=environment
    )
    script = LATE % (inner_threads.LOOK_SECONDS, int(default.stdout))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["False False", "True True", "True"]


# --- in words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner", "text"),
    [
        (ManualTaskRunner(slots=1), "ManualTaskRunner, 1 slot"),
        (ManualTaskRunner(slots=3), "ManualTaskRunner, 3 slots"),
        (SequentialTaskRunner(), "in the calling thread, one at a time"),
        (ThreadPoolTaskRunner(4), "4 threads, 2 threads each for numerical libraries"),
        (ThreadPoolTaskRunner(1), "1 thread, 8 threads each for numerical libraries"),
        (ProcessPoolTaskRunner(8), "8 processes, 1 thread each for numerical libraries"),
        (
            ProcessPoolTaskRunner(1, worker_memory_limit="2GB"),
            "1 process, 8 threads each for numerical libraries, at most 2 GB each",
        ),
        (
            ProcessPoolTaskRunner(4, env={"OMP_NUM_THREADS": "3"}),
            "4 processes, numerical libraries as OMP_NUM_THREADS=3 says",
        ),
    ],
)
def test_a_runner_says_in_a_line_what_it_is(runner: TaskRunner, text: str) -> None:
    assert runner.summary() == text


def test_the_share_follows_the_cpus_that_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_variables, "usable_cpus", cpus.usable_cpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_cpus", lambda: None)
    assert thread_variables.share_of_cpus(2) == 3
