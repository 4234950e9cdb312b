"""Promises of rows 168-174 and 204: handlers `(obj, old_state, new_state)`, and decision D11."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import State, flow, task
from penstock.context import current_run
from penstock.exceptions import FailedRun, HookSignatureError
from penstock.states import Cancelled, Completed, Failed, Running, Scheduled

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.runs import Run

ways = pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])


class Moves:
    """A state handler that notes each move, and lets it happen."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.objects: list[Any] = []
        self.threads: set[str] = set()

    def __call__(self, obj: Any, old_state: State[Any], new_state: State[Any]) -> None:
        self.objects.append(obj)
        self.threads.add(threading.current_thread().name)
        self.seen.append(f"{old_state.name} -> {new_state.name}")


def run_in_flow(subject: Any, runner: str, *, submitted: bool) -> State[Any]:
    """Call, or submit, a task in a flow, and return its final state."""

    @flow(task_runner=runner)
    def main() -> list[State[Any]]:
        if submitted:
            future = subject.submit()
            future.wait()
            return [future.state]
        return [subject(return_state=True)]

    return main()[0]


# --- when they are called ----------------------------------------------------------------


@ways
def test_seed_168_169_173_a_handler_sees_every_move_of_a_task(runner: str, submitted: bool) -> None:
    moves = Moves()
    subject = task(lambda: 1, name="subject", state_handlers=[moves])
    assert run_in_flow(subject, runner, submitted=submitted).result() == 1
    assert moves.seen == ["Pending -> Running", "Running -> Completed"]
    assert moves.objects == [subject, subject]


@ways
@pytest.mark.parametrize("delay", [0, 0.01])
def test_seed_173_a_handler_sees_the_failure_the_wait_and_the_retry(
    runner: str, submitted: bool, delay: float
) -> None:
    moves = Moves()
    calls: list[int] = []

    @task(retries=1, retry_delay_seconds=delay, state_handlers=moves)
    def subject() -> int:
        calls.append(1)
        return 1 // (len(calls) - 1)

    assert run_in_flow(subject, runner, submitted=submitted).result() == 1
    between = (
        ["Failed -> AwaitingRetry", "AwaitingRetry -> Retrying"]
        if delay
        else ["Failed -> Retrying"]
    )
    assert moves.seen == [
        "Pending -> Running",
        "Running -> Failed",
        *between,
        "Retrying -> Completed",
    ]


@ways
def test_seed_173_a_handler_sees_the_last_failure_once(runner: str, submitted: bool) -> None:
    moves = Moves()
    subject = task(lambda: 1 / 0, name="subject", state_handlers=moves)
    assert run_in_flow(subject, runner, submitted=submitted).is_failed()
    assert moves.seen == ["Pending -> Running", "Running -> Failed"]


def test_seed_169_and_173_a_handler_sees_every_move_of_a_flow() -> None:
    moves = Moves()
    calls: list[int] = []

    @flow(state_handlers=[moves], retries=1, retry_delay_seconds=0.01)
    def main() -> int:
        calls.append(1)
        return 1 // (len(calls) - 1)

    assert main() == 1
    assert moves.seen == [
        "Pending -> Running",
        "Running -> Failed",
        "Failed -> AwaitingRetry",
        "AwaitingRetry -> Retrying",
        "Retrying -> Completed",
    ]
    assert set(moves.objects) == {main}


def test_seed_173_async_tasks_and_flows_have_handlers_too(runner: str) -> None:
    moves, flow_moves = Moves(), Moves()

    @task(state_handlers=moves)
    async def subject() -> int:
        await asyncio.sleep(0)
        return 1

    @flow(state_handlers=flow_moves, task_runner=runner)
    async def main() -> int:
        return await subject() + await subject.submit()

    assert asyncio.run(main()) == 2
    assert moves.seen == ["Pending -> Running", "Running -> Completed"] * 2
    assert flow_moves.seen == ["Pending -> Running", "Running -> Completed"]


def test_seed_173_a_handler_sees_that_an_input_failed(runner: str) -> None:
    moves = Moves()
    bad = task(lambda: 1 / 0, name="bad")
    subject = task(lambda value: value, name="subject", state_handlers=moves)

    @flow(task_runner=runner)
    def main() -> str:
        future = subject.submit(bad.submit())
        future.wait()
        return future.state.name

    assert main() == "UpstreamFailed"
    assert moves.seen == ["Pending -> UpstreamFailed"]


def test_seed_170_a_handler_is_called_before_the_move_takes_place(runner: str) -> None:
    seen: list[tuple[str, str]] = []

    def handler(obj: Any, old_state: State[Any], new_state: State[Any]) -> None:
        run = current_run()
        assert run is not None
        assert run.state is old_state
        seen.append((run.state.name, new_state.name))

    subject = task(lambda: 1, name="subject", state_handlers=handler)
    run_in_flow(subject, runner, submitted=True)
    assert seen == [("Pending", "Running"), ("Running", "Completed")]


# --- what they may return ----------------------------------------------------------------


@ways
@pytest.mark.parametrize("veto", [Failed("no"), Cancelled("no"), Completed(7, "cached")])
def test_seed_171_a_veto_comes_before_the_function_runs(
    runner: str, submitted: bool, veto: State[Any]
) -> None:
    calls: list[int] = []

    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        return veto if new_state.is_running() else None

    subject = task(lambda: calls.append(1), name="subject", state_handlers=handler)
    state = run_in_flow(subject, runner, submitted=submitted)
    assert str(state) == str(veto)
    assert state.result(raise_on_failure=False) == veto.result(raise_on_failure=False) or (
        type(state.exception()) is type(veto.exception())
    )
    assert calls == []


@ways
def test_seed_171_a_success_can_be_rewritten_as_a_failure(runner: str, submitted: bool) -> None:
    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        if new_state.is_completed() and new_state.result() < 0:
            return Failed("negative")
        return None

    subject = task(lambda: -1, name="subject", state_handlers=handler)
    state = run_in_flow(subject, runner, submitted=submitted)
    assert str(state) == "Failed('negative')"
    with pytest.raises(FailedRun, match="negative"):
        state.result()


def test_seed_171_a_failure_made_by_a_handler_fails_its_dependants(runner: str) -> None:
    subject = task(
        lambda: 1,
        name="subject",
        state_handlers=lambda obj, old, new: Failed("no") if new.is_completed() else None,
    )
    calls: list[int] = []
    after = task(calls.append, name="after")

    @flow(task_runner=runner)
    def main() -> list[str]:
        future = after.submit(subject.submit())
        future.wait()
        return [future.state.name]

    assert main() == ["UpstreamFailed"]
    assert calls == []


@ways
def test_seed_171_a_failure_can_be_rewritten_as_a_success(runner: str, submitted: bool) -> None:
    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any]:
        return Completed("instead") if new_state.is_failed() else new_state

    subject = task(lambda: 1 / 0, name="subject", state_handlers=handler, retries=3)
    assert run_in_flow(subject, runner, submitted=submitted).result() == "instead"


@ways
def test_seed_171_a_failure_made_by_a_handler_is_retried_as_any_other(
    runner: str, submitted: bool
) -> None:
    calls: list[int] = []

    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        return Failed("too few") if new_state.is_completed() and len(calls) < 3 else None

    subject = task(lambda: calls.append(1), name="subject", retries=5, state_handlers=handler)
    assert run_in_flow(subject, runner, submitted=submitted).is_completed()
    assert len(calls) == 3


def test_seed_171_the_states_of_a_flow_can_be_vetoed_and_rewritten() -> None:
    calls: list[int] = []

    def veto(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        return Failed("not today") if new_state.is_running() else None

    state = flow(lambda: calls.append(1), name="vetoed", state_handlers=veto)(return_state=True)
    assert str(state) == "Failed('not today')"
    assert calls == []

    def rewrite(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        return Completed("all the same") if new_state.is_failed() else None

    rewritten: Any = flow(lambda: 1 / 0, name="rewritten", state_handlers=rewrite)
    assert rewritten() == "all the same"


def test_seed_172_none_keeps_the_proposed_state_and_so_does_the_state_itself(
    runner: str,
) -> None:
    handlers = [lambda obj, old, new: None, lambda obj, old, new: new]
    subject = task(lambda: 1, name="subject", state_handlers=handlers)
    assert run_in_flow(subject, runner, submitted=True).result() == 1


def test_seed_174_several_run_in_order_and_each_sees_what_the_one_before_left(
    runner: str,
) -> None:
    seen: list[str] = []

    def first(obj: Any, old_state: State[Any], new_state: State[Any]) -> State[Any] | None:
        seen.append(f"first: {old_state.name} -> {new_state.name}")
        return Completed(new_state.data + 1) if new_state.is_completed() else None

    def second(obj: Any, old_state: State[Any], new_state: State[Any]) -> State[Any] | None:
        seen.append(f"second: {old_state.name} -> {new_state.name}")
        return Completed(new_state.data * 10) if new_state.is_completed() else None

    subject = task(lambda: 1, name="subject", state_handlers=[first, second])
    assert run_in_flow(subject, runner, submitted=True).result() == 20
    assert seen == [
        "first: Pending -> Running",
        "second: Pending -> Running",
        "first: Running -> Completed",
        "second: Running -> Completed",
    ]


@ways
def test_seed_171_a_handler_may_put_an_attempt_off(runner: str, submitted: bool) -> None:
    offs: list[datetime.datetime] = []
    calls: list[float] = []
    runs: list[Run] = []

    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        if new_state.is_running() and not offs:
            offs.append(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.05))
            return Scheduled(offs[0])
        return None

    @task(state_handlers=handler)
    def subject() -> int:
        runs.append(current_run())  # type: ignore[arg-type]  # inside of a run
        calls.append(time.time())
        return 1

    assert run_in_flow(subject, runner, submitted=submitted).result() == 1
    assert len(calls) == 1
    assert calls[0] >= offs[0].timestamp() - 0.001
    assert [state.name for state in runs[0].states] == [
        "Pending", "Scheduled", "Running", "Completed",
    ]  # fmt: skip


def test_seed_171_a_flow_may_be_put_off() -> None:
    offs: list[int] = []

    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        if new_state.is_running() and not offs:
            offs.append(1)
            return Scheduled(datetime.datetime.now(datetime.UTC))
        return None

    assert flow(lambda: 1, name="main", state_handlers=handler)() == 1
    assert offs == [1]


# --- handlers that go wrong --------------------------------------------------------------


@ways
@pytest.mark.parametrize("at", ["Running", "Completed"])
def test_seed_204_a_handler_that_raises_fails_the_run(
    runner: str, submitted: bool, at: str, log: Any
) -> None:
    calls: list[int] = []

    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> None:
        if new_state.name == at:
            raise ValueError("the handler is broken")

    subject = task(lambda: calls.append(1), name="subject", state_handlers=handler)
    state = run_in_flow(subject, runner, submitted=submitted)
    assert str(state) == (
        'Failed("Unexpected error while calling state handlers: '
        "ValueError('the handler is broken')\")"
    )
    assert isinstance(state.exception(), ValueError)
    assert calls == ([] if at == "Running" else [1])
    assert any("the handler is broken" in line and "in handler" in line for line in log.lines)


def test_seed_204_a_flow_whose_handler_raises_fails() -> None:
    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> None:
        raise ValueError("the handler is broken")

    with pytest.raises(ValueError, match="the handler is broken"):
        flow(lambda: 1, name="main", state_handlers=handler)()


@pytest.mark.parametrize("returned", [True, "Failed", 0, Completed])
def test_seed_168_a_handler_that_returns_no_state_fails_the_run(runner: str, returned: Any) -> None:
    subject = task(lambda: 1, name="subject", state_handlers=lambda obj, old, new: returned)
    state = run_in_flow(subject, runner, submitted=True)
    assert state.is_failed()
    assert isinstance(state.exception(), TypeError)
    assert "a state handler returns a State or None" in str(state.exception())


@ways
def test_seed_171_a_state_that_cannot_follow_fails_the_run(runner: str, submitted: bool) -> None:
    def handler(obj: Any, old_state: Any, new_state: State[Any]) -> State[Any] | None:
        return Running() if new_state.is_completed() else None

    subject = task(lambda: 1, name="subject", state_handlers=handler)
    state = run_in_flow(subject, runner, submitted=submitted)
    assert state.is_final()
    assert not state.is_completed()


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda a, b, c, d: None, lambda task_run, old, new: None, 7]
)
@pytest.mark.parametrize("decorator", [task, flow])
def test_seed_168_a_handler_that_could_never_be_called_is_refused(
    decorator: Callable[..., Any], handler: Any
) -> None:
    with pytest.raises(HookSignatureError, match="state_handlers"):
        decorator(lambda: 1, name="subject", state_handlers=[handler])


# --- where they run ----------------------------------------------------------------------


def test_d11_handlers_run_on_the_driver_one_at_a_time(threads: str) -> None:
    inside: list[int] = []
    most: list[int] = []
    seen: set[str] = set()

    def handler(obj: Any, old_state: Any, new_state: Any) -> None:
        inside.append(1)
        most.append(len(inside))
        seen.add(threading.current_thread().name)
        time.sleep(0.0005)
        inside.pop()

    inner = task(lambda: 1, name="inner", state_handlers=handler)

    @task(state_handlers=handler)
    def outer() -> int:
        return inner() + inner() + inner.submit().result()

    @flow(task_runner=threads, state_handlers=handler)
    def main() -> list[int]:
        futures = [outer.submit() for _ in range(10)]
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            pass  # the standby thread has its turn
        return [future.result() for future in futures]

    assert main() == [3] * 10
    assert len(most) == 2 + 10 * 2 + 30 * 2
    assert max(most) == 1
    assert seen <= {"MainThread", "penstock-standby"}
    assert "MainThread" in seen


def test_d11_what_decides_for_a_run_is_called_on_the_driver_too(threads: str) -> None:
    seen: list[str] = []

    def note(*_: Any) -> Any:
        seen.append(threading.current_thread().name)
        return True

    def name() -> str:
        note()
        return "named"

    fails = task(
        lambda: 1 / 0, name="fails", retries=1, retry_condition_fn=note, task_run_name=name
    )

    @task
    def outer() -> str:
        return fails(return_state=True).name

    @flow(task_runner=threads, flow_run_name=name)
    def main() -> list[str]:
        return [outer.submit().result(), fails.submit(return_state=True).name]

    assert main() == ["Failed", "Failed"]
    assert len(seen) == 1 + 2 * 2
    assert set(seen) <= {"MainThread", "penstock-standby"}


def test_seed_168_the_handlers_of_a_bound_method_get_the_task(runner: str) -> None:
    moves = Moves()

    class Client:
        @task(state_handlers=moves)
        def fetch(self) -> str:
            return "fetched"

    @flow(task_runner=runner)
    def main() -> str:
        return Client().fetch.submit().result()

    assert main() == "fetched"
    assert [obj.name for obj in moves.objects] == ["fetch", "fetch"]
