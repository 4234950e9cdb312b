"""What the driver wraps around a user's function before it is executed in this process."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from penstock.engine import interrupts
from penstock.engine.deadlines import deadline_here
from penstock.logging import run_logger
from penstock.worker import calling
from penstock.worker.prints import captured

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from penstock.engine.loop import Loop
    from penstock.runs import Run
    from penstock.task_runners import Capabilities
else:
    import penstock._asyncio as asyncio

__all__ = ["is_plain", "user_function"]


def is_plain(capabilities: Capabilities, *, log_prints: bool, is_async: bool) -> bool:
    """Whether a function goes to such a runner as it is, with nothing around it.

    A worker elsewhere sees to prints by itself.
    """
    return not (
        capabilities.runs_in_caller
        or (is_async and not capabilities.async_functions)
        or (log_prints and not capabilities.pickles)
    )


def user_function(run: Run, capabilities: Capabilities) -> Callable[..., Any]:
    """Return the function of a run as a runner with these capabilities has to call it."""
    plan = run.plan
    fn: Callable[..., Any] = plan.subject.carried(run)
    if run.is_flow_run:  # its life sees to its prints and its time limit
        return interruptible(fn, None) if capabilities.runs_in_caller else fn
    if plan.log_prints and not capabilities.pickles:
        fn = printing_to_log(fn, run, is_async=plan.is_async)
    if plan.is_async and not capabilities.async_functions:
        fn = in_own_event_loop(fn)
    if capabilities.runs_in_caller:
        if plan.is_async and capabilities.async_functions:
            fn = interruptible_async(fn, plan.timeout_seconds, run.engine.loop)
        else:
            fn = interruptible(fn, plan.timeout_seconds)
    return fn


def printing_to_log(
    fn: Callable[..., Any], run: Run, *, is_async: bool = False
) -> Callable[..., Any]:
    """Return the function with its prints sent to the run's log, or printed if it has none."""
    sink = run_logger(run).info if run.plan.log_prints else None
    if is_async:

        @functools.wraps(fn)
        async def async_call(*args: Any, **kwargs: Any) -> Any:
            with captured(sink):
                value = fn(*args, **kwargs)
                if hasattr(value, "__aiter__"):
                    return [item async for item in value]
                return await value

        return async_call

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        with captured(sink):
            value = fn(*args, **kwargs)
            return list(value) if hasattr(value, "gi_frame") else value

    return call


def in_own_event_loop(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plain function that runs the coroutine function to its end."""

    async def run_to_end(*args: Any, **kwargs: Any) -> Any:
        value = fn(*args, **kwargs)
        if hasattr(value, "__aiter__"):
            return [item async for item in value]
        return await value

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(run_to_end(*args, **kwargs))

    return call


def interruptible(fn: Callable[..., Any], timeout_seconds: float | None) -> Callable[..., Any]:
    """Return the function as user code within library code: Ctrl-C and its deadline reach it.

    For a runner that runs attempts in the calling thread, where the engine cannot look at the
    clock meanwhile.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        own = interrupts.Deadline(timeout_seconds) if timeout_seconds else None
        # Not by the engine's clock: the turn is held until the attempt ends.
        with deadline_here(own, None):
            if not interrupts.is_main_thread():
                return fn(*args, **kwargs)
            try:
                return interrupts.call_user_code(calling.call, (fn, args, kwargs), {})
            except (KeyboardInterrupt, interrupts.DeadlineReached) as error:
                if own is not None and getattr(error, "deadline", None) is own:
                    raise
                interrupts.postpone(error)  # it is for the code that submitted, too
                raise interrupts.Interrupted(str(error) or "interrupted by Ctrl-C") from None

    return call


def interruptible_async(
    fn: Callable[..., Any], timeout_seconds: float | None, driver: Loop
) -> Callable[..., Any]:
    """As `interruptible`, for a coroutine function: what ends it cancels it at its `await`.

    Its event loop may run in another thread, while the one that submitted waits for it.
    """

    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(timeout_seconds)

        def stop() -> None:
            loop.call_soon_threadsafe(task.cancel)

        with driver.acting_for_holder(), interrupts.waking(stop):
            try:
                async with limit:
                    return await calling.call_async(fn, args, kwargs)
            except TimeoutError:
                if limit.expired():
                    raise interrupts.DeadlineReached from None
                raise  # the user's own
            except asyncio.CancelledError:
                if interrupts.is_pending():  # it stays so, for the code that submitted
                    raise interrupts.Interrupted("interrupted with the code around it") from None
                raise

    return call
