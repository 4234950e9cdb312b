"""Checks of what goes wrong in user code or in a worker, and that it goes wrong there alone."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.task_runners import RemoteError
from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if, skip_unless
from penstock.testing.harness import describe, error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.task_runners import Outcome
    from penstock.testing.harness import RunnerHarness

__all__ = ["FailureChecks"]


class FailureChecks(ConformanceChecks):
    """What a runner reports when something does go wrong."""

    @pytest.mark.parametrize(
        ("fn", "type_name"),
        [
            pytest.param(
                subjects.raise_needing_arguments, "NeedsTwoArgumentsError", id="arguments"
            ),
            pytest.param(subjects.raise_holding_lock, "ValueError", id="lock"),
            pytest.param(subjects.raise_with_cause, "ValueError", id="cause"),
            pytest.param(subjects.raise_system_exit, "SystemExit", id="SystemExit"),
            pytest.param(subjects.raise_keyboard_interrupt, "KeyboardInterrupt", id="Ctrl-C"),
        ],
    )
    def test_whatever_user_code_raises_is_data(
        self, harness: RunnerHarness, fn: Callable[..., Any], type_name: str
    ) -> None:
        outcome = harness.run(fn)
        check_raised(outcome, type_name)
        assert fn.__name__ in error_text(outcome), "the traceback shows the user's own lines"
        assert harness.value(harness.run(subjects.add, 1)) == 2, "the runner goes on"

    def test_the_cause_of_an_exception_is_told(self, harness: RunnerHarness) -> None:
        outcome = harness.run(subjects.raise_with_cause)
        assert "KeyError" in error_text(outcome), "the chain of causes is part of the traceback"

    def test_whatever_a_coroutine_raises_is_data(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.async_functions, "async_functions")
        check_raised(harness.run(subjects.raise_system_exit_async, is_async=True), "SystemExit")
        assert harness.value(harness.run(subjects.add_async, 1, is_async=True)) == 2

    @pytest.mark.parametrize(
        ("fn", "argument"),
        [
            pytest.param(subjects.identity, threading.Lock, id="argument-not-picklable"),
            pytest.param(
                subjects.identity, subjects.ExplodesWhenLoaded, id="argument-not-unpicklable"
            ),
            pytest.param(subjects.return_lock, None, id="result-not-picklable"),
        ],
    )
    def test_what_cannot_be_pickled_hurts_one_attempt(
        self,
        harness: RunnerHarness,
        fn: Callable[..., Any],
        argument: Callable[[], Any] | None,
    ) -> None:
        skip_unless(harness.capabilities.pickles, "pickles")
        bad = harness.attempt(fn) if argument is None else harness.attempt(fn, argument())
        good = [harness.attempt(subjects.add, number) for number in range(4)]
        harness.submit(*good[:2], bad, *good[2:])
        outcome = harness.outcome(bad)
        assert outcome.kind == "raised", f"what cannot be pickled is raised: {describe(outcome)}"
        assert [harness.value(harness.outcome(attempt)) for attempt in good] == [1, 2, 3, 4], (
            "what cannot be pickled hurts that attempt alone"
        )

    def test_a_result_that_cannot_be_loaded_hurts_one_attempt(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.pickles, "pickles")
        outcome = harness.run(subjects.return_exploding)
        if outcome.kind == "returned":  # it may travel packed: whoever asks for it is told
            with pytest.raises(RuntimeError, match="exploded"):
                harness.value(outcome)
        else:
            assert outcome.kind == "raised", describe(outcome)
        assert harness.value(harness.run(subjects.add, 1)) == 2, "the runner goes on"

    def test_the_death_of_a_worker_costs_one_attempt(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.isolation != "process", "a crash takes the driver with it")
        gate = harness.gate()
        running = harness.hold(max(0, harness.runner.slots() - 1), gate)
        victim = harness.attempt(subjects.die)
        waiting = [harness.attempt(subjects.add, number) for number in range(10)]
        harness.submit(victim, *waiting)
        outcome = harness.outcome(victim)
        assert outcome.kind == "lost", f"a dead worker's attempt is lost: {describe(outcome)}"
        assert outcome.began is not False, "what the dead worker ran had begun"
        assert outcome.reason, "a lost outcome says why, for people"
        gate.open()
        for attempt in running:
            assert harness.value(harness.outcome(attempt)) == "passed", "a death costs one attempt"
        for attempt in waiting:
            outcome = harness.outcome(attempt)
            if outcome.kind == "lost":
                assert outcome.began is not True, "waiting attempts had not begun"
            else:
                assert harness.value(outcome) == attempt.args[0] + 1
        assert harness.value(harness.run(subjects.add, 1)) == 2, "the runner goes on after a death"


def check_raised(outcome: Outcome, type_name: str) -> None:
    """Check that an attempt raised an exception of that type, near or far."""
    assert outcome.kind == "raised", (
        f"whatever user code raises is an outcome 'raised': {describe(outcome)}"
    )
    error = outcome.error
    name = error.type_name if isinstance(error, RemoteError) else type(error).__name__
    assert type_name in name, f"the type of the exception is told: {name}"
