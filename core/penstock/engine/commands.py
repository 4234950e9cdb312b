"""What the life of a run may ask of its driver.

A life is a generator that decides and never acts: each `yield` of a command asks the driver to
do one thing, and the value sent back is the answer. A command that has no fields is a constant.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from penstock.states import State

if TYPE_CHECKING:
    from penstock.attempt import Outcome

__all__ = [
    "AGAIN",
    "BUSY",
    "READY",
    "RECALL",
    "RESOLVE",
    "SETTLE",
    "Call",
    "CancelChildren",
    "CancelRun",
    "Command",
    "Enter",
    "Execute",
    "Life",
    "Log",
    "Propose",
    "Report",
    "Sleep",
]


class Ask(enum.Enum):
    """The commands without fields."""

    RESOLVE = "wait for the inputs and put them in place"
    """Answer: None, or the final state the run ends in, as its inputs cannot be had."""
    READY = "wait for a place to run in"
    """Answer: None, when the next command may be `Execute`."""
    SETTLE = "wait until every run inside of this flow run is over"
    """Answer: the `runs.Tally` of the attempt."""

    RECALL = "find the result where results are kept"
    """Answer: the final state that it means; None, if the run is to make it; `BUSY`; `AGAIN`."""


class Wait(enum.Enum):
    """Answers of `RECALL` that are no end to it."""

    BUSY = "another driver is making the result: ask again in a while"
    AGAIN = "ask again"


BUSY = Wait.BUSY
AGAIN = Wait.AGAIN
RECALL = Ask.RECALL
RESOLVE = Ask.RESOLVE
READY = Ask.READY
SETTLE = Ask.SETTLE


class Enter(NamedTuple):
    """Move the run to this state: history, log line, hooks. Answer: the state as entered."""

    state: State[Any]


class Execute(NamedTuple):
    """Run one attempt of the function. Answer: a `Report`.

    The run enters `state` when the attempt begins, which is later than now where the runner has
    a queue of its own; not at all if it never begins.
    """

    state: State[Any]


class Propose(NamedTuple):
    """Show the next state to the state handlers. Answer: the state they leave."""

    state: State[Any]


class Call(NamedTuple):
    """Call a function of the user's, on the driver. Answer: its value; its exception is thrown."""

    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()


class Sleep(NamedTuple):
    """Wait, holding no slot of any runner. Answer: None."""

    seconds: float


class Log(NamedTuple):
    """Write a line to the run's log. Answer: None."""

    level: int
    text: str
    error: BaseException | None = None


class CancelChildren(NamedTuple):
    """Cancel the runs inside of this flow run that are not over. Answer: None."""

    reason: str
    kill: bool
    """Stop what runs, too; otherwise only what has not begun."""
    keep_for: Any = None
    """Let those go on whose futures stand in this value, and those that they wait for."""


class Report(NamedTuple):
    """How an attempt ended, as its driver saw it."""

    outcome: Outcome
    at: float
    """Seconds since the epoch."""
    timed_out: bool = False
    cancelled: bool = False
    """The attempt was ended on request, or by Ctrl-C in the driver."""


Command: TypeAlias = Ask | Enter | Execute | Propose | Call | CancelChildren | Sleep | Log
Life: TypeAlias = Generator[Command, Any, State[Any]]


class CancelRun(Exception):
    """The run is to end as cancelled."""
