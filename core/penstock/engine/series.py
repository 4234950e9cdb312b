"""Many runs as one: those of a plain `.map()`, for as long as nothing sets one of them apart.

To make, hand out, hear of and end a run takes some 20 us of the driver. A task runner that sends
hundreds of short calls in one message leaves that as nearly all that an item costs, and of most
items nothing is ever asked but the result. So they are numbers in a list here. An item is *made*
into a `TaskRun`, in the state that it is in by then, as soon as anybody asks for more than its
result, or it has anything to tell but that it returned: it began and takes its time, it logs, it
fails, its worker died. From then on it is a run like any other, with its retries and its end.
"""

from __future__ import annotations

import array
import bisect
import functools
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final

from penstock.attempt import Packed, Series
from penstock.engine import interrupts
from penstock.engine.commands import READY, Execute
from penstock.engine.task_run import task_run
from penstock.futures import OPEN
from penstock.runs import TaskRun, made_at, new_id_bits
from penstock.worker.here import own_in_series

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Iterable, Mapping, Sequence

    from penstock.attempt import Attempt, Siblings
    from penstock.runs import FlowRun, Plan, Waiter
    from penstock.task_runners import Returned

__all__ = ["RunSeries", "apart", "can_be_series", "has_hooks"]

_NO_CALL: Final[tuple[tuple[Any, ...], Mapping[str, Any]]] = ((), {})


def can_be_series(plan: Plan) -> bool:
    """Whether nothing about a task makes each of its runs ask the driver for more than a place."""
    return (
        plan.runner.capabilities.takes_series
        and plan.runner.capabilities.pickles
        and plan.is_plain
        and plan.run_name is None
        and plan.keeping is None
        and plan.timeout_seconds is None
        and not plan.is_held
        and not plan.handlers
        and not plan.propagate
        and not plan.drops_results
        and not plan.workers
        and not has_hooks(plan)
    )


def has_hooks(plan: Plan) -> bool:
    """Whether anybody is to be called when a run enters some state."""
    return any(plan.hooks.values())


class RunSeries:
    """Runs of one `.map()` that differ in their arguments only.

    Of the items, some are *made*: they are runs of their own, in `made`. The others have returned,
    or are with the task runner, or wait in order. What is said of an item here holds while it is
    not made.

    The engine acts on a series under the turn; anybody may make an item, in any thread. So what
    both change is under the lock.

    Attributes:
        left: how many items have not ended, and are not made.
        next_index: the first item that the task runner has not got.
        template: what its attempts have in common, once the dispatcher has made it.
        dropped: items whose futures are gone: nobody will ask for their results.
    """

    is_series: ClassVar[bool] = True
    depth: ClassVar[int] = 0

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        flow_run: FlowRun,
        calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]],
        *,
        context: contextvars.Context,
        siblings: Siblings | None,
        priority: int,
        first_number: int,
        first_index: int,
    ) -> None:
        self.plan: Plan = plan
        self.engine: Any = engine
        self.flow_run: FlowRun = flow_run
        self.calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = calls
        self.context: contextvars.Context | None = context
        self.siblings: Siblings | None = siblings
        self.priority: int = priority
        self.first_number: int = first_number
        self.first_index: int = first_index
        self.origin: tuple[int, str, int] = (new_id_bits(), plan.name, first_number)
        self.at: float = engine.clock.time()
        self.values: list[Any] = [OPEN] * len(calls)
        self.began: array.array[float] = array.array("d", bytes(8 * len(calls)))
        self.ended: array.array[float] = array.array("d", bytes(8 * len(calls)))
        self.left: int = len(calls)
        self.next_index: int = 0
        self.made: dict[int, TaskRun] = {}
        self.dropped: set[int] = set()
        self.waiters: tuple[Waiter, ...] = ()
        self.template: Attempt | None = None
        # Of each piece that the task runner was given: the id of its first attempt, its items.
        self._ids: list[int] = []
        self._starts: list[int] = []
        self._stops: list[int] = []
        # Reentrant, as the collector may run a finalizer of the user's in the middle, and that may
        # ask for another item.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_over(self) -> bool:
        """Whether every item has ended, or is made."""
        return self.left == 0

    # --- results, in any thread ------------------------------------------------------------

    def has_returned(self, index: int) -> bool:
        """Whether `value` has the result of an item."""
        return self.values[index] is not OPEN

    def value(self, index: int) -> Any:
        """Return the result of an item, unpacked by whoever asks first."""
        value = self.values[index]
        if type(value) is Packed:
            loaded = value.load()  # the user's code: it may ask for anything that is locked
            with self._lock:  # everybody gets the same object
                if self.values[index] is value:
                    self.values[index] = loaded
                value = self.values[index]
        return value

    def awaited(self, index: int) -> RunSeries | TaskRun | None:
        """Return what has to end before an item has: its run, or the series; None if it has."""
        if self.values[index] is not OPEN:
            return None
        run = self.made.get(index)
        if run is None:
            return self
        return None if run.is_over else run

    # --- making runs, in any thread --------------------------------------------------------

    def run(self, index: int) -> TaskRun:
        """Return the run that an item is, made if it is not."""
        run = self.made.get(index)
        if run is not None:
            return run
        if not self.engine.loop.guards_signals():
            return self._run(index)
        interrupts.enter_library()  # Ctrl-C must not strike in the middle
        try:
            return self._run(index)
        finally:
            interrupts.leave_library()

    def _run(self, index: int) -> TaskRun:
        with self._lock:
            run = self.made.get(index)
            if run is None:
                run = self._make(index)
            return run

    def make_all(self) -> list[TaskRun]:
        """Make all that have not returned, and return them."""
        return [self.run(index) for index, end in enumerate(self.values) if end is OPEN]

    def _make(self, index: int) -> TaskRun:
        args, kwargs = self.calls[index]
        number = self.first_number + index
        first, flow_run = made_at(self.at), self.flow_run
        run = TaskRun(self.plan, self.engine, flow_run, flow_run, args, kwargs, first, number)
        run.take_identity(own_in_series(*self.origin, index)[0])
        run.map_index = self.first_index + index
        run.left = 0
        value = self.values[index]
        if value is not OPEN:
            run.have_returned(value, self.began[index], self.ended[index])
            return self.made.setdefault(index, run)
        run.was_submitted = True
        run.context = self.context
        if self.priority:
            run.priority = self.priority
        if self.siblings is not None:
            run.siblings = self.siblings
        is_under_way = index < self.next_index
        if is_under_way:
            self._put_under_way(run, self._attempt_id(index))
        if index in self.made:  # by a finalizer, in the middle of this
            return self.made[index]
        if self.values[index] is not OPEN or is_under_way != (index < self.next_index):
            return self._make(index)  # a finalizer waited for something, and the driver went on
        flow_run.active.add(run)
        self.made[index] = run
        self.calls[index] = _NO_CALL
        if is_under_way:  # last, as from here on the driver may end it
            self.engine.dispatcher.attempts[run.attempt_id] = run
        self._leave(1)
        return run

    def specimen(self) -> TaskRun:
        """Return a run like those in here, of which nobody knows."""
        flow_run, first = self.flow_run, made_at(self.at)
        args, kwargs = _NO_CALL
        run = TaskRun(self.plan, self.engine, flow_run, flow_run, args, kwargs, first, -1)
        run.context, run.priority, run.siblings = self.context, self.priority, self.siblings
        return run

    def _put_under_way(self, run: TaskRun, attempt_id: int) -> None:
        """Have a run where it would be, had it been handed out by itself."""
        life = run.life = task_run(run, self.engine.rng)
        ready = next(life)
        command = life.send(None)
        assert ready is READY
        assert type(command) is Execute
        run.starting = command.state
        run.run_count = 1
        run.attempt_id = attempt_id

    def let_go(self) -> None:
        """Let go of what only attempts need: it is over. A large constant may hang on that."""
        self.template = self.siblings = self.context = None

    def _leave(self, count: int) -> None:
        self.left -= count
        if not self.left:
            self.engine.loop.post(functools.partial(self.engine.series_over, self))
            self.engine.loop.ensure_standby()

    # --- handing out, under the turn -------------------------------------------------------

    @property
    def is_handed_out(self) -> bool:
        """Whether nothing of it waits for the task runner."""
        return self.next_index >= len(self.values)

    def take(self, most: int, first_id: int, template: Attempt | None) -> TaskRun | Series | None:
        """Return what comes next: a run that is made already, or a piece of at most so many.

        Args:
            most: at least 1.
            first_id: of the attempt that the first of a piece will be; the others follow.
            template: of these attempts; None will do where it is over.
        """
        with self._lock:
            start, size = self.next_index, len(self.values)
            run = self.made.get(start)
            while run is not None and run.is_over:  # cancelled while it waited
                start += 1
                run = self.made.get(start)
            self.next_index = min(start + 1, size)
            if start >= size or run is not None:
                return run
            stop = min(start + most, size)
            calls = self.calls[start:stop]
            while not self.made.keys().isdisjoint(range(start, stop)):
                stop = min(index for index in list(self.made) if start <= index < stop)
                calls = self.calls[start:stop]
            if stop == start:
                return self.made[start]
            self._ids.append(first_id)
            self._starts.append(start)
            self._stops.append(stop)
            self.next_index = stop
        assert template is not None
        return Series(first_id, template, calls, self.origin, start)

    def take_apart(self) -> list[TaskRun]:
        """Return all that wait for the task runner as runs of their own, which wait elsewhere."""
        runs = [self.run(index) for index in range(self.next_index, len(self))]
        self.next_index = len(self)
        return [run for run in runs if not run.is_over]

    def has_waiting(self, run: TaskRun) -> bool:
        """Whether this is a made run that waits here for its turn."""
        if run.map_index is None:
            return False
        index = run.map_index - self.first_index
        return index >= self.next_index and self.made.get(index) is run

    # --- what becomes of attempts, under the turn ------------------------------------------

    def index_of(self, attempt_id: int) -> int | None:
        """Return which item an attempt of a piece is of; None if it is of none."""
        piece = bisect.bisect_right(self._ids, attempt_id) - 1
        if piece < 0:
            return None
        index = self._starts[piece] + attempt_id - self._ids[piece]
        return index if index < self._stops[piece] else None

    def _attempt_id(self, index: int) -> int:
        piece = bisect.bisect_right(self._starts, index) - 1
        return self._ids[piece] + index - self._starts[piece]

    def take_returned(self, index: int, event: Returned, ahead: float) -> bool:
        """Note the results of items, the first of which is given, if none has a story of its own.

        Args:
            index: of the first.
            event: what the runner reports.
            ahead: what the seconds since the epoch are ahead of the monotonic clock.

        Returns:
            Whether it did: not if one of them is made, is no item of this, or has returned before.
        """
        stop = index + len(event.values)
        if self.index_of(event.first_id + stop - index - 1) != stop - 1:
            return False
        with self._lock:
            if self.made and not self.made.keys().isdisjoint(range(index, stop)):
                return False
            if any(self.ended[index:stop]):
                return False
            self.began[index:stop] = array.array("d", [at + ahead for at in event.began_at])
            self.ended[index:stop] = array.array("d", [self.engine.clock.time()]) * (stop - index)
            self.values[index:stop] = event.values
            for each in self.dropped.intersection(range(index, stop)):
                self.values[each] = None
            over, self.calls[index:stop] = self.calls[index:stop], [_NO_CALL] * (stop - index)
            self._leave(stop - index)
        over.clear()  # the arguments go, and not while the lock is held
        return True

    def drop(self, index: int) -> None:
        """Let go of the result of an item: its future is gone. In any thread, at any moment."""
        self.dropped.add(index)
        run = self.made.get(index)
        if run is None:
            if self.values[index] is not OPEN:
                self.values[index] = None
        elif run.is_over and index < self.next_index:  # else `take` must find it, to pass it over
            self.ended[index] = run.state.at or 1.0  # first: a late row must find it made, or ended
            self.values[index] = None
            self.made.pop(index, None)

    def __repr__(self) -> str:
        return f"<RunSeries of {self.plan.name!r}, {self.left} of {len(self)} left>"


def apart(runs: Iterable[Any]) -> Sequence[Any]:
    """Return those that are no series."""
    return tuple(run for run in runs if not run.is_series)
