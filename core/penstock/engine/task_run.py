"""The life of a task run: every decision between Pending and its end, and no action."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome, PackedState, RemoteError
from penstock.engine.commands import (
    AGAIN,
    BUSY,
    READY,
    RECALL,
    RESOLVE,
    Call,
    CancelRun,
    Command,
    Enter,
    Execute,
    Life,
    Log,
    Propose,
    Report,
    Sleep,
)
from penstock.exceptions import CrashedRun, RemoteTaskError, TaskRunTimeoutError, WorkerLost
from penstock.remote_errors import exception_of
from penstock.states import State, StateType
from penstock.worker.errors import message_of

if TYPE_CHECKING:
    import random
    from collections.abc import Generator

    from penstock.runs import Run, TaskRun

__all__ = ["task_run"]

MOST_UNCHARGED = 5
"""How often a run starts again whose attempt was lost without having begun, or perhaps begun."""

BUSY_SECONDS = 0.05
"""Between two looks at a result that another driver makes."""

FAILED, CRASHED, CANCELLED = StateType.FAILED, StateType.CRASHED, StateType.CANCELLED
RUNNING, SCHEDULED, COMPLETED = StateType.RUNNING, StateType.SCHEDULED, StateType.COMPLETED


def task_run(run: TaskRun, rng: random.Random) -> Life:
    """Live the life of a task run: each yield asks the driver for one thing.

    Args:
        run: read for what it is and where it stands; changed by the driver only.
        rng: for the jitter of retry delays.

    Returns:
        The final state, as entered.
    """
    plan = run.plan
    try:
        if run.upstream:
            blocked: State[Any] | None = yield RESOLVE
            if blocked is not None:
                return (yield from end(run, blocked))
        if plan.run_name is not None:
            try:
                run.name = yield Call(plan.run_name, (run.parameters,))
            except CancelRun:
                raise
            except Exception as error:  # noqa: BLE001  (the naming function is the user's)
                return (yield from end(run, failure(error, "Task run")))
        if plan.keeping is not None:
            try:
                kept = yield from recall()
            except CancelRun:
                raise
            except Exception as error:  # noqa: BLE001  (of the inputs, the policy or the store)
                return (yield from end(run, failure(error, "Task run")))
            if kept is not None:
                return (yield from end(run, kept))
        return (yield from attempts(run, State(RUNNING, "Running"), rng))
    except CancelRun as cancel:
        return (yield from enter(State(CANCELLED, "Cancelled", str(cancel) or None)))


def recall() -> Generator[Command, Any, State[Any] | None]:
    """Return the state that a stored result means, or None if the run is to make it."""
    while True:
        answer = yield RECALL
        if answer is BUSY:
            yield Sleep(BUSY_SECONDS)
        elif answer is not AGAIN:
            kept: State[Any] | None = answer
            return kept


def once_more(run: TaskRun, rng: random.Random) -> Life:
    """Live on after the end: the result was lost with the worker that kept it."""
    text: str = run.state.data.how_lost
    yield Log(logging.WARNING, f"Task run is run again: {text}")
    yield Enter(State(SCHEDULED, "ResultLost", text))
    try:
        return (yield from attempts(run, State(RUNNING, "Running"), rng))
    except CancelRun as cancel:
        return (yield from enter(State(CANCELLED, "Cancelled", str(cancel) or None)))


def attempts(
    run: TaskRun, following: State[Any], rng: random.Random
) -> Generator[Command, Any, State[Any]]:
    """Make attempts until one of them is the last, and return the final state, as entered."""
    plan = run.plan
    failures = crashes = uncharged = 0
    while True:
        state = yield from start(run, following)
        if state.type is not RUNNING:
            return state
        report: Report = yield Execute(state)
        concluded = conclusion(run, report)
        state = (yield Propose(concluded)) if plan.handlers else concluded
        if state.type is FAILED and not report.cancelled:
            problem = state.exception()
            if failures < plan.retries.retries and (yield from may_retry(run, state)):
                failures += 1
                delay = plan.retries.delay_seconds(failures, rng)
                following = yield from retry(run, state, report.at, delay, failures)
                continue
            why = why_no_retry(plan.retries.retries, failures)
            yield Log(
                logging.ERROR, f"Task run failed with exception: {problem!r} - {why}", problem
            )
        elif is_worth_a_crash_retry(state, report) and (
            crashes < plan.crash_retries
            or (report.outcome.began is not True and uncharged < MOST_UNCHARGED)
        ):
            if report.outcome.began is not True and uncharged < MOST_UNCHARGED:
                uncharged += 1  # it did not kill its worker, as far as anybody knows
                budget = "It will start again, uncharged"
            else:
                crashes += 1
                budget = f"Crash retry {crashes}/{plan.crash_retries} will start immediately"
            if report.outcome.began is False:  # nothing that the history should tell
                yield Log(logging.INFO, f"Not begun: {report.outcome.reason}. {budget}")
                continue
            yield Log(
                logging.WARNING,
                f"Attempt {run.run_count} crashed: {state.message} - {budget}",
            )
            yield Enter(provisional(state))
            following = State(RUNNING, "Retrying")
            continue
        return (yield from enter(state))


def enter(state: State[Any]) -> Generator[Command, Any, State[Any]]:
    """Enter a final state, and return it as it was entered.

    A run that is over has to have ended: what a handler left is refused if it ends nothing.
    """
    if not state.is_final():
        text = f"a state handler left the state {state}, which does not end a run"
        state = State(FAILED, "Failed", text)
    entered: State[Any] = yield Enter(state)
    return entered


def start(run: Run, following: State[Any]) -> Generator[Command, Any, State[Any]]:
    """Return the RUNNING state of an attempt that may begin, not yet entered.

    A handler may hold the attempt back, by a `Scheduled` state, or end the run instead; then the
    state returned is the one entered.
    """
    while True:
        yield READY
        if run.cancel_requested:  # while a flow run waited for its retry, in a thread of its own
            raise CancelRun(run.cancel_reason or "")
        if not run.plan.handlers:
            return following
        state: State[Any] = yield Propose(following)
        if state.type is RUNNING:
            return state
        if state.type is not SCHEDULED:
            return (yield from enter(state))
        state = yield Enter(state)
        if state.type is not SCHEDULED:  # refused by the table of moves
            return state
        yield Sleep(max(0.0, (state.scheduled_at or 0.0) - state.at))


def end(run: Run, state: State[Any]) -> Generator[Command, Any, State[Any]]:
    """Enter a final state that no attempt has led to."""
    if run.plan.handlers:
        state = yield Propose(state)
    return (yield from enter(state))


def retry(
    run: Run, state: State[Any], at: float, delay: float, count: int
) -> Generator[Command, Any, State[Any]]:
    """Wait for the next attempt, and return the state that it starts in."""
    kind = "Flow" if run.is_flow_run else "Task"
    when = f"{delay} second(s) from now" if delay else "immediately"
    yield Log(
        logging.INFO,
        f"{kind} run failed with exception: {state.exception()!r} - "
        f"Retry {count}/{run.plan.retries.retries} will start {when}",
    )
    yield Enter(provisional(state))
    if delay:
        waiting: State[Any] = State(SCHEDULED, "AwaitingRetry", scheduled_at=at + delay)
        if run.plan.handlers:
            waiting = yield Propose(waiting)
        if waiting.type is not SCHEDULED:
            return waiting
        entered: State[Any] = yield Enter(waiting)
        yield Sleep(max(0.0, (entered.scheduled_at or at) - at))
    return State(RUNNING, "Retrying")


def why_no_retry(retries: int, used: int) -> str:
    """Return the words for why a failure is final."""
    if not retries:
        return "No retries configured for this task."
    return "Retries are exhausted" if used >= retries else "The retry condition declined a retry"


def may_retry(run: Run, state: State[Any]) -> Generator[Command, Any, bool]:
    """Ask the user's condition, where there is one. An error in it means no, and is logged."""
    condition = run.plan.retry_condition
    if condition is None:
        return True
    try:
        return bool((yield Call(condition, (run.plan.subject, run, state))))
    except CancelRun:
        raise
    except Exception as error:  # noqa: BLE001  (the condition is the user's)
        yield Log(
            logging.ERROR,
            f"retry_condition_fn raised {error!r}: the task run will not be retried",
            error,
        )
        return False


def provisional(state: State[Any]) -> State[Any]:
    """Return the failure of one attempt, to be followed by another."""
    return State(state.type, state.name, state.message, state.data, provisional=True)


def is_worth_a_crash_retry(state: State[Any], report: Report) -> bool:
    """Whether the attempt was lost by no doing of the user's code, and is still wanted."""
    return state.type is CRASHED and report.outcome.kind == "lost" and not report.cancelled


def conclusion(run: Run, report: Report) -> State[Any]:
    """Return the state that the end of an attempt proposes."""
    outcome = report.outcome
    if report.timed_out:
        limit = float(run.plan.timeout_seconds or 0.0)
        text = f"Task run exceeded timeout of {limit} second(s)"
        if outcome.reason:
            text += f"; {outcome.reason}"
        return State(FAILED, "TimedOut", text, TaskRunTimeoutError(text))
    if report.cancelled:
        return State(CANCELLED, "Cancelled", run.cancel_reason or outcome.reason or None)
    if outcome.kind == "returned":
        return returned(outcome.value)
    if outcome.kind == "raised":
        return failure(the_error(outcome), "Task run")
    text = f"Attempt {run.run_count} of task run {run.name!r} was {outcome.kind}"
    if outcome.worker:
        text += f" on worker {outcome.worker}"
    if outcome.reason:
        text += f": {outcome.reason}"
    return State(CRASHED, "Crashed", text, WorkerLost(text))


def returned(value: Any) -> State[Any]:
    """Return the state that a function's return value means; a `State` is taken at its word."""
    if type(value) is PackedState:
        try:
            value = value.load()
        except Exception as error:  # noqa: BLE001  (of what the user has put into the state)
            return failure(error, "Task run")
    if isinstance(value, State):
        if value.is_final():
            return value
        text = f"the function returned the state {value}, which does not end a run"
        return State(FAILED, "Failed", text)
    return State(COMPLETED, "Completed", None, value)


def failure(error: BaseException, kind: str) -> State[Any]:
    """Return the state that an exception means.

    `SystemExit` and the like are no failure of the work: they tell this process to end, which is
    an outside cause.
    """
    if isinstance(error, Exception):
        colon = ":" if kind == "Flow run" else ""  # just as Prefect words them (rows 133, 151)
        text = f"{kind} encountered an exception{colon} {type(error).__name__}: {message_of(error)}"
        return State(FAILED, "Failed", text, error)
    text = f"{kind} was ended by {type(error).__name__}: {message_of(error)}"
    crash = CrashedRun(text)
    crash.__cause__ = error
    return State(CRASHED, "Crashed", text, crash)


def the_error(outcome: Outcome) -> BaseException:
    """Return the exception of a ``raised`` outcome, or what stands in for it."""
    error = outcome.error
    if isinstance(error, RemoteError):
        return exception_of(error)
    return error if error is not None else RemoteTaskError("the attempt failed without an error")
