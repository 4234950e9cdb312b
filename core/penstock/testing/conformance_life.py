"""Checks of a runner's life: what it starts and when, what it leaves, and what a fork is told."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if
from penstock.testing.harness import RunnerHarness, live_children, new_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.task_runners import Attempt

__all__ = ["LifeChecks"]

LEAVING_DRIVER = """
import pickle, sys
from queue import SimpleQueue
from penstock.task_runners import Outcome
make_runner, attempts, _ = pickle.load(sys.stdin.buffer)
events = SimpleQueue()
runner = make_runner().for_run()
runner.open(events.put, {})
runner.submit(attempts[:1])
while not isinstance(events.get(timeout=60), Outcome):
    continue
print("done", flush=True)
"""

DRIVER = """
import pickle, sys
make_runner, attempts, everything = pickle.load(sys.stdin.buffer)
runner = make_runner().for_run()
runner.open(lambda event: None, {})
runner.submit(attempts)
everything.wait("the parent kills this driver")
"""


class LifeChecks(ConformanceChecks):
    """What `__init__`, `for_run`, `open` and `close` do."""

    def test_the_constructor_starts_nothing(self) -> None:
        threads, children = set(threading.enumerate()), live_children()
        self.make_runner().for_run()
        assert new_threads(threads, 0) == [], "a runner starts no thread before open()"
        assert live_children().keys() <= children.keys(), "nor a process"

    def test_an_unknown_argument_is_refused(self) -> None:
        argument = "surely not: an argument?!"
        with pytest.raises(ValueError, match=r".") as refused:
            type(self.make_runner()).from_spec(argument)
        assert argument in str(refused.value), "from_spec() repeats what it does not take"

    def test_two_runs_of_one_runner_do_not_meet(self, tmp_path: pathlib.Path) -> None:
        configured = self.make_runner()
        with contextlib.ExitStack() as stack:
            harnesses: list[RunnerHarness] = []
            for name in ("first", "second"):
                (tmp_path / name).mkdir()
                harness = RunnerHarness(configured, tmp_path / name, self.patience_seconds)
                harness.open()
                stack.callback(harness.close)
                harnesses.append(harness)
            for number, harness in enumerate(harnesses):
                assert harness.value(harness.run(subjects.add, number)) == number + 1, (
                    "for_run() gives a runner of its own to each run"
                )
            harnesses[0].close()
            assert harnesses[1].value(harnesses[1].run(subjects.add, 1)) == 2, (
                "closing one run's runner leaves the other's alone"
            )

    def test_close_leaves_nothing_and_can_be_called_twice(self, tmp_path: pathlib.Path) -> None:
        threads, children = set(threading.enumerate()), live_children()
        harness = RunnerHarness(self.make_runner(), tmp_path, self.patience_seconds)
        harness.open()
        attempts = [harness.attempt(subjects.add, number) for number in range(20)]
        if harness.capabilities.async_functions:
            attempts.append(harness.attempt(subjects.add_async, 1, is_async=True))
        harness.run_all(attempts)
        harness.close(1.0)
        harness.runner.close()
        if harness.capabilities.keeps_warm:
            return  # idle workers, and what looks after them, may wait here for the next run
        left = new_threads(threads, self.patience_seconds / 4)
        assert left == [], f"close() leaves no thread: {left}"
        deadline = time.monotonic() + self.patience_seconds / 4
        while (new := live_children().keys() - children) and time.monotonic() < deadline:
            time.sleep(subjects.POLL_SECONDS)
        assert not new, f"close() leaves no process: {live_children()}"

    def test_closing_what_was_never_used_is_no_fault(self, tmp_path: pathlib.Path) -> None:
        harness = RunnerHarness(self.make_runner(), tmp_path, self.patience_seconds)
        harness.open()
        harness.close()

    def test_open_may_follow_close(self, harness: RunnerHarness) -> None:
        assert harness.value(harness.run(subjects.add, 1)) == 2
        harness.close(1.0)
        harness.open()
        assert harness.value(harness.run(subjects.add, 2)) == 3, "open() may follow close()"

    def test_a_forked_child_is_told(self, harness: RunnerHarness) -> None:
        skip_if(not hasattr(os, "fork"), "no fork on this platform")
        assert harness.value(harness.run(subjects.add, 1)) == 2
        answer = _in_forked_child(
            lambda: harness.runner.submit([harness.attempt(subjects.add, 1)]),
            self.patience_seconds,
        )
        assert answer.startswith("RuntimeError"), (
            f"submit() in a forked child raises RuntimeError; here: {answer}"
        )
        assert "child" in answer, f"and tells what to do in the child; here: {answer}"
        assert harness.value(harness.run(subjects.add, 1)) == 2, "the parent goes on"

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
    def test_workers_die_with_a_driver_that_is_killed(
        self, harness: RunnerHarness, how: signal.Signals
    ) -> None:
        skip_if(harness.capabilities.isolation != "process", "workers are in the driver")
        skip_if(harness.capabilities.shares_workers, "the workers are not the driver's own")
        skip_if(not pathlib.Path("/proc/self").exists(), "no /proc on this platform")
        everything = harness.gate()
        directory = harness.directory / "workers"
        directory.mkdir()
        begun = [harness.gate() for _ in range(max(1, harness.runner.slots()))]
        attempts = [
            harness.attempt(subjects.tell_process_id, begin, str(directory), everything)
            for begin in begun
        ]
        driver = self._start_driver(DRIVER, attempts, everything)
        try:
            deadline = time.monotonic() + self.patience_seconds
            while not all(begin.is_open() for begin in begun):
                assert driver.poll() is None, "a driver of its own ended before its attempts began"
                assert time.monotonic() < deadline, "the attempts run in a driver of their own"
                time.sleep(subjects.POLL_SECONDS)
            driver.send_signal(how)
            driver.wait(self.patience_seconds)
        finally:
            driver.kill()
            driver.communicate()
        workers = [int(path.name) for path in directory.iterdir()]
        deadline = time.monotonic() + self.patience_seconds / 4
        while (alive := [pid for pid in workers if _is_alive(pid)]) and time.monotonic() < deadline:
            time.sleep(subjects.POLL_SECONDS)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        assert not alive, f"no worker outlives a killed driver; {len(alive)} did"

    def test_a_driver_that_ends_without_close_leaves_in_silence(
        self, harness: RunnerHarness
    ) -> None:
        driver = self._start_driver(
            LEAVING_DRIVER, [harness.attempt(subjects.add, 1)], harness.gate()
        )
        try:
            out, err = driver.communicate(timeout=2 * self.patience_seconds)
        finally:
            driver.kill()
        said = out.decode(), err.decode(), driver.returncode
        assert said == ("done\n", "", 0), f"no noise at exit, and no hang: {said}"

    def _start_driver(
        self, script: str, attempts: list[Attempt], gate: subjects.Gate
    ) -> subprocess.Popen[bytes]:
        """Start a process that makes a runner, and gives it these attempts."""
        module = sys.modules[type(self).__module__]
        cloudpickle.register_pickle_by_value(module)
        try:
            order = cloudpickle.dumps((self.make_runner, attempts, gate))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
        driver = subprocess.Popen(  # noqa: S603  (our own interpreter)
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert driver.stdin is not None
        driver.stdin.write(order)
        driver.stdin.close()
        driver.stdin = None
        return driver


def _in_forked_child(action: Callable[[], object], patience_seconds: float) -> str:
    """Return how an action ends in a forked child: the exception it raises, or "accepted"."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads and fork
        child = os.fork()
    if child == 0:
        try:
            action()
            os.write(writable, b"accepted")
        except BaseException as error:  # noqa: BLE001  (told to the parent)
            os.write(writable, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    try:
        ready, _, _ = select.select([readable], [], [], patience_seconds)
        return os.read(readable, 4096).decode() if ready else "it hangs"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(readable)
        os.close(writable)


def _is_alive(process_id: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
