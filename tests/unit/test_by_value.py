"""Which modules a worker cannot import, so that what they define goes by value."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock.by_value import ByValue, is_by_value, is_importable

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package that can be imported, with a module in it."""
    directory = tmp_path / "package_to_ship"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    (directory / "inner.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("package_to_ship.inner")
    for name in ("package_to_ship", "package_to_ship.inner"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["os.path", "json", "builtins", "sys", "penstock.worker.here"])
def test_what_any_interpreter_has_is_importable(name: str) -> None:
    importlib.import_module(name)
    assert is_importable(name)
    assert name not in ByValue()


def test_the_main_module_always_goes_by_value() -> None:
    assert "__main__" in ByValue()
    assert is_by_value("__main__")


def test_a_module_on_the_path_is_importable_and_a_made_one_is_not(
    package: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_importable("package_to_ship.inner")
    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    assert not is_importable("made_up")
    assert "made_up" in ByValue()


def test_a_module_from_another_file_than_its_name_leads_to_is_not(
    package: types.ModuleType, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text("def f(): return 2\n")
    spec = importlib.util.spec_from_file_location("package_to_ship.inner", other)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["package_to_ship.inner"] = module
    assert not is_importable("package_to_ship.inner")


def test_a_module_that_is_exchanged_is_looked_at_again(package: types.ModuleType) -> None:
    by_value = ByValue()
    assert "package_to_ship.inner" not in by_value
    sys.modules["package_to_ship.inner"] = types.ModuleType("package_to_ship.inner")
    vars(sys.modules["package_to_ship.inner"])["__file__"] = "<made>"
    assert "package_to_ship.inner" in by_value


def test_what_the_user_names_goes_by_value_with_all_inside(package: types.ModuleType) -> None:
    by_value = ByValue(["package_to_ship"])
    assert "package_to_ship" in by_value
    assert "package_to_ship.inner" in by_value
    with by_value:
        assert "package_to_ship" in cloudpickle.list_registry_pickle_by_value()
        with by_value:
            assert is_by_value("package_to_ship.inner")
        assert is_by_value("package_to_ship.inner"), "the outer block holds on"
    assert not is_by_value("package_to_ship.inner")


def test_what_the_user_has_registered_stays_registered(package: types.ModuleType) -> None:
    cloudpickle.register_pickle_by_value(package)
    try:
        by_value = ByValue()
        assert "package_to_ship.inner" in by_value
        by_value.note("package_to_ship.inner")
        with by_value:
            assert is_by_value("package_to_ship.inner")
        assert is_by_value("package_to_ship.inner")
    finally:
        cloudpickle.unregister_pickle_by_value(package)


def test_the_module_of_a_function_is_noted_if_workers_cannot_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    by_value = ByValue()
    for module in ("json", "__main__", None, "made_up", "made_up"):
        by_value.note(module)
    assert by_value.names == (b"made_up",)
