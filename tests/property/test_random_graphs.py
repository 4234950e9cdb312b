"""Whatever the graph, whatever happens to its runs, and in whatever order: every run ends once."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import itertools
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import KeptUntilLost

from penstock import PenstockFuture, allow_failure, task
from penstock.attempt import Outcome
from penstock.engine.loop import RealClock
from penstock.engine.task_run import MOST_UNCHARGED
from penstock.states import Failed, Paused, Scheduled, State, StateType, is_legal
from penstock.task_runners import Attempt, SlotsChanged
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test

if TYPE_CHECKING:
    from collections.abc import Sequence

# --- graphs -----------------------------------------------------------------------------

ENDS = ("return", "raise", "base", "lose", "vanish", "time out", "abandon", "stop", "state")
"""What may become of an attempt. `vanish`: its worker dies before it began."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One task of a graph."""

    inputs: tuple[int, ...]
    waits: tuple[int, ...]
    tolerates: bool
    ends: tuple[str, ...]
    """The end of each attempt; the last one is that of all further attempts."""
    retries: int
    delay: float
    crash_retries: int
    has_timeout: bool
    priority: int
    is_tagged: bool
    handler: str | None


@st.composite
def graphs(draw: st.DrawFn, most: int = 40, ends: Sequence[str] = ENDS) -> list[Node]:
    # Most attempts return, or else nothing would ever be reached but the first few runs.
    end = st.sampled_from([*["return"] * 2 * len(ends), *ends])
    nodes: list[Node] = []
    for index in range(draw(st.integers(5, most))):
        earlier = st.lists(st.integers(0, max(0, index - 1)), max_size=2 if index else 0)
        nodes.append(
            Node(
                inputs=tuple(draw(earlier)),
                waits=tuple(draw(earlier)),
                tolerates=draw(st.booleans()),
                ends=tuple(draw(st.lists(end, min_size=1, max_size=3))),
                retries=draw(st.integers(0, 2)),
                delay=draw(st.sampled_from([0.0, 5.0])),
                crash_retries=draw(st.integers(0, 2)),
                has_timeout=draw(st.booleans()),
                priority=draw(st.integers(-1, 1)),
                is_tagged=draw(st.booleans()),
                handler=draw(st.sampled_from([None] * 8 + ["veto", "hold back", "odd"])),
            )
        )
    return nodes


def handler_of(kind: str, bench: EngineForTest) -> Any:
    """A state handler that meddles with the start of a run."""

    def handler(_task: Any, old: State[Any], new: State[Any]) -> State[Any] | None:
        if kind == "veto" and new.is_running():
            return Failed("vetoed")
        if kind == "hold back" and new.is_running() and not old.is_scheduled():
            when = datetime.datetime.fromtimestamp(bench.clock.time() + 0.01, datetime.UTC)
            return Scheduled(when)
        return Paused() if kind == "odd" else None

    return handler


class Watched:
    """The runs of one graph, and what was seen of them."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.futures: list[PenstockFuture[Any]] = []
        self.asked_to_end: set[int] = set()
        self.final_hooks: collections.Counter[str] = collections.Counter()
        self.perhaps_begun: collections.Counter[int] = collections.Counter()

    def submit_all(self, fn: Any, timeout: float, bench: EngineForTest) -> None:
        def count(task_run: Any) -> None:
            self.final_hooks[task_run.name] += 1

        for index, node in enumerate(self.nodes):
            a_task = task(
                fn,
                name=f"node{index}",
                retries=node.retries,
                retry_delay_seconds=node.delay,
                crash_retries=node.crash_retries,
                timeout_seconds=timeout if node.has_timeout else None,
                priority=node.priority,
                tags=["limited"] if node.is_tagged else [],
                state_handlers=[handler_of(node.handler, bench)] if node.handler else [],
                on_completion=count,
                on_failure=count,
                on_crashed=count,
                on_cancellation=count,
            )
            inputs: Any = [self.futures[each] for each in node.inputs]
            self.futures.append(
                a_task.submit(
                    index,
                    allow_failure(inputs) if node.tolerates else inputs,
                    wait_for=[self.futures[each] for each in node.waits],
                )
            )

    def check(self, bench: EngineForTest) -> None:
        for index, future in enumerate(self.futures):
            self._check_history(future)
            self._check_inputs(index, future)
            run = future.run
            assert (run.waiters, run.callbacks, run.dependents) == ((), None, None)
            assert self.final_hooks[run.name] == 1
        self._check_books(bench)

    def check_with_losses(self, bench: EngineForTest) -> None:
        """As `check`, where a run may have had several lives, each of them ended as it should."""
        for future in self.futures:
            run = future.run
            for old, new in itertools.pairwise(run.states):
                assert is_legal(old, new), f"{old} to {new} in {run.states}"
            lives = sum(state.name == "ResultLost" for state in run.states)
            finals = [state for state in run.states if state.is_final()]
            assert len(finals) == 1 + lives
            assert all(state.is_completed() for state in finals[:-1])
            assert run.states[-1].is_final()
            assert (run.waiters, run.callbacks, run.dependents) == ((), None, None)
        self._check_books(bench)

    def _check_books(self, bench: EngineForTest) -> None:
        engine = bench.engine
        assert bench.flow_run.active == set()
        assert engine.dispatcher.attempts == {}
        assert engine.loop.in_flight == 0
        assert engine._sleepers == set()
        assert engine._resuming == {}
        assert engine._lost == {}
        assert engine.dispatcher.admission.limits._holding == {}
        assert all(not handle.ready for handle in engine.dispatcher.handles())

    def _check_history(self, future: PenstockFuture[Any]) -> None:
        states = future.run.states
        assert states[0].is_pending()
        for old, new in itertools.pairwise(states):
            assert is_legal(old, new), f"{old} to {new} in {states}"
        assert [state.is_final() for state in states] == [False] * (len(states) - 1) + [True]
        assert all(old.at <= new.at for old, new in itertools.pairwise(states))

    def _check_inputs(self, index: int, future: PenstockFuture[Any]) -> None:
        node, run = self.nodes[index], future.run
        perhaps = min(self.perhaps_begun[index], MOST_UNCHARGED)
        assert run.run_count <= 1 + node.retries + node.crash_retries + perhaps
        if index in self.asked_to_end and run.state.is_cancelled():
            return
        if node.handler == "odd":
            assert run.state.is_failed()
            return
        tolerated = set(node.inputs) if node.tolerates else set()
        needed = {*node.inputs, *node.waits} - tolerated
        ends = [self.futures[each].run.state for each in needed]
        if any(end.is_failed() or end.is_crashed() for end in ends):
            assert run.state.name == "UpstreamFailed"
        elif any(end.is_cancelled() for end in ends):
            assert run.state.is_cancelled()
        else:
            assert run.state.name != "UpstreamFailed"
            return
        assert run.run_count == 0


# --- with everything moved by hand ------------------------------------------------------

TIMEOUT = 10.0
LATE = 3  # of how many attempts that timed out one is heard of again


def is_made_again(run: Any) -> bool:
    """Whether it had ended, and lives on for somebody who needs what was lost."""
    return any(state.name == "ResultLost" for state in run.states)


class CheckingRunner(ManualTaskRunner):
    """Looks at every attempt it is given: all that it needs must be over."""

    bench: EngineForTest

    def __init__(self, credit: int) -> None:
        super().__init__(credit=credit)
        self.promised = 0
        self.faults: list[str] = []  # what is raised in `submit` would be taken for our own fault

    def credit(self) -> int:
        self.promised = super().credit()
        return self.promised

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self._expect(len(attempts) <= self.promised, "more than was wanted")
        self.promised -= len(attempts)
        for attempt in attempts:
            run = self.bench.engine.dispatcher.attempts[attempt.id]
            inputs = attempt.args[1]
            is_over = all(each.state.is_final() or is_made_again(each) for each in run.upstream)
            self._expect(is_over, "inputs not over")
            self._expect(not any(isinstance(each, PenstockFuture) for each in inputs), "a future")
            self._expect(not run.state.is_final(), "a run that is over")
        super().submit(attempts)

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.faults.append(otherwise)


ENDS_OF_STATES = (StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED)


class Story:
    """What happens to the attempts of one graph, in a random order."""

    def __init__(self, watched: Watched, bench: EngineForTest, rng: random.Random) -> None:
        self.watched = watched
        self.bench = bench
        self.runner: CheckingRunner = bench.runner
        self.rng = rng
        self.tries: collections.Counter[int] = collections.Counter()
        self.fate: dict[int, str] = {}
        self.begun: set[int] = set()

    def tell(self) -> None:
        for _ in range(10_000):
            if all(future.done() for future in self.watched.futures):
                break
            self.one_thing_happens()
            if self.rng.random() < 0.7:  # else several things are noticed at once
                self.bench.drain()
        else:
            pytest.fail("it never ends")
        for attempt in self.runner.open_attempts:  # timed out, or cancelled in vain
            self.runner.finish(attempt.id, "late")
        self.bench.drain()

    def one_thing_happens(self) -> None:
        luck = self.rng.random()
        if luck < 0.04:
            index = self.rng.randrange(len(self.watched.futures))
            self.watched.asked_to_end.add(index)
            self.watched.futures[index].cancel(kill=self.rng.random() < 0.5)
        elif luck < 0.08:
            self.set_slots(self.rng.randint(0, 6))
        elif luck < 0.12 or not self.runner.open_attempts:
            if not self.runner.credit_limit:
                self.set_slots(1)
            self.bench.sleep(self.rng.choice([0.5, 6.0]))
        else:
            self.go_on(self.rng.choice(self.runner.open_attempts))

    def set_slots(self, number: int) -> None:
        more = number > self.runner.credit_limit
        self.runner.credit_limit = number
        if more and self.runner.is_open:
            self.runner.report(SlotsChanged(number))

    def go_on(self, attempt: Attempt) -> None:
        number, runner = attempt.id, self.runner
        index = attempt.args[0]
        if number not in self.fate:
            ends = self.watched.nodes[index].ends
            self.fate[number] = ends[min(self.tries[index], len(ends) - 1)]
            self.tries[index] += 1
        fate = self.fate[number]
        if any(each == number for each, _ in runner.cancelled) and self.rng.random() < 0.5:
            runner.stop(number)
        elif fate == "vanish":
            runner.lose(number, began=False)
        elif number not in self.begun and self.rng.random() < 0.8:
            self.begun.add(number)
            runner.start(number, self.bench.clock.monotonic())
        elif fate == "time out" and self.watched.nodes[index].has_timeout:
            if number in self.begun:
                self.bench.sleep(TIMEOUT + 1)
            if self.rng.randrange(LATE) == 0 or number not in self.begun:
                runner.finish(number, "late")
        elif fate == "raise":
            runner.fail(number, ValueError(f"of node {index}"))
        elif fate == "base":
            runner.fail(number, self.rng.choice([SystemExit(1), KeyboardInterrupt()]))
        elif fate == "lose":
            began = self.rng.choice([True, None])
            self.watched.perhaps_begun[index] += began is None
            runner.lose(number, began=began)
        elif fate == "abandon":
            runner.abandon(number)
        elif fate == "stop":
            runner.stop(number)
        elif fate == "state":
            state: State[Any] = State(self.rng.choice(ENDS_OF_STATES))
            runner.finish(number, state)
        else:
            runner.finish(number, index)
        if self.rng.random() < 0.05:
            runner.report(Outcome(number, "returned", "once more"))


@pytest.mark.timeout(400)  # a failure is shrunk for minutes before it is shown
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.integers(0, 2**32))
def test_every_run_of_any_graph_ends_once_and_by_legal_moves(nodes: list[Node], order: int) -> None:
    runner = CheckingRunner(credit=3)
    with engine_for_test(runner, tag_limits={"limited": 2}, logging_level="CRITICAL") as bench:
        runner.bench = bench
        watched = Watched(nodes)
        watched.submit_all(lambda index, inputs: index, TIMEOUT, bench)
        Story(watched, bench, random.Random(order)).tell()
        watched.check(bench)
        assert runner.faults == []


# --- results that stay with workers, and get lost --------------------------------------------


class ForgetfulStory(Story):
    """As `Story`; many results stay with the runner, which loses some of them now and then."""

    def __init__(self, watched: Watched, bench: EngineForTest, rng: random.Random) -> None:
        super().__init__(watched, bench, rng)
        self.kept: list[KeptUntilLost] = []
        self.remade = 0

    def one_thing_happens(self) -> None:
        if self.kept and self.remade < 30 and self.rng.random() < 0.1:  # else it need not end
            self.rng.choice(self.kept).is_lost = True
            self.remade += 1
        else:
            super().one_thing_happens()

    def go_on(self, attempt: Attempt) -> None:
        lost = tuple(
            dict.fromkeys(
                current
                for value in attempt.args[1]
                if isinstance(value, KeptUntilLost)
                and isinstance(current := value.current(), KeptUntilLost)
                and current.is_lost
            )
        )
        if lost and attempt.id not in self.begun:
            self.runner._end(Outcome(attempt.id, "lost", began=False, lost_inputs=lost))
        elif self.rng.random() < 0.4:
            kept = KeptUntilLost(attempt.args[0], self.runner)
            self.kept.append(kept)
            self.runner.finish(attempt.id, kept)
        else:
            super().go_on(attempt)


@pytest.mark.timeout(400)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(ends=["return", "raise", "lose", "stop"]), st.integers(0, 2**32))
def test_whatever_results_are_lost_every_run_ends_and_by_legal_moves(
    nodes: list[Node], order: int
) -> None:
    # A handler may veto the second life of a run, whose users then end by that.
    nodes = [dataclasses.replace(node, handler=None) for node in nodes]
    runner = CheckingRunner(credit=3)
    runner.capabilities = dataclasses.replace(runner.capabilities, keeps_results=True)
    with engine_for_test(runner, tag_limits={"limited": 2}, logging_level="CRITICAL") as bench:
        runner.bench = bench
        watched = Watched(nodes)
        watched.submit_all(lambda index, inputs: index, TIMEOUT, bench)
        ForgetfulStory(watched, bench, random.Random(order)).tell()
        watched.check_with_losses(bench)
        assert runner.faults == []


# --- on real threads --------------------------------------------------------------------

REAL_TIMEOUT = 0.01


class Fault(BaseException):
    """What no `except Exception` in user code would catch."""


class Bodies:
    """The functions of one graph, which really do what their nodes say."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.tries: collections.Counter[int] = collections.Counter()
        self.lock = threading.Lock()

    def __call__(self, index: int, inputs: Any) -> int:
        with self.lock:
            tries, self.tries[index] = self.tries[index], self.tries[index] + 1
        ends = self.nodes[index].ends
        end = ends[min(tries, len(ends) - 1)]
        if end == "raise":
            raise ValueError(index)
        if end == "base":
            raise Fault(index)
        if end == "time out":
            time.sleep(REAL_TIMEOUT * 1.5)
        return index


@pytest.mark.timeout(400)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    graphs(most=15, ends=["return", "raise", "base", "time out"]),
    st.lists(st.tuples(st.integers(0, 14), st.booleans()), max_size=3),
)
def test_every_run_of_any_graph_ends_once_on_threads(
    nodes: list[Node], cancels: list[tuple[int, bool]]
) -> None:
    nodes = [dataclasses.replace(node, delay=min(node.delay, 0.002)) for node in nodes]
    with engine_for_test(
        "thread:2",
        RealClock(),
        standby=True,
        tag_limits={"limited": 1},
        logging_level="CRITICAL",
    ) as bench:
        watched = Watched(nodes)
        watched.submit_all(Bodies(nodes), REAL_TIMEOUT, bench)
        for index, kill in cancels:
            if index < len(nodes):
                watched.asked_to_end.add(index)
                watched.futures[index].cancel(kill)
        assert bench.engine.wait_until_idle(bench.flow_run, 20)
        watched.check(bench)
