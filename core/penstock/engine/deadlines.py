"""Limits on user code in the calling thread: a signal in the main one, an exception elsewhere."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from penstock.engine import interrupts
from penstock.engine.interrupts import Deadline, DeadlineReached, main
from penstock.strikes import keep_trying, raise_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["deadline_here", "main_thread_deadline", "thread_deadline"]

_HAS_ALARM = hasattr(signal, "setitimer")
_AGAIN_SECONDS = 0.02


@contextlib.contextmanager
def main_thread_deadline(deadline: Deadline) -> Iterator[None]:
    """Interrupt the block at the deadline, by SIGALRM; nests, the nearest rings first.

    Call it from library code: the block is user code only inside of `call_user_code`. After the
    block, `Deadline.reached` tells whether the time was up, even if user code caught what was
    raised in it.
    """
    outermost, hooked = not main.deadlines, False
    before: Any = None
    timer_before = (0.0, 0.0)
    if outermost:
        timer_before = signal.setitimer(signal.ITIMER_REAL, 0.0)  # first, or its ring would be ours
        before = signal.signal(signal.SIGALRM, _on_alarm)
        hooked = interrupts.watch_destructors()
    main.deadlines.append(deadline)
    began = time.monotonic()
    try:
        _arm()
        yield
    finally:
        deadline.ended = True
        main.deadlines.remove(deadline)
        if outermost:
            signal.setitimer(signal.ITIMER_REAL, 0.0)  # first: the handler may be the default one
            signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)
            if timer_before[0]:
                left = timer_before[0] - (time.monotonic() - began)
                signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6), timer_before[1])
            if hooked:
                interrupts.leave_destructors()
        else:
            _arm()


def _arm() -> None:
    waiting = [deadline.at for deadline in main.deadlines if not deadline.reached]
    # Again and again, until a handler of Python's has run: a ring between the last look at signals
    # and a system call would be heard at the end of the call only.
    first = max(min(waiting) - time.monotonic(), 1e-6) if waiting else 0.0
    signal.setitimer(signal.ITIMER_REAL, first, _AGAIN_SECONDS)


def _on_alarm(_signal: int, _frame: FrameType | None) -> None:
    now = time.monotonic()
    for deadline in main.deadlines:
        if deadline.at <= now + 1e-4:
            deadline.reached = True
    _arm()
    if not main.inside:
        interrupts.check()
    elif main.wake is not None:
        main.wake()


@contextlib.contextmanager
def thread_deadline(
    deadline: Deadline, call_later: Callable[[float, Callable[[], None]], None] | None
) -> Iterator[None]:
    """Interrupt the block at the deadline, in a thread that gets no signals.

    An exception is set in the thread, which Python code meets at its next step, and the engine's
    code when it is done; a call that blocks in C meets it when it returns. It may come from the
    borders of the block, too, but never from behind it.

    Args:
        deadline: the limit.
        call_later: calls a function after so many seconds, on another thread; None is a timer
            of its own, for the sake of blocks in which the engine's turn is held.
    """
    thread = threading.get_ident()
    seconds = deadline.at - time.monotonic()
    timer: threading.Timer | None = None

    def strike() -> bool:
        with deadline.lock:
            return deadline.ended or raise_in_thread(thread, _Rung)

    def ring() -> None:
        with deadline.lock:
            if deadline.ended:
                return
            deadline.reached = True
        keep_trying(strike)

    if call_later is None:
        timer = threading.Timer(seconds, ring)
        timer.daemon = True
        timer.start()
    else:
        call_later(seconds, ring)
    try:
        yield
    except _Rung:
        if not deadline.reached:  # that of a block around this one
            raise
        raise DeadlineReached(deadline) from None
    finally:
        try:
            with deadline.lock:
                deadline.ended = True
            if timer is not None:
                timer.cancel()
            if deadline.reached:
                # Set, and perhaps not met yet: met here, so that it cannot go off in our own code.
                # To take it back, by NULL, makes Python 3.11 look for it for ever, and hang in
                # the first call under a profiler, a debugger or coverage.
                for _ in range(100):
                    pass
        except _Rung:
            deadline.ended = True


class _Rung(DeadlineReached):
    """What `thread_deadline` sets in a thread: an exception class, as the C call demands."""


def deadline_here(
    deadline: Deadline | None, call_later: Callable[[float, Callable[[], None]], None] | None
) -> contextlib.AbstractContextManager[None]:
    """Return the context manager that limits user code in the calling thread.

    Args:
        deadline: the limit, if there is one.
        call_later: as for `thread_deadline`.
    """
    if deadline is None:
        return contextlib.nullcontext()
    if _HAS_ALARM and interrupts.is_main_thread():
        return main_thread_deadline(deadline)
    return thread_deadline(deadline, call_later)
