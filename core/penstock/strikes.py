"""Exceptions that are raised in another thread, for code whose time is up or that was given up.

Python delivers one between any two steps of that thread. Where the thread is inside of `logging`,
or of the engine, that would leave a lock behind which nobody can take any more, or half of a step;
so it is held off until the thread is back in the code that it runs for its user. A look at the
thread's stack tells. The thread may go on between the look and the blow: for a few microseconds.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["keep_trying", "raise_in_thread"]

FIRST_PAUSE_SECONDS: Final = 0.002
LONGEST_PAUSE_SECONDS: Final = 0.1

_OWN: Final = os.path.join(os.path.dirname(__file__), "")
_STANDARD: Final = os.path.join(os.path.dirname(os.__file__), "")
_INSTALLED: Final = tuple(
    os.path.join(_STANDARD, folder, "") for folder in ("site-packages", "dist-packages")
)
_CALLERS: Final = frozenset(
    os.path.join(_OWN, *parts)
    for parts in (
        ("attempt.py",),
        ("engine", "execution.py"),
        ("engine", "interrupts.py"),
        ("engine", "streams.py"),
        ("worker", "calling.py"),
    )
)
"""What calls users' functions: below it, the code is theirs."""
_TESTING: Final = os.path.join(_OWN, "testing", "")


def raise_in_thread(ident: int, kind: type[BaseException]) -> bool:
    """Raise an exception of this class in a thread, unless this is no time for it.

    Returns:
        Whether there is nothing more to be done: it was raised, or the thread has ended.
    """
    import ctypes  # 2 ms of every start, for what few programs need

    if ident != threading.get_ident():
        frame = sys._current_frames().get(ident)
        if frame is None:
            return True
        if _is_delicate(frame):
            return False
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))
    return True


def keep_trying(attempt: Callable[[], bool]) -> None:
    """Call a function until it returns true: at once and then, elsewhere, ever less often."""
    if attempt():
        return

    def go_on() -> None:
        pause = FIRST_PAUSE_SECONDS
        while not attempt():
            # Nothing tells when another thread leaves a function.
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    threading.Thread(target=go_on, name="penstock-strike", daemon=True).start()


def _is_delicate(frame: FrameType | None) -> bool:
    """Whether a thread is in `logging` or, with no code of the user's inside of it, in ours."""
    in_users = False
    while frame is not None:
        file = frame.f_code.co_filename
        if file == logging.__file__:
            return True
        if file.startswith(_OWN) and not file.startswith(_TESTING):
            return not in_users and file not in _CALLERS
        if file.startswith(_INSTALLED) or not file.startswith((_STANDARD, "<frozen ")):
            in_users = True
        frame = frame.f_back
    return False
