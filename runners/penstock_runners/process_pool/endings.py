"""What is reported of attempts that did not come to an end of their own, and why they did not."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from penstock.attempt import Outcome
from penstock.sizes import format_size

if TYPE_CHECKING:
    from penstock_runners.process_pool.jobs import Job
    from penstock_runners.process_pool.workers import Killing, Worker

__all__ = ["describe_exit", "died_with_worker", "ended_before_kill", "stopped_early"]


def stopped_early(job: Job) -> Outcome:
    """Return the outcome of a job that was cancelled before it began."""
    return Outcome(job.attempt.id, "stopped", reason="cancelled before it began", began=False)


def ended_before_kill(killing: Killing, worker: Worker, outcome: Outcome) -> Outcome:
    """Return the outcome of a job that was to be killed, and came to an end just before."""
    worker.read_stack()
    if killing.is_wanted:
        reason = "stopped on request, in the moment before its worker was killed"
    else:
        reason = f"{killing.fault}, and was about to be killed for that"
    return outcome._replace(
        kind="stopped" if killing.is_wanted else "lost",
        value=None,
        error=None,
        reason=reason + worker.user_stack(),
    )


def died_with_worker(worker: Worker, job: Job, code: int | None) -> Outcome:
    """Return the outcome of the job that a dead worker ran."""
    killing = worker.killing if worker.killing and worker.killing.job is job else None
    when = "while it ran this attempt"
    if killing is None:
        reason = f"{worker.name} {describe_exit(code, when, worker.memory_bytes)}"
    elif killing.is_wanted:
        reason = f"stopped on request: {worker.name} was killed"
    else:
        reason = f"{killing.fault}, and was killed {when}"
    return Outcome(
        job.attempt.id,
        "stopped" if killing is not None and killing.is_wanted else "lost",
        reason=reason + worker.user_stack(),
        began=True,
        duration_seconds=max(0.0, time.monotonic() - worker.slot.began),
        worker=worker.name,
    )


def describe_exit(code: int | None, when: str, memory_bytes: int | None) -> str:
    """Return a phrase such as ``"ended with exit code 3 while it ran this attempt"``.

    Args:
        code: as `multiprocessing` has it, negative for a signal; None if it cannot be known.
        when: what the worker was at.
        memory_bytes: what it was last seen to use; None if nobody looked.
    """
    if code is None:
        return f"ended {when}, nobody knows how"
    if code >= 0:
        return f"ended with exit code {code} {when}"
    if -code == signal.SIGKILL:
        last = "" if memory_bytes is None else f"it last used {format_size(memory_bytes)}: "
        return f"was killed by SIGKILL {when} ({last}likely out of memory, or killed from outside)"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name} {when}"
