"""What a task run's cache key is made of.

A policy is a value: it turns a call into a key, or into None for "do not cache". Policies add up
(``INPUTS + TASK_SOURCE``) and leave inputs out (``INPUTS - "connection"``). Where results are
kept, and for how long, is decided elsewhere; a policy only carries its own wishes about it.

The keys of the policies here belong to one task: its `task_key` is always in them, so that two
tasks with equal inputs never get each other's results. To share results between tasks on purpose,
make the key yourself with a `cache_key_fn`.
"""

from __future__ import annotations

import copy
import dataclasses
import reprlib
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from penstock.hashing import hash_arguments, stable_hash
from penstock.source_hashing import source_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CompoundCachePolicy",
    "FlowParameters",
    "Inputs",
    "RunId",
    "TaskRunContext",
    "TaskSource",
    "task_input_hash",
]


class _Task(Protocol):
    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def task_key(self) -> str: ...


class _Run(Protocol):
    @property
    def id(self) -> object: ...


class _TaskRun(_Run, Protocol):
    @property
    def flow_run(self) -> _Run | None: ...


class TaskRunContext(Protocol):
    """What a policy, or a `cache_key_fn`, is told about the run besides its inputs."""

    @property
    def task(self) -> _Task:
        """The task: `fn` is the function, `task_key` says which task it is."""
        ...

    @property
    def task_run(self) -> _TaskRun:
        """The run: `id`, and `flow_run`, which is None outside of a flow."""
        ...


@dataclasses.dataclass(frozen=True, repr=False)
class CachePolicy:
    """Base of all cache policies; one of your own overrides `compute_key`.

    A subclass that is a dataclass must be frozen as well.
    """

    key_storage: Any = dataclasses.field(default=None, kw_only=True)
    """Where to note the keys, if not beside the results: a directory or a file system."""
    isolation_level: Any = dataclasses.field(default=None, kw_only=True)
    """Whether equal keys in flight wait for each other."""
    lock_manager: Any = dataclasses.field(default=None, kw_only=True)
    """What they wait with."""

    @classmethod
    def from_cache_key_fn(
        cls, cache_key_fn: Callable[[Any, dict[str, Any]], str | None]
    ) -> CacheKeyFnPolicy:
        """Make a policy of a function that takes the context and the arguments."""
        return CacheKeyFnPolicy(cache_key_fn)

    def configure(
        self, key_storage: Any = None, lock_manager: Any = None, isolation_level: Any = None
    ) -> Self:
        """Return a copy with these options; those left out stay as they are."""
        changed = copy.copy(self)
        for name, value in zip(_OPTIONS, (key_storage, lock_manager, isolation_level), strict=True):
            if value is not None:
                object.__setattr__(changed, name, value)  # nobody else has this copy yet
        return changed

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the cache key of a call, or None to not cache it.

        Args:
            task_ctx: the task and its run.
            inputs: the arguments by name, defaults filled in.
            flow_parameters: the parameters of the flow around it; empty outside of one.
            kwargs: room for what later versions may pass.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compute_key()")

    def __add__(self, other: object) -> CachePolicy:
        """Return a policy whose key changes when either key does."""
        if not isinstance(other, CachePolicy):
            return NotImplemented
        if isinstance(other, _None):
            return self
        return CompoundCachePolicy((self, other))

    def __sub__(self, other: object) -> CachePolicy:
        """Return a policy over the inputs without this one.

        A policy that did not look at inputs looks at all the others from then on.
        """
        if not isinstance(other, str):
            return NotImplemented
        return CompoundCachePolicy((self, Inputs((other,))))

    def __repr__(self) -> str:
        expression = self._expression()
        options = {name: getattr(self, name) for name in _OPTIONS}
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if value)
        if not given:
            return expression
        return f"({expression}).configure({given})"

    def _expression(self) -> str:
        own = [field for field in dataclasses.fields(self) if field.name not in _OPTIONS]
        values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in own)
        return f"{type(self).__name__}({values})"


_OPTIONS = ("key_storage", "lock_manager", "isolation_level")


class _Call(NamedTuple):
    context: TaskRunContext
    inputs: dict[str, Any]
    flow_parameters: dict[str, Any]


@dataclasses.dataclass(frozen=True, repr=False)
class _TaskPolicy(CachePolicy):
    """A policy whose keys belong to one task."""

    _name: ClassVar[str] = ""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any] | None,
        flow_parameters: dict[str, Any] | None,
        **kwargs: Any,  # noqa: ARG002  (part of the interface)
    ) -> str | None:
        """Hash the task's key and what this policy looks at; None if there is nothing."""
        seen = self._look_at(_Call(task_ctx, inputs or {}, flow_parameters or {}))
        if seen is None:
            return None
        return stable_hash((type(self).__name__, task_ctx.task.task_key, seen))

    def _look_at(self, call: _Call) -> str | None:
        raise NotImplementedError

    def _expression(self) -> str:
        return self._name


@dataclasses.dataclass(frozen=True, repr=False)
class Inputs(_TaskPolicy):
    """The arguments of the call, by `penstock.hashing.stable_hash`; no key if there are none.

    Computing the key raises `ValueError` if a name to leave out is not among the arguments, and
    `UnhashableInputError` if one of the others has no stable hash.
    """

    exclude: Iterable[str] = ()
    """Names of arguments to leave out; kept as a sorted tuple."""

    def __post_init__(self) -> None:
        names = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(sorted(set(names))))

    def _look_at(self, call: _Call) -> str | None:
        unknown = [name for name in self.exclude if name not in call.inputs]
        if unknown:
            raise ValueError(
                f"the cache policy of task {call.context.task.task_key} leaves out "
                f"{', '.join(map(repr, unknown))}, but the task's inputs are "
                f"{', '.join(map(repr, call.inputs)) or 'none'}"
            )
        if not call.inputs:
            return None
        left_out = set(self.exclude)
        return hash_arguments({n: v for n, v in call.inputs.items() if n not in left_out})

    def __sub__(self, other: object) -> CachePolicy:
        """Return this policy with one more input left out."""
        if not isinstance(other, str):
            return NotImplemented
        return dataclasses.replace(self, exclude=(*self.exclude, other))

    def _expression(self) -> str:
        return " - ".join(["INPUTS", *map(repr, self.exclude)])


@dataclasses.dataclass(frozen=True, repr=False)
class TaskSource(_TaskPolicy):
    """The source of the task's function, without comments, docstrings, decorators and layout.

    Functions that it calls, and variables that it captures, are not followed. Where no source is
    to be found, and for a lambda, the bytecode takes its place.
    """

    _name: ClassVar[str] = "TASK_SOURCE"

    def _look_at(self, call: _Call) -> str | None:
        return source_hash(call.context.task.fn)


@dataclasses.dataclass(frozen=True, repr=False)
class RunId(_TaskPolicy):
    """The id of the flow run, or of the task run outside of a flow: no reuse beyond it."""

    _name: ClassVar[str] = "RUN_ID"

    def _look_at(self, call: _Call) -> str | None:
        task_run = call.context.task_run
        return str(task_run.id if task_run.flow_run is None else task_run.flow_run.id)


@dataclasses.dataclass(frozen=True, repr=False)
class FlowParameters(_TaskPolicy):
    """The parameters of the flow around the task; no key if there are none."""

    _name: ClassVar[str] = "FLOW_PARAMETERS"

    def _look_at(self, call: _Call) -> str | None:
        return hash_arguments(call.flow_parameters) if call.flow_parameters else None


@dataclasses.dataclass(frozen=True, repr=False)
class _None(_TaskPolicy):
    """No key, whatever the call: no caching. Adding it to a policy changes nothing."""

    _name: ClassVar[str] = "NONE"

    def _look_at(self, call: _Call) -> str | None:  # noqa: ARG002  (whatever the call)
        return None

    def __add__(self, other: object) -> CachePolicy:
        return other if isinstance(other, CachePolicy) else NotImplemented

    def __sub__(self, other: object) -> CachePolicy:
        return self if isinstance(other, str) else NotImplemented


@dataclasses.dataclass(frozen=True, repr=False)
class CacheKeyFnPolicy(CachePolicy):
    """A function that makes the key: ``cache_key_fn(context, arguments)`` gives a str or None."""

    cache_key_fn: Callable[[Any, dict[str, Any]], str | None]

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002  (the function does not take them)
        **kwargs: Any,  # noqa: ARG002
    ) -> str | None:
        """Call the function."""
        key: object = self.cache_key_fn(task_ctx, inputs)
        if key is None or isinstance(key, str):
            return key
        raise TypeError(
            f"{self!r} of task {task_ctx.task.task_key} has to return a str or None, "
            f"but it returned {reprlib.repr(key)}"
        )

    def _expression(self) -> str:
        name = getattr(self.cache_key_fn, "__qualname__", None) or repr(self.cache_key_fn)
        return f"CacheKeyFnPolicy({name})"


@dataclasses.dataclass(frozen=True, repr=False)
class CompoundCachePolicy(CachePolicy):
    """Several policies at once; the options of its parts become its own.

    There is at most one `Inputs` among the parts: what any of them leaves out is left out.

    Raises:
        ValueError: the parts want different storages, isolation levels or lock managers.
    """

    policies: Iterable[CachePolicy] = ()
    """The parts; kept as a tuple of policies that are not compound and have no options."""

    def __post_init__(self) -> None:
        given = tuple(self.policies)
        for option in _OPTIONS:
            object.__setattr__(self, option, _one_wish(option, (self, *given)))
        parts = [_without_options(part) for policy in given for part in _parts(policy)]
        left_out = [name for part in parts if type(part) is Inputs for name in part.exclude]
        merged = [Inputs(left_out) if type(part) is Inputs else part for part in parts]
        object.__setattr__(self, "policies", tuple(dict.fromkeys(merged)))

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Hash the keys of the parts; those that give None do not count."""
        keys = [
            policy.compute_key(
                task_ctx=task_ctx, inputs=inputs, flow_parameters=flow_parameters, **kwargs
            )
            for policy in self.policies
        ]
        counted = [key for key in keys if key is not None]
        return stable_hash(counted) if counted else None

    def _expression(self) -> str:
        terms: list[str] = []
        left_out: list[str] = []
        for policy in self.policies:
            if type(policy) is Inputs:
                terms.append("INPUTS")
                left_out += map(repr, policy.exclude)
            else:
                terms.append(repr(policy))
        return " - ".join([" + ".join(terms) or "NONE", *left_out])


def _parts(policy: CachePolicy) -> Iterable[CachePolicy]:
    if isinstance(policy, CompoundCachePolicy):
        return policy.policies
    return () if isinstance(policy, _None) else (policy,)


def _without_options(policy: CachePolicy) -> CachePolicy:
    bare = copy.copy(policy)
    for option in _OPTIONS:
        object.__setattr__(bare, option, None)
    return bare


def _one_wish(option: str, policies: Iterable[CachePolicy]) -> Any:
    chosen: Any = None
    for policy in policies:
        wish = getattr(policy, option)
        if chosen is not None and wish is not None and wish != chosen:
            raise ValueError(
                f"cache policies with different {option}s cannot be added: "
                f"{reprlib.repr(chosen)} and {reprlib.repr(wish)}"
            )
        chosen = wish if chosen is None else chosen
    return chosen


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
RUN_ID = RunId()
FLOW_PARAMETERS = FlowParameters()
NONE = NO_CACHE = _None()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID


def task_input_hash(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """Return a key of the task, its source and its arguments: the usual `cache_key_fn`.

    Raises:
        UnhashableInputError: an argument has no stable hash; the message names it.
    """
    task = context.task
    return stable_hash((task.task_key, source_hash(task.fn), hash_arguments(arguments)))
