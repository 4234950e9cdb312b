"""Checks of cancelling: what waits is dropped, what runs is stopped, and all of it has one end."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if, skip_unless
from penstock.testing.harness import describe

if TYPE_CHECKING:
    from penstock.testing.harness import RunnerHarness

__all__ = ["CancellingChecks"]


class CancellingChecks(ConformanceChecks):
    """What `cancel()` and `close()` do to attempts."""

    def test_what_has_not_begun_is_dropped(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate, trace = harness.gate(), harness.gate()
        held = harness.hold(max(1, harness.runner.slots()), gate)
        late = harness.attempt(subjects.open_gate, trace)
        harness.submit(late)
        began = time.monotonic()
        harness.runner.cancel([late.id])
        assert time.monotonic() - began < self.patience_seconds / 4, "cancel() returns at once"
        outcome = harness.outcome(late)
        assert outcome.kind == "stopped", f"what waits is stopped: {describe(outcome)}"
        assert outcome.began is False, "a dropped attempt never began"
        gate.open()
        for attempt in held:
            assert harness.value(harness.outcome(attempt)) == "passed"
        assert harness.value(harness.run(subjects.add, 1)) == 2
        assert not trace.is_open(), "a dropped attempt must not run"

    def test_what_runs_goes_on_unless_cancelled_hard(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate = harness.gate()
        (held,) = harness.hold(1, gate)
        harness.runner.cancel([held.id])
        gate.open()
        assert harness.value(harness.outcome(held)) == "passed", (
            "cancel() without hard drops what has not begun, nothing else"
        )

    def test_cancelling_what_has_ended_changes_nothing(self, harness: RunnerHarness) -> None:
        attempt = harness.attempt(subjects.add, 1)
        harness.submit(attempt)
        assert harness.value(harness.outcome(attempt)) == 2
        harness.runner.cancel([attempt.id], hard=True)
        harness.runner.cancel([attempt.id])
        assert harness.value(harness.run(subjects.add, 2)) == 3

    def test_what_runs_is_stopped_and_gives_its_slot_back(self, harness: RunnerHarness) -> None:
        kill = harness.capabilities.kill
        skip_unless(kill != "none", "kill")
        deaf = subjects.sleep_in_one_piece if kill == "hard" else subjects.spin
        for round_number in range(3):
            begun, gate = harness.gate(), harness.gate()
            victim = harness.attempt(deaf, begun, gate)
            harness.submit(victim)
            begun.wait("the attempt to be stopped runs")
            asked = time.monotonic()
            harness.runner.cancel([victim.id], hard=True)
            outcome = harness.outcome(victim)
            elapsed = time.monotonic() - asked
            assert outcome.kind in ("stopped", "abandoned"), (
                f"what runs is stopped or abandoned: {describe(outcome)}"
            )
            assert outcome.began is not False, "what was stopped had begun"
            assert outcome.reason, "a stopped outcome says why, for people"
            assert elapsed < self.patience_seconds / 4, (
                f"cancel(hard=True) ends a running attempt soon: {elapsed:.1f} s "
                f"in round {round_number}"
            )
        gate = harness.gate()
        held = harness.hold(max(1, harness.runner.slots()), gate)  # raises if a slot is missing
        gate.open()
        for attempt in held:
            assert harness.value(harness.outcome(attempt)) == "passed"

    def test_a_running_coroutine_is_stopped(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.async_functions, "async_functions")
        skip_unless(harness.capabilities.kill != "none", "kill")
        begun, gate = harness.gate(), harness.gate()
        victim = harness.attempt(subjects.wait_async, begun, gate, is_async=True)
        harness.submit(victim)
        begun.wait("the coroutine runs")
        harness.runner.cancel([victim.id], hard=True)
        outcome = harness.outcome(victim)
        assert outcome.kind in ("stopped", "abandoned"), (
            f"what runs is stopped or abandoned: {describe(outcome)}"
        )
        assert harness.value(harness.run(subjects.add_async, 1, is_async=True)) == 2

    def test_cancel_and_end_at_once_make_one_outcome(self, harness: RunnerHarness) -> None:
        rounds = 30 if harness.capabilities.kill == "hard" else 300
        ends: set[str] = set()
        for number in range(rounds):
            attempt = harness.attempt(subjects.add, number)
            harness.submit(attempt)
            deadline = time.perf_counter() + number * 1e-6
            while time.perf_counter() < deadline:
                pass  # a little later each time, so that every moment of an attempt is hit
            harness.runner.cancel([attempt.id], hard=True)
            outcome = harness.outcome(attempt)
            ends.add(outcome.kind)
            if outcome.kind == "returned":
                assert harness.value(outcome) == number + 1
        assert ends <= {"returned", "stopped", "abandoned"}, f"of {ends} some cannot be"
        for number in range(20):
            assert harness.value(harness.run(subjects.add, number)) == number + 1, (
                "a stop that came late must not hit the next attempt"
            )

    def test_close_drops_what_waits(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate, trace = harness.gate(), harness.gate()
        harness.hold(max(1, harness.runner.slots()), gate)
        late = harness.attempt(subjects.open_gate, trace)
        harness.submit(late)
        harness.runner.close(0.0)
        outcome = harness.outcome(late)
        assert outcome.kind == "stopped", f"close() drops what waits: {describe(outcome)}"
        assert outcome.began is False, "a dropped attempt never began"
        assert not trace.is_open(), "a dropped attempt must not run"

    def test_close_lets_running_attempts_end_in_the_grace(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        begun, gate = harness.gate(), harness.gate()
        running = harness.attempt(subjects.pass_gate, begun, gate)
        harness.submit(running)
        begun.wait("the attempt runs")
        opener = threading.Timer(0.1, gate.open)
        opener.start()
        harness.runner.close(self.patience_seconds)
        opener.join()
        assert harness.value(harness.outcome(running)) == "passed", (
            "close() waits for running attempts up to grace_seconds"
        )

    def test_close_does_not_wait_for_what_ignores_it(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        begun, gate = harness.gate(), harness.gate()
        deaf = harness.attempt(subjects.ignore_everything, begun, gate)
        harness.submit(deaf)
        begun.wait("the attempt runs")
        began = time.monotonic()
        harness.runner.close(0.1)
        elapsed = time.monotonic() - began
        outcome = harness.outcome(deaf)
        gate.open()
        assert outcome.kind in ("stopped", "abandoned"), (
            f"what runs is stopped or abandoned: {describe(outcome)}"
        )
        assert elapsed < self.patience_seconds / 4, (
            f"close() ends about a second after the grace, whatever runs: {elapsed:.1f} s"
        )
