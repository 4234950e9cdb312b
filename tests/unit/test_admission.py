"""Promises of admission: places and a token, all of them or none, and nobody is forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.admission import Admission
from penstock.engine.limits import Owner
from penstock.engine.loop import Timer
from penstock.engine.rates import Rate
from penstock.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

ONE_A_SECOND = Rate(1.0, Owner(len))


class Bench:
    """Admission with a clock that is moved by hand; who goes on after a wait is noted."""

    def __init__(self, **limits: int) -> None:
        self.clock = ManualClock()
        self.timers: list[Timer] = []
        self.went_on: list[Any] = []
        self.admission = Admission(limits, self.went_on.append, self)

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, len(self.timers), fn))
        return self.timers[-1]

    def take_back(self, timer: Timer) -> None:
        self.timers.remove(timer)

    def a_run(self, *limits: str, rate: Rate | None = ONE_A_SECOND, parent: Any = None) -> Any:
        plan = SimpleNamespace(limits=limits, rate=rate)
        return type("Run", (), {"plan": plan, "parent": parent, "is_flow_run": False})()

    def ask(self, *limits: str, rate: Rate | None = ONE_A_SECOND, parent: Any = None) -> Any:
        run = self.a_run(*limits, rate=rate, parent=parent)
        if self.admission.admit(run):
            self.went_on.append(run)
        return run

    def begin_and_end(self, run: Any) -> None:
        self.admission.begin(run)
        self.admission.release(run)

    def sleep(self, seconds: float) -> list[Any]:
        """Who has gone on meanwhile."""
        before = len(self.went_on)
        until = self.clock.monotonic() + seconds
        while self.timers and (first := min(self.timers)).when <= until:
            self.clock.advance(max(0.0, first.when - self.clock.monotonic()))
            self.timers.remove(first)
            assert first.fn is not None
            first.fn()
        self.clock.advance(max(0.0, until - self.clock.monotonic()))
        return self.went_on[before:]


def test_who_has_to_wait_is_told_by_a_timer_one_after_the_other() -> None:
    bench = Bench()
    runs = [bench.ask() for _ in range(3)]
    assert bench.went_on == runs[:1]
    bench.begin_and_end(runs[0])
    assert bench.sleep(0.9) == []
    assert bench.sleep(0.2) == [runs[1]]
    bench.begin_and_end(runs[1])
    assert bench.sleep(1.0) == [runs[2]]


def test_without_anybody_who_waits_there_is_no_timer() -> None:
    bench = Bench()
    first, second = bench.ask(), bench.ask()
    bench.begin_and_end(first)
    assert len(bench.timers) == 1
    assert bench.admission.withdraw(second)
    assert bench.timers == []


def test_while_nobody_begins_nobody_follows() -> None:
    bench = Bench()
    first, second = bench.ask(), bench.ask()
    assert bench.sleep(100.0) == [], "the first waits in a runner's queue, and has not begun"
    bench.admission.begin(first)
    assert bench.sleep(1.0) == [second]


def test_a_run_that_is_cancelled_before_it_begins_leaves_its_token_to_the_next() -> None:
    bench = Bench()
    first, second = bench.ask(), bench.ask()
    bench.admission.release(first)
    assert bench.went_on == [first, second]


def test_who_waits_for_a_token_holds_no_place() -> None:
    bench = Bench(db=1)
    first = bench.ask("db")
    bench.ask("db")
    bench.begin_and_end(first)
    other = bench.ask("db", rate=None)
    assert bench.went_on == [first, other]


def test_who_waits_for_a_place_holds_no_token() -> None:
    bench = Bench(db=1)
    outer = bench.ask("db", rate=None)
    scout = bench.ask("db")
    inner = bench.ask("db", parent=outer)
    assert bench.went_on == [outer, inner], "outer waits for inner, and scout for outer"
    bench.begin_and_end(inner)
    bench.admission.release(outer)
    assert scout not in bench.went_on, "its token went to inner"
    assert bench.sleep(1.0) == [scout]


def test_a_run_inside_of_another_goes_to_the_head_of_the_line() -> None:
    bench = Bench(db=1)
    outer = bench.ask("db")
    bench.admission.begin(outer)
    waiting = bench.ask("db")
    inner = bench.ask(parent=outer)
    assert bench.sleep(1.0) == [inner]
    bench.begin_and_end(inner)
    bench.admission.release(outer)
    assert bench.sleep(1.0) == [waiting]


def test_a_place_that_a_scout_cannot_use_goes_to_somebody_else() -> None:
    bench = Bench(db=1)
    outer = bench.ask("db", rate=None)
    bench.ask("db")  # the scout
    other = bench.ask("db", rate=None)
    bench.begin_and_end(bench.ask("db", parent=outer))
    bench.admission.release(outer)
    assert bench.went_on[-1] is other


def test_a_scout_that_withdraws_lets_the_next_one_try() -> None:
    bench = Bench(db=1)
    bench.ask("db", rate=None)
    scout, free = bench.ask("db"), bench.ask()
    assert free not in bench.went_on, "the token is for the scout, which came first"
    assert bench.admission.withdraw(scout)
    assert bench.went_on[-1] is free


def test_who_waits_for_resources_leaves_what_a_run_inside_of_another_needs() -> None:
    for rate, limits in ((ONE_A_SECOND, ()), (None, ("db",))):
        bench = Bench(db=1)
        outer = bench.a_run(rate=None)
        waiting = bench.ask(*limits, rate=rate)
        bench.admission.park(waiting)  # for what the outer one has
        inner = bench.ask(*limits, rate=rate, parent=outer)
        assert bench.went_on == [waiting, inner]
        bench.begin_and_end(inner)
        assert bench.admission.unpark(waiting) is (rate is None), "it is admitted anew"
        assert bench.sleep(1.0) == ([] if rate is None else [waiting])


def test_it_does_so_too_when_it_comes_later() -> None:
    bench = Bench(db=1, api=1)
    holder, outer = bench.ask("api", rate=None), bench.a_run(rate=None)
    inner = bench.ask("db", "api", rate=None, parent=bench.a_run(rate=None, parent=outer))
    waiting = bench.ask("db", rate=None)
    bench.admission.park(waiting)
    bench.admission.park(waiting)
    bench.admission.release(holder)
    assert bench.went_on == [holder, waiting, inner]


def test_who_gave_back_and_is_cancelled_has_nothing_more_to_give() -> None:
    bench = Bench(db=1)
    waiting = bench.ask("db", rate=None)
    bench.admission.park(waiting)
    inner = bench.ask("db", rate=None, parent=bench.a_run(rate=None))
    bench.admission.release(waiting)
    third = bench.ask("db", rate=None)
    assert bench.went_on == [waiting, inner]
    bench.admission.release(inner)
    assert bench.went_on == [waiting, inner, third]


def test_what_was_parked_keeps_its_token_if_nobody_inside_needs_it() -> None:
    bench = Bench()
    waiting = bench.ask()
    bench.admission.park(waiting)
    other = bench.ask()
    assert bench.went_on == [waiting]
    assert bench.admission.unpark(waiting)
    bench.begin_and_end(waiting)
    assert bench.sleep(1.0) == [other]


def test_to_withdraw_what_does_not_wait_is_no() -> None:
    bench = Bench(db=1)
    assert not bench.admission.withdraw(bench.ask("db"))
    assert not bench.admission.withdraw(bench.a_run("db", rate=None))


TASKS = st.tuples(
    st.lists(st.sampled_from(["a", "b"]), unique=True),
    st.sampled_from([None, Rate(1.0, Owner(len)), Rate(3.0, Owner(repr))]),
)


@given(
    st.lists(TASKS, max_size=25),
    st.lists(st.sampled_from(["sleep", "begin", "end", "withdraw"]), max_size=60),
    st.randoms(use_true_random=False),
)
def test_whatever_happens_everybody_goes_on_in_the_end(
    wanted: list[tuple[list[str], Rate | None]], steps: list[str], rng: Any
) -> None:
    bench = Bench(a=1, b=2)
    waiting = [bench.ask(*limits, rate=rate) for limits, rate in wanted]
    over: list[Any] = []
    endless = ["sleep", "begin", "end"] * (6 * len(waiting))
    for what in [*steps, *endless]:
        under_way = [run for run in bench.went_on if run not in over]
        for limit, most in (("a", 1), ("b", 2)):
            assert sum(limit in run.plan.limits for run in under_way) <= most
        if what == "sleep":
            bench.sleep(0.5)
        elif what == "begin" and under_way:
            bench.admission.begin(rng.choice(under_way))
        elif what == "end" and under_way:
            run = rng.choice(under_way)
            bench.admission.release(run)
            over.append(run)
        elif what == "withdraw" and waiting:
            run = rng.choice(waiting)
            if run not in bench.went_on and bench.admission.withdraw(run):
                waiting.remove(run)
    assert set(map(id, bench.went_on)) == set(map(id, waiting))
