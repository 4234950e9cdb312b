"""Equal results that are wanted at once in this process: one run makes it, the others wait.

Which run makes which result is known for the whole process, as several root runs may want the same
at a time. Who waits is told with the value, or, if it could not be made, to make it: one at a
time, in the order in which they asked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.runs import Run, TaskRun, Waiter

__all__ = ["Making", "Place", "join", "leave"]

Place: TypeAlias = "tuple[Any, str]"
"""Where a result will be: a file system and a key."""


class Making:
    """A result that is being made, and the runs that want the same."""

    __slots__ = ("maker", "place", "waiting")

    def __init__(self, place: Place, maker: TaskRun) -> None:
        self.place: Place = place
        self.maker: TaskRun = maker
        self.waiting: dict[TaskRun, Waiter | None] = {}
        """In order; with what to tell in those whose own thread waits."""


_lock = threading.Lock()
_under_way: dict[Place, Making] = {}


def join(place: Place, run: TaskRun, waiter: Waiter | None) -> bool:
    """Want a result; whether the run is to make it now, else it waits for another that does.

    A run that the maker waits for, however indirectly, makes its own: it would wait for itself.
    """
    if run.making is not None:
        return run.making.maker is run
    with _lock:
        own = Making(place, run)
        making = _under_way.setdefault(place, own)
        if making is not own:
            if _waits_for(making.maker, run):
                return True
            making.waiting[run] = waiter
        run.making = making
        return making is own


def leave(
    run: TaskRun, *, has_value: bool
) -> tuple[Mapping[TaskRun, Waiter | None], TaskRun | None]:
    """Want a result no more: it is made, could not be made, or the run was cancelled.

    Args:
        run: made the result, or waited for it.
        has_value: whether others can have it from the run.

    Returns:
        Those to be told, and which of them is to make the result; None if there is a value.
    """
    making = run.making
    if making is None:
        return {}, None
    with _lock:
        run.making = None
        if making.maker is not run:
            making.waiting.pop(run, None)
            return {}, None
        if not making.waiting or has_value:
            del _under_way[making.place]
            told, making.waiting = making.waiting, {}
            for each in told:
                each.making = None
            return told, None
        following = next(iter(making.waiting))
        waiter = making.waiting.pop(following)
        making.maker = following
        return {following: waiter}, following


def _waits_for(run: TaskRun, wanted: TaskRun) -> bool:
    """Whether a run cannot end before another, or one around that other, does."""
    around: set[Run] = set()
    each: Run | None = wanted
    while each is not None:
        around.add(each)
        each = each.parent
    stack, seen = list[Any]([run]), set[Any]()
    while stack:
        at = stack.pop()
        if at in seen or at.state.is_final():
            continue
        if at in around:
            return True
        seen.add(at)
        stack.extend(at.upstream)
        stack.extend(at.waits_on)
        stack.extend(child for child in at.children or () if not child.was_submitted)
        if at.is_flow_run:
            stack.extend(each for each in tuple(at.active) if not each.is_series)
        elif at.making is not None:
            stack.append(at.making.maker)
    return False
