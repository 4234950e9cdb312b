"""Plain forms of numpy's arrays, scalars, dtypes and functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.base import NoStableHashError, Parts

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "COMPLETE", "array_form", "one_nan"]

_BY_BYTES = "biufcmMSUV"  # kinds whose memory is the value; objects and strings are pointers


def array_form(array: Any) -> object:
    """Restate an array by its dtype, shape and values in C order, whatever its layout is."""
    return Parts(_dtype=_dtype(array.dtype), _shape=array.shape, _content=_content(array))


def _content(array: Any) -> object:
    dtype = array.dtype
    if dtype.names:  # not the memory as it is: between the fields may be unused bytes
        return Parts((f"field {name!r}", array_form(array[name])) for name in dtype.names)
    if dtype.char in "gG":  # long doubles too have unused bytes
        return [str(number) for number in array.ravel().tolist()]
    if dtype.hasobject or dtype.kind not in _BY_BYTES:
        return array.ravel().tolist()
    if not array.nbytes:
        return b""
    numpy = sys.modules["numpy"]
    flat = numpy.ascontiguousarray(array).reshape(-1).view(numpy.ndarray)
    return one_nan(flat).view("u1").data


def one_nan(flat: Any) -> Any:
    """Return a flat array in which every nan has the same bits: there are millions of them."""
    numpy = sys.modules["numpy"]
    parts = flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat
    # The least of some numbers is a nan if one of them is, and takes a tenth of a full search.
    if parts.dtype.kind != "f" or not numpy.isnan(parts.min()):
        return flat
    parts = parts.copy()
    parts[numpy.isnan(parts)] = numpy.nan
    return parts


def _masked_array(array: Any) -> object:
    numpy = sys.modules["numpy"]
    if array is numpy.ma.masked:  # it cannot even be asked what it is filled with
        return "masked"
    mask = array_form(numpy.ma.getmaskarray(array))
    return Parts(_data=array_form(array.data), _mask=mask, _fill=array.fill_value)


def _scalar(scalar: Any) -> object:
    return array_form(sys.modules["numpy"].asarray(scalar))


def _dtype(dtype: Any) -> object:
    if dtype.names:
        fields = [(name, _dtype(dtype[name]), dtype.fields[name][1]) for name in dtype.names]
        return (fields, dtype.itemsize)
    if dtype.subdtype:
        return (_dtype(dtype.subdtype[0]), dtype.subdtype[1])
    missing = getattr(dtype, "na_object", "")  # of texts of variable length
    return (dtype.str, dtype.name, missing if isinstance(missing, str) else repr(missing))


def _function(fn: Any) -> object:
    """Restate a function by where it is found; one that was made by a user is not found."""
    name: str = fn.__name__
    for module in (getattr(fn, "__module__", None), "numpy", "scipy.special"):
        if module and getattr(sys.modules.get(module), name, None) is fn:
            return f"{module}.{name}"
    raise NoStableHashError(type(fn), "what it computes cannot be seen")


BY_NAME: dict[str, PlainForm] = {
    "numpy.ndarray": array_form,
    "numpy.memmap": array_form,
    "numpy.MaskedArray": _masked_array,
    "numpy.generic": _scalar,
    "numpy.dtype": _dtype,
    "numpy.ufunc": _function,
    "numpy._ArrayFunctionDispatcher": _function,
}

COMPLETE = frozenset({"numpy.generic", "numpy.dtype", "numpy.MaskedArray"})
