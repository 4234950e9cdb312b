"""Drivers on one store that are killed at random moments: nothing lost, half there, or twice."""

from __future__ import annotations

import collections
import os
import pathlib
import subprocess
import sys

import pytest

from penstock.locking import FileLockManager
from penstock.results import ResultStore

PROGRAM = pathlib.Path(__file__).with_name("race.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the drivers are forked, to be quick")
@pytest.mark.parametrize("seed", [1, 2])
def test_users_18_and_40_drivers_killed_at_random_leave_whole_values_each_made_once(
    tmp_path: pathlib.Path, seed: int
) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(seed)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert int(done.stdout) >= 30, "too few were killed for this to say anything"
    assert done.stderr == ""

    makers = collections.defaultdict[str, set[str]](set)
    for line in (tmp_path / "notes").read_text().splitlines():
        word, key, *maker = line.split()
        assert word == "saw", line  # else: half, lost, stuck, or a warning of the store's
        makers[key].update(maker)
    keys = [f"key-{number}" for number in range(120)]
    assert sorted(makers) == sorted(keys)
    assert {key: seen for key, seen in makers.items() if len(seen) > 1} == {}

    store, locks = ResultStore(tmp_path / "store"), FileLockManager(tmp_path / "locks")
    for key in keys:
        record = store.read(key)
        assert record is not None
        assert {record.value["maker"]} == makers[key]
        assert not locks.is_locked(key)
    assert sorted(store.keys()) == sorted(keys)
    store.filesystem.delete_unfinished(older_than_seconds=0)
    assert len(list((tmp_path / "store").iterdir())) == len(keys)
