"""Checks of series: attempts that are handed over as one, and end one by one or in rows."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if, skip_unless
from penstock.testing.conformance_failures import check_raised
from penstock.testing.harness import describe

if TYPE_CHECKING:
    from penstock.task_runners import Attempt
    from penstock.testing.harness import RunnerHarness

__all__ = ["SeriesChecks"]

COUNT = 300
MIDDLE = 140


class SeriesChecks(ConformanceChecks):
    """What becomes of the attempts of a `Series`."""

    def test_a_series_is_a_sequence_of_attempts(self, harness: RunnerHarness) -> None:
        attempts = harness.submit_series(harness.series(subjects.add, [(n,) for n in range(20)]))
        assert [harness.value(harness.outcome(attempt)) for attempt in attempts] == [
            *range(1, 21)
        ], "submit() takes a series as it takes any attempts"

    def test_each_of_a_series_returns_its_value_and_when_it_began(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless_it_takes_series(harness)
        before = time.monotonic()
        calls = [(number,) for number in range(COUNT)]
        attempts = harness.submit_series(harness.series(subjects.add, calls, report_start=True))
        check_returned(harness, attempts)
        after = time.monotonic()
        for attempt in attempts:
            at = harness.starts[attempt.id].at
            took = harness.outcome(attempt).duration_seconds
            assert took >= 0.0
            assert before - 1.0 <= at <= at + took <= after + 1.0, "it says when it began"

    def test_each_of_a_series_knows_who_it_is(self, harness: RunnerHarness) -> None:
        skip_unless_it_takes_series(harness)
        series = harness.series(subjects.tell_surroundings, [()] * COUNT)
        attempts = harness.submit_series(series)
        for attempt in attempts:
            assert attempt.environment is not None
            _, own = harness.value(harness.outcome(attempt))
            assert tuple(own) == attempt.environment.own, "it is told of its own run"

    def test_what_goes_wrong_in_a_series_hurts_one_attempt(self, harness: RunnerHarness) -> None:
        skip_unless_it_takes_series(harness)
        bad: dict[int, tuple[Any, ...]] = {
            0: (subjects.raise_with_cause,),
            MIDDLE: (subjects.return_lock,),
            MIDDLE + 1: (subjects.identity, threading.Lock()),
            MIDDLE + 50: (subjects.identity, subjects.ExplodesWhenLoaded()),
            COUNT - 1: (subjects.raise_needing_arguments,),
        }
        calls = [bad.get(number, (subjects.add, number)) for number in range(COUNT)]
        attempts = harness.submit_series(harness.series(subjects.apply, calls))
        for number, attempt in enumerate(attempts):
            outcome = harness.outcome(attempt)
            if number in bad:
                check_raised(outcome, "")
            else:
                assert harness.value(outcome) == number + 1

    def test_a_death_in_a_series_costs_one_attempt(self, harness: RunnerHarness) -> None:
        skip_unless_it_takes_series(harness)
        skip_if(harness.capabilities.isolation != "process", "a crash takes the driver with it")
        log = str(harness.directory / "log")
        calls: list[Any] = [(subjects.note_start, log, str(number)) for number in range(COUNT)]
        calls[MIDDLE] = (subjects.die,)
        attempts = harness.submit_series(harness.series(subjects.apply, calls))
        for number, attempt in enumerate(attempts):
            outcome = harness.outcome(attempt)
            if number == MIDDLE:
                assert outcome.kind == "lost", f"its worker died: {describe(outcome)}"
                assert outcome.began is True, "what the dead worker ran had begun"
            elif outcome.kind == "lost":
                assert outcome.began is False, "a death costs one attempt"
        with open(log, encoding="utf-8") as file:
            labels = file.read().split()
        assert len(labels) == len(set(labels)), "nothing runs twice"

    def test_one_of_a_series_that_waits_can_be_cancelled(self, harness: RunnerHarness) -> None:
        skip_unless_it_takes_series(harness)
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate, trace = harness.gate(), harness.gate()
        harness.hold(max(1, harness.runner.slots()), gate)
        calls: list[Any] = [(subjects.add, number) for number in range(COUNT)]
        calls[MIDDLE] = (subjects.open_gate, trace)
        attempts = harness.submit_series(harness.series(subjects.apply, calls))
        harness.runner.cancel([attempts[MIDDLE].id])
        outcome = harness.outcome(attempts[MIDDLE])
        assert outcome.kind == "stopped", f"what waits is stopped: {describe(outcome)}"
        assert outcome.began is False, "a dropped attempt never began"
        gate.open()
        check_returned(harness, [one for one in attempts if one is not attempts[MIDDLE]])
        assert not trace.is_open(), "a dropped attempt must not run"

    def test_close_in_the_middle_of_a_series_ends_all_of_it(self, harness: RunnerHarness) -> None:
        skip_unless_it_takes_series(harness)
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        begun, gate = harness.gate(), harness.gate()
        calls: list[Any] = [(subjects.add, number) for number in range(COUNT)]
        calls[MIDDLE] = (subjects.pass_gate, begun, gate)
        attempts = harness.submit_series(harness.series(subjects.apply, calls))
        begun.wait("the attempt in the middle runs")
        harness.runner.close(0.0)
        for number, attempt in enumerate(attempts):
            outcome = harness.outcome(attempt)
            if outcome.kind == "returned":
                assert harness.value(outcome) == number + 1
            else:
                assert outcome.kind in ("stopped", "abandoned"), describe(outcome)
        assert harness.outcome(attempts[MIDDLE]).kind != "returned"


def skip_unless_it_takes_series(harness: RunnerHarness) -> None:
    skip_unless(harness.capabilities.takes_series, "takes_series")


def check_returned(harness: RunnerHarness, attempts: list[Attempt]) -> None:
    """Check that attempts to add one have returned what they should."""
    for attempt in attempts:
        number = attempt.args[-1]
        assert harness.value(harness.outcome(attempt)) == number + 1, "each has a value of its own"
