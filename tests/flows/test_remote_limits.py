"""Promises of users' pains 5 and 6: a time limit holds whatever runs, and what runs can be stopped.

The worker that had to go is replaced, its neighbours are untouched, and the stack is told.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.exceptions import (
    CancelledRun,
    DefinitionError,
    RunnerCannotError,
    TaskRunTimeoutError,
)
from penstock.runtime import task_run

if TYPE_CHECKING:
    import pathlib

pytestmark = pytest.mark.usefixtures("sent_by_value")

STUCK_SECONDS = 30.0
SOON_SECONDS = 10.0
"""A tenth of this is measured; nothing may come near `STUCK_SECONDS`."""


def sleep_in_c() -> None:
    time.sleep(STUCK_SECONDS)


def hold_the_gil() -> None:
    sum(range(10**12))


def loop() -> None:
    end = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < end:
        pass


def ignore() -> None:
    end = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < end:
        try:
            time.sleep(0.1)
        except BaseException:
            continue


STUCK = [sleep_in_c, hold_the_gil, loop, ignore]


@task
def pid() -> int:
    return os.getpid()


@task
def quick(number: int) -> int:
    return number


def wait_for(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("stuck", STUCK)
def test_users_005_a_time_limit_ends_what_is_stuck_and_its_worker(
    processes: str, tmp_path: pathlib.Path, stuck: Any
) -> None:
    path = tmp_path / "pid"

    @task(timeout_seconds=0.3, timeout="hard")
    def limited() -> None:
        path.write_text(str(os.getpid()))
        stuck()

    @flow(task_runner=processes)
    def main() -> Any:
        began = time.monotonic()
        future = limited.submit()
        neighbours = quick.map(range(50))
        future.wait(20)
        elapsed = time.monotonic() - began
        after = [pid.submit().result(timeout=20) for _ in range(4)]
        values = neighbours.result(timeout=20)
        return future.state, future.exception(), elapsed, values, after

    state, error, elapsed, values, after = main()
    assert state.name == "TimedOut"
    assert state.is_failed()
    assert isinstance(error, TaskRunTimeoutError)
    assert "exceeded timeout of 0.3 second(s)" in state.message
    assert f"in {stuck.__name__}" in state.message, "the stack shows where it was stuck"
    assert "in limited" in state.message
    assert "penstock" not in state.message.partition("second(s)")[2]
    assert elapsed < SOON_SECONDS
    assert values == list(range(50))
    gone = int(path.read_text())
    assert gone not in after
    assert not is_alive(gone)


def test_users_005_neighbours_are_not_charged(processes: str, tmp_path: pathlib.Path) -> None:
    @task(timeout_seconds=0.2)
    def limited() -> None:
        sleep_in_c()

    @task
    def neighbour(directory: str, number: int) -> Any:
        with open(os.path.join(directory, str(number)), "a") as file:
            file.write("ran\n")
        time.sleep(0.02)
        return task_run.run_count

    @flow(task_runner=processes)
    def main() -> Any:
        futures = [limited.submit() for _ in range(2)]
        counts = [neighbour.submit(str(tmp_path), number) for number in range(30)]
        for future in futures:
            future.wait(20)
        return [f.state.name for f in futures], [each.result(timeout=20) for each in counts]

    assert main() == (["TimedOut"] * 2, [1] * 30)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"ran\n"}
    assert len(list(tmp_path.iterdir())) == 30


def test_users_005_the_limit_counts_from_the_begin_and_not_from_the_queue(processes: str) -> None:
    @task(timeout_seconds=1.5)
    def limited(number: int) -> int:
        time.sleep(0.2)
        return number

    @flow(task_runner=processes.replace(":2", ":1"))
    def main() -> list[int]:
        return limited.map(range(10)).result(timeout=30)

    assert main() == list(range(10))


def test_users_005_a_time_out_is_retried_in_a_new_worker(processes: str) -> None:
    @task(timeout_seconds=0.3, retries=1)
    def limited() -> Any:
        if task_run.run_count == 1:
            sleep_in_c()
        return task_run.run_count

    @flow(task_runner=processes)
    def main() -> Any:
        future = limited.submit()
        return future.result(timeout=20), [state.name for state in future.run.states]

    assert main() == (2, ["Pending", "Running", "TimedOut", "Retrying", "Completed"])


def test_users_005_a_time_out_costs_no_crash_retry_and_no_hook_for_crashes(processes: str) -> None:
    seen: list[str] = []

    def note(task: Any, run: Any, state: Any) -> None:
        seen.append(state.name)

    @task(timeout_seconds=0.2, on_crashed=[note], on_failure=[note])
    def limited() -> None:
        sleep_in_c()

    @flow(task_runner=processes)
    def main() -> Any:
        future = limited.submit()
        assert isinstance(future.exception(timeout=20), TaskRunTimeoutError)
        return future.run.run_count

    assert main() == 1
    assert seen == ["TimedOut"]


def test_users_005_no_worker_is_left_of_three_such_runs(
    processes: str, tmp_path: pathlib.Path
) -> None:
    @task(timeout_seconds=0.2)
    def limited(directory: str) -> None:
        open(os.path.join(directory, str(os.getpid())), "w").close()
        sleep_in_c()

    @flow(task_runner=processes)
    def main() -> list[str]:
        futures = [limited.submit(str(tmp_path)) for _ in range(3)]
        for future in futures:
            future.wait(20)
        return [future.state.name for future in futures]

    for _ in range(2):
        assert main() == ["TimedOut"] * 3
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 6
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("runner", ["thread", "inline"])
def test_users_005_a_hard_limit_is_refused_where_it_cannot_be_kept(runner: str) -> None:
    @task(timeout_seconds=1, timeout="hard")
    def limited() -> int:
        return 1

    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(RunnerCannotError) as refused:
            limited.submit()
        text = str(refused.value)
        assert "task 'limited'" in text
        assert repr(runner) in text
        assert 'timeout="hard" needs a runner that can kill what runs' in text
        assert 'use "process"' in text
        with pytest.raises(RunnerCannotError):
            limited.with_options(timeout_seconds=None).submit()

    main()


def test_users_005_any_other_kind_of_limit_is_refused_at_the_definition() -> None:
    wrong: Any
    for wrong, error in (("soft", DefinitionError), (1, TypeError)):
        with pytest.raises(error, match="timeout"):
            task(lambda: None, timeout=wrong)


SLOW_MODULE = """
import time
time.sleep(1.0)
def work():
    return 1
"""


def test_users_005_what_a_worker_imports_for_a_task_does_not_count(
    processes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_loads_slowly.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("module_that_loads_slowly")
    limited = task(module.work, timeout_seconds=0.5)

    @flow(task_runner=processes)
    def main() -> int:
        return limited.submit().result(timeout=20)  # type: ignore[no-any-return]

    try:
        assert main() == 1
    finally:
        del sys.modules["module_that_loads_slowly"]


# --- cancelling ---------------------------------------------------------------------------


@pytest.mark.parametrize("stuck", STUCK)
def test_users_006_what_runs_is_killed_on_request(
    processes: str, tmp_path: pathlib.Path, stuck: Any
) -> None:
    path = tmp_path / "pid"

    @task
    def victim() -> None:
        partial = path.with_suffix(".part")
        partial.write_text(str(os.getpid()))
        partial.rename(path)
        stuck()

    @flow(task_runner=processes)
    def main() -> Any:
        future = victim.submit()
        wait_for(path)
        neighbours = quick.map(range(30))
        asked = time.monotonic()
        assert future.cancel(kill=True)
        future.wait(20)
        elapsed = time.monotonic() - asked
        with pytest.raises(CancelledRun):
            future.result()
        after = [pid.submit().result(timeout=20) for _ in range(4)]
        return future.state, elapsed, neighbours.result(timeout=20), after

    state, elapsed, values, after = main()
    assert state.name == "Cancelled"
    assert elapsed < SOON_SECONDS
    assert values == list(range(30))
    gone = int(path.read_text())
    assert gone not in after
    assert not is_alive(gone)


def test_users_006_without_kill_it_goes_on_as_cancelling_until_it_ends(
    processes: str, tmp_path: pathlib.Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    @task
    def victim() -> int:
        begun.touch()
        wait_for(go)
        return 1

    @flow(task_runner=processes)
    def main() -> Any:
        future = victim.submit()
        wait_for(begun)
        deadline = time.monotonic() + 10
        while not future.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        future.cancel()
        first = future.state.name
        go.touch()
        future.wait(20)
        return first, future.state.name

    assert main() == ("Cancelling", "Cancelled")


def test_users_006_what_waits_is_cancelled_at_once_and_never_begins(
    processes: str, tmp_path: pathlib.Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    @task
    def hold() -> None:
        begun.touch()
        wait_for(go)

    @task
    def late(number: int) -> None:
        (tmp_path / f"late-{number}").touch()

    @flow(task_runner=processes.replace(":2", ":1"))
    def main() -> Any:
        holding = hold.submit()
        wait_for(begun)
        futures = [late.submit(number) for number in range(20)]
        for future in futures:
            future.cancel()
        for future in futures:
            future.wait(20)
        go.touch()
        holding.result(timeout=20)
        return [future.state.name for future in futures]

    assert main() == ["Cancelled"] * 20
    assert not list(tmp_path.glob("late-*"))


def test_users_008_fail_fast_kills_the_siblings_that_run(
    processes: str, tmp_path: pathlib.Path
) -> None:
    @task
    def work(number: int) -> None:
        (tmp_path / f"begun-{number}").touch()
        if number == 1:
            wait_for(tmp_path / "begun-0")
            raise ValueError("no luck")
        sleep_in_c()

    @flow(task_runner=processes)
    def main() -> Any:
        began = time.monotonic()
        futures = work.map(range(10), on_error="fail_fast")
        futures.wait(20)
        return [future.state.name for future in futures], time.monotonic() - began

    names, elapsed = main()
    assert names == ["Cancelled", "Failed", *["Cancelled"] * 8]
    assert elapsed < SOON_SECONDS
