"""The process runner beside loky's executor, at the runner's level: no engine, no states.

What a flow costs on it is in `test_process_flows`.

`pytest benchmarks/test_processes.py`, or with `--smoke`, small and once.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import cloudpickle
import loky
import pytest

from benchmarks.conftest import Course, seconds_of
from penstock.attempt import Attempt, Outcome, Packed
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.task_runners import Event, TaskRunner

WORKERS = 2
PATIENCE_SECONDS = 30.0


class Bench:
    """An open runner, and its events in a queue."""

    def __init__(self) -> None:
        self.runner: TaskRunner = ProcessPoolTaskRunner(WORKERS).for_run()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._ids = itertools.count(1)
        self.runner.open(self._events.put, {})

    def submit(self, fn: Callable[..., Any], *args: Any) -> None:
        self.runner.submit((Attempt(next(self._ids), fn, args),))

    def take(self) -> Any:
        event = self._events.get(timeout=PATIENCE_SECONDS)
        assert isinstance(event, Outcome)
        assert event.kind == "returned", event
        if isinstance(event.value, Packed):
            return pickle.loads(event.value.data, buffers=event.value.buffers)
        return event.value

    def warm_up(self) -> None:
        for _ in range(WORKERS):
            self.submit(time.sleep, 0.2)
        for _ in range(WORKERS):
            self.take()


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import what pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.warm_up()
    yield bench
    bench.runner.close()


@pytest.fixture(scope="module")
def executor() -> Iterator[Any]:
    executor = loky.ProcessPoolExecutor(WORKERS)
    list(executor.map(time.sleep, [0.2] * WORKERS))
    yield executor
    executor.shutdown(kill_workers=True)


def test_many_no_ops(course: Course, bench: Bench, executor: Any) -> None:
    """Process runner, 10 000 no-op submits in a loop; floor: loky."""
    items = course.size(10_000)

    def floor() -> None:
        for future in [executor.submit(abs, i) for i in range(items)]:
            future.result()

    def ours() -> None:
        for i in range(items):
            bench.submit(abs, i)
        for _ in range(items):
            bench.take()

    course.against(floor, ours, items=items, target=0.15, rounds=3)


def test_many_no_ops_by_value(course: Course, bench: Bench, executor: Any) -> None:
    """Process runner, 2 000 no-op submits of a closure; floor: loky."""
    items = course.size(2_000)
    offset = 7

    def closure(x: int) -> int:
        return x + offset

    def floor() -> None:
        for future in [executor.submit(closure, i) for i in range(items)]:
            future.result()

    def ours() -> None:
        for i in range(items):
            bench.submit(closure, i)
        for _ in range(items):
            bench.take()

    course.against(floor, ours, items=items, target=0.25, rounds=3)


def test_round_trip(course: Course, bench: Bench, executor: Any) -> None:
    """Process runner, one round trip when warm, 300 times; floor: loky."""
    items = course.size(300)

    def floor() -> None:
        for i in range(items):
            executor.submit(abs, i).result()

    def ours() -> None:
        for i in range(items):
            bench.submit(abs, i)
            bench.take()

    course.against(floor, ours, items=items, target=0.5, limit=0.7)


class Block:
    """As an array: its memory is one buffer, which pickle can leave out of band."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)


def identity(value: Any) -> Any:
    return value


@pytest.mark.parametrize("megabytes", [1, 10, 100])
def test_blocks_there_and_back(course: Course, bench: Bench, executor: Any, megabytes: int) -> None:
    """Process runner, a block of memory there and back; floor: loky."""
    block = Block(bytearray(1000 if course.is_smoke else megabytes * 1_000_000))
    repeats = max(1, 10 // megabytes)

    def floor() -> None:
        for _ in range(repeats):
            executor.submit(identity, block).result()

    def ours() -> None:
        for _ in range(repeats):
            bench.submit(identity, block)
            bench.take()

    ours()
    floor()
    rounds = 1 if course.is_smoke else 3
    floors = [seconds_of(floor) for _ in range(rounds)]
    course.record(ours)
    own = [seconds_of(ours) for _ in range(rounds)]
    scale = 1e3 / repeats
    course.note(min(own) * scale, min(floors) * scale, None, f"ms for {megabytes} MB")
