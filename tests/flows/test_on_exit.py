"""User row 7: what a flow does with runs that are not over when its function is."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.exceptions import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flows.conftest import Gate


def ends(futures: list[Any]) -> list[str]:
    return [future.state.name for future in futures]


def test_user_007_a_flow_waits_by_default(threads: str) -> None:
    done: list[int] = []
    note = task(done.append)

    @flow(task_runner=threads)
    def body() -> None:
        for number in range(20):
            note.submit(number)

    body()
    assert sorted(done) == list(range(20))


def test_user_007_a_flow_can_cancel_what_waits_and_what_runs(threads: str, gate: Gate) -> None:
    futures: list[Any] = []

    @task
    def hold(number: int) -> int:
        if number:
            gate.wait()
        return number

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        futures.extend(hold.submit(number) for number in range(50))
        futures[0].wait()

    state = body(return_state=True)
    gate.open()
    assert ends(futures) == ["Completed"] + ["Cancelled"] * 49
    assert futures[1].state.message == "the flow's body is over"
    assert state.is_completed(), "what the flow cancels itself is no failure (D3)"
    assert state.message == "1/50 states completed, the others were cancelled."


def test_user_007_a_flow_that_cancelled_nothing_says_what_all_say(runner: str) -> None:
    @task
    def quick() -> None: ...

    @flow(task_runner=runner, on_exit="cancel")
    def body() -> None:
        quick.submit().wait()

    assert body(return_state=True).message == "All states completed."


def test_user_007_a_failure_that_nobody_saw_fails_such_a_flow_too(
    threads: str, gates: Callable[[int], list[Gate]]
) -> None:
    failed, gate = gates(2)

    @task(on_failure=failed.open)
    def end(fails: bool) -> None:
        if fails:
            raise ValueError("boom")
        gate.wait()

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        end.submit(True)
        end.submit(False)
        failed.wait()

    state = body(return_state=True)
    gate.open()
    assert (state.name, state.message) == ("Failed", "1/2 states failed.")


def test_user_007_what_the_flow_returns_is_waited_for_with_its_inputs(
    threads: str, gates: Callable[[int], list[Gate]]
) -> None:
    wanted, unwanted = gates(2)
    others: list[Any] = []

    @task
    def hold(gate: str, given: int = 0) -> int:
        {"wanted": wanted, "unwanted": unwanted}[gate].wait()
        return given + 1

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> Any:
        first = hold.submit("wanted")
        others.append(hold.submit("unwanted"))
        last = hold.submit("wanted", first)
        others[0].add_done_callback(lambda _: wanted.open())  # when the flow's end has begun
        return {"last": last}

    assert body() == {"last": 2}
    unwanted.open()
    assert ends(others) == ["Cancelled"]


def test_user_007_what_depends_on_a_cancelled_run_is_cancelled_and_no_failure(
    threads: str, gate: Gate
) -> None:
    futures: list[Any] = []

    @task
    def hold(*_: Any) -> None:
        gate.wait()

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        futures.append(hold.submit())
        for _ in range(20):
            futures.append(hold.submit(futures[-1]))

    state = body(return_state=True)
    gate.open()
    assert ends(futures) == ["Cancelled"] * 21
    assert state.is_completed()


def test_user_007_an_endless_map_is_not_pulled_any_further(threads: str) -> None:
    @task
    def work(number: int) -> int:
        return number

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        work.map(itertools.count())

    assert body(return_state=True).is_completed()


def test_user_007_a_retry_that_waits_is_cancelled(threads: str) -> None:
    futures: list[Any] = []

    @task(retries=1, retry_delay_seconds=60)
    def flaky() -> None:
        raise ValueError("once")

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        futures.append(flaky.submit())
        while futures[0].state.name != "AwaitingRetry":
            futures[0].wait(timeout=0.01)

    assert body(return_state=True).is_completed()
    assert ends(futures) == ["Cancelled"]


def test_user_007_a_sub_flow_is_cancelled_with_its_runs(threads: str, gate: Gate) -> None:
    futures: list[Any] = []

    @task
    def hold() -> None:
        gate.wait()

    @flow
    def inner() -> None:
        futures.append(hold.submit())
        futures[-1].result()

    @flow(task_runner=threads, on_exit="cancel")
    def outer() -> None:
        futures.append(inner.submit())
        while len(futures) < 2:
            futures[0].wait(timeout=0.01)

    assert outer(return_state=True).is_completed()
    gate.open()
    assert ends(futures) == ["Cancelled"] * 2


def test_user_007_a_sub_flow_cancels_its_own_runs_only(threads: str, gate: Gate) -> None:
    futures: list[Any] = []

    @task
    def hold() -> str:
        gate.wait()
        return "done"

    @flow(on_exit="cancel")
    def inner() -> None:
        futures.append(hold.submit())

    @flow(task_runner=threads)
    def outer() -> str:
        mine = hold.submit()
        inner()
        gate.open()
        return mine.result()

    assert outer() == "done"
    assert ends(futures) == ["Cancelled"]


def test_user_007_a_body_that_raises_ends_its_runs_in_the_same_way(
    threads: str, gate: Gate
) -> None:
    futures: list[Any] = []

    @task
    def hold() -> None:
        gate.wait()

    @flow(task_runner=threads, on_exit="cancel")
    def body() -> None:
        futures.append(hold.submit())
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        body()
    gate.open()
    assert ends(futures) == ["Cancelled"]


def test_user_007_async_flows_can_cancel_too() -> None:
    futures: list[Any] = []

    @task
    async def hold() -> None:
        await asyncio.sleep(60)

    @flow(on_exit="cancel")
    async def body() -> str:
        futures.extend(hold.submit() for _ in range(5))
        return "body"

    assert asyncio.run(body()) == "body"
    assert ends(futures) == ["Cancelled"] * 5


def test_user_007_a_coroutine_that_will_not_end_does_not_keep_the_flow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_CANCEL_GRACE_SECONDS", "0.05")
    futures: list[Any] = []

    @task
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    @flow(on_exit="cancel")
    def body() -> None:
        futures.append(stubborn.submit())
        while not futures[0].state.is_running():
            futures[0].wait(timeout=0.01)

    body()
    assert ends(futures) == ["Cancelled"]


def test_user_007_detach_is_refused_with_the_reason_and_what_to_do() -> None:
    wanted: Any = "detach"
    with pytest.raises(
        DefinitionError, match=r"ends with the flow run.*Submit from the flow around"
    ):
        flow(lambda: None, on_exit=wanted)


@pytest.mark.parametrize("given", ["stop", 1, True])
def test_user_007_other_words_are_refused(given: Any) -> None:
    with pytest.raises(DefinitionError, match="on_exit is 'wait' or 'cancel', not"):
        flow(lambda: None, on_exit=given)
