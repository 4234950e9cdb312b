"""Promises of the life of a task run, driven by hand: no clock, no thread, no runner."""

from __future__ import annotations

import dataclasses
import logging
import random
import types
from typing import TYPE_CHECKING, Any

import pytest

import penstock.engine.task_run as module
from penstock.attempt import Outcome, RemoteError
from penstock.engine.commands import (
    Call,
    CancelRun,
    Enter,
    Execute,
    Life,
    Log,
    Propose,
    Report,
    Sleep,
)
from penstock.engine.task_run import task_run
from penstock.exceptions import (
    CrashedRun,
    FailedRun,
    RemoteTaskError,
    TaskRunTimeoutError,
    UpstreamTaskError,
    WorkerLost,
)
from penstock.retries import RetryPolicy
from penstock.runs import Plan, TaskRun, made_at
from penstock.states import (
    AwaitingRetry,
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
    State,
    advance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Script = list[str | tuple[str, Any]]

# --- a life driven by hand --------------------------------------------------------------

NOW = 1000.0


class Untouchable:
    """Stands where the engine is: a life that asks it for anything fails its test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the life asked the engine for {name!r}")


@dataclasses.dataclass
class Throw:
    """An answer that is an exception."""

    error: BaseException


class Played:
    """What became of a life: the final state, and every command it gave."""

    def __init__(self, state: State[Any], commands: list[Any]) -> None:
        self.state = state
        self.commands = commands

    def first(self, kind: type) -> Any:
        return next(each for each in self.commands if type(each) is kind)

    @property
    def log(self) -> list[str]:
        return [each.text for each in self.commands if type(each) is Log]


def shown(command: Any) -> str:
    """A command in few words; a star marks a failure that is provisional."""
    if isinstance(command, (Enter, Execute, Propose)):
        star = "*" if command.state.provisional else ""
        return f"{type(command).__name__.lower()} {command.state.name}{star}"
    if isinstance(command, Sleep):
        return f"sleep {command.seconds:g}"
    if isinstance(command, Log):
        return f"log {logging.getLevelName(command.level)}"
    if isinstance(command, Call):
        return "call"
    return str(command.name).lower()


def live(run: TaskRun, *script: str | tuple[str, Any]) -> Played:
    """Drive a life through (expected command, answer) pairs.

    Without an answer of its own, `Enter` is performed on the record, so that the table of moves
    is asked, and `Propose` is answered with the very state.
    """
    life: Life = task_run(run, random.Random(0))
    commands: list[Any] = []
    answer: Any = None
    error: BaseException | None = None
    steps = [step if isinstance(step, tuple) else (step, ...) for step in script]
    while True:
        try:
            command = life.send(answer) if error is None else life.throw(error)
        except StopIteration as end:
            assert not steps, f"the life has ended, and did not ask for {steps}"
            return Played(end.value, commands)
        commands.append(command)
        assert steps, f"the life should have ended, and asks for {command}"
        expected, answer = steps.pop(0)
        assert shown(command) == expected
        error = answer.error if isinstance(answer, Throw) else None
        if isinstance(command, Execute):
            advance(run, command.state, NOW)
            run.run_count += 1
        if isinstance(command, Enter) and answer is ...:
            answer = advance(run, command.state, NOW)
        elif isinstance(command, Propose) and answer is ...:
            answer = command.state
        elif answer is ...:
            answer = None


def a_run(
    retries: int = 0,
    delays: float | list[float] | None = None,
    *,
    jitter: float | None = None,
    crash_retries: int = 0,
    handlers: bool = False,
    upstream: bool = False,
    run_name: Callable[..., str] | None = None,
    condition: Callable[..., Any] | None = None,
    timeout: float | None = None,
) -> TaskRun:
    plan = Plan(
        subject=types.SimpleNamespace(bind=lambda args, kwargs: {"x": args[0]}),
        name="work",
        tags=frozenset(),
        retries=RetryPolicy.of(retries, delays, jitter),
        crash_retries=crash_retries,
        timeout_seconds=timeout,
        log_prints=False,
        hooks={},
        handlers=[print] if handlers else [],
        run_name=run_name,
        retry_condition=condition,
        is_async=False,
        is_generator=False,
    )
    run = TaskRun(plan, Untouchable(), None, None, (7,), {}, made_at(NOW), 0)
    if upstream:
        run.upstream = [TaskRun(plan, Untouchable(), None, None, (7,), {}, made_at(NOW), 1)]
    return run


def returned(value: Any = None) -> Report:
    return Report(Outcome(1, "returned", value), NOW)


def raised(error: BaseException | RemoteError | None) -> Report:
    return Report(Outcome(1, "raised", error=error), NOW)


def lost(reason: str = "") -> Report:
    return Report(Outcome(1, "lost", reason=reason, worker="w1"), NOW)


BOOM = ValueError("boom")
FIRST: Script = ["ready", ("execute Running", raised(BOOM))]


def names(run: TaskRun) -> list[str]:
    return [state.name for state in run.states]


# --- it decides and never acts ----------------------------------------------------------


def test_the_module_of_the_life_imports_nothing_that_acts() -> None:
    used = {each.__name__ for each in vars(module).values() if isinstance(each, types.ModuleType)}
    assert used <= {"logging", "typing"}


def test_a_run_without_options_asks_for_a_place_runs_and_completes() -> None:
    run = a_run()
    played = live(run, "ready", ("execute Running", returned(42)), "enter Completed")
    assert played.state is run.state
    assert played.state.result() == 42
    assert names(run) == ["Pending", "Running", "Completed"]


# --- inputs and names -------------------------------------------------------------------


def test_a_run_with_upstream_runs_resolves_its_inputs_first() -> None:
    live(
        a_run(upstream=True), "resolve", "ready", ("execute Running", returned()), "enter Completed"
    )


def test_a_run_whose_inputs_cannot_be_had_ends_without_a_place() -> None:
    blocked: State[Any] = State(Failed().type, "UpstreamFailed", "why", UpstreamTaskError("why"))
    played = live(a_run(3, upstream=True), ("resolve", blocked), "enter UpstreamFailed")
    assert played.state.data is blocked.data


def test_handlers_are_shown_that_inputs_cannot_be_had() -> None:
    run = a_run(handlers=True, upstream=True)
    played = live(
        run,
        ("resolve", Failed(name="UpstreamFailed")),
        ("propose UpstreamFailed", Completed(None, "not needed")),
        "enter Completed",
    )
    assert played.state.message == "not needed"


def test_the_naming_function_gets_the_parameters_and_names_the_run() -> None:
    def name_it(parameters: Any) -> str:
        raise AssertionError("the driver calls it, not the life")

    run = a_run(run_name=name_it)
    played = live(
        run, ("call", "work-on-7"), "ready", ("execute Running", returned()), "enter Completed"
    )
    assert played.first(Call) == Call(name_it, ({"x": 7},))
    assert run.name == "work-on-7"


def test_seed_091_a_naming_function_that_fails_fails_the_run_without_retries() -> None:
    error = KeyError("date")
    run = a_run(3, run_name=lambda parameters: "")
    played = live(run, ("call", Throw(error)), "enter Failed")
    assert played.state.exception() is error


def test_names_are_made_after_inputs_are_in_place() -> None:
    live(
        a_run(upstream=True, run_name=lambda parameters: ""),
        "resolve",
        ("call", "named"),
        "ready",
        ("execute Running", returned()),
        "enter Completed",
    )


# --- ends -------------------------------------------------------------------------------


def test_a_failure_without_retries_is_logged_with_its_exception_and_final() -> None:
    played = live(a_run(), *FIRST, "log ERROR", "enter Failed")
    assert played.first(Log).error is BOOM
    assert "No retries configured" in played.log[0]
    assert played.state.exception() is BOOM
    assert played.state.message == "Task run encountered an exception ValueError: boom"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_tells_the_process_to_end_is_a_crash_and_not_retried(error: BaseException) -> None:
    run = a_run(3, crash_retries=3)
    played = live(run, "ready", ("execute Running", raised(error)), "enter Crashed")
    crash = played.state.exception()
    assert isinstance(crash, CrashedRun)
    assert crash.__cause__ is error


def test_an_exception_that_could_not_travel_is_stood_in_for_by_its_text() -> None:
    remote = RemoteError("OddError", "odd", "Traceback: here", None)
    played = live(
        a_run(), "ready", ("execute Running", raised(remote)), "log ERROR", "enter Failed"
    )
    error = played.state.exception()
    assert isinstance(error, RemoteTaskError)
    assert "OddError: odd" in str(error)
    assert "Traceback: here" in str(error.__cause__)


def test_an_attempt_that_failed_without_an_error_still_fails_the_run() -> None:
    played = live(a_run(), "ready", ("execute Running", raised(None)), "log ERROR", "enter Failed")
    assert isinstance(played.state.exception(), RemoteTaskError)


def test_a_lost_attempt_crashes_the_run_and_names_worker_and_reason() -> None:
    played = live(a_run(3), "ready", ("execute Running", lost("signal 9")), "enter Crashed")
    assert isinstance(played.state.exception(), WorkerLost)
    assert played.state.message == (
        "Attempt 1 of task run 'work-0' was lost on worker w1: signal 9"
    )


def test_an_abandoned_attempt_crashes_the_run_and_has_no_crash_retries() -> None:
    report = Report(Outcome(1, "abandoned", reason="would not end"), NOW)
    played = live(a_run(crash_retries=3), "ready", ("execute Running", report), "enter Crashed")
    assert "would not end" in str(played.state.message)


def test_a_cancelled_attempt_cancels_the_run_and_is_not_retried() -> None:
    run = a_run(3, crash_retries=3)
    run.cancel_reason = "not needed any more"
    report = Report(Outcome(1, "lost"), NOW, cancelled=True)
    played = live(run, "ready", ("execute Running", report), "enter Cancelled")
    assert played.state.message == "not needed any more"


def test_a_timeout_fails_the_run_by_the_name_timed_out() -> None:
    report = Report(Outcome(1, "abandoned", reason="thread replaced"), NOW, timed_out=True)
    run = a_run(timeout=1.5)
    played = live(run, "ready", ("execute Running", report), "log ERROR", "enter TimedOut")
    assert isinstance(played.state.exception(), TaskRunTimeoutError)
    assert played.state.message == "Task run exceeded timeout of 1.5 second(s); thread replaced"


def test_a_timeout_is_retried_as_any_failure() -> None:
    report = Report(Outcome(1, "stopped"), NOW, timed_out=True)
    live(
        a_run(1, timeout=1.5),
        "ready",
        ("execute Running", report),
        "log INFO",
        "enter TimedOut*",
        "ready",
        ("execute Retrying", returned()),
        "enter Completed",
    )


# --- states that the function returns ---------------------------------------------------


def test_a_returned_completed_state_is_the_end_as_it_is() -> None:
    state: State[Any] = Completed(5, "as found", "Skipped")
    played = live(a_run(), "ready", ("execute Running", returned(state)), "enter Skipped")
    assert (played.state.data, played.state.message) == (5, "as found")


def test_a_returned_failed_state_is_a_failure_with_retries() -> None:
    live(
        a_run(1),
        "ready",
        ("execute Running", returned(Failed("not yet"))),
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", returned(1)),
        "enter Completed",
    )


@pytest.mark.parametrize("state", [Crashed("as told"), Cancelled("as told")], ids=str)
def test_other_returned_ends_are_taken_at_their_word_and_not_retried(state: State[Any]) -> None:
    run = a_run(3, crash_retries=3)
    live(run, "ready", ("execute Running", returned(state)), f"enter {state.name}")


@pytest.mark.parametrize("state", [Pending(), Running(), Paused(), Scheduled()], ids=str)
def test_a_returned_state_that_ends_nothing_fails_the_run_and_says_why(state: State[Any]) -> None:
    played = live(
        a_run(), "ready", ("execute Running", returned(state)), "log ERROR", "enter Failed"
    )
    assert isinstance(played.state.exception(), FailedRun)
    assert "does not end a run" in str(played.state.message)


def test_a_returned_state_of_another_run_is_copied() -> None:
    state: State[Any] = Completed(5)
    advance(a_run_that_runs(), state, 1.0)
    played = live(a_run(), "ready", ("execute Running", returned(state)), "enter Completed")
    assert (state.at, played.state.at) == (1.0, NOW)


def a_run_that_runs() -> TaskRun:
    run = a_run()
    advance(run, Running(), 1.0)
    return run


# --- retries ----------------------------------------------------------------------------


def test_a_failed_attempt_is_in_the_history_and_followed_by_another() -> None:
    run = a_run(1)
    live(
        run,
        *FIRST,
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", returned()),
        "enter Completed",
    )
    assert names(run) == ["Pending", "Running", "Failed", "Retrying", "Completed"]


def test_retries_end_when_they_are_used_up() -> None:
    played = live(
        a_run(2),
        *FIRST,
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", raised(BOOM)),
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", raised(BOOM)),
        "log ERROR",
        "enter Failed",
    )
    assert played.log == [
        "Task run failed with exception: ValueError('boom') - Retry 1/2 will start immediately",
        "Task run failed with exception: ValueError('boom') - Retry 2/2 will start immediately",
        "Task run failed with exception: ValueError('boom') - Retries are exhausted",
    ]


def test_a_delay_is_waited_out_as_awaiting_retry_without_a_place() -> None:
    run = a_run(2, [5, 30])
    live(
        run,
        *FIRST,
        "log INFO",
        "enter Failed*",
        "enter AwaitingRetry",
        "sleep 5",
        "ready",
        ("execute Retrying", raised(BOOM)),
        "log INFO",
        "enter Failed*",
        "enter AwaitingRetry",
        "sleep 30",
        "ready",
        ("execute Retrying", returned()),
        "enter Completed",
    )
    waits = [each.scheduled_at for each in run.states if each.name == "AwaitingRetry"]
    assert waits == [NOW + 5, NOW + 30]


def test_a_delay_counts_from_the_end_of_the_attempt() -> None:
    late = Report(Outcome(1, "raised", error=BOOM), NOW - 2)
    run = a_run(1, 5)
    live(
        run,
        "ready",
        ("execute Running", late),
        "log INFO",
        "enter Failed*",
        "enter AwaitingRetry",
        "sleep 5",
        "ready",
        ("execute Retrying", returned()),
        "enter Completed",
    )
    assert run.states[3].scheduled_at == NOW - 2 + 5


def test_jitter_comes_from_the_generator_that_was_given() -> None:
    def wait_of_a_life() -> float:
        life: Any = task_run(a_run(1, 10, jitter=1), random.Random(5))
        next(life)
        life.send(None)
        life.send(raised(BOOM))
        life.send(None)
        waiting = life.send(None).state
        return float(life.send(dataclasses.replace(waiting, at=NOW)).seconds)

    assert wait_of_a_life() == wait_of_a_life() != 10


def test_the_condition_is_asked_with_task_run_and_state() -> None:
    def condition(*args: Any) -> bool:
        raise AssertionError("the driver calls it, not the life")

    run = a_run(1, condition=condition)
    played = live(
        run,
        *FIRST,
        ("call", True),
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", returned()),
        "enter Completed",
    )
    call = played.first(Call)
    assert call.fn is condition
    assert call.args[:2] == (run.plan.subject, run)
    assert call.args[2].exception() is BOOM


def test_a_condition_that_says_no_makes_the_failure_final() -> None:
    run = a_run(3, condition=lambda: False)
    played = live(run, *FIRST, ("call", False), "log ERROR", "enter Failed")
    assert "declined" in played.log[0]


def test_a_condition_that_raises_means_no_and_is_logged() -> None:
    problem = KeyError("status")
    played = live(
        a_run(3, condition=lambda: False),
        *FIRST,
        ("call", Throw(problem)),
        "log ERROR",
        "log ERROR",
        "enter Failed",
    )
    assert played.first(Log).error is problem
    assert played.state.exception() is BOOM


def test_a_condition_is_not_asked_when_no_retry_is_left() -> None:
    live(a_run(0, condition=lambda: True), *FIRST, "log ERROR", "enter Failed")


# --- crash retries ----------------------------------------------------------------------

CRASH_RETRY: Script = ["log WARNING", "enter Crashed*", "ready"]


def test_a_lost_attempt_starts_again_at_once() -> None:
    run = a_run(crash_retries=1)
    played = live(
        run,
        "ready",
        ("execute Running", lost("signal 9")),
        *CRASH_RETRY,
        ("execute Retrying", returned()),
        "enter Completed",
    )
    assert names(run) == ["Pending", "Running", "Crashed", "Retrying", "Completed"]
    assert "signal 9 - Crash retry 1/1 will start immediately" in played.log[0]


def test_crash_retries_end_when_they_are_used_up() -> None:
    run = a_run(crash_retries=1)
    live(
        run,
        "ready",
        ("execute Running", lost()),
        *CRASH_RETRY,
        ("execute Retrying", lost()),
        "enter Crashed",
    )


def test_crashes_and_failures_have_budgets_of_their_own() -> None:
    run = a_run(1, crash_retries=1)
    live(
        run,
        "ready",
        ("execute Running", lost()),
        *CRASH_RETRY,
        ("execute Retrying", raised(BOOM)),
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", lost()),
        "enter Crashed",
    )


def test_a_crash_asks_no_condition_and_waits_for_no_delay() -> None:
    live(
        a_run(1, 60, crash_retries=1, condition=lambda: False),
        "ready",
        ("execute Running", lost()),
        *CRASH_RETRY,
        ("execute Retrying", returned()),
        "enter Completed",
    )


# --- cancelled at every yield -----------------------------------------------------------

LONG_LIFE: Script = [
    "resolve",
    ("call", "named"),
    "ready",
    "propose Running",
    ("execute Running", lost()),
    "propose Crashed",
    "log WARNING",
    "enter Crashed*",
    "ready",
    "propose Retrying",
    ("execute Retrying", raised(BOOM)),
    "propose Failed",
    ("call", True),
    "log INFO",
    "enter Failed*",
    "propose AwaitingRetry",
    "enter AwaitingRetry",
    "sleep 5",
    "ready",
    "propose Retrying",
    ("execute Retrying", returned()),
    "propose Completed",
]


def long_run() -> TaskRun:
    return a_run(
        1,
        5,
        crash_retries=1,
        handlers=True,
        upstream=True,
        run_name=lambda parameters: "",
        condition=lambda: True,
    )


def test_the_long_life_goes_through_everything() -> None:
    assert live(long_run(), *LONG_LIFE, "enter Completed").state.is_completed()


@pytest.mark.parametrize("count", range(len(LONG_LIFE)))
def test_a_life_that_is_told_to_cancel_ends_as_cancelled_whatever_it_waits_for(count: int) -> None:
    expected = LONG_LIFE[count]
    text = expected if isinstance(expected, str) else expected[0]
    played = live(
        long_run(), *LONG_LIFE[:count], (text, Throw(CancelRun("told to"))), "enter Cancelled"
    )
    assert (played.state.name, played.state.message) == ("Cancelled", "told to")


# --- state handlers ---------------------------------------------------------------------


def test_seed_173_handlers_are_shown_every_change_in_order() -> None:
    played = live(
        a_run(1, 5, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", raised(BOOM)),
        "propose Failed",
        "log INFO",
        "enter Failed*",
        "propose AwaitingRetry",
        "enter AwaitingRetry",
        "sleep 5",
        "ready",
        "propose Retrying",
        ("execute Retrying", returned()),
        "propose Completed",
        "enter Completed",
    )
    assert played.state.is_completed()


@pytest.mark.parametrize(
    "veto", [Failed("no"), Completed(1), Cancelled("no"), Crashed("no")], ids=str
)
def test_seed_171_a_handler_can_end_the_run_before_it_starts(veto: State[Any]) -> None:
    played = live(
        a_run(3, crash_retries=3, handlers=True),
        "ready",
        ("propose Running", veto),
        f"enter {veto.name}",
    )
    assert played.state is veto


def test_a_handler_can_hold_the_start_back_by_a_scheduled_state() -> None:
    later = dataclasses.replace(Scheduled(), scheduled_at=NOW + 60)
    live(
        a_run(handlers=True),
        "ready",
        ("propose Running", later),
        "enter Scheduled",
        "sleep 60",
        "ready",
        "propose Running",
        ("execute Running", returned()),
        "propose Completed",
        "enter Completed",
    )


def test_a_scheduled_state_whose_time_has_passed_holds_nothing_back() -> None:
    live(
        a_run(handlers=True),
        "ready",
        ("propose Running", dataclasses.replace(Scheduled(), scheduled_at=1.0)),
        "enter Scheduled",
        "sleep 0",
        "ready",
        "propose Running",
        ("execute Running", returned()),
        "propose Completed",
        "enter Completed",
    )


def test_a_handler_can_give_the_running_state_a_name() -> None:
    named = dataclasses.replace(Running(), name="Busy")
    run = a_run(handlers=True)
    live(
        run,
        "ready",
        ("propose Running", named),
        ("execute Busy", returned()),
        "propose Completed",
        "enter Completed",
    )
    assert names(run) == ["Pending", "Busy", "Completed"]


def test_a_failure_put_in_place_of_a_success_is_retried() -> None:
    live(
        a_run(1, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", returned(3)),
        ("propose Completed", Failed("too small")),
        "log INFO",
        "enter Failed*",
        "ready",
        "propose Retrying",
        ("execute Retrying", returned(30)),
        "propose Completed",
        "enter Completed",
    )


def test_a_success_put_in_place_of_a_failure_ends_the_run() -> None:
    played = live(
        a_run(3, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", raised(BOOM)),
        ("propose Failed", Completed("instead")),
        "enter Completed",
    )
    assert played.state.result() == "instead"


def test_a_failure_put_in_place_of_a_cancelled_end_is_not_retried() -> None:
    report = Report(Outcome(1, "stopped"), NOW, cancelled=True)
    live(
        a_run(3, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", report),
        ("propose Cancelled", Failed("rather so")),
        "enter Failed",
    )


def test_a_crash_put_in_place_of_a_cancelled_end_is_not_retried() -> None:
    report = Report(Outcome(1, "lost"), NOW, cancelled=True)
    live(
        a_run(crash_retries=3, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", report),
        ("propose Cancelled", Crashed("rather so")),
        "enter Crashed",
    )


def test_a_handler_can_move_the_time_of_a_retry() -> None:
    sooner = dataclasses.replace(AwaitingRetry(), scheduled_at=NOW + 1)
    live(
        a_run(1, 60, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", raised(BOOM)),
        "propose Failed",
        "log INFO",
        "enter Failed*",
        ("propose AwaitingRetry", sooner),
        "enter AwaitingRetry",
        "sleep 1",
        "ready",
        "propose Retrying",
        ("execute Retrying", returned()),
        "propose Completed",
        "enter Completed",
    )


@pytest.mark.parametrize("instead", [Cancelled("enough"), Failed("enough")], ids=str)
def test_a_handler_can_end_the_run_instead_of_waiting_for_a_retry(instead: State[Any]) -> None:
    played = live(
        a_run(1, 60, handlers=True),
        "ready",
        "propose Running",
        ("execute Running", raised(BOOM)),
        "propose Failed",
        "log INFO",
        "enter Failed*",
        ("propose AwaitingRetry", instead),
        "ready",
        f"propose {instead.name}",
        f"enter {instead.name}",
    )
    assert played.state.message == "enough"


NO_ENDS = [Pending(), Running(), Paused(), Scheduled(), AwaitingRetry()]


@pytest.mark.parametrize("odd", [Pending(), Paused()], ids=str)
def test_a_state_that_cannot_start_a_run_fails_it(odd: State[Any]) -> None:
    played = live(a_run(3, handlers=True), "ready", ("propose Running", odd), "enter Failed")
    assert "state handler" in str(played.state.message)


@pytest.mark.parametrize("odd", NO_ENDS, ids=str)
def test_a_run_ends_even_if_a_handler_leaves_a_state_that_ends_nothing(odd: State[Any]) -> None:
    played = live(
        a_run(handlers=True),
        "ready",
        "propose Running",
        ("execute Running", returned(3)),
        ("propose Completed", odd),
        "enter Failed",
    )
    assert "state handler" in str(played.state.message)


@pytest.mark.parametrize("odd", NO_ENDS, ids=str)
def test_a_run_without_inputs_ends_whatever_state_a_handler_leaves(odd: State[Any]) -> None:
    played = live(
        a_run(handlers=True, upstream=True),
        ("resolve", Failed(name="UpstreamFailed")),
        ("propose UpstreamFailed", odd),
        "enter Failed",
    )
    assert "state handler" in str(played.state.message)


def test_a_driver_that_refuses_a_state_decides_what_was_entered() -> None:
    run = a_run(handlers=True)
    refused = Failed("illegal")
    played = live(
        run,
        "ready",
        ("propose Running", dataclasses.replace(Scheduled(), scheduled_at=1.0)),
        ("enter Scheduled", refused),
    )
    assert played.state is refused
