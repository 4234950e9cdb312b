"""Marks a caller puts around an argument, and the mark for an option left out."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, final

__all__ = ["NotSet", "NotSetType", "allow_failure", "opaque", "quote", "unmapped"]

T = TypeVar("T")


@final
class NotSetType:
    """The type of `NotSet`: an option that was not given, where None is a value of its own."""

    _instance: NotSetType | None = None

    def __new__(cls) -> NotSetType:  # noqa: D102  (there is one, and this gives it)
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "NotSet"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "NotSet"


NotSet: Final = NotSetType()


class Annotation(Generic[T]):
    """An argument with a mark around it; the mark is taken off before the function sees it."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value: T = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Annotation) or type(self) is not type(other):
            return NotImplemented
        return bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def unwrap(self) -> T:
        """Return the argument without its mark."""
        return self.value


class unmapped(Annotation[T]):  # noqa: N801  (Prefect's name)
    """`.map()` passes this argument whole to every item instead of mapping over it."""

    __slots__ = ()


class allow_failure(Annotation[T]):  # noqa: N801
    """The run goes ahead when this input failed, and gets its exception as the value."""

    __slots__ = ()


class quote(Annotation[T]):  # noqa: N801
    """Do not look for futures inside of this argument; pass it as it is."""

    __slots__ = ()


class opaque(quote[T]):  # noqa: N801
    """As `quote`: the argument is not looked into, and no lineage is recorded from it."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """Return `value` without any marks around it."""
    while isinstance(value, Annotation):
        value = value.value
    return value
