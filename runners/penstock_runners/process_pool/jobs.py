"""The attempts that a pool holds, whose they are, and the order in which they get a worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.task_runners import Attempt, Event, TaskRunner
    from penstock_runners.batching import Pace
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Client", "Job", "JobQueue"]


class Client:
    """One open runner, for which a pool works. But for `taken`, only the pool's thread writes."""

    def __init__(self, report: Callable[[Event], None], runner: TaskRunner) -> None:
        self.report = report
        self.runner = runner
        self.jobs: dict[int, Job] = {}
        """Without an outcome, by the attempt's id."""
        self.taken = 0
        """How many attempts were submitted; written by the engine's thread."""
        self.ended = 0
        self.close_by: float | None = None
        """Closing; what runs at this time is killed. None: open."""
        self.is_killed = False
        self.is_closed = threading.Event()
        """No attempt is left."""

    @property
    def open_attempts(self) -> int:
        """How many attempts have no outcome."""
        return self.taken - self.ended


class Job:
    """An attempt in a pool.

    Its number is the pool's own, since runs may share attempt ids, and is good for one journey to
    a worker only.
    """

    __slots__ = (
        "attempt",
        "client",
        "estimate_seconds",
        "is_started",
        "is_unwanted",
        "must_die",
        "number",
        "pace",
        "worker",
    )

    def __init__(self, number: int, client: Client, attempt: Attempt) -> None:
        self.number = number
        self.client = client
        self.attempt = attempt
        self.pace: Pace | None = None
        """Of its function; None before it was looked at."""
        self.worker: Worker | None = None
        """Who has it, begun or not; None while it waits here."""
        self.estimate_seconds = 0.0
        self.is_started = False
        """`Started` was reported."""
        self.is_unwanted = False
        """Cancelled: it must not begin any more."""
        self.must_die = False
        """Cancelled hard: it must end, also if it has begun."""


class JobQueue:
    """Waiting jobs: a higher priority goes first, equal ones in order. Not thread-safe."""

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, Job]] = {}
        self._top: OrderedDict[int, Job] | None = None
        """The lane of the highest priority; never an empty one."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, job: Job) -> None:
        """Add a job at the end of its lane."""
        self._lane(job)[job.number] = job
        self._count += 1

    def push_front(self, job: Job) -> None:
        """Put a job back at the front of its lane."""
        lane = self._lane(job)
        lane[job.number] = job
        lane.move_to_end(job.number, last=False)
        self._count += 1

    def pop(self) -> Job | None:
        """Take the job whose turn it is; None if none waits."""
        lane = self._top
        if lane is None:
            return None
        _, job = lane.popitem(last=False)
        self._count -= 1
        if not lane:
            self._remove_lane(job.attempt.priority)
        return job

    def drop(self, job: Job) -> None:
        """Remove a job, if it waits here."""
        lane = self._lanes.get(job.attempt.priority)
        if lane is None or lane.pop(job.number, None) is None:
            return
        self._count -= 1
        if not lane:
            self._remove_lane(job.attempt.priority)

    def _lane(self, job: Job) -> OrderedDict[int, Job]:
        lane = self._lanes.get(job.attempt.priority)
        if lane is None:
            lane = self._lanes[job.attempt.priority] = OrderedDict()
            self._top = self._lanes[max(self._lanes)]
        return lane

    def _remove_lane(self, priority: int) -> None:
        del self._lanes[priority]
        self._top = self._lanes[max(self._lanes)] if self._lanes else None
