"""Ids of runs: drawn in this process, and its own all the same."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest

from penstock import flow, task

FORKING = """
import os
from penstock.runs import FlowRun, made_at
from penstock.remote_runs import _Elsewhere, _plan_of

def new():
    return FlowRun(_plan_of(_Elsewhere("f", None, dict), "f", frozenset()),
                   None, None, None, (), {}, made_at(0.0), "f").id

read, write = os.pipe()
if os.fork() == 0:
    os.write(write, str(new()).encode())
    os._exit(0)
os.wait()
print(os.read(read, 100).decode(), new())
"""


def test_an_id_is_a_random_uuid_and_stays_the_same() -> None:
    @task
    def nothing() -> None: ...

    @flow(task_runner="inline")
    def some() -> list[uuid.UUID]:
        futures = [nothing.submit() for _ in range(100)]
        ids = [future.task_run_id for future in futures]
        assert ids == [future.task_run_id for future in futures]
        return ids

    ids = some()
    assert len(set(ids)) == 100
    assert {(each.version, each.variant) for each in ids} == {(4, uuid.RFC_4122)}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_a_forked_child_draws_other_ids_than_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], check=True, capture_output=True, text=True, timeout=30
    )
    in_child, in_parent = done.stdout.split()
    assert in_child != in_parent
