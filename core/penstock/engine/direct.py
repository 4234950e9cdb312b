"""Runs that are called directly: every command performed in the calling thread."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.context import CURRENT
from penstock.engine import interrupts
from penstock.engine.commands import (
    AGAIN,
    READY,
    RECALL,
    RESOLVE,
    SETTLE,
    CancelRun,
    Enter,
    Execute,
    Report,
    Sleep,
)
from penstock.engine.deadlines import deadline_here
from penstock.engine.execution import printing_to_log
from penstock.engine.keeping import WAITS
from penstock.engine.loop import Waiter
from penstock.exceptions import FutureCycleError
from penstock.runs import Tally
from penstock.tracebacks import cut_own_frames
from penstock.transactions import transaction_in
from penstock.worker.calling import call
from penstock.worker.prints import is_captured

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.engine.driver import Engine
    from penstock.runs import FlowRun, Run, TaskRun
    from penstock.states import State

__all__ = ["begin_flow_attempt", "drive", "finish", "perform"]

NOTHING_AROUND: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


def drive(run: Run) -> State[Any]:
    """Drive a run from its beginning to its end in the calling thread; return the last state."""
    engine: Engine = run.engine
    if engine.loop.guards_signals():
        interrupts.enter_library()
        try:
            state = _drive(run, engine)
        finally:
            interrupts.leave_library()
    elif (worker := interrupts.shielded_thread()) is not None:
        worker.shield += 1
        try:
            state = _drive(run, engine)
        finally:
            worker.shield -= 1
        if not worker.shield:
            worker.strike()
    else:
        state = _drive(run, engine)
    interrupts.pass_on(run.interrupt)
    return state


def _drive(run: Run, engine: Engine) -> State[Any]:
    life = run.life
    assert life is not None
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            command = life.send(answer) if error is None else life.throw(error)
            answer = error = None
            try:
                if type(command) is Execute:
                    answer = execute(run, engine, command.state)
                else:
                    answer = perform(run, engine, command)
            except Exception as problem:  # noqa: BLE001  (thrown to the life, which decides)
                error = problem
            except (KeyboardInterrupt, interrupts.DeadlineReached) as interrupt:  # it had to wait
                run.interrupt = interrupt
                error = CancelRun(interrupts.reason(interrupt))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        finish(run, engine)


def perform(run: Run, engine: Engine, command: Any) -> Any:
    """Perform any command but `Execute`, blocking the calling thread where it has to wait."""
    if type(command) is Enter:
        return engine.enter(run, command.state)
    if command is READY:
        return prepare(run, engine)
    if command is RESOLVE:
        for upstream in run.upstream:
            if not upstream.state.is_final():
                engine.wait_for_run(upstream, None)
        return engine.resolve(run)
    if command is RECALL:
        return recall(run, engine)  # type: ignore[arg-type]  # only task runs ask
    if command is SETTLE:
        return settle(run, engine)  # type: ignore[arg-type]  # only the life of a flow run asks
    if type(command) is Sleep:
        return engine.sleep(command.seconds)
    return engine.perform(run, command)


def recall(run: TaskRun, engine: Engine) -> Any:
    """Ask for a stored result, and wait for an equal run that is making it."""
    waiter, around = Waiter(), transaction_in(None)
    answer = engine.loop.run_home(lambda: engine.recall(run, around, waiter))
    if answer is not WAITS:
        return answer
    with engine.lending():
        engine.loop.wait(waiter)
    return AGAIN


def finish(run: Run, engine: Engine) -> None:
    """Close a directly driven run, also one that was broken off."""
    if run.plan.is_held:
        engine.loop.run_home(lambda: engine.dispatcher.leave(run))
    if not run.state.is_final():  # broken off in the middle of the engine: its thread was given up
        engine.break_off(run)
    if not run.was_submitted:  # else the driver does, when its thread has reported
        engine.close_books(run)


def prepare(run: Run, engine: Engine) -> None:
    """Wait until the limits and the rate of the task let the run begin, if it has any."""
    if not run.plan.is_held:
        return
    admitted = Waiter()
    run.waiters = (admitted,)
    if not engine.loop.run_home(lambda: engine.dispatcher.admit_here(run)):
        with engine.lending():
            engine.loop.wait(admitted)
        engine.loop.run_home(lambda: engine.dispatcher.admission.begin(run))
    run.waiters = ()


def execute(run: Run, engine: Engine, state: State[Any]) -> Report:
    """Run the function here, as user code: signals reach it, and its deadline."""
    engine.enter(run, state)
    plan = run.plan
    if run.is_flow_run:
        begin_flow_attempt(run)  # type: ignore[arg-type]
    fn: Callable[..., Any] = plan.subject.fn
    if plan.log_prints or is_captured():
        fn = printing_to_log(fn, run)
    guarded = engine.loop.guards_signals()
    token = CURRENT.set(run)
    timeout = plan.timeout_seconds
    deadline = interrupts.Deadline(timeout) if timeout else None
    began = time.monotonic()
    try:
        with NOTHING_AROUND if plan.keeping is None else run.transaction.current():  # type: ignore[attr-defined]  # a task run
            if deadline is not None:
                with deadline_here(deadline, engine.loop.call_later):
                    outcome = _call(run, fn, guarded=guarded, began=began)
            else:
                outcome = _call(run, fn, guarded=guarded, began=began)
    except interrupts.DeadlineReached as reached:  # in a thread, after the function has returned
        outcome = Outcome(0, "raised", error=reached)
    finally:
        CURRENT.reset(token)
        if plan.is_held:
            engine.loop.run_home(lambda: engine.dispatcher.release(run))
    if deadline is not None and deadline.reached:
        return Report(outcome, engine.clock.time(), timed_out=True)
    if outcome.kind == "raised":
        return _raised(run, engine, outcome)
    return Report(outcome, engine.clock.time(), cancelled=run.cancel_requested)


def begin_flow_attempt(run: FlowRun) -> None:
    """Start the books of a flow run's next attempt."""
    timeout = run.plan.timeout_seconds
    run.tally = Tally(deadline=None if not timeout else time.monotonic() + timeout)
    run.streams = []
    run.is_ending = False


def _call(run: Run, fn: Callable[..., Any], *, guarded: bool, began: float) -> Outcome:
    try:
        if guarded:
            value = interrupts.call_user_code(call, (fn, run.args, run.kwargs), {})
        elif (worker := interrupts.shielded_thread()) is not None:
            value = interrupts.call_in_worker(worker, call, (fn, run.args, run.kwargs))
        else:
            value = call(fn, run.args, run.kwargs)
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        cut_own_frames(error)
        return Outcome(0, "raised", None, error, "", True, time.monotonic() - began)
    return Outcome(0, "returned", value, None, "", True, time.monotonic() - began)


def _raised(run: Run, engine: Engine, outcome: Outcome) -> Report:
    """Ctrl-C in the function, or a request to cancel, is no failure of the function's."""
    if not isinstance(outcome.error, Exception):
        run.interrupt = outcome.error  # type: ignore[assignment]  # an exception object, in here
    cancelled = run.cancel_requested or isinstance(
        outcome.error,
        (KeyboardInterrupt, interrupts.DeadlineReached),  # of a run around this one
    )
    if cancelled and run.cancel_reason is None:
        run.cancel_reason = interrupts.reason(outcome.error)  # type: ignore[arg-type]  # an object
    return Report(outcome, engine.clock.time(), cancelled=cancelled)


def time_left(run: FlowRun) -> float | None:
    """Return how many seconds a flow run's attempt may still take; None is any time."""
    deadline = run.tally.deadline
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def settle(run: FlowRun, engine: Engine) -> Tally:
    """Wait until every run inside of the flow run is over.

    After a request to cancel, at the time limit, or after a second Ctrl-C, the wait has an end:
    what could not be stopped is abandoned.

    Raises:
        FutureCycleError: they need the thread that would wait for them; they were cancelled.
    """
    grace = engine.settings.cancel_grace_seconds
    was_ending = run.is_ending
    try:
        for stream in run.streams if not run.is_ending else ():
            stream.flow_ends()
        idle = engine.wait_until_idle(run, grace if run.is_ending else time_left(run))
        if not idle and not run.is_ending:
            run.tally.timed_out = True
            engine.cancel_children(run, "the flow run timed out", kill=True)
            idle = engine.wait_until_idle(run, grace)
    except FutureCycleError as error:
        engine.cancel_children(run, str(error), kill=True)
        engine.abandon_children(run)
        raise
    except (KeyboardInterrupt, interrupts.DeadlineReached) as interrupt:
        run.interrupt = interrupt
        run.cancel_reason = run.cancel_reason or interrupts.reason(interrupt)
        run.cancel_requested = True
        idle = False
        # Pressed again, the wait is over sooner.
        with contextlib.suppress(KeyboardInterrupt, interrupts.DeadlineReached):
            engine.cancel_children(run, run.cancel_reason, kill=True)
            idle = not was_ending and engine.wait_until_idle(run, grace)
    if not idle:
        engine.abandon_children(run)
    return run.tally
