"""The worker threads of the thread runner: who takes an attempt, and what stops one.

**Taking.** `AttemptQueue` holds what waits. A worker that finds it empty counts itself idle and
waits for a token on a `SimpleQueue`; whoever brings work takes as many off the idle count as it
puts tokens, and starts a thread for what no idle worker will take. So a busy runner passes one
lock and no queue for each attempt.

**Capacity.** The limit, one more for each attempt that waits for other tasks, one less for each
abandoned thread beyond `MAX_ABANDONED`. A worker that is one too many leaves when it is free.

**Stopping.** A thread cannot be stopped from outside, so it is *given up*: another takes its
place, its attempt is ``abandoned`` and `GivenUp` is raised in it, for code that can be reached.
`_running` decides who reports, by an atomic `dict.pop`: the worker (its outcome counts) or
`give_up` (the worker's outcome is dropped, and the thread leaves). A worker that lost waits for
`stop_sent`, hence

* `GivenUp` never reaches a thread that has gone on to another attempt, nor another thread that
  inherited its identifier;
* it never reaches a thread that holds our lock or is reporting: between the registration in
  `_running` and the pop a worker does neither.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

from penstock.attempt import run_here
from penstock.strikes import keep_trying, raise_in_thread
from penstock.task_runners import Outcome, Started
from penstock_runners.attempt_queue import AttemptQueue
from penstock_runners.inner_threads import INNER_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.task_runners import Attempt, Event

__all__ = ["MAX_ABANDONED", "AbandonedThreads", "GivenUp", "WorkerThreads", "raise_in"]

MAX_ABANDONED = 64
"""So many abandoned threads may live beside a full set of workers."""

logger = logging.getLogger("penstock.task_runners.thread")


class GivenUp(BaseException):
    """Raised in the middle of user code whose attempt has been stopped.

    Not an `Exception`, so that ``except Exception`` in a loop does not keep the code alive.
    """


def raise_in(thread: threading.Thread) -> bool:
    """Raise `GivenUp` in a running thread, as soon as it executes Python code again.

    The engine's own code in a worker is let finish, and so are log lines.

    Returns:
        Whether that is done; else it is to be tried again.
    """
    assert thread.ident is not None
    if isinstance(thread, Worker) and thread.shield:
        thread.is_struck = True
        return True
    return raise_in_thread(thread.ident, GivenUp)


class AbandonedThreads:
    """The threads that a runner gave up and that have not ended yet."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()
        self._warned = False

    def __len__(self) -> int:
        return len(self._threads)

    def add(self, thread: threading.Thread) -> None:
        """Count a thread."""
        self._threads.add(thread)

    def discard(self, thread: threading.Thread) -> None:
        """The thread ends."""
        self._threads.discard(thread)

    def join(self, deadline: float) -> None:
        """Wait for them to end, until `deadline` at most."""
        _join(tuple(self._threads), deadline)

    def warn_once(self, thread: threading.Thread) -> None:
        """Say in the log what became of a thread; the second one is only counted."""
        if self._warned:
            return
        self._warned = True
        logger.warning(
            "%s was told to stop and cannot be made to end: what it runs may go on in the "
            "background. Only a process runner really stops a task. "
            "(Further threads of this runner are counted in `abandoned_threads`, not logged.)",
            thread.name,
        )


class Worker(threading.Thread):
    """One worker thread."""

    def __init__(self, name: str, workers: WorkerThreads) -> None:
        super().__init__(name=name, daemon=True)
        self._workers = workers
        self.stop_sent = threading.Lock()
        """Held until `GivenUp` has been raised in this thread."""
        self.stop_sent.acquire()
        self.shield = 0
        """How many blocks of the engine's code are around what runs here: it sets this itself."""
        self.is_struck = False
        """`GivenUp` was held off by the shield."""

    def strike(self) -> None:
        """Raise here, at a safe place, what the shield has held off."""
        if self.is_struck:
            self.is_struck = False
            raise GivenUp

    def run(self) -> None:
        """Take attempts until told to leave."""
        with contextlib.suppress(GivenUp):
            if self._workers.work(self):
                return
            self.stop_sent.acquire()  # GivenUp is raised here if it did not reach user code
        self._workers.forget(self)


class Pace:
    """How long attempts take here, and so how many are worth holding for each slot.

    Attempts of microseconds are held by the dozen, as each hand-over to a waiting thread costs
    several of them. Of longer ones, one more than can run is enough, and the rest is better off in
    the engine: there a run whose inputs are ready goes before those that started the graph, and
    depth comes first. Threads write without a lock: a lost note changes nothing.
    """

    LEAST, MOST = 2, 64
    AIM_SECONDS = 0.001

    def __init__(self) -> None:
        self._ended = 0
        self._mean_seconds = 0.0

    def note(self, duration_seconds: float) -> None:
        """An attempt took this long."""
        self._ended += 1
        self._mean_seconds += (duration_seconds - self._mean_seconds) * 0.1

    def attempts_per_slot(self, slots: int) -> int:
        """Return how many to hold; few until something is known."""
        known = self.LEAST + self._ended // slots
        worthwhile = int(self.AIM_SECONDS / max(self._mean_seconds, 1e-6))
        return max(self.LEAST, min(self.MOST, known, worthwhile))


class WorkerThreads:
    """Runs sync attempts. Every method may be called from any thread."""

    def __init__(
        self, report: Callable[[Event], None], limit: int, abandoned: AbandonedThreads
    ) -> None:
        self._report = report
        self._limit = limit
        self._abandoned = abandoned
        self._names = (f"penstock-worker-{number}" for number in itertools.count())
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._running: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self.pace = Pace()
        # all below: under the lock
        self._queue = AttemptQueue()
        self._workers: set[Worker] = set()
        self._idle = 0
        self._blocked: set[int] = set()
        self._closing = False
        self._capacity = limit

    def slots(self) -> int:
        """How many attempts can make progress at once."""
        return max(0, self._limit - self._overdrawn())

    def open_attempts(self) -> int:
        """How many attempts run or wait, but for those that wait for others.

        Else a chain of tasks in tasks would use up all credit, and wait for its end for ever.
        """
        with self._lock:
            return len(self._queue) + len(self._running) - len(self._blocked)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Queue the attempts and see to it that somebody takes them."""
        untaken = len(attempts)
        started: Sequence[Worker] = ()
        with self._lock:
            for attempt in attempts:
                self._queue.push(attempt)
            if self._idle:
                untaken -= self._wake_idle(untaken)
            if untaken and len(self._workers) < self._capacity:
                started = self._add_workers(untaken)
        if started and not self._start(started) and not self._workers:
            # No thread at all to be had. The caller crashes these attempts: they must not run.
            with self._lock:
                for attempt in attempts:
                    self._queue.drop(attempt.id)
            raise RuntimeError("no worker thread could be started")

    def cancel(self, attempt_ids: Iterable[int], *, hard: bool) -> list[int]:
        """Drop what waits; give up what runs if `hard`. Return the ids that are not here."""
        dropped: list[int] = []
        elsewhere: list[int] = []
        running: list[int] = []
        with self._lock:
            for attempt_id in attempt_ids:
                if self._queue.drop(attempt_id):
                    dropped.append(attempt_id)
                elif attempt_id in self._running:
                    running.append(attempt_id)
                else:
                    elsewhere.append(attempt_id)
        self._report_dropped(dropped, "cancelled before it began")
        if hard:
            for attempt_id in running:
                self._give_up(attempt_id)
        return elsewhere

    def block(self, attempt_id: int, now: bool) -> bool:
        """An attempt begins or ends to wait for others; False if it is not running here."""
        with self._lock:
            if attempt_id not in self._running:
                return False
            if now:
                self._blocked.add(attempt_id)
            if not now or attempt_id not in self._running:
                self._blocked.discard(attempt_id)  # or it ended just now, which takes no lock
            started = self._resize()
        self._start(started)
        return True

    def begin_closing(self) -> None:
        """Drop what waits, let the idle threads go and the others when they are done."""
        with self._lock:
            self._closing = True
            dropped = self._queue.drop_all()
            self._resize()
        self._report_dropped(dropped, "the task runner was closed before it began")

    def join(self, deadline: float) -> None:
        """Wait for the workers to leave, until `deadline` at most."""
        with self._lock:
            workers = tuple(self._workers)
        _join(workers, deadline)

    def stop_all(self, deadline: float) -> None:
        """Give up whatever runs, and wait for its threads to end until `deadline` at most."""
        given_up = [self._give_up(attempt_id) for attempt_id in tuple(self._running)]
        _join([worker for worker in given_up if worker is not None], deadline)
        self.join(deadline)

    # --- in the worker threads ---------------------------------------------------------

    def work(self, me: Worker) -> bool:
        """Take attempts one after the other; False if this thread has been given up."""
        name = me.name
        running, report, lock, queue = self._running, self._report, self._lock, self._queue
        share = None
        while True:
            if INNER_THREADS.share is not share:
                share = INNER_THREADS.share
                INNER_THREADS.apply_here()
            with lock:
                if len(self._workers) > self._capacity:
                    self._workers.discard(me)
                    return True
                attempt = queue.pop()
                if attempt is None:
                    self._idle += 1
                else:
                    running[attempt.id] = me
                    if attempt.report_start:
                        # Under the lock, or `abandoned` could be reported before it.
                        report(Started(attempt.id, name, time.monotonic()))
            if attempt is None:
                self._wake.get()
                continue
            outcome = run_here(attempt, name)
            if running.pop(attempt.id, None) is None:
                return False
            if self._blocked:
                self._end_block(attempt.id)
            self.pace.note(outcome.duration_seconds)
            report(outcome)
            del attempt, outcome  # an idle worker keeps neither arguments nor results alive

    def forget(self, worker: Worker) -> None:
        """An abandoned thread ends: what it overdrew is given back."""
        with self._lock:
            self._abandoned.discard(worker)
            started = self._resize()
        self._start(started)

    def _end_block(self, attempt_id: int) -> None:
        with self._lock:
            self._blocked.discard(attempt_id)
            started = self._resize()
        self._start(started)

    # --- capacity; with the lock held ---------------------------------------------------

    def _overdrawn(self) -> int:
        return max(0, len(self._abandoned) - MAX_ABANDONED)

    def _resize(self) -> list[Worker]:
        """Work out the capacity anew; return the workers to start for it."""
        if self._closing:
            self._capacity = 0
        else:
            self._capacity = max(0, self._limit + len(self._blocked) - self._overdrawn())
        if len(self._workers) > self._capacity:
            self._wake_idle(len(self._workers) - self._capacity)  # it leaves when it wakes
            return []
        return self._add_workers(len(self._queue))

    def _wake_idle(self, most: int) -> int:
        woken = min(self._idle, most)
        self._idle -= woken
        for _ in range(woken):
            self._wake.put(None)
        return woken

    def _add_workers(self, most: int) -> list[Worker]:
        number = min(most, self._capacity - len(self._workers))
        if number <= 0:
            return []
        added = [Worker(next(self._names), self) for _ in range(number)]
        self._workers.update(added)
        return added

    # --- without the lock ---------------------------------------------------------------

    def _start(self, workers: Sequence[Worker]) -> bool:
        """Start these; False if the system has not that many threads to give."""
        for number, worker in enumerate(workers):
            try:
                worker.start()
            except RuntimeError:
                with self._lock:
                    self._workers.difference_update(workers[number:])
                logger.exception("a worker thread could not be started; going on with fewer")
                return False
        return True

    def _give_up(self, attempt_id: int) -> Worker | None:
        """Let a running attempt go with its thread; None if it came to its end first."""
        with self._lock:
            worker = self._running.pop(attempt_id, None)
            if worker is None:
                return None
            self._workers.discard(worker)
            self._blocked.discard(attempt_id)
            self._abandoned.add(worker)
            overdrawn = self._overdrawn()
            started = self._resize()
        reason = (
            "its thread was told to stop, but may still be in a blocking call; "
            "a process runner really stops it"
        )
        if overdrawn:
            reason += (
                f"; its slot stays empty, since {len(self._abandoned)} abandoned threads "
                f"are still alive (at most {MAX_ABANDONED} are replaced)"
            )
        self._report(Outcome(attempt_id, "abandoned", reason=reason, worker=worker.name))
        self._abandoned.warn_once(worker)
        worker.name += " (abandoned)"  # for whoever looks at a dump of all stacks
        # Not in ourselves: the engine may be driven from here, and must finish its step.
        is_other = worker is not threading.current_thread()

        def stop() -> bool:
            if is_other and not raise_in(worker):
                return False
            worker.stop_sent.release()
            return True

        keep_trying(stop)
        self._start(started)
        return worker

    def _report_dropped(self, attempt_ids: Iterable[int], reason: str) -> None:
        for attempt_id in attempt_ids:
            self._report(Outcome(attempt_id, "stopped", reason=reason, began=False))


def _join(threads: Iterable[threading.Thread], deadline: float) -> None:
    for thread in threads:
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
