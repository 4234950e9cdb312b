"""Promises about cached results, from the user's eye: spec rows 003, 064, 065, 071 and 077 to 085,
user rows 19 and 20, and numbers 2 and 3 of what goes wrong with Prefect."""

from __future__ import annotations

import asyncio
import datetime
import os
import pathlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    TASK_SOURCE_DEEP,
    CachePolicy,
)
from penstock.exceptions import DefinitionError, UnhashableInputError
from penstock.hashing import stable_hash
from penstock.results import ResultStore
from penstock.runtime import task_run as current_task_run
from penstock.settings import current, temporary_settings
from penstock.states import Failed
from penstock.tasks import task_input_hash
from penstock_runners.thread import ThreadPoolTaskRunner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from tests.flows.conftest import Log

    from penstock import PenstockFuture, State
    from penstock.attempt import Attempt

pytestmark = pytest.mark.usefixtures("sent_by_value")

LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def calls(tmp_path: pathlib.Path) -> Calls:
    return Calls(str(tmp_path / "calls"))


class Calls:
    """Counts executions, in this process and in others."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __stable_hash__(self) -> str:
        return "calls"

    def note(self) -> None:
        with open(self.path, "ab") as file:
            file.write(b".")

    def count(self) -> int:
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0


class CountingRunner(ThreadPoolTaskRunner):
    """Notes whether it was opened, and how many attempts it got."""

    def __init__(self) -> None:
        super().__init__(2)
        self.noted: list[str] = []  # shared with the copy that serves a run

    def open(self, *args: Any) -> None:
        self.noted.append("opened")
        super().open(*args)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        self.noted += ["attempt"] * len(attempts)
        super().submit(attempts)


def the_store() -> ResultStore:
    return ResultStore(current().results_local_storage_path)


@task(cache_policy=INPUTS)
def double(x: int, calls: Calls) -> int:
    calls.note()
    return 2 * x


@task(cache_policy=INPUTS)
def as_a_list(x: Any, calls: Calls) -> list[Any]:
    calls.note()
    return [x]


# --- a hit --------------------------------------------------------------------------------


def test_003_and_065_a_result_is_used_again_in_other_flows_and_outside(
    anywhere: str, calls: Calls
) -> None:
    @flow(task_runner=anywhere)
    def body() -> int:
        return double.submit(2, calls).result()

    assert [body(), body(), double(2, calls)] == [4, 4, 4]
    assert calls.count() == 1


def names(runner: str, *items: Any) -> list[str]:
    """Return the names of the states of submitted runs, one after the other."""

    @flow(task_runner=runner)
    def body() -> list[str]:
        return [str(item().name) for item in items]

    return body()


def test_077_a_hit_is_cached_and_completed_and_never_runs(anywhere: str, calls: Calls) -> None:
    seen: list[Any] = []

    def look(task: Any, run: Any, state: Any) -> None:
        seen.append((state.name, state.type.value, run.run_count, [s.name for s in run.states]))

    watched = double.with_options(on_completion=look, on_running=lambda: seen.append("running"))

    @flow(task_runner=anywhere)
    def body() -> None:
        for _ in range(2):
            assert watched.submit(2, calls).result() == 4
        assert watched(2, calls) == 4

    body()
    hit = ("Cached", "COMPLETED", 0, ["Pending", "Cached"])
    ran = ("Completed", "COMPLETED", 1, ["Pending", "Running", "Completed"])
    assert seen == ["running", ran, hit, hit]


def test_user_020_a_hit_is_no_dispatch_and_opens_no_pool(calls: Calls) -> None:
    runners = [CountingRunner(), CountingRunner()]

    def run(runner: CountingRunner) -> list[int]:
        @flow(task_runner=runner)
        def body() -> list[int]:
            return double.map(range(5), calls).result()

        return body()

    assert run(runners[0]) == run(runners[1]) == [0, 2, 4, 6, 8]
    assert [sorted(each.noted) for each in runners] == [["attempt"] * 5 + ["opened"], []]


def test_user_020_a_hit_starts_no_process(calls: Calls) -> None:
    before = set(threading.enumerate())
    double(1, calls)

    @flow(task_runner="process:2")
    def body() -> int:
        future = double.submit(1, calls)
        assert not [t for t in set(threading.enumerate()) - before if "process" in t.name]
        return future.result()

    assert body() == 2
    assert calls.count() == 1


def test_a_hit_takes_no_place_of_a_limit(calls: Calls) -> None:
    limited = double.with_options(max_concurrency=1, tags=["db"])
    limited(1, calls)
    inside, leave = threading.Event(), threading.Event()

    @task(tags=["db"])
    def hold() -> None:
        inside.set()
        assert leave.wait(10)

    @flow(task_runner="thread:2", tag_limits={"db": 1})
    def body() -> None:
        holding = hold.submit()
        assert inside.wait(10)
        assert limited.submit(1, calls).result(timeout=10) == 2
        assert limited(1, calls) == 2
        leave.set()
        holding.result()

    body()
    assert calls.count() == 1


def test_state_handlers_see_a_hit_and_may_change_it(runner: str, calls: Calls) -> None:
    def veto(task: Any, old: Any, new: State[Any]) -> State[Any] | None:
        return Failed("not from the cache") if new.name == "Cached" else None

    watched = double.with_options(state_handlers=veto)

    @flow(task_runner=runner)
    def body() -> list[str]:
        return [str(watched.submit(3, calls, return_state=True)) for _ in range(2)]

    assert body() == ["Completed()", "Failed('not from the cache')"]


def test_a_value_from_the_store_is_new_each_time(calls: Calls) -> None:
    first, second = as_a_list(1, calls), as_a_list(1, calls)
    first.append(2)
    second.append(3)
    assert as_a_list(1, calls) == [1]
    assert calls.count() == 1


def test_none_is_a_result_like_any_other(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def nothing(calls: Calls) -> None:
        calls.note()

    assert [nothing(calls), nothing(calls)] == [None, None]
    assert calls.count() == 1


def test_a_failure_is_not_cached(runner: str, calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def fail_once(calls: Calls) -> int:
        calls.note()
        if calls.count() == 1:
            raise ValueError("once")
        return calls.count()

    @flow(task_runner=runner)
    def body() -> list[Any]:
        return [fail_once.submit(calls).result(raise_on_failure=False) for _ in range(3)]

    first, *others = body()
    assert isinstance(first, ValueError)
    assert others == [2, 2]


def test_the_record_says_which_run_made_it(calls: Calls) -> None:
    made: list[Any] = []

    @flow
    def body() -> None:
        double.with_options(on_completion=lambda task, run, state: made.append(run))(7, calls)

    body()
    (record,) = the_store().records()
    run = made[0]
    assert (record.run_id, record.run_name, record.task_name) == (str(run.id), run.name, "double")
    assert record.key == run.key
    assert record.parts["input x"][1] == "7"


# --- what a key is made of ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_077_a_function_makes_the_key_of_context_and_arguments(calls: Calls, how: str) -> None:
    asked: list[Any] = []

    def by_x(context: Any, arguments: dict[str, Any]) -> str:
        asked.append((context.task.name, context.task_run.name, sorted(arguments)))
        return f"x-{arguments['x']}"

    keyed = double.with_options(cache_policy=None, cache_key_fn=by_x)

    @flow(task_runner="thread:2")
    def body() -> Any:
        match how:
            case "call":
                return [keyed(1, calls), keyed(x=1, calls=calls)]
            case "submit":
                return [keyed.submit(1, calls).result() for _ in range(2)]
            case _:
                return keyed.map([1, 1], calls).result()

    assert body() == [2, 2]
    assert calls.count() == 1
    assert asked == [("double", f"double-{n}", ["calls", "x"]) for n in range(2)]


@pytest.mark.parametrize("expiration", [float("inf"), 1e15, datetime.timedelta.max])
def test_085_what_no_calendar_reaches_is_for_ever(
    calls: Calls, expiration: float | datetime.timedelta
) -> None:
    keep = double.with_options(cache_expiration=expiration)
    assert keep.cache_expiration is None
    assert [keep(1, calls), keep(1, calls)] == [2, 2]
    assert calls.count() == 1


def test_077_a_key_function_wins_over_a_policy_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="the function counts") as warned:
        double.with_options(cache_key_fn=lambda context, arguments: "k")
    assert warned[0].filename == __file__, "it shows the line that has to be changed"


def test_077_no_key_is_no_caching_and_the_result_is_kept_under_the_run(calls: Calls) -> None:
    keyed = double.with_options(cache_policy=None, cache_key_fn=lambda context, arguments: None)
    assert [keyed(1, calls), keyed(1, calls)] == [2, 2]
    assert calls.count() == 2
    assert {record.run_id for record in the_store().records()} == set(the_store().keys())


def test_077_a_key_function_that_fails_fails_the_run(runner: str, calls: Calls) -> None:
    def broken(context: Any, arguments: Any) -> str:
        raise KeyError("no such column")

    @flow(task_runner=runner)
    def body() -> State[int]:
        keyed = double.with_options(cache_policy=None, cache_key_fn=broken)
        return keyed.submit(1, calls, return_state=True)

    state = body(return_state=True)
    assert isinstance(state.exception(), KeyError)
    assert calls.count() == 0


@pytest.mark.parametrize("anywhere", ["thread", "process:2"])
def test_064_and_065_the_usual_key_function(anywhere: str, calls: Calls) -> None:
    keyed = double.with_options(
        cache_policy=None,
        cache_key_fn=task_input_hash,
        cache_expiration=datetime.timedelta(hours=1),
    )

    @flow(task_runner=anywhere)
    def body() -> list[int]:
        return [keyed.submit(1, calls).result(), keyed(1, calls), keyed.submit(2, calls).result()]

    assert body() == body() == [2, 2, 4]
    assert calls.count() == 2


@pytest.mark.parametrize(
    ("policy", "executions"),
    [
        (INPUTS, [1, 1, 2, 2]),
        (TASK_SOURCE, [1, 1, 1, 1]),
        (TASK_SOURCE_DEEP, [1, 1, 1, 1]),
        (INPUTS + TASK_SOURCE, [1, 1, 2, 2]),
        (INPUTS - "x", [1, 1, 1, 1]),
        (RUN_ID, [1, 1, 1, 2]),
        (FLOW_PARAMETERS, [1, 1, 1, 2]),
        (FLOW_PARAMETERS + INPUTS, [1, 1, 2, 3]),
        (DEFAULT, [1, 1, 2, 3]),
        (NONE, [1, 2, 3, 4]),
        (NO_CACHE, [1, 2, 3, 4]),
        (INPUTS + NONE, [1, 1, 2, 2]),
    ],
    ids=repr,
)
def test_079_to_084_policies_say_what_a_result_depends_on(
    calls: Calls, policy: CachePolicy, executions: list[int]
) -> None:
    cached = double.with_options(cache_policy=policy)
    counts: list[int] = []

    @flow
    def body(day: int, inputs: list[int]) -> None:
        for x in inputs:
            cached(x, calls)
            counts.append(calls.count())

    body(1, [1, 1, 2])
    body(2, [1])
    assert counts == executions


def test_078_a_policy_of_ones_own(calls: Calls) -> None:
    class Parity(CachePolicy):
        def compute_key(
            self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any
        ) -> str | None:
            return f"parity-{inputs['x'] % 2}"

    cached = double.with_options(cache_policy=Parity())
    assert [cached(1, calls), cached(3, calls), cached(4, calls)] == [2, 2, 8]


def test_078_policy_and_no_persistence_is_no_caching_with_a_warning(calls: Calls) -> None:
    with pytest.warns(UserWarning, match="nothing is cached"):
        cached = double.with_options(persist_result=False)
    assert [cached(1, calls), cached(1, calls)] == [2, 2]
    assert calls.count() == 2
    assert list(the_store().keys()) == []


def test_078_what_is_no_policy_is_refused_at_the_definition() -> None:
    with pytest.raises(DefinitionError, match="cache_policy is a CachePolicy, not 'INPUTS'"):
        double.with_options(cache_policy="INPUTS")  # type: ignore[arg-type]


def test_003_a_plain_task_is_not_cached_and_stores_nothing(calls: Calls) -> None:
    plain = double.with_options(cache_policy=None)

    @flow
    def body() -> None:
        plain(1, calls)
        plain.submit(1, calls)

    body()
    assert calls.count() == 2
    assert not os.path.exists(current().results_local_storage_path)


def test_079_and_fault_3_keys_are_exact_in_types(calls: Calls) -> None:
    values: list[Any] = [(1, 2), [1, 2], {1: 2}, {"1": 2}, 1, True, 1.0, "1", b"1", {1}]
    assert [as_a_list(x, calls) for x in values for _ in range(2)] == [
        [x] for x in values for _ in range(2)
    ]
    assert calls.count() == len(values)


def test_defaults_count_as_if_they_were_given(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def scaled(calls: Calls, x: int, factor: int = 2) -> int:
        calls.note()
        return x * factor

    assert {scaled(calls, 1), scaled(calls, x=1), scaled(calls, 1, factor=2)} == {2}
    assert calls.count() == 1


def test_methods_are_cached_by_what_they_are_bound_to(calls: Calls) -> None:
    class Table:
        def __init__(self, name: str) -> None:
            self.name = name

        def __stable_hash__(self) -> str:
            return self.name

        @task(cache_policy=INPUTS)
        def column(self, number: int, calls: Calls) -> str:
            calls.note()
            return f"{self.name}.{number}"

    a, b = Table("a"), Table("b")
    assert [each.column(1, calls) for each in (a, b, a, b)] == ["a.1", "b.1", "a.1", "b.1"]
    assert calls.count() == 2


def test_futures_count_by_their_values(calls: Calls) -> None:
    @flow(task_runner="thread:2")
    def body() -> list[int]:
        two = double.submit(1, calls)
        return [double.submit(two, calls).result(), double(2, calls)]

    assert body() == [4, 4]
    assert calls.count() == 2


def test_tasks_and_flows_are_good_arguments(calls: Calls) -> None:
    def made(factor: int) -> Any:
        @task
        def times(x: int) -> int:
            return x * factor

        return times

    @flow
    def inner() -> int:
        return 1

    @task(cache_policy=INPUTS)
    def apply(fn: Any, calls: Calls) -> int:
        calls.note()
        return int(fn.fn(2)) if fn is not inner else 0

    found = [apply(fn, calls) for fn in (made(2), made(3), made(2), inner, inner)]
    assert found == [4, 6, 4, 0, 0]
    assert calls.count() == 3
    assert stable_hash(double) == stable_hash(double.with_options(retries=3))
    assert stable_hash(double) != stable_hash(double.with_options(name="other"))


# --- inputs that have no hash -------------------------------------------------------------


class Client:
    """Known by nothing but its identity."""


def test_user_019_an_unhashable_input_fails_the_run_and_names_the_ways_out(
    anywhere: str, calls: Calls
) -> None:
    @flow(task_runner=anywhere)
    def body() -> list[State[Any]]:
        return [
            as_a_list.submit(Client(), calls, return_state=True),
            as_a_list(Client(), calls, return_state=True),
        ]

    for state in body():
        error = state.exception()
        assert isinstance(error, UnhashableInputError)
        for part in ("argument 'x'", "Client", "INPUTS - 'x'", "__stable_hash__()", "cache_key_fn"):
            assert part in str(error)
    assert calls.count() == 0


def test_user_019_it_can_be_left_out(calls: Calls) -> None:
    without = as_a_list.with_options(cache_policy=INPUTS - "x")
    assert isinstance(without(Client(), calls)[0], Client)
    assert isinstance(without(Client(), calls)[0], Client)
    assert calls.count() == 1


def test_what_is_only_persisted_need_not_be_hashable(calls: Calls, log: Log) -> None:
    persisted = as_a_list.with_options(cache_policy=None, persist_result=True)

    @flow
    def body() -> None:
        persisted(Client(), calls)

    body()
    assert calls.count() == 1
    assert any("is stored, and not cached: argument 'x'" in line for line in log.lines)
    assert len(list(the_store().keys())) == 1


# --- for how long -------------------------------------------------------------------------


def age(store: ResultStore, by: datetime.timedelta) -> None:
    """Make all records as old as if they had been written so long ago."""
    for record in list(store.records()):
        found = store.read(record.key)
        assert found is not None
        assert record.expires_at is not None
        store.write(record.key, found.value, expires_at=record.expires_at - by)


@pytest.mark.parametrize("expiration", [datetime.timedelta(hours=1), 3600, 3600.0])
def test_065_and_085_it_runs_again_after_the_expiry(calls: Calls, expiration: Any) -> None:
    cached = double.with_options(cache_expiration=expiration)
    cached(1, calls)
    age(the_store(), datetime.timedelta(minutes=59))
    cached(1, calls)
    assert calls.count() == 1
    age(the_store(), datetime.timedelta(minutes=2))
    cached(1, calls)
    cached(1, calls)
    assert calls.count() == 2


def test_085_by_default_a_result_never_expires(calls: Calls) -> None:
    double(1, calls)
    assert [record.expires_at for record in the_store().records()] == [None]


def test_085_what_is_no_time_is_refused_at_the_definition() -> None:
    with pytest.raises(DefinitionError, match="cache_expiration is a timedelta or a number"):
        double.with_options(cache_expiration="1 h")  # type: ignore[arg-type]


def test_refresh_runs_again_and_replaces_what_is_stored(runner: str, calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def number(calls: Calls) -> int:
        calls.note()
        return calls.count()

    refreshed = number.with_options(refresh_cache=True)

    @flow(task_runner=runner)
    def body() -> list[int]:
        return [each.submit(calls).result() for each in (number, refreshed, number, refreshed)]

    assert body() == [1, 2, 2, 3]


def test_refresh_by_the_settings_is_overruled_by_the_task(calls: Calls) -> None:
    with temporary_settings(tasks_refresh_cache=True):
        double(1, calls)
        double(1, calls)
        assert calls.count() == 2
        double.with_options(refresh_cache=False)(1, calls)
    double(1, calls)
    assert calls.count() == 2


@pytest.mark.parametrize(
    ("names", "is_refreshed"),
    [("double", True), ("dou*", True), ("nightly", True), ("*", True), ("other,day", False)],
)
def test_tasks_are_refreshed_by_name_or_tag(calls: Calls, names: str, is_refreshed: bool) -> None:
    tagged = double.with_options(tags=["nightly"])
    tagged(1, calls)
    with temporary_settings(tasks_refresh=names):
        tagged(1, calls)
        tagged.with_options(refresh_cache=False)(1, calls)
    assert calls.count() == (2 if is_refreshed else 1)


# --- what may be wrong with a store --------------------------------------------------------


def files_of(store: ResultStore) -> list[str]:
    folder = current().results_local_storage_path
    return [os.path.join(folder, each.path) for each in store.filesystem.entries()]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
def test_user_020_a_damaged_record_is_a_miss(
    runner: str, calls: Calls, log: Log, damage: str
) -> None:
    double(1, calls)
    (path,) = files_of(the_store())
    content = bytearray(pathlib.Path(path).read_bytes())
    content[-1] ^= 1
    if damage == "removed":
        os.unlink(path)
    else:
        changed: dict[str, bytes | bytearray] = {
            "truncated": content[:-5],
            "flipped": content,
            "emptied": b"",
        }
        pathlib.Path(path).write_bytes(changed[damage])

    @flow(task_runner=runner)
    def body() -> list[int]:
        return [double.submit(1, calls).result() for _ in range(2)]

    assert body() == [2, 2]
    assert calls.count() == 2
    assert (damage == "removed") != any("cannot be used, as if" in line for line in log.lines)


@pytest.mark.skipif(os.name == "nt", reason="access is not in the mode there")
def test_a_folder_that_others_can_write_is_refused_in_the_run(
    tmp_path: pathlib.Path, runner: str, calls: Calls
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    options: list[dict[str, Any]] = [
        {"cache_policy": INPUTS},
        {"cache_policy": None, "persist_result": True},
        {"cache_policy": None, "result_storage_key": "x"},
        {"cache_policy": INPUTS, "refresh_cache": True},
    ]

    @flow(task_runner=runner)
    def body() -> list[State[int]]:
        tasks = [double.with_options(result_storage=str(folder), **each) for each in options]
        return [each.submit(1, calls, return_state=True) for each in tasks]

    for state in body():
        assert isinstance(state.exception(), PermissionError)
        assert "chmod go-w" in str(state.exception())
    assert calls.count() == 0
    with temporary_settings(results_allow_shared_folder=True):
        assert [state.name for state in body()] == [
            "Completed",
            "Completed",
            "Completed",
            "Completed",
        ]


def test_what_was_not_signed_is_not_used(calls: Calls) -> None:
    double(1, calls)
    with temporary_settings(results_signing_key="secret"):
        assert [double(1, calls), double(1, calls)] == [2, 2]
        assert calls.count() == 2
    with temporary_settings(results_signing_key="another"):
        double(1, calls)
    assert calls.count() == 3


# --- retries ------------------------------------------------------------------------------


def test_071_a_retry_of_the_flow_finds_what_its_tasks_have_made(
    anywhere: str, calls: Calls
) -> None:
    attempts: list[int] = []

    @flow(task_runner=anywhere, retries=2)
    def body() -> int:
        attempts.append(1)
        total = sum(double.map([1, 2, 3], calls).result())
        if len(attempts) < 3:
            raise OSError("the network")
        return total

    assert body() == 12
    assert calls.count() == 3


def test_071_a_retry_of_a_task_finds_what_the_tasks_in_it_have_made(
    anywhere: str, calls: Calls
) -> None:
    @task(retries=1)
    def outer(calls: Calls) -> int:
        found = double(5, calls)
        if current_task_run.run_count < 2:
            raise OSError("the network")
        return found

    @flow(task_runner=anywhere)
    def body() -> int:
        return outer.submit(calls).result()

    assert body() == 10
    assert calls.count() == 1


def test_the_maker_of_a_result_may_be_retried(anywhere: str, calls: Calls) -> None:
    @task(cache_policy=INPUTS, retries=1)
    def flaky(calls: Calls) -> str:
        calls.note()
        if calls.count() == 1:
            raise OSError("the network")
        return "made"

    @flow(task_runner=anywhere)
    def body() -> list[str]:
        return flaky.map([calls] * 3).result()

    assert body() == ["made"] * 3
    assert calls.count() == 2


# --- other kinds of tasks, other places ----------------------------------------------------


def test_generators_are_cached_as_lists_when_submitted(runner: str, calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def numbers(calls: Calls) -> Generator[int, None, None]:
        calls.note()
        yield from range(3)

    @flow(task_runner=runner)
    def body() -> list[list[int]]:
        return [numbers.submit(calls).result() for _ in range(2)]

    assert body() == [[0, 1, 2]] * 2
    assert calls.count() == 1


@task(cache_policy=INPUTS)
def count_to(last: int, calls: Calls) -> Generator[dict[str, int], Any, Any]:
    calls.note()
    for number in range(1, last + 1):
        if (yield {"n": number}):
            return "stopped"


def counted(last: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(1, last + 1)]


def test_a_generator_that_is_called_yields_again_what_it_has_yielded(calls: Calls) -> None:
    assert [list(count_to(3, calls)) for _ in range(2)] == [counted(3)] * 2
    assert calls.count() == 1


def test_a_generator_that_is_called_and_one_that_is_submitted_share_what_is_kept(
    runner: str, calls: Calls
) -> None:
    @flow(task_runner=runner)
    def body() -> list[Any]:
        called = [list(count_to(2, calls)), count_to.submit(2, calls).result()]
        submitted = [count_to.submit(3, calls).result(), list(count_to(3, calls))]
        return [*called, *submitted]

    assert body() == [counted(2), counted(2), counted(3), counted(3)]
    assert calls.count() == 2


def test_what_a_caller_does_with_the_values_is_not_kept(calls: Calls) -> None:
    for value in count_to(3, calls):
        value.clear()
    assert list(count_to(3, calls)) == counted(3)
    assert calls.count() == 1


def test_a_generator_that_was_closed_or_told_something_is_not_kept(calls: Calls) -> None:
    closed = count_to(3, calls)
    next(closed)
    closed.close()
    told = count_to(3, calls)
    next(told)
    with pytest.raises(StopIteration, match="stopped"):
        told.send(1)
    assert list(count_to(3, calls)) == counted(3)
    assert calls.count() == 3


def test_equal_generators_go_side_by_side(calls: Calls) -> None:
    pairs = list(zip(count_to(2, calls), count_to(2, calls), strict=True))
    assert pairs == [(each, each) for each in counted(2)]


def test_an_async_generator_yields_again_what_it_has_yielded(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    async def numbers(calls: Calls) -> AsyncGenerator[int, None]:
        calls.note()
        for number in range(3):
            yield number

    async def twice() -> list[list[int]]:
        return [[number async for number in numbers(calls)] for _ in range(2)]

    assert asyncio.run(twice()) == [[0, 1, 2]] * 2
    assert calls.count() == 1


def test_async_tasks_are_cached_too(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    async def slow_double(x: int, calls: Calls) -> int:
        calls.note()
        await asyncio.sleep(0)
        return 2 * x

    @flow
    async def body() -> list[int]:
        called = await slow_double(1, calls)
        submitted = await slow_double.submit(1, calls)
        gathered = await asyncio.gather(*(slow_double(1, calls) for _ in range(3)))
        return [called, submitted, *gathered]

    assert asyncio.run(body()) == [2] * 5
    assert calls.count() == 1


def test_tasks_that_workers_call_share_the_store(anywhere: str, calls: Calls) -> None:
    @task
    def outer(calls: Calls) -> list[int]:
        return [double(4, calls), double.submit(4, calls).result()]

    @flow(task_runner=anywhere)
    def body() -> list[Any]:
        return [double(4, calls), *outer.submit(calls).result(), double(4, calls)]

    assert body() == [8] * 4
    assert calls.count() == 1


def test_a_sub_flow_finds_what_its_parent_has_made(runner: str, calls: Calls) -> None:
    @flow
    def inner() -> int:
        return double.submit(6, calls).result()

    @flow(task_runner=runner)
    def outer() -> list[int]:
        return [inner(), double(6, calls), inner()]

    assert outer() == [12] * 3
    assert calls.count() == 1


def test_user_019_every_runner_and_process_finds_the_same_key(calls: Calls) -> None:
    def by(task_runner: str) -> int:
        @flow(task_runner=task_runner)
        def body() -> int:
            return double.submit(9, calls).result()

        return body()

    assert [by(each) for each in ("thread", "process:2", "inline")] == [18] * 3
    assert calls.count() == 1


def test_a_map_over_what_is_partly_there(anywhere: str, calls: Calls) -> None:
    double.map([1, 3], calls).wait()

    @flow(task_runner=anywhere)
    def body() -> list[PenstockFuture[int]]:
        return list(double.map(range(5), calls))

    @flow(task_runner=anywhere)
    def states() -> list[str]:
        futures = double.map(range(5), calls)
        futures.wait()
        return [future.state.name for future in futures]

    found = states()
    assert found == ["Completed", "Cached", "Completed", "Cached", "Completed"]
    assert calls.count() == 5


def test_a_hit_is_told_in_the_log(log: Log, calls: Calls) -> None:
    double(1, calls)

    @flow
    def body() -> None:
        get_run_logger().info("here")
        double(1, calls)

    body()
    assert any("Finished in state Cached(type=COMPLETED)" in line for line in log.lines)


def test_the_key_is_that_of_the_arguments_before_the_function_changed_them(calls: Calls) -> None:
    @task(cache_policy=INPUTS)
    def take(items: list[int], calls: Calls) -> int:
        calls.note()
        return items.pop()

    assert [take([1, 2], calls), take([1, 2], calls)] == [2, 2]
    (record,) = the_store().records()
    assert record.parts["input items"][1] == "[1, 2]"
    assert calls.count() == 1


def test_hits_of_any_way_to_call(calls: Calls, runner: str) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: double(1, calls, return_state=True),
        lambda: double.submit(1, calls, return_state=True),
        lambda: double.map([1], calls, return_state=True)[0],
    ]
    double(1, calls)
    assert names(runner, *ways) == ["Cached"] * 3
