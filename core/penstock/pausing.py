"""Pausing a flow run in the middle of its code, and letting it go on."""

from __future__ import annotations

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

__all__ = ["pause_flow_run", "resume_flow_run", "suspend_flow_run"]

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
    engine = run.engine
    waiter = Waiter()
    with _lock:
        _paused[run] = waiter
    engine.loop.run_home(lambda: _pause(run))
    try:
        resumed = engine.loop.wait(waiter, timeout)
    finally:
        with _lock:
            _paused.pop(run, None)
        engine.loop.run_home(lambda: _go_on(run))
    if not resumed:
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


def suspend_flow_run(*_: Any, **__: Any) -> NoReturn:
    """Not available: a run cannot leave its process and go on later. See `pause_flow_run`."""
    run = current_flow_run()
    shown = f" for {run.name!r}" if run is not None else ""
    raise NotSupportedError(
        f"suspend_flow_run(){shown} would have to end this process and go on in another; "
        "use pause_flow_run(), which waits here"
    )
