"""What all plain forms are made of."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NoStableHashError", "Parts", "PlainForm", "full_name", "text_block", "top_name"]

PlainForm: TypeAlias = "Callable[[Any], object]"


class Parts(dict[str, object]):
    """A plain form whose parts have names; an error in one of them is found by its name.

    Names that begin with an underscore only tell the parts apart: a user has no use for them.
    """


class NoStableHashError(Exception):
    """On its way up from an object without a stable hash, it collects the path to it."""

    def __init__(self, type_: type, advice: str = "") -> None:
        super().__init__(type_)
        self.type = type_
        self.advice = advice
        self.steps: list[str] = []


def full_name(cls: type) -> str:
    """Return ``module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def top_name(cls: type) -> str:
    """Return ``package.Class``, without the submodules between."""
    return f"{str(cls.__module__).partition('.')[0]}.{cls.__qualname__}"


def text_block(texts: Sequence[str]) -> object:
    """Restate many texts as two long values, which hash faster than many short ones."""
    return (array.array("q", map(len, texts)), "".join(texts))
