"""Settings in the project's file: where it is found, what it may say, and noticing its changes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from penstock import _settings_sources
from penstock.exceptions import SettingsError
from penstock.settings import Settings, current, flow_table, source_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, with none of our variables in the environment."""
    for variable in list(os.environ):
        if variable.startswith(("PENSTOCK_", "PREFECT_")):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_old(*paths: Path) -> None:
    """Give files time stamps that are trusted to show the next change."""
    for path in paths:
        os.utime(path, ns=(1_600_000_000_000_000_000,) * 2)


TABLE = """
[tool.penstock]
task_runner = "process"
tag_limits = {db = 3}

[tool.penstock.logging]
level = "DEBUG"

[tool.penstock.flows]
default_retries = 2

[tool.penstock.flows.etl]
task_runner = "dask:4"

[tool.penstock.flows.get_repo_info]
retries = 1
"""


def test_seed_127_settings_stand_in_pyproject_toml(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)
    here = current()
    assert here.task_runner == "process"
    assert here.logging_level == "DEBUG"
    assert here.flows_default_retries == 2
    assert here.tag_limits == {"db": 3}
    assert source_of("logging_level") == "pyproject.toml"
    assert source_of("logging_format") == "default"


def test_a_table_under_flows_is_the_options_of_one_flow(project: Path) -> None:
    assert flow_table("etl") == {}
    (project / "pyproject.toml").write_text(TABLE)
    assert flow_table("etl") == {"task_runner": "dask:4"}
    assert flow_table("get-repo-info") == {"retries": 1}
    assert flow_table("other") == {}
    assert flow_table("default_retries") == {}


def test_flat_keys_and_tables_mean_the_same(project: Path) -> None:
    (project / "penstock.toml").write_text('logging_level = "ERROR"\ntask_default_retries = 4\n')
    assert current().logging_level == "ERROR"
    assert current().tasks_default_retries == 4


def test_penstock_toml_needs_no_outer_table_and_comes_first(project: Path) -> None:
    (project / "pyproject.toml").write_text(TABLE)
    (project / "penstock.toml").write_text('[logging]\nlevel = "ERROR"\n[flows.etl]\nretries = 9')
    assert current().logging_level == "ERROR"
    assert current().task_runner is None
    assert flow_table("etl") == {"retries": 9}


def test_the_nearest_file_upwards_counts_and_others_pyprojects_do_not(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    (project / "pyproject.toml").write_text(TABLE)
    (inner / "pyproject.toml").write_text("[project]\nname = 'penstock-user'\n")
    (project / "a" / "pyproject.toml").write_text("this is [ not TOML, and not ours")
    monkeypatch.chdir(inner)
    assert current().task_runner == "process"
    assert source_of("task_runner") == os.path.join("..", "..", "pyproject.toml")


def test_the_environment_wins_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "pyproject.toml").write_text(TABLE)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "WARNING")
    assert current().logging_level == "WARNING"
    assert current().task_runner == "process"


def test_a_file_that_changes_is_read_again(project: Path) -> None:
    file = project / "penstock.toml"
    assert current().tasks_crash_retries == 2
    for retries in (3, 4, 5):  # the same size each time, and within the clock's tick
        file.write_text(f"[tasks]\ncrash_retries = {retries}\n")
        assert current().tasks_crash_retries == retries
    file.unlink()
    assert current().tasks_crash_retries == 2


def test_a_file_that_appears_is_noticed_after_the_search_was_trusted(project: Path) -> None:
    make_old(project)
    time.sleep(0.06)  # the directory above was touched a moment ago, too
    current()
    (project / "penstock.toml").write_text("[tasks]\ncrash_retries = 6\n")
    assert current().tasks_crash_retries == 6


def test_another_working_directory_is_another_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (project / name).mkdir()
        (project / name / "penstock.toml").write_text(f"task_runner = '{name}'")
    for name in ("one", "two", "one"):
        monkeypatch.chdir(project / name)
        assert current().task_runner == name


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "pyproject.toml",
            "[tool.penstock.logging]\nlevle = 'DEBUG'",
            "pyproject.toml [tool.penstock]: there is no setting 'logging.levle'; "
            "did you mean 'logging.level'?",
        ),
        (
            "penstock.toml",
            "task_runer = 'thread'",
            "penstock.toml: there is no setting 'task_runer'; did you mean 'task_runner'?",
        ),
        (
            "penstock.toml",
            "[flow.etl]\nretries = 1",
            "penstock.toml: there is no setting 'flow'; did you mean 'flows'?",
        ),
        (
            "penstock.toml",
            "tasks = 1",
            "penstock.toml: there is no setting 'tasks'",
        ),
        (
            "penstock.toml",
            "zzz = 1",
            "penstock.toml: there is no setting 'zzz'; the settings are tasks.default_retries, ",
        ),
        (
            "penstock.toml",
            "logging_level = 'DEBUG'\n[logging]\nlevel = 'INFO'",
            "penstock.toml: 'logging_level' and 'logging.level' set the same thing",
        ),
        (
            "penstock.toml",
            "[tasks]\ndefault_retries = 'lots'",
            "penstock.toml: tasks.default_retries is 'lots', but the setting "
            "tasks_default_retries takes a whole number, 0 or more",
        ),
        ("penstock.toml", "= 3", "penstock.toml is not valid TOML: "),
        ("pyproject.toml", "[tool.penstock", "pyproject.toml is not valid TOML: "),
        (
            "pyproject.toml",
            "[tool]\npenstock = 3",
            "pyproject.toml: tool.penstock is 3, and takes a table",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    file: str, text: str, message: str, project: Path
) -> None:
    (project / file).write_text(text)
    with pytest.raises(SettingsError) as caught:
        current()
    assert str(caught.value).startswith(message)


def test_a_deleted_working_directory_means_no_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert current() == Settings()


# --- the cost --------------------------------------------------------------------------


def test_nothing_is_read_again_while_nothing_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "penstock.toml").write_text("task_runner = 'process'")
    make_old(project / "penstock.toml", project)
    first = current()
    monkeypatch.setattr(_settings_sources, "find_place", None)  # would fail if called
    assert current() is first


def test_a_change_that_concerns_nobody_keeps_the_same_object(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "penstock.toml").write_text("task_runner = 'process'")
    make_old(project / "penstock.toml")
    first = current()
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    (project / "output.csv").write_text("")
    assert current() is first
