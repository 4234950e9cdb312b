"""Promises of users' pains 1, 2 and 3: a worker that dies costs the one task that it ran.

The run ends as `Crashed`, which is not `Failed`, and says who died and how; nobody else is touched.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.exceptions import WorkerLost
from penstock.runtime import task_run

if TYPE_CHECKING:
    import pathlib

    from tests.flows.conftest import Log

    from penstock.runs import Run


pytestmark = [
    pytest.mark.usefixtures("sent_by_value"),
    # Dask leaves sockets to the garbage collector when a worker goes away.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def note(directory: str, label: object) -> None:
    """Leave a file of one's own, so that a second run of the same label shows."""
    with open(os.path.join(directory, f"{label}"), "a", encoding="utf-8") as file:
        file.write("ran\n")


def runs_of(directory: pathlib.Path) -> dict[str, int]:
    return {path.name: len(path.read_text().split()) for path in directory.iterdir()}


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def exit_hard_in_a_thread() -> None:
    thread = threading.Thread(target=os._exit, args=(7,))
    thread.start()
    thread.join(10)


DEATHS = [
    (exit_at_once, "exit code 3"),
    (kill_itself, "SIGKILL"),
    (segfault, "SIGSEGV"),
    (abort, "SIGABRT"),
    (exit_hard_in_a_thread, "exit code 7"),
]


ONE_OF_EIGHT = [
    *(("process:2", way, *death) for way in ("submit", "map") for death in DEATHS),
    # To Dask, all deaths look alike.
    ("dask", "submit", *DEATHS[1]),
    ("dask", "map", *DEATHS[4]),
]


@pytest.mark.parametrize(("elsewhere", "way", "die", "how"), ONE_OF_EIGHT, indirect=["elsewhere"])
def test_users_002_of_eight_tasks_seven_complete_and_one_is_crashed(
    elsewhere: str, tmp_path: pathlib.Path, way: str, die: Any, how: str
) -> None:
    @task(crash_retries=0)
    def work(number: int) -> int:
        note(str(tmp_path), number)
        if number == 3:
            die()
        return number

    @flow(task_runner=elsewhere)
    def main() -> Any:
        futures = (
            list(work.map(range(8)))
            if way == "map"
            else [work.submit(number) for number in range(8)]
        )
        for future in futures:
            future.wait(20)
        assert work.submit(100).result(timeout=20) == 100, "the runner stays usable"
        counts = [future.run.run_count for future in futures]
        return [future.state for future in futures], counts, futures[3].exception()

    states, counts, error = main()
    assert [state.name for state in states] == [
        "Crashed" if number == 3 else "Completed" for number in range(8)
    ]
    assert isinstance(error, WorkerLost)
    message = states[3].message
    assert message == str(error) or message in str(error)
    assert cause(elsewhere, how) in message
    assert re.search(rf"Attempt {counts[3]} of task run 'work-3' was lost on worker", message)
    runs = [runs_of(tmp_path)[str(number)] for number in range(8)]
    assert is_accounted(elsewhere, runs, counts)


def cause(runner: str, how: str) -> str:
    """Return what is said of a death. Dask does not tell how its workers ended."""
    return how if runner.startswith("process") else "left the cluster unexpectedly"


def is_accounted(runner: str, runs: list[int], counts: list[int]) -> bool:
    """Whether runs of code match the attempts: one each.

    On Dask, what ended in the batch of the one that died is lost with it: then there is a second
    attempt, which is not charged and can be seen.
    """
    if runner.startswith("process"):
        return runs == counts == [1] * len(counts)
    return all(1 <= ran <= count <= 2 for ran, count in zip(runs, counts, strict=True))


def test_users_002_the_bystanders_are_not_charged(elsewhere: str, tmp_path: pathlib.Path) -> None:
    @task(crash_retries=0)
    def work(number: int) -> Any:
        note(str(tmp_path), number)
        if number == 100:
            os._exit(1)
        return task_run.run_count

    @flow(task_runner=elsewhere)
    def main() -> Any:
        work.map(range(500, 600)).result()  # known to be short: from now on it goes in batches
        futures = work.map(range(200))
        futures.wait(20)
        names = [future.state.name for future in futures]
        counts = [future.run.run_count for future in futures]
        assert [len(future.run.states) for future in futures] == [1 + 2 * count for count in counts]
        for future, count in zip(futures, counts, strict=True):
            assert future.is_crashed() or future.result() == count
        return names, counts

    names, counts = main()
    assert names == ["Crashed" if number == 100 else "Completed" for number in range(200)]
    runs = runs_of(tmp_path)
    assert is_accounted(elsewhere, [runs[str(number)] for number in range(200)], counts)


def test_users_001_one_crash_then_success_is_completed(
    elsewhere: str, tmp_path: pathlib.Path, log: Log
) -> None:
    @task
    def work() -> Any:
        note(str(tmp_path), task_run.run_count)
        if task_run.run_count == 1:
            os._exit(9)
        return task_run.run_count

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = work.submit()
        return future.result(timeout=20), future.run

    result, run = main()
    assert result == 2
    assert run.run_count == 2
    assert [(state.name, state.provisional) for state in run.states] == [
        ("Pending", False),
        ("Running", False),
        ("Crashed", True),
        ("Retrying", False),
        ("Completed", False),
    ]
    assert runs_of(tmp_path) == {"1": 1, "2": 1}
    (line,) = [line for line in log.lines if "Attempt 1 crashed" in line]
    assert line.startswith("WARNING | Task run 'work-0'")
    assert cause(elsewhere, "exit code 9") in line
    assert line.endswith("Crash retry 1/2 will start immediately")


@pytest.mark.parametrize("crash_retries", [None, 0, 1, 3])
def test_users_001_crash_retries_are_a_budget_of_their_own(
    elsewhere: str, tmp_path: pathlib.Path, crash_retries: int | None
) -> None:
    @task(crash_retries=crash_retries, retries=1)
    def work() -> None:
        note(str(tmp_path), task_run.run_count)
        os._exit(1)

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = work.submit()
        future.wait(20)
        return future.run, future.is_crashed(), future.exception()

    run, is_crashed, error = main()
    attempts = 1 + (2 if crash_retries is None else crash_retries)
    assert is_crashed
    assert isinstance(error, WorkerLost)
    assert run.run_count == attempts
    assert f"Attempt {attempts} of" in run.state.message
    assert sorted(runs_of(tmp_path)) == [str(1 + n) for n in range(attempts)]


def test_users_001_retries_are_not_charged_for_crashes_nor_the_other_way(elsewhere: str) -> None:
    @task(retries=1, crash_retries=1)
    def work() -> Any:
        count = task_run.run_count
        if count == 1:
            os._exit(1)
        if count == 2:
            raise ValueError("no luck")
        return count

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = work.submit()
        return future.result(timeout=20), [state.name for state in future.run.states]

    assert main() == (
        3,
        ["Pending", "Running", "Crashed", "Retrying", "Failed", "Retrying", "Completed"],
    )


def test_users_001_hooks_for_crashes_run_in_the_driver(elsewhere: str) -> None:
    seen: list[Any] = []

    def crashed(task: Any, run: Run, state: Any) -> None:
        seen.append(("crashed", os.getpid(), run.name, state.name))

    def failed(task: Any, run: Run, state: Any) -> None:
        seen.append(("failed", os.getpid(), run.name, state.name))

    @task(crash_retries=1, on_crashed=[crashed], on_failure=[failed])
    def work() -> None:
        os._exit(1)

    @flow(task_runner=elsewhere)
    def main() -> None:
        work.submit().wait(20)

    main(return_state=True)
    assert seen == [("crashed", os.getpid(), "work-0", "Crashed")]


def test_users_001_a_crash_that_nobody_looked_at_fails_the_flow(elsewhere: str) -> None:
    @task(crash_retries=0)
    def work() -> None:
        os._exit(1)

    @flow(task_runner=elsewhere)
    def main() -> None:
        work.submit()

    state = main(return_state=True)
    assert state.is_failed()
    assert "1/1 states failed" in str(state.message)


def test_users_022_what_needs_a_crashed_run_is_told(elsewhere: str) -> None:
    @task(crash_retries=0)
    def die() -> int:
        os._exit(1)

    @task
    def use(x: int) -> int:
        return x

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = use.submit(die.submit())
        future.wait(20)
        return future.state.name, future.exception()

    name, error = main()
    assert name == "UpstreamFailed"
    assert isinstance(error.__cause__, WorkerLost)


def test_exit_in_a_thread_of_a_task_is_no_death(elsewhere: str) -> None:
    @task
    def work() -> int:
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        return 1

    @flow(task_runner=elsewhere)
    def main() -> list[int]:
        return [work.submit().result(timeout=20) for _ in range(8)]

    assert main() == [1] * 8


def test_users_035_a_limit_of_memory_hurts_one_task(elsewhere: str) -> None:
    @task(crash_retries=0)
    def work(number: int) -> int:
        if number != 3:
            return number
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, limits[1]))
        try:
            bytearray(1 << 33)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        return number

    @flow(task_runner=elsewhere)
    def main() -> Any:
        futures = work.map(range(8))
        futures.wait(20)
        return [future.state.name for future in futures], futures[3].exception()

    names, error = main()
    assert names == ["Failed" if number == 3 else "Completed" for number in range(8)]
    assert isinstance(error, MemoryError)


def test_users_035_a_worker_that_was_killed_for_its_memory_says_so(elsewhere: str) -> None:
    @task(crash_retries=0)
    def grow() -> None:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is out

    @flow(task_runner=elsewhere)
    def main() -> str:
        future = grow.submit()
        future.wait(20)
        return str(future.state.message)

    assert "out of memory" in main()


def test_users_001_a_crash_in_native_code_shows_the_stack(processes: str) -> None:
    @task(crash_retries=0)
    def work() -> None:
        segfault()

    @flow(task_runner=processes)
    def main() -> str:
        future = work.submit()
        future.wait(20)
        return str(future.state.message)

    message = main()
    assert "in segfault" in message
    assert "in work" in message
    assert "process_pool" not in message
    assert "penstock/worker" not in message


def test_users_002_runs_inside_of_a_task_that_dies_die_with_it(
    elsewhere: str, tmp_path: pathlib.Path
) -> None:
    @task
    def inner(number: int) -> int:
        note(str(tmp_path), number)
        return number

    @task
    def outer() -> int:
        inner.submit(task_run.run_count).result()
        if task_run.run_count == 1:
            os._exit(1)
        return task_run.run_count

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = outer.submit()
        return future.result(timeout=20), [child.name for child in future.run.children or ()]

    assert main() == (2, ["outer-0/inner-0"])
    assert runs_of(tmp_path) == {"1": 1, "2": 1}


def test_users_001_an_upstream_result_is_not_computed_again_after_a_crash(
    elsewhere: str, tmp_path: pathlib.Path
) -> None:
    """Row 3: finished work never runs again because somebody else's worker died."""

    @task
    def produce(number: int) -> int:
        note(str(tmp_path), f"produce-{number}")
        return number

    @task
    def die_once(total: int) -> Any:
        note(str(tmp_path), f"die-{task_run.run_count}")
        if task_run.run_count == 1:
            os._exit(1)
        return total

    @flow(task_runner=elsewhere)
    def main() -> Any:
        numbers = produce.map(range(5))
        return die_once.submit(numbers[4], wait_for=[*numbers]).result(timeout=20)

    assert main() == 4
    assert runs_of(tmp_path) == {
        **{f"produce-{number}": 1 for number in range(5)},
        "die-1": 1,
        "die-2": 1,
    }


def test_users_001_crashes_of_many_tasks_at_once_each_have_their_end(elsewhere: str) -> None:
    @task(crash_retries=0)
    def work(number: int) -> int:
        if number % 4 == 0:
            os._exit(number % 250)
        return number

    @flow(task_runner=elsewhere)
    def main() -> Any:
        futures = work.map(range(12))
        futures.wait(40)
        return [(future.state.name, str(future.state.message)) for future in futures]

    for number, (name, message) in enumerate(main()):
        if number % 4:
            assert name == "Completed"
        else:
            assert name == "Crashed"
            assert cause(elsewhere, f"exit code {number}") in message
