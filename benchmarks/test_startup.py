"""What importing Penstock, and a first flow, cost a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.conftest import Course

IMPORT_LIMIT_SECONDS = 0.100
ALL_LIMIT_SECONDS = 0.130
THREADS_LIMIT_SECONDS = 0.200
PROCESSES_LIMIT_SECONDS = 0.450

WITH_CACHE = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Without byte code on the disk, compiling would be all that is measured."""

FIRST_RESULT = """
from penstock import flow, task

@task
def double(x):
    return 2 * x

@flow(task_runner=RUNNER)
def first():
    return double.submit(21).result()

assert first() == 42
"""


def seconds_for(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=WITH_CACHE)
    return time.perf_counter() - began


def over_the_interpreter(course: Course, program: str, limit: float) -> None:
    """Compare a program with `pass`; the limit is on what it takes more."""
    items = 1
    figure = course.against(
        lambda: seconds_for("pass"),
        lambda: seconds_for(program),
        items=items,
        target=None,
        rounds=15,
        unit="us a process",
    )
    if not course.is_smoke:
        assert (figure.ours_us - figure.floor_us) / 1e6 <= limit


def test_import(course: Course) -> None:
    """`from penstock import flow, task`; floor: the bare interpreter."""
    over_the_interpreter(course, "from penstock import flow, task", ALL_LIMIT_SECONDS)


def test_bare_import(course: Course) -> None:
    """`import penstock`, which loads a name when it is asked for; floor: the bare interpreter."""
    over_the_interpreter(course, "import penstock", IMPORT_LIMIT_SECONDS)


def test_first_result_on_threads(course: Course) -> None:
    """First flow and first result from process start, threads; floor: the bare interpreter."""
    program = FIRST_RESULT.replace("RUNNER", "'thread'")
    over_the_interpreter(course, program, THREADS_LIMIT_SECONDS)


def test_first_result_on_processes(course: Course) -> None:
    """First flow and first result from process start, processes; floor: the bare interpreter."""
    program = FIRST_RESULT.replace("RUNNER", "'process:2'")
    over_the_interpreter(course, program, PROCESSES_LIMIT_SECONDS)
