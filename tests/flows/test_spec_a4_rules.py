"""Rows 039 to 046 of the specification: rules about tasks."""

from __future__ import annotations

import cProfile
import functools
import os
import pstats
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.context import current_task_run
from penstock.exceptions import DefinitionError, ReservedArgumentError
from penstock.runtime import task_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flows.conftest import Gate

    from penstock import Task


def work(x: Any = None) -> Any:
    return x


# --- 039, 040: key and name ---------------------------------------------------------------


def test_seed_039_the_same_task_defined_twice_has_the_same_key() -> None:
    assert task(work).task_key == task(work).task_key


@pytest.mark.parametrize("options", [{"name": "other"}, {"tags": ["t"]}])
def test_seed_039_name_and_tags_are_in_the_key(options: Any) -> None:
    assert task(work, **options).task_key != task(work).task_key


def test_seed_039_the_order_of_tags_is_not_in_the_key() -> None:
    assert task(work, tags=["a", "b"]).task_key == task(work, tags=["b", "a"]).task_key


def test_seed_039_the_qualified_name_of_the_function_is_in_the_key() -> None:
    def other(x: Any) -> Any:
        return x

    assert task(other, name="work").task_key != task(work).task_key


def test_seed_039_options_that_are_no_part_of_the_identity_are_not_in_the_key() -> None:
    assert task(work, retries=3).task_key == task(work).task_key


def test_seed_039_the_source_is_not_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    program = "import moving; print(moving.work.task_key)"
    keys = []
    for text in ("@task\ndef work(): return 1\n", "\n\n\n@task\ndef work(): return 2\n"):
        (tmp_path / "moving.py").write_text(f"from penstock import task\n{text}")
        done = subprocess.run(
            [sys.executable, "-B", "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        keys.append(done.stdout)
    assert keys[0] == keys[1] != ""


class Callee:
    def __call__(self, x: int) -> int:
        return x + 1


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (work, "work"),
        (Callee(), "Callee"),
        (functools.partial(work, 1), "work"),
        (len, "len"),
        (lambda x: x, "<lambda>"),
    ],
)
def test_seed_040_the_name_comes_from_the_function_object(fn: Any, name: str) -> None:
    assert task(fn).name == name


# --- 041: small tasks ---------------------------------------------------------------------


def test_seed_041_the_failure_of_one_task_is_contained(runner: str) -> None:
    @task
    def halve(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x // 2

    @flow(task_runner=runner)
    def body() -> list[Any]:
        return halve.map([2, 3, 4]).result(raise_on_failure=False)

    first, second, third = body()
    assert (first, third) == (1, 2)
    assert isinstance(second, ValueError)


def test_seed_041_a_retry_starts_the_task_from_its_beginning(runner: str) -> None:
    lines: list[str] = []

    @task(retries=1)
    def steps() -> None:
        lines.append("first line")
        if len(lines) == 1:
            raise ValueError("the second line fails once")
        lines.append("last line")

    @flow(task_runner=runner)
    def body() -> None:
        steps.submit().result()

    body()
    assert lines == ["first line", "first line", "last line"]


# --- 042: almost any function -------------------------------------------------------------


def many(*args: int, scale: int = 1, **kwargs: int) -> int:
    return scale * (sum(args) + sum(kwargs.values()))


class Methods:
    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    def static(x: int) -> int:
        return x + 1


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "value"),
    [
        (functools.partial(many, 1, scale=2), (3,), {"x": 4}, 16),
        (functools.partial(functools.partial(many, 1), 2), (), {}, 3),
        (Callee(), (1,), {}, 2),
        (lambda x, y=2: x * y, (4,), {}, 8),
        (many, (1, 2, 3), {"a": 4, "scale": 10}, 100),
        (len, ([1, 2],), {}, 2),
        (sum, ([1, 2],), {"start": 3}, 6),
        (max, (1, 2), {}, 2),
        (int, ("7",), {}, 7),
        ("a-b".split, ("-",), {}, ["a", "b"]),
        (Methods.of_class, (1,), {}, ("Methods", 1)),
        (Methods().static, (1,), {}, 2),
        (staticmethod(work), (5,), {}, 5),
    ],
)
@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_042_any_callable_can_be_a_task(
    fn: Any, args: Any, kwargs: Any, value: Any, how: str, runner: str
) -> None:
    made: Task[Any, Any] = task(fn)

    @flow(task_runner=runner)
    def body() -> Any:
        return made(*args, **kwargs) if how == "call" else made.submit(*args, **kwargs).result()

    assert body() == value


def test_seed_042_positional_only_and_keyword_only_arguments_are_kept(runner: str) -> None:
    @task
    def strict(a: int, /, b: int, *, c: int = 3) -> dict[str, Any]:
        return task_run.parameters

    @flow(task_runner=runner)
    def body() -> dict[str, Any]:
        return strict.submit(1, b=2).result()

    assert body() == {"a": 1, "b": 2, "c": 3}


def test_seed_042_keyword_arguments_may_have_the_name_of_a_positional_only_one() -> None:
    @task
    def odd(a: int, /, **rest: int) -> tuple[int, dict[str, int]]:
        return a, rest

    assert odd(1, a=2) == (1, {"a": 2})


@pytest.mark.parametrize("name", ["return_state", "wait_for"])
@pytest.mark.parametrize("decorator", [task, flow])
def test_seed_042_arguments_of_the_call_itself_are_reserved(decorator: Any, name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def fn({name}=None): pass", scope)
    with pytest.raises(ReservedArgumentError, match=name):
        decorator(scope["fn"])


def test_seed_042_what_cannot_be_called_is_refused() -> None:
    nothing: Any = 5
    with pytest.raises(DefinitionError, match="goes above a function"):
        task(nothing)


# --- 043, 044: no network, and many tasks --------------------------------------------------


def test_seed_043_a_flow_opens_no_socket(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)

    @flow(task_runner=runner)
    def body() -> list[int]:
        return task(work).map([1, 2, 3]).result()

    assert body() == [1, 2, 3]


def test_seed_043_no_module_of_a_network_is_imported_for_a_flow() -> None:
    program = (
        "import sys\n"
        "from penstock import flow, task\n"
        "flow(lambda: task(len).submit([1]).result())()\n"
        "print([m for m in ('http.client', 'httpx', 'urllib.request') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[]\n"


def test_seed_044_ten_thousand_tasks_are_no_trouble(
    threads: str, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_LOGGING_LEVEL", "WARNING")
    plain = task(work)

    @flow(task_runner=threads)
    def body() -> int:
        return sum(future.result() for future in [plain.submit(x) for x in range(10_000)])

    assert body() == 49_995_000


def test_seed_044_a_thousand_tasks_in_a_chain_are_no_trouble(runner: str, log: Any) -> None:
    @task
    def add_one(x: int) -> int:
        return x + 1

    @flow(task_runner=runner)
    def body() -> int:
        future: Any = add_one.submit(0)
        for _ in range(1500):
            future = add_one.submit(future)
        return int(future.result())

    assert body() == 1501


def test_seed_044_a_long_chain_that_waits_for_one_task_is_no_trouble(
    threads: str, log: Any, gate: Gate
) -> None:
    @task
    def first() -> int:
        gate.wait()
        return 0

    @task
    def add_one(x: int) -> int:
        return x + 1

    @flow(task_runner=threads)
    def body() -> int:
        future: Any = first.submit()
        for _ in range(1500):
            future = add_one.submit(future)
        gate.open()
        return int(future.result())

    assert body() == 1500


def test_seed_044_a_failure_runs_down_a_long_chain(threads: str, log: Any, gate: Gate) -> None:
    @task
    def first() -> int:
        gate.wait()
        raise ValueError("at the top")

    @flow(task_runner=threads)
    def body() -> str:
        future: Any = first.submit()
        for _ in range(1500):
            future = task(work).submit(future)
        gate.open()
        future.wait()
        return str(future.state)

    said = "Upstream run 'first-0' ended in state "
    assert said in body()
    assert len(body()) < 200


def test_seed_044_the_cause_at_the_end_of_a_chain_is_the_original_exception(runner: str) -> None:
    problem = ValueError("at the top")

    @task
    def first() -> int:
        raise problem

    @flow(task_runner=runner)
    def body() -> Any:
        future: Any = first.submit()
        for _ in range(3):
            future = task(work).submit(future)
        return future.exception().__cause__ is problem

    assert body()


# --- 045: the main thread -------------------------------------------------------------------


@task
def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def test_seed_045_a_flow_and_its_direct_calls_run_in_the_main_thread(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> tuple[bool, bool]:
        return threading.current_thread() is threading.main_thread(), in_main_thread()

    assert body() == (True, True)


def test_seed_045_a_task_outside_of_flows_runs_in_the_main_thread() -> None:
    assert in_main_thread()


def test_seed_045_a_submitted_task_does_not_run_in_the_main_thread(threads: str) -> None:
    @flow(task_runner=threads)
    def body() -> bool:
        return in_main_thread.submit().result()

    assert not body()


def test_seed_045_a_task_submitted_to_the_inline_runner_runs_in_the_main_thread() -> None:
    @flow(task_runner="inline")
    def body() -> bool:
        return in_main_thread.submit().result()

    assert body()


def test_seed_045_a_breakpoint_in_a_direct_call_stops_in_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stops: list[tuple[str, threading.Thread]] = []

    def stop() -> None:
        stops.append((sys._getframe(1).f_code.co_name, threading.current_thread()))

    monkeypatch.setattr(sys, "breakpointhook", stop)

    @task
    def stopping() -> None:
        breakpoint()  # the hook is ours

    flow(lambda: stopping(), name="body")()
    assert stops == [("stopping", threading.main_thread())]


def test_seed_045_a_profiler_sees_the_function_of_a_direct_call() -> None:
    @task
    def busy() -> int:
        return sum(range(1000))

    profile = cProfile.Profile()
    profile.runcall(flow(lambda: busy(), name="body"))
    functions = {name for _, _, name in pstats.Stats(profile).stats}  # type: ignore[attr-defined]  # not in typeshed
    assert "busy" in functions


@pytest.mark.parametrize("where", ["task", "flow"])
def test_seed_045_ctrl_c_in_a_direct_call_is_raised_where_it_strikes(where: str) -> None:
    met: list[str] = []

    def strike() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            met.append("in the function")
            raise

    inner = task(strike) if where == "task" else strike

    with pytest.raises(KeyboardInterrupt):
        flow(lambda: inner(), name="body")()
    assert met == ["in the function"]


def test_seed_045_ctrl_c_in_a_task_outside_of_flows_is_raised_where_it_strikes() -> None:
    @task
    def strike() -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        strike()


# --- 046: the state in memory is current -----------------------------------------------------


def test_seed_046_the_state_is_there_as_soon_as_the_result_is(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> bool:
        futures = [task(work).submit(x) for x in range(100)]
        return all(f.result() is not None and f.state.is_completed() for f in futures)

    assert body()


def test_seed_046_a_direct_call_sees_itself_running() -> None:
    @task
    def mine() -> list[str]:
        run = current_task_run()
        assert run is not None
        return [str(state) for state in run.states]

    assert flow(lambda: mine(), name="body")() == ["Pending()", "Running()"]


def test_seed_046_a_hook_sees_the_state_that_set_it_off(runner: str) -> None:
    seen: list[str] = []

    def hook(task: Any, task_run: Any, state: Any) -> None:
        seen.append(task_run.state.name)

    hooked = task(work, on_running=hook, on_completion=hook)

    @flow(task_runner=runner)
    def body() -> None:
        hooked.submit().result()

    body()
    assert seen == ["Running", "Completed"]


def test_seed_046_times_of_states_never_go_back(runner: str) -> None:
    @task(retries=2, retry_delay_seconds=0.001)
    def fail() -> None:
        raise ValueError("x")

    @flow(task_runner=runner)
    def body() -> list[float]:
        future = fail.submit()
        future.wait()
        _ = future.state
        return [state.at for state in future.run.states]

    times = body()
    assert times == sorted(times)
