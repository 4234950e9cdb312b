"""Rows 064 to 072 of the specification: the sample that submits."""

from __future__ import annotations

import asyncio
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, flow, task
from penstock.context import current_flow_run
from penstock.runtime import task_run
from penstock.tasks import task_input_hash

if TYPE_CHECKING:
    from tests.flows.conftest import Gate, Log


@task
def get_url(url: str, params: Any = None) -> list[Any]:
    return [url, params]


# --- 064: the hash of the inputs ----------------------------------------------------------


def input_hash(arguments: Any, made: Any = get_url) -> str | None:
    context: Any = types.SimpleNamespace(task=made)
    return task_input_hash(context, arguments)


def test_seed_064_equal_inputs_have_the_same_hash() -> None:
    assert input_hash({"x": [1, {"a": 2}]}) == input_hash({"x": [1, {"a": 2}]})


def test_seed_064_other_inputs_have_another_hash() -> None:
    assert input_hash({"x": 1}) != input_hash({"x": 2})


def test_seed_064_another_task_has_another_hash() -> None:
    assert input_hash({"x": 1}, task(len)) != input_hash({"x": 1})


# --- 066, 067: helper functions and loops --------------------------------------------------


def helper(how: str) -> list[Any]:
    """Call the task from a function that is neither a flow nor a task."""
    pages = range(1, 4)
    if how == "call":
        return [get_url("issues", params={"page": page}) for page in pages]
    futures = [get_url.submit("issues", params={"page": page}) for page in pages]
    return [future.result() for future in futures]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_066_070_a_helper_function_runs_tasks_in_the_flow_around_it(
    how: str, runner: str, log: Log
) -> None:
    @flow(task_runner=runner)
    def body() -> list[Any]:
        return helper(how)

    assert body() == [["issues", {"page": page}] for page in (1, 2, 3)]
    assert "INFO    | Task run 'get_url-2' - Finished in state Completed()" in log.lines


def test_seed_067_a_task_called_in_a_loop_runs_once_each_time_in_sequence(runner: str) -> None:
    ran: list[tuple[int, Any]] = []

    @task
    def note(page: int) -> None:
        ran.append((page, task_run.name))

    @flow(task_runner=runner)
    def body() -> None:
        for page in (3, 1, 2):
            note(page)

    body()
    assert ran == [(3, "note-0"), (1, "note-1"), (2, "note-2")]


# --- 068 to 070: submit ----------------------------------------------------------------------


@task
def hold(gate: Gate) -> str:
    gate.wait()
    return "held"


def test_seed_068_submit_returns_before_the_task_is_over(threads: str, gate: Gate) -> None:
    @flow(task_runner=threads)
    def body() -> tuple[bool, str]:
        future = hold.submit(gate)
        was_done = future.done()
        gate.open()
        return was_done, future.result()

    assert body() == (False, "held")


def test_seed_068_submit_returns_a_future(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        return isinstance(get_url.submit("u"), PenstockFuture)

    assert body()


def test_seed_068_more_tasks_than_slots_are_submitted_at_once(threads: str, gate: Gate) -> None:
    @flow(task_runner=threads)
    def body() -> int:
        futures = [hold.submit(gate) for _ in range(200)]
        gate.open()
        return sum(future.result() == "held" for future in futures)

    assert body() == 200


def test_seed_068_submit_outside_of_a_flow_takes_the_default_runner() -> None:
    @task
    def where() -> bool:
        return current_flow_run() is None and threading.current_thread().name.startswith("penstock")

    assert where.submit().result()


def test_seed_068_the_runner_outside_of_a_flow_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TASK_RUNNER", "inline")
    assert task(threading.current_thread).submit().result() is threading.current_thread()


def test_seed_068_many_submits_outside_of_a_flow() -> None:
    futures = [get_url.submit(str(number)) for number in range(100)]
    assert [future.result()[0] for future in futures] == [str(number) for number in range(100)]


def test_seed_068_an_async_task_is_submitted_without_await(runner: str) -> None:
    @task
    async def waiting(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @flow(task_runner=runner)
    def body() -> int:
        return waiting.submit(1).result()

    assert body() == 2


def test_seed_068_a_flow_ends_after_all_that_it_submitted(runner: str) -> None:
    ended: list[int] = []

    @flow(task_runner=runner)
    def body() -> None:
        for number in range(20):
            task(ended.append).submit(number)

    body()
    assert sorted(ended) == list(range(20))


def test_seed_068_positional_and_keyword_arguments_reach_the_function(runner: str) -> None:
    @task
    def show(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    @flow(task_runner=runner)
    def body() -> Any:
        return show.submit(1, 2, a=3, b=[4]).result()

    assert body() == ((1, 2), {"a": 3, "b": [4]})


def test_seed_069_the_result_is_the_very_object_that_the_task_returned(runner: str) -> None:
    made = [1, 2, 3]

    @flow(task_runner=runner)
    def body() -> bool:
        return task(lambda: made).submit().result() is made

    assert body()


def test_seed_069_lists_of_results_are_flattened_as_on_the_page(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[Any]:
        issues = [get_url.submit(str(page)) for page in range(3)]
        return [item for page in issues for item in page.result()]

    assert body() == ["0", None, "1", None, "2", None]


def test_seed_069_the_result_is_there_again_when_asked_twice(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        future = get_url.submit("u")
        return future.result() is future.result()

    assert body()


def test_seed_069_a_future_returned_from_a_flow_is_replaced_by_its_value(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return {"one": get_url.submit("u"), "two": [get_url.submit("v", 1)]}

    assert body() == {"one": ["u", None], "two": [["v", 1]]}


def test_seed_070_a_keyword_dict_is_the_very_object_in_the_function(threads: str) -> None:
    params = {"page": 1}

    @flow(task_runner=threads)
    def body() -> bool:
        return get_url.submit("u", params=params).result()[1] is params

    assert body()


def test_seed_070_futures_inside_of_arguments_are_replaced_by_their_values(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        one = get_url.submit("one")
        return get_url.submit("two", params={"in": [one, (one, 5)]}).result()

    assert body() == ["two", {"in": [["one", None], (["one", None], 5)]}]


def test_seed_070_futures_are_replaced_in_a_direct_call_too(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return get_url("two", params=[get_url.submit("one")])

    assert body() == ["two", [["one", None]]]


def test_seed_072_the_sample_counts_what_its_page_counts(runner: str, log: Log) -> None:
    @task
    def page_of(page: int) -> list[dict[str, Any]]:
        return [{"user": {"id": page * 10 + number % 7}} for number in range(25)]

    @flow(task_runner=runner, log_prints=True)
    def body() -> None:
        futures = [page_of.submit(page) for page in range(4)]
        issues = [issue for future in futures for issue in future.result()]
        per_user = len(issues) / len({issue["user"]["id"] for issue in issues})
        print(f"Average open issues per user 💌 : {per_user:.2f}")

    body()
    assert log.lines[-2].endswith("Average open issues per user 💌 : 3.57")
