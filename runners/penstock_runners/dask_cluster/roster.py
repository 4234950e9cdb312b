"""The workers of a cluster as far as we know them, and which one gets the next batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["DaskWorker", "Roster"]

BATCHES_AHEAD: Final = 1
"""How many batches wait at a worker for each of its threads, beside those that run."""


@dataclasses.dataclass(slots=True, eq=False)
class DaskWorker:
    """One worker."""

    address: str
    name: str
    threads: int
    memory_limit: int
    """In bytes; 0 is none."""
    resources: Mapping[str, float]
    batches: int = 0
    """How many of ours are on their way to it, or running there."""
    parcels: set[bytes] = dataclasses.field(default_factory=set[bytes])
    """Digests of what it is known to have."""
    is_missing: bool = False
    """The scheduler did not name it when last asked."""

    @property
    def has_room(self) -> bool:
        """Whether it should get another batch."""
        return not self.is_missing and self.batches < self.threads * (1 + BATCHES_AHEAD)

    @property
    def label(self) -> str:
        """How it is named to people."""
        return self.address if self.name in ("", self.address) else f"{self.name} ({self.address})"

    def fits(self, names: Sequence[str], resources: Mapping[str, float]) -> bool:
        """Whether it is among those named, if any are, and has the resources."""
        if names and self.address not in names and self.name not in names:
            host = self.address.rpartition("://")[2].rpartition(":")[0]
            if host not in names:
                return False
        return all(self.resources.get(name, 0.0) >= need for name, need in resources.items())


class Roster:
    """The workers that are there."""

    def __init__(self) -> None:
        self._workers: dict[str, DaskWorker] = {}

    def __iter__(self) -> Iterator[DaskWorker]:
        return iter(tuple(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def slots(self) -> int:
        """How many attempts can run at once."""
        return sum(worker.threads for worker in self._workers.values())

    @property
    def most_bytes(self) -> int:
        """How much memory a worker may use at most, of those there are; 0 is any amount."""
        limits = [worker.memory_limit for worker in self._workers.values()]
        return 0 if 0 in limits else max(limits, default=0)

    def update(self, infos: Mapping[str, Mapping[str, Any]]) -> list[DaskWorker]:
        """Take what the scheduler says of workers by their addresses.

        Returns:
            Workers that were not named twice in a row. Usually an event tells that one has left,
            and after all that it had to say; hence the patience.
        """
        gone = [worker for worker in self if worker.address not in infos and worker.is_missing]
        for worker in self:
            worker.is_missing = worker.address not in infos
        for address, info in infos.items():
            if address not in self._workers and info.get("status", "running") == "running":
                self._workers[address] = DaskWorker(
                    address,
                    str(info.get("name", "")),
                    int(info.get("nthreads", 1)),
                    int(info.get("memory_limit") or 0),
                    dict(info.get("resources") or {}),
                )
        return gone

    def remove(self, address: str) -> DaskWorker | None:
        """Note that a worker has left."""
        return self._workers.pop(address, None)

    def choose(
        self,
        names: Sequence[str],
        resources: Mapping[str, float],
        near: Mapping[str, int],
    ) -> DaskWorker | None:
        """Return who should get the next batch, or None if nobody has room.

        Args:
            names: who may, if not anybody.
            resources: what it must have.
            near: how many bytes of the arguments are where, by address.
        """
        best: DaskWorker | None = None
        for worker in self._workers.values():
            if not worker.has_room or not worker.fits(names, resources):
                continue
            if best is None or _rank(worker, near) < _rank(best, near):
                best = worker
        return best

    def offers(self) -> str:
        """Say what workers there are, for a message."""
        if not self._workers:
            return "there are no workers"
        return "; ".join(f"{one.label}: {_shown(one.resources.items())}" for one in self)


def _rank(worker: DaskWorker, near: Mapping[str, int]) -> tuple[int, float]:
    return -near.get(worker.address, 0), worker.batches / worker.threads


def _shown(resources: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources) or "no resources"
