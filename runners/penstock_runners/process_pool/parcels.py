"""What goes to a worker once, under a number: functions, surroundings of runs, constants.

A parcel is sent with the first batch that needs it. A worker keeps those it was sent last.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock.shipping import FunctionStore, pack_value
from penstock.worker import culprit
from penstock.worker.packing import LARGE_BYTES, is_small_scalar
from penstock_runners.batching import Pace
from penstock_runners.process_pool.segments import Segment, blob_of, is_available

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.attempt import Attempt
    from penstock.by_value import ByValue

__all__ = ["BATCH_SECONDS", "Constant", "Parcel", "ParcelStore"]

BATCH_SECONDS: Final = 0.005
"""A message costs some 30 us: more work than this does not make it cheaper."""
_MOST_SURROUNDINGS: Final = 256


class Parcel(NamedTuple):
    """Something that workers keep."""

    number: int
    blob: Any


class Constant(NamedTuple):
    """An argument of many attempts, as they refer to it."""

    parcel: Parcel | None
    """None: too small to be worth it; it goes with each call."""
    segment: Segment | None


class ParcelStore:
    """The parcels of a pool: made when first needed, found again by what they were made of.

    Args:
        ship_modules: names of modules that go by value.
        wake: called, in any thread and perhaps in the middle of anything, when constants are not
            needed any more, and `sweep` has something to do.
    """

    def __init__(self, ship_modules: Sequence[str], wake: Callable[[], None]) -> None:
        self.functions = FunctionStore(ship_modules)
        self._numbers = itertools.count(1)
        self._of_functions: dict[int, tuple[Parcel, Pace]] = {}
        """By the number that the function has in its store."""
        self._surroundings: OrderedDict[int, Parcel] = OrderedDict()
        self._constants: dict[int, dict[int | str, Constant]] = {}
        """By the id of the marks that the attempts of one map share, as long as any lives."""
        self._marks: dict[int, weakref.ref[Any]] = {}
        self._unneeded: deque[int] = deque()
        self._wake = wake

    @property
    def by_value(self) -> ByValue:
        """The modules whose functions and classes go by value."""
        return self.functions.by_value

    def function(self, fn: Callable[..., Any]) -> tuple[Parcel, Pace]:
        """Return a function and its pace. Raises `TypeError` if it cannot be pickled."""
        function = self.functions.find(fn)
        known = self._of_functions.get(function.number)
        if known is None:
            known = Parcel(next(self._numbers), function.blob), Pace(BATCH_SECONDS)
            self._of_functions[function.number] = known
        return known

    def surroundings(self, shared: bytes) -> Parcel:
        """Return what many attempts share of their environment."""
        parcel = self._surroundings.get(id(shared))
        if parcel is None:
            parcel = self._surroundings[id(shared)] = Parcel(next(self._numbers), shared)
            if len(self._surroundings) > _MOST_SURROUNDINGS:
                self._surroundings.popitem(last=False)
        return parcel

    def constant(self, attempt: Attempt, place: int | str) -> Parcel | None:
        """Return what stands for an argument that many attempts have, if it is large.

        Raises:
            TypeError: it cannot be pickled.
        """
        value = attempt.args[place] if isinstance(place, int) else attempt.kwargs[place]
        if is_small_scalar(value):
            return None
        marks = attempt.siblings
        known = self._constants.get(id(marks))
        if known is None:
            known = self._constants[id(marks)] = {}
            self._marks[id(marks)] = weakref.ref(marks, self._note_unneeded(id(marks)))
        constant = known.get(place)
        if constant is None:
            constant = known[place] = self._make_constant(attempt.fn, place, value)
        return constant.parcel

    def _note_unneeded(self, key: int) -> Callable[[object], None]:
        def note(_: object) -> None:
            self._unneeded.append(key)
            self._wake()

        return note

    def _make_constant(self, fn: Callable[..., Any], place: int | str, value: Any) -> Constant:
        what = f"argument {culprit.argument_name(fn, place)!r}"
        packing = pack_value(what, value, self.by_value)
        if packing.nbytes < LARGE_BYTES:
            return Constant(None, None)
        number = next(self._numbers)
        if not is_available():
            return Constant(Parcel(number, blob_of(packing)), None)
        segment = Segment(packing)
        return Constant(Parcel(number, segment.path.encode()), segment)

    def sweep(self) -> list[int]:
        """Let go of constants that no attempt has any more; return their numbers."""
        numbers: list[int] = []
        while self._unneeded:
            key = self._unneeded.popleft()
            self._marks.pop(key, None)
            numbers += self._drop(self._constants.pop(key, {}))
        return numbers

    def close(self) -> None:
        """Let go of everything."""
        self._marks.clear()
        while self._constants:
            self._drop(self._constants.popitem()[1])

    def _drop(self, constants: dict[int | str, Constant]) -> list[int]:
        for constant in constants.values():
            if constant.segment is not None:
                constant.segment.close()
        return [one.parcel.number for one in constants.values() if one.parcel is not None]
