"""Groups of work that are committed together, or rolled back together.

What becomes of a transaction, and in which order, is told in `_transaction_course`.
"""

from __future__ import annotations

import contextlib
import copy
from contextvars import Context, ContextVar, Token
from typing import TYPE_CHECKING, Any

from penstock._transaction_course import (
    CommitMode,
    Hook,
    IsolationLevel,
    Logger,
    TransactionCourse,
    TransactionState,
    choice_of,
)
from penstock._transaction_steps import await_course, run_course
from penstock.exceptions import MissingContextError
from penstock.logging import get_run_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from penstock.results import ResultRecord, ResultStore

__all__ = [
    "CommitMode",
    "IsolationLevel",
    "TaskTransaction",
    "Transaction",
    "TransactionState",
    "atransaction",
    "choice_of",
    "get_transaction",
    "transaction",
    "transaction_in",
]

_REQUIRED: Any = object()


class Transaction(TransactionCourse):
    """Work that is committed as a whole or rolled back; a context manager, sync and async.

    Inside of its block it is the current one: `get_transaction()` gives it, and further ones join
    it. Without a block, `begin()`, `stage()` and `end()` do the same for a given `parent`.

    Args:
        key: names its record in the store; without one nothing is stored.
        store: where the record is; by default the store that the settings choose.
        commit_mode: when it is committed, as a `CommitMode` or its name; by default as the one
            around it, or `LAZY`.
        isolation_level: what others may do, as an `IsolationLevel` or its name; by default as the
            one around it, or `READ_COMMITTED`.
        overwrite: go to work although there is a record, and replace it.
        write_on_commit: whether the commit writes a record.
        logger: where the lines about hooks go; by default the current run's.
        parent: the one around it; by default the current one, if it is used as a block.
    """

    _token: Token[Transaction | None] | None = None

    # --- asked by user code ------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Keep a value under a name, for the code in the transaction and for its hooks."""
        self._values[name] = value

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a copy of the value of a name, from here or from a transaction around it.

        Raises:
            ValueError: nobody set it, and there is no default.
        """
        each: TransactionCourse | None = self
        while each is not None:
            if name in each._values:
                return _copied(each._values[name])
            each = each.parent
        if default is _REQUIRED:
            raise ValueError(f"there is no value {name!r} in this transaction, nor around it")
        return default

    def is_pending(self) -> bool:
        """Whether it has not begun."""
        return self.state is TransactionState.PENDING

    def is_active(self) -> bool:
        """Whether it has begun, and nothing is staged."""
        return self.state is TransactionState.ACTIVE

    def is_staged(self) -> bool:
        """Whether its work is done and waits for the commit."""
        return self.state is TransactionState.STAGED

    def is_committed(self) -> bool:
        """Whether it was committed, now or, by its record, earlier."""
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        """Whether it was rolled back."""
        return self.state is TransactionState.ROLLED_BACK

    def get_parent(self) -> TransactionCourse | None:
        """Return the transaction around it."""
        return self.parent

    def read(self) -> ResultRecord | None:
        """Return the record that was found at the beginning, or else what the store has now."""
        if self._record is None and self.key and self.store is not None:
            return self.store.read(self.key)
        return self._record

    # --- its course --------------------------------------------------------------------

    def begin(self) -> None:
        """Begin, and wait for the lock if there is one to take."""
        run_course(self._beginning(None))

    def try_begin(self) -> bool:
        """Begin, unless somebody else holds the lock; whether it began."""
        return run_course(self._beginning(0))

    def stage(
        self,
        value: Any,
        on_commit: Iterable[Hook] = (),
        on_rollback: Iterable[Hook] = (),
        written_with: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that the work is done, its value, and what to do when it is decided.

        One that is committed already changes no more. In one that was rolled back the hooks for
        that are called at once, as what was done after it has to be undone as well.

        Args:
            value: what the record will hold.
            on_commit: called with the transaction when it is committed.
            on_rollback: called with the transaction when it is rolled back.
            written_with: further arguments of `ResultStore.write`.
        """
        if self.is_committed():
            return
        if self.is_rolled_back():
            run_course(self._undoing(list(on_rollback)))
            return
        self._staged = value
        self._written_with = written_with or {}
        self.on_commit_hooks.extend(on_commit)
        self.on_rollback_hooks.extend(on_rollback)
        self.state = TransactionState.STAGED

    def commit(self) -> bool:
        """Commit it now; whether that was done, and not before, and worked."""
        return run_course(self._committing())

    def rollback(self) -> bool:
        """Roll it back now; whether that was done, and not before."""
        return run_course(self._rolling_back())

    def end(self, *, failed: bool = False) -> None:
        """Commit it, roll it back, or leave it to the one around it: what the end of a block does.

        Args:
            failed: roll it back, and those around it.
        """
        run_course(self._ending(failed))

    # --- as a block --------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._look_around()
        self.begin()
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._step_out()
        self.end(failed=exc is not None)

    async def __aenter__(self) -> Self:
        self._look_around()
        await await_course(self._beginning(None))
        self._token = _current.set(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._step_out()
        await await_course(self._ending(exc is not None))

    def _look_around(self) -> None:
        if not self.is_pending():
            raise RuntimeError("a transaction can be entered once only; make another one")
        logger: Logger | None = None
        with contextlib.suppress(MissingContextError):
            logger = get_run_logger()
        self._place_in(transaction_in(None), logger)

    def _step_out(self) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self._token = None

    def __repr__(self) -> str:
        return f"<Transaction {self.key!r} {self.state.name}>"


_current: ContextVar[Transaction | None] = ContextVar("penstock_transaction", default=None)


class TaskTransaction(Transaction):
    """The transaction of one task run.

    The task's code finds it, for the values that its hooks need; but what is done inside does not
    join it: a retry of the task is to find what the tasks in it have stored.

    Args:
        note_committed: called with the key when it is committed.
        note_rolled_back: called when what was done is rolled back.
        options: those of `Transaction`.
    """

    def __init__(
        self,
        note_committed: Callable[[str | None], None],
        note_rolled_back: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._note_committed = note_committed
        self._note_rolled_back = note_rolled_back
        self._is_committing = False
        self.yielded: list[Any] = []
        """What a generator has yielded to the loop of its caller, to be kept in the end."""

    def be_current_in(self, context: Context) -> None:
        """Be what the code that runs in a context finds."""
        context.run(_current.set, self)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Be what the code in the block finds."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def undo(self) -> None:
        """Roll back what was committed."""
        self.state = TransactionState.STAGED
        self.rollback()

    def _committing(self) -> Generator[Any, Any, bool]:
        self._is_committing = True
        done = yield from super()._committing()
        self._is_committing = False
        if done:
            self._note_committed(self.key)
        return done

    def _rolling_back(self) -> Generator[Any, Any, bool]:
        was_staged = self.is_staged()
        done = yield from super()._rolling_back()
        # A result that could not be stored, with nothing to undo, changes nothing of the run.
        if done and was_staged and (self.on_rollback_hooks or not self._is_committing):
            self._note_rolled_back()
        return done


def transaction_in(context: Context | None) -> Transaction | None:
    """Return the transaction that is joined in this context; None is the calling code's."""
    found: Any = _current.get() if context is None else context.get(_current)
    while isinstance(found, TaskTransaction):
        found = found.parent
    around: Transaction | None = found  # what is around a task is a block
    return around


def get_transaction() -> Transaction | None:
    """Return the transaction that the calling code is in, or None.

    In a task that keeps results that is its own; not in a worker in another process.
    """
    return _current.get()


def transaction(
    key: str | None = None,
    store: ResultStore | None = None,
    commit_mode: CommitMode | str | None = None,
    isolation_level: IsolationLevel | str | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: Logger | None = None,
) -> Transaction:
    """Commit the work in a block as a whole, or roll it back.

    Takes ``with`` and ``async with``; the arguments are those of `Transaction`.

    Example:
        >>> with transaction() as txn:
        ...     txn.set("file", "report.txt")
        ...     txn.stage(None, on_commit=[lambda txn: print("wrote", txn.get("file"))])
        wrote report.txt
    """
    return Transaction(
        key,
        store,
        commit_mode,
        isolation_level,
        overwrite=overwrite,
        write_on_commit=write_on_commit,
        logger=logger,
    )


atransaction = transaction
"""As Prefect calls what is used by ``async with``."""


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  (a connection, a lock: there is one, and it is wanted)
        return value
