"""The runner that runs attempts in worker processes of this machine."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from penstock.cpus import usable_cpus
from penstock.sizes import format_size, parse_size
from penstock.task_runners import (
    Capabilities,
    TaskRunner,
    checked_resources,
    count_from_spec,
    show_resources,
)
from penstock.worker import culprit, packing
from penstock_runners.process_pool.crew import Plan
from penstock_runners.process_pool.memory import resident_bytes
from penstock_runners.process_pool.registry import POOLS
from penstock_runners.thread_variables import describe_share, variables_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from penstock.task_runners import Attempt, Event
    from penstock_runners.process_pool.registry import Lease

__all__ = ["ProcessPoolTaskRunner"]

ATTEMPTS_PER_SLOT: Final = 1024
"""Taken ahead for each slot: enough for full batches while the next ones are asked for."""


class ProcessPoolTaskRunner(TaskRunner):
    """Runs attempts in processes: fresh interpreters, without a fork or a main guard.

    A worker that dies costs the one attempt that it ran, and an attempt that must stop is stopped
    by killing its worker. Tasks may be functions of a script, a notebook, lambdas and closures.
    The workers stay for a minute after the last run that used them.

    Args:
        max_workers: how many attempts run at once; by default the CPUs that this process may use,
            by affinity and cgroup.
        initializer: called in each worker before anything else.
        initargs: its arguments.
        env: environment variables of the workers, set before anything is imported there.
        max_tasks_per_worker: after so many attempts a worker is replaced, against leaks.
        ship_modules: names of modules that workers cannot import; what they define goes by value.
        worker_memory_limit: the resident memory a worker may use, such as ``"2GB"``, or a number of
            bytes. One that uses more is replaced when its attempt has ended, and killed with the
            attempt if that goes on for more than a moment.
        resources: what there is for attempts to share, such as ``{"GPU": 2}``. A whole amount of
            something is so many of its indices, in ``penstock.runtime.task_run.resources``; while
            an attempt has indices of ``"GPU"``, ``CUDA_VISIBLE_DEVICES`` is set to them. CUDA reads
            that once in the life of a process: where attempts use different devices, give each a
            fresh one by ``max_tasks_per_worker=1``.
    """

    capabilities = Capabilities(
        isolation="process",
        kill="hard",
        pickles=True,
        async_functions=True,
        keeps_warm=True,
        reaches_storage="machine",
        takes_series=True,
    )

    warm_seconds: ClassVar[float] = 60.0
    """How long the workers stay when no run uses them; a subclass may have another opinion."""

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        env: Mapping[str, str] | None = None,
        max_tasks_per_worker: int | None = None,
        ship_modules: Sequence[str] = (),
        worker_memory_limit: int | str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = usable_cpus()
        self.max_workers = _positive("max_workers", max_workers)
        if max_tasks_per_worker is not None:
            _positive("max_tasks_per_worker", max_tasks_per_worker)
        if initializer is not None and not callable(initializer):
            raise ValueError(f"initializer must be a function, not {initializer!r}")
        self.max_tasks_per_worker = max_tasks_per_worker
        self.worker_memory_limit: int | None = None
        if worker_memory_limit is not None:
            self.worker_memory_limit = parse_size("worker_memory_limit", worker_memory_limit)
            if resident_bytes(os.getpid()) is None:
                raise ValueError(
                    "worker_memory_limit cannot be kept here: this system has no /proc that tells "
                    "how much memory a process uses"
                )
        self.initializer = initializer
        self.initargs = tuple(initargs)
        self.env = {str(name): str(value) for name, value in (env or {}).items()}
        self.ship_modules = tuple(ship_modules)
        self.resources = checked_resources(resources)
        self._lease: Lease | None = None

    @classmethod
    def from_spec(cls, argument: str) -> Self:
        """Make a runner from ``"4"``, a number of processes, or from ``""``."""
        return cls(count_from_spec(argument, "process", "processes")) if argument else cls()

    def for_run(self) -> TaskRunner:
        """Return a copy that is not open."""
        runner = super().for_run()
        assert isinstance(runner, ProcessPoolTaskRunner)
        runner._lease = None
        return runner

    def open(
        self,
        report: Callable[[Event], None],
        options: Mapping[str, Any],  # noqa: ARG002  (no hint matters here)
    ) -> None:
        """Get ready; the first attempt starts the first worker, if none is warm."""
        if self._lease is not None and self._lease.process_id == os.getpid():
            raise RuntimeError("this task runner is open already: use for_run() for another run")
        plan = Plan(
            self.max_workers,
            tuple(sorted(self.worker_env().items())),
            self._pack_initializer(),
            self.max_tasks_per_worker,
            self.ship_modules,
            _surroundings(),
            self.warm_seconds,
            self.worker_memory_limit,
        )
        self._lease = POOLS.lease(plan, report, self)

    def summary(self) -> str:
        """Return how many processes there are, and what each may use."""
        processes = f"{self.max_workers} process{'' if self.max_workers == 1 else 'es'}"
        parts = [processes, describe_share(self.max_workers, os.environ | self.env)]
        if self.worker_memory_limit is not None:
            parts.append(f"at most {format_size(self.worker_memory_limit)} each")
        if self.resources:
            parts.append(show_resources(self.resources))
        return ", ".join(parts)

    def slots(self) -> int:
        """How many attempts can run at once."""
        return self.max_workers

    def credit(self) -> int:
        """Return enough for full batches, less what runs or waits."""
        if self._lease is None:
            return 0
        return max(0, ATTEMPTS_PER_SLOT * self.max_workers - self._lease.client.open_attempts)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Take the attempts and start workers for them as far as there may be more."""
        lease = self._lease
        if lease is None:
            raise RuntimeError("this task runner is not open: call open() before submit()")
        if lease.process_id != os.getpid():
            raise RuntimeError(
                "this task runner was opened in the parent process, before a fork, and its "
                "workers belong there: make a new one in the child"
            )
        if attempts:
            lease.pool.submit(lease.client, attempts)

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        """Drop what has not begun; with `hard`, kill the workers of what has."""
        lease = self._lease
        if lease is not None and lease.process_id == os.getpid():
            lease.pool.cancel(lease.client, attempt_ids, hard)

    def close(self, grace_seconds: float = 0.0) -> None:
        """Wait for running attempts up to `grace_seconds`, then kill their workers.

        The other workers stay warm for the next run.
        """
        lease, self._lease = self._lease, None
        if lease is not None and lease.process_id == os.getpid():
            lease.close(time.monotonic() + grace_seconds, grace_seconds)

    def worker_env(self) -> dict[str, str]:
        """Return what is added to the environment of workers.

        Their numerical libraries share the CPUs, unless the user has said how many threads.
        """
        return variables_for(self.max_workers, os.environ | self.env) | self.env

    def _pack_initializer(self) -> bytes | None:
        if self.initializer is None:
            return None
        try:
            return packing.dumps((self.initializer, self.initargs))
        except Exception as error:
            both = (self.initializer, *self.initargs)
            raise TypeError(culprit.explain_value("initializer", both)) from error


def _surroundings() -> tuple[str, ...]:
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # deleted under our feet; workers have one anyway
        directory = ""
    return directory, *sys.path


def _positive(name: str, value: int) -> int:
    # A bool is an int, and max_workers=True surely meant something else.
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, not {value!r}")
    return value
