"""Which names a function's code looks up outside of itself."""

from __future__ import annotations

import dis
import types
import weakref
from typing import NamedTuple

__all__ = ["Import", "Names", "names_in"]


class Import(NamedTuple):
    """One import statement."""

    module: str
    dots: int
    """How many stood before the name of the module."""
    taken: tuple[str, ...]
    """What is taken from it; nothing for ``import module``."""


class Names(NamedTuple):
    """What a code object and those inside it look up, each sorted."""

    globals: tuple[str, ...]
    """Global variables and builtins."""
    attributes: tuple[str, ...]
    """Attributes of whatever objects."""
    imports: tuple[Import, ...]
    """Imports inside the function."""


# By identity: code objects that are equal look up the same, but comparing them takes longer.
_known: dict[int, tuple[weakref.ref[types.CodeType], Names]] = {}

_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", "LOAD_SUPER_ATTR"})
_OF_THE_MODULE = frozenset({
    "__annotations__",
    "__builtins__",
    "__cached__",
    "__debug__",
    "__doc__",
    "__file__",
    "__loader__",
    "__module__",
    "__name__",
    "__package__",
    "__path__",
    "__qualname__",
    "__spec__",
})  # fmt: skip
"""Names that say where a module is, and change when it is moved."""


def names_in(code: types.CodeType) -> Names:
    """Return what a code object looks up; found once for each."""
    known = _known.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    variables: set[str] = set()
    attributes: set[str] = set()
    imports: set[Import] = set()
    _collect(code, variables, attributes, imports)
    names = Names(
        globals=tuple(sorted(variables)),
        attributes=tuple(sorted(attributes)),
        imports=tuple(sorted(imports)),
    )
    key = id(code)
    _known[key] = (weakref.ref(code, lambda _: _known.pop(key, None)), names)
    return names


def _collect(
    code: types.CodeType,
    variables: set[str],
    attributes: set[str],
    imports: set[Import],
) -> None:
    instructions = [*dis.get_instructions(code)]
    for place, each in enumerate(instructions):
        if each.opname in _GLOBALS and each.argval not in _OF_THE_MODULE:
            variables.add(each.argval)
        elif each.opname in _ATTRIBUTES:
            attributes.add(each.argval)
        elif each.opname == "IMPORT_NAME":  # after the number of dots and the names
            dots, taken = (before.argval for before in instructions[place - 2 : place])
            imports.add(Import(each.argval, dots, taken or ()))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _collect(constant, variables, attributes, imports)
