"""Rows 073 to 090 of the specification: the options of tasks and flows, each of them."""

from __future__ import annotations

import asyncio
import datetime
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock import Flow, Task, flow, tags, task
from penstock.annotations import NotSet
from penstock.cache_policies import INPUTS
from penstock.exceptions import TaskRunTimeoutError
from penstock.runtime import task_run
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    from tests.flows.conftest import Log


def work(x: Any = None) -> Any:
    """What it does."""
    return x


def hook(obj: Any, run: Any, state: Any) -> None: ...


# All options at once: of those that exclude each other, one wins, with a warning (row 077).
pytestmark = pytest.mark.filterwarnings("ignore:task .* has both cache_policy")

TASK_OPTIONS: dict[str, Any] = {
    "name": "other",
    "description": "another text",
    "tags": ["a", "b"],
    "version": "1.2",
    "cache_policy": INPUTS,
    "cache_key_fn": lambda context, parameters: "key",
    "cache_expiration": datetime.timedelta(hours=1),
    "task_run_name": "run-{x}",
    "retries": 2,
    "retry_delay_seconds": [0, 0],
    "retry_jitter_factor": 0.5,
    "persist_result": False,
    "result_storage": Path("results"),
    "result_serializer": "json",
    "result_storage_key": "{parameters[x]}",
    "cache_result_in_memory": True,
    "timeout_seconds": 5,
    "log_prints": True,
    "refresh_cache": False,
    "on_completion": [hook],
    "on_failure": [hook],
    "on_running": [hook],
    "on_rollback": [lambda txn: None],
    "on_commit": [lambda txn: None],
    "retry_condition_fn": lambda task, task_run, state: True,
    "viz_return_value": 1,
    "asset_deps": ["asset"],
}
FLOW_OPTIONS: dict[str, Any] = {
    "name": "other",
    "version": "1.2",
    "flow_run_name": "run-{x}",
    "retries": 2,
    "retry_delay_seconds": 0,
    "task_runner": "inline",
    "description": "another text",
    "timeout_seconds": 5,
    "validate_parameters": True,
    "persist_result": False,
    "result_storage": Path("results"),
    "result_serializer": "json",
    "cache_result_in_memory": True,
    "log_prints": True,
    "on_completion": [hook],
    "on_failure": [hook],
    "on_cancellation": [hook],
    "on_crashed": [hook],
    "on_running": [hook],
}
CACHING = {name for name in TASK_OPTIONS if "cache" in name or "result" in name}
NEITHER_PRESENT_NOR_ABSENT = {"name", "description", "version"}
EMPTY: dict[str, Any] = {
    "tags": [],
    "on_completion": [],
    "on_failure": [],
    "on_running": [],
    "on_commit": (),
    "on_rollback": (),
    "retry_delay_seconds": [],
    "retries": 0,
    "timeout_seconds": 0,
    "asset_deps": [],
}


# --- 089: all options -----------------------------------------------------------------------


def test_seed_089_with_its_function_a_task_takes_the_28_options_of_prefect() -> None:
    assert len(TASK_OPTIONS) + 1 == 28
    assert Task(work, **TASK_OPTIONS).options == TASK_OPTIONS


def test_seed_089_with_its_function_a_flow_takes_the_20_options_of_prefect() -> None:
    assert len(FLOW_OPTIONS) + 1 == 20
    assert Flow(work, **FLOW_OPTIONS).options == FLOW_OPTIONS


@pytest.mark.parametrize("option", TASK_OPTIONS)
def test_seed_089_the_decorator_takes_each_option_of_a_task(option: str) -> None:
    options: Any = {option: TASK_OPTIONS[option]}
    made: Any = task(**options)(work)
    assert made.options == options


@pytest.mark.parametrize("option", sorted(TASK_OPTIONS.keys() - CACHING))
def test_seed_089_a_task_with_any_one_option_runs(option: str, runner: str) -> None:
    made = Task(work, **{option: TASK_OPTIONS[option]})

    @flow(task_runner=runner)
    def body() -> Any:
        return made(3), made.submit(4).result()

    assert body() == (3, 4)


@pytest.mark.parametrize("option", FLOW_OPTIONS)
def test_seed_089_a_flow_with_any_one_option_runs(option: str, tmp_path: Path) -> None:
    options = {option: FLOW_OPTIONS[option]}
    if option == "result_storage":
        options = {option: tmp_path}
    assert Flow(work, **options)(3) == 3


@pytest.mark.parametrize("kind", [Task, Flow])
def test_seed_089_every_option_is_none_by_default(kind: Any) -> None:
    options = TASK_OPTIONS if kind is Task else FLOW_OPTIONS
    given = kind(work, **dict.fromkeys(options))
    assert (given.name, given.description) == ("work", "What it does.")
    assert given(3) == 3


@pytest.mark.parametrize("option", TASK_OPTIONS)
def test_seed_089_none_clears_an_option_of_a_task(option: str) -> None:
    cleared = Task(work, **TASK_OPTIONS).with_options(**{option: None})
    assert cleared.options[option] is None
    assert {**cleared.options, option: TASK_OPTIONS[option]}.keys() == TASK_OPTIONS.keys()


@pytest.mark.parametrize("option", FLOW_OPTIONS)
def test_seed_089_none_clears_an_option_of_a_flow(option: str) -> None:
    cleared = Flow(work, **FLOW_OPTIONS).with_options(**{option: None})
    assert cleared.options[option] is None


@pytest.mark.parametrize("option", EMPTY)
def test_seed_089_an_empty_value_clears_an_option_of_a_task(option: str) -> None:
    cleared: Any = Task(work, **TASK_OPTIONS).with_options(**{option: EMPTY[option]})
    assert cleared.options[option] == EMPTY[option]


def test_seed_089_cleared_tags_are_gone() -> None:
    tagged = task(work, tags=["a"])
    assert tagged.with_options(tags=[]).tags == tagged.with_options(tags=None).tags == frozenset()


def test_seed_089_cleared_hooks_are_not_called() -> None:
    called: list[int] = []
    hooked = task(work, on_completion=lambda state: called.append(1))
    hooked.with_options(on_completion=[])()
    hooked.with_options(on_completion=None)()
    assert called == []


def test_seed_089_cleared_names_and_texts_are_those_of_the_function() -> None:
    changed = task(work, name="other", description="other").with_options(
        name=None, description=None
    )
    assert (changed.name, changed.description) == ("work", "What it does.")


def test_seed_089_a_cleared_run_name_is_the_numbered_one() -> None:
    named = task(lambda: task_run.name, name="mine", task_run_name="special")
    body: Any = flow(lambda: (named(), named.with_options(task_run_name=None)()))
    assert body() == ("special", "mine-1")


@pytest.mark.parametrize("kind", [Task, Flow])
def test_seed_089_not_set_leaves_an_option_as_it_is(kind: Any) -> None:
    options = TASK_OPTIONS if kind is Task else FLOW_OPTIONS
    given = kind(work, **options)
    left = given.with_options(**dict.fromkeys(options, NotSet)).options
    assert left.keys() == options.keys()
    assert {n for n in options if left[n] != options[n]} <= {n for n in options if n[:3] == "on_"}


@pytest.mark.parametrize("kind", [Task, Flow])
def test_seed_089_options_that_are_not_named_stay(kind: Any) -> None:
    options = TASK_OPTIONS if kind is Task else FLOW_OPTIONS
    changed = kind(work, **options).with_options(retries=7)
    assert changed.options.keys() == options.keys()
    assert {n for n in options if changed.options[n] != options[n] and "on_" not in n} == {
        "retries"
    }


@pytest.mark.parametrize("kind", [Task, Flow])
def test_seed_089_with_options_makes_a_copy(kind: Any) -> None:
    given = kind(work, name="one", retries=1)
    changed = given.with_options(name="two", retries=2)
    assert (given.name, given.options["retries"]) == ("one", 1)
    assert (changed.name, changed.options["retries"]) == ("two", 2)


@pytest.mark.parametrize("kind", [Task, Flow])
@pytest.mark.parametrize("how", ["definition", "with_options"])
def test_seed_089_an_unknown_option_is_a_type_error(kind: Any, how: str) -> None:
    ask = kind(work).with_options if how == "with_options" else lambda **wrong: kind(work, **wrong)
    with pytest.raises(TypeError, match="has no option 'time_out'; did you mean"):
        ask(time_out=1)


def test_seed_089_hooks_added_by_decorator_stay_with_other_options() -> None:
    called: list[str] = []
    hooked = task(work)

    @hooked.on_completion
    def note(state: Any) -> None:
        called.append(state.name)

    hooked.with_options(name="other")()
    assert called == ["Completed"]


def test_seed_089_a_hook_may_be_one_function_instead_of_a_list() -> None:
    called: list[str] = []
    task(work, on_completion=lambda state: called.append(state.name))()
    assert called == ["Completed"]


# --- 073, 074, 090: name and description ------------------------------------------------------


def test_seed_073_090_the_name_is_in_the_log(log: Log) -> None:
    task(work, name="hello-task")()
    assert log.lines == ["INFO    | Task run 'hello-task' - Finished in state Completed()"]


def test_seed_074_the_description_is_the_docstring_without_its_indentation() -> None:
    @task
    def documented() -> None:
        """One line.

        Another.
        """

    assert documented.description == "One line.\n\nAnother."


def test_seed_074_without_a_docstring_there_is_no_description() -> None:
    assert task(hook).description is None


def test_seed_090_a_description_goes_before_the_docstring() -> None:
    assert task(work, description="This task says hello.").description == "This task says hello."


# --- 075, 076: tags and time limits -----------------------------------------------------------


@task(tags=["own"])
def my_tags(wait: Any = None) -> list[str]:
    return task_run.tags


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_seed_075_tags_of_the_task_and_of_the_context_are_joined(how: str, runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[str]:
        with tags("outer"), tags("inner", "own"):
            if how == "call":
                return my_tags()
            return my_tags.submit().result() if how == "submit" else my_tags.map([1]).result()[0]

    assert body() == ["inner", "outer", "own"]


def test_seed_075_the_tags_are_those_around_the_submit(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[list[str]]:
        with tags("A"):
            first = my_tags.submit()
        with tags("B"):
            second = my_tags.submit()
        with tags("C"):
            return [first.result(), second.result(), my_tags.submit().result()]

    assert body() == [["A", "own"], ["B", "own"], ["C", "own"]]


def test_seed_075_tags_around_a_flow_are_those_of_its_tasks(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> list[str]:
        return my_tags.submit().result()

    with tags("around"):
        assert body() == ["around", "own"]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_076_a_task_over_its_time_is_marked_failed(how: str, runner: str) -> None:
    @task(timeout_seconds=0.02)
    async def slow() -> None:
        await asyncio.sleep(60)

    @flow(task_runner=runner)
    async def body() -> Any:
        if how == "call":
            state: Any = await slow(return_state=True)
            return state.name, state.is_failed()
        future = slow.submit()
        with pytest.raises(TaskRunTimeoutError):
            await future
        return future.state.name, future.is_failed()

    assert asyncio.run(body()) == ("TimedOut", True)


@pytest.mark.parametrize("seconds", [None, 0, 0.0, 5, 5.0])
def test_seed_076_a_limit_may_be_a_whole_number_a_fraction_or_none(
    seconds: Any, runner: str
) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return task(work, timeout_seconds=seconds).submit(1).result()

    assert body() == 1


@pytest.mark.parametrize("seconds", [-1, "5", True])
def test_seed_076_an_impossible_limit_is_refused_at_definition(seconds: Any) -> None:
    with pytest.raises(ValueError, match="timeout_seconds"):
        task(work, timeout_seconds=seconds)


# --- 086, 087: retries --------------------------------------------------------------------------


def attempts_of(runner: str, **options: Any) -> int:
    attempts: list[int] = []

    def fail() -> None:
        attempts.append(1)
        raise ValueError("again")

    @flow(task_runner=runner)
    def body() -> None:
        Task(fail, **options).submit(return_state=True)

    body()
    return len(attempts)


@pytest.mark.parametrize("retries", [0, 1, 3, None])
def test_seed_086_retries_are_further_attempts(retries: int | None, runner: str) -> None:
    assert attempts_of(runner, retries=retries) == 1 + (retries or 0)


def test_seed_086_the_default_comes_from_the_settings(runner: str) -> None:
    with temporary_settings(tasks_default_retries=2):
        assert attempts_of(runner) == 3


def test_seed_086_zero_goes_before_the_settings(runner: str) -> None:
    with temporary_settings(tasks_default_retries=2):
        assert attempts_of(runner, retries=0) == 1


@pytest.mark.parametrize("retries", [-1, 1.5, "2", True])
def test_seed_086_impossible_retries_are_refused_at_definition(retries: Any) -> None:
    with pytest.raises(ValueError, match="retries"):
        task(work, retries=retries)


def test_seed_087_a_delay_without_retries_does_nothing(runner: str) -> None:
    assert attempts_of(runner, retry_delay_seconds=100) == 1


@pytest.mark.parametrize("delay", [0, 0.001, [0.001], (0, 0.001), lambda retries: [0.001]])
def test_seed_087_a_delay_is_a_number_a_list_or_a_function(delay: Any, runner: str) -> None:
    assert attempts_of(runner, retries=2, retry_delay_seconds=delay) == 3


def test_seed_087_a_short_list_repeats_its_last_value(log: Log) -> None:
    attempts_of("inline", retries=3, retry_delay_seconds=[0.001, 0.002])
    waits = [line.split(" will start ")[1] for line in log.lines if " will start " in line]
    assert [wait.split()[0] for wait in waits] == ["0.001", "0.002", "0.002"]


def test_seed_087_more_than_fifty_delays_are_refused() -> None:
    with pytest.raises(ValueError, match="50"):
        task(work, retries=60, retry_delay_seconds=[1] * 51)


# --- 088: log_prints ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_task", "of_flow", "setting", "is_line"),
    [
        (None, None, False, False),
        (None, None, True, True),
        (None, True, False, True),
        (None, False, True, False),
        (True, False, False, True),
        (False, True, True, False),
    ],
)
def test_seed_088_log_prints_comes_from_the_task_or_its_flow_or_the_settings(
    of_task: Any, of_flow: Any, setting: bool, is_line: bool, runner: str, log: Log
) -> None:
    say = task(lambda: print("said"), name="say", log_prints=of_task)

    @flow(task_runner=runner, log_prints=of_flow)
    def body() -> None:
        say.submit().result()

    with temporary_settings(logging_log_prints=setting):
        body()
    assert ("INFO    | Task run 'say-0' - said" in log.lines) is is_line


def test_seed_088_outside_of_a_flow_the_setting_holds(log: Log) -> None:
    say = task(lambda: print("said"), name="say")
    with temporary_settings(logging_log_prints=True):
        say()
    assert log.lines[0] == "INFO    | Task run 'say' - said"


# --- more than Prefect: the version, and where a task runs ---------------------------------------


@pytest.mark.parametrize("kind", [Task, Flow])
def test_t05_f03_a_version_may_be_given(kind: Any) -> None:
    assert kind(work, version="1.2").version == "1.2"


@pytest.mark.parametrize("kind", [Task, Flow])
def test_t05_f03_by_default_a_version_is_a_hash_of_the_source(kind: Any) -> None:
    assert kind(work).version == kind(work).version
    assert kind(work).version


def test_a_task_may_go_to_a_runner_of_its_own() -> None:
    here = task(threading.current_thread, task_runner="inline")
    there = task(threading.current_thread, task_runner="thread:1")

    @flow(task_runner="thread:2")
    def body() -> list[bool]:
        main = threading.main_thread()
        return [here.submit().result() is main, there.submit().result() is main]

    assert body() == [True, False]


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of results name a directory, which must not be made in the project."""
    monkeypatch.chdir(tmp_path)
