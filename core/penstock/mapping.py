"""`.map()`: one run for each item, over lists, futures, and iterators that may be endless."""

from __future__ import annotations

import contextvars
import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from penstock.annotations import Annotation, allow_failure
from penstock.attempt import Siblings
from penstock.engine.arguments import (
    are_atoms,
    find_runs,
    is_without_futures,
    prerequisites,
    put_values,
)
from penstock.exceptions import MappingLengthMismatch, MappingMissingIterable
from penstock.futures import PenstockFuture, PenstockFutureList, wait
from penstock.options import OnError
from penstock.runs import MapGroup
from penstock.worker import packing

if TYPE_CHECKING:
    from penstock.runs import FlowRun, TaskRun
    from penstock.tasks import Task

__all__ = ["DeferredFutureList", "FutureStream", "map_runs"]

R = TypeVar("R")

AHEAD_PER_SLOT = 4
_FIXED = (str, bytes, bytearray)
_NO_KEYWORDS: Mapping[Any, Any] = {}


def map_runs(
    task: Task[Any, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wait_for: Any,
    on_error: str,
    max_in_flight: int | None,
    chunk: object,
) -> PenstockFutureList[Any]:
    """Submit a task for each item; see `Task.map`."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is one of {', '.join(get_args(OnError))}, not {on_error!r}")
    most: object = max_in_flight
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ValueError(f"max_in_flight is a whole number >= 1, not {max_in_flight!r}")
    size = 0 if chunk == "auto" else chunk
    if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and chunk != "auto"):
        raise ValueError(f'chunk is a whole number >= 1 or "auto", not {chunk!r}')
    call = MappedCall(task, args, kwargs, wait_for, MapGroup(on_error), size)
    if call.futures:
        return DeferredFutureList(call)
    if call.is_stream:
        return FutureStream(call, max_in_flight)
    return PenstockFutureList(call.submit_all())


class MappedCall:
    """The arguments of one `.map()`: which go to every run, and which are mapped over."""

    def __init__(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wait_for: Any,
        group: MapGroup,
        chunk: int,
    ) -> None:
        self.task = task
        self.wait_for: Any = prerequisites(wait_for)
        self.group = group
        self.args: list[Any] = list(args)
        self.kwargs: dict[str, Any] = dict(kwargs)
        self.count: int = 0
        self.mapped: dict[int | str, Any] = {}
        self._allowed: set[int | str] = set()
        places: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        for place, value in places:
            if isinstance(value, allow_failure) and is_mappable(value.value):
                self.mapped[place] = value.value
                self._allowed.add(place)
            elif not isinstance(value, Annotation) and is_mappable(value):
                self.mapped[place] = value
        if not self.mapped:
            raise MappingMissingIterable(
                f"nothing to map over in {task.name}.map(): give at least one list, tuple, range, "
                "iterator, future or list of futures (a string is passed whole), "
                "or call .submit() for one run"
            )
        for value in self.mapped.values():
            if isinstance(value, Mapping):
                warnings.warn(
                    f"{task.name}.map() goes over the keys of a dict; pass .keys(), .values() or "
                    ".items() to say what you mean, or unmapped(...) to pass it whole",
                    stacklevel=4,  # the caller of Task.map
                )
        # A whole result that will be mapped over; unlike a list of futures, which has a length.
        self.futures: list[PenstockFuture[Any]] = []
        for value in self.mapped.values():
            if isinstance(value, PenstockFuture):
                self.futures.append(value)
            elif isinstance(value, DeferredFutureList) and not value.is_expanded:
                self.futures.extend(value.origins)
        fixed = tuple(
            place
            for place, value in places
            if place not in self.mapped and not packing.is_small_scalar(value)
        )
        self.siblings: Siblings | None = Siblings(fixed, chunk) if fixed or chunk else None
        self.is_stream: bool = any(isinstance(value, Iterator) for value in self.mapped.values())

    def submit_all(self) -> list[PenstockFuture[Any]]:
        """Submit a run for each item of mapped arguments that have a length."""
        columns = {place: list(value) for place, value in self.mapped.items()}
        lengths = {place: len(column) for place, column in columns.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{self._name(place)}: {size}" for place, size in lengths.items())
            raise MappingLengthMismatch(
                f"{self.task.name}.map() needs iterables of equal length, not {shown}; "
                "wrap what every run should get in unmapped(...)"
            )
        futures = self._submit_as_series(columns)
        return self.submit(self.calls(columns)) if futures is None else futures

    def _submit_as_series(
        self, columns: Mapping[int | str, list[Any]]
    ) -> list[PenstockFuture[Any]] | None:
        """Submit many runs as one, where none of them needs anything of its own; else None."""
        count = len(next(iter(columns.values())))
        is_plain = self.wait_for is None and not self._allowed and self.group.on_error == "continue"
        if count < 2 or not is_plain:
            return None
        place = self.task.place_of_series()
        if place is None:
            return None
        whole = self._whole()
        if whole is None or not all(map(holds_no_future, columns.values())):
            return None
        return self.task.submit_series(place, self.calls(columns, whole), self.siblings)

    def _whole(self) -> dict[int | str, Any] | None:
        """Return what every run gets, marks taken off; None if a future is in it."""
        places: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        whole = {place: value for place, value in places if place not in self.mapped}
        if any(find_runs(value) for value in whole.values()):
            return None
        return {place: put_values(value) for place, value in whole.items()}

    def pulled(self) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        """Yield calls as their items are pulled, until the shortest iterable ends."""
        return self.calls(self.mapped)

    def calls(
        self,
        mapped: Mapping[int | str, Iterable[Any]],
        whole: Mapping[int | str, Any] = _NO_KEYWORDS,
    ) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        """Yield the arguments of one call after the other, until the shortest iterable ends.

        Args:
            mapped: what each call gets one item of, by place.
            whole: what every call gets in place of what was given.
        """

        def column(place: int | str, value: Any) -> Iterator[Any]:
            if place not in mapped:
                return itertools.repeat(whole.get(place, value))
            items = mapped[place]
            return map(allow_failure, items) if place in self._allowed else iter(items)

        args = [column(place, value) for place, value in enumerate(self.args)]
        kwargs = [column(name, value) for name, value in self.kwargs.items()]
        by_position = zip(*args, strict=False) if args else itertools.repeat(())
        named: Iterator[Mapping[str, Any]] = itertools.repeat(_NO_KEYWORDS)
        if kwargs:
            named = (dict(zip(self.kwargs, row, strict=True)) for row in zip(*kwargs, strict=False))
        return zip(by_position, named, strict=False)

    def submit(
        self, calls: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]
    ) -> list[PenstockFuture[Any]]:
        """Submit a run for each call."""
        runs = self.task.submit_runs(calls, self.wait_for, self._prepare)
        return [PenstockFuture(run) for run in runs]

    def _prepare(self, run: TaskRun) -> None:
        run.map_index, self.count = self.count, self.count + 1
        if self.siblings is not None:
            run.siblings = self.siblings
        group = self.group
        if group.on_error != "continue":
            run.group = group
            group.runs.append(run)

    def failing_run(self, error: Exception) -> TaskRun:
        """Submit a run of the task's name that raises this error."""

        def fail() -> None:
            raise error

        return type(self.task)(fn=fail, name=self.task.name).submit_run((), {})

    def _name(self, place: int | str) -> str:
        if isinstance(place, str):
            return place
        names = list(self.task.signature.parameters)
        return names[place] if place < len(names) else f"argument {place}"


def holds_no_future(items: list[Any]) -> bool:
    """Whether no item is, or has inside, a future, or a mark such as `quote`."""
    if are_atoms(items):
        return True
    try:
        return all(is_without_futures(item) for item in items)
    except Exception:  # noqa: BLE001  (a container of the user's; raised when its turn comes)
        return False


def is_mappable(value: Any) -> bool:
    """Whether `.map()` goes over this value item by item."""
    if isinstance(value, PenstockFuture):
        return True
    if isinstance(value, _FIXED):
        return False
    if isinstance(value, (Sequence, Set, Mapping, Iterator, range)):
        return True
    # Arrays and tables of other libraries: they have a length and can be gone through.
    return hasattr(value, "__iter__") and hasattr(value, "__len__")


class FutureStream(PenstockFutureList[R]):
    """What `.map()` over an iterator gives: futures one after the other, as they are consumed.

    At most `max_in_flight` items are pulled ahead of the consumer. A stream that nobody goes
    through runs to its end when the flow ends; one that was left in the middle is not pulled any
    further. It is gone through once: what was handed out is forgotten here, so that an endless
    map takes no more memory than a short one.
    """

    __slots__ = ("_ahead", "_call", "_calls", "_exhausted", "_limit", "_touched")

    def __init__(self, call: MappedCall, max_in_flight: int | None) -> None:
        super().__init__()
        self._call = call
        self._calls = call.pulled()
        self._ahead: deque[PenstockFuture[R]] = deque()
        self._exhausted = False
        self._touched = False
        self._limit = max_in_flight
        self._fill()
        flow_run = self._flow_run()
        if flow_run is not None:
            flow_run.streams.append(self)

    def _flow_run(self) -> FlowRun | None:
        return self._ahead[0].run.flow_run if self._ahead else None

    def _fill(self) -> None:
        while not self._exhausted and (self._limit is None or len(self._ahead) < self._limit):
            following = next(self._calls, None)
            if following is None:
                self._exhausted = True
                return
            (future,) = self._call.submit([following])
            if self._limit is None:
                self._limit = max(1, AHEAD_PER_SLOT * slots_of(future))
            self._ahead.append(future)

    def __iter__(self) -> Iterator[PenstockFuture[R]]:
        self._touched = True
        while self._ahead:
            future = self._ahead.popleft()
            self._fill()
            yield future

    def __next__(self) -> PenstockFuture[R]:
        return next(iter(self))

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(
            f"{self!r} is gone through once, in order, and keeps nothing: use a for loop, "
            "list(...), or map over a list to begin with"
        )

    def __len__(self) -> int:
        return len(self._ahead)

    def __bool__(self) -> bool:
        return bool(self._ahead)

    def __repr__(self) -> str:
        return f"<FutureStream of {self._call.task.name!r}, {len(self._ahead)} ahead>"

    def wait(self, timeout: float | None = None) -> None:
        """Pull and wait for all that is left; for an endless iterator that is for ever."""
        futures = list(self)
        wait(futures, timeout)
        self._ahead.extend(futures)

    def cancel(self, kill: bool = False) -> bool:
        """Pull no more, and cancel what is ahead."""
        self.pull_no_more()
        return PenstockFutureList(self._ahead).cancel(kill)

    def pull_no_more(self) -> None:
        """Take what was pulled so far for all there is."""
        self._exhausted = True

    def flow_ends(self) -> None:
        """The flow's body is over: see the class for what becomes of the rest."""
        if not self._touched:
            for future in self:
                future.wait()

    async def flow_ends_async(self) -> None:
        """As `flow_ends`, in an event loop."""
        if not self._touched:
            for future in self:
                await future.run.engine.wait_async(future.run)


def slots_of(future: PenstockFuture[Any]) -> int:
    """Return how many attempts the runner of a future's run does at once, as far as known."""
    handle = future.run.plan.runner
    return int(handle.runner.slots()) if handle.opened else 2


class DeferredFutureList(PenstockFutureList[R]):
    """What `.map()` over a future gives: its length is known when that future has its value.

    Asking for an item or the length waits for that. If the future fails, there is one run, which
    ends as `UpstreamFailed`.
    """

    __slots__ = ("_call", "_context", "_expands", "is_expanded", "origins")

    def __init__(self, call: MappedCall) -> None:
        super().__init__()
        self._call = call
        self._context = contextvars.copy_context()
        self.origins: list[PenstockFuture[Any]] = call.futures
        self._expands = False
        self.is_expanded: bool = False
        for origin in self.origins:
            origin.add_done_callback(lambda _: self._expand())

    def _expand(self) -> None:
        """Submit the runs, if all origins are over. Under the turn."""
        if not self._expands and all(origin.done() for origin in self.origins):
            self._expands = True
            # In the context of the call: its flow run, its tags, not those of the driver.
            list.extend(self, self._context.run(self._submitted))
            self.is_expanded = True  # last: other threads look at it

    def _submitted(self) -> list[PenstockFuture[R]]:
        call = self._call
        failed = any(not origin.run.state.is_completed() for origin in self.origins)
        try:
            if failed:
                one = {place: [_stand_in(value)] for place, value in call.mapped.items()}
                return call.submit(call.calls(one))
            call.mapped = {place: _items(value) for place, value in call.mapped.items()}
            return call.submit_all()
        except Exception as error:  # noqa: BLE001  (nobody calls us: a failed run tells of it)
            return [PenstockFuture(call.failing_run(error))]

    def _expanded(self) -> None:
        if not self.is_expanded:
            wait(self.origins)
            self.origins[0].run.engine.loop.run_home(self._expand)

    def __iter__(self) -> Iterator[PenstockFuture[R]]:
        self._expanded()
        return list.__iter__(self)

    def __len__(self) -> int:
        self._expanded()
        return list.__len__(self)

    def __getitem__(self, index: Any) -> Any:
        self._expanded()
        return list.__getitem__(self, index)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __repr__(self) -> str:
        shown = list.__repr__(self) if self.is_expanded else f"waits for {self.origins!r}"
        return f"<DeferredFutureList {shown}>"


def _items(value: Any) -> list[Any]:
    return list(value.run.state.value() if isinstance(value, PenstockFuture) else value)


def _stand_in(value: Any) -> Any:
    """Return one item for the run that tells of a failed origin."""
    if isinstance(value, PenstockFuture):
        return value
    if isinstance(value, DeferredFutureList):
        return value[0]
    return next(iter(value), None)
