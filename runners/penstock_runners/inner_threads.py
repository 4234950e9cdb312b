"""Keeps the threads of numerical libraries to their share of the CPUs, in threads of this process.

Of 8 tasks that multiply matrices at once on 8 CPUs, each would use 8 threads. While a thread runner
is open, BLAS and OpenMP libraries that are loaded get `CPUs // slots` threads and never more than
they had, unless a variable of the user's environment says how many.

*Process-wide* settings, such as those of numpy's own OpenBLAS, are changed and restored by whoever
opens and closes runners; of several that are open, the one with the most slots decides. *Settings
of a thread*, as of OpenMP and MKL, are changed by each worker thread for itself, and end with it.

The libraries are looked for when a runner is opened, and at a submit if modules were imported since
the last time: a task may have been the first to import one.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any, Final, NamedTuple

from penstock_runners.thread_variables import THREAD_VARIABLES, share_of_cpus

__all__ = ["INNER_THREADS", "InnerThreads", "Share"]

NUMERICAL: Final = (
    "numpy",
    "scipy",
    "torch",
    "sklearn",
    "numba",
    "numexpr",
    "tensorflow",
    "xgboost",
    "lightgbm",
    "faiss",
    "cv2",
)
"""Without one of these modules there is nothing to look for."""
LOOK_SECONDS: Final = 0.02
"""A look costs 0.2 ms, and a program may import a thousand modules while it submits."""
VARIABLES: Final = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
"""What each of threadpoolctl's kinds of libraries listens to."""

logger = logging.getLogger("penstock.task_runners.thread")


class Share(NamedTuple):
    """What worker threads set for themselves."""

    threads: int
    libraries: tuple[Any, ...]


class InnerThreads:
    """Process-wide, as the libraries are. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.share: Share | None = None
        """Another object whenever something has changed. None: nothing to do."""
        self._lock = threading.Lock()
        self._slots: list[int] = []
        """Of each runner that is open."""
        self._changed: dict[str, tuple[Any, int]] = {}
        """By file, the process-wide libraries, and how many threads they had."""
        self._modules_seen = -1
        self._look_at = 0.0
        self._of_thread = threading.local()

    def open(self, slots: int) -> None:
        """A runner with so many slots begins to run tasks."""
        with self._lock:
            self._slots.append(slots)
            self._look()

    def close(self, slots: int) -> None:
        """Such a runner has ended; with the last one, all is as it was."""
        with self._lock:
            self._slots.remove(slots)
            if self._slots:
                self._look()
                return
            self.share = None
            self._modules_seen = -1
            changed, self._changed = self._changed, {}
            for library, had in changed.values():
                _set_threads(library, had)

    def refresh(self) -> None:
        """Look again if modules have been imported. For each submit: it costs next to nothing."""
        if len(sys.modules) != self._modules_seen and time.monotonic() >= self._look_at:
            with self._lock:
                if self._slots:
                    self._look()

    def apply_here(self) -> None:
        """Set what is set thread by thread, in this one."""
        share = self.share
        if share is None:
            return
        had: dict[str, int] = vars(self._of_thread)
        for library in share.libraries:
            threads = had.setdefault(library.filepath, library.num_threads or 0)
            if threads:
                _set_threads(library, min(threads, share.threads))

    def forget_in_child(self) -> None:
        """In a forked child: the runners are the parent's. The libraries stay as they are."""
        self._lock = threading.Lock()
        self._slots.clear()
        self.share = None

    def _look(self) -> None:
        self._modules_seen = len(sys.modules)  # before the look: what is being imported is new
        if not any(name in sys.modules for name in NUMERICAL):
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        threads = share_of_cpus(max(self._slots))
        own = []
        for library in _libraries():
            names = VARIABLES.get(library.internal_api, THREAD_VARIABLES)
            if any(name in os.environ for name in names):
                continue
            if _is_set_by_thread(library):
                own.append(library)
                continue
            had = library.num_threads
            if library.filepath not in self._changed and had:
                self._changed[library.filepath] = library, had
        for library, had in self._changed.values():
            _set_threads(library, min(had, threads))
        share = Share(threads, tuple(own)) if own else None
        if _key(share) != _key(self.share):
            self.share = share


def _libraries() -> list[Any]:
    # Imported where it is needed: most programs have no numerical library, and it takes 20 ms.
    import threadpoolctl

    try:
        return list(threadpoolctl.ThreadpoolController().lib_controllers)
    except Exception:  # tasks run without it, only slower
        logger.warning("numerical libraries are not limited to their share of CPUs", exc_info=True)
        return []


def _is_set_by_thread(library: Any) -> bool:
    layer = getattr(library, "threading_layer", "")
    return library.internal_api in ("openmp", "mkl") or layer == "openmp"


def _set_threads(library: Any, threads: int) -> None:
    library.set_num_threads(threads)
    # threadpoolctl gives OpenBLAS to the first thread that sets it, for as long as that lives. The
    # next to set it may be another thread, such as one whose task says `threadpool_limits`.
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release()


def _key(share: Share | None) -> tuple[int, list[str]] | None:
    return None if share is None else (share.threads, [one.filepath for one in share.libraries])


INNER_THREADS: Final = InnerThreads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=INNER_THREADS.forget_in_child)
