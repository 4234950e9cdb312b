"""Results that stayed with workers and were lost: who makes them again, when, and for whom.

The runner is moved by hand. What it keeps is in memory, and lost when a test says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import KeptUntilLost

from penstock import PenstockFuture, allow_failure, task
from penstock.exceptions import CancelledRun, WorkerLost
from penstock.futures import MOST_RECOVERIES
from penstock.task_runners import Capabilities, Outcome
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test

if TYPE_CHECKING:
    from collections.abc import Iterator


class KeepingRunner(ManualTaskRunner):
    """Keeps what the test has it keep."""

    def __init__(self) -> None:
        super().__init__(capabilities=Capabilities(keeps_results=True))

    def keep(self, attempt_id: int, value: Any) -> KeptUntilLost:
        kept = KeptUntilLost(value, self)
        self.report_end(attempt_id, kept)
        return kept

    def report_end(self, attempt_id: int, value: Any) -> None:
        self.finish(attempt_id, value)

    def lose_inputs(self, attempt_id: int, *lost: KeptUntilLost) -> None:
        """The attempt cannot be sent, as arguments are gone."""
        self._end(
            Outcome(attempt_id, "lost", reason="arguments lost", began=False, lost_inputs=lost)
        )


class Bench:
    def __init__(self, bench: EngineForTest) -> None:
        self.bench = bench
        self.runner: KeepingRunner = bench.runner

    @property
    def open(self) -> list[tuple[int, str]]:
        """The attempts that the runner has, and what each is named."""
        return [(each.id, each.name) for each in self.runner.open_attempts]

    def keep(self, attempt_id: int, value: Any = "made") -> KeptUntilLost:
        kept = self.runner.keep(attempt_id, value)
        self.bench.drain()
        return kept

    def finish(self, attempt_id: int, value: Any = None) -> None:
        self.runner.finish(attempt_id, value)
        self.bench.drain()

    def fail(self, attempt_id: int) -> None:
        self.runner.fail(attempt_id, ValueError("the second time it fails"))
        self.bench.drain()

    def lose_inputs(self, attempt_id: int, *lost: KeptUntilLost) -> None:
        self.runner.lose_inputs(attempt_id, *lost)
        self.bench.drain()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with engine_for_test(KeepingRunner()) as bench:
        yield Bench(bench)
        engine = bench.engine
        assert engine._resuming == {}
        assert engine._lost == {}
        assert engine.loop.in_flight == len(bench.flow_run.active)


@task
def make() -> Any:
    return "never called: the test says what comes of it"


@task
def use(*values: Any) -> Any:
    return values


def names(future: PenstockFuture[Any]) -> list[str]:
    return [state.name for state in future.run.states]


MADE_AGAIN = ["Pending", "Running", "Completed", "ResultLost", "Running", "Completed"]


def test_a_kept_result_is_an_argument_as_it_is(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    use.submit(producer, [producer])
    (attempt,) = bench.runner.open_attempts
    assert attempt.args == (kept, [kept])


def test_who_asks_for_a_lost_result_has_it_made_again(bench: Bench) -> None:
    producer = make.submit()
    bench.keep(1).is_lost = True
    engine = bench.bench.engine
    asked: list[Any] = []

    def make_it() -> None:
        asked.extend(bench.open)
        bench.runner.finish(2, "again")

    engine.loop.call_at(engine.clock.monotonic() + 1, make_it)
    assert producer.result() == "again"
    assert asked == [(2, "make")]
    assert names(producer) == MADE_AGAIN
    assert producer.run.run_count == 2


def test_who_awaits_a_lost_result_has_it_made_again(bench: Bench) -> None:
    producer = make.submit()
    bench.keep(1).is_lost = True
    engine = bench.bench.engine
    engine.loop.call_at(engine.clock.monotonic() + 1, lambda: bench.runner.finish(2, "again"))

    async def ask() -> Any:
        return await producer

    assert asyncio.run(ask()) == "again"


def test_a_result_that_is_lost_every_time_is_given_up(bench: Bench) -> None:
    producer = make.submit()
    bench.keep(1).is_lost = True
    engine = bench.bench.engine

    def make_in_vain(attempt_id: int) -> None:
        bench.runner.keep(attempt_id, "in vain").is_lost = True
        engine.loop.call_at(
            engine.clock.monotonic() + 1, lambda: make_in_vain(attempt_id + 1)
        ) if attempt_id <= MOST_RECOVERIES else None

    engine.loop.call_at(engine.clock.monotonic() + 1, lambda: make_in_vain(2))
    with pytest.raises(WorkerLost, match='result_on="driver"'):
        producer.result()
    assert producer.run.run_count == 1 + MOST_RECOVERIES


def test_a_lost_argument_is_made_again_and_the_attempt_is_handed_out_anew(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    user = use.submit(producer)
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    assert bench.open == [(3, "make")]
    again = bench.keep(3, "again")
    assert kept.current() is again
    assert bench.open == [(4, "use")]
    bench.finish(4, "used")
    assert user.result() == "used"
    assert names(producer) == MADE_AGAIN
    assert names(user) == ["Pending", "Running", "Completed"]
    assert (producer.run.run_count, user.run.run_count) == (2, 1)


def test_two_consumers_have_a_lost_result_made_once(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    users = [use.submit(producer) for _ in range(2)]
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    bench.lose_inputs(3, kept)
    assert bench.open == [(4, "make")]
    bench.finish(4, "the value itself")
    assert bench.open == [(5, "use"), (6, "use")]
    assert kept.fetch() == "the value itself"
    for attempt_id in (5, 6):
        bench.finish(attempt_id, attempt_id)
    assert [user.result() for user in users] == [5, 6]


def test_what_was_made_again_already_is_used_as_it_is(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    first, second = use.submit(producer), use.submit(producer)
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    bench.keep(4, "again")
    bench.lose_inputs(3, kept)  # it heard of the loss late
    assert [name for _, name in bench.open] == ["use", "use"]
    for attempt_id, _ in bench.open:
        bench.finish(attempt_id, "used")
    assert (first.result(), second.result()) == ("used", "used")
    assert names(producer) == MADE_AGAIN


def test_a_chain_is_made_again_from_where_it_was_lost(bench: Bench) -> None:
    first = make.submit()
    one = bench.keep(1, "one")
    second = use.submit(first)
    two = bench.keep(2, "two")
    third = use.submit(second)
    one.is_lost = two.is_lost = True
    bench.lose_inputs(3, two)
    assert [number for number, _ in bench.open] == [4], "the second is tried first"
    bench.lose_inputs(4, one)
    assert bench.open == [(5, "make")]
    bench.keep(5, "one again")
    assert [number for number, _ in bench.open] == [6]
    bench.keep(6, "two again")
    bench.finish(7, "three")
    assert third.result() == "three"
    assert (names(first), names(second)) == (MADE_AGAIN, MADE_AGAIN)


def test_if_it_fails_the_second_time_who_needs_it_crashes_and_says_so(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    user = use.submit(producer)
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    bench.fail(3)
    assert user.state.is_crashed()
    assert "an input was lost with its worker, and could not be made again" in str(user.exception())
    assert names(producer) == [*MADE_AGAIN[:5], "Failed"]


def test_an_input_that_may_fail_is_no_obstacle(bench: Bench) -> None:
    producer, failing = make.submit(), make.submit()
    kept = bench.keep(1)
    bench.fail(2)
    user = use.submit(producer, allow_failure(failing))
    kept.is_lost = True
    bench.lose_inputs(3, kept)
    bench.keep(4, "again")
    assert [number for number, _ in bench.open] == [5], "it goes on with what it has"
    bench.finish(5, "used")
    assert user.result() == "used"


def test_cancelled_while_it_waits_for_its_inputs_it_ends_and_they_are_made(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    user = use.submit(producer)
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    assert user.cancel()
    with pytest.raises(CancelledRun):
        user.result()
    assert bench.open == [(3, "make")], "it was asked for, and somebody else may want it"
    bench.finish(3, "again")
    assert bench.open == []
    assert producer.result() == "again"


def test_a_producer_that_is_cancelled_meanwhile_takes_its_users_along(bench: Bench) -> None:
    producer = make.submit()
    kept = bench.keep(1)
    user = use.submit(producer)
    kept.is_lost = True
    bench.lose_inputs(2, kept)
    assert producer.cancel()
    bench.runner.stop(3)
    bench.bench.drain()
    assert producer.state.is_cancelled()
    assert user.state.is_crashed()


def test_a_consumer_on_another_runner_has_it_made_again_too(bench: Bench) -> None:
    other = ManualTaskRunner()
    producer = make.submit()
    kept = bench.keep(1)
    kept.is_lost = True
    user = use.with_options(task_runner=other).submit(producer)
    bench.bench.drain()
    assert other.open_attempts == []
    assert bench.open == [(2, "make")]
    second = bench.runner.keep(2, "again")
    second.is_lost = True  # and lost once more, before anybody took it
    bench.bench.drain()
    assert bench.open == [(3, "make")]
    bench.finish(3, "at last")
    (attempt,) = other.open_attempts
    assert attempt.args == ("at last",)
    other.finish(attempt.id, "used")
    assert user.result() == "used"


def test_what_was_not_lost_is_not_made_again(bench: Bench) -> None:
    other = ManualTaskRunner()
    lost, safe = make.submit(), make.submit()
    bench.keep(1).is_lost = True
    bench.keep(2, "safe")
    use.with_options(task_runner=other).submit(safe, lost)
    bench.bench.drain()
    assert bench.open == [(3, "make")]
    bench.finish(3, "again")
    (attempt,) = other.open_attempts
    assert attempt.args == ("safe", "again")
    assert (names(safe), names(lost)) == (MADE_AGAIN[:3], MADE_AGAIN)


def test_what_nobody_can_make_again_fails_who_needs_it(bench: Bench) -> None:
    orphan = KeptUntilLost("whose", bench.runner)
    orphan.is_lost = True
    user = use.submit(orphan)
    bench.lose_inputs(1, orphan)
    assert user.state.is_crashed()
    assert "arguments lost" in str(user.exception())
