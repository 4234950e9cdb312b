"""Which attempt the calling code is part of, in a worker."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "ATTEMPT",
    "RESOURCES",
    "Here",
    "HereInSeries",
    "Own",
    "common",
    "given",
    "giving",
    "own_in_series",
    "travelling",
]

F = TypeVar("F", bound="Callable[..., Any]")
T = TypeVar("T")

PROTOCOL: Final = 1
"""Of what a `Here` holds, as two versions of Penstock may meet in a worker."""


class Own(NamedTuple):
    """What one attempt says of its run in a worker elsewhere.

    It crosses as a plain tuple, as `marshal` takes no other: ``tuple(own)``, and there
    ``Own(*plain)``.
    """

    id_bits: int
    """The id of the run."""
    name: str
    run_count: int
    number: int
    """Of the run among those of its task."""
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Of parameters that other runs have made, the ids of these."""
    resources: tuple[tuple[str, float, tuple[int, ...]], ...] = ()
    """Name, amount, and the indices that were given, of devices, say."""


def own_in_series(
    id_bits: int, task_name: str, first_number: int, index: int
) -> tuple[int, str, int, int, tuple[Any, ...], tuple[Any, ...]]:
    """Return, as a plain `Own`, what an attempt of a series says of its run.

    Args:
        id_bits: the id of the first run of the series.
        task_name: of the task.
        first_number: the number of that first run.
        index: of the run, counted from that first one.
    """
    number = first_number + index
    # All of an id but its version and variant tells runs apart, and people look at its begin: so
    # that is where the index goes, times an odd number (that of the golden ratio), which gives
    # each of 2**48 indexes a begin of its own.
    own_bits = id_bits ^ ((index * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFF) << 80)
    return own_bits, f"{task_name}-{number}", 1, number, (), ()


RESOURCES: Final = Own._fields.index("resources")
"""Where these stand in the plain tuple, for who looks at nothing else."""


class Here:
    """What code in a worker may know of its attempt, and where it leaves what goes home.

    Attributes:
        shared: what many attempts have in common: see `penstock.remote_runs`.
        call: function, args and kwargs, once they are loaded.
        emit: sends log records home, at once.
        at_end: called, last first, when the function has ended.
        children: of the runs that began and ended inside of this attempt, their descriptions.
        run: the run that stands for the driver's, made by Penstock's own code when it is asked.
    """

    __slots__ = ("_own", "at_end", "call", "children", "emit", "protocol", "run", "shared")

    def __init__(
        self,
        shared: Mapping[str, Any],
        own: tuple[Any, ...],
        emit: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self.protocol: int = PROTOCOL
        self.shared: Mapping[str, Any] = shared
        self._own: tuple[Any, ...] = own
        self.emit: Callable[[tuple[Any, ...]], None] = emit
        self.call: tuple[Any, tuple[Any, ...], Mapping[str, Any]] | None = None
        self.at_end: list[Callable[[], object]] = []
        self.children: list[tuple[Any, ...]] = []
        self.run: Any = None

    @property
    def own(self) -> tuple[Any, ...]:
        """What this attempt alone has: an `Own` as a plain tuple; empty if it is of no run."""
        return self._own


class HereInSeries(Here):
    """As `Here`, in an attempt of a series: what that alone has is worked out for who asks.

    Its `_own` holds the origin of the series, and the index in it.
    """

    __slots__ = ()

    @property
    def own(self) -> tuple[Any, ...]:
        """What this attempt alone has: an `Own` as a plain tuple."""
        (id_bits, task_name, first_number), index = self._own
        return own_in_series(id_bits, task_name, first_number, index)


def _holder() -> types.ModuleType:
    """Return the module that all copies of this package in a process share.

    This one may have been sent as source, while the user's code imports the installed one.
    """
    name = f"_penstock_here_{PROTOCOL}"
    return sys.modules.setdefault(name, types.ModuleType(name))


def travelling(fn: F) -> F:
    """Have pickles refer to a function by a name that every process with this package knows."""
    holder = _holder()
    fn.__module__ = holder.__name__
    common: F = vars(holder).setdefault(fn.__name__, fn)
    return common


def common(name: str, value: T) -> T:
    """Return what all copies of this package in a process share under a name."""
    shared: T = vars(_holder()).setdefault(name, value)
    return shared


_attempt: ContextVar[Here | None] = ContextVar("penstock_attempt", default=None)
ATTEMPT: Final = common("ATTEMPT", _attempt)


# --- values that are here already -------------------------------------------------------

_given = threading.local()


@contextlib.contextmanager
def giving(values: Sequence[Any]) -> Iterator[None]:
    """Have `given` find these values, in this thread, while arguments are unpickled."""
    before = getattr(_given, "values", ())
    _given.values = values
    try:
        yield
    finally:
        _given.values = before


@travelling
def given(place: int) -> Any:
    """Return a value that came beside the arguments: what stands for it in their pickle."""
    return _given.values[place]
