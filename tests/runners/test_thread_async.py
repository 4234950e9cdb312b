"""What the thread runner promises for async attempts."""

import asyncio
import pathlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from penstock.attempt import Attempt
from penstock.testing.harness import RunnerHarness, new_threads
from penstock.testing.subjects import Gate, pass_gate, wait_async
from penstock_runners import thread_loop
from penstock_runners.thread import ThreadPoolTaskRunner

PATIENCE = 20.0
Opener = Callable[..., RunnerHarness]


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> Iterator[Opener]:
    harnesses: list[RunnerHarness] = []

    def open_runner(max_async: int = 1000) -> RunnerHarness:
        harness = RunnerHarness(ThreadPoolTaskRunner(2, max_async), tmp_path, PATIENCE)
        harness.open()
        harnesses.append(harness)
        return harness

    threads = set(threading.enumerate())
    yield open_runner
    for harness in harnesses:
        harness.close(1.0)
    assert new_threads(threads, 5) == []


def submit_waiting(
    harness: RunnerHarness, number: int, gate: Gate
) -> tuple[list[Attempt], list[Gate]]:
    begun = [harness.gate() for _ in range(number)]
    attempts = [harness.attempt(wait_async, begin, gate, is_async=True) for begin in begun]
    harness.submit(*attempts)
    return attempts, begun


def test_all_async_attempts_share_one_loop_on_one_thread(opened: Opener) -> None:
    async def where() -> tuple[int, str]:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop()), threading.current_thread().name

    harness = opened()
    attempts = [harness.attempt(where, is_async=True) for _ in range(50)]
    found = {harness.value(outcome) for outcome in harness.run_all(attempts)}
    assert len(found) == 1
    assert found.pop()[1] == "penstock-event-loop"
    assert not any(t.name.startswith("penstock-worker") for t in threading.enumerate())


def test_sync_and_async_attempts_may_come_together(opened: Opener) -> None:
    async def double(number: int) -> int:
        return 2 * number

    harness = opened()
    attempts = [
        harness.attempt(double if number % 2 else abs, number, is_async=bool(number % 2))
        for number in range(100)
    ]
    harness.submit(*attempts)
    values = [harness.value(harness.outcome(attempt)) for attempt in attempts]
    assert values == [2 * number if number % 2 else number for number in range(100)]


def test_so_many_async_attempts_run_at_once_and_no_more(opened: Opener) -> None:
    at_once, most = [0], [0]

    async def count() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        await asyncio.sleep(0.001)
        at_once[0] -= 1

    harness = opened(3)
    harness.run_all([harness.attempt(count, is_async=True) for _ in range(60)])
    assert most == [3]


def test_a_higher_priority_gets_a_place_on_the_loop_first(opened: Opener) -> None:
    async def nothing() -> None:
        return

    harness = opened(1)
    gate = harness.gate()
    (held,), (begun,) = submit_waiting(harness, 1, gate)
    begun.wait("the loop is full")
    attempts = [harness.attempt(nothing, is_async=True, priority=p) for p in (0, 2, 1, 2)]
    harness.submit(*attempts)
    gate.open()
    for attempt in attempts:
        harness.outcome(attempt)
    assert harness.order == [held.id, *(attempts[index].id for index in (1, 3, 2, 0))]


def test_an_async_attempt_that_waits_for_others_lends_its_place(opened: Opener) -> None:
    harness = opened(1)
    gates = [harness.gate() for _ in range(5)]
    chain: list[Attempt] = []
    for gate in gates:
        (attempt,), (begun,) = submit_waiting(harness, 1, gate)
        begun.wait("there is a place for one more")
        harness.runner.blocked(attempt.id, True)
        chain.append(attempt)
    for attempt, gate in reversed(list(zip(chain, gates, strict=True))):
        harness.runner.blocked(attempt.id, False)
        gate.open()
        assert harness.value(harness.outcome(attempt)) == "passed"


def test_async_attempts_count_against_the_credit_only_while_they_wait(opened: Opener) -> None:
    harness = opened(2)
    gate = harness.gate()
    _, begun = submit_waiting(harness, 2, gate)
    for begin in begun:
        begin.wait("the loop is full")
    assert harness.runner.credit() == 4
    submit_waiting(harness, 3, gate)
    assert harness.runner.credit() == 1


def test_a_running_coroutine_is_really_stopped(opened: Opener) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def wait_for_ever() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    harness = opened()
    attempt = harness.attempt(wait_for_ever, is_async=True)
    harness.submit(attempt)
    assert begun.wait(PATIENCE)
    harness.runner.cancel([attempt.id], hard=True)
    outcome = harness.outcome(attempt)
    assert (outcome.kind, outcome.began) == ("stopped", True)
    assert cleaned.is_set(), "stopped is reported when the coroutine has ended"


def test_a_coroutine_cancelled_before_its_first_step_never_began(opened: Opener) -> None:
    harness = opened()
    gate = harness.gate()
    _, (begun,) = submit_waiting(harness, 1, gate)
    begun.wait("the loop runs")
    assert isinstance(harness.runner, ThreadPoolTaskRunner)
    assert harness.runner._live is not None
    assert harness.runner._live.loop is not None
    loop = harness.runner._live.loop._loop
    create_task = loop.create_task
    ran = threading.Event()

    async def run() -> None:
        ran.set()

    victim = harness.attempt(run, is_async=True)

    def cancel_first(coroutine: Coroutine[Any, Any, None], **options: Any) -> asyncio.Task[None]:
        harness.runner.cancel([victim.id], hard=True)
        return create_task(coroutine, **options)

    loop.create_task = cancel_first  # type: ignore[method-assign,assignment]  # a moment too short to hit
    harness.submit(victim)
    outcome = harness.outcome(victim)
    assert (outcome.kind, outcome.began) == ("stopped", False)
    assert not ran.is_set()


def test_a_coroutine_that_swallows_the_cancel_is_abandoned_and_its_place_given_away(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_loop, "SECONDS_TO_STOP", 0.05)
    harness = opened(1)
    begun, end, ended = threading.Event(), harness.gate(), threading.Event()

    async def go_on() -> None:
        begun.set()
        while not end.is_open():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        ended.set()

    attempt = harness.attempt(go_on, is_async=True)
    harness.submit(attempt)
    assert begun.wait(PATIENCE)
    harness.runner.cancel([attempt.id], hard=True)
    outcome = harness.outcome(attempt)
    assert outcome.kind == "abandoned"
    assert "goes on all the same" in outcome.reason
    begun.clear()
    end.open()
    assert ended.wait(PATIENCE)
    assert harness.run(go_on, is_async=True).kind == "returned"


def test_what_a_coroutine_returns_after_a_cancel_is_its_true_end(opened: Opener) -> None:
    begun = threading.Event()

    async def finish_up() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    harness = opened()
    attempt = harness.attempt(finish_up, is_async=True)
    harness.submit(attempt)
    assert begun.wait(PATIENCE)
    harness.runner.cancel([attempt.id], hard=True)
    assert harness.value(harness.outcome(attempt)) == "saved"


def test_a_cancelled_error_of_the_user_is_data(opened: Opener) -> None:
    async def cancel_myself() -> None:
        raise asyncio.CancelledError("mine")

    outcome = opened().run(cancel_myself, is_async=True)
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, asyncio.CancelledError)


def test_a_task_left_behind_that_exits_does_not_take_the_loop_down(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave_one_behind() -> None:
        async def exit_later() -> None:
            raise SystemExit(3)

        kept.append(asyncio.get_running_loop().create_task(exit_later()))

    async def nothing() -> int:
        await asyncio.sleep(0.01)
        return 1

    kept: list[asyncio.Task[None]] = []
    harness = opened()
    harness.value(harness.run(leave_one_behind, is_async=True))
    assert harness.value(harness.run(nothing, is_async=True)) == 1
    assert "came out of the event loop" in caplog.text
    assert isinstance(kept[0].exception(), SystemExit)


def test_close_ends_what_coroutines_left_behind(opened: Opener) -> None:
    cancelled, generator_closed = threading.Event(), threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            generator_closed.set()

    async def leave_things_behind() -> None:
        async def wait_for_ever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        kept.append(asyncio.get_running_loop().create_task(wait_for_ever()))
        iterator = numbers()
        kept.append(iterator)
        await anext(iterator)
        await asyncio.to_thread(len, "abc")

    kept: list[Any] = []
    harness = opened()
    harness.value(harness.run(leave_things_behind, is_async=True))
    harness.runner.close(1.0)
    assert cancelled.is_set()
    assert generator_closed.is_set()
    # The fixture checks that the threads of to_thread() are gone, too.


def test_close_stops_running_coroutines_after_the_grace(opened: Opener) -> None:
    harness = opened()
    attempts, begun = submit_waiting(harness, 3, harness.gate())
    for begin in begun:
        begin.wait("the coroutines run")
    harness.runner.close(0.01)
    assert [harness.outcome(attempt).kind for attempt in attempts] == ["stopped"] * 3


def test_close_lets_coroutines_end_in_the_grace(opened: Opener) -> None:
    harness = opened()
    gate = harness.gate()
    attempts, begun = submit_waiting(harness, 3, gate)
    for begin in begun:
        begin.wait("the coroutines run")
    opener = threading.Timer(0.05, gate.open)
    opener.start()
    harness.runner.close(PATIENCE)
    opener.join()
    assert [harness.outcome(attempt).kind for attempt in attempts] == ["returned"] * 3


def test_close_does_not_wait_for_a_coroutine_that_blocks_the_loop(opened: Opener) -> None:
    harness = opened()
    begun, gate = harness.gate(), harness.gate()

    async def block() -> None:
        pass_gate(begun, gate)

    attempt = harness.attempt(block, is_async=True)
    harness.submit(attempt)
    begun.wait("the loop is blocked")
    began = time.monotonic()
    harness.runner.close(0.01)
    assert time.monotonic() - began < 5
    assert harness.outcome(attempt).kind == "abandoned"
    # It polls, so GivenUp reaches it, and the fixture sees its thread end.
