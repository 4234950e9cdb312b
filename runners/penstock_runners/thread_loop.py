"""The one event loop on which the thread runner runs its async attempts, and its thread.

Submitting puts attempts into a queue and wakes the loop once, however many they are; the loop
takes as many as there are places. Only the loop's thread touches tasks and reports their ends, so
an end, a stop and a late end cannot race: whoever takes the attempt out of `_tasks` reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from penstock.strikes import keep_trying
from penstock.task_runners import Outcome, Started
from penstock.worker.calling import call_async
from penstock_runners.attempt_queue import AttemptQueue
from penstock_runners.thread_workers import AbandonedThreads, GivenUp, raise_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.task_runners import Attempt, Event

__all__ = ["EventLoopThread"]

NAME = "penstock-event-loop"

SECONDS_TO_STOP = 1.0
"""How long a cancelled coroutine may take to end before it counts as abandoned."""

SECONDS_TO_WIND_UP = 0.4
"""The same, when the runner closes; and then for async generators, and for `to_thread`."""

logger = logging.getLogger("penstock.task_runners.thread")


class EventLoopThread:
    """Runs async attempts, up to a number of them at once. Starts its thread when it is made."""

    def __init__(
        self, report: Callable[[Event], None], max_async: int, abandoned: AbandonedThreads
    ) -> None:
        self._report = report
        self._max_async = max_async
        self._abandoned = abandoned
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        self._loop_lock = threading.Lock()
        """Held while something is put to the loop from outside, and while it ends."""
        self._ended = False
        self._closing = False
        self._stopped = False
        self._quiet = threading.Event()
        """Set when the loop closes and nothing runs on it."""
        # under the lock
        self._lock = threading.Lock()
        self._queue = AttemptQueue()
        self._awake = False
        self._blocked: set[int] = set()
        # of the loop's thread
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping: set[int] = set()
        self._deaf: set[asyncio.Task[None]] = set()
        """Abandoned tasks, kept alive: a loop holds its tasks weakly."""
        self._thread = threading.Thread(target=self._main, name=NAME, daemon=True)
        self._thread.start()

    def waiting(self) -> int:
        """How many attempts have no place on the loop yet."""
        return len(self._queue)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Queue the attempts and wake the loop."""
        with self._lock:
            for attempt in attempts:
                self._queue.push(attempt)
        self._wake()

    def cancel(self, attempt_ids: Iterable[int], *, hard: bool) -> None:
        """Drop what waits; cancel the task of what runs if `hard`."""
        running: list[int] = []
        for attempt_id in attempt_ids:
            with self._lock:
                dropped = self._queue.drop(attempt_id)
            if dropped:
                self._report_unbegun(attempt_id, "cancelled before it began")
            else:
                running.append(attempt_id)
        if hard and running:
            self._call(lambda: self._stop(running, SECONDS_TO_STOP))

    def block(self, attempt_id: int, now: bool) -> None:
        """An attempt begins or ends to wait for others: its place is lent meanwhile."""
        with self._lock:
            if now:
                self._blocked.add(attempt_id)
            if not now or attempt_id not in self._tasks:
                self._blocked.discard(attempt_id)
        self._wake()

    def begin_closing(self) -> None:
        """Drop what waits; let what runs go on."""
        with self._lock:
            dropped = self._queue.drop_all()
        for attempt_id in dropped:
            self._report_unbegun(attempt_id, "the task runner was closed before it began")
        self._call(self._note_closing)

    def join(self, deadline: float) -> None:
        """Wait for the running attempts until `deadline` at most."""
        self._quiet.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Ask the loop to cancel what is left and to end."""
        self._stopped = True
        self._call(self._loop.stop)

    def end(self, seconds: float) -> None:
        """After `stop()`: wait for the thread to end, or abandon it where user code blocks it."""
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return
        for attempt_id in tuple(self._tasks):
            self._end(Outcome(attempt_id, "abandoned", reason="it blocks the event loop"))
        with self._loop_lock:
            if self._ended:
                return
            self._abandoned.add(self._thread)
        keep_trying(self._strike)
        self._abandoned.warn_once(self._thread)

    def _strike(self) -> bool:
        with self._loop_lock:
            return self._ended or raise_in(self._thread)

    # --- from other threads to the loop -------------------------------------------------

    def _call(self, callback: Callable[[], object]) -> None:
        with self._loop_lock:
            if not self._ended:
                self._loop.call_soon_threadsafe(callback)

    def _wake(self) -> None:
        with self._lock:
            if self._awake or not self._queue:
                return
            self._awake = True
        self._call(self._fill)

    def _report_unbegun(self, attempt_id: int, reason: str) -> None:
        self._report(Outcome(attempt_id, "stopped", reason=reason, began=False))

    # --- in the loop's thread -----------------------------------------------------------

    def _main(self) -> None:
        with contextlib.suppress(GivenUp):
            self._run_loop()
        with contextlib.suppress(GivenUp), self._loop_lock:
            self._ended = True
        # From here on nobody raises anything in this thread.
        self._loop.close()
        self._abandoned.discard(self._thread)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        # One that we can wait for: asyncio's own leaves its threads behind when a loop closes.
        executor = ThreadPoolExecutor(thread_name_prefix="penstock-to-thread")
        self._loop.set_default_executor(executor)
        while not self._stopped:
            try:
                self._loop.run_forever()
            except BaseException:
                # SystemExit or KeyboardInterrupt from a task that user code made and left.
                logger.exception("an error came out of the event loop, which goes on")
        try:
            self._loop.run_until_complete(self._wind_up())
        except BaseException:
            logger.exception("an error came out of the event loop at its end")
        for attempt_id in tuple(self._tasks):
            self._end(Outcome(attempt_id, "abandoned", reason="it did not end when cancelled"))
        stopper = threading.Thread(target=executor.shutdown, daemon=True)
        stopper.start()
        stopper.join(SECONDS_TO_WIND_UP)
        asyncio.set_event_loop(None)

    def _fill(self) -> None:
        """Give a place to as many attempts as there are places."""
        while True:
            with self._lock:
                free = len(self._tasks) < self._max_async + len(self._blocked)
                attempt = self._queue.pop() if free else None
                if attempt is None:
                    self._awake = False
                    return
            self._tasks[attempt.id] = self._loop.create_task(
                self._run(attempt), context=attempt.context
            )

    async def _run(self, attempt: Attempt) -> None:
        began = time.monotonic()
        if attempt.report_start:
            self._report(Started(attempt.id, NAME, began))
        try:
            value = await call_async(attempt.fn, attempt.args, attempt.kwargs)
        except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
            seconds = time.monotonic() - began
            # Never in a local variable: error -> traceback -> this frame would be a cycle.
            if isinstance(error, asyncio.CancelledError) and attempt.id in self._stopping:
                self._end(
                    Outcome(attempt.id, "stopped", None, None, "cancelled", True, seconds, NAME)
                )
            else:
                self._end(Outcome(attempt.id, "raised", None, error, "", True, seconds, NAME))
            return
        self._end(
            Outcome(attempt.id, "returned", value, None, "", True, time.monotonic() - began, NAME)
        )

    def _end(self, outcome: Outcome) -> None:
        attempt_id = outcome.attempt_id
        if self._tasks.pop(attempt_id, None) is None:
            return  # abandoned before, so reported before
        self._stopping.discard(attempt_id)
        if self._blocked:
            with self._lock:
                self._blocked.discard(attempt_id)
        self._report(outcome)
        if self._queue:
            self._fill()
        elif not self._tasks and self._closing:
            self._quiet.set()

    def _stop(self, attempt_ids: Iterable[int], seconds: float) -> None:
        """Cancel tasks, and look again later whether they took it."""
        for attempt_id in attempt_ids:
            task = self._tasks.get(attempt_id)
            if task is None:
                continue
            coroutine = task.get_coro()
            if inspect.iscoroutine(coroutine) and (
                inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
            ):
                # Cancelled before its first step it would never get to report anything.
                self._end(
                    Outcome(attempt_id, "stopped", reason="cancelled before it began", began=False)
                )
            else:
                self._stopping.add(attempt_id)
                self._loop.call_later(seconds, self._abandon, attempt_id)
            task.cancel()

    def _abandon(self, attempt_id: int) -> None:
        task = self._tasks.get(attempt_id)
        if task is None:
            return
        self._deaf.add(task)
        task.add_done_callback(self._deaf.discard)
        reason = "it was cancelled and goes on all the same; a process runner really stops it"
        self._end(Outcome(attempt_id, "abandoned", reason=reason, worker=NAME))

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._ended and "task" in context:
            return  # an abandoned task goes with its loop: that it did not end was told before
        loop.default_exception_handler(context)

    def _note_closing(self) -> None:
        self._closing = True
        if not self._tasks:
            self._quiet.set()

    async def _wind_up(self) -> None:
        """Cancel every task, ours and those that user code left, and close its generators."""
        self._stop(tuple(self._tasks), SECONDS_TO_WIND_UP)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left.difference(self._tasks.values()):
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=SECONDS_TO_WIND_UP)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._loop.shutdown_asyncgens(), SECONDS_TO_WIND_UP)
