"""A pool of worker processes: one thread that feeds them, reads them, buries and replaces them.

Everything in here but `submit`, `cancel`, `close` and `stop` happens on that thread, and those only
leave it an order. But for one thing: where nothing is under way, `submit` sends an attempt itself.
So there is a lock for the orders, and one for all the rest, which the thread has unless it waits.
An attempt is in one of two places, the queue or the `sent` of one worker, and its outcome is
reported where it is taken out for good: so it has exactly one.
"""

from __future__ import annotations

import functools
import itertools
import os
import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

from penstock.attempt import Outcome, Series
from penstock.task_runners import Broken
from penstock_runners.process_pool.crew import TICK_SECONDS, Crew, Plan, is_running
from penstock_runners.process_pool.endings import stopped_early
from penstock_runners.process_pool.jobs import Client, Job, JobQueue, Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.attempt import Attempt
    from penstock.task_runners import Returned
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Plan", "Pool"]

MOST_FAILED_STARTS: Final = 3
RESTLESS_SECONDS: Final = 1.0
"""So long after the last news the thread looks around in every tick: then nobody has to wake it for
what is sent without it."""


class Pool:
    """Serves any number of clients, as long as its owner, the registry, lets it.

    Args:
        plan: how the workers are to be.
        may_end: asked by the pool's thread when it was idle for long enough, or is broken.
    """

    def __init__(self, plan: Plan, may_end: Callable[[Pool, bool], bool]) -> None:
        self.plan = plan
        self.leases = 0
        """How many clients there are; the registry counts."""
        self._may_end = may_end
        self._orders: deque[Callable[[], None]] = deque()
        self._orders_lock = threading.Lock()
        self._takes_orders = True
        self._is_asleep = False
        self._numbers = itertools.count(1)
        self._clients: list[Client] = []
        self._queue = JobQueue()
        self._crew = Crew(
            plan,
            self._numbers,
            self._queue,
            self._end,
            self._end_row,
            self._start_failed,
            self._wake,
        )
        self._restless_until = 0.0
        self.is_fast_asleep = False
        """It will not look around in the next tick, as what is sent at once needs."""
        self._lock = threading.Lock()
        """For what belongs to the pool's thread. Others may have it only where nothing happens, and
        nothing is about to end: `_break` comes without it, but says first that it is stopping."""
        self._failed_starts = 0
        self._idle_since: float | None = None
        self._is_stopping = False
        self._is_broken = False
        # Reentrant, as the collector may call `_wake` at any moment, in the middle of `_wake`.
        self._wake_lock = threading.RLock()
        self._can_wake = True
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self._crew.selector.register(self._wake_read, selectors.EVENT_READ, self._wake_up)
        self._thread = threading.Thread(target=self._run, name="penstock-processes", daemon=True)
        self._thread.start()

    # --- any thread -----------------------------------------------------------------------

    def attach(self, client: Client) -> None:
        """Begin to work for a client."""
        self._order(functools.partial(self._attach, client))

    def submit(self, client: Client, attempts: Sequence[Attempt]) -> None:
        """Take attempts."""
        client.taken += len(attempts)
        if len(attempts) == 1 and self._send_at_once(client, attempts):
            return
        if not self._order(functools.partial(self._take, client, attempts)):
            client.ended += len(attempts)
            for attempt in attempts:
                reason = "the worker processes are gone"
                client.report(Outcome(attempt.id, "lost", reason=reason, began=False))

    def _send_at_once(self, client: Client, attempts: Sequence[Attempt]) -> bool:
        """Send attempts from the calling thread, if a worker and all others are idle.

        Whoever waits for one short call after the other waits for one thread less.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            is_at_rest = self._takes_orders and not self._orders and not self._is_stopping
            if not is_at_rest or len(self._queue) or not self._crew.is_idle():
                return False
            self._take(client, attempts)
            self._crew.feed_ready()
            if len(self._queue) or self.is_fast_asleep:
                self._wake()
            return True
        finally:
            self._lock.release()

    def cancel(self, client: Client, attempt_ids: Sequence[int], hard: bool) -> None:
        """Drop what has not begun; with `hard`, kill the workers of what has."""
        self._order(functools.partial(self._cancel, client, tuple(attempt_ids), hard))

    def close(self, client: Client, by: float) -> None:
        """Drop what has not begun, kill what runs at that time, then set `client.is_closed`."""
        if not self._order(functools.partial(self._close, client, by)):
            client.is_closed.set()

    def rest(self) -> None:
        """Nobody uses the pool: end in a while."""
        self._order(self._rest)

    def stop(self) -> None:
        """End soon, whatever runs."""
        self._order(self._stop)

    def join(self, seconds: float) -> None:
        """Wait for the end of the pool."""
        self._thread.join(seconds)

    def has_ended(self) -> bool:
        """Whether nothing is left of it."""
        return not self._thread.is_alive()

    def _order(self, order: Callable[[], None]) -> bool:
        with self._orders_lock:
            if self._takes_orders:
                self._orders.append(order)
                if self._is_asleep:
                    self._is_asleep = False
                    self._wake()
            return self._takes_orders

    def _wake(self) -> None:
        with self._wake_lock:
            if not self._can_wake:
                return  # the pipe is closed, and its number may be that of another file
            try:
                os.write(self._wake_write, b"!")
            except BlockingIOError:
                return  # it is full of reasons to wake up

    def close_in_child(self) -> None:
        """In a fork of the driver: close what was inherited, which belongs to the parent."""
        self._wake_lock = threading.RLock()
        self._can_wake = False
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._crew.close_in_child()

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001  (a bug in here: nobody must wait for ever)
            self._break(error)
        self._end_all()

    def _turn(self) -> None:
        with self._lock:
            while self._orders:
                self._orders.popleft()()
            self._crew.sweep()
            has_more = self._crew.feed()
            now = time.monotonic()
            wake_at = self._look_at_clock(now)
            self._is_asleep = True  # and only then the look at the orders: see `_order`
            timeout = None if wake_at is None else max(0.0, wake_at - time.monotonic())
            if self._orders or self._is_stopping or has_more:
                timeout = 0.0
            elif now < self._restless_until:
                timeout = TICK_SECONDS if timeout is None else min(timeout, TICK_SECONDS)
            self.is_fast_asleep = timeout is None or timeout > TICK_SECONDS
        ready = self._crew.wait(timeout)
        self._is_asleep = False
        if ready:
            self._restless_until = time.monotonic() + RESTLESS_SECONDS
            with self._lock:
                self._crew.see_to(ready)

    def _wake_up(self, events: int) -> None:
        del events
        try:
            while len(os.read(self._wake_read, 4096)) == 4096:
                continue
        except BlockingIOError:
            return

    def _look_at_clock(self, now: float) -> float | None:
        """Do what is due, and return when the next thing is, if there is one."""
        due: list[float] = []
        for client in tuple(self._clients):
            if client.close_by is not None and not client.is_killed:
                if client.close_by <= now:
                    client.is_killed = True
                    self._cancel(client, tuple(client.jobs), hard=True)
                else:
                    due.append(client.close_by)
        crew_due = self._crew.look_at_clock(now)
        if crew_due is not None:
            due.append(crew_due)
        if self._idle_since is not None:
            if self._idle_since + self.plan.warm_seconds > now:
                due.append(self._idle_since + self.plan.warm_seconds)
            else:
                self._idle_since = None
                self._is_stopping = self._may_end(self, False)
        return min(due, default=None)

    # --- orders ---------------------------------------------------------------------------

    def _attach(self, client: Client) -> None:
        self._clients.append(client)
        self._idle_since = None

    def _take(self, client: Client, attempts: Sequence[Attempt]) -> None:
        if isinstance(attempts, Series):
            first, *_ = itertools.islice(self._numbers, len(attempts))
            self._queue.push(Stretch(first, client, attempts, 0, len(attempts)))
            return
        for attempt in attempts:
            job = Job(next(self._numbers), client, attempt)
            client.jobs[attempt.id] = job
            self._queue.push(job)

    def _unfold(self, client: Client) -> None:
        """Have a job for each of a client's attempts."""
        self._queue.unfold(client)
        self._crew.unfold(client)

    def _cancel(self, client: Client, attempt_ids: Sequence[int], hard: bool) -> None:
        self._unfold(client)
        recalls: dict[Worker, list[int]] = {}
        for attempt_id in attempt_ids:
            job = client.jobs.get(attempt_id)
            if job is None:
                continue  # it has ended
            worker = job.worker
            if worker is None:
                self._queue.drop(job)
                self._end(job, stopped_early(job))
                continue
            job.must_die = job.must_die or hard
            if worker.slot.number != job.number:
                job.is_unwanted = True
                recalls.setdefault(worker, []).append(job.number)
            elif hard:
                self._crew.begin_killing(worker, job)
        for worker, numbers in recalls.items():
            self._crew.recall(worker, numbers)

    def _close(self, client: Client, by: float) -> None:
        if client in self._clients:
            client.close_by = by
            self._unfold(client)
            if client.jobs:
                waiting = [i for i, job in client.jobs.items() if not is_running(job)]
                self._cancel(client, waiting, hard=False)
            self._end_client_if_done(client)

    def _rest(self) -> None:
        if not self._clients:
            self._idle_since = time.monotonic()

    def _stop(self) -> None:
        self._is_stopping = True

    def _end_client_if_done(self, client: Client) -> None:
        if client.close_by is not None and not client.jobs and client in self._clients:
            self._clients.remove(client)
            self._rest()
            client.is_closed.set()

    # --- ends -----------------------------------------------------------------------------

    def _end(self, job: Job, outcome: Outcome) -> None:
        """Report the one outcome of a job that is in the queue no more, and with no worker."""
        client = job.client
        del client.jobs[job.attempt.id]
        client.ended += 1
        if outcome.worker:
            self._failed_starts = 0
        client.report(outcome)
        if client.close_by is not None:
            self._end_client_if_done(client)

    def _end_row(self, client: Client, returned: Returned) -> None:
        """As `_end`, of attempts of one stretch. Its client is not about to close."""
        client.ended += len(returned.values)
        self._failed_starts = 0
        client.report(returned)

    def _start_failed(self, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            text = f"the worker processes do not start; {MOST_FAILED_STARTS} failed in a row"
            self._break(RuntimeError(f"{text}: {why}"))

    def _break(self, error: BaseException) -> None:
        """Lose every open attempt, tell the clients, and end."""
        self._is_stopping = self._is_broken = True
        self._may_end(self, True)
        for client in tuple(self._clients):
            self._end_all_of(client, "lost", f"the worker processes are gone: {error}")
            client.report(Broken(error, client.runner))

    def _end_all_of(self, client: Client, kind: Literal["lost", "stopped"], reason: str) -> None:
        self._unfold(client)
        for job in tuple(client.jobs.values()):
            began = is_running(job)
            if job.worker is not None:
                job.worker.take_off(job.number)
            else:
                self._queue.drop(job)
            self._end(job, Outcome(job.attempt.id, kind, reason=reason, began=began))

    def _end_all(self) -> None:
        with self._lock, self._orders_lock:
            self._takes_orders = False
        while self._orders:
            self._orders.popleft()()
        leave_by = self._crew.stop()
        for client in tuple(self._clients):
            kind: Literal["lost", "stopped"] = "lost" if self._is_broken else "stopped"
            self._end_all_of(client, kind, "the worker processes are gone")
            client.is_closed.set()
        self._crew.end(leave_by)
        with self._wake_lock:
            self._can_wake = False
            os.close(self._wake_read)
            os.close(self._wake_write)
