"""Imported first in each worker of a local cluster: it dies with the process that looks after it.

Dask's own watch is a thread, which cannot run while a task holds the GIL; the kernel can.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from typing import Final

__all__ = ["tie_to_parent"]

_PR_SET_PDEATHSIG: Final = 1


def tie_to_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends. Linux only.

    The thread is one of Dask's, and lives as long as its worker process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# Dask imports this in the worker; imported anywhere else, it does nothing.
if multiprocessing.parent_process() is not None:
    tie_to_parent()
