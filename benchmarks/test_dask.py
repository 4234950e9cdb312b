"""What a flow costs on a Dask cluster that is given, beside bare Dask on the same cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.work import BLOCK_ITEMS, block, nothing, total
from penstock import flow, task
from penstock_runners.dask import DaskTaskRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.conftest import Course

BARE_ITEMS = 2_000
"""Bare Dask takes 2 ms for each, no less when there are more of them."""
MOST_GROWTH_BYTES = 20_000_000

noop = task(nothing)
make = task(block)
add_up = task(total)


@flow
def map_all(items: int) -> None:
    noop.map(range(items)).result()


@flow
def submit_one_by_one(items: int) -> None:
    for i in range(items):
        noop.submit(i).result()


@flow
def hand_over(items: int, times: int) -> None:
    for _ in range(times):
        assert add_up.submit(make.submit(items)).result() == items


@pytest.fixture
def on_dask(dask_client: Any) -> Callable[[Any], Any]:
    return lambda some_flow: some_flow.with_options(task_runner=DaskTaskRunner(client=dask_client))


def test_map(course: Course, dask_client: Any, on_dask: Callable[[Any], Any]) -> None:
    """Flow on Dask, a map of 10 000 no-ops; floor: client.map and gather, of 2 000."""
    items, bare = course.size(10_000), course.size(BARE_ITEMS)
    ours = on_dask(map_all)

    def floor() -> None:
        dask_client.gather(dask_client.map(nothing, range(bare), pure=False))

    course.against(floor, lambda: ours(items), items=items, floor_items=bare, target=0.15, rounds=3)


def test_round_trip(course: Course, dask_client: Any, on_dask: Callable[[Any], Any]) -> None:
    """Flow on Dask, one submit and its result, 100 times; floor: client.submit and result."""
    items = course.size(100)
    ours = on_dask(submit_one_by_one)

    def floor() -> None:
        for i in range(items):
            dask_client.submit(nothing, i, pure=False).result()

    course.against(floor, lambda: ours(items), items=items, target=None, rounds=3)


def test_hand_overs(course: Course, dask_client: Any, on_dask: Callable[[Any], Any]) -> None:
    """Flow on Dask, 80 MB from task to task, six times; floor: the same by bare Dask futures."""
    compare_hand_overs(course, dask_client, on_dask, 6, target=1.3, limit=1.5)


def test_hand_over(course: Course, dask_client: Any, on_dask: Callable[[Any], Any]) -> None:
    """The same once, with begin and end of the flow; floor: the same by bare Dask futures."""
    compare_hand_overs(course, dask_client, on_dask, 1, target=None, limit=2.5)


def compare_hand_overs(
    course: Course,
    dask_client: Any,
    on_dask: Callable[[Any], Any],
    times: int,
    *,
    target: float | None,
    limit: float,
) -> None:
    items = 1_000_000 if course.is_smoke else BLOCK_ITEMS
    ours = on_dask(hand_over)
    before = peak_bytes_from_now()

    def floor() -> None:
        for _ in range(times):
            made = dask_client.submit(block, items, pure=False)
            assert dask_client.submit(total, made, pure=False).result() == items

    course.against(
        floor,
        lambda: ours(items, times),
        items=times,
        target=target,
        limit=limit,
        unit="us a hand-over",
    )
    growth = peak_bytes() - before
    assert growth < MOST_GROWTH_BYTES, f"the driver has grown by {growth / 1e6:.0f} MB"


def peak_bytes_from_now() -> int:
    """Forget the peak of this process's memory so far, and return the new one."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
