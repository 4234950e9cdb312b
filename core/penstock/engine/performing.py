"""The commands that every driver performs alike: entering a state, asking the user's functions."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from penstock.context import CURRENT
from penstock.engine import interrupts
from penstock.engine.commands import Call, CancelChildren, Enter, Log, Propose
from penstock.engine.waiting import Waiting
from penstock.exceptions import CrashedRun, IllegalMove
from penstock.hooks import finish as finish_awaitable
from penstock.logging import run_logger
from penstock.states import TERMINAL, State, StateType, advance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.engine.loop import Clock
    from penstock.runs import FlowRun, Run

__all__ = ["Performing", "logs_ends"]

_task_log = logging.getLogger("penstock.task_runs")
_flow_log = logging.getLogger("penstock.flow_runs")
_log = logging.getLogger("penstock.engine")

COMPLETED, FAILED, CRASHED = StateType.COMPLETED, StateType.FAILED, StateType.CRASHED
RUNNING, CANCELLED, SCHEDULED = StateType.RUNNING, StateType.CANCELLED, StateType.SCHEDULED


class Performing(Waiting):
    """The part of the engine that moves runs, with their log lines, hooks and handlers.

    Hooks, handlers and other functions of the user's run under the turn, wherever the run is
    driven: one at a time, and never in a worker.
    """

    clock: Clock

    def perform(self, run: Run, command: Any) -> Any:
        """Perform a command that does not wait."""
        kind = type(command)
        if kind is Enter:
            return self.enter(run, command.state)
        if kind is Propose:
            return self.propose(run, command.state)
        if kind is Call:
            return self.call(run, command.fn, command.args)
        if kind is Log:
            self.log(run, command)
            return None
        if kind is CancelChildren:
            self.cancel_children(
                run,  # type: ignore[arg-type]  # only flows ask this
                command.reason,
                kill=command.kill,
                keep_for=command.keep_for,
            )
            return None
        raise AssertionError(f"no driver performs {command!r} here")

    def cancel_children(
        self, run: FlowRun, reason: str, *, kill: bool, keep_for: Any = None
    ) -> None:
        """Ask every run inside of a flow run to end; see `Cancelling`."""
        raise NotImplementedError

    def enter(
        self, run: Run, state: State[Any], at: float | None = None, *, counts: bool = True
    ) -> State[Any]:
        """Move a run to a state, with its log line and its hooks.

        Args:
            run: the run.
            state: where to.
            at: when, in seconds since the epoch; now by default.
            counts: whether RUNNING is the begin of an attempt; going on after a pause is not.
        """
        try:
            entered = advance(run, state, self.clock.time() if at is None else at)
        except IllegalMove as problem:
            if run.state.is_final():
                raise
            _log.error("%s", problem)
            entered = advance(
                run, State(FAILED, "Failed", str(problem), problem), self.clock.time()
            )
        kind = entered.type
        if kind is RUNNING:
            if not counts:
                return entered
            if run.is_flow_run or not run.was_submitted:  # else counted when it was handed out
                run.run_count += 1
        elif kind in TERMINAL and not entered.provisional:
            self._log_end(run, entered)
        elif kind is SCHEDULED and run.plan.is_held:  # it waits without its places
            self.loop.run_home(lambda: self.dispatcher.release(run))
        hooks = run.plan.hooks.get(kind)
        if hooks and not entered.provisional:
            self.at_home(run, self._run_hooks, hooks, run, entered)
        return entered

    def _log_end(self, run: Run, state: State[Any]) -> None:
        logger = _flow_log if run.is_flow_run else _task_log
        level = logging.INFO if state.type in (COMPLETED, CANCELLED) else logging.ERROR
        if logger.isEnabledFor(level):
            run_logger(run).log(level, "Finished in state %s", state)

    def _run_hooks(self, hooks: Sequence[Callable[..., Any]], run: Run, state: State[Any]) -> None:
        before = run.states[-2] if len(run.states) > 1 else state
        for hook in tuple(hooks):
            try:
                with interrupts.giving_way():
                    finish_awaitable(hook(run.plan.subject, run, state, before))
            except KeyboardInterrupt as error:  # pressed twice: the hook ends, the state stands
                interrupts.postpone(error)
                run_logger(run).warning("Hook %r was interrupted", _name_of(hook))
            except Exception as error:  # noqa: BLE001  (a hook never harms the run)
                run.hook_errors += 1
                run_logger(run).error("Hook %r raised %r", _name_of(hook), error, exc_info=error)

    def propose(self, run: Run, state: State[Any]) -> State[Any]:
        """Show a state to the run's handlers, in order; each sees what the one before left."""
        return self.at_home(run, self._run_handlers, run, state)  # type: ignore[no-any-return]

    def _run_handlers(self, run: Run, state: State[Any]) -> State[Any]:
        old = run.state
        for handler in run.plan.handlers:
            try:
                left = finish_awaitable(handler(run.plan.subject, old, state))
                if left is not None and not isinstance(left, State):
                    raise TypeError(f"a state handler returns a State or None, not {left!r}")
            except Exception as error:  # noqa: BLE001  (decided in the row named below)
                # A handler may have had a veto to say: the run must not go on without it (#204).
                run_logger(run).error("State handler raised %r", error, exc_info=error)
                text = f"Unexpected error while calling state handlers: {error!r}"
                return State(FAILED, "Failed", text, error)
            if left is not None:
                state = left
        return state

    def call(self, run: Run, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call one of the user's functions that decide something for a run."""
        return self.at_home(run, lambda: finish_awaitable(fn(*args)))

    def at_home(self, run: Run, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a function on the driver, in the context of a run."""
        if self.loop.holds_turn():
            return _in_context(run, fn, args)
        return self.loop.run_home(functools.partial(_in_context, run, fn, args))

    def log(self, run: Run, command: Log) -> None:
        """Write a line to the run's log."""
        logger = _flow_log if run.is_flow_run else _task_log
        if logger.isEnabledFor(command.level):
            run_logger(run).log(command.level, "%s", command.text, exc_info=command.error)

    def break_off(self, run: Run, problem: BaseException | None = None) -> None:
        """End a run whose life cannot be carried on, so that it does end."""
        why = "its thread was given up" if problem is None else f"the engine failed: {problem!r}"
        text = f"{run.name!r} was broken off: {why}"
        error = problem if problem is not None else CrashedRun(text)
        advance(run, State(CRASHED, "Crashed", text, error), self.clock.time())


def logs_ends() -> bool:
    """Whether each end of a task run is a line in the log, also a good one."""
    return _task_log.isEnabledFor(logging.INFO)


def _in_context(run: Run, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    token = CURRENT.set(run)
    try:
        return fn(*args)
    finally:
        CURRENT.reset(token)


def _name_of(hook: Callable[..., Any]) -> str:
    return str(getattr(hook, "__name__", repr(hook)))
