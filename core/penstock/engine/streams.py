"""Generator tasks that are called directly: the caller's loop drives the run, value by value.

The run begins at the first `next`, is Running while it yields, and is over when the generator is
exhausted, closed, or raises. When an attempt fails after it has yielded, a retry yields its
values from the beginning again.

Of a task that keeps results the list of the values is kept, as of one that was submitted, if all of
them were asked for and nothing else was said: no value sent, none returned.
"""

from __future__ import annotations

import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any

from penstock.attempt import Outcome
from penstock.context import CURRENT
from penstock.engine import async_direct, direct, interrupts
from penstock.engine.commands import Execute, Report
from penstock.engine.deadlines import deadline_here
from penstock.logging import run_logger
from penstock.tracebacks import cut_own_frames
from penstock.worker.prints import captured

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

    from penstock.engine.driver import Engine
    from penstock.engine.lineage import Ledger
    from penstock.runs import Run
    from penstock.states import State
else:
    import penstock._asyncio as asyncio

__all__ = ["is_found", "iterate", "iterate_async"]


class Stream:
    """What the sync and the async loop share: one attempt of a generator function."""

    def __init__(self, run: Run, engine: Engine) -> None:
        self.run = run
        self.engine = engine
        if run.is_flow_run:
            direct.begin_flow_attempt(run)  # type: ignore[arg-type]
        self.began: float = time.monotonic()
        timeout = run.plan.timeout_seconds
        self.deadline: float | None = None if not timeout else self.began + timeout
        self.ledger: Ledger | None = run.flow_run.ledger if run.flow_run is not None else None
        self.generator: Any = run.plan.subject.fn(*run.args, **run.kwargs)
        self.is_out_of_time: bool = False
        self._yielded: list[Any] | None = None
        """Copies, as what the caller does with the values is not to be kept; None: not kept."""
        if not run.is_flow_run and run.plan.keeping is not None and run.plan.keeping.is_written:
            self._yielded = []

    def left(self) -> float | None:
        """How much of the time limit is left, in seconds."""
        return None if self.deadline is None else max(1e-6, self.deadline - time.monotonic())

    def advance(self, advance: Callable[[Any], Any], given: Any) -> Any:
        """Let the generator go on to its next value, as user code."""
        guarded = self.engine.loop.guards_signals()
        left = self.left()
        limit = None if left is None else interrupts.Deadline(left)
        if guarded:
            interrupts.enter_library()
        try:
            with deadline_here(limit, self.engine.loop.call_later), self.inside():
                if guarded:
                    return interrupts.call_user_code(advance, (given,), {})
                return advance(given)
        finally:
            self.is_out_of_time = limit is not None and limit.reached
            if guarded:
                interrupts.leave_library()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the run's context in the block, as far as the generator's own code goes."""
        if self.ledger is not None:
            self.ledger.note_end(self.run)
        token = CURRENT.set(self.run)
        keeps = self.run.plan.keeping is not None
        around = self.run.transaction.current() if keeps else contextlib.nullcontext()  # type: ignore[attr-defined]  # a task run
        try:
            with around, captured(run_logger(self.run).info if self.run.plan.log_prints else None):
                yield
        finally:
            CURRENT.reset(token)

    def hand_out(self, value: Any) -> None:
        """Remember what goes to the caller."""
        if self.ledger is not None:
            self.ledger.note_yield(value, self.run)
        if self._yielded is None:
            return
        try:
            self._yielded.append(copy.deepcopy(value))
        except Exception as error:  # noqa: BLE001  (of the value; the caller has it all the same)
            run_logger(self.run).warning(
                "The values are not stored, as one of them cannot be copied: %r", error
            )
            self._yielded = None

    def take_in(self, given: Any) -> Any:
        """Return what the caller has sent; values that depend on it are kept for nobody."""
        if given is not None:
            self._yielded = None
        return given

    def closed(self) -> Report:
        """The caller wants no more."""
        self._yielded = None
        return self.returned(None)

    def returned(self, value: Any) -> Report:
        """The generator is exhausted."""
        self._end()
        transaction = None if self.run.is_flow_run else self.run.transaction  # type: ignore[attr-defined]  # a task run
        if transaction is not None:
            if self._yielded is None or value is not None:
                transaction.write_on_commit = False
            else:
                transaction.yielded = self._yielded
        took = time.monotonic() - self.began
        return Report(Outcome(0, "returned", value, duration_seconds=took), self._now())

    def raised(self, error: BaseException, *, timed_out: bool = False) -> Report:
        """The generator has raised."""
        self._end()
        cut_own_frames(error)
        took = time.monotonic() - self.began
        outcome = Outcome(0, "raised", error=error, duration_seconds=took)
        if not isinstance(error, Exception) and not timed_out:
            self.run.interrupt = error
        cancelled = isinstance(
            error, (KeyboardInterrupt, asyncio.CancelledError, interrupts.DeadlineReached)
        )
        if cancelled and not timed_out:
            self.run.cancel_reason = self.run.cancel_reason or interrupts.reason(error)
        return Report(outcome, self._now(), timed_out, cancelled and not timed_out)

    def _end(self) -> None:
        """The attempt is over."""
        run, engine = self.run, self.engine
        if self.ledger is not None:
            self.ledger.note_end(run)
        if run.plan.is_held:  # before a retry asks for its own place
            engine.loop.run_home(lambda: engine.dispatcher.release(run))

    def _now(self) -> float:
        return self.engine.clock.time()


def iterate(run: Run) -> Generator[Any, Any, State[Any]]:
    """Drive the run of a generator task, yielding what it yields; return its last state."""
    engine: Engine = run.engine
    life = run.life
    assert life is not None
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            command = life.send(answer) if error is None else life.throw(error)
            answer = error = None
            try:
                if type(command) is Execute:
                    engine.enter(run, command.state)
                    stream = Stream(run, engine)
                    try:
                        answer = yield from _execute(stream)
                    except GeneratorExit:  # the caller wants no more; `_execute` has closed it
                        answer = stream.closed()
                else:
                    answer = direct.perform(run, engine, command)
            except Exception as problem:  # noqa: BLE001  (thrown to the life, which decides)
                error = problem
    except StopIteration as end:
        state: State[Any] = end.value
    finally:
        direct.finish(run, engine)
    if is_found(state):
        yield from state.value()
    return state


def is_found(state: State[Any]) -> bool:
    """Whether the values are those that an earlier run has yielded."""
    return state.name == "Cached" and state.is_completed()


def _execute(stream: Stream) -> Generator[Any, Any, Report]:
    generator = stream.generator
    advance, given = generator.send, None
    while True:
        try:
            value = stream.advance(advance, given)
        except StopIteration as end:
            return stream.returned(end.value)
        except interrupts.DeadlineReached as error:
            generator.close()
            return stream.raised(error, timed_out=stream.is_out_of_time)
        except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
            return stream.raised(error)
        stream.hand_out(value)
        try:
            given = stream.take_in((yield value))
            advance = generator.send
        except GeneratorExit:
            with stream.inside():
                generator.close()
            raise
        except BaseException as error:  # noqa: BLE001  (thrown in by the caller: passed on)
            given, advance = stream.take_in(error), generator.throw


async def iterate_async(run: Run) -> AsyncGenerator[Any, Any]:
    """Drive the run of an async generator task, yielding what it yields."""
    engine: Engine = run.engine
    life = run.life
    assert life is not None
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            command = life.send(answer) if error is None else life.throw(error)
            answer = error = None
            try:
                if type(command) is not Execute:
                    answer = await async_direct.perform(run, engine, command)
                    continue
                engine.enter(run, command.state)
                stream = Stream(run, engine)
                advance, given = stream.generator.asend, None
                while answer is None:
                    value, answer = await _next(stream, advance, given)
                    if answer is not None:
                        break
                    stream.hand_out(value)
                    try:
                        given = stream.take_in((yield value))
                        advance = stream.generator.asend
                    except GeneratorExit:
                        with stream.inside():
                            await stream.generator.aclose()
                        answer = stream.closed()
                    except BaseException as problem:  # noqa: BLE001  (thrown in by the caller)
                        given, advance = stream.take_in(problem), stream.generator.athrow
            except Exception as problem:  # noqa: BLE001  (thrown to the life, which decides)
                error = problem
    except StopIteration as end:
        state: State[Any] = end.value
    finally:
        direct.finish(run, engine)
        if run.is_flow_run and run.parent is None:
            engine.close()
    failure = run.interrupt or state.exception()
    if failure is not None:
        raise failure
    if is_found(state):
        for value in state.value():
            yield value


async def _next(stream: Stream, advance: Any, given: Any) -> tuple[Any, Report | None]:
    """Return the generator's next value, or the report of its end."""
    limit = None
    try:
        async with asyncio.timeout(stream.left()) as limit:
            with stream.inside():
                return await advance(given), None
    except StopAsyncIteration:
        return None, stream.returned(None)
    except TimeoutError as error:
        return None, stream.raised(error, timed_out=limit is not None and limit.expired())
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        return None, stream.raised(error)
