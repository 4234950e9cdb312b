"""What the sequential runner promises, beyond the contract of every runner."""

import asyncio
import contextvars
import threading
from queue import SimpleQueue

import pytest

from penstock.attempt import Attempt
from penstock.task_runners import Event, Outcome
from penstock_runners.inline import SequentialTaskRunner


def open_runner() -> tuple[SequentialTaskRunner, "SimpleQueue[Event]"]:
    runner, events = SequentialTaskRunner(), SimpleQueue[Event]()
    runner.open(events.put, {})
    return runner, events


def next_outcome(events: "SimpleQueue[Event]") -> Outcome:
    event = events.get_nowait()
    assert isinstance(event, Outcome)
    return event


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_an_attempt_runs_in_the_calling_thread_before_submit_returns() -> None:
    runner, events = open_runner()
    runner.submit([Attempt(1, threading.current_thread), Attempt(2, thread_name, is_async=True)])
    assert next_outcome(events).value is threading.current_thread()
    assert next_outcome(events).value == threading.current_thread().name


def test_an_async_attempt_runs_where_the_caller_runs_a_loop_already() -> None:
    state = contextvars.ContextVar("state", default="unset")

    async def set_state() -> str:
        state.set("set")
        return threading.current_thread().name

    async def submit() -> None:
        runner.submit([Attempt(7, set_state, context=context, is_async=True)])

    runner, events = open_runner()
    context = contextvars.copy_context()
    asyncio.run(submit())
    assert next_outcome(events).value == "penstock-inline-7"
    assert context.run(state.get) == "set"
    assert state.get() == "unset"


def test_user_code_that_submits_gets_its_outcome_before_its_own() -> None:
    runner, events = open_runner()
    inner = Attempt(2, len, ("abc",))
    runner.submit([Attempt(1, lambda: runner.submit([inner])), Attempt(3, len, ("",))])
    assert [next_outcome(events).attempt_id for _ in range(3)] == [2, 1, 3]


def test_the_rest_of_a_batch_can_be_cancelled_by_its_first() -> None:
    runner, events = open_runner()
    runner.submit([Attempt(1, lambda: runner.cancel([2])), Attempt(2, len, ("abc",))])
    dropped, first = next_outcome(events), next_outcome(events)
    assert (dropped.attempt_id, dropped.kind, dropped.began) == (2, "stopped", False)
    assert (first.attempt_id, first.kind) == (1, "returned")
    assert events.empty()


def test_it_takes_no_argument_and_must_be_open() -> None:
    with pytest.raises(ValueError, match="takes no argument"):
        SequentialTaskRunner.from_spec("4")
    with pytest.raises(RuntimeError, match="not open"):
        SequentialTaskRunner().submit([Attempt(1, len, ("abc",))])
