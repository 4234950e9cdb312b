"""The options of tasks and flows: their names, types and checks."""

from __future__ import annotations

import contextvars
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from penstock.annotations import NotSetType
from penstock.engine.rates import parse_rate
from penstock.exceptions import DefinitionError
from penstock.states import StateType
from penstock.task_runners import TaskRunner

if TYPE_CHECKING:
    from contextvars import ContextVar
    from pathlib import Path

    from penstock.cache_policies import CachePolicy
    from penstock.retries import RetryDelays

__all__ = ["FlowOptions", "OnError", "TaskOptions", "TaskRunnerSpec", "checked_options"]

Hooks: TypeAlias = Callable[..., Any] | Iterable[Callable[..., Any]] | NotSetType | None
TaskRunnerSpec: TypeAlias = str | TaskRunner | type[TaskRunner]
"""A runner by name (``"thread:8"``), as an object, or as a class to be made without arguments."""
Delays: TypeAlias = "RetryDelays"
_FOR_EVER = timedelta(days=365_000)
RETAINED = ("results", "states")
RESULT_PLACES = ("auto", "driver", "cluster", "storage")
OnError: TypeAlias = Literal["continue", "fail_fast", "finish_running"]


class TaskOptions(TypedDict, total=False):
    """The options of a task. Left out means unchanged, or the default; None clears an option."""

    name: str | NotSetType | None
    """The task's name; by default the function's."""
    description: str | NotSetType | None
    """By default the function's docstring."""
    tags: Iterable[str] | NotSetType | None
    """Labels of its runs, with those of the `tags()` blocks around the call."""
    version: str | NotSetType | None
    """By default a hash of the function's source."""
    cache_policy: CachePolicy | NotSetType | None
    """What a cached result depends on."""
    cache_key_fn: Callable[..., str | None] | NotSetType | None
    """`(context, parameters) -> key`; wins over `cache_policy`."""
    cache_expiration: timedelta | float | NotSetType | None
    """For how long a cached result may be used; a number is in seconds."""
    task_run_name: str | Callable[..., str] | NotSetType | None
    """A `str.format` template over the parameters, or a function that returns the name."""
    retries: int | NotSetType | None
    """How many more attempts a failure gets."""
    retry_delay_seconds: Delays | NotSetType | None
    """The wait before each retry: a number, a list (its last value repeats), or a function of
    `retries` that gives a list."""
    retry_jitter_factor: float | NotSetType | None
    """How much longer a wait may become at random; its mean stays."""
    max_retry_delay_seconds: float | NotSetType | None
    """No wait is longer than this."""
    retry_condition_fn: Callable[..., Any] | NotSetType | None
    """`(task, task_run, state) -> bool`: whether this failure is worth a retry."""
    crash_retries: int | NotSetType | None
    """How often it starts again when its worker was lost; not counted as retries."""
    timeout_seconds: float | NotSetType | None
    """How long one attempt may take; 0 is no limit."""
    log_prints: bool | NotSetType | None
    """Whether `print` writes to the run's log; by default as the flow does."""
    persist_result: bool | NotSetType | None
    """Whether results go to storage."""
    result_storage: str | Path | Any | NotSetType | None
    """Where results are stored: a path, a URL, or a storage object."""
    result_serializer: str | Any | NotSetType | None
    """How results are written: ``"pickle"``, ``"json"``, ``"compressed/..."``, or an object."""
    result_storage_key: str | NotSetType | None
    """A template for the key that a result is stored under."""
    cache_result_in_memory: bool | NotSetType | None
    """Whether a stored result is kept in memory as well."""
    refresh_cache: bool | NotSetType | None
    """Whether to run in any case, and overwrite what is cached."""
    on_running: Hooks
    """Called when an attempt begins."""
    on_completion: Hooks
    """Called when a run has ended well."""
    on_failure: Hooks
    """Called when a run has failed for good."""
    on_cancellation: Hooks
    """Called when a run was cancelled."""
    on_crashed: Hooks
    """Called when a run was ended by an outside cause."""
    on_commit: Hooks
    """Called with the transaction when a result is committed."""
    on_rollback: Hooks
    """Called with the transaction when it is rolled back."""
    state_handlers: Hooks
    """`(task, old_state, new_state) -> State | None`: may veto or rewrite every change."""
    task_runner: TaskRunnerSpec | NotSetType | None
    """Where submitted runs of this task go, if not where the flow's go."""
    priority: int | NotSetType | None
    """Higher goes first among the runs that are ready."""
    timeout: Literal["hard"] | NotSetType | None
    """``"hard"``: `timeout_seconds` must hold whatever the function does; a runner that cannot
    see to that refuses the task when it is submitted."""
    max_concurrency: int | NotSetType | None
    """How many runs of the task may be under way at once, inside of one root run. Copies made by
    `with_options` count, too, but for those with another limit; a run inside of one that has a
    place shares it. Who waits holds no worker."""
    rate_limit: str | float | NotSetType | None
    """How often attempts may start: ``"10/s"``, ``"100/m"``, ``"1000/h"``, or a number a second.
    In any time of `t` seconds, inside of one root run, at most `rate * t` start and a burst more:
    as many as the whole starts of one second, and at least one. Who waits holds no worker."""
    resources: Mapping[str, float] | NotSetType | None
    """What each submitted run needs of what workers have, such as ``{"GPU": 1}``. What it got is
    in ``penstock.runtime.task_run.resources``."""
    workers: str | Iterable[str] | NotSetType | None
    """Names or addresses of the workers that may run it, where a runner tells them apart."""
    propagate: Iterable[ContextVar[Any]] | NotSetType | None
    """Context variables whose values at the call go along to workers in other processes, besides
    those of the flow."""
    result_on: Literal["auto", "driver", "cluster", "storage"] | NotSetType | None
    """Where results are while they are needed: ``"driver"`` brings all of them home, ``"cluster"``
    leaves all of them with the workers, where that can be, ``"storage"`` has them stored, large
    ones by the workers that reach the store; by default the large ones stay where they are."""
    retain: Literal["results", "states"] | NotSetType | None
    """What a future keeps once its result was read: ``"states"`` lets the result go, for runs that
    are many, or large, and whose futures are kept. What is read from storage stays there."""
    viz_return_value: Any
    """Stands in for the result when a flow is drawn without running it."""
    asset_deps: Sequence[Any] | NotSetType | None
    """Keys of assets that the task reads; recorded with its runs."""


class FlowOptions(TypedDict, total=False):
    """The options of a flow. Left out means unchanged, or the default; None clears an option."""

    name: str | NotSetType | None
    """The flow's name; by default the function's, with dashes for underscores."""
    version: str | NotSetType | None
    """By default a hash of the file the flow is defined in."""
    flow_run_name: str | Callable[..., str] | NotSetType | None
    """A `str.format` template over the parameters, or a function that returns the name."""
    retries: int | NotSetType | None
    """How many more attempts a failure of the whole flow gets."""
    retry_delay_seconds: Delays | NotSetType | None
    """The wait before each retry: a number, a list, or a function of `retries`."""
    retry_jitter_factor: float | NotSetType | None
    """How much longer a wait may become at random; its mean stays."""
    task_runner: TaskRunnerSpec | NotSetType | None
    """Where submitted runs go: ``"thread:8"``, a runner object, a runner class."""
    description: str | NotSetType | None
    """By default the function's docstring."""
    timeout_seconds: float | NotSetType | None
    """How long one attempt may take; what runs inside is cancelled then."""
    validate_parameters: bool | NotSetType | None
    """Whether parameters are checked, and coerced, by their annotations; on by default."""
    persist_result: bool | NotSetType | None
    """The default for its tasks, and for the flow's own result."""
    result_storage: str | Path | Any | NotSetType | None
    """The default for its tasks."""
    result_serializer: str | Any | NotSetType | None
    """The default for its tasks."""
    cache_result_in_memory: bool | NotSetType | None
    """Whether the flow's own stored result is kept in memory as well."""
    log_prints: bool | NotSetType | None
    """Whether `print` writes to the run's log, for its tasks, too."""
    on_running: Hooks
    """Called when an attempt begins."""
    on_completion: Hooks
    """Called when a run has ended well."""
    on_failure: Hooks
    """Called when a run has failed for good."""
    on_cancellation: Hooks
    """Called when a run was cancelled."""
    on_crashed: Hooks
    """Called when a run was ended by an outside cause."""
    state_handlers: Hooks
    """`(flow, old_state, new_state) -> State | None`: may veto or rewrite every change."""
    tags: Iterable[str] | NotSetType | None
    """Labels of its runs and of the runs inside."""
    propagate: Iterable[ContextVar[Any]] | NotSetType | None
    """Context variables whose values go along to workers in other processes."""
    tag_limits: Mapping[str, int] | NotSetType | None
    """How many runs with a tag may run at once inside of this flow."""
    on_exit: Literal["wait", "cancel"] | NotSetType | None
    """What happens to submitted runs that are not over when the flow's function is: ``"wait"``
    waits for them, ``"cancel"`` cancels all that the flow's result does not need."""


def checked_options(given: Mapping[str, Any], known: type, owner: str) -> dict[str, Any]:
    """Return the options that say something, or raise `TypeError` for one that does not exist."""
    names = known.__annotations__
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{owner} has no option {name!r}{hint}")
    return {name: value for name, value in given.items() if not isinstance(value, NotSetType)}


def checked_tags(tags: object, owner: str) -> frozenset[str]:
    """Return tags as a set; a single string is refused, since it would be a set of letters."""
    if tags is None:
        return frozenset()
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise DefinitionError(f"{owner}: tags is a list or set of strings, not {tags!r}")
    found: list[Any] = list(tags)
    for tag in found:
        if not tag or not isinstance(tag, str):
            raise DefinitionError(f"{owner}: a tag is a string with something in it, not {tag!r}")
    return frozenset(map(str.__str__, found))  # plain ones, also of an enum


def checked_timeout(value: object, owner: str) -> float | None:
    """Return a time limit in seconds; None and 0 are no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise DefinitionError(f"{owner}: timeout_seconds is a number >= 0 or None, not {value!r}")
    return float(value) or None


def checked_expiration(value: object, owner: str) -> timedelta | None:
    """Return how long results are used; None is for ever, as is what no calendar reaches."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        value = timedelta(seconds=min(max(value, 0), _FOR_EVER.total_seconds()))
    if not (value is None or isinstance(value, timedelta)):
        raise DefinitionError(
            f"{owner}: cache_expiration is a timedelta or a number of seconds, not {value!r}"
        )
    return None if value is None or value >= _FOR_EVER else value


def checked_integer(value: object, option: str, owner: str) -> int:
    """Return a whole number; None is 0."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise DefinitionError(f"{owner}: {option} is a whole number, not {value!r}")
    return value


def checked_count(value: object, option: str, owner: str) -> int:
    """Return a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DefinitionError(f"{owner}: {option} is a whole number >= 0, not {value!r}")
    return value


def checked_limit(value: object, option: str, owner: str) -> int | None:
    """Return how many may run at once; None is no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DefinitionError(f"{owner}: {option} is a whole number >= 1, not {value!r}")
    return value


def checked_rate(value: object, owner: str) -> float | None:
    """Return starts a second; None is no limit."""
    if value is None:
        return None
    try:
        return parse_rate(value)
    except ValueError as error:
        raise DefinitionError(f"{owner}: rate_limit: {error}") from None


def checked_exit(value: object, owner: str) -> Literal["wait", "cancel"]:
    """Return what a flow does with runs that are not over at its end."""
    if value == "detach":
        raise DefinitionError(
            f'{owner}: on_exit="detach" cannot be had: the engine that drives submitted runs ends '
            "with the flow run. Submit from the flow around this one, or start a process of its "
            "own for what is to go on"
        )
    chosen: Literal["wait", "cancel"] = checked_choice(value, "on_exit", ("wait", "cancel"), owner)
    return chosen


def checked_variables(value: Any, owner: str) -> tuple[ContextVar[Any], ...]:
    """Return context variables as a tuple."""
    if value is None:
        return ()
    found: list[Any] = list(value) if isinstance(value, Iterable) else [value]
    for each in found:
        if not isinstance(each, contextvars.ContextVar):
            raise DefinitionError(f"{owner}: propagate is a list of ContextVars, not {each!r}")
    return tuple(found)


def checked_resources(value: Any, owner: str) -> dict[str, float]:
    """Return amounts by the name of the resource; those of nothing are left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DefinitionError(
            f'{owner}: resources is a mapping such as {{"GPU": 1}}, not {value!r}'
        )
    for name, amount in value.items():
        is_amount = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if not isinstance(name, str) or not is_amount or not amount >= 0:
            raise DefinitionError(
                f"{owner}: of the resource {name!r} it needs a number >= 0, not {amount!r}"
            )
    return {name: amount for name, amount in value.items() if amount}


def checked_workers(value: Any, owner: str) -> tuple[str, ...]:
    """Return names or addresses of workers."""
    if value is None:
        return ()
    found: list[Any] = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(each, str) and each for each in found):
        raise DefinitionError(f"{owner}: workers are names or addresses, not {value!r}")
    return tuple(found)


def is_hard(timeout: Any, owner: str) -> bool:
    """Whether the option `timeout` says so; for a number another option was meant."""
    if isinstance(timeout, (int, float)):
        raise TypeError(f"{owner}: timeout takes no number; did you mean 'timeout_seconds'?")
    return bool(checked_choice(timeout, "timeout", ("", "hard"), owner))


def checked_choice(value: Any, option: str, choices: Sequence[str], owner: str) -> Any:
    """Return one of several words; None is the first of them."""
    if value is None:
        return choices[0]
    if value not in choices:
        shown = " or ".join(repr(choice) for choice in choices if choice)
        raise DefinitionError(f"{owner}: {option} is {shown}, not {value!r}")
    return value


HOOK_OPTIONS: dict[str, StateType] = {
    "on_running": StateType.RUNNING,
    "on_completion": StateType.COMPLETED,
    "on_failure": StateType.FAILED,
    "on_cancellation": StateType.CANCELLED,
    "on_crashed": StateType.CRASHED,
}
"""Which type of state sets off which hooks."""
