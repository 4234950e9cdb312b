"""Arguments: bound to names, searched for futures, and given their values. Pure."""

from __future__ import annotations

import inspect
import keyword
from typing import TYPE_CHECKING, Any

from penstock.annotations import Annotation, allow_failure, opaque, quote
from penstock.exceptions import UpstreamTaskError
from penstock.futures import PenstockFuture
from penstock.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock.engine.lineage import Ledger
    from penstock.runs import FlowRun, Run

__all__ = ["compile_binder", "find_runs", "look_through", "put_values", "upstream_problem"]

_PREFIXES: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex, range})


def compile_binder(signature: inspect.Signature, name: str) -> Callable[..., dict[str, Any]]:
    """Return a function with this signature that gives its arguments by name.

    Compiled, as `inspect.Signature.bind` takes 5 us where this takes 0.3, on every call of every
    task. The text of its `TypeError`s is Python's own, with the function's name.
    """
    defaults: dict[str, Any] = {}
    parts: list[str] = []
    names: list[str] = []
    previous: inspect.Parameter | None = None
    for parameter in signature.parameters.values():
        kind = parameter.kind
        positional_only = inspect.Parameter.POSITIONAL_ONLY
        if (
            previous is not None
            and previous.kind is positional_only
            and kind is not positional_only
        ):
            parts.append("/")
        if (
            kind is inspect.Parameter.KEYWORD_ONLY
            and "*" not in parts
            and not any(part.startswith("*") for part in parts)
        ):
            parts.append("*")
        part = _PREFIXES.get(kind, "") + parameter.name
        if parameter.default is not inspect.Parameter.empty:
            defaults[f"_default_{parameter.name}"] = parameter.default
            part += f"=_default_{parameter.name}"
        parts.append(part)
        names.append(parameter.name)
        previous = parameter
    if previous is not None and previous.kind is inspect.Parameter.POSITIONAL_ONLY:
        parts.append("/")
    shown = name if name.isidentifier() and not keyword.iskeyword(name) else "call"
    items = ", ".join(f"{each!r}: {each}" for each in names)
    scope: dict[str, Any] = dict(defaults)
    exec(f"def {shown}({', '.join(parts)}): return {{{items}}}", scope)  # noqa: S102  (as dataclasses do)
    binder: Callable[..., dict[str, Any]] = scope[shown]
    binder.__qualname__ = name
    return binder


def find_runs(value: Any, seen: set[int] | None = None) -> list[Run]:
    """Return the runs whose futures stand in a value: itself, or inside of plain containers.

    Only lists, tuples, sets and dicts are looked into; a user's own objects never are.
    """
    kind = type(value)
    if kind in _ATOMS:
        return []
    if isinstance(value, PenstockFuture):
        return [value.run]
    if isinstance(value, Annotation):
        return [] if isinstance(value, quote) else find_runs(value.value, seen)
    if kind is dict or isinstance(value, (list, tuple, set, frozenset, dict)):
        seen = set() if seen is None else seen
        if id(value) in seen:
            return []
        seen.add(id(value))
        found: list[Run] = []
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in _ATOMS:
                found.extend(find_runs(item, seen))
        return found
    return []


def look_through(
    parameters: Mapping[str, Any], flow_run: FlowRun | None, wait_for: Any
) -> tuple[list[Run], dict[str, list[Run]], bool] | None:
    """Return what a new run depends on, or None for nothing, which is the usual case.

    Returns:
        The runs whose futures stand among the arguments; the runs that made each argument, by
        name, for the record; and whether there are marks to be taken off the arguments.
    """
    upstream: list[Run] = []
    inputs: dict[str, list[Run]] = {}
    has_marks = False
    ledger: Ledger | None = None if flow_run is None else flow_run.ledger
    if ledger is not None and ledger.is_empty():
        ledger = None
    for name, value in parameters.items():
        if ledger is None and type(value) in _ATOMS:
            continue
        runs = find_runs(value)
        upstream.extend(runs)
        has_marks = has_marks or isinstance(value, Annotation) or _holds_marks(value)
        if ledger is not None and not runs and not isinstance(value, opaque):
            runs = [maker] if (maker := ledger.maker(value)) is not None else []
        if runs:
            inputs[name] = runs
    if wait_for is not None:
        runs = find_runs(wait_for if isinstance(wait_for, (list, tuple, set)) else [wait_for])
        upstream.extend(runs)
        inputs["wait_for"] = runs
    if not upstream and not inputs and not has_marks:
        return None
    return upstream, inputs, has_marks


def _holds_marks(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) and _has_marks(value)


def tolerated(value: Any) -> set[Run]:
    """Return the runs that stand under `allow_failure` in a value."""
    if isinstance(value, allow_failure):
        return set(find_runs(value.value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return {run for item in value for run in tolerated(item)}
    if isinstance(value, dict):
        return {run for item in value.values() for run in tolerated(item)}
    return set()


def put_values(value: Any) -> Any:
    """Return the value with each future replaced by its result, and the marks taken off.

    What holds no future is returned as it is: the very same object.
    """
    if type(value) in _ATOMS:
        return value
    if isinstance(value, PenstockFuture):
        state = value.run.state
        return state.data if state.type is StateType.COMPLETED else state.exception()
    if isinstance(value, Annotation):
        return value.value if isinstance(value, quote) else put_values(value.value)
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return value
    if not find_runs(value) and not _has_marks(value):
        return value
    if isinstance(value, dict):
        items = {key: put_values(item) for key, item in value.items()}
        return items if type(value) is dict else _rebuilt(value, items)
    values = [put_values(item) for item in value]
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(values)
    return _rebuilt(value, values)


def _has_marks(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return any(isinstance(item, Annotation) for item in items)


def _rebuilt(value: Any, content: Any) -> Any:
    """Return a container of the value's own class: named tuples, lists and dicts of users."""
    if hasattr(value, "_make"):
        return value._make(content)
    if isinstance(value, list):
        return list(content)  # a list of futures, ours or a user's, becomes a plain list of values
    return type(value)(content)


def upstream_problem(run: Run, tolerate: set[Run]) -> State[Any] | None:
    """Return the final state of a run whose inputs cannot be had, or None if they can.

    A failed input is a failure of this run, too; a cancelled one cancels it (`spec.md`, D5).
    """
    cancelled: Sequence[Run] = [
        each
        for each in run.upstream
        if each.state.type is StateType.CANCELLED and each not in tolerate
    ]
    for each in run.upstream:
        if each in tolerate:
            continue
        state = each.state
        if state.type in (StateType.FAILED, StateType.CRASHED):
            text = f"Upstream run {each.name!r} ended in state {state}"
            error = UpstreamTaskError(f"{run.name!r} did not run: {text[0].lower()}{text[1:]}")
            error.__cause__ = state.exception()
            return State(StateType.FAILED, "UpstreamFailed", text, error)
    if cancelled:
        text = f"Upstream run {cancelled[0].name!r} was cancelled"
        return State(StateType.CANCELLED, "Cancelled", text)
    return None
