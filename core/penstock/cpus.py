"""How many CPUs this process may use, which in a container is not what the machine has."""

from __future__ import annotations

import functools
import math
import os
import pathlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cgroup_cpus", "usable_cpus"]

_ROOT: Final = pathlib.Path("/")


def usable_cpus() -> int:
    """Return the number of CPUs by affinity and by the quota of the cgroup, whichever is less."""
    if hasattr(os, "sched_getaffinity"):
        by_affinity = len(os.sched_getaffinity(0))
    else:
        by_affinity = os.cpu_count() or 1
    quota = cgroup_cpus()
    # Rounded up: of two CPUs that serve 1.5 at most, one would leave a third of it unused.
    return by_affinity if quota is None else max(1, min(by_affinity, math.ceil(quota)))


@functools.cache
def cgroup_cpus(root: pathlib.Path = _ROOT) -> float | None:
    """Return how many CPUs' worth of time the cgroup may use; None: no limit, or no cgroups.

    A quota holds for the whole tree below it, so the least on the way up counts. It is read once:
    every flow asks, and that takes a dozen files.
    """
    quotas: list[float] = []
    for directory in _cgroup_directories(root):
        quota = _quota_of(directory)
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _cgroup_directories(root: pathlib.Path) -> Iterator[pathlib.Path]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            mounted = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        elif "cpu" in controllers.split(","):
            mounted = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct")
        else:
            continue
        inside = pathlib.PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:  # above the root of our namespace, where nothing can be seen
            inside = pathlib.PurePosixPath()
        for mount in mounted:
            # In a container the path may be the host's, which is not there; its root is ours.
            for step in (inside, *inside.parents):
                yield root / mount / step


def _quota_of(directory: pathlib.Path) -> float | None:
    words = _read(directory / "cpu.max").split()  # of version 2
    if not words:
        words = [*_read(directory / "cpu.cfs_quota_us").split()]
        words += _read(directory / "cpu.cfs_period_us").split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None  # "max", or -1: unlimited
    quota, period = map(int, words)
    return quota / period if quota and period else None


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
