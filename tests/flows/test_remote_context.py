"""Promises of users' pain 23: what code in a worker elsewhere knows of the run it is part of.

Names, ids, parameters, tags, the runtime, and the context variables that are declared.
"""

from __future__ import annotations

import contextvars
import enum
import importlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, get_run_logger, tags, task, unmapped
from penstock.context import current_flow_run, current_task_run
from penstock.exceptions import DefinitionError
from penstock.runtime import flow_run as runtime_flow_run
from penstock.runtime import task_run as runtime_task_run
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    import pathlib
    import types
    from collections.abc import Iterator

REQUEST: contextvars.ContextVar[Any] = contextvars.ContextVar("REQUEST", default="unset")
TENANT: contextvars.ContextVar[Any] = contextvars.ContextVar("TENANT")


# --- the run ------------------------------------------------------------------------------


class Kind(enum.StrEnum):
    NIGHTLY = "nightly"


def test_user_023_names_and_tags_may_be_those_of_an_enum(anywhere: str) -> None:
    @task(name=Kind.NIGHTLY, tags=[Kind.NIGHTLY], task_run_name=lambda: Kind.NIGHTLY)
    def seen() -> tuple[str | None, list[str]]:
        return runtime_task_run.name, runtime_task_run.tags

    @flow(name=Kind.NIGHTLY, flow_run_name=Kind.NIGHTLY, task_runner=anywhere)
    def census() -> tuple[str | None, list[str]]:
        with tags(Kind.NIGHTLY):
            return seen.submit().result()

    name, found = census()
    assert (name, set(found)) == ("nightly", {"nightly"})
    assert {type(text) for text in (name, *found)} == {str}


def about_the_run() -> dict[str, Any]:
    return {
        **{f"task.{name}": getattr(runtime_task_run, name) for name in TASK_FIELDS},
        **{f"flow.{name}": getattr(runtime_flow_run, name) for name in FLOW_FIELDS},
    }


TASK_FIELDS = ("id", "name", "task_name", "tags", "parameters", "run_count", "task_inputs")
FLOW_FIELDS = (
    "id",
    "name",
    "flow_name",
    "flow_version",
    "parameters",
    "parent_flow_run_id",
    "root_flow_run_id",
    "run_count",
    "tags",
)


def test_users_023_a_task_is_told_the_same_of_its_run_wherever_it_runs() -> None:
    @task
    def number() -> int:
        return 4

    @task(task_run_name="ask-{x}", tags=["own"])
    def ask(x: int, y: int, *rest: int, z: str = "default", **options: int) -> dict[str, Any]:
        return about_the_run()

    @flow(flow_run_name="outer", version="3")
    def main(a: int, b: list[str]) -> dict[str, Any]:
        four = number.submit()
        with tags("around"):
            told = ask.submit(1, four, 5, 6, option=7).result()
        assert told.pop("flow.id") == runtime_flow_run.id
        assert told.pop("flow.root_flow_run_id") == runtime_flow_run.id
        assert told["task.task_inputs"] == {"y": [str(four.task_run_id)]}
        del told["task.task_inputs"]
        assert len({told.pop("task.id"), four.task_run_id}) == 2
        return told

    seen = {
        runner: main.with_options(task_runner=runner)(1, ["b"])
        for runner in ("inline", "thread", "process:2")
    }
    assert seen["thread"] == {
        "task.name": "ask-1",
        "task.task_name": "ask",
        "task.tags": ["around", "own"],
        "task.parameters": {
            "x": 1,
            "y": 4,
            "rest": (5, 6),
            "z": "default",
            "options": {"option": 7},
        },
        "task.run_count": 1,
        "flow.name": "outer",
        "flow.flow_name": "main",
        "flow.flow_version": "3",
        "flow.parameters": {"a": 1, "b": ["b"]},
        "flow.parent_flow_run_id": None,
        "flow.run_count": 1,
        "flow.tags": [],
    }
    assert seen["process:2"] == seen["thread"] == seen["inline"]


def test_users_023_the_id_in_the_worker_is_that_of_the_future(anywhere: str) -> None:
    @task
    def ask() -> tuple[str, Any]:
        run = current_task_run()
        assert run is not None
        return str(run.id), runtime_task_run.id

    @flow(task_runner=anywhere)
    def main() -> bool:
        futures = [ask.submit() for _ in range(5)]
        return all(
            future.result() == (str(future.task_run_id), str(future.task_run_id))
            for future in futures
        )

    assert main()


def test_users_023_run_count_grows_with_each_attempt(anywhere: str) -> None:
    @task(retries=2)
    def ask() -> int:
        count = runtime_task_run.run_count
        if count < 3:
            raise ValueError(count)
        return int(count)

    @flow(task_runner=anywhere)
    def main() -> int:
        return ask.submit().result()

    assert main() == 3


def test_users_023_the_flows_run_count_is_told_of_the_attempt_at_hand(anywhere: str) -> None:
    @task
    def ask() -> Any:
        return runtime_flow_run.run_count

    counts = []

    @flow(task_runner=anywhere, retries=1)
    def main() -> None:
        counts.append(ask.submit().result())
        if len(counts) < 2:
            raise ValueError("once more")

    main()
    assert counts == [1, 2]


def test_users_023_a_sub_flow_is_told_with_those_around_it(anywhere: str) -> None:
    @task
    def ask() -> Any:
        run = current_flow_run()
        assert run is not None
        return (
            runtime_flow_run.name,
            runtime_flow_run.parent_flow_run_id,
            runtime_flow_run.root_flow_run_id,
        )

    @flow(flow_run_name="low")
    def low() -> Any:
        return ask.submit().result(), runtime_flow_run.id

    @flow(flow_run_name="middle")
    def middle() -> Any:
        return low(), runtime_flow_run.id

    @flow(task_runner=anywhere)
    def main() -> Any:
        return middle(), runtime_flow_run.id

    (((name, parent, root), _), middle_id), main_id = main()
    assert (name, parent, root) == ("low", middle_id, main_id)


def test_users_023_a_run_outside_of_any_flow_is_told_too(elsewhere: str) -> None:
    @task(task_runner=elsewhere)
    def ask() -> Any:
        get_run_logger().info("hello")
        return runtime_task_run.name, runtime_flow_run.id, current_flow_run()

    name, flow_id, flow_run = ask.submit().result()
    assert (name, flow_id, flow_run) == ("ask", None, None)


def test_users_023_a_parameter_too_large_to_go_along_says_so(elsewhere: str) -> None:
    @task
    def ask(name: str) -> Any:
        try:
            return runtime_flow_run.parameters[name]
        except KeyError as error:
            return error.args[0]

    @flow(task_runner=elsewhere, validate_parameters=False)
    def main(small: int, large: Any, odd: Any) -> Any:
        return ask.map(["small", "large", "odd", "none"]).result()

    small, large, odd, none = main(1, "x" * 1_000_000, threading.Lock())
    assert small == 1
    assert "'large' is not here: it is too large" in large
    assert "'odd' is not here: it could not be pickled" in odd
    assert none == "none"


def test_users_023_threads_of_the_task_are_in_no_run(elsewhere: str) -> None:
    @task
    def ask() -> Any:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current_task_run()))
        thread.start()
        thread.join()
        return seen

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return ask.submit().result()

    assert main() == [None]


# --- tags ---------------------------------------------------------------------------------


def test_users_023_tags_are_those_at_the_submit(anywhere: str) -> None:
    @task(tags=["own"])
    def ask() -> list[str]:
        return runtime_task_run.tags

    @flow(task_runner=anywhere)
    def main() -> list[list[str]]:
        futures = [ask.submit()]
        for name in ("a", "b", "c"):
            with tags(name):
                futures.append(ask.submit())
                with tags("inner"):
                    futures.extend(ask.with_options(tags=["other"]).submit() for _ in range(2))
        return [future.result() for future in futures]

    assert main() == [
        ["own"],
        *(
            told
            for name in ("a", "b", "c")
            for told in ([name, "own"], *[sorted([name, "inner", "other"])] * 2)
        ),
    ]


# --- context variables --------------------------------------------------------------------


def test_users_023_a_declared_variable_has_its_value_of_the_submit(anywhere: str) -> None:
    @task(propagate=[REQUEST])
    def ask() -> Any:
        return REQUEST.get()

    @flow(task_runner=anywhere)
    def main() -> list[Any]:
        futures = [ask.submit()]
        for value in ("one", {"two": [2]}, 3):
            REQUEST.set(value)
            futures.append(ask.submit())
        return [future.result() for future in futures]

    assert contextvars.copy_context().run(main) == ["unset", "one", {"two": [2]}, 3]


def test_users_023_variables_of_the_flow_count_for_its_tasks_and_add_up(anywhere: str) -> None:
    @task
    def plain() -> Any:
        return REQUEST.get(), TENANT.get("none")

    @task(propagate=[TENANT])
    def both() -> Any:
        return REQUEST.get(), TENANT.get("none")

    @flow(task_runner=anywhere, propagate=[REQUEST])
    def main() -> Any:
        REQUEST.set("r")
        TENANT.set("t")
        return plain.submit().result(), both.submit().result()

    of_plain, of_both = contextvars.copy_context().run(main)
    assert of_both == ("r", "t")
    # Workers in this process see every variable; those elsewhere what was declared.
    assert of_plain == ("r", "t" if anywhere in ("inline", "thread") else "none")


def test_users_023_one_attempt_does_not_see_what_another_has_set(elsewhere: str) -> None:
    @task
    def ask(number: int) -> Any:
        before = REQUEST.get()
        REQUEST.set(number)
        return before

    @flow(task_runner=elsewhere)
    def main() -> list[Any]:
        return ask.map(range(30)).result()

    assert main() == ["unset"] * 30


def test_users_023_a_value_that_cannot_be_pickled_is_named(elsewhere: str) -> None:
    @task(propagate=[REQUEST, TENANT])
    def ask() -> None: ...

    @flow(task_runner=elsewhere)
    def main() -> Any:
        TENANT.set({"name": "t", "session": threading.Lock()})
        future = ask.submit()
        future.wait()
        return future.is_failed(), future.exception()

    is_failed, error = contextvars.copy_context().run(main)
    assert is_failed
    assert isinstance(error, TypeError)
    assert str(error) == (
        "context variable 'TENANT' -> ['session']: cannot pickle '_thread.lock' object"
    )


def test_users_023_a_value_that_cannot_be_loaded_fails_the_run(elsewhere: str) -> None:
    @task(propagate=[REQUEST])
    def ask() -> None: ...

    @flow(task_runner=elsewhere)
    def main() -> Any:
        REQUEST.set(Explosive())
        future = ask.submit()
        future.wait()
        return future.is_failed(), future.exception()

    is_failed, error = contextvars.copy_context().run(main)
    assert is_failed
    assert "exploded" in str(error)
    assert "context variables" in "".join(error.__notes__)


class Explosive:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise RuntimeError("exploded")


@pytest.mark.parametrize("wrong", ["REQUEST", 5, ["REQUEST"]])
def test_users_023_what_is_no_variable_is_refused_at_the_definition(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match="propagate"):

        @task(propagate=wrong)
        def ask() -> None: ...


def test_users_023_a_function_may_mention_a_variable_without_declaring_it(elsewhere: str) -> None:
    def reader() -> Any:
        return REQUEST.get()

    @task
    def ask(read: Any) -> Any:
        return read(), TENANT.get("none"), TENANT.name

    @flow(task_runner=elsewhere)
    def main() -> Any:
        REQUEST.set("not declared")
        return ask.submit(reader).result()

    assert contextvars.copy_context().run(main) == ("unset", "none", "TENANT")


def test_users_023_a_variable_as_argument_and_result_stays_the_same(elsewhere: str) -> None:
    @task(propagate=[REQUEST])
    def give(variable: contextvars.ContextVar[Any]) -> Any:
        assert variable is REQUEST
        return variable, variable.get()

    @flow(task_runner=elsewhere)
    def main() -> Any:
        REQUEST.set("r")
        return give.submit(REQUEST).result()

    variable, value = contextvars.copy_context().run(main)
    assert variable is REQUEST
    assert value == "r"


@pytest.fixture
def importable(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[types.ModuleType]:
    (tmp_path / "module_with_a_variable.py").write_text(
        "from contextvars import ContextVar\n"
        "WHO = ContextVar('WHO', default='nobody')\n"
        "def who():\n    return WHO.get()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("module_with_a_variable")
    del sys.modules["module_with_a_variable"]


def test_users_023_a_variable_of_a_module_is_that_of_the_module(
    processes: str, importable: types.ModuleType
) -> None:
    @task(propagate=[importable.WHO])
    def ask() -> Any:
        import module_with_a_variable  # type: ignore[import-not-found]

        return module_with_a_variable.who()

    @flow(task_runner=processes)
    def main() -> Any:
        importable.WHO.set("me")
        return ask.submit().result()

    assert contextvars.copy_context().run(main) == "me"


@pytest.fixture
def unknown_elsewhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[types.ModuleType]:
    """A module that no other process can import, wherever it runs."""
    (tmp_path / "module_to_ship.py").write_text(
        "import os\n"
        f"if os.getpid() != {os.getpid()}:\n    raise ImportError('not here')\n"
        "class Who:\n"
        "    def __init__(self, name):\n        self.name = name\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("module_to_ship")
    del sys.modules["module_to_ship"]


@pytest.mark.parametrize("kind", ["process", "dask"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_users_023_values_and_parameters_of_classes_of_shipped_modules_cross(
    request: pytest.FixtureRequest, unknown_elsewhere: types.ModuleType, kind: str
) -> None:
    def runner(ship_modules: list[str]) -> Any:
        if kind == "process":
            return ProcessPoolTaskRunner(1, ship_modules=ship_modules)
        return DaskTaskRunner(request.getfixturevalue("dask_address"), ship_modules=ship_modules)

    @task(propagate=[REQUEST])
    def ask() -> Any:
        return REQUEST.get()["who"].name, runtime_flow_run.parameters["who"].name

    @flow
    def main(who: Any) -> Any:
        REQUEST.set({"who": unknown_elsewhere.Who("somebody")})
        future = ask.submit()
        return future.exception() or future.result()

    def told(ship_modules: list[str]) -> Any:
        some_flow = main.with_options(task_runner=runner(ship_modules))
        return contextvars.copy_context().run(some_flow, unknown_elsewhere.Who("me"))

    assert told(["module_to_ship"]) == ("somebody", "me")
    if kind == "process":  # on other machines, no file of a project is taken to be there
        error = told([])
        assert isinstance(error, ImportError)
        assert "context variables" in "".join(error.__notes__)


SCRIPT = """
from contextvars import ContextVar
from penstock import flow, task

WHO = ContextVar("WHO", default="nobody")
BY_THE_WAY = ContextVar("BY_THE_WAY")

def who():
    return WHO.get()

@task(propagate=[WHO])
def ask():
    return who(), BY_THE_WAY.get("none")

@task
def others():
    return who()

@flow(task_runner="process:1", log_prints=False)
def main():
    WHO.set("me")
    first = ask.submit().result()
    WHO.set("you")
    return first, ask.submit().result(), others.submit().result()

print(main())
"""


def test_users_023_a_variable_of_a_script_crosses(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PENSTOCK_LOGGING_LEVEL": "WARNING"},
    )
    assert (done.stdout, done.stderr) == ("(('me', 'none'), ('you', 'none'), 'nobody')\n", "")


def test_users_023_a_constant_of_a_map_and_variables_go_together(elsewhere: str) -> None:
    @task(propagate=[REQUEST])
    def ask(item: int, table: list[int]) -> Any:
        return REQUEST.get(), table[item]

    @flow(task_runner=elsewhere)
    def main() -> Any:
        REQUEST.set("r")
        return ask.map(range(5), unmapped(list(range(50_000)))).result()

    assert contextvars.copy_context().run(main) == [("r", number) for number in range(5)]
