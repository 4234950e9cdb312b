"""Which Dask cluster is meant: checked here, connected elsewhere."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Where"]


@dataclasses.dataclass(frozen=True)
class Where:
    """Which Dask cluster to use. One of the first four says it; without any, a local one is made.

    Args:
        address: of a running scheduler, as in ``"tcp://host:8786"``.
        client: a `distributed.Client` that is connected already. It is used and left open.
        cluster: a cluster object, such as a `distributed.LocalCluster`. It is left running.
        cluster_class: a class to make a cluster from, or where it is found, as in
            ``"dask_jobqueue:SLURMCluster"``. The cluster is closed in the end.
        cluster_kwargs: its arguments; without `cluster_class`, arguments of the local cluster.
        n_workers: how many worker processes a local cluster has; by default one a CPU.
        security: a `distributed.Security`, for TLS. A `client` or `cluster` brings its own.
        adapt_kwargs: let a cluster that is made here grow and shrink: arguments of its `adapt()`.
        timeout_seconds: how long to wait for the scheduler to answer.

    Raises:
        TypeError: an address that is no text.
        ValueError: two clusters are named, or an argument does not go with the one that is.
    """

    address: str | None = None
    client: Any = None
    cluster: Any = None
    cluster_class: type[Any] | str | None = None
    cluster_kwargs: Mapping[str, Any] | None = None
    n_workers: int | None = None
    security: Any = None
    adapt_kwargs: Mapping[str, Any] | None = None
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        named = self._named()
        if len(named) > 1:
            raise ValueError(f"give one of {' and '.join(named)}, not both: each names a cluster")
        self._check_address()
        self._check_class()
        self._check_numbers()
        self._check_company(named[0] if named else None)

    @classmethod
    def from_spec(cls, argument: str) -> Where:
        """Return what stands after the colon of ``"dask:..."``: nothing, a number, an address."""
        if not argument:
            return cls()
        if argument.isascii() and argument.isdecimal() and int(argument) > 0:
            return cls(n_workers=int(argument))
        if "://" in argument or ":" in argument:
            return cls(address=argument)
        raise ValueError(
            "the Dask runner takes a number of local workers, as in 'dask:4', or the address of a "
            f"scheduler, as in 'dask:tcp://host:8786', not {argument!r}"
        )

    @property
    def is_local(self) -> bool:
        """Whether a cluster on this machine is to be made, as no other is named."""
        return not self._named()

    def _named(self) -> list[str]:
        places = ("address", "client", "cluster", "cluster_class")
        return [name for name in places if getattr(self, name) is not None]

    def _check_address(self) -> None:
        if self.address is None:
            return
        if not isinstance(self.address, str):
            raise TypeError(f"address must be text such as 'tcp://host:8786', not {self.address!r}")
        scheme, _, place = self.address.rpartition("://")
        port = place.rpartition(":")[2]
        if scheme != "inproc" and not (":" in place and port.isascii() and port.isdecimal()):
            raise ValueError(
                f"address {self.address!r} has no port number; a scheduler usually has 8786, "
                f"as in 'tcp://host:8786'"
            )

    def _check_class(self) -> None:
        given = self.cluster_class
        if isinstance(given, str):
            module, _, name = given.replace(":", ".").rpartition(".")
            if not (module and all(part.isidentifier() for part in (*module.split("."), name))):
                raise ValueError(
                    "cluster_class must be a class or say where it is found, as in "
                    f"'dask_jobqueue:SLURMCluster', not {given!r}"
                )
        elif given is not None and not callable(given):
            raise ValueError(f"cluster_class must be a class that makes a cluster, not {given!r}")

    def _check_numbers(self) -> None:
        # A bool is an int, and n_workers=True surely meant something else.
        count = self.n_workers
        if count is not None and (type(count) is not int or count < 1):
            raise ValueError(f"n_workers must be a whole number, 1 or more, not {count!r}")
        limit = self.timeout_seconds
        if type(limit) not in (int, float) or not limit > 0:
            raise ValueError(f"timeout_seconds must be a number above 0, not {limit!r}")

    def _check_company(self, named: str | None) -> None:
        is_made_here = named in (None, "cluster_class")
        if self.cluster_kwargs is not None and not is_made_here:
            raise ValueError(f"cluster_kwargs are for a cluster to be made; `{named}` is one")
        if self.adapt_kwargs is not None and not is_made_here:
            raise ValueError(
                f"adapt_kwargs are for a cluster that is made here: whoever made the one of "
                f"`{named}` decides how it scales, by its own adapt()"
            )
        if self.n_workers is not None and named is not None:
            raise ValueError(
                f"n_workers is for a cluster on this machine; with `{named}` the cluster decides"
                + (" (put it into cluster_kwargs)" if named == "cluster_class" else "")
            )
        if self.n_workers is not None and "n_workers" in (self.cluster_kwargs or ()):
            raise ValueError("n_workers is given twice, also among the cluster_kwargs")
        if self.security is not None and named in ("client", "cluster"):
            raise ValueError(f"security is taken from `{named}`, which has its own")

    @property
    def is_made_here(self) -> bool:
        """Whether the cluster is made here, and closed in the end."""
        return self.is_local or self.cluster_class is not None

    def count_workers(self, cpus: int) -> int:
        """Return how many workers a local cluster starts with, on a machine of so many CPUs."""
        kwargs = self.cluster_kwargs or {}
        count = self.n_workers if self.n_workers is not None else kwargs.get("n_workers")
        if count is None and self.adapt_kwargs is not None:
            return int(self.adapt_kwargs.get("minimum", 0))
        return cpus if count is None else int(count)
