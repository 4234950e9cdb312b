"""What importing Penstock, and a first flow, cost a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.conftest import Course

IMPORT_LIMIT_SECONDS = 0.100
FIRST_RESULT_LIMIT_SECONDS = 0.200

FIRST_RESULT = """
from penstock import flow, task

@task
def double(x):
    return 2 * x

@flow
def first():
    return double.submit(21).result()

assert first() == 42
"""


def seconds_for(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
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
    """`import penstock`; floor: the bare interpreter."""
    over_the_interpreter(course, "import penstock", IMPORT_LIMIT_SECONDS)


def test_first_result_on_threads(course: Course) -> None:
    """First flow and first result from process start, threads; floor: the bare interpreter."""
    over_the_interpreter(course, FIRST_RESULT, FIRST_RESULT_LIMIT_SECONDS)
