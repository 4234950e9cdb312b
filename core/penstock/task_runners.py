"""The interface of a task runner, and how runners are found by name.

A task runner carries attempts to workers and reports what became of them. It knows nothing of
tasks, states, retries or caches. The built-in runners arrive by the same entry points
(group ``penstock.task_runners``) as anybody else's.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import math
import types
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from penstock.attempt import (
    Attempt,
    Environment,
    KeptResult,
    Outcome,
    OutcomeKind,
    Packed,
    PackedState,
    RemoteError,
    Series,
    Siblings,
)
from penstock.by_value import ByValue
from penstock.exceptions import TaskRunnerNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.metadata import EntryPoint
    from typing import Self

__all__ = [
    "Attempt",
    "Broken",
    "Capabilities",
    "Environment",
    "Event",
    "KeptResult",
    "Outcome",
    "OutcomeKind",
    "Output",
    "Packed",
    "PackedState",
    "RemoteError",
    "Returned",
    "Series",
    "Siblings",
    "SlotsChanged",
    "Started",
    "TaskRunner",
    "checked_resources",
    "count_from_spec",
    "load_task_runner",
    "show_resources",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runner can do. The engine reads it once, after `open()`, and refuses the rest."""

    isolation: Literal["none", "interpreter", "process"] = "none"
    """What a crash of user code takes with it: the driver, an interpreter, or a worker."""
    kill: Literal["none", "soft", "hard"] = "none"
    """What can be done to a running attempt: nothing; an exception in it; its worker ended."""
    pickles: bool = False
    """Arguments and results cross a process boundary."""
    async_functions: bool = False
    """Takes coroutine functions; otherwise the engine wraps them in `asyncio.run`."""
    shares_event_loop: bool = False
    """Coroutine functions run on one event loop of the driver's process: what blocks one of them
    holds up the others."""
    keeps_results: bool = False
    """Results can stay with the workers as `KeptResult`s, which are good arguments there."""
    lends_slots: bool = False
    """`blocked(id, True)` adds a slot while a task waits for other tasks."""
    may_rerun: bool = False
    """The substrate may run an attempt a second time by itself."""
    keeps_warm: bool = False
    """Idle workers may outlive `close()` for a while, for the next runner of their kind."""
    elastic: bool = False
    """`slots()` changes while the runner is open."""
    shares_workers: bool = False
    """Workers belong to somebody else, and outlive the driver."""
    schedules_resources: bool = False
    """Sees by itself to what `Attempt.resources` says; otherwise the engine hands out what the
    runner's `resources` list."""
    reaches_storage: Literal["nothing", "network", "machine"] = "nothing"
    """Which file systems workers elsewhere can use: those on the network, on this machine, too."""
    names_workers: bool = False
    """Attempts may say which workers they are for."""
    takes_series: bool = False
    """Gains from a `Series`, and so gets the attempts of a plain `.map()` as one. They are a
    sequence for `submit()` like any other; their outcomes may be reported as `Returned`. Counts
    only with `pickles`, as attempts in this process have a context each."""
    runs_in_caller: bool = False
    """`submit()` runs the attempt in the calling thread, before it returns."""


class Started(NamedTuple):
    """User code of an attempt has begun."""

    attempt_id: int
    worker: str
    at: float
    """`time.monotonic()` of the driver's machine, or when the news came."""


class Returned(NamedTuple):
    """Attempts of a `Series`, one after the other, have returned, and there is no more to say.

    As good as a ``returned`` `Outcome`, with `began_at`, for each of them.
    """

    first_id: int
    """The id of the first of these attempts."""
    values: list[Any]
    """Plain ones, or `Packed`; a `PackedState` or a `KeptResult` needs an `Outcome` of its own."""
    began_at: list[float]
    seconds: list[float]
    """As `Outcome.duration_seconds`."""
    worker: str


class Output(NamedTuple):
    """What an attempt has logged or printed, from a worker elsewhere; before its outcome."""

    attempt_id: int
    records: tuple[tuple[Any, ...], ...]
    """As `penstock.worker.output.packed_record` makes them, in order."""
    worker: str = ""


class SlotsChanged(NamedTuple):
    """An elastic runner has a new number of slots."""

    slots: int


class Broken(NamedTuple):
    """The runner as a whole is gone; a ``lost`` outcome for every open attempt came before."""

    error: BaseException
    runner: TaskRunner
    """Which one: the runner that reports it."""


Event: TypeAlias = Started | Outcome | Returned | Output | SlotsChanged | Broken


class TaskRunner(abc.ABC):
    """Carries attempts to workers. Knows nothing of tasks, states or retries.

    **Life.** `__init__` keeps configuration and starts nothing. The engine asks `for_run()` for a
    runner of its own, calls `open()`, and `close()` at the end. What is live is made in `open()`.

    **Threads.** The engine calls every method from one thread at a time. The runner may call
    `report` from any thread: it only enqueues, never blocks, never raises, never runs user code.
    A runner installs no signal handlers, runs user code only in its own threads and workers
    (`runs_in_caller` excepted), and waits in no method but `open()` and `close()`.

    **Exactly one outcome.** Each attempt taken by `submit()` is reported with one `Outcome`.
    Whatever user code raises, `BaseException` included, is ``raised``. What cannot be pickled
    is ``raised`` for that attempt alone. A worker that dies is ``lost`` with ``began=True`` for
    what it ran, and ``began=False`` (or a silent re-queue) for what it had not begun. If
    `submit()` itself raises, the engine takes it for a fault of the runner and crashes every
    attempt of that call.

    **Cancelling is a request.** `cancel()` returns at once and an outcome comes all the same:
    ``stopped`` if user code was prevented or ended, ``abandoned`` at once where it cannot be, or
    the true end if that was first (a coroutine that returns a value in spite of the request has
    ``returned``). Deadlines are the engine's: it counts from `Started`, sets
    the state on time whatever the runner says, and calls ``cancel(hard=True)``.

    **Forks.** `submit()` in a forked child of the process that called `open()` raises
    `RuntimeError`: the workers belong to the parent.

    The conformance kit, `penstock.testing.conformance`, checks all of this.
    """

    capabilities: Capabilities = Capabilities()

    resources: Mapping[str, float] = types.MappingProxyType({})
    """What its workers have together, by name, such as ``{"GPU": 2}``; does not change while open.

    The engine keeps account: it submits an attempt when what that needs is free.
    """

    ship_modules: tuple[str, ...] = ()
    """Names of modules that its workers cannot import; what they define goes by value."""

    @classmethod
    def from_spec(cls, argument: str) -> Self:
        """Make a runner from the part after the colon in ``"name:argument"``.

        The base understands an empty argument only. Raises `ValueError` that says what is taken.
        """
        if argument:
            raise ValueError(f"{cls.__name__} takes no argument, not {argument!r}")
        return cls()

    def for_run(self) -> TaskRunner:
        """Return the runner that one root run will open: a copy, as this one may serve many."""
        return copy.copy(self)

    def summary(self) -> str:
        """Return one line on how it is configured, for the head of a run. Open or not."""
        slots = self.slots()
        return f"{type(self).__name__}, {slots} slot{'' if slots == 1 else 's'}"

    @abc.abstractmethod
    def open(self, report: Callable[[Event], None], options: Mapping[str, Any]) -> None:
        """Get ready to take attempts; start workers lazily.

        Args:
            report: takes events, from any thread.
            options: hints from the engine: ``flow_name``, ``log_level``.
        """

    @abc.abstractmethod
    def slots(self) -> int:
        """How many attempts can run at once, now; 0 while a cluster has no worker."""

    @abc.abstractmethod
    def credit(self) -> int:
        """How many more attempts the runner would like to have.

        Enough to keep its workers fed and its batches full, no more: the rest waits in the
        engine, where cancelling and priorities cost nothing.
        """

    @abc.abstractmethod
    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Take all of these attempts. Batching and placement are the runner's.

        Where it `takes_series`, they may be a `Series`; whose outcomes are then best `Returned`.
        """

    @abc.abstractmethod
    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        """Drop what has not begun; with `hard`, stop what runs too, as far as `kill` goes."""

    def cannot_offer(self, resources: Mapping[str, float]) -> str:
        """Return why no worker can ever have these resources, or an empty string.

        The base compares them with `resources`.
        """
        has = self.resources
        short = {name: amount for name, amount in resources.items() if amount > has.get(name, 0)}
        if not short:
            return ""
        offered = show_resources(has) if has else "no resources"
        return f"it has {offered} to offer, and {show_resources(short)} is asked for"

    def by_value(self) -> ByValue:
        """Return what goes to its workers by value, for what the engine packs by itself.

        That is `Attempt.environment`; functions and arguments are the runner's to pack.
        """
        return ByValue(self.ship_modules)

    def blocked(self, attempt_id: int, now: bool) -> None:  # noqa: B027  (a no-op is a valid answer)
        """An attempt waits for other tasks (`now=True`), or goes on."""

    @abc.abstractmethod
    def close(self, grace_seconds: float = 0.0) -> None:
        """End: wait for running attempts up to `grace_seconds`, then stop them as `kill` allows.

        What has not begun is ``stopped``. Leaves no process, file or idle thread, unless
        `Capabilities.keeps_warm`. Safe to call twice and after `Broken`; `open()` may follow.
        """


def show_resources(resources: Mapping[str, float]) -> str:
    """Return amounts with their names, for people."""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def count_from_spec(argument: str, runner: str, of_what: str) -> int:
    """Return the number in a runner string such as ``"thread:8"``.

    Args:
        argument: what follows the colon.
        runner: what comes before it.
        of_what: what is counted, for the message.

    Raises:
        ValueError: it is no number above 0.
    """
    if not (argument.isascii() and argument.isdecimal() and int(argument) > 0):
        raise ValueError(
            f"the {runner} runner takes a number of {of_what}, 1 or more, as in '{runner}:4', not "
            f"{argument!r}"
        )
    return int(argument)


def checked_resources(resources: Mapping[str, float] | None) -> Mapping[str, float]:
    """Return what a user says a runner has, for `TaskRunner.resources`, or raise `ValueError`."""
    if resources is None:
        return {}
    amounts: Mapping[Any, Any] = resources
    for name, amount in amounts.items():
        is_amount = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if not isinstance(name, str) or not is_amount or not 0 <= amount < math.inf:
            raise ValueError(
                f"resources must say how much there is by name, as in {{'GPU': 2}}; "
                f"of {name!r} there cannot be {amount!r}"
            )
    return dict(resources)


# --- by name ---------------------------------------------------------------------------

ENTRY_POINTS = "penstock.task_runners"
DEFAULT_RUNNER = "thread"
_EXTRAS = {"dask": "dask"}
"""Runners that need more packages: the extra to install for each."""


def load_task_runner(spec: str | TaskRunner | type[TaskRunner]) -> TaskRunner:
    """Return the task runner that goes by a name, such as ``"thread"`` or ``"thread:8"``.

    A runner object is returned as it is, and a class is called without arguments.

    Raises:
        TaskRunnerNotFound: no runner goes by that name, or it does not understand what stands
            after the colon. The message lists those there are.
    """
    if isinstance(spec, TaskRunner):
        return spec
    if isinstance(spec, type) and issubclass(spec, TaskRunner):
        return spec()
    if not isinstance(spec, str):
        raise TaskRunnerNotFound(
            f"a task runner is given by name, as an object or as a class, not as {spec!r}"
        )
    name, _, argument = spec.partition(":")
    runner_class = _class_named(name.strip(), spec)
    try:
        return runner_class.from_spec(argument.strip())
    except ValueError as error:
        raise TaskRunnerNotFound(f"task runner {spec!r}: {error}") from error


_known: dict[str, EntryPoint] = {}
"""The entry points seen so far: to look for them is to read a file of every installed package."""


def _class_named(name: str, spec: str) -> type[TaskRunner]:
    import importlib.metadata  # a tenth of what `import penstock` would take

    if name not in _known:  # its package may have been installed a moment ago
        found = importlib.metadata.entry_points(group=ENTRY_POINTS)
        _known.update({point.name: point for point in found})
    if name not in _known:
        extra = _EXTRAS.get(name)
        hint = f'; for {name!r}, run: pip install "penstock[{extra}]"' if extra else ""
        raise TaskRunnerNotFound(
            f"no task runner is called {name!r} (given as {spec!r}). There are: "
            f"{', '.join(sorted(_known)) or 'none, is penstock installed?'}{hint}. A package adds "
            f"its own by an entry point in the group {ENTRY_POINTS!r}."
        )
    try:
        loaded = _known[name].load()
    except ImportError as error:
        extra = _EXTRAS.get(name, name)
        raise TaskRunnerNotFound(
            f"task runner {name!r} cannot be loaded: {error}. "
            f'Perhaps: pip install "penstock[{extra}]"'
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, TaskRunner)):
        raise TaskRunnerNotFound(f"task runner {name!r} is no TaskRunner class but {loaded!r}")
    return loaded


_LAZY = {
    "DaskTaskRunner": "dask",
    "ProcessPoolTaskRunner": "process",
    "SequentialTaskRunner": "inline",
    "ThreadPoolTaskRunner": "thread",
}


def __getattr__(name: str) -> Any:
    """Give the built-in runners by their class names, without importing them before."""
    if name in _LAZY:
        return _class_named(_LAZY[name], _LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
