"""The states of a run, the table of legal moves, and `advance()`, the only place a state is set.

Theory of operation
-------------------
A run is in one `State` at a time and keeps the history of all it has been in. A state has a
*type* (one of nine, `StateType`), which decides what is legal and what it means, and a *name*,
which is for people: ``AwaitingRetry`` is of type SCHEDULED, ``TimedOut`` of type FAILED.

An attempt that failed and will be tried again enters a *provisional* ``Failed``: the history
shows the failure of every attempt (Running -> Failed -> AwaitingRetry -> Retrying -> Completed),
yet the run is not over, and `is_final()` is false for it.

States are values. Nobody changes one; a run moves to another by `advance()`, which asks
`LEGAL_MOVES` first. A missing key there *is* the illegal move.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from penstock.attempt import KeptResult, Packed
from penstock.exceptions import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    IllegalMove,
    UnfinishedRun,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "LEGAL_MOVES",
    "AwaitingRetry",
    "Cancelled",
    "Cancelling",
    "Completed",
    "Crashed",
    "Failed",
    "Paused",
    "Pending",
    "ResultLost",
    "Retrying",
    "Running",
    "Scheduled",
    "State",
    "StateType",
    "Success",
    "TimedOut",
    "TriggerFailed",
    "UpstreamFailed",
    "advance",
]

R = TypeVar("R")


class StateType(enum.StrEnum):
    """The nine types of state."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"


_SCHEDULED, _PENDING, _RUNNING = StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING
_COMPLETED, _FAILED, _CRASHED = StateType.COMPLETED, StateType.FAILED, StateType.CRASHED
_CANCELLED, _CANCELLING, _PAUSED = StateType.CANCELLED, StateType.CANCELLING, StateType.PAUSED

TERMINAL: Final = frozenset({_COMPLETED, _FAILED, _CRASHED, _CANCELLED})

LEGAL_MOVES: Final[dict[StateType, frozenset[StateType]]] = {
    _SCHEDULED: frozenset({_PENDING, _RUNNING, _CANCELLING, *TERMINAL}),
    # COMPLETED: a cache hit never runs.  FAILED: an input failed, or a name could not be made.
    _PENDING: frozenset({_SCHEDULED, _RUNNING, _PAUSED, _CANCELLING, *TERMINAL}),
    # RUNNING to RUNNING is a flow's next attempt; FAILED may be provisional, see below.
    _RUNNING: frozenset({_RUNNING, _SCHEDULED, _PAUSED, _CANCELLING, *TERMINAL}),
    _PAUSED: frozenset({_RUNNING, _CANCELLING, *TERMINAL}),
    # COMPLETED: the work was done before the request to cancel could reach it.
    _CANCELLING: frozenset(TERMINAL),
    # SCHEDULED: its result was lost with the worker that kept it, and is made again.  COMPLETED:
    # its transaction was rolled back.
    _COMPLETED: frozenset({_SCHEDULED, _COMPLETED}),
    # No row for the other terminal types: what has ended stays as it ended.
}

LEGAL_AFTER_PROVISIONAL: Final = frozenset(
    {_SCHEDULED, _RUNNING, _FAILED, _CRASHED, _CANCELLED, _CANCELLING, _COMPLETED}
)


class StateResult(Generic[R]):
    """What `state.result` is: call it for the value, or read it like the value.

    ``state.result()`` gives the value or raises the failure; ``state.result.flag``,
    ``state.result["key"]`` and ``state.result == 3`` look at what is stored, as state handlers
    in the style of Prefect 1 do.
    """

    __slots__ = ("_state",)

    def __init__(self, state: State[R]) -> None:
        self._state = state

    def __call__(self, raise_on_failure: bool = True) -> R:
        """Return the run's value, or raise why there is none.

        Args:
            raise_on_failure: when false, a failed state's exception is returned, not raised.

        Raises:
            UnfinishedRun: the state is not final.
            CancelledRun: the run was cancelled.
            BaseException: the task's or flow's own exception, untouched.
        """
        state = self._state
        if state.type is _COMPLETED:
            return state.value()
        error = state.exception()
        if raise_on_failure or error is None:
            raise (
                error
                if error is not None
                else UnfinishedRun(
                    f"the run is in state {state} and has no result yet; wait for it first"
                )
            )
        return error  # type: ignore[return-value]  # documented: the exception itself

    @property
    def _value(self) -> Any:
        return self._state.value()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __getitem__(self, key: Any) -> Any:
        return self._value[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._value)

    def __contains__(self, item: object) -> bool:
        return item in self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:  # and so no hash: the value may have none
        return bool(self._value == other)

    def __repr__(self) -> str:
        return repr(self._value)


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class State(Generic[R]):
    """One state of one run.

    Attributes:
        type: decides what the state means and where it may lead.
        name: for people; the type's own name where nothing better is said.
        message: one line for people.
        data: the value of a COMPLETED state, the exception of a failed one.
        at: when the run entered it, in seconds since the epoch; 0.0 before that.
        scheduled_at: SCHEDULED: when to go on, in seconds since the epoch.
        provisional: a failure of one attempt, to be followed by another.
    """

    type: StateType
    name: str = ""
    message: str | None = None
    data: Any = None
    at: float = 0.0
    scheduled_at: float | None = None
    provisional: bool = False

    def __init__(
        self,
        type: StateType,  # noqa: A002  (what everybody calls it)
        name: str = "",
        message: str | None = None,
        data: Any = None,
        at: float = 0.0,
        scheduled_at: float | None = None,
        provisional: bool = False,
    ) -> None:
        # As dataclasses would write it for what is frozen, in half the time: a run makes three.
        _put_type(self, type)
        _put_name(self, name or type.capitalize())
        _put_message(self, message)
        _put_data(self, data)
        _put_at(self, at)
        _put_scheduled_at(self, scheduled_at)
        _put_provisional(self, provisional)

    @property
    def result(self) -> StateResult[R]:
        """The value: `state.result()`, or read it as it is stored; see `StateResult`."""
        return StateResult(self)

    @property
    def timestamp(self) -> datetime.datetime | None:
        """When the run entered this state (UTC), or None if it has not."""
        return _utc(self.at) if self.at else None

    @property
    def scheduled_time(self) -> datetime.datetime | None:
        """When a SCHEDULED run goes on (UTC)."""
        return None if self.scheduled_at is None else _utc(self.scheduled_at)

    @property
    def start_time(self) -> datetime.datetime | None:
        """As `scheduled_time`; the name that Prefect 1 gave it."""
        return self.scheduled_time

    def value(self) -> R:
        """Return what is stored, unpacked by whoever asks first if it came from elsewhere.

        For the value of a run ask `result()`, which raises where there is none.

        Raises:
            LookupError: it stayed with a worker, and was lost there.
        """
        data = self.data
        if type(data) is Packed:
            data = data.load()
            _put_data(self, data)  # the same value, in its other form
        elif isinstance(data, KeptResult):
            kept, data = data, data.fetch()
            if not kept.is_read_anew:
                _put_data(self, data)
        return data  # type: ignore[no-any-return]  # R by construction

    def exception(self) -> BaseException | None:
        """Return why there is no value: the failure itself, or one of ours that says so.

        None for a state that has a value or has not ended.
        """
        if self.type is _COMPLETED or self.type not in TERMINAL:
            return None
        if isinstance(self.data, BaseException):
            return self.data
        text = f"the run ended in state {self}"
        if self.type is _CANCELLED:
            return CancelledRun(f"{text}: there is no result")
        if self.type is _CRASHED:
            return CrashedRun(text)
        return FailedRun(text)

    def is_scheduled(self) -> bool:
        """Whether the run waits for a set time."""
        return self.type is _SCHEDULED

    def is_pending(self) -> bool:
        """Whether the run has been made and not started."""
        return self.type is _PENDING

    def is_running(self) -> bool:
        """Whether the run is running."""
        return self.type is _RUNNING

    def is_completed(self) -> bool:
        """Whether the run ended well."""
        return self.type is _COMPLETED

    def is_failed(self) -> bool:
        """Whether the run, or its latest attempt, failed by its own doing."""
        return self.type is _FAILED

    def is_crashed(self) -> bool:
        """Whether the run was ended by an outside cause."""
        return self.type is _CRASHED

    def is_cancelled(self) -> bool:
        """Whether the run was cancelled."""
        return self.type is _CANCELLED

    def is_cancelling(self) -> bool:
        """Whether the run was asked to end and has not yet."""
        return self.type is _CANCELLING

    def is_paused(self) -> bool:
        """Whether the run waits to be resumed."""
        return self.type is _PAUSED

    def is_final(self) -> bool:
        """Whether the run is over; false for the failure of an attempt that will be retried."""
        return self.type in TERMINAL and not self.provisional

    def is_retrying(self) -> bool:
        """Whether the run waits for its next attempt, or that attempt is running."""
        return self.name in ("Retrying", "AwaitingRetry")

    def is_successful(self) -> bool:
        """As `is_completed`; the name that Prefect 1 gave it."""
        return self.is_completed()

    def is_finished(self) -> bool:
        """As `is_final`; the name that Prefect 1 gave it."""
        return self.is_final()

    def __str__(self) -> str:
        said = [repr(self.message)] if self.message else []
        if self.name != self.type.capitalize():
            said.append(f"type={self.type.value}")
        return f"{self.name}({', '.join(said)})"

    __repr__ = __str__


_put_type, _put_name, _put_message, _put_data, _put_at, _put_scheduled_at, _put_provisional = (
    getattr(State, field.name).__set__ for field in dataclasses.fields(State)
)


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


# --- the named states ------------------------------------------------------------------


def Pending(message: str | None = None) -> State[Any]:  # noqa: N802  (Prefect's names)
    """Made, and not started."""
    return State(_PENDING, "Pending", message)


def Running(message: str | None = None) -> State[Any]:  # noqa: N802
    """Running."""
    return State(_RUNNING, "Running", message)


def Retrying(message: str | None = None) -> State[Any]:  # noqa: N802
    """Running again after a failed attempt."""
    return State(_RUNNING, "Retrying", message)


def Completed(data: R | Any = None, message: str | None = None, name: str = "") -> State[R]:  # noqa: N802
    """Ended well, with `data` as its value."""
    return State(_COMPLETED, name or "Completed", message, data)


def Failed(message: str | None = None, data: Any = None, name: str = "") -> State[Any]:  # noqa: N802
    """Failed by its own doing; `data` is the exception where there is one."""
    return State(_FAILED, name or "Failed", message, data)


def TimedOut(message: str | None = None, data: Any = None) -> State[Any]:  # noqa: N802
    """Failed by going over its time limit."""
    return State(_FAILED, "TimedOut", message, data)


def UpstreamFailed(message: str | None = None, data: Any = None) -> State[Any]:  # noqa: N802
    """Never began, as one of its inputs failed."""
    return State(_FAILED, "UpstreamFailed", message, data)


def Crashed(message: str | None = None, data: Any = None) -> State[Any]:  # noqa: N802
    """Ended by an outside cause, such as the death of its worker."""
    return State(_CRASHED, "Crashed", message, data)


def Cancelled(message: str | None = None) -> State[Any]:  # noqa: N802
    """Cancelled."""
    return State(_CANCELLED, "Cancelled", message)


def Cancelling(message: str | None = None) -> State[Any]:  # noqa: N802
    """Asked to end, and still running."""
    return State(_CANCELLING, "Cancelling", message)


def ResultLost(message: str | None = None) -> State[Any]:  # noqa: N802
    """Ended well, and to be run again, as its result was lost with the worker that kept it."""
    return State(_SCHEDULED, "ResultLost", message)


def Paused(message: str | None = None) -> State[Any]:  # noqa: N802
    """Waiting to be resumed."""
    return State(_PAUSED, "Paused", message)


def Scheduled(  # noqa: N802
    scheduled_time: datetime.datetime | None = None,
    message: str | None = None,
    name: str = "",
) -> State[Any]:
    """Waiting for a set time; a time without a zone is local time, none means at once."""
    when = None if scheduled_time is None else scheduled_time.timestamp()
    return State(_SCHEDULED, name or "Scheduled", message, scheduled_at=when)


def AwaitingRetry(  # noqa: N802
    scheduled_time: datetime.datetime | None = None, message: str | None = None
) -> State[Any]:
    """Waiting for its next attempt."""
    return Scheduled(scheduled_time, message, "AwaitingRetry")


Success = Completed
"""The name that Prefect 1 gave it (row 132)."""
TriggerFailed = UpstreamFailed
"""The name that Prefect 1 gave it (`spec.md`, D5)."""


# --- the one place a state is set ------------------------------------------------------


class HasState(Protocol):
    """What `advance` moves: anything with a state and a history."""

    @property
    def state(self) -> State[Any]:
        """Where it stands."""
        ...

    def move_to(self, state: State[Any]) -> None:
        """Be in this state, and have it at the end of the history."""
        ...


def is_legal(old: State[Any], new: State[Any]) -> bool:
    """Whether a run may move from one state to the other."""
    if old.provisional:
        return new.type in LEGAL_AFTER_PROVISIONAL
    return new.type in LEGAL_MOVES.get(old.type, ())


def advance(run: HasState, new: State[R], now: float) -> State[R]:
    """Move a run to a new state, and return that state as it was entered.

    Args:
        run: what moves.
        new: the state to enter; stamped with `now`. A state that is in some run's history
            already (a module-level constant, say) is copied first.
        now: seconds since the epoch.

    Raises:
        IllegalMove: the table of moves has no such move.
    """
    old = run.state
    if not is_legal(old, new):
        legal = LEGAL_AFTER_PROVISIONAL if old.provisional else LEGAL_MOVES.get(old.type, ())
        raise IllegalMove(
            f"{run!r} cannot go from {old} to {new}; from there it may go to: "
            + (", ".join(sorted(legal)) or "nowhere, it has ended")
        )
    if new.at:
        new = dataclasses.replace(new, at=now)
    else:
        _put_at(new, now)  # nobody else has seen it: still being made
    run.move_to(new)
    return new
