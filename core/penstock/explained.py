"""`task.explain(...)`: asks the store what would become of a call; `explaining` says why."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from penstock.cache_policies import NO_CACHE
from penstock.engine.arguments import look_through, put_values, tolerated
from penstock.explaining import explain_call, not_cached
from penstock.futures import PenstockFuture

if TYPE_CHECKING:
    from penstock.explaining import Explanation
    from penstock.keeping import Keeping
    from penstock.runs import TaskRun

__all__ = ["explained"]


def explained(run: TaskRun) -> Explanation:
    """Say what would become of a run if it began now.

    Args:
        run: that nobody has counted, and that will never begin.
    """
    keeping = run.plan.keeping
    _settle_arguments(run)
    seen = None
    if keeping is not None and keeping.is_written:
        seen = run.engine.call(run, keeping.key_of, (run,))
    if keeping is None or seen is None:
        return not_cached(run.plan.name, _why_not(run, keeping))
    store = keeping.store
    own = store.examine(seen.key)
    return explain_call(
        run.plan.name,
        run.engine.call(run, keeping.parts_of, (seen,)),
        None if own is None else own.metadata,
        (each.metadata for each in store.survey() if each.metadata is not None),
        datetime.datetime.now(datetime.UTC),
        problem=str(own.why_not) if own is not None and own.why_not is not None else "",
        refresh=keeping.refresh,
    )


def _settle_arguments(run: TaskRun) -> None:
    """Put values in the place of futures and marks among the arguments."""
    parameters = run.parameters
    seen = look_through(parameters, None, None)
    if seen is None:
        return
    may_have_failed = tolerated(list(parameters.values()))
    for each in seen[0]:
        future = PenstockFuture[object](each)
        if each in may_have_failed:
            future.wait()
        else:
            future.result()
    run.args = tuple(put_values(value) for value in run.args)
    run.kwargs = {name: put_values(value) for name, value in run.kwargs.items()}


def _why_not(run: TaskRun, keeping: Keeping | None) -> str:
    options = run.plan.subject.options
    policy = options.get("cache_policy")
    if run.engine.settings.tasks_disable_caching:
        return "the setting tasks_disable_caching is on"
    if options.get("persist_result") is False:
        return "persist_result is False"
    if policy == NO_CACHE:
        return "its cache policy is NO_CACHE"
    if keeping is None or not keeping.is_written:
        return "the task has no cache policy"
    if policy is None and keeping.policy == NO_CACHE:
        return "the setting tasks_default_no_cache is on, and the task has no cache policy"
    return f"{keeping.policy!r} gives no key for this call"
