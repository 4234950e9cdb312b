"""What goes wrong around the Dask runner: dead workers and schedulers, and what that costs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.support import wait_until

from penstock.task_runners import RemoteError
from penstock.testing.harness import RunnerHarness
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Iterator

    from penstock.task_runners import TaskRunner

# Dask leaves sockets to the garbage collector when a scheduler goes away.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=2))
    yield cluster
    cluster.close()


@pytest.fixture
def harness(cluster: LocalClusterProcess, tmp_path: pathlib.Path) -> Iterator[RunnerHarness]:
    with opened(DaskTaskRunner(cluster.address), tmp_path) as harness:
        wait_until(lambda: harness.runner.slots() == 2)
        yield harness


@contextlib.contextmanager
def opened(runner: TaskRunner, directory: pathlib.Path) -> Iterator[RunnerHarness]:
    harness = RunnerHarness(runner, directory, 30.0)
    harness.open()
    try:
        yield harness
    finally:
        harness.close()


def note(log: str, label: int) -> int:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{label}\n")
    return label


def noted(log: pathlib.Path) -> list[int]:
    return sorted(map(int, log.read_text().split())) if log.exists() else []


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def die_at(log: str, label: int, victim: int) -> int:
    note(log, label)
    if label == victim:
        os._exit(5)
    return label


def nap_and_die_at(log: str, label: int, victim: int) -> int:
    if label == victim:
        time.sleep(0.1)  # long enough to be told of, in a batch
    return die_at(log, label, victim)


# --- workers that die -------------------------------------------------------------------


@pytest.mark.parametrize("die", [exit_at_once, kill_itself, segfault])
def test_of_eight_attempts_the_one_that_dies_is_lost(
    harness: RunnerHarness, tmp_path: pathlib.Path, die: Callable[[], None]
) -> None:
    log = tmp_path / "log"
    good = [harness.attempt(note, str(log), label) for label in range(7)]
    bad = harness.attempt(die)
    harness.submit(*good[:3], bad, *good[3:])
    lost = harness.outcome(bad)
    assert (lost.kind, lost.began) == ("lost", True)
    assert "it left the cluster unexpectedly" in lost.reason
    assert "while it ran this attempt" in lost.reason
    assert "tcp://" in lost.worker
    assert [harness.value(harness.outcome(attempt)) for attempt in good] == list(range(7))
    assert noted(log) == list(range(7)), "nothing ran twice"
    assert harness.value(harness.run(note, str(log), 8)) == 8


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_a_process_is_data_in_a_task(
    harness: RunnerHarness, error: BaseException
) -> None:
    def leave(pid: bool) -> int:
        if pid:
            return os.getpid()
        raise error

    before = harness.value(harness.run(leave, True))
    outcome = harness.run(leave, False)
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, RemoteError)
    assert outcome.error.type_name == type(error).__name__
    pids = [harness.value(harness.run(leave, True)) for _ in range(4)]
    assert before in pids, "no worker ended of it"


@pytest.mark.parametrize("die", [die_at, nap_and_die_at])
@pytest.mark.parametrize("victim", [0, 57, 199])
def test_a_death_in_a_batch_costs_bystanders_no_more_than_a_second_run(
    harness: RunnerHarness, tmp_path: pathlib.Path, die: Callable[..., int], victim: int
) -> None:
    log = tmp_path / "log"
    for outcome in [harness.run(die, str(log), -1, victim) for _ in range(3)]:
        assert outcome.kind == "returned"
    log.unlink()
    attempts = [harness.attempt(die, str(log), label, victim) for label in range(200)]
    harness.submit(*attempts)
    outcomes = [harness.outcome(attempt) for attempt in attempts]
    lost = {label: end.began for label, end in enumerate(outcomes) if end.kind == "lost"}
    assert victim in lost
    assert lost[victim] is not False
    if die is nap_and_die_at:
        assert lost[victim] is True, "the worker had told of it"
    assert [end.kind for label, end in enumerate(outcomes) if label not in lost] == ["returned"] * (
        200 - len(lost)
    )
    runs = noted(log)
    assert len(runs) == len(set(runs)), "the runner itself runs nothing twice"
    for label, began in lost.items():
        if began is False:
            assert label not in runs, "what is said not to have begun has not"
        if began is True:
            assert label == victim, "only who killed the worker is said to have"
    # Who is to start again does so, and from now on alone: the culprit is known for sure.
    again = [harness.attempt(die, str(log), label, victim) for label in lost]
    harness.submit(*again)
    for attempt in again:
        outcome = harness.outcome(attempt)
        is_victim = attempt.args[1] == victim
        assert (outcome.kind, outcome.began) == (
            ("lost", True) if is_victim else ("returned", True)
        )
