"""Context variables across processes: in each, one object stands for one variable."""

from __future__ import annotations

import contextvars
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

from penstock.worker import packing, variables

if TYPE_CHECKING:
    import pytest


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is unpickled from now on believe that it is in another process."""
    monkeypatch.setattr(variables, "_origin", "another process")


def test_a_variable_that_comes_home_is_itself() -> None:
    lonely: contextvars.ContextVar[int] = contextvars.ContextVar("lonely")
    assert pickle.loads(packing.dumps(lonely)) is lonely


def test_a_variable_of_a_module_goes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("module_of_variables")
    vars(module)["IT"] = contextvars.ContextVar("IT")
    monkeypatch.setitem(sys.modules, "module_of_variables", module)
    assert variables.place_of(vars(module)["IT"]) == ("module_of_variables", "IT")
    data = packing.dumps(vars(module)["IT"])
    elsewhere(monkeypatch)
    assert pickle.loads(data) is vars(module)["IT"]


def test_any_other_is_made_once_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely: contextvars.ContextVar[Any] = contextvars.ContextVar("lonely", default=(1, 2))
    data = packing.dumps(lonely)
    elsewhere(monkeypatch)
    made = pickle.loads(data)
    assert made is not lonely
    assert made is pickle.loads(data)
    assert made.name == "lonely"
    assert contextvars.Context().run(made.get) == (1, 2)


def test_what_was_made_there_goes_back_as_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely: contextvars.ContextVar[Any] = contextvars.ContextVar("lonely")
    data = packing.dumps(lonely)
    with monkeypatch.context() as there:
        elsewhere(there)
        back = packing.dumps(pickle.loads(data))
    assert pickle.loads(back) is lonely


def test_a_module_that_is_not_there_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("module_only_here")
    vars(module)["IT"] = contextvars.ContextVar("IT", default=3)
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "module_only_here", module)
        data = packing.dumps(vars(module)["IT"])
    elsewhere(monkeypatch)
    made = pickle.loads(data)
    assert contextvars.Context().run(made.get) == 3


def test_a_function_and_a_value_meet_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely: contextvars.ContextVar[Any] = contextvars.ContextVar("lonely", default="unset")

    def read() -> Any:
        return lonely.get()

    read.__module__ = "__main__"
    function, pairs = packing.dumps(read), packing.dumps([(lonely, "given")])
    elsewhere(monkeypatch)
    there = pickle.loads(function)

    def run() -> Any:
        for variable, value in pickle.loads(pairs):
            variable.set(value)
        return there()

    assert contextvars.Context().run(there) == "unset"
    assert contextvars.Context().run(run) == "given"
