"""What travels between the driver and a worker: an attempt out, an outcome back.

Nothing else crosses: no state, no policy, no flow, no runner. The classes are named tuples,
since they are immutable, cheap to make by the ten thousand, and pickle by position.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, overload

from penstock.worker.calling import call
from penstock.worker.here import own_in_series

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "Attempt",
    "Environment",
    "KeptResult",
    "Outcome",
    "OutcomeKind",
    "Packed",
    "PackedState",
    "RemoteError",
    "ResultPlace",
    "Series",
    "Siblings",
    "run_here",
]

ResultPlace: TypeAlias = Literal["auto", "driver", "cluster"]
OutcomeKind: TypeAlias = Literal["returned", "raised", "lost", "stopped", "abandoned"]


class Environment(NamedTuple):
    """What code in a worker elsewhere may ask about the run it is part of."""

    shared: bytes
    """`marshal` of plain values. The same object for many attempts, to be sent to a worker once."""
    own: tuple[Any, ...]
    """Of this attempt alone: `penstock.worker.here.Own` as a plain tuple."""
    variables: bytes | None = None
    """The pickle of context variables and their values."""
    writer: bytes | None = None
    """The pickle of a function of the result and its `Packing`, to be called with a large one: it
    stores it, and returns its size; if it raises, or returns None, the result goes home."""


class Siblings:
    """What attempts of one `.map()` have in common: all of them carry this very object.

    Attributes:
        constants: the places, by position or name, of arguments that are the same in all of them.
            A worker elsewhere may get these once.
        chunk: how many of them to send together; 0 leaves that to the runner.
    """

    __slots__ = ("__weakref__", "chunk", "constants")

    def __init__(self, constants: tuple[int | str, ...] = (), chunk: int = 0) -> None:
        self.constants: tuple[int | str, ...] = constants
        self.chunk: int = chunk


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

    It may be left out where the outcome follows within a few milliseconds; where the outcome is
    there by the time that this is known, `Outcome.began_at` says it instead.
    """
    is_async: bool = False
    """`fn` is a coroutine function or an async generator function."""
    priority: int = 0
    """Higher goes first among the attempts a runner holds."""
    name: str = ""
    """The task run's name, for thread names, cluster dashboards and messages."""
    environment: Environment | None = None
    """For workers in other processes only; None elsewhere."""
    resources: Mapping[str, float] = {}
    """What it needs of what workers have; such an attempt shares its worker with no other."""
    workers: tuple[str, ...] = ()
    """Where it may run, if not anywhere."""
    siblings: Siblings | None = None
    """The `.map()` it is part of, for workers elsewhere."""
    has_deadline: bool = False
    """`Started` is needed soon after the begin, as a time limit counts from there."""
    result_on: ResultPlace = "auto"
    """Where the result is to be, for a runner that can leave it with its workers."""


class Series(Sequence[Attempt]):
    """Attempts that differ in nothing but their ids, their arguments and their runs' numbers.

    A sequence of attempts like any other, whose members are made when they are asked for. Who
    knows better can do without: the `index`th of them is `template`, but for its id, which is
    ``first_id + index``, its arguments, ``calls[index]``, its name, and what it says of its run,
    ``own_in_series(*origin, offset + index)``.

    Attributes:
        first_id: the id of the first of them; the others follow.
        template: what all of them have in common.
        calls: args and kwargs of each. Who takes a series may take out what has ended.
        origin: of the first run of the map: its id, the name of the task, its number.
        offset: the index in the map of the first of these.
    """

    __slots__ = ("calls", "first_id", "offset", "origin", "template")

    def __init__(
        self,
        first_id: int,
        template: Attempt,
        calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]],
        origin: tuple[int, str, int],
        offset: int,
    ) -> None:
        self.first_id: int = first_id
        self.template: Attempt = template
        self.calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = calls
        self.origin: tuple[int, str, int] = origin
        self.offset: int = offset

    def __len__(self) -> int:
        return len(self.calls)

    @overload
    def __getitem__(self, index: int) -> Attempt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Attempt]: ...
    def __getitem__(self, index: int | slice) -> Attempt | list[Attempt]:
        places = range(len(self.calls))[index]
        if isinstance(places, range):
            return [self._attempt(place) for place in places]
        return self._attempt(places)

    def __iter__(self) -> Iterator[Attempt]:
        return map(self._attempt, range(len(self.calls)))

    def _attempt(self, index: int) -> Attempt:
        template, (args, kwargs) = self.template, self.calls[index]
        own = own_in_series(*self.origin, self.offset + index)
        environment = template.environment
        if environment is not None:
            environment = environment._replace(own=own)
        return template._replace(
            id=self.first_id + index, args=args, kwargs=kwargs, name=own[1], environment=environment
        )


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


class PackedState(Packed):
    """A result that is a `State`: the engine unpacks it, as it says how the run ended."""

    __slots__ = ()


class KeptResult:
    """A result that stayed with the workers, and is an argument for attempts of the same runner.

    To be subclassed. It is no ABC since every value is asked whether it is one of these: of the
    instances of an ABC that takes several times as long.

    Attributes:
        nbytes: about how large the value is, in bytes.
        runner: who keeps it.
        producer: what the engine notes, to make the value again should it be lost.
        is_read_anew: it is not to be kept in memory once it was fetched.
    """

    is_stored: ClassVar[bool] = False
    """Whether it is read from storage, and not from a worker."""
    how_lost: ClassVar[str] = "its result was lost with the worker that kept it"
    """For people, should it come to that."""

    def __init__(self, nbytes: int, runner: Any) -> None:
        self.is_read_anew: bool = False
        self.nbytes: int = nbytes
        self.runner: Any = runner
        self.producer: Any = None

    def fetch(self) -> Any:
        """Bring the value here; in any thread, and never with the engine's lock held.

        Raises:
            LookupError: it was lost with its worker, or the workers are gone.
        """
        raise NotImplementedError

    def superseded_by(self, value: Any) -> None:
        """Stand, from now on, for the same value made again: kept anew, or the value itself."""
        raise NotImplementedError


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
    lost_inputs: tuple[KeptResult, ...] = ()
    """``lost``: arguments that were lost with their workers before it could begin."""
    children: bytes | None = None
    """The packed descriptions of runs that began and ended inside of this attempt, elsewhere."""
    stored_bytes: int | None = None
    """``returned``: the worker has stored the result, so large, by `Environment.writer`. It is no
    `value`, unless it stays with the worker as well."""
    began_at: float | None = None
    """As `Started.at`, where both are learnt at once: then there is no `Started`."""


def run_here(attempt: Attempt, worker: str = "") -> Outcome:
    """Run a sync attempt in the calling thread, in its own context, and report how it ended.

    Every exception is an outcome, `SystemExit` and `KeyboardInterrupt` included: only the driver
    decides what they mean.
    """
    began = time.monotonic()
    try:
        if attempt.context is not None:
            value = attempt.context.run(call, attempt.fn, attempt.args, attempt.kwargs)
        else:
            value = call(attempt.fn, attempt.args, attempt.kwargs)
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        return Outcome(
            attempt.id, "raised", None, error, "", True, time.monotonic() - began, worker
        )
    return Outcome(attempt.id, "returned", value, None, "", True, time.monotonic() - began, worker)
