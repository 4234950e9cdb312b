"""The attempts that a pool holds, whose they are, and the order in which they get a worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from penstock.task_runners import Attempt, Event, Series, TaskRunner
    from penstock_runners.batching import Pace
    from penstock_runners.process_pool.workers import Worker

__all__ = ["Client", "Job", "JobQueue", "Stretch"]


_NO_CALL: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})


class Client:
    """One open runner, for which a pool works. But for `taken`, who has the pool's lock writes."""

    def __init__(self, report: Callable[[Event], None], runner: TaskRunner) -> None:
        self.report = report
        self.runner = runner
        self.jobs: dict[int, Job] = {}
        """Without an outcome, by the attempt's id; but for those in a `Stretch`."""
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

    def __len__(self) -> int:
        return 1

    @property
    def key(self) -> int:
        """Its number: as `Stretch` has it."""
        return self.number

    @property
    def common(self) -> Attempt:
        """The attempt: as `Stretch` has it."""
        return self.attempt


class Stretch:
    """Attempts of a series, one behind the other, that nothing has set apart from one another.

    They wait, travel and end as one. As soon as there is more to do or to say about one of them
    they are unfolded: there is a `Job` for each from then on.
    """

    __slots__ = (
        "client",
        "common",
        "estimate_seconds",
        "key",
        "number",
        "pace",
        "series",
        "start",
        "stop",
        "worker",
    )

    def __init__(self, number: int, client: Client, series: Series, start: int, stop: int) -> None:
        self.number = number
        """Of the first; the others follow."""
        self.key = number
        """The number under which it is held, also when the first of them have ended."""
        self.client = client
        self.series = series
        self.start = start
        self.stop = stop
        self.common: Attempt = series.template
        """All of their attempts, but for what makes them different."""
        self.pace: Pace | None = None
        self.worker: Worker | None = None
        self.estimate_seconds = 0.0
        """Of each call."""

    def __len__(self) -> int:
        return self.stop - self.start

    def take(self, count: int) -> Stretch:
        """Return the first so many, which are in here no more. For one that is held nowhere."""
        taken = Stretch(self.number, self.client, self.series, self.start, self.start + count)
        taken.pace = self.pace
        self.advance(count)
        self.key = self.number
        return taken

    def advance(self, count: int) -> None:
        """Let go of the first so many."""
        self.number += count
        self.start += count

    def forget(self, count: int) -> None:
        """Let go of the arguments of the first so many."""
        self.series.calls[self.start : self.start + count] = [_NO_CALL] * count

    def unfold(self) -> list[Job]:
        """Return a job for each, of which their client knows."""
        jobs = [
            Job(self.number + place, self.client, self.series[self.start + place])
            for place in range(len(self))
        ]
        for job in jobs:
            job.pace, job.worker = self.pace, self.worker
            job.estimate_seconds = self.estimate_seconds
            self.client.jobs[job.attempt.id] = job
        self.forget(len(self))  # the jobs have them
        return jobs


class JobQueue:
    """What waits: a higher priority goes first, equal ones in order. Not thread-safe."""

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, Job | Stretch]] = {}
        self._top: OrderedDict[int, Job | Stretch] | None = None
        """The lane of the highest priority; never an empty one."""
        self._count = 0
        self._stretches = 0

    def __len__(self) -> int:
        return self._count

    def push(self, waiting: Job | Stretch) -> None:
        """Add to the end of the lane."""
        self._lane(waiting)[waiting.number] = waiting
        self._count += len(waiting)
        self._stretches += isinstance(waiting, Stretch)

    def push_front(self, waiting: Job | Stretch) -> None:
        """Put back at the front of the lane."""
        lane = self._lane(waiting)
        lane[waiting.number] = waiting
        lane.move_to_end(waiting.number, last=False)
        self._count += len(waiting)
        self._stretches += isinstance(waiting, Stretch)

    def pop(self) -> Job | Stretch | None:
        """Take what is next; None if nothing waits."""
        lane = self._top
        if lane is None:
            return None
        _, waiting = lane.popitem(last=False)
        self._count -= len(waiting)
        self._stretches -= isinstance(waiting, Stretch)
        if not lane:
            self._remove_lane(waiting.common.priority)
        return waiting

    def drop(self, job: Job) -> None:
        """Remove a job, if it waits here."""
        lane = self._lanes.get(job.common.priority)
        if lane is None or lane.pop(job.number, None) is None:
            return
        self._count -= 1
        if not lane:
            self._remove_lane(job.common.priority)

    def unfold(self, client: Client) -> None:
        """Set apart what waits for one client."""
        if not self._stretches:
            return
        for lane in self._lanes.values():
            for waiting in unfolded(lane, client):
                lane[waiting.number] = waiting
        lanes = self._lanes.values()
        self._stretches = sum(isinstance(one, Stretch) for lane in lanes for one in lane.values())

    def _lane(self, waiting: Job | Stretch) -> OrderedDict[int, Job | Stretch]:
        priority = waiting.common.priority
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = OrderedDict()
            self._top = self._lanes[max(self._lanes)]
        return lane

    def _remove_lane(self, priority: int) -> None:
        del self._lanes[priority]
        self._top = self._lanes[max(self._lanes)] if self._lanes else None


def unfolded(
    held: MutableMapping[int, Job | Stretch], client: Client | None
) -> list[Job | Stretch]:
    """Take out everything from the first stretch on, and return it unfolded, in order.

    Args:
        held: by number.
        client: whose stretches are to be unfolded; None is anybody's.
    """
    every = list(held.values())
    first = next((i for i, one in enumerate(every) if is_to_unfold(one, client)), len(every))
    taken: list[Job | Stretch] = []
    for one in every[first:]:
        del held[one.key]
        if isinstance(one, Stretch) and is_to_unfold(one, client):
            taken += one.unfold()
        else:
            taken.append(one)
    return taken


def is_to_unfold(waiting: Job | Stretch, client: Client | None) -> bool:
    """Whether something is a stretch of a client, or of anybody."""
    return isinstance(waiting, Stretch) and (client is None or waiting.client is client)
