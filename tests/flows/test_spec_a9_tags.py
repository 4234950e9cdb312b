"""Rows 100 to 104 of the specification: tags, and limits by tag."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, tags, task, wait
from penstock.exceptions import DefinitionError
from penstock.runtime import flow_run, task_run
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    from types import TracebackType

    from tests.flows.conftest import Gate, Log


@task
def my_tags(wait_here: Any = None) -> list[str]:
    return task_run.tags


# --- 100, 103, 104: labels -------------------------------------------------------------------


def test_seed_100_a_tag_given_twice_counts_once() -> None:
    assert my_tags.with_options(tags=["a", "b", "a"])() == ["a", "b"]


@pytest.mark.parametrize(
    "given", [["test"], ("test",), {"test"}, frozenset({"test"}), iter(["test"]), {"test": 1}]
)
def test_seed_103_any_iterable_of_tags_will_do(given: Any) -> None:
    assert task(my_tags.fn, tags=given)() == ["test"]


@pytest.mark.parametrize("given", ["test", 5, [5], [""]])
@pytest.mark.parametrize("decorator", [task, flow])
def test_seed_103_what_is_no_collection_of_words_is_refused(decorator: Any, given: Any) -> None:
    with pytest.raises(DefinitionError, match="tag"):
        decorator(tags=given)(lambda: None)


def test_seed_104_the_context_yields_its_tags_with_those_around_it() -> None:
    with tags("a") as outer, tags("b", "c") as inner:
        assert (set(outer), set(inner)) == ({"a"}, {"a", "b", "c"})


def test_seed_104_after_the_block_the_tags_are_gone(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> Any:
        with tags("a"):
            first = my_tags.submit()
        return first.result(), my_tags.submit().result(), my_tags()

    assert body() == (["a"], [], [])


def test_seed_104_tags_around_a_flow_are_those_of_its_run() -> None:
    @flow
    def body() -> list[str]:
        return flow_run.tags

    with tags("around"):
        assert body() == ["around"]


def test_seed_104_tags_in_a_flow_are_those_of_its_sub_flows() -> None:
    @flow
    def inner() -> Any:
        return flow_run.tags, my_tags()

    @flow
    def outer() -> Any:
        with tags("a"):
            return inner()

    assert outer() == (["a"], ["a"])


def test_seed_104_tags_in_a_task_are_those_of_the_tasks_it_calls(runner: str) -> None:
    @task
    def outer() -> Any:
        with tags("a"):
            return my_tags(), my_tags.submit().result()

    @flow(task_runner=runner)
    def body() -> Any:
        return outer.submit().result()

    assert body() == (["a"], ["a"])


def test_seed_104_tags_work_outside_of_flows() -> None:
    with tags("a"):
        assert (my_tags(), my_tags.submit().result()) == (["a"], ["a"])


def test_seed_104_tags_of_coroutines_side_by_side_keep_apart() -> None:
    @task
    async def mine() -> list[str]:
        await asyncio.sleep(0)
        return task_run.tags

    async def tagged(tag: str) -> list[str]:
        with tags(tag):
            await asyncio.sleep(0)
            return await mine()

    @flow
    async def body() -> Any:
        return list(await asyncio.gather(tagged("a"), tagged("b")))

    assert asyncio.run(body()) == [["a"], ["b"]]


def test_seed_104_a_tag_is_a_string() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="a tag is a string"), tags(wrong):
        pass


def test_seed_100_tags_are_in_the_record_of_the_run(runner: str, log: Log) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        with tags("a"):
            my_tags.with_options(tags=["b"]).submit().result()

    body()
    (record,) = [each for each in log.records if each.name == "penstock.task_runs"]
    assert record.tags == {"a", "b"}


# --- 075, user row 23: the context is captured at submit --------------------------------------


def test_seed_075_a_run_that_starts_later_has_the_tags_of_its_submit(
    threads: str, gate: Gate
) -> None:
    @task
    def hold() -> None:
        gate.wait()

    @flow(task_runner=threads)
    def body() -> list[str]:
        first = hold.submit()
        with tags("A"):
            second = my_tags.submit(first)
        with tags("B"):
            gate.open()
            return second.result()

    assert body() == ["A"]


def test_seed_075_a_run_that_is_tried_again_has_the_tags_of_its_submit(runner: str) -> None:
    found: list[list[str]] = []

    @task(retries=1, retry_delay_seconds=0.01)
    def flaky() -> None:
        found.append(task_run.tags)
        if len(found) == 1:
            raise ValueError("once")

    @flow(task_runner=runner)
    def body() -> None:
        with tags("A"):
            future = flaky.submit()
        with tags("B"):
            future.result()

    body()
    assert found == [["A"], ["A"]]


def test_user_023_context_variables_are_those_of_the_submit(runner: str) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @flow(task_runner=runner)
    def body() -> list[str]:
        futures = []
        for value in ("a", "b"):
            variable.set(value)
            futures.append(task(variable.get).submit())
        variable.set("c")
        return [future.result() for future in futures]

    assert body() == ["a", "b"]


def test_user_023_a_retry_does_not_find_what_the_attempt_before_has_set(runner: str) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    found: list[str] = []

    @task(retries=1)
    def flaky() -> None:
        found.append(variable.get())
        variable.set("left behind")
        if len(found) == 1:
            raise ValueError("once")

    @flow(task_runner=runner)
    def body() -> None:
        flaky.submit().result()

    body()
    assert found == ["unset", "unset"]


def test_user_023_what_a_task_sets_is_not_seen_by_the_code_that_submitted_it(runner: str) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @flow(task_runner=runner)
    def body() -> str:
        task(variable.set).submit("set").wait()
        return variable.get()

    assert body() == "unset"


def test_user_023_changing_tags_in_a_loop_makes_no_threads() -> None:
    @flow(task_runner="thread:1")
    def body() -> int:
        my_tags.submit().result()
        before = threading.active_count()
        for number in range(50):
            with tags(f"tag-{number}"):
                my_tags.submit().result()
        return threading.active_count() - before

    assert body() <= 1  # the standby thread


# --- 102: limits -------------------------------------------------------------------------------


class Meter:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._now -= 1


@pytest.fixture
def meter() -> Meter:
    return Meter()


@task(tags=["db"])
def measured(meter: Meter, seconds: float = 0.002) -> None:
    with meter:
        time.sleep(seconds)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_seed_102_a_limit_of_the_flow_is_never_exceeded(limit: int, meter: Meter) -> None:
    @flow(task_runner="thread:8", tag_limits={"db": limit})
    def body() -> None:
        for _ in range(30):
            measured.submit(meter)

    body()
    assert meter.most == limit


def test_seed_102_a_limit_of_the_settings_is_never_exceeded(meter: Meter) -> None:
    @flow(task_runner="thread:8")
    def body() -> None:
        measured.map([meter] * 30)

    with temporary_settings(tag_limits={"db": 2}):
        body()
    assert meter.most == 2


def test_seed_102_a_limit_may_come_from_the_environment(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TAG_LIMITS", "db=1,api=10")

    @flow(task_runner="thread:8")
    def body() -> None:
        measured.map([meter] * 10)

    body()
    assert meter.most == 1


def test_seed_102_the_limit_of_the_flow_goes_before_that_of_the_settings(meter: Meter) -> None:
    @flow(task_runner="thread:8", tag_limits={"db": 3})
    def body() -> None:
        measured.map([meter] * 20)

    with temporary_settings(tag_limits={"db": 1, "other": 1}):
        body()
    assert meter.most == 3


def test_seed_102_a_limit_holds_outside_of_flows_too(meter: Meter) -> None:
    with temporary_settings(tag_limits={"db": 2}):
        wait([measured.submit(meter) for _ in range(20)])
    assert meter.most <= 2


def test_seed_102_a_tag_of_the_context_is_limited_too(meter: Meter) -> None:
    untagged = measured.with_options(tags=[])

    @flow(task_runner="thread:8", tag_limits={"api": 2})
    def body() -> None:
        with tags("api"):
            untagged.map([meter] * 20)

    body()
    assert meter.most == 2


def test_seed_102_runs_with_other_tags_are_not_held_up(gate: Gate) -> None:
    @task
    def hold() -> None:
        gate.wait()

    @flow(task_runner="thread:2", tag_limits={"db": 1})
    def body() -> list[str]:
        with tags("db"):
            for _ in range(3):
                hold.submit()
        found = my_tags.submit().result()  # one slot is free: those that wait for a place hold none
        gate.open()
        return found

    assert body() == []


def test_seed_102_a_run_with_two_limited_tags_needs_a_place_of_both(
    meter: Meter,
) -> None:
    first, second = Meter(), Meter()

    @task
    def both(*meters: Meter) -> None:
        for each in meters:
            each.__enter__()
        time.sleep(0.001)
        for each in meters:
            each.__exit__(None, None, None)

    @flow(task_runner="thread:8", tag_limits={"a": 2, "b": 3})
    def body() -> None:
        for number in range(45):
            given, meters = [
                (["a"], [first]),
                (["b"], [second]),
                (["a", "b"], [first, second]),
            ][number % 3]
            both.with_options(tags=given).submit(*meters)

    body()
    assert first.most <= 2
    assert second.most <= 3


def test_seed_102_a_place_is_given_back_by_a_run_that_fails(runner: str) -> None:
    @task(tags=["db"])
    def fail() -> None:
        raise ValueError("with the place in hand")

    @flow(task_runner=runner, tag_limits={"db": 1})
    def body() -> Any:
        wait([fail.submit() for _ in range(5)])
        with pytest.raises(ValueError, match="with the place"):
            fail()
        return my_tags.with_options(tags=["db"]).submit().result()

    with temporary_settings(flows_unobserved_failures="ignore"):
        assert body() == ["db"]


def test_seed_102_a_run_that_waits_for_its_retry_holds_no_place(runner: str) -> None:
    @task(tags=["db"], retries=1, retry_delay_seconds=0.05)
    def flaky(done: list[str]) -> None:
        done.append(f"attempt {task_run.run_count}")
        if task_run.run_count == 1:
            raise ValueError("once")

    @task(tags=["db"])
    def other(done: list[str]) -> None:
        done.append("other")

    @flow(task_runner=runner, tag_limits={"db": 1})
    def body() -> list[str]:
        done: list[str] = []
        first = flaky.submit(done)
        other.submit(done)
        first.result()
        return done

    assert body() == ["attempt 1", "other", "attempt 2"]


def test_seed_102_a_cancelled_run_gives_its_place_in_the_line_up(threads: str, gate: Gate) -> None:
    @task(tags=["db"])
    def hold() -> str:
        gate.wait()
        return "done"

    @flow(task_runner=threads, tag_limits={"db": 1})
    def body() -> Any:
        first, second, third = hold.submit(), hold.submit(), hold.submit()
        was_cancelled = second.cancel()
        gate.open()
        return was_cancelled, second.is_cancelled(), first.result(), third.result()

    assert body() == (True, True, "done", "done")


def test_seed_102_a_limit_holds_for_direct_calls_from_threads(
    meter: Meter,
) -> None:
    @flow(tag_limits={"db": 2})
    def body() -> None:
        def call() -> None:
            for _ in range(5):
                measured(meter)

        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(call,)) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    body()
    assert meter.most <= 2


def test_seed_102_a_limit_holds_for_direct_calls_and_submits_together(meter: Meter) -> None:
    @flow(task_runner="thread:4", tag_limits={"db": 1})
    def body() -> None:
        for _ in range(5):
            measured.submit(meter)
            measured(meter)

    body()
    assert meter.most == 1


def test_seed_102_a_limit_holds_for_awaited_tasks() -> None:
    now, most = 0, 0

    @task(tags=["db"])
    async def awaited() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    @flow(tag_limits={"db": 2})
    async def body() -> None:
        await asyncio.gather(*(awaited() for _ in range(10)))

    asyncio.run(body())
    assert most == 2


def test_seed_102_a_limit_holds_for_submitted_async_tasks(threads: str) -> None:
    now, most = 0, 0

    @task(tags=["db"])
    async def submitted() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    @flow(task_runner=threads, tag_limits={"db": 2})
    def body() -> None:
        for _ in range(10):
            submitted.submit()

    body()
    assert most == 2


def test_seed_102_an_awaited_task_that_is_cancelled_in_the_line_leaves_no_place_taken() -> None:
    @task(tags=["db"])
    async def hold(until: asyncio.Event) -> str:
        await until.wait()
        return "done"

    @flow(tag_limits={"db": 1})
    async def body() -> Any:
        until = asyncio.Event()
        first = asyncio.ensure_future(hold(until))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(hold(until))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        until.set()
        async with asyncio.timeout(5):
            return await first, await hold(until)

    assert asyncio.run(body()) == ("done", "done")


def test_seed_102_limits_hold_for_sub_flows_too(meter: Meter) -> None:
    @flow
    def inner() -> None:
        measured.map([meter] * 6)

    @flow(task_runner="thread:8", tag_limits={"db": 2})
    def outer() -> None:
        first = inner.submit()
        measured.map([meter] * 6)
        first.result()

    outer()
    assert meter.most == 2


def test_seed_102_places_are_given_in_order(gate: Gate) -> None:
    order: list[int] = []

    @task(tags=["db"])
    def note(number: int) -> None:
        gate.wait()
        order.append(number)

    @flow(task_runner="thread:4", tag_limits={"db": 1})
    def body() -> None:
        for number in range(10):
            note.submit(number)
        gate.open()

    body()
    assert order == list(range(10))


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True])
def test_seed_102_an_impossible_limit_is_refused_at_definition(limit: Any) -> None:
    with pytest.raises(DefinitionError, match="the limit of tag 'db'"):
        flow(lambda: None, tag_limits={"db": limit})


def test_seed_102_a_run_that_holds_a_place_may_wait_for_another_that_needs_it(
    threads: str,
) -> None:
    @task(tags=["db"])
    def inner() -> str:
        return "inner"

    @task(tags=["db"])
    def outer() -> str:
        return inner.submit().result(timeout=10)

    @flow(task_runner=threads, tag_limits={"db": 1})
    def body() -> str:
        return outer.submit().result()

    assert body() == "inner"


def test_seed_102_a_run_that_holds_a_place_may_call_a_task_that_needs_it() -> None:
    @task
    async def inner() -> str:
        return "inner"

    @task
    async def outer() -> str:
        return await asyncio.wait_for(inner(), 10)

    @flow(tag_limits={"db": 1})
    async def body() -> str:
        with tags("db"):  # holds for the tasks that the task calls, too
            return await outer()

    assert asyncio.run(body()) == "inner"
