"""What of a value cannot be pickled is named, by the way that leads to it."""

import functools
import threading
import types
from typing import Any

import pytest

from penstock.worker import culprit


class Holder:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


LOCK = threading.Lock()
WHY = "cannot pickle '_thread.lock' object"


def load(table: str, conn: object, *more: object, **options: object) -> None:
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (("t", Holder(pool=Holder(_lock=LOCK))), {}, "argument 'conn' -> .pool -> ._lock"),
        (("t",), {"conn": [1, {"k": LOCK}]}, "argument 'conn' -> [1] -> ['k']"),
        (("t", 1, 2, LOCK), {}, "argument 'more' -> [1]"),
        (("t", 1), {"extra": (LOCK,)}, "argument 'extra' -> [0]"),
        (("t", Slotted([LOCK])), {}, "argument 'conn' -> .inner -> [0]"),
        (("t", functools.partial(print, LOCK)), {}, "argument 'conn' -> its state -> [0]"),
        ((1, 2, LOCK, 4), {"unfit": LOCK, "table": 3}, "argument '2'"),
    ],
)
def test_the_argument_that_cannot_be_pickled_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    assert culprit.explain_call(load, args, kwargs) == f"{path}: {WHY}"


def test_what_a_function_holds_is_named() -> None:
    module = types.ModuleType("__main__")
    vars(module)["lock"] = LOCK
    exec("def f(): return lock", vars(module))
    fn = vars(module)["f"]
    assert culprit.explain_function(fn) == f"function f -> global 'lock': {WHY}"


def test_a_value_that_holds_itself_is_no_endless_search() -> None:
    ring: list[Any] = [LOCK]
    ring.insert(0, ring)
    assert culprit.explain_value("result", ring) == f"result -> [1]: {WHY}"


@pytest.mark.parametrize(
    ("fn", "place", "name"),
    [
        (load, 0, "table"),
        (load, 1, "conn"),
        (load, 3, "more"),
        (load, "extra", "extra"),
        (max, 1, "1"),
        (lambda: None, 2, "2"),
    ],
)
def test_an_argument_is_called_as_in_the_signature(fn: Any, place: int | str, name: str) -> None:
    assert culprit.argument_name(fn, place) == name


def test_the_search_ends_however_deep_a_value_is() -> None:
    deep: Any = LOCK
    for _ in range(50):
        deep = [deep]
    text = culprit.explain_value("result", deep)
    assert text.startswith("result -> [0] -> [0]")
    assert text.endswith(WHY)
