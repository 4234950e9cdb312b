"""Promises of the loop: one turn, events in order, timers on time, waiting that drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from penstock.engine import interrupts
from penstock.engine.loop import CountdownWaiter, Loop, Waiter
from penstock.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

RUN: Any = object()


class Bench:
    """A loop without a standby thread that writes down what it acts on."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.seen: list[Any] = []
        self.loop = Loop(self._handle, self._settle, self.clock, standby=False)

    def _handle(self, event: Any) -> None:
        assert self.loop.holds_turn()
        if callable(event):
            event()
        else:
            self.seen.append(event)

    def _settle(self) -> None:
        assert self.loop.holds_turn()
        self.seen.append("settled")

    def drain(self) -> None:
        with self.loop.turn():
            self.loop.drain()

    def note(self, what: Any) -> Callable[[], None]:
        return lambda: self.seen.append(what)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- the turn ---------------------------------------------------------------------------


def test_nobody_holds_the_turn_at_first(bench: Bench) -> None:
    assert not bench.loop.holds_turn()
    assert bench.loop.may_drive()  # the owner, whenever it waits


def test_the_turn_is_given_back_at_the_end_of_the_outermost_block(bench: Bench) -> None:
    with bench.loop.turn():
        with bench.loop.turn():
            assert bench.loop.holds_turn()
        assert bench.loop.holds_turn()
    assert not bench.loop.holds_turn()


def test_the_turn_is_given_back_when_the_block_raises(bench: Bench) -> None:
    with pytest.raises(KeyError), bench.loop.turn():
        raise KeyError
    assert not bench.loop.holds_turn()


def test_a_free_turn_can_be_taken_without_waiting(bench: Bench) -> None:
    assert bench.loop.try_turn()
    bench.loop.give_turn()


def test_a_thread_that_neither_owns_the_loop_nor_has_the_turn_may_not_drive(bench: Bench) -> None:
    bench.loop.owner = -1
    assert not bench.loop.may_drive()
    with bench.loop.turn():
        assert bench.loop.may_drive()


# --- events -----------------------------------------------------------------------------


def test_an_event_is_acted_on_when_the_loop_is_drained_and_not_before(bench: Bench) -> None:
    bench.loop.post("a")
    assert bench.seen == []
    bench.drain()
    assert bench.seen == ["a", "settled"]


def test_events_are_acted_on_in_order_and_settled_once(bench: Bench) -> None:
    for event in "abc":
        bench.loop.post(event)
    bench.drain()
    assert bench.seen == ["a", "b", "c", "settled"]


def test_an_event_posted_while_acting_on_another_belongs_to_the_same_bunch(bench: Bench) -> None:
    bench.loop.post(lambda: bench.loop.post("later"))
    bench.drain()
    assert bench.seen == ["later", "settled"]


def test_a_nudge_is_no_event(bench: Bench) -> None:
    bench.loop.nudge()
    bench.drain()
    assert bench.seen == ["settled"]


def test_after_an_event_that_raises_the_others_are_still_there(bench: Bench) -> None:
    def fault() -> None:
        raise KeyError

    bench.loop.post(fault)
    bench.loop.post("next")
    with pytest.raises(KeyError):
        bench.drain()
    assert not bench.loop.holds_turn()
    bench.drain()
    assert bench.seen == ["next", "settled"]


# --- timers -----------------------------------------------------------------------------


def test_a_timer_rings_at_its_time_and_not_before(bench: Bench) -> None:
    with bench.loop.turn():
        bench.loop.call_at(5.0, bench.note("rung"))
    bench.clock.advance(4.9)
    bench.drain()
    assert bench.seen == ["settled"]
    bench.clock.advance(0.1)
    bench.drain()
    assert bench.seen == ["settled", "rung", "settled"]


def test_timers_ring_in_the_order_of_their_times(bench: Bench) -> None:
    for seconds in (3.0, 1.0, 2.0):
        bench.loop.call_at(seconds, bench.note(seconds))
    bench.clock.advance(10)
    bench.drain()
    assert bench.seen == [1.0, 2.0, 3.0, "settled"]


def test_timers_of_the_same_time_ring_in_the_order_in_which_they_were_set(bench: Bench) -> None:
    for name in "abc":
        bench.loop.call_at(1.0, bench.note(name))
    bench.clock.advance(1)
    bench.drain()
    assert bench.seen == ["a", "b", "c", "settled"]


def test_a_timer_rings_once(bench: Bench) -> None:
    bench.loop.call_at(1.0, bench.note("rung"))
    bench.clock.advance(1)
    bench.drain()
    bench.drain()
    assert bench.seen.count("rung") == 1


def test_call_later_counts_from_the_call(bench: Bench) -> None:
    bench.loop.call_later(5, bench.note("rung"))
    bench.clock.advance(5)
    bench.drain()
    assert "rung" in bench.seen


# --- waiting ----------------------------------------------------------------------------


def test_waiting_for_what_is_ready_does_not_drive(bench: Bench) -> None:
    waiter = Waiter()
    waiter.notify()
    bench.loop.post("a")
    assert bench.loop.wait(waiter)
    assert bench.seen == []


def test_waiting_drives_until_the_waiter_is_ready(bench: Bench) -> None:
    waiter = Waiter()
    bench.loop.post("a")
    bench.loop.post(waiter.notify)
    assert bench.loop.wait(waiter)
    assert bench.seen[0] == "a"


def test_waiting_rings_timers_on_the_way(bench: Bench) -> None:
    waiter = Waiter()
    bench.loop.call_at(5.0, bench.note("rung"))
    bench.loop.call_at(9.0, waiter.notify)
    assert bench.loop.wait(waiter, timeout=60)
    assert (bench.clock.monotonic(), bench.seen.count("rung")) == (9.0, 1)


def test_waiting_ends_at_its_timeout(bench: Bench) -> None:
    assert not bench.loop.wait(Waiter(), timeout=7)
    assert bench.clock.monotonic() == 7


def test_a_timeout_of_zero_acts_on_what_is_there(bench: Bench) -> None:
    waiter = Waiter()
    bench.loop.post(waiter.notify)
    assert bench.loop.wait(waiter, timeout=0)


def test_waiting_for_what_can_never_come_is_an_error_under_a_manual_clock(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        bench.loop.wait(Waiter())
    assert not bench.loop.holds_turn()


def test_a_ctrl_c_whose_nudge_went_with_events_before_it_still_ends_the_wait(bench: Bench) -> None:
    def press() -> None:  # as the signal handler does, in the middle of library code
        interrupts.main.pressed = True
        bench.loop.nudge()

    bench.loop.post(press)
    with pytest.raises(KeyboardInterrupt) as caught:
        bench.loop.wait(Waiter())
    assert caught.value.__context__ is None, "it did not first wait for what can never come"


def test_waiting_may_be_nested(bench: Bench) -> None:
    outer, inner = Waiter(), Waiter()

    def wait_inside() -> None:
        bench.loop.post(inner.notify)
        bench.loop.wait(inner)
        outer.notify()

    bench.loop.post(wait_inside)
    assert bench.loop.wait(outer)


# --- run_home ---------------------------------------------------------------------------


def test_a_thread_that_may_drive_runs_functions_at_once_under_the_turn(bench: Bench) -> None:
    assert bench.loop.run_home(bench.loop.holds_turn) is True


def test_what_a_function_run_at_home_raises_is_raised_where_it_was_asked_for(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError):
        bench.loop.run_home(lambda: 1 / 0)
    assert not bench.loop.holds_turn()


# --- the end ----------------------------------------------------------------------------


def test_without_leave_there_is_no_standby_thread(bench: Bench) -> None:
    bench.loop.ensure_standby(urgent=True)
    bench.loop.close()
    assert bench.loop._standby is None


# --- waiters ----------------------------------------------------------------------------


def test_a_countdown_is_ready_when_enough_runs_are_over() -> None:
    waiter = CountdownWaiter(2)
    waiter.finished(RUN)
    assert not waiter.ready
    waiter.finished(RUN)
    assert waiter.ready


@pytest.mark.parametrize("count", [0, -1])
def test_a_countdown_of_nothing_is_ready_at_once(count: int) -> None:
    assert CountdownWaiter(count).ready


def test_a_countdown_may_stop_early() -> None:
    waiter = CountdownWaiter(5, stop_early=lambda run: run is RUN)
    waiter.finished(RUN)
    assert waiter.ready


def test_a_waiter_that_was_told_does_not_block() -> None:
    waiter = Waiter()
    waiter.notify()
    assert waiter.block(None)


def test_a_waiter_may_be_told_twice() -> None:
    waiter = Waiter()
    assert not waiter.block(0)
    waiter.notify()
    waiter.notify()
    assert waiter.ready
