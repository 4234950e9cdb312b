"""A Dask cluster that knows nothing of Penstock: law 6, rows 13-15, 23 and 38 of users.md.

Scheduler and workers are started by Dask's command line from an environment of their own, with
another working directory. The flow is a script, whose functions nobody can import.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import distributed
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Making the environment takes as long as the package index does.
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    # Of optional packages; those that matter are the runner's to look at.
    pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning"),
]

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of an environment with Dask and numpy, and without Penstock."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    packages = ["dask", "distributed", "cloudpickle", "numpy"]
    pip = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {packages} here: {done.stderr.strip()[-300:]}")
    found = subprocess.run([python, "-c", "import penstock"], capture_output=True, check=False)
    assert found.returncode != 0, "Penstock must not be there"
    return python


@pytest.fixture(scope="module")
def address(bare_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a cluster of two workers, one of them looked after by a nanny."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    port = address.rpartition(":")[2]
    commands = [
        ["distributed.cli.dask_scheduler", *here, "--port", port],
        ["distributed.cli.dask_worker", address, *here, "--nthreads", "1", "--no-nanny"],
        ["distributed.cli.dask_worker", address, *here, "--nthreads", "1", "--name", "nursed"],
    ]
    processes = [
        subprocess.Popen(
            [bare_python, "-m", *command],
            cwd=elsewhere,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        with distributed.Client(address, timeout=30, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(processes):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, as a terminal would, and do not leave it to chance."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


SCRIPT = """
import contextvars, logging, os, sys
logging.basicConfig(level="WARNING")  # who wants to see what libraries say says so
from penstock import flow, get_run_logger, task
from penstock_runners.dask import DaskTaskRunner

LEVEL = contextvars.ContextVar("LEVEL", default="unset")

class Thing:
    def __init__(self, x):
        self.x = x

class Problem(Exception):
    pass

class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(first)

def helper(thing):
    return Thing(thing.x + 1)

@task(log_prints=True)
def talk(name):
    logging.getLogger("a.library").warning("a library of %s", name)
    print("printed by", name)
    return "penstock" in sys.modules

@task
def compute(thing):
    return helper(helper(thing))

@task
def fail():
    try:
        {}["missing"]
    except KeyError as error:
        problem = Problem("one")
        problem.second = 2
        raise problem from error

@task
def fail_oddly():
    raise TwoArguments("one", 2)

@task(propagate=[LEVEL])
def level():
    return LEVEL.get()

@task
def make_array(n):
    import numpy
    return numpy.arange(n)

@task
def total(array):
    return int(array.sum())

@task(crash_retries=1, workers=["nursed"])
def die_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3)
    return "well"

@task
async def wait_a_little():
    import asyncio
    await asyncio.sleep(0.01)
    return "awaited"

@flow(task_runner=DaskTaskRunner(sys.argv[1]))
def main():
    print("installed", talk.submit("me").result())
    print("thing", compute.submit(Thing(1)).result().x)
    error = fail.submit().exception()
    print("error", type(error) is Problem, error.second, repr(error.__cause__))
    print("odd", type(fail_oddly.submit().exception()).__name__)
    LEVEL.set("set by the flow")
    print("level", level.submit().result())
    array = make_array.submit(1_000_000)
    print("total", total.submit(array).result(), total.map([array] * 3).result()[2])
    print("array", len(array.result()))
    future = die_once.submit(sys.argv[2])
    print("crash", future.result(), future.run.run_count)
    print("async", wait_a_little.submit().result())
    print("mapped", sum(compute.map([Thing(n) for n in range(200)]).result()[-1].x for _ in [0]))

main()
"""


def test_a_flow_runs_on_a_cluster_without_penstock(address: str, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script), address, str(tmp_path / "tried")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    total = sum(range(1_000_000))
    assert done.stdout.splitlines() == [
        "installed False",
        "thing 3",
        "error True 2 KeyError('missing')",
        "odd RemoteTaskError",
        "level set by the flow",
        f"total {total} {total}",
        "array 1000000",
        "crash well 2",
        "async awaited",
        "mapped 201",
    ]
    assert "a library of me" in done.stderr
    assert "Task run 'talk-0' - printed by me" in done.stderr
    assert "Attempt 1 crashed" in done.stderr
    assert "distributed" not in done.stderr, "no noise of Dask's"
    assert time.monotonic() - began < 100


HELPERS = """
import deeper

class Thing:
    def __init__(self, x):
        self.x = x

def triple(thing):
    return Thing(deeper.times(3, thing.x))
"""

TASKS = """
from penstock import task
import helpers

@task
def triple(thing):
    return helpers.triple(thing)

@task
def import_late(x):
    import deeper
    return deeper.times(2, x)
"""

SCRIPT_WITH_HELPERS = """
import sys
from penstock import flow
from penstock_runners.dask import DaskTaskRunner
from helpers import Thing
import tasks

@flow(task_runner=DaskTaskRunner(sys.argv[1]))
def main():
    thing = tasks.triple.submit(Thing(2)).result()
    print(type(thing) is Thing, thing.x)
    print([each.x for each in tasks.triple.map([Thing(1), Thing(2)]).result()])
    error = tasks.import_late.submit(1).exception()
    print(type(error).__name__, error.name, *error.__notes__)

main()
"""


def test_helpers_in_files_beside_a_script_go_along(address: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "deeper.py").write_text("def times(a, b):\n    return a * b\n")
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "script.py").write_text(SCRIPT_WITH_HELPERS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), address],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert (first, second) == ("True 6", "[3, 6]")
    assert third.startswith("ModuleNotFoundError deeper (this Dask worker cannot import 'deeper'")
    assert "import it at the top of the module that uses it" in third
