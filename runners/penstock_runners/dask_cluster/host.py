"""What the process of a local cluster does: the scheduler, nannies for the workers, and its end.

It reads its standard input: first what to start, then the floor below which an adaptive cluster
must not shrink, a number a line. The end of it is the end of the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import dask.config
import distributed
import psutil

from penstock_runners.dask_cluster.scaling import Floor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_ORDERLY_SECONDS: Final = 2.0
_LOOK_FOR_PARENT_SECONDS: Final = 0.5

_OWN_SETTINGS: Final = {
    # Tasks may use multiprocessing.
    "distributed.worker.daemon": False,
    # A nanny sees the death of its worker; one that holds the GIL for minutes is not dead.
    "distributed.scheduler.worker-ttl": None,
    # Whether a lost attempt is made again is not for Dask to decide.
    "distributed.scheduler.allowed-failures": 0,
    # So long after a death, a cluster gives a worker up for good that is not there just then: it
    # may be about to start again after another death.
    "distributed.deploy.lost-worker-timeout": "1000 days",
}
_LIFELINE: Final = "penstock_runners.dask_cluster.lifeline"

_Start: TypeAlias = tuple[int, int, dict[str, Any], dict[str, Any], dict[str, Any] | None]


def main(start: _Start) -> None:
    """Run a cluster until the standard input ends or the driver is gone."""
    answer_to, driver, config, kwargs, adapt_kwargs = start
    os.set_inheritable(answer_to, False)
    lifeline = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # what tasks find as their standard input
        os.dup2(nothing.fileno(), 0)
    dask.config.update(dask.config.config, config, priority="new")
    preload = [*dask.config.get("distributed.worker.preload", []), _LIFELINE]
    dask.config.set(_OWN_SETTINGS | {"distributed.worker.preload": preload})
    # If the driver is killed, there is nobody left to be told so.
    logging.getLogger("distributed.scheduler").addFilter(
        lambda record: not str(record.msg).startswith("Closed comm")
    )
    asyncio.run(_serve(_Wires(answer_to, lifeline, driver), kwargs, adapt_kwargs))


class _Wires(NamedTuple):
    answer_to: int
    lifeline: int
    driver: int


async def _serve(
    wires: _Wires, kwargs: dict[str, Any], adapt_kwargs: dict[str, Any] | None
) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    floors: list[Floor] = []
    with open(wires.answer_to, "wb") as answers:  # noqa: ASYNC230  (a pipe that nobody fills)
        try:
            cluster = await distributed.LocalCluster(**kwargs)  # type: ignore[no-untyped-call]
            if adapt_kwargs is not None:
                floors.append(Floor(cluster.adapt(**adapt_kwargs)))
        except Exception as error:  # noqa: BLE001  (the driver tells it to its user)
            answers.write(f"error {_root_of(error)}".encode())
            return

        def listen() -> None:
            with open(wires.lifeline, "rb") as lines:
                for line in lines:
                    loop.call_soon_threadsafe(_move_floor, floors, int(line))
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=listen, name="lifeline", daemon=True).start()
        answers.write(f"address {cluster.scheduler_address}".encode())
    await _driver_gone(over, lambda: os.getppid() != wires.driver)
    await _end(cluster)


def _root_of(error: BaseException) -> str:
    while error.__cause__ is not None:  # "Nanny failed to start." helps nobody
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _move_floor(floors: list[Floor], workers: int) -> None:
    for floor in floors:
        if workers < 0:
            floor.release()
        else:
            floor.hold(workers)


async def _driver_gone(over: asyncio.Event, is_orphan: Callable[[], bool]) -> None:
    # A child that the driver has forked keeps the pipe open after it; hence the second look.
    while not (over.is_set() or is_orphan()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), _LOOK_FOR_PARENT_SECONDS)


async def _end(cluster: Any) -> None:
    """Close in order, so that no semaphore or directory stays, but do not wait for tasks."""
    workers = [nanny.pid for nanny in cluster.workers.values() if getattr(nanny, "pid", None)]
    descendants = [each for pid in workers for each in _family(pid)]
    closing = asyncio.ensure_future(cluster.close())
    await asyncio.sleep(0)  # the nannies know now that they must not start others
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ORDERLY_SECONDS):
            await closing
            return
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    sys.stderr.flush()
    os._exit(1)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.Error:
        return []
