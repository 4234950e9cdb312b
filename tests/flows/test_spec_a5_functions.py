"""Rows 047 to 063 of the specification: kinds of function, methods, generators."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from penstock import Task, flow, task
from penstock.context import current_flow_run, current_task_run
from penstock.exceptions import TaskRunTimeoutError
from penstock.runtime import task_run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

    from tests.flows.conftest import Log


# --- 047 to 049: plain and async functions -----------------------------------------------


@task
def plain(x: int = 1) -> int:
    return x + 1


@task
async def waiting(x: int = 1) -> int:
    await asyncio.sleep(0)
    return x + 1


def test_seed_047_a_task_runs_outside_of_any_flow_without_a_warning(log: Log) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plain() == 2
    assert log.lines == ["INFO    | Task run 'plain' - Finished in state Completed()"]


def test_seed_047_a_task_outside_of_any_flow_has_no_flow_run() -> None:
    assert task(lambda: current_flow_run() is None)()


def test_seed_047_a_failing_task_outside_of_any_flow_raises_its_exception() -> None:
    @task
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_seed_048_the_call_of_an_async_task_gives_a_coroutine() -> None:
    assert asyncio.run(waiting(4)) == 5


def test_seed_048_an_async_task_can_be_asked_for_its_state() -> None:
    assert str(asyncio.run(waiting(return_state=True))) == "Completed()"


def test_seed_049_async_tasks_are_awaited_in_an_async_flow() -> None:
    @flow
    async def body() -> int:
        return await waiting(await waiting(1))

    assert asyncio.run(body()) == 3


def test_seed_049_async_tasks_run_together() -> None:
    here: list[asyncio.Event] = []

    @task
    async def meet() -> int:
        here.append(asyncio.Event())
        if len(here) == 3:
            for event in here:
                event.set()
        await asyncio.wait_for(here[-1].wait(), 10)
        return len(here)

    @flow
    async def body() -> list[int]:
        async with asyncio.timeout(10):
            return list(await asyncio.gather(meet(), meet(), meet()))

    assert asyncio.run(body()) == [3, 3, 3]


def test_seed_049_runs_that_are_awaited_together_know_each_its_own_context() -> None:
    @task
    async def mine() -> Any:
        before = task_run.name
        await asyncio.sleep(0.001)
        return before, task_run.name

    @flow
    async def body() -> list[Any]:
        return list(await asyncio.gather(mine(), mine()))

    assert asyncio.run(body()) == [("mine-0", "mine-0"), ("mine-1", "mine-1")]


def test_seed_049_async_tasks_run_together_outside_of_any_flow() -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(waiting(1), waiting(2)))

    assert asyncio.run(main()) == [2, 3]


def test_seed_049_an_async_task_that_fails_raises_its_exception() -> None:
    @task
    async def fail() -> None:
        raise KeyError("mine")

    @flow
    async def body() -> str:
        with pytest.raises(KeyError, match="mine"):
            await fail()
        return "went on"

    assert asyncio.run(body()) == "went on"


def test_seed_049_submitted_async_tasks_share_one_event_loop(threads: str) -> None:
    @task
    async def which() -> int:
        return id(asyncio.get_running_loop())

    @flow(task_runner=threads)
    def body() -> int:
        return len({future.result() for future in [which.submit() for _ in range(20)]})

    assert body() == 1


def test_seed_049_a_cancelled_asyncio_task_ends_its_run() -> None:
    runs: list[Any] = []

    async def main() -> None:
        begun = asyncio.Event()

        @task
        async def forever() -> None:
            runs.append(current_task_run())
            begun.set()
            await asyncio.sleep(60)

        running = asyncio.ensure_future(forever())
        await asyncio.wait_for(begun.wait(), 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert runs[0].state.is_cancelled()


# --- 050 to 053: methods -----------------------------------------------------------------


class Greeter:
    def __init__(self, name: str) -> None:
        self.name = name

    @task
    def instance(self, x: int = 0) -> tuple[str, int]:
        return self.name, x

    @task
    async def async_instance(self, x: int = 0) -> tuple[str, int]:
        await asyncio.sleep(0)
        return self.name, x

    @classmethod
    @task
    def of_class(cls, x: int = 0) -> tuple[str, int]:
        return cls.__name__, x

    @task
    @classmethod
    def of_class_below(cls, x: int = 0) -> tuple[str, int]:
        return cls.__name__, x

    @classmethod
    @task
    async def async_of_class(cls, x: int = 0) -> tuple[str, int]:
        return cls.__name__, x

    @task
    @classmethod
    async def async_of_class_below(cls, x: int = 0) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    @task
    def static(x: int = 0) -> tuple[str, int]:
        return "static", x

    @task
    @staticmethod
    def static_below(x: int = 0) -> tuple[str, int]:
        return "static", x

    @staticmethod
    @task
    async def async_static(x: int = 0) -> tuple[str, int]:
        return "static", x

    @task
    @staticmethod
    async def async_static_below(x: int = 0) -> tuple[str, int]:
        return "static", x


class Child(Greeter): ...


METHODS = [
    ("instance", "ann"),
    ("of_class", "Child"),
    ("of_class_below", "Child"),
    ("static", "static"),
    ("static_below", "static"),
]
ASYNC_METHODS = [
    ("async_instance", "ann"),
    ("async_of_class", "Child"),
    ("async_of_class_below", "Child"),
    ("async_static", "static"),
    ("async_static_below", "static"),
]


@pytest.mark.parametrize(("method", "says"), METHODS)
def test_seed_050_to_052_a_method_is_called_as_a_task(method: str, says: str) -> None:
    assert getattr(Child("ann"), method)(5) == (says, 5)


@pytest.mark.parametrize(("method", "says"), METHODS[1:])
def test_seed_051_052_class_and_static_methods_are_called_on_the_class(
    method: str, says: str
) -> None:
    assert getattr(Child, method)(5) == (says, 5)


# From 3.13 on, `classmethod` no longer asks what it wraps to bind itself: the call gets the class,
# and an attribute of the task behind it knows nothing of it. `@task` goes on top there.
BOUND_METHODS = [
    each
    for each in METHODS + ASYNC_METHODS
    if sys.version_info < (3, 13) or not each[0].endswith("of_class")
]


@pytest.mark.parametrize(("method", "says"), BOUND_METHODS)
def test_seed_053_a_method_is_submitted(method: str, says: str, runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return getattr(Child("ann"), method).submit(x=5).result()

    assert body() == (says, 5)


@pytest.mark.parametrize(("method", "says"), BOUND_METHODS)
def test_seed_053_a_method_is_mapped(method: str, says: str, runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return getattr(Child("ann"), method).map([1, 2]).result()

    assert body() == [(says, 1), (says, 2)]


@pytest.mark.parametrize(("method", "says"), ASYNC_METHODS)
def test_seed_053_an_async_method_is_awaited(method: str, says: str) -> None:
    @flow
    async def body() -> Any:
        return await getattr(Child("ann"), method)(5)

    assert asyncio.run(body()) == (says, 5)


@pytest.mark.parametrize(("method", "says"), [each for each in METHODS if each in BOUND_METHODS])
def test_seed_053_a_method_with_other_options_is_still_bound(method: str, says: str) -> None:
    changed = getattr(Child("ann"), method).with_options(name="other")
    assert (changed.name, changed(5)) == ("other", (says, 5))


@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_seed_050_two_bound_methods_keep_each_its_own_instance(how: str, runner: str) -> None:
    of_ann, of_bob = Greeter("ann").instance, Greeter("bob").instance

    def ask(bound: Any) -> Any:
        if how == "call":
            return bound(1)
        return bound.submit(1).result() if how == "submit" else bound.map([1])[0].result()

    @flow(task_runner=runner)
    def body() -> Any:
        return ask(of_ann), ask(of_bob), ask(of_ann)

    assert body() == (("ann", 1), ("bob", 1), ("ann", 1))


def test_seed_050_bound_methods_of_many_instances_run_side_by_side(runner: str) -> None:
    people = [Greeter(str(number)) for number in range(20)]

    @flow(task_runner=runner)
    def body() -> list[Any]:
        futures = [person.instance.submit(0) for person in people]
        return [future.result()[0] for future in futures]

    assert body() == [str(number) for number in range(20)]


def test_seed_050_the_task_of_a_class_is_the_unbound_one() -> None:
    method: Any = Greeter.instance
    assert isinstance(method, Task)
    assert method(Greeter("ann"), 3) == ("ann", 3)


def test_seed_050_the_instance_is_not_among_the_parameters(runner: str) -> None:
    class Asking:
        @task
        def mine(self, x: int) -> dict[str, Any]:
            return task_run.parameters

    @flow(task_runner=runner)
    def body() -> Any:
        return Asking().mine.submit(3).result()

    assert body() == {"x": 3}


def test_seed_050_runs_of_a_method_count_on_for_all_instances(runner: str) -> None:
    class Asking:
        @task
        def mine(self) -> Any:
            return task_run.name

    @flow(task_runner=runner)
    def body() -> Any:
        return [Asking().mine.submit().result(), Asking().mine()]

    assert body() == ["mine-0", "mine-1"]


def test_seed_050_hooks_of_a_method_get_the_task(runner: str) -> None:
    seen: list[str] = []

    class Hooked:
        @task(on_completion=lambda task, task_run, state: seen.append(task.name))
        def mine(self) -> None: ...

    @flow(task_runner=runner)
    def body() -> None:
        Hooked().mine.submit().result()

    body()
    assert seen == ["mine"]


def test_seed_050_a_hook_added_to_the_class_holds_for_bound_methods() -> None:
    seen: list[str] = []

    class Hooked:
        @task
        def mine(self) -> None: ...

        @mine.on_completion
        def note(task: Any, task_run: Any, state: Any) -> None:
            seen.append(state.name)

    Hooked().mine()
    assert seen == ["Completed"]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_050_an_instance_is_let_go_after_a_run_outside_of_flows(how: str, log: Log) -> None:
    log.show(logging.ERROR)  # a record knows its run, and pytest keeps all
    person = Greeter("ann")
    if how == "call":
        person.instance()
    else:
        person.instance.submit().result()
    kept = weakref.ref(person)
    del person
    gc.collect()
    assert kept() is None


def test_seed_050_instances_with_slots_have_tasks(runner: str) -> None:
    class Slotted:
        __slots__ = ("x",)

        def __init__(self, x: int) -> None:
            self.x = x

        @task
        def mine(self) -> int:
            return self.x

    @flow(task_runner=runner)
    def body() -> Any:
        return Slotted(1).mine.submit().result(), Slotted(2).mine()

    assert body() == (1, 2)


def test_seed_053_generator_methods_are_driven_by_the_caller() -> None:
    class Counting:
        def __init__(self, start: int) -> None:
            self.start = start

        @task
        def count(self) -> Iterator[int]:
            yield from range(self.start, self.start + 3)

    one, two = Counting(1).count(), Counting(2).count()
    assert list(zip(one, two, strict=True)) == [(1, 2), (2, 3), (3, 4)]


def test_seed_053_a_flow_may_be_a_method() -> None:
    class Work:
        def __init__(self, x: int) -> None:
            self.x = x

        @flow
        def run(self, y: int) -> int:
            return plain(self.x + y)

    one, two = Work(1).run, Work(2).run
    assert (one(0), two(0)) == (2, 3)


class Sums:
    start = 10

    @flow
    def of_instance(self, x: int) -> int:
        return self.start + x

    @flow
    @classmethod
    def of_class(cls, x: int) -> int:
        return cls.start + x

    @flow
    @staticmethod
    def of_none(x: int) -> int:
        return 10 + x

    @flow
    async def in_a_loop(self, x: int) -> int:
        return self.start + x


@pytest.mark.parametrize("how", ["position", "name", "submitted"])
@pytest.mark.parametrize("method", ["of_instance", "of_class", "of_none", "in_a_loop"])
def test_seed_053_the_parameters_of_a_flow_that_is_a_method_are_coerced(
    method: str, how: str
) -> None:
    bound = getattr(Sums(), method)
    if how == "submitted":
        assert flow(lambda: bound.submit("5").result())() == 15
        return
    value = bound("5") if how == "position" else bound(x="5")
    assert (asyncio.run(value) if method == "in_a_loop" else value) == 15


# --- 054 to 058: generators driven by the caller -------------------------------------------


@task
def numbers(count: int = 3) -> Generator[int, Any, str]:
    yield from range(count)
    return "the end"


@task
async def async_numbers(count: int = 3) -> AsyncGenerator[int, None]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def test_seed_054_a_generator_task_yields_what_its_function_yields() -> None:
    assert list(numbers()) == [0, 1, 2]


def test_seed_054_the_run_begins_at_the_first_next() -> None:
    begun: list[str] = []

    @task
    def late() -> Iterator[int]:
        begun.append("begun")
        yield 1

    generator = late()
    before = list(begun)
    next(generator)
    assert (before, begun) == ([], ["begun"])


def test_seed_054_a_generator_runs_in_the_thread_of_the_caller() -> None:
    @task
    def where() -> Iterator[threading.Thread]:
        yield threading.current_thread()

    assert next(where()) is threading.current_thread()


def test_seed_054_endless_generators_are_driven_as_far_as_asked() -> None:
    @task
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    generator = endless()
    assert [next(generator) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_seed_055_an_async_generator_task_yields_what_its_function_yields() -> None:
    async def main() -> list[int]:
        return [number async for number in async_numbers()]

    assert asyncio.run(main()) == [0, 1, 2]


def test_seed_055_an_async_generator_task_runs_in_an_async_flow() -> None:
    @flow
    async def body() -> list[int]:
        return [number async for number in async_numbers(2)]

    assert asyncio.run(body()) == [0, 1]


def runs_of(made: Task[Any, Any], hold: list[Any]) -> Task[Any, Any]:
    """Return the task with a hook that keeps its run."""
    return made.with_options(on_running=lambda task, task_run, state: hold.append(task_run))


def test_seed_056_the_run_is_running_while_it_yields_and_completed_once_exhausted() -> None:
    kept: list[Any] = []
    states = [kept[0].state.name for _ in runs_of(numbers, kept)()]
    assert [*states, kept[0].state.name] == ["Running", "Running", "Running", "Completed"]


def test_seed_056_the_async_run_is_running_while_it_yields_and_completed_once_exhausted() -> None:
    kept: list[Any] = []

    async def main() -> list[str]:
        return [kept[0].state.name async for _ in runs_of(async_numbers, kept)(2)]

    assert [*asyncio.run(main()), kept[0].state.name] == ["Running", "Running", "Completed"]


def test_seed_056_a_generator_closed_early_is_completed() -> None:
    kept: list[Any] = []
    generator = runs_of(numbers, kept)()
    next(generator)
    generator.close()
    assert str(kept[0].state) == "Completed()"


def test_seed_056_a_generator_closed_early_cleans_up() -> None:
    cleaned: list[str] = []

    @task
    def careful() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append("up")

    for _ in careful():
        break
    gc.collect()
    assert cleaned == ["up"]


def test_seed_056_an_async_generator_closed_early_is_completed() -> None:
    kept: list[Any] = []

    async def main() -> None:
        generator = runs_of(async_numbers, kept)()
        await anext(generator)
        await generator.aclose()

    asyncio.run(main())
    assert str(kept[0].state) == "Completed()"


def test_seed_056_the_return_value_is_the_result() -> None:
    kept: list[Any] = []

    def outer() -> Generator[int, Any, str]:
        value: str = yield from runs_of(numbers, kept)()
        return value

    generator = outer()
    for _ in range(3):
        next(generator)
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert (end.value.value, kept[0].state.data) == ("the end", "the end")


def test_seed_056_a_generator_can_be_sent_values() -> None:
    @task
    def adding() -> Generator[int, int, None]:
        total = 0
        while True:
            total += yield total

    generator = adding()
    next(generator)
    assert [generator.send(1), generator.send(2)] == [1, 3]


def test_seed_056_an_exception_thrown_in_can_be_met_by_the_generator() -> None:
    @task
    def meeting() -> Generator[str, None, None]:
        try:
            yield "first"
        except KeyError as error:
            yield f"met {error}"

    generator = meeting()
    next(generator)
    assert generator.throw(KeyError("k")) == "met 'k'"


def test_seed_056_a_generator_that_raises_fails_its_run_and_raises_to_its_caller() -> None:
    kept: list[Any] = []

    @task
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    generator = runs_of(failing, kept)()
    first = next(generator)
    with pytest.raises(KeyError, match="mine"):
        next(generator)
    assert (first, kept[0].state.name) == (1, "Failed")


def test_seed_056_an_async_generator_that_raises_fails_its_run_and_raises_to_its_caller() -> None:
    kept: list[Any] = []

    @task
    async def failing() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("mine")

    async def main() -> None:
        async for _ in runs_of(failing, kept)():
            pass

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert kept[0].state.name == "Failed"


def test_seed_056_a_retry_yields_from_the_beginning_again() -> None:
    attempts: list[int] = []

    @task(retries=1)
    def flaky() -> Iterator[int]:
        attempts.append(1)
        yield 1
        yield 2
        if len(attempts) == 1:
            raise ValueError("after two values")
        yield 3

    assert list(flaky()) == [1, 2, 1, 2, 3]


def test_seed_056_a_retry_of_an_async_generator_yields_from_the_beginning_again() -> None:
    attempts: list[int] = []

    @task(retries=1, retry_delay_seconds=0.001)
    async def flaky() -> AsyncGenerator[int, None]:
        attempts.append(1)
        yield 1
        if len(attempts) == 1:
            raise ValueError("after one value")
        yield 2

    async def main() -> list[int]:
        return [number async for number in flaky()]

    assert asyncio.run(main()) == [1, 1, 2]


def test_seed_056_each_attempt_has_states_in_the_history() -> None:
    kept: list[Any] = []

    @task(retries=1)
    def flaky() -> Iterator[int]:
        yield 1
        if len(kept) == 1:
            raise ValueError("after one value")

    list(runs_of(flaky, kept)())
    names = [state.name for state in kept[0].states]
    assert names == ["Pending", "Running", "Failed", "Retrying", "Completed"]


def test_seed_056_the_time_the_caller_takes_is_time_of_the_generator_too() -> None:
    @task(timeout_seconds=0.02)
    def slow() -> Iterator[int]:
        yield 1
        while True:
            time.sleep(0.001)

    generator = slow()
    next(generator)
    with pytest.raises(TaskRunTimeoutError):
        next(generator)


def test_seed_056_a_generator_knows_its_run_and_its_caller_does_not() -> None:
    @task
    def mine() -> Iterator[Any]:
        yield task_run.name
        yield task_run.name

    @flow
    def body() -> list[Any]:
        generator = mine()
        return [next(generator), task_run.name, next(generator), task_run.name]

    assert body() == ["mine-0", None, "mine-0", None]


def test_seed_056_two_generators_at_once_keep_apart() -> None:
    @task
    def mine() -> Iterator[Any]:
        while True:
            yield task_run.name

    @flow
    def body() -> list[Any]:
        first, second = mine(), mine()
        return [next(first), next(second), next(first), next(second)]

    assert body() == ["mine-0", "mine-1", "mine-0", "mine-1"]


def test_seed_056_prints_of_a_generator_are_lines_of_its_run(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    @task(log_prints=True)
    def saying() -> Iterator[int]:
        print("one")
        yield 1
        print("two")

    for _ in saying():
        print("outside")
    assert [line for line in log.lines if "saying" in line][:2] == [
        "INFO    | Task run 'saying' - one",
        "INFO    | Task run 'saying' - two",
    ]
    assert capsys.readouterr().out == "outside\n"


@task
def parents(x: Any) -> dict[str, list[str]]:
    return task_run.task_inputs


@pytest.mark.parametrize("how", ["call", "submit"])
def test_seed_057_a_task_that_consumes_a_value_has_the_generator_for_its_parent(
    how: str, runner: str
) -> None:
    kept: list[Any] = []

    @flow(task_runner=runner)
    def body() -> list[Any]:
        found = []
        for value in runs_of(numbers, kept)():
            if how == "call":
                found.append(parents(value))
            else:
                found.append(parents.submit(value).result())
        return found

    assert body() == [{"x": [str(kept[0].id)]}] * 3


def test_seed_057_a_task_that_consumes_a_value_of_an_async_generator_has_it_for_its_parent() -> (
    None
):
    kept: list[Any] = []

    @flow
    async def body() -> list[Any]:
        return [parents(value) async for value in runs_of(async_numbers, kept)(2)]

    assert asyncio.run(body()) == [{"x": [str(kept[0].id)]}] * 2


def test_seed_057_a_value_that_came_from_elsewhere_has_no_parent() -> None:
    @flow
    def body() -> Any:
        for _ in numbers():
            return parents(object())
        return None

    assert body() == {}


def test_seed_058_the_sample_prints_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    @task
    def consumer(x: int) -> None:
        print(x)

    for value in numbers(10):
        consumer(value)
    assert capsys.readouterr().out.split() == [str(number) for number in range(10)]


# --- 059 to 063: generators that are returned, yielded, submitted --------------------------


def gen(said: list[str]) -> Iterator[int]:
    yield from [1, 2, 3]
    said.append("Generator consumed!")


def test_seed_059_a_returned_generator_comes_back_as_a_list() -> None:
    made: Any = task(lambda: gen([]))
    assert made() == [1, 2, 3]


def test_seed_059_a_returned_generator_is_a_list_in_the_future(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return task(lambda: gen([])).submit().result()

    assert body() == [1, 2, 3]


def test_seed_059_a_returned_generator_is_a_list_in_the_state(runner: str) -> None:
    made: Any = task(lambda: gen([]))

    @flow(task_runner=runner)
    def body() -> Any:
        states = made(return_state=True), made.submit(return_state=True)
        return [state.result() for state in states]

    assert body() == [[1, 2, 3], [1, 2, 3]]


def test_seed_059_a_generator_returned_by_an_async_task_is_a_list(runner: str) -> None:
    @task
    async def making() -> Any:
        return gen([])

    @flow(task_runner=runner)
    def body() -> Any:
        return making.submit().result(), asyncio.run(making())

    assert body() == ([1, 2, 3], [1, 2, 3])


def test_seed_059_an_async_generator_returned_by_an_async_task_is_a_list(runner: str) -> None:
    @task
    async def making() -> Any:
        return async_numbers.fn(2)

    @flow(task_runner=runner)
    def body() -> Any:
        return making.submit().result()

    assert body() == [0, 1]


@pytest.mark.parametrize("log_prints", [False, True])
def test_seed_060_a_returned_generator_is_consumed_in_the_run(
    log_prints: bool, runner: str, log: Log
) -> None:
    def printing() -> Iterator[int]:
        yield 1
        print("Generator consumed!", flush=True)

    @task(log_prints=log_prints)
    def f() -> Any:
        return printing()

    @flow(task_runner=runner)
    def body() -> None:
        f.submit().result()

    body()
    lines = [line for line in log.lines if line.endswith("Generator consumed!")]
    assert lines == ["INFO    | Task run 'f-0' - Generator consumed!"] * log_prints


def test_seed_059_a_failure_in_a_returned_generator_fails_the_run(runner: str) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    @flow(task_runner=runner)
    def body() -> Any:
        return task(failing_maker).submit().exception()

    def failing_maker() -> Any:
        return failing()

    assert isinstance(body(), KeyError)


def test_seed_061_a_result_of_any_kind_is_handed_over_as_it_is(runner: str) -> None:
    lock = threading.Lock()  # nobody can serialise it

    @flow(task_runner=runner)
    def body() -> bool:
        return task(lambda: lock).submit().result() is lock

    assert body()


def test_seed_062_a_yielded_generator_is_not_consumed() -> None:
    said: list[str] = []

    @task
    def f() -> Iterator[Any]:
        yield gen(said)

    generator = next(f())
    before = list(said)
    assert (before, list(generator), said) == ([], [1, 2, 3], ["Generator consumed!"])


def test_seed_063_a_submitted_generator_task_gives_the_list_of_its_values(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return numbers.submit(4).result()

    assert body() == [0, 1, 2, 3]


def test_seed_063_a_submitted_async_generator_task_gives_the_list_of_its_values(
    runner: str,
) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        return async_numbers.submit(4).result()

    assert body() == [0, 1, 2, 3]


@pytest.mark.parametrize("log_prints", [False, True])
@pytest.mark.parametrize("made", [numbers, async_numbers])
def test_seed_063_generator_tasks_are_mapped(made: Any, log_prints: bool, runner: str) -> None:
    mapped = made.with_options(log_prints=log_prints)

    @flow(task_runner=runner)
    def body() -> Any:
        return mapped.map([1, 2]).result()

    assert body() == [[0], [0, 1]]


def test_seed_063_yielded_values_of_any_kind_are_handed_over_as_they_are() -> None:
    lock = threading.Lock()

    @task
    def f() -> Iterator[Any]:
        yield lock

    assert next(f()) is lock


def test_seed_054_a_flow_may_be_a_generator() -> None:
    @flow
    def body() -> Iterator[int]:
        for value in numbers():
            yield plain(value)

    assert list(body()) == [1, 2, 3]


def test_seed_054_a_flow_that_is_a_generator_may_be_closed_early() -> None:
    kept: list[Any] = []

    @flow(on_completion=lambda flow, flow_run, state: kept.append(flow_run))
    def body() -> Iterator[int]:
        yield 1
        yield 2

    generator: Any = body()
    next(generator)
    generator.close()
    assert [run.state.name for run in kept] == ["Completed"]


def test_seed_055_a_flow_may_be_an_async_generator() -> None:
    @flow
    async def body() -> AsyncGenerator[int, None]:
        async for value in async_numbers():
            yield await waiting(value)

    async def main() -> list[int]:
        return [value async for value in body()]

    assert asyncio.run(main()) == [1, 2, 3]


def test_seed_055_a_failing_flow_that_is_an_async_generator_raises_to_its_caller() -> None:
    @flow
    async def body() -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("mine")

    async def main() -> None:
        async for _ in body():
            pass

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())


def test_seed_047_hundreds_of_calls_in_a_helper_thread_are_no_trouble() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(plain(x) for x in range(300)))
    thread.start()
    thread.join(10)
    assert found == list(range(1, 301))
