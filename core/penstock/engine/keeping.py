"""Results that are kept: found instead of made, made once at a time, and stored in the end.

A run whose task keeps results asks for its own before anything else: `RECALL`. It gets the stored
one, and is over; or it has to wait for an equal run that is under way, in this process or, with the
level `serializable`, in another; or it is the one to make it. What it made is stored when it is
over, or staged in the transaction around it.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import threading
from typing import TYPE_CHECKING, Any

from penstock.attempt import Packed
from penstock.engine import single_flight
from penstock.engine.commands import AGAIN, BUSY
from penstock.engine.recovery import Recovering
from penstock.engine.stored_elsewhere import found_there, keep_apart, record_of, taken
from penstock.exceptions import SerializationError, UnhashableInputError
from penstock.logging import run_logger
from penstock.runs import FlowRun, TaskRun
from penstock.serializers import PickleSerializer
from penstock.states import State, StateType, advance
from penstock.storage_choice import collect_if_due, store_of
from penstock.stored_results import StoredResult
from penstock.transactions import IsolationLevel, TaskTransaction, transaction_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.attempt import Outcome
    from penstock.cache_policy import SeenKey
    from penstock.keeping import Keeping
    from penstock.results import ResultStore
    from penstock.runs import Run, Waiter
    from penstock.settings import Settings
    from penstock.transactions import Transaction

__all__ = ["WAITS", "KeepingResults"]

COMPLETED = StateType.COMPLETED

_CLOCKS_DIFFER_SECONDS = 1.0

WAITS: Any = object()
"""The run waits for an equal one; it is told when that is over."""


class KeepingResults(Recovering):
    """The part of the engine that finds results, and keeps them. Under the turn."""

    settings: Settings
    _written: set[ResultStore]

    # --- before the run ------------------------------------------------------------------

    def recall(self, run: TaskRun, around: Transaction | None, waiter: Waiter | None = None) -> Any:
        """Answer `RECALL`: the state a run ends in by a stored result, or how it is to go on.

        Args:
            run: which asks.
            around: the transaction around it.
            waiter: what to tell if it has to wait; without one it will be stepped.

        Returns:
            A final state; None, if it is to make the result; `BUSY`, if another driver makes it;
            `WAITS`, if another run here does.
        """
        if run.recalled is not None:  # the run it waited for has ended
            answer, run.recalled = run.recalled, None
            if answer is not AGAIN:
                return answer
        return self.at_home(run, self._recall, run, around, waiter)

    def _recall(self, run: TaskRun, around: Transaction | None, waiter: Waiter | None) -> Any:
        keeping = run.plan.keeping
        assert keeping is not None
        seen: SeenKey | None = None
        if run.key is None and keeping.is_written:
            seen = self._key_of(run, keeping)
            run.key = None if seen is None else seen.key
        key, isolation = run.key, keeping.isolation
        if key is not None and is_streamed(run):  # its caller may take long, or want two at once
            isolation = IsolationLevel.READ_COMMITTED
        elif key is not None:
            if not single_flight.join((keeping.store.filesystem, key), run, waiter):
                if seen is not None:  # it may come to be the one to make it
                    run.key_parts = keeping.stored_parts(seen)
                return WAITS
            if run.making is None:  # one around it makes the same, and holds the lock
                isolation = IsolationLevel.READ_COMMITTED
        if key is not None and not keeping.refresh:
            stored = found_there(run, key)
            if stored is not None:
                return self._found(run, keeping, stored)
            record = keeping.store.read(key)
            if record is not None:
                return self._found(run, keeping, record.value)
        elif keeping.is_written:
            keeping.store.check_safe()
        if seen is not None:  # now, as the function may change its arguments
            run.key_parts = keeping.stored_parts(seen)
        if key is not None:
            keep_apart(keeping.store, key)
        if isolation is None:
            isolation = around.isolation_level if around else IsolationLevel.READ_COMMITTED
        transaction = TaskTransaction(
            lambda key: self._note_committed(run, key),
            lambda: self._note_rolled_back(run),
            key=key if key is not None else (str(run.id) if keeping.is_written else None),
            store=keeping.store,
            isolation_level=isolation,
            # Where nobody was waited for, the store has been looked at.
            overwrite=keeping.refresh or isolation is not IsolationLevel.SERIALIZABLE,
            write_on_commit=keeping.is_written,
            logger=run_logger(run),
            parent=around,
        )
        if not transaction.try_begin():
            return BUSY
        record = transaction.read() if transaction.is_committed() else None
        if record is not None:
            return self._found(run, keeping, record.value)
        run.transaction = transaction
        if run.context is not None:
            transaction.be_current_in(run.context)
        return None

    def _key_of(self, run: TaskRun, keeping: Keeping) -> SeenKey | None:
        try:
            return keeping.key_of(run)
        except UnhashableInputError as error:
            if keeping.is_cached:
                raise
            run_logger(run).warning("The result is stored, and not cached: %s", error)
            return None

    def _found(self, run: TaskRun, keeping: Keeping, value: Any) -> State[Any]:
        """Return the state of a run whose result is there; who waits for it looks there, too."""
        self._let_others_go_on(run)
        if not keeping.in_memory:
            assert run.key is not None
            value = StoredResult(keeping.store, run.key, 0)
        return State(COMPLETED, "Cached", None, value)

    # --- after the run -------------------------------------------------------------------

    def take_stored(self, run: TaskRun, outcome: Outcome) -> Outcome:
        """Return the outcome of an attempt whose worker has stored the result: see `taken`."""
        began_at = self.clock.time() - outcome.duration_seconds - _CLOCKS_DIFFER_SECONDS
        try:
            return taken(run, outcome, datetime.datetime.fromtimestamp(began_at, datetime.UTC))
        except Exception as error:  # noqa: BLE001  (the store's: then nobody has the result)
            run_logger(run).error("The stored result cannot be found: %r", error, exc_info=error)
            return outcome._replace(kind="lost", reason=f"its stored result is gone: {error!r}")

    def keep(self, run: Run) -> None:
        """A run is over: see to its result, and to what was done with it if it has failed.

        Called in the thread and the context that the run was called in, or under the turn.
        Whatever is wrong with a store or a hook is told, and changes nothing of the run.
        """
        action: Callable[[], None]
        if isinstance(run, FlowRun):
            if not run.undoable and not self._is_persisted(run):
                return
            action = functools.partial(self._keep_of_flow, run)
        elif run.plan.keeping is not None:
            assert isinstance(run, TaskRun)
            if run.making is None and run.transaction is None:
                return
            action = functools.partial(self._keep_of_task, run)
        else:
            around = None if run.life is None else transaction_in(run.context)
            if around is None or run.state.type is COMPLETED:
                return
            # A group that lacks a part is not to be committed.
            action = functools.partial(self.at_home, run, around.rollback)
        self.loop.run_home(functools.partial(self._keep, run, action))

    def _keep(self, run: Run, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  (as above)
            run_logger(run).error("The result could not be kept: %r", error, exc_info=error)
        finally:
            if isinstance(run, TaskRun):
                self._let_others_go_on(run)

    def _keep_of_flow(self, run: FlowRun) -> None:
        around = run.flow_run
        if run.state.type is not COMPLETED:
            self._undo(run)
            return
        if around is not None:
            around.undoable.extend(run.undoable)
        if not self._is_persisted(run):
            return
        options = run.plan.subject.options
        store = store_of(
            options.get("result_storage"), options.get("result_serializer"), self.settings
        )
        key = str(run.id)
        try:
            store.write(key, run.state.value(), run_id=key, run_name=run.name)
        except SerializationError as error:
            run_logger(run).warning("The flow's result cannot be stored; it goes on: %s", error)
            return
        self._written.add(store)
        if options.get("cache_result_in_memory") is False:
            object.__setattr__(run.state, "data", StoredResult(store, key, 0))

    def _is_persisted(self, run: FlowRun) -> bool:
        """Whether the flow's own result is stored."""
        options = getattr(run.plan.subject, "options", {})  # none, if it is of another process
        persists: bool | None = options.get("persist_result")
        if persists is not None:
            return persists
        return self.settings.results_persist_by_default or any(
            options.get(name) is not None for name in ("result_storage", "result_serializer")
        )

    def _keep_of_task(self, run: TaskRun) -> None:
        """Store what a task run made, or stage it in the transaction around it."""
        keeping, transaction = run.plan.keeping, run.transaction
        assert keeping is not None
        if transaction is None:
            return  # it waited for another, or was never to make anything
        if run.state.type is COMPLETED:
            try:
                transaction.stage(
                    _value_to_write(run, keeping) if transaction.write_on_commit else None,
                    on_commit=keeping.on_commit,
                    on_rollback=keeping.on_rollback,
                    written_with=self._about(run, keeping),
                )
            except BaseException:
                self.at_home(run, transaction.rollback)
                raise
        failed = run.state.type is not COMPLETED
        self.at_home(run, lambda: transaction.end(failed=failed))
        if not (keeping.on_rollback and transaction.is_committed()):
            run.transaction = None
        elif run.flow_run is not None and transaction.parent is None:
            run.flow_run.undoable.append(run)

    def _about(self, run: TaskRun, keeping: Keeping) -> dict[str, Any]:
        expires = None
        if keeping.expiration is not None:
            ended = run.state.timestamp
            expires = None if ended is None else ended + keeping.expiration
        return {"expires_at": expires, **record_of(run)}

    def _note_committed(self, run: TaskRun, key: str | None) -> None:
        keeping = run.plan.keeping
        assert keeping is not None
        if keeping.is_written:
            self._written.add(keeping.store)
            if not keeping.in_memory and key is not None and not is_streamed(run):
                stored = StoredResult(keeping.store, key, 0)
                object.__setattr__(run.state, "data", stored)  # the same value, elsewhere

    def _note_rolled_back(self, run: TaskRun) -> None:
        if run.state.type is not COMPLETED:
            return
        run.open_history()
        advance(run, State(COMPLETED, "RolledBack", None, run.state.data), self.clock.time())
        run_logger(run).info("Rolled back")

    def _undo(self, run: FlowRun) -> None:
        """A flow run has failed: roll back what its tasks have done, the last first."""
        while run.undoable:
            done = run.undoable.pop()
            self.at_home(done, done.transaction.undo)

    def _let_others_go_on(self, run: TaskRun) -> None:
        """Tell who wants the same result that it is there, or that the next of them makes it."""
        if run.making is None:
            return
        state = run.state
        has_value = state.type is COMPLETED and state.name != "RolledBack"
        told, maker = single_flight.leave(run, has_value=has_value)
        for other, waiter in told.items():
            answer: Any = AGAIN if other is maker else State(COMPLETED, "Cached", None, state.data)
            engine: KeepingResults = other.engine
            engine.tell_recalled(other, waiter, answer, at_once=engine is self)

    def tell_recalled(
        self, run: TaskRun, waiter: Waiter | None, answer: Any, *, at_once: bool
    ) -> None:
        """Let a run of this engine go on that waited for an equal one.

        Args:
            run: waited.
            waiter: what to tell; without one it is stepped.
            answer: what it finds when it asks again.
            at_once: the turn of this engine is held.
        """
        run.recalled = answer

        def go_on() -> None:
            if waiter is not None:
                waiter.finished(run)
            elif not run.state.is_final():
                self.step(run, AGAIN)

        if waiter is not None and at_once:
            waiter.finished(run)
        else:
            self.loop.post(go_on)
            if not at_once:
                self.loop.ensure_standby(urgent=True)

    def collect(self) -> None:
        """Clear the stores that were written to, in a thread of its own, if it is time."""
        stores, self._written = self._written, set()
        for store in stores:
            threading.Thread(
                # With the settings that hold here.
                target=contextvars.copy_context().run,
                args=(collect_if_due, store),
                name="penstock-collector",
            ).start()


def is_streamed(run: TaskRun) -> bool:
    """Whether the run's values go one by one to the loop of its caller."""
    return run.plan.is_generator and not run.was_submitted


def _value_to_write(run: TaskRun, keeping: Keeping) -> Any:
    state = run.state
    if is_streamed(run):
        return run.transaction.yielded
    if type(state.data) is Packed and type(keeping.store.serializer) is PickleSerializer:
        return state.data  # as it is: who asks for the value unpickles it, and perhaps nobody does
    return state.value()
