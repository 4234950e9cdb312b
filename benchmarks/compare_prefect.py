"""The same work by Prefect and by Penstock, in one table; what is not installed is left out.

    pip install -e '.[dask,compare]'
    python benchmarks/compare_prefect.py [--items 200] [--patience 300]

Prefect runs as it comes, with a server of its own on this machine's loopback and a home that is
thrown away; only its telemetry is switched off. Each figure is from a process of its own, the best
of a few repeats in it. The programs differ in their imports and in the names of the runners.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

IMPORT: Final = "from {engine} import flow, task"

SUBMITS: Final = """
import sys, time
from {engine} import flow, task
{import_runner}

@task
def nothing(x):
    return None

@flow(task_runner={runner})
def run(items):
    nothing.submit(0).result()  # by now there are workers, whoever starts them when
    began = time.perf_counter()
    futures = [nothing.submit(i) for i in range(items)]
    for future in futures:
        future.result()
    return time.perf_counter() - began

if __name__ == "__main__":
    run(10)
    print(min(run(int(sys.argv[1])) for _ in range(2)) / int(sys.argv[1]) * 1e6)
"""

CRASH: Final = """
import os, sys
from {engine} import flow, task
{import_runner}

@task
def one(x):
    if x == 3:
        os._exit(1)
    return x

@flow(task_runner={runner})
def run():
    futures = [one.submit(i) for i in range(8)]
    for future in futures:
        try:
            future.wait(60)
        except BaseException:
            pass
    return [future.state.name for future in futures]

if __name__ == "__main__":
    try:
        names = run(return_state=True)
        names = names.result(raise_on_failure=False)
        print(", ".join(f"{{names.count(name)}} {{name}}" for name in sorted(set(names))))
    except BaseException as error:
        print(f"the flow ended with {{type(error).__name__}}")
"""


@dataclasses.dataclass(frozen=True)
class Engine:
    """One of the two, and how its runners are written down."""

    name: str
    modules: Mapping[str, str]
    """By runner: what must be installed."""
    imports: Mapping[str, str]
    runners: Mapping[str, str]

    def lacks(self, runner: str) -> str:
        """Return what is not installed, or an empty string."""
        for module in dict.fromkeys((self.name, self.modules.get(runner, self.name))):
            if importlib.util.find_spec(module) is None:
                return module
        return ""

    def program(self, template: str, runner: str) -> str:
        """Return the program for a runner."""
        return template.format(
            engine=self.name,
            import_runner=self.imports.get(runner, ""),
            runner=self.runners.get(runner, ""),
        )


LOCAL_DASK: Final = "cluster_kwargs={'n_workers': 2, 'threads_per_worker': 1}"
ENGINES: Final = (
    Engine(
        "penstock",
        {"Dask": "distributed"},
        {},
        {"threads": "'thread:2'", "processes": "'process:2'", "Dask": "'dask:2'"},
    ),
    Engine(
        "prefect",
        {"Dask": "prefect_dask"},
        {
            "threads": "from prefect.task_runners import ThreadPoolTaskRunner",
            "processes": "from prefect.task_runners import ProcessPoolTaskRunner",
            "Dask": "from prefect_dask import DaskTaskRunner",
        },
        {
            "threads": "ThreadPoolTaskRunner(max_workers=2)",
            "processes": "ProcessPoolTaskRunner(max_workers=2)",
            "Dask": f"DaskTaskRunner({LOCAL_DASK})",
        },
    ),
)


class NoFigure(Exception):
    """A program did not come to its end; says why."""


def surroundings() -> dict[str, str]:
    """Return the environment, but that byte code may be kept, which imports are slow without."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(program: str, items: int, home: str, patience_seconds: float) -> str:
    """Run a program in a fresh process and return the last line it prints."""
    path = os.path.join(home, "program.py")
    with open(path, "w") as file:
        file.write(program)
    with subprocess.Popen(
        [sys.executable, path, str(items)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # to end it with all that it has started: servers, workers
        env=surroundings()
        | {
            "DO_NOT_TRACK": "1",
            "PENSTOCK_LOGGING_LEVEL": "WARNING",
            "PREFECT_HOME": home,
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        },
    ) as process:
        try:
            output, errors = process.communicate(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            raise NoFigure(f"not over after {patience_seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(process.pid, signal.SIGKILL)
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        said = errors.strip().splitlines() or [f"exit code {process.returncode}"]
        raise NoFigure(said[-1][:80])
    return lines[-1]


def import_milliseconds(engine: Engine, home: str) -> float:
    """Return how long the import takes over the bare interpreter, the best of five."""

    def seconds(program: str) -> float:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env=surroundings() | {"PREFECT_HOME": home},
        )
        return time.perf_counter() - began

    program = engine.program(IMPORT, "")
    return 1e3 * (min(seconds(program) for _ in range(5)) - min(seconds("pass") for _ in range(5)))


def figure(engine: Engine, what: str, runner: str, items: int, patience_seconds: float) -> str:
    """Return one cell of the table."""
    lacks = engine.lacks(runner)
    if lacks:
        return f"skipped: {lacks} is not installed"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        try:
            if what == "import":
                return f"{import_milliseconds(engine, home):.0f} ms"
            if what == "crash":
                return run(engine.program(CRASH, runner), items, home, patience_seconds)
            each = run(engine.program(SUBMITS, runner), items, home, patience_seconds)
            return f"{float(each):,.0f} us"
        except NoFigure as why:
            return f"none: {why}"


def main() -> None:
    """Print the table, row by row as it comes."""
    parser = argparse.ArgumentParser(description="Prefect and Penstock on the same work.")
    parser.add_argument("--items", type=int, default=200, help="tasks to submit (200)")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds to wait for each figure (300)"
    )
    chosen = parser.parse_args()
    items, patience_seconds = chosen.items, chosen.patience
    rows = [("from ... import flow, task", "import", "")]
    rows += [
        (f"a no-op submitted, {runner}, each of {items}", "submits", runner)
        for runner in ("threads", "processes", "Dask")
    ]
    rows += [
        (f"8 tasks, one kills its worker, {runner}", "crash", runner)
        for runner in ("processes", "Dask")
    ]
    width = max(len(label) for label, _, _ in rows)
    print(f"{'':{width}}  {ENGINES[0].name:40}  {ENGINES[1].name}")
    for label, what, runner in rows:
        ours, theirs = (figure(engine, what, runner, items, patience_seconds) for engine in ENGINES)
        print(f"{label:{width}}  {ours:40}  {theirs}", flush=True)


if __name__ == "__main__":
    main()
