"""Flows: functions that call tasks, and the run around all of them."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import inspect
import logging
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from penstock import names, settings
from penstock.context import TAGS, current_run, require_flow_run
from penstock.definitions import Definition
from penstock.engine import interrupts
from penstock.engine.arguments import look_through, prerequisites, put_values, tolerated
from penstock.engine.async_direct import drive_async
from penstock.engine.direct import drive
from penstock.engine.driver import Engine
from penstock.engine.flow_run import flow_run as flow_life
from penstock.engine.lineage import Ledger
from penstock.engine.streams import iterate, iterate_async
from penstock.engine.visiting import engine_for
from penstock.exceptions import NotSupportedError
from penstock.futures import PenstockFuture
from penstock.hooks import finish
from penstock.keeping import check_storage
from penstock.logging import configure, prepare_to_log, run_logger
from penstock.options import (
    FlowOptions,
    checked_exit,
    checked_limit,
    checked_tags,
    checked_timeout,
    checked_variables,
)
from penstock.parameters import ParameterCheck
from penstock.retries import RetryPolicy
from penstock.runner_choice import carrier_for, choose, describe, handle_for
from penstock.runs import FlowRun, Plan, made_at
from penstock.states import State, StateType

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Coroutine, Generator, Mapping
    from typing import Self

    from penstock.runs import Run

__all__ = ["Flow", "flow"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_engine_log = logging.getLogger("penstock.engine")
_flow_log = logging.getLogger("penstock.flow_runs")


class Flow(Definition[P, R_co]):
    """A function that calls tasks, under one run with a final state.

    Make one with the decorator `flow`. The flow waits for everything that it submitted. If it
    returns nothing, its final state is made up from the runs inside; a failure that nobody looked
    at fails it.
    """

    kind: ClassVar[Literal["task", "flow"]] = "flow"
    _option_names: ClassVar[type] = FlowOptions

    def __init__(self, fn: Callable[P, R_co], **options: Unpack[FlowOptions]) -> None:
        self._runner_by_call: Any = None
        self._start_at: float | None = None
        super().__init__(fn, options)

    # --- definition --------------------------------------------------------------------

    def _settle_names(self) -> None:
        given = self.options.get("name")
        self.name: str = (
            names.flow_name_of(self.fn) if given is None else names.check_name(given, "flow")
        )
        self.description: str | None = self.options.get("description") or inspect.getdoc(self.fn)

    def _check_options(self) -> None:
        owner, get = f"flow {self.name!r}", self.options.get
        self.tags: frozenset[str] = checked_tags(get("tags"), owner)
        self.timeout_seconds: float | None = checked_timeout(get("timeout_seconds"), owner)
        self._retry_policy(settings.Settings())  # an impossible option is refused here
        self._propagate = checked_variables(get("propagate"), owner)
        for tag, limit in (get("tag_limits") or {}).items():
            checked_limit(limit, f"the limit of tag {tag!r}", owner)
        self._on_exit: Literal["wait", "cancel"] = checked_exit(get("on_exit"), owner)
        check_storage(self.options, owner)
        self._run_name = self._compiled_run_name(get("flow_run_name"), owner)
        checks = get("validate_parameters")
        self._check = ParameterCheck(self.fn, self.signature, self.name)
        self._checks_parameters = checks is None or bool(checks)

    def _source_version(self) -> str | None:
        try:
            path = inspect.getsourcefile(inspect.unwrap(self.fn))
            source = Path(path).read_bytes() if path else None
        except (TypeError, OSError):  # typed at a prompt
            source = None
        return None if source is None else hashlib.blake2b(source, digest_size=16).hexdigest()

    def _retry_policy(self, defaults: settings.Settings) -> RetryPolicy:
        get = self.options.get
        retries, delay = get("retries"), get("retry_delay_seconds")
        return RetryPolicy.of(
            defaults.flows_default_retries if retries is None else retries,
            list(defaults.flows_default_retry_delay_seconds) if delay is None else delay,
            get("retry_jitter_factor"),
            None,
            f"flow {self.name!r}",
        )

    def plan(
        self, defaults: settings.Settings, parent: FlowRun | None, tags: frozenset[str]
    ) -> Plan:
        """Settle all options for one run."""
        log_prints = self.options.get("log_prints")
        if log_prints is None:
            log_prints = (
                parent.plan.log_prints if parent is not None else defaults.logging_log_prints
            )
        return Plan(
            subject=self,
            name=self.name,
            tags=self.tags | tags | (parent.tags if parent is not None else frozenset()),
            retries=self._retry_policy(defaults),
            crash_retries=0,
            timeout_seconds=self.timeout_seconds,
            log_prints=log_prints,
            hooks=self._hooks,
            handlers=self._handlers,
            run_name=self._run_name,
            retry_condition=None,
            is_async=self.is_async,
            is_generator=self.is_generator,
            propagate=self._propagate + (() if parent is None else parent.plan.propagate),
            on_exit=self._on_exit,
        )

    def validate_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Check and coerce parameters by the function's annotations, and return them.

        Raises:
            ParameterTypeError: a parameter does not fit.
        """
        return self._check.checked(parameters)

    # --- calls -------------------------------------------------------------------------

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Flow[Any, Coroutine[Any, Any, T]],
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
        """Run the flow here and now, and return what its function returns.

        Futures that the function returns are replaced by their values.

        Args:
            *args: for the function.
            return_state: return the final state instead, and raise nothing for a failure.
            wait_for: futures that must be over first.
            **kwargs: for the function.

        Raises:
            TypeError: the function cannot be called like this; no run has begun.
            TaskRunnerNotFound: its task runner cannot be had; no run has begun.
            UnobservedFailureError: runs inside failed, and nobody looked at them.
            BaseException: whatever the function raised in its last attempt, untouched.
        """
        self._check_call(return_state)
        run = self._new_run(args, kwargs, wait_for)
        run.seen = True
        if self.is_generator:
            return iterate_async(run) if self.is_async else _yielding(run)
        if self.is_async:
            return _awaited(run, return_state=return_state)
        engine: Engine = run.engine
        if run.parent is not None:
            state = drive(run)
            return state if return_state else outcome_of(run, state)
        try:
            with interrupts.catching_ctrl_c(engine.loop.nudge):
                state = drive(run)
        finally:
            # After Ctrl-C what runs in threads was told to stop: it may clean up for a moment.
            interrupted = isinstance(run.interrupt, KeyboardInterrupt)
            engine.close(engine.settings.cancel_grace_seconds if interrupted else 0.0)
        return state if return_state else outcome_of(run, state)

    @overload
    def submit(
        self: Flow[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> PenstockFuture[T]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> PenstockFuture[R_co]: ...
    @overload
    def submit(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> PenstockFuture[R_co]: ...
    def submit(self, *args: Any, wait_for: Any = None, **kwargs: Any) -> Any:
        """Run the flow inside of the current one, beside it, and return a future at once.

        The sub-flow's own body runs in a thread of the parent's task runner.

        Raises:
            MissingContextError: there is no flow run around the call.
        """
        require_flow_run("flow.submit()")
        run = self._new_run(args, kwargs, wait_for, is_submitted=True)
        run.context = contextvars.copy_context()
        run.engine.submit([run])
        return PenstockFuture(run)

    def _new_run(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wait_for: Any,
        *,
        is_submitted: bool = False,
    ) -> FlowRun:
        parameters = self._binder(*args, **kwargs)
        parent = current_run()
        now = settings.current()
        around = cast(
            "FlowRun | None",
            parent if parent is None or parent.is_flow_run else parent.flow_run,
        )
        limits = self.options.get("tag_limits")
        if parent is None:
            configure(now)
            engine = Engine(now, tag_limits={**now.tag_limits, **(limits or {})})
        else:
            engine = engine_for(parent)
            if engine.sole_runner is not None:  # in a worker elsewhere
                now = engine.settings
        wait_for = prerequisites(wait_for)
        seen = look_through(parameters, around, wait_for)
        if seen is None and self._checks_parameters:
            args, kwargs = self._check.arguments(args, kwargs, parameters, self.signature)
        plan = self.plan(now, around, TAGS.get())
        first = made_at(engine.clock.time())
        run = FlowRun(plan, engine, around, parent, args, kwargs, first, names.slug())
        if seen is not None:
            run.upstream, _, has_marks = seen
            if has_marks and not run.upstream:
                run.args = tuple(put_values(value) for value in args)
                run.kwargs = {name: put_values(value) for name, value in kwargs.items()}
            if wait_for is not None:
                run.tolerates = frozenset(tolerated(wait_for))
        run.ledger = Ledger()
        prepare_to_log(run, now)
        choice = choose(self.name, self.options.get("task_runner"), self._runner_by_call)
        if around is not None and choice.reason == "the default":
            run.task_runner, run.runner_reason = around.task_runner, "that of the flow around it"
        else:
            run.task_runner, run.runner_reason = choice.spec, choice.reason
        # A runner that cannot be had is refused before there is work.
        runner = handle_for(None, run, engine).runner
        if is_submitted:
            run.plan = dataclasses.replace(plan, runner=carrier_for(around, engine))
        engine.count_in(run)
        run.life = flow_life(run, engine.rng, now.flows_unobserved_failures, self._start_at)
        _engine_log.info("Created flow run %r for flow %r", run.name, self.name)
        # What stands in the code, or is the default, goes without saying; a configuration does not.
        level = logging.DEBUG if choice.is_expected else logging.INFO
        if _flow_log.isEnabledFor(level):
            run_logger(run).log(
                level,
                "Task runner %s (%s): %s",
                describe(run.task_runner),
                runner.summary(),
                run.runner_reason,
            )
        return run

    def carried(self, run: Run) -> Callable[..., Any]:
        """Return what a thread calls to carry a submitted sub-flow: its whole life."""
        sub_flow = cast("FlowRun", run)

        async def live(in_place_of_holder: contextlib.AbstractContextManager[None]) -> None:
            with in_place_of_holder:
                await _awaited(sub_flow, return_state=True)

        def carry(*_: Any, **__: Any) -> None:
            if not self.is_async:
                drive(run)
                return
            loop = run.engine.loop  # the turn is ours where the runner runs in its caller
            finish(
                live(loop.acting_for_holder() if loop.holds_turn() else contextlib.nullcontext())
            )

        return carry

    # --- other forms -------------------------------------------------------------------

    def with_options(self, **options: Unpack[FlowOptions]) -> Self:
        """Return a copy of the flow with some options changed; None clears one.

        A task runner given here goes before any configuration.
        """
        changed = self._changed(options)
        runner = options.get("task_runner")
        changed._runner_by_call = runner if "task_runner" in options else self._runner_by_call
        changed._start_at = self._start_at
        return changed

    def starting_at(self, when: datetime.datetime) -> Self:
        """Return a copy whose runs wait, in state `Scheduled`, until the given time.

        Args:
            when: a time without a zone is local time; one that has passed starts at once.
        """
        changed = self.with_options()
        changed._start_at = when.timestamp()
        return changed

    def serve(self, *_: Any, **__: Any) -> Any:
        """Not available: needs a server. Raises `NotSupportedError`."""
        raise NotSupportedError(
            "flow.serve() needs a server, and Penstock has none; call the flow, or start "
            "`penstock run` from cron or a systemd timer"
        )

    def deploy(self, *_: Any, **__: Any) -> Any:
        """Not available: needs a server. Raises `NotSupportedError`."""
        raise NotSupportedError(
            "flow.deploy() needs a server, and Penstock has none; run `penstock run FILE:FLOW` "
            "on the machine that should do the work"
        )

    def __repr__(self) -> str:
        return f"<Flow {self.name!r}>"


def outcome_of(run: FlowRun, state: State[Any]) -> Any:
    """Return the value of a flow run that was called directly, or raise why there is none."""
    if run.interrupt is not None:
        raise run.interrupt
    if state.type is StateType.COMPLETED:
        return state.value()
    error = state.exception()
    assert error is not None
    raise error


def _yielding(run: FlowRun) -> Generator[Any, Any, Any]:
    try:
        state = yield from iterate(run)
    finally:
        if run.parent is None:
            run.engine.close()
    return outcome_of(run, state)


async def _awaited(run: FlowRun, *, return_state: bool) -> Any:
    try:
        state = await drive_async(run)
    finally:
        if run.parent is None:
            run.engine.close()
    return state if return_state else outcome_of(run, state)


@overload
def flow(fn: Callable[P, R], /, **options: Unpack[FlowOptions]) -> Flow[P, R]: ...
@overload
def flow(
    fn: None = None, /, **options: Unpack[FlowOptions]
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function. Works bare, called, and with options; see `FlowOptions`.

    Example:
        >>> @flow(task_runner="thread:8", log_prints=True)
        ... def nightly(day: str) -> None: ...
    """
    if fn is None:
        return functools.partial(Flow, **options)
    return Flow(fn, **options)
