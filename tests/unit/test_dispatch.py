"""Promises of the dispatcher: whose turn it is, and what a runner is given."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from penstock import task
from penstock.context import CURRENT
from penstock.engine.dispatch import Dispatcher, RunnerHandle, rank
from penstock.retries import RetryPolicy
from penstock.runs import Plan, TaskRun, made_at
from penstock.task_runners import Broken, Capabilities, Outcome
from penstock.testing import ManualTaskRunner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.runs import Run


@task
def work(x: int) -> int:
    return x


class Bench:
    """A dispatcher with one manual runner, whose runs take their places at once."""

    def __init__(self, runner: ManualTaskRunner | None = None, **tag_limits: int) -> None:
        self.runner = ManualTaskRunner() if runner is None else runner
        self.reported: list[Any] = []
        self.dispatcher = Dispatcher(self.reported.append, self._go, tag_limits, {})
        self.handle = self.dispatcher.handle_for("manual", lambda: self.runner, "manual")
        self.number = -1

    def _go(self, run: Run) -> None:
        self.dispatcher.take(run)

    def run(self, priority: int = 0, depth: int = 0, *tags: str, **resources: float) -> TaskRun:
        self.number += 1
        plan = Plan(
            subject=work,
            name="work",
            tags=frozenset(tags),
            retries=RetryPolicy.of(0),
            crash_retries=0,
            timeout_seconds=None,
            log_prints=False,
            hooks={},
            handlers=[],
            run_name=None,
            retry_condition=None,
            is_async=False,
            is_generator=False,
            is_plain=True,
            runner=self.handle,
            limits=self.dispatcher.admission.limits.limited(frozenset(tags)),
            is_held=bool(tags or resources),
            resources=resources,
        )
        run = TaskRun(plan, None, None, None, (self.number,), {}, made_at(0.0), self.number)
        run.priority, run.depth, run.was_submitted = priority, depth, True
        return run

    def enqueue(self, *runs: TaskRun) -> None:
        for run in runs:
            self.dispatcher.enqueue(run)

    def handed_out(self) -> list[int]:
        self.dispatcher.hand_out()
        return [attempt.args[0] for attempt in self.runner.submitted]


def test_nothing_goes_to_a_runner_before_it_is_handed_out() -> None:
    bench = Bench()
    bench.enqueue(bench.run())
    assert bench.runner.submitted == []
    assert bench.handed_out() == [0]


def test_a_runner_is_made_once_for_each_key() -> None:
    made: list[ManualTaskRunner] = []

    def make() -> ManualTaskRunner:
        made.append(ManualTaskRunner())
        return made[-1]

    dispatcher = Dispatcher(print, print, {}, {})
    handles = [dispatcher.handle_for(key, make, "manual") for key in ("a", "a", "b")]
    assert handles[0] is handles[1] is not handles[2]
    assert len(made) == len(dispatcher.handles()) == 2


def test_a_runner_is_opened_when_the_first_run_is_handed_out() -> None:
    bench = Bench()
    bench.dispatcher.hand_out()
    assert not bench.runner.is_open
    bench.enqueue(bench.run())
    bench.dispatcher.hand_out()
    assert bench.runner.is_open


def test_a_runner_that_was_never_opened_is_not_closed() -> None:
    class Unclosable(ManualTaskRunner):
        def close(self, grace_seconds: float = 0.0) -> None:
            raise AssertionError("was not open")

    Bench(Unclosable()).dispatcher.close(0.0)


def test_rank_is_priority_and_then_depth() -> None:
    bench = Bench()
    runs = [bench.run(0, 7), bench.run(1, 0), bench.run(-1, 9), bench.run(0, 0), bench.run(0, 7)]
    bench.enqueue(*runs)
    assert bench.handed_out() == [1, 0, 4, 3, 2]
    assert rank(runs[1]) > rank(runs[0]) > rank(runs[3]) > rank(runs[2])


def test_credit_is_asked_again_for_every_bunch() -> None:
    bench = Bench(ManualTaskRunner(credit=2))
    bench.enqueue(*(bench.run() for _ in range(5)))
    assert bench.handed_out() == [0, 1]
    bench.runner.finish(1)
    bench.dispatcher.end_attempt(Outcome(1, "returned"))
    assert bench.handed_out() == [0, 1, 2]


def test_a_starved_runner_is_not_asked_again_until_something_ends() -> None:
    asked: list[int] = []

    class Counting(ManualTaskRunner):
        def credit(self) -> int:
            asked.append(1)
            return super().credit()

    bench = Bench(Counting(credit=0))
    for _ in range(5):
        bench.enqueue(bench.run())
        bench.dispatcher.hand_out()
    assert len(asked) == 1


def test_the_number_of_an_attempt_is_never_used_again() -> None:
    bench = Bench()
    run = bench.run()
    bench.enqueue(run)
    bench.handed_out()
    first = run.attempt_id
    bench.dispatcher.end_attempt(Outcome(first, "lost"))
    bench.enqueue(run)
    bench.handed_out()
    assert run.attempt_id != first


def test_the_end_of_an_attempt_gives_its_run_once() -> None:
    bench = Bench()
    run = bench.run()
    bench.enqueue(run)
    bench.handed_out()
    outcome = Outcome(run.attempt_id, "returned")
    assert bench.dispatcher.end_attempt(outcome) is run
    assert bench.dispatcher.end_attempt(outcome) is None
    assert bench.dispatcher.attempts == {}


@pytest.mark.parametrize("index", range(5))
def test_a_run_can_be_withdrawn_from_the_queue_whose_order_stays(index: int) -> None:
    bench = Bench()
    runs = [bench.run(priority) for priority in (3, 1, 4, 0, 2)]
    bench.enqueue(*runs)
    assert bench.dispatcher.withdraw(runs[index])
    assert bench.handed_out() == [number for number in (2, 0, 4, 1, 3) if number != index]


def test_what_is_not_in_the_queue_cannot_be_withdrawn() -> None:
    bench = Bench()
    run = bench.run()
    assert not bench.dispatcher.withdraw(run)
    bench.enqueue(run)
    bench.handed_out()
    assert not bench.dispatcher.withdraw(run)


def test_a_run_that_is_withdrawn_gives_its_place_back() -> None:
    bench = Bench(ManualTaskRunner(credit=0), db=1)
    runs = [bench.run(0, 0, "db") for _ in range(2)]
    bench.enqueue(*runs)
    assert bench.dispatcher.withdraw(runs[0])
    bench.runner.credit_limit = 1
    bench.dispatcher.feed_again(bench.handle)
    assert bench.handed_out() == [1]


def test_a_run_of_a_limited_tag_lines_up_when_there_is_a_place() -> None:
    bench = Bench(db=1)
    runs = [bench.run(0, 0, "db") for _ in range(2)]
    bench.enqueue(*runs)
    assert bench.handed_out() == [0]
    bench.dispatcher.end_attempt(Outcome(runs[0].attempt_id, "returned"))
    assert bench.handed_out() == [0, 1]


def test_a_direct_call_that_leaves_the_line_takes_no_place() -> None:
    bench = Bench(db=1)
    first, direct, last = (bench.run(0, 0, "db") for _ in range(3))
    direct.was_submitted = False
    bench.enqueue(first, direct, last)
    bench.handed_out()
    bench.dispatcher.leave(direct)
    bench.dispatcher.end_attempt(Outcome(first.attempt_id, "returned"))
    assert bench.handed_out() == [0, 2]


class GPUs(ManualTaskRunner):
    resources: Mapping[str, float] = {"GPU": 2}


def test_an_attempt_is_submitted_when_its_resources_are_free() -> None:
    bench = Bench(GPUs())
    runs = [bench.run(GPU=1) for _ in range(3)]
    bench.enqueue(*runs)
    assert bench.handed_out() == [0, 1]
    assert [run.resources for run in runs] == [{"GPU": (0,)}, {"GPU": (1,)}, {}]
    bench.dispatcher.end_attempt(Outcome(runs[0].attempt_id, "lost"))
    assert runs[0].resources == {}
    assert bench.handed_out() == [0, 1, 2]
    assert runs[2].resources == {"GPU": (0,)}


def test_those_that_need_no_resources_pass_by_one_that_waits_for_them() -> None:
    bench = Bench(GPUs(credit=3))
    bench.enqueue(bench.run(GPU=2), bench.run(GPU=1), bench.run(), bench.run())
    assert bench.handed_out() == [0, 2, 3], "the one that waits takes no credit"


def test_a_higher_priority_that_comes_while_others_wait_is_next() -> None:
    bench = Bench(GPUs())
    first = bench.run(GPU=2)
    bench.enqueue(first, bench.run(GPU=2))
    bench.handed_out()
    bench.enqueue(bench.run(1, 0, GPU=2))
    assert bench.handed_out() == [0]
    bench.dispatcher.end_attempt(Outcome(first.attempt_id, "returned"))
    assert bench.handed_out() == [0, 2]


@pytest.mark.parametrize("index", [0, 1])
def test_a_run_that_waits_for_resources_can_be_withdrawn(index: int) -> None:
    bench = Bench(GPUs())
    holder = bench.run(GPU=1)
    waiting = [bench.run(GPU=2), bench.run(GPU=2)]
    bench.enqueue(holder, *waiting)
    bench.handed_out()
    assert bench.dispatcher.withdraw(waiting[index])
    bench.dispatcher.end_attempt(Outcome(holder.attempt_id, "returned"))
    assert bench.handed_out() == [0, 2 - index]


def test_when_a_large_one_is_withdrawn_those_behind_it_go_on() -> None:
    bench = Bench(GPUs())
    runs = [bench.run(GPU=1), bench.run(GPU=2), bench.run(GPU=1)]
    bench.enqueue(*runs)
    assert bench.handed_out() == [0]
    bench.dispatcher.withdraw(runs[1])
    assert bench.handed_out() == [0, 2]


def test_a_runner_that_schedules_resources_by_itself_gets_all_of_them() -> None:
    bench = Bench(GPUs(capabilities=Capabilities(schedules_resources=True)))
    bench.enqueue(*(bench.run(GPU=2) for _ in range(3)))
    assert bench.handed_out() == [0, 1, 2]
    assert bench.runner.submitted[2].resources == {"GPU": 2}


def test_what_waits_for_the_resources_of_a_broken_runner_is_abandoned() -> None:
    bench = Bench(GPUs())
    runs = [bench.run(GPU=2) for _ in range(2)]
    bench.enqueue(*runs)
    bench.handed_out()
    bench.dispatcher.note_broken(Broken(RuntimeError("gone"), bench.runner))
    bench.dispatcher.hand_out()
    (outcome,) = bench.reported
    assert (outcome.kind, outcome.attempt_id) == ("abandoned", runs[1].attempt_id)


def test_while_paused_nothing_is_handed_out() -> None:
    bench = Bench()
    bench.dispatcher.pauses += 1
    bench.enqueue(bench.run())
    assert bench.handed_out() == []
    bench.dispatcher.resume()
    assert bench.handed_out() == [0]


def test_a_worker_in_this_process_gets_the_context_of_the_submit_with_its_run() -> None:
    bench = Bench()
    run = bench.run()
    run.context = contextvars.copy_context()
    bench.enqueue(run)
    bench.handed_out()
    (attempt,) = bench.runner.submitted
    assert attempt.context is not None
    assert attempt.context[CURRENT] is run
    assert attempt.name == "work"


def test_nothing_of_ours_goes_to_a_worker_in_another_process() -> None:
    bench = Bench(ManualTaskRunner(capabilities=Capabilities(pickles=True)))
    run = bench.run()
    run.context = contextvars.copy_context()
    bench.enqueue(run)
    bench.handed_out()
    (attempt,) = bench.runner.submitted
    assert (attempt.context, attempt.fn, attempt.name) == (None, work.fn, "work-0")


def test_the_handle_of_a_runner_knows_what_it_can_do() -> None:
    runner = ManualTaskRunner(capabilities=Capabilities(lends_slots=True))
    assert RunnerHandle(runner, "manual").capabilities.lends_slots
