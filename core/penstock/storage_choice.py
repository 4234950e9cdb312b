"""Which store a result goes to, by what its task says and what the settings say for the rest."""

from __future__ import annotations

import datetime
import functools
import logging
import os
from typing import TYPE_CHECKING, Any

from penstock import settings
from penstock.filesystems import FileSystem, LocalFileSystem, filesystem_of
from penstock.locking import FileLockManager, LockManager
from penstock.results import Collected, ResultStore

if TYPE_CHECKING:
    from penstock.serializers import Serializer

__all__ = ["collect_if_due", "store_of"]

_log = logging.getLogger("penstock.results")

_LOCKS = ".locks"
_MARK = ".collected"
"""A hidden file; it was written when the last collection began."""


def store_of(
    storage: str | os.PathLike[str] | FileSystem | ResultStore | None = None,
    serializer: str | Serializer | None = None,
    now: settings.Settings | None = None,
) -> ResultStore:
    """Return the store of a place.

    The same place gives the same store again, so that this may be asked for every run. The locks
    of a folder are in the folder. Those of any other place are on this machine, and so hold among
    the drivers on it and no others, unless the storage is a `ResultStore` with a lock manager.

    Args:
        storage: a folder, a URL, a file system, or a store; None is what the settings say.
        serializer: how values are written; None is what the store or the settings say.
        now: the settings; by default those that hold here and now.

    Raises:
        ValueError: there is no serializer of that name.
        TypeError: the storage is none of these.
    """
    if isinstance(storage, ResultStore):
        return storage if serializer is None else storage.with_serializer(serializer)
    now = settings.current() if now is None else now
    place: Any = now.results_local_storage_path if storage is None else storage
    return _store(
        _absolute(place),
        serializer or now.results_default_serializer,
        now.results_signing_key,
        now.results_allow_shared_folder,
        _absolute(now.results_local_storage_path),
    )


def _absolute(place: Any) -> Any:
    """Return a folder by its full path, since working directory and home can change.

    Raises:
        TypeError: it is not a place at all.
    """
    if isinstance(place, os.PathLike):
        place = os.fspath(place)
    if isinstance(place, str) and place and "://" not in place:
        return os.path.abspath(os.path.expanduser(place))
    return place if isinstance(place, str) else filesystem_of(place)


@functools.lru_cache(maxsize=256)
def _store(
    place: Any, serializer: str | Serializer, signing_key: str | None, shared: bool, home: str
) -> ResultStore:
    store = ResultStore(place, serializer, signing_key=signing_key, allow_shared_folder=shared)
    store.lock_manager = _locks_of(store.filesystem, home, shared)
    return store


def _locks_of(files: FileSystem, home: str, shared: bool) -> LockManager:
    if isinstance(files, LocalFileSystem):
        return _file_locks(str(files.basepath / _LOCKS), shared)
    folder = home if "://" not in home else settings.Settings().results_local_storage_path
    return _file_locks(os.path.join(os.path.expanduser(folder), _LOCKS), shared)


@functools.cache
def _file_locks(folder: str, shared: bool) -> FileLockManager:
    # One for all stores of a folder, so that a lock that one of them took is known to the others.
    return FileLockManager(folder, shared=shared)


def collect_if_due(
    store: ResultStore,
    *,
    every: datetime.timedelta = datetime.timedelta(hours=1),
    now: datetime.datetime | None = None,
) -> Collected | None:
    """Collect what expired, and what is over the size of the settings, if nobody did of late.

    To be called in a thread of its own. An error is a warning in the log.

    Returns:
        What was deleted; None if it was not time yet, or did not work.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    try:
        last = store.filesystem.entry_at(_MARK)
        if last is not None and (last.used_at or 0.0) > (moment - every).timestamp():
            return None
        store.filesystem.write_path(_MARK, b"")
        return store.collect(settings.current().results_max_bytes, moment)
    except Exception as error:  # noqa: BLE001  (house-keeping must not fail what it keeps)
        _log.warning("%r was not cleared of old results: %s", store, error)
        return None
