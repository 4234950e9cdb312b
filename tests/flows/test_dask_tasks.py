"""Tasks on a Dask cluster: options, cancelling, deaths, what cannot travel (users rows 1-25)."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import distributed
import pytest
from tests.support import wait_until

from penstock import by_value, flow, get_run_logger, task
from penstock.exceptions import CancelledRun
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.dask_cluster import lanes
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Log

    from penstock.states import State

# Dask leaves sockets to the garbage collector when a worker goes away.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalClusterProcess]:
    """Two workers, one with a GPU, so to speak."""
    cluster = LocalClusterProcess(
        Where(n_workers=1, cluster_kwargs={"resources": {"GPU": 2}, "memory_limit": "400 MiB"})
    )
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_worker", cluster.address),
            *("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"),
            *("--name", "plain", "--memory-limit", "400 MiB"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    with distributed.Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.wait_for_workers(2, timeout=30)
    yield cluster
    worker.kill()
    worker.wait()
    cluster.close()


@pytest.fixture
def dask(cluster: LocalClusterProcess) -> DaskTaskRunner:
    return DaskTaskRunner(cluster.address)


@task
def worker_name() -> str:
    return str(distributed.get_worker().name)


@task
def pass_gate(begun: str, gate: str) -> str:
    pathlib.Path(begun).touch()
    deadline = time.monotonic() + 30
    while not os.path.exists(gate):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return "passed"


@task
def touch(path: str) -> str:
    pathlib.Path(path).touch()
    return path


# --- where, and in which order -----------------------------------------------------------


def test_a_task_goes_where_its_resources_are(dask: DaskTaskRunner) -> None:
    @flow(task_runner=dask)
    def body() -> list[str]:
        greedy = worker_name.with_options(resources={"GPU": 1})
        return [greedy.submit().result() for _ in range(4)]

    assert set(body()) == {"0"}


@pytest.mark.parametrize("by", ["name", "address", "host"])
def test_a_task_goes_to_the_workers_that_it_names(
    dask: DaskTaskRunner, cluster: LocalClusterProcess, by: str
) -> None:
    with distributed.Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        workers = client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [each for each, info in workers.items() if info["name"] == "plain"]
    named = {"name": "plain", "address": address, "host": "127.0.0.1"}[by]

    @flow(task_runner=dask)
    def body() -> set[str]:
        return {worker_name.with_options(workers=[named]).submit().result() for _ in range(4)}

    assert body() <= {"0", "plain"} if by == "host" else body() == {"plain"}


@pytest.mark.parametrize(
    "wish", [{"resources": {"GPU": 3}}, {"workers": ["nobody"]}], ids=["resources", "workers"]
)
def test_who_waits_in_vain_is_told_what_workers_offer(
    dask: DaskTaskRunner, wish: Any, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "WARN_SECONDS", 0.2)

    @flow(task_runner=dask)
    def body() -> str:
        future = worker_name.with_options(**wish).submit()
        other = worker_name.submit()
        wait_until(lambda: any("Tasks wait for a worker" in line for line in log.lines))
        assert other.result() in ("0", "plain"), "nobody else waits"
        future.cancel()
        future.wait()
        return future.state.name

    assert body() == "Cancelled"
    (line,) = [line for line in log.lines if "Tasks wait for a worker" in line]
    assert "2 GPU" in line
    assert "plain (tcp://127.0.0.1:" in line
    assert "no resources" in line


def test_who_is_more_urgent_goes_first(dask: DaskTaskRunner, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"

    @task
    def note(label: int) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{label}\n")

    @flow(task_runner=dask)
    def body() -> None:
        here: Any = {"workers": ["plain"]}
        begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
        held = [pass_gate.with_options(**here).submit(begun, gate) for _ in range(2)]
        wait_until(lambda: os.path.exists(begun))
        some = [note.with_options(**here, priority=n % 3).submit(n % 3) for n in range(9)]
        pathlib.Path(gate).touch()
        for future in [*held, *some]:
            future.wait()

    body()
    assert log.read_text().split() == ["2"] * 3 + ["1"] * 3 + ["0"] * 3


# --- cancelling and time limits ------------------------------------------------------------


def test_what_is_cancelled_in_the_queue_never_runs(
    dask: DaskTaskRunner, tmp_path: pathlib.Path
) -> None:
    @flow(task_runner=dask)
    def body() -> list[State[Any]]:
        begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
        pinned: Any = {"workers": ["plain"]}
        held = pass_gate.with_options(**pinned).submit(begun, gate)
        wait_until(lambda: os.path.exists(begun))
        queued = [touch.with_options(**pinned).submit(str(tmp_path / f"q{n}")) for n in range(20)]
        time.sleep(0.1)  # some of them are at the worker by now
        for future in queued:
            future.cancel()
        for future in queued:
            future.wait()
        assert not held.done()
        pathlib.Path(gate).touch()
        assert held.result() == "passed"
        touch.with_options(**pinned).submit(str(tmp_path / "last")).wait()
        return [future.state for future in queued]

    assert {state.name for state in body()} == {"Cancelled"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("q")] == []


def test_what_runs_is_cancelling_until_it_ends(
    dask: DaskTaskRunner, tmp_path: pathlib.Path
) -> None:
    @flow(task_runner=dask)
    def body() -> tuple[str, list[str]]:
        begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
        future = pass_gate.submit(begun, gate)
        wait_until(lambda: os.path.exists(begun) and future.is_running())
        assert future.cancel()
        asked = future.state.name
        pathlib.Path(gate).touch()
        with pytest.raises(CancelledRun):
            future.result()
        return asked, [state.name for state in future.run.states]

    assert body() == ("Cancelling", ["Pending", "Running", "Cancelling", "Cancelled"])


def test_a_time_limit_holds_while_the_worker_stays_busy(
    dask: DaskTaskRunner, tmp_path: pathlib.Path
) -> None:
    @flow(task_runner=dask)
    def body() -> tuple[Any, float]:
        begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
        here: Any = {"workers": ["plain"]}
        late = pass_gate.with_options(**here, timeout_seconds=0.3).submit(begun, gate)
        wait_until(lambda: os.path.exists(begun))
        began = time.monotonic()
        late.wait()
        took = time.monotonic() - began
        after = touch.with_options(**here).submit(str(tmp_path / "after"))
        after.wait(0.3)
        assert not after.done(), "the slot is busy as long as the function goes on"
        pathlib.Path(gate).touch()
        after.wait()
        return late.state, took

    state, took = body()
    assert state.name == "TimedOut"
    assert took < 3


def test_a_time_limit_that_cannot_be_kept_hard_is_refused(dask: DaskTaskRunner) -> None:
    @flow(task_runner=dask)
    def body() -> None:
        hard = worker_name.with_options(timeout_seconds=1, timeout="hard")
        with pytest.raises(Exception, match="hard") as caught:
            hard.submit()
        assert isinstance(caught.value, (ValueError, TypeError, RuntimeError))

    body()


def test_a_retry_that_waits_holds_no_worker(dask: DaskTaskRunner, tmp_path: pathlib.Path) -> None:
    @task(retries=1, retry_delay_seconds=1.0, workers=["plain"])
    def fail_once(path: str) -> str:
        if not os.path.exists(path):
            pathlib.Path(path).touch()
            raise OSError("not yet")
        return "well"

    @flow(task_runner=dask)
    def body() -> tuple[str, int]:
        slow = fail_once.submit(str(tmp_path / "tried"))
        wait_until(lambda: slow.state.name == "AwaitingRetry")
        other = worker_name.with_options(workers=["plain"]).submit()
        assert other.result() == "plain"
        assert slow.state.name == "AwaitingRetry"
        return slow.result(), slow.run.run_count

    assert body() == ("well", 2)


# --- deaths --------------------------------------------------------------------------------


def die_by_exit() -> None:
    os._exit(3)


def die_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("die", [die_by_exit, die_by_signal])
def test_of_eight_tasks_seven_complete_and_one_crashes(
    dask: DaskTaskRunner, tmp_path: pathlib.Path, die: Callable[[], None]
) -> None:
    # The worker with the GPU is the one that a nanny starts again.
    @task(resources={"GPU": 1}, crash_retries=0)
    def work(number: int) -> int:
        with open(tmp_path / "log", "a", encoding="utf-8") as file:
            file.write(f"{number}\n")
        if number == 3:
            die()
        return number

    @flow(task_runner=dask)
    def body() -> list[State[int]]:
        futures = [work.with_options(name=f"work{n}").submit(n) for n in range(8)]
        for future in futures:
            future.wait()
        return [future.state for future in futures]

    states = body()
    assert [state.name for state in states] == ["Completed"] * 3 + ["Crashed"] + ["Completed"] * 4
    message = states[3].message or ""
    assert "Attempt 1 of task run 'work3-0' was lost on worker 0 (tcp://127.0.0.1:" in message
    assert "left the cluster unexpectedly" in message
    runs = (tmp_path / "log").read_text().split()
    assert sorted(runs) == sorted(set(runs)), "nothing ran twice"


def test_a_crash_has_a_budget_of_its_own(dask: DaskTaskRunner, tmp_path: pathlib.Path) -> None:
    @task(resources={"GPU": 1}, crash_retries=1)
    def die_once(path: str) -> str:
        if not os.path.exists(path):
            pathlib.Path(path).touch()
            os._exit(1)
        return "well"

    @flow(task_runner=dask)
    def body() -> tuple[str, int]:
        future = die_once.submit(str(tmp_path / "tried"))
        return future.result(), future.run.run_count

    assert body() == ("well", 2)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_process_ends_its_run_alone(
    dask: DaskTaskRunner, error: type[BaseException]
) -> None:
    @task
    def leave(number: int) -> int:
        if number == 3:
            raise error
        return os.getpid()

    @flow(task_runner=dask)
    def body() -> tuple[list[str], set[int]]:
        before = {leave.submit(0).result() for _ in range(4)}
        futures = leave.map(range(8))
        futures.wait()
        after = {each.result() for each in futures if each.state.is_completed()}
        return [each.state.name for each in futures], after - before

    names, new = body()
    assert names.count("Completed") == 7
    assert names[3] in ("Crashed", "Cancelled")
    assert len(new) <= 1, "no worker went away for it (one may not have been met before)"


# --- what a task finds there, and what travels -----------------------------------------------


def test_the_client_of_a_worker_is_there_for_tasks(dask: DaskTaskRunner) -> None:
    @task
    def ask_dask() -> int:
        client = distributed.get_client()
        future = client.submit(abs, -5, pure=False)
        with contextlib.suppress(ValueError):
            distributed.secede()  # type: ignore[no-untyped-call]
        value: int = future.result(timeout=20)
        return value

    @flow(task_runner=dask)
    def body() -> list[int]:
        return [future.result() for future in [ask_dask.submit() for _ in range(3)]]

    assert body() == [5, 5, 5]


def test_functions_of_a_module_that_only_the_driver_has_go_by_value(dask: DaskTaskRunner) -> None:
    module = types.ModuleType("only_here")
    exec(
        "class Thing:\n    def __init__(self, x): self.x = x\n"
        "def helper(thing): return Thing(thing.x + 1)\n"
        "def work(thing): return helper(thing)\n",
        vars(module),
    )
    sys.modules["only_here"] = module
    try:

        @flow(task_runner=dask)
        def body() -> Any:
            return task(module.work).submit(module.Thing(1)).result()

        thing = body()
        assert thing.x == 2
        assert type(thing) is module.Thing
    finally:
        del sys.modules["only_here"]


def test_files_of_a_project_are_shipped_and_what_is_installed_on_request(
    cluster: LocalClusterProcess, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_for_the_driver.py").write_text("def work(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = by_value._installed_places()
    import only_for_the_driver  # type: ignore[import-not-found]  # made above

    @flow(task_runner=DaskTaskRunner(cluster.address))
    def without() -> Any:
        return task(only_for_the_driver.work).submit(1).exception()

    @flow(task_runner=DaskTaskRunner(cluster.address, ship_modules=["only_for_the_driver"]))
    def shipped() -> Any:
        return task(only_for_the_driver.work).submit(1).result()

    assert without() is None, "it is no part of what is installed"
    monkeypatch.setattr(by_value, "_installed_places", lambda: (*installed, f"{tmp_path}/"))
    by_value._is_installed_at.cache_clear()
    monkeypatch.setattr(by_value, "_project", by_value._Project())
    assert shipped() == 2
    error = without()
    assert isinstance(error, ModuleNotFoundError)
    assert "or name it in ship_modules" in "".join(error.__notes__)
    del sys.modules["only_for_the_driver"]
    by_value._is_installed_at.cache_clear()


def test_what_cannot_be_pickled_is_named(dask: DaskTaskRunner) -> None:
    @task
    def take(value: Any) -> None:
        del value

    @task
    def give() -> Any:
        return {"lock": [threading.Lock()]}

    lock = threading.Lock()

    @task
    def enclose() -> Any:
        return lock

    @flow(task_runner=dask)
    def body() -> list[str]:
        futures = [
            take.submit({"conn": [lock]}),
            give.submit(),
            give.with_options(result_on="cluster").submit(),
            enclose.submit(),
        ]
        for future in futures:
            future.wait()
        assert [future.state.name for future in futures] == ["Failed"] * 4
        return [str(future.exception()) for future in futures]

    argument, result, kept, closure = body()
    assert "argument 'value' -> ['conn'] -> [0]" in argument
    assert "result -> ['lock'] -> [0]" in result
    assert "result -> ['lock'] -> [0]" in kept
    assert "lock" in closure
    assert all("cannot pickle '_thread.lock' object" in text for text in (argument, result, kept))


def test_an_argument_larger_than_any_workers_memory_is_refused(dask: DaskTaskRunner) -> None:
    @task
    def take(value: bytes) -> int:
        return len(value)

    @flow(task_runner=dask)
    def body() -> BaseException | None:
        error = take.submit(bytes(450 << 20)).exception()
        assert worker_name.submit().result() in ("0", "plain")
        return error

    error = body()
    assert isinstance(error, MemoryError)
    assert "no worker may use more than 0.4 GB" in str(error)


def test_logs_come_home_in_order_with_run_and_worker(dask: DaskTaskRunner, log: Log) -> None:
    @task(log_prints=True)
    def talk() -> None:
        logging.getLogger("some.library").warning("from a library")
        get_run_logger().info("from the run")
        print("from print")

    @task(resources={"GPU": 1}, crash_retries=0)
    def last_words() -> None:
        logging.getLogger("some.library").warning("these are my last words")
        os._exit(1)

    @flow(task_runner=dask)
    def body() -> None:
        talk.submit().result()
        last_words.submit().wait()

    with contextlib.suppress(Exception):
        body()
    texts = [record.getMessage() for record in log._caplog.records]
    wanted = ["from a library", "from the run", "from print", "these are my last words"]
    assert [text for text in texts if text in wanted] == wanted
