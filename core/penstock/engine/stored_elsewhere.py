"""Large results that workers store themselves, and read themselves as arguments.

The driver still decides: it says beforehand where a result goes, only where nothing but the outcome
of the attempt has a say in whether it is stored, and believes that it was when it sees the record.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import pickle
import weakref
from typing import TYPE_CHECKING, Any

from penstock.attempt import KeptResult, RemoteError
from penstock.states import StateType
from penstock.stored_results import ResultWriter, StoredResult, StoredResultLost
from penstock.transactions import IsolationLevel
from penstock.worker.running import STORE_FROM_BYTES

if TYPE_CHECKING:
    from penstock.attempt import Outcome
    from penstock.engine.dispatch import RunnerHandle
    from penstock.filesystems import FileSystem
    from penstock.results import ResultStore
    from penstock.runs import Run, TaskRun
    from penstock.task_runners import Capabilities

__all__ = [
    "can_be_read_there",
    "found_there",
    "keep_apart",
    "record_of",
    "taken",
    "with_lost_inputs",
    "writer_for",
]

_log = logging.getLogger("penstock.engine")

_LOST = f"{StoredResultLost.__module__}.{StoredResultLost.__qualname__}"

_by_place: weakref.WeakValueDictionary[tuple[FileSystem, str], StoredResult] = (
    weakref.WeakValueDictionary()
)
"""Results of this process that only their stores have, as far as is known."""


def writer_for(run: TaskRun) -> bytes | None:
    """Return what stores a run's result in its worker, pickled; None if that is the driver's."""
    keeping, transaction, plan = run.plan.keeping, run.transaction, run.plan
    if keeping is None or transaction is None or not keeping.is_written:
        return None
    if (
        transaction.parent is not None  # a block decides, later
        or transaction.isolation_level is IsolationLevel.SERIALIZABLE
        # A worker that is not ours may outlive the driver, and the lock of the driver's.
        or keeping.on_commit
        or keeping.on_rollback
        or plan.handlers  # they may still make a failure of it
        or plan.result_on == "driver"
        or not _reaches(plan.runner.capabilities, keeping.store)
    ):
        return None
    try:
        return pickle.dumps(
            ResultWriter(keeping.store, transaction.key, keeping.expiration, record_of(run))
        )
    except Exception as error:  # noqa: BLE001  (a file system or a serializer of the user's)
        _log.debug("Task run %r has its result stored by the driver: %r", run.name, error)
        return None


def record_of(run: TaskRun) -> dict[str, Any]:
    """Return what the record of a run's result says besides its value."""
    return {
        "run_id": str(run.id),
        "run_name": run.name,
        "task_name": run.plan.name,
        "parts": run.key_parts or {},
    }


def taken(run: TaskRun, outcome: Outcome, began_at: datetime.datetime) -> Outcome:
    """Return the outcome of an attempt whose worker says that it has stored the result.

    Args:
        run: of the attempt.
        outcome: of the attempt; `stored_bytes` is not None.
        began_at: when the attempt began, by the driver's clock.

    Returns:
        The outcome with what stands for the result, which the driver does not store again; or,
        where the record cannot be found, a ``lost`` one, unless the worker has the result as well.
    """
    keeping, transaction = run.plan.keeping, run.transaction
    assert keeping is not None
    store, key = keeping.store, transaction.key
    found = store.read_metadata(key)
    if found is None or (found.run_id != str(run.id) and found.created_at < began_at):
        if isinstance(outcome.value, KeptResult):
            return outcome  # it comes home from there
        # Its workers do not see the same files after all. From now on the driver stores.
        _note_apart(run.plan.runner)
        reason = (
            f"it has stored its result in {store!r}, and no such record is seen from here; from "
            "now on, results of this task runner are stored by the driver"
        )
        return outcome._replace(kind="lost", reason=reason)
    transaction.write_on_commit = False
    if isinstance(outcome.value, KeptResult):
        return outcome
    stored = StoredResult(store, key, outcome.stored_bytes or 0, is_read_anew=not keeping.in_memory)
    return outcome._replace(value=_noted(stored))


def found_there(run: TaskRun, key: str) -> StoredResult | None:
    """Return what stands for a stored result that the driver need not have; None if it reads it.

    That is a large one that the workers of the run's task runner can read. All of its bytes are
    checked, as if it were read, and it can be made again should it not be what they can load.
    """
    keeping, plan = run.plan.keeping, run.plan
    assert keeping is not None
    store = keeping.store
    if (
        not run.was_submitted
        or not keeping.in_memory
        or plan.result_on == "driver"
        or not plan.runner.capabilities.pickles
        or store.filesystem.reach != "machine"  # from farther away it would come twice
        or not _reaches(plan.runner.capabilities, store)
    ):
        return None
    size_bytes = store.size_of(key)
    if size_bytes is None or size_bytes < STORE_FROM_BYTES:
        return None
    seen = store.examine(key)
    if seen is None or seen.metadata is None:
        return None
    if seen.metadata.is_expired(datetime.datetime.now(datetime.UTC)):
        return None
    return _noted(StoredResult(store, key, size_bytes, is_read_anew=False))


def _noted(stored: StoredResult) -> StoredResult:
    if not stored.is_read_anew:
        _by_place[stored.runner.filesystem, stored.key] = stored
    return stored


def keep_apart(store: ResultStore, key: str) -> None:
    """A run is to write what an earlier one may have nowhere else: take that into memory."""
    stored = _by_place.pop((store.filesystem, key), None)
    if stored is None:
        return
    try:
        stored.bring_home()
    except Exception as error:  # noqa: BLE001  (who asks for it finds that it is lost)
        _log.debug("The result %r was not read before it is replaced: %r", key, error)


def with_lost_inputs(run: Run, outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt, which is ``lost`` if stored arguments could not be read.

    They are made again then. If they can be read here, and their worker does not see the same
    files after all, their values are sent from now on.
    """
    error = outcome.error
    if type(error) is not RemoteError or error.type_name != _LOST:
        return outcome
    arguments = _stored_in([*run.args, *run.kwargs.values()], [], set())
    asked_for = [each for each in arguments if repr(each.key) in error.message]
    lost: list[StoredResult] = []
    try:
        for each in asked_for:
            producer: Run | None = None if each.producer is None else each.producer()
            if _comes_home(each):
                _note_apart(run.plan.runner)
            elif producer is None:
                return outcome  # nobody can make it again
            elif producer.state.type is StateType.COMPLETED and producer.state.data is not each:
                each.superseded_by(producer.state.value())  # somebody has asked for it meanwhile
            else:
                lost.append(each)
    except Exception as problem:  # noqa: BLE001  (the store's: the error is told as it is)
        _log.debug("Arguments of %r cannot be looked at: %r", run.name, problem)
        return outcome
    if not asked_for:
        return outcome  # the function has asked for another
    return outcome._replace(
        kind="lost",
        error=None,
        reason="an argument could not be read from its store",
        began=None if run.starting is None else False,
        lost_inputs=tuple(lost),
    )


def _comes_home(stored: StoredResult) -> bool:
    try:
        stored.bring_home()
    except LookupError:
        return False
    return True


def _stored_in(value: Any, found: list[StoredResult], seen: set[int]) -> list[StoredResult]:
    """Add what stands in the places of futures to `found`, and return that."""
    if isinstance(value, StoredResult):
        found.append(value)
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            _stored_in(item, found, seen)
    return found


def _note_apart(handle: RunnerHandle) -> None:
    handle.capabilities = dataclasses.replace(handle.capabilities, reaches_storage="nothing")


def can_be_read_there(stored: StoredResult, capabilities: Capabilities) -> bool:
    """Whether workers can read a stored result themselves; raises `LookupError` if it is lost."""
    if not (capabilities.pickles and _reaches(capabilities, stored.runner)):
        return False
    if not stored.is_there():
        raise LookupError(stored.how_lost)
    return True


def _reaches(capabilities: Capabilities, store: ResultStore) -> bool:
    if capabilities.shares_workers and store.is_signed:  # the key is nobody else's
        return False
    reach = store.filesystem.reach
    return reach != "process" and capabilities.reaches_storage in (reach, "machine")
