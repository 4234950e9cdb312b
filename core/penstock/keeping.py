"""What a task wants done with its results: kept or not, where, under which key, for how long."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import string
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.cache_policies import DEFAULT, NO_CACHE, CachePolicy
from penstock.cache_policy import SeenKey
from penstock.exceptions import DefinitionError, NameTemplateError
from penstock.filesystems import filesystem_of
from penstock.key_parts import KeyPart, KeyParts, cut
from penstock.results import ResultStore
from penstock.serializers import serializer_named
from penstock.storage_choice import store_of
from penstock.tracebacks import warn_caller
from penstock.transactions import IsolationLevel, choice_of

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Collection, Mapping

    from penstock.settings import Settings

__all__ = [
    "Keeping",
    "TaskRunView",
    "check_storage",
    "check_template",
    "keeping_of",
    "policy_of",
]

_NAMES_IN_KEYS = ("parameters", "task_run", "flow_run")
_STORAGE_OPTIONS = ("result_storage", "result_serializer", "result_storage_key")


class TaskRunView(NamedTuple):
    """What a cache policy, or a `cache_key_fn`, is told about a run."""

    task: Any
    task_run: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Keeping:
    """What becomes of the results of a task's runs; there is none for a task that keeps nothing."""

    policy: CachePolicy
    store: ResultStore
    is_written: bool
    """Whether results are stored; otherwise there are hooks only."""
    is_cached: bool
    """Whether caching was asked for, and not only that results are stored."""
    key_template: str | None
    expiration: datetime.timedelta | None
    refresh: bool
    """Run in any case, and replace what is stored."""
    isolation: IsolationLevel | None
    in_memory: bool
    """Whether the value stays in the state, once it is stored."""
    on_commit: tuple[Callable[..., Any], ...]
    on_rollback: tuple[Callable[..., Any], ...]

    def key_of(self, run: Any) -> SeenKey | None:
        """Return the key of a run's result, and what gives its parts; None if it is the run's own.

        Raises:
            UnhashableInputError: an argument has no stable hash.
            NameTemplateError: the template cannot be filled in.
            Exception: whatever a policy of the user's raises.
        """
        template, flow_run = self.key_template, run.flow_run
        if template is not None:
            key = _filled_in(template, run)
            return SeenKey(key, lambda: {"result_storage_key": KeyPart(key, cut(key))})
        policy = self.policy
        if policy is NO_CACHE:
            return None
        is_told = policy.uses_flow_parameters
        parameters = flow_run.parameters if is_told and flow_run is not None else {}
        task, inputs = run.plan.subject, run.parameters
        if bound := task.bound_to():
            inputs = {**bound, **inputs}
        return policy.look(TaskRunView(task, run), inputs, parameters)

    def parts_of(self, seen: SeenKey) -> KeyParts:
        """Return a key with what it was made of."""
        by_policy = self.key_template is None
        return self.policy.with_parts(seen) if by_policy else KeyParts(seen.key, seen.parts())

    def stored_parts(self, seen: SeenKey) -> Mapping[str, Any]:
        """Return what a key was made of, as it is stored beside the result."""
        parts: Mapping[str, Any] = self.parts_of(seen).as_json()["parts"]
        return parts


def _filled_in(template: str, run: Any) -> str:
    flow_run = run.flow_run
    around = {} if flow_run is None else {"flow_run": flow_run}
    try:
        key = template.format(parameters=run.parameters, task_run=run, **around)
    except Exception as error:
        missing = ", as there is no flow run around it" if flow_run is None else ""
        raise NameTemplateError(
            f"result_storage_key {template!r} of task {run.plan.name!r} cannot be filled in"
            f"{missing}: {type(error).__name__}: {error}. It may ask for parameters[...], "
            "task_run.name and flow_run.flow_name, and what else such a run has"
        ) from error
    if not key:
        raise NameTemplateError(f"result_storage_key {template!r} gives an empty key")
    return key


def check_template(template: Any, owner: str) -> None:
    """Refuse a `result_storage_key` that could never be filled in.

    Raises:
        DefinitionError: it asks for something that there is not, or is no template.
    """
    if template is None:
        return
    if not isinstance(template, str) or not template:
        raise DefinitionError(f"{owner}: result_storage_key is a template, not {template!r}")
    try:
        fields = [
            field for _, field, _, _ in string.Formatter().parse(template) if field is not None
        ]
    except ValueError as error:
        raise NameTemplateError(f"{owner}: result_storage_key {template!r}: {error}") from None
    for field in fields:
        first = re.split(r"[.\[]", field, maxsplit=1)[0]
        if first not in _NAMES_IN_KEYS:
            raise NameTemplateError(
                f"{owner}: result_storage_key {template!r} asks for {first!r}; there are "
                f"{', '.join(_NAMES_IN_KEYS)}, such as in parameters[name] and flow_run.flow_name"
            )


def policy_of(options: Mapping[str, Any], owner: str) -> CachePolicy | None:
    """Return the cache policy that a task asks for; None if it says nothing.

    Raises:
        DefinitionError: it is no policy, or its function cannot be called.
    """
    policy: Any = options.get("cache_policy")
    key_fn: Callable[..., Any] | None = options.get("cache_key_fn")
    if policy is not None and not isinstance(policy, CachePolicy):
        is_class = isinstance(policy, type) and issubclass(policy, CachePolicy)
        advice = f"; make one of it: {policy.__name__}()" if is_class else ""
        raise DefinitionError(f"{owner}: cache_policy is a CachePolicy, not {policy!r}{advice}")
    if not (key_fn is None or callable(key_fn)):
        raise DefinitionError(f"{owner}: cache_key_fn is a function, not {key_fn!r}")
    if key_fn is not None:
        if policy is not None:
            warn_caller(f"{owner} has both cache_policy and cache_key_fn: the function counts")
        made: CachePolicy = CachePolicy.from_cache_key_fn(key_fn)
        return made
    if options.get("result_storage_key") is not None:
        if policy not in (None, NO_CACHE):
            warn_caller(f"{owner} has both cache_policy and result_storage_key: the key counts")
        return NO_CACHE
    found: CachePolicy | None = policy
    if found is not None and options.get("persist_result") is False:
        warn_caller(
            f"{owner} has a cache_policy and persist_result=False, so nothing is cached; leave "
            "persist_result out"
        )
    return found


def check_storage(options: Mapping[str, Any], owner: str) -> None:
    """Refuse options for results that could never be used. A serializer may yet get its name.

    Raises:
        DefinitionError: one of them, or of those of the policy, is of another kind.
    """
    policy: Any = options.get("cache_policy")
    places = {"result_storage": options.get("result_storage")}
    if isinstance(policy, CachePolicy):
        places["the key_storage of its cache_policy"] = policy.key_storage
        _checked_wishes(policy, owner)
    for option, place in places.items():
        if place is None or isinstance(place, ResultStore):
            continue
        try:
            filesystem_of(place)
        except TypeError as error:
            raise DefinitionError(f"{owner}: {option}: {error}") from None
    serializer = options.get("result_serializer")
    if serializer is not None and not isinstance(serializer, str):
        try:
            serializer_named(serializer)
        except TypeError as error:
            raise DefinitionError(f"{owner}: result_serializer: {error}") from None


def _checked_wishes(policy: CachePolicy, owner: str) -> None:
    try:
        choice_of(IsolationLevel, policy.isolation_level, "the isolation_level of its cache_policy")
    except DefinitionError as error:
        raise DefinitionError(f"{owner}: {error}") from None
    locks = policy.lock_manager
    if not (locks is None or callable(getattr(locks, "acquire_lock", None))):
        raise DefinitionError(
            f"{owner}: the lock_manager of its cache_policy is a penstock.locking.LockManager, "
            f"not {locks!r}"
        )


def keeping_of(
    options: Mapping[str, Any],
    policy: CachePolicy | None,
    flow_options: Mapping[str, Any],
    defaults: Settings,
    expiration: datetime.timedelta | None,
    hooks: Mapping[str, list[Callable[..., Any]]],
    names: Collection[str],
) -> Keeping | None:
    """Settle what is done with the results of a task in one flow run, or None for nothing.

    Args:
        options: of the task.
        policy: its cache policy.
        flow_options: of the flow around it, which are the defaults for storage.
        defaults: the settings.
        expiration: for how long a stored result is used.
        hooks: of its commit and its rollback.
        names: the task's own and its tags, by which it may be told to make its results anew.
    """
    if defaults.tasks_disable_caching:
        policy = NO_CACHE
    persists = options.get("persist_result")
    if persists is None:
        asks = (
            policy not in (None, NO_CACHE)
            or options.get("result_on") == "storage"
            or any(options.get(name) is not None for name in _STORAGE_OPTIONS)
        )
        persists = asks or flow_options.get("persist_result")
        if persists is None:
            persists = defaults.results_persist_by_default
    on_commit, on_rollback = tuple(hooks["on_commit"]), tuple(hooks["on_rollback"])
    if not persists and not on_commit and not on_rollback:
        return None
    is_asked_for = policy is not None
    if policy is None:
        policy = NO_CACHE if defaults.tasks_default_no_cache else DEFAULT
    refresh = options.get("refresh_cache")
    if refresh is None:
        refresh = defaults.tasks_refresh_cache or any(
            fnmatch.fnmatchcase(name, pattern)
            for pattern in defaults.tasks_refresh
            for name in names
        )
    in_memory = options.get("cache_result_in_memory")
    return Keeping(
        policy=policy if persists else NO_CACHE,
        store=_store_for(options, flow_options, policy, defaults),
        is_written=bool(persists),
        is_cached=is_asked_for,
        key_template=options.get("result_storage_key"),
        expiration=expiration,
        refresh=bool(refresh),
        isolation=choice_of(IsolationLevel, policy.isolation_level, "isolation_level"),
        in_memory=in_memory is None or bool(in_memory),
        on_commit=on_commit,
        on_rollback=on_rollback,
    )


def _store_for(
    options: Mapping[str, Any],
    flow_options: Mapping[str, Any],
    policy: CachePolicy,
    defaults: Settings,
) -> ResultStore:
    def given(name: str) -> Any:
        own = options.get(name)
        return flow_options.get(name) if own is None else own

    storage = policy.key_storage if policy.key_storage is not None else given("result_storage")
    store = store_of(storage, given("result_serializer"), defaults)
    if policy.lock_manager is None or policy.lock_manager is store.lock_manager:
        return store
    return store.with_lock_manager(policy.lock_manager)
