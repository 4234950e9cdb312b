"""The record of a run: what is asked for, where it stands, and who waits for it.

A run is made on the driver and stays there. `TaskRun` and `FlowRun` hold facts; what happens to
them is decided by `engine.task_run` and `engine.flow_run`, and carried out by the drivers.
"""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import uuid
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from penstock.failure_groups import FailureGroups
from penstock.states import State, StateType

if TYPE_CHECKING:
    import contextvars
    import datetime
    import itertools
    from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
    from contextvars import ContextVar

    from penstock.attempt import ResultPlace, Siblings
    from penstock.engine.lineage import Ledger
    from penstock.engine.rates import Rate
    from penstock.engine.single_flight import Making
    from penstock.futures import PenstockFuture
    from penstock.keeping import Keeping
    from penstock.retries import RetryPolicy

__all__ = [
    "FlowRun",
    "MapGroup",
    "Plan",
    "Run",
    "TaskRun",
    "is_inside_a_task",
    "made_at",
    "new_id_bits",
]

_id_lock = threading.Lock()
# Not `uuid.uuid4`: asking the kernel lets go of the GIL, which a submit in a loop then has to win
# back from the runner's threads, and costs more than all the rest of a run's environment.
_random = random.Random()
if hasattr(os, "register_at_fork"):  # where there are no forks, nobody shares our seed
    os.register_at_fork(after_in_child=_random.seed)
_UUID_4 = (0x4 << 76) | (0x8 << 60)
_RANDOM_BITS = ~((0xF << 76) | (0xC << 60))
_NO_ARGUMENTS: Mapping[str, Any] = {}


class Waiter(Protocol):
    """Told once about each run it watches, on the thread that ended it; must not block."""

    def finished(self, run: Any) -> None:
        """A watched run, or series of runs, is over."""
        ...


class EngineOfRun(Protocol):
    """What a run's owner, the engine, does for those who hold the run."""

    def wait_for(self, waiter: Any, timeout_seconds: float | None) -> bool:
        """Drive, or wait, until the waiter is satisfied; false at the timeout."""
        ...

    def watch(self, runs: Sequence[Run], waiter: Waiter) -> None:
        """Tell the waiter when a run ends; at once of those that have."""
        ...

    def cancel(self, runs: Sequence[Run], reason: str, *, kill: bool) -> bool:
        """Ask runs to end; true if any of them was not over."""
        ...

    def add_callback(self, run: Run, callback: Callable[[PenstockFuture[Any]], object]) -> None:
        """Call back, on the driver, when the run ends."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All options of a task or flow, settled for the runs of one flow run.

    Options come from the decorator, the flow around it, and the settings; they are read once per
    flow run, not once per task run.
    """

    subject: Any
    """The `Task` or `Flow`."""
    name: str
    tags: frozenset[str]
    retries: RetryPolicy
    crash_retries: int
    timeout_seconds: float | None
    log_prints: bool
    hooks: Mapping[StateType, Sequence[Callable[..., Any]]]
    """A live view: hooks added by decorator later count from then on."""
    handlers: Sequence[Callable[..., Any]]
    run_name: Callable[[Mapping[str, Any]], str] | None
    retry_condition: Callable[..., Any] | None
    is_async: bool
    is_generator: bool
    is_plain: bool = False
    """The function goes to a worker as it is, with nothing around it."""
    runner: Any = None
    """The dispatcher's handle of the runner that submitted runs go to."""
    limits: tuple[Hashable, ...] = ()
    """What an attempt needs a place of: limited tags, and the task's own limit."""
    rate: Rate | None = None
    """How often attempts may start."""
    is_held: bool = False
    """Limits, a rate or resources may hold attempts up; the driver asks nothing else of most."""
    propagate: tuple[ContextVar[Any], ...] = ()
    """Context variables whose values go along to workers elsewhere."""
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])
    """What an attempt needs of what workers have."""
    workers: tuple[str, ...] = ()
    """Where attempts may run, if not anywhere."""
    result_on: ResultPlace | Literal["storage"] = "auto"
    """Where results are to be, for a runner that can leave them with its workers."""
    drops_results: bool = False
    """A future lets go of its result when it was read."""
    keeping: Keeping | None = None
    """What is done with results; None is nothing."""
    on_exit: Literal["wait", "cancel"] = "wait"
    """What becomes of submitted runs when a flow's function is over."""
    refusal: str = ""
    """Why the runner cannot do what is asked; nothing may be submitted then."""


class MapGroup:
    """The runs of one `.map()`, where the failure of one may end the others."""

    __slots__ = ("failed_index", "on_error", "runs")

    def __init__(self, on_error: str) -> None:
        self.on_error: str = on_error
        self.runs: list[TaskRun] = []
        self.failed_index: int | None = None

    def has_ended(self) -> bool:
        """Whether those that have not begun must not begin any more."""
        return self.failed_index is not None

    def reason(self) -> str:
        """Return why they end as cancelled."""
        return f"sibling [{self.failed_index}] failed"


def new_id_bits() -> int:
    """Return a new random id of a run, a UUID of version 4, as a number."""
    return _random.getrandbits(128) & _RANDOM_BITS | _UUID_4


def made_at(at: float) -> State[Any]:
    """Return the first state of the runs that are made at this time."""
    return State(StateType.PENDING, "Pending", None, None, at)


class Run:
    """What task runs and flow runs share.

    Attributes:
        state: the current state.
        run_count: how many attempts have begun.
        parent: the run whose code made this one, or None.
        flow_run: the flow run it belongs to, or None.
        tolerates: runs in its `wait_for` that may have failed: they stand under `allow_failure`.
        starting: the state to enter when the attempt at hand begins.
        hook_errors: how many of its hooks raised.
        children: the runs that its code has made, if it is a task run.
        interrupt: what ended a direct call from outside (Ctrl-C, `SystemExit`, a cancelled
            asyncio task): raised on to the caller as it is.
        seen: somebody has looked at how it ended (`spec` D3: a failure nobody saw fails the flow).
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_history",
        "_id_bits",
        "args",
        "attempt_id",
        "context",
        "engine",
        "flow_run",
        "kwargs",
        "left",
        "life",
        "parent",
        "plan",
        "run_count",
        "seen",
        "starting",
        "state",
        "waiters",
        "was_submitted",
    )

    is_flow_run: ClassVar[bool] = False
    is_series: ClassVar[bool] = False
    """Whether it stands for many runs: see `penstock.engine.series`."""

    # What few runs have of their own stands here until then: in a map of many, all of these would
    # take a third of the time and memory of a run.
    _name: str | None = None
    callbacks: list[Callable[..., object]] | None = None
    cancel_reason: str | None = None
    cancel_requested: bool = False
    children: list[Run] | None = None
    dependents: list[TaskRun | FlowRun] | None = None
    depth: int = 0
    group: MapGroup | None = None
    hook_errors: int = 0
    interrupt: BaseException | None = None
    priority: int = 0
    siblings: Siblings | None = None
    tolerates: frozenset[Run] = frozenset()
    upstream: Sequence[Run] = ()
    waits_on: Sequence[Run] = ()

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        flow_run: FlowRun | None,
        parent: Run | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        first: State[Any],
    ) -> None:
        self.plan: Plan = plan
        self.engine: Any = engine
        self.flow_run: FlowRun | None = flow_run
        self.parent: Run | None = parent
        self.args: tuple[Any, ...] = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.state: State[Any] = first
        self._history: list[State[Any]] | tuple[float, float] | None = None
        self.run_count: int = 0
        self.seen: bool = False
        self.was_submitted: bool = False
        self.left: int = -1  # until the driver has looked at it
        self.attempt_id: int = 0
        self.starting: State[Any] | None = None
        self.waiters: tuple[Waiter, ...] = ()
        self.context: contextvars.Context | None = None
        self.life: Generator[Any, Any, State[Any]] | None = None
        self._id_bits: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it is in its last state."""
        return self.state.is_final()

    @property
    def states(self) -> list[State[Any]]:
        """Every state so far, the current one last."""
        history = self._history
        if isinstance(history, list):
            return history
        if history is None:  # it is in its first state
            return [self.state]
        running: State[Any] = State(StateType.RUNNING, "Running", None, None, history[1])
        return [made_at(history[0]), running, self.state]

    def move_to(self, state: State[Any]) -> None:
        """Be in this state, the latest of the history. For `advance`."""
        if self._history is None:
            self._history = [self.state, state]
        else:
            self.states.append(state)
        self.state = state

    @property
    def id_bits(self) -> int:
        """The run's id as a number, made when first asked for."""
        if not self._id_bits:
            with _id_lock:
                if not self._id_bits:
                    self._id_bits = new_id_bits()
        return self._id_bits

    @property
    def id(self) -> uuid.UUID:
        """The run's id."""
        return uuid.UUID(int=self.id_bits)

    @property
    def name(self) -> str:
        """The run's name."""
        return self._name or self._default_name()

    @name.setter
    def name(self, name: str) -> None:
        self._name = str.__str__(name)  # a plain one, also of an enum, as no other travels

    def _default_name(self) -> str:
        return self.plan.name

    @property
    def tags(self) -> frozenset[str]:
        """The tags of the decorator and of the `tags()` blocks around the call."""
        return self.plan.tags

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments by name, defaults included. Empty once the run is over."""
        if self.args is _FORGOTTEN:
            return {}
        bound: dict[str, Any] = self.plan.subject.bind(self.args, self.kwargs)
        return bound

    @property
    def start_time(self) -> datetime.datetime | None:
        """When the first attempt began (UTC)."""
        return self._time_of(lambda state: state.is_running())

    @property
    def end_time(self) -> datetime.datetime | None:
        """When the run ended (UTC)."""
        return self._time_of(lambda state: state.is_final())

    def _time_of(self, is_it: Callable[[State[Any]], bool]) -> datetime.datetime | None:
        return next((state.timestamp for state in self.states if is_it(state)), None)

    def take_identity(self, id_bits: int, name: str | None = None) -> None:
        """Be known by an id, and perhaps a name, that others know already."""
        self._id_bits = id_bits
        self._name = name

    def have_returned(self, value: Any, began_at: float, ended_at: float) -> None:
        """Be a run that was handed out once and returned this; both times since the epoch."""
        self.was_submitted = True
        self.run_count = 1
        self._history = (self.state.at, began_at)
        self.state = State(StateType.COMPLETED, "Completed", None, value, ended_at)
        self.forget_inputs()

    def forget_inputs(self) -> None:
        """Let go of what only a run that is not over needs."""
        self.args = _FORGOTTEN
        if self.siblings is not None:
            self.siblings = None
        self.kwargs = _NO_ARGUMENTS
        self.context = None
        self.life = None
        history = self._history
        if isinstance(history, list) and len(history) == 3:
            pending, running, _ = history
            if pending.type is StateType.PENDING and running.name == "Running":
                # By far the most common history: two times say it all. A finished run keeps one
                # state instead of three and a list, which the collector need not go through.
                self._history = (pending.at, running.at)

    def open_history(self) -> None:
        """Have the history ready for more than was kept of a run that is over."""
        self._history = self.states

    def mark_seen(self) -> None:
        """Note that somebody looked at how this run ended, and so at what made it fail."""
        if self.state.name != "UpstreamFailed":
            self.seen = True
            return
        unseen: list[Run] = [self]  # no recursion: a chain of runs may be long
        while unseen:
            run = unseen.pop()
            if not run.seen:
                run.seen = True
                if run.state.name == "UpstreamFailed":
                    unseen.extend(run.upstream)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.state}>"


_FORGOTTEN: tuple[Any, ...] = ("the inputs of a run that is over",)


def is_inside_a_task(run: Run) -> bool:
    """Whether a run is part of a task's, which may wait for it."""
    around = run.parent
    while around is not None and around.is_flow_run:
        around = around.parent
    return around is not None


class TaskRun(Run):
    """One run of a task, with all its attempts.

    Attributes:
        key: of its result, where results are kept.
        key_parts: what the key was made of, if the result was not there.
        recalled: what became of the equal run that it waited for.
        making: of its result, while it is the one to make it or waits for another that is.
        transaction: that of its result.
        resources: while an attempt is under way, which of the runner's resources it has, by name.
    """

    __slots__ = ("map_index", "number")

    # As above.
    key: str | None = None
    key_parts: Mapping[str, Any] | None = None
    making: Making | None = None
    recalled: Any = None
    resources: Mapping[str, tuple[int, ...]] = _NO_ARGUMENTS
    task_inputs: Mapping[str, Sequence[Run]] = _NO_ARGUMENTS
    transaction: Any = None

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        flow_run: FlowRun | None,
        parent: Run | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        first: State[Any],
        number: int,
    ) -> None:
        super().__init__(plan, engine, flow_run, parent, args, kwargs, first)
        self.number: int = number
        self.map_index: int | None = None

    @property
    def task(self) -> Any:
        """The `Task` this is a run of."""
        return self.plan.subject

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.plan.name

    @property
    def flow_run_id(self) -> uuid.UUID | None:
        """The id of the flow run it belongs to, or None."""
        return None if self.flow_run is None else self.flow_run.id

    @property
    def upstream_states(self) -> dict[str, list[State[Any]]]:
        """The states of the runs that gave each parameter (and ``wait_for``)."""
        return {
            parameter: [run.state for run in runs] for parameter, runs in self.task_inputs.items()
        }

    def _default_name(self) -> str:
        return self.plan.name if self.number < 0 else f"{self.plan.name}-{self.number}"


@dataclasses.dataclass(slots=True)
class Tally:
    """How the runs inside of one attempt of a flow ended."""

    begun: int = 0
    unseen: list[Run] = dataclasses.field(default_factory=list)
    """Failures that nobody had looked at when they ended; some may have been seen since."""
    deadline: float | None = None
    """When the time limit of the attempt is reached, by the monotonic clock."""
    timed_out: bool = False
    """It was reached after the flow's body had ended, while its runs were awaited."""
    cancelled: int = 0
    failures: FailureGroups = dataclasses.field(default_factory=FailureGroups)
    """Of the outermost flow run: of all task runs inside."""

    def unseen_failures(self) -> list[Run]:
        """The failures that nobody has looked at to this day."""
        return [run for run in self.unseen if not run.seen]


class FlowRun(Run):
    """One run of a flow, with all its attempts.

    Attributes:
        active: the submitted runs, and series of runs, inside of it that are not over; holding
            them here is what keeps a run alive whose future was dropped.
        is_ending: its runs have been told to stop; nobody waits for them for long.
        surroundings: what its task runs say of it in workers elsewhere.
        tally: how the runs of the current attempt ended.
        undoable: the task runs to be rolled back if it fails, in order.
    """

    __slots__ = (
        "active",
        "counters",
        "creation_level",
        "idle_waiters",
        "is_ending",
        "ledger",
        "logs_creation",
        "plans",
        "runner_reason",
        "streams",
        "surroundings",
        "tally",
        "task_runner",
        "undoable",
    )

    is_flow_run: ClassVar[bool] = True

    def __init__(
        self,
        plan: Plan,
        engine: Any,
        flow_run: FlowRun | None,
        parent: Run | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        first: State[Any],
        name: str,
    ) -> None:
        super().__init__(plan, engine, flow_run, parent, args, kwargs, first)
        self._name = name
        self.active: set[Any] = set()
        self.idle_waiters: list[Waiter] = []
        self.counters: dict[str, itertools.count[int]] = {}
        self.creation_level: int = 0
        self.logs_creation: bool = False
        self.plans: dict[Any, Plan] = {}
        self.surroundings: dict[Any, bytes] = {}
        self.tally: Tally = Tally()
        self.streams: list[Any] = []
        self.ledger: Ledger | None = None
        self.is_ending: bool = False
        self.task_runner: Any = None
        self.undoable: list[TaskRun] = []
        self.runner_reason: str = ""

    @property
    def flow(self) -> Any:
        """The `Flow` this is a run of."""
        return self.plan.subject

    @property
    def flow_name(self) -> str:
        """The flow's name."""
        return self.plan.name

    @property
    def root(self) -> FlowRun:
        """The outermost flow run around this one."""
        return self if self.flow_run is None else self.flow_run.root
