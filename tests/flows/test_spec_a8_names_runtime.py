"""Rows 091 to 099 of the specification: names of runs, and what a run may ask about itself."""

from __future__ import annotations

import asyncio
import datetime
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.context import current_flow_run, current_run, current_task_run
from penstock.exceptions import DefinitionError, NameTemplateError
from penstock.runtime import deployment, flow_run, task_run

if TYPE_CHECKING:
    from tests.flows.conftest import Gate, Log

THURSDAY = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)


@task
def my_name(name: Any = None, date: Any = None, **rest: Any) -> Any:
    return task_run.name


def named(runner: str, how: str, made: Any, *args: Any, **kwargs: Any) -> Any:
    @flow(task_runner=runner)
    def my_flow() -> Any:
        if how == "call":
            return made(*args, **kwargs)
        if how == "submit":
            return made.submit(*args, **kwargs).result()
        return asyncio.run(_awaited(made, *args, **kwargs))

    return my_flow()


async def _awaited(made: Any, *args: Any, **kwargs: Any) -> Any:
    return await made(*args, **kwargs)


both_ways = pytest.mark.parametrize("how", ["call", "submit"])


# --- 091: templates -------------------------------------------------------------------------


@both_ways
def test_seed_091_a_template_is_filled_in_with_the_parameters(how: str, runner: str) -> None:
    made = my_name.with_options(task_run_name="hello-{name}-on-{date:%A}")
    assert named(runner, how, made, name="marvin", date=THURSDAY) == "hello-marvin-on-Thursday"


@both_ways
def test_seed_091_a_template_may_use_items_and_attributes(how: str, runner: str) -> None:
    made = my_name.with_options(task_run_name="{name[first]}-{date.year:06d}")
    assert named(runner, how, made, {"first": "ann"}, THURSDAY) == "ann-002024"


class Reader:
    path = "a.csv"

    @task(task_run_name="read-{self.path}-{line}")
    def read(self, line: int) -> Any:
        return task_run.name


@both_ways
def test_seed_091_the_template_of_a_method_may_use_its_instance(how: str, runner: str) -> None:
    assert named(runner, how, Reader().read, 3) == "read-a.csv-3"


@both_ways
def test_seed_091_a_template_may_use_arguments_of_any_name_where_the_function_takes_them(
    how: str, runner: str
) -> None:
    made = my_name.with_options(task_run_name="{rest[other]}")
    assert named(runner, how, made, other=5) == "5"


def test_seed_091_a_template_is_filled_in_when_futures_have_their_values(runner: str) -> None:
    made = my_name.with_options(task_run_name="hello-{name}")

    @flow(task_runner=runner)
    def body() -> Any:
        later = task(lambda: "marvin").submit()
        return made.submit(later).result(), made(later), made.submit([later]).result()

    assert body() == ("hello-marvin", "hello-marvin", "hello-['marvin']")


def test_seed_091_each_item_of_a_map_has_a_name_of_its_own(runner: str) -> None:
    made = my_name.with_options(task_run_name="load-{name}")

    @flow(task_runner=runner)
    def body() -> Any:
        return made.map(["a", "b"]).result()

    assert body() == ["load-a", "load-b"]


def test_seed_091_the_name_is_in_the_log_of_the_end(runner: str, log: Log) -> None:
    named(runner, "submit", my_name.with_options(task_run_name="hello-{name}"), "x")
    assert "INFO    | Task run 'hello-x' - Finished in state Completed()" in log.lines


def test_seed_091_the_name_stays_when_the_run_is_tried_again(runner: str) -> None:
    names: list[Any] = []

    @task(task_run_name="hello-{x}", retries=1)
    def flaky(x: int) -> None:
        names.append(task_run.name)
        if len(names) == 1:
            raise ValueError("once")

    named(runner, "submit", flaky, 1)
    assert names == ["hello-1", "hello-1"]


@pytest.mark.parametrize("template", ["{nobody}", "{", "{}", "{0}", "{name!q}", "{name"])
def test_seed_091_a_bad_template_is_refused_at_definition(template: str) -> None:
    with pytest.raises(NameTemplateError, match="hello"):
        task(lambda name: name, name="hello", task_run_name=template)


def test_seed_091_a_template_may_name_what_goes_into_keyword_arguments_of_any_name() -> None:
    assert my_name.with_options(task_run_name="hello-{other}")(other=5) == "hello-5"


@pytest.mark.parametrize("name", [5, ["x"]])
def test_seed_091_what_is_neither_text_nor_function_is_refused_at_definition(name: Any) -> None:
    with pytest.raises(DefinitionError, match="str or a function"):
        my_name.with_options(task_run_name=name)


@both_ways
def test_seed_091_a_value_that_cannot_be_formatted_fails_the_run_cleanly(
    how: str, runner: str
) -> None:
    made = my_name.with_options(task_run_name="{name:%A}-{date.year}")

    @flow(task_runner=runner)
    def body() -> Any:
        state: Any = (
            made("x", return_state=True) if how == "call" else made.submit("x", return_state=True)
        )
        return state.is_failed(), type(state.data)

    assert body() == (True, NameTemplateError)


def test_seed_091_a_flow_run_has_a_template_too() -> None:
    @flow(flow_run_name="for-{site}")
    def body(site: str) -> Any:
        return flow_run.name

    assert body("here") == "for-here"


def test_seed_091_the_name_of_a_flow_run_is_in_its_log(log: Log) -> None:
    flow(lambda: None, name="body", flow_run_name="special")()
    assert log.lines[-1] == "INFO    | Flow run 'special' - Finished in state Completed()"


# --- 092, 097: naming functions ----------------------------------------------------------------


@both_ways
def test_seed_092_a_naming_function_takes_nothing_and_returns_the_name(
    how: str, runner: str
) -> None:
    def generate_task_name() -> str:
        return f"{THURSDAY:%A}-is-a-lovely-day"

    made = my_name.with_options(task_run_name=generate_task_name)
    assert named(runner, how, made, name="marvin") == "Thursday-is-a-lovely-day"


@both_ways
def test_seed_092_a_naming_function_may_take_the_parameters(how: str, runner: str) -> None:
    def generate(parameters: dict[str, Any]) -> str:
        return f"for-{parameters['name']}-and-{parameters['date']}"

    made = my_name.with_options(task_run_name=generate)
    assert named(runner, how, made, "marvin") == "for-marvin-and-None"


@both_ways
def test_seed_092_a_naming_function_that_returns_no_text_fails_the_run(
    how: str, runner: str
) -> None:
    made: Any = my_name.with_options(task_run_name=lambda: 5)  # type: ignore[arg-type, return-value]

    @flow(task_runner=runner)
    def body() -> Any:
        ask = made if how == "call" else made.submit
        state = ask(return_state=True)
        return state.name, type(state.data)

    assert body() == ("Failed", TypeError)


@both_ways
def test_seed_092_a_naming_function_that_raises_fails_the_run(how: str, runner: str) -> None:
    def generate() -> str:
        raise KeyError("no name today")

    made = my_name.with_options(task_run_name=generate)
    with pytest.raises(KeyError, match="no name today"):
        named(runner, how, made)


def test_seed_092_a_naming_function_that_cannot_be_called_is_refused_at_definition() -> None:
    with pytest.raises(DefinitionError, match="cannot be called"):
        my_name.with_options(task_run_name=lambda one, two: "name")


def test_seed_092_a_naming_function_is_called_once_a_run(runner: str) -> None:
    calls: list[int] = []

    def generate() -> str:
        calls.append(1)
        return "name"

    @task(task_run_name=generate, retries=1)
    def flaky() -> None:
        if task_run.run_count == 1:
            raise ValueError("once")

    named(runner, "submit", flaky)
    assert calls == [1]


@both_ways
def test_seed_094_to_097_the_naming_function_of_the_page(how: str, runner: str) -> None:
    def generate_task_name() -> str:
        parameters = task_run.parameters
        return (
            f"{flow_run.flow_name}-{task_run.task_name}"
            f"-with-{parameters['name']}-and-{parameters['limit']}"
        )

    @task(name="my-example-task", task_run_name=generate_task_name)
    def my_task(name: str, limit: int = 100) -> Any:
        return task_run.name

    expected = "my-flow-my-example-task-with-marvin-and-100"
    assert named(runner, how, my_task, name="marvin") == expected


def test_seed_097_naming_functions_run_one_at_a_time_and_never_in_a_worker(threads: str) -> None:
    callers: set[str] = set()

    def generate() -> str:
        callers.add(threading.current_thread().name)
        return "name"

    @flow(task_runner=threads)
    def body() -> None:
        my_name.with_options(task_run_name=generate).map(list(range(20))).wait()

    body()
    assert callers <= {threading.main_thread().name, "penstock-standby"}


# --- 093 to 096, 099: what a run may ask ---------------------------------------------------------


def everything() -> dict[str, Any]:
    return {
        **{f"task_run.{name}": getattr(task_run, name) for name in dir(task_run)},
        **{f"flow_run.{name}": getattr(flow_run, name) for name in dir(flow_run)},
    }


TASK_FIELDS = {"id", "name", "tags", "parameters", "run_count", "task_name", "api_url", "ui_url"}
FLOW_FIELDS = {
    "id",
    "tags",
    "scheduled_start_time",
    "name",
    "flow_name",
    "flow_version",
    "parameters",
    "parent_flow_run_id",
    "parent_deployment_id",
    "root_flow_run_id",
    "run_count",
    "api_url",
    "ui_url",
    "job_variables",
}


def test_seed_099_the_fields_of_prefect_are_there() -> None:
    assert set(dir(task_run)) >= TASK_FIELDS
    assert set(dir(flow_run)) >= FLOW_FIELDS


@both_ways
def test_seed_099_a_task_knows_itself_and_its_flow(how: str, runner: str) -> None:
    @task(tags=["mine"])
    def ask(x: int, y: int = 2) -> dict[str, Any]:
        return everything()

    @flow(task_runner=runner, tags=["its"], version="7")
    def body(z: int) -> dict[str, Any]:
        return ask(1) if how == "call" else ask.submit(1).result()

    found = body(3)
    wanted = {
        "task_run.name": "ask-0",
        "task_run.task_name": "ask",
        "task_run.tags": ["its", "mine"],
        "task_run.parameters": {"x": 1, "y": 2},
        "task_run.run_count": 1,
        "flow_run.flow_name": "body",
        "flow_run.flow_version": "7",
        "flow_run.tags": ["its"],
        "flow_run.parameters": {"z": 3},
        "flow_run.run_count": 1,
        "flow_run.parent_flow_run_id": None,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["flow_run.root_flow_run_id"] == found["flow_run.id"]
    assert uuid.UUID(found["task_run.id"]) != uuid.UUID(found["flow_run.id"])


def test_seed_099_what_needs_a_server_is_none() -> None:
    @flow
    def body() -> dict[str, Any]:
        return task(everything)()

    found = body()
    names = ["task_run.api_url", "task_run.ui_url", "flow_run.api_url", "flow_run.ui_url"]
    names += ["flow_run.parent_deployment_id", "flow_run.job_variables"]
    assert [found[name] for name in names] == [None] * 6


def test_seed_099_outside_of_runs_the_fields_are_empty() -> None:
    found = everything()
    when = found.pop("flow_run.scheduled_start_time")
    assert isinstance(when, datetime.datetime)
    assert [value for value in found.values() if value] == []


def test_seed_099_deployments_are_empty() -> None:
    assert (deployment.id, deployment.name, deployment.parameters) == (None, None, {})


@pytest.mark.parametrize("module", [task_run, flow_run, deployment])
def test_seed_099_an_unknown_field_is_an_attribute_error(module: Any) -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = module.colour


def test_seed_099_a_task_outside_of_flows_has_no_flow_run() -> None:
    found = task(everything)()
    assert (found["flow_run.id"], found["flow_run.name"], found["flow_run.tags"]) == (
        None,
        None,
        [],
    )


def test_seed_099_a_sub_flow_knows_its_parent_and_its_root() -> None:
    @flow
    def innermost() -> Any:
        return flow_run.parent_flow_run_id, flow_run.root_flow_run_id

    @flow
    def middle() -> Any:
        return flow_run.id, innermost()

    @flow
    def outer() -> Any:
        return flow_run.id, middle()

    root, (parent, found) = outer()
    assert found == (parent, root)


@both_ways
def test_seed_099_the_run_count_goes_up_with_each_attempt(how: str, runner: str) -> None:
    counts: list[int] = []

    @task(retries=2)
    def flaky() -> None:
        counts.append(task_run.run_count)
        if len(counts) < 3:
            raise ValueError("not yet")

    named(runner, how, flaky)
    assert counts == [1, 2, 3]


def test_seed_099_the_run_count_of_a_flow_goes_up_with_each_attempt() -> None:
    counts: list[int] = []

    @flow(retries=2)
    def body() -> None:
        counts.append(flow_run.run_count)
        if len(counts) < 3:
            raise ValueError("not yet")

    body()
    assert counts == [1, 2, 3]


def test_seed_099_the_scheduled_time_of_a_flow_is_when_it_was_made() -> None:
    before = datetime.datetime.now(datetime.UTC)

    @flow
    def body() -> Any:
        return flow_run.scheduled_start_time

    assert before <= body() <= datetime.datetime.now(datetime.UTC)


def test_seed_099_the_scheduled_time_of_a_flow_is_the_one_set() -> None:
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=20)

    @flow
    def body() -> Any:
        return flow_run.scheduled_start_time, datetime.datetime.now(datetime.UTC) >= when

    planned, is_late = body.starting_at(when)()
    assert abs(planned - when) < datetime.timedelta(milliseconds=1)
    assert is_late


def test_seed_099_the_id_is_the_same_each_time(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        future = task(lambda: (task_run.id, task_run.id)).submit()
        return future.result() == (str(future.task_run_id), str(future.task_run_id))

    assert body()


@pytest.mark.parametrize("prefix", ["PENSTOCK", "PREFECT"])
def test_seed_093_a_test_may_put_values_in_their_place(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{prefix}__RUNTIME__TASK_RUN__NAME", "given")
    monkeypatch.setenv(f"{prefix}__RUNTIME__FLOW_RUN__PARAMETERS", '{"x": 1}')
    assert (task_run.name, flow_run.parameters) == ("given", {"x": 1})


@both_ways
def test_seed_097_the_current_run_is_known_in_tasks(how: str, runner: str) -> None:
    @task
    def ask() -> bool:
        return current_run() is current_task_run() is not None is not current_flow_run()

    assert named(runner, how, ask)


def test_seed_097_after_a_task_the_flow_is_the_current_run_again(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        task(lambda: None)()
        task(lambda: None).submit().result()
        return current_run() is current_flow_run() and current_task_run() is None

    assert body()


def test_seed_097_after_a_flow_there_is_no_current_run() -> None:
    flow(lambda: None)()
    assert current_run() is None


def test_seed_097_hooks_know_the_run_that_set_them_off(threads: str, log: Log) -> None:
    names: list[Any] = []

    def hook(state: Any) -> None:
        names.append(task_run.name)
        get_run_logger().info("in the hook")

    named(threads, "submit", task(lambda: None, name="t", on_completion=hook))
    assert names == ["t-0"]
    assert "INFO    | Task run 't-0' - in the hook" in log.lines


def test_seed_097_a_task_that_waits_long_keeps_its_own_parameters(threads: str, gate: Gate) -> None:
    @task
    def ask(x: int) -> Any:
        gate.wait()
        return x, task_run.parameters

    @flow(task_runner=threads)
    def body() -> Any:
        futures = [ask.submit(x) for x in range(10)]
        gate.open()
        return [future.result() for future in futures]

    assert body() == [(x, {"x": x}) for x in range(10)]
