"""Futures: results, waiting, cancelling, callbacks; user rows 28, 29 and 32."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import copy
import dataclasses
import gc
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import (
    PenstockFuture,
    PenstockFutureList,
    allow_failure,
    as_completed,
    flow,
    task,
    wait,
)
from penstock.context import current_run
from penstock.exceptions import (
    CancelledRun,
    FailedRun,
    FutureCycleError,
    UnobservedFailureError,
    UpstreamTaskError,
)
from penstock.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from penstock.states import Failed, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flows.conftest import Gate, Log


@task
def double(x: Any) -> Any:
    return 2 * x


@task
def fail(x: Any = "failed") -> Any:
    raise ValueError(x)


@task
def hold(gate: Gate, x: Any = "held") -> Any:
    gate.wait()
    return x


@task
async def async_double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def in_flow(runner: str, fn: Callable[[], Any], **options: Any) -> Any:
    return flow(fn, name="body", task_runner=runner, **options)()


# --- result --------------------------------------------------------------------------------


def test_seed_155_the_result_is_the_value(runner: str) -> None:
    assert in_flow(runner, lambda: double.submit(2).result()) == 4


def test_seed_155_the_result_of_a_failure_is_raised_untouched(runner: str) -> None:
    problem = KeyError("mine")

    @task
    def broken() -> None:
        raise problem

    def body() -> None:
        with pytest.raises(KeyError) as caught:
            broken.submit().result()
        assert caught.value is problem

    in_flow(runner, body)


def test_the_traceback_of_a_failure_starts_with_the_code_of_the_user(runner: str) -> None:
    def body() -> Any:
        error = fail.submit().exception()
        assert error is not None
        assert error.__traceback__ is not None
        return error.__traceback__.tb_frame.f_code.co_name

    assert in_flow(runner, body) == "fail"


def test_seed_156_without_raising_the_result_of_a_failure_is_the_exception(runner: str) -> None:
    found = in_flow(runner, lambda: [fail.submit().result(raise_on_failure=False)])
    assert isinstance(found[0], ValueError)


def test_seed_156_without_raising_the_result_of_success_is_the_value(runner: str) -> None:
    assert in_flow(runner, lambda: double.submit(1).result(raise_on_failure=False)) == 2


def test_seed_156_the_exception_of_a_failure(runner: str) -> None:
    assert str(in_flow(runner, lambda: [fail.submit("x").exception()])[0]) == "x"


def test_seed_156_success_has_no_exception(runner: str) -> None:
    assert in_flow(runner, lambda: double.submit(1).exception()) is None


def test_a_task_may_return_an_exception_and_has_not_failed(runner: str) -> None:
    returned = task(lambda: KeyError("returned"), name="returned")

    def body() -> Any:
        future = returned.submit()
        return type(future.result()), future.exception(), future.is_completed()

    assert in_flow(runner, body) == (KeyError, None, True)


def test_a_result_that_is_not_there_in_time_is_a_timeout_error(threads: str, gate: Gate) -> None:
    def body() -> Any:
        future = hold.submit(gate)
        with pytest.raises(TimeoutError, match=r"hold-0.*goes on"):
            future.result(timeout=0.01)
        gate.open()
        return future.result()

    assert in_flow(threads, body) == "held"


def test_an_exception_that_is_not_there_in_time_is_a_timeout_error(
    threads: str, gate: Gate
) -> None:
    def body() -> None:
        future = hold.submit(gate)
        with pytest.raises(TimeoutError):
            future.exception(timeout=0)
        gate.open()

    in_flow(threads, body)


def test_a_result_that_is_there_takes_no_time(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        future.wait()
        return future.result(timeout=0)

    assert in_flow(runner, body) == 2


def test_a_state_that_the_function_returned_is_the_state_of_the_run(runner: str) -> None:
    @task
    def give_up() -> State[Any]:
        return Failed(message="no use")

    def body() -> Any:
        future = give_up.submit()
        error = future.exception()
        return str(future.state), type(error)

    assert in_flow(runner, body) == ("Failed('no use')", FailedRun)


def test_a_result_may_be_asked_for_after_the_flow(runner: str) -> None:
    kept: list[PenstockFuture[Any]] = []
    in_flow(runner, lambda: kept.append(double.submit(1)))
    assert kept[0].result() == 2


def test_a_result_may_be_asked_for_in_another_thread(runner: str) -> None:
    found: list[Any] = []

    def body() -> None:
        futures = [double.submit(x) for x in range(10)]
        helper = threading.Thread(target=lambda: found.extend(f.result() for f in futures))
        helper.start()
        helper.join(10)

    in_flow(runner, body)
    assert found == list(range(0, 20, 2))


# --- wait -----------------------------------------------------------------------------------


def test_wait_returns_when_the_run_is_over(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        future.wait()
        return future.done(), future.state.name

    assert in_flow(runner, body) == (True, "Completed")


def test_wait_raises_nothing_for_a_failure(runner: str) -> None:
    def body() -> Any:
        future = fail.submit()
        future.wait()
        return future.state.name

    assert in_flow(runner, body) == "Failed"


def test_wait_returns_after_its_time_though_the_run_is_not_over(threads: str, gate: Gate) -> None:
    def body() -> Any:
        future = hold.submit(gate)
        future.wait(timeout=0.01)
        was_done = future.done()
        gate.open()
        return was_done

    assert in_flow(threads, body) is False


def test_wait_for_several_divides_them(threads: str, gate: Gate) -> None:
    def body() -> Any:
        slow = hold.submit(gate)
        done, not_done = wait([slow], timeout=0.01)
        gate.open()
        return done, not_done == {slow}

    assert in_flow(threads, body) == (set(), True)


def test_user_032_wait_has_names_for_its_parts(runner: str) -> None:
    def body() -> Any:
        parts = wait([double.submit(1), fail.submit()])
        return len(parts.done), parts.not_done, sorted(f.state.name for f in parts.done)

    assert in_flow(runner, body) == (2, set(), ["Completed", "Failed"])


def test_user_032_wait_for_the_first_to_end(gate: Gate) -> None:
    def body() -> Any:
        slow, quick = hold.submit(gate), double.submit(1)
        done, not_done = wait([slow, quick], return_when=FIRST_COMPLETED)
        gate.open()
        return done == {quick}, not_done == {slow}

    assert in_flow("thread:2", body) == (True, True)


def test_user_032_wait_for_the_first_of_some_that_are_over_returns_at_once(gate: Gate) -> None:
    def body() -> Any:
        quick = double.submit(1)
        quick.wait()
        done, _ = wait([hold.submit(gate), quick], return_when=FIRST_COMPLETED)
        gate.open()
        return done == {quick}

    assert in_flow("thread:2", body)


def test_user_032_wait_for_the_first_exception(gate: Gate) -> None:
    def body() -> Any:
        slow, broken, quick = hold.submit(gate), fail.submit(), double.submit(1)
        done, not_done = wait([slow, quick, broken], return_when=FIRST_EXCEPTION)
        assert broken.is_failed()
        gate.open()
        return broken in done, not_done >= {slow}

    assert in_flow("thread:2", body) == (True, True)


def test_user_032_without_an_exception_that_is_a_wait_for_all(runner: str) -> None:
    def body() -> Any:
        futures = [double.submit(x) for x in range(5)]
        return len(wait(futures, return_when=FIRST_EXCEPTION).done)

    assert in_flow(runner, body) == 5


def test_user_032_an_exception_that_was_there_before_ends_the_wait(gate: Gate) -> None:
    def body() -> Any:
        broken = fail.submit()
        assert broken.exception()
        _, not_done = wait([hold.submit(gate), broken], return_when=FIRST_EXCEPTION)
        gate.open()
        return len(not_done)

    assert in_flow("thread:2", body) == 1


def test_wait_takes_a_future_given_twice(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        return len(wait([future, future], return_when=ALL_COMPLETED).done)

    assert in_flow(runner, body) == 1


def test_wait_for_nothing_returns_at_once() -> None:
    assert wait([]) == (set(), set())


def test_wait_refuses_words_it_does_not_know() -> None:
    wrong: Any = "SOME_COMPLETED"
    with pytest.raises(ValueError, match="ALL_COMPLETED"):
        wait([], return_when=wrong)


# --- as_completed ----------------------------------------------------------------------------


def test_user_032_as_completed_yields_in_order_of_completion(
    gates: Callable[[int], list[Gate]],
) -> None:
    doors = gates(3)

    def body() -> Any:
        futures = [hold.submit(door, number) for number, door in enumerate(doors)]
        found = []
        doors[2].open()
        following = {2: 0, 0: 1}
        for future in as_completed(futures):
            found.append(future.result())
            if found[-1] in following:
                doors[following[found[-1]]].open()
        return found

    assert in_flow("thread:3", body) == [2, 0, 1]


def test_user_032_as_completed_yields_all_that_were_over_before(runner: str) -> None:
    def body() -> Any:
        futures = [double.submit(x) for x in range(5)]
        wait(futures)
        return sorted(future.result() for future in as_completed(futures))

    assert in_flow(runner, body) == [0, 2, 4, 6, 8]


def test_user_032_as_completed_yields_the_very_futures(runner: str) -> None:
    def body() -> Any:
        futures = [double.submit(x) for x in range(5)]
        return set(as_completed(futures)) == set(futures)

    assert in_flow(runner, body)


def test_user_032_as_completed_yields_failures_too(runner: str) -> None:
    def body() -> Any:
        found = list(as_completed([fail.submit(), double.submit(1)]))
        return sorted(future.state.name for future in found)

    assert in_flow(runner, body) == ["Completed", "Failed"]


def test_user_032_as_completed_is_over_in_time_or_raises(gate: Gate) -> None:
    def body() -> Any:
        quick, slow = double.submit(1), hold.submit(gate)
        following = as_completed([slow, quick], timeout=0.05)
        first = next(following)
        with pytest.raises(TimeoutError, match="1 of 2 runs are not over"):
            next(following)
        gate.open()
        return first is quick

    assert in_flow("thread:2", body)


def test_user_032_the_time_of_as_completed_begins_with_the_call(threads: str, gate: Gate) -> None:
    def body() -> None:
        following = as_completed([hold.submit(gate)], timeout=0.01)
        time.sleep(0.02)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            next(following)
        gate.open()
        assert time.monotonic() - began < 5

    in_flow(threads, body)


def test_user_032_as_completed_of_nothing_is_nothing() -> None:
    assert list(as_completed([])) == []


def test_user_032_as_completed_goes_on_with_runs_submitted_meanwhile(runner: str) -> None:
    def body() -> Any:
        more = [double.submit(future.result()) for future in as_completed([double.submit(1)])]
        return [future.result() for future in more]

    assert in_flow(runner, body) == [4]


# --- states ------------------------------------------------------------------------------------

QUESTIONS = [
    "is_scheduled",
    "is_pending",
    "is_running",
    "is_completed",
    "is_failed",
    "is_crashed",
    "is_cancelled",
    "is_cancelling",
    "is_paused",
    "is_final",
    "is_retrying",
]


def true_of(future: PenstockFuture[Any]) -> set[str]:
    return {question for question in QUESTIONS if getattr(future, question)()}


def test_seed_154_a_completed_future_says_so(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        future.wait()
        return true_of(future)

    assert in_flow(runner, body) == {"is_completed", "is_final"}


def test_seed_154_a_failed_future_says_so(runner: str) -> None:
    def body() -> Any:
        future = fail.submit()
        future.wait()
        return true_of(future)

    assert in_flow(runner, body) == {"is_failed", "is_final"}


def test_seed_154_a_crashed_future_says_so(runner: str) -> None:
    @task
    def leave() -> None:
        raise SystemExit(1)

    def body() -> Any:
        future = leave.submit()
        future.wait()
        return true_of(future)

    assert in_flow(runner, body) == {"is_crashed", "is_final"}


def test_seed_154_a_running_future_says_so(threads: str, gate: Gate) -> None:
    began = threading.Event()

    @task(on_running=lambda state: began.set())
    def held() -> None:
        gate.wait()

    def body() -> Any:
        future = held.submit()
        assert began.wait(10)
        found = true_of(future)
        gate.open()
        return found

    assert in_flow(threads, body) == {"is_running"}


def test_seed_154_a_pending_future_says_so(gate: Gate) -> None:
    def body() -> Any:
        first = hold.submit(gate)
        found = true_of(double.submit(first))
        gate.open()
        return found

    assert in_flow("thread:1", body) == {"is_pending"}


def test_seed_154_a_future_that_waits_for_its_retry_says_so(runner: str) -> None:
    @task(retries=1, retry_delay_seconds=0.05)
    def flaky() -> None:
        run = current_run()
        assert run is not None
        if run.run_count == 1:
            raise ValueError("once")

    def body() -> Any:
        future = flaky.submit()
        future.wait(timeout=0.02)
        found = true_of(future)
        future.wait()
        return found, [state.name for state in future.run.states]

    found, names = in_flow(runner, body)
    assert names == ["Pending", "Running", "Failed", "AwaitingRetry", "Retrying", "Completed"]
    assert found == {"is_scheduled", "is_retrying"}


def test_seed_154_a_future_that_is_being_cancelled_says_so(threads: str, gate: Gate) -> None:
    began = threading.Event()

    @task
    def held() -> None:
        began.set()
        gate.wait()

    def body() -> Any:
        future = held.submit()
        assert began.wait(10)
        future.cancel()
        found = true_of(future)
        gate.open()
        future.wait()
        return found, true_of(future)

    assert in_flow(threads, body) == ({"is_cancelling"}, {"is_cancelled", "is_final"})


def test_a_future_has_the_id_and_the_name_of_its_run(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        return future.task_run_id == future.run.id, future.name, repr(future)

    is_same, name, shown = in_flow(runner, body)
    assert (is_same, name) == (True, "double-0")
    assert shown.startswith("<PenstockFuture 'double-0'")


# --- seen and unseen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [
        lambda future: future.result(raise_on_failure=False),
        lambda future: future.exception(),
        lambda future: (future.wait(), future.state),
        lambda future: (future.wait(), future.is_failed()),
        lambda future: double.submit([allow_failure(future)]).result(),
        lambda future: [each.state for each in as_completed([future])],
        lambda future: PenstockFutureList([future]).result(raise_on_failure=False),
    ],
)
def test_d03_a_failure_that_was_looked_at_does_not_fail_the_flow(look: Any, runner: str) -> None:
    def body() -> None:
        future = fail.submit()
        look(future)

    in_flow(runner, body)


def test_d03_a_failure_that_was_only_waited_for_fails_the_flow(runner: str) -> None:
    with pytest.raises(UnobservedFailureError, match="fail-0"):
        in_flow(runner, lambda: fail.submit().wait())


def test_d03_asking_for_the_state_before_the_end_is_not_looking(threads: str, gate: Gate) -> None:
    @task
    def broken() -> None:
        gate.wait()
        raise ValueError("later")

    def body() -> None:
        future = broken.submit()
        assert not future.state.is_final()
        gate.open()

    with pytest.raises(UnobservedFailureError):
        in_flow(threads, body)


# --- callbacks ----------------------------------------------------------------------------------


def test_user_032_a_callback_is_called_with_the_future_when_the_run_is_over(
    threads: str, gate: Gate
) -> None:
    called: list[Any] = []

    def body() -> Any:
        future = hold.submit(gate)
        future.add_done_callback(called.append)
        before = list(called)
        gate.open()
        future.wait()
        return before, called[0] is future, called[0].result(), called[0].name

    assert in_flow(threads, body) == ([], True, "held", "hold-0")


def test_user_032_a_callback_of_a_run_that_is_over_is_called_at_once(runner: str) -> None:
    called: list[Any] = []

    def body() -> Any:
        future = double.submit(1)
        future.wait()
        future.add_done_callback(called.append)
        return len(called)

    assert in_flow(runner, body) == 1


def test_user_032_callbacks_are_called_in_the_order_they_were_added(
    threads: str, gate: Gate
) -> None:
    called: list[int] = []

    def body() -> None:
        future = hold.submit(gate)
        for number in range(5):
            future.add_done_callback(lambda _, number=number: called.append(number))  # type: ignore[misc]
        gate.open()

    in_flow(threads, body)
    assert called == [0, 1, 2, 3, 4]


def test_user_032_a_callback_that_raises_is_logged_and_harms_nobody(
    threads: str, gate: Gate, log: Log
) -> None:
    called: list[Any] = []

    def broken(future: Any) -> None:
        raise RuntimeError("in the callback")

    def body() -> Any:
        future = hold.submit(gate)
        future.add_done_callback(broken)
        future.add_done_callback(called.append)
        gate.open()
        return future.result()

    assert in_flow(threads, body) == "held"
    assert len(called) == 1
    assert [line for line in log.lines if "ERROR" in line and "in the callback" in line]


def test_user_032_a_callback_may_submit_and_the_flow_waits_for_that(
    threads: str, gate: Gate
) -> None:
    ended: list[Any] = []

    def body() -> None:
        context = contextvars.copy_context()

        def more(_: Any) -> None:
            context.run(task(ended.append).submit, "submitted by the callback")

        hold.submit(gate).add_done_callback(more)
        gate.open()

    in_flow(threads, body)
    assert ended == ["submitted by the callback"]


def test_user_032_a_callback_is_called_for_failed_and_cancelled_runs_too(
    threads: str, gate: Gate
) -> None:
    called: list[str] = []

    def body() -> None:
        first = hold.submit(gate)
        broken, cancelled = fail.submit(), double.submit(first)
        for future in (broken, cancelled):
            future.add_done_callback(lambda f: called.append(f.state.name))
        cancelled.cancel()
        gate.open()

    in_flow(threads, body)
    assert sorted(called) == ["Cancelled", "Failed"]


# --- cancel -------------------------------------------------------------------------------------


def test_a_run_that_has_not_begun_is_cancelled_and_never_begins(gate: Gate) -> None:
    ran: list[int] = []

    def body() -> Any:
        hold.submit(gate)
        queued = task(ran.append).submit(1)
        was_cancelled = queued.cancel()
        gate.open()
        queued.wait()
        return was_cancelled, queued.state.name

    assert in_flow("thread:1", body) == (True, "Cancelled")
    assert ran == []


def test_a_run_that_waits_for_its_inputs_is_cancelled(threads: str, gate: Gate) -> None:
    def body() -> Any:
        future = double.submit(hold.submit(gate))
        future.cancel()
        name = future.state.name
        gate.open()
        return name

    assert in_flow(threads, body) == "Cancelled"


def test_a_run_that_waits_for_its_retry_is_cancelled(threads: str) -> None:
    @task(retries=1, retry_delay_seconds=60)
    def flaky() -> None:
        raise ValueError("once")

    def body() -> Any:
        future = flaky.submit()
        while not future.is_scheduled():
            future.wait(timeout=0.001)
        future.cancel()
        return future.state.name

    assert in_flow(threads, body) == "Cancelled"


def test_a_run_that_is_over_is_not_cancelled(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        future.wait()
        return future.cancel(), future.state.name

    assert in_flow(runner, body) == (False, "Completed")


def test_a_run_that_runs_ends_as_cancelled_when_it_ends(threads: str, gate: Gate) -> None:
    began = threading.Event()
    ended: list[int] = []

    @task
    def held() -> None:
        began.set()
        gate.wait()
        ended.append(1)

    def body() -> Any:
        future = held.submit()
        assert began.wait(10)
        was_cancelled = future.cancel()
        gate.open()
        future.wait()
        return was_cancelled, future.state.name

    assert in_flow(threads, body) == (True, "Cancelled")
    assert ended == [1]


def test_a_run_that_runs_is_killed_if_asked_to(threads: str) -> None:
    began = threading.Event()

    @task
    def spin() -> None:
        began.set()
        while True:
            time.sleep(0.001)

    def body() -> Any:
        future = spin.submit()
        assert began.wait(10)
        future.cancel(kill=True)
        future.wait(10)
        return future.state.name

    assert in_flow(threads, body) == "Cancelled"


def test_an_async_run_is_really_cancelled(threads: str) -> None:
    began = threading.Event()
    met: list[str] = []

    @task
    async def sleep() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    def body() -> Any:
        future = sleep.submit()
        assert began.wait(10)
        future.cancel(kill=True)
        future.wait(10)
        return future.state.name

    assert in_flow(threads, body) == "Cancelled"
    assert met == ["cancelled"]


def test_the_result_of_a_cancelled_run_raises_cancelled_run(gate: Gate) -> None:
    def body() -> None:
        hold.submit(gate)
        queued = double.submit(1)
        queued.cancel()
        gate.open()
        with pytest.raises(CancelledRun):
            queued.result()
        with pytest.raises(CancelledRun):
            queued.exception()
        assert isinstance(queued.result(raise_on_failure=False), CancelledRun)

    in_flow("thread:1", body)


def test_what_depends_on_a_cancelled_run_is_cancelled(gate: Gate) -> None:
    def body() -> Any:
        hold.submit(gate)
        first = double.submit(1)
        second = double.submit(first)
        third = double.submit(second)
        first.cancel()
        gate.open()
        third.wait()
        return second.state.name, third.state.name

    assert in_flow("thread:1", body) == ("Cancelled", "Cancelled")


def test_a_cancelled_run_does_not_fail_its_flow(gate: Gate) -> None:
    def body() -> None:
        hold.submit(gate)
        double.submit(1).cancel()
        gate.open()

    in_flow("thread:1", body)


def test_a_whole_list_is_cancelled(gate: Gate) -> None:
    def body() -> Any:
        hold.submit(gate)
        futures = double.map(range(50))
        was_cancelled = futures.cancel()
        gate.open()
        futures.wait()
        return was_cancelled, {future.state.name for future in futures}, futures.cancel()

    assert in_flow("thread:1", body) == (True, {"Cancelled"}, False)


def test_an_empty_list_has_nothing_to_cancel() -> None:
    empty: PenstockFutureList[Any] = PenstockFutureList()
    assert not empty.cancel()


def test_a_run_is_cancelled_from_another_thread(gate: Gate) -> None:
    def body() -> Any:
        hold.submit(gate)
        queued = double.submit(1)
        helper = threading.Thread(target=queued.cancel)
        helper.start()
        helper.join(10)
        name = queued.state.name
        gate.open()
        return name

    assert in_flow("thread:1", body) == "Cancelled"


# --- awaiting -----------------------------------------------------------------------------------


def test_user_029_a_future_is_awaited_in_an_async_flow(runner: str) -> None:
    @flow(task_runner=runner)
    async def body() -> Any:
        return await double.submit(2)

    assert asyncio.run(body()) == 4


def test_user_029_an_awaited_future_raises_the_failure(runner: str) -> None:
    @flow(task_runner=runner)
    async def body() -> str:
        with pytest.raises(ValueError, match="failed"):
            await fail.submit()
        return "went on"

    assert asyncio.run(body()) == "went on"


def test_user_029_futures_are_gathered(runner: str) -> None:
    @flow(task_runner=runner)
    async def body() -> Any:
        return list(await asyncio.gather(*(double.submit(x) for x in range(10))))

    assert asyncio.run(body()) == list(range(0, 20, 2))


def test_user_029_awaiting_leaves_the_event_loop_free(threads: str, gate: Gate) -> None:
    @flow(task_runner=threads)
    async def body() -> Any:
        asyncio.get_running_loop().call_soon(gate.open)
        return await hold.submit(gate)

    assert asyncio.run(body()) == "held"


def test_user_029_a_future_is_awaited_in_an_async_task(runner: str) -> None:
    @task
    async def outer(x: int) -> Any:
        return await double.submit(x) + await async_double.submit(x)

    def body() -> Any:
        return [future.result() for future in [outer.submit(x) for x in range(5)]]

    assert in_flow(runner, body) == [0, 4, 8, 12, 16]


def test_user_029_a_future_is_awaited_with_a_time_limit(threads: str, gate: Gate) -> None:
    @flow(task_runner=threads)
    async def body() -> Any:
        future = hold.submit(gate)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_value(future), 0.01)
        gate.open()
        return await future

    async def _value(future: PenstockFuture[Any]) -> Any:
        return await future

    assert asyncio.run(body()) == "held"


def test_user_029_a_future_may_be_awaited_twice_and_by_two(runner: str) -> None:
    @flow(task_runner=runner)
    async def body() -> Any:
        future = double.submit(1)

        async def value() -> Any:
            return await future

        return await asyncio.gather(value(), value()), await future

    assert asyncio.run(body()) == ([2, 2], 2)


def test_user_029_sync_flow_with_async_task_and_async_flow_with_sync_task(runner: str) -> None:
    @flow(task_runner=runner)
    def sync_body() -> Any:
        return async_double.submit(1).result()

    @flow(task_runner=runner)
    async def async_body() -> Any:
        return double(1), double.submit(1).result(), await async_double(1)

    assert (sync_body(), asyncio.run(async_body())) == (2, (2, 2, 2))


def test_user_029_a_sync_task_waits_for_an_async_one(runner: str) -> None:
    @task
    def outer(x: int) -> Any:
        return async_double.submit(x).result()

    def body() -> Any:
        return outer.map([1, 2, 3]).result()

    assert in_flow(runner, body) == [2, 4, 6]


def test_user_029_one_client_serves_a_hundred_async_tasks(threads: str) -> None:
    """As an `httpx.AsyncClient` does, this lock belongs to the first event loop it meets."""
    lock = asyncio.Lock()

    @task
    async def fetch(x: int) -> int:
        async with lock:
            await asyncio.sleep(0)
        return x

    assert in_flow(threads, lambda: fetch.map(range(100)).result()) == list(range(100))


def test_user_029_an_async_flow_waits_for_what_it_submitted(threads: str, gate: Gate) -> None:
    ended: list[Any] = []

    @flow(task_runner=threads)
    async def body() -> None:
        future = hold.submit(gate)
        future.add_done_callback(ended.append)
        asyncio.get_running_loop().call_later(0.005, gate.open)

    asyncio.run(body())
    assert len(ended) == 1


# --- cycles --------------------------------------------------------------------------------------


def test_a_task_that_waits_for_itself_is_told(threads: str, gate: Gate) -> None:
    handed: list[PenstockFuture[Any]] = []

    @task
    def own() -> None:
        gate.wait()
        handed[0].result()

    def body() -> Any:
        handed.append(own.submit())
        gate.open()
        return type(handed[0].exception())

    assert in_flow(threads, body) is FutureCycleError


def test_a_sub_flow_that_blocks_the_loop_its_runs_need_fails_and_does_not_hang(
    threads: str,
) -> None:
    futures: list[PenstockFuture[Any]] = []

    @task
    async def work() -> None:
        await asyncio.sleep(60)

    @flow
    def blocking() -> None:
        futures.append(work.submit())  # and nobody asks for it

    @task
    async def call_it() -> None:
        blocking()

    def body() -> Any:
        return call_it.submit().exception()

    error = in_flow(threads, body)
    assert type(error) is FutureCycleError
    assert "make that flow `async`" in str(error)
    assert futures[0].state.is_final()


def test_a_task_that_waits_for_one_that_depends_on_it_is_told(threads: str, gate: Gate) -> None:
    handed: list[PenstockFuture[Any]] = []

    @task
    def first() -> None:
        gate.wait()
        handed[0].result()

    def body() -> Any:
        origin = first.submit()
        handed.append(double.submit(double.submit(origin)))
        gate.open()
        return type(origin.exception()), type(handed[0].exception())

    assert in_flow(threads, body) == (FutureCycleError, UpstreamTaskError)


def test_a_task_that_waits_for_itself_through_another_is_told(threads: str, gate: Gate) -> None:
    handed: dict[str, PenstockFuture[Any]] = {}

    @task
    def waits_for(name: str) -> Any:
        gate.wait()
        return handed[name].result()

    def body() -> Any:
        handed["b"] = waits_for.submit("a")
        handed["a"] = waits_for.submit("b")
        gate.open()
        return {type(future.exception()) for future in handed.values()}

    assert in_flow(threads, body) == {FutureCycleError}


def test_a_task_called_by_a_task_that_waits_for_that_task_is_told(threads: str, gate: Gate) -> None:
    handed: list[PenstockFuture[Any]] = []

    @task
    def inner() -> None:
        handed[0].result()

    @task
    def outer() -> None:
        gate.wait()
        inner()

    def body() -> Any:
        handed.append(outer.submit())
        gate.open()
        return type(handed[0].exception())

    assert in_flow(threads, body) is FutureCycleError


def test_two_tasks_whose_own_tasks_wait_for_each_other_are_told(gate: Gate) -> None:
    handed: dict[str, PenstockFuture[Any]] = {}

    @task
    def inner(name: str) -> Any:
        return handed[name].result()

    @task
    def outer(name: str) -> Any:
        gate.wait()
        return inner(name)

    def body() -> Any:
        handed["b"] = outer.submit("a")
        handed["a"] = outer.submit("b")
        gate.open()
        return {type(future.exception()) for future in handed.values()}

    assert in_flow("thread:2", body) == {FutureCycleError}


def test_async_tasks_that_wait_for_each_other_are_told(threads: str, gate: Gate) -> None:
    handed: dict[str, PenstockFuture[Any]] = {}

    @task
    async def waits_for(name: str) -> Any:
        while not gate.is_open():  # noqa: ASYNC110  (opened by another thread)
            await asyncio.sleep(0.001)
        return await handed[name]

    def body() -> Any:
        handed["b"] = waits_for.submit("a")
        handed["a"] = waits_for.submit("b")
        gate.open()
        return {type(future.exception()) for future in handed.values()}

    assert in_flow(threads, body) == {FutureCycleError}


def test_wait_and_as_completed_tell_of_a_cycle_too(threads: str, gate: Gate) -> None:
    handed: list[PenstockFuture[Any]] = []

    @task
    def own() -> Any:
        gate.wait()
        for asks in (wait, lambda futures: list(as_completed(futures))):
            with pytest.raises(FutureCycleError):
                asks(handed)

    def body() -> Any:
        handed.append(own.submit())
        gate.open()
        return handed[0].exception()

    assert in_flow(threads, body) is None


def test_waiting_for_a_sibling_is_no_cycle(threads: str, gate: Gate) -> None:
    handed: list[PenstockFuture[Any]] = []

    @task
    def other() -> Any:
        gate.wait()
        return handed[0].result()

    def body() -> Any:
        handed.append(double.submit(1))
        future = other.submit()
        gate.open()
        return future.result()

    assert in_flow(threads, body) == 2


# --- what futures are and are not ----------------------------------------------------------------


def test_a_future_that_is_pickled_gives_a_type_error_that_says_what_to_do(runner: str) -> None:
    def body() -> None:
        future = double.submit(1)
        with pytest.raises(TypeError, match="'double-0' cannot leave this process; pass it to"):
            pickle.dumps({"deep": [future]})

    in_flow(runner, body)


def test_a_future_that_was_dropped_is_run_all_the_same(threads: str, gate: Gate) -> None:
    ran: list[int] = []

    @task
    def note(_: Any, number: int) -> None:
        ran.append(number)

    def body() -> None:
        for number in range(50):
            note.submit(hold.submit(gate), number)
        gc.collect()
        gate.open()

    in_flow(threads, body)
    assert sorted(ran) == list(range(50))


def test_a_future_that_was_dropped_outside_of_flows_is_run_all_the_same(gate: Gate) -> None:
    ran = threading.Event()

    @task
    def note(_: Any) -> None:
        ran.set()

    note.submit(hold.submit(gate))
    gc.collect()
    gate.open()
    assert ran.wait(10)


def test_a_failure_of_a_future_that_was_dropped_is_not_lost(runner: str) -> None:
    def body() -> None:
        fail.submit()
        gc.collect()

    with pytest.raises(UnobservedFailureError, match="1/1 states failed"):
        in_flow(runner, body)


def test_futures_can_be_kept_in_sets_and_dicts(runner: str) -> None:
    def body() -> Any:
        first, second = double.submit(1), double.submit(1)
        return len({first, second, first}), {first: "first"}[first]

    assert in_flow(runner, body) == (2, "first")


@dataclasses.dataclass
class Counted:
    x: Any
    made: int = 0

    def __post_init__(self) -> None:
        self.made += 1


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_user_028_an_object_of_the_user_arrives_as_the_very_object(how: str, runner: str) -> None:
    given = Counted(5)

    @task
    def same(x: Any) -> Any:
        return x

    def body() -> Any:
        if how == "call":
            return same(given) is given
        found = same.submit(given).result() if how == "submit" else same.map([given])[0].result()
        return found is given

    assert in_flow(runner, body)
    assert given.made == 1


def test_user_028_a_container_without_futures_arrives_as_the_very_object(runner: str) -> None:
    given = {"a": [1, (2, {3})]}

    @task
    def same(x: Any) -> Any:
        return x is given

    assert in_flow(runner, lambda: same.submit(given).result())


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lambda f: [f, [f]], [2, [2]]),
        (lambda f: (f, 1), (2, 1)),
        (lambda f: {"k": f}, {"k": 2}),
        (lambda f: {f}, {2}),
        (lambda f: frozenset([f]), frozenset([2])),
        (lambda f: Point(f, 1), Point(2, 1)),
        (lambda f: collections.OrderedDict(k=f), collections.OrderedDict(k=2)),
        (lambda f: collections.defaultdict(list, k=f), {"k": 2}),
        (lambda f: PenstockFutureList([f]), [2]),
    ],
)
def test_futures_in_containers_are_replaced_and_the_containers_kept(
    given: Any, wanted: Any, runner: str
) -> None:
    @task
    def same(x: Any) -> Any:
        return x

    def body() -> Any:
        return same.submit(given(double.submit(1))).result()

    found = in_flow(runner, body)
    assert found == wanted
    assert isinstance(found, type(wanted))


def test_the_container_of_the_caller_is_not_changed(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        given = [future]
        before = copy.copy(given)
        double.submit(given).wait()
        return given == before

    assert in_flow(runner, body)


def test_allow_failure_passes_the_exception(runner: str) -> None:
    @task
    def kind(x: Any) -> str:
        return type(x).__name__

    def body() -> Any:
        future = fail.submit()
        return kind.submit(allow_failure(future)).result(), kind(allow_failure([future]))

    assert in_flow(runner, body) == ("ValueError", "list")


def test_d05_without_it_the_run_ends_as_upstream_failed(runner: str) -> None:
    def body() -> Any:
        future = double.submit(fail.submit("origin"))
        with pytest.raises(UpstreamTaskError) as caught:
            future.result()
        return future.state.name, future.is_failed(), str(caught.value.__cause__)

    assert in_flow(runner, body) == ("UpstreamFailed", True, "origin")


def test_d05_a_direct_call_with_a_failed_input_raises(runner: str) -> None:
    def body() -> None:
        with pytest.raises(UpstreamTaskError):
            double(fail.submit())

    in_flow(runner, body)


def test_d05_what_never_began_is_not_tried_again(runner: str) -> None:
    ran: list[int] = []

    @task(retries=3)
    def never(x: Any) -> None:
        ran.append(1)

    def body() -> Any:
        future = never.submit(fail.submit())
        future.wait()
        return [state.name for state in future.run.states], future.state.name

    assert in_flow(runner, body)[0] == ["Pending", "UpstreamFailed"]
    assert ran == []
