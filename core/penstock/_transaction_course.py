"""The course of a transaction, from its beginning to its commit or rollback.

- *Begin*: with the level `SERIALIZABLE` it takes the lock of its key. If the store has a record of
  the key the transaction is committed already, and there is nothing to do.
- *Stage*: the work is done; its value and its hooks wait for the commit or the rollback.
- *Commit*: the transactions inside first, in order, then its own hooks, then its record.
- *Roll back*: its own hooks, the last first, then the transactions inside, the last first. What was
  committed stays. One that failed takes the one around it along, also if somebody catches the
  error: a group that lacks a part is not to be committed.

A transaction inside another is committed with it, unless its mode is `EAGER`. One that ends after
the one around it did shares its fate at once. Every rollback hook is called, whatever the others
raise; what a hook raises is logged, and noted in `hook_errors`.

A commit that does not work, say since the value cannot be stored, is logged and rolled back; it
does not fail the block, whose work is done. `is_committed()` tells.

All of this is written as generators that decide and yield steps; who performs those, and whether
they block or are awaited, is in `_transaction_steps`.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import uuid
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from penstock._transaction_steps import RunHook, TakeLock, UseStore
from penstock.exceptions import DefinitionError, SerializationError
from penstock.storage_choice import store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock._transaction_steps import Course
    from penstock.locking import LockManager
    from penstock.results import ResultRecord, ResultStore

__all__ = ["CommitMode", "IsolationLevel", "TransactionCourse", "TransactionState", "choice_of"]

Hook: TypeAlias = "Callable[[Any], Any]"
Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"

_log = logging.getLogger("penstock.transactions")


class IsolationLevel(enum.Enum):
    """What others with the same key may do meanwhile."""

    READ_COMMITTED = "READ_COMMITTED"
    """Anything; the last to commit wins."""
    SERIALIZABLE = "SERIALIZABLE"
    """They wait until this one has ended."""


class CommitMode(enum.Enum):
    """When a transaction is committed whose block ended well."""

    EAGER = "EAGER"
    """At once."""
    LAZY = "LAZY"
    """With the one around it; at once if there is none."""
    OFF = "OFF"
    """With the one around it, or by `commit()`; if neither happens it is rolled back."""


Choice = TypeVar("Choice", CommitMode, IsolationLevel)


def choice_of(kind: type[Choice], given: Any, option: str) -> Choice | None:
    """Return a member by itself or by its name in any case, as people write it.

    Raises:
        DefinitionError: there is none of that name.
    """
    if given is None or isinstance(given, kind):
        return given
    try:
        return kind[str(getattr(given, "name", given)).upper()]
    except KeyError:
        known = ", ".join(each.name for each in kind)
        raise DefinitionError(f"{option} is one of {known}, not {given!r}") from None


class TransactionState(enum.Enum):
    """How far a transaction is."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    STAGED = "STAGED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"


_SAY_ALL = (SerializationError, OSError, ImportError)
"""What a store raises whose text is enough: a full disk, no access, a package that is missing."""
_ENDED = (TransactionState.COMMITTED, TransactionState.ROLLED_BACK)


class TransactionCourse:
    """What a transaction is, and what becomes of it; `Transaction` adds the face for users."""

    def __init__(
        self,
        key: str | None = None,
        store: ResultStore | None = None,
        commit_mode: CommitMode | str | None = None,
        isolation_level: IsolationLevel | str | None = None,
        *,
        overwrite: bool = False,
        write_on_commit: bool = True,
        logger: Logger | None = None,
        parent: TransactionCourse | None = None,
    ) -> None:
        self.key = key
        self.store: ResultStore | None = store
        self.commit_mode: CommitMode | None = choice_of(CommitMode, commit_mode, "commit_mode")
        self.isolation_level: IsolationLevel | None = choice_of(
            IsolationLevel, isolation_level, "isolation_level"
        )
        self.overwrite = overwrite
        self.write_on_commit = write_on_commit
        self.logger: Logger | None = logger
        self.parent: TransactionCourse | None = parent
        self.state: TransactionState = TransactionState.PENDING
        self.children: list[TransactionCourse] = []
        self.on_commit_hooks: list[Hook] = []
        self.on_rollback_hooks: list[Hook] = []
        self.hook_errors: list[Exception] = []
        """What hooks raised, of this transaction and not of those inside."""
        self._values: dict[str, Any] = {}
        self._record: ResultRecord | None = None
        self._staged: Any = None
        self._written_with: Mapping[str, Any] = {}
        self._joining = threading.Lock()
        self._has_lock = False
        # Of the outermost: it is the holder of all locks, since two inside may want the same.
        self._holder = ""
        self._locks: dict[tuple[int, str], int] = {}

    def _place_in(self, around: TransactionCourse | None, logger: Logger | None) -> None:
        """Take what the surroundings give for what was not given by the user."""
        self.parent = around if self.parent is None else self.parent
        self.logger = logger if self.logger is None else self.logger

    # --- how it is done ----------------------------------------------------------------

    def _beginning(self, lock_timeout: float | None) -> Course[bool]:
        if self.state is not TransactionState.PENDING:
            raise RuntimeError(f"a transaction that is {self.state.name} cannot begin")
        around = self.parent
        if self.commit_mode is None:
            self.commit_mode = around.commit_mode if around else CommitMode.LAZY
        if self.isolation_level is None:
            self.isolation_level = (
                around.isolation_level if around else IsolationLevel.READ_COMMITTED
            )
        if self.key and self.store is None:
            self.store = store_of()
        manager = self._lock_manager()
        if (
            manager is not None
            and self.key
            and not (yield from self._taking_lock(manager, self.key, lock_timeout))
        ):
            return False
        try:
            if self.key and self.store is not None and not self.overwrite:
                key, store = self.key, self.store
                self._record = yield UseStore(lambda: store.read(key))
        except BaseException:
            self._release_lock()
            raise
        self.state = TransactionState.ACTIVE
        if self._record is not None:
            self.state = TransactionState.COMMITTED
            self._release_lock()
        return True

    def _ending(self, failed: bool) -> Course[None]:
        if failed:
            yield from self._rolling_back()
        elif self.commit_mode is CommitMode.EAGER:
            yield from self._committing()
        if self.parent is not None:
            yield from self.parent._taking_over(self)
        elif self.commit_mode is CommitMode.OFF:
            yield from self._rolling_back()
        elif not failed:
            yield from self._committing()

    def _taking_over(self, child: TransactionCourse) -> Course[None]:
        """Decide about a transaction inside that has ended: now, or with this one."""
        if child.state is TransactionState.ROLLED_BACK:
            yield from self._rolling_back()
            return
        with self._joining:  # it must not be decided between the question and the answer
            state = self.state
            if state not in _ENDED:
                self.children.append(child)
        if state is TransactionState.COMMITTED:
            yield from child._committing()
        elif state is TransactionState.ROLLED_BACK:
            yield from child._rolling_back()

    def _committing(self) -> Course[bool]:
        if self.state in _ENDED:
            return False
        try:
            for child in self.children:
                yield from child._committing()
            for hook in self.on_commit_hooks:
                yield from self._running(hook, "commit")
            if self.key and self.store is not None and self.write_on_commit:
                key, store = self.key, self.store
                yield UseStore(lambda: store.write(key, self._staged, **self._written_with))
        except Exception as error:  # noqa: BLE001  (the work is done; the log tells)
            self._tell_why_not(error)
            yield from self._rolling_back()
            return False
        finally:
            self._release_lock()
        with self._joining:
            self.state = TransactionState.COMMITTED
        self._staged = None  # it may be large
        for child in self.children:  # those that joined meanwhile; for the others this is nothing
            yield from child._committing()
        return True

    def _rolling_back(self) -> Course[bool]:
        with self._joining:
            if self.state in _ENDED:
                return False
            self.state = TransactionState.ROLLED_BACK
        self._staged = None
        try:
            yield from self._undoing(self.on_rollback_hooks)
            for child in reversed(self.children):
                yield from child._rolling_back()
        finally:
            self._release_lock()
        return True

    def _undoing(self, hooks: list[Hook]) -> Course[None]:
        for hook in reversed(hooks):
            # The others have to undo what they can all the same; `_running` has noted it.
            with contextlib.suppress(Exception):
                yield from self._running(hook, "rollback")

    def _running(self, hook: Hook, kind: str) -> Course[None]:
        name = getattr(hook, "__name__", None) or repr(hook)
        self._tell(logging.INFO, "Running %s hook %r", kind, name)
        try:
            yield RunHook(hook, self)
        except Exception as error:
            self.hook_errors.append(error)
            self._tell(logging.ERROR, "%s hook %r failed", kind.capitalize(), name, error=error)
            raise
        self._tell(logging.INFO, "%s hook %r finished", kind.capitalize(), name)

    def _tell_why_not(self, error: Exception) -> None:
        """Say why it was not committed; a hook's error has been told with its traceback."""
        if error in self.hook_errors:
            self._tell(logging.ERROR, "The transaction %r was not committed: %r", self.key, error)
        elif isinstance(error, _SAY_ALL):
            self._tell(
                logging.WARNING,
                "The result of the transaction %r cannot be stored, so it is not committed; "
                "the run goes on: %s",
                self.key,
                error if isinstance(error, SerializationError) else _with_type(error),
            )
        else:
            self._tell(logging.ERROR, "The transaction %r was not committed", self.key, error=error)

    def _tell(
        self, level: int, line: str, *values: Any, error: BaseException | None = None
    ) -> None:
        (self.logger or _log).log(level, line, *values, exc_info=error)

    # --- its lock ----------------------------------------------------------------------

    def _lock_manager(self) -> LockManager | None:
        if self.isolation_level is not IsolationLevel.SERIALIZABLE or self.store is None:
            return None
        if self.store.lock_manager is None:
            raise ValueError(
                f"transaction {self.key!r} is to be SERIALIZABLE, and its store has no locks for "
                "that: give the ResultStore a lock_manager, such as "
                "penstock.locking.FileLockManager(folder)"
            )
        return self.store.lock_manager

    def _outermost(self) -> TransactionCourse:
        each = self
        while each.parent is not None:
            each = each.parent
        return each

    def _taking_lock(self, manager: LockManager, key: str, timeout: float | None) -> Course[bool]:
        root = self._outermost()
        root._holder = root._holder or f"transaction {uuid.uuid4()}"
        taken: bool = yield TakeLock(manager, key, root._holder, timeout)
        if taken:
            lock = (id(manager), key)
            with root._joining:
                root._locks[lock] = root._locks.get(lock, 0) + 1
            self._has_lock = True
        return taken

    def _release_lock(self) -> None:
        if not self._has_lock:
            return
        self._has_lock = False
        assert self.store is not None
        assert self.store.lock_manager is not None
        assert self.key is not None
        manager, root = self.store.lock_manager, self._outermost()
        lock = (id(manager), self.key)
        with root._joining:
            root._locks[lock] -= 1
            is_last = not root._locks[lock]
        if is_last:
            manager.release_lock(self.key, root._holder)


def _with_type(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
