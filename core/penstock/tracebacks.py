"""Tracebacks as users want them: their own frames, without those of the engine around them."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import traceback
import warnings

__all__ = ["cut_own_frames", "format_user_traceback", "user_frames", "warn_caller"]

OWN_PACKAGES = ("penstock", "penstock_runners")


def warn_caller(text: str) -> None:
    """Warn, at the line of the user's code that has led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_own_directories()):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def user_frames(exc: BaseException) -> traceback.StackSummary:
    """Return the frames an exception passed through, outermost first, without Penstock's own.

    If all of them are Penstock's own, all are returned: a bug of ours must not be invisible.
    """
    stack = traceback.StackSummary.extract(traceback.walk_tb(exc.__traceback__), lookup_lines=False)
    return _without_own(stack)


def format_user_traceback(exc: BaseException) -> str:
    """Return the text of a traceback, without Penstock's frames and without a final newline.

    Causes, contexts, notes and the members of exception groups are there as Python prints them,
    each without Penstock's frames. The exception is left as it is.
    """
    whole = traceback.TracebackException.from_exception(exc, lookup_lines=False, compact=True)
    # TracebackException is our own copy; trimming it, unlike trimming `__traceback__`, is seen by
    # nobody else. A loop, not a recursion: chains may be as long as the user's retries.
    left: list[traceback.TracebackException] = [whole]
    while left:
        one = left.pop()
        one.stack = _without_own(one.stack)
        left.extend(
            next_one
            for next_one in (one.__cause__, one.__context__, *(one.exceptions or ()))
            if next_one is not None
        )
    return "".join(whole.format()).removesuffix("\n")


def _without_own(stack: traceback.StackSummary) -> traceback.StackSummary:
    own = _own_directories()
    kept = [frame for frame in stack if not frame.filename.startswith(own)]
    if not kept or len(kept) == len(stack):
        return stack
    return traceback.StackSummary.from_list(kept)


@functools.cache
def _own_directories() -> tuple[str, ...]:
    """Return where our packages lie, each with a separator at its end."""
    directories: list[str] = []
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)  # looks, and imports nothing
        for directory in (spec and spec.submodule_search_locations) or ():
            directories.append(os.path.join(directory, ""))  # noqa: PERF401
    return tuple(directories)


def cut_own_frames(exc: BaseException) -> None:
    """Cut our frames off the front of a traceback that ends in user code, for good.

    For the moment an exception leaves user code into the engine: what the engine adds from there
    on has not been added yet, so nobody else has seen the frames that go.
    """
    own = _own_directories()
    step = exc.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(own):
        step = step.tb_next
    if step is not None:
        exc.__traceback__ = step
