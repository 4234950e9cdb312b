"""Penstock: tasks and flows that run on threads, processes or a Dask cluster, with no server.

Importing it opens no file, socket, thread or database. The names below are loaded when they are
first asked for, so that a worker, which needs `penstock.worker` only, is there at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from penstock._version import __version__

if TYPE_CHECKING:
    from penstock.annotations import allow_failure, opaque, quote, unmapped
    from penstock.context import tags
    from penstock.flows import Flow, flow
    from penstock.futures import PenstockFuture, PenstockFutureList, as_completed, wait
    from penstock.logging import get_run_logger
    from penstock.pausing import (
        apause_flow_run,
        aresume_flow_run,
        asuspend_flow_run,
        pause_flow_run,
        resume_flow_run,
        suspend_flow_run,
    )
    from penstock.states import State
    from penstock.tasks import Task, task
    from penstock.transactions import Transaction
    from penstock.unsupported import adeploy, aserve, deploy, get_client, serve

__all__ = [
    "Flow",
    "PenstockFuture",
    "PenstockFutureList",
    "State",
    "Task",
    "Transaction",
    "__version__",
    "adeploy",
    "allow_failure",
    "apause_flow_run",
    "aresume_flow_run",
    "as_completed",
    "aserve",
    "asuspend_flow_run",
    "deploy",
    "flow",
    "get_client",
    "get_run_logger",
    "opaque",
    "pause_flow_run",
    "quote",
    "resume_flow_run",
    "serve",
    "suspend_flow_run",
    "tags",
    "task",
    "unmapped",
    "wait",
]

_HOMES = {
    "annotations": ("allow_failure", "opaque", "quote", "unmapped"),
    "context": ("tags",),
    "flows": ("Flow", "flow"),
    "futures": ("PenstockFuture", "PenstockFutureList", "as_completed", "wait"),
    "logging": ("get_run_logger",),
    "pausing": (
        "apause_flow_run",
        "aresume_flow_run",
        "asuspend_flow_run",
        "pause_flow_run",
        "resume_flow_run",
        "suspend_flow_run",
    ),
    "states": ("State",),
    "tasks": ("Task", "task"),
    "transactions": ("Transaction",),
    "unsupported": ("adeploy", "aserve", "deploy", "get_client", "serve"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name, or a module of the package, when it is first asked for."""
    home = _HOME_OF.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"penstock.{home}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"penstock.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"penstock.{name}":
                raise
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
