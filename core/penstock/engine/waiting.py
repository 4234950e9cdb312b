"""What the engine does for those who wait for a run: threads, event loops, callbacks."""

from __future__ import annotations

import contextlib
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from penstock.context import CURRENT
from penstock.engine.cycles import check_cycle, submitted_around
from penstock.engine.loop import CountdownWaiter, Waiter
from penstock.engine.series import apart
from penstock.exceptions import FutureCycleError
from penstock.logging import run_logger
from penstock.states import StateType

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from penstock.engine.dispatch import Dispatcher
    from penstock.engine.loop import Loop
    from penstock.engine.series import RunSeries
    from penstock.futures import PenstockFuture
    from penstock.runs import FlowRun, Run
else:
    import penstock._asyncio as asyncio

__all__ = ["AsyncWaiter", "Waiting"]


class AsyncWaiter:
    """Wakes a coroutine when a watched run is over."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()

    def finished(self, run: Run) -> None:  # noqa: ARG002  (a Waiter is told which)
        """The watched run is over; on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, limit: float | None = None) -> bool:
        """Wait; false at the timeout."""
        try:
            async with asyncio.timeout(limit):
                await self._future
        except TimeoutError:
            return False
        return True


class _Next(Waiter):
    """Collects runs in the order in which they end."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        super().__init__()
        self.ended: SimpleQueue[Run] = SimpleQueue()

    def finished(self, run: Run) -> None:
        self.ended.put(run)
        self.notify()


class Waiting:
    """The waiting half of the engine; `Engine` has the other."""

    loop: Loop
    dispatcher: Dispatcher
    _lock: threading.Lock
    _waits: dict[int, int]
    """For each attempt whose slot is lent: for how many runs its code waits."""
    _loop_holders: dict[Any, Run]
    """For each handle of a runner: the run whose coroutine blocks its event loop by waiting."""

    # --- who watches -------------------------------------------------------------------

    def watch(self, runs: Sequence[Run | RunSeries], waiter: Any) -> None:
        """Tell the waiter when a run is over; at once of those that are."""
        over: list[Run | RunSeries] = []
        alone = (waiter,)  # one for all of them: a map may have many
        with self._lock:
            for run in runs:
                if run.is_over:
                    over.append(run)
                else:
                    run.waiters = (*run.waiters, waiter) if run.waiters else alone
        for run in over:
            waiter.finished(run)

    def unwatch(self, runs: Sequence[Run | RunSeries], waiter: Any) -> None:
        """The waiter need not be told any more."""
        with self._lock:
            for run in runs:
                if waiter in run.waiters:
                    run.waiters = tuple(each for each in run.waiters if each is not waiter)

    def add_callback(
        self, future: PenstockFuture[Any], fn: Callable[[PenstockFuture[Any]], object]
    ) -> None:
        """Call `fn(future)` on the driver when the run is over."""
        run = future.run
        with self._lock:
            if not run.state.is_final():
                if run.callbacks is None:
                    run.callbacks = []
                run.callbacks.append(lambda _: fn(future))  # this very object, as the stdlib does
                return
        self.loop.run_home(lambda: self.call_back(fn, future))

    def call_back(self, callback: Callable[..., object], future: PenstockFuture[Any]) -> None:
        """Call a done-callback. Its error is logged and goes no further: as the stdlib does."""
        try:
            callback(future)
        except Exception as error:  # noqa: BLE001
            run_logger(future.run).error("A done-callback raised %r", error, exc_info=error)

    # --- threads -----------------------------------------------------------------------

    def wait_for_run(self, run: Run, timeout: float | None) -> bool:
        """Wait until a run is over; false at the timeout."""
        waiter = Waiter()
        self.watch([run], waiter)
        with self.lending(run):
            ready = self.loop.wait(waiter, timeout)
        if not ready:
            self.unwatch([run], waiter)
        return ready

    def wait_for_runs(
        self, runs: Sequence[Run | RunSeries], timeout: float | None, return_when: str
    ) -> bool:
        """Wait for several runs, as `futures.wait` says; false at the timeout."""
        waiter = CountdownWaiter(
            1 if return_when == "FIRST_COMPLETED" else len(runs),
            _ended_badly if return_when == "FIRST_EXCEPTION" else None,
        )
        self.watch(runs, waiter)
        with self.lending(*apart(runs)):
            ready = self.loop.wait(waiter, timeout)
        self.unwatch(runs, waiter)
        return ready

    def watch_all(self, runs: Sequence[Run]) -> Callable[[float | None], Run | None]:
        """Return a function that waits for the next of the runs to end; None at a timeout."""
        waiter = _Next()
        self.watch(runs, waiter)

        def following(timeout: float | None) -> Run | None:
            if waiter.ended.empty():
                waiter.ready = not waiter.ended.empty()
                with self.lending(*runs):
                    self.loop.wait(waiter, timeout)
            return None if waiter.ended.empty() else waiter.ended.get()

        return following

    def sleep(self, seconds: float) -> None:
        """Wait in the calling thread, driving if it may."""
        with self.lending():
            self.loop.wait(Waiter(), seconds)

    def wait_until_idle(self, run: FlowRun, timeout: float | None = None) -> bool:
        """Wait until no run inside of a flow run is under way; false at the timeout.

        Raises:
            FutureCycleError: that would be for ever, and they were not told to end.
        """
        while run.active:
            waiter = Waiter()
            self._watch_idle(run, waiter)
            with self.lending(*(() if run.is_ending else apart(list(run.active)))):
                ready = self.loop.wait(waiter, timeout)
            if not ready:
                return not run.active
        return True

    def _watch_idle(self, run: FlowRun, waiter: Any) -> None:
        def watch() -> None:
            if run.active:
                run.idle_waiters.append(waiter)
            else:
                waiter.finished(run)

        self.loop.run_home(watch)

    @contextlib.contextmanager
    def lending(self, *wanted: Run, blocks_thread: bool = True) -> Iterator[None]:
        """Lend the slot that the current code holds, if it runs in a worker, while it waits.

        Args:
            *wanted: the runs it waits for.
            blocks_thread: the thread does nothing else meanwhile, as it could while it awaits.
        """
        run = CURRENT.get()
        if run is None:
            yield
            return
        asking = submitted_around(run)
        carrier = self._carrier(run)
        holds_loop = blocks_thread and asking is not None and _is_in_shared_loop(asking)
        if asking is not None:
            asking.waits_on = wanted
            if holds_loop:
                self._loop_holders[asking.plan.runner] = asking
            try:  # after it was noted: of two that begin to wait for each other, one must see it
                check_cycle(asking, wanted, self._loop_holders)
            except FutureCycleError:
                asking.waits_on = ()
                if holds_loop:
                    self._loop_holders.pop(asking.plan.runner, None)
                raise
        if carrier is not None:
            self.loop.post(lambda: self._blocked(carrier, True))
        try:
            yield
        finally:
            if asking is not None:
                asking.waits_on = ()
                if holds_loop:
                    self._loop_holders.pop(asking.plan.runner, None)
            if carrier is not None:
                self.loop.post(lambda: self._blocked(carrier, False))

    def _carrier(self, run: Run | None) -> tuple[Run, int] | None:
        """Return the run whose attempt holds a worker's slot around the current code."""
        while run is not None:
            if run.was_submitted and self.dispatcher.attempts.get(run.attempt_id) is run:
                return run, run.attempt_id
            run = run.parent
        return None

    def _blocked(self, carrier: tuple[Run, int], now: bool) -> None:
        run, attempt_id = carrier
        handle = run.plan.runner
        # Async code may wait for several at once: the slot is lent until the last wait is over.
        waits = self._waits.get(attempt_id, 0)
        self._waits[attempt_id] = waits + 1 if now else waits - 1
        if self._waits[attempt_id] == 0:
            del self._waits[attempt_id]
        if handle.capabilities.lends_slots and waits == (0 if now else 1):
            handle.runner.blocked(attempt_id, now)
            self.dispatcher.feed_again(handle)

    # --- event loops -------------------------------------------------------------------

    async def wait_async(self, run: Run, limit: float | None = None) -> bool:
        """Wait until a run is over without blocking the event loop; false at the timeout."""
        if self.loop.holds_turn():  # in a runner that runs in its caller: nobody else can drive
            return self.wait_for_run(run, limit)
        waiter = AsyncWaiter(asyncio.get_running_loop())
        self.watch([run], waiter)
        self.loop.ensure_standby(urgent=True)
        with self.lending(run, blocks_thread=False):
            try:
                return await waiter.wait(limit)
            finally:
                self.unwatch([run], waiter)

    async def wait_until_idle_async(self, run: FlowRun, limit: float | None = None) -> bool:
        """As `wait_until_idle`, without blocking the event loop."""
        if self.loop.holds_turn():
            return self.wait_until_idle(run, limit)
        while run.active:
            waiter = AsyncWaiter(asyncio.get_running_loop())
            self._watch_idle(run, waiter)
            self.loop.ensure_standby(urgent=True)
            with self.lending(blocks_thread=False):
                ready = await waiter.wait(limit)
            if not ready:
                return not run.active
        return True


def _is_in_shared_loop(run: Run) -> bool:
    """Whether the current code runs in the event loop on which a runner has all its coroutines."""
    return (
        run.plan.is_async
        and not run.is_flow_run  # that has a loop of its own
        and run.plan.runner.capabilities.shares_event_loop
        and asyncio._get_running_loop() is not None  # else in a thread that the coroutine awaits
    )


def _ended_badly(run: Run) -> bool:
    return run.state.type is not StateType.COMPLETED
