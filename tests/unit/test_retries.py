"""Promises of `penstock.retries`; numbers are rows of the specification."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import random
import re
from fractions import Fraction
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import DefinitionError
from penstock.retries import RetryPolicy, exponential_backoff

RNG = random.Random(0)
DELAYS = st.floats(0, 1e6)


def waits(policy: RetryPolicy) -> list[float]:
    return [policy.delay_seconds(retry, RNG) for retry in range(1, policy.retries + 1)]


# --- delays -----------------------------------------------------------------------------


def test_seed_110_113_one_delay_holds_for_every_retry() -> None:
    assert waits(RetryPolicy.of(3, 5)) == [5.0, 5.0, 5.0]


def test_seed_114_the_nth_retry_waits_for_the_nth_delay() -> None:
    assert waits(RetryPolicy.of(3, [1, 10, 100])) == [1.0, 10.0, 100.0]


def test_seed_087_a_short_list_repeats_its_last_value() -> None:
    assert waits(RetryPolicy.of(4, (1, 2))) == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_without_delays_a_retry_comes_at_once(nothing: Any) -> None:
    assert waits(RetryPolicy.of(2, nothing)) == [0.0, 0.0]


def test_seed_119_a_function_is_called_once_with_the_number_of_retries() -> None:
    calls: list[int] = []

    def delays(retries: int) -> list[float]:
        calls.append(retries)
        return [0.5] * retries

    policy = RetryPolicy.of(3, delays)
    assert waits(policy) == [0.5, 0.5, 0.5]
    assert calls == [3]


def test_seed_119_a_functions_own_exception_comes_through_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        RetryPolicy.of(3, lambda retries: [retries / 0])


@pytest.mark.parametrize("retries", [0, 1, 3, 60])
def test_seed_120_exponential_backoff_doubles(retries: int) -> None:
    delays = exponential_backoff(backoff_factor=10)(retries)
    assert delays[:3] == [10, 20, 40][:retries]
    assert len(delays) == min(retries, 50)
    assert RetryPolicy.of(retries, exponential_backoff(10)).delays_seconds == tuple(delays)


@given(st.lists(DELAYS, max_size=50), st.integers(1, 200), st.none() | DELAYS)
def test_a_delay_is_one_of_the_list_or_the_limit(
    delays: list[float], retry: int, longest: float | None
) -> None:
    policy = RetryPolicy.of(retry, delays, max_delay_seconds=longest)
    expected = delays[min(retry, len(delays)) - 1] if delays else 0.0
    if longest is not None:
        expected = min(expected, longest)
    assert policy.delay_seconds(retry, RNG) == expected


def test_numbers_of_other_libraries_are_taken_as_floats() -> None:
    policy = RetryPolicy.of(1, [Fraction(1, 2), 3])  # type: ignore[list-item]  # duck-typed
    assert policy.delays_seconds == (0.5, 3.0)
    assert all(type(delay) is float for delay in policy.delays_seconds)


def test_a_policy_is_a_value() -> None:
    policy = RetryPolicy.of(2, 5)
    assert policy == RetryPolicy(2, (5.0,), None)
    assert hash(policy) == hash(RetryPolicy.of(2, [5]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.retries = 3  # type: ignore[misc]  # on purpose


# --- jitter -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "least", "most"), [(0.5, 6.257, 15.0), (1.0, 4.063, 20.0), (0.01, 9.9, 10.1)]
)
def test_seed_121_122_jitter_keeps_its_bounds_and_the_mean(
    factor: float, least: float, most: float
) -> None:
    policy = RetryPolicy.of(1, 10, factor)
    rng = random.Random(121)
    drawn = [policy.delay_seconds(1, rng) for _ in range(200_000)]
    assert fmean(drawn) == pytest.approx(10, rel=0.01)
    assert least <= min(drawn) < least * 1.01
    assert most * 0.99 < max(drawn) <= most


def test_seed_122_backoff_with_factor_1_reaches_at_most_twice_each_delay() -> None:
    policy = RetryPolicy.of(3, exponential_backoff(10), 1)
    rng = random.Random(122)
    for retry, most in ((1, 20.0), (2, 40.0), (3, 80.0)):
        drawn = [policy.delay_seconds(retry, rng) for _ in range(5_000)]
        assert most * 0.95 < max(drawn) <= most


@given(DELAYS, st.floats(0, 1e300), st.integers())
def test_seed_121_jitter_stays_in_bounds_for_every_factor(
    delay: float, factor: float, seed: int
) -> None:
    drawn = RetryPolicy.of(1, delay, factor).delay_seconds(1, random.Random(seed))
    assert math.isfinite(drawn)
    assert 0 <= drawn <= delay * (1 + factor)


class FixedDraw(random.Random):
    """Draws one end of the range: 0 gives the shortest wait, nearly 1 the longest."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


@given(st.floats(0.001, 30))
def test_seed_121_the_bounds_balance_so_that_the_mean_stays(factor: float) -> None:
    policy = RetryPolicy.of(1, 1, factor)
    least = policy.delay_seconds(1, FixedDraw(0.0))
    most = policy.delay_seconds(1, FixedDraw(math.nextafter(1, 0)))
    assert least < 1 < most
    assert most == pytest.approx(1 + factor, rel=1e-2)
    assert least * math.exp(-least) == pytest.approx((1 + factor) * math.exp(-1 - factor))


@pytest.mark.parametrize("factor", [None, 0, 0.0])
def test_seed_121_no_jitter_draws_nothing(factor: float | None) -> None:
    rng = random.Random(1)
    before = rng.getstate()
    assert RetryPolicy.of(1, 10, factor).delay_seconds(1, rng) == 10.0
    assert rng.getstate() == before


def test_the_limit_holds_for_jitter_and_does_not_undo_it() -> None:
    policy = RetryPolicy.of(9, exponential_backoff(10), 0.5, max_delay_seconds=30)
    rng = random.Random(5)
    drawn = [policy.delay_seconds(9, rng) for _ in range(1_000)]
    assert max(drawn) == 30.0
    assert len(set(drawn)) > 300


# --- what is refused --------------------------------------------------------------------


def refused(match: str, retries: Any, delays: Any = None, **options: Any) -> None:
    with pytest.raises(DefinitionError, match=match):
        RetryPolicy.of(retries, delays, owner="task 'fetch'", **options)


@pytest.mark.parametrize("retries", [-1, True, 1.0, "3", None, math.nan])
def test_seed_086_retries_are_a_whole_number_from_0(retries: object) -> None:
    text = f"task 'fetch': retries={retries!r} cannot be used; it takes a whole number"
    refused(re.escape(text), retries)


WRONG_NUMBERS = [
    -1,
    -0.001,
    math.nan,
    math.inf,
    True,
    "5",
    b"5",
    10**400,
    1j,
    datetime.timedelta(seconds=5),
    {5: 5},
    {5},
]


@pytest.mark.parametrize("delay", WRONG_NUMBERS)
def test_seed_087_a_delay_that_cannot_be_waited_for_is_refused(delay: object) -> None:
    text = f"task 'fetch': retry_delay_seconds={delay!r} cannot be used; it takes a number"
    refused(re.escape(text), 1, delay)
    text = f"task 'fetch': retry_delay_seconds[1]={delay!r} cannot be used"
    refused(re.escape(text), 1, [1, delay])
    refused(re.escape(text), 1, lambda retries: [retries, delay])


def test_seed_087_more_than_50_delays_are_refused() -> None:
    RetryPolicy.of(1, [1] * 50)
    for too_many in ([1] * 51, lambda _: [1] * 51, itertools.repeat(1)):
        refused("too many entries; it takes .* up to 50", 1, too_many)


@pytest.mark.parametrize("number", [*WRONG_NUMBERS, [1]])
@pytest.mark.parametrize("option", ["retry_jitter_factor", "max_delay_seconds"])
def test_seed_121_jitter_and_limit_are_numbers_from_0(option: str, number: object) -> None:
    text = f"task 'fetch': {option}={number!r} cannot be used; it takes a number of at least 0"
    refused(re.escape(text), 1, 1, **{option: number})


@pytest.mark.parametrize("factor", [*WRONG_NUMBERS, None])
def test_seed_120_a_backoff_factor_is_a_number_from_0(factor: Any) -> None:
    with pytest.raises(DefinitionError, match="exponential_backoff: backoff_factor="):
        exponential_backoff(factor)


def test_retries_count_from_1() -> None:
    with pytest.raises(AssertionError):
        RetryPolicy.of(1, 5).delay_seconds(0, RNG)
