"""What a stored result costs to find and to store, beside joblib.Memory and diskcache.

A small value in a local folder, under a key of source and arguments. Ours has a state, a history
and hooks to ask for; the others have none.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import diskcache
import joblib
import pytest

from penstock import flow, task
from penstock.cache_policies import INPUTS, TASK_SOURCE
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from benchmarks.conftest import Course

HIT_TARGET = 0.6
ROUNDS = 40
"""Short ones: on a busy machine the best of many says most."""


def plain(x: int) -> int:
    return x


cached = task(cache_policy=INPUTS + TASK_SOURCE)(plain)
numbers = itertools.count()


@flow(task_runner="thread:2")
def call_each(items: range) -> None:
    for x in items:
        cached(x)


@flow(task_runner="thread:2")
def map_all(items: range) -> None:
    cached.map(items).result()


@pytest.fixture(autouse=True)
def own_store(tmp_path: pathlib.Path) -> Iterator[None]:
    with temporary_settings(results_local_storage_path=str(tmp_path / "ours")):
        yield


@pytest.fixture
def by_joblib(tmp_path: pathlib.Path) -> Callable[[range], None]:
    memory: Any = joblib.Memory(tmp_path / "joblib", verbose=0).cache(plain)

    def call(items: range) -> None:
        for x in items:
            memory(x)

    return call


@pytest.fixture
def by_diskcache(tmp_path: pathlib.Path) -> Iterator[Callable[[range], None]]:
    with diskcache.Cache(str(tmp_path / "diskcache")) as cache:
        memoized: Any = cache.memoize()(plain)

        def call(items: range) -> None:
            for x in items:
                memoized(x)

        yield call


def new(count: int) -> range:
    """Return numbers that nobody has seen yet."""
    first = next(numbers) * 1_000_000
    return range(first, first + count)


def test_hit_of_a_direct_call(course: Course, by_joblib: Callable[[range], None]) -> None:
    """Cache hit, direct call in a flow of 200; floor: joblib.Memory.

    A round is a flow run, so a 200th of what a flow takes to begin and end is in the figure. Each
    of the 200 results is in a file of its own.
    """
    items = range(course.size(200))
    course.against(
        lambda: by_joblib(items),
        lambda: call_each(items),
        items=len(items),
        target=HIT_TARGET,
        limit=0.7,  # with the begin and the end of the flow
        rounds=ROUNDS,
    )


def test_hit_among_many(course: Course, by_joblib: Callable[[range], None]) -> None:
    """Cache hit, direct call in a flow of 2 000; floor: joblib.Memory.

    As above, with next to nothing of the flow in the figure.
    """
    items = range(course.size(2_000))
    course.against(
        lambda: by_joblib(items),
        lambda: call_each(items),
        items=len(items),
        target=HIT_TARGET,
        rounds=10,
    )


def test_hit_in_a_map(course: Course, by_joblib: Callable[[range], None]) -> None:
    """Cache hit in a map of 200; floor: joblib.Memory, called one by one."""
    items = range(course.size(200))
    course.against(
        lambda: by_joblib(items),
        lambda: map_all(items),
        items=len(items),
        target=None,
        rounds=ROUNDS,
    )


def test_hit_over_diskcache(course: Course, by_diskcache: Callable[[range], None]) -> None:
    """Cache hit, direct call in a flow; floor: diskcache."""
    items = range(course.size(200))
    course.against(
        lambda: by_diskcache(items),
        lambda: call_each(items),
        items=len(items),
        target=None,
        rounds=ROUNDS,
    )


def test_miss(course: Course, by_joblib: Callable[[range], None]) -> None:
    """Cache miss, direct call in a flow; floor: joblib.Memory."""
    count = course.size(300)
    course.against(
        lambda: by_joblib(new(count)),
        lambda: call_each(new(count)),
        items=count,
        target=1.0,
        limit=2,
    )


def test_miss_over_diskcache(course: Course, by_diskcache: Callable[[range], None]) -> None:
    """Cache miss, direct call in a flow; floor: diskcache."""
    count = course.size(300)
    course.against(
        lambda: by_diskcache(new(count)), lambda: call_each(new(count)), items=count, target=None
    )
