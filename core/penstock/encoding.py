"""Values as bytes that can be read in one way only: every part says its kind and where it ends.

Where a part grows long its digest stands in for it, so nothing is copied more than once. Encoders
are looked up by type:

- the built-in types have one each;
- others have a *plain form* (`plain_forms`), simpler values that stand for them;
- dataclasses, named tuples, attrs classes, pydantic models and subclasses of all of the above
  are encoded by their class's name and their attributes.

What counts as equal is said in `hashing`.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import reprlib
import struct
import weakref
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.plain_forms import (
    ADVICE,
    BY_NAME,
    BY_TYPE,
    COMPLETE,
    NoStableHashError,
    Parts,
    full_name,
    top_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["digest", "encode"]

Walk: TypeAlias = "dict[int, int]"
"""Ids of the containers being written, outermost first, each with its depth."""

Encoder: TypeAlias = "Callable[[Any, Walk], bytes]"

_LONG = 512
_NAN = float("nan")
_pack_float = struct.Struct("<d").pack


def encode(value: object) -> bytes:
    """Write a value.

    Raises:
        NoStableHashError: part of the value is not known by its value.
        RecursionError: it is nested too deeply.
    """
    return _ENCODERS[type(value)](value, {})


def digest(content: Any) -> bytes:
    """Hash bytes to 16 bytes.

    SHA-256, as processors have instructions for it: twice as fast here as blake2b, and nothing
    in hashlib is faster without being broken.
    """
    return sha256(content).digest()[:16]


# --- the format: tag, length, content ---------------------------------------------------


def _leaf(tag: bytes, content: Any) -> bytes:
    if len(content) > _LONG:
        return b"%b#%x:%b" % (tag, len(content), digest(content))
    return b"%b%x:%b" % (tag, len(content), content)


def _node(tag: bytes, parts: Iterable[bytes], count: int) -> bytes:
    content = b"".join(parts)
    if len(content) > _LONG:
        return b"%b#%x:%b" % (tag, count, digest(content))
    return b"%b%x:%b" % (tag, count, content)


def _back_reference(walk: Walk, key: int) -> bytes:
    return b"^%x:" % (len(walk) - walk[key])


# --- built-in types ---------------------------------------------------------------------


def _encode_int(value: int, _: Walk) -> bytes:
    return b"i%x;" % value  # hexadecimal: decimal digits are limited, and slow for large numbers


def _encode_float(value: float, _: Walk) -> bytes:
    return b"f" + _pack_float(value if value == value else _NAN)


def _encode_complex(value: complex, walk: Walk) -> bytes:
    return b"c" + _encode_float(value.real, walk) + _encode_float(value.imag, walk)


def _encode_str(value: str, _: Walk) -> bytes:
    return _leaf(b"s", str.encode(value, "utf-8", "surrogatepass"))


def _encode_memoryview(value: memoryview, walk: Walk) -> bytes:
    flat = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
    form = _encode_str(value.format, walk) + _encode_tuple(value.shape or (), walk)
    return b"m" + form + _leaf(b"b", flat)


def _sequence_encoder(tag: bytes, members: Callable[[Any], Iterable[Any]]) -> Encoder:
    def encode(value: Any, walk: Walk) -> bytes:
        key = id(value)
        if key in walk:
            return _back_reference(walk, key)
        walk[key] = len(walk)
        parts: list[bytes] = []
        append, encoders = parts.append, _ENCODERS
        try:
            for member in members(value):
                append(encoders[type(member)](member, walk))
        except NoStableHashError as error:
            error.steps.append(f"[{len(parts)}]")
            raise
        del walk[key]
        return _node(tag, parts, len(parts))

    return encode


def _set_encoder(tag: bytes, members: Callable[[Any], Iterable[Any]]) -> Encoder:
    def encode(value: Any, walk: Walk) -> bytes:
        parts: list[bytes] = []
        for member in list(members(value)):  # a copy: another thread may be adding to it
            try:
                parts.append(_ENCODERS[type(member)](member, walk))
            except NoStableHashError as error:
                error.steps.append(f"member {reprlib.repr(member)}")
                raise
        parts.sort()
        return _node(tag, parts, len(parts))

    return encode


def _mapping_encoder(
    tag: bytes,
    items: Callable[[Any], Any],
    *,
    ordered: bool,
    step: Callable[[Any], str] = lambda key: f"[{reprlib.repr(key)}]",
) -> Encoder:
    def encode(value: Any, walk: Walk) -> bytes:
        own = id(value)
        if own in walk:
            return _back_reference(walk, own)
        walk[own] = len(walk)
        parts: list[bytes] = []
        append, encoders = parts.append, _ENCODERS
        for key, item in list(items(value)):  # a copy: another thread may be adding to it
            try:
                append(encoders[type(key)](key, walk) + encoders[type(item)](item, walk))
            except NoStableHashError as error:
                error.steps.append(step(key))
                raise
        del walk[own]
        if not ordered:
            parts.sort()
        return _node(tag, parts, len(parts))

    return encode


_encode_tuple = _sequence_encoder(b"t", tuple.__iter__)


# --- other types: by a plain form, or by their attributes --------------------------------


def _plain_encoder(name: str, plain_form: Callable[[Any], object]) -> Encoder:
    head = b"v" + _leaf(b"s", name.encode())

    def encode(value: Any, walk: Walk) -> bytes:
        key = id(value)
        if key in walk:
            return _back_reference(walk, key)
        walk[key] = len(walk)
        plain = plain_form(value)
        encoded = head + _ENCODERS[type(plain)](plain, walk)
        del walk[key]
        return encoded

    return encode


def _object_encoder(
    cls: type, attributes_of: Callable[[Any], dict[str, Any]], base: Encoder | None
) -> Encoder:
    """Write the class's name, what it holds as a `base` (a list, an int…), and its attributes."""
    head = b"o" + _leaf(b"s", full_name(cls).encode())
    cached = _names_of_caches(cls)

    def encode(value: Any, walk: Walk) -> bytes:
        key = id(value)
        if key in walk:
            return _back_reference(walk, key)
        content = base(value, walk) if base is not None else b"-"
        walk[key] = len(walk)
        parts: list[bytes] = []
        for name, item in sorted(attributes_of(value).items()):
            if name in cached or name[:2] == "__" == name[-2:]:
                continue
            try:
                parts.append(_encode_str(name, walk) + _ENCODERS[type(item)](item, walk))
            except NoStableHashError as error:
                error.steps.append(f".{name}")
                raise
        del walk[key]
        return head + content + _node(b"a", parts, len(parts))

    return encode


def _names_of_caches(cls: type) -> frozenset[str]:
    """Return the attributes that say nothing new, and are there or not by chance."""
    names = {"_attrs_cached_hash"}
    for each in cls.__mro__:
        for name, value in vars(each).items():
            if isinstance(value, functools.cached_property):
                names.add(name)
        names.update(vars(each).get("__attrs_cached_properties__", ()))
    return frozenset(names)


def _attributes_and(fields: tuple[str, ...]) -> Callable[[Any], dict[str, Any]]:
    def attributes_of(value: object) -> dict[str, Any]:
        state: Any = object.__getstate__(value)  # the instance's dict, or (dict, slots)
        attributes: dict[str, Any] = {}
        for part in state if isinstance(state, tuple) else (state,):
            if part:
                attributes.update(part)
        for name in fields:  # a field may live on the class only
            if name not in attributes and hasattr(value, name):
                attributes[name] = getattr(value, name)
        return attributes

    return attributes_of


def _model_attributes(model: Any) -> dict[str, Any]:
    private, extra = model.__pydantic_private__ or {}, model.__pydantic_extra__ or {}
    return {**vars(model), **private, **extra}


def _enum_encoder(cls: type) -> Encoder:
    head = b"e" + _leaf(b"s", full_name(cls).encode())

    def encode(member: Any, walk: Walk) -> bytes:
        try:
            value = _ENCODERS[type(member._value_)](member._value_, walk.copy())
        except NoStableHashError:  # such as `object()`: only there to make the member unique
            value = b"-"
        return head + _encode_str(str(member._name_), walk) + value

    return encode


def _protocol_encoder(cls: type) -> Encoder:
    head = b"h" + _leaf(b"s", full_name(cls).encode())

    def encode(value: Any, walk: Walk) -> bytes:
        key = id(value)
        if key in walk:
            return _back_reference(walk, key)
        walk[key] = len(walk)
        stated = value.__stable_hash__()
        try:
            encoded = head + _ENCODERS[type(stated)](stated, walk)
        except NoStableHashError as error:
            error.steps.append(".__stable_hash__()")
            raise
        del walk[key]
        return encoded

    return encode


def _refuser(cls: type) -> Encoder:
    names = [*map(top_name, cls.__mro__)]
    if issubclass(cls, Iterator):
        names.append("collections.Iterator")
    advice = next((ADVICE[name] for name in names if name in ADVICE), "")

    def refuse(value: Any, _: Walk) -> bytes:
        raise NoStableHashError(type(value), advice)

    return refuse


# --- from a type to its encoder ---------------------------------------------------------


class _Encoders(dict[type, Encoder]):
    """The encoders of the built-in types; any other type's is found once and remembered."""

    def __init__(self, built_in: Mapping[type, Encoder]) -> None:
        super().__init__(built_in)
        self._found: weakref.WeakKeyDictionary[type, Encoder] = weakref.WeakKeyDictionary()

    def __missing__(self, cls: type) -> Encoder:
        encoder = self._found.get(cls)
        if encoder is None:
            encoder = self._found[cls] = _find_encoder(cls)
        return encoder


def _find_encoder(cls: type) -> Encoder:
    if getattr(cls, "__stable_hash__", None) is not None:
        return _protocol_encoder(cls)
    if issubclass(cls, enum.Enum):
        return _enum_encoder(cls)
    if issubclass(cls, type):  # a class whose metaclass is not plain `type`
        return _ENCODERS[type]
    base: Encoder | None = None
    for each in cls.__mro__:
        name = top_name(each)
        if name == "pydantic.BaseModel":
            return _object_encoder(cls, _model_attributes, None)
        if name in BY_NAME:
            if each is cls or name in COMPLETE:
                return _plain_encoder(top_name(cls), BY_NAME[name])
            base = _plain_encoder(name, BY_NAME[name])
            break
        if each in _ENCODERS:
            base = _ENCODERS[each]
            break
    fields = _field_names(cls)
    if base is None and fields is None:
        return _refuser(cls)
    return _object_encoder(cls, _attributes_and(fields or ()), base)


def _field_names(cls: type) -> tuple[str, ...] | None:
    """Return what the class declares as its fields, or None if it declares none."""
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    attrs_fields = getattr(cls, "__attrs_attrs__", None)
    if attrs_fields is not None:
        return tuple(field.name for field in attrs_fields)
    if top_name(cls) in {"pydantic.SecretStr", "pydantic.SecretBytes"}:
        return ()
    return getattr(cls, "_fields", None) if issubclass(cls, tuple) else None


_ENCODERS = _Encoders({
    type(None): lambda _, __: b"N",
    type(...): lambda _, __: b"E",
    type(NotImplemented): lambda _, __: b"I",
    bool: lambda value, _: b"T" if value else b"F",
    int: _encode_int,
    float: _encode_float,
    complex: _encode_complex,
    str: _encode_str,
    bytes: lambda value, _: _leaf(b"b", value),
    bytearray: lambda value, _: _leaf(b"B", value),
    memoryview: _encode_memoryview,
    tuple: _encode_tuple,
    list: _sequence_encoder(b"l", list.__iter__),
    set: _set_encoder(b"S", set.__iter__),
    frozenset: _set_encoder(b"Z", frozenset.__iter__),
    dict: _mapping_encoder(b"d", dict.items, ordered=False),
    collections.OrderedDict: _mapping_encoder(b"D", collections.OrderedDict.items, ordered=True),
    Parts: _mapping_encoder(
        b"p", Parts.items, ordered=True, step=lambda name: "" if name[:1] == "_" else name
    ),
})  # fmt: skip
_ENCODERS.update({cls: _plain_encoder(cls.__name__, form) for cls, form in BY_TYPE.items()})
