"""Which modules a worker cannot import, so that what they define goes by value."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock.by_value import ByValue, is_by_value, is_importable
from penstock.shipping import FunctionStore, pack_call

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


# --- files of a project, for workers that have none of them -------------------------------


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module with a task's function, and what that reaches in other files."""
    (tmp_path / "helpers_package").mkdir()
    (tmp_path / "helpers_package" / "__init__.py").write_text("")
    (tmp_path / "helpers_package" / "inner.py").write_text(
        "class Thing:\n    pass\ndef helper(x):\n    return x + 1\n"
    )
    (tmp_path / "module_with_a_lock.py").write_text(
        "import threading\nLOCK = threading.Lock()\ndef locked():\n    return LOCK\n"
    )
    (tmp_path / "module_of_tasks.py").write_text(
        "import module_with_a_lock\n"
        "from helpers_package import inner\n"
        "from helpers_package.inner import helper\n"
        "def work(x):\n    return helper(x)\n"
        "def work_with_module(x):\n    return inner.helper(x)\n"
        "def use_lock():\n    return module_with_a_lock.locked()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield importlib.import_module("module_of_tasks")
    for name in set(sys.modules) - before:
        del sys.modules[name]


def without(project: types.ModuleType, blob: bytes) -> Any:
    """Unpickle where none of the project's files are."""
    of_project = [
        name
        for name, module in sys.modules.items()
        if getattr(module, "__file__", None) and name.startswith(("helpers_", "module_"))
    ]
    kept = {name: sys.modules.pop(name) for name in of_project}
    path, sys.path[:] = sys.path[:], sys.path[1:]
    importlib.invalidate_caches()
    try:
        return pickle.loads(blob)
    finally:
        sys.path[:] = path
        sys.modules.update(kept)


@pytest.mark.parametrize("name", ["work", "work_with_module"])
def test_helpers_that_a_function_reaches_go_along(project: types.ModuleType, name: str) -> None:
    store = FunctionStore(only_installed=True)
    there = without(project, store.find(getattr(project, name)).blob)
    assert there(1) == 2
    assert not is_by_value("helpers_package"), "it was for the moment"


def test_arguments_of_classes_of_helpers_do_so_too(project: types.ModuleType) -> None:
    thing = project.inner.Thing()
    thing.x = 3
    by_value = ByValue(only_installed=True)
    packing = pack_call(project.work, ([thing],), {}, by_value)
    args, _ = without(project, packing.payload)
    assert args[0][0].x == 3
    plain = pack_call(project.work, ([{"a": "list of plain values"}],), {}, by_value)
    assert b"cloudpickle" not in plain.payload


def test_a_helper_that_cannot_go_along_goes_by_name(project: types.ModuleType) -> None:
    store = FunctionStore(only_installed=True)
    blob = store.find(project.use_lock).blob
    with pytest.raises(ModuleNotFoundError, match="module_with_a_lock"):
        without(project, blob)
    assert type(pickle.loads(blob)()) is type(threading.Lock())
    named = FunctionStore(["module_with_a_lock"], only_installed=True)
    with pytest.raises(TypeError, match="module_with_a_lock"):
        named.find(project.use_lock)


def test_what_is_imported_later_is_found_and_what_is_installed_is_not(
    project: types.ModuleType, tmp_path: pathlib.Path
) -> None:
    by_value = ByValue(only_installed=True)
    assert by_value.find_helpers()
    assert b"helpers_package" in by_value.names
    assert b"helpers_package.inner" not in by_value.names, "the package stands for all in it"
    assert not {b"json", b"pytest", b"penstock", b"distributed"} & set(by_value.names)
    (tmp_path / "module_of_later.py").write_text("")
    importlib.import_module("module_of_later")
    assert by_value.find_helpers()
    assert b"module_of_later" in by_value.names


def test_workers_on_this_machine_have_the_files_of_the_project(project: types.ModuleType) -> None:
    by_value = ByValue()
    assert not by_value.find_helpers()
    assert by_value.names == ()
