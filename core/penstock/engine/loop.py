"""The loop: where events come in, and the turn, the right to act on them.

One thread at a time holds the turn. The thread that owns the root run takes it whenever it waits
inside the library; while it is busy elsewhere, a standby thread takes the turn, so that retries
are on time and dependants start. Everybody else waits to be told. (`design.md`, law 2; measured
there against a dedicated engine thread: 22 us a round trip against 46.)
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from penstock.engine import interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.runs import Run

__all__ = ["Clock", "CountdownWaiter", "Loop", "RealClock", "Timer", "Waiter"]

FIRST_LOOK_SECONDS = 0.002
"""How long nobody must have been at work before the standby thread takes the turn."""
LONGEST_NAP_SECONDS = 0.01


class Clock(Protocol):
    """Where the engine gets the time from; tests give one that they move by hand."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment, never going back."""
        ...

    def get(self, queue: SimpleQueue[Any], timeout: float | None, /) -> Any:
        """Return the next item, or raise `queue.Empty` after the timeout."""
        ...


class RealClock:
    """The clock of this machine."""

    # Not methods around them: the time is asked for several times a run.
    monotonic: staticmethod[[], float] = staticmethod(time.monotonic)
    time: staticmethod[[], float] = staticmethod(time.time)

    @staticmethod
    def get(queue: SimpleQueue[Any], timeout: float | None) -> Any:
        """Return the next item, or raise `queue.Empty` after the timeout."""
        return queue.get(timeout=timeout)


class Waiter:
    """Something that a thread waits for: `ready` once the watched run is over."""

    __slots__ = ("_lock", "ready")

    def __init__(self) -> None:
        self.ready: bool = False
        self._lock: Any = None

    def finished(self, run: Run) -> None:  # noqa: ARG002  (subclasses tell runs apart)
        """A watched run is over."""
        self.notify()

    def notify(self) -> None:
        """Let the thread go on."""
        self.ready = True
        lock = self._lock
        if lock is not None:
            with contextlib.suppress(RuntimeError):  # released already: two told it at once
                lock.release()

    def block(self, timeout: float | None) -> bool:
        """Wait without driving anything; true if ready."""
        lock = threading.Lock()
        lock.acquire()
        self._lock = lock
        if not self.ready:  # else told before the lock was there
            lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return self.ready


class CountdownWaiter(Waiter):
    """Ready when enough of several watched runs are over."""

    __slots__ = ("count", "stop_early")

    def __init__(self, count: int, stop_early: Callable[[Run], bool] | None = None) -> None:
        super().__init__()
        self.count: int = count
        self.stop_early: Callable[[Run], bool] | None = stop_early
        if count <= 0:
            self.ready = True

    def finished(self, run: Run) -> None:
        """One of the watched runs is over."""
        self.count -= 1
        if self.count <= 0 or (self.stop_early is not None and self.stop_early(run)):
            self.notify()


class Timer:
    """A function to be called at a time; `fn` is None once it is not wanted any more."""

    __slots__ = ("fn", "number", "when")

    def __init__(self, when: float, number: int, fn: Callable[[], None]) -> None:
        self.when: float = when
        self.number: int = number
        self.fn: Callable[[], None] | None = fn

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Loop:
    """Takes events from any thread, and acts on them in one.

    Args:
        handle: acts on one event; called under the turn only.
        settle: called under the turn after each bunch of events, to hand out what became ready.
        clock: the time.
        standby: whether a standby thread may be started.
        name: of the standby thread.
    """

    def __init__(
        self,
        handle: Callable[[Any], None],
        settle: Callable[[], None],
        clock: Clock,
        *,
        standby: bool = True,
        name: str = "penstock-standby",
    ) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.clock = clock
        self.owner: int = threading.get_ident()
        self.owner_is_main: bool = interrupts.is_main_thread()
        self.in_flight = 0  # submitted runs that are not over; changed under the turn
        self.beats: int = 0  # signs of life of the owner: the standby leaves a busy owner alone
        self._handle = handle
        self._settle = settle
        self._turn = threading.Lock()  # taken again by the thread that has it: see `_depth`
        self._holder = 0
        self._depth = 0
        self._wanted = 0
        self._timers: list[Timer] = []
        self._dead_timers = 0
        self._timer_numbers = itertools.count()
        self._bell: SimpleQueue[bool] = SimpleQueue()  # wakes the standby
        self._standby_allowed = standby
        self._standby: threading.Thread | None = None
        self._starting = threading.Lock()
        self._standby_rests = False
        self._closed = False
        self._name = name

    # --- the turn ----------------------------------------------------------------------

    def holds_turn(self) -> bool:
        """Whether the calling thread is the one that acts on events."""
        return self._holder == threading.get_ident()

    def may_drive(self) -> bool:
        """Whether the calling thread acts on events while it waits; after the end, any does."""
        ident = threading.get_ident()
        return ident in (self.owner, self._holder) or self._closed

    def try_turn(self) -> bool:
        """Take the turn if nobody else has it."""
        if not self.holds_turn():
            if not self._turn.acquire(blocking=False):
                return False
            self._holder = threading.get_ident()
        self._depth += 1
        return True

    def take_turn(self) -> None:
        """Take the turn, telling the standby thread to let go of it."""
        self.beats += 1
        if self.try_turn():
            return
        self._wanted += 1
        self.inbox.put(None)
        self._turn.acquire()
        self._wanted -= 1
        self._holder = threading.get_ident()
        self._depth += 1

    def give_turn(self) -> None:
        """Let others act."""
        self._depth -= 1
        if self._depth == 0:
            self._holder = 0
            self._turn.release()

    @contextlib.contextmanager
    def acting_for_holder(self) -> Iterator[None]:
        """Have the turn in the block, while the thread that holds it is blocked until its end."""
        before, self._holder = self._holder, threading.get_ident()
        try:
            yield
        finally:
            self._holder = before

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the turn in the block."""
        self.take_turn()
        try:
            yield
        finally:
            self.give_turn()

    # --- events ------------------------------------------------------------------------

    def post(self, event: Any) -> None:
        """Hand in an event; from any thread, at any time, also from a signal handler."""
        self.inbox.put(event)

    def nudge(self) -> None:
        """Make the thread that waits look around."""
        self.inbox.put(None)

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Call a function under the turn at a monotonic time. Under the turn only."""
        timer = Timer(when, next(self._timer_numbers), fn)
        heapq.heappush(self._timers, timer)
        return timer

    def take_back(self, timer: Timer) -> None:
        """Never mind that timer. Under the turn only."""
        timer.fn = None
        self._dead_timers += 1
        # Most deadlines are met by far, and a heap of those to come must not hold all that were.
        if self._dead_timers > 64 and self._dead_timers * 2 > len(self._timers):
            self._timers = [each for each in self._timers if each.fn is not None]
            heapq.heapify(self._timers)
            self._dead_timers = 0

    def call_later(self, seconds: float, fn: Callable[[], None]) -> None:
        """Call a function under the turn after so many seconds; from any thread."""
        when = self.clock.monotonic() + seconds
        self.post(lambda: self.call_at(when, fn))
        self.ensure_standby(urgent=True)

    def drain(self) -> None:
        """Act on what has come in, without waiting. Under the turn only."""
        inbox = self.inbox
        while not inbox.empty():
            try:
                event = inbox.get(block=False)
            except Empty:
                break
            if event is not None:
                self._handle(event)
        if self._timers:
            self._ring_timers()
        self._settle()

    def _ring_timers(self) -> None:
        now = self.clock.monotonic()
        while self._timers and (self._timers[0].when <= now or self._timers[0].fn is None):
            timer = heapq.heappop(self._timers)
            if timer.fn is None:
                self._dead_timers -= 1
            else:
                timer.fn()

    def _step(self, deadline: float | None) -> None:
        """Wait for one event, at most until the deadline, and act on all there are."""
        timeout = None
        when = self._timers[0].when if self._timers else None
        if deadline is not None and (when is None or deadline < when):
            when = deadline
        if when is not None:
            timeout = max(0.0, when - self.clock.monotonic())
        try:
            event = self.clock.get(self.inbox, timeout)
        except Empty:
            event = None
        if event is not None:
            self._handle(event)
        self.drain()

    # --- waiting -----------------------------------------------------------------------

    def wait(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Wait until the waiter is ready, driving meanwhile if this thread may.

        Returns:
            Whether it is ready; false means the timeout came first.
        """
        if waiter.ready:
            return True
        if not self.may_drive():
            self.ensure_standby(urgent=True)
            return waiter.block(timeout)
        clock = self.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        if not self.guards_signals():
            self._drive(waiter, deadline, checks=False)
            return waiter.ready
        if interrupts.main.wake == self.nudge:  # a sync flow around us takes Ctrl-C already
            with interrupts.library_code():
                self._drive(waiter, deadline, checks=True)
            return waiter.ready
        # Where none does, Ctrl-C would else strike in the middle of an event.
        with (
            interrupts.library_code(),
            interrupts.catching_ctrl_c(self.nudge),
            interrupts.blocking_an_event_loop(self.nudge),
        ):
            self._drive(waiter, deadline, checks=True)
        return waiter.ready

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: nothing will be driven any more."""
        return self._closed

    def guards_signals(self) -> bool:
        """Whether the calling thread owns the loop and is the one that gets signals."""
        return self.owner_is_main and threading.get_ident() == self.owner

    def _drive(self, waiter: Waiter, deadline: float | None, *, checks: bool) -> None:
        monotonic = self.clock.monotonic
        self.take_turn()
        try:
            self.drain()
            while not waiter.ready:
                if deadline is not None and monotonic() >= deadline:
                    break
                if checks:  # before each wait: what woke us for this may have been drained already
                    interrupts.check()
                self._step(deadline)
        finally:
            self.give_turn()

    def run_home(self, fn: Callable[[], Any]) -> Any:
        """Run a function under the turn: here, if this thread may drive, else on the driver."""
        if self.may_drive():
            guards = self.guards_signals()
            if guards:
                interrupts.enter_library()
            try:
                self.take_turn()
                try:
                    return fn()
                finally:
                    self.give_turn()
            finally:
                if guards:
                    interrupts.leave_library()
        reply = Waiter()
        answer: list[Any] = []

        def at_home() -> None:
            try:
                answer.append((fn(), None))
            except BaseException as error:  # noqa: BLE001  (raised again where it was asked for)
                answer.append((None, error))
            reply.notify()

        self.post(at_home)
        self.ensure_standby(urgent=True)
        reply.block(None)
        value, error = answer[0]
        if error is not None:
            raise error
        return value

    # --- the standby thread ------------------------------------------------------------

    def ensure_standby(self, *, urgent: bool = False) -> None:
        """Have the standby thread look after what is in flight."""
        if self._standby is None:
            with self._starting:  # from any thread: two may come here at once
                if not self._standby_allowed or self._closed:
                    return
                if self._standby is None:
                    standby = threading.Thread(target=self._stand_by, name=self._name, daemon=True)
                    standby.start()
                    self._standby = standby
        if urgent or self._standby_rests:
            self._standby_rests = False
            self._bell.put(urgent)

    def _is_idle(self) -> bool:
        return not self.in_flight and not self._timers and self.inbox.empty()

    def _stand_by(self) -> None:
        nap, beats = FIRST_LOOK_SECONDS, -1
        urgent = False
        while not self._closed:
            if not urgent:
                if self._is_idle():
                    self._standby_rests = True
                    if self._is_idle():  # else something came in before anybody could see us rest
                        urgent = self._bell.get()
                        nap = FIRST_LOOK_SECONDS
                        continue
                    self._standby_rests = False
                try:
                    urgent = self._bell.get(timeout=nap)
                except Empty:
                    urgent = False
            if not urgent and (self.beats != beats or self._wanted):
                beats = self.beats
                nap = min(LONGEST_NAP_SECONDS, nap * 2)
                continue
            if not self.try_turn():
                urgent = False
                nap = min(LONGEST_NAP_SECONDS, nap * 2)
                continue
            urgent = False
            nap, beats = FIRST_LOOK_SECONDS, self.beats
            try:
                self.drain()
                while (self.in_flight or self._timers) and not self._wanted and not self._closed:
                    self._step(None)
                    if self.beats != beats:
                        break  # the owner is back at work, and quicker without us
            finally:
                self.give_turn()

    def close(self) -> None:
        """End the standby thread. A thread that was given up and still goes on drives itself."""
        self._closed = True
        standby = self._standby
        if standby is not None and standby is not threading.current_thread():
            self._bell.put(True)
            self.nudge()
            standby.join(timeout=5.0)
        with self.turn():  # nobody else will answer those who have asked before
            while not self.inbox.empty():
                event = self.inbox.get()
                if event is not None:
                    self._handle(event)
