"""Rows 026 to 038 of the specification: the log, byte for byte after the clock."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.flows.conftest import Gate, Log

CLOCK = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} \| ", re.MULTILINE)
FLOW_RUN_NAME = re.compile(r"Created flow run '([a-z]+-[a-z]+)' for flow")


def without_clock(text: str) -> str:
    """Take the clock off each line, and put NAME for the made-up name of the flow run."""
    name = FLOW_RUN_NAME.search(text)
    assert name is not None
    return CLOCK.sub("", text).replace(repr(name[1]), "NAME")


SECOND_SAMPLE = '''
import threading

from penstock import flow, task

ORDER = ["get_url-6", "get_url-2", "get_url-5", "get_url-4", "get_url-3", "get_url-1"]
turn = {name: threading.Event() for name in ORDER}


def next_turn(task, task_run, state):
    """Hooks run after the line of their run: so the order of the listing is sure."""
    at = ORDER.index(task_run.name) + 1 if task_run.name in ORDER else 0
    if at and at < len(ORDER):
        turn[ORDER[at]].set()


@task(on_completion=next_turn)
def get_url(url, page=None):
    if page is not None:
        assert turn[f"get_url-{page}"].wait(10)
    return [url, page]


def get_open_issues():
    futures = [get_url.submit("issues", page=page) for page in range(1, 7)]
    turn[ORDER[0]].set()
    return [item for future in futures for item in future.result()]


@flow(retries=3, retry_delay_seconds=5, log_prints=True, task_runner="thread:6")
def get_repo_info(repo_name="PrefectHQ/prefect"):
    get_url("repo")
    issues = get_open_issues()
    print(f"{repo_name} repository statistics 🤓:")
    print(f"Stars 🌠 : {12159}")
    print(f"Forks 🍴 : {1251}")
    print(f"Average open issues per user 💌 : {len(issues) / 5:.2f}")


if __name__ == "__main__":
    get_repo_info()
'''

SECOND_LISTING = """\
INFO    | penstock.engine - Created flow run NAME for flow 'get-repo-info'
INFO    | Flow run NAME - Created task run 'get_url-0' for task 'get_url'
INFO    | Flow run NAME - Executing 'get_url-0' immediately...
INFO    | Task run 'get_url-0' - Finished in state Completed()
INFO    | Flow run NAME - Created task run 'get_url-1' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-1' for execution.
INFO    | Flow run NAME - Created task run 'get_url-2' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-2' for execution.
INFO    | Flow run NAME - Created task run 'get_url-3' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-3' for execution.
INFO    | Flow run NAME - Created task run 'get_url-4' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-4' for execution.
INFO    | Flow run NAME - Created task run 'get_url-5' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-5' for execution.
INFO    | Flow run NAME - Created task run 'get_url-6' for task 'get_url'
INFO    | Flow run NAME - Submitted task run 'get_url-6' for execution.
INFO    | Task run 'get_url-6' - Finished in state Completed()
INFO    | Task run 'get_url-2' - Finished in state Completed()
INFO    | Task run 'get_url-5' - Finished in state Completed()
INFO    | Task run 'get_url-4' - Finished in state Completed()
INFO    | Task run 'get_url-3' - Finished in state Completed()
INFO    | Task run 'get_url-1' - Finished in state Completed()
INFO    | Flow run NAME - PrefectHQ/prefect repository statistics 🤓:
INFO    | Flow run NAME - Stars 🌠 : 12159
INFO    | Flow run NAME - Forks 🍴 : 1251
INFO    | Flow run NAME - Average open issues per user 💌 : 2.40
INFO    | Flow run NAME - Finished in state Completed('All states completed.')
"""


# --- whole listings ----------------------------------------------------------------------


def test_seed_026_to_038_a_script_writes_the_second_listing_to_stderr(tmp_path: Path) -> None:
    script = tmp_path / "sample.py"
    script.write_text(SECOND_SAMPLE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )
    assert without_clock(done.stderr) == SECOND_LISTING
    assert (done.stdout, done.returncode) == ("", 0)


def test_seed_026_to_038_the_second_listing_is_the_same_in_this_process() -> None:
    sample: dict[str, Any] = {"__name__": "sample"}
    exec(SECOND_SAMPLE, sample)
    written = io.StringIO()
    with redirect_stderr(written):
        sample["get_repo_info"]()
    assert without_clock(written.getvalue()) == SECOND_LISTING


def test_seed_030_to_038_the_lines_of_each_run_come_in_their_order(runner: str, log: Log) -> None:
    @task
    def get_url() -> None: ...

    @flow(task_runner=runner)
    def body() -> None:
        for _ in range(6):
            get_url.submit()

    body()
    name = log.records[-1].flow_run_name
    for number in range(6):
        lines = [line for line in log.lines if f"'get_url-{number}'" in line]
        assert lines == [
            f"INFO    | Flow run {name!r} - Created task run 'get_url-{number}' for task 'get_url'",
            f"INFO    | Flow run {name!r} - Submitted task run 'get_url-{number}' for execution.",
            f"INFO    | Task run 'get_url-{number}' - Finished in state Completed()",
        ]


def test_seed_037_lines_of_finished_runs_come_in_order_of_completion(
    log: Log, gates: Callable[[int], list[Gate]]
) -> None:
    turns = gates(3)

    @task
    def wait(turn: int) -> None:
        turns[turn].wait()

    @flow(task_runner="thread:3")
    def body() -> None:
        futures = [wait.submit(turn) for turn in range(3)]
        for turn in (2, 0, 1):
            turns[turn].open()
            futures[turn].wait()

    body()
    finished = [line for line in log.lines if line.startswith("INFO    | Task run")]
    assert [line.split("'")[1] for line in finished] == ["wait-2", "wait-0", "wait-1"]


def test_seed_038_created_and_submitted_lines_are_pairs_in_order_of_submission(
    threads: str, log: Log
) -> None:
    @task
    def get_url() -> None: ...

    @flow(task_runner=threads)
    def body() -> None:
        for _ in range(100):
            get_url.submit()

    body()
    lines = [line.partition(" - ")[2] for line in log.lines if "Flow run" in line][:-1]
    assert lines == [
        line
        for number in range(100)
        for line in (
            f"Created task run 'get_url-{number}' for task 'get_url'",
            f"Submitted task run 'get_url-{number}' for execution.",
        )
    ]


# --- single lines -------------------------------------------------------------------------


def test_seed_026_a_line_has_clock_level_name_and_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flow(lambda: get_logger("mine").warning("a line"), name="body")()
    line = capsys.readouterr().err.splitlines()[1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \| WARNING \| penstock\.mine - a line", line)


def test_seed_026_levels_are_padded_to_the_same_width(log: Log) -> None:
    @flow
    def body() -> None:
        get_run_logger().info("x")
        get_run_logger().error("x")

    body()
    assert [line[:9] for line in log.lines[1:3]] == ["INFO    |", "ERROR   |"]


def test_seed_026_nothing_goes_to_stdout(runner: str, capsys: pytest.CaptureFixture[str]) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        task(lambda: None).submit()

    body()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 5


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_027_028_run_loggers_write_as_their_run(how: str, runner: str, log: Log) -> None:
    @task
    def say() -> None:
        get_run_logger().warning("from the %s", "task")

    @flow(task_runner=runner, flow_run_name="great-ammonite")
    def body() -> None:
        get_run_logger().info("from the flow")
        if how == "call":
            say()
        else:
            say.submit().result()

    body()
    assert "INFO    | Flow run 'great-ammonite' - from the flow" in log.lines
    assert "WARNING | Task run 'say-0' - from the task" in log.lines


def test_seed_029_a_sub_flow_has_a_line_of_its_own(log: Log) -> None:
    @flow
    def inner() -> None: ...

    @flow
    def outer() -> None:
        inner()

    outer()
    created = [line for line in log.lines if "Created flow run" in line]
    assert [line.partition(" for ")[2] for line in created] == ["flow 'outer'", "flow 'inner'"]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_030_to_032_the_created_lines_can_be_demoted_to_debug(
    how: str, runner: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_LOGGING_TASK_CREATED_LEVEL", "DEBUG")
    quiet = task(lambda: None, name="quiet")

    @flow(task_runner=runner)
    def body() -> None:
        if how == "call":
            quiet()
        else:
            quiet.submit().result()

    body()
    assert [line for line in log.lines if "quiet-0" in line] == [
        "INFO    | Task run 'quiet-0' - Finished in state Completed()"
    ]


def test_seed_030_to_032_demoted_lines_are_there_at_debug(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_LOGGING_TASK_CREATED_LEVEL", "DEBUG")
    log.show(logging.DEBUG)
    quiet = task(lambda: None, name="quiet")
    flow(lambda: quiet(), flow_run_name="f", name="body")()
    assert "DEBUG   | Flow run 'f' - Created task run 'quiet-0' for task 'quiet'" in log.lines


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_033_a_failed_run_ends_with_an_error_line(how: str, runner: str, log: Log) -> None:
    @task
    def fail() -> None:
        raise ValueError("x")

    @flow(task_runner=runner)
    def body() -> None:
        with pytest.raises(ValueError, match="x"):
            fail() if how == "call" else fail.submit().result()

    body()
    assert log.lines[-2] == (
        "ERROR   | Task run 'fail-0' - Finished in state "
        "Failed('Task run encountered an exception ValueError: x')"
    )


def test_seed_033_each_run_has_one_line_for_its_end(runner: str, log: Log) -> None:
    @task(retries=2)
    def fail() -> None:
        raise ValueError("x")

    @flow(task_runner=runner)
    def body() -> None:
        fail.submit().wait()
        fail.submit(return_state=True)

    body(return_state=True)
    ends = [line for line in log.lines if "Task run" in line and "Finished in state" in line]
    assert len(ends) == 2


def test_seed_033_a_failed_flow_ends_with_an_error_line(log: Log) -> None:
    @flow(flow_run_name="f")
    def body() -> None:
        raise ValueError("x")

    body(return_state=True)
    assert log.lines[-1] == (
        "ERROR   | Flow run 'f' - Finished in state "
        "Failed('Flow run encountered an exception: ValueError: x')"
    )


def test_seed_034_a_flow_without_tasks_ends_completed(log: Log) -> None:
    flow(lambda: None, flow_run_name="f", name="body")()
    assert log.lines[-1] == "INFO    | Flow run 'f' - Finished in state Completed()"


def test_seed_034_a_flow_that_returns_a_value_ends_completed(runner: str, log: Log) -> None:
    @flow(task_runner=runner, flow_run_name="f")
    def body() -> int:
        task(lambda: None).submit()
        return 1

    body()
    assert log.lines[-1] == "INFO    | Flow run 'f' - Finished in state Completed()"


def test_seed_034_a_failure_that_nobody_saw_fails_the_flow(runner: str, log: Log) -> None:
    @task
    def work(x: int) -> None:
        if x == 1:
            raise ValueError("x")

    @flow(task_runner=runner, flow_run_name="f")
    def body() -> None:
        work.map([0, 1, 2])

    body(return_state=True)
    assert log.lines[-1] == (
        "ERROR   | Flow run 'f' - Finished in state Failed('1/3 states failed.')"
    )


def test_seed_035_the_trailing_newline_of_a_print_is_taken_off(log: Log) -> None:
    @flow(log_prints=True, flow_run_name="f")
    def body() -> None:
        print("one\n")
        print("two", end="")
        print()

    body()
    lines = [record.getMessage() for record in log.records[1:-1]]
    assert lines == ["one\n", "two", ""]


def test_seed_036_the_last_print_of_a_flow_is_a_line_like_the_others(
    runner: str, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    @flow(log_prints=True, flow_run_name="f", task_runner=runner)
    def body() -> None:
        task(lambda: print("in a task"), name="say").submit().result()
        print("Average open issues per user 💌 : 2.27")

    body()
    last = log.lines[-2]
    assert last == "INFO    | Flow run 'f' - Average open issues per user 💌 : 2.27"
    assert capsys.readouterr().out == ""
