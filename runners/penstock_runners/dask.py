"""The runner that runs attempts on a Dask cluster: a local one, or any that there is."""

from __future__ import annotations

import dataclasses
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal

from penstock.by_value import ByValue
from penstock.cpus import usable_cpus
from penstock.task_runners import Capabilities, TaskRunner
from penstock_runners.dask_cluster.connection import Connection
from penstock_runners.dask_cluster.preflight import compare
from penstock_runners.dask_cluster.session import Session
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set
    from typing import Self

    from penstock.task_runners import Attempt, Event

__all__ = ["DaskTaskRunner"]

WORKER_TIMEOUT_SECONDS: Final = 60.0

_log = logging.getLogger("penstock.dask")

_FINE: Final[weakref.WeakKeyDictionary[Any, frozenset[str]]] = weakref.WeakKeyDictionary()
"""By client, the workers of whose versions there is nothing to say."""


class DaskTaskRunner(TaskRunner):
    """Runs attempts on the workers of a Dask cluster, which need nothing of Penstock.

    Without arguments it makes a local cluster, one process for each CPU. What it did not open, it
    does not close. Each batch of attempts goes to one worker, so that the loss of a worker costs
    what was with it, and Dask runs nothing a second time. What runs in a worker cannot be stopped.

    Tasks of a script, or of files beside it, go to a cluster by value, with what they use of other
    such files, unless that cannot be pickled. What is installed here has to be installed there, or
    named in `ship_modules`.

    Results from about a megabyte on stay with the workers and feed the next tasks from there, until
    somebody asks for them; see the option `result_on` of a task.

    Args:
        address: of a running scheduler, as in ``"tcp://host:8786"``.
        client: a `distributed.Client` to use.
        cluster: a cluster object to use, such as a `distributed.LocalCluster`.
        cluster_class: a class to make a cluster from, or where it is found, as in
            ``"dask_jobqueue:SLURMCluster"``.
        cluster_kwargs: its arguments; without `cluster_class`, those of the local cluster.
        n_workers: how many processes a local cluster has.
        adapt_kwargs: let a cluster that is made here grow and shrink: arguments of its `adapt()`.
            While there is work, it does not shrink below what it has.
        security: a `distributed.Security`, for TLS.
        connect_timeout_seconds: how long to wait for the scheduler.
        worker_timeout_seconds: how long there may be work and no worker.
        ship_modules: names of modules that workers cannot import; what they define goes by value.
        strict: whether any difference of versions is an error, and not only one of Python's.
        reaches_storage: which stores of results workers use themselves, for large results and what
            is made of them: ``"network"`` those of URLs such as ``s3://``, ``"machine"`` folders
            of the driver's machine as well, which they may have by a shared disk. They need
            Penstock and the storage's own package for that. By default workers of a local cluster
            use both, and others ``"nothing"``: the driver does it for them.

    Raises:
        ValueError: the arguments name two clusters, or none that there could be.
    """

    capabilities = Capabilities(
        isolation="process",
        pickles=True,
        async_functions=True,
        keeps_results=True,
        elastic=True,
        schedules_resources=True,
        names_workers=True,
    )

    def __init__(
        self,
        address: str | None = None,
        *,
        client: Any = None,
        cluster: Any = None,
        cluster_class: type[Any] | str | None = None,
        cluster_kwargs: Mapping[str, Any] | None = None,
        n_workers: int | None = None,
        adapt_kwargs: Mapping[str, Any] | None = None,
        security: Any = None,
        connect_timeout_seconds: float = 10.0,
        worker_timeout_seconds: float = WORKER_TIMEOUT_SECONDS,
        ship_modules: Sequence[str] = (),
        strict: bool = False,
        reaches_storage: Literal["nothing", "network", "machine"] | None = None,
    ) -> None:
        self.where = Where(
            address=address,
            client=client,
            cluster=cluster,
            cluster_class=cluster_class,
            cluster_kwargs=cluster_kwargs,
            n_workers=n_workers,
            security=security,
            adapt_kwargs=adapt_kwargs,
            timeout_seconds=connect_timeout_seconds,
        )
        if not worker_timeout_seconds > 0:
            raise ValueError(
                f"worker_timeout_seconds is a number above 0, not {worker_timeout_seconds!r}"
            )
        if reaches_storage is None:
            reaches_storage = "machine" if self.where.is_local else "nothing"
        self.capabilities = dataclasses.replace(
            self.capabilities,
            shares_workers=not self.where.is_made_here,
            reaches_storage=reaches_storage,
        )
        self.worker_timeout_seconds = worker_timeout_seconds
        self.ship_modules = tuple(ship_modules)
        self.strict = strict
        self._live: tuple[Connection, Session] | None = None
        self._process_id = 0

    @classmethod
    def from_spec(cls, argument: str) -> Self:
        """Make a runner from ``""``, ``"4"`` (local workers) or the address of a scheduler."""
        where = Where.from_spec(argument)
        return cls(where.address, n_workers=where.n_workers)

    def for_run(self) -> TaskRunner:
        """Return a copy that is not open."""
        runner = super().for_run()
        assert isinstance(runner, DaskTaskRunner)
        runner._live = None
        return runner

    def open(
        self,
        report: Callable[[Event], None],
        options: Mapping[str, Any],  # noqa: ARG002  (no hint matters here)
    ) -> None:
        """Connect, compare versions, and get ready.

        Raises:
            ConnectionError: no scheduler answers; the message says what to try.
            RuntimeError: the cluster cannot be made or used, or its versions do not fit.
        """
        if self._live is not None and self._process_id == os.getpid():
            raise RuntimeError("this task runner is open already: use for_run() for another run")
        connection = Connection(self.where)
        client = connection.open()
        try:
            session = Session(
                connection,
                client,
                self,
                report,
                self.ship_modules,
                self.worker_timeout_seconds,
                lambda workers: self._check_versions(client, workers.keys()),
            )
        except BaseException:
            connection.close()
            raise
        self._process_id = os.getpid()
        self._live = connection, session

    def _check_versions(self, client: Any, workers: Set[str]) -> None:
        if self.where.is_local:
            return  # this very interpreter
        if workers and workers <= _FINE.get(client, frozenset[str]()):
            return  # the client was given, and is used again
        found = compare(client.get_versions(check=False))
        if found.is_fatal(strict=self.strict):
            raise RuntimeError(found.message())
        if found.is_fine:
            _FINE[client] = frozenset(workers)
        else:
            _log.warning("%s", found.message())

    def slots(self) -> int:
        """How many attempts can run at once; 0 while there is no worker."""
        return 0 if self._live is None else self._live[1].slots

    def credit(self) -> int:
        """Return enough for full batches, less what runs or waits."""
        return 0 if self._live is None else max(0, self._live[1].credit)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Take the attempts."""
        if self._live is None:
            raise RuntimeError("this task runner is not open: call open() before submit()")
        if self._process_id != os.getpid():
            raise RuntimeError(
                "this task runner was opened in the parent process, before a fork, and its "
                "connection is there: make a new one in the child"
            )
        if attempts:
            self._live[1].submit(attempts)

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:  # noqa: ARG002
        """Drop what has not begun. What runs goes on: Dask cannot stop it."""
        if self._live is not None and self._process_id == os.getpid():
            self._live[1].cancel(attempt_ids)

    def by_value(self) -> ByValue:
        """Return what goes by value, to other machines all that is not installed."""
        return ByValue(self.ship_modules, only_installed=not self.where.is_local)

    def cannot_offer(self, resources: Mapping[str, float]) -> str:  # noqa: ARG002
        """Return an empty string: workers come and go, and each may have anything."""
        return ""

    def summary(self) -> str:
        """Say where it runs."""
        where = self.where
        if where.is_local:
            count = where.count_workers(usable_cpus())
            return f"a local Dask cluster, {count} worker{'' if count == 1 else 's'}"
        return "a Dask cluster" if where.address is None else f"the Dask cluster at {where.address}"

    def close(self, grace_seconds: float = 0.0) -> None:
        """Wait for running attempts up to `grace_seconds`, then leave, and close what is ours."""
        live, self._live = self._live, None
        if live is None or self._process_id != os.getpid():
            return
        connection, session = live
        try:
            session.close(grace_seconds)
        finally:
            connection.close()
