"""How functions and arguments leave the driver: each function once, and as it is now."""

import functools
import importlib
import pathlib
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from penstock import shipping
from penstock.by_value import ByValue
from penstock.testing import subjects
from penstock.worker import packing

# --- functions ---------------------------------------------------------------------------


def make_main_function(source: str, **names: Any) -> tuple[Any, dict[str, Any]]:
    """Return `f` of a source as if it stood in a script."""
    module = types.ModuleType("__main__")
    vars(module).update(names)
    exec(source, vars(module))
    return vars(module)["f"], vars(module)


def test_the_bytes_of_a_function_are_used_again() -> None:
    store = shipping.FunctionStore()
    fn, _ = make_main_function("def f(x): return x + step", step=2)
    assert store.find(fn) is store.find(fn)
    assert pickle.loads(store.find(fn).blob)(1) == 3


def test_equal_content_is_one_function() -> None:
    store = shipping.FunctionStore()
    first, _ = make_main_function("def f(x): return x")
    second, _ = make_main_function("def f(x): return x")
    assert store.find(first) is store.find(second)


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("def f(): return a", 1, 2),
        ("def f(): return a", (1, 2), (1, 3)),
        ("def f(): return a.value", types.SimpleNamespace(value=1), types.SimpleNamespace(value=2)),
        ("def f(): return [a for _ in 'x'][0]", 1, 2),
        ("def g(): return a\ndef f(): return g()", 1, 2),
        ("def f(): return (lambda: a)()", 1, 2),
    ],
)
def test_a_changed_global_is_seen_wherever_it_is_used(source: str, before: Any, after: Any) -> None:
    store = shipping.FunctionStore()
    fn, names = make_main_function(source, a=before)
    first = pickle.loads(store.find(fn).blob)()
    names["a"] = after
    assert pickle.loads(store.find(fn).blob)() == fn() != first


def test_what_the_methods_of_a_class_see_is_not_guessed() -> None:
    fn, _ = make_main_function("class C:\n  def m(self): return a\ndef f(): return C().m()", a=1)
    assert shipping.what_it_sees(fn, ByValue()) is None


def test_what_changes_in_place_is_seen() -> None:
    store = shipping.FunctionStore()
    table = {"a": 1}
    fn, _ = make_main_function("def f(): return table['a']", table=table)
    assert pickle.loads(store.find(fn).blob)() == 1
    table["a"] = 2
    assert pickle.loads(store.find(fn).blob)() == 2
    assert shipping.what_it_sees(fn, ByValue()) is None


def test_a_changed_closure_and_a_changed_default_are_seen() -> None:
    store = shipping.FunctionStore()
    number = 1

    def fn(plus: int = 0) -> int:
        return number + plus

    vars(fn)["__module__"] = fn.__module__ = "__main__"
    assert pickle.loads(store.find(fn).blob)() == 1
    number = 2
    assert pickle.loads(store.find(fn).blob)() == 2
    fn.__defaults__ = (5,)
    assert pickle.loads(store.find(fn).blob)() == 7


class TaskLike:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn


@pytest.fixture
def module_with_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[types.ModuleType]:
    (tmp_path / "some_module_with_a_task.py").write_text("def f(x): return x + 1")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("some_module_with_a_task")
    del sys.modules["some_module_with_a_task"]


def test_an_importable_function_goes_by_name(module_with_task: types.ModuleType) -> None:
    fn = vars(module_with_task)["f"]
    assert shipping.reference_to(fn, ByValue()) == ("some_module_with_a_task", "f")
    assert pickle.loads(shipping.FunctionStore().find(fn).blob) is fn
    assert shipping.reference_to(subjects.add, ByValue()) == ("penstock.testing.subjects", "add")
    assert shipping.reference_to(len, ByValue()) == ("builtins", "len")
    assert shipping.reference_to(functools.partial(len), ByValue()) is None


def test_the_function_of_a_task_goes_by_the_name_of_the_task(
    module_with_task: types.ModuleType,
) -> None:
    fn = vars(module_with_task)["f"]
    vars(module_with_task)["f"] = TaskLike(fn)
    assert shipping.reference_to(fn, ByValue()) == ("some_module_with_a_task", "f")
    assert pickle.loads(shipping.FunctionStore().find(fn).blob) is fn


# --- arguments ------------------------------------------------------------------------------


def test_scalars_are_not_pickled() -> None:
    packed = shipping.pack_call(len, (1, "a", None, 2.5), {}, ByValue())
    assert packed == ((1, "a", None, 2.5), [], True)


@pytest.mark.parametrize(
    "value", [True, [1], "x" * 100_000, 2**300, {"a": (1,)}, bytearray(200_000), lambda: 0]
)
def test_a_call_is_the_same_after_the_journey(value: Any) -> None:
    packed = shipping.pack_call(len, (value,), {"k": value}, ByValue())
    args, kwargs = packing.load_call(packed.payload, list(packed.buffers))
    if callable(value):
        assert args[0]() == kwargs["k"]() == 0
    else:
        assert args == (value,)
        assert kwargs == {"k": value}


class HoldsALock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_a_value_that_cannot_be_packed_is_named_as_the_caller_says() -> None:
    with pytest.raises(TypeError, match=r"argument 'conn' -> \.lock: cannot pickle '_thread.lock'"):
        shipping.pack_value("argument 'conn'", HoldsALock(), ByValue())


def test_a_context_variable_whose_value_cannot_be_packed_is_named() -> None:
    good: ContextVar[Any] = ContextVar("good")
    bad: ContextVar[Any] = ContextVar("bad")
    with pytest.raises(TypeError, match=r"context variable 'bad' -> \['x'\]: cannot pickle"):
        shipping.pack_variables({good: 1, bad: {"x": threading.Lock()}}, ByValue())


def test_the_functions_used_least_recently_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "_MOST_FUNCTIONS", 3)
    store = shipping.FunctionStore()
    functions = [make_main_function(f"def f(): return {number}")[0] for number in range(5)]
    first = [store.find(fn).number for fn in functions]
    assert store.find(functions[4]).number == first[4]
    assert store.find(functions[0]).number not in first, "sent again, under a new number"
