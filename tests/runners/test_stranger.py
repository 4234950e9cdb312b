"""Somebody else's package brings a runner, and takes the conformance kit, knowing only the docs."""

import os
import pathlib
import re
import subprocess
import sys
import venv

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "stranger"
version = "1"

[project.entry-points."penstock.task_runners"]
stranger = "stranger:OneThreadEachTaskRunner"
"""

RUNNER = '''
"""A task runner that starts a thread for each attempt."""

import os
import threading
import time

from penstock.task_runners import Capabilities, Outcome, Started, TaskRunner
from penstock.attempt import run_here


class OneThreadEachTaskRunner(TaskRunner):
    capabilities = Capabilities(lends_slots=True)

    def open(self, report, options):
        self.report, self.process_id = report, os.getpid()
        self.lock, self.waiting, self.running, self.blocked_ids = threading.Lock(), {}, {}, set()

    def slots(self):
        return 2

    def credit(self):
        return max(0, 16 - len(self.waiting))

    def submit(self, attempts):
        if os.getpid() != self.process_id:
            raise RuntimeError("this runner belongs to the parent: make a new one in the child")
        with self.lock:
            self.waiting.update((attempt.id, attempt) for attempt in attempts)
            self.start()

    def start(self):
        while self.waiting and len(self.running) < 2 + len(self.blocked_ids):
            attempt = max(self.waiting.values(), key=lambda a: (a.priority, -a.id))
            del self.waiting[attempt.id]
            thread = threading.Thread(target=self.run, args=(attempt,), daemon=True)
            self.running[attempt.id] = thread
            thread.start()

    def run(self, attempt):
        if attempt.report_start:
            self.report(Started(attempt.id, "a thread", time.monotonic()))
        outcome = run_here(attempt, "a thread")
        with self.lock:
            mine = self.running.pop(attempt.id, None) is not None
            self.blocked_ids.discard(attempt.id)
            self.start()
        if mine:
            self.report(outcome)

    def cancel(self, attempt_ids, *, hard=False):
        with self.lock:
            dropped = [i for i in attempt_ids if self.waiting.pop(i, None)]
        for i in dropped:
            self.report(Outcome(i, "stopped", reason="dropped", began=False))

    def blocked(self, attempt_id, now):
        with self.lock:
            (self.blocked_ids.add if now else self.blocked_ids.discard)(attempt_id)
            self.start()

    def close(self, grace_seconds=0.0):
        self.cancel(list(self.waiting))
        deadline = time.monotonic() + grace_seconds
        for thread in list(self.running.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        with self.lock:
            left, self.running = self.running, {}
        for i in left:
            self.report(Outcome(i, "abandoned", reason="it runs on"))
'''

TESTS = """
from penstock.task_runners import load_task_runner
from penstock.testing.conformance import TaskRunnerConformance
from stranger import OneThreadEachTaskRunner


class TestOneThreadEachTaskRunner(TaskRunnerConformance):
    def make_runner(self):
        return OneThreadEachTaskRunner()


def test_it_is_found_by_name():
    assert isinstance(load_task_runner("stranger"), OneThreadEachTaskRunner)
"""


@pytest.mark.timeout(300)
def test_a_strangers_package_passes_the_kit_in_an_environment_of_its_own(
    tmp_path: pathlib.Path,
) -> None:
    assert len(TESTS.strip().splitlines()) < 15, "the kit is taken in under 15 lines"
    package = tmp_path / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(PYPROJECT)
    (package / "stranger.py").write_text(RUNNER)
    (package / "test_stranger.py").write_text(TESTS)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # PYTHONPATH would lend it what is here. PIP_... stays: there may be a mirror in it.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [str(python), "-m", *arguments],
            cwd=package,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert ended.returncode == 0, f"{arguments} failed:\n{ended.stdout[-8000:]}"
        return ended.stdout

    run("pip", "install", "--quiet", str(REPOSITORY), str(package), "pytest")
    output = run("pytest", "-W", "error", "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None, output
    assert int(passed[1]) >= 25, f"the kit's checks really ran:\n{output}"
    assert "failed" not in output, output
