"""How an exception leaves a worker: as text always, and as an object if it survives."""

import copyreg
import pickle

import pytest

from penstock.worker import errors


class Unloadable(Exception):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} {second}")


def test_an_exception_that_cannot_be_loaded_travels_as_text() -> None:
    name, message, text, pickled = errors.pack_error(Unloadable(1, 2))
    assert name.endswith("Unloadable")
    assert message == "1 2"
    assert "Unloadable: 1 2" in text
    assert pickled is None


def test_a_bad_cause_does_not_spoil_a_good_exception() -> None:
    error = ValueError("good")
    error.__cause__ = Unloadable(1, 2)
    pickled = errors.pack_error(error)[3]
    assert pickled is not None
    assert repr(pickle.loads(pickled)) == "ValueError('good')"


def test_a_way_that_others_registered_for_exceptions_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (str, ("no error",)))
    pickled = errors.pack_error(ValueError("good"))[3]
    assert pickled is not None
    assert repr(pickle.loads(pickled)) == "ValueError('good')"


def test_exceptions_in_a_circle_travel() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__context__ = second, first
    pickled = errors.pack_error(first)[3]
    assert pickled is not None
    loaded = pickle.loads(pickled)
    assert loaded.__context__.__context__ is loaded


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_travels() -> None:
    name, message, text, _ = errors.pack_error(Speechless())
    assert name.endswith("Speechless")
    assert "RuntimeError" in message
    assert "Speechless" in text


def test_a_message_is_there_for_whatever_was_raised() -> None:
    assert errors.message_of(ValueError("x")) == "x"
    assert errors.message_of(Speechless()) == "(no message: its __str__ raised RuntimeError)"
