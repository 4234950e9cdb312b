"""Promise of law 7: `import penstock` loads little, and opens no file, socket, thread or database.

Asked of a fresh interpreter, and by what it did, not by how long it took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

HEAVY = (
    "dask",
    "distributed",
    "fsspec",
    "joblib",
    "loky",
    "numpy",
    "pydantic",
    "rich",
    "sqlalchemy",
    "threadpoolctl",
    "typer",
)

PROBE = """
import gc, json, os, socket, sys, threading

# What a bare interpreter does not do at once, and would be taken for ours.
import importlib.metadata

events = []
def hook(event, args):
    if event == "open":
        path, mode, flags = args
        code = isinstance(path, str) and path.endswith((".py", ".pyc", ".so", ".pyd"))
        if not code and path != "<probe>" and not (isinstance(path, str) and os.path.isdir(path)):
            events.append(f"open {path!r}")
    elif event.startswith(("socket.", "subprocess.", "sqlite3.", "os.fork", "os.exec")):
        events.append(f"{event} {args!r}")
sys.addaudithook(hook)

import penstock
%s

found = {
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "threads": [thread.name for thread in threading.enumerate()],
    "sockets": sum(isinstance(each, socket.socket) for each in gc.get_objects()),
    "events": events,
}
print(json.dumps(found))
"""


def probe(statements: str = "") -> dict[str, Any]:
    """Import Penstock in an interpreter of its own, and return what that did."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE % statements],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={name: value for name, value in os.environ.items() if "PENSTOCK" not in name},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    return probe()


def test_importing_penstock_loads_no_heavy_module(imported: dict[str, Any]) -> None:
    assert not set(HEAVY) & set(imported["modules"])


def test_importing_tasks_and_flows_loads_no_asyncio() -> None:
    """It is a fifth of the whole, and comes with the first that is asynchronous, or in threads."""
    assert "asyncio" not in probe("from penstock import flow, task")["modules"]


def test_what_keeps_results_loads_no_heavy_module_and_touches_nothing() -> None:
    """Also with stores made: fsspec comes when the first URL is read."""
    statements = """
import penstock.transactions, penstock.storage_choice
from penstock.results import ResultStore
ResultStore("s3://bucket/results"), ResultStore("/none")
"""
    found = probe(statements)
    assert not set(HEAVY) & set(found["modules"])
    assert found["events"] == []
    assert found["threads"] == ["MainThread"]


def test_importing_penstock_loads_no_task_runner(imported: dict[str, Any]) -> None:
    assert "penstock_runners" not in imported["modules"]


def test_importing_penstock_starts_no_thread(imported: dict[str, Any]) -> None:
    assert imported["threads"] == ["MainThread"]


def test_importing_penstock_opens_no_file_and_no_socket(imported: dict[str, Any]) -> None:
    assert imported["events"] == []
    assert imported["sockets"] == 0


def test_a_flow_on_threads_loads_no_heavy_module() -> None:
    statements = """
@penstock.task
def double(x: int) -> int:
    return 2 * x
@penstock.flow
def small(x: int) -> int:
    return double.submit(x).result()
assert small(2) == 4
"""
    assert not set(HEAVY) & set(probe(statements)["modules"])
