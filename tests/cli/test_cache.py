"""Promises of `penstock cache`: look into the store, know why, clear it (users row 20)."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from penstock import flow, task
from penstock.cache_policies import INPUTS
from penstock.cli import app
from penstock.results import ResultStore
from penstock.storage_choice import store_of

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

DONE, FAILED, USED_WRONGLY = 0, 1, 2
LONGEST_WAIT_SECONDS = 20.0
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def cache(*words: object, answer: str | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["cache", *map(str, words)], input=answer)


def rows(*words: object) -> list[list[str]]:
    """Return the cells of what `ls` lists."""
    result = cache("ls", *words)
    assert result.exit_code == DONE, result.output
    return [re.split(r"  +", line.rstrip()) for line in result.stdout.splitlines()[1:]]


@task(cache_policy=INPUTS, task_run_name="train at {lr}")
def train(lr: float) -> float:
    return lr * 2


@task(cache_policy=INPUTS, cache_expiration=datetime.timedelta(microseconds=1))
def brief(x: int) -> int:
    return x


@pytest.fixture
def keys() -> dict[str, str]:
    """Store five results, and return their keys by the name of the run."""
    store = store_of()
    store.filesystem.write_path(".collected", b"")  # what expired is not cleared in the background
    train(0.1)
    train(0.2)
    brief(7)

    @flow(persist_result=True, name="nightly", flow_run_name="night 1")
    def nightly() -> int:
        return 5

    nightly()
    keys = {each.run_name: each.key for each in store.records()}
    store.write("of/another/day", [1], now=LONG_AGO, task_name="export", run_name="export-0")
    return {**keys, "export-0": "of/another/day"}


def damage(key: str) -> None:
    store = store_of()
    path = f"{key}.record"
    store.filesystem.write_path(path, store.filesystem.read_path(path)[:-1])


# --- ls ---------------------------------------------------------------------------------


def test_results_are_listed_the_newest_first_in_plain_columns(keys: dict[str, str]) -> None:
    listed = rows()
    assert [row[:3] for row in listed] == [
        [keys["night 1"], "-", "night 1"],
        [keys["brief"], "brief", "brief"],
        [keys["train at 0.2"], "train", "train at 0.2"],
        [keys["train at 0.1"], "train", "train at 0.1"],
        ["of/another/day", "export", "export-0"],
    ]
    assert [row[5] for row in listed] == ["never", "expired just now", "never", "never", "never"]
    assert cache("ls").stdout.split()[:3] == ["KEY", "TASK", "RUN"]


def test_the_list_is_of_a_task_or_of_what_expired(keys: dict[str, str]) -> None:
    assert {row[1] for row in rows("--task", "train")} == {"train"}
    assert [row[0] for row in rows("--expired")] == [keys["brief"]]
    assert rows("--expired", "--task", "train") == []


def test_for_programs_there_is_json(keys: dict[str, str]) -> None:
    listed = json.loads(cache("ls", "--json", "--task", "train").stdout)
    assert [each["key"] for each in listed] == [keys["train at 0.2"], keys["train at 0.1"]]
    first = listed[0]
    assert (first["run_name"], first["is_expired"], first["problem"]) == (
        "train at 0.2",
        False,
        None,
    )
    assert datetime.datetime.fromisoformat(first["created_at"]).tzinfo is not None


@pytest.mark.usefixtures("keys")
def test_on_a_terminal_there_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    shown = cache("ls").stdout
    assert "───" in shown
    assert re.search(r"5 results, .* kB, in /", shown)


@pytest.mark.parametrize("words", [("ls",), ("ls", "--json"), ("stats",), ("gc",), ("rm", "--all")])
def test_an_empty_store_is_no_error_and_is_not_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    place = tmp_path / "nothing"
    result = cache(*words, "--store", place)
    assert result.exit_code == DONE, result.output
    assert not place.exists()


def test_a_store_is_a_folder_or_a_url(tmp_path: Path) -> None:
    ResultStore(tmp_path / "there").write("one", 1)
    ResultStore("memory://test-cache-cli").write("two", 2)
    assert rows("--store", tmp_path / "there")[0][0] == "one"
    assert rows("--store", "memory://test-cache-cli")[0][0] == "two"
    assert cache("rm", "two", "--store", "memory://test-cache-cli").exit_code == DONE
    assert rows("--store", "memory://test-cache-cli") == []


def test_a_damaged_result_is_listed_as_such_and_can_be_removed(keys: dict[str, str]) -> None:
    damage(keys["train at 0.1"])
    listed = {row[0]: row for row in rows()}
    assert listed[keys["train at 0.1"]][5].startswith("damaged: it is not whole")
    shown = cache("show", keys["train at 0.1"])
    assert (shown.exit_code, "damaged: it is not whole" in shown.stdout) == (DONE, True)
    explained = cache("explain", keys["train at 0.1"])
    assert (explained.exit_code, "damaged: it is not whole" in explained.stdout) == (DONE, True)
    assert cache("rm", keys["train at 0.1"]).exit_code == DONE
    assert keys["train at 0.1"] not in {row[0] for row in rows()}


def test_what_is_signed_with_a_key_that_is_not_here_is_listed(tmp_path: Path) -> None:
    ResultStore(tmp_path, signing_key="secret").write("one", 1)
    (row,) = rows("--store", tmp_path)
    assert row[5].startswith("unreadable: it is signed")


def test_names_that_would_steer_a_terminal_are_escaped(tmp_path: Path) -> None:
    ResultStore(tmp_path).write("k\x1b[2J", 1, run_name="run\x07\n", task_name="t\x9b")
    for words in (["ls"], ["show", "k"], ["explain", "k"], ["stats"]):
        shown = cache(*words, "--store", tmp_path).output
        assert not set("\x1b\x07\x9b") & set(shown)
    assert r"k\x1b[2J" in cache("ls", "--store", tmp_path).stdout


# --- show -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["key", "start of the key", "run name", "run id", "start of id"])
def test_a_result_is_found_by_its_key_or_its_run(keys: dict[str, str], way: str) -> None:
    key = keys["train at 0.2"]
    known = store_of().read_metadata(key)
    assert known is not None
    word = {
        "key": key,
        "start of the key": key[:7],
        "run name": "train at 0.2",
        "run id": known.run_id,
        "start of id": known.run_id[:8],
    }[way]
    shown = cache("show", word)
    assert shown.exit_code == DONE, shown.output
    assert re.search(rf"key +{key}\n", shown.stdout)
    assert re.search(r"input lr +0\.2 +\[", shown.stdout)


class Mine:
    """A value that tells when it is loaded."""

    def __reduce__(self) -> Any:
        return _loaded, ()


LOADED: list[int] = []


def _loaded() -> str:
    LOADED.append(1)
    return "the value"


def test_values_are_loaded_on_request_only_and_that_is_said(tmp_path: Path) -> None:
    ResultStore(tmp_path).write("one", Mine(), task_name="t", run_name="t-0")
    LOADED.clear()
    for words in (["ls"], ["show", "one"], ["explain", "one"], ["stats"], ["ls", "--json"]):
        assert cache(*words, "--store", tmp_path).exit_code == DONE
    assert LOADED == []
    shown = cache("show", "one", "--value", "--store", tmp_path)
    assert LOADED == [1]
    assert "value\n  'the value'\n" in shown.stdout
    assert "by 'pickle', which may run code" in shown.stderr


def test_a_value_that_runs_no_code_is_shown_without_a_warning_also_when_it_expired(
    tmp_path: Path,
) -> None:
    ResultStore(tmp_path, "json").write("one", {"a": [1]}, expires_at=LONG_AGO)
    shown = cache("show", "one", "--value", "--store", tmp_path)
    assert (shown.exit_code, shown.stderr) == (DONE, "")
    assert "{'a': [1]}" in shown.stdout


def test_a_value_that_cannot_be_loaded_is_a_failure(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, "json")
    store.write("one", 1)
    content = store.filesystem.read_path("one.record")
    store.filesystem.write_path("one.record", content[:-1] + b"x")
    shown = cache("show", "one", "--value", "--store", tmp_path)
    assert (shown.exit_code, "cannot be loaded" in shown.stderr) == (FAILED, True)


@pytest.mark.parametrize("command", ["show", "explain", "rm"])
@pytest.mark.parametrize("word", ["nothing-like-it", ""])
def test_what_is_not_there_is_a_failure_that_says_where_to_look(
    keys: dict[str, str], command: str, word: str
) -> None:
    result = cache(command, word)
    assert result.exit_code == FAILED
    assert "`penstock cache ls` lists" in result.stderr
    assert len(rows()) == len(keys)


@pytest.mark.parametrize("command", ["show", "rm"])
def test_a_word_with_several_meanings_is_refused_with_the_keys(
    tmp_path: Path, command: str
) -> None:
    for key in ("day-1", "day-2"):
        ResultStore(tmp_path).write(key, 1, run_name="train")
    for word in ("day", "train"):
        result = cache(command, word, "--store", tmp_path)
        assert result.exit_code == USED_WRONGLY
        assert "means 2 results" in result.stderr
        assert "  day-1  made just now" in result.stderr
    assert len(rows("--store", tmp_path)) == 2


# --- explain ----------------------------------------------------------------------------


def test_users_20_a_run_is_explained_by_what_had_changed(keys: dict[str, str]) -> None:
    shown = cache("explain", "train at 0.2").stdout
    assert shown.startswith("task 'train': result made by run 'train at 0.2' ")
    assert re.search(r"why it ran +input 'lr' changed 0\.1 to 0\.2\n", shown)
    assert re.search(rf"compared with +{keys['train at 0.1']}, made by run 'train at 0\.1' ", shown)
    assert re.search(r"expires +never\n", shown)
    assert re.search(r"input lr +0\.2\n", shown)
    first = cache("explain", "train at 0.1").stdout
    assert re.search(r"why it ran +no earlier result\n", first)


def test_a_result_that_was_made_anew_says_what_was_in_its_place() -> None:
    def why() -> str:
        return str(re.findall(r"why it ran +(.*)\n", cache("explain", "brief").stdout)[0])

    store_of().filesystem.write_path(".collected", b"")  # what expired stays
    brief(7)
    assert why() == "no earlier result"
    brief(7)
    assert why() == "the result of run 'brief' had expired under 1 s before"
    damage(next(store_of().keys()))
    brief(7)
    assert why().startswith("the result of the same key could not be used: it is not whole")
    train(0.1)
    train.with_options(refresh_cache=True)(0.1)
    shown = cache("explain", "train at 0.1").stdout
    assert "made anew, in place of the result of run 'train at 0.1': by refresh_cache" in shown


def test_the_value_of_a_flow_has_no_parts_to_explain() -> None:
    store_of().write("id", 1, run_name="night 1")
    shown = cache("explain", "night 1").stdout
    assert shown.startswith("flow run 'night 1': result made ")
    assert "the parts of its key were not kept" in shown


def test_runs_of_one_name_are_all_explained_up_to_ten(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for number in range(12):
        store.write(f"k{number}", number, run_name="train", task_name="train")
    shown = cache("explain", "train", "--store", tmp_path).stdout
    assert shown.count("why it ran") == 10
    assert "and 2 results more" in shown


# --- stats ------------------------------------------------------------------------------


def test_stats_count_in_all_and_by_task(keys: dict[str, str]) -> None:
    damage(keys["train at 0.1"])
    found = json.loads(cache("stats", "--json").stdout)
    assert {name: found[name] for name in ("records", "expired", "unreadable")} == {
        "records": 4,
        "expired": 1,
        "unreadable": 1,
    }
    assert {name: each["records"] for name, each in found["tasks"].items()} == {
        "": 1,
        "brief": 1,
        "export": 1,
        "train": 1,
    }
    assert found["size_bytes"] == sum(each.entry.size_bytes for each in store_of().survey())
    shown = cache("stats").stdout
    assert re.search(r"results +4\n", shown)
    assert re.search(r"\(flows\) +1 ", shown)


# --- rm and gc --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["train at 0.1", "of/another"], {"train at 0.2", "brief", "night 1"}),
        (["train at 0.1", "train at 0.1"], {"train at 0.2", "brief", "night 1", "export-0"}),
        (["--task", "train"], {"brief", "night 1", "export-0"}),
        (["--expired"], {"train at 0.1", "train at 0.2", "night 1", "export-0"}),
        (["--expired", "--task", "brief"], {"train at 0.1", "train at 0.2", "night 1", "export-0"}),
        (["--expired", "--task", "train"], {"train at 0.1", "train at 0.2", "brief", "night 1",
                                            "export-0"}),
        (["--all", "--yes"], set()),
    ],
)  # fmt: skip
def test_results_are_removed(keys: dict[str, str], words: list[str], left: set[str]) -> None:
    result = cache("rm", *words)
    assert result.exit_code == DONE, result.output
    gone = len(keys) - len(left)
    assert result.stdout.startswith(f"Removed {gone} result{'s' if gone != 1 else ''}, ")
    assert {row[2] for row in rows()} == left


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", DONE, 0), ("n\n", FAILED, 5), ("", FAILED, 5)]
)
@pytest.mark.usefixtures("keys")
def test_removing_everything_asks_before(answer: str, code: int, left: int) -> None:
    result = cache("rm", "--all", answer=answer)
    assert result.exit_code == code
    assert "Remove all 5 results in /" in result.stderr
    assert len(rows()) == left


def test_removing_everything_takes_the_damaged_and_leaves_what_is_no_result(
    keys: dict[str, str],
) -> None:
    damage(keys["train at 0.1"])
    store_of().filesystem.write_path("notes.txt", b"mine")
    assert cache("rm", "--all", "--yes").stdout.startswith("Removed 5 results")
    assert [each.path for each in store_of().filesystem.entries()] == ["notes.txt"]


def test_if_one_of_several_is_not_there_none_is_removed(keys: dict[str, str]) -> None:
    assert cache("rm", "train at 0.1", "no-such-run").exit_code == FAILED
    assert len(rows()) == len(keys)


@pytest.mark.parametrize(
    "words", [[], ["--all", "--expired"], ["k", "--all"], ["k", "--task", "t"]]
)
def test_what_to_remove_has_to_be_said_in_one_way(keys: dict[str, str], words: list[str]) -> None:
    result = cache("rm", *words)
    assert result.exit_code == USED_WRONGLY
    assert "say which results" in result.stderr
    assert len(rows()) == len(keys)


def test_a_removed_result_is_made_again(keys: dict[str, str]) -> None:
    assert train(0.1, return_state=True).name == "Cached"
    assert cache("rm", keys["train at 0.1"]).exit_code == DONE
    assert train(0.1, return_state=True).name == "Completed"


def test_collecting_takes_the_expired_and_the_damaged(keys: dict[str, str]) -> None:
    damage(keys["train at 0.1"])
    assert cache("gc").stdout.startswith("Removed 2 results, ")
    assert {row[2] for row in rows()} == {"train at 0.2", "night 1", "export-0"}


@pytest.mark.parametrize(("size", "left"), [("0", 0), ("1B", 0), ("600B", 1), ("2GB", 4)])
@pytest.mark.usefixtures("keys")
def test_collecting_keeps_to_a_size(size: str, left: int) -> None:
    assert cache("gc", "--max-bytes", size).exit_code == DONE
    assert len(rows()) == left


@pytest.mark.usefixtures("keys")
def test_collecting_keeps_to_the_size_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_RESULTS_MAX_BYTES", "0")
    assert cache("gc").exit_code == DONE
    assert rows() == []


@pytest.mark.parametrize("size", ["2G", "much", "-1"])
def test_an_impossible_size_is_refused(size: str) -> None:
    result = cache("gc", f"--max-bytes={size}")
    assert (result.exit_code, "'2GB'" in result.stderr) == (USED_WRONGLY, True)


# --- what goes wrong --------------------------------------------------------------------


def test_a_folder_that_others_can_write_is_refused_with_ways_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    result = cache("ls", "--store", tmp_path)
    assert (result.exit_code, "chmod go-w" in result.stderr) == (FAILED, True)


def test_a_place_that_nobody_knows_is_named() -> None:
    result = cache("ls", "--store", "nowhere://x")
    assert result.exit_code == FAILED
    assert "the results in nowhere://x cannot be reached" in result.stderr


def test_a_wrong_setting_is_a_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_RESULTS_MAX_BYTES", "many")
    result = cache("ls")
    assert (result.exit_code, "PENSTOCK_RESULTS_MAX_BYTES" in result.stderr) == (USED_WRONGLY, True)


def test_the_program_itself_lists_and_says_how_it_is_used(tmp_path: Path) -> None:
    ResultStore(tmp_path).write("one", 1, task_name="t")

    def penstock(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penstock", "cache", *words],
            capture_output=True,
            text=True,
            timeout=LONGEST_WAIT_SECONDS,
            env={**os.environ, "PENSTOCK_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path)},
            check=False,
        )

    listed, used = penstock("ls"), penstock("rm", "--help")
    assert (listed.returncode, used.returncode) == (DONE, DONE)
    assert listed.stdout.splitlines()[1].startswith("one  t ")
    assert "--expired" in used.stdout
