"""Checks of what comes back: values, starts, contexts, order, and one outcome for each attempt."""

# ruff: noqa: D102  (a check's name is its promise)

from __future__ import annotations

import contextvars
import functools
import gc
import pickle
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from penstock.task_runners import Packed
from penstock.testing import subjects
from penstock.testing.conformance_base import ConformanceChecks, skip_if, skip_unless
from penstock.testing.harness import environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from penstock.testing.harness import RunnerHarness

__all__ = ["OutcomeChecks"]


class Something:
    """An object whose identity and life can be watched."""


class OutcomeChecks(ConformanceChecks):
    """What a runner reports when nothing goes wrong."""

    def test_a_value_comes_back(self, harness: RunnerHarness) -> None:
        assert harness.value(harness.run(subjects.add, 1)) == 2
        assert harness.value(harness.run(subjects.add, 1, kwargs={"y": 5})) == 6

    def test_lambdas_and_closures_run(self, harness: RunnerHarness) -> None:
        factor = 3
        assert harness.value(harness.run(lambda x: x * 3, 5)) == 15
        assert harness.value(harness.run(lambda x: x * factor, 5)) == 15

    def test_an_outcome_tells_the_attempt_the_duration_and_the_worker(
        self, harness: RunnerHarness
    ) -> None:
        began = time.monotonic()
        outcome = harness.run(subjects.add, 1)
        elapsed = time.monotonic() - began
        assert outcome.began is True, "a returned outcome has began=True"
        assert outcome.error is None, "a returned outcome has no error"
        assert 0 <= outcome.duration_seconds <= elapsed, "duration_seconds is that of the function"
        assert isinstance(outcome.worker, str), "worker is a name, for people"

    def test_objects_of_this_process_are_passed_as_they_are(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.pickles, "arguments and results are pickled here")
        value = Something()
        assert harness.value(harness.run(subjects.identity, value)) is value, (
            "a runner that does not pickle passes the very same objects"
        )

    def test_a_result_is_kept_by_nobody_but_its_receiver(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.pickles, "results are pickled here")
        attempt = harness.attempt(Something)
        harness.submit(attempt)
        watched = weakref.ref(harness.value(harness.outcome(attempt)))
        del harness.outcomes[attempt.id]
        deadline = time.monotonic() + self.patience_seconds
        while watched() is not None and time.monotonic() < deadline:
            gc.collect()  # a worker may be a step behind its report
        assert watched() is None, "a runner keeps no result after it has reported it"
        harness.outcomes[attempt.id] = harness.run(subjects.add, 1)

    def test_each_of_500_attempts_has_exactly_one_outcome(self, harness: RunnerHarness) -> None:
        attempts = [harness.attempt(subjects.add, number) for number in range(500)]
        values = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert values == list(range(1, 501)), "each attempt's outcome carries its own value"

    def test_an_idle_runner_wants_attempts(self, harness: RunnerHarness) -> None:
        assert harness.runner.credit() > 0, "an idle runner has credit, or nothing would ever start"
        slots = harness.runner.slots()
        assert slots > 0 or harness.capabilities.elastic, "slots() is 0 for elastic runners only"

    def test_submitting_nothing_is_no_fault(self, harness: RunnerHarness) -> None:
        harness.submit()
        assert harness.value(harness.run(subjects.add, 1)) == 2

    def test_submit_does_not_wait_for_attempts(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate = harness.gate()
        attempts = [harness.attempt(subjects.pass_gate, harness.gate(), gate) for _ in range(50)]
        began = time.monotonic()
        harness.submit(*attempts)
        elapsed = time.monotonic() - began
        gate.open()
        for attempt in attempts:
            assert harness.value(harness.outcome(attempt)) == "passed"
        assert elapsed < self.patience_seconds / 4, f"submit() waits in no case: {elapsed:.2f} s"

    def test_all_slots_run_at_once(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate = harness.gate()
        held = harness.hold(max(1, harness.runner.slots()), gate)
        gate.open()
        for attempt in held:
            assert harness.value(harness.outcome(attempt)) == "passed"

    def test_a_generator_comes_back_as_a_list(self, harness: RunnerHarness) -> None:
        assert harness.value(harness.run(subjects.count_up, 3)) == [0, 1, 2]

    def test_a_coroutine_function_is_awaited(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.async_functions, "async_functions")
        outcome = harness.run(subjects.add_async, 1, is_async=True)
        assert harness.value(outcome) == 2
        attempts = [
            harness.attempt(subjects.add_async, number, is_async=True) for number in range(100)
        ]
        values = [harness.value(outcome) for outcome in harness.run_all(attempts)]
        assert values == list(range(1, 101)), "each async attempt's outcome carries its own value"

    def test_an_async_generator_comes_back_as_a_list(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.async_functions, "async_functions")
        outcome = harness.run(subjects.count_up_async, 3, is_async=True)
        assert harness.value(outcome) == [0, 1, 2]

    def test_the_function_runs_in_the_context_of_the_attempt(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.pickles, "a context cannot leave the process")
        readers: list[tuple[Callable[..., Any], bool]] = [(subjects.read_state, False)]
        if harness.capabilities.async_functions:
            readers.append((subjects.read_state_async, True))
        for read, is_async in readers:
            context = contextvars.Context()
            context.run(subjects.STATE.set, "given")
            outcome = harness.run(read, context=context, is_async=is_async)
            assert harness.value(outcome) == "given", "Attempt.context is where the function runs"
            seen = context.run(subjects.STATE.get)
            assert seen == "seen", "the context itself is used, not a copy of it"
            assert subjects.STATE.get() == "unset", "nobody else's context is touched"

    def test_a_start_is_reported_before_the_outcome(self, harness: RunnerHarness) -> None:
        attempts = [harness.attempt(subjects.add, 1, report_start=True) for _ in range(20)]
        if harness.capabilities.async_functions:
            attempts += [
                harness.attempt(subjects.add_async, 1, report_start=True, is_async=True)
                for _ in range(20)
            ]
        for outcome in harness.run_all(attempts):
            assert harness.value(outcome) == 2
            # The harness takes a start after the outcome for a fault by itself.
            assert outcome.attempt_id in harness.starts, "report_start asks for a Started event"

    @pytest.mark.parametrize("has_deadline", [False, True], ids=["", "deadline"])
    def test_a_start_is_reported_while_the_function_runs(
        self, harness: RunnerHarness, has_deadline: bool
    ) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        gate = harness.gate()
        before = time.monotonic()
        (held,) = harness.hold(1, gate, report_start=True, has_deadline=has_deadline)
        deadline = time.monotonic() + self.patience_seconds
        while held.id not in harness.starts and time.monotonic() < deadline:
            harness.read_events()
        assert held.id in harness.starts, "Started comes when the function begins: deadlines count"
        at = harness.starts[held.id].at
        assert before <= at <= time.monotonic(), "Started.at is this machine's monotonic time"
        gate.open()
        harness.outcome(held)

    def test_a_higher_priority_goes_first(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.runs_in_caller, "submit() runs the attempts")
        log = harness.directory / "starts"
        gate = harness.gate()
        slots = max(1, harness.runner.slots())
        held = harness.hold(slots, gate)
        few, many = slots + 3, 16 + 8 * slots
        low = [harness.attempt(subjects.note_start, str(log), "low") for _ in range(many)]
        high = [
            harness.attempt(subjects.note_start, str(log), "high", priority=5) for _ in range(few)
        ]
        harness.submit(*low)
        harness.submit(*high)
        gate.open()
        for attempt in [*held, *low, *high]:
            harness.value(harness.outcome(attempt))
        starts = log.read_text().split()
        # Each worker may hold one back, begun and not noted, and some may have been sent ahead.
        assert starts.index("high") < many // 2, (
            f"a higher priority goes first among the attempts a runner holds, not {starts}"
        )

    def test_user_code_may_submit(self, harness: RunnerHarness) -> None:
        skip_if(harness.capabilities.pickles, "workers elsewhere do not reach the runner")
        inner = harness.attempt(subjects.add, 1)
        outer = harness.attempt(harness.submit, inner)
        harness.submit(outer)
        harness.value(harness.outcome(outer))
        assert harness.value(harness.outcome(inner)) == 2

    def test_a_lent_slot_is_used_by_others(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.lends_slots, "lends_slots")
        gates = [harness.gate() for _ in range(6)]
        waiting = harness.hold(harness.runner.slots(), gates[0])[:1]
        for gate in gates[1:]:
            harness.runner.blocked(waiting[-1].id, True)
            waiting += harness.hold(1, gate)  # raises if there is no slot for it
        for attempt, gate in reversed(list(zip(waiting, gates, strict=True))):
            gate.open()
            assert harness.value(harness.outcome(attempt)) == "passed"
            if attempt is not waiting[0]:
                harness.runner.blocked(waiting[waiting.index(attempt) - 1].id, False)

    def test_large_results_are_stored_where_they_are_made(self, harness: RunnerHarness) -> None:
        can_store = harness.capabilities.reaches_storage != "nothing"
        skip_unless(can_store, "reaches_storage")
        size, file = 5 << 20, harness.directory / "stored"
        writer = pickle.dumps(functools.partial(subjects.store, str(file)))
        around = environment()._replace(writer=writer)
        outcome = harness.run(bytes, size, environment=around, result_on="driver")
        assert outcome.stored_bytes == file.stat().st_size == size, "stored_bytes is its answer"
        assert outcome.value is None, "what was stored stays there"
        small = harness.run(bytes, 10, environment=around)
        assert small.stored_bytes is None, "a small result goes home"
        assert harness.value(small) == bytes(10)

    def test_what_cannot_be_stored_goes_home(self, harness: RunnerHarness) -> None:
        can_store = harness.capabilities.reaches_storage != "nothing"
        skip_unless(can_store, "reaches_storage")
        folder = harness.directory  # opened as a file: an error
        writer = pickle.dumps(functools.partial(subjects.store, str(folder)))
        around = environment()._replace(writer=writer)
        outcome = harness.run(bytes, 5 << 20, environment=around, result_on="driver")
        assert outcome.stored_bytes is None
        assert len(harness.value(outcome)) == 5 << 20

    def test_kept_results_stay_and_feed_the_next(self, harness: RunnerHarness) -> None:
        skip_unless(harness.capabilities.keeps_results, "keeps_results")
        size = 5 << 20
        outcome = harness.run(bytes, size, result_on="cluster")
        kept = outcome.value
        assert outcome.kind == "returned", "result_on asks for a value, all the same"
        assert not isinstance(kept, (bytes, Packed)), "a kept result does not come home"
        assert kept.nbytes >= size / 2, "nbytes is about the size of the value"
        assert harness.value(harness.run(len, kept)) == size, "a KeptResult is a good argument"
        assert len(kept.fetch()) == size, "fetch() brings the value"
        home = harness.run(bytes, size, result_on="driver")
        assert len(harness.value(home)) == size, "what is wanted at home comes home"
