"""Futures: what `.submit()` and `.map()` give back, one type for every runner."""

from __future__ import annotations

import time
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    overload,
)

from penstock.attempt import KeptResult, Packed
from penstock.exceptions import CancelledRun, WorkerLost
from penstock.states import State, StateType

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from penstock.runs import Run

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "DoneAndNotDone",
    "PenstockFuture",
    "PenstockFutureList",
    "SeriesFuture",
    "as_completed",
    "wait",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

ALL_COMPLETED: Literal["ALL_COMPLETED"] = "ALL_COMPLETED"
FIRST_COMPLETED: Literal["FIRST_COMPLETED"] = "FIRST_COMPLETED"
FIRST_EXCEPTION: Literal["FIRST_EXCEPTION"] = "FIRST_EXCEPTION"
ReturnWhen = Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"]


MOST_RECOVERIES = 3
"""How often a result that was lost with a worker is made again for one who asks for it."""


OPEN: Final = object()
"""In a series of runs, in place of a result that is not there."""


class SeriesOfRuns(Protocol):
    """Many runs as one: see `penstock.engine.series`."""

    values: list[Any]
    """The results of those that have returned, else `OPEN`; some of them packed."""

    @property
    def is_over(self) -> bool:
        """Whether every item has ended, or is a run of its own."""
        ...

    def run(self, index: int) -> Run:
        """Return the run that an item is, made if it is not."""
        ...

    def value(self, index: int) -> Any:
        """Return the result of an item that has returned."""
        ...

    def awaited(self, index: int) -> Any:
        """Return what has to end before an item has: its run, or the series; None if it has."""
        ...

    def drop(self, index: int) -> None:
        """Let go of the result of an item: its future is gone."""
        ...


class PenstockFuture(Generic[R_co]):
    """A run that is under way somewhere, and its result when it is over.

    Waiting for it drives the engine, so hooks may run in the thread that waits. A future may be
    passed to other tasks as an argument, also inside of lists, tuples, sets and dicts: the task
    starts when the value is there. Dropping a future never stops or loses the run.
    """

    __slots__ = ("__weakref__", "_run")

    _run: Run | None
    # Of a `SeriesFuture` without a run of its own: the series, and the index in it.
    _series: SeriesOfRuns
    _index: int

    def __init__(self, run: Run) -> None:
        self._run = run

    # --- what it is --------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """The run."""
        assert self._run is not None
        return self._run

    @property
    def task_run_id(self) -> uuid.UUID:
        """The id of the run."""
        return self.run.id

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def state(self) -> State[R_co]:
        """The current state, without waiting. Asking after the end counts as having looked."""
        state = self.run.state
        if state.is_final():
            self.run.mark_seen()
        return state

    def done(self) -> bool:
        """Whether the run is over."""
        return self.run.state.is_final()

    def is_scheduled(self) -> bool:
        """As `State.is_scheduled`, of the current state."""
        return self.state.is_scheduled()

    def is_pending(self) -> bool:
        """As `State.is_pending`, of the current state."""
        return self.state.is_pending()

    def is_running(self) -> bool:
        """As `State.is_running`, of the current state."""
        return self.state.is_running()

    def is_completed(self) -> bool:
        """As `State.is_completed`, of the current state; does not wait."""
        return self.state.is_completed()

    def is_failed(self) -> bool:
        """As `State.is_failed`, of the current state; does not wait."""
        return self.state.is_failed()

    def is_crashed(self) -> bool:
        """As `State.is_crashed`, of the current state."""
        return self.state.is_crashed()

    def is_cancelled(self) -> bool:
        """As `State.is_cancelled`, of the current state."""
        return self.state.is_cancelled()

    def is_cancelling(self) -> bool:
        """As `State.is_cancelling`, of the current state."""
        return self.state.is_cancelling()

    def is_paused(self) -> bool:
        """As `State.is_paused`, of the current state."""
        return self.state.is_paused()

    def is_final(self) -> bool:
        """As `State.is_final`, of the current state."""
        return self.state.is_final()

    def is_retrying(self) -> bool:
        """As `State.is_retrying`, of the current state."""
        return self.state.is_retrying()

    # --- waiting -----------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the run is over, at most `timeout` seconds. Raises nothing for a failure.

        Raises:
            FutureCycleError: the run that asks is one that this future waits for, or a coroutine
                that blocks the event loop this future needs.
        """
        run = self.run
        if not run.state.is_final():
            run.engine.wait_for_run(run, timeout)

    @overload
    def result(
        self, timeout: float | None = None, raise_on_failure: Literal[True] = True
    ) -> R_co: ...
    @overload
    def result(
        self, timeout: float | None = None, *, raise_on_failure: bool
    ) -> R_co | BaseException: ...
    @overload
    def result(self, timeout: float | None, raise_on_failure: bool) -> R_co | BaseException: ...
    def result(
        self, timeout: float | None = None, raise_on_failure: bool = True
    ) -> R_co | BaseException:
        """Wait for the run and return its value, or raise its failure.

        Args:
            timeout: seconds to wait; None waits for ever.
            raise_on_failure: when false, the exception is returned instead of raised.

        Raises:
            TimeoutError: the run was not over in time; it goes on.
            CancelledRun: the run was cancelled.
            UpstreamTaskError: an input of the run failed; the cause is chained.
            BaseException: whatever the task raised, untouched.
        """
        run = self.run
        if not run.state.is_final():
            self.wait(timeout)
            if not run.state.is_final():
                raise TimeoutError(
                    f"{run.name!r} is not over after {timeout} s (state {run.state}); it goes on"
                )
        self._mark_seen()
        return self._value_or_failure(raise_on_failure)

    def _has_returned(self) -> bool:
        """Whether the series, if it is of one, has its result."""
        return False

    def _awaited(self) -> Any:
        """Return what has to end before there is a result; None if it is there."""
        return None if self.run.state.is_final() else self.run

    def _mark_seen(self) -> None:
        self.run.mark_seen()

    def _value_or_failure(self, raise_on_failure: bool) -> R_co | BaseException:
        state = self.run.state
        if state.type is StateType.COMPLETED:
            return self._value(state)
        error = state.exception()
        assert error is not None
        if raise_on_failure:
            raise error
        return error

    def _value(self, state: State[R_co]) -> R_co:
        """Return the value; one that was lost with the worker that kept it is made again."""
        for _ in range(MOST_RECOVERIES):
            kept = state.data
            try:
                value = state.value()
            except LookupError:
                if not isinstance(kept, KeptResult) or kept.is_read_anew:
                    raise
                if self.run.engine.loop.is_closed:
                    raise
            else:
                if self.run.plan.drops_results:
                    _drop(self.run, state, kept)
                return value
            self.run.engine.recover(self.run)
            state = self.run.state
            if state.type is not StateType.COMPLETED:
                error = state.exception()
                assert error is not None
                raise error
        raise WorkerLost(
            f"the result of {self.run.name!r} was lost with its worker {MOST_RECOVERIES} times; "
            'have it brought home by result_on="driver"'
        )

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the run and return its failure, or None if it ended well.

        Raises:
            TimeoutError: the run was not over in time.
            CancelledRun: the run was cancelled.
        """
        value = self.result(timeout, raise_on_failure=False)
        if self.run.state.type is StateType.COMPLETED:
            return None
        if isinstance(value, CancelledRun):
            raise value
        return value  # type: ignore[return-value]  # the exception: raise_on_failure is false

    def __await__(self) -> Generator[Any, None, R_co]:
        """Wait without blocking the event loop; gives the value or raises the failure."""
        if not self.run.state.is_final():
            yield from self.run.engine.wait_async(self.run).__await__()
        return self.result()

    # --- doing -------------------------------------------------------------------------

    def cancel(self, kill: bool = False) -> bool:
        """Ask the run to end as `Cancelled`.

        What has not begun never will. What runs becomes `Cancelling`, and `Cancelled` when it
        ends; with `kill` it is stopped, as far as its task runner can.

        Returns:
            Whether there was anything to cancel: false for a run that was over.
        """
        run = self.run
        return bool(run.engine.cancel([run], "cancelled by request", kill=kill))

    def add_done_callback(self, fn: Callable[[PenstockFuture[R_co]], object]) -> None:
        """Call `fn(future)` when the run is over, on the driver; at once if it is.

        What the callback raises is logged, and harms nobody.
        """
        self.run.engine.add_callback(self, fn)

    def __repr__(self) -> str:
        return f"<PenstockFuture {self.run.name!r} {self.run.state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"future {self.run.name!r} cannot leave this process; pass it to a task as an "
            "argument of its own, or inside of a list, tuple, set or dict"
        )


class SeriesFuture(PenstockFuture[R_co]):
    """A future of a map whose run is made when somebody asks for more than its result."""

    __slots__ = ("_index", "_series")

    def __init__(self, series: SeriesOfRuns, index: int) -> None:
        self._run = None
        self._series = series
        self._index = index

    @property
    def run(self) -> Run:
        """The run."""
        run = self._run
        if run is None:
            run = self._run = self._series.run(self._index)
        return run

    def __del__(self) -> None:
        """Let the result go: the others of the map would keep it."""
        self._series.drop(self._index)

    def done(self) -> bool:
        """Whether the run is over."""
        return self._awaited() is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the run is over, at most `timeout` seconds; see `PenstockFuture.wait`."""
        if not self._has_returned():
            super().wait(timeout)

    if not TYPE_CHECKING:  # the types are those of the base

        def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
            """Wait for the run and return its value; see `PenstockFuture.result`."""
            if self._has_returned():
                return self._series.value(self._index)
            return super().result(timeout, raise_on_failure)

    def _has_returned(self) -> bool:
        return self._run is None and self._series.values[self._index] is not OPEN

    def _awaited(self) -> Any:
        return super()._awaited() if self._run is not None else self._series.awaited(self._index)

    def _mark_seen(self) -> None:
        if not self._has_returned():
            super()._mark_seen()

    def _value_or_failure(self, raise_on_failure: bool) -> R_co | BaseException:
        if self._has_returned():
            value: R_co = self._series.value(self._index)
            return value
        return super()._value_or_failure(raise_on_failure)


class _DroppedResult(KeptResult):
    """Stands for a result that was let go once it was read."""

    def __init__(self, name: str) -> None:
        super().__init__(0, None)
        self.is_read_anew = True  # it is not lost: nobody makes it again
        self._name = name

    def fetch(self) -> Any:
        raise LookupError(
            f"the result of {self._name!r} was read, and then let go, as retain='states' says: "
            "keep what result() returned, or leave that option out"
        )

    def superseded_by(self, value: Any) -> None:
        """Do nothing: it is not made again."""


def _drop(run: Run, state: State[Any], stored: Any) -> None:
    """Let go of a result; what is read from storage can be had again from there."""
    can_be_read_again = isinstance(stored, KeptResult) and stored.is_stored
    left = stored if can_be_read_again else _DroppedResult(run.name)
    object.__setattr__(state, "data", left)


class PenstockFutureList(list[PenstockFuture[R]], Generic[R]):
    """What `.map()` gives: a list of futures that can be waited for as a whole."""

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all runs are over, at most `timeout` seconds."""
        _wait_for(list(self), timeout, ALL_COMPLETED)

    @overload
    def result(
        self, timeout: float | None = None, raise_on_failure: Literal[True] = True
    ) -> list[R]: ...
    @overload
    def result(
        self, timeout: float | None = None, *, raise_on_failure: bool
    ) -> list[R | BaseException]: ...
    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Wait for all runs and return their values in order.

        Raises:
            TimeoutError: not all were over in time.
            BaseException: the failure of the first, in order, that failed.
        """
        futures = list(self)
        _wait_for_all(futures, timeout)
        values = _returned_in_series(futures)
        if values is not None:
            return values
        left = sum(not future.done() for future in futures)
        if left:
            raise TimeoutError(f"{left} of {len(futures)} runs are not over: {timeout} s")
        for future in futures:
            future._mark_seen()  # whoever asks for all has to do with all that failed
        return [future._value_or_failure(raise_on_failure) for future in futures]

    def cancel(self, kill: bool = False) -> bool:
        """Cancel all runs that are not over; see `PenstockFuture.cancel`."""
        runs = [future.run for future in self if not future.done()]
        if not runs:
            return False
        return bool(runs[0].engine.cancel(runs, "cancelled by request", kill=kill))


class DoneAndNotDone(NamedTuple):
    """Futures by whether their runs are over, as `concurrent.futures.wait` gives them."""

    done: set[PenstockFuture[Any]]
    not_done: set[PenstockFuture[Any]]


def wait(
    futures: Iterable[PenstockFuture[Any]],
    timeout: float | None = None,
    return_when: ReturnWhen = ALL_COMPLETED,
) -> DoneAndNotDone:
    """Wait for several runs, as `concurrent.futures.wait` does.

    Args:
        futures: those to wait for.
        timeout: seconds; None waits for ever.
        return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED``, or ``FIRST_EXCEPTION``: as soon as
            one ends without a value, or all are over.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(
            f"return_when is one of ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, "
            f"not {return_when!r}"
        )
    wanted = list(futures)
    _wait_for(wanted, timeout, return_when)
    done = {future for future in wanted if future.done()}
    return DoneAndNotDone(done, set(wanted) - done)


def _wait_for(
    wanted: Sequence[PenstockFuture[Any]], timeout: float | None, return_when: ReturnWhen
) -> None:
    if return_when == ALL_COMPLETED:
        _wait_for_all(wanted, timeout)
        return
    open_runs = _open_runs(wanted)
    is_enough = (
        not open_runs
        or (return_when == FIRST_COMPLETED and len(open_runs) < len({f.run for f in wanted}))
        or any(map(_ended_badly, wanted))
    )
    if not is_enough:
        open_runs[0].engine.wait_for_runs(open_runs, timeout, return_when)


def _wait_for_all(wanted: Sequence[PenstockFuture[Any]], timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    # More than once, as the runs of a series may become runs of their own meanwhile.
    while awaited := _awaited(wanted):
        left = None if deadline is None else deadline - time.monotonic()
        if not awaited[0].engine.wait_for_runs(awaited, left, ALL_COMPLETED):
            return


def _awaited(futures: Sequence[PenstockFuture[Any]]) -> list[Any]:
    """Return the runs that are not over, each once; a series, if nothing else is left in it."""
    awaited: dict[Any, None] = {}
    wanted: dict[SeriesOfRuns, set[int]] = {}
    for future in futures:
        if future._has_returned():
            continue
        if future._run is None and not future._series.is_over:
            indexes = wanted.get(future._series)
            if indexes is None:
                indexes = wanted[future._series] = set()
            indexes.add(future._index)
        elif (one := future._awaited()) is not None:
            awaited[one] = None
    for series, indexes in wanted.items():
        others = set(range(len(series.values))) - indexes
        if all(series.awaited(index) is not series for index in others):
            awaited[series] = None
            continue
        for index in indexes:  # the series may last for long after these
            if series.values[index] is OPEN and not series.run(index).is_over:
                awaited[series.run(index)] = None
    return list(awaited)


def _returned_in_series(futures: Sequence[PenstockFuture[Any]]) -> list[Any] | None:
    """Return the results of a map, if none of its runs is one of its own."""
    values: list[Any] = []
    for future in futures:
        if future._run is not None:
            return None
        value = future._series.values[future._index]
        if value is OPEN:
            return None
        values.append(value if type(value) is not Packed else future._series.value(future._index))
    return values


def _open_runs(futures: Sequence[PenstockFuture[Any]]) -> list[Run]:
    """Return the runs that are not over, each once."""
    return list({future.run: None for future in futures if not future.done()})


def _ended_badly(future: PenstockFuture[Any]) -> bool:
    return future.done() and future.run.state.type is not StateType.COMPLETED


def as_completed(
    futures: Iterable[PenstockFuture[R]], timeout: float | None = None
) -> Iterator[PenstockFuture[R]]:
    """Yield futures as their runs end, the first to end first.

    Raises:
        TimeoutError: not all were over `timeout` seconds after the call.
    """
    waiting: dict[Run, list[PenstockFuture[R]]] = {}
    for future in futures:
        waiting.setdefault(future.run, []).append(future)
    deadline = None if timeout is None else time.monotonic() + timeout
    return _as_completed(waiting, timeout, deadline)


def _as_completed(
    waiting: dict[Run, list[PenstockFuture[R]]], timeout: float | None, deadline: float | None
) -> Iterator[PenstockFuture[R]]:
    total = len(waiting)
    over = sorted((run for run in waiting if run.state.is_final()), key=lambda run: run.state.at)
    for run in over:
        yield from waiting.pop(run)
    if not waiting:
        return
    engine = next(iter(waiting)).engine
    stream = engine.watch_all(list(waiting))
    while waiting:
        left = None if deadline is None else deadline - time.monotonic()
        run = stream(left)
        if run is None:
            raise TimeoutError(f"{len(waiting)} of {total} runs are not over after {timeout} s")
        yield from waiting.pop(run)
