"""CPUs are counted by affinity and cgroup: `users.md` row 26, for both runners that use them."""

import os
import pathlib

import pytest

from penstock import cpus
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.thread import ThreadPoolTaskRunner

OWN = "proc/self/cgroup"


def system(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups_there_is_no_quota(tmp_path: pathlib.Path) -> None:
    assert cpus.cgroup_cpus(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000", 1.5), ("max 100000", None), ("", None), ("nonsense", None), ("0 0", None)],
)
def test_a_container_of_version_2_sees_its_quota_at_its_root(
    tmp_path: pathlib.Path, text: str, expected: float | None
) -> None:
    root = system(tmp_path, {OWN: "0::/\n", "sys/fs/cgroup/cpu.max": text})
    assert cpus.cgroup_cpus(root) == expected


@pytest.mark.parametrize("path", ["/docker/3b8e", "/../../outside"])
def test_a_path_of_the_host_that_is_not_there_leads_to_our_root(
    tmp_path: pathlib.Path, path: str
) -> None:
    root = system(tmp_path, {OWN: f"0::{path}\n", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert cpus.cgroup_cpus(root) == 2


def test_the_least_quota_on_the_way_up_counts(tmp_path: pathlib.Path) -> None:
    files = {
        OWN: "0::/user.slice/app.scope\n",
        "sys/fs/cgroup/user.slice/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/user.slice/app.scope/cpu.max": "400000 100000\n",
    }
    root = system(tmp_path, files)
    assert cpus.cgroup_cpus(root) == 1


@pytest.mark.parametrize(
    ("quota", "expected"), [("50000", 0.5), ("400000", 4.0), ("-1", None), ("0", None)]
)
def test_a_quota_of_version_1_is_understood(
    tmp_path: pathlib.Path, quota: str, expected: float | None
) -> None:
    files = {
        OWN: "4:memory:/elsewhere\n3:cpu,cpuacct:/batch\n0::/\n",
        "sys/fs/cgroup/cpu/batch/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu/batch/cpu.cfs_period_us": "100000\n",
    }
    root = system(tmp_path, files)
    assert cpus.cgroup_cpus(root) == expected


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (2, 6.0, 2), (4, 0.2, 1)],
)
def test_the_lesser_of_affinity_and_quota_is_usable_and_the_default_of_both_runners(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_cpus", lambda: quota)
    assert cpus.usable_cpus() == usable
    assert ProcessPoolTaskRunner().max_workers == usable
    assert ThreadPoolTaskRunner().max_workers == usable + 4


def test_a_system_without_affinity_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpus, "cgroup_cpus", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpus.usable_cpus() == 6
