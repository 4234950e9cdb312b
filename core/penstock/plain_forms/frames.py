"""Plain forms of pandas' frames, series, indexes, extension arrays and moments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.arrays import array_form
from penstock.plain_forms.base import Parts, text_block

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "COMPLETE"]


def _frame(frame: Any) -> object:
    parts = Parts({"the columns": frame.columns, "the index": frame.index})
    for place, (label, column) in enumerate(frame.items()):
        parts[f"column {place} ({label!r})"] = _column(column)
    parts[".attrs"] = frame.attrs
    parts["_metadata"] = _metadata(frame)
    return parts


def _series(series: Any) -> object:
    return Parts({
        ".name": series.name,
        "the index": series.index,
        "_values": _column(series),
        ".attrs": series.attrs,
        "_metadata": _metadata(series),
    })  # fmt: skip


def _metadata(labelled: Any) -> object:
    """Return what a subclass adds, by the attribute in which pandas lets it say so."""
    names = [name for name in labelled._metadata if name not in ("_name", "name")]
    return Parts((f".{name}", getattr(labelled, name, None)) for name in names)


def _index(index: Any) -> object:
    names = list(index.names)
    if type(index).__name__ == "RangeIndex":
        return (names, index.start, index.stop, index.step)
    if index.nlevels > 1:
        levels = range(index.nlevels)
        return Parts(
            _names=names,
            **{f"level {level}": _column(index.get_level_values(level)) for level in levels},
        )
    # The distance between moments is no decoration: shift() and to_period() go by it.
    return Parts(_names=names, _values=_column(index), _freq=getattr(index, "freqstr", None))


def _column(column: Any) -> object:
    if isinstance(column.dtype, sys.modules["numpy"].dtype):
        return array_form(column.to_numpy())
    return _extension_array(column.array)


def _extension_array(array: Any) -> object:
    return Parts(_dtype=str(array.dtype), _values=_values(array))


def _values(array: Any) -> object:
    dtype, kind = array.dtype, type(array.dtype).__name__
    if isinstance(dtype, sys.modules["numpy"].dtype):
        return array_form(array.to_numpy())
    if kind == "CategoricalDtype":
        return (array_form(array.codes), array.categories, array.ordered)
    if kind in {"DatetimeTZDtype", "PeriodDtype"}:
        return array_form(array.asi8)
    if kind == "IntervalDtype":
        return (_column(array.left), _column(array.right))
    if kind == "SparseDtype":
        return array_form(sys.modules["numpy"].asarray(array))
    if kind == "StringDtype":  # whatever it keeps them in
        texts = array.to_numpy(object, na_value="").tolist()
        return (text_block(texts), array_form(array.isna()))
    if kind == "ArrowDtype":
        return array.__arrow_array__()
    stored = getattr(dtype, "numpy_dtype", None)
    if stored is not None and stored.kind in "biuf":  # values and a mask
        return (array_form(array.to_numpy(stored, na_value=0)), array_form(array.isna()))
    return list(array)


def _categories(dtype: Any) -> object:
    return (dtype.categories, dtype.ordered)


def _moment(value: Any) -> object:
    zone = getattr(value, "tz", None)
    numpy = sys.modules["numpy"]
    return (value.unit, int(value.asm8.astype(numpy.int64)), zone and str(zone))


BY_NAME: dict[str, PlainForm] = {
    "pandas.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.Index": _index,
    "pandas.ExtensionArray": _extension_array,
    "pandas.CategoricalDtype": _categories,
    "pandas.ExtensionDtype": str,
    "pandas.Timestamp": _moment,
    "pandas.Timedelta": _moment,
    "pandas.NaTType": str,
    "pandas.NAType": str,
    "pandas.Period": lambda p: (p.ordinal, p.freqstr),
    "pandas.Interval": lambda i: (i.left, i.right, i.closed),
    "pandas.BaseOffset": lambda o: (o.n, o.normalize, o.kwds),
}

COMPLETE = frozenset({
    "pandas.BaseOffset",
    "pandas.CategoricalDtype",
    "pandas.DataFrame",
    "pandas.Series",
    "pandas.Index",
    "pandas.ExtensionArray",
    "pandas.ExtensionDtype",
})  # fmt: skip
