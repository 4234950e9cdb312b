"""Rows 013 to 024 of the specification: what the page's first sample shows."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from typing import TYPE_CHECKING, Any, Optional

import pytest

import penstock
from penstock import flow, task
from penstock.context import current_flow_run, current_task_run
from penstock.runtime import task_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flows.conftest import Gate, Log

    from penstock.futures import PenstockFuture


# --- 013 to 017: names, annotations, defaults, retries ----------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Flow",
        "State",
        "Task",
        "allow_failure",
        "deploy",
        "flow",
        "get_client",
        "get_run_logger",
        "pause_flow_run",
        "resume_flow_run",
        "serve",
        "suspend_flow_run",
        "tags",
        "task",
        "unmapped",
    ],
)
def test_seed_013_the_names_of_prefect_stand_at_the_top(name: str) -> None:
    assert name in penstock.__all__
    assert hasattr(penstock, name)


def odd(url: str, params: Optional[dict[str, any]] = None) -> Any:  # type: ignore[valid-type]  # noqa: UP045
    return params


def test_seed_014_an_odd_annotation_on_a_task_does_not_raise_or_warn(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return task(odd).submit("u", {"a": 1}).result()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert body() == {"a": 1}


def test_seed_014_an_odd_annotation_on_a_flow_does_not_raise_or_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flow(odd)("u", {"a": 1}) == {"a": 1}


def test_seed_015_defaults_are_among_the_parameters(runner: str) -> None:
    @task
    def mine(a: int, b: Any = None, *, c: str = "c") -> dict[str, Any]:
        return task_run.parameters

    @flow(task_runner=runner)
    def body() -> dict[str, Any]:
        return mine.submit(1).result()

    assert body() == {"a": 1, "b": None, "c": "c"}


def test_seed_015_defaults_are_there_when_the_run_is_named(runner: str, log: Log) -> None:
    @task(task_run_name="{a}-{b}")
    def mine(a: int, b: Any = None) -> None: ...

    @flow(task_runner=runner)
    def body() -> None:
        mine.submit(1).result()

    body()
    assert "INFO    | Task run '1-None' - Finished in state Completed()" in log.lines


def test_seed_016_a_flow_retry_runs_the_whole_function_again(runner: str) -> None:
    ran: list[str] = []

    @task
    def step(name: str) -> None:
        ran.append(name)
        if len(ran) == 2:
            raise ValueError("the second step fails once")

    @flow(task_runner=runner, retries=3, retry_delay_seconds=0, log_prints=True)
    def body() -> None:
        step.submit("first").result()
        step.submit("second").result()

    body()
    assert ran == ["first", "second", "first", "second"]


@pytest.mark.parametrize("delay", [0, 0.0, [0, 0, 0.001], lambda retries: [0.0] * retries])
def test_seed_016_the_delay_of_a_flow_is_a_number_a_list_or_a_function(delay: Any) -> None:
    attempts: list[int] = []

    @flow(retries=3, retry_delay_seconds=delay, retry_jitter_factor=0.5)
    def body() -> int:
        attempts.append(1)
        if len(attempts) < 4:
            raise ValueError("not yet")
        return len(attempts)

    assert body() == 4


def test_seed_017_a_flow_with_defaults_is_called_without_arguments() -> None:
    @flow
    def body(repo_name: str = "PrefectHQ/prefect") -> str:
        return repo_name

    assert body() == "PrefectHQ/prefect"


# --- 018: direct calls -------------------------------------------------------------------


def test_seed_018_a_direct_call_returns_the_value_itself(runner: str) -> None:
    @task
    def get_url() -> dict[str, int]:
        return {"stars": 12157}

    @flow(task_runner=runner)
    def body() -> int:
        return get_url()["stars"]

    assert body() == 12157


def test_seed_018_a_direct_call_runs_in_the_thread_of_the_caller(runner: str) -> None:
    @task
    def where() -> threading.Thread:
        return threading.current_thread()

    @flow(task_runner=runner)
    def body() -> bool:
        return where() is threading.current_thread()

    assert body()


def test_seed_018_a_direct_call_raises_the_exception_of_the_task_itself(runner: str) -> None:
    problem = KeyError("mine")

    @task
    def fail() -> None:
        raise problem

    @flow(task_runner=runner)
    def body() -> None:
        with pytest.raises(KeyError) as caught:
            fail()
        assert caught.value is problem

    body()


def test_seed_018_the_traceback_of_a_direct_call_has_no_frames_of_ours_below_the_call() -> None:
    @task
    def fail() -> None:
        raise KeyError("mine")

    @flow
    def body() -> None:
        fail()

    with pytest.raises(KeyError) as caught:
        body()
    functions = [entry.name for entry in caught.traceback]
    assert functions[-1] == "fail"
    assert functions.count("body") == 1


# --- 019: print --------------------------------------------------------------------------


def test_seed_019_prints_of_a_flow_are_lines_of_its_run(log: Log) -> None:
    @flow(log_prints=True)
    def body() -> None:
        print("Stars 🌠 :", 12157)

    body()
    assert f"Flow run {log.records[-1].flow_run_name!r} - Stars 🌠 : 12157" in log.lines[1]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_019_a_task_that_prints_to_its_log_does_not_swallow_what_its_own_tasks_print(
    how: str, runner: str, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    @task
    def inner() -> None:
        print("plain")

    @task(log_prints=True)
    def outer() -> None:
        if how == "call":
            inner()
        else:
            inner.submit().result()

    @flow(task_runner=runner)
    def body() -> None:
        outer()

    body()
    assert capsys.readouterr().out == "plain\n"


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_019_tasks_inherit_it_from_their_flow(how: str, runner: str, log: Log) -> None:
    @task
    def say() -> None:
        print("from the task")

    @flow(log_prints=True, task_runner=runner)
    def body() -> None:
        if how == "call":
            say()
        else:
            say.submit().result()

    body()
    assert "INFO    | Task run 'say-0' - from the task" in log.lines


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_019_a_task_may_say_otherwise(
    how: str, runner: str, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    @task(log_prints=False)
    def say() -> None:
        print("from the task")

    @flow(log_prints=True, task_runner=runner)
    def body() -> None:
        if how == "call":
            say()
        else:
            say.submit().result()

    body()
    assert capsys.readouterr().out == "from the task\n"


def test_seed_019_a_print_to_a_file_is_left_alone(runner: str, log: Log, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"

    @task(log_prints=True)
    def say() -> None:
        with path.open("w") as file:
            print("to the file", file=file)

    @flow(task_runner=runner)
    def body() -> None:
        say.submit().result()

    body()
    assert path.read_text() == "to the file\n"
    assert not [line for line in log.lines if "to the file" in line]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_seed_019_a_print_to_stdout_or_stderr_is_a_line(stream: str, runner: str, log: Log) -> None:
    @task(log_prints=True)
    def say() -> None:
        print("here", file=getattr(sys, stream))

    @flow(task_runner=runner)
    def body() -> None:
        say.submit().result()

    body()
    assert "INFO    | Task run 'say-0' - here" in log.lines


def test_seed_019_prints_of_tasks_side_by_side_go_each_to_its_own_run(log: Log) -> None:
    both = threading.Barrier(2, timeout=10)

    @task
    def say(name: str) -> None:
        both.wait()
        print(f"I am {name}")
        both.wait()

    @flow(log_prints=True, task_runner="thread:2")
    def body() -> None:
        say.map(["zero", "one"]).wait()

    body()
    assert "INFO    | Task run 'say-0' - I am zero" in log.lines
    assert "INFO    | Task run 'say-1' - I am one" in log.lines


def test_seed_019_print_is_itself_again_after_overlapping_tasks(log: Log) -> None:
    before = builtins.print
    both = threading.Barrier(2, timeout=10)

    @task(log_prints=True)
    def overlap() -> None:
        both.wait()
        print("inside")
        both.wait()

    @flow(task_runner="thread:2")
    def body() -> None:
        overlap.submit()
        overlap.submit()

    body()
    assert builtins.print is before


def test_seed_019_a_print_outside_of_the_flow_is_not_a_line(
    log: Log, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = threading.Event()

    @task(log_prints=True)
    def hold() -> None:
        inside.set()
        gate.wait()

    @flow(task_runner="thread:1")
    def body() -> None:
        hold.submit()
        assert inside.wait(10)
        print("plain")
        gate.open()

    body()
    assert capsys.readouterr().out == "plain\n"


# --- 020 to 023: scripts and names -------------------------------------------------------


@pytest.mark.parametrize("guard", ["if __name__ == '__main__':", "if True:"])
def test_seed_020_a_script_runs_with_and_without_main_guard(
    guard: str, runner: str, tmp_path: Path
) -> None:
    script = tmp_path / "sample.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from penstock import flow, task

            @task
            def add(a, b=1):
                return a + b

            @flow
            def body():
                return add.submit(add(1)).result()

            {guard}
                print(body())
            """
        )
    )
    environment = {**os.environ, "PENSTOCK_TASK_RUNNER": runner}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "3\n")


def test_seed_021_a_flow_run_has_a_name_of_two_words() -> None:
    @flow
    def body() -> Any:
        return penstock.runtime.flow_run.name

    assert re.fullmatch(r"[a-z]+-[a-z]+", body())


def test_seed_021_flow_runs_have_different_names() -> None:
    @flow
    def body() -> Any:
        return penstock.runtime.flow_run.name

    assert len({body() for _ in range(20)}) > 10


def test_seed_022_a_flow_has_the_name_of_its_function_with_dashes() -> None:
    @flow
    def get_repo_info() -> None: ...

    assert get_repo_info.name == "get-repo-info"


def test_seed_022_a_flow_of_a_lambda_has_a_name() -> None:
    assert flow(lambda: None).name == "unknown-lambda"


def test_seed_022_a_task_keeps_its_underscores() -> None:
    assert task(odd, name="get_url").name == "get_url"


@pytest.mark.parametrize("character", "/%&><")
def test_seed_022_some_characters_are_banned_from_names_of_flows(character: str) -> None:
    with pytest.raises(ValueError, match="flow name"):
        flow(lambda: None, name=f"a{character}b")


@task
def a(x: Any = None) -> str | None:
    run = current_task_run()
    return None if run is None else run.name


b = a.with_options(name="b")


def test_seed_023_runs_of_a_task_are_numbered_from_zero(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[str | None]:
        return [a.submit().result(), a(), a.submit().result()]

    assert body() == ["a-0", "a-1", "a-2"]


def test_seed_023_each_task_has_numbers_of_its_own(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[str | None]:
        return [a.submit().result(), b.submit().result(), a.submit().result()]

    assert body() == ["a-0", "b-0", "a-1"]


def test_seed_023_each_flow_run_numbers_anew(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> str | None:
        return a.submit().result()

    assert [body(), body()] == ["a-0", "a-0"]


def test_seed_023_numbers_are_given_in_order_of_submission_not_of_start(
    threads: str, gate: Gate
) -> None:
    @task
    def held() -> None:
        gate.wait()

    @flow(task_runner=threads)
    def body() -> list[str]:
        waiting = a.submit(held.submit())
        ready = a.submit()
        gate.open()
        return [waiting.name, ready.name]

    assert body() == ["a-0", "a-1"]


def test_seed_023_the_number_is_given_at_once(threads: str, gate: Gate) -> None:
    @task
    def held() -> None:
        gate.wait()

    @flow(task_runner=threads)
    def body() -> list[str]:
        futures = [held.submit() for _ in range(3)]
        found = [future.name for future in futures]
        gate.open()
        return found

    assert body() == ["held-0", "held-1", "held-2"]


def test_seed_023_outside_of_a_flow_a_run_has_the_name_of_its_task() -> None:
    assert (a(), a()) == ("a", "a")


# --- 024: the flow retries ---------------------------------------------------------------


def failing_once(runner: str, **options: Any) -> list[str]:
    attempts: list[int] = []
    states: list[str] = []

    @task
    def get_url() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("no route")

    @flow(task_runner=runner, retries=3, **options)
    def body() -> None:
        run = current_flow_run()
        assert run is not None
        states[:] = [str(state) for state in run.states]
        get_url.submit().result()

    body()
    return states


def test_seed_024_a_flow_whose_request_failed_waits_and_runs_again(runner: str) -> None:
    text = "Failed('Flow run encountered an exception: ConnectionError: no route')"
    assert failing_once(runner, retry_delay_seconds=0.01) == [
        "Pending()",
        "Running()",
        text,
        "AwaitingRetry(type=SCHEDULED)",
        "Retrying(type=RUNNING)",
    ]


def test_seed_024_the_wait_is_as_long_as_the_flow_says(log: Log) -> None:
    @flow(retries=1, retry_delay_seconds=0.03)
    def body() -> tuple[float, float]:
        run = current_flow_run()
        assert run is not None
        if run.run_count == 1:
            raise ConnectionError("no route")
        _, _, failed, waiting, retrying = run.states
        assert waiting.scheduled_at is not None
        return waiting.scheduled_at - failed.at, retrying.at - failed.at

    planned, waited = body()
    assert planned == pytest.approx(0.03, abs=0.02)
    assert waited >= 0.029


def test_seed_024_a_retry_of_a_flow_is_announced(runner: str, log: Log) -> None:
    failing_once(runner, retry_delay_seconds=0.01)
    said = "Flow run failed with exception: ConnectionError('no route') - Retry 1/3 will start"
    assert [line for line in log.lines if f"{said} 0.01 second(s) from now" in line]


def test_seed_024_after_the_last_retry_the_flow_raises(runner: str) -> None:
    attempts: list[PenstockFuture[None]] = []

    @task
    def get_url() -> None:
        raise ConnectionError("no route")

    @flow(task_runner=runner, retries=2)
    def body() -> None:
        attempts.append(get_url.submit())
        attempts[-1].result()

    with pytest.raises(ConnectionError, match="no route"):
        body()
    assert len(attempts) == 3
