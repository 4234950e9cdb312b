"""The life of a flow run: every decision between Pending and its end, and no action."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from penstock.engine.arguments import find_runs, put_values
from penstock.engine.commands import (
    RESOLVE,
    SETTLE,
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
from penstock.engine.task_run import (
    end,
    enter,
    failure,
    may_retry,
    retry,
    returned,
    start,
    the_error,
)
from penstock.exceptions import FlowRunTimeoutError, FutureCycleError, UnobservedFailureError
from penstock.states import State, StateType

if TYPE_CHECKING:
    import random

    from penstock.runs import FlowRun, Tally

__all__ = ["flow_run"]

FAILED, CANCELLED, COMPLETED = StateType.FAILED, StateType.CANCELLED, StateType.COMPLETED
RUNNING, SCHEDULED = StateType.RUNNING, StateType.SCHEDULED


def flow_run(
    run: FlowRun, rng: random.Random, unobserved: str, start_at: float | None = None
) -> Life:
    """Live the life of a flow run: each yield asks the driver for one thing.

    Args:
        run: read for what it is and where it stands; changed by the driver only.
        rng: for the jitter of retry delays.
        unobserved: what a failure that nobody looked at does: ``fail``, ``warn`` or ``ignore``.
        start_at: when to start, in seconds since the epoch.
    """
    plan = run.plan
    try:
        if start_at is not None:
            state: State[Any] = yield Enter(State(SCHEDULED, "Scheduled", scheduled_at=start_at))
            yield Sleep(max(0.0, start_at - state.at))
            yield Enter(State(StateType.PENDING, "Pending"))
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
                return (yield from end(run, failure(error, "Flow run")))
        failures = 0
        following: State[Any] = State(RUNNING, "Running")
        while True:
            state = yield from start(run, following)
            if state.type is not RUNNING:
                return state
            report: Report = yield Execute(state)
            if report.cancelled or report.timed_out:
                yield CancelChildren(
                    "the flow run was cancelled" if report.cancelled else "the flow run timed out",
                    kill=True,
                )
            elif plan.on_exit == "cancel":
                value = report.outcome.value
                yield CancelChildren("the flow's body is over", kill=True, keep_for=value)
            elif report.outcome.kind != "returned":
                # What runs may finish: its side effects are under way. What waits has lost its use.
                yield CancelChildren("the flow's body failed", kill=False)
            try:
                tally: Tally = yield SETTLE
            except FutureCycleError as error:
                return (yield from end(run, failure(error, "Flow run")))
            if tally.timed_out:
                report = report._replace(timed_out=True)
            if run.cancel_requested and not report.timed_out:  # asked while its runs were awaited
                report = report._replace(cancelled=True)
            concluded = conclusion(run, report, tally, unobserved)
            yield from remarks(tally, concluded, unobserved)
            state = (yield Propose(concluded)) if plan.handlers else concluded
            if state.type is FAILED and not report.cancelled:
                problem = state.exception()
                if failures < plan.retries.retries and (yield from may_retry(run, state)):
                    failures += 1
                    delay = plan.retries.delay_seconds(failures, rng)
                    following = yield from retry(run, state, report.at, delay, failures)
                    continue
                if report.outcome.kind == "raised" and not report.timed_out:
                    yield Log(
                        logging.ERROR,
                        f"Encountered exception during execution: {problem!r}",
                        problem,
                    )
            if run.flow_run is None:
                for line in tally.failures.lines():
                    yield Log(logging.ERROR, line)
            return (yield from enter(state))
    except CancelRun as cancel:
        yield CancelChildren("the flow run was cancelled", kill=True)
        yield SETTLE
        return (yield from enter(State(CANCELLED, "Cancelled", str(cancel) or None)))


def conclusion(run: FlowRun, report: Report, tally: Tally, unobserved: str) -> State[Any]:
    """Return the state that the end of a flow's body, and of the runs inside, proposes.

    A failure counts against the flow if nobody looked at it; a failure that was raised into the
    flow's code, or asked for, has been dealt with there (`spec.md`, D3).
    """
    if report.timed_out:
        text = f"Flow run exceeded timeout of {float(run.plan.timeout_seconds or 0)} second(s)"
        return State(FAILED, "TimedOut", text, FlowRunTimeoutError(text))
    if report.cancelled:
        return State(CANCELLED, "Cancelled", run.cancel_reason)
    if report.outcome.kind == "raised":
        return failure(the_error(report.outcome), "Flow run")
    value = report.outcome.value
    returned_runs = find_runs(value)
    for each in returned_runs:  # what a flow returns, its caller looks at: values, not futures
        each.mark_seen()
        error = each.state.exception()
        if error is not None:
            return failure(error, "Flow run")
    if returned_runs:
        try:
            value = put_values(value)
        except Exception as error:  # noqa: BLE001  (a user's container that cannot be rebuilt)
            return failure(error, "Flow run")
    proposed = returned(value)
    failed = tally.unseen_failures() if unobserved == "fail" else []
    if failed and proposed.type is COMPLETED:
        text = f"{len(failed)}/{tally.begun} states failed."
        shown = ", ".join(f"{each.name} {each.state}" for each in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        unobserved_error = UnobservedFailureError(
            f"{text} Nobody looked at: {shown}{more}. Read a future's .result() or .state, or "
            "ask for return_state=True, to deal with a failure in the flow's own code."
        )
        unobserved_error.__cause__ = failed[0].state.exception()
        return State(FAILED, "Failed", text, unobserved_error)
    if value is None and tally.begun:
        text = "All states completed."
        if tally.cancelled and run.plan.on_exit == "cancel":
            done = tally.begun - tally.cancelled
            text = f"{done}/{tally.begun} states completed, the others were cancelled."
        return State(COMPLETED, "Completed", text, None)
    return proposed


def remarks(tally: Tally, concluded: State[Any], unobserved: str) -> list[Log]:
    """Return the lines that name failures which the flow's final state does not show."""
    failed = tally.unseen_failures()
    if not failed or unobserved == "ignore" or isinstance(concluded.data, UnobservedFailureError):
        return []
    return [
        Log(logging.WARNING, f"Nobody looked at the failure of {each.name!r}: {each.state}")
        for each in failed
    ]
