"""How a benchmark is taken: ours and the floor by turns, the best of each, and their ratio.

`pytest benchmarks` measures, prints a table and fails where a ratio is over its target;
`pytest benchmarks --smoke` runs everything small and once, to show that it runs.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.settings import temporary_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    ours_us: float
    floor_us: float
    target: float | None
    unit: str

    @property
    def ratio(self) -> float:
        return self.ours_us / self.floor_us if self.floor_us else float("inf")

    @property
    def is_over(self) -> bool:
        return self.target is not None and self.ratio > self.target


FIGURES = pytest.StashKey[list[Figure]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--smoke", action="store_true", help="run every benchmark small, without limits"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(600))  # the machine may have other work


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with temporary_settings(logging_level="WARNING", task_runner=None):
        yield


@pytest.fixture
def is_smoke(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--smoke"))


class Course:
    """Takes one figure: see `against`."""

    def __init__(self, benchmark: Any, config: pytest.Config, name: str, *, is_smoke: bool) -> None:
        self._benchmark = benchmark
        self._figures = config.stash[FIGURES]
        self._name = name
        self.is_smoke = is_smoke

    def size(self, full: int) -> int:
        """Return how many items to do: few in a smoke run."""
        return max(10, full // 100) if self.is_smoke else full

    def against(
        self,
        floor: Callable[[], object],
        ours: Callable[[], object],
        *,
        items: int,
        target: float | None,
        limit: float | None = None,
        floor_items: int | None = None,
        rounds: int = 7,
        unit: str = "us an item",
    ) -> Figure:
        """Run floor and ours by turns, and compare the best of each.

        The best, since other load on the machine only ever adds. Ours is also what
        pytest-benchmark records.

        Args:
            floor: what there is without us.
            ours: the same by Penstock.
            items: how many items each of them does.
            target: the ratio to reach.
            limit: where the target is not reached yet, the ratio that must be kept; by default
                the target.
            floor_items: how many items the floor does, if not as many.
            rounds: how often.
            unit: of the figure.
        """
        rounds = 1 if self.is_smoke else rounds
        ours(), floor()  # warm both up
        floor_seconds = []
        ours_seconds = []

        def timed_floor() -> None:
            floor_seconds.append(seconds_of(floor))

        def timed_ours() -> None:
            ours_seconds.append(seconds_of(ours))

        self._benchmark.pedantic(timed_ours, setup=timed_floor, rounds=rounds, iterations=1)
        return self.note(
            min(ours_seconds) / items * 1e6,
            min(floor_seconds) / (floor_items or items) * 1e6,
            target,
            unit,
            limit=limit,
        )

    def record(self, fn: Callable[[], Any]) -> Any:
        """Run once under pytest-benchmark, for what is measured in another way, and return."""
        return self._benchmark.pedantic(fn, rounds=1, iterations=1)

    def note(
        self,
        ours: float,
        floor: float,
        target: float | None,
        unit: str,
        *,
        limit: float | None = None,
    ) -> Figure:
        """Put a figure into the table, and hold it against its limit, or else its target."""
        limit = target if limit is None else limit
        figure = Figure(self._name, ours, floor, target, unit)
        self._figures.append(figure)
        self._benchmark.extra_info.update(floor=floor, ours=ours, ratio=figure.ratio, target=target)
        if not self.is_smoke and limit is not None:
            assert figure.ratio <= limit, f"{figure.ratio:.2f} times the floor, not {limit}"
        return figure


def seconds_of(fn: Callable[[], object]) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


@pytest.fixture
def course(benchmark: Any, request: pytest.FixtureRequest, is_smoke: bool) -> Course:
    docstring = (request.function.__doc__ or request.node.name).strip().splitlines()[0]
    return Course(benchmark, request.config, docstring.rstrip("."), is_smoke=is_smoke)


CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """Return where a Dask cluster is, as Dask makes it: two workers of one thread each."""
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()


@pytest.fixture(scope="session")
def dask_client(cluster_address: str) -> Iterator[Any]:
    """Return a client of that cluster."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster_address, set_as_default=False) as client:
        client.wait_for_workers(2)
        yield client


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures:
        return
    terminalreporter.section("beside the floor")
    width = max(len(figure.name) for figure in figures)
    terminalreporter.write_line(
        f"{'what':{width}}  {'ours':>10}  {'floor':>10}  {'ratio':>7}  {'target':>7}"
    )
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target:g}"
        mark = "  over" if figure.is_over else ""
        terminalreporter.write_line(
            f"{figure.name:{width}}  {figure.ours_us:10.2f}  {figure.floor_us:10.2f}"
            f"  {figure.ratio:7.2f}  {target:>7}  {figure.unit}{mark}"
        )
