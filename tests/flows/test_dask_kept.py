"""Results that stay on a Dask cluster, and what happens when they are lost there (users row 3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, flow, task
from penstock.attempt import KeptResult
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.dask_cluster import claims
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Log

# Dask leaves sockets to the garbage collector when a worker goes away.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

LARGE = 2_000_000


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Leaves no worker behind."""

    warm_seconds = 0.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=2))
    yield cluster
    cluster.close()


@pytest.fixture
def dask(cluster: LocalClusterProcess) -> DaskTaskRunner:
    return DaskTaskRunner(cluster.address)


def note(log: str, label: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{label} {os.getpid()}\n")


class Notes:
    """Who ran where, in the order of the runs."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)

    @property
    def labels(self) -> list[str]:
        return [line.split()[0] for line in self._lines()]

    def kill(self, label: str) -> None:
        """Kill the worker in which this ran last, unless it is dead already."""
        process_id = [int(line.split()[1]) for line in self._lines() if line.split()[0] == label]
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id[-1], signal.SIGKILL)

    def _lines(self) -> list[str]:
        return pathlib.Path(self.path).read_text().splitlines()


@pytest.fixture
def notes(tmp_path: pathlib.Path) -> Notes:
    return Notes(tmp_path / "notes")


@task
def make(log: str, label: str = "make") -> bytes:
    note(log, label)
    return bytes(LARGE)


@task
def grow(log: str, data: bytes, label: str = "grow") -> bytes:
    note(log, label)
    return data + b"x"


@task
def size(data: bytes) -> int:
    return len(data)


@task
def echo(value: list[str]) -> list[str]:
    return value


@task
def total(several: list[bytes]) -> int:
    return sum(map(len, several))


def names(future: PenstockFuture[Any]) -> list[str]:
    return [state.name for state in future.run.states]


def is_lost(future: PenstockFuture[Any]) -> bool:
    return bool(future.run.state.data.is_lost)


def lose(notes: Notes, label: str, *futures: PenstockFuture[Any]) -> None:
    """Kill the worker where a task ran, and wait until its results are known to be lost."""
    notes.kill(label)
    deadline = time.monotonic() + 20
    while not all(map(is_lost, futures)):
        assert time.monotonic() < deadline, "nobody noticed"
        time.sleep(0.01)


MADE_AGAIN = ["Pending", "Running", "Completed", "ResultLost", "Running", "Completed"]
MADE_ONCE = ["Pending", "Running", "Completed"]


def test_a_large_result_stays_and_a_small_one_comes_home(
    dask: DaskTaskRunner, notes: Notes
) -> None:
    @flow(task_runner=dask)
    def body() -> list[bool]:
        large, small = make.submit(notes.path), size.submit(b"abc")
        home = make.with_options(result_on="driver").submit(notes.path)
        there = echo.with_options(result_on="cluster").submit(["abc"])
        kept = [large, small, home, there]
        for future in kept:
            future.wait()
        stayed = [isinstance(each.run.state.data, KeptResult) for each in kept]
        assert large.result() == home.result() == bytes(LARGE)
        assert there.result() == ["abc"]
        return stayed

    assert body() == [True, False, False, True]


def use_result(future: PenstockFuture[bytes]) -> int:
    return len(future.result())


def use_argument(future: PenstockFuture[bytes]) -> int:
    return size.submit(future).result()


def use_in_list(future: PenstockFuture[bytes]) -> int:
    return total.submit([future, b""]).result()


def use_in_thread(future: PenstockFuture[bytes]) -> int:
    return size.with_options(task_runner="thread:1").submit(future).result()


def use_in_process(future: PenstockFuture[bytes]) -> int:
    return size.with_options(task_runner=ColdProcessPoolTaskRunner(1)).submit(future).result()


def use_by_mapping(future: PenstockFuture[bytes]) -> int:
    return size.map([future]).result()[0]


def use_by_waiting(future: PenstockFuture[bytes]) -> int:
    async def ask() -> int:
        return len(await future)

    return asyncio.run(ask())


USES = [
    use_result,
    use_argument,
    use_in_list,
    use_in_thread,
    use_in_process,
    use_by_mapping,
    use_by_waiting,
]


def test_a_result_is_lost_as_well_of_which_the_scheduler_was_not_told_yet(
    dask: DaskTaskRunner, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = claims.CLAIM_SECONDS
    monkeypatch.setattr(claims, "CLAIM_SECONDS", 30.0)  # not 5 ms, in which a worker may die, too

    @flow(task_runner=dask)
    def body() -> tuple[int, list[str]]:
        future = make.submit(notes.path)
        future.wait()
        lose(notes, "make", future)
        monkeypatch.setattr(claims, "CLAIM_SECONDS", at_once)
        return len(future.result()), names(future)

    assert body() == (LARGE, MADE_AGAIN)


@pytest.mark.parametrize("use", USES)
def test_a_lost_result_is_made_again_for_whoever_needs_it(
    dask: DaskTaskRunner, notes: Notes, use: Callable[[PenstockFuture[bytes]], int], log: Log
) -> None:
    @flow(task_runner=dask)
    def body() -> tuple[int, list[str], int]:
        future = make.submit(notes.path)
        future.wait()
        lose(notes, "make", future)
        return use(future), names(future), future.run.run_count

    assert body() == (LARGE, MADE_AGAIN, 2)
    assert notes.labels == ["make", "make"]
    assert any("its result was lost with the worker that kept it" in line for line in log.lines)


def test_a_lost_result_that_nobody_needs_is_not_made_again(
    dask: DaskTaskRunner, notes: Notes
) -> None:
    @flow(task_runner=dask)
    def body() -> list[str]:
        future = make.submit(notes.path)
        future.wait()
        lose(notes, "make", future)
        assert size.submit(b"ab").result() == 2, "the cluster is usable"
        return names(future)

    assert body() == MADE_ONCE
    assert notes.labels == ["make"]


@pytest.mark.parametrize("place", ["driver", "cluster"])
def test_what_came_home_is_safe_from_deaths(dask: DaskTaskRunner, notes: Notes, place: str) -> None:
    """Five finished tasks, and the death of a worker: side effects count (users row 3)."""

    @task(crash_retries=0)
    def die() -> None:
        os._exit(3)

    @flow(task_runner=dask)
    def body() -> int:
        placed = make.with_options(result_on=place)  # type: ignore[arg-type]  # parametrized
        futures = [placed.submit(notes.path, f"make{number}") for number in range(5)]
        for future in futures:
            future.wait()
        assert die.submit().exception() is not None
        lost = sum(
            isinstance(each.run.state.data, KeptResult) and is_lost(each) for each in futures
        )
        assert [len(future.result()) for future in futures] == [LARGE] * 5
        return lost

    lost = body()
    labels = notes.labels
    assert set(labels) == {f"make{number}" for number in range(5)}
    assert len(labels) == 5 + lost
    assert lost == 0 or place == "cluster"


def test_what_was_lost_is_made_again_two_levels_deep(dask: DaskTaskRunner, notes: Notes) -> None:
    @flow(task_runner=dask)
    def body() -> tuple[int, list[str], list[str]]:
        first = make.submit(notes.path)
        second = grow.submit(notes.path, first)
        second.wait()
        lose(notes, "make", first)
        lose(notes, "grow", second)
        return size.submit(second).result(), names(first), names(second)

    assert body() == (LARGE + 1, MADE_AGAIN, MADE_AGAIN)
    assert notes.labels == ["make", "grow", "make", "grow"]


def test_two_that_need_a_lost_result_have_it_made_once(dask: DaskTaskRunner, notes: Notes) -> None:
    @flow(task_runner=dask)
    def body() -> list[int]:
        future = make.submit(notes.path)
        future.wait()
        lose(notes, "make", future)
        users = [size.submit(future) for _ in range(4)]
        return [each.result() for each in users]

    assert body() == [LARGE] * 4
    assert notes.labels == ["make", "make"]


def test_if_it_cannot_be_made_again_that_is_its_failure(dask: DaskTaskRunner, notes: Notes) -> None:
    @task
    def make_once(log: str) -> bytes:
        is_first = not os.path.exists(log)
        note(log, "make")
        if not is_first:
            raise OSError("the disk is full now")
        return bytes(LARGE)

    @flow(task_runner=dask)
    def body() -> tuple[list[str], Any, str]:
        future = make_once.submit(notes.path)
        future.wait()
        lose(notes, "make", future)
        user = size.submit(future)
        user.wait()
        with pytest.raises(OSError, match="full now"):
            future.result()
        return names(future), user.state, str(user.exception())

    history, ended, text = body()
    assert history == [*MADE_AGAIN[:5], "Failed"]
    assert ended.is_crashed() or ended.name == "UpstreamFailed"
    assert "could not be made again" in text or "full now" in text


def test_after_the_flow_a_kept_result_says_where_it_went(
    dask: DaskTaskRunner, notes: Notes
) -> None:
    futures: list[PenstockFuture[bytes]] = []

    @flow(task_runner=dask)
    def body() -> None:
        futures.append(make.submit(notes.path))

    body()
    with pytest.raises(LookupError, match='result_on="driver"'):
        futures[0].result()
