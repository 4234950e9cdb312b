"""Promises of user row 18: who wants the same result at the same time gets it made once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.flows.conftest import LONGEST_WAIT_SECONDS
from tests.flows.test_caching import Calls

from penstock import flow, task
from penstock.cache_policies import INPUTS
from penstock.context import current_task_run
from penstock.results import ResultStore
from penstock.settings import current
from penstock.storage_choice import store_of
from penstock_runners.dask_cluster.local import LocalClusterProcess

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Gate

    from penstock.runs import Run

pytestmark = pytest.mark.usefixtures("sent_by_value")

SERIALIZABLE = INPUTS.configure(isolation_level="serializable")


@pytest.fixture
def calls(tmp_path: pathlib.Path) -> Calls:
    return Calls(str(tmp_path / "calls"))


@pytest.fixture(params=["inline", "thread", "thread:1", "process:2"])
def everywhere(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that other threads or processes do."""
    for _ in range(int(LONGEST_WAIT_SECONDS / 0.005)):
        if is_so():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come to be")


def waiting_for(run: Run) -> int:
    """Return how many runs wait for the result that a run makes."""
    making: Any = getattr(run, "making", None)
    return 0 if making is None else len(making.waiting)


@task(cache_policy=INPUTS)
def slow_double(x: int, calls: Calls) -> int:
    calls.note()
    time.sleep(0.05)
    return 2 * x


@task(cache_policy=INPUTS)
def fail_the_first_time(calls: Calls) -> str:
    calls.note()
    time.sleep(0.02)
    if calls.count() == 1:
        raise ValueError("the first time")
    return "made"


# --- once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [INPUTS, SERIALIZABLE], ids=["read committed", "serializable"])
def test_user_018_50_equal_submits_are_one_execution(
    everywhere: str, calls: Calls, policy: Any
) -> None:
    cached = slow_double.with_options(cache_policy=policy)

    @flow(task_runner=everywhere)
    def body() -> list[str]:
        futures = [cached.submit(2, calls) for _ in range(50)]
        assert [future.result() for future in futures] == [4] * 50
        return sorted(future.state.name for future in futures)

    assert body() == ["Cached"] * 49 + ["Completed"]
    assert calls.count() == 1


def test_user_018_and_020_on_dask_equal_submits_are_one_execution_and_hits_need_no_cluster(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(task_runner="dask:1")
    def body() -> list[str]:
        futures = [slow_double.submit(2, calls) for _ in range(20)]
        assert [future.result() for future in futures] == [4] * 20
        return sorted(future.state.name for future in futures)

    assert body() == ["Cached"] * 19 + ["Completed"]
    assert calls.count() == 1

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no cluster is needed")

    monkeypatch.setattr(LocalClusterProcess, "__init__", refuse)
    assert body() == ["Cached"] * 20


def test_user_018_equal_items_of_a_map_are_one_execution(everywhere: str, calls: Calls) -> None:
    @flow(task_runner=everywhere)
    def body() -> list[int]:
        return slow_double.map([1, 2] * 10, calls).result()

    assert body() == [2, 4] * 10
    assert calls.count() == 2


def test_user_018_a_failure_is_the_makers_own_and_the_next_in_line_runs(
    everywhere: str, calls: Calls
) -> None:
    @flow(task_runner=everywhere)
    def body() -> list[Any]:
        futures = [fail_the_first_time.submit(calls) for _ in range(50)]
        return [future.result(raise_on_failure=False) for future in futures]

    first, *others = body()
    assert isinstance(first, ValueError)
    assert others == ["made"] * 49
    assert calls.count() == 2


def test_user_018_awaited_runs_are_one_execution(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    async def slow(calls: Calls) -> int:
        calls.note()
        await asyncio.sleep(0.02)
        return calls.count()

    @flow
    async def body() -> list[int]:
        gathered = await asyncio.gather(*(slow(calls) for _ in range(50)))
        submitted = await asyncio.gather(*(slow.submit(calls) for _ in range(3)))
        return [*gathered, *submitted]

    assert asyncio.run(body()) == [1] * 53


def test_user_018_an_awaited_failure_lets_the_next_in_line_run(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    async def fail_once(calls: Calls) -> str:
        calls.note()
        count = calls.count()
        await asyncio.sleep(0.01)
        if count == 1:
            raise ValueError("the first time")
        return "made"

    @flow
    async def body() -> list[Any]:
        return await asyncio.gather(*(fail_once(calls) for _ in range(5)), return_exceptions=True)

    first, *others = asyncio.run(body())
    assert isinstance(first, ValueError)
    assert others == ["made"] * 4
    assert calls.count() == 2


def test_user_018_direct_calls_in_threads_are_one_execution(calls: Calls) -> None:
    @task
    def ask(number: int) -> int:
        return slow_double(1, calls)

    @flow(task_runner="thread:4")
    def body() -> list[int]:
        return ask.map(range(8)).result()

    assert body() == [2] * 8
    assert calls.count() == 1


def test_user_018_direct_calls_outside_of_flows_are_one_execution(calls: Calls) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(slow_double(1, calls))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert found == [2] * 4
    assert calls.count() == 1


def test_user_018_two_flows_at_once_in_one_process_are_one_execution(
    calls: Calls, gate: Gate
) -> None:
    makers: list[Any] = []

    @task(cache_policy=INPUTS)
    def make(calls: Calls) -> str:
        calls.note()
        makers.append(current_task_run())
        gate.wait()
        return "made"

    def by(how: Callable[[], str]) -> threading.Thread:
        @flow(task_runner="thread:2")
        def body() -> None:
            found.append(how())

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    found: list[str] = []
    ways: list[Callable[[], str]] = [
        lambda: make.submit(calls).result(),
        lambda: make.submit(calls).result(),
        lambda: make(calls),
    ]
    threads = [by(how) for how in ways]
    until(lambda: bool(makers) and waiting_for(makers[0]) == 2)
    gate.open()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert found == ["made"] * 3
    assert calls.count() == 1


def test_two_flows_at_once_the_failure_of_the_one_lets_the_other_run(
    calls: Calls, gate: Gate
) -> None:
    makers: list[Any] = []

    @task(cache_policy=INPUTS)
    def make(calls: Calls) -> str:
        calls.note()
        makers.append(current_task_run())
        gate.wait()
        if calls.count() == 1:
            raise ValueError("the first time")
        return "made"

    def body() -> None:
        found.append(make.submit(calls).result(raise_on_failure=False))

    found: list[Any] = []
    run = flow(body, task_runner="thread:2")
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: bool(makers) and waiting_for(makers[0]) == 2)
    gate.open()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert sorted(map(str, found)) == ["made", "made", "the first time"]
    assert calls.count() == 2


# --- who waits ----------------------------------------------------------------------------


def test_a_run_that_waits_holds_no_slot(calls: Calls, gate: Gate) -> None:
    @task(cache_policy=INPUTS)
    def make(calls: Calls) -> str:
        calls.note()
        gate.wait()
        return "made"

    @task
    def open_it() -> None:
        gate.open()

    @task
    def ask(number: int) -> str:
        return make(calls)

    @flow(task_runner="thread:2")
    def body() -> list[str]:
        futures = [make.submit(calls) for _ in range(5)]
        asking = [ask.submit(number) for number in range(5)]  # each lends its slot
        opening = open_it.submit()
        return [future.result() for future in (*futures, *asking)] + [str(opening.result())]

    assert body() == ["made"] * 10 + ["None"]
    assert calls.count() == 1


def test_on_one_thread_a_waiting_call_lends_its_slot_to_the_maker(calls: Calls) -> None:
    @task
    def ask() -> int:
        return slow_double(1, calls)

    @flow(task_runner="thread:1")
    def body() -> list[int]:
        futures = [ask.submit(), slow_double.submit(1, calls), ask.submit()]
        return [future.result() for future in futures]

    assert body() == [2] * 3
    assert calls.count() == 1


def test_a_retry_of_the_maker_keeps_the_others_waiting(threads: str, calls: Calls) -> None:
    retried = fail_the_first_time.with_options(retries=1, retry_delay_seconds=0.05)

    @flow(task_runner=threads)
    def body() -> list[str]:
        futures = [retried.submit(calls) for _ in range(5)]
        assert [future.result() for future in futures] == ["made"] * 5
        return sorted(future.state.name for future in futures)

    assert body() == ["Cached"] * 4 + ["Completed"]
    assert calls.count() == 2


def test_a_maker_that_is_cancelled_lets_the_next_in_line_run(calls: Calls, gate: Gate) -> None:
    @task(cache_policy=INPUTS)
    def make(calls: Calls) -> str:
        calls.note()
        gate.wait()
        return "made"

    @flow(task_runner="thread:2")
    def body() -> list[str]:
        futures = [make.submit(calls) for _ in range(4)]
        until(lambda: calls.count() == 1)
        futures[0].cancel()
        gate.open()
        assert [each.result(timeout=LONGEST_WAIT_SECONDS) for each in futures[1:]] == ["made"] * 3
        return [future.state.name for future in futures]

    assert body() == ["Cancelled", "Completed", "Cached", "Cached"]
    assert calls.count() == 2


def test_one_that_waits_can_be_cancelled(calls: Calls, gate: Gate) -> None:
    @task(cache_policy=INPUTS)
    def make(calls: Calls) -> str:
        calls.note()
        gate.wait()
        return "made"

    @flow(task_runner="thread:2")
    def body() -> list[str]:
        futures = [make.submit(calls) for _ in range(3)]
        futures[1].cancel()
        assert futures[1].state.is_cancelled()
        gate.open()
        assert [futures[0].result(), futures[2].result()] == ["made"] * 2
        return [future.state.name for future in futures]

    assert body() == ["Completed", "Cancelled", "Cached"]
    assert calls.count() == 1


@pytest.mark.parametrize("how", ["call", "submit"])
def test_a_run_that_would_wait_for_itself_makes_its_own(runner: str, how: str) -> None:
    def one_key(context: Any, arguments: Any) -> str:
        return "the key of all"

    @task(cache_key_fn=one_key)
    def countdown(left: int) -> int:
        if not left:
            return 0
        rest = countdown(left - 1) if how == "call" else countdown.submit(left - 1).result()
        return rest + 1

    @flow(task_runner=runner)
    def body() -> int:
        return countdown.submit(3).result()

    assert body() == 3


def test_runs_that_would_wait_for_each_other_make_their_own() -> None:
    both = threading.Barrier(2)

    @task(cache_key_fn=lambda context, arguments: "one")
    def one(depth: int) -> int:
        return inside(depth, other)

    @task(cache_key_fn=lambda context, arguments: "other")
    def other(depth: int) -> int:
        return inside(depth, one)

    def inside(depth: int, opposite: Any) -> int:
        if not depth:
            return 0
        both.wait(LONGEST_WAIT_SECONDS)
        return int(opposite(depth - 1)) + 1

    @flow(task_runner="thread:2")
    def body() -> list[int]:
        futures = [one.submit(1), other.submit(1)]
        return sorted(future.result(timeout=LONGEST_WAIT_SECONDS) for future in futures)

    assert body() == [1, 2]  # the one that asked first has waited for the other


# --- several drivers ----------------------------------------------------------------------

DRIVER = """
    import sys, time, pathlib
    from penstock import flow, task
    from penstock.cache_policies import INPUTS

    level, folder, mode = sys.argv[1:]
    folder = pathlib.Path(folder)

    @task(cache_policy=INPUTS.configure(isolation_level=level), result_storage=folder / "results")
    def make(x: int) -> str:
        (folder / f"by-{mode}").touch()
        while not (folder / "go on").exists():
            time.sleep(0.005)
        return mode

    @flow(task_runner="thread:2")
    def main():
        return make.submit(1).result()

    print(main())
"""


class Drivers:
    """Starts programs that want the same result."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.program = folder / "driver.py"
        self.program.write_text(textwrap.dedent(DRIVER))
        self.running: list[subprocess.Popen[str]] = []

    def start(self, level: str, name: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.program), level, str(self.folder), name]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.running.append(driver)
        return driver

    def has_begun(self, name: str) -> bool:
        return (self.folder / f"by-{name}").exists()

    def let_go_on(self) -> None:
        (self.folder / "go on").touch()


@pytest.fixture
def drivers(tmp_path: pathlib.Path) -> Iterator[Drivers]:
    started = Drivers(tmp_path)
    yield started
    for each in started.running:
        each.kill()
        each.wait()
        if each.stdout is not None:
            each.stdout.close()


def test_user_018_of_two_drivers_one_makes_a_serializable_result(drivers: Drivers) -> None:
    first = drivers.start("serializable", "first")
    until(lambda: drivers.has_begun("first"))
    second = drivers.start("serializable", "second")
    time.sleep(0.3)  # it may not begin: nothing tells when it would have
    drivers.let_go_on()
    assert [each.communicate()[0].strip() for each in (first, second)] == ["first", "first"]
    assert not drivers.has_begun("second")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_user_018_when_the_driver_that_makes_it_is_killed_the_other_does(drivers: Drivers) -> None:
    first = drivers.start("serializable", "first")
    until(lambda: drivers.has_begun("first"))
    second = drivers.start("serializable", "second")
    os.kill(first.pid, signal.SIGKILL)
    drivers.let_go_on()
    assert second.communicate()[0].strip() == "second"


def test_read_committed_drivers_do_not_wait_for_each_other(drivers: Drivers) -> None:
    started = [drivers.start("read_committed", name) for name in ("first", "second")]
    until(lambda: drivers.has_begun("first") and drivers.has_begun("second"))
    drivers.let_go_on()
    assert [each.communicate()[0].strip() for each in started] == ["first", "second"]
    (record,) = ResultStore(drivers.folder / "results").records()
    assert record.task_name == "make"


def test_a_serializable_result_in_one_driver_leaves_no_lock(calls: Calls) -> None:
    cached = slow_double.with_options(cache_policy=SERIALIZABLE)
    assert [cached(1, calls), cached(1, calls)] == [2, 2]
    store = ResultStore(current().results_local_storage_path)
    (key,) = store.keys()
    manager = store_of().lock_manager
    assert manager is not None
    assert not manager.is_locked(key)
