"""Who owns the cluster and the client: opens what is needed, closes what it opened."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, Final

import dask.config
import distributed
from distributed.versions import VersionMismatchWarning

from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.probing import probe
from penstock_runners.dask_cluster.scaling import Floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock_runners.dask_cluster.where import Where

__all__ = ["Connection"]

_CLOSING_SECONDS: Final = 5.0
_GREETINGS: Final = 3
"""How often a client is made that misunderstands the scheduler."""

_PACKAGES: Final = {"dask_cloudprovider": "dask-cloudprovider[all]"}
"""Where the name to install is not that of the module with hyphens."""


class Connection:
    """One client of one Dask cluster.

    What was given is used and left as it was; what was made here is closed here.
    """

    def __init__(self, where: Where) -> None:
        self.where = where
        self._client: Any = None
        self._cluster: Any = None
        self._local: LocalClusterProcess | None = None
        self._floor: Floor | None = None
        self._opened_in = 0

    @property
    def is_ours(self) -> bool:
        """Whether the cluster is made here, so that it runs nothing twice by itself."""
        return self.where.is_made_here

    @property
    def is_elastic(self) -> bool:
        """Whether the cluster may grow and shrink: all but a local one of a fixed size."""
        return not (self.where.is_local and self.where.adapt_kwargs is None)

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler has gone away. Asks nobody, so that it never waits."""
        return self._client is not None and self._client.status != "running"

    def open(self) -> distributed.Client:
        """Return a client for use from any thread, also from one that runs an event loop.

        Raises:
            ConnectionError: no scheduler answers there; the message says why and what to try.
            RuntimeError: the cluster cannot be made, or the one given cannot be used.
        """
        if self._client is not None:
            raise RuntimeError("this connection is open already")
        self._opened_in = os.getpid()
        try:
            self._client = self._make_client()
        except BaseException:
            self.close()
            raise
        client: distributed.Client = self._client
        return client

    def close(self) -> None:
        """Close what was opened here. Twice does no harm; in a forked child, nothing."""
        if self._opened_in != os.getpid():
            return
        self.release_floor()
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        local, self._local = self._local, None
        self._floor = None
        try:
            if client is not None and client is not self.where.client:
                with _quiet_client():
                    client.close(timeout=_CLOSING_SECONDS)
        finally:
            if local is not None:
                local.close()
            if cluster is not None and cluster is not self.where.cluster:
                cluster.close(timeout=_CLOSING_SECONDS)

    def hold_floor(self, workers: int) -> None:
        """Keep an adaptive cluster from shrinking below so many workers, while there is work.

        It is a floor for those that are there, and no order for more. Where the cluster does not
        scale by itself, or does so elsewhere (`address=`), nothing happens.
        """
        if self._local is not None:
            self._local.hold_floor(workers)
        elif self._floor is not None:
            self._floor.hold(workers)

    def release_floor(self) -> None:
        """Let the cluster shrink again as its owner meant it."""
        if self._local is not None:
            self._local.hold_floor(None)
        elif self._floor is not None:
            self._floor.release()

    # --- which client ------------------------------------------------------------------

    def _make_client(self) -> distributed.Client:
        where = self.where
        if where.client is not None:
            return _usable_client(where.client)
        if where.address is not None:
            return _connect(where.address, where.security, where.timeout_seconds)
        if where.is_local:
            self._local = LocalClusterProcess(where)
            return _connect(self._local.address, self._security(), where.timeout_seconds)
        self._cluster = where.cluster
        if where.cluster_class is not None:
            self._cluster = self._make_cluster()
        self._floor = self._find_floor()
        return _connect(*_whereabouts(self._cluster), where.timeout_seconds)

    def _security(self) -> Any:
        return self.where.security or (self.where.cluster_kwargs or {}).get("security")

    def _make_cluster(self) -> Any:
        where = self.where
        assert where.cluster_class is not None
        make = _load_class(where.cluster_class)
        kwargs = dict(where.cluster_kwargs or {})
        if where.security is not None:
            kwargs.setdefault("security", where.security)
        try:
            # Whether a lost attempt is made again is not for Dask to decide.
            with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
                return make(**kwargs)
        except Exception as error:
            hint = (
                " In a script, a LocalCluster needs `if __name__ == '__main__':` around what "
                "starts the flow; without cluster_class, a local cluster needs no such thing."
                if isinstance(make, type) and issubclass(make, distributed.LocalCluster)
                else ""
            )
            raise RuntimeError(
                f"no cluster could be made by {_name(make)}: {type(error).__name__}: {error}. "
                f"Its arguments are the cluster_kwargs.{hint}"
            ) from error

    def _find_floor(self) -> Floor | None:
        if self.where.adapt_kwargs is not None:
            adaptive = self._cluster.adapt(**self.where.adapt_kwargs)
        else:
            adaptive = getattr(self._cluster, "_adaptive", None)  # its owner's, if there is one
        # Some clusters scale on a server of theirs, and return nothing to hold.
        return Floor(adaptive) if hasattr(adaptive, "minimum") else None


def _connect(address: str, security: Any, timeout_seconds: float) -> distributed.Client:
    probe(address, security, timeout_seconds)
    with warnings.catch_warnings():
        # A preflight says it better, and says what to do.
        warnings.simplefilter("ignore", VersionMismatchWarning)
        problem: Exception | None = None
        for _ in range(_GREETINGS):
            try:
                return distributed.Client(  # type: ignore[no-untyped-call]
                    address,
                    security=security,
                    timeout=timeout_seconds,
                    set_as_default=False,  # the user may have a default of their own
                    asynchronous=False,
                    name="penstock",
                )
            except AssertionError as error:
                # What the scheduler tells all clients may come along with its greeting, and a
                # client wants that by itself.
                problem = error
            except OSError as error:
                problem = error
                break
    raise ConnectionError(
        f"the Dask scheduler at {address!r} answered, and then took no client: {problem!r}"
    ) from problem


def _usable_client(client: Any) -> distributed.Client:
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client, not {type(client).__name__}")
    if client.asynchronous:
        raise RuntimeError(
            "the client given is an asynchronous one, and its event loop is busy with the flow. "
            "Give `address=client.scheduler.address` instead, or a client made without "
            "asynchronous=True."
        )
    if client.status != "running":
        raise RuntimeError(
            f"the Dask client given is {client.status}: make a new one, or give `address=`"
        )
    return client


def _whereabouts(cluster: Any) -> tuple[str, Any]:
    """Return address and security of a cluster.

    A client by address has an event loop of its own, whichever loop the cluster lives on.
    """
    address = getattr(cluster, "scheduler_address", None)
    if not isinstance(address, str) or "://" not in address:
        raise RuntimeError(
            f"cluster must be a Dask cluster that runs, not {cluster!r}: it has no "
            "scheduler_address. Was it closed, or not started?"
        )
    if _lives_on_the_loop_of_this_thread(cluster):
        raise RuntimeError(
            "this cluster lives on the event loop of the flow, which cannot serve it while it "
            "waits. Make it without asynchronous=True, or name it by `address=` from elsewhere."
        )
    return address, getattr(cluster, "security", None)


def _lives_on_the_loop_of_this_thread(cluster: Any) -> bool:
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop = getattr(cluster, "loop", None)
    return getattr(loop, "asyncio_loop", None) is running


def _load_class(given: type[Any] | str) -> Any:
    if not isinstance(given, str):
        return given
    module_name, _, name = given.replace(":", ".").rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        top = module_name.partition(".")[0]
        package = _PACKAGES.get(top, top.replace("_", "-"))
        raise RuntimeError(
            f"cluster_class {given!r} cannot be imported: {error}. Perhaps: pip install {package}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise RuntimeError(
            f"cluster_class {given!r}: the module {module_name!r} has no {name!r}"
        ) from error


def _name(make: Any) -> str:
    return f"{getattr(make, '__module__', '?')}.{getattr(make, '__qualname__', repr(make))}"


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    # Closed while it looks for a lost scheduler, a client logs the traceback of its own end.
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
