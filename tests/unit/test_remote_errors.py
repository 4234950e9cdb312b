"""Exceptions from elsewhere, raised again here."""

import pickle
import traceback

from penstock.attempt import RemoteError
from penstock.exceptions import RemoteTaskError
from penstock.remote_errors import exception_of


class OnlyThere(Exception):
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _cannot, ()


def _cannot() -> None:
    raise ImportError("no such class here")


def remote(exception: BaseException, pickled: bytes | None) -> RemoteError:
    return RemoteError(type(exception).__name__, str(exception), "line 3, in their_code", pickled)


def test_the_original_comes_back_with_the_workers_traceback_as_its_cause() -> None:
    back = exception_of(remote(KeyError("k"), pickle.dumps(KeyError("k"))))
    assert type(back) is KeyError
    assert back.args == ("k",)
    assert "their_code" in "".join(traceback.format_exception(back))


def test_a_cause_of_its_own_is_kept_and_the_text_is_a_note() -> None:
    back = exception_of(remote(ValueError("outer"), pickle.dumps(_Linked())))
    assert isinstance(back.__cause__, KeyError)
    assert "their_code" in "".join(traceback.format_exception(back))


class _Linked:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _linked, ()


def _linked() -> ValueError:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    return error


def test_what_could_not_travel_is_told_by_type_text_and_traceback() -> None:
    back = exception_of(remote(ValueError("lost"), None))
    assert isinstance(back, RemoteTaskError)
    assert "ValueError: lost" in str(back)
    assert "could not be pickled" in str(back)
    assert "their_code" in "".join(traceback.format_exception(back))


def test_what_does_not_load_here_says_why() -> None:
    back = exception_of(remote(OnlyThere("x"), pickle.dumps(OnlyThere("x"))))
    assert isinstance(back, RemoteTaskError)
    assert "no such class here" in str(back)
