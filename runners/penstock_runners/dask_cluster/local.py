"""A Dask cluster on this machine, as the driver sees it: one process that runs the rest.

`distributed.LocalCluster` in the driver would put the scheduler under the driver's GIL, need a
main guard in scripts, and change the driver's own settings of Dask. In a process of its own it
does none of that, and the end of its standard input tells it that the driver is gone, however
that went.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import dask.config
import loky

from penstock_runners.thread_variables import variables_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock_runners.dask_cluster.where import Where

__all__ = ["LocalClusterProcess"]

_START: Final = (
    "import pickle, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "sys.path[:], start = pickle.load(sys.stdin.buffer)\n"
    "from penstock_runners.dask_cluster.host import main\n"
    "main(pickle.loads(start))\n"
)

_QUIET: Final = (
    "{'distributed': 'critical', 'distributed.nanny.memory': 'warning', "
    "'distributed.worker.memory': 'warning'}"
)
"""What Dask may log: deaths are told by the runner, but not what memory has to do with it."""

_CLOSING_SECONDS: Final = 4.0


class LocalClusterProcess:
    """A local cluster that is up when this has been made, and gone after `close()`.

    Args:
        where: how many workers, with which arguments.

    Raises:
        RuntimeError: it did not start; the message says why.
    """

    def __init__(self, where: Where) -> None:
        self._made_in = os.getpid()
        answers, answer_to = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  (this interpreter, our text)
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                env=_environment(where),
                pass_fds=(answer_to,),
                process_group=0,  # Ctrl-C is the driver's
            )
        except BaseException:
            os.close(answers)
            raise
        finally:
            os.close(answer_to)
        with open(answers, "rb") as stream:
            self._tell_quietly(_start_message(where, answer_to))
            self.address = self._read_address(stream.read())

    def hold_floor(self, workers: int | None) -> None:
        """Keep an adaptive cluster from shrinking below so many workers; None: as it was."""
        self._tell_quietly(f"{-1 if workers is None else workers}\n".encode())

    def close(self) -> None:
        """End the processes of the cluster. Twice does no harm; in a forked child, nothing."""
        if self._made_in != os.getpid():
            return
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            stdin.close()
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell_quietly(self, message: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # If it is gone, that shows in its answer, or as a scheduler that is lost.
        with contextlib.suppress(BrokenPipeError, ValueError):
            stdin.write(message)
            stdin.flush()

    def _read_address(self, answer: bytes) -> str:
        kind, _, text = answer.decode(errors="replace").partition(" ")
        if kind == "address":
            return text
        self.close()
        reason = text or f"its process ended with exit code {self._process.returncode}"
        raise RuntimeError(
            f"the local Dask cluster did not start: {reason}. "
            "Check n_workers and cluster_kwargs, or name a running cluster by `address=`."
        )


def _start_message(where: Where, answer_to: int) -> bytes:
    given = dict(where.cluster_kwargs or {})
    scheduler_kwargs = dict(given.pop("scheduler_kwargs", None) or {})
    if "dashboard_address" not in given:
        # Its HTTP server starts in any case, and is not to complain of a port that is taken.
        scheduler_kwargs = {
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        } | scheduler_kwargs
    kwargs = {
        "threads_per_worker": 1,
        "processes": True,
        "host": None if "interface" in given else "127.0.0.1",
        "security": where.security,
        **given,
        "scheduler_kwargs": scheduler_kwargs,
        "n_workers": where.count_workers(loky.cpu_count()),
        "silence_logs": False,  # levels are set by the environment
        "asynchronous": True,
    }
    adapt_kwargs = None if where.adapt_kwargs is None else dict(where.adapt_kwargs)
    start = (answer_to, os.getpid(), dask.config.config, kwargs, adapt_kwargs)
    try:
        directory = os.getcwd()
    except FileNotFoundError:  # deleted under our feet; workers have one anyway
        directory = ""
    return pickle.dumps(([directory, *sys.path], cloudpickle.dumps(start)))


def _environment(where: Where) -> Mapping[str, str]:
    """Return the environment of scheduler and workers: what the user has set stays."""
    kwargs: Mapping[str, Any] = where.cluster_kwargs or {}
    workers = max(1, where.count_workers(loky.cpu_count()))
    threads = int(kwargs.get("threads_per_worker") or 1)
    share = variables_for(workers * threads, os.environ)
    return share | {"DASK_LOGGING": _QUIET} | os.environ
