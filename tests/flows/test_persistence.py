"""Promises about stored results: options T13 to T17, F11 to F14, spec row 061, user row 40."""

from __future__ import annotations

import dataclasses
import gc
import pathlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from tests.flows.conftest import LONGEST_WAIT_SECONDS

from penstock import flow, task
from penstock.cache_policies import INPUTS, NO_CACHE
from penstock.exceptions import DefinitionError, NameTemplateError
from penstock.filesystems import LocalFileSystem
from penstock.results import ResultStore
from penstock.serializers import CompressedSerializer, Serializer
from penstock.settings import current, temporary_settings
from penstock.stored_results import StoredResult

if TYPE_CHECKING:
    from tests.flows.conftest import Log

    from penstock import State
    from penstock.results import RecordMetadata

pytestmark = pytest.mark.usefixtures("sent_by_value")


def the_store(place: Any = None) -> ResultStore:
    return ResultStore(current().results_local_storage_path if place is None else place)


def records(place: Any = None) -> list[RecordMetadata]:
    return sorted(the_store(place).records(), key=lambda record: record.key)


@task
def add(x: int, y: int = 1) -> int:
    return x + y


# --- whether ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "is_stored"),
    [
        ({}, False),
        ({"persist_result": True}, True),
        ({"persist_result": False, "result_serializer": "json"}, False),
        ({"cache_policy": INPUTS}, True),
        ({"cache_policy": NO_CACHE}, False),
        ({"cache_policy": NO_CACHE, "persist_result": True}, True),
        ({"cache_key_fn": lambda context, arguments: "k"}, True),
        ({"result_storage_key": "k"}, True),
        ({"result_serializer": "json"}, True),
        ({"cache_expiration": 60}, False),
        ({"on_commit": lambda txn: None}, False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_t13_results_are_stored_where_that_was_asked_for(
    runner: str, options: dict[str, Any], is_stored: bool
) -> None:
    chosen = add.with_options(**options)

    @flow(task_runner=runner)
    def body() -> int:
        return chosen.submit(1).result()

    assert body() == 2
    assert bool(records()) is is_stored


def test_t14_storage_is_a_folder_a_path_a_url_a_file_system_or_a_store(
    tmp_path: pathlib.Path,
) -> None:
    places: list[Any] = [
        str(tmp_path / "text"),
        tmp_path / "path",
        LocalFileSystem(basepath=tmp_path / "system"),
        ResultStore(tmp_path / "store"),
        "memory://penstock-tests/url",
    ]
    for place in places:
        assert add.with_options(result_storage=place)(1) == 2
        store = place if isinstance(place, ResultStore) else the_store(place)
        assert [record.task_name for record in store.records()] == ["add"]
    assert records() == []


def test_the_settings_say_where_and_how_and_whether(tmp_path: pathlib.Path) -> None:
    with temporary_settings(
        results_persist_by_default=True,
        results_default_serializer="json",
        results_local_storage_path=str(tmp_path / "here"),
    ):
        add(1)
        add.with_options(persist_result=False)(2)
    add(3)
    (record,) = records(tmp_path / "here")
    assert record.serializer == "json"


def test_f11_to_f13_the_options_of_a_flow_are_the_defaults_of_its_tasks(
    anywhere: str, tmp_path: pathlib.Path
) -> None:
    @task
    def outer() -> int:
        return add(5)

    @flow(
        task_runner=anywhere,
        persist_result=True,
        result_storage=tmp_path / "here",
        result_serializer="json",
    )
    def body() -> None:
        add.submit(1).wait()
        add.with_options(persist_result=False).submit(2).wait()
        add.with_options(result_storage=tmp_path / "there", result_serializer="pickle")(3)
        outer.submit().wait()

    body()
    found = records(tmp_path / "here")
    assert sorted(record.task_name for record in found) == ["", "add", "add", "outer"]
    assert {record.serializer for record in found} == {"json"}
    assert [record.serializer for record in records(tmp_path / "there")] == ["pickle"]


def test_f11_the_result_of_a_flow_is_stored_under_its_run(runner: str) -> None:
    runs: list[Any] = []

    @flow(
        task_runner=runner,
        persist_result=True,
        on_completion=lambda flow, run, state: runs.append(run),
    )
    def body() -> dict[str, int]:
        return {"sum": add.with_options(persist_result=False).submit(1).result()}

    assert body() == {"sum": 2}
    (record,) = records()
    assert (record.key, record.run_name) == (str(runs[0].id), runs[0].name)
    found = the_store().read(record.key)
    assert found is not None
    assert found.value == {"sum": 2}


def test_f14_a_flow_may_keep_its_result_in_the_store_only() -> None:
    @flow(persist_result=True, cache_result_in_memory=False)
    def body() -> list[int]:
        return [1]

    state = body(return_state=True)
    assert isinstance(state.data, StoredResult)
    assert state.result() == [1]


# --- how ----------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["pickle", "json", "compressed/json", "compressed/pickle"])
def test_t15_serializers_by_name(anywhere: str, serializer: str) -> None:
    @task(cache_policy=INPUTS, result_serializer=serializer)
    def make(x: int) -> dict[str, Any]:
        return {"x": [x, 1.5, None, "text" * 100], "pair": (1, 2)}

    @flow(task_runner=anywhere)
    def body() -> list[Any]:
        return [make.submit(1).result(), make.submit(1).result()]

    first, second = body()
    assert first == second == {"x": [1, 1.5, None, "text" * 100], "pair": (1, 2)}
    assert [record.serializer for record in records()] == [serializer]


def test_t15_a_serializer_of_ones_own(anywhere: str) -> None:
    class Shouting(Serializer):
        def dumps(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def loads(self, data: bytes) -> Any:
            return data.decode()

    @task(cache_policy=INPUTS, result_serializer=CompressedSerializer(Shouting(), "lzma"))
    def say(word: str) -> str:
        return word

    @flow(task_runner=anywhere)
    def body() -> list[str]:
        return [say.submit("word").result(), say("word")]

    assert body() == ["word", "WORD"]


def test_t15_an_unknown_serializer_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="there is no serializer 'yaml'; there are 'pickle'"):
        add.with_options(result_serializer="yaml")(1)


def test_061_a_result_that_cannot_be_stored_is_a_warning_and_the_run_completes(
    runner: str, log: Log
) -> None:
    @task(cache_policy=INPUTS)
    def lock(x: int) -> Any:
        return threading.Lock()

    @flow(task_runner=runner)
    def body() -> list[str]:
        assert lock.submit(1).result().acquire(blocking=False)
        return [lock.submit(1, return_state=True).name for _ in range(2)]

    assert body() == ["Completed", "Completed"]
    warnings = [line for line in log.lines if line.startswith("WARNING")]
    assert len(warnings) == 3
    for part in ("Task run 'lock-0'", "_thread.lock cannot be pickled", "result_serializer"):
        assert part in warnings[0]
    assert records() == []


def test_061_the_result_of_a_flow_that_cannot_be_stored_is_a_warning(log: Log) -> None:
    @flow(persist_result=True)
    def body() -> object:
        return threading.Lock()

    assert body() is not None
    assert any("The flow's result cannot be stored" in line for line in log.lines)


def test_a_store_that_cannot_be_written_to_is_a_warning_and_the_run_completes(
    tmp_path: pathlib.Path, log: Log
) -> None:
    (tmp_path / "file").touch()

    @flow
    def body() -> int:
        return add.with_options(persist_result=True, result_storage=tmp_path / "file" / "x")(1)

    assert body() == 2
    (line,) = [line for line in log.lines if "cannot be stored" in line]
    assert line.startswith("WARNING")
    assert "NotADirectoryError" in line
    assert "Traceback" not in line, "the text of the error says it all"


class Broken(LocalFileSystem):
    def write_parts(self, path: Any, parts: Any) -> str:
        raise RuntimeError("a fault of its own")


@pytest.mark.parametrize("is_submitted", [True, False])
def test_a_fault_of_a_store_is_shown_with_its_traceback_and_nothing_before_it(
    tmp_path: pathlib.Path, log: Log, is_submitted: bool
) -> None:
    keep = add.with_options(persist_result=True, result_storage=Broken(tmp_path))

    @flow
    def body() -> int:
        return keep.submit(1).result() if is_submitted else keep(1)

    assert body() == 2
    (line,) = [line for line in log.lines if "was not committed" in line]
    assert line.startswith("ERROR")
    assert line.count("Traceback") == 1
    assert line.endswith("RuntimeError: a fault of its own")


# --- under which key -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("sum-{parameters[x]}-{parameters[y]}", "sum-1-1"),
        ("{flow_run.flow_name}/{task_run.task_name}", "body/add"),
        ("{flow_run.parameters[day]}/{task_run.name}", "5/add-0"),
        ("{parameters[x]:03d}.txt", "001.txt"),
        ("plain", "plain"),
    ],
)
def test_t16_a_template_gives_the_key(runner: str, template: str, key: str) -> None:
    named = add.with_options(result_storage_key=template)

    @flow(task_runner=runner)
    def body(day: int) -> int:
        return named.submit(1).result()

    assert body(5) == body(5) == 2
    (record,) = records()
    assert record.key == key


def test_t16_what_is_there_under_the_key_is_used(runner: str) -> None:
    named = add.with_options(result_storage_key="sum-{parameters[x]}")

    @flow(task_runner=runner)
    def body() -> list[Any]:
        states = [named.submit(1, y, return_state=True) for y in (1, 2)]
        return [(state.name, state.result()) for state in states]

    assert body() == [("Completed", 2), ("Cached", 2)]


def test_t16_a_template_turns_the_cache_policy_off_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="the key counts"):
        add.with_options(cache_policy=INPUTS, result_storage_key="k")


@pytest.mark.parametrize("template", ["{nope}", "{parameters[x]", "{}", "{0}", "", 5])
def test_t16_a_template_that_can_never_be_filled_in_is_refused_at_the_definition(
    template: Any,
) -> None:
    with pytest.raises(DefinitionError, match="result_storage_key"):
        add.with_options(result_storage_key=template)


@pytest.mark.parametrize(
    "template", ["{parameters[z]}", "{task_run.nope}", "{parameters[x]:%Y}", "{parameters[empty]}"]
)
def test_t16_a_template_that_cannot_be_filled_in_fails_the_run(
    anywhere: str, template: str
) -> None:
    @task(result_storage_key=template)
    def work(x: int, empty: str = "") -> int:
        raise AssertionError("it must not run")

    @flow(task_runner=anywhere)
    def body() -> list[State[int]]:
        return [work.submit(1, return_state=True), work(1, return_state=True)]

    for state in body():
        assert isinstance(state.exception(), NameTemplateError)
        assert "result_storage_key" in str(state.exception())


def test_t16_without_a_flow_a_template_that_asks_for_one_says_so() -> None:
    with pytest.raises(NameTemplateError, match="there is no flow run around it"):
        add.with_options(result_storage_key="{flow_run.name}")(1)


# --- in memory or not ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_t17_a_value_that_is_not_kept_in_memory_is_read_anew(anywhere: str, how: str) -> None:
    @task(persist_result=True, cache_result_in_memory=False)
    def make(x: int) -> list[int]:
        return [x]

    @flow(task_runner=anywhere)
    def body() -> None:
        ways: dict[str, Any] = {"call": make, "submit": make.submit, "map": make.map}
        state = ways[how]([1] if how == "map" else 1, return_state=True)
        state = state[0] if how == "map" else state
        assert isinstance(state.data, StoredResult)
        state.result().append(2)
        assert state.result() == [1]

    body()


def test_t17_it_is_not_held_by_anybody() -> None:
    @dataclasses.dataclass(eq=False)
    class Large:
        size: int

    alive: weakref.WeakSet[Large] = weakref.WeakSet()

    @task(cache_policy=INPUTS, cache_result_in_memory=False)
    def make(size: int) -> Large:
        made = Large(size)
        alive.add(made)
        return made

    @flow(task_runner="thread:2")
    def body() -> list[int]:
        futures = [*make.map(range(5)), *make.map(range(5))]
        for future in futures:
            future.wait()
        gc.collect()
        assert len(alive) == 0
        return [future.result().size for future in futures]

    assert body() == [*range(5)] * 2


def test_t17_it_feeds_other_tasks(anywhere: str) -> None:
    make = add.with_options(persist_result=True, cache_result_in_memory=False)

    @flow(task_runner=anywhere)
    def body() -> list[int]:
        return add.map(make.map(range(3))).result()

    assert body() == [2, 3, 4]


def test_t17_a_value_whose_file_was_removed_is_a_clear_error(runner: str) -> None:
    make = add.with_options(persist_result=True, cache_result_in_memory=False)

    @flow(task_runner=runner)
    def body() -> list[str]:
        future = make.submit(1)
        future.wait()
        for record in records():
            the_store().delete(record.key)
        with pytest.raises(LookupError, match="is not in its store any more"):
            future.result()
        return [str(add.submit(future).exception()), future.state.name]

    message, name = body()
    assert "is not in its store any more" in message
    assert name == "Completed"


def test_t17_a_value_that_has_expired_is_there_for_the_run_that_has_it(runner: str) -> None:
    make = add.with_options(cache_policy=INPUTS, cache_result_in_memory=False, cache_expiration=0)

    @flow(task_runner=runner)
    def body() -> int:
        return make.submit(1).result(timeout=LONGEST_WAIT_SECONDS)

    assert body() == 2


# --- what piles up --------------------------------------------------------------------------


def test_user_040_what_expired_is_collected_at_the_end_of_a_flow() -> None:
    @flow
    def body(expiration: int) -> None:
        add.with_options(cache_policy=INPUTS, cache_expiration=expiration)(expiration)

    body(0)  # expired when it was written
    for thread in threading.enumerate():
        if thread.name == "penstock-collector":
            thread.join(LONGEST_WAIT_SECONDS)
    assert records() == []


def test_user_040_a_store_of_limited_size_keeps_to_it() -> None:
    with temporary_settings(results_max_bytes=3000):

        @flow
        def body() -> None:
            for x in range(20):
                add.with_options(persist_result=True)(x)

        body()
        for thread in threading.enumerate():
            if thread.name == "penstock-collector":
                thread.join(LONGEST_WAIT_SECONDS)
    assert 0 < the_store().stats().size_bytes <= 3000


def test_nothing_is_opened_or_written_by_a_flow_that_keeps_nothing(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> int:
        return add.submit(1).result()

    assert body() == 2
    assert not pathlib.Path(current().results_local_storage_path).exists()
