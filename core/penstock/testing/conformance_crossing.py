"""Checks of what crosses to workers elsewhere and back, beside arguments and results."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from penstock.by_value import ByValue
from penstock.shipping import pack_variables
from penstock.task_runners import Siblings
from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if, skip_unless
from penstock.testing.harness import describe, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from penstock.testing.harness import RunnerHarness

__all__ = ["CrossingChecks"]

LARGE = 20_000
"""Items of a list whose pickle is larger than anything that would travel with each attempt."""


class CrossingChecks(ConformanceChecks):
    """What a runner sees to whose workers are in other processes."""

    @pytest.fixture(autouse=True)
    def quiet_logger(self) -> Iterator[None]:
        """Keep what is logged for the checks off the console of who runs in this process."""
        yield
        logging.getLogger(subjects.LOGGER).setLevel(logging.NOTSET)

    # --- surroundings -------------------------------------------------------------------

    def test_the_function_is_told_what_the_attempt_says_of_its_run(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so the run is where the function is")
        shared = environment(name="the name").shared
        others = environment(name="another").shared
        attempts = [
            harness.attempt(
                subjects.tell_surroundings,
                environment=environment(number)._replace(shared=shared if number % 3 else others),
            )
            for number in range(30)
        ]
        told = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert told == [
            ("the name" if number % 3 else "another", environment(number).own)
            for number in range(30)
        ], "each attempt has its own surroundings, however many share a part of them"

    def test_an_attempt_of_no_run_has_no_surroundings(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so the run is where the function is")
        told = environment(name="the name")
        harness.value(harness.run(subjects.tell_surroundings, environment=told))
        assert harness.value(harness.run(subjects.tell_surroundings)) == (None, ()), (
            "nothing is left of the attempt before"
        )

    def test_context_variables_are_set_for_their_attempt_alone(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so attempts have their context")
        given = environment()._replace(
            variables=pack_variables({subjects.STATE: "given"}, ByValue())
        )
        for _ in range(2):
            outcome = harness.run(subjects.read_state, environment=given)
            assert harness.value(outcome) == "given", "variables have the values of the attempt"
            outcome = harness.run(subjects.read_state, environment=environment())
            assert harness.value(outcome) == "unset", "and of no other"

    # --- log records --------------------------------------------------------------------

    def test_what_is_logged_comes_in_order_and_before_the_outcome(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so records are made in this process")
        told = environment(levels={"": logging.WARNING, subjects.LOGGER: logging.INFO})
        attempts = [
            harness.attempt(subjects.log_lines, number, 20, environment=told)
            for number in range(10)
        ]
        for outcome in harness.run_all(attempts):
            harness.value(outcome)
        for attempt in attempts:
            # The harness takes a record after the outcome for a fault by itself.
            assert harness.texts(attempt) == [f"{attempt.args[0]}.{n}" for n in range(20)], (
                "every record of an attempt is reported as its own, in order, from the level on "
                "that the attempt says"
            )

    def test_what_is_printed_comes_as_records_where_that_is_asked_for(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so prints are made in this process")
        told = environment(levels={"": logging.INFO}, log_prints=True)
        attempt = harness.attempt(subjects.say, "one", environment=told)
        harness.submit(attempt)
        harness.value(harness.outcome(attempt))
        assert harness.texts(attempt) == ["one"], "log_prints sends what is printed home"

    def test_what_was_logged_before_a_failure_is_there(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so records are made in this process")
        attempt = harness.attempt(
            subjects.log_and_raise, environment=environment(levels={"": logging.INFO})
        )
        harness.submit(attempt)
        assert harness.outcome(attempt).kind == "raised"
        assert harness.texts(attempt) == ["the last line"], "records are lost by no failure"

    def test_what_was_logged_just_before_a_death_is_there(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.isolation != "process", "a crash takes the driver with it")
        attempt = harness.attempt(
            subjects.log_and_die, environment=environment(levels={"": logging.INFO})
        )
        harness.submit(attempt)
        outcome = harness.outcome(attempt)
        assert outcome.kind == "lost", describe(outcome)
        assert harness.texts(attempt) == ["the last line"], "records are lost by no death"

    # --- siblings -----------------------------------------------------------------------

    @pytest.mark.parametrize("place", [0, "numbers"], ids=["position", "keyword"])
    def test_a_constant_of_many_attempts_has_its_value_in_each(
        self, harness: RunnerHarness, place: int | str
    ) -> None:
        siblings = Siblings((place,))
        constant = list(range(LARGE))
        attempts = []
        for number in range(50):
            options: dict[str, Any] = {"siblings": siblings}
            if place == 0:
                attempt = harness.attempt(subjects.pick, constant, number, **options)
            else:
                kwargs = {"numbers": constant, "index": number}
                attempt = harness.attempt(subjects.pick, kwargs=kwargs, **options)
            attempts.append(attempt)
        values = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert values == list(range(50)), "Siblings.constants changes nothing but the transport"

    def test_what_one_attempt_does_to_a_constant_no_other_sees(
        self, harness: RunnerHarness
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles, so the very object is passed")
        siblings = Siblings((0,))
        constant = list(range(LARGE))
        attempts = [
            harness.attempt(subjects.append_and_count, constant, siblings=siblings)
            for _ in range(30)
        ]
        counts = {harness.value(outcome) for outcome in harness.run_all(attempts)}
        assert counts == {LARGE + 1}, "each attempt finds a constant as the driver has it"
        assert len(constant) == LARGE

    @pytest.mark.parametrize("chunk", [1, 7, 1000])
    def test_a_chunk_changes_nothing_but_the_transport(
        self, harness: RunnerHarness, chunk: int
    ) -> None:
        siblings = Siblings((), chunk)
        attempts = [
            harness.attempt(subjects.add, number, siblings=siblings) for number in range(100)
        ]
        values = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert values == list(range(1, 101)), "each attempt of a chunk has its own outcome"

    # --- demands ------------------------------------------------------------------------

    def test_what_no_worker_can_have_is_refused_by_name(self, harness: RunnerHarness) -> None:
        reason = harness.runner.cannot_offer({"unobtainium": 2.0})
        skip_if(not reason, "the runner cannot tell yet what its workers will have")
        assert "unobtainium" in reason, f"cannot_offer() names what is missing: {reason}"

    def test_what_needs_resources_runs_where_they_are_offered(self, harness: RunnerHarness) -> None:
        offered = self.offered_resources()
        skip_unless(bool(offered), "resources: override offered_resources() to say which")
        assert harness.runner.cannot_offer(offered) == "", "what is offered is not refused"
        attempts = [harness.attempt(subjects.add, number, resources=offered) for number in range(8)]
        values = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert values == list(range(1, 9))

    def offered_resources(self) -> dict[str, float]:
        """Return what one worker of `make_runner()` has to offer; nothing, unless overridden."""
        return {}
