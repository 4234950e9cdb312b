"""Ctrl-C and what else strikes the main thread, delivered where no event can be lost to it.

A signal handler that raises in the middle of the engine would lose the event at hand. So the
handlers look at `_inside`: while the main thread is in library code they only make a note and
wake the loop, which calls `check()` at its next safe place; while it is in user code (a flow's
body, a task called directly) they raise there at once. All of this is state of the process, as
signals are, and touched by the main thread only. `deadlines` sets the limits that ring here.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType
else:
    import penstock._asyncio as asyncio

__all__ = [
    "Deadline",
    "DeadlineReached",
    "call_user_code",
    "catching_ctrl_c",
    "check",
    "library_code",
]


class DeadlineReached(BaseException):
    """Raised in user code whose time is up. A `BaseException`, so that it is not caught easily."""

    def __init__(self, deadline: Deadline | None = None) -> None:
        super().__init__("the time limit of a run was reached")
        self.deadline = deadline


class Interrupted(BaseException):
    """Ends an attempt in the calling thread, where the code around it was interrupted."""


class Deadline:
    """One limit on one piece of user code.

    Who limits the code makes it before the block that is limited: what rings may ring before the
    block has given anything back.
    """

    __slots__ = ("at", "ended", "lock", "reached")

    def __init__(self, seconds: float) -> None:
        self.at: float = time.monotonic() + seconds
        self.reached: bool = False
        self.ended: bool = False
        self.lock: threading.Lock = threading.Lock()


class MainThread:
    """What the signal handlers of this process share with the code they interrupt.

    Attributes:
        inside: how many blocks of library code are around the main thread's current code.
        presses: how often Ctrl-C was pressed since the outermost run began.
        pressed: it was pressed while signals were held back.
        held_back: how often, since one was delivered: a third one is not held back.
        installed: how many `catching_ctrl_c` blocks there are.
        wake: makes a waiting loop look around.
        deadlines: the limits that are running, outermost first.
        gives_way: library code runs a hook, which a second Ctrl-C may end.
        on_unraisable: who was told of errors in destructors before a deadline began.
    """

    __slots__ = (
        "deadlines",
        "gives_way",
        "held_back",
        "inside",
        "installed",
        "on_unraisable",
        "pressed",
        "presses",
        "wake",
    )

    def __init__(self) -> None:
        self.inside: int = 0
        self.presses: int = 0
        self.pressed: bool = False
        self.held_back: int = 0
        self.installed: int = 0
        self.wake: Callable[[], None] | None = None
        self.deadlines: list[Deadline] = []
        self.gives_way: bool = False
        self.on_unraisable: Callable[[Any], object] = sys.__unraisablehook__


main: MainThread = MainThread()


def is_main_thread() -> bool:
    """Whether the calling thread is the one that gets signals."""
    return threading.current_thread() is threading.main_thread()


# --- library code and user code --------------------------------------------------------


def enter_library() -> None:
    """From here on, signals wait. Main thread only; pairs with `leave_library`."""
    main.inside += 1


def leave_library() -> None:
    """Back to user code, where a signal that waited is delivered."""
    main.inside -= 1
    if main.inside == 0:
        check()


@contextlib.contextmanager
def library_code() -> Iterator[None]:
    """Hold signals back in the block."""
    main.inside += 1
    try:
        yield
    finally:
        leave_library()


def call_user_code(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a function from library code, and let signals through in it.

    No context manager: between its block and the end of its `__exit__` a signal could strike,
    and leave `inside` as it is here.
    """
    before, main.inside = main.inside, 0
    try:
        check()  # or what came just before would wait for the function's end
        return fn(*args, **kwargs)
    finally:
        main.inside = before


def check() -> None:
    """Deliver what waited: a safe place. Raises `KeyboardInterrupt` or `DeadlineReached`."""
    if main.pressed:
        main.pressed = False
        main.held_back = 0
        raise KeyboardInterrupt
    for deadline in main.deadlines:
        if deadline.reached and not deadline.ended:
            deadline.ended = True
            raise DeadlineReached(deadline)


def is_pending() -> bool:
    """Whether something waits to be delivered to the main thread."""
    return main.pressed or any(each.reached and not each.ended for each in main.deadlines)


@contextlib.contextmanager
def waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call this, too, in the block, when something has to wait; from the signal handler."""
    before = main.wake

    def wake_all() -> None:
        if before is not None:
            before()
        wake()

    main.wake = wake_all
    try:
        yield
    finally:
        main.wake = before


def postpone(error: BaseException) -> None:
    """Deliver once more, at the next safe place, what library code has caught."""
    if isinstance(error, KeyboardInterrupt):
        main.pressed = True
    elif isinstance(error, DeadlineReached) and error.deadline is not None:
        error.deadline.ended = False


def reason(error: BaseException | None) -> str:
    """Return, for people, why a run was interrupted from outside."""
    if isinstance(error, DeadlineReached):
        return "the run around it has timed out"
    if isinstance(error, asyncio.CancelledError):
        return "its asyncio task was cancelled"
    return "interrupted by Ctrl-C"


def pass_on(error: BaseException | None) -> None:
    """Raise what has interrupted a run from outside; asking for its state does not stop that."""
    if error is not None and isinstance(
        error, (KeyboardInterrupt, asyncio.CancelledError, DeadlineReached)
    ):
        raise error


# --- worker threads --------------------------------------------------------------------


class ShieldedThread(Protocol):
    """A worker thread that can hold off what its runner would raise in it."""

    shield: int
    """Nothing is raised here from outside while this is above 0."""

    def strike(self) -> None:
        """Raise what was held off, if anything was."""
        ...


def shielded_thread() -> ShieldedThread | None:
    """Return the calling thread if it is one that its runner may raise things in."""
    thread: Any = threading.current_thread()
    return thread if hasattr(thread, "shield") else None


def call_in_worker(worker: ShieldedThread, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """As `call_user_code`, in a worker thread."""
    before, worker.shield = worker.shield, 0
    try:
        worker.strike()
        return fn(*args)
    finally:
        worker.shield = before


# --- Ctrl-C ----------------------------------------------------------------------------


@contextlib.contextmanager
def catching_ctrl_c(wake: Callable[[], None]) -> Iterator[None]:
    """Take over Ctrl-C in the block, where the main thread has nobody else's handler for it.

    Args:
        wake: makes a waiting loop look around; called from the signal handler, so it must be
            reentrant, as `SimpleQueue.put` is.
    """
    if not is_main_thread():
        yield
        return
    outermost = main.installed == 0
    before = signal.getsignal(signal.SIGINT)
    takes_over = outermost and before is signal.default_int_handler
    previous_wake, main.wake = main.wake, wake
    main.installed += 1
    if outermost:
        main.presses = main.held_back = 0
        main.pressed = False
    if takes_over:
        signal.signal(signal.SIGINT, _on_ctrl_c)
    hooked = watch_destructors()
    try:
        yield
    finally:
        if hooked:
            leave_destructors()
        main.installed -= 1
        main.wake = previous_wake
        if takes_over:
            signal.signal(signal.SIGINT, before)


def _on_ctrl_c(_signal: int, _frame: FrameType | None) -> None:
    main.presses += 1
    strikes = not main.inside or main.held_back >= 2 or (main.gives_way and main.presses >= 2)
    if strikes:
        raise KeyboardInterrupt
    main.pressed = True
    main.held_back += 1
    if main.wake is not None:
        main.wake()


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Let a second Ctrl-C strike in the block, a hook, though library code is around it.

    Whoever uses this catches the `KeyboardInterrupt`, and `postpone`s it.
    """
    before = main.gives_way
    main.gives_way = is_main_thread()
    try:
        yield
    finally:
        main.gives_way = before


@contextlib.contextmanager
def blocking_an_event_loop(wake: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C end a wait in the block, which stands in a coroutine and blocks its loop.

    The handler of `asyncio.run` only asks its main task to end, at an `await` that does not come.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        asyncio.get_running_loop()
        is_its_own = before not in (_on_ctrl_c, signal.default_int_handler) and callable(before)
    except RuntimeError:  # no loop runs here
        is_its_own = False
    if not is_its_own:
        yield
        return

    def on_ctrl_c(_signal: int, _frame: FrameType | None) -> None:
        main.pressed = True
        wake()

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- what destructors swallow -----------------------------------------------------------


def watch_destructors() -> bool:
    """See to it that nothing is lost in a destructor; false if it is seen to already."""
    if sys.unraisablehook is _on_unraisable:
        return False
    main.on_unraisable = sys.unraisablehook
    sys.unraisablehook = _on_unraisable
    return True


def leave_destructors() -> None:
    """The end of what `watch_destructors` began."""
    if sys.unraisablehook is _on_unraisable:
        sys.unraisablehook = main.on_unraisable


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """What struck in a destructor, or a weak reference's callback, strikes once more.

    Python catches everything there, and only tells of it.
    """
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt) and is_main_thread():
        main.pressed = True
    elif isinstance(error, DeadlineReached) and error.deadline in main.deadlines:
        postpone(error)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        main.on_unraisable(unraisable)
