"""One stable hash for the values people pass to tasks: exact in types, equal in every process.

How it works. A value is encoded as bytes that can be read in one way only (every part says its
kind and where it ends), and those are hashed with blake2b. Where a part grows long its digest
stands in for it, so nothing is copied more than once. Encoders are looked up by type:

- the built-in types have one each;
- others have a *plain form* (`plain_forms`), simpler values that stand for them;
- dataclasses, named tuples, attrs classes, pydantic models and subclasses of all of the above
  are encoded by their class's name and their attributes.

What counts as equal:

- The exact type does: ``(1, 2)`` and ``[1, 2]``, ``1``, ``True`` and ``1.0``, a subclass and its
  base all differ. So do ``0.0`` and ``-0.0``; every nan is the same.
- The order of a dict's items and of a set's members does not (it does in an `OrderedDict`).
- All fields of a dataclass do, also those with ``compare=False``: they can change a result.
  Attributes set beside the fields do as well, cached properties do not.
- A class counts by its module and qualified name. A function does too, and by its bytecode,
  defaults and captured values; neither by its file nor by its lines. The bytecode differs
  between Python versions, so those keys do not outlive an upgrade. Globals are not followed.
- A path counts by its text, not by what the file holds.
- A container inside itself counts by how many containers up it is.

What is not known by its value (a connection, a lock, an open file, an object of a plain class)
has no stable hash, and is an error rather than a guess: pickled bytes are not the same from run
to run, and a wrong cache hit is worse than none.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import reprlib
import struct
import weakref
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock.exceptions import UnhashableInputError
from penstock.plain_forms import BY_NAME, BY_TYPE, COMPLETE, full_name, top_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["hash_arguments", "stable_hash"]

Walk: TypeAlias = "dict[int, int]"
"""Ids of the containers being written, outermost first, each with its depth."""

Encoder: TypeAlias = "Callable[[Any, Walk], bytes]"

_PERSON = b"penstock.hash.1"  # a change of the format below must change this, and so every key
_LONG = 512
_NAN = float("nan")
_pack_float = struct.Struct("<d").pack


def stable_hash(value: object) -> str:
    """Hash a value to 32 hexadecimal digits, the same in every process and on every machine.

    A class takes part by a method `__stable_hash__()` that returns anything with a stable hash.

    Raises:
        UnhashableInputError: part of the value has none; the message says where it is.
    """
    return _hash(value, "the value", '"its name"')


def hash_arguments(arguments: Mapping[str, object]) -> str:
    """Hash a call's arguments by name; as `stable_hash`, with errors that name the argument."""
    digests = [
        name + "=" + _hash(arguments[name], f"argument {name!r}", repr(name))
        for name in sorted(arguments)
    ]
    return stable_hash(digests)


def _hash(value: object, place: str, excluded: str) -> str:
    try:
        encoded = _ENCODERS[type(value)](value, {})
    except _NoStableHashError as error:
        where = " -> ".join([place, *reversed(error.steps)])
        name = error.type.__name__
        raise UnhashableInputError(
            f"{where} cannot be part of a cache key: {full_name(error.type)} has no stable hash. "
            f"Ways out: leave the argument out of the key (cache_policy=INPUTS - {excluded}), "
            f"give {name} a method __stable_hash__(), or give the task a cache_key_fn."
        ) from None
    except RecursionError:
        raise UnhashableInputError(
            f"{place} cannot be part of a cache key: it is nested too deeply"
        ) from None
    return blake2b(encoded, digest_size=16, person=_PERSON).hexdigest()


class _NoStableHashError(Exception):
    """On its way up from an object without a stable hash, it collects the path to it."""

    def __init__(self, type_: type) -> None:
        super().__init__(type_)
        self.type = type_
        self.steps: list[str] = []


# --- the format: tag, length, content ---------------------------------------------------


def _leaf(tag: bytes, content: Any) -> bytes:
    if len(content) > _LONG:
        return b"%b#%x:%b" % (tag, len(content), blake2b(content, digest_size=16).digest())
    return b"%b%x:%b" % (tag, len(content), content)


def _node(tag: bytes, parts: Iterable[bytes], count: int) -> bytes:
    content = b"".join(parts)
    if len(content) > _LONG:
        return b"%b#%x:%b" % (tag, count, blake2b(content, digest_size=16).digest())
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
        except _NoStableHashError as error:
            error.steps.append(f"[{len(parts)}]")
            raise
        del walk[key]
        return _node(tag, parts, len(parts))

    return encode


def _set_encoder(tag: bytes, members: Callable[[Any], Iterable[Any]]) -> Encoder:
    def encode(value: Any, walk: Walk) -> bytes:
        parts: list[bytes] = []
        for member in members(value):
            try:
                parts.append(_ENCODERS[type(member)](member, walk))
            except _NoStableHashError as error:
                error.steps.append(f"member {reprlib.repr(member)}")
                raise
        parts.sort()
        return _node(tag, parts, len(parts))

    return encode


def _mapping_encoder(tag: bytes, items: Callable[[Any], Any], *, ordered: bool) -> Encoder:
    def encode(value: Any, walk: Walk) -> bytes:
        own = id(value)
        if own in walk:
            return _back_reference(walk, own)
        walk[own] = len(walk)
        parts: list[bytes] = []
        append, encoders = parts.append, _ENCODERS
        for key, item in items(value):
            try:
                append(encoders[type(key)](key, walk) + encoders[type(item)](item, walk))
            except _NoStableHashError as error:
                error.steps.append(f"[{reprlib.repr(key)}]")
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
    cached = {
        name
        for each in cls.__mro__
        for name, value in vars(each).items()
        if isinstance(value, functools.cached_property)
    }

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
            except _NoStableHashError as error:
                error.steps.append(f".{name}")
                raise
        del walk[key]
        return head + content + _node(b"a", parts, len(parts))

    return encode


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
        except _NoStableHashError:  # such as `object()`: only there to make the member unique
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
        except _NoStableHashError as error:
            error.steps.append(".__stable_hash__()")
            raise
        del walk[key]
        return encoded

    return encode


def _refuse(value: Any, _: Walk) -> bytes:
    raise _NoStableHashError(type(value))


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
        return _refuse
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
})  # fmt: skip
_ENCODERS.update({cls: _plain_encoder(cls.__name__, form) for cls, form in BY_TYPE.items()})
