"""Whatever happens to the items of maps, and in whatever order: each is a run that ends once."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import PenstockFutureList, task, wait
from penstock.attempt import Outcome, Packed, Series
from penstock.engine.task_run import MOST_UNCHARGED
from penstock.futures import SeriesFuture
from penstock.states import is_legal
from penstock.task_runners import Attempt, Capabilities, Output, SlotsChanged
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test
from penstock.worker.output import packed_record

if TYPE_CHECKING:
    from collections.abc import Sequence

TAKES_SERIES = Capabilities(isolation="process", kill="hard", pickles=True, takes_series=True)
LINE = packed_record(logging.LogRecord("of.a.task", logging.DEBUG, "", 0, "a line", (), None))


@dataclasses.dataclass(frozen=True)
class Map:
    """One call of `.map()`."""

    size: int
    retries: int
    crash_retries: int
    priority: int


maps = st.lists(
    st.builds(
        Map,
        size=st.integers(2, 12),
        retries=st.integers(0, 2),
        crash_retries=st.integers(0, 2),
        priority=st.integers(0, 1),
    ),
    min_size=1,
    max_size=3,
)

# Rows are what a series is for; and most of what has begun ends well.
ACTIONS = (
    *("row", "row", "row", "finish", "fail", "lose", "vanish", "stop", "start", "log", "late"),
    *("credit", "credit", "notice", "look", "look", "result", "list", "call back"),
    *("cancel", "cancel all"),
)
actions = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 40), st.integers(0, 12)), max_size=60
)


class Item:
    """What should be the case for one item; see `penstock.engine.task_run`."""

    def __init__(self, of: Map) -> None:
        self.of = of
        self.failures = self.crashes = self.uncharged = 0
        self.run_count = 0
        self.is_asked_to_end = False
        self.end: str | None = None
        self.value: Any = None
        self.callbacks = 0
        self.called_back = 0

    def attempt_ends(self, kind: str, value: Any, *, began: bool = True) -> None:
        self.run_count += began
        of = self.of
        if self.is_asked_to_end or kind == "stop":
            self.end = "Cancelled"
        elif kind == "finish":
            self.end, self.value = "Completed", value
        elif kind == "fail":
            self.failures += 1
            if self.failures > of.retries:
                self.end, self.value = "Failed", value
        elif not began and self.uncharged < MOST_UNCHARGED:
            self.uncharged += 1
        else:
            self.crashes += 1
            if self.crashes > of.crash_retries:
                self.end = "Crashed"


class SeriesRunner(ManualTaskRunner):
    """Remembers which attempts came as one series, and looks that there are not too many."""

    def __init__(self) -> None:
        super().__init__(credit=3, capabilities=TAKES_SERIES)
        self.piece_of: dict[int, int] = {}
        self.promised = 0
        self.faults: list[str] = []  # what is raised in `submit` would be taken for our own fault

    def credit(self) -> int:
        self.promised = super().credit()
        return self.promised

    def submit(self, attempts: Sequence[Attempt]) -> None:
        if len(attempts) > self.promised:
            self.faults.append(f"{len(attempts)} attempts, and {self.promised} were wanted")
        self.promised -= len(attempts)
        for attempt in attempts if isinstance(attempts, Series) else ():
            self.piece_of[attempt.id] = attempts[0].id
        super().submit(attempts)

    def row(self, attempt_id: int, most: int) -> list[int]:
        """Return the open attempts of the same series from this one on, without a gap."""
        piece = self.piece_of.get(attempt_id)
        following = itertools.takewhile(
            lambda each: each in self._open_attempts and self.piece_of.get(each) == piece,
            itertools.count(attempt_id),
        )
        return [] if piece is None else list(itertools.islice(following, most))


class Story:
    """What happens to the items of some maps."""

    def __init__(self, bench: EngineForTest, all_maps: list[Map]) -> None:
        self.bench = bench
        self.runner: SeriesRunner = bench.runner
        self.items: list[Item] = []
        self.lists: list[PenstockFutureList[Any]] = []
        for index, each in enumerate(all_maps):
            first = len(self.items)
            a_task = task(
                lambda item: item,
                name=f"map{index}",
                retries=each.retries,
                crash_retries=each.crash_retries,
                priority=each.priority,
            )
            self.items += [Item(each) for _ in range(each.size)]
            self.lists.append(a_task.map(range(first, len(self.items))))
        self.futures = [future for futures in self.lists for future in futures]
        self.ended: list[int] = []

    # --- actions ------------------------------------------------------------------------

    def act(self, action: str, which: int, much: int) -> None:
        match action:
            case "row" | "finish" | "fail" | "lose" | "vanish" | "stop" | "start" | "log":
                if attempts := self.runner.open_attempts:
                    self.go_on(action, attempts[which % len(attempts)].id, much)
            case "late":
                if self.ended:
                    self.runner.report(Outcome(self.ended[which % len(self.ended)], "lost"))
            case "credit":
                self.runner.credit_limit = much
                self.runner.report(SlotsChanged(much))
            case "notice":
                self.bench.drain()
            case "cancel all":
                self.cancel(self.lists[which % len(self.lists)])
            case "list":
                futures = self.lists[which % len(self.lists)]
                with_all = wait(futures, timeout=0)
                assert len(with_all.done) + len(with_all.not_done) == len(futures)
            case _:
                self.ask(action, which % len(self.futures), much)

    def go_on(self, action: str, attempt_id: int, much: int) -> None:
        runner, has_started = self.runner, attempt_id in self.runner._started
        match action:
            case "start" if not has_started:
                runner.start(attempt_id, self.bench.clock.monotonic())
            case "log":
                runner.report(Output(attempt_id, (LINE,), "manual"))
            case "row":
                row = runner.row(attempt_id, much)
                values = [self.end(each, "finish", each) for each in row]
                if row:
                    at = self.bench.clock.monotonic()
                    runner.finish_row(row[0], [packed(each) for each in values], at)
            case "finish":
                runner.finish(attempt_id, packed(self.end(attempt_id, action, attempt_id)))
            case "fail":
                runner.fail(attempt_id, self.end(attempt_id, action, ValueError(attempt_id)))
            case "lose":
                self.end(attempt_id, action, None)
                runner.lose(attempt_id)
            case "vanish" if not has_started:
                self.end(attempt_id, action, None, began=False)
                runner.lose(attempt_id, began=False)
            case "stop":
                self.end(attempt_id, action, None, began=has_started)
                runner.stop(attempt_id)
        self.bench.clock.advance(0.5)

    def end(self, attempt_id: int, kind: str, value: Any, *, began: bool = True) -> Any:
        item = self.items[self.runner._open_attempts[attempt_id].args[0]]
        self.ended.append(attempt_id)
        item.attempt_ends(kind, value, began=began)
        return value

    def ask(self, action: str, index: int, much: int) -> None:
        future = self.futures[index]
        match action:
            case "cancel":
                self.cancel([future], kill=much % 2 == 0)
            case "look":
                (future.done, lambda: future.state, lambda: future.name)[much % 3]()
            case "result":
                self.bench.drain()
                if self.items[index].end is None:
                    with pytest.raises(TimeoutError):
                        future.result(timeout=0)
                else:
                    self.check_result(index)
            case "call back":
                self.items[index].callbacks += 1
                future.add_done_callback(lambda _: self.called_back(index))

    def called_back(self, index: int) -> None:
        self.items[index].called_back += 1

    def cancel(self, futures: Sequence[Any], *, kill: bool = False) -> None:
        self.bench.drain()  # as cancelling does
        under_way = {attempt.args[0] for attempt in self.runner.open_attempts}
        for index, (item, future) in enumerate(zip(self.items, self.futures, strict=True)):
            if item.end is not None or not any(each is future for each in futures):
                continue
            if index in under_way:
                item.is_asked_to_end = True
            else:
                item.end = "Cancelled"
        PenstockFutureList(futures).cancel(kill)

    def come_to_an_end(self) -> None:
        self.act("credit", 0, 1000)
        self.bench.drain()
        while self.runner.open_attempts:
            for attempt in self.runner.open_attempts:
                if attempt.id in self.runner._open_attempts:  # else it went with a row
                    self.go_on("row" if attempt.id % 2 else "finish", attempt.id, 5)
                    if attempt.id in self.runner._open_attempts:
                        self.go_on("finish", attempt.id, 0)
            self.bench.drain()

    # --- what should be so ----------------------------------------------------------------

    def check(self) -> None:
        for futures in self.lists:
            shown = futures.result(raise_on_failure=False)
            for future, value in zip(futures, shown, strict=True):
                index = next(i for i, each in enumerate(self.futures) if each is future)
                self.check_value(index, value)
                assert value is future.result(raise_on_failure=False) or self.is_cancelled(index)
        for index, item in enumerate(self.items):
            self.check_result(index)
            self.check_run(index, item)
        assert self.runner.faults == []
        self.check_books()

    def is_cancelled(self, index: int) -> bool:
        return self.items[index].end == "Cancelled"  # each who asks gets an exception of its own

    def check_result(self, index: int) -> None:
        self.check_value(index, self.futures[index].result(0, raise_on_failure=False))

    def check_value(self, index: int, value: Any) -> None:
        item = self.items[index]
        if item.end == "Completed":
            assert value == [item.value]
        elif item.end == "Failed":
            assert value is item.value
        else:
            assert (
                type(value).__name__
                == {"Cancelled": "CancelledRun", "Crashed": "WorkerLost"}[str(item.end)]
            )

    def check_run(self, index: int, item: Item) -> None:
        run = self.futures[index].run
        states = run.states
        assert states[0].is_pending()
        assert [state.is_final() for state in states] == [False] * (len(states) - 1) + [True]
        for old, new in itertools.pairwise(states):
            assert is_legal(old, new), f"{old} to {new} in {states}"
            assert old.at <= new.at
        assert (run.state.name, run.run_count) == (item.end, item.run_count)
        assert item.called_back == item.callbacks
        assert (run.waiters, run.callbacks) == ((), None)
        assert run.parameters == {}

    def check_books(self) -> None:
        engine, flow_run = self.bench.engine, self.bench.flow_run
        assert engine.dispatcher._series == []
        assert engine.dispatcher.attempts == {}
        assert engine.loop.in_flight == 0
        assert flow_run.active == set()
        assert all(not handle.ready for handle in engine.dispatcher.handles())
        assert flow_run.tally.begun == len(self.items)
        assert flow_run.tally.cancelled == sum(item.end == "Cancelled" for item in self.items)
        bad = [item for item in self.items if item.end in ("Failed", "Crashed")]
        assert len(flow_run.tally.unseen) == len(bad)
        ids = {future.task_run_id for future in self.futures}
        assert len(ids) == len(self.items)


def packed(value: int) -> Any:
    """Return what takes the place of a result, a list, until somebody asks for it."""
    return Packed(pickle.dumps([value])) if value % 3 else [value]


@pytest.mark.timeout(400)  # a failure is shrunk for minutes before it is shown
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(maps, actions, st.sampled_from(["CRITICAL", "INFO"]))
def test_every_item_of_any_map_ends_once_and_as_it_should(
    all_maps: list[Map], story: list[tuple[str, int, int]], level: str
) -> None:
    """At INFO each end is a line in the log, and so each item that ends becomes a run."""
    with engine_for_test(SeriesRunner(), logging_level=level) as bench:
        told = Story(bench, all_maps)
        assert all(type(future) is SeriesFuture for future in told.futures)
        for action, which, much in story:
            told.act(action, which, much)
        told.come_to_an_end()
        told.check()
