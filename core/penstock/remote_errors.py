"""An exception that was raised in another process, as it is raised again here."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from penstock.exceptions import RemoteTaskError

if TYPE_CHECKING:
    from penstock.attempt import RemoteError

__all__ = ["RemoteTraceback", "exception_of"]


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process to where it will be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def exception_of(error: RemoteError) -> BaseException:
    """Return the original exception, or a `RemoteTaskError` where it could not travel.

    The worker's traceback comes along as text: as the cause of an exception that has none of its
    own, so that Python prints it above (as `concurrent.futures` does), and else as a note.
    Unpickling runs the user's code; if it fails here though it did not in the worker (a class that
    only the worker can import, say), that is said.
    """
    trouble = "it could not be pickled in the worker"
    if error.pickled is not None:
        try:
            original = pickle.loads(error.pickled)
        except Exception as problem:  # noqa: BLE001  (the user's code; told below)
            trouble = f"it could not be unpickled here: {problem!r}"
        else:
            return _with_text(original, error.traceback_text)
    stand_in = RemoteTaskError(f"{error.type_name}: {error.message} ({trouble})")
    return _with_text(stand_in, error.traceback_text)


def _with_text(exception: BaseException, text: str) -> BaseException:
    if exception.__cause__ is None and exception.__context__ is None:
        exception.__cause__ = RemoteTraceback(text)
    else:
        exception.add_note(f"In the worker:\n{text}")
    return exception
