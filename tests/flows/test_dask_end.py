"""How flows on Dask are started and how they end: users row 12, 33, 34; nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOON_SECONDS = 3.0

HEADER = """
import os, sys, time
from penstock import flow, task

@task
def double(x):
    return 2 * x

@task
def deaf(path):
    open(path, "w").close()
    time.sleep(30)

@task(crash_retries=0)
def die():
    os._exit(3)
"""

DOUBLE = """
@flow
def main():
    print(double.map(range(100)).result()[-1], flush=True)
"""

HOLD = """
@flow(task_runner="dask:2")
def main():
    futures = [deaf.submit(f"{sys.argv[1]}/begun{n}") for n in range(4)]
    while len([each for each in os.listdir(sys.argv[1]) if each[:5] == "begun"]) < 2:
        time.sleep(0.01)
    print("READY", flush=True)
    futures[0].result()

main()
"""


def write(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(HEADER + text))
    return str(path)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalClusterProcess]:
    cluster = LocalClusterProcess(Where(n_workers=1))
    yield cluster
    cluster.close()


def test_the_command_line_sends_a_flow_to_a_cluster(
    tmp_path: Path, cluster: LocalClusterProcess
) -> None:
    done = run(
        "-m", "penstock", "run", write(tmp_path, DOUBLE), "--runner", f"dask:{cluster.address}"
    )
    assert (done.returncode, done.stdout) == (0, "198\n"), done.stderr


def test_the_environment_sends_a_flow_to_a_cluster_of_its_own(tmp_path: Path) -> None:
    program = write(tmp_path, DOUBLE + "\nmain()\n")
    done = run(program, PENSTOCK_TASK_RUNNER="dask:2", PENSTOCK_LOGGING_LEVEL="WARNING")
    assert (done.returncode, done.stdout, done.stderr) == (0, "198\n", ""), "and no noise"


def test_a_death_is_told_by_us_and_not_by_dask(tmp_path: Path) -> None:
    program = write(
        tmp_path,
        """
        @flow(task_runner="dask:1")
        def main():
            print(type(die.submit().exception()).__name__, double.submit(1).result())

        main()
        """.replace("\n        ", "\n"),
    )
    done = run(program)
    assert (done.returncode, done.stdout) == (0, "WorkerLost 2\n"), done.stderr
    assert "Attempt 1 of task run 'die-0' was lost on worker" in done.stderr
    assert "distributed" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_driver_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-W", "error", write(tmp_path, HOLD), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        try:
            assert driver.stdout.readline() == "READY\n"
            processes = psutil.Process(driver.pid).children(recursive=True)
            assert len(processes) >= 3
            began = time.monotonic()
            if number == signal.SIGINT:
                os.killpg(driver.pid, number)  # as a terminal does
            else:
                driver.send_signal(number)
            driver.wait(20)
            took = time.monotonic() - began
            _, alive = psutil.wait_procs(processes, timeout=10)
            assert alive == []
            errors = driver.stderr.read()
        finally:
            driver.kill()
    assert took < SOON_SECONDS
    assert "distributed" not in errors
    if number == signal.SIGINT:
        assert driver.returncode in (-signal.SIGINT, 130), errors
        assert errors.count("Finished in state Cancelled") == 5, errors
        assert errors.count("Traceback") <= 1
