"""Penstock: tasks and flows that run on threads, processes or a Dask cluster, with no server.

Importing it opens no file, socket, thread or database.
"""

from penstock._version import __version__
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
from penstock.unsupported import adeploy, aserve, deploy, get_client, serve

__all__ = [
    "Flow",
    "PenstockFuture",
    "PenstockFutureList",
    "State",
    "Task",
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
