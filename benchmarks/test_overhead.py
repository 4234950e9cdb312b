"""What a no-op task costs, called and submitted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.conftest import Course, seconds_of
from penstock import flow, task

DIRECT_CALL_LIMIT_US = 25.0
"""The one target that is no ratio: a plain call costs 0.04 us, and says nothing beside it."""


def plain(x: Any = None) -> None:
    """Do nothing."""


noop = task(plain)


@task
def count(values: list[Any]) -> int:
    return len(values)


@flow(task_runner="thread:2")
def call_directly(items: int) -> None:
    for i in range(items):
        noop(i)


@flow(task_runner="thread:2")
def submit_and_read(items: int) -> None:
    futures = [noop.submit(i) for i in range(items)]
    for future in futures:
        future.result()


@flow(task_runner="thread:2")
def submit_one_by_one(items: int) -> None:
    for i in range(items):
        noop.submit(i).result()


@flow(task_runner="thread:2")
def map_all(items: int) -> None:
    noop.map(range(items)).result()


def pool_submit(items: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(plain, i) for i in range(items)]
        for future in futures:
            future.result()


def test_direct_call(course: Course) -> None:
    """Direct call of a no-op task in a flow; floor: 10 plain calls."""
    items = course.size(10_000)

    def floor() -> None:
        for i in range(items):
            for _ in range(10):
                plain(i)

    figure = course.against(floor, lambda: call_directly(items), items=items, target=None)
    if not course.is_smoke:
        assert figure.ours_us <= DIRECT_CALL_LIMIT_US


def test_submit_and_result(course: Course) -> None:
    """Thread runner, 10 000 no-op submits and results; floor: ThreadPoolExecutor."""
    items = course.size(10_000)
    course.against(
        lambda: pool_submit(items), lambda: submit_and_read(items), items=items, target=2.5
    )


def test_map(course: Course) -> None:
    """Thread runner, a map of 10 000 no-ops; floor: ThreadPoolExecutor.submit."""
    items = course.size(10_000)
    course.against(lambda: pool_submit(items), lambda: map_all(items), items=items, target=None)


def test_round_trip(course: Course) -> None:
    """Thread runner, one submit and its result, 500 times; floor: ThreadPoolExecutor."""
    items = course.size(500)

    def floor() -> None:
        with ThreadPoolExecutor(2) as pool:
            for i in range(items):
                pool.submit(plain, i).result()

    course.against(floor, lambda: submit_one_by_one(items), items=items, target=None)


def test_fan_in(course: Course) -> None:
    """10 000 results into one task; floor: gathering them from ThreadPoolExecutor."""
    items = course.size(10_000)

    @flow(task_runner="thread:2")
    def gather(repeats: int) -> None:
        futures = noop.map(range(items))
        futures.wait()
        for _ in range(repeats):
            assert count.submit(futures).result() == items

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(plain, i) for i in range(items)]

        def floor() -> None:
            for _ in range(repeats):
                values = [future.result() for future in done]
                assert pool.submit(len, values).result() == items

        repeats = 1 if course.is_smoke else 20
        floor()
        floors, ours = [], []
        for _ in range(1 if course.is_smoke else 5):
            floors.append(seconds_of(floor) / repeats)
            # Most of the flow is the making of what is gathered: that part is taken off.
            once = seconds_of(lambda: gather(1))
            ours.append((seconds_of(lambda: gather(repeats + 1)) - once) / repeats)
        course.record(lambda: gather(1))
        course.note(min(ours) / items * 1e6, min(floors) / items * 1e6, 3.0, "us an input")
