"""Promises of rows 128-156 and 164-167: the states of runs, and the hooks that hear of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from penstock import (
    State,
    flow,
    get_run_logger,
    pause_flow_run,
    resume_flow_run,
    suspend_flow_run,
    task,
)
from penstock.context import current_flow_run, current_run, current_task_run
from penstock.exceptions import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    HookSignatureError,
    MissingContextError,
    NotSupportedError,
    PauseTimeoutError,
    UnfinishedRun,
)
from penstock.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Retrying,
    Running,
    Scheduled,
    StateType,
    TimedOut,
    UpstreamFailed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.runs import Run

TESTS_OF_A_STATE = (
    "is_scheduled",
    "is_pending",
    "is_running",
    "is_completed",
    "is_failed",
    "is_crashed",
    "is_cancelled",
    "is_cancelling",
    "is_paused",
    "is_final",
    "is_retrying",
)


def names(run: Run) -> list[str]:
    return [state.name for state in run.states]


def answers(state: Any) -> set[str]:
    return {name.removeprefix("is_") for name in TESTS_OF_A_STATE if getattr(state, name)()}


# --- the states themselves ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "true"),
    [
        (Scheduled(), "SCHEDULED", {"scheduled"}),
        (AwaitingRetry(), "SCHEDULED", {"scheduled", "retrying"}),
        (Pending(), "PENDING", {"pending"}),
        (Running(), "RUNNING", {"running"}),
        (Retrying(), "RUNNING", {"running", "retrying"}),
        (Completed(), "COMPLETED", {"completed", "final"}),
        (Failed(), "FAILED", {"failed", "final"}),
        (TimedOut(), "FAILED", {"failed", "final"}),
        (UpstreamFailed(), "FAILED", {"failed", "final"}),
        (Crashed(), "CRASHED", {"crashed", "final"}),
        (Cancelled(), "CANCELLED", {"cancelled", "final"}),
        (Cancelling(), "CANCELLING", {"cancelling"}),
        (Paused(), "PAUSED", {"paused"}),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_seed_128_134_166_each_state_has_its_type_and_answers_every_test(
    state: State[Any], kind: str, true: set[str]
) -> None:
    assert state.type is StateType(kind)
    assert answers(state) == true


def test_seed_128_there_are_nine_types() -> None:
    assert len(StateType) == 9


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Completed(), "Completed()"),
        (Completed(3, message="All states completed."), "Completed('All states completed.')"),
        (Failed("no luck"), "Failed('no luck')"),
        (TimedOut("late"), "TimedOut('late', type=FAILED)"),
        (AwaitingRetry(), "AwaitingRetry(type=SCHEDULED)"),
        (Completed(name="Cached"), "Cached(type=COMPLETED)"),
    ],
)
def test_seed_033_106_133_the_text_of_a_state(state: State[Any], text: str) -> None:
    assert str(state) == text


def test_seed_156_the_result_of_a_state_can_be_had_in_every_form() -> None:
    value, error = {"key": [1, 2]}, ValueError("no luck")
    completed: State[Any] = Completed(value)
    assert completed.result() is value
    assert completed.result(raise_on_failure=False) is value
    assert completed.exception() is None
    assert completed.result == value
    assert completed.result["key"] == [1, 2]
    failed = Failed("text", error)
    with pytest.raises(ValueError, match="no luck"):
        failed.result()
    assert failed.result(raise_on_failure=False) is error
    assert failed.exception() is error
    assert failed.result.args == ("no luck",)


@pytest.mark.parametrize(
    ("state", "kind"),
    [(Failed("said so"), FailedRun), (Cancelled(), CancelledRun), (Crashed("gone"), CrashedRun)],
    ids=["failed", "cancelled", "crashed"],
)
def test_seed_156_an_end_without_an_exception_of_its_own_has_one_that_says_so(
    state: State[Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="the run ended in state"):
        state.result()
    assert isinstance(state.result(raise_on_failure=False), kind)


def test_seed_156_a_state_that_is_not_final_has_no_result() -> None:
    with pytest.raises(UnfinishedRun, match="wait for it first"):
        Running().result()


# --- the states of runs ------------------------------------------------------------------


ways = pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])


@ways
def test_seed_130_to_132_and_138_the_path_of_a_run_that_ends_well(
    runner: str, submitted: bool
) -> None:
    runs: list[Run] = []

    @task
    def ends_well() -> int:
        runs.append(current_run())  # type: ignore[arg-type]  # inside of a run
        return 1

    @flow(task_runner=runner)
    def main() -> int:
        runs.append(current_run())  # type: ignore[arg-type]
        return ends_well.submit().result() if submitted else ends_well()

    assert main() == 1
    for run in runs:
        assert names(run) == ["Pending", "Running", "Completed"]
        assert run.state.result() == 1
        assert [state.at for state in run.states] == sorted(state.at for state in run.states)
        assert run.start_time is not None
        assert run.end_time is not None
        assert run.start_time <= run.end_time
        assert run.start_time.tzinfo is not None


@ways
def test_seed_133_and_152_the_path_of_a_run_that_fails(runner: str, submitted: bool) -> None:
    error = ValueError("no luck")
    runs: list[Run] = []

    @task
    def fails() -> int:
        runs.append(current_run())  # type: ignore[arg-type]
        raise error

    @flow(task_runner=runner)
    def main() -> int:
        runs.append(current_run())  # type: ignore[arg-type]
        return fails.submit().result() if submitted else fails()

    with pytest.raises(ValueError, match="no luck") as caught:
        main()
    assert caught.value is error
    flow_run, task_run = runs
    assert names(task_run) == names(flow_run) == ["Pending", "Running", "Failed"]
    assert str(task_run.state) == "Failed('Task run encountered an exception ValueError: no luck')"
    assert str(flow_run.state) == "Failed('Flow run encountered an exception: ValueError: no luck')"
    assert task_run.state.exception() is error


@ways
def test_seed_152_return_state_gives_the_state_and_raises_nothing(
    runner: str, submitted: bool
) -> None:
    @task
    def divide(by: int) -> float:
        return 1 / by

    @flow(task_runner=runner)
    def main() -> list[str]:
        states: list[State[float]] = [
            divide.submit(by, return_state=True) if submitted else divide(by, return_state=True)
            for by in (1, 0)
        ]
        assert states[0].result() == 1.0
        assert isinstance(states[1].exception(), ZeroDivisionError)
        return [state.name for state in states]

    state: State[list[str]] = main(return_state=True)
    assert state.is_completed()
    assert state.result() == ["Completed", "Failed"]


def test_seed_152_return_state_of_a_flow_that_fails() -> None:
    @flow
    def main() -> None:
        raise ValueError("no luck")

    state: State[None] = main(return_state=True)
    assert state.is_failed()
    with pytest.raises(ValueError, match="no luck"):
        state.result()


def test_seed_141_map_can_return_states(runner: str) -> None:
    @task
    def divide(by: int) -> float:
        return 1 / by

    @flow(task_runner=runner)
    def main() -> list[str]:
        states = divide.map([1, 0, 2], return_state=True)
        return [state.name for state in states]

    assert main() == ["Completed", "Failed", "Completed"]


@ways
def test_seed_136_system_exit_in_a_task_is_a_crash(runner: str, submitted: bool) -> None:
    @task(retries=2)
    def exits() -> None:
        sys.exit(3)

    @flow(task_runner=runner)
    def main() -> list[State[None]]:
        state: State[None] = (
            exits.submit(return_state=True) if submitted else exits(return_state=True)
        )
        return [state]

    (state,) = main()
    assert state.is_crashed()
    assert "SystemExit: 3" in str(state)
    assert isinstance(state.exception(), CrashedRun)


def test_seed_136_system_exit_in_a_submitted_task_nobody_looked_at_fails_the_flow(
    runner: str,
) -> None:
    @task
    def exits() -> None:
        sys.exit(3)

    @flow(task_runner=runner)
    def main() -> None:
        exits.submit()

    assert str(main(return_state=True)) == "Failed('1/1 states failed.')"


def test_seed_136_system_exit_in_a_called_task_ends_the_program() -> None:
    runs: list[Run] = []

    @task
    def exits() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        sys.exit(3)

    @flow
    def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        exits()

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    assert [run.state.type for run in runs] == [StateType.CRASHED] * 2


# --- the states of futures ---------------------------------------------------------------


def test_seed_154_a_future_passes_every_test_on_without_waiting(gate: Any, threads: str) -> None:
    blocked = task(gate.wait)

    @flow(task_runner=threads)
    def main() -> None:
        future = blocked.submit()
        for name in TESTS_OF_A_STATE:
            assert getattr(future, name)() is getattr(future.run.state, name)()
        assert not future.is_completed()
        assert not future.is_final()
        gate.open()
        future.wait()
        assert future.is_completed()
        assert answers(future) == {"completed", "final"}

    main()


def test_seed_155_and_156_result_and_exception_of_a_future(runner: str) -> None:
    error = ValueError("no luck")

    @task
    def fails() -> int:
        raise error

    @task
    def gives(value: Any) -> Any:
        return value

    @flow(task_runner=runner)
    def main() -> list[Any]:
        bad, good, nothing = fails.submit(), gives.submit(7), gives.submit(None)
        assert bad.result(raise_on_failure=False) is error
        assert bad.exception() is error
        assert good.result() == good.result(raise_on_failure=False) == 7
        assert good.exception() is None
        assert nothing.result(raise_on_failure=False) is None
        with pytest.raises(ValueError, match="no luck"):
            bad.result()
        return []

    main()


def test_seed_156_a_result_that_is_not_there_in_time(gate: Any, threads: str) -> None:
    blocked = task(gate.wait, name="blocked")

    @flow(task_runner=threads)
    def main() -> None:
        future = blocked.submit()
        with pytest.raises(TimeoutError, match="it goes on"):
            future.result(timeout=0.01)
        future.wait(timeout=0.01)
        assert not future.done()
        gate.open()
        future.result()

    main()


# --- the state of a flow -----------------------------------------------------------------


def test_seed_148_a_failure_that_was_handled_fails_no_flow(runner: str) -> None:
    @task(retries=2)
    def fetch_data() -> str:
        raise ValueError("no luck")

    @task
    def backup_data() -> str:
        return "backup"

    @flow(task_runner=runner)
    def main() -> None:
        try:
            data = fetch_data()
        except Exception:
            data = backup_data()
        assert data == "backup"

    assert str(main(return_state=True)) == "Completed('All states completed.')"


def test_seed_135_a_flow_with_a_set_time_is_scheduled_until_then() -> None:
    runs: list[Run] = []

    @flow
    def main() -> datetime.datetime:
        runs.append(current_run())  # type: ignore[arg-type]
        return datetime.datetime.now(datetime.UTC)

    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.05)
    assert main.starting_at(when)() >= when
    assert names(runs[0]) == ["Pending", "Scheduled", "Pending", "Running", "Completed"]
    assert runs[0].states[1].scheduled_time == when
    main()
    assert names(runs[1]) == ["Pending", "Running", "Completed"]


def test_seed_135_a_time_without_a_zone_is_local_and_one_that_has_passed_starts_at_once() -> None:
    @flow
    def main() -> str:
        return "ran"

    @flow
    async def amain() -> str:
        return "ran"

    began = time.monotonic()
    hour_ago = datetime.datetime.now() - datetime.timedelta(hours=1)
    assert main.starting_at(hour_ago)() == "ran"
    assert asyncio.run(amain.starting_at(hour_ago)()) == "ran"
    assert time.monotonic() - began < 5


# --- pausing -----------------------------------------------------------------------------


class Resumer:
    """A thread that resumes a flow run as soon as it is paused, and notes what it saw."""

    def __init__(self, how: Callable[[Run], Any]) -> None:
        self.how = how
        self.seen: list[str] = []
        self.run: Run | None = None
        self.thread = threading.Thread(target=self._resume)

    def start(self) -> None:
        self.run = current_run()
        self.thread.start()

    def _resume(self) -> None:
        end = time.monotonic() + 10
        assert self.run is not None
        while not self.run.state.is_paused() and time.monotonic() < end:
            time.sleep(0.001)
        self.seen.append(self.run.state.name)
        while time.monotonic() < end:
            try:
                resume_flow_run(self.how(self.run))
            except MissingContextError:
                time.sleep(0.001)
            else:
                return


@pytest.mark.parametrize(
    "how",
    [lambda run: run, lambda run: run.id, lambda run: str(run.id), lambda run: run.name],
    ids=["run", "id", "id as text", "name"],
)
def test_seed_137_a_flow_is_paused_in_its_code_and_resumed_from_elsewhere(
    how: Callable[[Run], Any],
) -> None:
    resumer = Resumer(how)
    steps: list[str] = []

    @flow
    def main() -> str:
        resumer.start()
        steps.append("before")
        pause_flow_run(timeout=10)
        steps.append("after")
        return "went on"

    assert main() == "went on"
    resumer.thread.join(10)
    assert steps == ["before", "after"]
    assert resumer.seen == ["Paused"]
    assert resumer.run is not None
    assert names(resumer.run) == ["Pending", "Running", "Paused", "Running", "Completed"]
    assert resumer.run.run_count == 1


def test_seed_137_what_runs_goes_on_and_nothing_new_starts(threads: str) -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    starts: list[str] = []

    @task
    def running() -> None:
        began.set()
        assert may_end.wait(10)
        ended.set()

    @task
    def following(_: Any) -> None:
        starts.append("following")

    @flow(task_runner=threads)
    def main() -> list[str]:
        run = current_flow_run()
        assert run is not None
        run_id = str(run.id)
        future = running.submit()
        following.submit(future)
        assert began.wait(10)

        def watch() -> None:
            may_end.set()
            assert ended.wait(10)
            time.sleep(0.05)  # time enough for the dependant, if it were not held back
            starts.append("resumed")
            resume_flow_run(run_id)

        watcher = threading.Timer(0.02, watch)
        watcher.start()
        pause_flow_run(timeout=10)
        watcher.join(10)
        return starts

    assert main() == ["resumed", "following"]


def test_seed_137_a_pause_that_nobody_ends_fails_the_flow() -> None:
    runs: list[Run] = []

    @flow
    def main() -> None:
        runs.append(current_run())  # type: ignore[arg-type]
        pause_flow_run(timeout=0.02)

    with pytest.raises(PauseTimeoutError, match=r"was not resumed within 0\.02 s"):
        main()
    assert names(runs[0]) == ["Pending", "Running", "Paused", "Running", "Failed"]


def test_seed_137_pausing_needs_a_flow_and_resuming_one_that_is_paused() -> None:
    with pytest.raises(MissingContextError, match="inside of a flow run only"):
        pause_flow_run()
    with pytest.raises(MissingContextError, match="no flow run 'nobody' of this process is paused"):
        resume_flow_run("nobody")
    with pytest.raises(NotSupportedError, match="use pause_flow_run"):
        suspend_flow_run()


# --- hooks -------------------------------------------------------------------------------


HOOKS: list[Any] = [
    lambda: "()",
    lambda state: state.name,
    lambda obj, state: (obj.name, state.name),
    lambda obj, run, state: (obj.name, run.name, state.name),
    lambda *args: tuple(arg.name for arg in args),
    lambda state, obj: (obj.name, state.name),
]
FOR_TASKS: list[Any] = [
    lambda task, task_run: (task.name, task_run.name),
    lambda task_run, exception: (task_run.name, str(exception)),
    lambda *, state: state.name,
]
FOR_FLOWS: list[Any] = [
    lambda flow, state: (flow.name, state.name),
    lambda flow_run, exception=None: (flow_run.flow_name, str(exception)),
]


@pytest.mark.parametrize("hook", [*HOOKS, *FOR_TASKS, *FOR_FLOWS])
@ways
def test_d4_hooks_of_every_arity_on_tasks(runner: str, submitted: bool, hook: Any) -> None:
    heard: list[Any] = []

    @functools.wraps(hook)
    def noting(*args: Any, **kwargs: Any) -> None:
        heard.append(hook(*args, **kwargs))

    @task(name="subject", on_failure=noting)
    def subject() -> None:
        raise ValueError("no luck")

    @flow(task_runner=runner)
    def main() -> list[str]:
        state: State[None] = (
            subject.submit(return_state=True) if submitted else subject(return_state=True)
        )
        return [state.name]

    if hook in FOR_FLOWS[1:]:  # it asks for the flow run by a name that a task's hook may use too
        hook = None
    assert main() == ["Failed"]
    assert len(heard) == 1 or hook is None


@pytest.mark.parametrize("hook", [*HOOKS, *FOR_FLOWS])
def test_d4_and_144_and_150_hooks_of_every_arity_on_flows(hook: Any) -> None:
    heard: list[Any] = []

    @functools.wraps(hook)
    def noting(*args: Any, **kwargs: Any) -> None:
        heard.append(hook(*args, **kwargs))

    @flow(name="subject", on_failure=[noting])
    def subject() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        subject()
    assert len(heard) == 1


def test_d4_a_hook_gets_what_its_parameters_are_called() -> None:
    got: dict[str, Any] = {}

    def by_name(exception: Any, state: Any, task_run: Any, task: Any) -> None:
        got.update(exception=exception, state=state, task_run=task_run, task=task)

    error = ValueError("no luck")

    @task(on_failure=by_name)
    def subject() -> None:
        got["run"] = current_task_run()
        raise error

    state: State[None] = subject(return_state=True)
    assert got["exception"] is error
    assert got["state"] is state
    assert got["task_run"] is got["run"]
    assert got["task"] is subject


@pytest.mark.parametrize(
    ("option", "work", "count"),
    [
        ("on_running", lambda: 1, 1),
        ("on_completion", lambda: 1, 1),
        ("on_failure", lambda: 1 / 0, 1),
        ("on_crashed", sys.exit, 1),
        ("on_failure", lambda: 1, 0),
        ("on_completion", lambda: 1 / 0, 0),
        ("on_cancellation", lambda: 1, 0),
    ],
)
@pytest.mark.parametrize("kind", ["task", "flow"])
@pytest.mark.parametrize("form", ["list", "single", "decorator", "two"])
def test_seed_165_hooks_as_arguments_and_as_decorators(
    kind: str, form: str, option: str, work: Callable[[], Any], count: int
) -> None:
    heard: list[str] = []

    def hook(state: State[Any]) -> None:
        heard.append(state.type.value)

    forms: dict[str, Any] = {"list": [hook], "single": hook, "two": (hook, hook)}
    given = {option: forms[form]} if form in forms else {}
    subject: Any = (task if kind == "task" else flow)(work, name="subject", **given)
    if form == "decorator":
        assert getattr(subject, option)(hook) is hook
    with contextlib.suppress(ZeroDivisionError, SystemExit):
        subject()
    assert len(heard) == count * (2 if form == "two" else 1)


@pytest.mark.parametrize("kind", ["task", "flow"])
def test_seed_165_hooks_run_in_the_order_they_were_given(kind: str) -> None:
    heard: list[int] = []

    def note(number: int, state: State[Any]) -> None:
        heard.append(number)

    hooks = [functools.partial(note, number) for number in range(3)]
    subject = (task if kind == "task" else flow)(lambda: 1, name="subject", on_completion=hooks)
    subject.on_completion(lambda: heard.append(3))
    subject()
    assert heard == [0, 1, 2, 3]


@pytest.mark.parametrize("is_async_flow", [False, True])
def test_seed_144_hooks_may_be_async(runner: str, is_async_flow: bool) -> None:
    heard: list[str] = []

    async def hook(state: State[Any]) -> None:
        await asyncio.sleep(0)
        run = current_run()
        assert run is not None
        heard.append(f"{type(run).__name__} {state.name}")

    subject = task(lambda: 1, name="subject", on_completion=hook)

    @flow(task_runner=runner, on_completion=hook)
    def main() -> None:
        subject()
        subject.submit().result()

    @flow(task_runner=runner, on_completion=hook)
    async def amain() -> None:
        subject()
        await subject.submit()

    if is_async_flow:
        asyncio.run(amain())
    else:
        main()
    assert heard == ["TaskRun Completed"] * 2 + ["FlowRun Completed"]


@pytest.mark.parametrize("is_async_hook", [False, True])
@ways
def test_seed_144_a_hook_that_raises_is_logged_and_counted_and_harmless(
    runner: str, submitted: bool, is_async_hook: bool, log: Any
) -> None:
    runs: list[Run] = []
    heard: list[str] = []

    def bad_hook() -> None:
        raise RuntimeError("the hook is broken")

    async def bad_async_hook() -> None:
        raise RuntimeError("the hook is broken")

    bad: Any = bad_async_hook if is_async_hook else bad_hook

    @task(on_running=bad, on_completion=[bad, lambda: heard.append("next")])
    def subject() -> int:
        runs.append(current_run())  # type: ignore[arg-type]
        return 1

    @flow(task_runner=runner, on_completion=bad)
    def main() -> int:
        runs.append(current_run())  # type: ignore[arg-type]
        return subject.submit().result() if submitted else subject()

    assert main() == 1
    assert heard == ["next"]
    flow_run, task_run = runs
    assert flow_run.hook_errors == 1
    assert task_run.hook_errors == 2
    told = [line for line in log.lines if "the hook is broken" in line]
    assert len(told) == 3
    assert f"Task run {task_run.name!r} - Hook {bad.__name__!r} raised" in told[0]
    assert f"Flow run {flow_run.name!r} - Hook {bad.__name__!r} raised" in told[2]
    assert "in bad_" in told[0]  # the traceback
    assert "/core/penstock/" not in told[0]


def test_seed_167_the_run_logger_works_in_hooks(runner: str, log: Any) -> None:
    def hook(state: State[Any]) -> None:
        get_run_logger().warning("heard of %s", state.name)

    subject = task(lambda: 1, name="subject", on_completion=hook)

    @flow(task_runner=runner, on_completion=hook, on_running=hook)
    def main() -> str:
        subject()
        subject.submit().result()
        run = current_flow_run()
        assert run is not None
        return run.name

    name = main()
    told = [line for line in log.lines if "heard of" in line]
    assert told == [
        f"WARNING | Flow run {name!r} - heard of Running",
        "WARNING | Task run 'subject-0' - heard of Completed",
        "WARNING | Task run 'subject-1' - heard of Completed",
        f"WARNING | Flow run {name!r} - heard of Completed",
    ]


def test_seed_153_the_run_logger_works_in_tasks_and_flows(runner: str, log: Any) -> None:
    @task
    def subject() -> None:
        get_run_logger().warning("in the task")

    @flow(task_runner=runner)
    def main() -> None:
        get_run_logger().warning("in the flow")
        subject.submit().result()

    main()
    told = [line for line in log.lines if "in the " in line]
    assert told[0].startswith("WARNING | Flow run ")
    assert told[1] == "WARNING | Task run 'subject-0' - in the task"
    with pytest.raises(MissingContextError, match="inside of a task or flow run only"):
        get_run_logger()


def test_seed_151_the_hook_of_a_failed_flow_reads_name_and_state() -> None:
    told: list[str] = []

    def notify_failure(flow: Any, state: Any) -> None:
        told.append(f"{flow.name} {state}")

    @flow(on_failure=[notify_failure])
    def error_prone_flow() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        error_prone_flow()
    assert told == [
        "error-prone-flow Failed('Flow run encountered an exception: ValueError: no luck')"
    ]


def test_d11_hooks_run_one_at_a_time_and_never_in_a_worker(threads: str) -> None:
    inside: list[int] = []
    most: list[int] = []
    seen: set[str] = set()

    def hook() -> None:
        inside.append(1)
        most.append(len(inside))
        seen.add(threading.current_thread().name)
        time.sleep(0.0005)
        inside.pop()

    inner = task(lambda: 1, name="inner", on_running=hook, on_completion=hook)

    @task(on_running=hook, on_completion=hook)
    def outer() -> int:
        return inner() + inner.submit().result()

    @flow(task_runner=threads, on_running=hook, on_completion=hook)
    def main() -> list[int]:
        return [future.result() for future in [outer.submit() for _ in range(20)]]

    assert main() == [2] * 20
    assert len(most) == 2 + 20 * 2 + 40 * 2
    assert max(most) == 1
    assert seen <= {"MainThread", "penstock-standby"}


def test_seed_131_on_running_is_called_before_on_completion(runner: str) -> None:
    heard: list[str] = []

    def hook(state: State[Any]) -> None:
        heard.append(state.name)

    subject = task(lambda: 1, name="subject", on_running=hook, on_completion=hook)

    @flow(task_runner=runner)
    def main() -> int:
        return subject.submit().result()

    main()
    assert heard == ["Running", "Completed"]


@pytest.mark.parametrize("kind", ["task", "flow"])
@pytest.mark.parametrize(
    "hook",
    [lambda a, b, c, d: None, lambda *, surprise: None, "not callable", 7, [None]],
    ids=["four", "an unknown name", "a text", "a number", "a list with nothing"],
)
@pytest.mark.parametrize(
    "option", ["on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed"]
)
def test_d4_a_hook_that_could_never_be_called_is_refused_at_definition(
    kind: str, hook: Any, option: str
) -> None:
    decorator: Any = task if kind == "task" else flow
    with pytest.raises(HookSignatureError) as refusal:
        decorator(lambda: 1, name="subject", **{option: hook})
    assert option in str(refusal.value)
    if not isinstance(hook, list):
        subject = decorator(lambda: 1, name="subject")
        with pytest.raises(HookSignatureError):
            getattr(subject, option)(hook)
