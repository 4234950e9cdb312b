"""What a task run's cache key is made of: the policies that come with Penstock.

The keys of the policies here belong to one task: its `task_key` is always in them, so that two
tasks with equal inputs never get each other's results. To share results between tasks on purpose,
make the key yourself with a `cache_key_fn`.

`compute_key` gives the key; `compute` gives it together with its parts, for `explain`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from penstock.cache_policy import (
    CacheKeyFnPolicy,
    CachePolicy,
    CompoundCachePolicy,
    OptionsOfPolicy,
    SeenKey,
    TaskRunContext,
)
from penstock.hashing import (
    argument_hashes,
    hash_arguments,
    parameter_hashes,
    stable_hash,
    text_hash,
)
from penstock.key_parts import KeyPart, KeyParts, explain, short_text
from penstock.source_graph import source_graph
from penstock.source_hashing import source_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "TASK_SOURCE_DEEP",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CompoundCachePolicy",
    "FlowParameters",
    "Inputs",
    "KeyPart",
    "KeyParts",
    "RunId",
    "TaskRunContext",
    "TaskSource",
    "TaskSourceDeep",
    "explain",
    "task_input_hash",
]


class _Call(NamedTuple):
    context: TaskRunContext | None
    inputs: dict[str, Any]
    flow_parameters: dict[str, Any]


_Seen: TypeAlias = "tuple[str, Callable[[], Mapping[str, KeyPart]]]"
"""What counts, and what gives the same as parts; many keys are asked for and few parts."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _TaskPolicy(OptionsOfPolicy):
    """A policy whose keys belong to one task."""

    uses_flow_parameters: ClassVar[bool] = False
    _name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Who makes keys of their own is looked at from outside, as any other policy is.
        if cls.compute_key is not _TaskPolicy.compute_key and cls.look is _TaskPolicy.look:
            cls.look = CachePolicy.look  # type: ignore[assignment]  # it has other types
            cls.uses_flow_parameters = CachePolicy.uses_flow_parameters
        if cls.look is not _TaskPolicy.look:
            cls._term = CachePolicy._term  # type: ignore[assignment]

    def compute_key(
        self,
        task_ctx: TaskRunContext | None,
        inputs: dict[str, Any] | None,
        flow_parameters: dict[str, Any] | None,
        **kwargs: Any,  # noqa: ARG002  (part of the interface)
    ) -> str | None:
        """Hash the task's key and what this policy looks at; None if there is nothing."""
        term = _TaskPolicy._term(self, task_ctx, inputs, flow_parameters)
        return None if term is None else text_hash(term.key)

    def look(
        self,
        task_ctx: TaskRunContext | None,
        inputs: dict[str, Any] | None,
        flow_parameters: dict[str, Any] | None,
    ) -> SeenKey | None:
        """Return the key, and what gives all that this policy looks at."""
        term = self._term(task_ctx, inputs, flow_parameters)
        return None if term is None else SeenKey(text_hash(term.key), term.parts)

    def _term(
        self,
        task_ctx: TaskRunContext | None,
        inputs: dict[str, Any] | None,
        flow_parameters: dict[str, Any] | None,
    ) -> SeenKey | None:
        seen = self._look_at(_Call(task_ctx, inputs or {}, flow_parameters or {}))
        if seen is None:
            return None
        counted, own_parts = seen
        task_key = "" if task_ctx is None else task_ctx.task.task_key

        def parts() -> Mapping[str, KeyPart]:
            return {"task": _task_part(task_key), **own_parts()}

        # It can be read in one way only: a bar may be in the last of the three alone.
        return SeenKey(f"{type(self).__name__}|{counted}|{task_key}", parts)

    def _look_at(self, call: _Call) -> _Seen | None:
        """Return what such a policy sees of a call, or None; each kind says."""
        raise NotImplementedError

    def _expression(self) -> str:
        return self._name


@functools.lru_cache(maxsize=1024)
def _task_part(task_key: str) -> KeyPart:
    return KeyPart(stable_hash(task_key), task_key)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Inputs(_TaskPolicy):
    """The arguments of the call, by `penstock.hashing.stable_hash`; no key if there are none.

    Computing the key raises `UnhashableInputError` if an argument that counts has no stable hash.
    A name to leave out that is no argument of the task is no error: tasks may share a policy.
    """

    exclude: Iterable[str] = ()
    """Names of arguments to leave out; kept as a sorted tuple."""

    def __post_init__(self) -> None:
        names = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(sorted(set(names))))

    def _look_at(self, call: _Call) -> _Seen | None:
        if not call.inputs:
            return None
        hashes = argument_hashes(call.inputs, without=tuple(self.exclude))
        return _as_text(hashes), lambda: _parts("input", hashes, call.inputs)

    def __sub__(self, other: object) -> CachePolicy:
        """Return this policy with one more input left out."""
        if not isinstance(other, str):
            return NotImplemented
        return dataclasses.replace(self, exclude=(*self.exclude, other))

    def _joined_with(self, other: CachePolicy) -> CachePolicy | None:
        if type(self) is not Inputs or type(other) is not Inputs:
            return super()._joined_with(other)
        return dataclasses.replace(self, exclude=(*self.exclude, *other.exclude))

    def _expression(self) -> str:
        return " - ".join(["INPUTS", *map(repr, self.exclude)])


def _as_text(hashes: dict[str, str]) -> str:
    # Names are identifiers, and the digests of one length: it can be read in one way only.
    return " ".join([f"{name}={digest}" for name, digest in hashes.items()])


def _parts(kind: str, hashes: dict[str, str], values: dict[str, Any]) -> dict[str, KeyPart]:
    return {f"{kind} {name}": KeyPart(hashes[name], short_text(values[name])) for name in hashes}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TaskSource(_TaskPolicy):
    """The source of the task's function, without comments, docstrings, decorators and layout.

    Functions that it calls, and variables that it captures, are not followed: for that there is
    `TASK_SOURCE_DEEP`. Where no source is to be found, and for a lambda, the bytecode takes its
    place.
    """

    _name: ClassVar[str] = "TASK_SOURCE"

    def _look_at(self, call: _Call) -> _Seen | None:
        if call.context is None:
            return None
        source = source_hash(call.context.task.fn)
        return source, lambda: {"source": KeyPart(source)}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class TaskSourceDeep(_TaskPolicy):
    """The source of the task, and all code of the user's own that it reaches.

    Functions, methods, classes, decorators and the values of global variables, followed as
    `penstock.source_graph` says. Installed packages and the standard library count by name.
    """

    _name: ClassVar[str] = "TASK_SOURCE_DEEP"

    def _look_at(self, call: _Call) -> _Seen | None:
        if call.context is None:
            return None
        graph = source_graph(call.context.task.fn)
        return graph.hash, lambda: graph.parts


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class RunId(_TaskPolicy):
    """The id of the flow run, or of the task run outside of a flow: no reuse beyond it."""

    _name: ClassVar[str] = "RUN_ID"

    def _look_at(self, call: _Call) -> _Seen | None:
        if call.context is None:
            return None
        task_run = call.context.task_run
        run_id = str(task_run.id if task_run.flow_run is None else task_run.flow_run.id)
        return run_id, lambda: {"run": KeyPart(stable_hash(run_id), run_id)}


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FlowParameters(_TaskPolicy):
    """The parameters of the flow around the task; no key if there are none."""

    uses_flow_parameters: ClassVar[bool] = True
    _name: ClassVar[str] = "FLOW_PARAMETERS"

    def _look_at(self, call: _Call) -> _Seen | None:
        if not call.flow_parameters:
            return None
        hashes = parameter_hashes(call.flow_parameters)
        return _as_text(hashes), lambda: _parts("flow parameter", hashes, call.flow_parameters)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _None(_TaskPolicy):
    """No key, whatever the call: no caching. Adding it to a policy changes nothing."""

    _name: ClassVar[str] = "NONE"
    _gives_no_key: ClassVar[bool] = True

    def _look_at(self, call: _Call) -> _Seen | None:  # noqa: ARG002  (whatever it is)
        return None

    def __add__(self, other: object) -> CachePolicy:
        return other if isinstance(other, CachePolicy) else NotImplemented


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
TASK_SOURCE_DEEP = TaskSourceDeep()
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
