"""Tasks: functions whose calls are runs."""

from __future__ import annotations

import functools
import inspect
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from penstock import names, settings
from penstock.cache_policies import task_input_hash
from penstock.engine.arguments import prerequisites
from penstock.engine.async_direct import drive_async
from penstock.engine.direct import drive
from penstock.engine.execution import is_plain
from penstock.engine.limits import Owner, TaskLimit
from penstock.engine.rates import Rate
from penstock.engine.streams import is_found, iterate, iterate_async
from penstock.engine.task_run import task_run
from penstock.exceptions import (
    DefinitionError,
    NotSupportedError,
)
from penstock.explained import explained
from penstock.futures import PenstockFuture, PenstockFutureList
from penstock.hooks import adapt_retry_condition, adapt_transaction_hook, as_callables
from penstock.keeping import check_storage, check_template, keeping_of, policy_of
from penstock.mapping import map_runs
from penstock.options import (
    RESULT_PLACES,
    RETAINED,
    OnError,
    TaskOptions,
    checked_choice,
    checked_count,
    checked_expiration,
    checked_integer,
    checked_limit,
    checked_rate,
    checked_resources,
    checked_tags,
    checked_timeout,
    checked_variables,
    checked_workers,
    is_hard,
)
from penstock.retries import RetryPolicy, exponential_backoff
from penstock.run_making import RunMaking, log_creation
from penstock.runner_choice import handle_for
from penstock.runs import FlowRun, Plan
from penstock.source_hashing import source_hash
from penstock.states import State, StateType

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from datetime import timedelta
    from typing import Self

    from penstock.definitions import HookFunction
    from penstock.engine.dispatch import RunnerHandle
    from penstock.engine.driver import Engine
    from penstock.explaining import Explanation
    from penstock.runs import Run

__all__ = ["Task", "exponential_backoff", "task", "task_input_hash"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Task(RunMaking[P, R_co]):
    """A function whose calls are recorded, retried, timed, and may run elsewhere.

    Make one with the decorator `task`. A task belongs to no flow: where it is called decides.
    """

    kind: ClassVar[Literal["task", "flow"]] = "task"
    _option_names: ClassVar[type] = TaskOptions

    def __init__(self, fn: Callable[P, R_co], **options: Unpack[TaskOptions]) -> None:
        super().__init__(fn, options)

    # --- definition --------------------------------------------------------------------

    def _settle_names(self) -> None:
        given = self.options.get("name")
        self.name: str = (
            names.task_name_of(self.fn) if given is None else names.check_name(given, "task")
        )
        self.description: str | None = self.options.get("description") or _docstring(self.fn)

    def _check_options(self) -> None:
        owner, get = f"task {self.name!r}", self.options.get
        self.tags: frozenset[str] = checked_tags(get("tags"), owner)
        self.timeout_seconds: float | None = checked_timeout(get("timeout_seconds"), owner)
        self.priority: int = checked_integer(get("priority"), "priority", owner)
        self.resources: dict[str, float] = checked_resources(get("resources"), owner)
        self._max_concurrency = checked_limit(get("max_concurrency"), "max_concurrency", owner)
        self._starts_per_second = checked_rate(get("rate_limit"), owner)
        self._workers = checked_workers(get("workers"), owner)
        self._propagate = checked_variables(get("propagate"), owner)
        self._result_on = checked_choice(get("result_on"), "result_on", RESULT_PLACES, owner)
        self._retain = checked_choice(get("retain"), "retain", RETAINED, owner)
        if self._result_on == "storage" and get("persist_result") is False:
            raise DefinitionError(
                f"{owner}: result_on='storage' and persist_result=False contradict each other"
            )
        self._is_hard_limit = is_hard(get("timeout"), owner)
        if get("crash_retries") is not None:
            checked_count(get("crash_retries"), "crash_retries", owner)
        self._retry_policy(settings.Settings())  # an impossible option is refused here
        self.cache_expiration: timedelta | None = checked_expiration(get("cache_expiration"), owner)
        check_template(get("result_storage_key"), owner)
        check_storage(self.options, owner)
        self._policy = policy_of(self.options, owner)
        self.transaction_hooks: dict[str, list[Callable[..., Any]]] = {
            option: [
                adapt_transaction_hook(hook, option=option)
                for hook in as_callables(get(option), option)
            ]
            for option in ("on_commit", "on_rollback")
        }
        condition = get("retry_condition_fn")
        self._retry_condition = None if condition is None else adapt_retry_condition(condition)
        self._run_name = self._compiled_run_name(get("task_run_name"), owner)

    @functools.cached_property
    def task_key(self) -> str:
        """Identifies the task: its name, its function's qualified name, its tags (row 039)."""
        qualified = f"{self.fn.__module__}.{self._qualified_name()}"
        return names.task_key(self.name, qualified, self.tags)

    def __stable_hash__(self) -> tuple[Any, ...]:
        """Be known, as an argument in a cache key, by its own key and as a function is."""
        return self.kind, self.task_key, self.fn

    def _hooks_by_option(self) -> dict[str, Any]:
        hooks = {option: list(given) for option, given in self.transaction_hooks.items() if given}
        return {**super()._hooks_by_option(), **hooks}

    def _source_version(self) -> str | None:
        return source_hash(self.fn)

    def _retry_policy(self, defaults: settings.Settings) -> RetryPolicy:
        get = self.options.get
        retries, delay = get("retries"), get("retry_delay_seconds")
        return RetryPolicy.of(
            defaults.tasks_default_retries if retries is None else retries,
            list(defaults.tasks_default_retry_delay_seconds) if delay is None else delay,
            get("retry_jitter_factor"),
            get("max_retry_delay_seconds"),
            f"task {self.name!r}",
        )

    def plan(
        self,
        defaults: settings.Settings,
        flow_run: FlowRun | None,
        engine: Engine,
        tags: frozenset[str],
    ) -> Plan:
        """Settle all options for the runs of one flow run."""
        get = self.options.get
        log_prints = get("log_prints")
        if log_prints is None:
            log_prints = (
                flow_run.plan.log_prints if flow_run is not None else defaults.logging_log_prints
            )
        crash_retries = get("crash_retries")
        timeout = self.timeout_seconds
        if "timeout_seconds" not in self.options:
            timeout = defaults.tasks_default_timeout_seconds
        all_tags = self.tags | tags | (flow_run.tags if flow_run is not None else frozenset())
        runner = handle_for(self.options.get("task_runner"), flow_run, engine)
        limits: tuple[Any, ...] = engine.dispatcher.admission.limits.limited(all_tags)
        if self._max_concurrency is not None:
            own = TaskLimit(self._max_concurrency, Owner(self.fn))
            engine.dispatcher.admission.limits.add(own)
            limits += (own,)
        per_second = self._starts_per_second
        rate = None if per_second is None else Rate(per_second, Owner(self.fn))
        keeping = keeping_of(
            self.options,
            self._policy,
            getattr(getattr(flow_run, "flow", None), "options", {}),
            defaults,
            self.cache_expiration,
            self.transaction_hooks,
            {self.name, *all_tags},
        )
        return Plan(
            subject=self,
            name=self.name,
            tags=all_tags,
            retries=self._retry_policy(defaults),
            crash_retries=defaults.tasks_crash_retries if crash_retries is None else crash_retries,
            timeout_seconds=timeout,
            log_prints=log_prints,
            hooks=self._hooks,
            handlers=self._handlers,
            run_name=self._run_name,
            retry_condition=self._retry_condition,
            is_async=self.is_async,
            is_generator=self.is_generator,
            is_plain=is_plain(runner.capabilities, log_prints=log_prints, is_async=self.is_async),
            runner=runner,
            limits=limits,
            rate=rate,
            is_held=bool(limits or rate is not None or self.resources),
            propagate=self._propagate + (() if flow_run is None else flow_run.plan.propagate),
            resources=self.resources,
            workers=self._workers,
            result_on=self._result_on,
            drops_results=self._retain == "states",
            refusal=self._refusal_by(runner, engine),
            keeping=keeping,
        )

    def _refusal_by(self, runner: RunnerHandle, engine: Engine) -> str:
        """Return what a runner cannot do of what is asked for, or an empty string."""
        can = runner.capabilities
        if self._is_hard_limit and can.kill != "hard":
            return (
                'timeout="hard" needs a runner that can kill what runs, and this one cannot: '
                'use "process"'
            )
        if self._workers and not can.names_workers:
            return "workers= needs a runner that tells its workers apart, as dask does"
        if self.resources:
            return engine.cannot_offer(runner, self.resources)
        return ""

    # --- calls -------------------------------------------------------------------------

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Task[Any, Coroutine[Any, Any, T]],
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[R_co]: ...
    @overload
    def __call__(
        self,
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        **kwargs: Any,
    ) -> R_co: ...
    def __call__(  # type: ignore[misc]  # a P with the reserved names is refused at definition
        self, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Run the task here and now, in the calling thread, and return what the function returns.

        Args:
            *args: for the function. Futures among them are waited for.
            return_state: return the final state instead, and raise nothing for a failure.
            wait_for: futures that must be over first.
            **kwargs: for the function.

        Raises:
            TypeError: the function cannot be called like this; no run has begun.
            BaseException: whatever the function raised in its last attempt, untouched.
        """
        self._check_call(return_state)
        run = self._new_run(self._place(), args, kwargs, prerequisites(wait_for))
        run.seen = True  # its failure is raised, or returned, to the caller
        run.life = task_run(run, run.engine.rng)
        log_creation(run, "Executing %r immediately...")
        if self.is_generator:
            return iterate_async(run) if self.is_async else _closing(run)
        if self.is_async:
            return _awaited(run, return_state=return_state)
        state = drive(run)
        return state if return_state else outcome_of(run, state)

    @overload
    def submit(  # type: ignore[overload-overlap]  # return_state is no name that P has
        self: Task[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> PenstockFuture[T]: ...
    @overload
    def submit(  # type: ignore[overload-overlap]  # return_state is no name that P has
        self: Task[P, Generator[T, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> PenstockFuture[list[T]]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> PenstockFuture[R_co]: ...
    @overload
    def submit(
        self: Task[Any, Coroutine[Any, Any, T]],
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        **kwargs: Any,
    ) -> PenstockFuture[T]: ...
    @overload
    def submit(
        self, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[R_co]: ...
    @overload
    def submit(
        self,
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        **kwargs: Any,
    ) -> PenstockFuture[R_co]: ...
    def submit(  # type: ignore[misc]  # a P with the reserved names is refused at definition
        self, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Hand the task to the task runner, and return a future at once.

        Args:
            *args: for the function; the run starts when the futures among them have their values.
            return_state: wait, and return the final state instead of a future.
            wait_for: futures that must be over first, and have ended well, but for those in
                `allow_failure(...)`.
            **kwargs: for the function.

        Raises:
            TypeError: the function cannot be called like this; no run has begun.
        """
        future: PenstockFuture[Any] = PenstockFuture(self.submit_run(args, kwargs, wait_for))
        if return_state:
            future.wait()
            return future.state
        return future

    @overload
    def map(
        self: Task[Any, Coroutine[Any, Any, T]],
        *args: Any,
        wait_for: Any = None,
        on_error: OnError = "continue",
        max_in_flight: int | None = None,
        chunk: int | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> PenstockFutureList[T]: ...
    @overload
    def map(
        self,
        *args: Any,
        wait_for: Any = None,
        on_error: OnError = "continue",
        max_in_flight: int | None = None,
        chunk: int | Literal["auto"] = "auto",
        **kwargs: Any,
    ) -> PenstockFutureList[R_co]: ...
    def map(
        self,
        *args: Any,
        wait_for: Any = None,
        on_error: OnError = "continue",
        max_in_flight: int | None = None,
        chunk: int | Literal["auto"] = "auto",
        return_state: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Submit the task once for each item of the iterables, and return a list of futures.

        Every list, tuple, set, range, dict (its keys), future or list of futures is mapped over,
        item by item; strings, bytes, `unmapped(x)` and all other values go to every run whole.
        Mapping over futures never blocks. An iterator (a generator, say) is pulled as its futures
        are consumed, at most `max_in_flight` ahead: it may be endless.

        Args:
            *args: iterables of equal length, and values for every run.
            wait_for: futures that must be over first.
            on_error: what a failed item does to the others: ``continue``; ``finish_running``
                cancels those that have not begun; ``fail_fast`` stops those that run, too.
            max_in_flight: how many items of an iterator to run ahead of the consumer; four for
                each slot of the runner by default.
            chunk: how many items to send to a worker elsewhere together; by default as many as
                make the sending cheap. Each item has its own states, retries and log lines.
            return_state: wait, and return a list of final states.
            **kwargs: as `args`.

        Raises:
            MappingLengthMismatch: iterables of unequal lengths.
            MappingMissingIterable: nothing to map over.
        """
        futures = map_runs(self, args, kwargs, wait_for, on_error, max_in_flight, chunk)
        if return_state:
            futures.wait()
            return [future.state for future in futures]
        return futures

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Say whether such a call, here and now, would run or be served from the cache, and why.

        Nothing is run. The reasons are what differs from the nearest earlier result of this task,
        what expired, or which run made the result that would be taken; as text it all reads well.

        Args:
            *args: as for the call. Futures among them are waited for.
            **kwargs: as for the call.

        Raises:
            TypeError: the function cannot be called like this.
            UnhashableInputError: an argument has no stable hash.
            BaseException: what a future among the arguments ended with.

        Example:
            >>> print(train.explain(lr=0.2))  # doctest: +SKIP
            task 'train' would run: input 'lr' changed 0.1 to 0.2; helper clean() changed
        """
        return explained(self._bare_run(self._place(), args, kwargs))

    # --- other forms -------------------------------------------------------------------

    def with_options(self, **options: Unpack[TaskOptions]) -> Self:
        """Return a copy of the task with some options changed; None clears one."""
        return self._changed(options)

    def on_commit(self, fn: HookFunction) -> HookFunction:
        """Call `fn(transaction)` when a result is committed. A decorator."""
        self.transaction_hooks["on_commit"].append(adapt_transaction_hook(fn, option="on_commit"))
        return fn

    def on_rollback(self, fn: HookFunction) -> HookFunction:
        """Call `fn(transaction)` when its transaction is rolled back. A decorator."""
        self.transaction_hooks["on_rollback"].append(
            adapt_transaction_hook(fn, option="on_rollback")
        )
        return fn

    def serve(self, *_: Any, **__: Any) -> Any:
        """Not available: needs a server. Raises `NotSupportedError`."""
        raise _needs_server("task.serve()", "submit the task from a flow")

    def delay(self, *_: Any, **__: Any) -> Any:
        """Not available: needs a server. Raises `NotSupportedError`."""
        raise _needs_server("task.delay()", "use task.submit(), which returns a future")

    def apply_async(self, *_: Any, **__: Any) -> Any:
        """Not available: needs a server. Raises `NotSupportedError`."""
        raise _needs_server("task.apply_async()", "use task.submit(), which returns a future")

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"


def outcome_of(run: Run, state: State[Any]) -> Any:
    """Return the value of a run that was called directly, or raise why there is none."""
    if run.interrupt is not None:
        raise run.interrupt
    if state.type is StateType.COMPLETED:
        value = state.value()
        flow_run = run.flow_run
        if value is not None and flow_run is not None and flow_run.ledger is not None:
            flow_run.ledger.note_result(value, run)
        return value
    error = state.exception()
    assert error is not None
    raise error


async def _awaited(run: Run, *, return_state: bool) -> Any:
    state = await drive_async(run)
    return state if return_state else outcome_of(run, state)


def _closing(run: Run) -> Generator[Any, Any, Any]:
    """Drive a generator run, and raise its failure where the caller's loop stands."""
    state = yield from iterate(run)
    return None if is_found(state) else outcome_of(run, state)


def _docstring(fn: Any) -> str | None:
    return inspect.getdoc(fn)


def _needs_server(what: str, instead: str) -> NotSupportedError:
    return NotSupportedError(f"{what} needs a server, and Penstock has none; {instead}")


@overload
def task(fn: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Task[P, R]: ...
@overload
def task(
    fn: None = None, /, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make a task of a function. Works bare, called, and with options; see `TaskOptions`.

    Example:
        >>> @task(retries=2, retry_delay_seconds=[1, 10])
        ... def fetch(url: str) -> bytes: ...
    """
    if fn is None:
        return functools.partial(Task, **options)
    return Task(fn, **options)
