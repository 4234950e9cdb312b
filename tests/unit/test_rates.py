"""Promises of rates: what is understood, and that starts are spread. Without a clock."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.limits import Owner
from penstock.engine.rates import Rate, RateLine, parse_rate


def a_run() -> Any:
    return type("Run", (), {})()


def a_line(per_second: float) -> RateLine:
    return RateLine(Rate(per_second, Owner(len)), 0.0)


def started(line: RateLine, now: float) -> bool:
    run = a_run()
    return line.take(run, now) and line.begin(run, now)


@pytest.mark.parametrize(
    ("given", "per_second"),
    [
        ("10/s", 10),
        ("100/m", 100 / 60),
        ("1000/h", 1000 / 3600),
        ("2.5/s", 2.5),
        (" 10 / s ", 10),
        (10, 10),
        (0.5, 0.5),
    ],
)
def test_a_rate_is_given_a_second_a_minute_or_an_hour(given: Any, per_second: float) -> None:
    assert parse_rate(given) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "given",
    [
        *("", "10", "10/d", "10/s/s", "/s", "-1/s", "0/s", "ten/s", "1e3/s", "10/S", "1\u0663/s"),
        *(0, -1, math.inf, math.nan, True, None, (10, 1)),
    ],
)
def test_what_is_no_rate_is_refused_and_the_error_says_what_is_one(given: Any) -> None:
    with pytest.raises(ValueError, match=r"a number of starts a second, or such as .10/s."):
        parse_rate(given)


@pytest.mark.parametrize(
    ("per_second", "burst"), [(10, 10), (2.9, 2), (1, 1), (100 / 60, 1), (0.01, 1)]
)
def test_at_first_as_many_start_at_once_as_whole_starts_of_a_second(
    per_second: float, burst: int
) -> None:
    line = a_line(per_second)
    assert [started(line, 0.0) for _ in range(burst + 1)] == [True] * burst + [False]


def test_after_that_starts_are_spread_evenly() -> None:
    line = a_line(10)
    while started(line, 0.0):
        pass
    times = [step / 100 for step in range(101) if started(line, step / 100)]
    assert times == pytest.approx([step / 10 for step in range(1, 11)])


def test_a_long_rest_saves_no_more_than_a_second_is_worth() -> None:
    line = a_line(3)
    assert sum(started(line, 1000.0) for _ in range(10)) == 3


def test_a_token_that_is_not_begun_with_stops_more_from_coming() -> None:
    line = a_line(2)
    held = [a_run(), a_run()]
    assert all(line.take(run, 0.0) for run in held)
    assert line.next_at(5.0) is None, "a busy runner has them: nothing to come until one begins"
    assert not line.take(a_run(), 100.0)
    assert line.begin(held[0], 100.0)
    assert line.next_at(100.0) == pytest.approx(100.5)
    assert line.take(a_run(), 100.5)


def test_a_token_given_back_is_there_at_once() -> None:
    line = a_line(0.1)
    run = a_run()
    assert line.take(run, 0.0)
    assert line.give_back(run, 1.0)
    assert started(line, 1.0)


def test_a_token_is_spent_or_given_back_once() -> None:
    line = a_line(0.1)
    run = a_run()
    line.take(run, 0.0)
    assert line.begin(run, 0.0)
    assert not line.begin(run, 0.0)
    assert not line.give_back(run, 0.0)
    assert not line.has_token(0.0, beside_scouts=False)


def test_scouts_leave_no_token_for_others_but_have_none() -> None:
    line = a_line(1)
    line.scouts.add(a_run())
    assert not line.has_token(0.0, beside_scouts=True)
    assert line.has_token(0.0, beside_scouts=False)
    assert line.next_at(0.0) is None, "the scout goes first, and there is room for one only"


def test_a_timer_that_rings_a_rounding_error_too_early_finds_the_token() -> None:
    line = a_line(1000 / 3600)
    assert started(line, 0.1)
    when = line.next_at(0.1)
    assert when is not None
    assert started(line, when - 1e-7)


def test_the_line_is_in_order_with_those_first_that_are_put_there() -> None:
    line = a_line(1)
    first, second, third = a_run(), a_run(), a_run()
    for run in (first, second):
        line.line_up(run, first=False)
    line.line_up(third, first=True)
    assert list(line.waiting) == [third, first, second]
    assert line.withdraw(first)
    assert not line.withdraw(first)
    assert list(line.waiting) == [third, second]


@given(
    st.floats(0.05, 20),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["take", "begin", "back"])), max_size=60),
    st.randoms(use_true_random=False),
)
def test_in_no_time_more_begin_than_the_rate_and_one_burst_allow(
    per_second: float, steps: list[tuple[float, str]], rng: Any
) -> None:
    line, now = a_line(per_second), 0.0
    burst = Rate(per_second, Owner(len)).burst
    given_out: list[Any] = []
    begun: list[float] = []
    for seconds, what in steps:
        now += seconds
        if what == "take":
            run = a_run()
            if line.take(run, now):
                given_out.append(run)
        elif given_out:
            run = given_out.pop(rng.randrange(len(given_out)))
            if what == "begin":
                assert line.begin(run, now)
                begun.append(now)
            else:
                assert line.give_back(run, now)
    for index, since in enumerate(begun):
        for count, until in enumerate(begun[index:], 1):
            assert count <= burst + per_second * (until - since) + 1e-3
