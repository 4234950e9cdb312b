"""The pools of this process: who may use one, how long an unused one stays, and their end at exit.

A pool outlives the runs that use it, for a minute, since workers that are there answer in a
fraction of a millisecond, and new ones in a quarter of a second.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  (so that our end at exit comes before its)
import os
import threading
from typing import TYPE_CHECKING, Final

from penstock_runners.process_pool.jobs import Client
from penstock_runners.process_pool.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.task_runners import Event, TaskRunner
    from penstock_runners.process_pool.crew import Plan

__all__ = ["POOLS", "Lease", "Pools"]

EXIT_SECONDS: Final = 1.0
MOST_UNUSED: Final = 2
"""Kept warm when a further kind of pool is needed; the oldest go first."""
CLOSE_SECONDS: Final = 2.0
"""How long the death of a killed worker may take to be noticed."""


class Lease:
    """A pool as one open runner uses it."""

    def __init__(self, pools: Pools, pool: Pool, client: Client) -> None:
        self.process_id = os.getpid()
        self.pool = pool
        self.client = client
        self._pools = pools

    def close(self, by: float, grace_seconds: float) -> None:
        """Drop what waits and wait for what runs; it is killed when its time is over."""
        closed = self.client.is_closed
        try:
            self.pool.close(self.client, by)
            closed.wait(grace_seconds + CLOSE_SECONDS)
        finally:  # an impatient Ctrl-C ends the grace, not the closing
            if not closed.is_set():
                self.pool.close(self.client, 0.0)
                closed.wait(CLOSE_SECONDS)
            self._pools.give_back(self.pool)


class Pools:
    """Owns the pools; closes them at exit, and forgets them in forked children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[Plan, Pool] = {}
        self._ending: list[Pool] = []
        """Not for use any more, and perhaps not gone yet."""

    def lease(self, plan: Plan, report: Callable[[Event], None], runner: TaskRunner) -> Lease:
        """Return a pool of that kind, warm if there is one."""
        client = Client(report, runner)
        with self._lock:
            pool = self._pools.get(plan)
            if pool is None:
                self._stop_surplus()
                pool = self._pools[plan] = Pool(plan, self._may_end)
            pool.leases += 1
            pool.attach(client)
        return Lease(self, pool, client)

    def _stop_surplus(self) -> None:
        unused = [pool for pool in self._pools.values() if not pool.leases]
        for pool in unused[: max(0, len(unused) - MOST_UNUSED)]:
            del self._pools[pool.plan]
            self._ending.append(pool)
            pool.stop()

    def give_back(self, pool: Pool) -> None:
        """Take a lease back; a pool that is not to be kept warm is gone when this returns."""
        with self._lock:
            pool.leases -= 1
            is_last = pool.leases == 0
            if is_last:
                pool.rest()
        if is_last and pool.plan.warm_seconds <= 0:
            pool.join(EXIT_SECONDS)

    def _may_end(self, pool: Pool, is_broken: bool) -> bool:
        with self._lock:
            if pool.leases and not is_broken:
                return False
            if self._pools.get(pool.plan) is pool:
                del self._pools[pool.plan]
            self._ending = [one for one in self._ending if not one.has_ended()]
            self._ending.append(pool)
            return True

    def end(self) -> None:
        """Stop all pools, and wait for a second."""
        with self._lock:
            pools = [*self._pools.values(), *self._ending]
            self._pools.clear()
            self._ending.clear()
        for pool in pools:
            pool.stop()
        for pool in pools:
            pool.join(EXIT_SECONDS)

    def forget_in_child(self) -> None:
        """In a forked child: the workers, and the thread that serves them, are the parent's."""
        self._lock = threading.Lock()
        for pool in (*self._pools.values(), *self._ending):
            pool.close_in_child()
        self._pools.clear()
        self._ending.clear()


POOLS: Final = Pools()
atexit.register(POOLS.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOLS.forget_in_child)
