"""Calls each hook, state handler and retry condition with the arguments it asks for.

One rule serves them all (decision D4). A signature is read once, when the hook is attached:

1. A parameter whose name is known gets what the name says: `flow`, `task_run`, `state`...
2. The other required parameters share what is left, by their number: one gets the state, two get
   the object and the state, three get the object, the run and the state.
3. `*args` gets all three.

A callback that could never be called so is refused there and then, not in the log of a run that
failed at night.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, Final, Literal, TypeAlias

from penstock._awaiting import finish
from penstock.exceptions import HookSignatureError

__all__ = [
    "Hook",
    "RetryCondition",
    "StateHandler",
    "adapt_hook",
    "adapt_retry_condition",
    "adapt_state_handler",
    "adapt_transaction_hook",
    "as_callables",
    "finish",
]

Hook: TypeAlias = Callable[[Any, Any, Any, Any], Any]
"""Called as `hook(obj, run, state, old_state)`; an async one returns its awaitable."""

StateHandler: TypeAlias = Callable[[Any, Any, Any], Any]
"""Called as `handler(obj, old_state, new_state)`."""

RetryCondition: TypeAlias = Callable[[Any, Any, Any], Any]
"""Called as `condition(task, task_run, state)`."""

Subject: TypeAlias = Literal["task", "flow"]
Part: TypeAlias = Literal["obj", "run", "state", "old_state", "exception"]

_OBJECT: Final[Mapping[str, Part]] = dict.fromkeys(("obj", "task", "flow", "tsk"), "obj")
_RUN: Final[Mapping[str, Part]] = dict.fromkeys(("run", "task_run", "flow_run"), "run")
_STATE: Final[Mapping[str, Part]] = dict.fromkeys(("state", "new_state"), "state")

_NAMES: Final[Mapping[str, Part]] = {
    **_OBJECT,
    **_RUN,
    **_STATE,
    "old_state": "old_state",
    "exception": "exception",
}

_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class _Offer:
    """What one kind of callback can be given.

    Attributes:
        kind: For messages.
        names: Parameter names that are known, and what they get. A flow's hook may name it
            `task` and the reverse, since one hook is often written for both.
        spelled: The names by which `**kwargs` gets things, and messages list them.
        order: What three parameters get by position.
        preference: Who goes first when fewer are asked for.
        whole: Parameters by position must take all of `order` between them.
    """

    kind: str
    names: Mapping[str, Part]
    spelled: tuple[str, ...]
    order: tuple[Part, ...]
    preference: tuple[Part, ...]
    whole: bool = False

    def share(self, count: int, taken: set[Part]) -> tuple[Part, ...] | None:
        """Return what `count` parameters of unknown names get; None if that cannot be."""
        left = [part for part in self.preference if part not in taken]
        if count > len(left) or (self.whole and count < len(left)):
            return None
        chosen = left[:count]
        return tuple(part for part in self.order if part in chosen)


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Which parts a callback is called with, by position and by name."""

    by_position: tuple[Part, ...]
    by_name: tuple[tuple[str, Part], ...] = ()

    def call(self, fn: Callable[..., Any], given: Mapping[Part, Any]) -> Any:
        return fn(
            *[given[part] for part in self.by_position],
            **{name: given[part] for name, part in self.by_name},
        )


# --- what is offered to whom -------------------------------------------------------------


def adapt_hook(fn: object, *, subject: Subject, option: str) -> Hook:
    """Return `fn` in the one form in which hooks are called.

        >>> say = adapt_hook(lambda state: f"it is {state}", subject="flow", option="on_failure")
        >>> say("the flow", "its run", "red", "amber")
        'it is red'

    A parameter with a default is left to it, unless all required names are known and its own
    is, too: `def hook(flow, flow_run=None)` gets the run. `exception` is the exception that the
    state carries, or None.

    Args:
        fn: Any callable, sync or async.
        subject: What the hook is attached to.
        option: For messages: `"on_failure"`...

    Raises:
        HookSignatureError: Not a callable, or it needs arguments that nobody passes.
    """
    offer = _Offer(
        kind="hook",
        names=_NAMES,
        spelled=(subject, f"{subject}_run", "state"),
        order=("obj", "run", "state"),
        preference=("state", "obj", "run"),
    )
    callback, arguments = _fitted(fn, offer, subject, option)

    def hook(obj: Any, run: Any, state: Any, old_state: Any) -> Any:
        return arguments.call(
            callback,
            {
                "obj": obj,
                "run": run,
                "state": state,
                "old_state": old_state,
                "exception": _exception_of(state),
            },
        )

    _name_after(hook, callback)
    return hook


def adapt_state_handler(fn: object, *, subject: Subject) -> StateHandler:
    """Return `fn` as a function of `(obj, old_state, new_state)`.

    A handler takes the three by position under any names, or some of them by these names.

    Raises:
        HookSignatureError: Not a callable, or it takes other arguments.
    """
    offer = _Offer(
        kind="state handler",
        names={**_OBJECT, **_STATE, "old_state": "old_state"},
        spelled=(subject, "old_state", "new_state"),
        order=("obj", "old_state", "state"),
        preference=("obj", "old_state", "state"),
        whole=True,
    )
    callback, arguments = _fitted(fn, offer, subject, "state_handlers")

    def handler(obj: Any, old_state: Any, new_state: Any) -> Any:
        return arguments.call(callback, {"obj": obj, "old_state": old_state, "state": new_state})

    _name_after(handler, callback)
    return handler


def adapt_retry_condition(fn: object) -> RetryCondition:
    """Return `fn` as a function of `(task, task_run, state)`; it may take fewer, as hooks may.

    Raises:
        HookSignatureError: Not a callable, or it needs arguments that nobody passes.
    """
    offer = _Offer(
        kind="retry condition",
        names={**_OBJECT, **_RUN, **_STATE, "exception": "exception"},
        spelled=("task", "task_run", "state"),
        order=("obj", "run", "state"),
        preference=("state", "obj", "run"),
    )
    callback, arguments = _fitted(fn, offer, "task", "retry_condition_fn")

    def condition(task: Any, task_run: Any, state: Any) -> Any:
        return arguments.call(
            callback,
            {"obj": task, "run": task_run, "state": state, "exception": _exception_of(state)},
        )

    _name_after(condition, callback)
    return condition


def adapt_transaction_hook(fn: object, *, option: str) -> Callable[[Any], Any]:
    """Return `fn` as a function of the transaction; it may take nothing.

    Raises:
        HookSignatureError: Not a callable, or it needs other arguments.
    """
    if not callable(fn):
        raise HookSignatureError(f"{option} takes functions of the transaction, not {fn!r}")
    signature = _signature_of(fn)
    if signature is None or _takes(signature, 1):
        return fn
    if not _takes(signature, 0):
        raise HookSignatureError(
            f"{option} of a task: {_name_of(fn)}{signature} asks for arguments that nobody "
            "passes. It may take the transaction, or nothing."
        )
    callback: Callable[[], Any] = fn

    def hook(_: Any) -> Any:
        return callback()

    _name_after(hook, callback)
    return hook


def as_callables(value: object, option: str) -> tuple[Callable[..., Any], ...]:
    """Return the callables of an option that takes none, one or several.

    Raises:
        HookSignatureError: There is something in it that cannot be called.
    """
    if value is None:
        return ()
    if callable(value):
        return (value,)
    # A text iterates over letters, and an empty one would pass for an empty list.
    entries: list[object] = [value]
    if isinstance(value, Iterable) and not isinstance(value, str):
        entries = list(value)
    callables: list[Callable[..., Any]] = []
    for entry in entries:
        if not callable(entry):
            raise HookSignatureError(
                f"{option} takes a function or a list of functions; {entry!r} "
                f"({type(entry).__name__}) cannot be called."
            )
        callables.append(entry)
    return tuple(callables)


# --- reading a signature ----------------------------------------------------------------


def _fitted(
    fn: object, offer: _Offer, subject: Subject, option: str
) -> tuple[Callable[..., Any], _Arguments]:
    """Return the callable and how to call it, or refuse it."""
    if not callable(fn):
        raise HookSignatureError(
            f"{option} of a {subject} takes functions; {fn!r} ({type(fn).__name__}) "
            "cannot be called."
        )
    signature = _signature_of(fn)
    if signature is None:
        return fn, _Arguments(offer.order)
    arguments = _arguments_for(signature, offer, subject, _bound_by_keyword(fn))
    if arguments is None:
        positions = [offer.spelled]
        if not offer.whole:
            positions[:0] = [(), ("state",), (subject, "state")]
        by_position = ", ".join(f"({', '.join(each)})" for each in positions)
        by_name = [name for name in ("old_state", "exception") if name in offer.names]
        names = ", ".join(dict.fromkeys((*offer.spelled, *by_name)))
        raise HookSignatureError(
            f"{option} of a {subject}: {_name_of(fn)}{signature} asks for arguments that nobody "
            f"passes. A {offer.kind} may take, by position: {by_position}; or, by name: {names}."
        )
    return fn, arguments


def _signature_of(fn: Callable[..., Any]) -> Signature | None:
    """Return what `fn` takes, or None if it does not say, as some builtins."""
    try:
        # A wrapper that says what it takes is believed, whatever it wraps; one that takes
        # anything passes it on, so there the signature of the wrapped function holds.
        own = inspect.signature(fn, follow_wrapped=False)
        if any(each.kind is Parameter.VAR_POSITIONAL for each in own.parameters.values()):
            return inspect.signature(fn)
    except (ValueError, TypeError):
        return None
    return own


def _bound_by_keyword(fn: object) -> frozenset[str]:
    """Return the names a `functools.partial` has values for: those stay the user's."""
    if isinstance(fn, functools.partial):
        return frozenset(fn.keywords)
    return frozenset()


def _arguments_for(
    signature: Signature, offer: _Offer, subject: Subject, bound: frozenset[str]
) -> _Arguments | None:
    """Decide how a callback of this signature is called; None if it cannot be."""
    parameters = list(signature.parameters.values())
    positional = [each for each in parameters if each.kind in _BY_POSITION]
    required = [each for each in positional if each.default is Parameter.empty]
    # A name that means something elsewhere, as `task_run` to a state handler, gets nothing else.
    if any(each.name in _NAMES and each.name not in offer.names for each in required):
        return None
    by_name: dict[str, Part] = {}
    for each in parameters:
        if each.kind is Parameter.KEYWORD_ONLY and each.default is Parameter.empty:
            if each.name not in offer.names:
                return None
            by_name[each.name] = offer.names[each.name]

    if any(each.kind is Parameter.VAR_POSITIONAL for each in parameters):
        in_order = zip(positional, offer.order, strict=False)
        # `(state, *args)` names another order than ours, so it goes by its names below.
        agree = all(offer.names.get(each.name, part) == part for each, part in in_order)
        if agree and len(required) <= len(offer.order):
            return _Arguments(offer.order, tuple(by_name.items()))

    if all(each.name in offer.names for each in required):
        by_position: tuple[Part, ...] = tuple(offer.names[each.name] for each in required)
        taken: set[Part] = {*by_position, *by_name.values()}
        by_name |= _offered_by_name(parameters, offer, subject, bound, taken)
        if by_position or by_name or not offer.whole:
            return _Arguments(by_position, tuple(by_name.items()))

    if offer.whole:  # three places are three places, with or without defaults
        required = positional[: max(len(required), len(offer.order))]
    shared = _shared(required, offer, set(by_name.values()))
    return None if shared is None else _Arguments(shared, tuple(by_name.items()))


def _offered_by_name(
    parameters: list[Parameter],
    offer: _Offer,
    subject: Subject,
    bound: frozenset[str],
    taken: set[Part],
) -> dict[str, Part]:
    """Return what a callback gets beyond what it needs: known names with a default, `**kwargs`."""
    # A flow's hook with `task=...` means some task of its own; ours are the flow's names.
    other = "flow" if subject == "task" else "task"
    not_ours = bound | {other, f"{other}_run"}
    by_name: dict[str, Part] = {
        each.name: offer.names[each.name]
        for each in parameters
        if each.default is not Parameter.empty
        and each.kind is not Parameter.POSITIONAL_ONLY
        and each.name in offer.names
        and each.name not in not_ours
    }
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters):
        known = taken.union(by_name.values())
        for name in offer.spelled:
            if name not in bound and offer.names[name] not in known:
                by_name[name] = offer.names[name]
    return by_name


def _shared(required: list[Parameter], offer: _Offer, taken: set[Part]) -> tuple[Part, ...] | None:
    """Return what each parameter gets: by its name, or its share of what no name asks for."""
    named: list[Part | None] = [offer.names.get(each.name) for each in required]
    asked: set[Part] = {part for part in named if part is not None}
    shares = offer.share(named.count(None), taken | asked)
    if shares is None:
        return None
    rest = iter(shares)
    return tuple(next(rest) if part is None else part for part in named)


# --- small things ------------------------------------------------------------------------


def _takes(signature: Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _exception_of(state: Any) -> BaseException | None:
    carried: object = getattr(state, "data", None)
    return carried if isinstance(carried, BaseException) else None


def _name_of(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name: object = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def _name_after(adapted: Callable[..., Any], fn: Callable[..., Any]) -> None:
    """Let messages and tracebacks speak of the user's function."""
    # Not its __dict__: a callable object's attributes are none of the adapter's.
    functools.update_wrapper(adapted, fn, assigned=("__module__", "__doc__"), updated=())
    adapted.__name__ = adapted.__qualname__ = _name_of(fn)
