"""What the thread runner promises for sync attempts, beyond the contract of every runner."""

import logging
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from penstock.attempt import Attempt
from penstock.testing.harness import RunnerHarness
from penstock_runners import thread_workers
from penstock_runners.thread import ThreadPoolTaskRunner
from penstock_runners.thread_workers import Pace

PATIENCE = 20.0
Opener = Callable[..., RunnerHarness]


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Iterator[Opener]:
    harnesses: list[RunnerHarness] = []

    def open_runner(max_workers: int | None = None, max_async: int = 1000) -> RunnerHarness:
        harness = RunnerHarness(ThreadPoolTaskRunner(max_workers, max_async), tmp_path, PATIENCE)
        harness.open()
        harnesses.append(harness)
        return harness

    yield open_runner
    for harness in harnesses:
        harness.close(1.0)
    wait_until(lambda: workers() == [], "no thread is left, not even of what was abandoned")


def runner_of(harness: RunnerHarness) -> ThreadPoolTaskRunner:
    assert isinstance(harness.runner, ThreadPoolTaskRunner)
    return harness.runner


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("penstock-worker")]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)


def test_a_runner_that_is_not_open_refuses_attempts() -> None:
    runner = ThreadPoolTaskRunner()
    with pytest.raises(RuntimeError, match=r"call open\(\)"):
        runner.submit([Attempt(1, len, ("abc",))])
    runner.cancel([1], hard=True)
    runner.blocked(1, True)
    assert runner.credit() == 0


def test_an_open_runner_cannot_be_opened_again(opened: Opener) -> None:
    with pytest.raises(RuntimeError, match="open already"):
        opened(1).open()


# --- its threads -------------------------------------------------------------------------


def test_threads_are_started_when_there_is_work_for_them_and_used_again(opened: Opener) -> None:
    harness = opened(3)
    assert workers() == []
    names: set[str] = set()
    for number in range(20):
        names.add(harness.run(len, "abc", name=str(number)).worker)
        wait_until(lambda: runner_idle(harness) == 1, "the only worker is idle again")
    assert names == {"penstock-worker-0"}
    gate = harness.gate()
    held = harness.hold(3, gate)
    assert sorted(workers()) == ["penstock-worker-0", "penstock-worker-1", "penstock-worker-2"]
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("penstock"))
    gate.open()
    assert {harness.outcome(attempt).worker for attempt in held} == set(workers())


def runner_idle(harness: RunnerHarness) -> int:
    live = runner_of(harness)._live
    assert live is not None
    return live.workers._idle


def test_one_slot_takes_priorities_first_and_equal_ones_in_order(opened: Opener) -> None:
    harness = opened(1)
    gate = harness.gate()
    held = harness.hold(1, gate)
    attempts = [
        harness.attempt(len, "", priority=priority) for priority in (0, 5, -1, 0, 5, 7, -1, 0)
    ]
    harness.submit(*attempts[:3])
    harness.submit(*attempts[3:])
    dropped = attempts.pop(3)
    harness.runner.cancel([dropped.id])
    gate.open()
    for attempt in [*held, dropped, *attempts]:
        harness.outcome(attempt)
    expected = sorted(attempts, key=lambda attempt: (-attempt.priority, attempt.id))
    assert harness.order == [dropped.id, held[0].id, *(attempt.id for attempt in expected)]


def test_credit_is_2_a_slot_less_what_is_open_until_something_is_known(opened: Opener) -> None:
    harness = opened(2)
    assert harness.runner.credit() == 4
    gate = harness.gate()
    harness.hold(2, gate)
    harness.submit(harness.attempt(len, ""))
    assert harness.runner.credit() == 1


def test_credit_grows_to_64_a_slot_when_attempts_are_short() -> None:
    pace = Pace()
    for _ in range(200):
        pace.note(2e-6)
    assert pace.attempts_per_slot(2) == 64


def test_credit_stays_at_2_a_slot_when_attempts_are_long() -> None:
    pace = Pace()
    for _ in range(200):
        pace.note(0.05)
    assert pace.attempts_per_slot(2) == 2


def test_nesting_five_deep_on_one_slot_finishes(opened: Opener) -> None:
    harness = opened(1)
    runner = harness.runner
    ended = [threading.Event() for _ in range(6)]
    ids = [0] * 6

    def level(depth: int) -> int:
        below = 0
        if depth < 5:
            child = harness.attempt(level, depth + 1)
            ids[depth + 1] = child.id
            harness.submit(child)
            runner.blocked(ids[depth], True)
            assert ended[depth + 1].wait(PATIENCE)
            runner.blocked(ids[depth], False)
            below = 1
        ended[depth].set()
        return below

    root = harness.attempt(level, 0)
    ids[0] = root.id
    harness.submit(root)
    assert harness.value(harness.outcome(root)) == 1
    for _ in range(5):
        harness.run(len, "")
    wait_until(lambda: len(workers()) == 1, "the lent slots are taken back")


def test_a_slot_lent_and_taken_back_leaves_one_attempt_at_a_time(opened: Opener) -> None:
    harness = opened(1)
    first_gate, second_gate = harness.gate(), harness.gate()
    (first,) = harness.hold(1, first_gate)
    harness.runner.blocked(first.id, True)
    (second,) = harness.hold(1, second_gate)
    harness.runner.blocked(first.id, False)
    first_gate.open()
    second_gate.open()
    at_once, most = [0], [0]

    def count() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.001)
        at_once[0] -= 1

    harness.outcome(first)
    harness.outcome(second)
    for outcome in harness.run_all([harness.attempt(count) for _ in range(30)]):
        harness.value(outcome)
    assert most == [1]


def test_an_attempt_that_ends_while_it_waits_gives_the_lent_slot_back(opened: Opener) -> None:
    harness = opened(1)
    gate = harness.gate()
    (held,) = harness.hold(1, gate)
    harness.runner.blocked(held.id, True)
    harness.value(harness.run(len, ""))
    gate.open()
    harness.outcome(held)
    wait_until(lambda: len(workers()) == 1, "the thread that was added retires")
    harness.runner.blocked(held.id, True)  # too late: it has ended
    gate = harness.gate()
    harness.hold(1, gate)
    harness.submit(harness.attempt(len, ""))
    assert len(workers()) == 1


def test_a_thread_that_cannot_be_started_is_told_once_none_is_left(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = opened(2)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(thread_workers.Worker, "start", refuse)
        with pytest.raises(RuntimeError, match="no worker thread could be started"):
            harness.runner.submit([Attempt(-1, ran.set)])
    assert "could not be started" in caplog.text
    harness.value(harness.run(len, ""))
    assert not ran.is_set(), "the caller was told that this one will not run"
    with monkeypatch.context() as patch:
        patch.setattr(thread_workers.Worker, "start", refuse)
        attempts = [harness.attempt(len, "") for _ in range(5)]
        for outcome in harness.run_all(attempts):
            assert harness.value(outcome) == 0


def test_a_forked_child_may_make_a_runner_of_its_own(opened: Opener) -> None:
    opened(2).run(len, "")
    script = (
        "import os, sys, queue\n"
        "from penstock.attempt import Attempt\n"
        "from penstock_runners.thread import ThreadPoolTaskRunner as Runner\n"
        "def run(runner):\n"
        "    events = queue.SimpleQueue()\n"
        "    runner.open(events.put, {})\n"
        "    runner.submit([Attempt(1, len, ('abc',))])\n"
        "    return events.get(timeout=20).value\n"
        "first = Runner(1)\n"
        "assert run(first) == 3\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    first.close()\n"
        "    os._exit(0 if run(Runner(1)) == 3 else 1)\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    assert run_script(script).returncode == 0


def test_the_interpreter_does_not_wait_for_running_attempts_at_its_exit() -> None:
    script = (
        "import time, threading\n"
        "from penstock.attempt import Attempt\n"
        "from penstock_runners.thread import ThreadPoolTaskRunner\n"
        "runner, begun = ThreadPoolTaskRunner(1), threading.Event()\n"
        "runner.open(lambda event: None, {})\n"
        "runner.submit([Attempt(1, lambda: (begun.set(), time.sleep(60)))])\n"
        "assert begun.wait(20)\n"
    )
    began = time.monotonic()
    ended = run_script(script)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - began < PATIENCE


def run_script(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


# --- stopping what runs ------------------------------------------------------------------


def begin_waiting(harness: RunnerHarness, number: int = 1) -> tuple[list[Attempt], threading.Event]:
    """Attempts in one blocking call each, where no exception reaches them."""
    end, begun = threading.Event(), [threading.Event() for _ in range(number)]

    def wait_in_one_call(mine: threading.Event) -> str:
        mine.set()
        end.wait(PATIENCE)
        return "a late end"

    attempts = [harness.attempt(wait_in_one_call, mine) for mine in begun]
    harness.submit(*attempts)
    for mine in begun:
        assert mine.wait(PATIENCE)
    return attempts, end


def test_a_blocking_call_is_abandoned_at_once_and_its_slot_given_to_a_new_thread(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    harness = opened(1)
    runner = runner_of(harness)
    (first,), first_end = begin_waiting(harness)
    harness.runner.cancel([first.id], hard=True)
    outcome = harness.outcome(first)
    assert outcome.kind == "abandoned"
    assert "may still be in a blocking call" in outcome.reason
    assert "a process runner really stops it" in outcome.reason
    assert outcome.worker == "penstock-worker-0"
    assert runner.abandoned_threads == 1
    assert harness.run(len, "").worker == "penstock-worker-1"
    (second,), second_end = begin_waiting(harness)
    harness.runner.cancel([second.id], hard=True)
    assert runner.abandoned_threads == 2
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.name for r in warnings] == ["penstock.task_runners.thread"]
    assert "penstock-worker-0" in warnings[0].getMessage()
    first_end.set()
    second_end.set()
    wait_until(lambda: runner.abandoned_threads == 0, "an abandoned thread that ends is forgotten")
    harness.read_events()  # a late end would be a second outcome, which the harness minds


def test_python_code_is_interrupted_even_if_it_catches_exceptions(opened: Opener) -> None:
    harness = opened(1)
    begun, cleaned = threading.Event(), threading.Event()

    def loop_for_ever() -> None:
        begun.set()
        try:
            while True:
                try:
                    sum(range(100))
                except Exception:
                    continue
        finally:
            cleaned.set()

    attempt = harness.attempt(loop_for_ever)
    harness.submit(attempt)
    assert begun.wait(PATIENCE)
    harness.runner.cancel([attempt.id], hard=True)
    assert cleaned.wait(PATIENCE), "the exception reached the loop"
    assert harness.outcome(attempt).kind == "abandoned"
    wait_until(lambda: runner_of(harness).abandoned_threads == 0, "its thread ended")


def test_an_attempt_that_stops_itself_is_abandoned_and_not_interrupted(opened: Opener) -> None:
    # It does so when it waits for others and drives the engine meanwhile: that must not break.
    harness = opened(1)
    went_on = threading.Event()
    ids: list[int] = []

    def stop_myself() -> None:
        harness.runner.cancel(ids, hard=True)
        for _ in range(1000):
            sum(range(10))
        went_on.set()

    attempt = harness.attempt(stop_myself)
    ids.append(attempt.id)
    harness.submit(attempt)
    assert harness.outcome(attempt).kind == "abandoned"
    assert went_on.wait(PATIENCE)
    assert harness.value(harness.run(len, "")) == 0
    wait_until(lambda: runner_of(harness).abandoned_threads == 0, "its thread ended")


def test_above_the_limit_an_abandoned_thread_is_not_replaced_until_one_ends(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_workers, "MAX_ABANDONED", 1)
    harness = opened(2)
    attempts, end = begin_waiting(harness, 2)
    harness.runner.cancel([attempts[0].id], hard=True)
    assert "its slot stays empty" not in harness.outcome(attempts[0]).reason
    assert harness.runner.slots() == 2
    harness.runner.cancel([attempts[1].id], hard=True)
    assert "its slot stays empty, since 2 abandoned" in harness.outcome(attempts[1]).reason
    assert harness.runner.slots() == 1
    last, last_end = begin_waiting(harness)
    harness.runner.cancel([last[0].id], hard=True)
    assert harness.runner.slots() == 0
    queued = harness.attempt(len, "")
    harness.submit(queued)
    assert harness.runner.credit() > 0, "what comes meanwhile runs when a slot is back"
    end.set()
    assert harness.value(harness.outcome(queued)) == 0
    wait_until(lambda: harness.runner.slots() == 2, "the slots are back")
    last_end.set()


def test_a_storm_of_cancels_hits_only_what_it_was_meant_for(opened: Opener) -> None:
    harness = opened(4)
    innocent: list[Attempt] = []
    for number in range(400):
        guilty = harness.attempt(sum, range(number * 10))
        innocent.append(harness.attempt(sum, range(number)))
        harness.submit(guilty, innocent[-1])
        harness.runner.cancel([guilty.id], hard=True)
    for number, attempt in enumerate(innocent):
        assert harness.value(harness.outcome(attempt)) == sum(range(number))


def test_close_ends_python_code_that_runs_and_keeps_to_its_grace(opened: Opener) -> None:
    harness = opened(2)
    (waiting,), end = begin_waiting(harness)
    gate = harness.gate()
    (polling,) = harness.hold(1, gate)
    began = time.monotonic()
    harness.runner.close(0.05)
    assert time.monotonic() - began < 5
    assert harness.outcome(polling).kind == "abandoned"
    assert harness.outcome(waiting).kind == "abandoned"
    wait_until(lambda: workers() == ["penstock-worker-0 (abandoned)"], "only the deaf one is left")
    assert runner_of(harness).abandoned_threads == 1
    end.set()
    wait_until(lambda: runner_of(harness).abandoned_threads == 0, "its thread ended")
