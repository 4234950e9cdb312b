"""Pausing a flow run in the middle of its code, and letting it go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.context import current_flow_run, require_flow_run
from penstock.engine.loop import Waiter
from penstock.exceptions import MissingContextError, NotSupportedError, PauseTimeoutError
from penstock.runs import FlowRun
from penstock.states import Paused, Running

if TYPE_CHECKING:
    import uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "apause_flow_run",
    "aresume_flow_run",
    "asuspend_flow_run",
    "pause_flow_run",
    "resume_flow_run",
    "suspend_flow_run",
]

_lock = threading.Lock()
_paused: weakref.WeakKeyDictionary[FlowRun, Waiter] = weakref.WeakKeyDictionary()


def pause_flow_run(timeout: float = 3600) -> None:
    """Pause the current flow run here, until `resume_flow_run` is called from elsewhere.

    The flow run is in state `Paused`. What runs goes on; nothing new of the root run starts.

    Args:
        timeout: seconds after which the flow fails.

    Raises:
        MissingContextError: there is no flow run around the call.
        PauseTimeoutError: nobody resumed it in time.
    """
    run = require_flow_run("pause_flow_run()")
    with _pausing(run, timeout) as waiter:
        run.engine.loop.wait(waiter, timeout)


async def apause_flow_run(timeout: float = 3600) -> None:  # noqa: ASYNC109  (Prefect's name)
    """As `pause_flow_run`, leaving the event loop to others meanwhile."""
    run = require_flow_run("apause_flow_run()")
    with _pausing(run, timeout) as waiter:
        await asyncio.to_thread(waiter.block, timeout)


@contextlib.contextmanager
def _pausing(run: FlowRun, timeout: float) -> Iterator[Waiter]:
    """Have a flow run paused in the block, which waits for the waiter."""
    loop = run.engine.loop
    waiter = Waiter()
    with _lock:
        _paused[run] = waiter
    loop.run_home(lambda: _pause(run))
    try:
        yield waiter
    finally:
        with _lock:
            _paused.pop(run, None)
        loop.run_home(lambda: _go_on(run))
    if not waiter.ready:
        raise PauseTimeoutError(f"flow run {run.name!r} was not resumed within {timeout} s")


def _pause(run: FlowRun) -> None:
    run.engine.dispatcher.pauses += 1
    run.engine.enter(run, Paused())


def _go_on(run: FlowRun) -> None:
    run.engine.dispatcher.resume()
    if run.state.is_paused():
        run.engine.enter(run, Running(), counts=False)
    run.engine.loop.drain()


def resume_flow_run(flow_run: FlowRun | uuid.UUID | str) -> None:
    """Let a paused flow run of this process go on; from any thread.

    Args:
        flow_run: the run, its id, or its name.

    Raises:
        MissingContextError: no such flow run is paused.
    """
    with _lock:
        for run, waiter in _paused.items():
            if flow_run is run or flow_run in (run.id, str(run.id), run.name):
                waiter.notify()
                run.engine.loop.nudge()
                return
    wanted: Any = flow_run.name if isinstance(flow_run, FlowRun) else flow_run
    raise MissingContextError(f"no flow run {str(wanted)!r} of this process is paused")


async def aresume_flow_run(flow_run: FlowRun | uuid.UUID | str) -> None:
    """As `resume_flow_run`, for those who await it by habit; it never waits."""
    resume_flow_run(flow_run)


def suspend_flow_run(*_: Any, **__: Any) -> NoReturn:
    """Not available: a run cannot leave its process and go on later. See `pause_flow_run`."""
    run = current_flow_run()
    shown = f" for {run.name!r}" if run is not None else ""
    raise NotSupportedError(
        f"suspend_flow_run(){shown} would have to end this process and go on in another; "
        "use pause_flow_run(), which waits here"
    )


async def asuspend_flow_run(*_: Any, **__: Any) -> NoReturn:
    """Not available, as `suspend_flow_run`. See `apause_flow_run`."""
    suspend_flow_run()
