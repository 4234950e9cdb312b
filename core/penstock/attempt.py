"""What travels between the driver and a worker: an attempt out, an outcome back.

Nothing else crosses: no state, no policy, no flow, no runner. The classes are named tuples,
since they are immutable, cheap to make by the ten thousand, and pickle by position.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Mapping

__all__ = ["Attempt", "Outcome", "OutcomeKind", "Packed", "RemoteError"]

OutcomeKind: TypeAlias = Literal["returned", "raised", "lost", "stopped", "abandoned"]


class Attempt(NamedTuple):
    """One execution of a user's function. Its id is never used a second time."""

    id: int
    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    context: contextvars.Context | None = None
    """Run the function in here. For workers in this process only; None elsewhere."""
    report_start: bool = False
    """Send `Started` when the function begins: states and deadlines count from there.

    It may be left out where the outcome follows within a few milliseconds.
    """
    is_async: bool = False
    """`fn` is a coroutine function or an async generator function."""
    priority: int = 0
    """Higher goes first among the attempts a runner holds."""
    name: str = ""
    """The task run's name, for thread names, cluster dashboards and messages."""
    environment: bytes = b""
    """The run's context, packed, for workers in other processes."""
    resources: Mapping[str, float] = {}
    keep_result: bool = False
    """Leave the result with the worker, where the runner can."""


class RemoteError(NamedTuple):
    """A user's exception from another process: text always, the object where it survived."""

    type_name: str
    message: str
    traceback_text: str
    pickled: bytes | None
    """None where the exception could not be pickled *and* unpickled on the worker."""


class Packed(NamedTuple):
    """A result still pickled. Whoever asks for the result unpickles it, never the engine."""

    data: bytes
    buffers: tuple[Any, ...] = ()

    def load(self) -> Any:
        """Return the result. Runs the user's code, as unpickling does."""
        return pickle.loads(self.data, buffers=self.buffers)


class Outcome(NamedTuple):
    """The one end of an attempt.

    ``returned``: `value` holds the result.  ``raised``: `error` holds what the function raised,
    whatever it was, `SystemExit` included.  ``lost``: the worker died.  ``stopped``: the function
    was prevented from starting, or made to end, on request.  ``abandoned``: it could not be made
    to end; its slot has been replaced and its late end will be dropped.
    """

    attempt_id: int
    kind: OutcomeKind
    value: Any = None
    error: BaseException | RemoteError | None = None
    reason: str = ""
    """For people: why the attempt was lost, stopped or abandoned."""
    began: bool | None = True
    """Whether the user's function began; None where the runner cannot know."""
    duration_seconds: float = 0.0
    worker: str = ""
