"""What each setting takes: from text, TOML or Python to the value, or an error that says.

Imports pydantic, and is itself imported only once a setting is set somewhere.
"""

from __future__ import annotations

import functools
import json
import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field, TypeAdapter

from penstock.exceptions import SettingsError
from penstock.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable


def coerce(name: str, value: Any, origin: str) -> Any:
    """Return `value` as the setting `name` holds it.

    Args:
        name: A setting.
        value: From the environment always text; from elsewhere whatever was given.
        origin: Where the value stands, for the message.

    Raises:
        SettingsError: The setting cannot take it.
    """
    kind = KINDS[name]
    try:
        return _adapter(name).validate_python(kind.prepare(value))
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{origin} is {value!r}, but the setting {name} takes {kind.takes}"
        ) from error


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[name].type)


class Kind(NamedTuple):
    """A kind of value: its type, how it is prepared for that, and the words for people."""

    type: Any
    takes: str
    prepare: Callable[[Any], Any]


def _plain(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would make 1 of true
        raise TypeError("not a number")
    return _plain(value)


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _none_word(value: Any) -> Any:
    """Text cannot be None: it takes a word for it."""
    return None if isinstance(value, str) and _word(value) in {"none", "null"} else value


def _size(value: Any) -> Any:
    """`2GB`, a number of bytes, or none."""
    given = _none_word(_number(value))
    return given if not isinstance(given, str) or given.isdecimal() else parse_size("", given)


def _numbers(value: Any) -> Any:
    """`[1, 10, 100]`, `1,10,100` and `5`, or the like as objects."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1].strip()
        value = text.split(",") if text else []
    elif not isinstance(value, list | tuple):
        value = [value]
    return [_number(one) for one in cast("list[Any]", value)]


def _words(value: Any) -> Any:
    """`a,b`, or a list."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip()]


def _limits(value: Any) -> Any:
    """`db=3,api=10`, a JSON object, or a table."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{"):
            value = json.loads(text)
        else:
            pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
            value = {tag.strip(): limit.strip() for tag, _, limit in pairs}
    if isinstance(value, dict):
        limits: dict[Any, Any] = value
        return {tag: _number(limit) for tag, limit in limits.items()}
    return value


def _level(value: Any) -> Any:
    """The name of a level in capitals; a number only where a level has no name."""
    if isinstance(value, bool):
        raise TypeError("not a level")
    text = str(value).strip().upper() if isinstance(value, str | int) else value
    if isinstance(text, str):
        if text.isdecimal():
            named = logging.getLevelName(int(text))
            return text if named.startswith("Level ") else named
        if text not in logging.getLevelNamesMapping():
            raise ValueError("not a level")
    return text


def _text(takes: str) -> Kind:
    return Kind(Annotated[str, Field(min_length=1)], takes, _plain)


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_COUNT = Kind(Annotated[int, Field(ge=0)], "a whole number, 0 or more", _number)
_SECONDS = Kind(_Seconds, "a number of seconds, 0 or more", _number)
_DELAYS = Kind(
    tuple[_Seconds, ...],
    "a number of seconds or several: 10, or 1,10,100, or [1, 10, 100]",
    _numbers,
)
_TIMEOUT = Kind(
    Annotated[float | None, Field(gt=0, allow_inf_nan=False)],
    "a number of seconds over 0, or none",
    lambda value: _none_word(_number(value)),
)
_YES_NO = Kind(bool, "true or false (or yes and no, on and off, 1 and 0)", _plain)
_LEVEL = Kind(str, "a level of logging (DEBUG, INFO, WARNING, ERROR, CRITICAL, a number)", _level)

KINDS: dict[str, Kind] = {
    "tasks_default_retries": _COUNT,
    "tasks_default_retry_delay_seconds": _DELAYS,
    "tasks_default_timeout_seconds": _TIMEOUT,
    "tasks_refresh_cache": _YES_NO,
    "tasks_refresh": Kind(
        tuple[Annotated[str, Field(min_length=1)], ...],
        "names or tags of tasks: load-*,nightly, or a list",
        _words,
    ),
    "tasks_default_no_cache": _YES_NO,
    "tasks_disable_caching": _YES_NO,
    "results_persist_by_default": _YES_NO,
    "tasks_crash_retries": _COUNT,
    "flows_default_retries": _COUNT,
    "flows_default_retry_delay_seconds": _DELAYS,
    "flows_unobserved_failures": Kind(
        Literal["fail", "warn", "ignore"], "fail, warn or ignore", _word
    ),
    "logging_level": _LEVEL,
    "logging_console": _YES_NO,
    "logging_format": Kind(Literal["text", "json"], "text or json", _word),
    "logging_log_prints": _YES_NO,
    "logging_task_created_level": _LEVEL,
    "results_local_storage_path": _text("a folder, or a URL such as s3://bucket/results"),
    "results_default_serializer": _text("the name of a serializer, such as pickle or json"),
    "results_signing_key": Kind(
        Annotated[str | None, Field(min_length=1)], "text, or is left out", lambda value: value
    ),
    "results_allow_shared_folder": _YES_NO,
    "results_max_bytes": Kind(
        Annotated[int | None, Field(ge=0)],
        "a whole number of bytes, 0 or more, a size such as 2GB, or none",
        _size,
    ),
    "task_runner": Kind(
        Annotated[str | None, Field(min_length=1)],
        "the name of a task runner, such as thread, process:4 or dask, or none",
        lambda value: _none_word(_plain(value)),
    ),
    "tag_limits": Kind(
        dict[Annotated[str, Field(min_length=1)], Annotated[int, Field(ge=1)]],
        "tags with limits of 1 or more: db=3,api=10, or a JSON object, or a table",
        _limits,
    ),
    "cancel_grace_seconds": _SECONDS,
}
"""By setting, in the order of `Settings`."""
