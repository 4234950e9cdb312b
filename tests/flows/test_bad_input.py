"""Promises about what people get wrong: a named error, early, whose text says what to do.

Rows 002, 042, 092, 096, 121, 140 and decision D4; the runs that such a mistake reaches end as any.
"""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

import penstock.exceptions
from penstock import PenstockFuture, State, as_completed, flow, quote, task, task_runners, wait
from penstock.cache_policies import INPUTS, CachePolicy
from penstock.exceptions import (
    CancelledRun,
    DefinitionError,
    FutureCycleError,
    HookSignatureError,
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingContextError,
    NameTemplateError,
    ParameterTypeError,
    PenstockError,
    ReservedArgumentError,
    TaskRunnerNotFound,
)
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    from collections.abc import Callable

both = pytest.mark.parametrize("decorator", [task, flow], ids=["task", "flow"])


# --- calls -------------------------------------------------------------------------------


@task
def add(a: int, b: int, *, c: int = 0) -> int:
    return a + b + c


WRONG_CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, r"add\(\) missing 2 required positional arguments: 'a' and 'b'"),
    ((1,), {}, r"add\(\) missing 1 required positional argument: 'b'"),
    ((1, 2, 3), {}, r"add\(\) takes 2 positional arguments but 3 were given"),
    ((1, 2), {"d": 4}, r"add\(\) got an unexpected keyword argument 'd'"),
    ((1, 2), {"a": 1}, r"add\(\) got multiple values for argument 'a'"),
]


@pytest.mark.parametrize(("args", "kwargs", "text"), WRONG_CALLS)
def test_seed_002_a_wrong_call_is_a_type_error_before_any_run_exists(
    runner: str, args: Any, kwargs: Any, text: str, log: Any
) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        wrong: Any = add
        with pytest.raises(TypeError, match=text):
            wrong(*args, **kwargs)
        with pytest.raises(TypeError, match=text):
            wrong.submit(*args, **kwargs)

    state: Any = main(return_state=True)
    assert str(state) == "Completed()"  # there was no run to fail
    assert not any("task run" in line for line in log.lines)


@pytest.mark.parametrize(("args", "kwargs", "text"), WRONG_CALLS)
def test_seed_002_a_wrong_call_of_a_flow_is_a_type_error_before_any_run_exists(
    args: Any, kwargs: Any, text: str, log: Any
) -> None:
    wrong: Any = flow(add.fn, name="add")
    with pytest.raises(TypeError, match=text):
        wrong(*args, **kwargs)
    assert log.lines == []


def test_seed_002_a_wrong_call_of_an_async_task_is_refused_at_the_call() -> None:
    @task
    async def add_later(a: int, b: int) -> int:
        return a + b

    wrong: Any = add_later
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        wrong(1)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        wrong.submit(1)


def test_a_flow_parameter_that_does_not_fit_names_itself_and_its_value() -> None:
    @flow
    def main(count: int) -> int:
        return count

    wrong: Any = main
    with pytest.raises(ParameterTypeError, match="parameter 'count'") as caught:
        wrong("many")
    assert isinstance(caught.value, TypeError)
    assert "got 'many'" in str(caught.value)
    assert "validate_parameters=False" in str(caught.value)


# --- maps --------------------------------------------------------------------------------


def test_seed_140_unequal_lengths_are_named(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(MappingLengthMismatch, match="a: 3, b: 2") as caught:
            add.map([1, 2, 3], [1, 2])
        assert isinstance(caught.value, ValueError)
        assert "unmapped(...)" in str(caught.value)

    assert str(main(return_state=True)) == "Completed()"


def test_seed_140_nothing_to_map_over(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(MappingMissingIterable, match=r"nothing to map over in add\.map"):
            add.map(1, 2)
        with pytest.raises(MappingMissingIterable, match=r"call \.submit\(\) for one run"):
            add.map("12", b="34")

    assert str(main(return_state=True)) == "Completed()"


def test_seed_140_a_wrong_signature_in_a_map_is_a_type_error(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
            add.map([1, 2])

    assert str(main(return_state=True)) == "Completed()"


@pytest.mark.parametrize(
    ("options", "text"),
    [({"on_error": "panic"}, "on_error is one of"), ({"max_in_flight": 0}, "max_in_flight is")],
)
def test_unknown_options_of_a_map(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add.map([1], [2], **options)


def test_seed_140_lengths_known_only_later_fail_one_run_and_say_so(runner: str) -> None:
    numbers = task(lambda count: list(range(count)), name="numbers")

    @flow(task_runner=runner)
    def main() -> None:
        futures = add.map(numbers.submit(3), [1, 2])
        futures.wait()
        assert len(futures) == 1
        with pytest.raises(MappingLengthMismatch, match="a: 3, b: 2"):
            futures[0].result()

    main()


# --- definitions -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", ["return_state", "wait_for"])
def test_seed_042_a_reserved_argument_name(decorator: Callable[..., Any], name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def subject(x, {name}=None): ...", namespace)
    with pytest.raises(ReservedArgumentError, match=f"takes an argument '{name}'") as caught:
        decorator(namespace["subject"])
    assert "give the argument another name" in str(caught.value)
    assert isinstance(caught.value, TypeError)


@both
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{missing}", "asks for {missing}, which is not a parameter"),
        ("{}", "by position"),
        ("{x", "is not a format string"),
        ("{x!q}", "is not a format string"),
    ],
)
def test_seed_092_a_name_template_that_can_never_work_is_refused_at_definition(
    decorator: Callable[..., Any], template: str, text: str
) -> None:
    option = "task_run_name" if decorator is task else "flow_run_name"
    with pytest.raises(NameTemplateError, match=re.escape(text)) as caught:
        decorator(lambda x: x, name="subject", **{option: template})
    assert "Parameters: x" in str(caught.value)


@both
@pytest.mark.parametrize("name", [7, lambda surprise: "name"])
def test_seed_096_a_naming_function_that_cannot_be_called_is_refused_at_definition(
    decorator: Callable[..., Any], name: Any
) -> None:
    option = "task_run_name" if decorator is task else "flow_run_name"
    with pytest.raises(DefinitionError, match="subject"):
        decorator(lambda x: x, name="subject", **{option: name})


def broken_name() -> str:
    raise RuntimeError("no name today")


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("{x:d}", NameTemplateError, "could not be filled in: ValueError"),
        ("{x.nothing}", NameTemplateError, "could not be filled in: AttributeError"),
        (broken_name, RuntimeError, "no name today"),
        (lambda: 7, TypeError, "must return a str; it returned 7"),
    ],
)
@pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])
def test_seed_092_a_name_that_cannot_be_made_fails_the_run_before_it_begins(
    runner: str, submitted: bool, name: Any, error: type[Exception], text: str
) -> None:
    calls: list[Any] = []

    @task(task_run_name=name, retries=2)
    def subject(x: str) -> None:
        calls.append(x)

    @flow(task_runner=runner)
    def main() -> list[State[Any]]:
        if not submitted:
            return [subject("x", return_state=True)]
        future: PenstockFuture[Any] = subject.submit("x")
        future.wait()
        assert future.run.run_count == 0
        return [future.state]

    (state,) = main()
    assert state.name == "Failed"
    with pytest.raises(error, match=re.escape(text)):
        state.result()
    assert calls == []


def test_seed_092_a_flow_whose_name_cannot_be_made_fails_before_it_begins() -> None:
    calls: list[Any] = []
    subject: Any = flow(calls.append, name="subject", flow_run_name="{object:d}")
    with pytest.raises((NameTemplateError, DefinitionError)):
        subject("x")
    assert calls == []


@both
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": -1}, "retries=-1 cannot be used; it takes a whole number of at least 0"),
        ({"retries": 1.5}, "retries=1.5 cannot be used"),
        ({"retries": True}, "retries=True cannot be used"),
        ({"retry_delay_seconds": -1}, "retry_delay_seconds=-1 cannot be used"),
        ({"retry_delay_seconds": [1, "x"]}, "retry_delay_seconds[1]='x' cannot be used"),
        ({"retry_jitter_factor": -0.5}, "retry_jitter_factor=-0.5 cannot be used"),
        ({"timeout_seconds": -1}, "timeout_seconds is a number >= 0 or None, not -1"),
        ({"timeout_seconds": "1"}, "timeout_seconds is a number >= 0 or None, not '1'"),
        ({"tags": "one"}, "tags is a list or set of strings, not 'one'"),
        ({"result_storage": 5}, "result_storage: a place for results is a folder, a URL"),
        ({"result_storage": ""}, "result_storage: a place for results is a folder, a URL"),
        ({"result_serializer": 5}, "result_serializer: a serializer is a name or a penstock.ser"),
        ({"name": ""}, "must not be empty"),
        ({"name": 7}, "must be a str, not 7"),
    ],
    ids=str,
)
def test_seed_121_an_option_that_cannot_work_is_refused_at_definition(
    decorator: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DefinitionError, match=re.escape(text)) as caught:
        decorator(lambda: 1, **options)
    assert isinstance(caught.value, ValueError)
    if "name" not in options:
        with pytest.raises(DefinitionError):
            decorator(lambda: 1, name="subject").with_options(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cache_expiration": "1h"}, "cache_expiration is a timedelta or a number of seconds"),
        ({"cache_expiration": float("nan")}, "cache_expiration is a timedelta or a number"),
        ({"cache_policy": CachePolicy}, "make one of it: CachePolicy()"),
        ({"cache_policy": INPUTS.configure(isolation_level="loose")}, "READ_COMMITTED, SERIALIZA"),
        ({"cache_policy": INPUTS.configure(lock_manager=5)}, "a penstock.locking.LockManager"),
        ({"cache_policy": INPUTS.configure(key_storage=5)}, "the key_storage of its cache_policy"),
        ({"on_rollback": lambda task, task_run: None}, "It may take the transaction, or nothing"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_an_option_for_results_that_cannot_work_is_refused_at_definition(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DefinitionError, match=re.escape(text)) as caught:
        task(lambda: 1, name="t", **options)
    assert "t" in str(caught.value)


@both
def test_an_option_that_does_not_exist_is_a_type_error_with_the_nearest_name(
    decorator: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError, match="has no option 'retires'; did you mean 'retries'"):
        decorator(lambda: 1, retires=3)


@both
@pytest.mark.parametrize("subject", [7, "text", None])
def test_what_is_no_function_is_refused(decorator: Any, subject: Any) -> None:
    if subject is None:
        assert callable(decorator(subject))  # waits for its function
        return
    with pytest.raises(DefinitionError, match="goes above a function"):
        decorator(subject)


@both
@pytest.mark.parametrize("hook", [7, "notify", [None], lambda a, b, c, d: None])
def test_d4_a_hook_that_cannot_be_called_is_refused_at_definition(
    decorator: Callable[..., Any], hook: Any
) -> None:
    with pytest.raises(HookSignatureError, match="on_failure") as caught:
        decorator(lambda: 1, name="subject", on_failure=hook)
    assert isinstance(caught.value, TypeError)
    if callable(hook):
        assert "may take, by position: (), (state)" in str(caught.value)
    else:
        assert "cannot be called" in str(caught.value)


@pytest.mark.parametrize("kind", [task, flow])
def test_a_generator_that_is_called_has_no_final_state_to_return(kind: Any) -> None:
    def plain() -> Any:
        yield 1

    async def in_a_loop() -> Any:
        yield 1

    for fn in (plain, in_a_loop):
        with pytest.raises(TypeError, match="run by going through it"):
            kind(fn)(return_state=True)
    assert list(kind(plain)()) == [1]


# --- runners -----------------------------------------------------------------------------


def run_on(runner: Any) -> Any:
    @flow(task_runner=runner)
    def main() -> int:
        return add.submit(1, 2).result()

    return main()


def test_an_unknown_runner_lists_those_there_are() -> None:
    with pytest.raises(TaskRunnerNotFound, match="no task runner is called 'threads'") as caught:
        run_on("threads:4")
    text = str(caught.value)
    assert "(given as 'threads:4')" in text
    assert "inline" in text
    assert "thread" in text
    assert "penstock.task_runners" in text
    assert isinstance(caught.value, ValueError)


def test_a_runner_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.metadata

    points = importlib.metadata.entry_points(group="penstock.task_runners")
    without = importlib.metadata.EntryPoints(p for p in points if p.name != "dask")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: without)
    monkeypatch.setattr(task_runners, "_known", {})
    with pytest.raises(TaskRunnerNotFound, match=r'pip install "penstock\[dask\]"'):
        run_on("dask")


def test_a_runner_that_was_found_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    run_on("inline")

    def look(**_: Any) -> Any:
        raise AssertionError("it takes a file of every installed package")

    monkeypatch.setattr(importlib.metadata, "entry_points", look)
    assert run_on("inline") == 3


@pytest.mark.parametrize("spec", ["thread:0", "thread:-1", "thread:many", "thread:1.5"])
def test_a_runner_refuses_what_it_does_not_understand(spec: str) -> None:
    with pytest.raises(TaskRunnerNotFound, match="takes a number of threads, 1 or more"):
        run_on(spec)


def test_a_runner_is_given_by_name_object_or_class() -> None:
    with pytest.raises(TaskRunnerNotFound, match="by name, as an object or as a class"):
        run_on(7)


def test_an_unknown_runner_in_the_settings_or_of_one_task_is_the_same_error() -> None:
    with temporary_settings(task_runner="nowhere"), pytest.raises(TaskRunnerNotFound):
        run_on(None)

    @flow
    def main() -> None:
        add.with_options(task_runner="nowhere").submit(1, 2)

    with pytest.raises(TaskRunnerNotFound, match="'nowhere'"):
        main()


@pytest.mark.parametrize("runner", ["nowhere", "thread:0", 7, "environment"])
def test_an_unknown_runner_is_refused_before_the_flow_begins(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[bool] = []
    if runner == "environment":
        monkeypatch.setenv("PENSTOCK_TASK_RUNNER", "nowhere")
    main = flow(
        lambda: began.append(True), task_runner="thread" if runner == "environment" else runner
    )
    with pytest.raises(TaskRunnerNotFound):
        main()
    with pytest.raises(TaskRunnerNotFound):
        flow(main, name="around", task_runner="inline")()
    assert not began


def test_an_unknown_runner_leaves_no_run_behind_that_never_ends() -> None:
    states: list[str] = []
    nowhere = add.with_options(task_runner="nowhere")

    @flow(on_failure=lambda state: states.append(state.name))
    def main() -> None:
        with pytest.raises(TaskRunnerNotFound):
            nowhere.submit(1, 2)
        nowhere.submit(1, 2)

    with pytest.raises(TaskRunnerNotFound):
        main()
    assert states == ["Failed"]


# --- results that there are not ----------------------------------------------------------


def test_the_result_of_a_cancelled_run_raises_and_says_why(gate: Any) -> None:
    blocked = task(gate.wait, name="blocked")

    @flow(task_runner="thread:1")
    def main() -> None:
        blocked.submit()
        queued = add.submit(1, 2)
        assert queued.cancel()
        gate.open()
        with pytest.raises(CancelledRun, match="cancelled by request") as caught:
            queued.result(timeout=10)
        assert "there is no result" in str(caught.value)
        assert isinstance(queued.result(raise_on_failure=False), CancelledRun)
        with pytest.raises(CancelledRun):
            queued.exception()
        assert not queued.cancel()  # it is over

    main()


def test_a_run_cannot_wait_for_a_run_that_waits_for_it(threads: str) -> None:
    held: dict[str, PenstockFuture[Any]] = {}
    ready = threading.Event()

    @task
    def first() -> Any:
        assert ready.wait(10)
        return held["second"].result(timeout=10)

    @task
    def second(value: Any) -> Any:
        return value

    @flow(task_runner=threads)
    def main() -> None:
        future = first.submit()
        held["second"] = second.submit(future)
        ready.set()
        with pytest.raises(FutureCycleError, match="'first-0' would wait for itself") as caught:
            future.result(timeout=10)
        assert "asked for the result of 'second-0'" in str(caught.value)
        held["second"].wait()
        assert held["second"].state.name == "UpstreamFailed"

    main()


@pytest.mark.parametrize("way", ["result", "wait", "futures.wait", "as_completed", "await"])
def test_a_run_cannot_wait_for_itself(threads: str, way: str) -> None:
    held: list[PenstockFuture[Any]] = []
    ready = threading.Event()

    @task
    def itself() -> None:
        assert ready.wait(10)
        if way == "result":
            held[0].result(timeout=10)
        elif way == "wait":
            held[0].wait(10)
        elif way == "futures.wait":
            wait(held, 10)
        else:
            list(as_completed(held, 10))

    @task
    async def itself_async() -> None:
        await asyncio.to_thread(ready.wait, 10)
        await held[0]

    @flow(task_runner=threads)
    def main() -> None:
        held.append((itself_async if way == "await" else itself).submit())
        ready.set()
        with pytest.raises(FutureCycleError):
            held[0].result(timeout=10)

    main()


@pytest.mark.parametrize("way", ["result", "futures.wait", "as_completed", "through a task"])
def test_a_coroutine_cannot_block_the_event_loop_that_it_waits_for(threads: str, way: str) -> None:
    @task
    async def inner() -> int:
        await asyncio.sleep(0)
        return 1

    @task
    def between() -> int:
        return inner.submit().result(timeout=10)

    @task
    async def outer() -> None:
        future = (between if way == "through a task" else inner).submit()
        if way == "futures.wait":
            wait([future], 10)
        elif way == "as_completed":
            list(as_completed([future], 10))
        else:
            future.result(timeout=10)

    @flow(task_runner=threads)
    def main() -> None:
        with pytest.raises(FutureCycleError, match="would wait"):
            outer.submit().result(timeout=20)

    main()


def test_a_coroutine_that_may_block_gets_what_it_waits_for(threads: str) -> None:
    inner = task(lambda: 1, name="inner")

    @task
    async def inner_async() -> int:
        return 2

    @task
    async def outer() -> list[int]:
        plain = inner.submit().result(timeout=10)
        awaited = await inner_async.submit()
        beside = await asyncio.to_thread(lambda: inner_async.submit().result(timeout=10))
        return [plain, awaited, beside]

    @flow(task_runner=threads)
    def main() -> list[int]:
        return outer.submit().result(timeout=20)

    assert main() == [1, 2, 2]


def test_two_runs_cannot_wait_for_each_other(threads: str) -> None:
    held: dict[str, PenstockFuture[Any]] = {}
    ready = threading.Event()
    waits = threading.Event()

    @task
    def first() -> Any:
        assert ready.wait(10)
        waits.set()
        try:
            return held["second"].result(timeout=10)
        except FutureCycleError:
            return "first refused"

    @task
    def second() -> Any:
        assert waits.wait(10)
        try:
            return held["first"].result(timeout=10)
        except FutureCycleError:
            return "second refused"

    @flow(task_runner=threads)
    def main() -> set[str]:
        held["first"] = first.submit()
        held["second"] = second.submit()
        ready.set()
        return {held["first"].result(timeout=10), held["second"].result(timeout=10)}

    assert len(main()) == 1  # one was refused, and the other has its word


@pytest.mark.parametrize("inner", ["task", "flow"])
def test_nor_can_what_it_calls(inner: str) -> None:
    held: dict[str, PenstockFuture[Any]] = {}
    ready = threading.Event()

    def ask() -> Any:
        return held["second"].result(timeout=10)

    asks: Any = (task if inner == "task" else flow)(ask, name="asks")

    @task
    def first() -> Any:
        assert ready.wait(10)
        return asks()

    @flow(task_runner="thread:2")
    def main() -> None:
        held["first"] = first.submit()
        held["second"] = task(lambda value: value, name="second").submit(held["first"])
        ready.set()
        with pytest.raises(FutureCycleError, match="cannot end before"):
            held["first"].result(timeout=10)
        held["second"].exception()

    main()


def test_nor_can_a_submitted_sub_flow_or_a_task_in_it() -> None:
    held: dict[str, PenstockFuture[Any]] = {}
    ready = threading.Event()

    @task
    def ask() -> Any:
        return held["second"].result(timeout=10)

    @flow
    def sub(inside: bool) -> Any:
        assert ready.wait(10)
        return ask.submit().result(timeout=10) if inside else held["second"].result(timeout=10)

    @flow(task_runner="thread:3")
    def main() -> None:
        for inside in (False, True):
            ready.clear()
            first = sub.submit(inside)
            held["second"] = task(lambda value: value, name="second").submit(first)
            ready.set()
            with pytest.raises(FutureCycleError, match="cannot end before"):
                first.result(timeout=10)
            held["second"].exception()

    main()


def test_a_future_in_a_quote_is_no_input(runner: str) -> None:
    @task
    def ask(future: PenstockFuture[int]) -> int:
        return future.result(timeout=10)

    @flow(task_runner=runner)
    def main() -> int:
        return ask.submit(quote(add.submit(1, 2))).result(timeout=10)

    assert main() == 3


# --- outside of runs ---------------------------------------------------------------------


def test_what_needs_a_flow_run_says_so() -> None:
    with pytest.raises(MissingContextError, match=r"flow\.submit\(\) works inside of a flow run"):
        flow(lambda: 1, name="sub").submit()


def test_every_error_of_ours_is_in_one_tree() -> None:
    for name in penstock.exceptions.__all__:
        assert issubclass(getattr(penstock.exceptions, name), PenstockError)
