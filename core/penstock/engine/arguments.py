"""Arguments: bound to names, searched for futures, and given their values. Pure."""

from __future__ import annotations

import copy
import inspect
import keyword
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from penstock.annotations import Annotation, allow_failure, opaque, quote
from penstock.exceptions import UpstreamTaskError
from penstock.futures import PenstockFuture
from penstock.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from penstock.engine.lineage import Ledger
    from penstock.runs import FlowRun, Run

__all__ = [
    "compile_binder",
    "find_runs",
    "look_through",
    "prerequisites",
    "put_values",
    "runs_needed_for",
    "tolerated",
    "upstream_problem",
]

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


def find_runs(value: Any) -> list[Run]:
    """Return the runs whose futures stand in a value: itself, or inside of plain containers.

    Only lists, tuples, sets and dicts are looked into; a user's own objects never are.
    """
    found: list[Run] = []
    if type(value) not in _ATOMS:
        _search(value, found, set())
    return found


def runs_needed_for(value: Any) -> set[Run]:
    """Return the runs whose futures stand in a value, and those that they wait for."""
    found: set[Run] = set()
    looking = find_runs(value)
    while looking:
        run = looking.pop()
        if run not in found:
            found.add(run)
            looking.extend(run.upstream)
    return found


def _search(value: Any, found: list[Run], seen: set[int]) -> bool:
    """Add the runs in a value to `found`, and return whether there are marks in it."""
    if isinstance(value, PenstockFuture):
        found.append(value.run)
        return False
    if isinstance(value, Annotation):
        if not isinstance(value, quote):
            _search(value.value, found, seen)
        return True
    if not isinstance(value, (list, tuple, set, frozenset, dict)) or id(value) in seen:
        return False
    seen.add(id(value))
    has_marks = False
    for item in value.values() if isinstance(value, dict) else value:
        if type(item) not in _ATOMS and _search(item, found, seen):
            has_marks = True
    return has_marks


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
        runs: list[Run] = []
        if _search(value, runs, set()):
            has_marks = True
        upstream.extend(runs)
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


def are_atoms(values: Iterable[Any]) -> bool:
    """Whether all are of types that hold nothing else, a future, say."""
    return _ATOMS.issuperset(map(type, values))


def is_without_futures(value: Any) -> bool:
    """Whether there is no future in a value, and no mark."""
    found: list[Run] = []
    return not _search(value, found, set()) and not found


def prerequisites(wait_for: Any) -> Any:
    """Return `wait_for` as something that can be gone through more than once."""
    if wait_for is None:  # first: the question below is a slow one, and every run comes by
        return None
    return list(wait_for) if isinstance(wait_for, Iterator) else wait_for


def tolerated(value: Any, seen: set[int] | None = None) -> set[Run]:
    """Return the runs that stand under `allow_failure` in a value."""
    if isinstance(value, allow_failure):
        return set(find_runs(value.value))
    if isinstance(value, Annotation):
        return set() if isinstance(value, quote) else tolerated(value.value, seen)
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return set()
    seen = set() if seen is None else seen
    if id(value) in seen:
        return set()
    seen.add(id(value))
    items = value.values() if isinstance(value, dict) else value
    return {run for item in items for run in tolerated(item, seen)}


def put_values(
    value: Any,
    made: dict[int, Any] | None = None,
    value_of: Callable[[State[Any]], Any] = State.value,
) -> Any:
    """Return the value with each future replaced by its result, and the marks taken off.

    What holds no future is returned as it is: the very same object. A list or dict that contains
    itself does so afterwards, too.
    """
    if type(value) in _ATOMS:
        return value
    if isinstance(value, PenstockFuture):
        state = value.run.state
        return value_of(state) if state.type is StateType.COMPLETED else state.exception()
    if isinstance(value, Annotation):
        return value.value if isinstance(value, quote) else put_values(value.value, made, value_of)
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        return value
    made = {} if made is None else made
    if id(value) in made:
        return made[id(value)]
    found: list[Run] = []
    if not _search(value, found, set()) and not found:
        return value
    if isinstance(value, dict):
        items = made[id(value)] = {} if type(value) is dict else copy.copy(value)
        for key, item in value.items():
            items[key] = put_values(item, made, value_of)
        return items
    if isinstance(value, list):  # also of futures, ours or a user's: a plain list of values
        values: list[Any] = []
        made[id(value)] = values
        values.extend(put_values(item, made, value_of) for item in value)
        return values
    made[id(value)] = value  # a cycle through it leads to the old one, as it cannot be filled in
    made[id(value)] = _rebuilt(value, [put_values(item, made, value_of) for item in value])
    return made[id(value)]


def _rebuilt(value: Any, content: list[Any]) -> Any:
    """Return a tuple or set of the value's own class, named tuples included."""
    return value._make(content) if hasattr(value, "_make") else type(value)(content)


def upstream_problem(run: Run, tolerate: set[Run]) -> State[Any] | None:
    """Return the final state of a run whose inputs cannot be had, or None if they can.

    A failed input is a failure of this run, too; a cancelled one cancels it (`spec.md`, D5).
    """
    tolerate = tolerate | run.tolerates
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
            # The first cause only: each text in the next one's would double with every level.
            text, cause = f"Upstream run {each.name!r} ended in state {state}", state.exception()
            if state.name == "UpstreamFailed" and cause is not None and cause.__cause__ is not None:
                text, cause = state.message or text, cause.__cause__  # where it all began
            if state.name == "UpstreamFailed" and state.message:
                text = state.message
            error = UpstreamTaskError(f"{run.name!r} did not run: {text[0].lower()}{text[1:]}")
            error.__cause__ = cause
            return State(StateType.FAILED, "UpstreamFailed", text, error)
    if cancelled:
        text = f"Upstream run {cancelled[0].name!r} was cancelled"
        return State(StateType.CANCELLED, "Cancelled", text)
    return None
