"""What the two formatters make of a record, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from penstock.logging import JsonFormatter, TextFormatter
from penstock.worker.calling import call

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_record(logger: str, **attributes: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": logger, "levelname": "INFO", "levelno": 20, "msg": "hello", **attributes}
    )


def json_line(record: logging.LogRecord) -> Mapping[str, Any]:
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line: Mapping[str, Any] = json.loads(text)
    return line


def test_seed_026_milliseconds_are_three_digits() -> None:
    record = make_record("penstock.engine", created=0.0, msecs=7.9)
    assert TextFormatter().format(record)[8:] == ".007 | INFO    | penstock.engine - hello"


def test_child_loggers_have_the_format_of_their_parent() -> None:
    child = make_record("penstock.task_runs.mine", task_run_name="t-0")
    assert TextFormatter().format(child).endswith(" | Task run 't-0' - hello")
    other = make_record("penstock.task_runs_of_another", task_run_name="t-0")
    assert TextFormatter().format(other).endswith(" | penstock.task_runs_of_another - hello")


def test_the_timestamp_is_utc_in_iso() -> None:
    record = make_record("penstock", created=1_700_000_000.25)
    assert json_line(record)["timestamp"] == "2023-11-14T22:13:20.250000+00:00"


def test_what_json_cannot_say_is_said_by_its_repr() -> None:
    circular: list[Any] = []
    circular.append(circular)
    line = json_line(make_record("penstock", loop=circular, rate=float("nan"), ok=[1]))
    assert line["extra"] == {"loop": "[[...]]", "rate": "nan", "ok": [1]}


@pytest.mark.parametrize(("tags", "shown"), [("db", ["db"]), ({"b", "a"}, ["a", "b"]), (3, ["3"])])
def test_tags_of_any_kind_become_a_sorted_list(tags: Any, shown: list[str]) -> None:
    assert json_line(make_record("penstock", tags=tags))["tags"] == shown


def test_a_stack_that_was_asked_for_is_there() -> None:
    assert json_line(make_record("penstock", stack_info="Stack:\n  x"))["stack"] == "Stack:\n  x"


# --- exceptions ------------------------------------------------------------------------


def failing() -> None:
    raise ValueError("no such url")


def failed_record() -> logging.LogRecord:
    try:
        call(failing, (), {})
    except ValueError:
        return make_record("penstock.engine", exc_info=sys.exc_info())
    raise AssertionError("nothing was raised")


def test_seed_111_a_traceback_is_shown_without_our_own_frames() -> None:
    record = failed_record()
    plain, ours = logging.Formatter().format(record), TextFormatter().format(record)
    assert "calling.py" in plain
    assert "calling.py" not in ours
    assert ours.endswith('raise ValueError("no such url")\nValueError: no such url')
    assert "calling.py" not in json_line(record)["exception"]


def test_the_next_handler_still_gets_every_frame() -> None:
    record = failed_record()
    TextFormatter().format(record)
    assert "calling.py" in logging.Formatter().format(record)


def test_an_exception_from_another_process_is_shown_by_its_text() -> None:
    record = make_record("penstock.engine", exc_text="Traceback: from a worker")
    assert TextFormatter().format(record).endswith("hello\nTraceback: from a worker")
    assert json_line(record)["exception"] == "Traceback: from a worker"


def test_exc_info_without_an_exception_is_no_problem() -> None:
    record = make_record("penstock.engine", exc_info=(None, None, None))
    assert TextFormatter().format(record).endswith("NoneType: None")
