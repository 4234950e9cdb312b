"""The runner without workers: each attempt runs at once, in the thread that submits it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from penstock.attempt import run_here
from penstock.task_runners import Capabilities, Outcome, Started, TaskRunner
from penstock.worker.calling import call_async

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.task_runners import Attempt, Event

__all__ = ["SequentialTaskRunner"]

WORKER = "inline"


class SequentialTaskRunner(TaskRunner):
    """Runs each attempt in the calling thread, before `submit()` returns.

    For breakpoints, profilers and reproducible order. A coroutine function runs in an event loop
    of its own; where the calling thread already runs one, in a short-lived thread, and the
    caller's loop stands still meanwhile.
    """

    capabilities = Capabilities(async_functions=True, runs_in_caller=True)

    def __init__(self) -> None:
        self._report: Callable[[Event], None] | None = None
        self._process_id = 0
        self._waiting: dict[int, Attempt] = {}
        """Taken and not begun: user code that submits or cancels runs in the middle of a batch."""

    def for_run(self) -> SequentialTaskRunner:
        """Return a runner of the same class that is not open."""
        return type(self)()

    def open(
        self,
        report: Callable[[Event], None],
        options: Mapping[str, Any],  # noqa: ARG002  (no hint matters here)
    ) -> None:
        """Get ready; there is nothing to start."""
        self._report = report
        self._process_id = os.getpid()

    def summary(self) -> str:
        """Return where attempts run."""
        return "in the calling thread, one at a time"

    def slots(self) -> int:
        """Return 1: the caller."""
        return 1

    def credit(self) -> int:
        """Return 1: whatever is submitted is done before the next."""
        return 1

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run the attempts, one after the other. User code may submit, in turn."""
        report = self._report
        if report is None:
            raise RuntimeError("this task runner is not open: call open() before submit()")
        if os.getpid() != self._process_id:
            raise RuntimeError(
                "this task runner was opened in the parent process, before a fork: "
                "make a new one in the child"
            )
        for attempt in attempts:
            self._waiting[attempt.id] = attempt
        for attempt in attempts:
            if self._waiting.pop(attempt.id, None) is None:
                continue  # cancelled by an attempt that ran before it
            if attempt.report_start:
                report(Started(attempt.id, WORKER, time.monotonic()))
            report(run_async_here(attempt) if attempt.is_async else run_here(attempt, WORKER))

    def cancel(
        self,
        attempt_ids: Sequence[int],
        *,
        hard: bool = False,  # noqa: ARG002  (`kill` is none)
    ) -> None:
        """Drop what has not begun. What runs is below us in the call stack and ends by itself."""
        for attempt_id in attempt_ids:
            if self._waiting.pop(attempt_id, None) is not None and self._report is not None:
                self._report(
                    Outcome(attempt_id, "stopped", reason="cancelled before it began", began=False)
                )

    def close(self, grace_seconds: float = 0.0) -> None:  # noqa: ARG002  (nothing to wait for)
        """End; nothing can be running unless user code itself closes the runner."""
        self.cancel(tuple(self._waiting))
        self._report = None


def run_async_here(attempt: Attempt) -> Outcome:
    """Run an async attempt to its end from a thread that may or may not run an event loop."""
    if not _has_running_loop():
        return _run_in_own_loop(attempt)
    outcomes: list[Outcome] = []
    # A thread can run one loop at a time, and the caller's cannot go on before we return.
    helper = threading.Thread(
        target=lambda: outcomes.append(_run_in_own_loop(attempt)),
        name=f"penstock-inline-{attempt.id}",
        daemon=True,
    )
    helper.start()
    helper.join()
    return outcomes[0]


def _has_running_loop() -> bool:
    # Apart, so that the error which says no does not become the context of the user's.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_own_loop(attempt: Attempt) -> Outcome:
    began = time.monotonic()
    try:
        with asyncio.Runner() as runner:
            value = runner.run(
                call_async(attempt.fn, attempt.args, attempt.kwargs), context=attempt.context
            )
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        return Outcome(
            attempt.id, "raised", None, error, "", True, time.monotonic() - began, WORKER
        )
    return Outcome(attempt.id, "returned", value, None, "", True, time.monotonic() - began, WORKER)
