"""Results that workers store: when the driver lets them, and when it believes that they did.

The runner is moved by hand: a test calls the writer that an attempt brings, as a worker would.
"""

from __future__ import annotations

import dataclasses
import datetime
import pickle
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from tests.support import KeptUntilLost

from penstock import PenstockFuture, State, task
from penstock.attempt import RemoteError
from penstock.cache_policies import INPUTS
from penstock.exceptions import DefinitionError
from penstock.filesystems import FileSystem, LocalFileSystem, RemoteFileSystem
from penstock.results import ResultStore
from penstock.settings import current
from penstock.states import Completed
from penstock.stored_results import StoredResult, StoredResultLost
from penstock.task_runners import Attempt, Capabilities, Outcome
from penstock.testing import ManualTaskRunner
from penstock.testing.utilities import EngineForTest, engine_for_test
from penstock.transactions import transaction
from penstock.worker import packing
from penstock.worker.errors import pack_error

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from penstock.task_runners import TaskRunner

ELSEWHERE = Capabilities(pickles=True, reaches_storage="machine")
LARGE = b"x" * 2_000_000


class WorkersElsewhere(ManualTaskRunner):
    """Whose workers store what they are asked to."""

    def __init__(self) -> None:
        super().__init__(capabilities=ELSEWHERE)

    def report_stored(self, attempt_id: int, stored_bytes: int, value: Any = None) -> None:
        self._end(Outcome(attempt_id, "returned", value, stored_bytes=stored_bytes))

    def report_error(self, attempt_id: int, error: RemoteError) -> None:
        self._end(Outcome(attempt_id, "raised", error=error))


class Bench:
    def __init__(self, bench: EngineForTest) -> None:
        self.bench = bench
        self.runner: WorkersElsewhere = bench.runner

    def attempt(self) -> Attempt:
        (attempt,) = self.runner.open_attempts
        return attempt

    def store(self, value: Any = LARGE, *, kept: Any = None) -> None:
        """Do as a worker that has made the value."""
        attempt = self.attempt()
        stored = writer_of(attempt)(value, packing.pack(value))
        assert stored is not None
        self.report_stored(stored, kept)

    def report_stored(self, stored_bytes: int, kept: Any = None) -> None:
        self.runner.report_stored(self.attempt().id, stored_bytes, kept)
        self.bench.drain()

    def finish(self, value: Any) -> None:
        self.runner.finish(self.attempt().id, value)
        self.bench.drain()


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Iterator[Bench]:
    place = str(tmp_path / "results")
    with engine_for_test(WorkersElsewhere(), results_local_storage_path=place) as bench:
        yield Bench(bench)


@task(persist_result=True, cache_policy=INPUTS)
def make(x: int = 1) -> Any:
    return "never called: the test says what comes of it"


@task
def use(value: Any) -> Any:
    return value


def writer_of(attempt: Attempt) -> Any:
    assert attempt.environment is not None
    writer = attempt.environment.writer
    return None if writer is None else pickle.loads(writer)


def the_store() -> ResultStore:
    return ResultStore(current().results_local_storage_path)


def names(future: PenstockFuture[Any]) -> list[str]:
    return [state.name for state in future.run.states]


# --- when it is known at home -------------------------------------------------------------


def test_what_a_worker_has_stored_is_read_when_it_is_asked_for_and_written_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = make.submit()
    bench.store()
    assert future.run.state.type.name == "COMPLETED"
    assert isinstance(future.run.state.data, StoredResult)
    (record,) = the_store().records()
    assert (record.run_id, record.run_name, record.task_name) == (
        str(future.run.id),
        "make-0",
        "make",
    )
    assert record.parts, "the record can say what its key was made of"
    assert future.result() == LARGE
    monkeypatch.setattr(ResultStore, "read", None)  # it is in memory now
    assert future.result() == LARGE


def test_an_equal_run_finds_what_the_worker_has_stored(bench: Bench) -> None:
    make.submit()
    bench.store()
    assert names(make.submit()) == ["Pending", "Cached"]


def test_what_is_found_stays_where_it_is_until_it_is_asked_for(bench: Bench) -> None:
    make.submit()
    bench.store()
    found = make.submit()
    assert names(found) == ["Pending", "Cached"]
    assert isinstance(found.run.state.data, StoredResult)
    use.submit(found)
    ((argument,),) = (attempt.args for attempt in bench.runner.open_attempts)
    assert isinstance(argument, StoredResult)
    assert found.result() == LARGE


@pytest.mark.parametrize(
    "options", [{"cache_result_in_memory": False}, {"result_on": "driver"}, {"refresh_cache": True}]
)
def test_what_is_found_is_read_at_once_where_that_is_not_enough(
    bench: Bench, options: dict[str, Any]
) -> None:
    make.submit()
    bench.store()
    state = make.with_options(**options).submit().run.state
    assert not isinstance(state.data, StoredResult) or state.data.is_read_anew


def test_what_is_found_damaged_or_expired_is_a_miss(bench: Bench) -> None:
    brief = make.with_options(cache_expiration=datetime.timedelta(microseconds=1))
    brief.submit(1)
    bench.store()
    assert names(brief.submit(1))[-1] != "Cached"
    bench.finish("small")
    make.submit(2)
    bench.store()
    damage(the_store())
    assert names(make.submit(2))[-1] != "Cached"


def test_what_is_found_and_cannot_be_loaded_is_made_again(bench: Bench) -> None:
    make.submit()
    bench.store(Fleeting(LARGE))
    found = make.submit()
    using = use.submit(found)
    Fleeting.is_known = False
    try:
        read_as_a_worker_does(bench)
        assert bench.attempt().name == "make-1"
        bench.finish("again")
    finally:
        Fleeting.is_known = True
    assert pickle.loads(pickle.dumps(bench.attempt().args)) == ("again",)
    bench.finish("used")
    assert names(found)[-3:] == ["ResultLost", "Running", "Completed"]
    assert names(using)[-1] == "Completed"


class Fleeting:
    """Of a class that is gone when it is loaded."""

    is_known = True

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not self.is_known:
            raise AttributeError("no such class")
        vars(self).update(state)


def test_who_waits_for_the_same_result_gets_it(bench: Bench) -> None:
    first, second = make.submit(), make.submit()
    bench.store()
    assert (names(first)[-1], names(second)[-1]) == ("Completed", "Cached")
    assert second.result() == LARGE


def test_with_cache_result_in_memory_off_it_is_read_whenever_it_is_asked_for(bench: Bench) -> None:
    future = make.with_options(cache_result_in_memory=False).submit()
    bench.store()
    assert future.result() == LARGE
    assert isinstance(future.run.state.data, StoredResult)


def test_the_record_expires_as_the_task_says(bench: Bench) -> None:
    make.with_options(cache_expiration=60).submit()
    bench.store()
    (record,) = the_store().records()
    assert record.expires_at is not None
    assert (record.expires_at - record.created_at).total_seconds() == 60


def test_another_serializer_is_used_by_the_worker_as_well(bench: Bench) -> None:
    future = make.with_options(result_serializer="json").submit()
    bench.store(["x" * 2_000_000])
    (record,) = the_store().records()
    assert record.serializer == "json"
    assert future.result() == ["x" * 2_000_000]


def test_a_result_that_the_worker_did_not_store_is_stored_by_the_driver(bench: Bench) -> None:
    future = make.submit()
    bench.finish("small")
    assert future.run.state.data == "small"
    assert [record.task_name for record in the_store().records()] == ["make"]


# --- as an argument -----------------------------------------------------------------------


def test_a_stored_result_goes_to_a_worker_as_where_it_is(bench: Bench) -> None:
    future = make.submit()
    bench.store()
    use.submit([future])
    ((argument,),) = bench.attempt().args
    assert isinstance(argument, StoredResult)
    assert pickle.loads(pickle.dumps(argument)) == LARGE


def test_a_worker_that_does_not_reach_the_store_gets_the_value(bench: Bench) -> None:
    future = make.submit()
    bench.store()
    handle = future.run.plan.runner
    handle.capabilities = dataclasses.replace(ELSEWHERE, reaches_storage="nothing")
    use.submit(future)
    assert bench.attempt().args == (LARGE,)


def test_a_lost_record_is_made_again_for_who_needs_it_and_then_kept_in_memory(
    bench: Bench,
) -> None:
    future = make.submit()
    bench.store()
    (record,) = the_store().records()
    the_store().delete(record.key)
    use.submit(future)
    assert bench.attempt().name == "make-0"
    assert writer_of(bench.attempt()) is None
    bench.finish("again")
    assert bench.attempt().args == ("again",)
    assert names(future)[-3:] == ["ResultLost", "Running", "Completed"]


def read_as_a_worker_does(bench: Bench) -> None:
    """Read the arguments of the attempt, and report what a worker reports if that fails."""
    attempt = bench.attempt()
    try:
        pickle.loads(pickle.dumps(attempt.args))
    except LookupError as error:
        bench.runner.report_error(attempt.id, RemoteError(*pack_error(error)))
        bench.bench.drain()


def damage(store: ResultStore) -> None:
    """Change one byte of the value of every record, as a bad disk would."""
    for each in store.survey():
        content = bytearray(store.filesystem.read_path(each.entry.path))
        content[-100] ^= 1
        store.filesystem.write_path(each.entry.path, bytes(content))


def test_a_record_that_its_reader_finds_damaged_is_made_again(bench: Bench) -> None:
    future = make.submit()
    bench.store()
    using = use.submit({"deep": [future]})
    damage(the_store())
    read_as_a_worker_does(bench)
    assert bench.attempt().name == "make-0"
    bench.finish("again")
    assert bench.attempt().args == ({"deep": [ANY]},)
    assert pickle.loads(pickle.dumps(bench.attempt().args)) == ({"deep": ["again"]},)
    bench.finish("used")
    assert (names(using)[-1], names(future)[-1]) == ("Completed", "Completed")


def test_a_record_that_was_lost_on_the_way_after_its_value_came_home_is_sent_as_the_value(
    bench: Bench,
) -> None:
    future = make.submit()
    bench.store()
    use.submit(future)
    assert future.result() == LARGE
    damage(the_store())
    read_as_a_worker_does(bench)
    assert pickle.loads(pickle.dumps(bench.attempt().args)) == (LARGE,)
    assert names(future)[-1] == "Completed", "it was not made again"


def test_who_reads_it_and_does_not_see_the_same_files_is_sent_the_value(bench: Bench) -> None:
    future = make.submit()
    bench.store()
    using = use.submit(future)
    error = StoredResultLost(f"the result with the key {future.run.state.data.key!r} is not there")
    bench.runner.report_error(bench.attempt().id, RemoteError(*pack_error(error)))
    bench.bench.drain()
    assert pickle.loads(pickle.dumps(bench.attempt().args)) == (LARGE,)
    bench.finish("used")
    assert names(using)[-1] == "Completed"
    make.submit(2)
    assert writer_of(bench.attempt()) is None, "the driver stores from now on"


def test_an_error_about_another_result_is_the_functions_own(bench: Bench) -> None:
    future = make.submit()
    bench.store()
    using = use.submit(future)
    error = StoredResultLost("the result with the key 'another' is not there")
    bench.runner.report_error(bench.attempt().id, RemoteError(*pack_error(error)))
    bench.bench.drain()
    assert names(using)[-1] == "Failed"


def test_a_result_that_is_replaced_in_the_store_stays_that_of_its_run(bench: Bench) -> None:
    first = make.submit()
    bench.store()
    second = make.with_options(refresh_cache=True).submit()
    bench.store(b"y" * 2_000_000)
    assert first.result() == LARGE
    assert second.result() == b"y" * 2_000_000


# --- when it is not believed ----------------------------------------------------------------


def test_a_record_that_is_not_seen_from_here_makes_the_attempt_a_lost_one(bench: Bench) -> None:
    future = make.submit()
    bench.report_stored(2_000_000)
    assert "no such record is seen from here" in (future.run.state.message or "")
    assert writer_of(bench.attempt()) is None, "the driver stores what the next attempt makes"
    bench.finish(LARGE)
    assert names(future)[-3:] == ["Crashed", "Retrying", "Completed"]
    assert [record.run_id for record in the_store().records()] == [str(future.run.id)]


def test_an_older_record_of_the_same_key_is_not_taken_for_it(bench: Bench) -> None:
    make.submit()
    bench.store(b"old" * 1_000_000)
    bench.bench.clock.advance(10_000_000_000)  # the driver's clock, far after the record's
    future = make.with_options(refresh_cache=True).submit()
    bench.report_stored(2_000_000)
    assert names(future)[-1] == "Crashed"


def test_what_stayed_with_the_worker_as_well_comes_home_from_there(bench: Bench) -> None:
    future = make.submit()
    kept = KeptUntilLost(LARGE, bench.runner)
    bench.report_stored(2_000_000, kept)
    assert names(future)[-1] == "Completed"
    (record,) = the_store().records()
    found = the_store().read(record.key)
    assert found is not None
    assert found.value == LARGE


def test_what_stays_with_the_worker_and_is_stored_is_not_brought_home(bench: Bench) -> None:
    future = make.submit()
    kept = KeptUntilLost(LARGE, bench.runner)
    bench.store(kept=kept)
    assert future.run.state.data is kept


def test_result_on_storage_asks_for_it_and_for_nothing_else(bench: Bench) -> None:
    future = use.with_options(result_on="storage").submit(1)
    assert bench.attempt().result_on == "driver", "and not with the worker"
    bench.store()
    assert isinstance(future.run.state.data, StoredResult)
    with pytest.raises(DefinitionError, match="contradict each other"):
        use.with_options(result_on="storage", persist_result=False)


# --- when the driver stores it --------------------------------------------------------------


def refuse(obj: Any, old: State[Any], new: State[Any]) -> None:
    """A state handler, which may still make something else of it."""


@pytest.mark.parametrize(
    "options",
    [
        {"persist_result": False, "cache_policy": None},
        {"result_on": "driver"},
        {"on_commit": [lambda txn: None]},
        {"on_rollback": [lambda txn: None]},
        {"state_handlers": [refuse]},
        {"cache_policy": INPUTS.configure(isolation_level="SERIALIZABLE")},
        {"result_storage": RemoteFileSystem("memory://penstock-tests/elsewhere")},
    ],
    ids=lambda options: "-".join(options),
)
def test_the_driver_stores_where_more_than_the_outcome_decides(
    bench: Bench, options: dict[str, Any]
) -> None:
    make.with_options(**options).submit()
    assert writer_of(bench.attempt()) is None
    assert bench.attempt().result_on == ("auto" if "persist_result" in options else "driver")


def test_the_driver_stores_what_a_transaction_around_it_decides_about(bench: Bench) -> None:
    with transaction():
        make.submit()
        assert writer_of(bench.attempt()) is None
        bench.finish("small")


def test_a_state_that_was_returned_goes_home_first(bench: Bench) -> None:
    make.submit()
    state: State[bytes] = Completed(data=LARGE)
    assert writer_of(bench.attempt())(state, packing.pack(state)) is None
    assert list(the_store().records()) == []


class OwnFiles(LocalFileSystem):
    reach = "process"


class Unpicklable(LocalFileSystem):
    def __reduce__(self) -> Any:
        raise TypeError("it is only here")


@pytest.mark.parametrize("kind", [OwnFiles, Unpicklable])
def test_a_file_system_of_this_process_is_written_to_from_here(
    bench: Bench, kind: type[LocalFileSystem], tmp_path: pathlib.Path
) -> None:
    make.with_options(result_storage=kind(tmp_path / "own")).submit()
    assert writer_of(bench.attempt()) is None


@pytest.mark.parametrize(
    ("files", "workers", "is_written_there"),
    [
        (LocalFileSystem("x"), "machine", True),
        (LocalFileSystem("x"), "network", False),
        (LocalFileSystem("x"), "nothing", False),
        (RemoteFileSystem("s3://bucket/x"), "machine", True),
        (RemoteFileSystem("s3://bucket/x"), "network", True),
        (RemoteFileSystem("s3://bucket/x"), "nothing", False),
    ],
)
def test_workers_write_where_they_reach(
    files: FileSystem, workers: Any, is_written_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultStore, "read", lambda *_, **__: None)
    runner: TaskRunner = ManualTaskRunner(
        capabilities=Capabilities(pickles=True, reaches_storage=workers)
    )
    with engine_for_test(runner) as bench:
        make.with_options(result_storage=files).submit()
        (attempt,) = bench.runner.open_attempts
        assert (writer_of(attempt) is not None) is is_written_there


@pytest.mark.parametrize("shares_workers", [False, True])
def test_a_signing_key_goes_to_workers_of_ours_only(
    shares_workers: bool, tmp_path: pathlib.Path
) -> None:
    capabilities = dataclasses.replace(ELSEWHERE, shares_workers=shares_workers)
    store = ResultStore(tmp_path / "signed", signing_key="secret")
    with engine_for_test(ManualTaskRunner(capabilities=capabilities)) as bench:
        make.with_options(result_storage=store).submit()
        (attempt,) = bench.runner.open_attempts
        assert (writer_of(attempt) is None) is shares_workers
