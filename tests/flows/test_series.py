"""A plain map on worker processes, whose runs are one object while nothing sets them apart.

Nobody can tell: each of them has a name, an id, states, logs, retries and its one end. How an item
ends depends on the level of the log, as each end is a line at INFO; so most is tried at both.
"""

from __future__ import annotations

import collections
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.flows.conftest import PROCESSES

from penstock import flow, task, wait
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from tests.flows.conftest import Log

pytestmark = pytest.mark.usefixtures("sent_by_value")

MANY = 3000
PATIENCE_SECONDS = 20.0


@pytest.fixture(params=[logging.WARNING, logging.INFO], ids=["quiet", "told"], autouse=True)
def level(request: pytest.FixtureRequest, log: Log) -> Iterator[int]:
    """Show the ends of task runs in the log, or not; that they are made is not shown."""
    log.show(request.param)
    with temporary_settings(logging_task_created_level="DEBUG"):
        yield request.param


class Notes:
    """A file to which workers append: who ran, how often."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def add(self, label: object) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{label}\n".encode())
        os.close(file)

    def read(self) -> dict[str, int]:
        return collections.Counter(self.path.read_text().split()) if self.path.exists() else {}

    def await_(self, label: str) -> None:
        """Wait until somebody has noted this."""
        deadline = time.monotonic() + 20.0
        while label not in self.read():
            assert time.monotonic() < deadline, f"nobody noted {label}"
            time.sleep(0.002)


@pytest.fixture
def notes(tmp_path: pathlib.Path) -> Notes:
    return Notes(tmp_path / "notes")


@task
def double(number: int) -> int:
    return 2 * number


def ends(futures: Any) -> dict[str, int]:
    """Return how many ended how."""
    return dict(collections.Counter(future.state.name for future in futures))


def test_what_the_runs_have_in_common_and_cannot_travel_fails_each_of_them() -> None:
    class Name(str):
        """Text that `marshal` does not take for text."""

    @flow(task_runner=PROCESSES, name=Name("named"))
    def main() -> Any:
        futures = double.map(range(5))
        futures.wait(PATIENCE_SECONDS)
        return ends(futures)

    assert main() == {"Failed": 5}


def test_to_wait_for_some_of_a_map_is_not_to_wait_for_all_of_it(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number >= 4:
            notes.await_("go")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = work.map(range(40))
        asked_at = time.monotonic()
        done, not_done = wait(futures[:4], timeout=PATIENCE_SECONDS / 4)
        assert (len(done), len(not_done)) == (4, 0)
        assert time.monotonic() - asked_at < PATIENCE_SECONDS / 4, "and at once"
        assert not any(future.done() for future in futures[4:])
        notes.add("go")
        assert futures.result(PATIENCE_SECONDS) == list(range(40))

    main()


def test_what_has_ended_is_told_while_the_next_one_of_its_batch_runs(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number == 10:
            notes.await_("go")
        return number

    @flow(task_runner="process:1")
    def main() -> None:
        futures = work.map(range(20), chunk=20)
        assert [future.result(PATIENCE_SECONDS) for future in futures[:10]] == list(range(10))
        assert not futures[10].done()
        notes.add("go")
        assert futures.result(PATIENCE_SECONDS) == list(range(20))

    main()
