"""How much memory the driver needs for many runs, each figure from a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.conftest import Course

MAP_LIMIT_BYTES = 1500
STREAM_LIMIT_BYTES = 50
"""An endless map is to stay flat: this is what noise and fragmentation may add up to."""

PEAK = """
def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""

PROGRAM = """
import sys
from penstock import flow, task
from penstock.settings import temporary_settings

@task
def noop(x): return None

@flow(task_runner="thread:2")
def mapped(items): noop.map(range(items)).wait()

@flow(task_runner="thread:2")
def streamed(items):
    for future in noop.map(iter(range(items)), max_in_flight=64):
        future.result()

run = {"map": mapped, "stream": streamed}[sys.argv[1]]
with temporary_settings(logging_level="WARNING"):
    run(1000)
    before = peak()
    run(int(sys.argv[2]))
    after = peak()
print((after - before) * 1024 / int(sys.argv[2]))
"""

POOL = """
import sys
from concurrent.futures import ThreadPoolExecutor

def noop(x): return None

def run(items):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(noop, i) for i in range(items)]
        for future in futures: future.result()

run(1000)
before = peak()
run(int(sys.argv[2]))
after = peak()
print((after - before) * 1024 / int(sys.argv[2]))
"""


def bytes_an_item(program: str, kind: str, items: int) -> float:
    """Return by how much the peak of a fresh process grew, for each item."""
    command = [sys.executable, "-c", PEAK + program, kind, str(items)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compared(course: Course, kind: str, limit: float) -> None:
    items = course.size(100_000)
    ours = course.record(lambda: bytes_an_item(PROGRAM, kind, items))
    floor = bytes_an_item(POOL, kind, items)
    course.note(ours, floor, None, "bytes an item")
    if not course.is_smoke:
        assert ours <= limit


def test_map_memory(course: Course) -> None:
    """Peak memory of the driver, a map of 100 000; floor: ThreadPoolExecutor."""
    compared(course, "map", MAP_LIMIT_BYTES)


def test_stream_memory(course: Course) -> None:
    """The same from an iterator, 64 in flight; floor: ThreadPoolExecutor."""
    compared(course, "stream", STREAM_LIMIT_BYTES)
