"""Rows 001 to 012 of the specification: what a task is."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import Flow, Task, flow, tags, task
from penstock.context import current_run
from penstock.logging import JsonFormatter
from penstock.runtime import flow_run, task_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flows.conftest import Gate, Log


@task
def double(x: int) -> int:
    return 2 * x


# --- 001, 002, 010: the decorators -----------------------------------------------------


def test_seed_001_the_bare_decorator_makes_a_task() -> None:
    def plain() -> int:
        return 1

    assert isinstance(task(plain), Task)


def test_seed_001_the_decorator_works_with_empty_parentheses() -> None:
    @task()
    def plain() -> int:
        return 1

    assert isinstance(plain, Task)
    assert plain() == 1


def test_seed_001_the_decorator_works_with_options() -> None:
    @task(name="other", retries=2)
    def plain() -> int:
        return 1

    assert isinstance(plain, Task)
    assert (plain.name, plain()) == ("other", 1)


def test_seed_001_a_task_holds_the_function_itself() -> None:
    def plain() -> int:
        return 1

    assert task(plain).fn is plain


def test_seed_001_a_task_looks_like_its_function() -> None:
    looks: Any = double
    assert (looks.__name__, looks.__module__) == ("double", __name__)


def test_seed_002_a_call_takes_inputs_and_returns_the_output() -> None:
    assert double(21) == 42


def test_seed_002_a_submitted_task_takes_inputs_and_returns_the_output(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> int:
        return double.submit(x=21).result()

    assert body() == 42


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_seed_002_a_bad_call_is_a_type_error_before_any_run_exists(
    how: str, runner: str, log: Log
) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        ways: dict[str, Any] = {"call": double, "submit": double.submit, "map": double.map}
        with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
            ways[how](x=[1], y=2)

    body()
    assert not [line for line in log.lines if "task run" in line]


def test_seed_002_a_bad_call_takes_no_number_from_the_runs_that_follow(log: Log) -> None:
    @flow
    def body() -> None:
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
            double()
        double(1)

    body()
    assert "INFO    | Task run 'double-0' - Finished in state Completed()" in log.lines


def test_seed_002_an_output_may_be_any_object(runner: str) -> None:
    made = object()

    @task
    def make() -> object:
        return made

    @flow(task_runner=runner)
    def body() -> bool:
        return make.submit().result() is made and make() is made

    assert body()


@pytest.mark.parametrize("decorator", [task, flow])
def test_seed_010_an_unknown_option_is_a_type_error_that_names_the_nearest(decorator: Any) -> None:
    with pytest.raises(TypeError, match="no option 'retrys'; did you mean 'retries'"):
        decorator(retrys=1)(lambda: None)


# --- 004, 008: reuse and where tasks are defined ---------------------------------------


def test_seed_004_a_task_belongs_to_no_flow(runner: str) -> None:
    @task
    def which() -> Any:
        return flow_run.flow_name

    @flow(task_runner=runner)
    def first() -> Any:
        return which.submit().result()

    @flow(task_runner=runner)
    def second() -> Any:
        return which.submit().result()

    assert (first(), second(), which()) == ("first", "second", None)


def test_seed_008_a_task_may_be_imported_from_a_module(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from penstock import task\n\n@task\ndef imported(x):\n    return x + 1\n"
    (tmp_path / "a_module_of_tasks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import a_module_of_tasks  # type: ignore[import-not-found]  # made just now

    monkeypatch.delitem(sys.modules, "a_module_of_tasks")

    @flow(task_runner=runner)
    def body() -> Any:
        return a_module_of_tasks.imported.submit(1).result()

    assert body() == 2


def test_seed_008_a_script_without_main_guard_runs(runner: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from penstock import flow, task

            @task
            def double(x):
                return 2 * x

            @flow
            def body():
                return double.map([1, 2, 3]).result()

            print(body())
            """
        )
    )
    environment = {**os.environ, "PENSTOCK_TASK_RUNNER": runner}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("[2, 4, 6]\n", 0)


# --- 005: what a task knows of its upstream ---------------------------------------------


@task
def my_inputs(x: Any = None, *, y: Any = None) -> tuple[str | None, dict[str, list[str]]]:
    return task_run.id, dict(task_run.task_inputs)


def test_seed_005_a_task_is_told_which_run_gave_each_argument(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        first, second = double.submit(1), double.submit(2)
        _, inputs = my_inputs.submit(first, y=[second, {"in": first}]).result()
        one, two = str(first.task_run_id), str(second.task_run_id)
        return inputs == {"x": [one], "y": [two, one]}

    assert body()


def test_seed_005_a_task_is_told_what_it_waited_for(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        first = double.submit(1)
        _, inputs = my_inputs.submit(wait_for=[first]).result()
        return inputs == {"wait_for": [str(first.task_run_id)]}

    assert body()


def test_seed_005_a_task_is_told_which_direct_call_gave_a_value(runner: str) -> None:
    @task
    def make() -> tuple[list[str | None], str | None]:
        return [task_run.id], task_run.id

    @task
    def take(value: Any) -> dict[str, list[str]]:
        return task_run.task_inputs

    @flow(task_runner=runner)
    def body() -> None:
        made = make()
        assert take.submit(made).result() == {"value": [made[1]]}

    body()


def test_seed_005_a_task_can_ask_for_the_states_of_its_upstream(runner: str) -> None:
    @task
    def upstream(x: int) -> list[str]:
        return [str(state) for state in task_run.upstream_states["x"]]

    @flow(task_runner=runner)
    def body() -> list[str]:
        return upstream.submit(double.submit(1)).result()

    assert body() == ["Completed()"]


def test_seed_005_a_failed_upstream_stops_the_run_before_it_begins(runner: str) -> None:
    begun: list[Any] = []

    @task
    def fail() -> int:
        raise ValueError("no value")

    @task
    def never(x: Any) -> None:
        begun.append(x)

    @flow(task_runner=runner)
    def body() -> str:
        future = never.submit(fail.submit())
        future.wait()
        return future.state.name

    assert (body(), begun) == ("UpstreamFailed", [])


# --- 006: what is logged ----------------------------------------------------------------


def test_seed_006_records_of_a_run_carry_its_details_and_tags(runner: str, log: Log) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        with tags("from-context"):
            double.with_options(tags=["from-task"]).submit(1).result()

    body()
    (record,) = [each for each in log.records if each.name == "penstock.task_runs"]
    assert record.flow_name == "body"
    assert (record.task_name, record.task_run_name) == ("double", "double-0")
    assert record.tags == {"from-context", "from-task"}


def test_seed_006_a_json_line_has_the_final_state_and_the_tags(runner: str, log: Log) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        double.with_options(tags=["b", "a"]).submit(1).result()

    body()
    (record,) = [each for each in log.records if each.name == "penstock.task_runs"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["tags"]) == ("Finished in state Completed()", ["a", "b"])


def test_seed_006_the_ids_in_a_record_are_those_of_the_runs(runner: str, log: Log) -> None:
    @task
    def ids() -> tuple[str | None, str | None]:
        return task_run.id, flow_run.id

    @flow(task_runner=runner)
    def body() -> tuple[str | None, str | None]:
        return ids.submit().result()

    expected = body()
    (record,) = [each for each in log.records if each.name == "penstock.task_runs"]
    assert (str(record.task_run_id), str(record.flow_run_id)) == expected


# --- 007, 009: at once, and from other tasks --------------------------------------------


def test_seed_007_submitted_tasks_run_at_the_same_time() -> None:
    both_here = threading.Barrier(2, timeout=10)

    @task
    def meet() -> int:
        return both_here.wait()

    @flow(task_runner="thread:2")
    def body() -> set[int]:
        return {future.result() for future in [meet.submit(), meet.submit()]}

    assert body() == {0, 1}


def test_seed_007_the_default_runner_runs_tasks_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PENSTOCK_TASK_RUNNER", raising=False)
    both_here = threading.Barrier(2, timeout=10)

    @task
    def meet() -> int:
        return both_here.wait()

    @flow
    def body() -> list[int]:
        futures = [meet.submit(), meet.submit()]
        return sorted(future.result() for future in futures)

    assert body() == [0, 1]


def test_seed_009_a_task_calls_a_task_directly(runner: str) -> None:
    @task
    def outer(x: int) -> int:
        return double(x) + 1

    @flow(task_runner=runner)
    def body() -> tuple[int, int]:
        return outer.submit(2).result(), outer(3)

    assert body() == (5, 7)


@task
def my_parent() -> Any:
    run = current_run()
    assert run is not None
    return run.parent and run.parent.name


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_009_the_run_that_called_is_the_parent(how: str, runner: str) -> None:
    @task
    def outer() -> Any:
        return my_parent() if how == "call" else my_parent.submit().result()

    @flow(task_runner=runner)
    def body() -> Any:
        return outer.submit().result()

    assert body() == "outer-0"


def test_seed_009_nested_submits_on_a_full_pool_do_not_deadlock(runner: str) -> None:
    @task
    def nest(depth: int) -> int:
        return 0 if depth == 0 else 1 + nest.submit(depth - 1).result()

    @flow(task_runner=runner)
    def body() -> list[int]:
        return [future.result() for future in [nest.submit(5), nest.submit(6), nest.submit(7)]]

    assert body() == [5, 6, 7]


def test_seed_009_more_waiting_parents_than_slots_do_not_deadlock() -> None:
    @task
    def outer(x: int) -> int:
        return sum(double.map([x, x + 1]).result())

    @flow(task_runner="thread:2")
    def body() -> list[int]:
        return outer.map(list(range(50))).result()

    assert body() == [4 * x + 2 for x in range(50)]


def test_seed_009_a_nested_run_that_nobody_waited_for_ends_before_its_flow(
    threads: str, gate: Gate
) -> None:
    ended: list[str] = []

    @task
    def inner() -> None:
        gate.wait()
        ended.append("inner")

    @task
    def outer() -> None:
        inner.submit()

    @flow(task_runner=threads)
    def body() -> None:
        outer.submit().result()
        gate.open()

    body()
    assert ended == ["inner"]


# --- 011, 012: name, description, tags, hooks -------------------------------------------


def test_seed_011_a_task_has_a_name_a_description_and_tags() -> None:
    named = task(double.fn, name="a name", description="what it does", tags={"a", "b"})
    assert (named.name, named.description) == ("a name", "what it does")
    assert named.tags == {"a", "b"}


def test_seed_011_a_flow_has_a_name_a_description_and_tags() -> None:
    @flow(name="a name", description="what it does", tags=["a", "b"])
    def body() -> None: ...

    assert isinstance(body, Flow)
    assert (body.name, body.description) == ("a name", "what it does")
    assert body.tags == {"a", "b"}


def test_seed_011_the_tags_of_a_flow_are_those_of_its_runs_too(runner: str) -> None:
    @task(tags=["own"])
    def mine() -> list[str]:
        return task_run.tags

    @flow(task_runner=runner, tags=["flow"])
    def body() -> tuple[list[str], list[str]]:
        return flow_run.tags, mine.submit().result()

    assert body() == (["flow"], ["flow", "own"])


def test_seed_012_a_failed_task_run_is_tried_again(runner: str) -> None:
    attempts: list[int] = []

    @task(retries=2)
    def flaky() -> int:
        attempts.append(task_run.run_count)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return len(attempts)

    @flow(task_runner=runner)
    def body() -> int:
        return flaky.submit().result()

    assert (body(), attempts) == (3, [1, 2, 3])


@pytest.mark.parametrize(
    ("option", "fails"), [("on_running", False), ("on_completion", False), ("on_failure", True)]
)
@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_012_a_task_has_hooks_for_its_states(
    option: str, fails: bool, how: str, runner: str
) -> None:
    seen: list[tuple[str, str, str]] = []

    def hook(task: Any, task_run: Any, state: Any) -> None:
        seen.append((task.name, task_run.name, state.name))

    def work() -> None:
        if fails:
            raise ValueError("failed")

    options: Any = {option: [hook]}
    hooked = Task(work, **options)

    @flow(task_runner=runner)
    def body() -> None:
        if how == "call":
            hooked(return_state=True)
        else:
            hooked.submit(return_state=True)

    body()
    name = {"on_running": "Running", "on_completion": "Completed", "on_failure": "Failed"}[option]
    assert seen == [("work", "work-0", name)]


@pytest.mark.parametrize(
    ("option", "outcome"),
    [("on_running", "Running"), ("on_completion", "Completed"), ("on_failure", "Failed")],
)
def test_seed_012_a_flow_has_hooks_for_its_states(option: str, outcome: str) -> None:
    seen: list[tuple[str, str]] = []

    def hook(flow: Any, flow_run: Any, state: Any) -> None:
        seen.append((flow.name, state.name))

    def work() -> None:
        if option == "on_failure":
            raise ValueError("failed")

    options: Any = {option: hook}
    Flow(work, **options)(return_state=True)
    assert seen == [("work", outcome)]


def test_seed_012_a_flow_has_a_hook_for_being_crashed() -> None:
    seen: list[str] = []

    @flow(on_crashed=[lambda flow, flow_run, state: seen.append(state.name)])
    def work() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        work()
    assert seen == ["Crashed"]


def test_seed_012_a_flow_has_a_hook_for_being_cancelled() -> None:
    seen: list[str] = []

    @flow(on_cancellation=[lambda flow, flow_run, state: seen.append(state.name)])
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["Cancelled"]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_012_a_hook_that_raises_is_logged_and_harms_nobody(
    how: str, runner: str, log: Log
) -> None:
    def broken(state: Any) -> None:
        raise RuntimeError("the hook is broken")

    hooked = double.with_options(on_completion=broken)

    @flow(task_runner=runner)
    def body() -> int:
        return hooked(1) if how == "call" else hooked.submit(1).result()

    assert body() == 2
    (error,) = [each for each in log.records if each.levelno == logging.ERROR]
    assert "broken" in error.getMessage()
    assert error.task_run_name == "double-0"
