"""Which run made a value: edges for values that are passed on without a future."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.runs import Run

__all__ = ["Ledger"]

# Equal values of these types are often one object, so that identity proves nothing.
_SHARED = frozenset({bool, type(None), int, float, complex, type(...), type, range})
_LAST_KEPT = 16
"""How many results are kept alive to be recognised, of types that take no weak reference."""


class Ledger:
    """Remembers results by identity, within one flow run, in bounded memory.

    Objects that take weak references are known as long as they live; of lists, dicts, strings
    and the like the last few are. A generator's latest value is known, whatever its type, until
    the generator goes on: the consumer in the loop's body is its child.
    """

    __slots__ = ("_kept", "_weak", "_yielded")

    def __init__(self) -> None:
        self._weak: dict[int, tuple[weakref.ref[Any], Run]] = {}
        self._kept: OrderedDict[int, tuple[Any, Run]] = OrderedDict()
        self._yielded: dict[Run, Any] = {}

    def is_empty(self) -> bool:
        """Whether no value would be recognised."""
        return not self._kept and not self._weak and not self._yielded

    def note_result(self, value: Any, run: Run) -> None:
        """A run called directly has returned this object."""
        if type(value) in _SHARED:
            return
        key = id(value)
        try:
            reference = weakref.ref(value, lambda _: self._weak.pop(key, None))
        except TypeError:
            self._kept[key] = (value, run)
            self._kept.move_to_end(key)
            if len(self._kept) > _LAST_KEPT:
                self._kept.popitem(last=False)
        else:
            self._weak[key] = (reference, run)

    def note_yield(self, value: Any, run: Run) -> None:
        """A generator run has handed this object to its caller."""
        self._yielded[run] = value

    def note_end(self, run: Run) -> None:
        """A generator run goes on, or is over."""
        self._yielded.pop(run, None)

    def maker(self, value: Any) -> Run | None:
        """Return the run that made this very object, if it is known."""
        for run, latest in self._yielded.items():
            if latest is value:
                return run
        key = id(value)
        weak = self._weak.get(key)
        if weak is not None and weak[0]() is value:
            return weak[1]
        kept = self._kept.get(key)
        return kept[1] if kept is not None and kept[0] is value else None
