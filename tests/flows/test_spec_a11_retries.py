"""Promises of rows 109-124 (with 016 and 024): what fails is tried again, on time, in one run."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import Task, flow, get_run_logger, task
from penstock.context import current_flow_run, current_task_run
from penstock.exceptions import DefinitionError, HookSignatureError
from penstock.settings import temporary_settings
from penstock.states import Completed, Failed, State
from penstock.tasks import exponential_backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.flows.conftest import Log

    from penstock.runs import Run

FAILED = "Task run failed with exception: ValueError('no luck')"


class Work:
    """Fails a number of times and then succeeds; keeps the runs it was called for."""

    __name__ = "work"

    def __init__(self, failures: int = 10**9, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = ValueError("no luck") if error is None else error
        self.runs: list[Run] = []
        self.times: list[float] = []

    def __call__(self) -> str:
        self.times.append(time.monotonic())
        run = current_task_run() or current_flow_run()
        assert run is not None
        self.runs.append(run)
        if len(self.runs) <= self.failures:
            raise self.error
        return "luck"

    @property
    def calls(self) -> int:
        return len(self.runs)


def run_in_flow(
    subject: Task[[], str], runner: str, *, submitted: bool = True, raises: bool = False
) -> State[str]:
    """Call, or submit, a task in a flow, and return its final state."""

    @flow(task_runner=runner)
    def main() -> list[State[str]]:
        if submitted:
            future = subject.submit()
            future.wait()
            return [future.state]
        return [subject(return_state=True)]

    return main()[0]


def names(run: Run) -> list[str]:
    return [state.name for state in run.states]


ways = pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])


# --- how often ---------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("failures", [0, 1, 2])
def test_seed_110_it_is_called_until_it_succeeds(
    runner: str, submitted: bool, failures: int
) -> None:
    work = Work(failures)
    state = run_in_flow(task(work, retries=2), runner, submitted=submitted)
    assert state.result() == "luck"
    assert work.calls == failures + 1


@ways
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_seed_111_after_the_last_retry_it_has_failed(
    runner: str, submitted: bool, retries: int
) -> None:
    work = Work()
    state = run_in_flow(task(work, retries=retries), runner, submitted=submitted)
    assert str(state) == "Failed('Task run encountered an exception ValueError: no luck')"
    assert state.exception() is work.error
    assert work.calls == retries + 1


@ways
def test_seed_109_a_returned_failed_state_is_a_failure_too(runner: str, submitted: bool) -> None:
    calls: list[int] = []

    @task(retries=1)
    def says_so() -> Any:
        calls.append(1)
        return Failed("as I said") if len(calls) < 2 else Completed("well")

    assert run_in_flow(says_so, runner, submitted=submitted).result() == "well"
    assert len(calls) == 2


def test_seed_109_a_returned_failed_state_is_final_after_the_last_retry(runner: str) -> None:
    @task(retries=1)
    def says_so() -> Any:
        return Failed("as I said")

    state = run_in_flow(says_so, runner)
    assert str(state) == "Failed('as I said')"


@ways
def test_seed_113_async_tasks_are_tried_again_too(runner: str, submitted: bool) -> None:
    calls: list[int] = []

    @task(retries=2, retry_delay_seconds=0.01)
    async def shaky() -> str:
        await asyncio.sleep(0)
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("no luck")
        return "luck"

    @flow(task_runner=runner)
    async def main() -> str:
        return await (shaky.submit() if submitted else shaky())

    assert asyncio.run(main()) == "luck"
    assert len(calls) == 3


# --- one run with a history --------------------------------------------------------------


@ways
def test_seed_112_and_139_a_retry_is_a_new_state_of_the_same_run(
    runner: str, submitted: bool
) -> None:
    work = Work(2)
    subject = task(work, retries=2, retry_delay_seconds=[0.01, 0])
    state = run_in_flow(subject, runner, submitted=submitted)
    run = work.runs[0]
    assert {id(each) for each in work.runs} == {id(run)}
    assert len({each.id for each in work.runs}) == 1
    assert run.run_count == 3
    assert run.state is state
    assert names(run) == [
        "Pending", "Running", "Failed", "AwaitingRetry", "Retrying", "Failed", "Retrying",
        "Completed",
    ]  # fmt: skip
    first_failure, waiting, retrying = run.states[2:5]
    assert first_failure.is_failed()
    assert first_failure.provisional
    assert not first_failure.is_final()
    assert waiting.is_scheduled()
    assert waiting.is_retrying()
    assert retrying.is_running()
    assert retrying.is_retrying()
    assert [each.at for each in run.states] == sorted(each.at for each in run.states)


def test_seed_112_the_run_count_can_be_read_in_the_attempt(runner: str) -> None:
    counts: list[int] = []

    @task(retries=2)
    def counting() -> str:
        run = current_task_run()
        assert run is not None
        counts.append(run.run_count)
        raise ValueError("no luck")

    run_in_flow(counting, runner)
    if runner == "inline":  # the caller is busy with the attempt: the news comes afterwards
        assert counts == sorted(counts)
    else:
        assert counts[-1] == 3


def test_seed_112_on_failure_is_called_for_the_last_failure_only(runner: str) -> None:
    seen: list[str] = []
    work = Work()
    subject = task(work, retries=2, on_failure=lambda state: seen.append(str(state)))
    state = run_in_flow(subject, runner)
    assert seen == [str(state)]


# --- the delays --------------------------------------------------------------------------


def waits(run: Run, log: Log) -> list[float]:
    """Return how long the log said that the run would wait, in seconds, before each retry."""
    lines = [line for line in log.lines if f"run {run.name!r}" in line]
    said = re.findall(r"will start ([0-9.e-]+) second", "\n".join(lines))
    until: list[float] = []
    for before, state in zip(run.states, run.states[1:], strict=False):
        if state.name == "AwaitingRetry":
            assert state.scheduled_at is not None
            until.append(state.scheduled_at - before.at)
    found = [float(each) for each in said]
    # They count from the end of the attempt, which is a little before the state that tells of it.
    assert len(found) == len(until)
    assert all(left <= whole + 0.001 for left, whole in zip(until, found, strict=True))
    return found


@ways
@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (0.02, [0.02, 0.02, 0.02]),
        ([0.01, 0.03, 0.02], [0.01, 0.03, 0.02]),
        ([0.01, 0.03], [0.01, 0.03, 0.03]),
        (lambda retries: [0.01 * n for n in range(1, retries + 1)], [0.01, 0.02, 0.03]),
        (exponential_backoff(0.01), [0.01, 0.02, 0.04]),
        ([0.01, 0, 0.02], [0.01, 0.02]),
    ],
    ids=["number", "list", "short list", "function", "backoff", "a zero is no wait"],
)
def test_seed_110_114_119_120_each_retry_waits_as_the_option_says(
    runner: str, submitted: bool, delay: Any, expected: list[float], log: Log
) -> None:
    work = Work()
    subject = task(work, retries=3, retry_delay_seconds=delay)
    run_in_flow(subject, runner, submitted=submitted)
    assert waits(work.runs[0], log) == pytest.approx(expected)
    pauses = [after - before for before, after in zip(work.times, work.times[1:], strict=False)]
    assert all(
        pause >= wait - 0.002
        for pause, wait in zip(sorted(pauses)[-len(expected) :], sorted(expected), strict=True)
    )


def test_seed_120_backoff_of_ten_seconds() -> None:
    assert exponential_backoff(backoff_factor=10)(3) == [10, 20, 40]


def test_seed_121_jitter_stays_below_its_bound_and_spreads_the_waits() -> None:
    work = Work()
    subject = task(work, retries=25, retry_delay_seconds=0.02, retry_jitter_factor=0.5)
    subject(return_state=True)
    exact = [
        state.scheduled_at - before.at
        for before, state in zip(work.runs[0].states, work.runs[0].states[1:], strict=False)
        if state.scheduled_at is not None
    ]
    assert len(exact) == 25
    assert max(exact) <= 0.03 + 0.001
    assert len({round(each, 6) for each in exact}) > 5


@ways
def test_seed_124_the_longest_wait_can_be_limited(runner: str, submitted: bool, log: Log) -> None:
    work = Work()
    subject = task(work, retries=2, retry_delay_seconds=50, max_retry_delay_seconds=0.01)
    run_in_flow(subject, runner, submitted=submitted)
    assert waits(work.runs[0], log) == pytest.approx([0.01, 0.01])


# --- the condition -----------------------------------------------------------------------


class Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HTTPStatusError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.response = Response(status_code)


class ConnectError(Exception):
    pass


def seed_condition(task: Any, task_run: Any, state: State[Any]) -> bool:
    """The handler of row 118, as on the page."""
    try:
        state.result()
    except HTTPStatusError as exc:
        do_not_retry_on_these_codes = [401, 404]
        return exc.response.status_code not in do_not_retry_on_these_codes
    except ConnectError:
        return False
    except:  # noqa: E722  (the page has it)
        return True
    return False


@ways
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (HTTPStatusError(404), 1),
        (HTTPStatusError(401), 1),
        (HTTPStatusError(503), 3),
        (ConnectError("down"), 1),
        (ValueError("anything else"), 3),
    ],
    ids=repr,
)
def test_seed_118_the_condition_of_the_page_decides(
    runner: str, submitted: bool, error: Exception, calls: int
) -> None:
    work = Work(error=error)
    subject = task(work, retries=2, retry_condition_fn=seed_condition)
    run_in_flow(subject, runner, submitted=submitted)
    assert work.calls == calls


class CallableCondition:
    def __call__(self, task: Any, task_run: Any, state: Any) -> bool:
        return False

    def method(self, state: State[Any]) -> bool:
        return False


async def async_condition(task: Any, task_run: Any, state: Any) -> bool:
    await asyncio.sleep(0)
    return False


@pytest.mark.parametrize(
    "condition",
    [
        lambda: False,
        lambda state: False,
        lambda task, state: False,
        lambda task, task_run, state: False,
        lambda *args: len(args) != 3,
        lambda exception: not isinstance(exception, ValueError),
        lambda state, exception: state.exception() is not exception,
        functools.partial(lambda answer, task, task_run, state: answer, False),
        CallableCondition(),
        CallableCondition().method,
        async_condition,
    ],
)
def test_seed_116_the_condition_may_be_any_callable_of_any_arity(
    runner: str, condition: Callable[..., Any]
) -> None:
    work = Work()
    run_in_flow(task(work, retries=2, retry_condition_fn=condition), runner)
    assert work.calls == 1


def test_seed_116_the_condition_gets_the_task_its_run_and_the_failure(runner: str) -> None:
    got: list[Any] = []
    work = Work()

    def condition(task: Any, task_run: Any, state: Any) -> bool:
        got.append((task, task_run, state, threading.current_thread().name))
        return True

    subject = task(work, retries=1, retry_condition_fn=condition)
    run_in_flow(subject, runner)
    ((its_task, run, state, thread),) = got
    assert its_task is subject
    assert run is work.runs[0]
    assert state.is_failed()
    assert state.exception() is work.error
    assert thread in ("MainThread", "penstock-standby")


def test_seed_117_the_condition_sees_the_very_exception_with_its_traceback(runner: str) -> None:
    got: list[BaseException] = []
    work = Work(error=HTTPStatusError(500))

    def condition(state: Any) -> bool:
        try:
            state.result()
        except HTTPStatusError as error:
            got.append(error)
        return False

    run_in_flow(task(work, retries=1, retry_condition_fn=condition), runner)
    assert got == [work.error]
    assert got[0] is work.error
    assert got[0].__traceback__ is not None


@ways
def test_seed_116_a_condition_that_raises_means_no_and_is_logged(
    runner: str, submitted: bool, log: Any
) -> None:
    work = Work()

    def condition(state: Any) -> bool:
        raise RuntimeError("confused")

    state = run_in_flow(
        task(work, retries=2, retry_condition_fn=condition), runner, submitted=submitted
    )
    assert work.calls == 1
    assert state.exception() is work.error
    told = [line for line in log.lines if "confused" in line and "retry_condition_fn" in line]
    assert len(told) == 1
    assert "will not be retried" in told[0]


def test_seed_116_a_condition_that_could_never_be_called_is_refused_at_definition() -> None:
    with pytest.raises(HookSignatureError):
        task(Work(), retries=1, retry_condition_fn=lambda a, b, c, d: True)


def test_seed_121_negative_values_are_refused_at_definition() -> None:
    for options in ({"retries": -1}, {"retry_jitter_factor": -0.5}, {"retry_delay_seconds": -1}):
        with pytest.raises(DefinitionError) as refusal:
            task(Work(), **options)
        assert isinstance(refusal.value, ValueError)


# --- the log -----------------------------------------------------------------------------


@ways
def test_seed_110_and_111_each_attempt_has_one_line_in_the_log(
    runner: str, submitted: bool, log: Any
) -> None:
    subject = task(Work(), name="work", retries=2, retry_delay_seconds=[0.01, 0])
    run_in_flow(subject, runner, submitted=submitted)
    records = [record for record in log.records if record.name == "penstock.task_runs"]
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("INFO", f"{FAILED} - Retry 1/2 will start 0.01 second(s) from now"),
        ("INFO", f"{FAILED} - Retry 2/2 will start immediately"),
        ("ERROR", f"{FAILED} - Retries are exhausted"),
        (
            "ERROR",
            "Finished in state Failed('Task run encountered an exception ValueError: no luck')",
        ),
    ]


def test_seed_110_a_whole_number_of_seconds_reads_as_on_the_page(log: Any) -> None:
    subject = task(Work(), retries=1, retry_delay_seconds=5, max_retry_delay_seconds=0.01)
    subject(return_state=True)
    assert any("will start 0.01 second(s) from now" in line for line in log.lines)


def test_seed_111_the_traceback_in_the_log_has_the_users_frames_only(runner: str, log: Any) -> None:
    def helper() -> None:
        raise ValueError("no luck")

    @task
    def calls_helper() -> Any:
        helper()

    run_in_flow(calls_helper, runner)
    (line,) = [line for line in log.lines if "No retries configured for this task." in line]
    assert "in calls_helper\n    helper()" in line
    assert line.endswith("ValueError: no luck")
    assert "/penstock/" not in line
    assert "/penstock_runners/" not in line


def test_seed_111_the_exception_reaches_the_caller_with_the_users_frames(runner: str) -> None:
    def helper() -> None:
        raise ValueError("no luck")

    @task(retries=1)
    def calls_helper() -> None:
        helper()

    @flow(task_runner=runner)
    def main() -> None:
        calls_helper.submit().result()

    with pytest.raises(ValueError, match="no luck") as caught:
        main()
    shown = [entry.name for entry in caught.traceback]
    assert shown.count("helper") == 1
    assert shown.count("calls_helper") == 1


def test_seed_111_the_exception_of_an_async_task_has_no_context_of_ours(runner: str) -> None:
    @task
    async def fails() -> None:
        raise ValueError("no luck")

    @flow(task_runner=runner)
    def main() -> list[BaseException | None]:
        return [fails.submit().exception()]

    (error,) = main()
    assert error is not None
    assert error.__context__ is None


# --- the settings ------------------------------------------------------------------------


def test_seed_124_settings_are_read_when_the_run_begins(runner: str, log: Log) -> None:
    work = Work()
    subject = task(work)  # defined before the settings change
    with temporary_settings(
        tasks_default_retries=2, tasks_default_retry_delay_seconds=[0.01, 0.02]
    ):
        run_in_flow(subject, runner)
    assert work.calls == 3
    assert waits(work.runs[0], log) == pytest.approx([0.01, 0.02])


@pytest.mark.parametrize("prefix", ["PENSTOCK", "PREFECT"])
@pytest.mark.parametrize("word", ["TASK", "TASKS"])
def test_seed_124_and_125_settings_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, prefix: str, word: str, log: Log
) -> None:
    monkeypatch.setenv(f"{prefix}_{word}_DEFAULT_RETRIES", "2")
    monkeypatch.setenv(f"{prefix}_{word}_DEFAULT_RETRY_DELAY_SECONDS", "[0.01, 0.02]")
    work = Work()
    task(work)(return_state=True)
    assert work.calls == 3
    assert waits(work.runs[0], log) == pytest.approx([0.01, 0.02])


def test_seed_124_settings_do_not_override_the_decorator(runner: str) -> None:
    work = Work()
    with temporary_settings(tasks_default_retries=5, tasks_default_retry_delay_seconds=[50]):
        run_in_flow(task(work, retries=1, retry_delay_seconds=0.01), runner)
        assert work.calls == 2
        never = Work()
        run_in_flow(task(never, retries=0), runner)
        assert never.calls == 1


# --- waiting costs nothing ---------------------------------------------------------------


def test_seed_110_a_run_that_waits_for_its_retry_holds_no_slot() -> None:
    order: list[str] = []
    failed = threading.Event()

    @task(retries=1, retry_delay_seconds=0.3)
    def first() -> None:
        order.append("first")
        if not failed.is_set():
            failed.set()
            raise ValueError("no luck")

    @task
    def second() -> None:
        order.append("second")

    @flow(task_runner="thread:1")
    def main() -> None:
        waiting = first.submit()
        assert failed.wait(5)
        second.submit().result(timeout=5)
        waiting.result(timeout=5)

    main()
    assert order == ["first", "second", "first"]


def test_seed_110_many_runs_wait_at_the_same_time(threads: str) -> None:
    works = [Work(1) for _ in range(20)]

    @flow(task_runner=threads)
    def main() -> list[str]:
        subjects = [task(work, retries=1, retry_delay_seconds=0.2) for work in works]
        return [future.result() for future in [subject.submit() for subject in subjects]]

    began = time.monotonic()
    assert main() == ["luck"] * 20
    assert time.monotonic() - began < 2.0  # one after the other they would take 4 s


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def asleep(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("body", [busy, asleep])
def test_law_2_retries_are_on_time_while_the_flow_is_busy_elsewhere(
    threads: str, body: Callable[[float], None]
) -> None:
    work = Work(3)
    subject = task(work, retries=3, retry_delay_seconds=0.02)
    ended = threading.Event()

    @flow(task_runner=threads)
    def main() -> str:
        future = subject.submit()
        future.add_done_callback(lambda _: ended.set())
        end = time.monotonic() + 5
        while not ended.is_set() and time.monotonic() < end:
            body(0.02)
        assert future.done()  # nobody has waited for it
        return future.result()

    assert main() == "luck"
    late = [
        after.at - (waiting.scheduled_at or 0.0)
        for waiting, after in zip(work.runs[0].states, work.runs[0].states[1:], strict=False)
        if waiting.name == "AwaitingRetry"
    ]
    assert len(late) == 3
    assert min(late) > -0.005
    assert sorted(late)[1] < 0.25  # a loaded machine may be late once or twice


# --- flows -------------------------------------------------------------------------------


def test_seed_016_and_024_a_flow_runs_again_with_all_its_tasks(runner: str, log: Any) -> None:
    calls: list[str] = []
    runs: list[Any] = []

    @task
    def step() -> str:
        calls.append("step")
        return "done"

    @flow(retries=3, retry_delay_seconds=0.01, task_runner=runner, name="shaky")
    def main() -> str:
        runs.append(current_flow_run())
        step()
        step.submit().result()
        if len(runs) < 3:
            raise ValueError("no luck")
        return "luck"

    assert main() == "luck"
    assert len(calls) == 6
    assert runs[0] is runs[2]
    assert runs[0].run_count == 3
    assert names(runs[0]) == [
        "Pending", "Running", "Failed", "AwaitingRetry", "Retrying", "Failed", "AwaitingRetry",
        "Retrying", "Completed",
    ]  # fmt: skip
    told = [r.getMessage() for r in log.records if r.name == "penstock.flow_runs"]
    assert [line for line in told if "Retry" in line] == [
        "Flow run failed with exception: ValueError('no luck') - "
        f"Retry {number}/3 will start 0.01 second(s) from now"
        for number in (1, 2)
    ]


def test_seed_024_a_flow_that_fails_to_the_end_raises_and_says_so(log: Any) -> None:
    work = Work()
    with pytest.raises(ValueError, match="no luck"):
        flow(work, retries=2)()
    assert work.calls == 3
    told = [line for line in log.lines if "Encountered exception during execution" in line]
    assert len(told) == 1
    assert "ValueError('no luck')" in told[0]


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        ([0.01, 0.03], [0.01, 0.03]),
        (lambda retries: [0.01 * (n + 1) for n in range(retries)], [0.01, 0.02]),
    ],
    ids=["list", "function"],
)
def test_seed_016_the_delay_of_a_flow_may_be_a_list_or_a_function(
    delay: Any, expected: Sequence[float], log: Log
) -> None:
    work = Work()
    flow(work, retries=2, retry_delay_seconds=delay)(return_state=True)
    assert waits(work.runs[0], log) == pytest.approx(expected)


def test_seed_016_an_async_flow_is_tried_again() -> None:
    calls: list[int] = []

    @flow(retries=2, retry_delay_seconds=0.01)
    async def main() -> str:
        await asyncio.sleep(0)
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("no luck")
        return "luck"

    assert asyncio.run(main()) == "luck"


def test_seed_016_an_unseen_failure_of_an_earlier_attempt_is_forgotten(runner: str) -> None:
    attempts: list[int] = []

    @task
    def fails_first() -> None:
        if len(attempts) == 1:
            raise ValueError("no luck")

    @flow(retries=1, task_runner=runner)
    def main() -> None:
        attempts.append(1)
        fails_first.submit()

    assert str(main(return_state=True)) == "Completed('All states completed.')"
    assert len(attempts) == 2


def test_seed_124_flows_have_defaults_of_their_own_in_the_settings() -> None:
    work = Work()
    with temporary_settings(flows_default_retries=2, flows_default_retry_delay_seconds=[0.01]):
        flow(work)(return_state=True)
    assert work.calls == 3


def test_seed_164_the_log_of_the_code_itself_goes_on_between_the_attempts(
    runner: str, log: Any
) -> None:
    @task(retries=1)
    def talks() -> Any:
        get_run_logger().info("trying")
        raise ValueError("no luck")

    log.show(logging.INFO)
    run_in_flow(talks, runner)
    assert [r.getMessage() for r in log.records].count("trying") == 2
