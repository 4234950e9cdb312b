"""Promises of exceptions that are raised in another thread: met by its user's code, and no lock."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from penstock.strikes import keep_trying, raise_in_thread
from penstock.worker.calling import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_WAIT_SECONDS = 20.0


class Struck(BaseException):
    pass


class Thread(threading.Thread):
    """Calls a function as a worker does, and notes what comes out of it."""

    def __init__(self, fn: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.fn = fn
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            call(self.fn, (), {})
        except BaseException as error:
            self.raised = error

    def strike(self) -> bool:
        assert self.ident is not None
        return raise_in_thread(self.ident, Struck)


class SlowHandler(logging.Handler):
    """Takes its time, with its lock held."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self.entered.set()
        assert self.gate.wait(LONGEST_WAIT_SECONDS)


@pytest.fixture
def slow() -> Iterator[SlowHandler]:
    handler = SlowHandler()
    logger = logging.getLogger("tests.strikes")
    logger.addHandler(handler)
    yield handler
    handler.gate.set()
    logger.removeHandler(handler)


def ended(thread: Thread) -> bool:
    thread.join(LONGEST_WAIT_SECONDS)
    return not thread.is_alive()


def test_code_of_the_user_is_struck_at_once() -> None:
    spinning = threading.Event()

    def spin() -> None:
        spinning.set()
        while True:
            pass

    thread = Thread(spin)
    thread.start()
    assert spinning.wait(LONGEST_WAIT_SECONDS)
    assert thread.strike()
    assert ended(thread)
    assert isinstance(thread.raised, Struck)


def test_so_is_a_function_of_the_standard_library_that_is_the_task() -> None:
    gate = threading.Event()
    thread = Thread(gate.wait)
    thread.start()
    while not thread.strike():  # it may not have come to its function yet
        pass
    gate.set()
    assert ended(thread)
    assert isinstance(thread.raised, Struck)


def test_a_log_line_is_let_finish_and_leaves_no_lock_behind(slow: SlowHandler) -> None:
    after = threading.Event()

    def say() -> None:
        logging.getLogger("tests.strikes").warning("slowly")
        while not after.is_set():
            pass

    thread = Thread(say)
    thread.start()
    assert slow.entered.wait(LONGEST_WAIT_SECONDS)
    assert not thread.strike(), "it holds the lock of the handler"
    keep_trying(thread.strike)
    slow.gate.set()
    try:
        assert ended(thread)
    finally:
        after.set()
    assert isinstance(thread.raised, Struck)
    assert slow.lock is not None
    assert slow.lock.acquire(timeout=LONGEST_WAIT_SECONDS)
    slow.lock.release()


def test_a_thread_that_has_ended_needs_no_more() -> None:
    thread = Thread(lambda: None)
    thread.start()
    assert ended(thread)
    assert thread.strike()
    assert thread.raised is None
