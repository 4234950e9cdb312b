"""Log lines: their format to the byte, the run they belong to, and whose word on levels counts."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest

import penstock.logging as penstock_logging
from penstock.exceptions import MissingContextError
from penstock.logging import (
    JsonFormatter,
    configure,
    get_logger,
    get_run_logger,
    level_number,
    run_logger,
)
from penstock.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeRun:
    """A run as far as its logger is concerned; counts how often its id was made."""

    def __init__(self, name: str, flow_run: FakeRun | None = None, *, is_flow_run: bool) -> None:
        self.name = name
        self.is_flow_run = is_flow_run
        self.flow_run = flow_run
        self.tags = frozenset({"nightly", "db"})
        self.ids_made = 0
        if is_flow_run:
            self.flow_name = "get-repo-info"
        else:
            self.task_name = "get_url"

    @property
    def id(self) -> str:
        self.ids_made += 1
        return f"id-of-{self.name}"


@pytest.fixture
def flow_run() -> Any:
    return FakeRun("great-ammonite", is_flow_run=True)


@pytest.fixture
def task_run(flow_run: Any) -> Any:
    return FakeRun("get_url-0", flow_run, is_flow_run=False)


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The logger `penstock`, never configured before, and put back afterwards."""
    logger = logging.getLogger("penstock")
    before = (logger.handlers[:], logger.level, logger.propagate)
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    monkeypatch.setattr(penstock_logging, "_applied", None)
    yield logger
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)


@pytest.fixture
def records(root: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    """The records that a handler of the user's gets."""
    got: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record)

    handler = Keeping()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield got
    root.removeHandler(handler)


def after_clock(line: str) -> str:
    """The line after `09:55:55.412`, having checked that the clock looks like that."""
    clock, rest = line[:12], line[12:]
    shape = "".join("9" if character.isdigit() else character for character in clock)
    assert shape == "99:99:99.999"
    return rest


def console_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return [after_clock(line) for line in err.splitlines()]


# --- text ------------------------------------------------------------------------------


def test_seed_026_the_line_format_is_prefects(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    logging.getLogger("penstock.engine").info("Created flow run %r", "great-ammonite")
    get_logger().warning("careful")
    get_logger().critical("worse")
    assert console_lines(capsys) == [
        " | INFO    | penstock.engine - Created flow run 'great-ammonite'",
        " | WARNING | penstock - careful",
        " | CRITICAL | penstock - worse",
    ]


def test_seed_027_lines_of_a_flow_run_carry_its_name(
    capsys: pytest.CaptureFixture[str], flow_run: Any
) -> None:
    configure(Settings())
    run_logger(flow_run).info("Finished in state %s", "Completed()")
    assert console_lines(capsys) == [
        " | INFO    | Flow run 'great-ammonite' - Finished in state Completed()"
    ]


def test_seed_028_lines_of_a_task_run_carry_its_name(
    capsys: pytest.CaptureFixture[str], task_run: Any
) -> None:
    configure(Settings())
    run_logger(task_run).error("no")
    assert console_lines(capsys) == [" | ERROR   | Task run 'get_url-0' - no"]


def test_a_run_name_with_quotes_is_shown_by_its_repr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(Settings())
    run: Any = FakeRun("it's", is_flow_run=True)
    run_logger(run).info("x")
    assert console_lines(capsys) == [""" | INFO    | Flow run "it's" - x"""]


@pytest.mark.parametrize("logger", ["penstock.flow_runs", "penstock.task_runs.mine"])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_record_without_a_run_is_no_problem(
    logger: str, format_: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(Settings(logging_format=format_))
    logging.getLogger(logger).info("by hand")
    err = capsys.readouterr().err
    assert "by hand" in err
    assert logger in err
    assert "Traceback" not in err


def test_a_printed_text_with_a_percent_sign_is_a_message_like_any(
    capsys: pytest.CaptureFixture[str], flow_run: Any
) -> None:
    configure(Settings())
    run_logger(flow_run).info("100 %s done 🌠")
    assert console_lines(capsys) == [" | INFO    | Flow run 'great-ammonite' - 100 %s done 🌠"]


# --- where it goes ---------------------------------------------------------------------


def test_lines_go_to_the_stderr_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(Settings())
    for text in ("first", "second"):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        get_logger().info(text)
        assert stream.getvalue().endswith(f"penstock - {text}\n")


def test_a_line_that_the_stream_cannot_encode_is_written_with_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure(Settings())
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    get_logger().info("Stars 🌠")
    assert raw.getvalue().endswith(b"Stars \\U0001f320\n")


def test_without_stderr_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(Settings())
    monkeypatch.setattr(sys, "stderr", None)
    get_logger().info("to nobody")


def test_a_message_that_cannot_be_made_is_reported_and_does_not_raise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(Settings())
    get_logger().info("%d items", "many")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_configuring_again_adds_no_second_handler(root: logging.Logger) -> None:
    for _ in range(3):
        configure(Settings())
    assert len(root.handlers) == 1
    assert root.propagate is False


def test_without_the_console_records_go_to_the_root_logger(
    root: logging.Logger, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(Settings())
    configure(Settings(logging_console=False))
    get_logger().info("elsewhere")
    assert root.handlers == []
    assert caplog.messages == ["elsewhere"]
    assert capsys.readouterr().err == ""


def test_the_format_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    configure(Settings(logging_format="json"))
    get_logger().info("now JSON")
    assert json.loads(capsys.readouterr().err)["message"] == "now JSON"


# --- levels ----------------------------------------------------------------------------


def test_a_level_the_user_sets_stays_until_the_setting_changes(root: logging.Logger) -> None:
    configure(Settings())
    assert root.level == logging.INFO
    root.setLevel(logging.ERROR)
    configure(Settings())
    configure(Settings(logging_format="json"))
    assert root.level == logging.ERROR
    configure(Settings(logging_level="DEBUG"))
    assert root.level == logging.DEBUG


def test_a_level_set_before_the_first_flow_stays(root: logging.Logger) -> None:
    root.setLevel(logging.WARNING)
    configure(Settings())
    assert root.level == logging.WARNING


def test_a_setting_wins_over_a_level_set_before_the_first_flow(root: logging.Logger) -> None:
    root.setLevel(logging.WARNING)
    configure(Settings(logging_level="DEBUG"))
    assert root.level == logging.DEBUG


def test_a_level_is_a_name_or_a_number() -> None:
    assert [level_number("DEBUG"), level_number("15")] == [10, 15]


# --- the run logger --------------------------------------------------------------------


def test_seed_153_the_run_logger_is_that_of_the_current_run(
    capsys: pytest.CaptureFixture[str], task_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(Settings())
    monkeypatch.setattr(penstock_logging, "current_run", lambda: task_run)
    logger = get_run_logger()
    assert isinstance(logger, logging.LoggerAdapter)
    logger.warning("from the task")
    assert console_lines(capsys) == [" | WARNING | Task run 'get_url-0' - from the task"]


def test_seed_153_outside_of_a_run_there_is_no_run_logger() -> None:
    with pytest.raises(MissingContextError, match="inside of a task or flow run only"):
        get_run_logger()


def test_get_logger_names_are_below_penstock() -> None:
    names = [get_logger(name).name for name in (None, "penstock", "mine", "penstock.engine")]
    assert names == ["penstock", "penstock", "penstock.mine", "penstock.engine"]


def test_a_users_handler_finds_the_fields_of_the_run(
    records: list[logging.LogRecord], task_run: Any, flow_run: Any
) -> None:
    run_logger(task_run).info("x")
    run_logger(flow_run).info("y")
    layout = logging.Formatter(
        "%(flow_name)s %(flow_run_name)s %(flow_run_id)s %(task_name)s %(task_run_name)s "
        "%(task_run_id)-16s|"
    )
    assert [layout.format(record) for record in records] == [
        "get-repo-info great-ammonite id-of-great-ammonite get_url get_url-0 id-of-get_url-0 |",
        "get-repo-info great-ammonite id-of-great-ammonite None None None            |",
    ]


def test_an_id_is_made_only_when_somebody_looks(
    records: list[logging.LogRecord], task_run: Any
) -> None:
    configure(Settings())
    run_logger(task_run).info("x")
    assert task_run.ids_made == 0
    shown: Any = records[0].__dict__["task_run_id"]
    assert shown == "id-of-get_url-0"
    assert {shown: 1}["id-of-get_url-0"] == 1
    assert f"{shown:>16}" == " id-of-get_url-0"
    assert repr(shown) == "'id-of-get_url-0'"


def test_a_record_can_be_pickled_and_then_holds_the_id_as_text(
    records: list[logging.LogRecord], task_run: Any
) -> None:
    run_logger(task_run).info("x")
    fields = pickle.loads(pickle.dumps(records[0].__dict__))
    assert fields["task_run_id"] == "id-of-get_url-0"
    assert type(fields["task_run_id"]) is str


def test_the_users_extra_is_added_and_wins(records: list[logging.LogRecord], task_run: Any) -> None:
    run_logger(task_run).info("x", extra={"page": 3, "task_name": "renamed"})
    fields = records[0].__dict__
    assert (fields["page"], fields["task_name"]) == (3, "renamed")
    assert fields["task_run_name"] == "get_url-0"


def test_a_task_run_outside_of_a_flow_has_none_for_its_flow(
    records: list[logging.LogRecord],
) -> None:
    run: Any = FakeRun("alone", None, is_flow_run=False)
    run_logger(run).info("x")
    assert records[0].__dict__["flow_run_name"] is None
    assert "flow_run_name" not in json.loads(JsonFormatter().format(records[0]))


def test_a_level_that_is_off_does_not_touch_the_run(root: logging.Logger) -> None:
    root.setLevel(logging.WARNING)

    class Untouchable:
        is_flow_run = False

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    run: Any = Untouchable()
    run_logger(run).info("not made")


# --- JSON ------------------------------------------------------------------------------


def test_seed_006_the_json_record_has_run_and_tags(
    capsys: pytest.CaptureFixture[str], task_run: Any
) -> None:
    configure(Settings(logging_format="json"))
    run_logger(task_run).info("Stars %s\nand more", "🌠", extra={"page": 3, "run": task_run})
    text = capsys.readouterr().err
    assert text.isascii()
    line = json.loads(text)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("+00:00")
    assert line.pop("extra") == {"page": 3, "run": repr(task_run)}
    assert line == {
        "level": "INFO",
        "logger": "penstock.task_runs",
        "message": "Stars 🌠\nand more",
        "flow_name": "get-repo-info",
        "flow_run_id": "id-of-great-ammonite",
        "flow_run_name": "great-ammonite",
        "task_name": "get_url",
        "task_run_id": "id-of-get_url-0",
        "task_run_name": "get_url-0",
        "tags": ["db", "nightly"],
    }
