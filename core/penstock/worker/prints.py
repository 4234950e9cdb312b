"""`log_prints`: what `print` writes in a run goes to the run's log, and only there.

Which sink a `print` belongs to is decided by context, so that threads and coroutines side by side
do not see each other's. `builtins.print` is replaced only while some capture is active anywhere.
"""

from __future__ import annotations

import builtins
import functools
import io
import sys
import threading
from collections.abc import Callable
from contextvars import Context, ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeAlias

from .here import common

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Sink", "captured", "is_captured", "leave_capture"]

Sink: TypeAlias = Callable[[str], object]

_own_sink: ContextVar[Sink | None] = ContextVar("penstock_print_sink", default=None)
_sink = common("PRINT_SINK", _own_sink)


class captured:  # noqa: N801  (reads as the function it is used as)
    """Send what `print` writes in the block to `sink`, as text without its final newline.

    Code called in the block, and work that carries its context, prints to the sink too. A `print`
    to a file other than stdout and stderr is left alone. Several lines printed at once are one
    text. What the sink itself prints is printed.

    Args:
        sink: Called with each printed text; None prints normally inside of an outer capture.
    """

    __slots__ = ("_sink", "_token")

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._token: Token[Sink | None] | None = None

    def __enter__(self) -> None:
        if self._token is not None:
            raise RuntimeError("a capture is entered once; make another")
        if self._sink is not None:
            _installation.begin()
        self._token = _sink.set(self._sink)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sink is not None:
            _installation.end()
        token, self._token = self._token, None
        if token is not None:
            _sink.reset(token)


def is_captured() -> bool:
    """Whether `print` goes to some sink, in the calling code."""
    return _sink.get() is not None


def leave_capture(context: Context) -> None:
    """Let what will run in this context print normally, whatever captured the code around it."""
    if context.get(_sink) is not None:
        context.run(_sink.set, None)


class _Installation:
    """Our `print` in the place of the one before, for as long as anybody needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._ours: Callable[..., None] | None = None
        self._before: Callable[..., None] = builtins.print

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = builtins.print
                self._ours = builtins.print = _dispatching(self._before)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            # If somebody has replaced ours since, taking it out would undo theirs. Ours stays
            # under theirs, and passes everything on.
            if self._users == 0 and builtins.print is self._ours:
                builtins.print = self._before


def _dispatching(before: Callable[..., None]) -> Callable[..., None]:
    """Return a `print` that asks the context where to, and passes on to `before`.

    A new one for each installation: one that served twice could find itself under another
    library's `print` that it had just been put over, and they would call each other for ever.
    """

    # `wraps` also gives it the name builtins.print, by which pickle finds it. A `print` passed
    # to a task in another process so arrives as the plain one.
    @functools.wraps(before)
    def dispatch(*values: Any, **options: Any) -> None:
        sink = _sink.get()
        if sink is None:
            return before(*values, **options)
        file = options.get("file")
        if file is not None and file is not sys.stdout and file is not sys.stderr:
            return before(*values, **options)
        # The real print applies sep and end, and raises what it raises for wrong ones.
        text = io.StringIO()
        _real_print(*values, **{**options, "file": text})
        token = _sink.set(None)  # what the sink prints is not for the sink
        try:
            sink(text.getvalue().removesuffix("\n"))
        finally:
            _sink.reset(token)
        return None

    return dispatch


_real_print: Callable[..., None] = builtins.print
_installation = common("PRINT_INSTALLATION", _Installation())
