"""Log records on their way home: plain values, levels as the driver's, and whose they are."""

from __future__ import annotations

import logging
import marshal
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.worker.here import ATTEMPT, Here
from penstock.worker.output import Forwarding, packed_record

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "of_the_worker"


@pytest.fixture
def forwarding() -> Iterator[Forwarding]:
    made, root = Forwarding(), logging.getLogger()
    level = root.level
    yield made
    root.removeHandler(made)
    root.setLevel(level)
    logging.getLogger(NAME).setLevel(logging.NOTSET)


def attempt(said: list[Any]) -> Here:
    return Here({}, (), said.append)


def record_of(**fields: Any) -> logging.LogRecord:
    plain = {"name": NAME, "levelno": 20, "msg": "%d of %s", "args": (1, "two")}
    return logging.makeLogRecord({**plain, **fields})


# --- records ------------------------------------------------------------------------------


def test_a_record_is_plain_values_with_its_message_made() -> None:
    packed = packed_record(record_of())
    assert marshal.loads(marshal.dumps(packed)) == packed
    assert packed[8] == "1 of two"
    assert packed[-1] is None


def test_extra_fields_are_packed_and_bad_ones_as_text() -> None:
    extra = packed_record(record_of(rows=[1], lock=threading.Lock()))[-1]
    fields = pickle.loads(extra)
    assert fields["rows"] == [1]
    assert "lock object" in fields["lock"]


def test_an_exception_is_its_text() -> None:
    try:
        raise KeyError("k")
    except KeyError as error:
        packed = packed_record(record_of(exc_info=(KeyError, error, error.__traceback__)))
    assert packed[9].endswith("KeyError: 'k'")
    assert "in test_an_exception_is_its_text" in packed[9]


# --- levels -------------------------------------------------------------------------------


def test_levels_are_the_drivers_and_those_of_before_are_put_back(forwarding: Forwarding) -> None:
    logger = logging.getLogger(NAME)
    forwarding.install({"": 30, NAME: 10}, is_own_process=True)
    assert (logging.root.level, logger.level) == (30, 10)
    forwarding.install({"": 20}, is_own_process=True)
    assert (logging.root.level, logger.level) == (20, logging.NOTSET)


def test_in_a_process_of_others_no_logger_is_made_quieter(forwarding: Forwarding) -> None:
    logging.getLogger().setLevel(20)
    logger = logging.getLogger(NAME)
    forwarding.install({"": 40, NAME: 30}, is_own_process=False)
    assert (logging.root.level, logger.level) == (20, logging.NOTSET)
    forwarding.install({"": 10, NAME: 5}, is_own_process=False)
    assert (logging.root.level, logger.level) == (10, 5)


def test_in_a_process_of_others_levels_of_the_last_run_do_not_stay(forwarding: Forwarding) -> None:
    logging.getLogger().setLevel(20)
    logger = logging.getLogger(NAME)
    forwarding.install({"": 10, NAME: 5}, is_own_process=False)
    forwarding.install({"": 15}, is_own_process=False)
    assert (logging.root.level, logger.level) == (15, logging.NOTSET)
    forwarding.install({"": 30}, is_own_process=False)
    assert logging.root.level == 20


def test_in_a_process_of_others_a_run_that_goes_on_keeps_its_levels(
    forwarding: Forwarding,
) -> None:
    forwarding.install({NAME: 10}, is_own_process=False)
    forwarding.running.append(attempt([]))
    forwarding.install({NAME: 30}, is_own_process=False)
    assert logging.getLogger(NAME).level == 10


def test_it_is_one_handler_however_often_installed(forwarding: Forwarding) -> None:
    for level in (10, 20, 30):
        forwarding.install({"": level}, is_own_process=True)
    assert logging.getLogger().handlers.count(forwarding) == 1


# --- whose --------------------------------------------------------------------------------


def test_a_record_is_that_of_the_attempt_around_it(forwarding: Forwarding) -> None:
    first: list[Any] = []
    second: list[Any] = []
    one, two = attempt(first), attempt(second)
    forwarding.running += [one, two]
    token = ATTEMPT.set(two)
    try:
        forwarding.emit(record_of())
    finally:
        ATTEMPT.reset(token)
    assert (len(first), len(second)) == (0, 1)


def test_without_one_it_is_taken_for_the_only_one_that_runs(forwarding: Forwarding) -> None:
    first: list[Any] = []
    second: list[Any] = []
    forwarding.running.append(attempt(first))
    forwarding.emit(record_of())
    assert len(first) == 1
    forwarding.running.append(attempt(second))
    forwarding.emit(record_of())
    assert (len(first), len(second)) == (1, 0), "of two, nobody can tell which"
    forwarding.running.clear()
    forwarding.emit(record_of())
    assert (len(first), len(second)) == (1, 0)


def test_a_record_that_cannot_be_made_is_told_as_logging_does(
    forwarding: Forwarding, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[Any] = []
    forwarding.running.append(attempt(said))
    forwarding.emit(record_of(args=("too few",)))
    assert said == []
    assert "Logging error" in capsys.readouterr().err
