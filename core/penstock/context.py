"""Which run the code that asks is part of, and the tags around it."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING

from penstock.exceptions import MissingContextError
from penstock.remote_runs import standing_in
from penstock.worker.here import ATTEMPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.runs import FlowRun, Run, TaskRun

__all__ = ["current_flow_run", "current_run", "current_task_run", "tags"]

CURRENT: ContextVar[Run | None] = ContextVar("penstock_current_run", default=None)
TAGS: ContextVar[frozenset[str]] = ContextVar("penstock_tags", default=frozenset())


def current_run() -> TaskRun | FlowRun | None:
    """Return the innermost run that the calling code is part of, or None.

    In a worker elsewhere, where the driver's run is not, that is one that stands for it.
    """
    run = CURRENT.get()
    if run is None:
        here = ATTEMPT.get()
        if here is not None and here.own:
            return standing_in(here)
    return run  # type: ignore[return-value]  # the two are all the runs there are


def current_task_run() -> TaskRun | None:
    """Return the task run that the calling code is part of, or None."""
    run = current_run()
    return run if run is not None and not run.is_flow_run else None  # type: ignore[return-value]


def current_flow_run() -> FlowRun | None:
    """Return the flow run that the calling code is part of, or None."""
    run = current_run()
    return run if run is None or run.is_flow_run else run.flow_run  # type: ignore[return-value]


def require_flow_run(what: str) -> FlowRun:
    """Return the current flow run, or raise `MissingContextError` naming what needs one."""
    run = current_flow_run()
    if run is None:
        raise MissingContextError(
            f"{what} works inside of a flow run only; call it from a function under @flow"
        )
    return run


@contextlib.contextmanager
def tags(*names: str) -> Iterator[frozenset[str]]:
    """Add tags to every run made inside of the block; nested blocks add up.

    The tags are read when a run is made (at the call, `.submit()` or `.map()`), on any runner.

    Example:
        >>> with tags("nightly") as current:
        ...     sorted(current)
        ['nightly']
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a tag is a string, not {name!r}")
    token = TAGS.set(TAGS.get() | frozenset(map(str.__str__, names)))  # plain ones, of an enum, too
    try:
        yield TAGS.get()
    finally:
        TAGS.reset(token)
