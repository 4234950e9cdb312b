"""The runner and the clock for tests do what they are told, and nothing else."""

import os
import queue
import subprocess
import sys
from queue import SimpleQueue

import pytest

from penstock.attempt import Attempt, Outcome
from penstock.task_runners import Capabilities, Event, Returned, Started
from penstock.testing import ManualClock, ManualTaskRunner


@pytest.fixture
def events() -> "SimpleQueue[Event]":
    return SimpleQueue()


@pytest.fixture
def runner(events: "SimpleQueue[Event]") -> ManualTaskRunner:
    runner = ManualTaskRunner(slots=3, credit=10)
    runner.for_run().open(events.put, {})
    runner.submit([Attempt(number, len, ("abc",)) for number in (1, 2, 3)])
    return runner


def test_submitted_attempts_are_stored_and_nothing_happens(
    runner: ManualTaskRunner, events: "SimpleQueue[Event]"
) -> None:
    assert [attempt.id for attempt in runner.submitted] == [1, 2, 3]
    assert runner.open_attempts == runner.submitted
    assert events.empty()
    assert (runner.slots(), runner.credit()) == (3, 7)


def test_each_end_is_reported_as_told(
    runner: ManualTaskRunner, events: "SimpleQueue[Event]"
) -> None:
    error = ValueError("no")
    runner.start(1, at=5.0)
    runner.finish(1, "value")
    runner.fail(2, error)
    runner.lose(3, "gone", began=None)
    runner.submit([Attempt(number, len, ("abc",)) for number in (4, 5, 6, 7)])
    runner.stop(4)
    runner.start(5)
    runner.stop(5, "asked to")
    runner.abandon(6)
    runner.run(7)
    reported = [events.get_nowait() for _ in range(events.qsize())]
    assert reported[0] == Started(1, "manual", 5.0)
    ends = [event for event in reported if isinstance(event, Outcome)]
    assert [(end.attempt_id, end.kind, end.began) for end in ends] == [
        (1, "returned", True),
        (2, "raised", True),
        (3, "lost", None),
        (4, "stopped", False),
        (5, "stopped", True),
        (6, "abandoned", True),
        (7, "returned", True),
    ]
    assert (ends[0].value, ends[1].error, ends[2].reason) == ("value", error, "gone")
    assert ends[6].value == 3
    assert runner.open_attempts == []


def test_a_row_of_attempts_returns_as_one_event(
    runner: ManualTaskRunner, events: "SimpleQueue[Event]"
) -> None:
    runner.finish_row(1, "ab", at=5.0)
    assert events.get_nowait() == Returned(1, ["a", "b"], [5.0, 5.0], [0.0, 0.0], "manual")
    with pytest.raises(LookupError, match=r"attempt 4 is not open; open are \[3\]"):
        runner.finish_row(3, "cd")
    assert events.empty()
    assert [attempt.id for attempt in runner.open_attempts] == [3]


def test_an_attempt_ends_once(runner: ManualTaskRunner) -> None:
    runner.finish(1)
    with pytest.raises(LookupError, match=r"attempt 1 is not open; open are \[2, 3\]"):
        runner.finish(1)
    with pytest.raises(LookupError, match="attempt 9 is not open"):
        runner.start(9)


def test_requests_are_kept_for_the_test_to_see(
    runner: ManualTaskRunner, events: "SimpleQueue[Event]"
) -> None:
    runner.cancel([1, 2])
    runner.cancel([3], hard=True)
    runner.blocked(1, True)
    assert runner.cancelled == [(1, False), (2, False), (3, True)]
    assert runner.blocked_calls == [(1, True)]
    assert events.empty()


def test_close_ends_what_is_open(runner: ManualTaskRunner, events: "SimpleQueue[Event]") -> None:
    runner.finish(1)
    runner.close()
    runner.close()
    ends = [events.get_nowait() for _ in range(events.qsize())]
    assert [end.kind for end in ends if isinstance(end, Outcome)] == [
        "returned",
        "stopped",
        "stopped",
    ]
    with pytest.raises(RuntimeError, match="not open"):
        runner.submit([Attempt(4, len)])


def test_capabilities_are_what_the_test_wants() -> None:
    assert ManualTaskRunner(capabilities=Capabilities(pickles=True)).capabilities.pickles
    assert not ManualTaskRunner().capabilities.pickles


def test_time_passes_only_when_told_or_waited_for() -> None:
    clock, events = ManualClock(start=100.0), SimpleQueue[str]()
    assert (clock.time(), clock.monotonic()) == (100.0, 0.0)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (102.5, 2.5)
    events.put("event")
    assert clock.get(events, timeout=10) == "event"
    assert clock.monotonic() == 2.5
    with pytest.raises(queue.Empty):
        clock.get(events, timeout=10)
    assert clock.monotonic() == 12.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_waiting_for_ever_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        ManualClock().get(SimpleQueue[str](), timeout=None)


def test_the_testing_package_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import penstock.testing"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
