"""Runs that are awaited: every command performed without blocking the event loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.context import CURRENT
from penstock.engine import direct, interrupts
from penstock.engine.commands import (
    AGAIN,
    READY,
    RECALL,
    RESOLVE,
    SETTLE,
    CancelRun,
    Execute,
    Report,
    Sleep,
)
from penstock.engine.direct import NOTHING_AROUND, begin_flow_attempt, finish, time_left
from penstock.engine.keeping import WAITS
from penstock.engine.waiting import AsyncWaiter
from penstock.logging import run_logger
from penstock.tracebacks import cut_own_frames
from penstock.transactions import transaction_in
from penstock.worker.calling import call_async
from penstock.worker.prints import captured

if TYPE_CHECKING:
    import asyncio

    from penstock.engine.driver import Engine
    from penstock.runs import FlowRun, Run, Tally, TaskRun
    from penstock.states import State
else:
    import penstock._asyncio as asyncio

__all__ = ["drive_async", "perform"]


async def drive_async(run: Run) -> State[Any]:
    """Drive a run from its beginning to its end in the running event loop."""
    engine: Engine = run.engine
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
                    answer = await execute(run, engine, command.state)
                else:
                    answer = await perform(run, engine, command)
            except Exception as problem:  # noqa: BLE001  (thrown to the life, which decides)
                error = problem
            except asyncio.CancelledError as interrupt:  # it had to wait
                run.interrupt = interrupt
                error = CancelRun(interrupts.reason(interrupt))
    except StopIteration as end:
        state: State[Any] = end.value
    finally:
        finish(run, engine)
    interrupts.pass_on(run.interrupt)
    return state


async def perform(run: Run, engine: Engine, command: Any) -> Any:
    """Perform any command but `Execute`, leaving the event loop free where it has to wait."""
    if command is READY:
        return await prepare(run, engine)
    if command is RESOLVE:
        for upstream in run.upstream:
            if not upstream.state.is_final():
                await engine.wait_async(upstream)
        return engine.resolve(run)
    if command is RECALL:
        return await recall(run, engine)  # type: ignore[arg-type]  # only task runs ask
    if command is SETTLE:
        return await settle(run, engine)  # type: ignore[arg-type]  # only flows ask this
    if type(command) is Sleep:
        return await asyncio.sleep(command.seconds)
    return engine.perform(run, command)


async def prepare(run: Run, engine: Engine) -> None:
    """Wait until the limits and the rate of the task let the run begin, if it has any."""
    if not run.plan.is_held:
        return
    if engine.loop.holds_turn():  # in a runner that runs in its caller: nobody else can drive
        direct.prepare(run, engine)
        return
    admitted = AsyncWaiter(asyncio.get_running_loop())
    run.waiters = (admitted,)
    if not engine.loop.run_home(lambda: engine.dispatcher.admit_here(run)):
        engine.loop.ensure_standby(urgent=True)
        await admitted.wait()
        engine.loop.run_home(lambda: engine.dispatcher.admission.begin(run))
    run.waiters = ()


async def recall(run: TaskRun, engine: Engine) -> Any:
    """Ask for a stored result, and wait for an equal run that is making it."""
    waiter, around = AsyncWaiter(asyncio.get_running_loop()), transaction_in(None)
    answer = engine.loop.run_home(lambda: engine.recall(run, around, waiter))
    if answer is not WAITS:
        return answer
    engine.loop.ensure_standby(urgent=True)
    with engine.lending(blocks_thread=False):
        await waiter.wait()
    return AGAIN


async def execute(run: Run, engine: Engine, state: State[Any]) -> Report:
    """Await the function; its deadline cancels it at its next `await`."""
    engine.enter(run, state)
    plan = run.plan
    if run.is_flow_run:
        begin_flow_attempt(run)  # type: ignore[arg-type]
    token = CURRENT.set(run)
    began = time.monotonic()
    timed_out = False
    limit = asyncio.timeout(plan.timeout_seconds or None)
    around = NOTHING_AROUND if plan.keeping is None else run.transaction.current()  # type: ignore[attr-defined]  # a task run
    try:
        try:
            async with limit:
                with around, captured(run_logger(run).info if plan.log_prints else None):
                    value = await call_async(plan.subject.fn, run.args, run.kwargs)
            outcome = Outcome(0, "returned", value, None, "", True, time.monotonic() - began)
        except TimeoutError as error:
            # The user's own TimeoutError is a failure like any other.
            timed_out = limit.expired()
            cut_own_frames(error)
            outcome = Outcome(0, "raised", None, error, "", True, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
            cut_own_frames(error)
            outcome = Outcome(0, "raised", None, error, "", True, time.monotonic() - began)
    finally:
        CURRENT.reset(token)
        if plan.is_held:
            engine.loop.run_home(lambda: engine.dispatcher.release(run))
    if outcome.error is not None and not isinstance(outcome.error, Exception):
        run.interrupt = outcome.error  # type: ignore[assignment]  # an exception object, in here
    cancelled = run.cancel_requested or isinstance(
        outcome.error, (asyncio.CancelledError, KeyboardInterrupt)
    )
    if isinstance(outcome.error, asyncio.CancelledError) and run.cancel_reason is None:
        run.cancel_reason = "its asyncio task was cancelled"
    return Report(outcome, engine.clock.time(), timed_out, cancelled and not timed_out)


async def settle(run: FlowRun, engine: Engine) -> Tally:
    """Wait until every run inside of the flow run is over; see `direct.settle`."""
    grace = engine.settings.cancel_grace_seconds
    try:
        for stream in run.streams if not run.is_ending else ():
            await stream.flow_ends_async()
        idle = await engine.wait_until_idle_async(run, grace if run.is_ending else time_left(run))
        if not idle and not run.is_ending:
            run.tally.timed_out = True
            engine.cancel_children(run, "the flow run timed out", kill=True)
            idle = await engine.wait_until_idle_async(run, grace)
    except asyncio.CancelledError as interrupt:
        run.interrupt = interrupt
        run.cancel_reason = run.cancel_reason or interrupts.reason(interrupt)
        run.cancel_requested = True
        engine.cancel_children(run, run.cancel_reason, kill=True)
        idle = False
    if not idle:
        engine.abandon_children(run)
    return run.tally
