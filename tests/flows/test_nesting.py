"""Promises of row 009 and users' pains 4, 29 and 30: tasks in tasks, flows in flows, async.

However deep, on however few slots, it ends.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, State, flow, task, wait
from penstock.context import current_flow_run, current_run
from penstock.exceptions import CancelledRun

if TYPE_CHECKING:
    from penstock.runs import Run

DEPTH = 5


def this_run() -> Run:
    run = current_run()
    assert run is not None
    return run


# --- tasks in tasks ----------------------------------------------------------------------


def test_users_004_submitting_five_deep_ends_on_any_runner(runner: str) -> None:
    @task
    def down(depth: int) -> int:
        if depth == 0:
            return 0
        return 1 + down.submit(depth - 1).result()

    @flow(task_runner=runner)
    def main() -> int:
        return down.submit(DEPTH).result(timeout=20)

    assert main() == DEPTH


def test_users_004_several_parents_and_several_children_on_any_runner(runner: str) -> None:
    @task
    def leaf(number: int) -> int:
        return number

    @task
    def node(number: int) -> int:
        return sum(leaf.map([number] * 4).result())

    @flow(task_runner=runner)
    def main() -> list[int]:
        return node.map(range(8)).result(timeout=20)

    assert main() == [4 * number for number in range(8)]


def test_users_004_outside_of_any_flow_too() -> None:
    @task(task_runner="thread:1")
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + down.submit(depth - 1).result()

    assert down.submit(DEPTH).result(timeout=20) == DEPTH


@pytest.mark.parametrize("way", ["result", "wait", "futures.wait", "argument", "map"])
def test_users_004_whatever_way_a_task_waits_it_lends_its_slot(way: str) -> None:
    @task
    def child() -> int:
        return 1

    @task
    def use(value: Any) -> Any:
        return value

    @task
    def parent() -> Any:
        future = child.submit()
        if way == "wait":
            future.wait()
        elif way == "futures.wait":
            wait([future, child.submit()])
        elif way == "argument":
            return use(future)  # a direct call waits for its inputs
        elif way == "map":
            return child.submit().result() if not use.map([future]).result() else 1
        return future.result()

    @flow(task_runner="thread:1")
    def main() -> Any:
        return parent.submit().result(timeout=10)

    assert main() == 1


def test_users_009_direct_calls_nest_and_know_their_parents(runner: str) -> None:
    runs: dict[str, Run] = {}

    @task
    def inner() -> int:
        runs["inner"] = this_run()
        return 1

    @task
    def middle() -> int:
        runs["middle"] = this_run()
        return inner() + 1

    @task
    def outer() -> int:
        runs["outer"] = this_run()
        return middle() + 1

    @flow(task_runner=runner)
    def main() -> int:
        runs["main"] = this_run()
        return outer.submit().result()

    assert main() == 3
    assert runs["inner"].parent is runs["middle"]
    assert runs["middle"].parent is runs["outer"]
    assert runs["outer"].parent is runs["main"]
    assert {run.flow_run for run in runs.values() if not run.is_flow_run} == {runs["main"]}
    assert all(run.state.is_completed() for run in runs.values())


def test_users_009_a_failure_in_an_inner_task_reaches_the_outer_ones(runner: str) -> None:
    @task
    def inner() -> int:
        raise ValueError("no luck")

    @task
    def outer() -> int:
        return inner.submit().result()

    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(ValueError, match="no luck"):
            outer.submit().result()

    state: State[None] = main(return_state=True)
    assert str(state) == "Completed('All states completed.')"


def test_users_009_a_retry_inside_of_a_task_is_on_time(threads: str) -> None:
    calls: list[int] = []

    @task(retries=2, retry_delay_seconds=0.02)
    def inner() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("no luck")
        return len(calls)

    @task
    def outer() -> int:
        return inner()

    @flow(task_runner=threads)
    def main() -> int:
        return outer.submit().result(timeout=10)

    assert main() == 3


# --- flows in tasks, flows in flows ------------------------------------------------------


def test_users_030_a_flow_called_in_a_submitted_task(runner: str) -> None:
    @task
    def leaf(number: int) -> int:
        return number

    @flow
    def sub() -> int:
        return sum(leaf.submit(number).result() for number in range(4))

    @task
    def calls_flow() -> int:
        return sub()

    @flow(task_runner=runner)
    def main() -> int:
        return calls_flow.submit().result(timeout=10)

    assert main() == 6


def test_users_030_sub_flows_called_directly_nest(runner: str) -> None:
    runs: list[Run] = []

    @task
    def leaf() -> int:
        return 1

    @flow
    def down(depth: int) -> int:
        runs.append(this_run())
        value = leaf.submit().result()
        return value if depth == 0 else value + down(depth - 1)

    @flow(task_runner=runner)
    def main() -> int:
        runs.append(this_run())
        return down(DEPTH)

    assert main() == DEPTH + 1
    for outer, inner in itertools.pairwise(runs):
        assert inner.parent is outer
        assert inner.flow_run is outer
        assert inner.root is runs[0]  # type: ignore[attr-defined]  # a flow run


def test_users_030_sub_flows_are_submitted_and_run_on_any_runner(runner: str) -> None:
    @task
    def leaf(number: int) -> int:
        return number

    @flow
    def sub(number: int) -> int:
        return leaf.submit(number).result() + leaf(number)

    @flow(task_runner=runner)
    def main() -> list[int]:
        return [f.result(timeout=10) for f in [sub.submit(number) for number in range(5)]]

    assert main() == [0, 2, 4, 6, 8]


def test_users_030_a_submitted_sub_flow_settles_its_tasks_on_any_runner(runner: str) -> None:
    done: list[int] = []
    leaf = task(done.append, name="leaf")

    @flow
    def sub() -> None:
        for number in range(5):
            leaf.submit(number)  # nobody waits for them but the flow itself

    @flow(task_runner=runner)
    def main() -> str:
        return str(sub.submit().state if runner == "inline" else settled(sub.submit()))

    def settled(future: PenstockFuture[None]) -> State[None]:
        future.wait(10)
        return future.state

    main()
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_users_030_submitted_sub_flows_nest_on_any_runner(runner: str) -> None:
    @flow
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + down.submit(depth - 1).result()

    @flow(task_runner=runner)
    def main() -> int:
        return down.submit(DEPTH).result(timeout=20)

    assert main() == DEPTH


def test_users_030_submitted_sub_flows_run_side_by_side() -> None:
    both = threading.Barrier(2)

    @flow
    def sub() -> int:
        return both.wait(10)

    @flow(task_runner="thread:2")
    def main() -> list[int]:
        return sorted(f.result() for f in [sub.submit(), sub.submit()])

    assert main() == [0, 1]


def test_users_030_the_parent_waits_for_a_sub_flow_nobody_asks_about(runner: str) -> None:
    done: list[int] = []
    sub = flow(lambda: done.append(1), name="sub")

    @flow(task_runner=runner)
    def main() -> None:
        sub.submit()

    main()
    assert done == [1]


def test_users_030_a_failed_sub_flow_raises_where_it_is_called(runner: str) -> None:
    @flow
    def sub() -> None:
        raise ValueError("no luck")

    @flow(task_runner=runner)
    def main() -> str:
        with pytest.raises(ValueError, match="no luck"):
            sub()
        future = sub.submit()
        with pytest.raises(ValueError, match="no luck"):
            future.result()
        return str(future.state)

    assert main() == "Failed('Flow run encountered an exception: ValueError: no luck')"


def test_users_030_a_failed_sub_flow_nobody_looked_at_fails_the_parent(runner: str) -> None:
    @flow
    def sub() -> None:
        raise ValueError("no luck")

    @flow(task_runner=runner)
    def main() -> None:
        sub.submit()

    assert str(main(return_state=True)) == "Failed('1/1 states failed.')"


def test_users_030_cancelling_a_sub_flow_goes_down_to_its_tasks(gate: Any) -> None:
    began, submitted = threading.Event(), threading.Event()
    futures: list[PenstockFuture[Any]] = []

    @task
    def blocked() -> None:
        began.set()
        gate.wait()

    @flow
    def sub() -> None:
        futures.extend(blocked.submit() for _ in range(3))
        submitted.set()
        futures[0].result()

    @flow(task_runner="thread:2")
    def main() -> list[str]:
        future = sub.submit()
        assert began.wait(10)
        assert submitted.wait(10)
        assert future.cancel(kill=True)
        with pytest.raises(CancelledRun):
            future.result(timeout=10)
        gate.open()
        return [each.state.name for each in [future, *futures]]

    assert main() == ["Cancelled"] * 4


def test_users_030_a_sub_flow_that_waits_is_cancelled_before_it_begins(gate: Any) -> None:
    sub = flow(lambda: 1, name="sub")
    blocked = task(gate.wait, name="blocked")

    @flow(task_runner="thread:1")
    def main() -> str:
        blocked.submit()
        queued = sub.submit()
        after = sub.submit(wait_for=[queued])
        assert queued.cancel()
        queued.wait(10)
        gate.open()
        after.wait(10)
        return f"{queued.state.name} {after.state.name}"

    assert main() == "Cancelled Cancelled"


def test_users_030_a_sub_flow_takes_futures_and_its_future_feeds_tasks(runner: str) -> None:
    add = task(lambda a, b: a + b, name="add")

    @flow
    def sub(number: int) -> int:
        return 10 * number

    @flow(task_runner=runner)
    def main() -> int:
        first = add.submit(1, 2)
        return int(add.submit(sub.submit(first), sub(first)).result(timeout=10))

    assert main() == 60


def test_users_030_a_sub_flow_may_have_a_runner_of_its_own(gate: Any) -> None:
    seen: list[str] = []

    @task
    def leaf() -> str:
        return threading.current_thread().name

    @flow(task_runner="inline")
    def sub() -> None:
        seen.append(threading.current_thread().name)
        seen.append(leaf.submit().result())

    @flow(task_runner="thread:1")
    def main() -> None:
        sub()

    main()
    assert seen == ["MainThread", "MainThread"]


# --- async -------------------------------------------------------------------------------


def test_users_029_an_async_flow_with_sync_tasks(runner: str) -> None:
    add = task(lambda a, b: a + b, name="add")

    @flow(task_runner=runner)
    async def main() -> int:
        return int(add(1, 2) + await add.submit(3, 4) + add.submit(5, 6).result())

    assert asyncio.run(main()) == 21


def test_users_029_a_sync_flow_with_async_tasks(runner: str) -> None:
    @task
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    @flow(task_runner=runner)
    def main() -> int:
        return add.submit(3, 4).result() + sum(add.map([1, 2], [3, 4]).result())

    assert main() == 17


def test_users_029_an_async_flow_with_async_tasks(runner: str) -> None:
    @task
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    @flow(task_runner=runner)
    async def main() -> int:
        direct = await asyncio.gather(*(add(n, 1) for n in range(5)))
        return sum(direct) + sum([await f for f in [add.submit(n, 1) for n in range(5)]])

    assert asyncio.run(main()) == 30


def test_users_029_async_tasks_nest(runner: str) -> None:
    @task
    async def down(depth: int) -> int:
        await asyncio.sleep(0)
        if depth == 0:
            return 0
        if depth % 2:
            return 1 + await down(depth - 1)
        return 1 + await down.submit(depth - 1)

    @flow(task_runner=runner)
    async def main() -> int:
        return await down(DEPTH) + await down.submit(DEPTH)

    assert asyncio.run(asyncio.wait_for(main(), 20)) == 2 * DEPTH


def test_users_029_async_tasks_nest_in_a_sync_flow(runner: str) -> None:
    @task
    async def down(depth: int) -> int:
        await asyncio.sleep(0)
        return 0 if depth == 0 else 1 + await down.submit(depth - 1)

    @flow(task_runner=runner)
    def main() -> int:
        return down.submit(DEPTH).result(timeout=20)

    assert main() == DEPTH


def test_users_029_sync_and_async_tasks_nest_in_each_other(runner: str) -> None:
    @task
    async def a_down(depth: int) -> int:
        return 0 if depth == 0 else 1 + await s_down.submit(depth - 1)

    @task
    def s_down(depth: int) -> int:
        return 0 if depth == 0 else 1 + a_down.submit(depth - 1).result()

    @flow(task_runner=runner)
    def main() -> int:
        return s_down.submit(DEPTH).result(timeout=20) + a_down.submit(DEPTH).result(timeout=20)

    assert main() == 2 * DEPTH


def test_users_029_an_async_sub_flow_is_awaited(runner: str) -> None:
    @task
    async def leaf(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @flow
    async def sub(number: int) -> int:
        return await leaf(number) + await leaf.submit(number)

    @flow(task_runner=runner)
    async def main() -> list[int]:
        return [await sub(1), *await asyncio.gather(sub(2), sub(3))]

    assert asyncio.run(main()) == [2, 4, 6]


@pytest.mark.parametrize("log_prints", [False, True])
def test_users_029_an_async_sub_flow_is_submitted(threads: str, log_prints: bool) -> None:
    @task
    async def leaf(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @flow(log_prints=log_prints)
    async def sub(number: int) -> int:
        print("in the sub-flow")
        return await leaf(number) + await leaf.submit(number)

    @flow(task_runner=threads)
    def main() -> list[int]:
        return [f.result(timeout=10) for f in [sub.submit(1), sub.submit(2)]]

    @flow(task_runner=threads)
    async def amain() -> list[int]:
        return [await f for f in [sub.submit(1), sub.submit(2)]]

    assert main() == [2, 4]
    assert asyncio.run(amain()) == [2, 4]


def test_users_029_all_submitted_async_tasks_of_a_run_share_one_event_loop(threads: str) -> None:
    loops: set[int] = set()
    together = 0
    most = 0

    @task
    async def noting() -> None:
        nonlocal together, most
        loops.add(id(asyncio.get_running_loop()))
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.01)
        together -= 1

    @flow
    def sub() -> None:
        noting.submit().result()

    @flow(task_runner=threads)
    def main() -> None:
        futures = [noting.submit() for _ in range(100)]
        sub()
        wait(futures)

    main()
    assert len(loops) == 1
    assert most > 20  # side by side, although there is one slot for sync tasks


def test_users_029_one_lock_serves_all_async_tasks(threads: str) -> None:
    """What an `httpx.AsyncClient` needs: one loop from the first task to the last."""
    shared: dict[str, asyncio.Lock] = {}
    order: list[int] = []

    @task
    async def uses(number: int) -> None:
        lock = shared.setdefault("lock", asyncio.Lock())
        async with lock:
            await asyncio.sleep(0)
            order.append(number)

    @flow(task_runner=threads)
    def main() -> None:
        uses.map(range(50)).result()
        uses.map(range(50)).result()

    main()
    assert sorted(order) == sorted([*range(50), *range(50)])


# --- while the flow's body is busy -------------------------------------------------------


def test_law_2_dependants_start_while_the_flow_body_computes(threads: str) -> None:
    ended = threading.Event()
    step = task(lambda value: value + 1, name="step")

    @task
    def end(value: int) -> int:
        ended.set()
        return value

    @flow(task_runner=threads)
    def main() -> int:
        future = step.submit(0)
        for _ in range(9):
            future = step.submit(future)
        last = end.submit(future)
        latest = time.monotonic() + 10
        while not ended.is_set() and time.monotonic() < latest:
            pass  # pure Python, and no call of ours
        assert ended.is_set()
        return int(last.result())

    assert main() == 10


def test_law_2_dependants_start_while_an_async_flow_awaits_something_else(threads: str) -> None:
    @task
    def step(value: int) -> int:
        return value + 1

    @flow(task_runner=threads)
    async def main() -> int:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        future = step.submit(0)
        for _ in range(9):
            future = step.submit(future)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        await asyncio.wait_for(ended.wait(), 10)
        return int(future.result())

    assert asyncio.run(main()) == 10


def test_law_2_a_flow_in_another_thread_is_no_different(runner: str) -> None:
    @task
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + down.submit(depth - 1).result()

    @flow(task_runner=runner)
    def main() -> int:
        run = current_flow_run()
        assert run is not None
        return down.submit(DEPTH).result(timeout=20)

    answers: list[int] = []
    callers = [threading.Thread(target=lambda: answers.append(main())) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert answers == [DEPTH] * 4
