"""Promises of the whole engine, with a task runner and a clock that are moved by hand."""

from __future__ import annotations

import collections
import datetime
import logging
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, allow_failure, as_completed, flow, pause_flow_run, task, wait
from penstock.engine.attempts import KILL_SECONDS
from penstock.engine.task_run import MOST_UNCHARGED
from penstock.exceptions import (
    CancelledRun,
    PauseTimeoutError,
    TaskRunTimeoutError,
    UpstreamTaskError,
    WorkerLost,
)
from penstock.pausing import resume_flow_run
from penstock.states import Cancelled, Completed, Failed, Paused, Scheduled, State
from penstock.task_runners import Attempt, Broken, Capabilities, Event, Outcome, SlotsChanged
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from penstock.engine.driver import Engine

Bench = EngineForTest
BOOM = ValueError("boom")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with engine_for_test() as bench:
        yield bench
    check_books(bench)


def check_books(bench: Bench) -> None:
    """Nothing is left of any run once everything is over."""
    engine = bench.engine
    assert engine.dispatcher.attempts == {}
    assert engine.loop.in_flight == 0
    assert bench.flow_run.active == set()
    limits = engine.dispatcher.admission.limits
    assert limits._holding == {}
    assert not limits.has_waiting()
    assert not any(
        line._given or line.waiting for line in engine.dispatcher.admission._lines.values()
    )
    for handle in engine.dispatcher.handles():
        assert not handle.ready
        assert not handle.resources.has_waiting()
        assert handle.resources._held == {}


@task
def work(*values: Any) -> Any:
    return values


def names(future: PenstockFuture[Any]) -> list[str]:
    """The history of a run; a star marks a failure that is provisional."""
    return [each.name + "*" * each.provisional for each in future.run.states]


def opened(bench: Bench) -> list[int]:
    return [attempt.id for attempt in bench.runner.open_attempts]


def finish(bench: Bench, attempt_id: int, value: Any = None) -> None:
    bench.runner.finish(attempt_id, value)
    bench.drain()


def fail(bench: Bench, attempt_id: int, error: BaseException = BOOM) -> None:
    bench.runner.fail(attempt_id, error)
    bench.drain()


def lose(bench: Bench, attempt_id: int, *, began: bool | None = True) -> None:
    bench.runner.lose(attempt_id, began=began)
    bench.drain()


def start(bench: Bench, attempt_id: int) -> None:
    bench.runner.start(attempt_id, bench.clock.monotonic())
    bench.drain()


# --- submitting -------------------------------------------------------------------------


def test_what_is_submitted_is_handed_to_the_runner_at_once(bench: Bench) -> None:
    work.submit(1, 2)
    (attempt,) = bench.runner.open_attempts
    assert (attempt.fn(*attempt.args), attempt.name) == ((1, 2), "work")


def test_a_run_is_running_when_its_attempt_has_started(bench: Bench) -> None:
    future = work.submit()
    assert future.state.is_pending()
    start(bench, 1)
    assert future.state.is_running()


def test_a_run_has_been_running_even_if_nobody_reported_the_start(bench: Bench) -> None:
    future = work.submit()
    finish(bench, 1, "value")
    assert names(future) == ["Pending", "Running", "Completed"]
    assert future.result() == "value"


def test_a_start_that_was_reported_late_is_dated_back(bench: Bench) -> None:
    future = work.submit()
    began = bench.clock.monotonic()
    bench.clock.advance(3)
    bench.runner.start(1, began)
    bench.drain()
    assert bench.clock.time() - future.state.at == 3


def test_a_start_that_was_never_reported_is_dated_by_the_duration(bench: Bench) -> None:
    future = work.submit()
    bench.clock.advance(10)
    bench.runner.report(Outcome(1, "returned", duration_seconds=4))
    bench.drain()
    _, running, completed = future.run.states
    assert completed.at - running.at == 4


def test_a_start_that_is_told_of_with_the_outcome_is_dated_as_told(bench: Bench) -> None:
    future = work.submit()
    began = bench.clock.monotonic()
    bench.clock.advance(10)
    bench.runner.report(Outcome(1, "returned", duration_seconds=4, began_at=began))
    bench.drain()
    assert names(future) == ["Pending", "Running", "Completed"]
    _, running, completed = future.run.states
    assert completed.at - running.at == 10


def test_a_start_that_is_told_of_with_an_outcome_too_late_changes_nothing(bench: Bench) -> None:
    future = work.submit()
    finish(bench, 1, "first")
    bench.runner.report(Outcome(1, "returned", "second", began_at=bench.clock.monotonic()))
    bench.drain()
    assert names(future) == ["Pending", "Running", "Completed"]
    assert future.result() == "first"


def test_waiting_for_a_result_acts_on_what_the_runner_reports(bench: Bench) -> None:
    future = work.submit()
    bench.runner.finish(1, 5)
    assert future.result() == 5


def test_a_result_that_does_not_come_in_time_is_a_timeout_and_the_run_goes_on(bench: Bench) -> None:
    future = work.submit()
    with pytest.raises(TimeoutError, match="it goes on"):
        future.result(timeout=5)
    finish(bench, 1, 5)
    assert future.result() == 5


def test_an_outcome_is_acted_on_once(bench: Bench) -> None:
    future = work.submit()
    finish(bench, 1, "first")
    bench.runner.report(Outcome(1, "returned", "second"))
    bench.drain()
    assert (future.result(), len(future.run.states)) == ("first", 3)


@pytest.mark.parametrize("stray", [Outcome(99, "returned"), Outcome(0, "lost")])
def test_an_outcome_of_nobodys_attempt_harms_nothing(bench: Bench, stray: Event) -> None:
    future = work.submit()
    bench.runner.report(stray)
    bench.drain()
    assert future.state.is_pending()


def test_a_run_is_counted_when_its_attempt_is_handed_out(bench: Bench) -> None:
    future = work.submit()
    assert future.run.run_count == 1


def test_an_attempt_that_never_began_does_not_count(bench: Bench) -> None:
    future = task(crash_retries=0)(lambda: None).submit()
    for attempt_id in range(1, 1 + MOST_UNCHARGED):
        lose(bench, attempt_id, began=False)
        assert (future.run.run_count, names(future)) == (1, ["Pending"]), "handed out again"
    lose(bench, 1 + MOST_UNCHARGED, began=False)
    assert (future.run.run_count, names(future)) == (0, ["Pending", "Crashed"])


def test_an_attempt_that_may_have_begun_starts_again_uncharged(bench: Bench) -> None:
    future = task(crash_retries=0)(lambda: None).submit()
    lose(bench, 1, began=None)
    finish(bench, 2, "there")
    assert future.result() == "there"
    assert names(future) == ["Pending", "Running", "Crashed*", "Retrying", "Completed"]


def test_first_to_end_is_first_to_come(bench: Bench) -> None:
    futures = [work.submit() for _ in range(3)]
    for attempt_id in (2, 3, 1):
        bench.runner.finish(attempt_id)
    assert [future.name for future in as_completed(futures)] == ["work-1", "work-2", "work-0"]


def test_wait_can_be_for_the_first(bench: Bench) -> None:
    futures = [work.submit() for _ in range(3)]
    bench.runner.finish(2)
    done, not_done = wait(futures, return_when="FIRST_COMPLETED")
    assert (done, len(not_done)) == ({futures[1]}, 2)


def test_a_done_callback_is_called_when_the_run_is_over(bench: Bench) -> None:
    future = work.submit()
    seen: list[Any] = []
    future.add_done_callback(lambda each: seen.append(each.state.is_completed()))
    finish(bench, 1)
    future.add_done_callback(lambda each: seen.append("at once"))
    assert seen == [True, "at once"]


def test_a_done_callback_may_submit(bench: Bench) -> None:
    future = work.submit()
    future.add_done_callback(lambda _: work.submit())
    finish(bench, 1)
    assert opened(bench) == [2]


# --- dependants -------------------------------------------------------------------------


def test_a_run_is_not_handed_out_before_its_inputs_are_over(bench: Bench) -> None:
    first = work.submit()
    second = work.submit([first])
    assert opened(bench) == [1]
    finish(bench, 1, "value")
    assert opened(bench) == [2]
    assert bench.runner.submitted[-1].args == (["value"],)
    finish(bench, 2)
    assert second.state.is_completed()


def test_a_run_waits_for_all_of_its_inputs(bench: Bench) -> None:
    a, b = work.submit(), work.submit()
    work.submit(a, [b, a], wait_for=[b])
    finish(bench, 2)
    assert opened(bench) == [1]
    finish(bench, 1)
    assert opened(bench) == [3]


def test_an_input_that_is_over_already_is_not_waited_for(bench: Bench) -> None:
    first = work.submit()
    finish(bench, 1, 5)
    work.submit(first)
    assert bench.runner.submitted[-1].args == (5,)


def test_d5_a_run_whose_input_failed_ends_without_an_attempt(bench: Bench) -> None:
    first = work.submit()
    second = task(retries=3)(lambda x: x).submit(first)
    fail(bench, 1)
    assert names(second) == ["Pending", "UpstreamFailed"]
    with pytest.raises(UpstreamTaskError) as caught:
        second.result()
    assert caught.value.__cause__ is BOOM


def test_d5_failures_spread_down_the_graph(bench: Bench) -> None:
    first = work.submit()
    second = work.submit(first)
    third = work.submit(1, wait_for=[second])
    fail(bench, 1)
    assert [second.state.name, third.state.name] == ["UpstreamFailed"] * 2


def test_looking_at_the_end_of_a_chain_is_looking_at_what_made_it_fail(bench: Bench) -> None:
    first = work.submit()
    third = work.submit(work.submit(first))
    fail(bench, 1)
    assert third.state.is_failed()
    assert bench.flow_run.tally.unseen_failures() == []


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_chain_of_thousands_ends_when_its_first_run_does(bench: Bench, end: str) -> None:
    first = future = work.submit()
    for _ in range(3000):
        future = work.submit(future)
    if end == "failed":
        fail(bench, 1)
    else:
        bench.runner.stop(1)
        bench.drain()
    assert future.state.name == {"failed": "UpstreamFailed", "cancelled": "Cancelled"}[end]
    assert first.done()
    assert len(str(future.state)) < 300


def test_a_cancelled_input_cancels_its_dependants(bench: Bench) -> None:
    first = work.submit()
    second = work.submit(first)
    first.cancel()
    bench.runner.stop(1)
    bench.drain()
    assert names(second) == ["Pending", "Cancelled"]


def test_a_tolerated_failure_is_handed_over_as_its_exception(bench: Bench) -> None:
    first = work.submit()
    work.submit(allow_failure(first))
    fail(bench, 1)
    assert bench.runner.submitted[-1].args == (BOOM,)
    assert bench.flow_run.tally.unseen_failures() == []


def test_an_input_that_cannot_be_put_in_place_fails_the_run(bench: Bench) -> None:
    first = work.submit()
    second = work.submit({first})
    third = work.submit(second)
    finish(bench, 1, ["a list", "cannot be in a set"])
    assert isinstance(second.exception(), TypeError)
    assert third.state.name == "UpstreamFailed"
    assert first.state.is_completed()


def test_containers_with_a_shape_of_their_own_keep_it(bench: Bench) -> None:
    first = work.submit()
    content: Any = {"key": first}
    work.submit(collections.defaultdict(list, content))
    finish(bench, 1, 5)
    (value,) = bench.runner.submitted[-1].args
    assert (value["key"], value["missing"]) == (5, [])


def test_the_name_is_made_from_the_values_of_inputs(bench: Bench) -> None:
    first = work.submit()
    second = task(task_run_name="got-{x}")(lambda x: x).submit(first)
    finish(bench, 1, 5)
    assert second.name == "got-5"


# --- retries ----------------------------------------------------------------------------


def test_a_retry_waits_out_its_delay(bench: Bench) -> None:
    future = task(retries=2, retry_delay_seconds=[5, 60])(lambda: None).submit()
    began = bench.clock.monotonic()
    fail(bench, 1)
    assert future.state.name == "AwaitingRetry"
    bench.sleep(4.9)
    assert opened(bench) == []
    bench.sleep(0.2)
    assert opened(bench) == [2]
    fail(bench, 2)
    bench.sleep(60)
    finish(bench, 3, "at last")
    assert future.result() == "at last"
    assert bench.clock.monotonic() - began == pytest.approx(65.1)
    assert names(future) == [
        "Pending",
        "Running",
        "Failed*",
        "AwaitingRetry",
        "Retrying",
        "Failed*",
        "AwaitingRetry",
        "Retrying",
        "Completed",
    ]


def test_waiting_for_a_result_takes_part_in_retries(bench: Bench) -> None:
    def later(seconds: float, act: Callable[[], None]) -> None:
        bench.engine.loop.call_later(seconds, act)

    future = task(retries=1, retry_delay_seconds=3600)(lambda: None).submit()
    bench.runner.fail(1, BOOM)
    later(4000, lambda: bench.runner.finish(2, "at last"))
    assert future.result() == "at last"


def test_a_retry_without_delay_is_handed_out_at_once(bench: Bench) -> None:
    task(retries=1)(lambda: None).submit()
    fail(bench, 1)
    assert opened(bench) == [2]


def test_retries_that_are_used_up_leave_the_last_failure(bench: Bench) -> None:
    future = task(retries=1)(lambda: None).submit()
    fail(bench, 1, ValueError("first"))
    last = ValueError("last")
    fail(bench, 2, last)
    assert future.exception() is last


def test_a_dependant_waits_for_the_retries_of_its_input(bench: Bench) -> None:
    first = task(retries=1, retry_delay_seconds=5)(lambda: None).submit()
    second = work.submit(first)
    fail(bench, 1)
    assert second.state.is_pending()
    bench.sleep(5)
    finish(bench, 2, "value")
    assert bench.runner.submitted[-1].args == ("value",)


def test_a_waiting_retry_takes_no_place_of_the_runner(bench: Bench) -> None:
    bench.runner.credit_limit = 1
    task(retries=1, retry_delay_seconds=60)(lambda: None).submit()
    work.submit()
    fail(bench, 1)
    assert opened(bench) == [2]


# --- workers that die -------------------------------------------------------------------


def test_a_lost_attempt_is_started_again_at_once(bench: Bench) -> None:
    future = work.submit()
    start(bench, 1)
    lose(bench, 1)
    assert opened(bench) == [2]
    finish(bench, 2, 5)
    assert names(future) == ["Pending", "Running", "Crashed*", "Retrying", "Completed"]


def test_crash_retries_come_to_an_end(bench: Bench) -> None:
    future = task(crash_retries=2)(lambda: None).submit()
    for attempt_id in (1, 2, 3):
        lose(bench, attempt_id)
    assert isinstance(future.exception(), WorkerLost)
    assert opened(bench) == []


def test_a_lost_attempt_uses_up_no_retry(bench: Bench) -> None:
    future = task(retries=1, crash_retries=1)(lambda: None).submit()
    lose(bench, 1)
    fail(bench, 2)
    finish(bench, 3, 5)
    assert future.result() == 5


def test_what_the_runner_abandons_of_itself_crashes_the_run(bench: Bench) -> None:
    future = work.submit()
    bench.runner.abandon(1, "would not end")
    bench.drain()
    assert "would not end" in str(future.state.message)


def test_what_the_runner_stops_of_itself_cancels_the_run(bench: Bench) -> None:
    future = work.submit()
    bench.runner.stop(1, "was closed")
    bench.drain()
    assert future.state.is_cancelled()


# --- deadlines --------------------------------------------------------------------------


def test_a_deadline_counts_from_the_start_and_not_from_the_submit(bench: Bench) -> None:
    future = task(timeout_seconds=10)(lambda: None).submit()
    bench.sleep(100)
    start(bench, 1)
    bench.sleep(9.9)
    assert future.state.is_running()
    bench.sleep(0.2)
    bench.runner.stop(1, "stopped on request: it stood in line 7")
    bench.drain()
    assert future.state.name == "TimedOut"
    assert isinstance(future.exception(), TaskRunTimeoutError)
    assert "it stood in line 7" in str(future.state.message)


def test_a_runner_that_does_not_say_how_a_kill_went_is_not_waited_for(bench: Bench) -> None:
    future = task(timeout_seconds=10)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(10.1)
    assert future.state.is_running(), "the runner may tell where the function stood"
    bench.sleep(KILL_SECONDS)
    assert future.state.name == "TimedOut"


def test_what_returns_in_the_moment_it_is_to_be_killed_has_returned(bench: Bench) -> None:
    future = task(timeout_seconds=10)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(10.1)
    finish(bench, 1, "just in time")
    assert future.result() == "just in time"


def test_at_the_deadline_the_runner_is_asked_to_stop_the_attempt(bench: Bench) -> None:
    task(timeout_seconds=10)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(11)
    assert bench.runner.cancelled == [(1, True)]


@pytest.mark.parametrize("kind", ["returned", "stopped", "lost", "raised"])
def test_an_outcome_that_comes_after_the_deadline_is_dropped(bench: Bench, kind: Any) -> None:
    future = task(timeout_seconds=10, retries=0)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(11)
    bench.runner.report(Outcome(1, kind))
    bench.drain()
    assert names(future) == ["Pending", "Running", "TimedOut"]


def test_a_late_outcome_does_not_pass_for_that_of_the_next_attempt(bench: Bench) -> None:
    future = task(timeout_seconds=10, retries=1)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(11)
    start(bench, 2)
    bench.runner.finish(1, "late")
    bench.drain()
    assert future.state.name == "Retrying"
    finish(bench, 2, "in time")
    assert future.result() == "in time"


def test_each_attempt_has_a_deadline_of_its_own(bench: Bench) -> None:
    future = task(timeout_seconds=10, retries=1)(lambda: None).submit()
    start(bench, 1)
    bench.sleep(8)
    fail(bench, 1)
    start(bench, 2)
    bench.sleep(8)
    assert future.state.name == "Retrying"
    bench.sleep(3)
    assert future.state.name == "TimedOut"


def test_a_run_that_was_to_be_cancelled_at_its_deadline_is_not_tried_again(bench: Bench) -> None:
    future = task(timeout_seconds=10, retries=3)(lambda: None).submit()
    start(bench, 1)
    future.cancel()
    bench.sleep(11)
    assert names(future) == ["Pending", "Running", "Cancelling", "Cancelled"]


# --- runners at fault -------------------------------------------------------------------


class FaultyRunner(ManualTaskRunner):
    """Raises in its methods as often as it was told."""

    def __init__(self, **faults: int) -> None:
        super().__init__()
        self.faults = faults

    def _perhaps_raise(self, method: str) -> None:
        if self.faults.get(method, 0) > 0:
            self.faults[method] -= 1
            raise OSError(f"fault in {method}")

    def open(self, report: Any, options: Any) -> None:
        self._perhaps_raise("open")
        super().open(report, options)

    def credit(self) -> int:
        self._perhaps_raise("credit")
        return super().credit()

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self._perhaps_raise("submit")
        super().submit(attempts)

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        self._perhaps_raise("cancel")
        super().cancel(attempt_ids, hard=hard)

    def close(self, grace_seconds: float = 0.0) -> None:
        self._perhaps_raise("close")
        super().close(grace_seconds)


def with_runner(runner: ManualTaskRunner, **options: Any) -> Any:
    return engine_for_test(runner, logging_level="CRITICAL", **options)


def test_a_runner_that_raises_in_submit_costs_a_crash_retry() -> None:
    with with_runner(FaultyRunner(submit=1)) as bench:
        future = work.submit()
        bench.drain()
        assert opened(bench) == [2]
        finish(bench, 2, 5)
        assert future.result() == 5
    check_books(bench)


def test_a_runner_that_always_raises_in_submit_crashes_what_it_was_given() -> None:
    with with_runner(FaultyRunner(submit=99)) as bench:
        futures = [work.submit() for _ in range(3)]
        bench.settle()
        for future in futures:
            assert "failed to take it: OSError('fault in submit')" in str(future.state.message)
    check_books(bench)


def test_a_runner_that_cannot_be_opened_crashes_what_waits_for_it() -> None:
    with with_runner(FaultyRunner(open=99)) as bench:
        first = work.submit()
        second = work.submit(first)
        bench.settle()
        assert "fault in open" in str(first.state.message)
        assert second.state.name == "UpstreamFailed"
    check_books(bench)


def test_a_runner_that_raises_in_credit_is_broken_and_nothing_hangs() -> None:
    with with_runner(FaultyRunner(credit=1)) as bench:
        future = work.submit()
        bench.settle()
        assert "fault in credit" in str(future.state.message)
    check_books(bench)


def test_a_runner_that_raises_in_cancel_does_not_stop_a_deadline() -> None:
    with with_runner(FaultyRunner(cancel=1)) as bench:
        future = task(timeout_seconds=10)(lambda: None).submit()
        start(bench, 1)
        bench.sleep(11)
        assert future.state.name == "TimedOut"
    check_books(bench)


def test_a_runner_that_raises_in_cancel_harms_nobody_who_cancels() -> None:
    with with_runner(FaultyRunner(cancel=1)) as bench:
        future = work.submit()
        assert future.cancel()
        finish(bench, 1)
        assert future.state.is_cancelled()
    check_books(bench)


def test_a_runner_that_raises_in_close_harms_nobody() -> None:
    with with_runner(FaultyRunner(close=1)) as bench:
        work.submit()
        finish(bench, 1)
    check_books(bench)


def break_down(bench: Bench) -> None:
    """What the contract says of a runner that is gone: each attempt lost, then `Broken`."""
    for attempt_id in opened(bench):
        bench.runner.lose(attempt_id)
    bench.runner.report(Broken(OSError("the pool is gone"), bench.runner))
    bench.drain()


def test_when_the_runner_breaks_what_it_ran_and_what_waited_crashes() -> None:
    with with_runner(ManualTaskRunner(credit=2)) as bench:
        futures = [work.submit() for _ in range(5)]
        break_down(bench)
        assert [future.state.name for future in futures] == ["Crashed"] * 5
        assert "the pool is gone" in str(futures[-1].state.message)
    check_books(bench)


def test_what_is_submitted_to_a_broken_runner_crashes() -> None:
    with with_runner(ManualTaskRunner()) as bench:
        work.submit()
        break_down(bench)
        future = work.submit()
        bench.drain()
        assert future.state.is_crashed()
    check_books(bench)


def test_another_runner_of_the_flow_goes_on_when_one_breaks() -> None:
    other = ManualTaskRunner()
    with with_runner(ManualTaskRunner()) as bench:
        work.submit()
        future = work.with_options(task_runner=other).submit()
        break_down(bench)
        other.finish(other.open_attempts[0].id, 5)
        assert future.result() == 5
    check_books(bench)


# --- cancelling, phase by phase ---------------------------------------------------------


def test_cancel_before_the_driver_has_looked_at_the_run(bench: Bench) -> None:
    engine: Engine = bench.engine
    run = work._new_run(work._place(), (), {}, None)
    run.was_submitted = True
    bench.flow_run.active.add(run)
    assert engine.cancel([run], "not needed", kill=False)
    engine._begin(run)
    assert [each.name for each in run.states] == ["Pending", "Cancelled"]
    assert opened(bench) == []


def test_cancel_while_waiting_for_inputs(bench: Bench) -> None:
    first = work.submit()
    second = work.submit(first)
    third = work.submit(second)
    assert second.cancel()
    assert (names(second), third.state.name) == (["Pending", "Cancelled"], "Cancelled")
    finish(bench, 1)
    assert opened(bench) == []


@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"task_run_name": "x"}], ids=str)
def test_cancel_in_the_ready_queue(bench: Bench, options: dict[str, Any]) -> None:
    bench.runner.credit_limit = 1
    work.submit()
    future = work.with_options(**options).submit()
    assert future.cancel()
    assert names(future) == ["Pending", "Cancelled"]
    finish(bench, 1)
    assert opened(bench) == []


@pytest.mark.parametrize("kill", [True, False])
def test_cancel_in_the_runner_before_the_start(bench: Bench, kill: bool) -> None:
    future = work.submit()
    assert future.cancel(kill)
    assert bench.runner.cancelled == [(1, kill)]
    assert future.state.is_pending()
    bench.runner.stop(1)
    bench.drain()
    assert names(future) == ["Pending", "Cancelled"]


@pytest.mark.parametrize("kill", [True, False])
def test_cancel_while_running(bench: Bench, kill: bool) -> None:
    future = work.submit()
    start(bench, 1)
    assert future.cancel(kill)
    assert bench.runner.cancelled == [(1, kill)]
    assert future.state.is_cancelling()
    bench.runner.stop(1)
    bench.drain()
    assert names(future) == ["Pending", "Running", "Cancelling", "Cancelled"]


@pytest.mark.parametrize(
    "end",
    [
        lambda runner: runner.finish(1, 5),
        lambda runner: runner.fail(1, BOOM),
        lambda runner: runner.lose(1),
        lambda runner: runner.abandon(1),
        lambda runner: runner.stop(1),
    ],
)
def test_a_run_that_was_asked_to_end_is_cancelled_however_it_ends(bench: Bench, end: Any) -> None:
    future = task(retries=3, crash_retries=3)(lambda: None).submit()
    start(bench, 1)
    future.cancel()
    end(bench.runner)
    bench.drain()
    assert future.state.is_cancelled()
    assert opened(bench) == []


def test_cancel_that_crosses_with_the_start_is_not_lost(bench: Bench) -> None:
    future = work.submit()
    bench.runner.start(1)  # the news is under way
    future.cancel(kill=True)
    bench.runner.stop(1)
    bench.drain()
    assert future.state.is_cancelled()


def test_cancel_while_sleeping_for_a_retry(bench: Bench) -> None:
    future = task(retries=1, retry_delay_seconds=60)(lambda: None).submit()
    fail(bench, 1)
    assert future.cancel()
    assert names(future)[-2:] == ["AwaitingRetry", "Cancelled"]
    bench.sleep(61)
    assert opened(bench) == []


def test_cancel_of_what_is_over_does_nothing(bench: Bench) -> None:
    future = work.submit()
    finish(bench, 1, 5)
    assert not future.cancel()
    assert future.result() == 5


def test_cancel_twice_is_as_cancel_once(bench: Bench) -> None:
    future = work.submit()
    start(bench, 1)
    assert future.cancel()
    assert future.cancel(kill=True)
    bench.runner.stop(1)
    bench.drain()
    assert names(future) == ["Pending", "Running", "Cancelling", "Cancelled"]


def test_the_result_of_a_cancelled_run_is_an_exception_that_says_so(bench: Bench) -> None:
    bench.runner.credit_limit = 0
    future = work.submit()
    future.cancel()
    with pytest.raises(CancelledRun, match="cancelled by request"):
        future.result()


def test_a_cancelled_run_is_no_failure_of_the_flow(bench: Bench) -> None:
    bench.runner.credit_limit = 0
    work.submit().cancel()
    assert bench.flow_run.tally.unseen_failures() == []


def test_a_state_handler_may_cancel_its_own_run(bench: Bench) -> None:
    mine: list[PenstockFuture[Any]] = []

    def handler(*_: Any) -> None:
        mine[0].cancel()

    first = work.submit()
    mine.append(work.with_options(state_handlers=handler).submit(first))
    finish(bench, 1)
    assert names(mine[0]) == ["Pending", "Cancelled"]
    assert opened(bench) == []


def test_a_retry_condition_may_cancel_its_own_run(bench: Bench) -> None:
    mine: list[PenstockFuture[Any]] = []

    def condition(*_: Any) -> bool:
        return mine[0].cancel()

    mine.append(work.with_options(retries=3, retry_condition_fn=condition).submit())
    fail(bench, 1)
    assert names(mine[0]) == ["Pending", "Running", "Cancelled"]


def test_a_running_hook_may_cancel_its_own_run(bench: Bench) -> None:
    mine: list[PenstockFuture[Any]] = []

    def hook() -> None:
        mine[0].cancel()

    mine.append(work.with_options(on_running=hook).submit())
    finish(bench, 1)  # its start was not reported: the hook is called with the outcome at hand
    assert mine[0].state.is_cancelled()


def test_a_hook_at_the_end_may_cancel_its_own_run_in_vain(bench: Bench) -> None:
    mine: list[PenstockFuture[Any]] = []
    answers: list[bool] = []
    future = work.with_options(on_completion=lambda: answers.append(mine[0].cancel())).submit()
    mine.append(future)
    finish(bench, 1)
    assert (answers, future.state.name) == ([False], "Completed")


def test_a_handler_may_cancel_all_the_others(bench: Bench) -> None:
    futures: list[PenstockFuture[Any]] = []

    def hook() -> None:
        for future in futures:
            future.cancel()

    futures.append(work.with_options(on_failure=hook).submit())
    futures.append(work.submit())
    futures += [work.submit(futures[0]), work.submit(futures[1])]
    fail(bench, 1)
    bench.runner.stop(2)
    bench.settle()
    names_at_the_end = [future.state.name for future in futures]
    assert names_at_the_end == ["Failed", "Cancelled", "Cancelled", "Cancelled"]


# --- one failure that ends its siblings -------------------------------------------------


def test_fail_fast_stops_what_runs_and_what_waits(bench: Bench) -> None:
    bench.runner.credit_limit = 2
    futures = work.map(range(4), on_error="fail_fast")
    fail(bench, 1)
    assert bench.runner.cancelled == [(2, True)]
    assert [futures[2].state.name, futures[3].state.name] == ["Cancelled"] * 2


def test_finish_running_leaves_what_runs_alone(bench: Bench) -> None:
    bench.runner.credit_limit = 2
    futures = work.map(range(4), on_error="finish_running")
    start(bench, 2)
    fail(bench, 1)
    finish(bench, 2, "done")
    assert [each.state.name for each in futures] == [
        "Failed",
        "Completed",
        "Cancelled",
        "Cancelled",
    ]


# --- credit, priorities, depth ----------------------------------------------------------


def test_no_more_is_handed_out_than_the_runner_wants(bench: Bench) -> None:
    bench.runner.credit_limit = 2
    for _ in range(5):
        work.submit()
    assert opened(bench) == [1, 2]


def test_no_more_is_handed_out_when_many_become_ready_at_once(bench: Bench) -> None:
    bench.runner.credit_limit = 2
    first = work.submit()
    for _ in range(5):
        work.submit(first)
    finish(bench, 1)
    assert len(opened(bench)) == 2


def test_each_end_makes_room_for_the_next(bench: Bench) -> None:
    bench.runner.credit_limit = 2
    futures = [work.submit() for _ in range(5)]
    for attempt_id in range(1, 6):
        assert len(opened(bench)) <= 2
        finish(bench, attempt_id)
    assert all(future.done() for future in futures)


def test_a_runner_without_slots_gets_work_once_it_has_some(bench: Bench) -> None:
    bench.runner.credit_limit = 0
    work.submit()
    bench.drain()
    assert opened(bench) == []
    bench.runner.credit_limit = 1
    bench.runner.report(SlotsChanged(1))
    bench.drain()
    assert opened(bench) == [1]


def test_higher_priority_goes_first(bench: Bench) -> None:
    bench.runner.credit_limit = 0
    for priority in (0, 5, -1):
        work.with_options(priority=priority, name=f"p{priority}").submit()
    bench.runner.credit_limit = 3
    bench.runner.report(SlotsChanged(3))
    bench.drain()
    assert [attempt.name for attempt in bench.runner.submitted] == ["p5", "p0", "p-1"]


def test_deeper_in_the_graph_goes_first(bench: Bench) -> None:
    bench.runner.credit_limit = 1
    first = work.with_options(name="first").submit()
    for _ in range(2):
        work.with_options(name="shallow").submit()
    work.with_options(name="deep").submit(first)
    finish(bench, 1)
    assert bench.runner.submitted[-1].name == "deep"


def test_priority_goes_before_depth(bench: Bench) -> None:
    bench.runner.credit_limit = 1
    first = work.submit()
    work.with_options(name="urgent", priority=1).submit()
    work.with_options(name="deep").submit(first)
    finish(bench, 1)
    assert bench.runner.submitted[-1].name == "urgent"


def test_equals_go_in_the_order_of_their_submit(bench: Bench) -> None:
    bench.runner.credit_limit = 1
    for number in range(5):
        work.submit(number)
    for attempt_id in range(1, 6):
        finish(bench, attempt_id)
    assert [attempt.args for attempt in bench.runner.submitted] == [(n,) for n in range(5)]


# --- state handlers ---------------------------------------------------------------------


def veto(*_: Any) -> State[Any]:
    return Failed("not today")


def test_a_vetoed_run_takes_no_place_from_the_next(bench: Bench) -> None:
    bench.runner.credit_limit = 0
    vetoed = work.with_options(state_handlers=veto).submit()
    work.submit()
    bench.runner.credit_limit = 1
    bench.runner.report(SlotsChanged(1))
    bench.drain()
    assert vetoed.state.message == "not today"
    assert opened(bench) == [1]


def test_a_handler_can_hold_a_run_back_for_a_time(bench: Bench) -> None:
    until = datetime.datetime.fromtimestamp(bench.clock.time() + 30, datetime.UTC)

    def later(_task: Any, old: State[Any], new: State[Any]) -> State[Any] | None:
        return Scheduled(until) if old.is_pending() and new.is_running() else None

    bench.runner.credit_limit = 1
    future = work.with_options(state_handlers=later).submit()
    assert future.state.is_scheduled()
    work.submit()
    assert opened(bench) == [1]
    finish(bench, 1)
    bench.sleep(31)
    assert opened(bench) == [2]
    assert bench.clock.monotonic() >= 30


def test_seed_204_a_handler_that_raises_fails_the_run() -> None:
    def handler(*_: Any) -> None:
        raise KeyError("channel")

    with with_runner(ManualTaskRunner()) as bench:
        future = work.with_options(state_handlers=handler).submit()
        assert future.state.message == (
            "Unexpected error while calling state handlers: KeyError('channel')"
        )
    check_books(bench)


def test_a_state_that_the_table_does_not_allow_fails_the_run() -> None:
    def handler(_task: Any, old: State[Any], new: State[Any]) -> State[Any] | None:
        return Scheduled() if new.is_running() and old.is_running() else Paused()

    with with_runner(ManualTaskRunner()) as bench:
        future = work.with_options(state_handlers=handler).submit()
        assert future.state.is_failed()
    check_books(bench)


def test_a_handler_may_submit_and_wait(bench: Bench) -> None:
    def handler(_task: Any, _old: State[Any], new: State[Any]) -> State[Any] | None:
        if not new.is_completed():
            return None
        inner = work.submit("inner")
        bench.runner.finish(2, "from inside")
        return Completed(inner.result())

    future = work.with_options(state_handlers=handler).submit()
    finish(bench, 1)
    assert future.result() == "from inside"


def test_a_hook_that_raises_harms_nothing_and_is_counted() -> None:
    def hook() -> None:
        raise KeyError("channel")

    with with_runner(ManualTaskRunner()) as bench:
        future = work.with_options(on_completion=hook, on_running=hook).submit()
        finish(bench, 1, 5)
        assert (future.result(), future.run.hook_errors) == (5, 2)
    check_books(bench)


# --- pausing ----------------------------------------------------------------------------


def test_while_paused_nothing_new_is_handed_out(bench: Bench) -> None:
    bench.engine.dispatcher.pauses += 1
    future = work.submit()
    assert opened(bench) == []
    bench.engine.dispatcher.resume()
    bench.drain()
    assert opened(bench) == [1]
    finish(bench, 1)
    assert future.done()


def test_while_paused_a_runner_with_more_slots_gets_nothing(bench: Bench) -> None:
    work.submit()
    bench.engine.dispatcher.pauses += 1
    work.submit()
    bench.runner.report(SlotsChanged(8))
    bench.drain()
    assert opened(bench) == [1]


def test_while_paused_what_runs_goes_on_and_what_waits_can_be_cancelled(bench: Bench) -> None:
    first = work.submit()
    bench.engine.dispatcher.pauses += 1
    second = work.submit()
    finish(bench, 1)
    second.cancel()
    assert (first.state.name, second.state.name) == ("Completed", "Cancelled")


def test_pause_returns_when_somebody_resumes(bench: Bench) -> None:
    run, began = bench.flow_run, bench.clock.monotonic()
    bench.engine.loop.call_later(5, lambda: resume_flow_run(run))
    pause_flow_run(timeout=60)
    assert bench.clock.monotonic() - began == 5
    assert [each.name for each in run.states] == ["Pending", "Running", "Paused", "Running"]


def test_pause_that_nobody_ends_fails_after_its_timeout(bench: Bench) -> None:
    with pytest.raises(PauseTimeoutError):
        pause_flow_run(timeout=60)
    assert bench.clock.monotonic() == 60
    work.submit()
    assert opened(bench) == [1]


# --- tag limits -------------------------------------------------------------------------


@pytest.fixture
def one_db() -> Iterator[Bench]:
    with engine_for_test(tag_limits={"db": 1}) as bench:
        yield bench
    check_books(bench)


query = task(tags=["db"])(lambda *args: args)


def test_no_more_runs_of_a_tag_are_handed_out_than_its_limit(one_db: Bench) -> None:
    futures = [query.submit() for _ in range(3)]
    assert opened(one_db) == [1]
    for attempt_id in (1, 2, 3):
        finish(one_db, attempt_id)
    assert all(future.done() for future in futures)


def test_other_runs_pass_those_that_wait_for_a_tag(one_db: Bench) -> None:
    query.submit()
    query.submit()
    work.submit()
    assert opened(one_db) == [1, 2]


def test_a_run_that_waits_for_its_retry_holds_no_tag(one_db: Bench) -> None:
    query.with_options(retries=1, retry_delay_seconds=60).submit()
    query.submit()
    fail(one_db, 1)
    assert opened(one_db) == [2]
    one_db.sleep(61)
    assert opened(one_db) == [2]
    finish(one_db, 2)
    assert opened(one_db) == [3]


@pytest.mark.parametrize("position", [0, 1])
def test_a_cancelled_run_gives_its_tag_back_or_leaves_the_line(
    one_db: Bench, position: int
) -> None:
    one_db.runner.credit_limit = 0
    futures = [query.submit() for _ in range(3)]
    futures[position].cancel()
    one_db.runner.credit_limit = 1
    one_db.runner.report(SlotsChanged(1))
    one_db.drain()
    finish(one_db, 1)
    finish(one_db, 2)
    assert all(future.done() for future in futures)


def test_a_vetoed_run_gives_its_tag_back(one_db: Bench) -> None:
    query.with_options(state_handlers=veto).submit()
    query.submit()
    assert opened(one_db) == [1]


def test_a_run_held_back_by_a_handler_gives_its_tag_back(one_db: Bench) -> None:
    until = datetime.datetime.fromtimestamp(one_db.clock.time() + 30, datetime.UTC)

    def later(_task: Any, old: State[Any], new: State[Any]) -> State[Any] | None:
        return Scheduled(until) if old.is_pending() and new.is_running() else None

    held = query.with_options(state_handlers=later).submit()
    query.submit()
    assert opened(one_db) == [1]
    finish(one_db, 1)
    one_db.sleep(31)
    finish(one_db, 2)
    assert held.state.is_completed()


def test_a_timed_out_run_gives_its_tag_back(one_db: Bench) -> None:
    query.with_options(timeout_seconds=5).submit()
    query.submit()
    start(one_db, 1)
    one_db.sleep(6)
    assert opened(one_db) == [1, 2]  # the first is the runner's to clear up


def test_a_direct_call_waits_for_its_tag_as_well(one_db: Bench) -> None:
    query.submit()
    one_db.engine.loop.call_later(9, lambda: one_db.runner.finish(1))
    assert query("direct") == ("direct",)
    assert one_db.clock.monotonic() == 9


def test_a_direct_call_held_back_by_a_handler_does_not_wait_for_itself(one_db: Bench) -> None:
    until = datetime.datetime.fromtimestamp(one_db.clock.time() + 30, datetime.UTC)

    def later(_task: Any, old: State[Any], new: State[Any]) -> State[Any] | None:
        return Scheduled(until) if old.is_pending() and new.is_running() else None

    assert query.with_options(state_handlers=later)("direct") == ("direct",)


def test_a_direct_call_that_is_vetoed_gives_its_tag_back(one_db: Bench) -> None:
    query.with_options(state_handlers=veto)(return_state=True)
    query.submit()
    assert opened(one_db) == [1]


# --- direct calls and flows -------------------------------------------------------------


def test_a_direct_call_waits_for_futures_among_its_arguments(bench: Bench) -> None:
    future = work.submit()
    bench.runner.finish(1, 5)
    assert work(future) == (5,)


def test_a_direct_call_waits_out_its_retries_under_the_clock(bench: Bench) -> None:
    tries: list[int] = []

    @task(retries=2, retry_delay_seconds=3600)
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise BOOM
        return len(tries)

    assert flaky() == 3
    assert bench.clock.monotonic() == 7200


def test_a_direct_call_with_inputs_that_cannot_be_put_in_place_ends_as_failed(
    bench: Bench,
) -> None:
    future = work.submit()
    finish(bench, 1, ["a list", "cannot be in a set"])
    state: Any = work({future}, return_state=True)
    assert isinstance(state.exception(), TypeError)


def test_a_sub_flow_called_directly_waits_for_its_runs(bench: Bench) -> None:
    @flow
    def inner() -> None:
        work.submit()
        bench.engine.loop.call_later(5, lambda: bench.runner.finish(1))

    state = inner(return_state=True)
    assert str(state) == "Completed('All states completed.')"
    assert bench.clock.monotonic() == 5


def test_d3_a_sub_flow_fails_by_what_nobody_looked_at() -> None:
    with with_runner(ManualTaskRunner()) as bench:

        @flow
        def inner() -> None:
            work.submit()
            bench.runner.fail(1, BOOM)

        assert str(inner(return_state=True)) == "Failed('1/1 states failed.')"
    check_books(bench)


def test_a_future_dropped_by_the_flow_is_waited_for_all_the_same(bench: Bench) -> None:
    work.submit()
    bench.engine.loop.call_later(5, lambda: bench.runner.finish(1))
    bench.settle()
    assert bench.flow_run.active == set()


# --- the end ----------------------------------------------------------------------------


def test_what_does_not_end_when_it_is_told_to_is_abandoned() -> None:
    with engine_for_test() as bench:
        begun, waiting = work.submit(), work.submit()
        start(bench, 1)
    assert names(begun) == ["Pending", "Running", "Cancelling", "Cancelled"]
    assert names(waiting) == ["Pending", "Cancelled"]
    check_books(bench)


def test_the_runner_is_closed_at_the_end() -> None:
    with engine_for_test() as bench:
        work.submit()
        bench.runner.finish(1)
    assert not bench.runner.is_open


def test_a_runner_that_nobody_needs_is_never_opened() -> None:
    with engine_for_test() as bench:
        assert work(1) == (1,)
        assert not bench.runner.is_open


def test_a_runner_that_lends_slots_is_told_when_a_task_waits() -> None:
    runner = ManualTaskRunner(capabilities=Capabilities(lends_slots=True))
    with engine_for_test(runner) as bench:

        @task
        def outer() -> Any:
            inner = work.submit("inner")
            bench.runner.finish(2, 5)
            return inner.result()

        future = outer.submit()
        attempt = runner.open_attempts[0]
        assert attempt.context is not None
        value = attempt.context.run(attempt.fn)
        finish(bench, 1, value)
        assert future.result() == 5
        assert runner.blocked_calls == [(1, True), (1, False)]
    check_books(bench)


def test_a_failure_is_logged_with_the_name_of_its_run(caplog: pytest.LogCaptureFixture) -> None:
    with engine_for_test(logging_console=False) as bench, caplog.at_level(logging.ERROR):
        work.submit()
        fail(bench, 1)
    assert any(
        "work-0" in record.getMessage() or "work-0" in str(vars(record))
        for record in caplog.records
    )


def test_a_run_ends_as_cancelled_if_its_function_says_so(bench: Bench) -> None:
    future = work.submit()
    finish(bench, 1, Cancelled("by its own will"))
    assert future.state.message == "by its own will"
