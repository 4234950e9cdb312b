"""Settings: their names, their sources and which wins, and what they take."""

from __future__ import annotations

import ast
import contextvars
import dataclasses
import inspect
import itertools
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import _settings_sources
from penstock.exceptions import SettingsError
from penstock.settings import Settings, current, source_of, temporary_settings

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


# --- defaults --------------------------------------------------------------------------


def test_nothing_set_gives_the_defaults() -> None:
    assert current() == Settings()
    assert current().tasks_crash_retries == 2
    assert current().flows_unobserved_failures == "fail"
    assert source_of("tasks_default_retries") == "default"


def test_the_defaults_need_no_pydantic(project: Path) -> None:
    code = "import sys, penstock.settings as s; s.current(); print('pydantic' in sys.modules)"
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_every_setting_says_what_it_is() -> None:
    (definition,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(definition, ast.ClassDef)
    documented = [
        before.target.id
        for before, text in itertools.pairwise(definition.body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    ]
    assert documented == [field.name for field in dataclasses.fields(Settings)]


def test_every_setting_has_a_kind_of_value() -> None:
    from penstock._settings_values import KINDS

    assert list(KINDS) == [field.name for field in dataclasses.fields(Settings)]


# --- the environment -------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    [
        "PENSTOCK_TASKS_DEFAULT_RETRIES",
        "PENSTOCK_TASK_DEFAULT_RETRIES",
        "PREFECT_TASKS_DEFAULT_RETRIES",
        "PREFECT_TASK_DEFAULT_RETRIES",
    ],
)
def test_seed_125_both_spellings_and_both_prefixes_name_a_setting(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "2")
    assert current().tasks_default_retries == 2
    assert source_of("tasks_default_retries") == f"environment {variable}"


def test_seed_125_our_prefix_wins_over_prefects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_TASKS_DEFAULT_RETRIES", "7")
    monkeypatch.setenv("PENSTOCK_TASK_DEFAULT_RETRIES", "3")
    assert current().tasks_default_retries == 3


def test_seed_124_a_setting_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current().tasks_default_retries == 0
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "1")
    assert current().tasks_default_retries == 1
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "2")
    assert current().tasks_default_retries == 2
    monkeypatch.delenv("PENSTOCK_TASKS_DEFAULT_RETRIES")
    assert current().tasks_default_retries == 0


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "")
    assert source_of("tasks_default_retries") == "default"


def test_an_environment_replaced_as_a_whole_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PENSTOCK_TASKS_DEFAULT_RETRIES": "4"})
    assert current().tasks_default_retries == 4
    os.environ["PENSTOCK_TASKS_DEFAULT_RETRIES"] = "5"
    assert current().tasks_default_retries == 5


def test_a_misspelt_variable_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_settings_sources, "_warned", set[str]())
    monkeypatch.setattr(logging.getLogger("penstock"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("penstock"), "handlers", [])  # pytest adds its own
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRYS", "2")
    monkeypatch.setenv("PENSTOCK__WORKER", "internal")
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost")
    current()
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "2")
    current()
    (message,) = caplog.messages
    assert "PENSTOCK_TASKS_DEFAULT_RETRYS" in message
    assert "did you mean 'PENSTOCK_TASKS_DEFAULT_RETRIES'?" in message


# --- values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("[1, 10, 100]", (1, 10, 100)),
        ("1,10,100", (1, 10, 100)),
        (" 1, 10,100 ", (1, 10, 100)),
        ("5", (5,)),
        ("0.5", (0.5,)),
        ("[]", ()),
    ],
)
def test_seed_126_delays_are_taken_in_every_spelling(
    text: str, delays: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_TASK_DEFAULT_RETRY_DELAY_SECONDS", text)
    assert current().tasks_default_retry_delay_seconds == delays


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("logging_log_prints", "yes", True),
        ("logging_log_prints", "On", True),
        ("logging_console", "0", False),
        ("logging_console", False, False),
        ("logging_level", "debug", "DEBUG"),
        ("logging_level", 10, "DEBUG"),
        ("logging_level", "15", "15"),
        ("logging_format", "JSON", "json"),
        ("flows_unobserved_failures", "Warn", "warn"),
        ("tasks_default_timeout_seconds", "2.5", 2.5),
        ("tasks_default_timeout_seconds", "none", None),
        ("tasks_default_timeout_seconds", None, None),
        ("task_runner", "process:4", "process:4"),
        ("task_runner", "None", None),
        ("tasks_default_retry_delay_seconds", 3, (3.0,)),
        ("tasks_default_retry_delay_seconds", [1, 2], (1.0, 2.0)),
        ("tag_limits", "db=3, api=10", {"db": 3, "api": 10}),
        ("tag_limits", '{"db": 3}', {"db": 3}),
        ("tag_limits", {"db": 3}, {"db": 3}),
        ("tag_limits", "", {}),
        ("cancel_grace_seconds", "0", 0.0),
        ("results_local_storage_path", " s3://bucket/x ", "s3://bucket/x"),
        ("results_default_serializer", "json", "json"),
        ("results_signing_key", " as it is ", " as it is "),
        ("results_allow_shared_folder", "true", True),
        ("results_max_bytes", "1000000", 1_000_000),
        ("results_max_bytes", "2GB", 2_000_000_000),
        ("results_max_bytes", "none", None),
        ("results_persist_by_default", "on", True),
        ("tasks_refresh_cache", "1", True),
        ("tasks_refresh", " load-*, nightly ", ("load-*", "nightly")),
        ("tasks_refresh", ["load"], ("load",)),
        ("tasks_default_no_cache", "yes", True),
        ("tasks_disable_caching", "TRUE", True),
    ],
)
def test_a_value_is_taken_as_people_write_it(name: str, given: object, value: object) -> None:
    with temporary_settings({name: given}) as here:
        assert getattr(here, name) == value


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("tasks_default_retries", "lots"),
        ("tasks_default_retries", -1),
        ("tasks_default_retries", True),
        ("tasks_default_retries", 1.5),
        ("tasks_default_retry_delay_seconds", "1,,2"),
        ("tasks_default_retry_delay_seconds", "[1"),
        ("tasks_default_retry_delay_seconds", float("nan")),
        ("tasks_default_retry_delay_seconds", [True]),
        ("tasks_default_timeout_seconds", 0),
        ("logging_console", "perhaps"),
        ("logging_level", "LOUD"),
        ("logging_level", True),
        ("logging_level", 1.5),
        ("logging_format", "xml"),
        ("task_runner", 4),
        ("task_runner", " "),
        ("tag_limits", "db"),
        ("tag_limits", "db=0"),
        ("tag_limits", {"db": True}),
        ("tag_limits", "{db"),
        ("tag_limits", 3),
        ("cancel_grace_seconds", "soon"),
        ("tasks_refresh", 5),
        ("results_max_bytes", "-1"),
        ("results_max_bytes", "2G"),
        ("results_allow_shared_folder", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, given: object) -> None:
    with (
        pytest.raises(SettingsError, match=f"the setting {name} takes "),
        temporary_settings({name: given}),
    ):
        pass


def test_a_bad_variable_is_named_with_its_value_and_what_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_TASK_DEFAULT_RETRIES", "lots")
    with pytest.raises(SettingsError) as caught:
        current()
    assert str(caught.value) == (
        "environment variable PREFECT_TASK_DEFAULT_RETRIES is 'lots', but the setting "
        "tasks_default_retries takes a whole number, 0 or more"
    )


def test_a_bad_value_is_an_error_until_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TASKS_CRASH_RETRIES", "x")
    for _ in range(2):
        with pytest.raises(SettingsError):
            current()
    monkeypatch.setenv("PENSTOCK_TASKS_CRASH_RETRIES", "5")
    assert current().tasks_crash_retries == 5


# --- temporary_settings ----------------------------------------------------------------


def test_temporary_settings_win_nest_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "1")
    with temporary_settings(tasks_default_retries=2, task_runner="process"):
        assert source_of("tasks_default_retries") == "temporary_settings"
        with temporary_settings({"PREFECT_TASK_DEFAULT_RETRIES": "3"}) as inner:
            assert inner is current()
            assert inner.tasks_default_retries == 3
            assert inner.task_runner == "process"
        assert current().tasks_default_retries == 2
    assert current().tasks_default_retries == 1


def test_prefects_keyword_for_temporary_settings_is_taken() -> None:
    with temporary_settings(updates={"PREFECT_LOGGING_LEVEL": "DEBUG"}) as here:
        assert here.logging_level == "DEBUG"


def test_what_is_not_overridden_still_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with temporary_settings(task_runner="process"):
        monkeypatch.setenv("PENSTOCK_TASKS_DEFAULT_RETRIES", "8")
        assert current().tasks_default_retries == 8
        assert current().task_runner == "process"


def test_temporary_settings_end_with_an_exception_too() -> None:
    with pytest.raises(KeyError), temporary_settings(tasks_default_retries=2):
        raise KeyError
    assert current().tasks_default_retries == 0


def test_other_threads_see_temporary_settings_only_with_their_context() -> None:
    seen: dict[str, int] = {}

    def look(name: str) -> None:
        seen[name] = current().tasks_default_retries

    with temporary_settings(tasks_default_retries=2):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=look, args=("bare",)),
            threading.Thread(target=context.run, args=(look, "with context")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {"bare": 0, "with context": 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks_default_retry": 1}, "no setting 'tasks_default_retry'; did you mean 'tasks"),
        ({"logging_level": "INFO", "PENSTOCK_LOGGING_LEVEL": "INFO"}, "given twice"),
    ],
)
def test_a_wrong_name_for_a_temporary_setting_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message), temporary_settings(given):
        pass


def test_asking_for_the_source_of_an_unknown_setting_says_so() -> None:
    with pytest.raises(SettingsError, match="no setting 'retries'"):
        source_of("retries")
