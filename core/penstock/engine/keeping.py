"""Results that are kept: found instead of made, made once at a time, and stored in the end.

A run whose task keeps results asks for its own before anything else: `RECALL`. It gets the stored
one, and is over; or it has to wait for an equal run that is under way, in this driver or, with the
level `serializable`, in another; or it is the one to make it. What it made is stored when it is
over, or staged in the transaction around it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from penstock.engine.commands import AGAIN, BUSY
from penstock.engine.recovery import Recovering
from penstock.keeping import StoredResult
from penstock.logging import run_logger
from penstock.states import State, StateType, advance
from penstock.storage_choice import collect_if_due, store_of
from penstock.transactions import Transaction, transaction_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from penstock.keeping import Keeping
    from penstock.results import ResultStore
    from penstock.runs import FlowRun, Run, TaskRun, Waiter

__all__ = ["WAITS", "KeepingResults"]

COMPLETED = StateType.COMPLETED

WAITS: Any = object()
"""The run waits for an equal one; it is told when that is over."""


class TaskTransaction(Transaction):
    """The transaction of one task run."""

    def __init__(self, note: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._note_rolled_back = note

    def _rolling_back(self) -> Generator[Any, Any, bool]:
        was_staged = self.is_staged()
        done = yield from super()._rolling_back()
        if done and was_staged:
            self._note_rolled_back()
        return done


class Making:
    """A result that is being made, and the runs that want the same."""

    __slots__ = ("maker", "waiting")

    def __init__(self, maker: TaskRun) -> None:
        self.maker: TaskRun = maker
        self.waiting: deque[tuple[TaskRun, Waiter | None]] = deque()
        """A waiter for those whose own thread waits; the others are stepped."""


class KeepingResults(Recovering):
    """The part of the engine that finds results, and keeps them. Under the turn."""

    _making: dict[tuple[int, str], Making]
    _written: set[ResultStore]

    def recall(self, run: TaskRun, waiter: Waiter | None = None) -> Any:
        """Answer `RECALL`: the state a run ends in by a stored result, or how it is to go on.

        Args:
            run: which asks.
            waiter: what to tell if it has to wait; without one it will be stepped.

        Returns:
            A final state; None, if it is to make the result; `BUSY`, if another driver makes it;
            `WAITS`, if another run here does.
        """
        keeping = run.plan.keeping
        assert keeping is not None
        if run.recalled is not None:  # the run it waited for has ended
            answer, run.recalled = run.recalled, None
            if answer is not AGAIN:
                return answer
        if run.key is None and keeping.is_written:
            run.key = self.call(run, keeping.key_of, (run,))
        key = run.key
        if key is not None:
            place = id(keeping.store), key
            making = self._making.get(place)
            if making is not None and making.maker is not run:
                making.waiting.append((run, waiter))
                return WAITS
            self._making[place] = Making(run) if making is None else making
        if key is not None and not keeping.refresh:
            record = keeping.store.read(key)
            if record is not None:
                return self._found(run, record.value)
        if key is not None:  # now, as the function may change its arguments
            run.key_parts = self.call(run, keeping.parts_of, (run, key))
        transaction = TaskTransaction(
            lambda: self._note_rolled_back(run),
            key=key if key is not None else (str(run.id) if keeping.is_written else None),
            store=keeping.store,
            isolation_level=keeping.isolation,
            overwrite=keeping.refresh or key is None,
            write_on_commit=keeping.is_written,
            logger=run_logger(run),
            parent=transaction_in(run.context),
        )
        if not self.at_home(run, transaction.try_begin):
            return BUSY
        record = transaction.read() if transaction.is_committed() else None
        if record is None:
            run.transaction = transaction
            return None
        return self._found(run, record.value)

    def _found(self, run: TaskRun, value: Any) -> State[Any]:
        """Return the state of a run whose result is there; who waits for it makes none, either."""
        self._let_others_go_on(run)
        return State(COMPLETED, "Cached", None, value)

    def has_to_be_kept(self, run: FlowRun) -> bool:
        """Whether there is something to do with results when a flow run is over."""
        options = getattr(run.plan.subject, "options", {})  # none, if it is of another process
        return bool(run.undoable) or options.get("persist_result") is True

    def keep(self, run: Run) -> None:
        """A run is over: see to its result, and to those inside if it has failed.

        Whatever is wrong with a store or a hook is told, and changes nothing of the run.
        """
        try:
            if run.is_flow_run:
                self._keep_of_flow(run)  # type: ignore[arg-type]  # as it says
            else:
                self._keep_of_task(run)  # type: ignore[arg-type]  # what is no flow run
        except Exception as error:  # noqa: BLE001  (as above)
            run_logger(run).error("The result could not be kept: %r", error, exc_info=error)
        finally:
            if not run.is_flow_run:
                self._let_others_go_on(run)  # type: ignore[arg-type]  # as above

    def _keep_of_flow(self, run: FlowRun) -> None:
        around = run.flow_run
        if run.state.type is not COMPLETED:
            self._undo(run)
        elif around is not None:
            around.undoable.extend(run.undoable)
        options = run.plan.subject.options
        if run.state.type is COMPLETED and options.get("persist_result") is True:
            store = store_of(options.get("result_storage"), options.get("result_serializer"))
            key = str(run.id)
            store.write(key, run.state.value(), run_id=key, run_name=run.name)
            self._written.add(store)
            if options.get("cache_result_in_memory") is False:
                object.__setattr__(run.state, "data", StoredResult(store, key, 0))

    def _keep_of_task(self, run: TaskRun) -> None:
        """Store what a task run made, or stage it in the transaction around it."""
        transaction: Transaction | None = run.transaction
        if transaction is not None:
            keeping = run.plan.keeping
            assert keeping is not None
            if run.state.type is COMPLETED:
                transaction.stage(
                    run.state.value(),
                    on_commit=keeping.on_commit,
                    on_rollback=keeping.on_rollback,
                    written_with=self._about(run, keeping),
                )
                self.at_home(run, transaction.end)
                self._after_commit(run, keeping, transaction)
            else:
                self.at_home(run, lambda: transaction.end(failed=True))

    def _about(self, run: TaskRun, keeping: Keeping) -> dict[str, Any]:
        expires = None
        if keeping.expiration is not None:
            ended = run.state.timestamp
            expires = None if ended is None else ended + keeping.expiration
        return {
            "expires_at": expires,
            "run_id": str(run.id),
            "run_name": run.name,
            "task_name": run.plan.name,
            "parts": run.key_parts or {},
        }

    def _after_commit(self, run: TaskRun, keeping: Keeping, transaction: Transaction) -> None:
        if not transaction.is_committed():
            return
        if keeping.on_rollback and run.flow_run is not None and transaction.parent is None:
            run.flow_run.undoable.append(run)
        if keeping.is_written:
            self._written.add(keeping.store)
            if not keeping.in_memory and transaction.key is not None:
                stored = StoredResult(keeping.store, transaction.key, 0)
                object.__setattr__(run.state, "data", stored)  # the same value, elsewhere

    def _let_others_go_on(self, run: TaskRun) -> None:
        keeping = run.plan.keeping
        if run.key is None or keeping is None:
            return
        place = id(keeping.store), run.key
        making = self._making.get(place)
        if making is None or making.maker is not run:
            return
        del self._making[place]
        answer: Any = AGAIN
        if run.state.type is COMPLETED and run.state.name != "RolledBack":
            answer = State(COMPLETED, "Cached", None, run.state.data)
        while making.waiting:
            other, waiter = making.waiting.popleft()
            if other.state.is_final():
                continue  # cancelled meanwhile
            if answer is AGAIN:  # the next in line makes it; the others wait for that one
                following = self._making[place] = Making(other)
                following.waiting = making.waiting
                self._tell(other, waiter, AGAIN)
                return
            self._tell(other, waiter, State(COMPLETED, "Cached", None, answer.data))

    def _tell(self, run: TaskRun, waiter: Waiter | None, answer: Any) -> None:
        run.recalled = answer
        if waiter is not None:
            waiter.finished(run)
        else:
            self.loop.post(lambda: self._go_on(run))

    def _go_on(self, run: TaskRun) -> None:
        if not run.state.is_final():
            self.step(run, AGAIN)

    def _undo(self, run: FlowRun) -> None:
        """A flow run has failed: roll back what its tasks have done, the last first."""
        while run.undoable:
            done: TaskRun = run.undoable.pop()
            keeping = done.plan.keeping
            assert keeping is not None
            transaction = Transaction(store=keeping.store, logger=run_logger(done))
            transaction.begin()
            transaction.stage(done.state.value(), on_rollback=keeping.on_rollback)
            self.at_home(done, transaction.rollback)
            self._note_rolled_back(done)

    def _note_rolled_back(self, run: TaskRun) -> None:
        if run.state.type is not COMPLETED:
            return
        run.open_history()
        advance(run, State(COMPLETED, "RolledBack", None, run.state.data), self.clock.time())
        run_logger(run).info("Rolled back")

    def collect(self) -> None:
        """Clear the stores that were written to, in a thread of its own, if it is time."""
        stores, self._written = self._written, set()
        for store in stores:
            threading.Thread(
                target=collect_if_due, args=(store,), name="penstock-collector"
            ).start()
