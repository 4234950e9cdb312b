"""Promises of `penstock.compat` (spec row 013, decision D1): Prefect programs run unchanged."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

import penstock
import penstock.cache_policies
import penstock.exceptions
from penstock.compat import prefect_alias

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    finders = list(sys.meta_path)
    yield
    assert sys.meta_path == finders
    assert [name for name in sys.modules if name.partition(".")[0] == "prefect"] == []


def import_prefect(below: str = "") -> Any:
    return importlib.import_module("prefect" + below)


# --- while it holds ---------------------------------------------------------------------


def test_d1_a_module_under_the_alias_is_the_very_module() -> None:
    with prefect_alias():
        assert import_prefect() is penstock
        assert import_prefect(".exceptions") is penstock.exceptions
        namespace: dict[str, Any] = {}
        exec("from prefect.cache_policies import INPUTS", namespace)
        assert namespace["INPUTS"] is penstock.cache_policies.INPUTS


# Where Prefect 3 has them; those of its server and its blocks are not here.
KEPT_RESULTS = {
    "": ["Transaction"],
    ".cache_policies": [
        "DEFAULT", "FLOW_PARAMETERS", "INPUTS", "NONE", "NO_CACHE", "RUN_ID", "TASK_SOURCE",
        "CacheKeyFnPolicy", "CachePolicy", "CompoundCachePolicy", "FlowParameters", "Inputs",
        "RunId", "TaskSource",
    ],
    ".filesystems": ["LocalFileSystem", "RemoteFileSystem"],
    ".locking.filesystem": ["FileSystemLockManager"],
    ".locking.memory": ["MemoryLockManager"],
    ".results": ["ResultRecord", "ResultStore"],
    ".serializers": ["CompressedSerializer", "JSONSerializer", "PickleSerializer", "Serializer"],
    ".tasks": ["exponential_backoff", "task_input_hash"],
    ".transactions": [
        "CommitMode", "IsolationLevel", "Transaction", "TransactionState", "atransaction",
        "get_transaction", "transaction",
    ],
}  # fmt: skip


@pytest.mark.parametrize("below", KEPT_RESULTS)
def test_d1_what_is_about_kept_results_is_where_prefect_has_it(below: str) -> None:
    with prefect_alias():
        module = import_prefect(below)
    ours = importlib.import_module("penstock" + below)
    assert module is ours
    assert [name for name in KEPT_RESULTS[below] if not hasattr(ours, name)] == []


def test_d1_our_modules_keep_their_own_names_and_specs() -> None:
    with prefect_alias():
        import_prefect(".exceptions")
    module = penstock.exceptions
    assert module.__name__ == "penstock.exceptions"
    assert module.__spec__ is not None
    assert module.__spec__.name == "penstock.exceptions"
    assert importlib.import_module("penstock.exceptions") is module


def test_d1_a_module_that_we_lack_is_an_import_error_that_says_so() -> None:
    with prefect_alias():
        with pytest.raises(ImportError, match=r"no module 'penstock\.blocks' to take the place of"):
            import_prefect(".blocks")
        with pytest.raises(ImportError, match=r"no module 'penstock\.blocks' to take"):
            import_prefect(".blocks.system")


def test_d1_what_a_module_of_ours_lacks_is_named_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import a_module_that_is_not_there")
    monkeypatch.setattr(penstock, "__path__", [*penstock.__path__, str(tmp_path)])
    with prefect_alias(), pytest.raises(ImportError, match="a_module_that_is_not_there"):
        import_prefect(".needy")


def test_d1_other_imports_are_left_alone() -> None:
    with prefect_alias():
        assert importlib.util.find_spec("prefectural") is None
        assert importlib.util.find_spec("json") is not None


def test_d1_one_alias_inside_another_changes_nothing() -> None:
    with prefect_alias():
        with prefect_alias():
            import_prefect()
        assert import_prefect() is penstock


# --- when it ends -----------------------------------------------------------------------


def test_d1_after_the_alias_there_is_no_prefect() -> None:
    with prefect_alias():
        import_prefect(".exceptions")
    assert importlib.util.find_spec("prefect") is None
    with pytest.raises(ImportError):
        import_prefect()


def test_d1_the_alias_ends_when_the_program_fails() -> None:
    with pytest.raises(ZeroDivisionError), prefect_alias():
        import_prefect().__name__[: 1 // 0]


# --- beside the real one ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["prefect", "prefect.tasks"])
def test_d1_the_alias_is_refused_once_prefect_has_been_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, types.ModuleType(name))
        for shadow in (False, True):
            with pytest.raises(RuntimeError, match="has been imported already"):  # noqa: SIM117
                with prefect_alias(shadow_installed=shadow):
                    raise AssertionError


def test_d1_an_installed_prefect_is_hidden_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect.py").write_text("real = True")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="shadow_installed=True"), prefect_alias():
        pass
    with prefect_alias(shadow_installed=True):
        assert import_prefect() is penstock


def test_d1_a_directory_of_that_name_is_not_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with prefect_alias():
        assert import_prefect() is penstock


# --- the command line -------------------------------------------------------------------


def run_compat(*words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "penstock.compat", *words],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_d1_a_script_runs_under_the_alias_as_main_with_its_own_arguments(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("from prefect.cache_policies import INPUTS")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, neighbour\n"
        "from penstock.compat import prefect_alias\n"
        "with prefect_alias():\n"
        "    import prefect.exceptions\n"
        "if __name__ == '__main__':\n"
        "    print(neighbour.INPUTS, sys.argv, prefect.exceptions.__name__)\n"
        "    sys.exit(3)\n"
    )
    ran = run_compat(str(script), "--fast", "1")
    assert ran.stderr == ""
    assert ran.stdout.split("\n")[0] == f"INPUTS {[str(script), '--fast', '1']} penstock.exceptions"
    assert ran.returncode == 3


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_d1_without_a_script_it_says_how_it_is_used(words: tuple[str, ...]) -> None:
    ran = run_compat(*words)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: python -m penstock.compat script.py")
