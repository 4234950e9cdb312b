"""The conformance kit: over the runners of this package, and over runners that break the contract.

`SubprocessTaskRunner` is here to try the kit's checks of processes: a crude runner, kept apart
from the real one, so that a mistake in one of the three shows.
"""

import os
import pathlib
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle
import pytest

from penstock.task_runners import (
    Attempt,
    Capabilities,
    Event,
    Outcome,
    Packed,
    RemoteError,
    Started,
    TaskRunner,
)
from penstock.testing.conformance import TaskRunnerConformance
from penstock.testing.harness import RunnerHarness
from penstock.testing.subjects import add
from penstock_runners.attempt_queue import AttemptQueue
from penstock_runners.inline import SequentialTaskRunner
from penstock_runners.thread import ThreadPoolTaskRunner


class TestSequentialTaskRunner(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return SequentialTaskRunner()


class TestThreadPoolTaskRunner(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return ThreadPoolTaskRunner(2)


class TestThreadPoolTaskRunnerWithOneThread(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return ThreadPoolTaskRunner(1)


WORKER = """
import os, pickle, queue, sys, threading
from penstock.worker.calling import call
calls = queue.SimpleQueue()
def read():
    try:
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)  # the driver is gone
threading.Thread(target=read, daemon=True).start()
from runner_of_the_tests import run
while True:
    pickle.dump(run(calls.get()), sys.stdout.buffer)
    sys.stdout.buffer.flush()
""".replace("from runner_of_the_tests import run\n", "run = pickle.loads(calls.get())\n")


def run_packed(payload: bytes) -> tuple[str, Any]:
    """Run one packed call, in the worker."""
    from penstock.worker.calling import call

    try:
        return "returned", pickle.dumps(call(*pickle.loads(payload)))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return "raised", RemoteError(type(error).__name__, str(error), text, None)


class SubprocessTaskRunner(TaskRunner):
    capabilities = Capabilities(isolation="process", kill="hard", pickles=True)

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers

    def open(self, report: Callable[[Event], None], options: Mapping[str, Any]) -> None:
        self.report = report
        self.process_id = os.getpid()
        self.changed = threading.Condition()
        self.queue = AttemptQueue()
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.stopping: set[int] = set()
        self.is_open = True
        self.threads = [threading.Thread(target=self.serve) for _ in range(self.workers)]
        for thread in self.threads:
            thread.start()

    def slots(self) -> int:
        return self.workers

    def credit(self) -> int:
        return max(0, 16 * self.workers - len(self.queue))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        if os.getpid() != self.process_id:
            raise RuntimeError("opened before a fork: make a new runner in the child")
        with self.changed:
            for attempt in attempts:
                self.queue.push(attempt)
            self.changed.notify_all()

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        with self.changed:
            for attempt_id in attempt_ids:
                if self.queue.drop(attempt_id):
                    self.report(Outcome(attempt_id, "stopped", reason="dropped", began=False))
                elif hard and attempt_id in self.running:
                    self.stopping.add(attempt_id)
                    self.running[attempt_id].kill()

    def close(self, grace_seconds: float = 0.0) -> None:
        deadline = time.monotonic() + grace_seconds
        with self.changed:
            self.is_open = False
            for attempt_id in self.queue.drop_all():
                self.report(Outcome(attempt_id, "stopped", reason="closed", began=False))
            self.changed.notify_all()
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.cancel(tuple(self.running), hard=True)
        for thread in self.threads:
            thread.join()

    def serve(self) -> None:
        process = start_worker()
        while attempt := self.take(process):
            try:
                payload = cloudpickle.dumps((attempt.fn, attempt.args, attempt.kwargs))
            except Exception as error:
                outcome = Outcome(attempt.id, "raised", error=error)
            else:
                outcome = ask(process, attempt, payload)
            with self.changed:
                del self.running[attempt.id]
                if outcome.kind == "lost" and attempt.id in self.stopping:
                    outcome = outcome._replace(kind="stopped", reason="killed on request")
            if outcome.kind in ("lost", "stopped"):
                end_worker(process)
                process = start_worker()
            self.report(outcome)
        end_worker(process)

    def take(self, process: subprocess.Popen[bytes]) -> Attempt | None:
        with self.changed:
            self.changed.wait_for(lambda: bool(self.queue) or not self.is_open)
            attempt = self.queue.pop()
            if attempt is not None:
                self.running[attempt.id] = process
                if attempt.report_start:
                    self.report(Started(attempt.id, str(process.pid), time.monotonic()))
            return attempt


def ask(process: subprocess.Popen[bytes], attempt: Attempt, payload: bytes) -> Outcome:
    assert process.stdin is not None
    assert process.stdout is not None
    began = time.monotonic()
    try:
        pickle.dump(payload, process.stdin)
        process.stdin.flush()
        kind, answer = pickle.load(process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return Outcome(attempt.id, "lost", reason="the worker died")
    seconds = time.monotonic() - began
    if kind == "raised":
        return Outcome(attempt.id, "raised", error=answer, duration_seconds=seconds)
    return Outcome(attempt.id, "returned", Packed(answer), duration_seconds=seconds)


def start_worker() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    if __name__ in sys.modules:  # in a driver that got this by value it is not
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    pickle.dump(cloudpickle.dumps(run_packed), process.stdin)
    process.stdin.flush()
    return process


def end_worker(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        try:
            stream.close()
        except BrokenPipeError:
            continue  # the last call is still in the buffer


class TestSubprocessTaskRunner(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return SubprocessTaskRunner(2)


# --- runners that break the contract: the kit must say so ------------------------------


class Broken(SequentialTaskRunner):
    """Reports what `change` makes of each event."""

    def __init__(self, change: Callable[[Event], Iterator[Event]] | None = None) -> None:
        super().__init__()
        self.change = change

    def for_run(self) -> "Broken":
        return Broken(self.change)

    def open(self, report: Callable[[Event], None], options: Mapping[str, Any]) -> None:
        def report_changed(event: Event) -> None:
            assert self.change is not None
            for changed in self.change(event):
                report(changed)

        super().open(report_changed, options)


def twice(event: Event) -> Iterator[Event]:
    yield event
    yield event


def never(event: Event) -> Iterator[Event]:
    yield from ()


def a_start_too_late(event: Event) -> Iterator[Event]:
    if isinstance(event, Outcome):
        yield event
        yield Started(event.attempt_id, "late", time.monotonic())


def of_another(event: Event) -> Iterator[Event]:
    yield event
    if isinstance(event, Outcome):
        yield event._replace(attempt_id=event.attempt_id + 1000)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(twice, "ended twice", id="twice"),
        pytest.param(never, "exactly one outcome", id="never"),
        pytest.param(a_start_too_late, "started after its outcome", id="late"),
        pytest.param(of_another, "never submitted", id="another"),
    ],
)
def test_the_kit_notices_events_that_break_the_contract(
    change: Callable[[Event], Iterator[Event]], complaint: str, tmp_path: pathlib.Path
) -> None:
    harness = RunnerHarness(Broken(change), tmp_path, patience_seconds=0.2)
    harness.open()

    def check() -> None:
        harness.run(add, 1, report_start=True)
        harness.close()

    with pytest.raises(AssertionError, match=complaint):
        check()


class RaisesThrough(SequentialTaskRunner):
    def submit(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            attempt.fn(*attempt.args, **attempt.kwargs)


class FirstComeFirstServed(ThreadPoolTaskRunner):
    def submit(self, attempts: Sequence[Attempt]) -> None:
        super().submit([attempt._replace(priority=0) for attempt in attempts])


class LeavesThreads(ThreadPoolTaskRunner):
    def for_run(self) -> TaskRunner:
        return self

    def close(self, grace_seconds: float = 0.0) -> None:
        return


class StartsEarly(ThreadPoolTaskRunner):
    def for_run(self) -> TaskRunner:
        self.open(lambda event: None, {})
        self.submit([Attempt(1, len, ("abc",))])
        return self


class DeafToCancel(ThreadPoolTaskRunner):
    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        return


class TakesForks(ThreadPoolTaskRunner):
    def submit(self, attempts: Sequence[Attempt]) -> None:
        assert self._live is not None
        self._live.process_id = os.getpid()
        super().submit(attempts)


@pytest.mark.parametrize(
    ("runner", "check", "complaint"),
    [
        (FirstComeFirstServed(1), "test_a_higher_priority_goes_first", "higher priority"),
        (DeafToCancel(1), "test_what_has_not_begun_is_dropped", "what waits|one outcome"),
        (
            DeafToCancel(1),
            "test_what_runs_is_stopped_and_gives_its_slot_back",
            "what runs|one outcome",
        ),
        (TakesForks(1), "test_a_forked_child_is_told", "RuntimeError"),
    ],
)
def test_the_kit_notices_a_runner_that_breaks_a_promise(
    runner: TaskRunner, check: str, complaint: str, tmp_path: pathlib.Path
) -> None:
    kit = kit_of(runner)
    harness = RunnerHarness(runner, tmp_path, kit.patience_seconds)
    harness.open()
    try:
        with pytest.raises(AssertionError, match=complaint):
            getattr(kit, check)(harness)
    finally:
        harness.close(1.0)


def test_the_kit_notices_an_exception_that_comes_out_of_submit(tmp_path: pathlib.Path) -> None:
    harness = RunnerHarness(RaisesThrough(), tmp_path, 0.2)
    harness.open()
    with pytest.raises(SystemExit):
        harness.run(sys.exit, 3)


def test_the_kit_notices_threads_that_are_left(tmp_path: pathlib.Path) -> None:
    runner = LeavesThreads(1)
    with pytest.raises(AssertionError, match="leaves no thread"):
        kit_of(runner).test_close_leaves_nothing_and_can_be_called_twice(tmp_path)
    ThreadPoolTaskRunner.close(runner, 1.0)


def test_the_kit_notices_threads_before_open() -> None:
    runner = StartsEarly(1)
    with pytest.raises(AssertionError, match="before open"):
        kit_of(runner).test_the_constructor_starts_nothing()
    runner.close(1.0)


def kit_of(runner: TaskRunner) -> TaskRunnerConformance:
    class Kit(TaskRunnerConformance):
        patience_seconds = 0.4

        def make_runner(self) -> TaskRunner:
            return runner

    return Kit()
