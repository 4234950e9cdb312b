"""Plain forms of polars' frames and series.

By names, dtypes and values: chunks and flags such as "sorted" do not count. A `LazyFrame` has no
plain form: what it will read is not known before it is collected.
"""

from __future__ import annotations

import array
import sys
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.arrays import one_nan
from penstock.plain_forms.base import Parts, text_block

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "COMPLETE"]


def _frame(frame: Any) -> object:
    parts = Parts(_height=frame.height)
    for place, series in enumerate(frame.get_columns()):
        parts[f"column {place} ({series.name!r})"] = _series(series)
    return parts


def _series(series: Any) -> object:
    return Parts(_name=series.name, _content=_content(series))


def _content(series: Any) -> object:
    nulls = _values(series.is_null()) if series.null_count() else len(series)
    return Parts(_dtype=str(series.dtype), _nulls=nulls, _values=_values(series))


def _values(series: Any) -> object:
    kind = str(series.dtype.base_type())
    if kind == "Boolean":
        return _numbers(series.cast(sys.modules["polars"].UInt8).fill_null(0))
    if kind in _TYPECODES:
        return _numbers(series.fill_null(0))
    if kind in {"Date", "Time", "Datetime", "Duration"}:
        return _numbers(series.to_physical().fill_null(0))
    if kind in {"String", "Categorical", "Enum"}:
        text = series.cast(sys.modules["polars"].String)
        return text_block(text.fill_null("").to_list())
    if kind == "Array":
        return _content(series.arr.to_list())
    if kind == "List":
        lengths = series.list.len()
        return (_content(lengths), _content(series.filter(lengths > 0).explode()))
    if kind == "Struct":
        names = [field.name for field in series.dtype.fields]
        return Parts((f"field {name!r}", _content(series.struct.field(name))) for name in names)
    return series.to_list()


_TYPECODES = {
    "Int8": "b",
    "Int16": "h",
    "Int32": "i",
    "Int64": "q",
    "UInt8": "B",
    "UInt16": "H",
    "UInt32": "I",
    "UInt64": "Q",
    "Float32": "f",
    "Float64": "d",
}


def _numbers(series: Any) -> object:
    if not len(series):
        return b""
    try:
        return one_nan(series.to_numpy()).view("u1").data
    except ModuleNotFoundError:  # no numpy: the same memory, put together one by one
        nan = float("nan")
        numbers = [number if number == number else nan for number in series.to_list()]
        return memoryview(array.array(_TYPECODES[str(series.dtype)], numbers)).cast("B")


BY_NAME: dict[str, PlainForm] = {
    "polars.DataFrame": _frame,
    "polars.Series": _series,
    "polars.DataType": str,
}

COMPLETE = frozenset({"polars.DataType"})
