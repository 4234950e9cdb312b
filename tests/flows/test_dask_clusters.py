"""Flows and the cluster they run on: given or made, lost, unreachable (users rows 24, 36-38)."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import distributed
import psutil
import pytest
from tests.support import free_port, wait_until

from penstock import PenstockFuture, flow, task
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Log

# Dask leaves sockets to the garbage collector when a scheduler goes away.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=2))
    yield cluster
    cluster.close()


@task
def double(x: int) -> int:
    return 2 * x


@task
def process_id() -> int:
    return os.getpid()


@task
def pass_gate(begun: str, gate: str) -> str:
    pathlib.Path(begun).touch()
    deadline = time.monotonic() + 30
    while not os.path.exists(gate):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return "passed"


def doubled(runner: Any) -> list[int]:
    @flow(task_runner=runner)
    def body() -> list[int]:
        return double.map(range(20)).result()

    return body()


DOUBLED = [2 * x for x in range(20)]


# --- given ------------------------------------------------------------------------------------


def test_a_given_client_works_on_and_is_left_as_it_was(cluster: LocalClusterProcess) -> None:
    with distributed.Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        heard: list[Any] = []
        client.subscribe_topic("all", heard.append)
        for _ in range(2):
            assert doubled(DaskTaskRunner(client=client)) == DOUBLED
        assert client.status == "running"
        assert client.submit(abs, -4, pure=False).result(timeout=10) == 4
        assert [key for key in client.futures if key[:3] != "abs"] == [], "nothing of ours is left"
        client.log_event("all", {"action": "greeting"})
        wait_until(lambda: any(event[1].get("action") == "greeting" for event in heard))
        assert client.run_on_scheduler(what_is_left) == []


def what_is_left(dask_scheduler: Any = None) -> list[str]:
    """Return what the scheduler knows that has to do with us; runs there."""
    own_keys = [key for key in dask_scheduler.tasks if not str(key).startswith("abs")]
    places = (own_keys, dask_scheduler.worker_plugins, dask_scheduler._broker._topics)
    names = [str(name) for place in places for name in place]
    # Dask remembers the first parts of keys for ever: they must not be of a run.
    prefixes = [name for name in dask_scheduler.task_prefixes if name not in ("abs", "double")]
    return [name for name in names if "penstock" in name and "Client-" not in name] + prefixes


what_is_left.__module__ = "__main__"  # the scheduler cannot import this


def test_two_flows_at_a_time_share_a_client_and_its_news(cluster: LocalClusterProcess) -> None:
    with distributed.Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        found: list[list[int]] = []

        @flow(task_runner=DaskTaskRunner(client=client))
        def inner(rounds: int) -> list[int]:
            return [x for _ in range(rounds) for x in double.map(range(20)).result()]

        short = threading.Thread(target=lambda: found.append(inner(1)))
        long = threading.Thread(target=lambda: found.append(inner(10)))
        short.start()
        long.start()
        short.join(30)
        long.join(30)
        assert sorted(map(len, found)) == [20, 200]


def test_a_given_cluster_is_left_running() -> None:
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, processes=False, scheduler_kwargs=NO_DASHBOARD, protocol="tcp://"
    ) as given:
        assert doubled(DaskTaskRunner(cluster=given)) == DOUBLED
        assert given.status is distributed.Status.running


class CountedCluster(distributed.LocalCluster):
    """Tells how its life went."""

    lives: ClassVar[list[str]] = []

    def __init__(self, **kwargs: Any) -> None:
        self.lives.append("made")
        super().__init__(  # type: ignore[no-untyped-call]
            processes=False, scheduler_kwargs=NO_DASHBOARD, protocol="tcp://", **kwargs
        )

    def close(self, timeout: Any = None) -> Any:
        self.lives.append("closed")
        return super().close(timeout=timeout)


def test_a_class_of_clusters_is_made_and_closed_for_the_flow() -> None:
    CountedCluster.lives.clear()
    runner = DaskTaskRunner(cluster_class=CountedCluster, cluster_kwargs={"n_workers": 1})
    assert doubled(runner) == DOUBLED
    assert CountedCluster.lives[0] == "made"
    assert CountedCluster.lives[-1] == "closed"


def test_workers_may_be_jobs_of_a_batch_system(tmp_path: pathlib.Path) -> None:
    """As with `dask_jobqueue:SLURMCluster`, but for the queue: the job is a shell script here."""
    runner = DaskTaskRunner(
        cluster_class="dask_jobqueue.local:LocalCluster",
        cluster_kwargs={
            "cores": 1,
            "memory": "1GB",
            "processes": 1,
            "log_directory": str(tmp_path),
            "scheduler_options": NO_DASHBOARD,
        },
        adapt_kwargs={"minimum": 1, "maximum": 2},
    )
    assert doubled(runner) == DOUBLED


def test_a_class_named_by_its_place_scales_from_nothing_and_holds_its_floor() -> None:
    runner = DaskTaskRunner(
        cluster_class="distributed:LocalCluster",
        cluster_kwargs={
            "n_workers": 0,
            "threads_per_worker": 1,
            "processes": False,
            "scheduler_kwargs": NO_DASHBOARD,
            "protocol": "tcp://",
        },
        adapt_kwargs={"minimum": 0, "maximum": 2, "interval": "20ms", "wait_count": 1},
    )
    names: list[str] = []

    @task
    def worker_address(seconds: float) -> str:
        time.sleep(seconds)
        return str(distributed.get_worker().address)

    @flow(task_runner=runner)
    def body() -> None:
        first, slow = worker_address.submit(0.0), worker_address.submit(1.5)
        names.append(first.result())
        names.append(slow.result())
        # All the while one worker at least had nothing to do, and was not let go for it.
        names.extend(worker_address.map([0.0] * 20).result())

    body()
    assert len(set(names)) <= 2, "no worker that was there had to be made again"


def test_tls_goes_through(tmp_path: pathlib.Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificates with the openssl command")
    key, certificate = str(tmp_path / "key"), str(tmp_path / "pem")
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key}"
    subprocess.run(
        [openssl, *command.split(), "-out", certificate], check=True, capture_output=True
    )
    security = distributed.Security(  # type: ignore[no-untyped-call]
        require_encryption=True,
        tls_ca_file=certificate,
        **{f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_key": key for role in ("client", "scheduler", "worker")},
    )
    cluster = LocalClusterProcess(Where(n_workers=1, security=security))
    try:
        assert doubled(DaskTaskRunner(cluster.address, security=security)) == DOUBLED
        (state,) = states_on(DaskTaskRunner(cluster.address), 1)
        assert "it wants TLS, and no certificates were given" in state.message
    finally:
        cluster.close()


# --- unreachable ------------------------------------------------------------------------------


def states_on(runner: Any, count: int = 3) -> list[Any]:
    """Return how runs ended on a runner, as a tuple of them, which is no state of the flow's."""

    @flow(task_runner=runner)
    def body() -> dict[str, Any]:
        futures = [double.submit(number) for number in range(count)]
        for future in futures:
            future.wait()
        return {"states": [future.state for future in futures]}

    found: list[Any] = body()["states"]
    return found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:{port}", "nothing listens there"),
        ("tcp://no-such-host.invalid:8786", "its host name is not known"),
        ("nonsense://127.0.0.1:{port}", "unknown address scheme"),
    ],
)
def test_a_cluster_that_cannot_be_reached_ends_every_run_with_what_to_try(
    address: str, message: str
) -> None:
    address = address.format(port=free_port())
    states = states_on(DaskTaskRunner(address, connect_timeout_seconds=3))
    assert [state.name for state in states] == ["Crashed"] * 3
    for state in states:
        assert message in state.message


def test_no_worker_within_the_limit_ends_every_run_with_what_to_try() -> None:
    runner = DaskTaskRunner(
        worker_timeout_seconds=0.5, adapt_kwargs={"minimum": 0, "maximum": 0, "interval": "1s"}
    )
    states = states_on(runner)
    assert [state.name for state in states] == ["Crashed"] * 3
    for state in states:
        assert "no worker came to the Dask cluster within 0.5 s" in state.message
        assert "dask worker tcp://127.0.0.1:" in state.message


def other_versions(package: str, version: str) -> Callable[..., Any]:
    get = distributed.Client.get_versions

    def get_versions(self: Any, **options: Any) -> Any:
        found: Any = get(self, **options)
        found["scheduler"]["packages"][package] = version
        return found

    return get_versions


@pytest.mark.parametrize(
    ("package", "version", "strict", "runs"),
    [
        ("python", "3.9.1.final.0", False, False),
        ("cloudpickle", "1.0.0", True, False),
        ("cloudpickle", "1.0.0", False, True),
    ],
)
def test_versions_that_do_not_fit_are_told_before_anything_runs(
    cluster: LocalClusterProcess,
    monkeypatch: pytest.MonkeyPatch,
    log: Log,
    package: str,
    version: str,
    strict: bool,
    runs: bool,
) -> None:
    monkeypatch.setattr(distributed.Client, "get_versions", other_versions(package, version))
    states = states_on(DaskTaskRunner(cluster.address, strict=strict))
    told = "\n".join([*log.lines, *(state.message or "" for state in states)])
    assert f"{package} {version.removesuffix('.final.0')} on the scheduler" in told
    assert {state.name for state in states} == {"Completed" if runs else "Crashed"}


# --- lost -------------------------------------------------------------------------------------


def test_a_scheduler_that_dies_ends_every_run_in_seconds_and_leaves_nothing(
    tmp_path: pathlib.Path,
) -> None:
    threads = set(threading.enumerate())
    cluster = LocalClusterProcess(Where(n_workers=2))
    processes = psutil.Process(cluster._process.pid).children(recursive=True)
    took: list[float] = []

    @flow(task_runner=DaskTaskRunner(cluster.address))
    def body() -> dict[str, Any]:
        begun = [str(tmp_path / f"begun{n}") for n in range(2)]
        futures: list[PenstockFuture[Any]] = [
            pass_gate.submit(begun[n], str(tmp_path / "gate")) for n in range(2)
        ]
        futures += [double.submit(number) for number in range(8)]
        wait_until(lambda: all(map(os.path.exists, begun)))
        took.append(time.monotonic())
        cluster._process.kill()
        for future in futures:
            future.wait()
        took.append(time.monotonic())
        futures.append(double.submit(9))
        futures[-1].wait()
        return {"states": [future.state for future in futures]}

    states = body()["states"]
    ended = time.monotonic()
    assert took[1] - took[0] < 10
    assert ended - took[1] < 10
    assert [state.name for state in states] == ["Crashed"] * 11
    for state in states:
        assert "the connection to the Dask scheduler was lost" in state.message
    cluster.close()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    wait_until(
        lambda: (
            not [
                thread
                for thread in set(threading.enumerate()) - threads
                if not thread.name.startswith("Dask-Callback")
                and thread.name.startswith("penstock")
            ]
        )
    )


def test_the_next_flow_does_not_mind_a_cluster_that_went_away(
    cluster: LocalClusterProcess,
) -> None:
    other = LocalClusterProcess(Where(n_workers=1))
    runner = DaskTaskRunner(other.address, connect_timeout_seconds=3)
    assert doubled(runner) == DOUBLED
    other.close()
    (state,) = states_on(runner, 1)
    assert "nothing listens there" in state.message
    assert doubled(DaskTaskRunner(cluster.address)) == DOUBLED


def test_a_worker_that_hangs_holds_up_nobody_else(tmp_path: pathlib.Path) -> None:
    @flow(task_runner=DaskTaskRunner(n_workers=2))
    def body() -> list[int]:
        stuck = process_id.submit().result()
        os.kill(stuck, signal.SIGSTOP)
        try:
            begun, gate = str(tmp_path / "begun"), str(tmp_path / "gate")
            pathlib.Path(gate).touch()
            late = [pass_gate.submit(begun, gate) for _ in range(2)]
            wait_until(lambda: any(future.done() for future in late))
        finally:
            os.kill(stuck, signal.SIGCONT)
        return [len(future.result()) for future in late]

    assert body() == [6, 6]
