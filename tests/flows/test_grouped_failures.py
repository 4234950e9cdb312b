"""User row 41: at the end of a flow run, equal failures are counted together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from penstock import flow, task, wait
from penstock.exceptions import UnobservedFailureError

if TYPE_CHECKING:
    from tests.flows.conftest import Log


@task
def load(number: int) -> int:
    if number % 10 == 0:
        raise KeyError("row")
    if number % 2 == 0:
        raise ValueError("odd only")
    return number


def summary(log: Log) -> list[str]:
    return [line for line in log.lines if " x " in line]


def test_user_041_each_group_of_equal_failures_is_one_line(runner: str, log: Log) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        load.map(range(1, 51))

    with pytest.raises(UnobservedFailureError):
        body()
    first = [
        next(line for line in log.lines if text in line).split("'")[1]
        for text in ("ValueError", "KeyError")
    ]
    assert [line.partition("' - ")[2] for line in summary(log)] == [
        f"20 x ValueError: odd only, first {first[0]!r}",
        f"5 x KeyError: 'row', first {first[1]!r}",
    ]
    assert all(line.startswith("ERROR   | Flow run ") for line in summary(log))
    assert log.lines[-1].endswith("Finished in state Failed('25/50 states failed.')")


@pytest.mark.parametrize("how", ["call", "submit"])
def test_user_041_failures_that_were_dealt_with_count_too(how: str, log: Log) -> None:
    @flow
    def body() -> str:
        if how == "submit":
            wait([load.submit(2) for _ in range(3)])
            return "done"
        for _ in range(3):
            with pytest.raises(ValueError, match="odd only"):
                load(2)
        return "done"

    body(return_state=True)
    assert [line.partition(" - ")[2] for line in summary(log)] == [
        "3 x ValueError: odd only, first 'load-0'"
    ]


def test_user_041_what_failed_once_is_not_told_again(log: Log) -> None:
    @flow
    def body() -> None:
        wait([load.submit(2), load.submit(10)])

    body(return_state=True)
    assert summary(log) == []


def test_user_041_attempts_that_were_tried_again_do_not_count(log: Log) -> None:
    tries: list[int] = []

    @task(retries=3)
    def flaky() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ValueError("again")

    @flow
    def body() -> None:
        flaky()

    body()
    assert summary(log) == []


def test_user_041_the_outermost_flow_tells_of_all_runs_inside(runner: str, log: Log) -> None:
    @flow
    def inner() -> None:
        load(1)
        wait([load.submit(2)])

    @flow(task_runner=runner)
    def outer() -> None:
        wait([load.submit(2)])
        inner(return_state=True)
        wait([inner.submit()])

    outer(return_state=True)
    assert [line.partition(" - ")[2] for line in summary(log)] == [
        "3 x ValueError: odd only, first 'load-0'"
    ]


def test_user_041_of_a_flow_that_is_tried_again_the_last_attempt_is_told(log: Log) -> None:
    attempts: list[int] = []

    @flow(retries=1)
    def body() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            wait([load.submit(2) for _ in range(5)])
            raise ValueError("the flow itself")
        return "done"

    assert body() == "done"
    assert summary(log) == []
