"""How values of other types are restated as simpler ones, for hashing.

A *plain form* is a function from a value to built-in values that say all that makes it what it
is. `BY_TYPE` has those of the standard library that is loaded anyway. `BY_NAME` has those of
modules that are not imported for this: the key is the top package and the class's qualified
name, which moves less between releases than the submodule does.
"""

from __future__ import annotations

import collections
import datetime
import functools
import pathlib
import re
import sys
import types
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BY_NAME", "BY_TYPE", "COMPLETE", "full_name", "top_name"]

PlainForm: TypeAlias = "Callable[[Any], object]"


def full_name(cls: type) -> str:
    """Return ``module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def top_name(cls: type) -> str:
    """Return ``package.Class``, without the submodules between."""
    return f"{str(cls.__module__).partition('.')[0]}.{cls.__qualname__}"


# --- code -------------------------------------------------------------------------------

_CO_FUNCTION = 0x1 | 0x2  # local variables of its own: not a module's body, nor a class's
_CO_VARARGS, _CO_VARKEYWORDS = 0x4, 0x8
_CO_KINDS = _CO_VARARGS | _CO_VARKEYWORDS | 0x20 | 0x80 | 0x100 | 0x200  # generator, coroutine…
_CO_HAS_DOCSTRING = 0x4000000 if sys.version_info >= (3, 14) else 0


def _function(fn: types.FunctionType) -> object:
    captured: dict[str, object] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            captured[name] = (cell.cell_contents,)
        except ValueError:  # not bound yet
            captured[name] = ()
    return {
        "name": f"{fn.__module__}.{fn.__qualname__}",
        "code": fn.__code__,
        "defaults": fn.__defaults__,
        "keyword defaults": fn.__kwdefaults__,
        "captured": captured,
    }


def _code(code: types.CodeType) -> object:
    constants = code.co_consts
    if _has_docstring(code):
        constants = (None, *constants[1:])
    parameters = code.co_argcount + code.co_kwonlyargcount
    parameters += bool(code.co_flags & _CO_VARARGS) + bool(code.co_flags & _CO_VARKEYWORDS)
    return (
        code.co_code,
        constants,
        code.co_names,
        code.co_varnames[:parameters],
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        code.co_flags & _CO_KINDS,
        code.co_exceptiontable,
    )


def _has_docstring(code: types.CodeType) -> bool:
    if not code.co_consts or not isinstance(code.co_consts[0], str):
        return False
    if _CO_HAS_DOCSTRING:
        return bool(code.co_flags & _CO_HAS_DOCSTRING)
    # Before 3.14 the first constant of a function is its docstring or None. Only comprehensions
    # and generator expressions, whose names are in angle brackets, keep others there.
    return code.co_flags & _CO_FUNCTION == _CO_FUNCTION and not code.co_name.startswith("<")


def _builtin(fn: types.BuiltinFunctionType) -> object:
    owner = fn.__self__
    return (fn.__module__, fn.__qualname__, None if isinstance(owner, types.ModuleType) else owner)


def _descriptor(method: Any) -> object:
    return (method.__objclass__, method.__name__)


def _getter(getter: Any) -> object:
    return getter.__reduce__()[1:]


# --- dates ------------------------------------------------------------------------------


def _datetime(value: datetime.datetime) -> object:
    return (
        (value.year, value.month, value.day, value.hour, value.minute, value.second),
        value.microsecond,
        value.fold,
        value.tzinfo,
    )


def _time(value: datetime.time) -> object:
    return (
        (value.hour, value.minute, value.second, value.microsecond),
        value.fold,
        value.tzinfo,
    )


BY_TYPE: dict[Any, PlainForm] = {
    range: lambda r: (r.start, r.stop, r.step),
    slice: lambda s: (s.start, s.stop, s.step),
    type: full_name,
    types.FunctionType: _function,
    types.CodeType: _code,
    types.MethodType: lambda m: {"__func__": m.__func__, "__self__": m.__self__},
    types.BuiltinFunctionType: _builtin,
    types.MethodDescriptorType: _descriptor,
    types.WrapperDescriptorType: _descriptor,
    types.ClassMethodDescriptorType: _descriptor,
    types.ModuleType: lambda m: m.__name__,
    types.GenericAlias: lambda a: (a.__origin__, a.__args__),
    types.UnionType: lambda u: u.__args__,
    types.SimpleNamespace: lambda n: vars(n),
    types.MappingProxyType: dict,
    functools.partial: lambda p: {"func": p.func, "args": p.args, "keywords": p.keywords},
    collections.defaultdict: lambda d: (d.default_factory, dict(d)),
    collections.deque: lambda d: (d.maxlen, list(d)),
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


# --- numpy ------------------------------------------------------------------------------

_NUMPY_BY_BYTES = "biufcmMSUV"  # kinds whose memory is the value; objects and strings are pointers


def _array(array: Any) -> object:
    return (_dtype(array.dtype), array.shape, _array_content(array))


def _array_content(array: Any) -> object:
    dtype = array.dtype
    if dtype.names:  # not the memory as it is: between the fields may be unused bytes
        return {name: _array(array[name]) for name in dtype.names}
    if dtype.char in "gG":  # long doubles too have unused bytes
        return [repr(number) for number in array.ravel().tolist()]
    if dtype.hasobject or dtype.kind not in _NUMPY_BY_BYTES:
        return array.ravel().tolist()
    if not array.nbytes:
        return b""
    numpy = sys.modules["numpy"]
    flat = numpy.ascontiguousarray(array).reshape(-1)  # in C order, whatever the layout is
    return flat.view(numpy.ndarray).view("u1").data


def _masked_array(array: Any) -> object:
    numpy = sys.modules["numpy"]
    return (_array(array.data), _array(numpy.ma.getmaskarray(array)), array.fill_value)


def _scalar(scalar: Any) -> object:
    return _array(sys.modules["numpy"].asarray(scalar))


def _dtype(dtype: Any) -> object:
    if dtype.names:
        fields = [(name, _dtype(dtype[name]), dtype.fields[name][1]) for name in dtype.names]
        return (fields, dtype.itemsize)
    if dtype.subdtype:
        return (_dtype(dtype.subdtype[0]), dtype.subdtype[1])
    return (dtype.str, dtype.name)


# --- pandas -----------------------------------------------------------------------------


def _frame(frame: Any) -> object:
    columns = [_column(column) for _, column in frame.items()]
    return {"columns": frame.columns, "index": frame.index, "data": columns, "attrs": frame.attrs}


def _series(series: Any) -> object:
    return {
        "name": series.name,
        "index": series.index,
        "data": _column(series),
        "attrs": series.attrs,
    }


def _index(index: Any) -> object:
    names = list(index.names)
    if type(index).__name__ == "RangeIndex":
        return (names, index.start, index.stop, index.step)
    if index.nlevels > 1:
        return (names, [_column(index.get_level_values(level)) for level in range(index.nlevels)])
    return (names, _column(index))


def _column(column: Any) -> object:
    if isinstance(column.dtype, sys.modules["numpy"].dtype):
        return _array(column.to_numpy())
    return _extension_array(column.array)


def _extension_array(array: Any) -> object:
    dtype = array.dtype
    name = str(dtype)
    if hasattr(array, "categories"):
        return (name, array.codes, array.categories, array.ordered)
    if isinstance(dtype, sys.modules["numpy"].dtype):
        return (name, array.to_numpy())
    if dtype.kind in "mM":
        return (name, array.astype("int64"))
    stored = getattr(dtype, "numpy_dtype", None)
    if stored is not None and stored.kind in "biuf":  # values and a mask
        return (name, array.to_numpy(stored, na_value=0), array.isna())
    return (name, list(array))


def _moment(value: Any) -> object:
    zone = getattr(value, "tz", None)
    numpy = sys.modules["numpy"]
    return (value.unit, int(value.asm8.astype(numpy.int64)), zone and str(zone))


BY_NAME: dict[str, PlainForm] = {
    "array.array": lambda a: (a.typecode, a.itemsize, memoryview(a).cast("B") if a else b""),
    "decimal.Decimal": str,
    "fractions.Fraction": lambda f: (f.numerator, f.denominator),
    "uuid.UUID": lambda u: u.int,
    "zoneinfo.ZoneInfo": lambda z: z.key or repr(z),
    "operator.itemgetter": _getter,
    "operator.attrgetter": _getter,
    "operator.methodcaller": _getter,
    "ipaddress.IPv4Address": str,
    "ipaddress.IPv6Address": str,
    "ipaddress.IPv4Network": str,
    "ipaddress.IPv6Network": str,
    "numpy.ndarray": _array,
    "numpy.memmap": _array,
    "numpy.MaskedArray": _masked_array,
    "numpy.generic": _scalar,
    "numpy.dtype": _dtype,
    "numpy.ufunc": lambda f: f.__name__,
    "pandas.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.Index": _index,
    "pandas.ExtensionArray": _extension_array,
    "pandas.ExtensionDtype": str,
    "pandas.Timestamp": _moment,
    "pandas.Timedelta": _moment,
    "pandas.NaTType": str,
    "pandas.NAType": str,
    "pandas.Period": lambda p: (p.ordinal, p.freqstr),
    "pandas.Interval": lambda i: (i.left, i.right, i.closed),
    "pydantic._BaseUrl": str,
    "pydantic_core.Url": str,
}

COMPLETE = frozenset({
    "numpy.generic",
    "numpy.dtype",
    "numpy.MaskedArray",
    "pandas.DataFrame",
    "pandas.Series",
    "pandas.Index",
    "pandas.ExtensionArray",
    "pandas.ExtensionDtype",
    "pydantic._BaseUrl",
})  # fmt: skip
"""Forms that hold for subclasses too: their own attributes are caches and internals."""
