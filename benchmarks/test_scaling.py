"""Whether an item of a large map costs what an item of a small one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.work import nothing
from penstock import flow, task

if TYPE_CHECKING:
    from benchmarks.conftest import Course

SMALL = 1_000

noop = task(nothing)


@flow
def map_all(items: int) -> None:
    noop.map(range(items)).result()


def compared(course: Course, runner: str, times: int) -> None:
    """Compare a map with as many items in maps of a thousand, or a tenth of them."""
    ours = map_all.with_options(task_runner=runner)
    small = course.size(SMALL)
    repeats = max(1, times // 10)

    def floor() -> None:
        for _ in range(repeats):
            ours(small)

    course.against(
        floor,
        lambda: ours(small * times),
        items=small * times,
        floor_items=small * repeats,
        target=1.3,
        limit=1.5 if times == 10 else None,  # a map of 1 000 ends before much was collected
        rounds=3 if times < 100 else 2,
    )


def test_threads_10_000(course: Course) -> None:
    """Time an item on threads in a map of 10 000; floor: of 1 000."""
    compared(course, "thread:2", 10)


def test_threads_100_000(course: Course) -> None:
    """Time an item on threads in a map of 100 000; floor: of 1 000."""
    compared(course, "thread:2", 100)


def test_processes_10_000(course: Course) -> None:
    """Time an item on processes in a map of 10 000; floor: of 1 000."""
    compared(course, "process:2", 10)


def test_processes_100_000(course: Course) -> None:
    """Time an item on processes in a map of 100 000; floor: of 1 000."""
    compared(course, "process:2", 100)


def test_dask_10_000(course: Course, cluster_address: str) -> None:
    """Time an item on Dask in a map of 10 000; floor: of 1 000."""
    compared(course, f"dask:{cluster_address}", 10)


def test_dask_100_000(course: Course, cluster_address: str) -> None:
    """Time an item on Dask in a map of 100 000; floor: of 1 000."""
    compared(course, f"dask:{cluster_address}", 100)
