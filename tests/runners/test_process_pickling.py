"""What the process runner sends and gets back, and what it says of what cannot be sent."""

import pathlib
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from penstock.task_runners import Outcome, Packed, RemoteError
from penstock.testing.harness import RunnerHarness
from penstock_runners.process import ProcessPoolTaskRunner

STEP = 1


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def harness(tmp_path: pathlib.Path) -> Iterator[RunnerHarness]:
    harness = RunnerHarness(ProcessPoolTaskRunner(2), tmp_path, 20.0)
    harness.open()
    yield harness
    harness.close()


def error_of(outcome: Outcome) -> RemoteError:
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, RemoteError)
    return outcome.error


# --- what is sent -----------------------------------------------------------------------------


class Block:
    """As an array: its memory is one buffer, pickled out of band."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)


def inverted(block: Block) -> Block:
    first = block.memory[0]
    block.memory[0] = 255 - first  # what arrives can be written to
    return block


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
def test_large_buffers_travel_beside_the_pickle(harness: RunnerHarness, size: int) -> None:
    content = bytes(range(10)) * (size // 10)
    attempts = [harness.attempt(inverted, Block(bytearray(content))) for _ in range(5)]
    harness.submit(*attempts)
    for attempt in attempts:
        outcome = harness.outcome(attempt)
        assert isinstance(outcome.value, Packed)
        assert len(outcome.value.buffers) == (size >= 65536)
        assert harness.value(outcome).memory == b"\xff" + content[1:]
        assert attempt.args[0].memory == content


@pytest.mark.parametrize("size", [10, 20_000, 70_000, 500_000])
def test_large_texts_travel(harness: RunnerHarness, size: int) -> None:
    text = "\udc80ä" * size
    assert harness.value(harness.run(str.__add__, text, "!")) == text + "!"
    assert harness.value(harness.run(list, text))[-1] == "ä"


def test_scalars_come_back_as_they_are(harness: RunnerHarness) -> None:
    for value in (None, True, 3, -(2**40), 2**100, 2.5, 1j, "text", b"bytes", float("inf")):
        outcome = harness.run(harness_identity, value)
        assert outcome.value == value
        assert type(outcome.value) is type(value)


def harness_identity(value: Any) -> Any:
    return value


def next_step(x: int) -> int:
    return x + STEP


def test_a_global_that_changes_is_seen(
    harness: RunnerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harness.value(harness.run(next_step, 1)) == 2
    monkeypatch.setattr(sys.modules[__name__], "STEP", 10)
    assert harness.value(harness.run(next_step, 1)) == 11


async def wait_async(x: int) -> int:
    return x


async def count_async(stop: int) -> Any:
    for number in range(stop):
        yield number


def test_async_functions_run_in_a_loop_of_their_own(harness: RunnerHarness) -> None:
    assert harness.value(harness.run(wait_async, 3)) == 3
    assert harness.value(harness.run(count_async, 3)) == [0, 1, 2]


# --- exceptions -------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code


def refuse() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        error = Refused(7, "no")
        error.add_note("a note")
        raise error from cause


def raise_group() -> None:
    try:
        refuse()
    except Refused as error:
        raise ExceptionGroup("many", [error, ValueError("other")]) from None


def test_an_exception_keeps_type_attributes_notes_and_cause(harness: RunnerHarness) -> None:
    error = error_of(harness.run(refuse))
    assert error.pickled is not None
    loaded = pickle.loads(error.pickled)
    assert type(loaded) is Refused
    assert (loaded.code, loaded.__notes__) == (7, ["a note"])
    assert isinstance(loaded.__cause__, KeyError)
    assert "penstock_runners" not in error.traceback_text
    assert "in refuse" in error.traceback_text
    assert "the cause" in error.traceback_text


def test_a_group_keeps_its_members_and_their_causes(harness: RunnerHarness) -> None:
    error = error_of(harness.run(raise_group))
    assert error.pickled is not None
    loaded = pickle.loads(error.pickled)
    assert [type(member) for member in loaded.exceptions] == [Refused, ValueError]
    assert isinstance(loaded.exceptions[0].__cause__, KeyError)


def raise_with_long_text() -> None:
    raise ValueError("x" * 200_000)


def test_a_long_message_travels(harness: RunnerHarness) -> None:
    assert len(error_of(harness.run(raise_with_long_text)).message) == 200_000


# --- what cannot travel -----------------------------------------------------------------


class Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()


class Connection:
    def __init__(self) -> None:
        self.pool = Pool()


class HasX:
    def __init__(self, x: Any) -> None:
        self.x = x


def use(table: str, conn: object) -> None:
    pass


def return_deep() -> object:
    return [1, 2, 3, HasX(threading.Lock())]


def test_an_argument_that_cannot_be_pickled_is_named(harness: RunnerHarness) -> None:
    outcome = harness.run(use, "t", Connection())
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, TypeError)
    text = "argument 'conn' -> .pool -> ._lock: cannot pickle '_thread.lock' object"
    assert str(outcome.error) == text


def test_a_closure_that_cannot_be_pickled_is_named(harness: RunnerHarness) -> None:
    lock = threading.Lock()

    def closure() -> bool:
        return lock.locked()

    outcome = harness.run(closure)
    assert outcome.kind == "raised"
    assert isinstance(outcome.error, TypeError)
    assert "closure 'lock': cannot pickle '_thread.lock' object" in str(outcome.error)


def test_a_result_that_cannot_be_pickled_is_named(harness: RunnerHarness) -> None:
    error = error_of(harness.run(return_deep))
    assert error.type_name == "TypeError"
    assert error.message == "result -> [3] -> .x: cannot pickle '_thread.lock' object"


def test_many_that_cannot_be_pickled_leave_the_others_alone(harness: RunnerHarness) -> None:
    bad = [harness.attempt(use, "t", Connection()) for _ in range(30)]
    good = [harness.attempt(abs, -number) for number in range(30)]
    mixed = [attempt for pair in zip(bad, good, strict=True) for attempt in pair]
    harness.submit(*mixed)
    assert {harness.outcome(attempt).kind for attempt in bad} == {"raised"}
    assert [harness.value(harness.outcome(attempt)) for attempt in good] == list(range(30))
