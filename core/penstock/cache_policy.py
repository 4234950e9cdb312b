"""The interface of cache policies, and those that are made of others or of a function.

A policy is a value: it turns a call into a key, or into None for "do not cache". Policies add up
(``INPUTS + TASK_SOURCE``) and leave inputs out (``INPUTS - "connection"``). Where results are
kept, and for how long, is decided elsewhere; a policy only carries its own wishes about it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import reprlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from penstock.hashing import stable_hash, text_hash
from penstock.key_parts import KeyPart, KeyParts, cut, without_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

__all__ = [
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CompoundCachePolicy",
    "OptionsOfPolicy",
    "SeenKey",
    "TaskRunContext",
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


class SeenKey(NamedTuple):
    """A key, and what gives its parts; to be called before an argument can have changed."""

    key: str
    parts: Callable[[], Mapping[str, KeyPart]]


_OPTIONS = ("key_storage", "lock_manager", "isolation_level")


class CachePolicy:
    """Base of all cache policies; one of your own overrides `compute_key`.

    A subclass may be a plain class or a dataclass, frozen or not. Policies are equal if they are
    of one class and have equal attributes.
    """

    key_storage: Any = None
    """Where to note the keys, if not beside the results: a directory or a file system."""
    isolation_level: Any = None
    """Whether equal keys in flight wait for each other."""
    lock_manager: Any = None
    """What they wait with."""
    uses_flow_parameters: ClassVar[bool] = True
    """Whether to tell it the parameters of the flow; to bind them takes time in every call."""

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
        changed: Self = _with_options(self, (key_storage, lock_manager, isolation_level))
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

    def compute(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
    ) -> KeyParts | None:
        """Return the same key together with what it was made of, or None to not cache the call."""
        seen = self.look(task_ctx, inputs, flow_parameters)
        return None if seen is None else self.with_parts(seen)

    def with_parts(self, seen: SeenKey) -> KeyParts:
        """Return a key of this policy's together with what it was made of."""
        policy = _text_part(without_addresses(self._expression()))
        return KeyParts(seen.key, MappingProxyType({"policy": policy, **seen.parts()}))

    def look(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
    ) -> SeenKey | None:
        """Return the same key, and what gives its parts if they are asked for at once."""
        key = self.compute_key(task_ctx=task_ctx, inputs=inputs, flow_parameters=flow_parameters)
        if key is None:
            return None
        name = f"key by {self._expression()}"
        return SeenKey(key, lambda: {name: _text_part(key)})

    def _term(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
    ) -> SeenKey | None:
        """Return what a sum hashes of this policy; as `look` for the rest.

        Any text that only equal calls share, which need not be a hash. Those of policies that have
        no such text of their own begin as no other does.
        """
        seen = self.look(task_ctx, inputs, flow_parameters)
        return None if seen is None else SeenKey(f"={seen.key}", seen.parts)

    def __add__(self, other: object) -> CachePolicy:
        """Return a policy whose key changes when either key does.

        Raises:
            ValueError: the two want different storages, isolation levels or lock managers.
        """
        if not isinstance(other, CachePolicy):
            return NotImplemented
        if other._gives_no_key:
            return self
        return CompoundCachePolicy((self, other))

    def __sub__(self, other: object) -> CachePolicy:
        """Return a policy over the inputs without this one; itself if it looks at none."""
        return self if isinstance(other, str) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CachePolicy) or type(self) is not type(other):
            return NotImplemented
        return _attributes(self) == _attributes(other)

    def __hash__(self) -> int:
        return hash(type(self))  # attributes need not have one, and policies are few

    def __repr__(self) -> str:
        expression = self._expression()
        options = {name: getattr(self, name) for name in _OPTIONS}
        given = ", ".join(f"{n}={value!r}" for n, value in options.items() if value is not None)
        return f"({expression}).configure({given})" if given else expression

    def _expression(self) -> str:
        own = {name: value for name, value in vars(self).items() if name not in _OPTIONS}
        values = ", ".join(f"{name}={value!r}" for name, value in own.items())
        return f"{type(self).__name__}({values})"

    _gives_no_key: ClassVar[bool] = False

    def _joined_with(self, other: CachePolicy) -> CachePolicy | None:
        """Return the one policy that stands for both in a sum; None if they stay apart."""
        return self if self == other else None


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class OptionsOfPolicy(CachePolicy):
    """Base of the policies here: takes the options when it is made, too."""

    key_storage: Any = dataclasses.field(default=None, kw_only=True)
    isolation_level: Any = dataclasses.field(default=None, kw_only=True)
    lock_manager: Any = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CacheKeyFnPolicy(OptionsOfPolicy):
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
        name = getattr(self.cache_key_fn, "__qualname__", type(self.cache_key_fn).__qualname__)
        return f"CacheKeyFnPolicy({name})"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class CompoundCachePolicy(OptionsOfPolicy):
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
        kept: list[CachePolicy] = []
        for part in (each for policy in given for each in _parts(policy)):
            for place, other in enumerate(kept):
                joined = other._joined_with(part)
                if joined is not None:
                    kept[place] = joined
                    break
            else:
                kept.append(part)
        object.__setattr__(self, "policies", tuple(kept))
        uses = any(policy.uses_flow_parameters for policy in kept)
        object.__setattr__(self, "uses_flow_parameters", uses)

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,  # noqa: ARG002  (part of the interface)
    ) -> str | None:
        """Hash what the parts look at; those that give None do not count."""
        seen = self.look(task_ctx, inputs, flow_parameters)
        return None if seen is None else seen.key

    def look(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
    ) -> SeenKey | None:
        """Return the key, and what gives the parts of all its parts."""
        counted: list[SeenKey] = []
        for policy in self.policies:
            term = policy._term(task_ctx, inputs, flow_parameters)
            if term is not None:
                counted.append(term)
        if not counted:
            return None

        def joint_parts() -> Mapping[str, KeyPart]:
            parts: dict[str, KeyPart] = {}
            for name, part in (item for term in counted for item in term.parts().items()):
                parts[_free_name(name, part, parts)] = part
            return parts

        return SeenKey(_joint_key([term.key for term in counted]), joint_parts)

    def __sub__(self, other: object) -> CachePolicy:
        """Return the sum of its parts, each without this input."""
        if not isinstance(other, str):
            return NotImplemented
        return dataclasses.replace(self, policies=tuple(part - other for part in self.policies))

    def _expression(self) -> str:
        whole = [policy._expression() for policy in self.policies]
        terms, left_out = [], []
        for expression, policy in zip(whole, self.policies, strict=True):
            names = [repr(name) for name in getattr(policy, "exclude", ())]
            terms.append(expression.removesuffix("".join(f" - {name}" for name in names)))
            left_out += names
        return " - ".join([" + ".join(terms) or "NONE", *left_out])


def _joint_key(terms: list[str]) -> str:
    # Text is quicker to hash; where a line cannot be told from a term, it is the list.
    text = "\n".join(terms)
    is_plain = text.count("\n") == len(terms) - 1
    return text_hash(text) if is_plain else stable_hash(terms)


def _free_name(name: str, part: KeyPart, taken: Mapping[str, KeyPart]) -> str:
    """Return a name for a part; two policies of a kind may each have one of that name."""
    number, free = 1, name
    while taken.get(free, part) != part:
        number += 1
        free = f"{name} #{number}"
    return free


@functools.lru_cache(maxsize=256)
def _text_part(text: str) -> KeyPart:
    return KeyPart(stable_hash(text), cut(text))


def _attributes(policy: CachePolicy) -> dict[str, Any]:
    return {**{option: getattr(policy, option) for option in _OPTIONS}, **vars(policy)}


def _with_options(policy: Any, options: tuple[Any, ...], *, anew: bool = False) -> Any:
    changed = copy.copy(policy)
    for name, value in zip(_OPTIONS, options, strict=True):
        if anew or value is not None:
            object.__setattr__(changed, name, value)  # nobody else has this copy yet
    return changed


def _parts(policy: CachePolicy) -> Iterable[CachePolicy]:
    if isinstance(policy, CompoundCachePolicy):
        return policy.policies
    if policy._gives_no_key:
        return ()
    return (_with_options(policy, (None, None, None), anew=True),)


def _agree(option: str, one: Any, other: Any) -> bool:
    if option == "isolation_level":  # a member, or its name in any case
        one, other = (str(getattr(each, "name", each)).upper() for each in (one, other))
    return bool(one == other)


def _one_wish(option: str, policies: Iterable[CachePolicy]) -> Any:
    chosen: Any = None
    for policy in policies:
        wish = getattr(policy, option)
        if chosen is not None and wish is not None and not _agree(option, wish, chosen):
            raise ValueError(
                f"cache policies with different {option}s cannot be added: "
                f"{reprlib.repr(chosen)} and {reprlib.repr(wish)}"
            )
        chosen = wish if chosen is None else chosen
    return chosen
