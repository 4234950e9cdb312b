"""How values that JSON has no form for are written in it, so that they come back as they were.

What JSON has a form for stands as it is. The rest is an object with one key, a `tag`, such as
``{"!tuple": [1, 2]}``. A dict whose own keys would be taken for that, or that has keys other than
text, is written as its items. What is in neither group is refused with the place where it stands:
a list that was a tuple, or a number that was a member of an enumeration, would be a wrong value.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import pathlib
import reprlib
import uuid
from typing import TYPE_CHECKING, Any

from penstock.exceptions import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["from_json_form", "to_json_form"]

_MARK = "!"


def to_json_form(value: Any) -> Any:
    """Return the value in types that `json` writes without loss.

    Raises:
        SerializationError: part of it has no such form; the message says which.
    """
    try:
        return _write(value)
    except _NoJSONFormError as error:
        place = "".join(["the value", *reversed(error.steps)])
        raise SerializationError(
            f"JSON cannot hold {place}: {error}. Ways out: the serializer 'pickle', a result of "
            "plain values, or a Serializer of your own."
        ) from None
    except RecursionError:
        raise SerializationError(
            "JSON cannot hold this value: it is nested too deeply, or contains itself"
        ) from None


class _NoJSONFormError(Exception):
    """On its way up from what has no form, it collects the path to it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.steps: list[str] = []


def from_json_form(members: dict[str, Any]) -> Any:
    """Return what an object of JSON stands for; the `object_hook` of `json.loads`."""
    if len(members) == 1:
        ((tag, content),) = members.items()
        if tag.startswith(_MARK):
            return _READERS[tag](content)
    return members


def _write(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is list:
        return _members(value)
    if kind is dict:
        return _mapping(value)
    if kind in (tuple, set, frozenset):
        return {_MARK + kind.__name__: _members(value)}
    writer = _WRITERS.get(kind)
    if writer is None:
        raise _NoJSONFormError(
            f"{kind.__module__}.{kind.__qualname__} would not come back as it is"
        )
    tag, write = writer
    return {tag: write(value)}


def _members(values: Iterable[Any]) -> list[Any]:
    written: list[Any] = []
    try:
        for member in values:
            written.append(_write(member))  # noqa: PERF401  (its length tells where it stopped)
    except _NoJSONFormError as error:
        error.steps.append(f"[{len(written)}]")
        raise
    return written


def _mapping(value: dict[Any, Any]) -> dict[str, Any]:
    tagged = len(value) == 1 and str(next(iter(value))).startswith(_MARK)
    in_pairs = tagged or not all(type(key) is str for key in value)
    members: list[tuple[Any, Any]] = []
    for key, item in value.items():
        try:
            members.append((_write(key) if in_pairs else key, _write(item)))
        except _NoJSONFormError as error:
            error.steps.append(f"[{reprlib.repr(key)}]")
            raise
    return {_MARK + "dict": members} if in_pairs else dict(members)


def _moment(value: datetime.datetime) -> str:
    if value.tzinfo is not None and value.tzinfo is not datetime.UTC:
        # The text would hold an offset, which is not all that a time zone is.
        raise _NoJSONFormError(f"the time zone of {value!r} would not come back; use UTC")
    if value.fold:
        raise _NoJSONFormError(f"the fold of {value!r} would be lost")
    return value.isoformat()


_AS_IT_IS = frozenset({type(None), bool, int, float, str})

_Form = tuple[str, "Callable[[Any], Any]"]

_WRITERS: dict[type, _Form] = {
    bytes: ("!bytes", lambda value: base64.b64encode(value).decode()),
    complex: ("!complex", lambda value: [value.real, value.imag]),
    datetime.datetime: ("!datetime", _moment),
    datetime.date: ("!date", datetime.date.isoformat),
    datetime.timedelta: ("!timedelta", lambda d: [d.days, d.seconds, d.microseconds]),
    decimal.Decimal: ("!decimal", str),
    uuid.UUID: ("!uuid", str),
    type(pathlib.Path()): ("!path", str),
    pathlib.PurePosixPath: ("!posixpath", str),
    pathlib.PureWindowsPath: ("!windowspath", str),
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "!tuple": tuple,
    "!set": set,
    "!frozenset": frozenset,
    "!dict": dict,
    "!bytes": base64.b64decode,
    "!complex": lambda parts: complex(*parts),
    "!datetime": datetime.datetime.fromisoformat,
    "!date": datetime.date.fromisoformat,
    "!timedelta": lambda parts: datetime.timedelta(*parts),
    "!decimal": decimal.Decimal,
    "!uuid": uuid.UUID,
    "!path": pathlib.Path,
    "!posixpath": pathlib.PurePosixPath,
    "!windowspath": pathlib.PureWindowsPath,
}
