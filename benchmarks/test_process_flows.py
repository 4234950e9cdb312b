"""What a flow costs on worker processes, states and logs and retries included.

Beside loky's executor, joblib and `concurrent.futures`, each warm, with as many workers.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import joblib
import loky
import numpy as np
import pytest

from benchmarks.work import BLOCK_ITEMS, burn, nothing, peek
from penstock import flow, task, unmapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.conftest import Course

WORKERS = 2

noop = task(nothing)
burning = task(burn)
peeking = task(peek)


@flow(task_runner="process:2")
def submit_and_read(items: int) -> None:
    futures = [noop.submit(i) for i in range(items)]
    for future in futures:
        future.result()


@flow(task_runner="process:2")
def submit_one_by_one(items: int) -> None:
    for i in range(items):
        noop.submit(i).result()


@flow(task_runner="process:2")
def map_all(items: int) -> None:
    noop.map(range(items)).result()


@flow(task_runner="process:2")
def burn_all(items: int) -> None:
    burning.map([0.05] * items).result()


@flow(task_runner="process:2")
def peek_all(items: int, array: Any) -> None:
    peeking.map(range(items), unmapped(array)).result()


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    executor = loky.ProcessPoolExecutor(WORKERS)
    list(executor.map(nothing, range(10)))
    yield executor
    executor.shutdown(kill_workers=True)


def submit_all(executor: Any, items: int) -> None:
    for future in [executor.submit(nothing, i) for i in range(items)]:
        future.result()


def test_submits(course: Course, executor: Any) -> None:
    """Flow on processes, 10 000 no-op submits and results; floor: loky."""
    items = course.size(10_000)
    course.against(
        lambda: submit_all(executor, items),
        lambda: submit_and_read(items),
        items=items,
        target=0.15,
        limit=0.6,
        rounds=5,
    )


def test_submits_beside_the_standard_library(course: Course) -> None:
    """Flow on processes, 10 000 no-op submits and results; floor: concurrent.futures."""
    items = course.size(10_000)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        course.against(
            lambda: submit_all(executor, items),
            lambda: submit_and_read(items),
            items=items,
            target=None,
            rounds=3,
        )


def test_map(course: Course) -> None:
    """Flow on processes, a map of 10 000 no-ops; floor: joblib, which keeps nothing of each."""
    items = course.size(10_000)

    def floor() -> None:
        joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(nothing)(i) for i in range(items))

    course.against(floor, lambda: map_all(items), items=items, target=2, rounds=5)


def test_round_trip(course: Course, executor: Any) -> None:
    """Flow on processes, one submit and its result when warm, 300 times; floor: loky."""
    items = course.size(300)

    def floor() -> None:
        for i in range(items):
            executor.submit(nothing, i).result()

    course.against(floor, lambda: submit_one_by_one(items), items=items, target=0.5, limit=0.9)


def test_real_work(course: Course, executor: Any) -> None:
    """Flow on processes, 64 x 50 ms of CPU on 2 workers; floor: two calls of 32 x 50 ms."""
    items = 4 if course.is_smoke else 64

    def floor() -> None:
        list(executor.map(burn, [0.05 * items / WORKERS] * WORKERS))

    course.against(
        floor,
        lambda: burn_all(items),
        items=items,
        target=1.03,
        limit=1.25,  # two cores that others use, too
        rounds=5,
    )


def test_constant_of_a_map(course: Course) -> None:
    """Flow on processes, a map of 64 with a constant of 80 MB; floor: joblib's memmap."""
    items = 64
    array = np.ones(10_000 if course.is_smoke else BLOCK_ITEMS)

    def floor() -> None:
        joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(peek)(i, array) for i in range(items))

    course.against(
        floor,
        lambda: peek_all(items, array),
        items=1,
        target=None,
        rounds=5,
        unit="us a map",
    )
