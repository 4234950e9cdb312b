"""Promises of the life of a flow run, driven by hand: no clock, no thread, no runner."""

from __future__ import annotations

import dataclasses
import logging
import random
import types
from typing import TYPE_CHECKING, Any

import pytest

import penstock.engine.flow_run as module
from penstock.attempt import Outcome
from penstock.engine.commands import (
    Call,
    CancelChildren,
    CancelRun,
    Enter,
    Execute,
    Life,
    Log,
    Propose,
    Report,
    Sleep,
)
from penstock.engine.flow_run import flow_run
from penstock.exceptions import CancelledRun, FlowRunTimeoutError, UnobservedFailureError
from penstock.futures import PenstockFuture
from penstock.retries import RetryPolicy
from penstock.runs import FlowRun, Plan, Run, Tally, TaskRun, made_at
from penstock.states import (
    Cancelled,
    Completed,
    Crashed,
    Failed,
    Paused,
    Running,
    State,
    advance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Script = list[str | tuple[str, Any]]

# --- a life driven by hand --------------------------------------------------------------

NOW = 1000.0
BOOM = ValueError("boom")


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
    if isinstance(command, CancelChildren):
        return "cancel all" if command.kill else "cancel waiting"
    if isinstance(command, Call):
        return "call"
    return str(command.name).lower()


def live(
    run: FlowRun,
    *script: str | tuple[str, Any],
    unobserved: str = "fail",
    start_at: float | None = None,
) -> Played:
    """Drive a life through (expected command, answer) pairs.

    Without an answer of its own, `Enter` is performed on the record, so that the table of moves
    is asked, `Propose` is answered with the very state, and `settle` with an empty tally.
    """
    life: Life = flow_run(run, random.Random(0), unobserved, start_at)
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
        if callable(answer):
            answer = answer()
        elif isinstance(command, Enter) and answer is ...:
            answer = advance(run, command.state, NOW)
        elif isinstance(command, Propose) and answer is ...:
            answer = command.state
        elif answer is ...:
            answer = Tally() if expected == "settle" else None


def a_plan(retries: int = 0, delays: float | None = None, **changes: Any) -> Plan:
    plan = Plan(
        subject=types.SimpleNamespace(bind=lambda args, kwargs: {"x": 7}),
        name="nightly",
        tags=frozenset(),
        retries=RetryPolicy.of(retries, delays),
        crash_retries=0,
        timeout_seconds=None,
        log_prints=False,
        hooks={},
        handlers=[],
        run_name=None,
        retry_condition=None,
        is_async=False,
        is_generator=False,
    )
    return dataclasses.replace(plan, **changes)


def a_run(retries: int = 0, delays: float | None = None, **changes: Any) -> FlowRun:
    plan = a_plan(retries, delays, **changes)
    return FlowRun(plan, Untouchable(), None, None, (), {}, made_at(NOW), "great-ammonite")


def inside(*ends: State[Any], number: int = 0) -> TaskRun:
    """A task run of the flow that has gone through these states."""
    plan = dataclasses.replace(a_plan(), name="fetch")
    run = TaskRun(plan, Untouchable(), None, None, (), {}, made_at(NOW), number)
    for state in ends:
        advance(run, state, NOW)
    return run


def tally(*unseen: Run, begun: int = 1) -> Tally:
    return Tally(begun, list(unseen))


def failed(number: int = 0, error: Exception = BOOM) -> TaskRun:
    return inside(Running(), Failed("boom", error), number=number)


def returned(value: Any = None) -> Report:
    return Report(Outcome(0, "returned", value), NOW)


def raised(error: BaseException) -> Report:
    return Report(Outcome(0, "raised", error=error), NOW)


def names(run: Run) -> list[str]:
    return [state.name for state in run.states]


def test_the_module_of_the_life_imports_nothing_that_acts() -> None:
    used = {each.__name__ for each in vars(module).values() if isinstance(each, types.ModuleType)}
    assert used <= {"logging", "typing"}


# --- what the flow's value makes of it (D3) ---------------------------------------------


def ends(run: FlowRun, value: Any, books: Tally, end: str, unobserved: str = "fail") -> Played:
    """The life of a flow whose body has returned, without remarks."""
    return live(
        run,
        "ready",
        ("execute Running", returned(value)),
        ("settle", books),
        f"enter {end}",
        unobserved=unobserved,
    )


def test_d3_a_flow_without_runs_that_returns_nothing_is_completed() -> None:
    assert str(ends(a_run(), None, tally(begun=0), "Completed").state) == "Completed()"


def test_seed_034_a_flow_that_returns_nothing_has_a_state_made_up_from_its_runs() -> None:
    played = ends(a_run(), None, tally(begun=3), "Completed")
    assert str(played.state) == "Completed('All states completed.')"


def test_a_flow_that_returns_a_value_is_completed_with_it() -> None:
    played = ends(a_run(), 42, tally(begun=3), "Completed")
    assert (played.state.result(), str(played.state)) == (42, "Completed()")


def test_d3_a_failure_that_nobody_looked_at_fails_the_flow() -> None:
    run = failed()
    played = ends(a_run(), None, tally(run, begun=3), "Failed")
    error = played.state.exception()
    assert isinstance(error, UnobservedFailureError)
    assert error.__cause__ is BOOM
    assert "fetch-0" in str(error)
    assert str(played.state) == "Failed('1/3 states failed.')"


def test_d3_a_value_does_not_hide_a_failure_that_nobody_looked_at() -> None:
    assert ends(a_run(), 42, tally(failed()), "Failed").state.is_failed()


def test_d3_a_failure_that_was_looked_at_after_it_was_counted_does_not_fail_the_flow() -> None:
    run = failed()
    run.mark_seen()
    played = ends(a_run(), None, tally(run, begun=3), "Completed")
    assert played.state.message == "All states completed."


def test_an_unobserved_failure_without_an_exception_fails_the_flow_too() -> None:
    run = inside(Running(), Crashed("gone"))
    assert "Crashed('gone')" in str(ends(a_run(), None, tally(run), "Failed").state.exception())


def test_of_many_unobserved_failures_the_first_five_are_named() -> None:
    runs = [failed(number) for number in range(7)]
    text = str(ends(a_run(), None, tally(*runs, begun=9), "Failed").state.exception())
    assert "7/9 states failed." in text
    assert "fetch-4" in text
    assert "and 2 more" in text
    assert "fetch-5" not in text


def test_unobserved_failures_can_be_a_warning_only() -> None:
    played = live(
        a_run(),
        "ready",
        ("execute Running", returned(None)),
        ("settle", tally(failed(), begun=2)),
        "log WARNING",
        "enter Completed",
        unobserved="warn",
    )
    assert "Nobody looked at the failure of 'fetch-0'" in played.log[0]


def test_unobserved_failures_can_be_ignored() -> None:
    ends(a_run(), None, tally(failed()), "Completed", unobserved="ignore")


@pytest.mark.parametrize(
    "state", [Failed("as told"), Cancelled("as told"), Crashed("as told"), Completed(5)], ids=str
)
def test_a_returned_final_state_is_taken_at_its_word(state: State[Any]) -> None:
    played = ends(a_run(), state, tally(), state.name)
    assert (played.state.message, played.state.data) == (state.message, state.data)


def test_a_returned_state_that_ends_nothing_fails_the_flow() -> None:
    assert "does not end a run" in str(ends(a_run(), Paused(), tally(), "Failed").state.message)


def test_returned_futures_are_replaced_by_their_values() -> None:
    future: PenstockFuture[Any] = PenstockFuture(inside(Running(), Completed(5)))
    played = ends(a_run(), {"x": [future], "y": 1}, tally(), "Completed")
    assert played.state.result() == {"x": [5], "y": 1}


def test_the_failure_of_a_returned_future_is_that_of_the_flow() -> None:
    run = failed()
    played = ends(a_run(), [PenstockFuture(run)], tally(run), "Failed")
    assert played.state.exception() is BOOM


def test_a_returned_future_counts_as_looked_at() -> None:
    run = failed()
    ends(a_run(), PenstockFuture(run), tally(run), "Failed")
    assert run.seen


def test_a_returned_future_that_was_cancelled_fails_the_flow() -> None:
    run = inside(Cancelled("why"))
    played = ends(a_run(), PenstockFuture(run), tally(), "Failed")
    assert isinstance(played.state.exception(), CancelledRun)


def test_a_returned_container_that_cannot_be_rebuilt_fails_the_flow() -> None:
    future: PenstockFuture[Any] = PenstockFuture(inside(Running(), Completed([1])))
    played = ends(a_run(), {future}, tally(), "Failed")  # a set cannot hold a list
    assert isinstance(played.state.exception(), TypeError)


# --- a body that raises -----------------------------------------------------------------


def test_a_body_that_raises_fails_the_flow_with_that_very_exception() -> None:
    played = live(
        a_run(),
        "ready",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        "settle",
        "log ERROR",
        "enter Failed",
    )
    assert played.state.exception() is BOOM
    assert played.log == ["Encountered exception during execution: ValueError('boom')"]


def test_failures_beside_the_one_that_failed_the_flow_are_named_in_the_log() -> None:
    played = live(
        a_run(),
        "ready",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        ("settle", tally(failed(3))),
        "log WARNING",
        "log ERROR",
        "enter Failed",
    )
    assert "'fetch-3'" in played.log[0]


def test_a_body_that_tells_the_process_to_end_crashes_the_flow() -> None:
    live(
        a_run(3),
        "ready",
        ("execute Running", raised(SystemExit(3))),
        "cancel waiting",
        "settle",
        "enter Crashed",
    )


# --- retries ----------------------------------------------------------------------------


def test_a_failed_flow_is_tried_again_after_its_delay() -> None:
    run = a_run(1, 5)
    played = live(
        run,
        "ready",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        "settle",
        "log INFO",
        "enter Failed*",
        "enter AwaitingRetry",
        "sleep 5",
        "ready",
        ("execute Retrying", returned(1)),
        "settle",
        "enter Completed",
    )
    assert names(run) == ["Pending", "Running", "Failed", "AwaitingRetry", "Retrying", "Completed"]
    assert played.log[0].startswith(
        "Flow run failed with exception: ValueError('boom') - Retry 1/1"
    )


def test_failures_that_nobody_looked_at_are_a_reason_for_a_retry() -> None:
    live(
        a_run(1),
        "ready",
        ("execute Running", returned()),
        ("settle", tally(failed())),
        "log INFO",
        "enter Failed*",
        "ready",
        ("execute Retrying", returned()),
        ("settle", tally(begun=1)),
        "enter Completed",
    )


def test_retries_of_a_flow_end_when_they_are_used_up() -> None:
    again: Script = [
        ("execute Retrying", raised(BOOM)),
        "cancel waiting",
        "settle",
        "log ERROR",
        "enter Failed",
    ]
    live(
        a_run(1),
        "ready",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        "settle",
        "log INFO",
        "enter Failed*",
        "ready",
        *again,
    )


# --- timeouts ---------------------------------------------------------------------------


def test_a_timeout_stops_the_runs_inside_and_fails_the_flow() -> None:
    report = Report(Outcome(0, "stopped"), NOW, timed_out=True)
    played = live(
        a_run(timeout_seconds=2.0),
        "ready",
        ("execute Running", report),
        "cancel all",
        "settle",
        "enter TimedOut",
    )
    assert isinstance(played.state.exception(), FlowRunTimeoutError)
    assert played.state.message == "Flow run exceeded timeout of 2.0 second(s)"
    assert played.first(CancelChildren).reason == "the flow run timed out"


def test_user_007_a_flow_can_cancel_what_is_not_over_when_its_body_is() -> None:
    value: list[Any] = [PenstockFuture(inside(Running(), Completed(data=1)))]
    played = live(
        a_run(on_exit="cancel"),
        "ready",
        ("execute Running", returned(value)),
        "cancel all",
        "settle",
        "enter Completed",
    )
    command = played.first(CancelChildren)
    assert (command.reason, command.keep_for) == ("the flow's body is over", value)


def test_user_007_what_a_flow_cancelled_is_in_its_message_and_no_failure() -> None:
    played = live(
        a_run(on_exit="cancel"),
        "ready",
        ("execute Running", returned()),
        "cancel all",
        ("settle", Tally(begun=5, cancelled=2)),
        "enter Completed",
    )
    assert played.state.message == "3/5 states completed, the others were cancelled."


def test_user_041_equal_failures_are_told_before_the_end_of_the_outermost_flow() -> None:
    books = Tally(begun=2)
    for number in range(2):
        books.failures.note(f"fetch-{number}", Failed(data=BOOM))
    script: Script = ["ready", ("execute Running", returned()), ("settle", books)]
    outermost = live(a_run(), *script, "log ERROR", "enter Completed")
    assert outermost.log == ["2 x ValueError: boom, first 'fetch-0'"]
    nested = a_run()
    nested.flow_run = a_run()
    live(nested, *script, "enter Completed")


def test_a_timeout_of_a_flow_is_retried() -> None:
    report = Report(Outcome(0, "stopped"), NOW, timed_out=True)
    live(
        a_run(1, timeout_seconds=2.0),
        "ready",
        ("execute Running", report),
        "cancel all",
        "settle",
        "log INFO",
        "enter TimedOut*",
        "ready",
        ("execute Retrying", returned()),
        "settle",
        "enter Completed",
    )


def test_a_timeout_stays_one_if_the_flow_is_cancelled_while_its_runs_end() -> None:
    run = a_run(timeout_seconds=2.0)
    report = Report(Outcome(0, "stopped"), NOW, timed_out=True)
    live(
        run,
        "ready",
        ("execute Running", report),
        "cancel all",
        ("settle", pressing_ctrl_c(run)),
        "enter TimedOut",
    )


# --- cancelling -------------------------------------------------------------------------


def pressing_ctrl_c(run: FlowRun) -> Callable[[], Tally]:
    """An answer to `settle` whose driver was interrupted meanwhile."""

    def settle() -> Tally:
        run.cancel_requested = True
        run.cancel_reason = "interrupted by Ctrl-C"
        return Tally()

    return settle


def test_a_cancelled_body_stops_the_runs_inside_and_cancels_the_flow() -> None:
    run = a_run(3)
    run.cancel_reason = "interrupted by Ctrl-C"
    report = Report(Outcome(0, "raised", error=KeyboardInterrupt()), NOW, cancelled=True)
    played = live(
        run, "ready", ("execute Running", report), "cancel all", "settle", "enter Cancelled"
    )
    assert played.state.message == "interrupted by Ctrl-C"
    assert played.first(CancelChildren).reason == "the flow run was cancelled"


@pytest.mark.parametrize("value", [None, 42])
def test_ctrl_c_while_the_runs_inside_are_awaited_cancels_the_flow(value: Any) -> None:
    run = a_run(3)
    played = live(
        run,
        "ready",
        ("execute Running", returned(value)),
        ("settle", pressing_ctrl_c(run)),
        "enter Cancelled",
    )
    assert played.state.message == "interrupted by Ctrl-C"


def test_a_flow_asked_to_end_while_it_waits_for_its_retry_does_not_start_again() -> None:
    run = a_run(1, 60)

    def asked_meanwhile() -> None:
        run.cancel_requested = True
        run.cancel_reason = "not needed any more"

    played = live(
        run,
        "ready",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        "settle",
        "log INFO",
        "enter Failed*",
        "enter AwaitingRetry",
        ("sleep 60", asked_meanwhile),
        "ready",
        "cancel all",
        "settle",
        "enter Cancelled",
    )
    assert played.state.message == "not needed any more"


LONG_LIFE: Script = [
    "enter Scheduled",
    "sleep 5",
    "enter Pending",
    "resolve",
    ("call", "named"),
    "ready",
    "propose Running",
    ("execute Running", raised(BOOM)),
    "cancel waiting",
    ("settle", tally(failed())),
    "log WARNING",
    "propose Failed",
    ("call", True),
    "log INFO",
    "enter Failed*",
    "propose AwaitingRetry",
    "enter AwaitingRetry",
    "sleep 9",
    "ready",
    "propose Retrying",
    ("execute Retrying", returned()),
    "settle",
    "propose Completed",
]


def long_run() -> FlowRun:
    run = a_run(
        1,
        9,
        handlers=[print],
        run_name=lambda parameters: "",
        retry_condition=lambda: True,
    )
    run.upstream = [inside()]
    return run


def test_the_long_life_goes_through_everything() -> None:
    played = live(long_run(), *LONG_LIFE, "enter Completed", start_at=NOW + 5)
    assert played.state.is_completed()


@pytest.mark.parametrize("count", range(len(LONG_LIFE)))
def test_a_life_that_is_told_to_cancel_stops_its_runs_and_ends_as_cancelled(count: int) -> None:
    expected = LONG_LIFE[count]
    text = expected if isinstance(expected, str) else expected[0]
    played = live(
        long_run(),
        *LONG_LIFE[:count],
        (text, Throw(CancelRun("told to"))),
        "cancel all",
        "settle",
        "enter Cancelled",
        start_at=NOW + 5,
    )
    assert (played.state.name, played.state.message) == ("Cancelled", "told to")


# --- the start --------------------------------------------------------------------------


def test_a_flow_with_a_start_time_waits_as_scheduled() -> None:
    run = a_run()
    live(
        run,
        "enter Scheduled",
        "sleep 60",
        "enter Pending",
        "ready",
        ("execute Running", returned()),
        "settle",
        "enter Completed",
        start_at=NOW + 60,
    )
    assert names(run) == ["Pending", "Scheduled", "Pending", "Running", "Completed"]
    assert run.states[1].scheduled_at == NOW + 60


def test_a_start_time_that_has_passed_is_at_once() -> None:
    live(
        a_run(),
        "enter Scheduled",
        "sleep 0",
        "enter Pending",
        "ready",
        ("execute Running", returned()),
        "settle",
        "enter Completed",
        start_at=NOW - 60,
    )


def test_a_sub_flow_whose_inputs_cannot_be_had_ends_without_running() -> None:
    run = a_run(3)
    run.upstream = [failed()]
    live(run, ("resolve", Failed(name="UpstreamFailed")), "enter UpstreamFailed")


def test_a_naming_function_that_fails_fails_the_flow() -> None:
    run = a_run(3, run_name=lambda parameters: "")
    played = live(run, ("call", Throw(BOOM)), "enter Failed")
    assert played.state.exception() is BOOM


def test_the_naming_function_names_the_run() -> None:
    run = a_run(run_name=lambda parameters: "")
    live(
        run,
        ("call", "nightly-7"),
        "ready",
        ("execute Running", returned()),
        "settle",
        "enter Completed",
    )
    assert run.name == "nightly-7"


# --- state handlers ---------------------------------------------------------------------


def test_a_handler_can_veto_the_start_of_a_flow() -> None:
    played = live(
        a_run(handlers=[print]), "ready", ("propose Running", Failed("no")), "enter Failed"
    )
    assert played.state.message == "no"


def test_a_handler_can_rewrite_the_end_of_a_flow() -> None:
    live(
        a_run(handlers=[print]),
        "ready",
        "propose Running",
        ("execute Running", raised(BOOM)),
        "cancel waiting",
        "settle",
        ("propose Failed", Completed("instead")),
        "enter Completed",
    )


def test_a_flow_ends_even_if_a_handler_leaves_a_state_that_ends_nothing() -> None:
    played = live(
        a_run(handlers=[print]),
        "ready",
        "propose Running",
        ("execute Running", returned()),
        "settle",
        ("propose Completed", Paused()),
        "enter Failed",
    )
    assert "state handler" in str(played.state.message)
