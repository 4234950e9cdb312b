"""The conformance kit: over the runners of this package, and over runners that break the contract.

`SubprocessTaskRunner` is here to try the kit's checks of processes: a crude runner, kept apart
from the real one, so that a mistake in one of the three shows.
"""

import dataclasses
import marshal
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle
import pytest

from penstock.task_runners import (
    Attempt,
    Capabilities,
    Event,
    Outcome,
    Output,
    Packed,
    RemoteError,
    Returned,
    Series,
    Started,
    TaskRunner,
)
from penstock.testing.conformance import TaskRunnerConformance
from penstock.testing.harness import RunnerHarness
from penstock.testing.subjects import add
from penstock.worker import running
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
calls = queue.SimpleQueue()
answers, sys.stdout = sys.stdout.buffer, sys.stderr
def read():
    try:
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)  # the driver is gone
def answer(*message):
    pickle.dump(message, answers)
    answers.flush()
threading.Thread(target=read, daemon=True).start()
run = pickle.loads(calls.get())
while True:
    run(calls.get(), answer)
"""


def run_packed(payload: bytes, answer: Callable[..., None]) -> None:
    """Run one packed call, in the worker."""
    from penstock.worker import running
    from penstock.worker.here import Here
    from penstock.worker.output import forwarding

    environment, call = pickle.loads(payload)
    shared = marshal.loads(environment.shared) if environment is not None else {}
    if environment is not None:
        forwarding.install(shared["levels"], is_own_process=True)
    own, variables = environment[1:3] if environment is not None else ((), None)
    here = Here(shared, own, lambda record: answer("output", record))
    ending = running.run(here, lambda: pickle.loads(call), variables)
    answer("end", ending.how, ending.payload, [bytes(buffer) for buffer in ending.buffers])


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
        self.threads = [
            threading.Thread(target=self.serve, daemon=True) for _ in range(self.workers)
        ]
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
                call = cloudpickle.dumps((attempt.fn, attempt.args, attempt.kwargs))
                payload = pickle.dumps((attempt.environment, call))
            except Exception as error:
                outcome = Outcome(attempt.id, "raised", error=error)
            else:
                outcome = ask(process, attempt, payload, self.report)
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


def ask(
    process: subprocess.Popen[bytes],
    attempt: Attempt,
    payload: bytes,
    report: Callable[[Event], None],
) -> Outcome:
    assert process.stdin is not None
    assert process.stdout is not None
    began = time.monotonic()
    try:
        pickle.dump(payload, process.stdin)
        process.stdin.flush()
        while (answer := pickle.load(process.stdout))[0] == "output":
            report(Output(attempt.id, (answer[1],), str(process.pid)))
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        return Outcome(attempt.id, "lost", reason="the worker died")
    seconds = time.monotonic() - began
    _, how, value, buffers = answer
    if how == running.RAISED:
        return Outcome(attempt.id, "raised", error=RemoteError(*value), duration_seconds=seconds)
    if how == running.PACKED:
        data, *buffers = buffers if value is None else [value, *buffers]
        value = Packed(data, tuple(buffers))
    return Outcome(attempt.id, "returned", value, duration_seconds=seconds)


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


def a_record_too_late(event: Event) -> Iterator[Event]:
    yield event
    if isinstance(event, Outcome):
        yield Output(event.attempt_id, ())


def of_another(event: Event) -> Iterator[Event]:
    yield event
    if isinstance(event, Outcome):
        yield event._replace(attempt_id=event.attempt_id + 1000)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(twice, "ended twice", id="twice"),
        pytest.param(a_record_too_late, "logged after its outcome", id="record"),
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


class TellsNothing(SubprocessTaskRunner):
    """Forgets what attempts say of their runs."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        super().submit([attempt._replace(environment=None) for attempt in attempts])


class LosesOutput(SubprocessTaskRunner):
    """Reports no log records."""

    def open(self, report: Callable[[Event], None], options: Mapping[str, Any]) -> None:
        super().open(lambda event: None if isinstance(event, Output) else report(event), options)


class RepeatsTheFirst(ThreadPoolTaskRunner):
    def submit(self, attempts: Sequence[Attempt]) -> None:
        super().submit([attempts[0]._replace(id=attempt.id) for attempt in attempts])


class MixesUpRows(SequentialTaskRunner):
    """Reports the values of a series from the last to the first."""

    capabilities = dataclasses.replace(SequentialTaskRunner.capabilities, takes_series=True)

    def open(self, report: Callable[[Event], None], options: Mapping[str, Any]) -> None:
        self.report = report
        super().open(report, options)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        assert isinstance(attempts, Series)
        values = [one.fn(*one.args) for one in reversed(attempts)]
        times = [time.monotonic()] * len(values)
        self.report(Returned(attempts.first_id, values, times, [0.0] * len(values), "here"))


@pytest.mark.parametrize(
    ("runner", "check", "complaint"),
    [
        (
            TellsNothing(1),
            "test_the_function_is_told_what_the_attempt_says_of_its_run",
            "own surroundings",
        ),
        (
            TellsNothing(1),
            "test_context_variables_are_set_for_their_attempt_alone",
            "the values of the attempt",
        ),
        (
            LosesOutput(1),
            "test_what_is_logged_comes_in_order_and_before_the_outcome",
            "every record",
        ),
        (LosesOutput(1), "test_what_was_logged_just_before_a_death_is_there", "by no death"),
        (FirstComeFirstServed(1), "test_a_higher_priority_goes_first", "higher priority"),
        (DeafToCancel(1), "test_what_has_not_begun_is_dropped", "what waits|one outcome"),
        (
            DeafToCancel(1),
            "test_what_runs_is_stopped_and_gives_its_slot_back",
            "what runs|one outcome",
        ),
        (RepeatsTheFirst(1), "test_a_series_is_a_sequence_of_attempts", "takes a series"),
        (
            MixesUpRows(),
            "test_each_of_a_series_returns_its_value_and_when_it_began",
            "a value of its own",
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
        patience_seconds = 5.0 if runner.capabilities.pickles else 0.4

        def make_runner(self) -> TaskRunner:
            return runner

    return Kit()
