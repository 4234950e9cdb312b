"""Large results stay off the wire: workers store them, and read them as arguments."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, flow, task
from penstock.cache_policies import INPUTS
from penstock.results import ResultStore
from penstock.settings import current
from penstock.stored_results import StoredResult

if TYPE_CHECKING:
    from tests.flows.conftest import Log

pytestmark = pytest.mark.usefixtures("sent_by_value")

SIZE = 3_000_000


def the_store() -> ResultStore:
    return ResultStore(current().results_local_storage_path)


def damage_records() -> None:
    """Change one byte of the value of every record, as a bad disk would."""
    for path in pathlib.Path(current().results_local_storage_path).glob("*.record"):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)


@task(cache_policy=INPUTS)
def make(letter: bytes) -> bytes:
    return letter * SIZE


@task
def look(value: bytes) -> tuple[int, int]:
    return len(value), os.getpid()


MADE: list[PenstockFuture[bytes]] = []
"""Not returned by the flow, as that would ask for the results."""


@flow(task_runner="process:2")
def make_and_look(letter: bytes) -> tuple[int, int]:
    MADE[:] = [make.submit(letter)]
    return look.submit(MADE[0]).result()


def test_a_large_result_goes_from_worker_to_worker_by_the_store() -> None:
    size, worker = make_and_look(b"a")
    assert size == SIZE
    assert worker != os.getpid()
    assert isinstance(MADE[0].state.data, StoredResult), "the driver has not had it"
    (record,) = the_store().records()
    assert record.size_bytes > SIZE
    make_and_look(b"a")
    assert MADE[0].state.name == "Cached"


def test_who_asks_for_it_gets_it_also_when_the_flow_is_over() -> None:
    make_and_look(b"b")
    assert isinstance(MADE[0].state.data, StoredResult)
    assert MADE[0].result() == b"b" * SIZE


def test_a_map_over_it_reads_it_in_the_workers() -> None:
    @flow(task_runner="process:2")
    def main() -> list[int]:
        made = [make.submit(letter) for letter in (b"a", b"b", b"c")]
        sizes = [size for size, _ in look.map(made).result()]
        assert all(isinstance(each.run.state.data, StoredResult) for each in made)
        return sizes

    assert main() == [SIZE] * 3


def test_a_folder_that_the_worker_may_not_write_to_is_told_of_by_the_driver(
    tmp_path: pathlib.Path, log: Log
) -> None:
    place = tmp_path / "file"
    place.write_text("no folder")

    @flow(task_runner="process:1")
    def main() -> bytes:
        return make.with_options(result_storage=place).submit(b"a").result()

    assert main() == b"a" * SIZE, "the work is done"
    assert any("cannot be stored" in line for line in log.lines)


def test_a_result_that_was_deleted_before_anybody_had_it_is_made_again() -> None:
    @flow(task_runner="process:1")
    def main() -> list[str]:
        future = make.submit(b"a")
        future.wait()
        assert the_store().delete(next(the_store().keys()))
        assert future.result() == b"a" * SIZE
        return [state.name for state in future.run.states]

    assert main()[-3:] == ["ResultLost", "Running", "Completed"]


def test_one_that_is_damaged_when_the_next_worker_reads_it_is_made_again() -> None:
    @flow(task_runner="process:1")
    def main() -> tuple[int, list[str]]:
        future = make.submit(b"a")
        future.wait()
        damage_records()
        size, _ = look.submit(future).result()
        return size, [state.name for state in future.run.states]

    size, states = main()
    assert size == SIZE
    assert states[-3:] == ["ResultLost", "Running", "Completed"]


def test_on_a_local_dask_cluster_it_is_stored_and_stays_with_the_worker() -> None:
    @flow(task_runner="dask:1")
    def main() -> Any:
        future = make.submit(b"a")
        size, _ = look.submit(future).result()
        (record,) = the_store().records()
        return size, record.size_bytes > SIZE, type(future.run.state.data).__name__

    assert main() == (SIZE, True, "KeptOnCluster")
