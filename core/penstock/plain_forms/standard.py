"""Plain forms of the standard library's values."""

from __future__ import annotations

import collections
import datetime
import pathlib
import re
import types
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.base import NoStableHashError, Parts

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "BY_TYPE", "COMPLETE"]


def _datetime(value: datetime.datetime) -> object:
    return Parts({
        "_date": (value.year, value.month, value.day),
        "_time": (value.hour, value.minute, value.second, value.microsecond, value.fold),
        ".tzinfo": value.tzinfo,
    })  # fmt: skip


def _time(value: datetime.time) -> object:
    return Parts({
        "_time": (value.hour, value.minute, value.second, value.microsecond, value.fold),
        ".tzinfo": value.tzinfo,
    })  # fmt: skip


def _zone(zone: Any) -> object:
    if zone.key is None:
        raise NoStableHashError(type(zone), "it was read from a file and has no key")
    return zone.key


def _array(array: Any) -> object:
    values = array.tounicode() if array.typecode in "uw" else memoryview(array).cast("B")
    return (array.typecode, array.itemsize, values if len(array) else b"")


BY_TYPE: dict[Any, PlainForm] = {
    range: lambda r: (r.start, r.stop, r.step),
    slice: lambda s: (s.start, s.stop, s.step),
    type({}.keys()): list,
    type({}.values()): list,
    type({}.items()): list,
    types.SimpleNamespace: lambda n: Parts((f".{name}", value) for name, value in _sorted(n)),
    types.MappingProxyType: dict,
    collections.defaultdict: lambda d: (d.default_factory, dict(d)),
    collections.deque: lambda d: (d.maxlen, list(d)),
    collections.ChainMap: lambda c: c.maps,
    collections.UserDict: lambda d: d.data,
    collections.UserList: lambda d: d.data,
    collections.UserString: lambda d: d.data,
    datetime.datetime: _datetime,
    datetime.date: lambda d: (d.year, d.month, d.day),
    datetime.time: _time,
    datetime.timedelta: lambda d: (d.days, d.seconds, d.microseconds),
    datetime.timezone: lambda z: (z.utcoffset(None), z.tzname(None)),
    pathlib.PosixPath: str,
    pathlib.WindowsPath: str,
    pathlib.PurePosixPath: str,
    pathlib.PureWindowsPath: str,
    re.Pattern: lambda p: (p.pattern, p.flags),
}


def _sorted(namespace: types.SimpleNamespace) -> list[tuple[str, object]]:
    return sorted(vars(namespace).items(), key=lambda item: item[0])


BY_NAME: dict[str, PlainForm] = {
    "array.array": _array,
    "decimal.Decimal": str,
    "fractions.Fraction": lambda f: (f.numerator, f.denominator),
    "uuid.UUID": lambda u: u.int,
    "zoneinfo.ZoneInfo": _zone,
    "pytz.BaseTzInfo": lambda z: (z.zone, str(z), z.utcoffset(None)),
    "pytz._FixedOffset": lambda z: z.utcoffset(None),
    "ipaddress.IPv4Address": str,
    "ipaddress.IPv6Address": str,
    "ipaddress.IPv4Network": str,
    "ipaddress.IPv6Network": str,
    "ipaddress.IPv4Interface": str,
    "ipaddress.IPv6Interface": str,
    "pydantic._BaseUrl": str,
    "pydantic_core.Url": str,
}

COMPLETE = frozenset({"pydantic._BaseUrl", "pytz.BaseTzInfo"})
