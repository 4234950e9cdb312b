"""The life of worker processes, as a flow sees it: recycling, limits, and none that starts."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock import flow, task
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.flows.conftest import Log

    from penstock.states import State


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Leaves no worker behind."""

    warm_seconds = 0.0


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def fail_to_initialize() -> None:
    raise OSError("no licence server")


@task
def process_id(number: int) -> int:
    return os.getpid()


@task(crash_retries=1)
def take_memory(nbytes: int) -> None:
    kept = bytearray(b"x") * nbytes
    time.sleep(20)
    del kept


def test_when_no_worker_starts_every_run_crashes_and_says_why() -> None:
    @flow(task_runner=ColdProcessPoolTaskRunner(2, initializer=fail_to_initialize))
    def body() -> list[State[Any]]:
        futures = [process_id.submit(number) for number in range(5)]
        futures[-1].wait()
        futures.append(process_id.submit(5))  # after the pool has ended
        for future in futures:
            future.wait()
        return [future.state for future in futures]

    states = body()
    assert [state.name for state in states] == ["Crashed"] * 6
    for state in states:
        assert state.message is not None
        assert "the worker processes do not start; 3 failed in a row" in state.message
        assert "in fail_to_initialize\n" in state.message, "with the traceback, line by line"
        assert "OSError: no licence server" in state.message


def test_recycling_is_silent_and_costs_no_try(log: Log) -> None:
    log.show(logging.WARNING)

    @flow(task_runner=ColdProcessPoolTaskRunner(2, max_tasks_per_worker=4))
    def body() -> tuple[list[int], list[int]]:
        futures = process_id.map(range(30))
        return futures.result(), [len(future.run.states) for future in futures]

    workers, moves = body()
    assert len(set(workers)) >= 30 / 4
    assert max(workers.count(worker) for worker in workers) <= 4
    assert set(moves) == {3}, "Pending, Running, Completed"
    assert log.lines == []


def test_a_run_that_needs_more_memory_than_allowed_crashes_after_its_retries(log: Log) -> None:
    @flow(task_runner=ColdProcessPoolTaskRunner(2, worker_memory_limit="250 MB"))
    def body() -> tuple[State[Any], int]:
        greedy = take_memory.submit(300_000_000)
        modest = process_id.submit(1)
        greedy.wait()
        return greedy.state, modest.result()

    state, _ = body()
    assert state.is_crashed()
    assert state.message is not None
    assert "more than worker_memory_limit=250 MB" in state.message
    assert sum("Crash retry 1/1" in line for line in log.lines) == 1
