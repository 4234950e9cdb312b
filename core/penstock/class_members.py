"""What a class consists of, read from the class itself: its source may be out of reach."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from typing import Any

from penstock.key_parts import without_addresses

__all__ = ["members_of"]

_MACHINERY = frozenset({
    "_abc_impl",
    "__abstractmethods__",
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__attrs_attrs__",
    "__attrs_props__",
    "__class_getitem__",
    "__class_vars__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__getnewargs__",
    "__match_args__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__private_attributes__",
    "__qualname__",
    "__signature__",
    "__slots__",
    "__static_attributes__",
    "__type_params__",
    "__weakref__",
    "model_fields",
})  # fmt: skip
_GENERATED = ("<string>", "<attrs generated")


def members_of(cls: type) -> tuple[object, dict[str, Any]]:
    """Return what a class declares, as plain values, and its members by name, sorted."""
    stated: dict[str, object] = {
        "annotations": {name: _described(each) for name, each in _annotations(cls).items()},
        "slots": repr(vars(cls).get("__slots__")),
        "fields": _fields(cls),
    }
    if issubclass(cls, enum.Enum):
        members = {name: member._value_ for name, member in cls.__members__.items()}
        methods = {n: v for n, v in vars(cls).items() if n not in members and n[:1] != "_"}
        return stated, {**members, **dict(sorted(methods.items()))}
    members = {n: v for n, v in sorted(vars(cls).items()) if not _is_machinery(n, v)}
    for name, field in vars(cls).get("__dataclass_fields__", {}).items():
        if field.default_factory is not dataclasses.MISSING:
            members[f"{name}: factory"] = field.default_factory
    for name, annotation in _annotations(cls).items():
        for place, each in enumerate(_classes_in(annotation)):
            members[f"{name}: class {place}"] = each
    return stated, members


def _is_machinery(name: str, value: object) -> bool:
    if name in _MACHINERY or name.startswith(("__pydantic_", "__attrs_")):
        return True
    if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
        return True  # of a slot, of __dict__
    code = getattr(getattr(value, "__wrapped__", value), "__code__", None)
    # Written by a decorator, from the fields that are stated; the bytecode varies with Python.
    return (
        name[:2] == "__"
        and isinstance(code, types.CodeType)
        and code.co_filename.startswith(_GENERATED)
    )


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except Exception:  # noqa: BLE001  (3.14 works them out only now; they may name anything)
        return {}


def _classes_in(annotation: object) -> list[type]:
    inside = typing.get_args(annotation)  # before asking: list[int] passes for a class
    if isinstance(annotation, type) and not inside:
        return [annotation]
    return [each for inner in inside for each in _classes_in(inner)]


def _fields(cls: type) -> object:
    """Return what the fields of a dataclass, an attrs class or a pydantic model are like."""
    parameters = vars(cls).get("__dataclass_params__")
    declared = vars(cls).get("__dataclass_fields__") or vars(cls).get("__pydantic_fields__") or {}
    attributes = vars(cls).get("__attrs_attrs__", ())
    return [
        _described(parameters),
        [(name, _described_field(field)) for name, field in declared.items()],
        [_described(each) for each in attributes],
    ]


def _described_field(field: Any) -> str:
    if not isinstance(field, dataclasses.Field):
        return _described(field)
    flags = (field.init, field.repr, field.hash, field.compare, field.kw_only)
    default = "" if field.default is dataclasses.MISSING else _described(field.default)
    return f"{field._field_type} {flags} {default}"  # type: ignore[attr-defined]  # ClassVar or not


def _described(value: object) -> str:
    if isinstance(value, type):
        return value.__qualname__
    return without_addresses(value if isinstance(value, str) else repr(value))
