"""What users rely on of our types. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from penstock import PenstockFuture, PenstockFutureList, State, Transaction, flow, task
from penstock.explaining import Explanation
from penstock.states import Completed
from penstock.transactions import transaction

if TYPE_CHECKING:
    from collections.abc import Generator


@task
def double(x: int) -> int:
    return 2 * x


@task(retries=2, retry_delay_seconds=[1, 10], tags=["a"], log_prints=True)
def shout(text: str, times: int = 1) -> str:
    return text.upper() * times


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task
def count(up_to: int) -> Generator[int, None, None]:
    yield from range(up_to)


@flow(task_runner="thread:4")
def plain_flow(n: int) -> list[int]:
    return double.map(range(n)).result()


@flow
async def async_flow(n: int) -> int:
    return await double.submit(n)


def a_task_keeps_its_signature() -> None:
    assert_type(double(1), int)
    assert_type(shout("x", times=2), str)


def a_future_knows_its_value() -> None:
    assert_type(double.submit(1), PenstockFuture[int])
    assert_type(double.submit(1).result(), int)
    assert_type(double.submit(1).result(timeout=1.0), int)
    assert_type(double.submit(1).result(raise_on_failure=False), int | BaseException)
    assert_type(double.submit(1).state, State[int])
    assert_type(double.submit(1).exception(), BaseException | None)


def futures_are_arguments() -> None:
    assert_type(double.submit(double.submit(1)).result(), int)
    assert_type(double.submit(1, wait_for=[double.submit(2)]), PenstockFuture[int])


def a_state_is_asked_for_by_return_state() -> None:
    assert_type(double(1, return_state=True), State[int])
    assert_type(double.submit(1, return_state=True), State[int])
    assert_type(plain_flow(1, return_state=True), State[list[int]])


def async_tasks_give_what_they_await() -> None:
    assert_type(fetch.submit("x"), PenstockFuture[bytes])
    assert_type(fetch.map(["x"]), PenstockFutureList[bytes])


async def awaiting() -> None:
    assert_type(await fetch("x"), bytes)
    assert_type(await double.submit(1), int)
    assert_type(await async_flow(1), int)


def generators_stream_or_give_lists() -> None:
    assert_type(count.submit(3), PenstockFuture[list[int]])
    for value in count(3):
        assert_type(value, int)


def a_list_of_futures_knows_its_values() -> None:
    assert_type(double.map([1, 2]), PenstockFutureList[int])
    assert_type(double.map([1, 2]).result(), list[int])
    assert_type(double.map([1, 2])[0], PenstockFuture[int])


def flows_keep_their_signature() -> None:
    assert_type(plain_flow(3), list[int])


def options_are_checked() -> None:
    assert_type(double.with_options(retries=3)(1), int)
    double.with_options(retries="three")  # type: ignore[arg-type]  # pyright: ignore
    double.with_options(no_such_option=1)  # type: ignore[call-arg]  # pyright: ignore


def hooks_keep_their_functions() -> None:
    @double.on_failure
    def hook(state: State[Any]) -> int:
        return len(str(state))

    assert_type(hook(Completed()), int)


def a_state_knows_its_value() -> None:
    state: State[int] = Completed(data=1)
    assert_type(state.result(), int)


def a_call_can_be_explained() -> None:
    assert_type(double.explain(1), Explanation)
    assert_type(double.explain(double.submit(1)), Explanation)
    assert_type(double.explain(1).reasons, tuple[str, ...])


def a_transaction_is_a_top_level_name() -> None:
    with transaction(key="day") as txn:
        assert_type(txn, Transaction)
