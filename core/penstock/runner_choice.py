"""Which task runner a flow's submitted runs go to, and why: the order of `design.md`.

Highest first: the call (`with_options`), the environment, the flow's table in the project's file,
the decorator, the file's default, ``"thread"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from penstock import settings
from penstock.task_runners import DEFAULT_RUNNER, TaskRunner, load_task_runner

if TYPE_CHECKING:
    from penstock.engine.dispatch import RunnerHandle
    from penstock.engine.driver import Engine
    from penstock.options import TaskRunnerSpec
    from penstock.runs import FlowRun

__all__ = ["RunnerChoice", "carrier_for", "choose", "describe", "handle_for"]


class RunnerChoice(NamedTuple):
    """The runner that was taken, and the words for why."""

    spec: TaskRunnerSpec
    reason: str
    is_expected: bool = False
    """Who reads the flow's code would say so, too."""


def choose(
    flow_name: str, in_code: TaskRunnerSpec | None, by_call: TaskRunnerSpec | None
) -> RunnerChoice:
    """Return the runner of a flow run.

    Args:
        flow_name: to find the flow's table in the project's file.
        in_code: what the decorator says.
        by_call: what `with_options` or the command line says.
    """
    if by_call is not None:
        return RunnerChoice(by_call, "given with the call")
    configured = settings.current().task_runner
    source = settings.source_of("task_runner")
    if configured is not None and not source.endswith(".toml"):
        return RunnerChoice(configured, source)
    table = settings.flow_table(flow_name).get("task_runner")
    if table is not None:
        return RunnerChoice(table, f"the table of flow {flow_name!r} in the project's file")
    if in_code is not None:
        return RunnerChoice(in_code, "given in the code", is_expected=True)
    if configured is not None:
        return RunnerChoice(configured, source)
    return RunnerChoice(DEFAULT_RUNNER, "the default", is_expected=True)


def describe(spec: Any) -> str:
    """Return a runner's name for log lines."""
    if isinstance(spec, str):
        return spec
    return spec.__name__ if isinstance(spec, type) else type(spec).__name__


def handle_for(
    own: TaskRunnerSpec | None, flow_run: FlowRun | None, engine: Engine
) -> RunnerHandle:
    """Return the handle of the runner that a task's submitted runs go to."""
    spec = own if engine.sole_runner is None else engine.sole_runner
    if spec is None and flow_run is not None:
        spec = flow_run.task_runner
    if spec is None:
        spec = choose("", None, None).spec
    key = spec if isinstance(spec, str) or not isinstance(spec, TaskRunner) else id(spec)
    return engine.dispatcher.handle_for(key, lambda: load_task_runner(spec), describe(spec))


def carrier_for(flow_run: FlowRun | None, engine: Engine) -> RunnerHandle:
    """Return the handle of the runner whose threads carry submitted sub-flows.

    A sub-flow's body stays in the driver's process, where its engine is.
    """
    handle = handle_for(None, flow_run, engine)
    if handle.capabilities.pickles:
        return handle_for(DEFAULT_RUNNER, flow_run, engine)
    return handle
