"""A stand-in for the engine: opens one runner, feeds it, and books every event it reports."""

from __future__ import annotations

import itertools
import marshal
import os
import pathlib
import pickle
import threading
import time
import traceback
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from penstock.task_runners import (
    Attempt,
    Broken,
    Capabilities,
    Environment,
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
from penstock.testing.subjects import Gate, pass_gate
from penstock.worker.here import Own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["RunnerHarness", "environment", "error_text", "live_children", "new_threads"]

_MESSAGE = 8
"""Where the message stands in a record of `Output`."""


class RunnerHarness:
    """One open runner, and a book of what was submitted and what was reported.

    Args:
        runner: as a user configures it; what is opened is its `for_run()`.
        directory: for gates and other files; workers must see it too.
        patience_seconds: how long to wait for anything before the runner is at fault.
    """

    def __init__(
        self, runner: TaskRunner, directory: pathlib.Path, patience_seconds: float
    ) -> None:
        self.runner: TaskRunner = runner.for_run()
        self.patience_seconds = patience_seconds
        self.directory = directory
        self.outcomes: dict[int, Outcome] = {}
        self.order: list[int] = []
        """The ids of the attempts, in the order in which they ended."""
        self.starts: dict[int, Started] = {}
        self.outputs: dict[int, list[tuple[Any, ...]]] = {}
        """By attempt: the log records that were reported of it, in order."""
        self.faults: list[str] = []
        """What broke the contract, whatever the test was looking at."""
        self._submitted: set[int] = set()
        self._ids = itertools.count(1)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._gates: list[Gate] = []
        self._is_closed = False

    def open(self) -> None:
        """Open the runner."""
        self.runner.open(self._events.put, {"flow_name": "conformance"})
        self.capabilities: Capabilities = self.runner.capabilities
        self._is_closed = False

    def close(self, grace_seconds: float = 0.0) -> None:
        """Open all gates, close the runner, and check the books."""
        for gate in self._gates:
            gate.open()
        if not self._is_closed:
            self.runner.close(grace_seconds)
            self._is_closed = True
        self.read_events()
        missing = sorted(self._submitted - self.outcomes.keys())
        if missing:
            self.faults.append(f"no outcome, even after close(), for attempts {missing[:20]}")
        assert not self.faults, "exactly one outcome for each attempt: " + "; ".join(self.faults)

    def gate(self) -> Gate:
        """Return a new gate, shut; the harness opens it at the end if the test does not."""
        path = self.directory / f"gate-{len(self._gates)}"
        gate = Gate(str(path), self.patience_seconds)
        self._gates.append(gate)
        return gate

    # --- attempts -----------------------------------------------------------------------

    def attempt(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Attempt:
        """Return a new attempt; `options` are further fields of `Attempt`."""
        return Attempt(next(self._ids), fn, args, **options)

    def submit(self, *attempts: Attempt) -> None:
        """Hand over all of these, whatever the credit."""
        self._submitted.update(attempt.id for attempt in attempts)
        self.runner.submit(attempts)

    def series(self, fn: Callable[..., Any], calls: Sequence[Any], **options: Any) -> Series:
        """Return a new series, not submitted.

        Args:
            fn: the function.
            calls: positional arguments of each.
            options: further fields of `Attempt`, which all of them have in common.
        """
        options.setdefault("environment", environment())
        first_id, *_ = [next(self._ids) for _ in calls]
        template = Attempt(0, fn, **options)
        return Series(first_id, template, [(tuple(args), {}) for args in calls], (1, "item", 0), 0)

    def submit_series(self, series: Series) -> list[Attempt]:
        """Hand over a series, whatever the credit, and return its attempts."""
        attempts = list(series)
        self._submitted.update(attempt.id for attempt in attempts)
        self.runner.submit(series)
        return attempts

    def run(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        """Submit one attempt and wait for its outcome."""
        attempt = self.attempt(fn, *args, **options)
        self.submit(attempt)
        return self.outcome(attempt)

    def run_all(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        """Submit as many attempts as the runner wants at a time, and wait for all."""
        waiting = list(attempts)
        deadline = time.monotonic() + self.patience_seconds
        while waiting:
            wanted = self.runner.credit()
            assert wanted >= 0, f"credit() is a number of attempts, not {wanted}"
            if wanted:
                self.submit(*waiting[:wanted])
                del waiting[:wanted]
                deadline = time.monotonic() + self.patience_seconds
            else:
                self._read_event(0.05)
            assert time.monotonic() < deadline, (
                f"credit(): the runner wants none of the {len(waiting)} attempts left, "
                f"with {len(self.open_ids())} of them open"
            )
        return [self.outcome(attempt) for attempt in attempts]

    def hold(self, number: int, gate: Gate, **options: Any) -> list[Attempt]:
        """Occupy that many slots with attempts that have begun and wait at the gate."""
        begun = [self.gate() for _ in range(number)]
        attempts = [self.attempt(pass_gate, begin, gate, **options) for begin in begun]
        self.submit(*attempts)
        for count, begin in enumerate(begun):
            begin.wait(f"{number} attempts run at once in {number} slots; {count} do")
        return attempts

    def open_ids(self) -> set[int]:
        """The ids of the attempts without an outcome so far."""
        return self._submitted - self.outcomes.keys()

    # --- events -------------------------------------------------------------------------

    def outcome(self, attempt: Attempt) -> Outcome:
        """Wait for the outcome of an attempt."""
        deadline = time.monotonic() + self.patience_seconds
        while attempt.id not in self.outcomes:
            assert time.monotonic() < deadline, (
                f"exactly one outcome for each attempt: none for "
                f"{getattr(attempt.fn, '__name__', attempt.fn)}{attempt.args} "
                f"within {self.patience_seconds} s"
            )
            self._read_event(0.05)
        return self.outcomes[attempt.id]

    def value(self, outcome: Outcome) -> Any:
        """Return the value of an attempt that must have returned."""
        assert outcome.kind == "returned", f"expected a value, not {describe(outcome)}"
        if isinstance(outcome.value, Packed):
            return pickle.loads(outcome.value.data, buffers=outcome.value.buffers)
        return outcome.value

    def texts(self, attempt: Attempt) -> list[str]:
        """Return the messages of the log records that were reported of an attempt."""
        return [record[_MESSAGE] for record in self.outputs.get(attempt.id, ())]

    def read_events(self) -> None:
        """Book what has been reported so far."""
        while self._read_event(None):
            continue

    def _read_event(self, timeout: float | None) -> bool:
        try:
            event = self._events.get(block=timeout is not None, timeout=timeout)
        except Empty:
            return False
        if isinstance(event, Started):
            if event.attempt_id in self.outcomes:
                self.faults.append(f"attempt {event.attempt_id} started after its outcome")
            self.starts[event.attempt_id] = event
        elif isinstance(event, Output):
            if event.attempt_id in self.outcomes:
                self.faults.append(f"attempt {event.attempt_id} has logged after its outcome")
            self.outputs.setdefault(event.attempt_id, []).extend(event.records)
        elif isinstance(event, Outcome):
            self._book(event)
        elif isinstance(event, Returned):
            if not self.capabilities.takes_series:
                self.faults.append("`Returned` is for runners that take series")
            for outcome in outcomes_in(event):
                self._book(outcome)
        elif isinstance(event, Broken):
            self.faults.append(f"the runner is broken: {event.error!r}")
        return True

    def _book(self, outcome: Outcome) -> None:
        attempt_id = outcome.attempt_id
        if attempt_id not in self._submitted:
            self.faults.append(f"an outcome for {attempt_id}, never submitted")
        if attempt_id in self.outcomes:
            first = self.outcomes[attempt_id].kind
            self.faults.append(f"attempt {attempt_id} ended twice: {first}, then {outcome.kind}")
            return
        if outcome.began_at is not None:
            began = Started(attempt_id, outcome.worker, outcome.began_at)
            self.starts.setdefault(attempt_id, began)
        self.outcomes[attempt_id] = outcome
        self.order.append(attempt_id)


def outcomes_in(event: Returned) -> list[Outcome]:
    """Return the outcomes that an event stands for."""
    first_id, values, began_at, seconds, worker = event
    return [
        Outcome(
            first_id + place,
            "returned",
            value,
            duration_seconds=took,
            worker=worker,
            began_at=began,
        )
        for place, (value, began, took) in enumerate(zip(values, began_at, seconds, strict=True))
    ]


def environment(number: int = 0, **shared: Any) -> Environment:
    """Return what an attempt says of its run: as little as the engine ever does."""
    own = Own(number, f"attempt {number}", 1, number)
    return Environment(marshal.dumps({"levels": {}, **shared}), tuple(own))


def describe(outcome: Outcome) -> str:
    """Return an outcome with its traceback, for a message."""
    return f"{outcome.kind} ({outcome.reason or error_text(outcome) or outcome.value!r})"


def error_text(outcome: Outcome) -> str:
    """Return the traceback of an attempt that raised, wherever it did."""
    if isinstance(outcome.error, RemoteError):
        return outcome.error.traceback_text
    if outcome.error is None:
        return ""
    return "".join(traceback.format_exception(outcome.error))


def new_threads(before: Iterable[threading.Thread], patience_seconds: float) -> list[str]:
    """Return the names of threads that were not there before and do not end by themselves."""
    known = set(before)
    deadline = time.monotonic() + patience_seconds
    while True:
        names = [thread.name for thread in threading.enumerate() if thread not in known]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.005)


def live_children() -> dict[int, str]:
    """Return this process's children and their command lines, where /proc tells.

    The resource trackers of multiprocessing and loky belong to the process, not to a runner.
    """
    children: dict[int, str] = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # The name, in brackets, may contain anything; state and parent follow it.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile, or is none of our business
        if int(parent) == os.getpid() and state != "Z" and "resource_tracker" not in command:
            children[int(entry.name)] = command
    return children
