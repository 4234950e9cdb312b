"""What a task and a flow have in common: a function, its options, its hooks, its binding."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import types
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec, TypeVar, cast

from penstock.by_value import is_by_value
from penstock.engine.arguments import compile_binder
from penstock.exceptions import DefinitionError, ReservedArgumentError
from penstock.hooks import adapt_hook, adapt_state_handler, as_callables
from penstock.names import RunName, compile_run_name
from penstock.options import HOOK_OPTIONS, checked_options
from penstock.worker.packing import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from penstock.runs import Run
    from penstock.states import StateType

__all__ = ["Definition"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
HookFunction = TypeVar("HookFunction", bound="Callable[..., Any]")

RESERVED = ("return_state", "wait_for")


class Definition(Generic[P, R_co]):
    """A function with options. `Task` and `Flow` say what calling it means.

    Attributes:
        fn: the function itself; call it to run the bare function.
        name: the name, given or taken from the function.
        description: the text given, or the function's docstring.
    """

    kind: ClassVar[Literal["task", "flow"]]
    _option_names: ClassVar[type]
    _run_name: RunName | None

    def __init__(self, fn: Callable[P, R_co], options: Mapping[str, Any]) -> None:
        owner = f"@{self.kind}"
        self.options: dict[str, Any] = checked_options(options, self._option_names, owner)
        self._descriptor: Any = None
        if isinstance(fn, (classmethod, staticmethod)):
            self._descriptor = fn
            fn = fn.__func__
        if not callable(fn):
            raise DefinitionError(
                f"{owner} goes above a function, or takes one as its first argument, not {fn!r}"
            )
        self.fn: Callable[P, R_co] = fn
        self._instance: Any = _NOT_BOUND
        self._unbound: Self | None = None
        functools.update_wrapper(cast("Any", self), cast("Any", fn), updated=())
        self._settle_names()
        self._look_at_function()
        self._hooks: dict[StateType, list[Callable[..., Any]]] = {}
        for option, state_type in HOOK_OPTIONS.items():
            for hook in as_callables(self.options.get(option), option):
                self._add_hook(option, state_type, hook)
        self._handlers = [
            adapt_state_handler(handler, subject=self.kind)
            for handler in as_callables(self.options.get("state_handlers"), "state_handlers")
        ]
        self._check_options()

    # --- what subclasses say -----------------------------------------------------------

    def _settle_names(self) -> None:
        """Set `name` and `description`."""
        raise NotImplementedError

    def _check_options(self) -> None:
        """Refuse what could never work, at definition."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Give an option that has no attribute of its own as it was set; None if it was not."""
        if name.startswith("_") or name not in type(self)._option_names.__annotations__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.options.get(name)

    @functools.cached_property
    def version(self) -> str | None:
        """The version given, or a hash of the source."""
        given = self.options.get("version")
        return str(given) if given is not None else self._source_version()

    def _source_version(self) -> str | None:
        """Return a hash of the source, as far as there is any."""
        raise NotImplementedError

    # --- the function ------------------------------------------------------------------

    def _look_at_function(self) -> None:
        fn: Any = self.fn
        underlying = fn.func if isinstance(fn, functools.partial) else fn
        if not inspect.isroutine(underlying) and callable(type(underlying)):
            underlying = type(underlying).__call__  # a callable object: look at its method
        self.is_async: bool = inspect.iscoroutinefunction(underlying) or inspect.isasyncgenfunction(
            underlying
        )
        self.is_generator: bool = inspect.isgeneratorfunction(
            underlying
        ) or inspect.isasyncgenfunction(underlying)
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError):  # some builtins do not say
            signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
        for name in RESERVED:
            if name in signature.parameters:
                raise ReservedArgumentError(
                    f"{self.kind} {self.name!r} takes an argument {name!r}, which is an option of "
                    "the call itself; give the argument another name"
                )
        self.signature: inspect.Signature = signature
        self._method_signature: inspect.Signature = signature
        self._binder = compile_binder(signature, getattr(fn, "__name__", self.name))
        self._method_binder: Callable[..., dict[str, Any]] | None = None

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, defaults included.

        Raises:
            TypeError: the function cannot be called like this.
        """
        return self._binder(*args, **kwargs)

    def bound_to(self) -> dict[str, Any]:
        """Return what a method is bound to, by the name it has in the function."""
        if self._unbound is None:
            return {}
        (name,) = itertools.islice(self._unbound.signature.parameters, 1)
        return {name: self._instance}

    def _check_call(self, return_state: bool) -> None:
        """Refuse to give the state of a run that begins when the caller's loop does."""
        if return_state and self.is_generator:
            raise TypeError(
                f"{self.kind} {self.name!r} is a generator, run by going through it: there is no "
                "final state to return when it is called; for that use .submit(...)"
            )

    def carried(self, run: Run) -> Callable[..., Any]:
        """Return what a worker calls for an attempt of this run."""
        del run
        return self.fn

    def _compiled_run_name(self, template: Any, owner: str) -> RunName | None:
        """Return what names a run from its parameters; those of `**` count one by one."""
        if template is None:
            return None
        kinds = {name: parameter.kind for name, parameter in self.signature.parameters.items()}
        rest = next((name for name, kind in kinds.items() if kind.name == "VAR_KEYWORD"), None)
        run_name = compile_run_name(template, list(kinds), rest is not None, owner)
        if rest is None:
            return run_name
        return lambda parameters: run_name({**parameters.get(rest, {}), **parameters})

    def __copy__(self) -> Self:
        """Return another of the same function and options; `__reduce__` is for other processes."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    # --- to other processes ------------------------------------------------------------

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle by name where another process can import it, else by function and options.

        A copy knows no task runner: in a worker elsewhere its runs happen there.
        """
        if self._unbound is not None:
            return getattr, (self._instance, self.fn.__name__)
        module, name = self.__module__, cast("Any", self).__qualname__
        if not is_by_value(module) and look_up(module, name) is self:
            return cast("str", name)
        options = {**self.options, **self._hooks_by_option()}
        options.pop("task_runner", None)
        return _made_again, (type(self), self._descriptor or self.fn, options)

    def _hooks_by_option(self) -> dict[str, Any]:
        """Return all hooks, those of decorators included."""
        return {
            option: list(self._hooks[state_type])
            for option, state_type in HOOK_OPTIONS.items()
            if state_type in self._hooks
        }

    def __stable_hash__(self) -> tuple[Any, ...]:
        """Be known, as an argument in a cache key, by name and as a function is."""
        return self.kind, self.name, self.fn

    def _qualified_name(self) -> str:
        fn: Any = self.fn
        return str(getattr(fn, "__qualname__", type(fn).__qualname__))

    # --- methods -----------------------------------------------------------------------

    def __get__(self, instance: Any, owner: type | None = None) -> Self:
        """Bind to an instance, as a function in a class does: a copy of its own for each access."""
        if self._descriptor is not None:
            if isinstance(self._descriptor, staticmethod):
                return self
            instance = owner if owner is not None else type(instance)
        elif instance is None:
            return self
        bound = copy.copy(self)
        method: Any = types.MethodType(self.fn, instance)
        bound.fn = method
        if self._method_binder is None:
            parameters = list(self.signature.parameters.values())
            takes_self = parameters and parameters[0].kind in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
            shortened = self.signature.replace(
                parameters=parameters[1:] if takes_self else parameters
            )
            self._method_signature = shortened
            self._method_binder = compile_binder(shortened, getattr(self.fn, "__name__", self.name))
        bound.signature = self._method_signature
        bound._binder = self._method_binder
        bound._instance = instance
        bound._unbound = self
        if (run_name := self._run_name) is not None:  # it may ask for `{self.path}`
            myself = bound.bound_to()
            bound._run_name = lambda parameters: run_name({**myself, **parameters})
        bound._descriptor = None
        return bound

    # --- options -----------------------------------------------------------------------

    def _changed(self, options: Mapping[str, Any]) -> Self:
        """Return a copy with these options changed; hooks added by decorator stay."""
        changes = checked_options(options, self._option_names, f"{self.kind}.with_options()")
        changed = type(self)(self.fn, **{**self.options, **self._hooks_by_option(), **changes})
        if self._instance is not _NOT_BOUND:
            changed._binder = self._binder
            changed._instance = self._instance
        changed._descriptor = self._descriptor
        return changed

    # --- hooks as decorators -----------------------------------------------------------

    def _add_hook(self, option: str, state_type: StateType, hook: Any) -> None:
        adapted = adapt_hook(hook, subject=self.kind, option=option)
        self._hooks.setdefault(state_type, []).append(adapted)

    def on_running(self, fn: HookFunction) -> HookFunction:
        """Call `fn` when an attempt of a run begins. A decorator."""
        self._add_hook("on_running", HOOK_OPTIONS["on_running"], fn)
        return fn

    def on_completion(self, fn: HookFunction) -> HookFunction:
        """Call `fn` when a run has ended well. A decorator.

        As all hooks it takes nothing, `(state)`, `(obj, state)`, `(obj, run, state)`, or any of
        `task`/`flow`, `task_run`/`flow_run`, `state`, `exception` by name; it may be async. What
        it raises is logged, and changes nothing.
        """
        self._add_hook("on_completion", HOOK_OPTIONS["on_completion"], fn)
        return fn

    def on_failure(self, fn: HookFunction) -> HookFunction:
        """Call `fn` when a run has failed for good, after its last retry. A decorator."""
        self._add_hook("on_failure", HOOK_OPTIONS["on_failure"], fn)
        return fn

    def on_cancellation(self, fn: HookFunction) -> HookFunction:
        """Call `fn` when a run was cancelled. A decorator."""
        self._add_hook("on_cancellation", HOOK_OPTIONS["on_cancellation"], fn)
        return fn

    def on_crashed(self, fn: HookFunction) -> HookFunction:
        """Call `fn` when a run was ended by an outside cause. A decorator."""
        self._add_hook("on_crashed", HOOK_OPTIONS["on_crashed"], fn)
        return fn


def _made_again(kind: type[Definition[Any, Any]], fn: Any, options: dict[str, Any]) -> Any:
    return kind(fn, **options)


class _NotBound:
    def __repr__(self) -> str:
        return "not bound"


_NOT_BOUND = _NotBound()
