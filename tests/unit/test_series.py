"""A plain map is one object to the engine, and to users as many runs as it has items."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import pickle
import sys
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from penstock import (
    PenstockFuture,
    allow_failure,
    as_completed,
    flow,
    quote,
    task,
    unmapped,
    wait,
)
from penstock.attempt import Packed, Series
from penstock.context import CURRENT
from penstock.engine.loop import RealClock
from penstock.engine.series import RunSeries
from penstock.exceptions import CancelledRun, UnobservedFailureError, WorkerLost
from penstock.futures import SeriesFuture
from penstock.run_making import MOST_IN_SERIES
from penstock.runs import Run, TaskRun
from penstock.states import Completed
from penstock.task_runners import (
    Broken,
    Capabilities,
    Outcome,
    Output,
    Returned,
    SlotsChanged,
    Started,
)
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test, test_harness
from penstock.worker.here import own_in_series
from penstock.worker.output import packed_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from penstock import Task
    from penstock.task_runners import Attempt

Bench = EngineForTest
BOOM = ValueError("boom")
TAKES_SERIES = Capabilities(isolation="process", kill="hard", pickles=True, takes_series=True)


class SeriesRunner(ManualTaskRunner):
    """A manual runner that takes series, and remembers in what form it got what it has."""

    def __init__(self, credit: int = 1_000_000, capabilities: Capabilities = TAKES_SERIES) -> None:
        super().__init__(credit=credit, capabilities=capabilities)
        self.calls: list[tuple[bool, list[int]]] = []
        """Of each call of `submit`: whether it was a series, the ids."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        ids = [attempt.id for attempt in attempts]
        self.calls.append((isinstance(attempts, Series), ids))
        super().submit(attempts)


@contextlib.contextmanager
def on(runner: ManualTaskRunner, **options: Any) -> Iterator[Bench]:
    with engine_for_test(runner, **options) as bench:
        yield bench
    check_books(bench)


def check_books(bench: Bench) -> None:
    """Nothing is left of any run, or series, once everything is over."""
    engine = bench.engine
    assert engine.dispatcher._series == []
    assert engine.dispatcher.attempts == {}
    assert engine.loop.in_flight == 0
    assert engine.loop.inbox.empty()
    assert bench.flow_run.active == set()
    for handle in engine.dispatcher.handles():  # what has ended there goes with the next credit
        assert all(place[2].is_series and not place[2].take_apart() for place in handle.ready)


@pytest.fixture(params=["WARNING", "INFO"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """With a quiet log items end many at once; at INFO each end is a line, and so a run."""
    with on(SeriesRunner(), logging_level=request.param) as bench:
        yield bench


@pytest.fixture
def quiet() -> Iterator[Bench]:
    with on(SeriesRunner(), logging_level="WARNING") as bench:
        yield bench


@task
def work(x: Any, y: Any = 0) -> Any:
    return x, y


def series_of(future: PenstockFuture[Any]) -> RunSeries:
    assert type(future) is SeriesFuture
    series: Any = future._series
    assert type(series) is RunSeries
    return series


def run_of(future: PenstockFuture[Any]) -> TaskRun:
    assert type(future.run) is TaskRun
    return future.run


def made(futures: Sequence[PenstockFuture[Any]]) -> set[int]:
    """Which items of a map that is one series are runs of their own."""
    return set(series_of(futures[0]).made)


def names(future: PenstockFuture[Any]) -> list[str]:
    """The history of a run; a star marks a failure that is provisional."""
    return [each.name + "*" * each.provisional for each in future.run.states]


def args(runner: ManualTaskRunner) -> list[Any]:
    """The first argument of each attempt that the runner was given, in order."""
    return [attempt.args[0] for attempt in runner.submitted]


def opened(bench: Bench) -> list[int]:
    return [attempt.id for attempt in bench.runner.open_attempts]


def finish_row(bench: Bench, first_id: int, *values: Any) -> None:
    bench.runner.finish_row(first_id, values, bench.clock.monotonic())
    bench.drain()


def finish_all(bench: Bench) -> None:
    """Every attempt, open now or later, returns its first argument."""
    while bench.runner.open_attempts:
        for attempt in bench.runner.open_attempts:
            bench.runner.finish(attempt.id, attempt.args[0])
        bench.drain()


def give(bench: Bench, credit: int) -> None:
    bench.runner.credit_limit = credit
    bench.runner.report(SlotsChanged(credit))
    bench.drain()


# --- handing out ------------------------------------------------------------------------


def test_a_map_goes_to_the_runner_as_one_call(quiet: Bench) -> None:
    futures = work.map([10, 11, 12], y=5)
    assert quiet.runner.calls == [(True, [1, 2, 3])]
    assert [(each.args, each.kwargs) for each in quiet.runner.submitted] == [
        ((10,), {"y": 5}),
        ((11,), {"y": 5}),
        ((12,), {"y": 5}),
    ]
    assert made(futures) == set()
    finish_all(quiet)


def test_as_much_of_a_map_is_handed_out_as_the_runner_wants() -> None:
    with on(SeriesRunner(credit=3)) as bench:
        futures = work.map(range(8))
        assert bench.runner.calls == [(True, [1, 2, 3])]
        finish_row(bench, 1, "a", "b")
        assert bench.runner.calls[1:] == [(True, [4, 5])]
        give(bench, 100)
        assert bench.runner.calls[2:] == [(True, [6, 7, 8])]
        finish_row(bench, 3, "c")
        finish_row(bench, 4, "d", "e")
        finish_row(bench, 6, "f", "g", "h")
        assert futures.result() == list("abcdefgh")
        assert made(futures) == set()


def test_of_equal_runs_and_maps_first_comes_first() -> None:
    with on(SeriesRunner(credit=0)) as bench:
        work.submit("first")
        work.map(["a", "b", "c"])
        work.submit("then")
        work.map(["d", "e"])
        for credit in (2, 4, 7):
            give(bench, credit)
        assert args(bench.runner) == ["first", "a", "b", "c", "then", "d", "e"]
        finish_all(bench)


def test_what_is_more_urgent_comes_between_the_pieces_of_a_map() -> None:
    with on(SeriesRunner(credit=2)) as bench:
        work.map(range(4))
        work.with_options(priority=1).map(["a", "b"])
        work.with_options(priority=2).submit("now")
        work.with_options(priority=-1).submit("last")
        give(bench, 8)
        assert args(bench.runner) == [0, 1, "now", "a", "b", 2, 3, "last"]
        assert {attempt.priority for attempt in bench.runner.submitted[3:5]} == {1_000_000}
        finish_all(bench)


def test_an_attempt_of_a_series_is_what_it_would_be_for_a_run_of_its_own(bench: Bench) -> None:
    siblings_of = [object(), object()]
    futures = work.map(["a", "b"], y=unmapped(siblings_of))
    attempts = bench.runner.open_attempts
    alone = work.with_options(retries=0).submit("c", y=siblings_of)
    (other,) = bench.runner.open_attempts[2:]
    for attempt, future in zip(attempts, futures, strict=True):
        run = run_of(future)
        assert attempt.environment.own == (run.id_bits, run.name, 1, run.number, (), ())
        assert attempt.environment.shared == other.environment.shared
        assert attempt.name == run.name
        assert attempt.siblings is run.siblings
        assert attempt.siblings is not None
        assert attempt.siblings.constants == ("y",)
        fields = {"id": 0, "args": (), "name": "", "environment": None, "siblings": None}
        assert attempt._replace(**fields) == other._replace(**fields)
    finish_all(bench)
    assert alone.done()


def test_a_flow_that_is_paused_hands_nothing_out(bench: Bench) -> None:
    bench.engine.dispatcher.pauses += 1
    futures = work.map(range(4))
    waiting = futures[2].state
    assert opened(bench) == []
    assert futures[1].cancel()
    bench.engine.dispatcher.resume()
    bench.drain()
    assert waiting.is_pending()
    assert args(bench.runner) == [0, 2, 3]
    finish_all(bench)
    assert [future.state.name for future in futures] == [
        "Completed",
        "Cancelled",
        "Completed",
        "Completed",
    ]


# --- runs of their own ------------------------------------------------------------------


def test_an_item_that_waits_keeps_its_place_when_it_is_made() -> None:
    with on(SeriesRunner(credit=2)) as bench:
        futures = work.map(range(6))
        run = futures[3].run
        assert (run.run_count, names(futures[3]), run.attempt_id) == (0, ["Pending"], 0)
        give(bench, 10)
        assert bench.runner.calls == [(True, [1, 2]), (True, [3]), (False, [4]), (True, [5, 6])]
        assert args(bench.runner) == list(range(6))
        assert (run.run_count, run.attempt_id) == (1, 4)
        assert made(futures) == {3}
        finish_row(bench, 1, 0, 1, 2)
        bench.runner.finish(4, 3)
        finish_row(bench, 5, 4, 5)
        assert futures.result() == list(range(6))
        assert made(futures) == {3}


def test_an_item_that_is_made_while_under_way_has_its_attempt(bench: Bench) -> None:
    futures = work.map(range(3))
    run = futures[1].run
    assert (run.run_count, run.attempt_id, names(futures[1])) == (1, 2, ["Pending"])
    bench.runner.start(2, bench.clock.monotonic())
    bench.drain()
    assert futures[1].state.is_running()
    bench.runner.finish(2, "b")
    finish_row(bench, 1, "a")
    finish_row(bench, 3, "c")
    assert futures.result() == ["a", "b", "c"]
    assert names(futures[1]) == ["Pending", "Running", "Completed"]
    assert futures[1].run.run_count == 1


def test_an_item_that_is_made_after_it_returned_tells_all_of_it(bench: Bench) -> None:
    made_at = bench.clock.time()
    futures = work.map(range(3))
    bench.clock.advance(2)
    began = bench.clock.monotonic()
    bench.clock.advance(3)
    bench.runner.finish_row(1, "abc", began)
    bench.drain()
    bench.clock.advance(5)
    for future in futures:
        states = [(state.name, state.at - made_at) for state in future.run.states]
        assert states == [("Pending", 0.0), ("Running", 2.0), ("Completed", 5.0)]
        assert future.run.run_count == 1
        assert future.run.was_submitted
        assert future.run.flow_run is future.run.parent is bench.flow_run
        assert future.run.end_time is not None
        assert future.run.parameters == {}
    assert [future.state.result() for future in futures] == list("abc")


def test_an_item_is_made_once(quiet: Bench) -> None:
    futures = work.map(range(2))
    series = series_of(futures[0])
    run = futures[0].run
    assert run is futures[0].run is series.run(0) is series.make_all()[0]
    finish_row(quiet, 1, "a", "b")
    assert run is futures[0].run
    assert futures[1].run is series.run(1)
    assert not series.left


def test_what_is_asked_for_only_its_result_is_no_run_of_its_own(quiet: Bench) -> None:
    futures = work.map(range(3))
    assert not any(future.done() for future in futures)
    finish_row(quiet, 1, "a", "b", "c")
    assert all(future.done() for future in futures)
    futures.wait()
    for future in futures:
        future.wait()
    assert futures.result() == [future.result() for future in futures] == ["a", "b", "c"]
    assert [future.result(timeout=0) for future in futures] == ["a", "b", "c"]
    assert made(futures) == set()
    assert futures[0].exception() is None
    assert made(futures) == {0}


@pytest.mark.parametrize("pack", [list, lambda value: Packed(pickle.dumps(value))])
@pytest.mark.parametrize("is_made_first", [False, True])
def test_everybody_gets_the_same_result(
    bench: Bench, pack: Callable[[Any], Any], is_made_first: bool
) -> None:
    futures = work.map(range(2))
    finish_row(bench, 1, pack(["a"]), pack(["b"]))
    if is_made_first:
        assert all(future.state.is_completed() for future in futures)
    first, second = futures.result()
    assert (first, second) == (["a"], ["b"])
    assert futures[0].result() is first
    assert futures[0].state.result() is first
    assert futures[0].result() is first
    assert futures.result()[0] is first
    assert futures[1].state.result() is second


def test_a_result_that_asks_for_another_while_it_is_unpacked_gets_it(quiet: Bench) -> None:
    futures = work.map(range(2))
    ASKED_WHILE_UNPACKED[:] = futures
    finish_row(quiet, 1, Packed(pickle.dumps(AsksWhileUnpacked())), "there")
    unpacked = futures[0].result()
    assert unpacked.answer == "there"
    ASKED_WHILE_UNPACKED.clear()


ASKED_WHILE_UNPACKED: list[PenstockFuture[Any]] = []


class AsksWhileUnpacked:
    answer: Any = None

    def __reduce__(self) -> Any:
        return _unpacked, ()


def _unpacked() -> AsksWhileUnpacked:
    asks = AsksWhileUnpacked()
    assert ASKED_WHILE_UNPACKED[1].state.is_completed()
    asks.answer = ASKED_WHILE_UNPACKED[1].result()
    return asks


# --- ids, names and numbers -------------------------------------------------------------


def test_every_item_has_an_id_of_its_own_that_stays(bench: Bench) -> None:
    before = work.map(range(3))
    ids = [future.task_run_id for future in before[:2]]
    finish_row(bench, 1, 1, 2, 3)
    ids.append(before[2].task_run_id)
    others = work.map(range(3))
    finish_all(bench)
    ids += [future.task_run_id for future in others]
    assert [future.task_run_id for future in [*before, *others]] == ids
    assert len(set(ids)) == 6
    assert all((each.version, each.variant) == (4, uuid.RFC_4122) for each in ids)
    assert len({str(each)[:12] for each in ids[:3]}) == 3, "told apart by their begins"


def test_a_worker_knows_an_item_by_the_id_that_its_run_has(bench: Bench) -> None:
    futures = work.map(range(4))
    origin = series_of(futures[0]).origin
    finish_row(bench, 1, 1, 2, 3, 4)
    for index, (attempt, future) in enumerate(zip(bench.runner.submitted, futures, strict=True)):
        own = own_in_series(*origin, index)
        assert (future.run.id_bits, future.name, 1, run_of(future).number, (), ()) == own
        assert attempt.environment.own == own


def test_names_and_numbers_go_on_after_a_map(bench: Bench) -> None:
    first = work.submit("x")
    futures = work.map(range(3))
    last = work.submit("x")
    again = work.map(range(2))
    finish_all(bench)
    assert [each.name for each in [first, *futures, last, *again]] == [
        f"work-{number}" for number in range(7)
    ]
    assert [run_of(each).map_index for each in [*futures, *again]] == [0, 1, 2, 0, 1]


def test_a_long_map_is_several_series_whose_indexes_go_on(quiet: Bench) -> None:
    count = 2 * MOST_IN_SERIES + 3
    futures = work.map(range(count))
    assert [len(ids) for _, ids in quiet.runner.calls] == [MOST_IN_SERIES, MOST_IN_SERIES, 3]
    middle = MOST_IN_SERIES + 5
    assert futures[middle].state.is_pending()
    for _, ids in quiet.runner.calls:
        finish_row(quiet, ids[0], *(each - 1 for each in ids))
    assert futures.result() == list(range(count))
    for index in (0, MOST_IN_SERIES - 1, MOST_IN_SERIES, middle, count - 1):
        run = run_of(futures[index])
        assert (run.map_index, run.number, run.name) == (index, index, f"work-{index}")
    assert len({future.task_run_id for future in futures}) == count


# --- failures, and what else an item may have to tell -------------------------------------


def test_an_item_that_fails_has_its_retries(bench: Bench) -> None:
    futures = work.with_options(retries=2, retry_delay_seconds=5).map(range(3))
    bench.runner.fail(2, BOOM)
    finish_row(bench, 1, "a")
    finish_row(bench, 3, "c")
    assert futures[1].state.is_scheduled()
    bench.sleep(6)
    assert opened(bench) == [4]
    assert args(bench.runner)[3] == 1
    bench.runner.fail(4, BOOM)
    bench.drain()
    bench.sleep(6)
    bench.runner.finish(5, "b")
    assert futures.result() == ["a", "b", "c"]
    assert names(futures[1]) == [
        "Pending",
        *["Running", "Failed*", "AwaitingRetry"],
        *["Retrying", "Failed*", "AwaitingRetry"],
        *["Retrying", "Completed"],
    ]
    assert futures[1].run.run_count == 3
    own = bench.runner.submitted[3].environment.own
    assert own[:3] == (futures[1].run.id_bits, "work-1", 2)


def test_an_item_that_is_tried_again_is_as_urgent_as_before() -> None:
    with on(SeriesRunner(credit=2)) as bench:
        work.with_options(priority=1, retries=1).map(["a", "b"])
        work.map(["c", "d"])
        bench.runner.fail(2, BOOM)
        bench.drain()
        give(bench, 10)
        assert args(bench.runner) == ["a", "b", "b", "c", "d"]
        finish_all(bench)


def test_a_failure_is_raised_where_it_is_asked_for_and_counts_where_it_is_not(bench: Bench) -> None:
    futures = work.map(range(3))
    finish_row(bench, 1, "a")
    bench.runner.fail(2, BOOM)
    bench.runner.fail(3, BOOM)
    bench.drain()
    assert bench.flow_run.tally.begun == 3
    assert len(bench.flow_run.tally.unseen_failures()) == 2
    assert futures[1].exception() is BOOM
    assert len(bench.flow_run.tally.unseen_failures()) == 1
    with pytest.raises(ValueError, match="boom"):
        futures.result()
    assert bench.flow_run.tally.unseen_failures() == []
    assert futures.result(raise_on_failure=False) == ["a", BOOM, BOOM]


@pytest.mark.parametrize("began", [True, False, None])
def test_an_item_whose_worker_died_has_its_crash_retries(bench: Bench, began: bool | None) -> None:
    futures = work.with_options(crash_retries=1).map(range(3))
    bench.runner.lose(2, began=began)
    finish_row(bench, 1, "a")
    bench.drain()
    assert opened(bench) == [3, 4]
    bench.runner.finish(4, "b")
    finish_row(bench, 3, "c")
    assert futures.result() == ["a", "b", "c"]
    middle = ["Running"] if began is False else ["Running", "Crashed*", "Retrying"]
    assert names(futures[1]) == ["Pending", *middle, "Completed"]
    assert futures[1].run.run_count == (1 if began is False else 2)


def test_an_item_whose_crash_retries_are_used_up_is_crashed(bench: Bench) -> None:
    futures = work.with_options(crash_retries=1).map(range(2))
    bench.runner.lose(1)
    bench.drain()
    bench.runner.lose(3)
    finish_row(bench, 2, "b")
    assert names(futures[0]) == ["Pending", "Running", "Crashed*", "Retrying", "Crashed"]
    with pytest.raises(WorkerLost):
        futures[0].result()
    assert futures[1].result() == "b"


def test_a_row_of_results_may_cover_items_that_are_made(bench: Bench) -> None:
    futures = work.map(range(5))
    assert futures[1].state.is_pending()
    bench.runner.start(4, bench.clock.monotonic())
    finish_row(bench, 1, *"abcde")
    assert futures.result() == list("abcde")
    for future in futures:
        assert names(future) == ["Pending", "Running", "Completed"]
        assert future.run.run_count == 1


def test_what_an_item_logs_is_its_own(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    futures = work.map(range(3))
    bench.runner.report(Output(2, (record("of the second"),), "manual"))
    bench.drain()
    assert made(futures) == {1}
    assert "work-1" in capsys.readouterr().err
    finish_row(bench, 1, *"abc")
    assert futures.result() == list("abc")


def record(text: str) -> tuple[Any, ...]:
    return packed_record(
        logging.LogRecord("penstock.task_runs", logging.WARNING, __file__, 1, text, (), None)
    )


@pytest.mark.parametrize("kept_open", [False, True])
def test_what_is_reported_late_changes_nothing(bench: Bench, kept_open: bool) -> None:
    futures = work.map(range(3))
    finish_row(bench, 1, "a", "b")
    if not kept_open:
        finish_row(bench, 3, "c")
    for event in (
        Outcome(1, "raised", error=BOOM),
        Outcome(2, "returned", "other", began_at=bench.clock.monotonic()),
        Outcome(1, "lost"),
        Started(2, "manual", bench.clock.monotonic()),
    ):
        bench.runner.report(event)
    bench.runner._open_attempts.update({1: None, 2: None})
    finish_row(bench, 1, "once", "more")
    if kept_open:
        finish_row(bench, 3, "c")
    assert futures.result() == ["a", "b", "c"]
    assert all(names(future) == ["Pending", "Running", "Completed"] for future in futures)


ROWS = {
    "from the end": [(3, "de"), (0, "abc")],
    "one by one": [(index, letter) for index, letter in enumerate("abcde")],
    "odd ones first": [(1, "b"), (3, "d"), (0, "a"), (4, "e"), (2, "c")],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_outcomes_may_come_in_any_order(bench: Bench, rows: list[tuple[int, str]]) -> None:
    futures = work.map(range(5))
    for index, values in rows:
        finish_row(bench, 1 + index, *values)
    assert futures.result() == list("abcde")


# --- cancelling -------------------------------------------------------------------------


def test_an_item_that_waits_is_cancelled_at_once_and_never_handed_out() -> None:
    with on(SeriesRunner(credit=1)) as bench:
        futures = work.map(range(5))
        assert futures[3].state.is_pending()
        assert [futures[index].cancel() for index in (1, 3, 4)] == [True] * 3
        assert [names(futures[index]) for index in (1, 3, 4)] == [["Pending", "Cancelled"]] * 3
        assert not futures[3].cancel(), "it is over"
        give(bench, 10)
        assert args(bench.runner) == [0, 2]
        finish_row(bench, 1, "a")
        bench.runner.finish(2, "c")
        with pytest.raises(CancelledRun):
            futures.result()
        assert [futures[0].result(), futures[2].result()] == ["a", "c"]
        assert bench.runner.cancelled == []


@pytest.mark.parametrize("has_started", [False, True])
@pytest.mark.parametrize("kill", [False, True])
def test_an_item_that_the_runner_has_is_asked_to_end(
    bench: Bench, has_started: bool, kill: bool
) -> None:
    futures = work.map(range(3))
    if has_started:
        bench.runner.start(2, bench.clock.monotonic())
    assert futures[1].cancel(kill=kill)
    assert bench.runner.cancelled == [(2, kill)]
    assert futures[1].state.name == ("Cancelling" if has_started else "Pending")
    bench.runner.stop(2)
    finish_row(bench, 1, "a")
    finish_row(bench, 3, "c")
    assert futures[1].state.name == "Cancelled"
    assert futures[1].run.run_count == has_started
    assert [futures[0].result(), futures[2].result()] == ["a", "c"]


def test_an_item_that_has_returned_cannot_be_cancelled(bench: Bench) -> None:
    futures = work.map(range(2))
    bench.runner.finish_row(1, "a")  # not acted on yet
    assert not futures[0].cancel()
    assert futures[1].cancel()
    bench.runner.stop(2)
    bench.drain()
    assert [future.state.name for future in futures] == ["Completed", "Cancelled"]
    assert bench.flow_run.tally.cancelled == 1


def test_a_whole_map_can_be_cancelled_wherever_its_items_stand() -> None:
    with on(SeriesRunner(credit=4)) as bench:
        futures = work.map(range(8))
        bench.runner.start(3, bench.clock.monotonic())
        finish_row(bench, 1, "a")
        assert futures[6].state.is_pending()
        assert futures.cancel(kill=True)
        assert sorted(bench.runner.cancelled) == [(2, True), (3, True), (4, True), (5, True)]
        for attempt_id in opened(bench):
            bench.runner.stop(attempt_id)
        futures.wait()
        assert [future.state.name for future in futures] == ["Completed"] + ["Cancelled"] * 7
        assert args(bench.runner) == [0, 1, 2, 3, 4]
        assert not futures.cancel()


@pytest.mark.parametrize("kill", [False, True])
def test_the_end_of_a_flow_cancels_the_items_inside(kill: bool) -> None:
    with on(SeriesRunner(credit=3)) as bench:
        futures = work.map(range(6))
        bench.runner.start(1, bench.clock.monotonic())
        keep = [futures[1], futures[4]]
        bench.engine.cancel_children(bench.flow_run, "it is over", kill=kill, keep_for=keep)
        assert sorted(bench.runner.cancelled) == [(1, kill), (3, kill)]
        bench.runner.stop(3)
        bench.runner.finish(1, "ended")
        bench.drain()
        finish_all(bench)
        first = "Cancelled" if kill else "Completed"
        assert [future.state.name for future in futures] == [
            *[first, "Completed", "Cancelled"],
            *["Cancelled", "Completed", "Cancelled"],
        ]


def test_what_cannot_be_stopped_is_given_up_with_its_flow() -> None:
    with on(SeriesRunner(credit=3)) as bench:
        futures = work.map(range(5))
        bench.runner.start(1, bench.clock.monotonic())
        bench.drain()
        bench.engine.abandon_children(bench.flow_run)
        assert [future.state.name for future in futures] == ["Cancelled"] * 5
        assert [future.run.run_count for future in futures] == [1, 0, 0, 0, 0]
        assert bench.engine.wait_until_idle(bench.flow_run, 0)
        finish_all(bench)  # late


# --- runners at fault -------------------------------------------------------------------


class Refusing(SeriesRunner):
    """Takes nothing, the first few times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OSError("full")
        super().submit(attempts)


def test_items_that_a_runner_fails_to_take_are_tried_again() -> None:
    with on(Refusing(1), logging_level="CRITICAL") as bench:
        futures = work.map(range(3))
        bench.drain()
        finish_all(bench)
        assert futures.result() == [0, 1, 2]


def test_items_that_a_runner_never_takes_are_crashed() -> None:
    with on(Refusing(1000), logging_level="CRITICAL"):
        futures = work.with_options(crash_retries=0).map(range(3))
        futures.wait()
        for future in futures:
            assert future.state.is_crashed()
            assert "failed to take it: OSError('full')" in str(future.state)


class Unopenable(SeriesRunner):
    def open(self, report: Callable[[Any], None], options: Mapping[str, Any]) -> None:
        raise OSError("no room")


def test_the_items_of_a_runner_that_cannot_be_opened_are_crashed() -> None:
    with on(Unopenable(), logging_level="CRITICAL") as bench:
        bench.engine.dispatcher.pauses += 1
        futures = work.map(range(4))
        assert futures[1].state.is_pending()
        futures[2].cancel()
        bench.engine.dispatcher.resume()
        bench.drain()
        assert [future.state.name for future in futures] == [
            *["Crashed", "Crashed", "Cancelled", "Crashed"]
        ]
        assert "OSError: no room" in str(futures[0].state)
        assert [future.run.run_count for future in futures] == [0] * 4


class Uncountable(SeriesRunner):
    def credit(self) -> int:
        raise OSError("gone")


def test_the_items_of_a_runner_that_cannot_say_what_it_wants_are_crashed() -> None:
    with on(Uncountable(), logging_level="CRITICAL"):
        futures = work.map(range(3))
        futures.wait()
        assert [future.state.name for future in futures] == ["Crashed"] * 3


def test_the_items_of_a_runner_that_breaks_are_crashed_but_for_what_has_returned() -> None:
    with on(SeriesRunner(credit=3), logging_level="CRITICAL") as bench:
        futures = work.map(range(6))
        finish_row(bench, 1, "a")
        assert futures[5].state.is_pending()
        for attempt_id in opened(bench):
            bench.runner.lose(attempt_id)
        bench.runner.report(Broken(OSError("power"), bench.runner))
        bench.drain()
        assert [future.state.name for future in futures] == ["Completed"] + ["Crashed"] * 5
        assert all("OSError: power" in str(future.state) for future in futures[1:])


def test_what_cannot_be_said_of_a_run_to_a_worker_fails_the_runs_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = bench.engine.dispatcher
    environment_of = dispatcher._environment_of

    def refusing(run: Run) -> Any:
        if "odd" in run.tags:
            raise ValueError("nobody can say that")
        return environment_of(run)

    monkeypatch.setattr(dispatcher, "_environment_of", refusing)
    futures = work.with_options(tags=["odd"]).map(range(3))
    futures.wait()
    assert [future.state.name for future in futures] == ["Failed"] * 3
    assert isinstance(futures[0].exception(), ValueError)
    after = work.map(range(2))
    finish_all(bench)
    assert after.result() == [0, 1]


# --- what changes while a map is under way ------------------------------------------------


def test_a_row_that_goes_over_the_end_of_a_piece_is_taken_one_by_one(bench: Bench) -> None:
    first, second = work.map(range(2)), work.map(range(3))
    finish_row(bench, 1, *"abcde")
    assert (first.result(), second.result()) == (["a", "b"], ["c", "d", "e"])


def test_a_hook_that_is_added_later_is_called_for_what_ends_from_then_on(quiet: Bench) -> None:
    hooked = task(lambda x: x, name="hooked")
    futures = hooked.map(range(5))
    finish_row(quiet, 1, "a")
    seen: list[str] = []
    hooked.on_completion(lambda task_run: seen.append(task_run.name))
    finish_row(quiet, 2, "b", "c")
    quiet.runner.finish(4, "d")
    finish_row(quiet, 5, "e")
    assert seen == ["hooked-1", "hooked-2", "hooked-3", "hooked-4"]
    assert futures.result() == list("abcde")
    assert [type(future) for future in hooked.map(range(2))] == [PenstockFuture] * 2
    finish_all(quiet)


def test_a_done_callback_is_called_once_for_its_item(bench: Bench) -> None:
    futures = work.map(range(3))
    seen: list[Any] = []
    futures[0].add_done_callback(seen.append)
    finish_row(bench, 1, *"abc")
    futures[2].add_done_callback(seen.append)
    assert seen == [futures[0], futures[2]]
    assert all(map(lambda one, other: one is other, seen, [futures[0], futures[2]]))


def test_an_item_can_be_passed_on(bench: Bench) -> None:
    futures = work.map(range(3))
    finish_row(bench, 1, "a")
    one = work.submit(futures[0])
    all_of_them = work.submit(futures)
    again = work.map(futures)
    finish_row(bench, 2, "b", "c")
    bench.drain()
    given = [attempt.args[0] for attempt in bench.runner.open_attempts]
    assert sorted(given, key=repr) == ["a", "a", "b", "c", ["a", "b", "c"]]
    finish_all(bench)
    assert [one.result(), all_of_them.result(), again.result()] == [
        "a",
        ["a", "b", "c"],
        ["a", "b", "c"],
    ]


def test_a_map_over_a_future_is_a_series_too(bench: Bench) -> None:
    origin = work.submit("x")
    futures = work.map(origin)
    bench.runner.finish(1, ["a", "b"])
    bench.drain()
    assert [type(future) for future in futures] == [SeriesFuture] * 2
    finish_all(bench)
    assert futures.result() == ["a", "b"]


def from_another_thread(fn: Callable[[], Any]) -> Any:
    """Call a function in a thread that may not drive, while this one does not."""
    answers: list[Any] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: answers.append(context.run(fn)))
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    return answers[0]


def test_a_map_of_another_thread_begins_when_the_driver_looks(bench: Bench) -> None:
    futures = from_another_thread(lambda: work.map(range(3)))
    assert futures[1].state.is_pending()
    assert futures[1].run.run_count == 0
    assert bench.runner.submitted == []
    bench.drain()
    assert args(bench.runner) == [0, 1, 2]
    finish_all(bench)
    assert futures.result() == [0, 1, 2]


def test_a_map_that_was_made_whole_before_it_began_begins_all_the_same(bench: Bench) -> None:
    bench.engine.dispatcher.pauses += 1
    futures = from_another_thread(lambda: work.map(range(3)))
    assert [future.state.name for future in futures] == ["Pending"] * 3
    assert not series_of(futures[0]).left
    assert futures[1].cancel()
    bench.engine.dispatcher.resume()
    bench.drain()
    assert args(bench.runner) == [0, 2]
    finish_all(bench)
    assert [future.state.name for future in futures] == ["Completed", "Cancelled", "Completed"]


def test_a_map_that_is_cancelled_with_its_flow_before_it_began_never_begins() -> None:
    with on(SeriesRunner()) as bench:
        futures = from_another_thread(lambda: work.map(range(3)))
        events = [bench.engine.loop.inbox.get() for _ in range(bench.engine.loop.inbox.qsize())]
        bench.engine.cancel_children(bench.flow_run, "it is over", kill=True)
        for event in events:  # its begin comes after its end
            bench.engine.loop.post(event)
        bench.drain()
        assert [future.state.name for future in futures] == ["Cancelled"] * 3
        assert bench.engine.wait_until_idle(bench.flow_run, 0)
        assert bench.runner.submitted == []


def test_a_map_whose_flow_run_is_over_before_it_begins_is_cancelled() -> None:
    with on(SeriesRunner()) as bench:
        futures = from_another_thread(lambda: work.map(range(3)))
        bench.engine.enter(bench.flow_run, Completed())
        bench.drain()
        for future in futures:
            assert names(future) == ["Pending", "Cancelled"]
            assert future.state.message == "the flow run around it is over"
        assert not bench.runner.is_open, "nobody would close it"


# --- waiting ----------------------------------------------------------------------------


def test_a_list_that_is_not_over_in_time_says_how_much_is_left(bench: Bench) -> None:
    futures = work.map(range(3))
    finish_row(bench, 1, "a")
    with pytest.raises(TimeoutError, match="2 of 3 runs are not over"):
        futures.result(timeout=0)
    with pytest.raises(TimeoutError, match="it goes on"):
        futures[2].result(timeout=0)
    done, not_done = wait(futures, timeout=0)
    assert (done, not_done) == ({futures[0]}, {futures[1], futures[2]})
    finish_row(bench, 2, "b", "c")
    assert futures.result(timeout=0) == ["a", "b", "c"]


def test_waiting_for_a_map_acts_on_what_the_runner_reports(bench: Bench) -> None:
    futures = work.map(range(4))
    assert futures[2].state.is_pending()
    bench.runner.finish_row(1, "ab")
    bench.runner.finish_row(3, "cd")
    assert futures.result() == list("abcd")


def test_waiting_goes_on_for_items_that_become_runs_meanwhile() -> None:
    with on(SeriesRunner()) as bench:
        futures = work.with_options(retries=1, retry_delay_seconds=30).map(range(3))
        bench.runner.fail(1, BOOM)
        bench.runner.finish_row(2, "bc")
        began = bench.clock.monotonic()
        assert not wait(futures, timeout=10).done - set(futures)
        bench.sleep(max(0.0, 31 - (bench.clock.monotonic() - began)))
        bench.runner.finish(4, "a")
        futures.wait()
        assert futures.result() == ["a", "b", "c"]


def test_first_completed_is_the_first_item_to_end(bench: Bench) -> None:
    futures = work.map(range(3))
    bench.runner.finish_row(2, "b")
    assert wait(futures, return_when="FIRST_COMPLETED").done == {futures[1]}
    bench.runner.finish_row(3, "c")
    assert wait(futures, return_when="FIRST_COMPLETED").done == {futures[1]}, "enough before"
    left = [futures[0], futures[2]]
    assert wait(left, return_when="FIRST_COMPLETED").done == {futures[2]}
    finish_all(bench)


def test_first_exception_is_the_first_item_that_fails(bench: Bench) -> None:
    futures = work.map(range(4))
    bench.runner.finish_row(1, "a")
    bench.runner.fail(3, BOOM)
    done, not_done = wait(futures, return_when="FIRST_EXCEPTION")
    assert (done, not_done) == ({futures[0], futures[2]}, {futures[1], futures[3]})
    finish_all(bench)
    assert wait(futures[:2], return_when="FIRST_EXCEPTION").done == set(futures[:2])


def test_items_come_as_they_are_completed(bench: Bench) -> None:
    futures = work.map(range(5))
    finish_row(bench, 4, "d")
    bench.clock.advance(1)
    finish_row(bench, 1, "a", "b")
    coming = as_completed(futures)
    order = [next(coming) for _ in range(3)]
    bench.runner.fail(5, BOOM)
    bench.runner.finish_row(3, "c")
    order += coming
    assert [futures.index(each) for each in order] == [3, 0, 1, 4, 2]
    finish_all(bench)


def test_items_that_do_not_come_in_time_are_a_timeout(bench: Bench) -> None:
    futures = work.map(range(2))
    coming = as_completed(futures, timeout=1)
    bench.runner.finish_row(1, "a")
    assert next(coming) is futures[0]
    with pytest.raises(TimeoutError, match="1 of 2 runs"):
        next(coming)
    finish_all(bench)


def test_a_flow_is_idle_when_the_last_item_has_ended(quiet: Bench) -> None:
    work.map(range(3))
    assert not quiet.engine.wait_until_idle(quiet.flow_run, 1)
    quiet.runner.finish_row(1, "ab")
    assert not quiet.engine.wait_until_idle(quiet.flow_run, 1)
    quiet.runner.finish_row(3, "c")
    assert quiet.engine.wait_until_idle(quiet.flow_run, 1)


def test_the_end_of_a_flow_waits_for_a_made_item_as_well(quiet: Bench) -> None:
    futures = work.map(range(2))
    assert futures[0].state.is_pending()
    quiet.runner.finish_row(2, "b")
    assert not quiet.engine.wait_until_idle(quiet.flow_run, 1)
    quiet.runner.finish(1, "a")
    assert quiet.engine.wait_until_idle(quiet.flow_run, 1)


# --- memory -----------------------------------------------------------------------------


class Large:
    """An argument that can be watched."""


@pytest.mark.parametrize("how", ["returned", "made and returned", "failed", "cancelled"])
def test_arguments_are_let_go_of_when_an_item_ends(quiet: Bench, how: str) -> None:
    larges = [Large(), Large()]
    watched = [weakref.ref(large) for large in larges]
    futures = work.map(larges)
    del larges
    if how == "made and returned":
        assert futures[0].state.is_pending()
    if how == "cancelled":
        futures[0].cancel()
        quiet.runner.stop(1)
    elif how == "failed":
        quiet.runner.fail(1, ValueError("boom"))
    else:
        quiet.runner.finish_row(1, [1])
    quiet.drain()
    quiet.runner.submitted.clear()
    quiet.runner._open_attempts = {2: None}
    assert [each() is None for each in watched] == [True, False]
    finish_row(quiet, 2, 2)
    assert [each() for each in watched] == [None, None]
    assert futures[1].result() == 2


@pytest.mark.parametrize("is_made", [False, True])
def test_a_result_goes_with_its_future(quiet: Bench, is_made: bool) -> None:
    results = [Large() for _ in range(3)]
    watched = [weakref.ref(result) for result in results]
    futures = list(work.map(range(3)))
    if is_made:
        assert futures[1].state.is_pending()
    else:
        del futures[2]  # before its result is there
    finish_row(quiet, 1, *results)
    del results, futures[2:]
    assert [each() is None for each in watched] == [False, False, True]
    del futures[1]
    assert [each() is None for each in watched] == [False, True, True]
    assert futures[0].result() is watched[0]()


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_cancelled_item_whose_future_is_gone_is_neither_run_nor_counted_again(
    is_under_way: bool,
) -> None:
    with on(SeriesRunner(credit=2), logging_level="WARNING") as bench:
        futures = list(work.map(range(4)))
        place = 1 if is_under_way else 3
        futures[place].cancel()
        if is_under_way:
            bench.runner.stop(2)
            bench.drain()
        assert futures[place].state.is_cancelled()
        del futures[place]
        if is_under_way:
            bench.runner.report(Returned(1, ["a", "late"], [0.0, 0.0], [0.0, 0.0], "manual"))
            bench.runner._open_attempts.pop(1)
            bench.drain()
        finish_all(bench)
        assert [attempt.args[0] for attempt in bench.runner.submitted].count(place) == is_under_way
        assert [future.result() for future in futures] == (
            ["a", 2, 3] if is_under_way else [0, 1, 2]
        )


def test_a_map_that_is_over_lets_go_of_what_its_attempts_had_in_common(quiet: Bench) -> None:
    constant, value = Large(), Large()
    watched = [weakref.ref(constant), weakref.ref(value)]
    token = VARIABLE_OF_ANY.set(value)
    futures = work.map(range(2), unmapped(constant))
    VARIABLE_OF_ANY.reset(token)
    del constant, value, token
    finish_row(quiet, 1, *"ab")
    quiet.runner.submitted.clear()
    assert [each() for each in watched] == [None, None]
    assert futures[1].state.is_completed(), "made when it was over"
    assert futures.result() == ["a", "b"]


class Asking:
    """An argument whose finalizer looks at another item."""

    futures: ClassVar[Any] = None
    seen: ClassVar[list[str]] = []

    def __del__(self) -> None:
        self.seen.append(str(self.futures[1].state))


def test_a_finalizer_may_look_at_another_item_of_its_map(quiet: Bench) -> None:
    Asking.futures = work.map([Asking(), 1, 2])
    quiet.runner.finish_row(1, ["a"])
    quiet.runner.submitted.clear()
    quiet.runner._open_attempts = {2: None, 3: None}
    quiet.drain()
    assert Asking.seen == ["Pending()"]
    finish_row(quiet, 2, *"bc")
    assert Asking.futures.result() == list("abc")
    Asking.futures = None


def test_nothing_is_left_of_a_map_that_is_over_but_its_results(quiet: Bench) -> None:
    futures = work.map(range(3))
    series = series_of(futures[0])
    assert futures[1].state.is_pending()
    finish_row(quiet, 1, *"abc")
    check_books(quiet)
    assert series.is_over
    assert series.waiters == ()
    watched = weakref.ref(series)
    del series, futures
    assert watched() is None


# --- what is no series ------------------------------------------------------------------

VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
VARIABLE_OF_ANY: contextvars.ContextVar[Any] = contextvars.ContextVar("any", default=None)

OWN_NEEDS: dict[str, dict[str, Any]] = {
    "a name of its own": {"task_run_name": "named-{x}"},
    "a result that is kept": {"persist_result": True},
    "a time limit": {"timeout_seconds": 5},
    "a limited tag": {"tags": ["limited"]},
    "a limit of its own": {"max_concurrency": 3},
    "a rate": {"rate_limit": 10},
    "a state handler": {"state_handlers": [lambda _task, _old, new: new]},
    "variables to take along": {"propagate": [VARIABLE]},
    "results let go": {"retain": "states"},
    "a worker of its own": {"workers": "here"},
    "resources": {"resources": {"GPU": 1}},
    **{
        f"a hook {name}": {name: lambda _run: None}
        for name in (
            *("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation"),
        )
    },
}

NO_NEEDS: dict[str, dict[str, Any]] = {
    "retries": {"retries": 2, "crash_retries": 1, "retry_delay_seconds": 1},
    "priority": {"priority": 3},
    "tags": {"tags": ["free"]},
    "prints": {"log_prints": True},
    "a condition": {"retries": 1, "retry_condition_fn": lambda _task, _run, _state: True},
    "where results go": {"result_on": "driver"},
}


@contextlib.contextmanager
def choosy(**changed: Any) -> Iterator[Bench]:
    """A bench where everything can be asked for."""
    able = {"names_workers": True, "schedules_resources": True, "keeps_results": True, **changed}
    fields = ("isolation", "kill", "pickles", "takes_series")
    given = {name: getattr(TAKES_SERIES, name) for name in fields}
    runner = SeriesRunner(capabilities=Capabilities(**{**given, **able}))
    runner.resources = {"GPU": 8}
    with on(runner, tag_limits={"limited": 2}) as bench:
        yield bench


def is_series(futures: Iterable[PenstockFuture[Any]]) -> bool:
    kinds = {type(future) for future in futures}
    assert len(kinds) == 1
    return kinds == {SeriesFuture}


@pytest.mark.parametrize("options", OWN_NEEDS.values(), ids=OWN_NEEDS)
def test_runs_that_need_something_of_their_own_are_no_series(options: dict[str, Any]) -> None:
    with choosy() as bench:
        futures = work.with_options(**options).map(range(3))
        assert not is_series(futures)
        assert {was_series for was_series, _ in bench.runner.calls} == {False}
        while not all(future.done() for future in futures):
            finish_all(bench)
            bench.sleep(1)


@pytest.mark.parametrize("options", NO_NEEDS.values(), ids=NO_NEEDS)
def test_runs_that_differ_in_nothing_are_a_series(options: dict[str, Any]) -> None:
    with choosy() as bench:
        futures = work.with_options(**options).map(range(3))
        assert is_series(futures)
        finish_all(bench)


@pytest.mark.parametrize("missing", ["takes_series", "pickles"])
def test_a_runner_gets_no_series_unless_it_gains_from_it(missing: str) -> None:
    with choosy(**{missing: False}) as bench:
        assert not is_series(work.map(range(3)))
        finish_all(bench)


def test_coroutines_are_no_series_on_a_runner_that_takes_none(quiet: Bench) -> None:
    @task
    async def later(x: int) -> int:
        return x

    assert not is_series(later.map(range(2)))
    finish_all(quiet)


class Stubborn(list[Any]):
    """A list that cannot be gone through."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("not now")


def cases_of_arguments(future: PenstockFuture[Any], others: Any) -> dict[str, Callable[[], Any]]:
    return {
        "a future among the items": lambda: work.map([1, future]),
        "a future deep in an item": lambda: work.map([1, [{"a": (future,)}]]),
        "a map's futures": lambda: work.map(others),
        "a future for all": lambda: work.map([1, 2], y=unmapped([future])),
        "a mark in an item": lambda: work.map([1, quote([2])]),
        "failures allowed": lambda: work.map(allow_failure([1, 2])),
        "wait_for": lambda: work.map([1, 2], wait_for=[future]),
        "an end for all": lambda: work.map([1, 2], on_error="fail_fast"),
        "the end of what waits": lambda: work.map([1, 2], on_error="finish_running"),
        "one item": lambda: work.map([1]),
    }


CASES = list(cases_of_arguments(None, None))  # type: ignore[arg-type]  # for their names


@pytest.mark.parametrize("case", CASES)
def test_items_that_need_something_of_their_own_are_no_series(case: str) -> None:
    with choosy() as bench:
        others = work.map(["a", "b"])
        future = others[0]
        finish_all(bench)
        futures = cases_of_arguments(future, others)[case]()
        assert not is_series(futures)
        finish_all(bench)
        assert all(future.state.is_completed() for future in futures)


def test_an_item_that_cannot_be_looked_through_is_met_by_its_own_run(quiet: Bench) -> None:
    with pytest.raises(RuntimeError, match="not now"):
        work.map([1, Stubborn([2])])
    assert quiet.runner.calls == [(False, [1])]
    finish_all(quiet)


def test_an_iterator_is_no_series_and_an_empty_list_nothing(quiet: Bench) -> None:
    stream = work.map(iter(range(3)))
    assert not is_series(list(stream))
    assert list(work.map([])) == []
    finish_all(quiet)


def test_marks_on_what_all_items_get_are_taken_off(bench: Bench) -> None:
    shared = [1, 2]
    futures = work.map(range(2), y=quote(shared))
    assert is_series(futures)
    assert all(attempt.kwargs["y"] is shared for attempt in bench.runner.submitted)
    finish_all(bench)


def test_where_each_run_is_a_line_in_the_log_as_it_is_made_there_is_no_series(quiet: Bench) -> None:
    quiet.flow_run.logs_creation = True
    assert not is_series(work.map(range(2)))
    finish_all(quiet)


def test_where_values_are_known_by_their_makers_there_is_no_series(quiet: Bench) -> None:
    value = task(lambda: ["made"], name="maker")()
    futures = work.map([value, 2])
    assert not is_series(futures)
    assert [run.name for run in run_of(futures[0]).task_inputs["x"]] == ["maker-0"]
    finish_all(quiet)


def test_inside_of_a_task_there_is_no_series(quiet: Bench) -> None:
    @task
    def outer() -> bool:
        futures = work.map(range(2))
        finish_all(quiet)
        return is_series(futures)

    assert not outer()


def test_outside_of_a_flow_there_is_no_series() -> None:
    token = CURRENT.set(None)
    try:
        runner = SeriesRunner()
        futures = work.with_options(task_runner=runner).map(range(2))
        assert not is_series(futures)
        for attempt in runner.open_attempts:
            runner.finish(attempt.id, attempt.args[0])
        assert futures.result() == [0, 1]
    finally:
        CURRENT.reset(token)


def test_a_call_that_does_not_fit_the_function_is_refused_before_any_run(quiet: Bench) -> None:
    a_task: Task[Any, Any] = work
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        a_task.map([1, 2], z=3)
    assert quiet.flow_run.tally.begun == 0
    assert work.map([1, 2])[0].name == "work-0"
    finish_all(quiet)


# --- whole flows ------------------------------------------------------------------------


class Eager(SeriesRunner):
    """Runs what it gets as soon as it has it, and tells of it in rows."""

    def submit(self, attempts: Sequence[Attempt]) -> None:
        super().submit(attempts)
        for is_good, row in itertools.groupby(attempts, lambda attempt: attempt.args[0] != "bad"):
            some = list(row)
            if is_good and isinstance(attempts, Series):
                values = [attempt.fn(*attempt.args, **attempt.kwargs) for attempt in some]
                self.finish_row(some[0].id, values, time.monotonic())
            else:
                for attempt in some:
                    self.run(attempt.id)


@task
def picky(x: Any) -> Any:
    if x == "bad":
        raise BOOM
    return x


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_a_failure_that_nobody_looked_at_fails_the_flow(look: bool, level: str) -> None:
    @flow(task_runner=Eager())
    def outer() -> Any:
        futures = picky.map(["a", "bad", "c"])
        return futures.result(raise_on_failure=False) if look else None

    with test_harness(logging_level=level):
        if look:
            assert outer() == ["a", BOOM, "c"]
        else:
            with pytest.raises(UnobservedFailureError, match=r"1/3 states failed.*picky-1"):
                outer()


# --- real threads -----------------------------------------------------------------------


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
@pytest.mark.timeout(120)
def test_a_flow_can_be_told_to_end_while_other_threads_submit(quiet: Bench) -> None:
    work.map(range(500))

    rounds = threading.Semaphore(0)

    def submit() -> None:
        for _ in range(100):
            rounds.acquire()
            work.map(range(2))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(submit,))
    thread.start()
    for _ in range(100):
        rounds.release()
        with quiet.engine.loop.turn():
            quiet.engine._make_children(quiet.flow_run)
    thread.join(timeout=60)
    quiet.engine.abandon_children(quiet.flow_run)
    quiet.drain()
    assert quiet.flow_run.tally.cancelled == quiet.flow_run.tally.begun == 700


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("level", ["INFO", "WARNING"])
@pytest.mark.timeout(120)
def test_many_threads_may_look_at_items_while_these_end(level: str) -> None:
    count, lookers = 1500, 4
    runner = SeriesRunner(credit=40)
    with engine_for_test(runner, RealClock(), standby=True, logging_level=level) as bench:
        futures = work.map(range(count))
        ready = threading.Barrier(lookers + 1)
        faults: list[BaseException] = []

        def look(shift: int) -> None:
            try:
                ready.wait()
                for step in range(count):
                    future = futures[(step * 7 + shift * 61) % count]
                    if (step + shift) % 3 == 0:
                        future.state.is_final()
                    elif (step + shift) % 3 == 1:
                        future.done()
                    else:
                        assert future.result(timeout=60) in range(count)
            except BaseException as error:
                faults.append(error)

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(look, shift))
            for shift in range(lookers)
        ]
        for thread in threads:
            thread.start()
        ready.wait()
        while not all(future.done() for future in futures):
            rows = itertools.groupby(
                enumerate(runner.open_attempts), lambda pair: pair[1].id - pair[0]
            )
            for attempts in [[attempt for _, attempt in row] for _, row in rows]:
                for some in (attempts[:7], attempts[7:]):
                    if some:
                        values = [attempt.args[0] for attempt in some]
                        runner.finish_row(some[0].id, values, time.monotonic())
            bench.drain()
        for thread in threads:
            thread.join(timeout=60)
        assert faults == []
        assert not any(thread.is_alive() for thread in threads)
        assert futures.result() == list(range(count))
        assert len({future.task_run_id for future in futures}) == count
        assert all(names(future) == ["Pending", "Running", "Completed"] for future in futures)
        bench.settle()
        bench.drain()
        check_books(bench)
