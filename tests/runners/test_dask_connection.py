"""Reaching a Dask cluster, and leaving it as it was: users.md rows 24, 33, 36, 37."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import distributed
import loky
import psutil
import pytest
from tests.support import free_port, wait_until

from penstock_runners.dask_cluster.connection import Connection
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.probing import probe, why_unreachable
from penstock_runners.dask_cluster.scaling import Floor
from penstock_runners.dask_cluster.where import Where

# Dask leaves sockets to the garbage collector when a scheduler goes away.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=2))
    yield cluster
    cluster.close()


@contextlib.contextmanager
def opened(where: Where) -> Iterator[tuple[Connection, Any]]:
    connection = Connection(where)
    try:
        yield connection, connection.open()
    finally:
        connection.close()


def watch(ask: Callable[[], Any], times: int) -> set[Any]:
    """Return what was answered over a few rounds of an adaptive cluster."""
    answers = set()
    for _ in range(times):
        answers.add(ask())
        time.sleep(0.02)
    return answers


def remote(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of this file travel by value."""
    fn.__module__ = "__main__"
    return fn


@remote
def process_id() -> int:
    return os.getpid()


@remote
def blas_threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


@remote
def hold_the_gil() -> None:
    import ctypes

    ctypes.PyDLL(None).sleep(60)


# --- an address ---------------------------------------------------------------------------


def test_an_address_is_used_and_its_cluster_left_running(local: LocalClusterProcess) -> None:
    for _ in range(2):
        with opened(Where(address=local.address)) as (connection, client):
            assert client.submit(abs, -1).result(timeout=10) == 1
            assert not connection.is_ours
        assert client.status == "closed"


def test_the_users_default_client_stays_theirs(local: LocalClusterProcess) -> None:
    with opened(Where(address=local.address)), pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()  # type: ignore[no-untyped-call]


def test_a_client_can_be_used_while_its_thread_runs_an_event_loop(
    local: LocalClusterProcess,
) -> None:
    async def flow() -> int:
        with opened(Where(address=local.address)) as (_, client):
            value: int = client.submit(abs, -2, pure=False).result(timeout=10)
            return value

    assert asyncio.run(flow()) == 2


def test_nobody_listening_is_told_as_such() -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="nothing listens there") as caught:
        Connection(Where(address=f"tcp://127.0.0.1:{free_port()}", timeout_seconds=0.5)).open()
    assert "Does the scheduler run?" in str(caught.value)
    assert time.monotonic() - began < 5


def test_what_goes_wrong_on_the_way_is_told_with_what_to_try() -> None:
    def told(error: BaseException) -> str:
        return why_unreachable("tcp://there:1", error, 3, has_security=False)

    unknown = OSError("Timed out")
    unknown.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert "its host name is not known. Is it spelt right" in told(unknown)
    assert "no answer within 3 s" in told(TimeoutError())
    assert "firewall" in told(TimeoutError())
    assert told(OSError("no route")).endswith("'tcp://there:1': OSError: no route")


def test_a_scheme_that_dask_does_not_know_is_told_as_such() -> None:
    with pytest.raises(ConnectionError, match="unknown address scheme 'foo'"):
        Connection(Where(address="foo://host:1")).open()


def test_something_that_listens_and_says_nothing_is_not_waited_for() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"no answer within 0\.5 s"):
            Connection(Where(address=address, timeout_seconds=0.5)).open()
        assert time.monotonic() - began < 5


def test_a_failed_connection_can_be_tried_again(local: LocalClusterProcess) -> None:
    bad = Connection(Where(address=f"tcp://127.0.0.1:{free_port()}", timeout_seconds=0.2))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            bad.open()
    good = Connection(Where(address=local.address))
    good.close()
    good.open()
    with pytest.raises(RuntimeError, match="open already"):
        good.open()
    good.close()
    good.close()


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two authorities that know nothing of each other."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificates with the openssl command")
    folder: Path = tmp_path_factory.mktemp("tls")
    made: dict[str, Any] = {}
    for name in ("ours", "others"):
        key, certificate = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
        command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key}"
        subprocess.run(
            [openssl, *command.split(), "-out", certificate], check=True, capture_output=True
        )
        made[name] = distributed.Security(  # type: ignore[no-untyped-call]
            require_encryption=True,
            tls_ca_file=certificate,
            **{f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")},
            **{f"tls_{role}_key": key for role in ("client", "scheduler", "worker")},
        )
    return made


@pytest.fixture(scope="module")
def with_tls(certificates: dict[str, Any]) -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=1, security=certificates["ours"]))
    yield cluster
    cluster.close()


def test_a_cluster_with_tls_is_reached_with_its_security(
    with_tls: LocalClusterProcess, certificates: dict[str, Any]
) -> None:
    assert with_tls.address.startswith("tls://")
    with opened(Where(address=with_tls.address, security=certificates["ours"])) as (_, client):
        assert client.submit(abs, -3).result(timeout=10) == 3


def test_other_certificates_are_told_as_such(
    with_tls: LocalClusterProcess, certificates: dict[str, Any]
) -> None:
    with pytest.raises(ConnectionError, match="not signed by the authority in `security`"):
        probe(with_tls.address, certificates["others"], 5)


def test_tls_without_certificates_says_how_to_give_them(with_tls: LocalClusterProcess) -> None:
    with pytest.raises(ConnectionError, match=r"wants TLS.*tls_ca_file"):
        probe(with_tls.address, None, 5)
    with pytest.raises(ConnectionError, match=r"as one with TLS does.*begins with 'tls://'"):
        probe(with_tls.address.replace("tls://", "tcp://"), None, 5)


def test_tls_where_there_is_none_says_so(
    local: LocalClusterProcess, certificates: dict[str, Any]
) -> None:
    with pytest.raises(ConnectionError, match="does not accept TLS"):
        probe(local.address.replace("tcp://", "tls://"), certificates["ours"], 5)
    with pytest.raises(ConnectionError, match="or leave `security` out"):
        probe(local.address, certificates["ours"], 5)


# --- a client or a cluster that was given -----------------------------------------------------


def test_a_given_client_is_used_and_left_open(local: LocalClusterProcess) -> None:
    with distributed.Client(local.address) as given:  # type: ignore[no-untyped-call]
        with opened(Where(client=given)) as (connection, client):
            assert client is given
            assert not connection.is_ours
        assert given.submit(abs, -4, pure=False).result(timeout=10) == 4


def test_a_client_that_is_closed_or_none_is_refused(local: LocalClusterProcess) -> None:
    client: Any = distributed.Client(local.address)  # type: ignore[no-untyped-call]
    client.close()
    with pytest.raises(RuntimeError, match="the Dask client given is closed"):
        Connection(Where(client=client)).open()
    with pytest.raises(TypeError, match=r"must be a distributed\.Client, not int"):
        Connection(Where(client=5)).open()


def test_an_asynchronous_client_is_refused_with_a_way_out(local: LocalClusterProcess) -> None:
    async def flow() -> None:
        given = await distributed.Client(  # type: ignore[no-untyped-call]
            local.address, asynchronous=True
        )
        try:
            with pytest.raises(RuntimeError, match=r"Give `address=client\.scheduler\.address`"):
                Connection(Where(client=given)).open()
        finally:
            await given.close()

    asyncio.run(flow())


NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def make_small_cluster(**kwargs: Any) -> Any:
    return distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, processes=False, scheduler_kwargs=NO_DASHBOARD, protocol="tcp://", **kwargs
    )


def test_a_given_cluster_is_used_and_left_running(certificates: dict[str, Any]) -> None:
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1,
        processes=False,
        scheduler_kwargs=NO_DASHBOARD,
        protocol="tls://",
        security=certificates["ours"],
    ) as given:
        with opened(Where(cluster=given)) as (connection, client):
            assert client.submit(abs, -5).result(timeout=10) == 5
            assert not connection.is_ours
        assert given.status is distributed.Status.running


def test_a_cluster_on_the_loop_that_waits_for_it_is_refused() -> None:
    async def flow() -> None:
        async with make_small_cluster(asynchronous=True) as given:
            with pytest.raises(RuntimeError, match="lives on the event loop of the flow"):
                Connection(Where(cluster=given)).open()

    asyncio.run(flow())


def test_what_is_no_cluster_is_refused() -> None:
    with pytest.raises(RuntimeError, match="it has no scheduler_address"):
        Connection(Where(cluster=object())).open()


# --- a class of clusters ------------------------------------------------------------------------


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


def test_a_cluster_that_was_made_here_is_closed_here() -> None:
    CountedCluster.lives.clear()
    where = Where(cluster_class=CountedCluster, cluster_kwargs={"n_workers": 1})
    with opened(where) as (connection, client):
        assert client.submit(abs, -6).result(timeout=10) == 6
        assert connection.is_ours
        allowed = client.run_on_scheduler(remote(lambda dask_scheduler: _allowed(dask_scheduler)))
        assert allowed == 0
    assert CountedCluster.lives[0] == "made"
    assert "closed" in CountedCluster.lives


def _allowed(scheduler: Any) -> Any:
    return scheduler.allowed_failures


def test_a_class_can_be_named_by_where_it_is_found() -> None:
    where = Where(
        cluster_class="distributed:LocalCluster",
        cluster_kwargs={"n_workers": 1, "processes": False, "scheduler_kwargs": NO_DASHBOARD},
    )
    with opened(where) as (_, client):
        assert client.submit(abs, -7).result(timeout=10) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_jobqueue:SLURMCluster", "Perhaps: pip install no-such-jobqueue"),
        ("distributed.NoCluster", "the module 'distributed' has no 'NoCluster'"),
    ],
)
def test_a_class_that_is_not_there_says_what_to_install(name: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        Connection(Where(cluster_class=name)).open()


def test_a_class_that_cannot_be_called_like_that_says_so() -> None:
    where = Where(cluster_class=CountedCluster, cluster_kwargs={"nonsense": 1})
    with pytest.raises(RuntimeError, match=r"no cluster could be made by .*CountedCluster: "):
        Connection(where).open()


def wait_for_event(name: str) -> None:
    event: Any = distributed.Event
    event(name).wait(60)


def test_an_adaptive_cluster_keeps_its_workers_while_the_floor_is_held() -> None:
    where = Where(
        cluster_class=CountedCluster,
        cluster_kwargs={"n_workers": 0, "threads_per_worker": 1},
        adapt_kwargs={"minimum": 0, "maximum": 2, "interval": "20ms", "wait_count": 1},
    )
    with opened(where) as (connection, client):
        assert connection.is_elastic
        event: Any = distributed.Event
        gate = event("floor", client=client)
        running = client.submit(wait_for_event, "floor", pure=False)
        wait_until(lambda: len(client.nthreads()) == 1)
        connection.hold_floor(5)
        gate.set()
        running.result(timeout=20)
        del running  # a result in its memory would keep a worker anyway
        # Five were asked for, and one was there.
        assert watch(lambda: len(client.nthreads()), times=20) == {1}
        connection.release_floor()
        wait_until(lambda: not client.nthreads())


def test_the_floor_does_not_go_below_the_owners_nor_above_their_most() -> None:
    class Adaptive:
        minimum, maximum = 1, 3
        plan, observed = frozenset("abcde"), frozenset("a")  # not all are seen to be there yet

    adaptive = Adaptive()
    floor = Floor(adaptive)
    floor.hold(9)
    assert adaptive.minimum == 3
    floor.hold(0)
    assert adaptive.minimum == 1
    floor.hold(2)
    floor.release()
    assert adaptive.minimum == 1


def test_a_client_that_misunderstands_the_greeting_is_made_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    class Client(distributed.Client):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append("client")
            if len(made) == 1:
                raise AssertionError  # as Dask's does, where something else came with it
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    with opened(Where(n_workers=1)) as (_, client):
        address = client.scheduler.address
        monkeypatch.setattr(distributed, "Client", Client)
        with opened(Where(address=address)):
            assert made == ["client", "client"]


# --- a local cluster ------------------------------------------------------------------------------


def test_a_local_cluster_has_processes_of_one_thread_with_their_share_of_the_cpus() -> None:
    with opened(Where(n_workers=2)) as (connection, client):
        assert connection.is_ours
        assert not connection.is_elastic
        assert sorted(client.nthreads().values()) == [1, 1]
        assert client.scheduler_info()["address"].startswith("tcp://127.0.0.1:")
        blas = client.run(blas_threads)
        expected = os.environ.get("OMP_NUM_THREADS", str(max(1, loky.cpu_count() // 2)))
        assert set(blas.values()) == {expected}


def test_a_death_is_known_at_once_without_a_second_run_and_the_worker_comes_back(
    local: LocalClusterProcess,
) -> None:
    with opened(Where(address=local.address)) as (_, client):
        before = set(client.run(process_id).values())
        victim = client.submit(os._exit, 3, pure=False, retries=0)
        with pytest.raises(distributed.KilledWorker, match="on 1 different workers"):
            victim.result(timeout=10)
        wait_until(lambda: len(set(client.run(process_id).values()) - before) == 1)
        wait_until(lambda: len(client.nthreads()) == 2)


def test_tasks_may_use_multiprocessing(local: LocalClusterProcess) -> None:
    @remote
    def with_a_child() -> int | None:
        import multiprocessing

        child = multiprocessing.get_context("spawn").Process(target=abs, args=(-1,))
        child.start()
        child.join()
        return child.exitcode

    with opened(Where(address=local.address)) as (_, client):
        assert client.submit(with_a_child, pure=False).result(timeout=20) == 0


def test_closing_does_not_wait_for_tasks_and_leaves_nothing(capfd: Any) -> None:
    others = psutil.Process().children(recursive=True)
    with opened(Where(n_workers=2)) as (_, client):
        running = client.submit(hold_the_gil, pure=False)
        wait_until(lambda: client.processing() and any(client.processing().values()))
        processes = [
            each for each in psutil.Process().children(recursive=True) if each not in others
        ]
        assert len(processes) >= 3
        semaphores = {path for process in processes for path in _semaphores(process)}
        began = time.monotonic()
        del running
    assert time.monotonic() - began < 3
    _, alive = psutil.wait_procs(processes, timeout=2)
    assert alive == []
    assert [path for path in semaphores if Path(path).exists()] == []
    assert capfd.readouterr().err == ""


def _semaphores(process: psutil.Process) -> list[str]:
    """Return the files of the semaphores that a process has open."""
    return [each.path for each in process.memory_maps() if "/sem." in each.path]


def test_a_local_cluster_that_cannot_start_says_why() -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"did not start: .*nonsense.*Check n_workers"):
        Connection(Where(n_workers=1, cluster_kwargs={"nonsense": 1})).open()
    assert time.monotonic() - began < 20


def test_a_local_cluster_may_be_adaptive() -> None:
    where = Where(
        adapt_kwargs={"minimum": 0, "maximum": 1, "interval": "50ms", "wait_count": 1},
    )
    with opened(where) as (connection, client):
        assert connection.is_elastic
        running = client.submit(time.sleep, 1, pure=False)
        wait_until(lambda: len(client.nthreads()) == 1)
        connection.hold_floor(1)
        running.result(timeout=20)
        del running  # a result in its memory would keep a worker anyway
        assert watch(lambda: len(client.nthreads()), times=20) == {1}
        connection.release_floor()
        wait_until(lambda: not client.nthreads())


def test_a_scheduler_that_dies_is_noticed_at_once_and_closing_does_not_hang(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with opened(Where(n_workers=1)) as (connection, client):
        assert not connection.is_lost
        pending = client.submit(hold_the_gil, pure=False)
        told = threading.Event()
        pending.add_done_callback(lambda _: told.set())
        assert connection._local is not None
        os.kill(connection._local._process.pid, signal.SIGKILL)
        assert told.wait(5)
        assert pending.status == "cancelled"
        wait_until(lambda: connection.is_lost, 5)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    gc.collect()
    assert [record for record in caplog.records if record.name == "distributed.client"] == []


SCRIPT = """
import sys, time
from penstock_runners.dask_cluster.connection import Connection
from penstock_runners.dask_cluster.where import Where

class Thing:
    def __init__(self, value):
        self.value = value

def twice(thing):
    return Thing(2 * thing.value)

connection = Connection(Where(n_workers=1))
client = connection.open()
print(client.submit(twice, Thing(4)).result(timeout=20).value, flush=True)
"""


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_no_main_guard_is_needed(how: str, tmp_path: Path) -> None:
    text = SCRIPT + "connection.close()\n"
    (tmp_path / "script.py").write_text(text)
    arguments = {"file": ["script.py"], "-c": ["-c", text], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        input=text if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "", 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_driver_is_the_end_of_its_cluster(number: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT
        + "from tests_hold import hold\n"
        + "held = client.submit(hold, pure=False)\n"
        + "while not any(client.processing().values()): time.sleep(0.02)\n"
        + "print('holding', flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "tests_hold.py").write_text(
        "import ctypes\ndef hold():\n    ctypes.PyDLL(None).sleep(60)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        assert driver.stdout.readline() == "8\n"
        assert driver.stdout.readline() == "holding\n"
        processes = psutil.Process(driver.pid).children(recursive=True)
        assert len(processes) >= 2
        driver.send_signal(number)
        driver.wait(10)
        _, alive = psutil.wait_procs(processes, timeout=5)
        assert alive == []
        noise = driver.stderr.read()
    if number == signal.SIGINT:  # its own traceback, and nothing of a worker
        assert noise.rstrip().endswith("KeyboardInterrupt")
        assert "distributed" not in noise
    else:
        assert noise == ""


def test_a_forked_child_leaves_the_cluster_to_its_parent(local: LocalClusterProcess) -> None:
    connection = Connection(Where(address=local.address))
    client = connection.open()
    child = os.fork()
    if child == 0:
        connection.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert client.submit(abs, -10, pure=False).result(timeout=10) == 10
    connection.close()
