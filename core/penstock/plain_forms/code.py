"""Plain forms of functions, methods, classes and modules."""

from __future__ import annotations

import functools
import sys
import types
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.base import NoStableHashError, Parts, full_name

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "BY_TYPE", "captured"]

_CO_FUNCTION = 0x1 | 0x2  # local variables of its own: not a module's body, nor a class's
_CO_VARARGS, _CO_VARKEYWORDS = 0x4, 0x8
_CO_KINDS = _CO_VARARGS | _CO_VARKEYWORDS | 0x20 | 0x80 | 0x100 | 0x200  # generator, coroutine…
_CO_HAS_DOCSTRING = 0x4000000 if sys.version_info >= (3, 14) else 0


def captured(fn: types.FunctionType) -> dict[str, tuple[object, ...]]:
    """Return the variables a function captures, each in a tuple: empty if not bound yet."""
    found: dict[str, tuple[object, ...]] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = (cell.cell_contents,)
        except ValueError:  # not bound yet
            found[name] = ()
    return found


def _function(fn: types.FunctionType) -> object:
    return Parts(
        _name=f"{fn.__module__}.{fn.__qualname__}",
        _code=fn.__code__,
        defaults=fn.__defaults__,
        keyword_defaults=fn.__kwdefaults__,
        _captured=Parts((f"captured {name!r}", cell) for name, cell in captured(fn).items()),
    )


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


def _class(cls: type) -> object:
    if "<locals>" in cls.__qualname__:  # each call of the function around it makes another one
        raise NoStableHashError(type(cls), f"{cls.__name__} is made inside a function")
    return full_name(cls)


def _builtin(fn: types.BuiltinFunctionType) -> object:
    owner = fn.__self__
    return (fn.__module__, fn.__qualname__, None if isinstance(owner, types.ModuleType) else owner)


def _descriptor(method: Any) -> object:
    return (method.__objclass__, method.__name__)


def _getter(getter: Any) -> object:
    return getter.__reduce__()[1:]


def _generic(alias: Any) -> object:
    return (alias.__origin__, alias.__args__)


BY_TYPE: dict[Any, PlainForm] = {
    type: _class,
    types.FunctionType: _function,
    types.CodeType: _code,
    types.MethodType: lambda m: Parts(__func__=m.__func__, **{".__self__": m.__self__}),
    types.BuiltinFunctionType: _builtin,
    types.MethodDescriptorType: _descriptor,
    types.WrapperDescriptorType: _descriptor,
    types.ClassMethodDescriptorType: _descriptor,
    types.ModuleType: lambda m: m.__name__,
    types.GenericAlias: _generic,
    types.UnionType: lambda u: u.__args__,
    functools.partial: lambda p: Parts(
        {".func": p.func, ".args": p.args, ".keywords": p.keywords},
    ),
}

BY_NAME: dict[str, PlainForm] = {
    "functools._lru_cache_wrapper": lambda f: (f.__wrapped__, f.cache_parameters()),
    "operator.itemgetter": _getter,
    "operator.attrgetter": _getter,
    "operator.methodcaller": _getter,
    "typing._GenericAlias": _generic,
    "typing._UnionGenericAlias": _generic,
    "typing._SpecialForm": str,
    "typing._AnyMeta": str,
}
