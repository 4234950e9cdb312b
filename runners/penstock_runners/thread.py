"""The runner that runs attempts in threads of this process, and async ones on one event loop."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from penstock.cpus import usable_cpus
from penstock.task_runners import (
    Capabilities,
    TaskRunner,
    checked_resources,
    count_from_spec,
    show_resources,
)
from penstock_runners.inner_threads import INNER_THREADS
from penstock_runners.thread_loop import EventLoopThread
from penstock_runners.thread_variables import describe_share
from penstock_runners.thread_workers import AbandonedThreads, WorkerThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from penstock.task_runners import Attempt, Event

__all__ = ["ThreadPoolTaskRunner"]

SECONDS_TO_STOP: Final = 0.5
"""At `close()`, how long a thread may take to end after it was told to."""


class ThreadPoolTaskRunner(TaskRunner):
    """Runs attempts in daemon threads, started when there is work for them.

    Async attempts run on one event loop, so that one HTTP client serves all of them, and can
    really be cancelled. A sync attempt cannot: when it must stop, its slot is given to a new
    thread, and an exception is raised in the old one, which ends it unless it is in a blocking
    call or catches `BaseException`.

    While it is open, BLAS and OpenMP libraries in this process use no more threads than the CPUs
    allow for each slot, unless the environment (``OMP_NUM_THREADS``...) says how many.

    Args:
        max_workers: how many sync attempts run at once; by default the usable CPUs and four more,
            32 at most.
        max_async: how many async attempts run at once.
        resources: what there is for attempts to share, such as ``{"GPU": 2}``. A whole amount of
            something is so many of its indices, in ``penstock.runtime.task_run.resources``.
    """

    capabilities = Capabilities(
        kill="soft", async_functions=True, shares_event_loop=True, lends_slots=True
    )

    def __init__(
        self,
        max_workers: int | None = None,
        max_async: int = 1000,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = min(32, usable_cpus() + 4)
        self.max_workers = _positive("max_workers", max_workers)
        self.max_async = _positive("max_async", max_async)
        self.resources = checked_resources(resources)
        self._abandoned = AbandonedThreads()
        self._live: _Live | None = None

    @classmethod
    def from_spec(cls, argument: str) -> Self:
        """Make a runner from ``"8"``, a number of threads, or from ``""``."""
        return cls(count_from_spec(argument, "thread", "threads")) if argument else cls()

    def for_run(self) -> TaskRunner:
        """Return a copy that is not open and has abandoned nothing."""
        runner = super().for_run()
        assert isinstance(runner, ThreadPoolTaskRunner)
        runner._abandoned = AbandonedThreads()
        runner._live = None
        return runner

    @property
    def abandoned_threads(self) -> int:
        """How many threads were given up and are still alive."""
        return len(self._abandoned)

    def open(
        self,
        report: Callable[[Event], None],
        options: Mapping[str, Any],  # noqa: ARG002  (no hint matters here)
    ) -> None:
        """Get ready; the first attempt starts the first thread."""
        if self._live is not None:
            raise RuntimeError("this task runner is open already: use for_run() for another run")
        self._live = _Live(report, self.max_workers, self.max_async, self._abandoned)

    def summary(self) -> str:
        """Return how many threads there are, and how many numerical libraries use in each."""
        threads = f"{self.max_workers} thread{'' if self.max_workers == 1 else 's'}"
        offered = f", {show_resources(self.resources)}" if self.resources else ""
        return f"{threads}, {describe_share(self.max_workers, os.environ)}{offered}"

    def slots(self) -> int:
        """How many sync attempts can run at once."""
        return self.max_workers if self._live is None else self._live.workers.slots()

    def credit(self) -> int:
        """Return 2 to 64 for each slot, less what runs or waits, by how long attempts take.

        Async attempts count while they wait. Never 0 for want of slots alone: those of abandoned
        threads come back without notice.
        """
        live = self._live
        if live is None:
            return 0
        waiting = 0 if live.loop is None else live.loop.waiting()
        slots = max(1, live.workers.slots())
        most = slots * live.workers.pace.attempts_per_slot(slots)
        return max(0, most - live.workers.open_attempts() - waiting)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Take the attempts and start threads for them as far as there are slots."""
        live = self._live
        if live is None:
            raise RuntimeError("this task runner is not open: call open() before submit()")
        live.submit(attempts)

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        """Drop what waits; with `hard`, cancel async attempts and give up the threads of others."""
        live = self._live
        if live is None:
            return
        elsewhere = live.workers.cancel(attempt_ids, hard=hard)
        if elsewhere and live.loop is not None:
            live.loop.cancel(elsewhere, hard=hard)

    def blocked(self, attempt_id: int, now: bool) -> None:
        """Lend the slot of an attempt that waits for others, and take it back."""
        live = self._live
        if live is None or live.workers.block(attempt_id, now) or live.loop is None:
            return
        live.loop.block(attempt_id, now)

    def close(self, grace_seconds: float = 0.0) -> None:
        """Wait for running attempts up to `grace_seconds`, then stop them.

        Those that were stopped before have the same time to clean up.

        What ignores that is left behind, counted in `abandoned_threads`, after half a second.
        """
        live, self._live = self._live, None
        if live is not None and live.process_id == os.getpid():
            live.close(grace_seconds)


class _Live:
    """What exists while a runner is open."""

    def __init__(
        self,
        report: Callable[[Event], None],
        max_workers: int,
        max_async: int,
        abandoned: AbandonedThreads,
    ) -> None:
        self.process_id = os.getpid()
        self.workers = WorkerThreads(report, max_workers, abandoned)
        self.loop: EventLoopThread | None = None
        self._report = report
        self._max_async = max_async
        self._abandoned = abandoned
        self._slots = max_workers
        INNER_THREADS.open(max_workers)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        if os.getpid() != self.process_id:
            raise RuntimeError(
                "this task runner was opened in the parent process, before a fork, and its "
                "threads are there: make a new one in the child"
            )
        INNER_THREADS.refresh()
        for attempt in attempts:
            if attempt.is_async:
                self._submit_mixed(attempts)
                return
        self.workers.submit(attempts)

    def _submit_mixed(self, attempts: Sequence[Attempt]) -> None:
        if self.loop is None:
            self.loop = EventLoopThread(self._report, self._max_async, self._abandoned)
        self.loop.submit([attempt for attempt in attempts if attempt.is_async])
        self.workers.submit([attempt for attempt in attempts if not attempt.is_async])

    def close(self, grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        self.workers.begin_closing()
        if self.loop is not None:
            self.loop.begin_closing()
        try:
            self.workers.join(deadline)
            if self.loop is not None:
                self.loop.join(deadline)
            self._abandoned.join(deadline)
        finally:  # an impatient Ctrl-C ends the grace, not the closing
            deadline = time.monotonic() + SECONDS_TO_STOP
            if self.loop is not None:
                self.loop.stop()
            self.workers.stop_all(deadline)
            if self.loop is not None:
                self.loop.end(max(0.0, deadline - time.monotonic()) + SECONDS_TO_STOP)
            INNER_THREADS.close(self._slots)


def _positive(name: str, value: int) -> int:
    # A bool is an int, and max_workers=True surely meant something else.
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, not {value!r}")
    return value
