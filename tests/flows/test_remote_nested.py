"""Promises of rows 4, 9, 29 and 30 of the users' pains, for runs made inside of a worker elsewhere.

They run at once, in that worker, and come home as children of the run that made them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import as_completed, flow, get_run_logger, task, wait
from penstock.exceptions import CancelledRun, UnobservedFailureError
from penstock.runtime import flow_run as runtime_flow_run
from penstock.runtime import task_run as runtime_task_run

if TYPE_CHECKING:
    from tests.flows.conftest import Log

    from penstock.runs import Run

DEPTH = 5


@pytest.fixture
def ended() -> list[Run]:
    """Collects runs, where it is asked as a hook."""
    return []


def collecting(ended: list[Run]) -> dict[str, Any]:
    def collect(task: Any, run: Run, state: Any) -> None:
        ended.append(run)

    return {"on_completion": [collect], "on_failure": [collect], "on_crashed": [collect]}


def tree(run: Run) -> Any:
    """Return what a run and those inside are called, and how they ended."""
    shown = f"{run.plan.name} {run.state.name}"
    return (shown, [tree(child) for child in run.children]) if run.children else shown


# --- they run -----------------------------------------------------------------------------


@task
def double(x: int) -> int:
    return 2 * x


@task
async def double_async(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@flow
def doubles(stop: int) -> int:
    return sum(double.map(range(stop)).result())


def by_call() -> Any:
    return double(2)


def by_submit() -> Any:
    return double.submit(2).result()


def by_map() -> Any:
    return double.map([1, 2, 3]).result()


def by_chain() -> Any:
    return double.submit(double.submit(1)).result()


def by_sub_flow() -> Any:
    return doubles(3)


def by_submitted_sub_flow() -> Any:
    return doubles.submit(3).result()


def by_async_submit() -> Any:
    return double_async.submit(2).result()


def by_asyncio() -> Any:
    return asyncio.run(double_async(2))


def by_wait() -> Any:
    futures = double.map([1, 2])
    done, not_done = wait(list(futures))
    return len(done), len(not_done), sorted(f.result() for f in as_completed(list(futures)))


def by_callback() -> Any:
    seen: list[int] = []
    double.submit(3).add_done_callback(lambda future: seen.append(future.result()))
    return seen


def by_thread() -> Any:
    import contextvars

    seen: list[int] = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(lambda: seen.append(double.submit(4).result()),)
    )
    thread.start()
    thread.join()
    return seen


def by_methods_of_states() -> Any:
    state = double(2, return_state=True)
    return state.name, state.result(), str(double.submit(2, return_state=True))


WAYS = [
    by_call,
    by_submit,
    by_map,
    by_chain,
    by_sub_flow,
    by_submitted_sub_flow,
    by_async_submit,
    by_asyncio,
    by_wait,
    by_callback,
    by_thread,
    by_methods_of_states,
]


@pytest.mark.parametrize("way", WAYS)
def test_users_009_a_task_makes_runs_of_its_own_with_one_result_everywhere(way: Any) -> None:
    outer = task(way, name="outer")

    @flow
    def main() -> Any:
        return outer.submit().result(timeout=20)

    results = [main.with_options(task_runner=r)() for r in ("thread", "process:2")]
    assert results[0] == results[1]


@pytest.mark.parametrize("way", WAYS)
def test_users_009_they_run_in_the_worker_that_made_them(elsewhere: str, way: Any) -> None:
    seen: list[int] = []

    @task
    def outer() -> int:
        way()
        return os.getpid()

    @flow(task_runner=elsewhere)
    def main() -> Any:
        seen.append(outer.submit().result())

    main()
    assert seen != [os.getpid()]


def test_users_004_five_deep_ends_on_one_worker(elsewhere: str, ended: list[Run]) -> None:
    @task
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + down.submit(depth - 1).result()

    top = down.with_options(**collecting(ended))

    @flow(task_runner=f"{elsewhere.split(':')[0]}:1")
    def main() -> Any:
        return top.submit(DEPTH).result(timeout=20)

    assert main() == DEPTH
    depth, run = 0, ended[0]
    while run.children:
        (run,) = run.children
        depth += 1
    assert depth == DEPTH


def test_users_009_many_parents_each_with_children(elsewhere: str) -> None:
    @task
    def node(number: int) -> int:
        return sum(double.map([number] * 4).result())

    @flow(task_runner=elsewhere)
    def main() -> list[int]:
        return node.map(range(20)).result(timeout=20)

    assert main() == [8 * number for number in range(20)]


def test_users_029_a_coroutine_awaits_tasks_of_its_own(anywhere: str) -> None:
    @task
    async def outer() -> Any:
        return await double_async(1), await double_async.submit(2), await double.submit(3)

    @flow(task_runner=anywhere)
    def main() -> Any:
        return outer.submit().result(timeout=20)

    assert main() == (2, 4, 6)


def test_users_009_what_nobody_waits_for_has_ended_with_its_parent(
    elsewhere: str, tmp_path: Any, ended: list[Run]
) -> None:
    @task
    def leave(path: str) -> None:
        open(path, "w").close()

    @task(**collecting(ended))
    def outer(directory: str) -> None:
        for number in range(5):
            leave.submit(os.path.join(directory, str(number)))

    @flow(task_runner=elsewhere)
    def main() -> None:
        outer.submit(str(tmp_path)).result()
        assert len(list(tmp_path.iterdir())) == 5

    main()
    assert tree(ended[0]) == ("outer Completed", ["leave Completed"] * 5)


# --- they come home -----------------------------------------------------------------------


def test_users_009_runs_come_home_with_their_names_states_and_parents(
    elsewhere: str, ended: list[Run]
) -> None:
    @task(tags=["deep"], retries=1)
    def inner(x: int) -> Any:
        if runtime_task_run.run_count == 1 and x == 2:
            raise ValueError("once")
        return runtime_task_run.id

    @task(**collecting(ended))
    def outer() -> Any:
        return [inner(1), inner.submit(2).result(), doubles(1)], runtime_task_run.id

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return outer.submit().result()

    (first, second, _), outer_id = main()
    (run,) = ended
    assert str(run.id) == outer_id
    assert run.children is not None
    one, two, sub_flow = run.children
    assert [str(one.id), str(two.id)] == [first, second]
    assert [one.name, two.name] == ["outer-0/inner-0", "outer-0/inner-1"]
    assert [one.parent, two.parent, sub_flow.parent] == [run] * 3
    assert [one.flow_run, two.flow_run, sub_flow.flow_run] == [run.flow_run] * 3
    assert [one.run_count, two.run_count] == [1, 2]
    assert "deep" in one.tags
    assert sub_flow.is_flow_run
    assert sub_flow.plan.name == "doubles"
    assert [state.name for state in one.states] == ["Pending", "Running", "Completed"]
    assert [(state.name, state.provisional) for state in two.states] == [
        ("Pending", False),
        ("Running", False),
        ("Failed", True),
        ("Retrying", False),
        ("Completed", False),
    ]
    times = [state.at for state in two.states]
    assert times == sorted(times)
    assert one.state.is_final()


def test_users_009_runs_of_a_sub_flow_come_home_below_it(elsewhere: str, ended: list[Run]) -> None:
    @task
    def outer() -> Any:
        return doubles(3)

    top = outer.with_options(**collecting(ended))
    seen: dict[str, Any] = {}

    @flow(task_runner=elsewhere)
    def main() -> Any:
        from penstock.context import current_flow_run

        seen["main"] = current_flow_run()
        return top.submit().result()

    assert main() == 6
    assert ended[0].children is not None
    (sub_flow,) = ended[0].children
    assert sub_flow.is_flow_run
    assert seen["main"].tally.begun == 2, "the task run, and the sub-flow inside"
    assert sub_flow.tally.begun == 3  # type: ignore[attr-defined]  # a flow run


def test_users_009_what_a_failed_attempt_had_begun_comes_home_too(
    elsewhere: str, ended: list[Run]
) -> None:
    @task(retries=1, **collecting(ended))
    def outer() -> int:
        double.submit(runtime_task_run.run_count).result()
        if runtime_task_run.run_count == 1:
            raise ValueError("once")
        return 1

    @flow(task_runner=elsewhere)
    def main() -> int:
        return outer.submit().result()

    assert main() == 1
    assert tree(ended[0]) == ("outer Completed", ["double Completed"] * 2)


def test_users_009_log_lines_of_runs_inside_carry_their_names(elsewhere: str, log: Log) -> None:
    @task
    def inner() -> None:
        get_run_logger().info("hello from inside")

    @task
    def outer() -> None:
        inner.submit().result()

    @flow(task_runner=elsewhere)
    def main() -> None:
        outer.submit().result()

    main()
    (record,) = [one for one in log.records if one.getMessage() == "hello from inside"]
    assert record.task_run_name == "outer-0/inner-0"
    assert record.worker
    assert "INFO    | Task run 'outer-0/inner-0' - hello from inside" in log.lines
    ends = [line for line in log.lines if "Finished" in line and "inner" in line]
    assert ends == ["INFO    | Task run 'outer-0/inner-0' - Finished in state Completed()"]


def test_users_009_prints_of_runs_inside_are_logged_as_theirs(elsewhere: str, log: Log) -> None:
    @task
    def inner() -> None:
        print("inner print")

    @task
    def outer() -> None:
        print("outer print")
        inner()
        inner.submit().result()
        print("outer print again")

    @flow(task_runner=elsewhere, log_prints=True)
    def main() -> None:
        outer.submit().result()

    main()
    assert [
        (one.task_run_name, one.getMessage()) for one in log.records if "print" in one.getMessage()
    ] == [
        ("outer-0", "outer print"),
        ("outer-0/inner-0", "inner print"),
        ("outer-0/inner-1", "inner print"),
        ("outer-0", "outer print again"),
    ]


# --- failures -----------------------------------------------------------------------------


class Unlucky(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@task
def fail(code: int) -> None:
    raise Unlucky(code)


def test_users_009_a_failure_inside_reaches_the_driver(anywhere: str, ended: list[Run]) -> None:
    @task(**collecting(ended))
    def outer(way: str) -> None:
        if way == "call":
            fail(7)
        fail.submit(7).result()

    @flow(task_runner=anywhere)
    def main() -> None:
        for way in ("call", "submit"):
            with pytest.raises(Unlucky) as raised:
                outer.submit(way).result()
            assert raised.value.code == 7

    main()
    for run in ended:
        assert tree(run) == ("outer Failed", ["fail Failed"])
        assert run.children is not None
        error = run.children[0].state.exception()
        assert isinstance(error, Unlucky)
        assert error.code == 7


def test_spec_d3_a_failure_that_the_task_has_handled_is_no_failure_of_the_flow(
    anywhere: str, ended: list[Run]
) -> None:
    @task(**collecting(ended))
    def outer() -> str:
        with pytest.raises(Unlucky):
            fail.submit(1).result()
        try:
            fail(2)
        except Unlucky as error:
            assert fail.submit(3).exception() is not None
            return f"handled {error.code}"
        return ""

    @flow(task_runner=anywhere)
    def main() -> str:
        return outer.submit().result()

    assert main() == "handled 2"
    assert tree(ended[0]) == ("outer Completed", ["fail Failed"] * 3)


def test_spec_d3_a_failure_inside_that_nobody_looked_at_fails_the_flow(anywhere: str) -> None:
    @task
    def outer() -> int:
        fail.submit(1)
        return 1

    @flow(task_runner=anywhere)
    def main() -> int:
        return outer.submit().result()

    state = main(return_state=True)
    assert state.is_failed()
    with pytest.raises((UnobservedFailureError, Unlucky)):
        state.result()


def test_spec_d3_the_count_of_failures_is_the_same_everywhere() -> None:
    @task
    def outer() -> int:
        fail.submit(1)
        fail.submit(2)
        return double(1)

    @flow
    def main() -> None:
        outer.submit().result()

    messages = {
        runner: str(main.with_options(task_runner=runner)(return_state=True))
        for runner in ("inline", "thread", "process:2")
    }
    assert len(set(messages.values())) == 1, messages


def test_users_009_a_failed_sub_flow_inside_raises_where_it_is_called(anywhere: str) -> None:
    @flow
    def sub() -> None:
        raise Unlucky(3)

    @task
    def outer() -> str:
        with pytest.raises(Unlucky):
            sub()
        return str(sub(return_state=True))

    @flow(task_runner=anywhere)
    def main() -> str:
        return outer.submit().result()

    assert main() == "Failed('Flow run encountered an exception: Unlucky: 3')"


def test_users_017_retries_and_timeouts_of_runs_inside_hold(anywhere: str) -> None:
    @task(retries=2, retry_delay_seconds=0.01)
    def flaky() -> int:
        if runtime_task_run.run_count < 3:
            raise ValueError("no luck")
        return int(runtime_task_run.run_count)

    @task
    def outer() -> Any:
        return flaky(), flaky.submit().result()

    @flow(task_runner=anywhere)
    def main() -> Any:
        return outer.submit().result(timeout=20)

    assert main() == (3, 3)


def test_users_005_a_time_limit_of_a_run_inside_holds(elsewhere: str, ended: list[Run]) -> None:
    @task(timeout_seconds=0.05)
    def slow() -> None:
        import time

        for _ in range(1000):
            time.sleep(0.01)

    @task(**collecting(ended))
    def outer() -> list[str]:
        return [slow(return_state=True).name, slow.submit(return_state=True).name]

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return outer.submit().result(timeout=20)

    assert main() == ["TimedOut", "TimedOut"]
    assert tree(ended[0]) == ("outer Completed", ["slow TimedOut"] * 2)


# --- rules --------------------------------------------------------------------------------


def test_hooks_of_runs_inside_run_once_in_that_worker(elsewhere: str, tmp_path: Any) -> None:
    path = str(tmp_path / "hooks")

    def note(task: Any, run: Any, state: Any) -> None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()} {run.name} {state.name}\n")

    @task(on_completion=[note], on_running=[note])
    def inner() -> int:
        return os.getpid()

    @task
    def outer() -> int:
        return inner.submit().result()

    @flow(task_runner=elsewhere)
    def main() -> int:
        return outer.submit().result()

    pid = main()
    assert (tmp_path / "hooks").read_text().splitlines() == [
        f"{pid} outer-0/inner-0 Running",
        f"{pid} outer-0/inner-0 Completed",
    ]


def test_a_runner_that_a_task_inside_asks_for_is_not_opened_in_a_worker(elsewhere: str) -> None:
    @task(task_runner="process:2")
    def inner() -> int:
        return os.getpid()

    @task
    def outer() -> bool:
        return inner.submit().result() == os.getpid()

    @flow(task_runner=elsewhere)
    def main() -> bool:
        return outer.submit().result()

    assert main()


def test_runs_inside_know_the_flow_of_the_driver_and_its_settings(elsewhere: str) -> None:
    @task
    def inner() -> Any:
        return runtime_flow_run.name, runtime_flow_run.parameters, runtime_task_run.tags

    @task
    def outer() -> Any:
        return inner(), inner.submit().result()

    @flow(task_runner=elsewhere, flow_run_name="the-flow")
    def main(a: int) -> Any:
        from penstock import tags

        with tags("around"):
            return outer.submit().result()

    assert main(3) == (("the-flow", {"a": 3}, ["around"]),) * 2


def test_a_cancelled_child_is_cancelled_inside(elsewhere: str) -> None:
    @task
    def outer() -> str:
        future = double.submit(1)
        future.cancel()  # it has ended, as submit() runs it at once
        try:
            return str(future.result())
        except CancelledRun:
            return "cancelled"

    @flow(task_runner=elsewhere)
    def main() -> str:
        return outer.submit().result()

    assert main() == "2"
