"""Who would wait for itself: asked before a thread waits, as nothing would end the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.exceptions import FutureCycleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.runs import Run

__all__ = ["check_cycle", "submitted_around"]


def submitted_around(run: Run | None) -> Run | None:
    """Return the innermost run around this one, itself included, that others can wait for."""
    while run is not None and not run.was_submitted:
        run = run.parent
    return run


def check_cycle(asking: Run, wanted: Sequence[Run], loop_holders: Mapping[Any, Run]) -> None:
    """Refuse to make a submitted run wait for itself.

    Args:
        asking: the run whose code is about to wait.
        wanted: what it waits for.
        loop_holders: by the handle of their runner, the runs that block an event loop meanwhile.
    """
    stack, seen = list(wanted), set[int]()
    while stack:
        run = stack.pop()
        if run is asking:
            raise FutureCycleError(
                f"{asking.name!r} would wait for itself: it asked for the result of "
                f"{wanted[0].name!r}, which cannot end before {asking.name!r} does"
            )
        if id(run) in seen or run.state.is_final():
            continue
        seen.add(id(run))
        stack.extend(run.upstream)
        stack.extend(run.waits_on)
        making = getattr(run, "making", None)
        if making is not None:  # by an equal run, or by itself
            stack.append(making.maker)
        if run.plan.is_async and not run.is_flow_run:
            holder = loop_holders.get(run.plan.runner)
            if holder is asking:
                raise FutureCycleError(
                    f"{asking.name!r} would wait for {wanted[0].name!r} for ever, as it blocks "
                    f"the event loop that {run.name!r} needs: `await` the future instead or, "
                    "if a flow called here submitted it, make that flow `async` and await it"
                )
            if holder is not None:
                stack.append(holder)
