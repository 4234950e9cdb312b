"""How much memory the driver needs for many runs, each figure from a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
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

MEASURE = """
before = peak()
run(int(sys.argv[1]))
after = peak()
print((after - before) * 1024 / int(sys.argv[1]))
"""

OURS = """
import sys
from benchmarks.work import nothing
from penstock import flow, task

noop = task(nothing)
"""

MAP = """
@flow(task_runner=sys.argv[2])
def run(items): noop.map(range(items)).wait()

run(1000)
"""

STREAM = """
@flow(task_runner=sys.argv[2])
def run(items):
    for future in noop.map(iter(range(items)), max_in_flight=64):
        future.result()

run(1000)
"""

THREADS = """
import sys
from benchmarks.work import nothing
from concurrent.futures import ThreadPoolExecutor

def run(items):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(nothing, i) for i in range(items)]
        for future in futures: future.result()

run(1000)
"""

LOKY = """
import sys
from benchmarks.work import nothing
from loky import ProcessPoolExecutor

pool = ProcessPoolExecutor(2)

def run(items):
    futures = [pool.submit(nothing, i) for i in range(items)]
    for future in futures: future.result()

run(1000)
"""

DASK = """
import sys
from benchmarks.work import nothing
from distributed import Client

client = Client(sys.argv[2])

def run(items): client.gather(client.map(nothing, range(items), pure=False))

run(100)
"""


def bytes_an_item(program: str, items: int, where: str = "") -> float:
    """Return by how much the peak of a fresh process grew, for each item."""
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PEAK + program + MEASURE, str(items), where],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root, "PENSTOCK_LOGGING_LEVEL": "WARNING"},
    )
    return float(done.stdout)


def compared(
    course: Course,
    program: str,
    where: str,
    floor_program: str,
    limit: float | None,
    *,
    floor_items: int = 100_000,
) -> None:
    items = course.size(100_000)
    ours = course.record(lambda: bytes_an_item(program, items, where))
    floor = bytes_an_item(floor_program, course.size(floor_items), where)
    course.note(ours, floor, None, "bytes an item")
    if not course.is_smoke and limit is not None:
        assert ours <= limit


def test_map_memory(course: Course) -> None:
    """Peak memory of the driver, a map of 100 000 on threads; floor: ThreadPoolExecutor."""
    compared(course, OURS + MAP, "thread:2", THREADS, MAP_LIMIT_BYTES)


def test_stream_memory(course: Course) -> None:
    """The same from an iterator, 64 in flight; floor: ThreadPoolExecutor."""
    compared(course, OURS + STREAM, "thread:2", THREADS, STREAM_LIMIT_BYTES)


def test_map_memory_on_processes(course: Course) -> None:
    """Peak memory of the driver, a map of 100 000 on processes; floor: loky, 20 000."""
    compared(course, OURS + MAP, "process:2", LOKY, None, floor_items=20_000)


def test_map_memory_on_dask(course: Course, cluster_address: str) -> None:
    """Peak memory of the driver, a map of 100 000 on Dask; floor: client.map, 5 000."""
    program = OURS + MAP.replace("sys.argv[2]", "'dask:' + sys.argv[2]")
    compared(course, program, cluster_address, DASK, None, floor_items=5_000)
