"""Promises of rows 105-108: a time limit is kept, on every runner, and reported on the right run.

Only a test in which nothing keeps the limit comes near `TOO_LATE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, State, flow, task
from penstock.context import current_flow_run, current_run, current_task_run
from penstock.engine.loop import Loop
from penstock.exceptions import FlowRunTimeoutError, TaskRunTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.runs import Run

LIMIT = 0.05
ROOMY = 0.25
"""Where the code inside must have begun before the time is up, on a busy machine, too."""
TOO_LATE_SECONDS = 4.0


@contextlib.contextmanager
def on_time() -> Iterator[None]:
    """The block ends long before what is in it would have ended by itself."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < TOO_LATE_SECONDS


def sleep_on() -> None:
    time.sleep(2 * TOO_LATE_SECONDS)


def compute_on() -> None:
    end = time.monotonic() + 2 * TOO_LATE_SECONDS
    while time.monotonic() < end:
        pass


def in_thread(fn: Callable[[], Any]) -> Any:
    """Call a function in a thread of the user's own, and return what it returns."""
    answer: list[Any] = []

    def call() -> None:
        try:
            answer.append(fn())
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(3 * TOO_LATE_SECONDS)
    assert not thread.is_alive()
    return answer[0]


def names(run: Run) -> list[str]:
    return [state.name for state in run.states]


def history(future: PenstockFuture[Any]) -> list[str]:
    """Return the names of all states of a run that is over; looking counts as having seen."""
    assert future.state.is_final()
    return names(future.run)


# --- the main thread ---------------------------------------------------------------------


@pytest.mark.parametrize("work", [sleep_on, compute_on])
def test_seed_105_and_108_in_the_main_thread_a_sleep_and_a_loop_are_interrupted_on_time(
    work: Callable[[], None],
) -> None:
    limited = task(work, timeout_seconds=LIMIT)

    @flow
    def main() -> None:
        limited()

    with on_time(), pytest.raises(TaskRunTimeoutError, match=r"exceeded timeout of 0\.05 second"):
        main()


def test_seed_105_submitted_runs_are_limited_where_the_runner_is_a_thread_of_the_user() -> None:
    @flow(task_runner="inline")
    def main() -> list[str]:
        future = task(compute_on, timeout_seconds=LIMIT).submit()
        future.wait()
        return history(future)

    with on_time():
        assert in_thread(main)[-1] == "TimedOut"


def test_seed_105_a_task_outside_of_any_flow_is_interrupted_too() -> None:
    with on_time(), pytest.raises(TaskRunTimeoutError):
        task(sleep_on, timeout_seconds=LIMIT)()


def test_seed_105_the_timeout_error_is_a_timeout_error_of_python() -> None:
    assert issubclass(TaskRunTimeoutError, TimeoutError)
    assert issubclass(FlowRunTimeoutError, TimeoutError)


def test_seed_106_the_state_is_named_timed_out_and_says_the_limit() -> None:
    state: State[None] = task(sleep_on, timeout_seconds=LIMIT)(return_state=True)
    assert str(state) == ("TimedOut('Task run exceeded timeout of 0.05 second(s)', type=FAILED)")
    assert isinstance(state.exception(), TaskRunTimeoutError)


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 1e-4, 1e-3])
def test_seed_108_a_limit_that_is_over_before_the_function_begins_is_kept(seconds: float) -> None:
    limited = task(sleep_on, timeout_seconds=seconds)
    with on_time():
        for _ in range(20):
            state: State[None] = limited(return_state=True)
            assert state.name == "TimedOut"


def test_seed_108_a_task_that_catches_every_exception_is_interrupted_all_the_same() -> None:
    @task(timeout_seconds=LIMIT)
    def stubborn() -> str:
        try:
            sleep_on()
        except Exception:
            return "swallowed"
        return "slept on"

    with on_time(), pytest.raises(TaskRunTimeoutError):
        stubborn()


def test_seed_106_a_task_that_catches_even_that_has_timed_out_when_it_returns() -> None:
    @task(timeout_seconds=LIMIT)
    def cleans_up() -> str:
        try:
            sleep_on()
        except BaseException:
            return "swallowed"
        return "slept on"

    with on_time():
        assert cleans_up(return_state=True).name == "TimedOut"


def test_seed_108_a_limit_is_kept_while_the_function_waits_for_a_future(
    threads: str, gate: Any
) -> None:
    blocked = task(gate.wait)

    @task(timeout_seconds=ROOMY)
    def waits() -> None:
        blocked.submit().result()

    @flow(task_runner=threads)
    def main() -> State[None]:
        try:
            return waits(return_state=True)
        finally:
            gate.open()

    with on_time():
        state: State[Any] = main(return_state=True)
    assert state.name == "TimedOut"


def test_seed_108_a_limit_is_kept_while_it_waits_for_a_future_outside_of_any_flow(
    gate: Any,
) -> None:
    blocked = task(gate.wait)

    @task(timeout_seconds=ROOMY)
    def waits() -> None:
        blocked.submit().result()

    with on_time():
        state: State[None] = waits(return_state=True)
    gate.open()
    assert state.name == "TimedOut"


def test_seed_108_a_limit_is_kept_while_it_waits_for_a_future_in_an_async_flow(
    gate: Any,
) -> None:
    blocked = task(gate.wait)

    @task(timeout_seconds=ROOMY)
    def waits() -> None:
        blocked.submit().result()

    @flow
    async def main() -> str:
        with on_time(), pytest.raises(TaskRunTimeoutError):
            waits()
        gate.open()
        return "went on"

    assert asyncio.run(main()) == "went on"


def test_seed_108_a_generator_task_is_interrupted_between_two_values() -> None:
    @task(timeout_seconds=LIMIT)
    def numbers() -> Iterator[int]:
        yield 1
        sleep_on()
        yield 2

    got: list[int] = []
    with on_time(), pytest.raises(TaskRunTimeoutError):
        got.extend(numbers())
    assert got == [1]


def test_seed_105_a_task_that_is_quick_enough_leaves_nothing_behind() -> None:
    @task(timeout_seconds=0.5)
    def quick() -> int:
        return 1

    before = signal.getsignal(signal.SIGALRM)
    left_before, _ = signal.getitimer(signal.ITIMER_REAL)  # pytest-timeout may have one
    assert [quick() for _ in range(50)] == [1] * 50
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert left == 0.0 or left_before - 5 < left <= left_before
    assert signal.getsignal(signal.SIGALRM) is before


# --- the user's own signals --------------------------------------------------------------


@pytest.fixture
def rings() -> Iterator[list[int]]:
    """Install a handler of the user's own for SIGALRM; the list has when it was called."""
    got: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: got.append(number))
    try:
        yield got
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_seed_108_the_users_own_alarm_handler_and_timer_are_put_back(rings: list[int]) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 50, 7)
    task(sleep_on, timeout_seconds=LIMIT)(return_state=True)
    assert signal.getsignal(signal.SIGALRM) is handler
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 30 < left < 50
    assert interval == 7
    assert rings == []


def test_seed_108_an_alarm_of_the_users_own_that_came_meanwhile_rings_afterwards(
    rings: list[int],
) -> None:
    signal.setitimer(signal.ITIMER_REAL, LIMIT / 5)
    task(sleep_on, timeout_seconds=LIMIT)(return_state=True)
    end = time.monotonic() + TOO_LATE_SECONDS
    while not rings and time.monotonic() < end:
        pass
    assert rings == [signal.SIGALRM]


# --- several limits at once --------------------------------------------------------------


def test_seed_105_the_limit_of_the_task_is_the_nearer_one(threads: str) -> None:
    runs: list[Run] = []

    @task(timeout_seconds=ROOMY)
    def limited() -> None:
        runs.append(current_run())  # type: ignore[arg-type]  # inside of a run
        sleep_on()

    @flow(timeout_seconds=60, task_runner=threads)
    def main() -> str:
        runs.append(current_run())  # type: ignore[arg-type]
        with pytest.raises(TaskRunTimeoutError):
            limited()
        return "went on"

    with on_time():
        assert main() == "went on"
    flow_run, task_run = runs
    assert names(task_run) == ["Pending", "Running", "TimedOut"]
    assert names(flow_run) == ["Pending", "Running", "Completed"]


@pytest.mark.parametrize("task_limit", [None, 60.0])
@pytest.mark.parametrize("catches", [False, True])
def test_seed_105_the_limit_of_the_flow_is_the_nearer_one(
    task_limit: float | None, catches: bool
) -> None:
    runs: list[Run] = []

    @task(timeout_seconds=task_limit)
    def limited() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        sleep_on()

    @flow(timeout_seconds=ROOMY)
    def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        if catches:
            with contextlib.suppress(Exception):
                limited()
            sleep_on()
        limited()

    with on_time(), pytest.raises(FlowRunTimeoutError, match=r"exceeded timeout of 0\.25 second"):
        main()
    flow_run, task_run = runs
    assert names(flow_run) == ["Pending", "Running", "TimedOut"]
    assert names(task_run) == ["Pending", "Running", "Cancelled"]


@pytest.mark.parametrize("task_limit", [None, 60.0])
def test_seed_105_the_limit_of_the_flow_reaches_a_task_on_the_inline_runner(
    task_limit: float | None,
) -> None:
    runs: list[Run] = []

    @task(timeout_seconds=task_limit)
    def limited() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        sleep_on()

    @flow(timeout_seconds=ROOMY, task_runner="inline")
    def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        with contextlib.suppress(Exception):
            limited.submit().result()
        sleep_on()

    with on_time(), pytest.raises(FlowRunTimeoutError):
        main()
    flow_run, task_run = runs
    assert names(flow_run) == ["Pending", "Running", "TimedOut"]
    assert names(task_run)[-1] == "Cancelled"


@pytest.mark.parametrize("nearer", ["outer", "middle", "inner"])
def test_seed_105_of_three_limits_the_nearest_ends_its_own_run_and_no_other(nearer: str) -> None:
    runs: dict[str, Run] = {}
    limits = {name: ROOMY if name == nearer else 60.0 for name in ("outer", "middle", "inner")}

    def note(name: str) -> None:
        run = current_run()
        assert run is not None
        runs[name] = run

    @task(timeout_seconds=limits["inner"])
    def inner() -> None:
        note("inner")
        sleep_on()

    @task(timeout_seconds=limits["middle"])
    def middle() -> None:
        note("middle")
        with contextlib.suppress(TaskRunTimeoutError):
            inner()

    @flow(timeout_seconds=limits["outer"])
    def outer() -> None:
        note("outer")
        with contextlib.suppress(TaskRunTimeoutError):
            middle()

    with on_time():
        outer(return_state=True)
    ends = {name: run.state.name for name, run in runs.items()}
    expected = {
        "outer": {"outer": "TimedOut", "middle": "Cancelled", "inner": "Cancelled"},
        "middle": {"outer": "Completed", "middle": "TimedOut", "inner": "Cancelled"},
        "inner": {"outer": "Completed", "middle": "Completed", "inner": "TimedOut"},
    }
    assert ends == expected[nearer]


def test_seed_105_asking_for_the_state_does_not_swallow_the_limit_of_the_run_around() -> None:
    endless = task(sleep_on)

    @flow(timeout_seconds=LIMIT)
    def main() -> str:
        endless(return_state=True)
        return "went on"

    with on_time(), pytest.raises(FlowRunTimeoutError):
        main()


def test_seed_105_a_sub_flow_may_have_a_nearer_limit_than_its_parent() -> None:
    sub = flow(sleep_on, name="sub", timeout_seconds=LIMIT)

    @flow(timeout_seconds=60)
    def main() -> str:
        with pytest.raises(FlowRunTimeoutError):
            sub()
        return "went on"

    with on_time():
        assert main() == "went on"


# --- async -------------------------------------------------------------------------------


def test_seed_108_an_async_task_is_cancelled_at_its_await() -> None:
    cleaned: list[str] = []

    @task(timeout_seconds=ROOMY)
    async def limited() -> None:
        try:
            await asyncio.sleep(2 * TOO_LATE_SECONDS)
        except asyncio.CancelledError:
            cleaned.append("up")
            raise

    @flow
    async def main() -> State[None]:
        with pytest.raises(TaskRunTimeoutError):
            await limited()
        return await limited(return_state=True)

    with on_time():
        state: State[Any] = asyncio.run(main(return_state=True))
    assert str(state) == "TimedOut('Task run exceeded timeout of 0.25 second(s)', type=FAILED)"
    assert cleaned == ["up", "up"]


def test_seed_108_a_submitted_async_task_is_cancelled_at_its_await(runner: str) -> None:
    cleaned = threading.Event()

    @task(timeout_seconds=ROOMY)
    async def limited() -> None:
        try:
            await asyncio.sleep(2 * TOO_LATE_SECONDS)
        finally:
            cleaned.set()

    @flow(task_runner=runner)
    def main() -> str:
        future = limited.submit()
        with pytest.raises(TaskRunTimeoutError):
            future.result()
        assert cleaned.wait(TOO_LATE_SECONDS)
        return future.state.name

    with on_time():
        assert main() == "TimedOut"


def test_seed_108_an_async_flow_is_cancelled_at_its_await_and_its_tasks_with_it() -> None:
    runs: list[Run] = []

    @task(timeout_seconds=60)
    async def limited() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        await asyncio.sleep(2 * TOO_LATE_SECONDS)

    @flow(timeout_seconds=ROOMY)
    async def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        await limited()

    with on_time(), pytest.raises(FlowRunTimeoutError):
        asyncio.run(main())
    flow_run, task_run = runs
    assert names(flow_run) == ["Pending", "Running", "TimedOut"]
    assert names(task_run) == ["Pending", "Running", "Cancelled"]


def test_seed_108_the_nearer_limit_of_an_async_task_leaves_its_async_flow_alone() -> None:
    @task(timeout_seconds=LIMIT)
    async def limited() -> None:
        await asyncio.sleep(2 * TOO_LATE_SECONDS)

    @flow(timeout_seconds=60)
    async def main() -> str:
        with contextlib.suppress(TaskRunTimeoutError):
            await limited()
        return "went on"

    with on_time():
        assert asyncio.run(main()) == "went on"


def test_seed_108_a_sync_task_in_an_async_flow_is_interrupted() -> None:
    limited = task(sleep_on, timeout_seconds=LIMIT)

    @flow
    async def main() -> str:
        with pytest.raises(TaskRunTimeoutError):
            limited()
        return "went on"

    with on_time():
        assert asyncio.run(main()) == "went on"


# --- runners -----------------------------------------------------------------------------


def test_seed_108_the_sample_prints_that_it_executes_and_no_more(
    runner: str, capsys: pytest.CaptureFixture[str], gate: Any
) -> None:
    @task(timeout_seconds=ROOMY)
    def show_timeouts() -> None:
        print("I will execute")
        if runner == "inline":
            sleep_on()
        else:
            gate.wait()
        print("I will not execute")

    @flow(task_runner=runner)
    def main() -> str:
        future = show_timeouts.submit()
        with pytest.raises(TaskRunTimeoutError):
            future.result()
        gate.open()
        return future.state.name

    with on_time():
        assert main() == "TimedOut"
    assert capsys.readouterr().out == "I will execute\n"


@pytest.mark.parametrize("work", [sleep_on, compute_on])
def test_seed_108_on_the_inline_runner_the_caller_is_interrupted(
    work: Callable[[], None],
) -> None:
    limited = task(work, timeout_seconds=LIMIT)

    @flow(task_runner="inline")
    def main() -> list[str]:
        future = limited.submit()
        future.wait()
        return history(future)

    with on_time():
        assert main() == ["Pending", "Running", "TimedOut"]


def test_d7_in_a_thread_state_and_future_are_on_time_although_the_thread_sleeps_on(
    threads: str, gate: Any
) -> None:
    blocked = task(gate.wait, name="blocked", timeout_seconds=LIMIT)

    @flow(task_runner=threads)
    def main() -> list[str]:
        future = blocked.submit()
        future.wait()
        assert not gate.is_open()
        gate.open()
        return history(future)

    with on_time():
        assert main() == ["Pending", "Running", "TimedOut"]


def test_d7_a_loop_in_a_thread_is_ended(threads: str) -> None:
    ended = threading.Event()

    @task(timeout_seconds=LIMIT)
    def loops() -> None:
        try:
            compute_on()
        finally:
            ended.set()

    @flow(task_runner=threads)
    def main() -> None:
        with pytest.raises(TaskRunTimeoutError):
            loops.submit().result()
        assert ended.wait(TOO_LATE_SECONDS)

    with on_time():
        main()


def test_d7_an_abandoned_thread_is_replaced_counted_and_mentioned_once(gate: Any, log: Any) -> None:
    blocked = task(gate.wait, name="blocked", timeout_seconds=LIMIT)

    @task
    def quick() -> str:
        return threading.current_thread().name

    @flow(task_runner="thread:1")
    def main() -> None:
        first, second = blocked.submit(), blocked.submit()
        next_one = quick.submit()
        with pytest.raises(TaskRunTimeoutError):
            first.result()
        with pytest.raises(TaskRunTimeoutError):
            second.result()
        assert next_one.result() == "penstock-worker-2"  # the slot is usable
        assert first.run.plan.runner.runner.abandoned_threads == 2
        gate.open()

    with on_time():
        main()
    told = [line for line in log.lines if "cannot be made to end" in line]
    assert len(told) == 1
    assert "Only a process runner really stops a task" in told[0]


def test_d7_what_an_abandoned_thread_returns_in_the_end_changes_nothing(gate: Any) -> None:
    ended = threading.Event()

    @task(timeout_seconds=LIMIT)
    def late() -> str:
        with contextlib.suppress(BaseException):
            gate.wait()
        ended.set()
        return "late"

    @flow(task_runner="thread:1")
    def main() -> list[str]:
        future = late.submit()
        future.wait()
        gate.open()
        assert ended.wait(TOO_LATE_SECONDS)
        return history(future)

    assert main() == ["Pending", "Running", "TimedOut"]


def test_seed_108_the_time_in_the_queue_does_not_count(gate: Any) -> None:
    first = task(gate.wait)

    @task(timeout_seconds=LIMIT)
    def second() -> str:
        return "in time"

    @flow(task_runner="thread:1")
    def main() -> str:
        first.submit()
        future = second.submit()
        future.wait(2 * LIMIT)
        gate.open()
        return future.result()

    assert main() == "in time"


# --- threads of the user's own -----------------------------------------------------------


def test_seed_108_a_direct_call_in_another_thread_is_interrupted_in_a_loop() -> None:
    limited = task(compute_on, timeout_seconds=LIMIT)

    @flow
    def main() -> str:
        with pytest.raises(TaskRunTimeoutError):
            limited()
        return "went on"

    with on_time():
        assert in_thread(main) == "went on"


def test_seed_108_a_direct_call_in_another_thread_outside_of_any_flow() -> None:
    limited = task(compute_on, timeout_seconds=LIMIT)
    with on_time():
        state = in_thread(lambda: limited(return_state=True))
    assert state.name == "TimedOut"


def test_seed_106_a_blocking_call_in_another_thread_has_timed_out_when_it_returns() -> None:
    limited = task(lambda: time.sleep(4 * LIMIT), name="limited", timeout_seconds=LIMIT)
    state = in_thread(lambda: limited(return_state=True))
    assert state.name == "TimedOut"


def test_seed_108_many_quick_calls_in_another_thread_are_all_left_alone() -> None:
    quick = task(lambda: 1, name="quick", timeout_seconds=0.002)

    def call_all() -> int:
        end = time.monotonic() + 0.3
        count = 0
        while time.monotonic() < end:
            state: State[int] = quick(return_state=True)
            assert state.name in ("Completed", "TimedOut")  # the latter on a busy machine
            count += state.name == "Completed"
        return count

    assert in_thread(call_all) > 10


def test_seed_105_in_another_thread_a_limit_that_is_reached_at_once_ends_its_own_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = task(lambda: 1, timeout_seconds=60)
    monkeypatch.setattr(Loop, "call_later", lambda _, __, ring: ring())
    assert in_thread(lambda: quick(return_state=True)).name == "TimedOut"


@pytest.mark.parametrize("nearer", ["outer", "middle", "inner"])
def test_seed_105_in_another_thread_the_nearest_limit_ends_its_own_run(nearer: str) -> None:
    runs: dict[str, Run] = {}
    limits = {name: ROOMY if name == nearer else 60.0 for name in ("outer", "middle", "inner")}

    def note(name: str) -> None:
        run = current_run()
        assert run is not None
        runs[name] = run

    @task(timeout_seconds=limits["inner"])
    def inner() -> None:
        note("inner")
        compute_on()

    @task(timeout_seconds=limits["middle"])
    def middle() -> None:
        note("middle")
        with contextlib.suppress(TaskRunTimeoutError):
            inner()

    @flow(timeout_seconds=limits["outer"])
    def outer() -> State[None]:
        note("outer")
        with contextlib.suppress(TaskRunTimeoutError):
            middle()
        return None  # type: ignore[return-value]

    with on_time():
        in_thread(lambda: outer(return_state=True))
    ends = {name: run.state.name for name, run in runs.items()}
    expected = {
        "outer": {"outer": "TimedOut", "middle": "Cancelled", "inner": "Cancelled"},
        "middle": {"outer": "Completed", "middle": "TimedOut", "inner": "Cancelled"},
        "inner": {"outer": "Completed", "middle": "Completed", "inner": "TimedOut"},
    }
    assert ends == expected[nearer]


def test_seed_105_a_task_called_by_a_submitted_task_has_a_limit_of_its_own(threads: str) -> None:
    inner = task(compute_on, name="inner", timeout_seconds=LIMIT)

    @task
    def outer() -> str:
        with pytest.raises(TaskRunTimeoutError):
            inner()
        return "went on"

    @flow(task_runner=threads)
    def main() -> str:
        return outer.submit().result()

    with on_time():
        assert main() == "went on"


@pytest.mark.parametrize("inner_limit", [None, 60.0])
def test_d7_the_limit_of_a_submitted_task_ends_the_task_that_it_called_too(
    threads: str, inner_limit: float | None
) -> None:
    runs: list[Run] = []
    ended = threading.Event()

    @task(timeout_seconds=inner_limit)
    def inner() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        compute_on()

    @task(timeout_seconds=ROOMY)
    def outer() -> None:
        try:
            inner()
        finally:
            ended.set()

    @flow(task_runner=threads)
    def main() -> str:
        future = outer.submit()
        future.wait()
        assert ended.wait(TOO_LATE_SECONDS)
        return future.state.name

    with on_time():
        assert main() == "TimedOut"
    assert runs[0].state.is_final()
    assert not runs[0].state.is_completed()


# --- what the end of the time means ------------------------------------------------------


def test_seed_106_a_timeout_error_of_the_users_own_is_a_plain_failure(runner: str) -> None:
    @task(timeout_seconds=60)
    def gives_up() -> None:
        raise TimeoutError("the server did not answer")

    @task(timeout_seconds=60)
    async def gives_up_async() -> None:
        raise TimeoutError("the server did not answer")

    @flow(task_runner=runner)
    async def main() -> list[State[None]]:
        states: list[State[None]] = [
            gives_up(return_state=True),
            await gives_up_async(return_state=True),
        ]
        for future in (gives_up.submit(), gives_up_async.submit()):
            with pytest.raises(TimeoutError, match="the server did not answer"):
                await future
            states.append(future.state)
        assert [str(state) for state in states] == [
            "Failed('Task run encountered an exception TimeoutError: the server did not answer')"
        ] * 4
        return []

    asyncio.run(main())


def test_seed_107_for_the_flow_it_is_like_any_failure(runner: str) -> None:
    work = compute_on

    @flow(task_runner=runner)
    def unseen() -> None:
        task(work, timeout_seconds=LIMIT).submit()

    @flow(task_runner=runner)
    def handled() -> None:
        with contextlib.suppress(TaskRunTimeoutError):
            task(work, timeout_seconds=LIMIT).submit().result()

    @flow(task_runner=runner)
    def raised() -> None:
        task(work, timeout_seconds=LIMIT).submit().result()

    with on_time():
        assert str(unseen(return_state=True)) == "Failed('1/1 states failed.')"
        assert str(handled(return_state=True)) == "Completed('All states completed.')"
        with pytest.raises(TaskRunTimeoutError):
            raised()


@pytest.mark.parametrize("submitted", [False, True])
def test_seed_105_retries_apply_after_a_timeout(runner: str, submitted: bool) -> None:
    attempts: list[Run] = []

    @task(timeout_seconds=LIMIT, retries=2)
    def third_time_lucky() -> str:
        run = current_task_run()
        assert run is not None
        attempts.append(run)
        if len(attempts) < 3:
            compute_on()
        return "lucky"

    @flow(task_runner=runner)
    def main() -> str:
        return third_time_lucky.submit().result() if submitted else third_time_lucky()

    with on_time():
        assert main() == "lucky"
    assert names(attempts[0]) == [
        "Pending", "Running", "TimedOut", "Retrying", "TimedOut", "Retrying", "Completed",
    ]  # fmt: skip
    assert attempts[0].run_count == 3


def test_seed_105_a_flow_retries_after_its_timeout() -> None:
    attempts: list[Any] = []

    @flow(timeout_seconds=LIMIT, retries=1)
    def main() -> str:
        attempts.append(current_flow_run())
        if len(attempts) == 1:
            sleep_on()
        return "lucky"

    with on_time():
        assert main() == "lucky"
    assert names(attempts[0]) == ["Pending", "Running", "TimedOut", "Retrying", "Completed"]


def test_seed_105_the_time_limit_of_a_flow_does_not_wait_for_running_threads(
    threads: str, gate: Any
) -> None:
    blocked = task(gate.wait, name="blocked")
    futures: list[Any] = []

    @flow(timeout_seconds=ROOMY, task_runner=threads)
    def main() -> None:
        futures.extend(blocked.submit() for _ in range(4))
        futures[0].result()

    with on_time(), pytest.raises(FlowRunTimeoutError):
        main()
    assert not gate.is_open()
    gate.open()
    assert [future.state.name for future in futures] == ["Cancelled"] * 4


@pytest.mark.parametrize("is_async", [False, True])
def test_seed_105_the_limit_of_a_flow_holds_while_it_waits_for_what_it_submitted(
    threads: str, gate: Any, is_async: bool
) -> None:
    blocked = task(gate.wait, name="blocked")
    futures: list[Any] = []

    @flow(timeout_seconds=ROOMY, task_runner=threads)
    def main() -> str:
        futures.append(blocked.submit())
        return "returned"

    @flow(timeout_seconds=ROOMY, task_runner=threads)
    async def amain() -> str:
        futures.append(blocked.submit())
        return "returned"

    with on_time(), pytest.raises(FlowRunTimeoutError):
        asyncio.run(amain()) if is_async else main()
    gate.open()
    assert history(futures[0])[-1] == "Cancelled"


def test_seed_105_the_limit_of_a_parent_holds_while_a_sub_flow_waits_for_what_it_submitted(
    threads: str, gate: Any
) -> None:
    blocked = task(gate.wait, name="blocked")
    runs: list[Run] = []

    @flow
    def sub() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        blocked.submit()

    @flow(timeout_seconds=ROOMY, task_runner=threads)
    def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        sub()

    with on_time(), pytest.raises(FlowRunTimeoutError):
        main()
    gate.open()
    assert [run.state.name for run in runs] == ["TimedOut", "Cancelled"]


def test_seed_105_the_limit_of_a_flow_holds_while_its_task_waits_for_a_retry() -> None:
    runs: list[Run] = []

    @task(retries=1, retry_delay_seconds=60)
    def fails() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        raise ValueError("no luck")

    @task(retries=1, retry_delay_seconds=60)
    async def fails_async() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        raise ValueError("no luck")

    @flow(timeout_seconds=ROOMY)
    def main() -> None:
        fails()

    @flow(timeout_seconds=ROOMY)
    async def amain() -> None:
        await fails_async()

    with on_time(), pytest.raises(FlowRunTimeoutError):
        main()
    with on_time(), pytest.raises(FlowRunTimeoutError):
        asyncio.run(amain())
    for run in runs:
        assert names(run) == ["Pending", "Running", "Failed", "AwaitingRetry", "Cancelled"]


def test_seed_105_the_limit_of_a_submitted_sub_flow_is_kept(threads: str, gate: Any) -> None:
    blocked = task(gate.wait, name="blocked")

    @flow(timeout_seconds=LIMIT)
    def sub() -> None:
        blocked.submit()
        compute_on()

    @flow(task_runner=threads)
    def main() -> str:
        future = sub.submit()
        with pytest.raises(FlowRunTimeoutError):
            future.result()
        gate.open()
        return future.state.name

    with on_time():
        assert main() == "TimedOut"


def test_seed_105_a_limit_of_0_or_none_is_no_limit(runner: str) -> None:
    @flow(task_runner=runner, timeout_seconds=0)
    def main() -> list[int]:
        return [
            task(lambda: 1, name="a", timeout_seconds=0).submit().result(),
            task(lambda: 2, name="b", timeout_seconds=None)(),
        ]

    assert main() == [1, 2]
