"""User row 16: how many runs of a task at once, and how often they may start."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import wait_until

from penstock import flow, task, wait
from penstock.exceptions import DefinitionError
from penstock.runtime import task_run
from penstock.settings import temporary_settings
from penstock.testing.utilities import engine_for_test
from penstock_runners.thread import ThreadPoolTaskRunner

if TYPE_CHECKING:
    from tests.flows.conftest import Gate


class Meter:
    """Counts how many are inside at once, and when each came."""

    def __init__(self) -> None:
        self.most = 0
        self.times: list[float] = []
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.times.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


@pytest.fixture
def meter() -> Meter:
    return Meter()


@task(max_concurrency=2)
def two_at_once(meter: Meter, seconds: float = 0.0) -> int:
    with meter:
        time.sleep(seconds)
        return meter.most


# --- max_concurrency ---------------------------------------------------------------------------


def test_user_016_1000_runs_never_exceed_the_limit_of_their_task(meter: Meter) -> None:
    @flow(task_runner="thread:8")
    def body() -> list[int]:
        return two_at_once.map([meter] * 1000).result()

    assert len(body()) == 1000
    assert meter.most == 2


@pytest.mark.parametrize("how", ["submit", "call", "both"])
def test_user_016_the_limit_holds_for_direct_calls_too(meter: Meter, how: str) -> None:
    @flow(task_runner="thread:8")
    def body() -> None:
        def work(number: int) -> None:
            if how == "submit" or (how == "both" and number % 2):
                two_at_once.submit(meter, 0.001).result()
            else:
                two_at_once(meter, 0.001)

        task(work).map(range(40)).wait()

    body()
    assert meter.most == 2


def test_user_016_the_limit_holds_for_awaited_runs(meter: Meter) -> None:
    @task(max_concurrency=2)
    async def awaited() -> None:
        with meter:
            await asyncio.sleep(0.001)

    @flow
    async def body() -> None:
        await asyncio.gather(*(awaited() for _ in range(20)))

    asyncio.run(body())
    assert meter.most == 2


def test_user_016_the_limit_holds_in_sub_flows_and_outside_of_flows(meter: Meter) -> None:
    @flow
    def inner() -> None:
        two_at_once.map([meter] * 20, 0.001).wait()

    @flow(task_runner="thread:8")
    def outer() -> None:
        first = inner.submit()
        two_at_once.map([meter] * 20, 0.001).wait()
        first.result()

    outer()
    assert meter.most == 2
    wait([two_at_once.submit(meter, 0.001) for _ in range(20)])
    assert meter.most == 2


def test_user_016_copies_share_the_limit_unless_they_have_another(meter: Meter) -> None:
    other = Meter()

    @flow(task_runner="thread:8")
    def body() -> None:
        for number in range(20):
            two_at_once.with_options(name=f"copy {number}").submit(meter, 0.002)
            two_at_once.with_options(max_concurrency=3).submit(other, 0.002)

    body()
    assert (meter.most, other.most) == (2, 3)


def test_user_016_methods_of_all_instances_share_the_limit(meter: Meter) -> None:
    class Client:
        @task(max_concurrency=1)
        def fetch(self) -> None:
            with meter:
                time.sleep(0.001)

    @flow(task_runner="thread:4")
    def body() -> None:
        for _ in range(10):
            Client().fetch.submit()

    body()
    assert meter.most == 1


def test_user_016_a_run_that_waits_for_a_place_holds_no_worker(gate: Gate) -> None:
    @task(max_concurrency=1)
    def hold() -> None:
        gate.wait()

    @task
    def free() -> str:
        return "free"

    @flow(task_runner="thread:2")
    def body() -> str:
        held = [hold.submit() for _ in range(5)]
        found = free.submit().result()
        gate.open()
        wait(held)
        return found

    assert body() == "free"


def test_user_016_a_place_that_is_free_is_taken_at_once_while_the_flow_is_busy(
    meter: Meter,
) -> None:
    @flow(task_runner="thread:2")
    def body() -> None:
        futures = [two_at_once.with_options(max_concurrency=1).submit(meter) for _ in range(5)]
        until = time.monotonic() + 10
        while not futures[-1].done() and time.monotonic() < until:
            time.sleep(0.001)  # in the user's code: nobody waits inside of the library

    body()
    gaps = [later - earlier for earlier, later in itertools.pairwise(meter.times)]
    assert max(gaps) < 0.5, "a hundred times what it takes"


def test_user_016_a_place_is_free_again_after_a_failure_a_timeout_and_a_cancel(
    gate: Gate,
) -> None:
    @task(max_concurrency=1)
    def one(how: str) -> str:
        if how == "fail":
            raise ValueError(how)
        if how == "hang":
            gate.wait()
        return how

    @flow(task_runner="thread:2")
    def body() -> Any:
        failed = one.submit("fail")
        timed_out = one.with_options(timeout_seconds=0.05).submit("hang")
        cancelled = one.submit("hang")
        last = one.submit("last")
        wait([failed, timed_out])
        cancelled.cancel(kill=True)
        found = last.result(timeout=10)
        gate.open()
        return found, [each.state.name for each in (failed, timed_out, cancelled)]

    assert body() == ("last", ["Failed", "TimedOut", "Cancelled"])


def test_user_016_a_place_is_free_again_when_a_worker_is_lost() -> None:
    @task(max_concurrency=1, crash_retries=0)
    def one(name: str) -> str:
        return name

    with engine_for_test() as bench:
        lost, alive = one.submit("lost"), one.submit("alive")
        assert len(bench.runner.open_attempts) == 1
        bench.runner.start(1)
        bench.runner.lose(1)
        bench.drain()
        bench.runner.run(2)
        assert (lost.state.name, alive.result()) == ("Crashed", "alive")


def test_user_016_a_run_that_waits_for_its_retry_holds_no_place(runner: str) -> None:
    done: list[str] = []

    @task(max_concurrency=1, retries=1, retry_delay_seconds=0.05)
    def one(name: str) -> None:
        done.append(f"{name} {task_run.run_count}")
        if name == "flaky" and task_run.run_count == 1:
            raise ValueError("once")

    @flow(task_runner=runner)
    def body() -> None:
        wait([one.submit("flaky"), one.submit("other")])

    body()
    assert done == ["flaky 1", "other 1", "flaky 2"]


@pytest.mark.parametrize("nested", ["submit", "call"])
def test_user_016_a_task_that_calls_itself_shares_its_place(runner: str, nested: str) -> None:
    @task(max_concurrency=1)
    def count_down(number: int) -> int:
        if number == 0:
            return 0
        if nested == "call":
            return 1 + count_down(number - 1)
        return 1 + count_down.submit(number - 1).result(timeout=10)

    @flow(task_runner=runner)
    def body() -> int:
        return count_down.submit(3).result(timeout=10)

    assert body() == 3


def test_user_016_a_generator_that_is_tried_again_does_not_wait_for_itself() -> None:
    @task(max_concurrency=1, retries=1)
    def numbers() -> Any:
        yield task_run.run_count
        if task_run.run_count == 1:
            raise ValueError("once")

    @flow
    def body() -> list[int]:
        return list(numbers())

    assert body() == [1, 2]


@pytest.mark.parametrize("given", [0, -1, 2.5, "4", True])
def test_user_016_an_impossible_limit_is_refused_at_definition(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"max_concurrency is a whole number >= 1"):
        task(max_concurrency=given)(lambda: None)


# --- rate_limit --------------------------------------------------------------------------------


def test_user_016_starts_are_spread_whatever_the_way_of_the_call(meter: Meter) -> None:
    @task(rate_limit="50/s")
    def ping() -> None:
        with meter:
            pass

    @task(rate_limit=50)
    async def aping() -> None:
        with meter:
            pass

    @flow(task_runner="thread:4")
    def submitted() -> None:
        wait([ping.submit() for _ in range(60)])

    @flow
    def called() -> None:
        for _ in range(60):
            ping()

    @flow
    async def awaited() -> None:
        await asyncio.gather(*(aping() for _ in range(60)))

    def awaited_here() -> None:
        asyncio.run(awaited())

    for run in (submitted, called, awaited_here):
        meter.times.clear()
        run()
        first, *_, last = sorted(meter.times)
        assert len(meter.times) == 60
        assert last - first >= 0.15, "50 at once, and 10 at 50 a second"


def test_user_016_a_run_that_waits_for_its_rate_holds_no_worker() -> None:
    @task(rate_limit="1/h")
    def rare() -> None: ...

    @task
    def free() -> str:
        return "free"

    @flow(task_runner="thread:1")
    def body() -> Any:
        futures = [rare.submit() for _ in range(5)]
        found = free.submit().result(timeout=10)
        wait(futures[:1])
        for future in futures[1:]:
            future.cancel()
        return found, [future.state.name for future in futures]

    assert body() == ("free", ["Completed", *["Cancelled"] * 4])


def test_user_016_every_attempt_waits_for_its_turn_by_a_clock_moved_by_hand() -> None:
    @task(rate_limit="60/h", retries=1)
    def rare() -> None: ...

    begun: list[float] = []
    with engine_for_test() as bench:
        futures = [rare.submit() for _ in range(3)]
        for second in range(200):
            for attempt in bench.runner.open_attempts:
                begun.append(float(second))
                bench.runner.start(attempt.id, begun[-1])
                if len(begun) == 1:
                    bench.runner.fail(attempt.id, ValueError("a retry is a start, too"))
                else:
                    bench.runner.finish(attempt.id)
            bench.sleep(1.0)
        assert begun == pytest.approx([0, 60, 120, 180], abs=1.0)
        assert all(future.done() for future in futures)


def test_user_016_what_a_busy_runner_holds_back_does_not_start_all_at_once() -> None:
    @task(rate_limit="2/s")
    def fetch() -> None: ...

    with engine_for_test() as bench:
        for _ in range(10):
            fetch.submit()
        bench.sleep(100.0)
        assert len(bench.runner.open_attempts) == 2, "these have not begun yet"
        bench.runner.start(1, bench.clock.monotonic())
        bench.sleep(10.0)
        assert len(bench.runner.open_attempts) == 3


def test_user_016_a_run_that_was_lost_before_it_began_was_no_start() -> None:
    @task(rate_limit="1/h")
    def rare() -> str:
        return "done"

    with engine_for_test() as bench:
        future = rare.submit()
        bench.runner.lose(1, began=False)
        bench.drain()
        bench.runner.run(2)
        assert future.result() == "done"


def test_user_016_a_direct_call_that_waits_for_its_rate_can_be_interrupted_by_its_deadline() -> (
    None
):
    @task(rate_limit="1/h")
    def rare() -> str:
        return "done"

    @task(timeout_seconds=0.05)
    def impatient() -> str:
        return rare()

    @flow
    def body() -> Any:
        return rare(), impatient(return_state=True).name

    assert body() == ("done", "TimedOut")


def test_user_016_async_tasks_inline_wait_for_their_rate_too() -> None:
    @task(rate_limit="20/s")
    async def ping() -> int:
        return 1

    @task
    async def outer() -> int:
        return sum([await ping() for _ in range(22)])

    @flow(task_runner="inline")
    def body() -> int:
        return outer.submit().result()

    began = time.monotonic()
    assert body() == 22
    assert time.monotonic() - began >= 0.08


def test_user_016_a_rate_and_a_limit_together(meter: Meter) -> None:
    @task(rate_limit=200, max_concurrency=2, tags=["db"])
    def both() -> None:
        with meter:
            time.sleep(0.001)

    @flow(task_runner="thread:8", tag_limits={"db": 3})
    def body() -> None:
        for _ in range(210):
            both.submit()

    body()
    assert meter.most <= 2
    assert len(meter.times) == 210


def test_user_016_a_rate_holds_outside_of_flows() -> None:
    @task(rate_limit="1/h")
    def rare() -> str:
        return "done"

    with temporary_settings(task_runner="thread:1"):
        first, second = rare.submit(), rare.submit()
        assert first.result() == "done"
        assert second.state.is_pending()
        assert second.cancel()


@pytest.mark.parametrize("given", ["10", "10/d", 0, -1, True, "often", float("nan")])
def test_user_016_an_impossible_rate_is_refused_at_definition(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"rate_limit: a rate is a number of starts a second"):
        task(rate_limit=given)(lambda: None)


def test_user_016_none_clears_both_options() -> None:
    cleared = two_at_once.with_options(max_concurrency=None, rate_limit=None)

    @flow
    def body() -> bool:
        return cleared.submit(Meter()).run.plan.is_held

    assert body() is False


@pytest.mark.parametrize("how", ["rate", "limit", "tag"])
@pytest.mark.parametrize("is_in_sub_flow", [False, True])
def test_user_016_who_waits_for_a_gpu_does_not_stop_what_its_holder_waits_for(
    gate: Gate, how: str, is_in_sub_flow: bool
) -> None:
    """The one has the GPU and needs a turn of a task, the other has that turn and needs the GPU."""
    options: dict[str, dict[str, Any]] = {
        "rate": {"rate_limit": 50},
        "limit": {"max_concurrency": 1},
        "tag": {"tags": ["db"]},
    }

    @task(**options[how])
    def scarce(x: int) -> int:
        return x

    with_gpu = scarce.with_options(resources={"GPU": 1})

    @flow
    def inside() -> int:
        return scarce.submit(1).result()

    @task(resources={"GPU": 1})
    def holder() -> int:
        gate.wait()
        return inside() if is_in_sub_flow else scarce.submit(1).result()

    @flow(task_runner=ThreadPoolTaskRunner(2, resources={"GPU": 1}))
    def main() -> list[int]:
        first = holder.submit()
        wait_until(first.is_running)
        # Of a rate, all that there are at once: so many have their turn, and wait for the GPU.
        others = [with_gpu.submit(2) for _ in range(50 if how == "rate" else 1)]
        gate.open()
        return [first.result(timeout=10), *(each.result(timeout=10) for each in others)]

    with temporary_settings(tag_limits={"db": 1}):
        assert main() == [1] + [2] * (50 if how == "rate" else 1)
