"""The code census: its analysis by plain calls, and the whole of it as a flow."""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"

SAMPLE = '''
def settle(account, entries, *, limit=10, strict=False):
    """Book the entries that fit."""
    booked = []
    for entry in sorted(entries, key=lambda entry: entry.date):
        if entry.amount > limit and not strict:
            account.warn(f"large: {entry.amount}")
        elif entry.amount < 0:
            raise ValueError("negative")
        else:
            with account.lock:
                account.balance += entry.amount
                booked.append(entry)
    while booked and booked[-1].open:
        booked.pop()
    try:
        account.save(booked, retries=3)
    except OSError as error:
        account.log(error)
        return None
    return {entry.id: entry.amount for entry in booked if entry.amount}
'''

UNRELATED = """
def render(shape):
    match shape:
        case {"kind": "circle", "r": radius}:
            area = 3.14 * radius ** 2
            label = "round"
        case [width, height]:
            area = width * height
            label = "square" if width == height else "oblong"
        case _:
            area, label = 0, None
    assert area >= 0
    print(label, end="")
    global last
    last = (area, label)
    del shape
    return lambda factor: area * factor
"""


@pytest.fixture(scope="module")
def census() -> Iterator[Any]:
    """The package, found as the script finds it: its folder is on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        package = importlib.import_module("census")
        for name in ("sources", "measure", "fingerprints", "duplicates", "ranking", "terminal"):
            importlib.import_module(f"census.{name}")
        yield package


def numbers(census: Any, text: str) -> dict[str, tuple[int, ...]]:
    found = census.measure.measure(text).functions
    return {f.name: (f.lines, f.statements, f.branches, f.nesting, f.arguments) for f in found}


def prints_of(census: Any, **texts: str) -> dict[str, Any]:
    return {f"{name}.py": census.fingerprints.fingerprint(text) for name, text in texts.items()}


def take(census: Any, texts: dict[str, str], skipped: tuple[Any, ...] = ()) -> Any:
    measures = {path: census.measure.measure(text) for path, text in texts.items()}
    prints = {path: census.fingerprints.fingerprint(text) for path, text in texts.items()}
    groups = census.duplicates.find_groups(prints, min_lines=5)
    return census.ranking.rank(measures, groups, skipped, top=20)


# --- measuring -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),  # lines, statements, branches, nesting, arguments
    [
        ("def f(): pass", (1, 1, 1, 0, 0)),
        ("def f(a, /, b, *c, d=1, **e):\n    'doc'\n    return a", (3, 1, 1, 0, 5)),
        ("def f(a):\n    if a and b or c:\n        return 1", (3, 2, 4, 1, 1)),
        ("def f():\n if a: pass\n elif b: pass\n elif c: pass\n else: pass", (5, 7, 4, 1, 0)),
        ("def f():\n for a in b:\n  while c:\n   with d: pass", (4, 4, 3, 3, 0)),
        ("def f():\n try: pass\n except A: pass\n except B: pass", (4, 4, 3, 1, 0)),
        ("def f():\n return [a for a in b if c if d] or (1 if e else 2)", (2, 1, 6, 0, 0)),
        ("def f(a):\n match a:\n  case 1: pass\n  case 2: pass\n  case _: pass", (5, 4, 3, 1, 1)),
        ("async def f():\n async for a in b: await a", (2, 2, 2, 1, 0)),
    ],
)
def test_numbers_of_known_functions(census: Any, body: str, expected: tuple[int, ...]) -> None:
    assert numbers(census, body) == {"f": expected}


def test_nested_functions_have_names_and_numbers_of_their_own(census: Any) -> None:
    text = (
        "class A:\n    def m(self):\n        if x:\n            def inner(): return 1 if y else 2\n"
    )
    assert numbers(census, text) == {
        "A.m": (3, 2, 2, 1, 1),
        "A.m.<locals>.inner": (1, 1, 2, 0, 0),
    }


def test_code_as_deep_as_the_parser_takes_is_measured(census: Any) -> None:
    chain = "def f():\n if a: pass\n" + " elif a: pass\n" * 300
    assert numbers(census, chain)["f"][2:4] == (302, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:\n", "syntax error"),
        ("x = " + "-" * 100_000 + "1", "nested too deeply"),
        ("(" * 500 + ")" * 500, "syntax error: too many nested parentheses"),
        ("x = " + "9" * 5000, "syntax error"),
    ],
)
def test_what_does_not_parse_is_unusable_with_a_reason(census: Any, text: str, reason: str) -> None:
    with pytest.raises(census.sources.Unusable, match=reason):
        census.measure.measure(text)
    assert census.fingerprints.fingerprint(text) == ()


def test_warnings_about_other_peoples_code_stay_silent_and_ours_do_not(census: Any) -> None:
    census.measure.measure(r"def f(): return '\d'")
    with pytest.warns(DeprecationWarning, match="ours"):
        warnings.warn("ours", DeprecationWarning, stacklevel=1)


# --- fingerprints and duplicates -------------------------------------------------------


class Renamed(ast.NodeTransformer):
    """Gives everything another name and every literal another value."""

    def __init__(self, new_name: Callable[[str], str]) -> None:
        self.new_name = new_name

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "arg", "attr", "name"):
            if isinstance(old := getattr(node, field, None), str):
                setattr(node, field, self.new_name(old))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            node.value = 77
        return super().generic_visit(node)


def renamed(text: str, new_name: Callable[[str], str]) -> str:
    return ast.unparse(Renamed(new_name).visit(ast.parse(text)))


@given(seed=st.text("abcxyz_", min_size=1, max_size=8), sample=st.sampled_from([SAMPLE, UNRELATED]))
def test_renaming_keeps_the_fingerprint(census: Any, seed: str, sample: str) -> None:
    copy = renamed(sample, lambda old: f"n{seed}{len(old)}")
    (original,), (other,) = map(census.fingerprints.fingerprint, (sample, copy))
    assert (other.shape, other.hashes) == (original.shape, original.hashes)


def test_annotations_docstrings_and_decorators_do_not_count(census: Any) -> None:
    dressed = SAMPLE.replace("(account, entries,", "(account: A, entries: list[E],")
    dressed = "@cached\n" + dressed.replace("booked = []", "booked: list[E] = []").strip()
    dressed = dressed.replace("Book the entries", "Do book")
    (plain,), (other,) = map(census.fingerprints.fingerprint, (SAMPLE, dressed))
    assert other.shape == plain.shape


@given(hashes=st.lists(st.integers(0, 20), min_size=6, max_size=60), window=st.integers(1, 6))
def test_winnowing_keeps_the_smallest_of_every_window(
    census: Any, hashes: list[int], window: int
) -> None:
    kept = list(census.fingerprints.winnow(hashes, window))
    starts = range(len(hashes) - window + 1)
    smallest = [min(hashes[start : start + window]) for start in starts]
    assert set(kept) == set(smallest)
    assert len(kept) <= len(smallest)


def test_fingerprints_are_the_same_in_another_process(census: Any) -> None:
    code = "import sys; from census.fingerprints import fingerprint as f; print(f(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "PYTHONHASHSEED": "7"}
    there = subprocess.check_output([sys.executable, "-c", code, SAMPLE], env=environment)
    assert there.decode().strip() == repr(census.fingerprints.fingerprint(SAMPLE))


def test_a_changed_copy_is_found_and_the_unrelated_is_not(census: Any) -> None:
    copy = renamed(SAMPLE, lambda old: f"{old}_too").replace("booked_too = []", "x = {}\n    y = 1")
    groups = census.duplicates.find_groups(
        prints_of(census, a=SAMPLE, b=copy, c=UNRELATED), min_lines=5
    )
    assert [[place.path for place in group.places] for group in groups] == [["a.py", "b.py"]]
    assert 0.75 <= groups[0].similarity < 1
    assert groups[0].repeated_lines == min(place.lines for place in groups[0].places)


@given(st.lists(st.sets(st.integers(0, 15), min_size=1, max_size=12), min_size=2, max_size=6))
def test_the_index_misses_no_pair(census: Any, sets: list[set[int]]) -> None:
    kind, place = census.fingerprints.FunctionPrint, range(len(sets))
    prints = {f"{n}.py": [kind("f", 1, 9, str(n), tuple(sorted(sets[n])))] for n in place}
    in_groups = {
        at.path
        for group in census.duplicates.find_groups(prints, min_lines=1)
        for at in group.places
    }
    alike = [
        (one, other)
        for one in place
        for other in place
        if one < other and len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= 0.75
    ]
    for one, other in alike:  # a star takes at least one of them in
        assert in_groups & {f"{one}.py", f"{other}.py"}
    assert bool(in_groups) == bool(alike)


def test_hundreds_of_exact_copies_are_one_group(census: Any) -> None:
    prints = prints_of(census, **{f"f{n:03}": SAMPLE for n in range(200)})
    (group,) = census.duplicates.find_groups(prints, min_lines=5)
    assert (len(group.places), group.similarity) == (200, 1.0)


def test_short_functions_and_wrappers_are_no_duplicates(census: Any) -> None:
    body = SAMPLE.strip().replace("\n", "\n    ")
    wrapper = f"def make():\n    {body}\n    return settle\n"
    assert census.duplicates.find_groups(prints_of(census, a=wrapper), min_lines=5) == ()
    twice = prints_of(census, a=SAMPLE, b=SAMPLE)
    assert census.duplicates.find_groups(twice, min_lines=100) == ()


def test_the_order_of_files_does_not_matter(census: Any) -> None:
    other = renamed(SAMPLE, str.upper).replace("BOOKED = []", "X = {}\n    Y = 1")
    texts = {"a.py": SAMPLE, "b.py": other, "c.py": SAMPLE, "d.py": UNRELATED, "e.py": UNRELATED}
    backwards = dict(reversed(texts.items()))
    render = census.report.as_json, census.report.as_markdown
    for each in render:
        assert each(take(census, texts)) == each(take(census, backwards))


# --- reports ---------------------------------------------------------------------------


def test_json_has_the_promised_shape(census: Any) -> None:
    left_out = census.sources.Skipped("bad.py", "null bytes")
    taken = take(census, {"a.py": SAMPLE, "b.py": SAMPLE}, (left_out,))
    read = json.loads(census.report.as_json(taken))
    assert read["format"] == census.report.FORMAT
    assert read["totals"] == {
        "files": 2, "skipped": 1, "lines": 42, "statements": 34, "functions": 2,
        "duplicate_groups": 1, "duplicated_functions": 2, "repeated_lines": 20,
    }  # fmt: skip
    for ranking in ("largest", "most_branching", "deepest"):
        assert [row["path"] for row in read[ranking]] == ["a.py", "b.py"]
    assert [place["line"] for place in read["duplicates"][0]["places"]] == [2, 2]
    assert read["skipped"] == [{"path": "bad.py", "reason": "null bytes"}]


def test_names_that_would_break_a_table_are_escaped(census: Any) -> None:
    left_out = census.sources.Skipped("a|b`c\n\udc80[red].py", "invalid character '|' *")
    taken = take(census, {}, (left_out,))
    markdown = census.report.as_markdown(taken)
    assert r"| `` a\|b`c\n\udc80[red].py `` | invalid character '\|' \* |" in markdown
    console = Console(file=(shown := io.StringIO()), width=200)
    for table in census.terminal.as_tables(taken, top=5):
        console.print(table)
    assert r"a|b`c\n\udc80[red].py" in shown.getvalue()


def test_a_failed_write_leaves_the_earlier_report_whole(
    census: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    census.report.write(take(census, {"a.py": SAMPLE}), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["census.json", "census.md"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        census.report.write(take(census, {}), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- finding and reading ---------------------------------------------------------------


def test_tests_caches_packages_and_loops_of_links_are_not_walked(
    census: Any, tmp_path: Path
) -> None:
    for name in ("a.py", "b/c.py", "tests/d.py", "site-packages/e.py", ".git/f.py", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    find = census.sources.find
    assert find(tmp_path, include_tests=False).files == ("a.py", "b/c.py")
    assert find(tmp_path, include_tests=True).files == ("a.py", "b/c.py", "tests/d.py")


def test_a_folder_that_cannot_be_listed_is_skipped(
    census: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    scandir = os.scandir  # permissions would not do: root may read everything

    def guarded(path: str) -> Any:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = census.sources.find(tmp_path, include_tests=False)
    reason = "unreadable folder: Permission denied"
    assert found.skipped == (census.sources.Skipped("locked", reason),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = 1\0", "null bytes"),
        (b"x = '\xff'", "invalid or missing encoding declaration"),
        (b"#\n#\nx = '\xff'", "not utf-8 at byte 9"),
        (b"# coding: nonsense\n", "unknown encoding"),
        (b"#" * 5_000_001, "larger than 5 MB"),
        (None, "not a regular file"),
    ],
)
def test_bad_files_are_unusable_with_a_reason(
    census: Any, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.py"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(census.sources.Unusable, match=reason):
        census.sources.read(path)


def test_a_wrong_root_or_output_is_refused_with_advice(census: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.touch()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        census.sources.checked_root(str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="Give the folder that holds it"):
        census.sources.checked_root(str(file))
    with pytest.raises(NotADirectoryError, match="Give another place"):
        census.report.checked_output(str(file / "report"))


# --- the flow --------------------------------------------------------------------------


def run_flow(census: Any, tmp_path: Path, root: Path, **parameters: Any) -> Any:
    del census  # only so that the examples are on the path
    flow = importlib.import_module("code_census").code_census
    return flow(root=str(root), output=str(tmp_path / "report"), **parameters)


def test_the_flow_reports_good_and_bad_files_alike(
    census: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    texts = {"a.py": SAMPLE, "b.py": renamed(SAMPLE, str.title), "c.py": UNRELATED}
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "syntax.py").write_text("def f(:\n")
    (root / "encoding.py").write_bytes(b"#\n#\nx = '\xff'")
    (root / "unreadable.py").symlink_to("nowhere")

    taken = run_flow(census, tmp_path, root)

    skipped = census.sources.Skipped
    left_out = (
        skipped("encoding.py", "encoding error: not utf-8 at byte 9"),
        skipped("syntax.py", "syntax error: invalid syntax (line 1)"),
        skipped("unreadable.py", "unreadable: No such file or directory"),
    )
    assert taken == take(census, texts, left_out)
    report = tmp_path / "report"
    assert (report / "census.json").read_text() == census.report.as_json(taken)
    assert (report / "census.md").read_text() == census.report.as_markdown(taken)
    assert "Near-duplicates" in capsys.readouterr().out
    assert str(tmp_path) not in (report / "census.json").read_text()


def test_the_flow_reports_an_empty_tree(census: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    taken = run_flow(census, tmp_path, tmp_path / "empty")
    assert (taken.totals.files, taken.totals.skipped, taken.largest) == (0, 0, ())


def test_the_flow_refuses_bad_parameters_before_any_work(census: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Give an existing folder"):
        run_flow(census, tmp_path, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="1 or more"):
        run_flow(census, tmp_path, tmp_path, top=0)
    assert not (tmp_path / "report").exists()


RUNNERS = ("inline", "thread:2", "process:2", "dask:2")


def test_every_runner_writes_the_same_report(
    census: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name, text in {"a.py": SAMPLE, "b.py": renamed(SAMPLE, str.title)}.items():
        (root / name).write_text(text)
    (root / "syntax.py").write_text("def f(:\n")
    (root / "unreadable.py").symlink_to("nowhere")
    del census
    code_census = importlib.import_module("code_census").code_census

    reports = {}
    for runner in RUNNERS:
        output = tmp_path / runner.replace(":", "-")
        code_census.with_options(task_runner=runner)(
            root=str(root), output=str(output), cache=False
        )
        reports[runner] = [(output / f"census.{kind}").read_bytes() for kind in ("json", "md")]

    assert b"unreadable: No such file or directory" in reports["inline"][0]
    for runner in RUNNERS:
        assert reports[runner] == reports["inline"], runner
    capsys.readouterr()


# --- the cache -------------------------------------------------------------------------

COUNTING = """
import re, sys
parsed = []

def watch(event, about):
    if event == "compile" and about[1] == "<census>":
        parsed.append(re.search(r"def (\\w+)", str(about[0]))[1])

sys.addaudithook(watch)
from code_census import code_census
code_census(root=sys.argv[1], output=sys.argv[2], cache=sys.argv[3] == "cache")
print("parsed:", sorted(set(parsed)))
"""


class Tree:
    """A tree of code, and censuses of it, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self.output = folder / "report"
        self.root.mkdir()

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_text(text)

    def functions_parsed(self, *, cache: bool = True, **variables: str) -> list[str]:
        """Take a census, and return the first function of each text that the parser was given."""
        words = [str(self.root), str(self.output), "cache" if cache else "no-cache"]
        ran = subprocess.run(
            [sys.executable, "-c", COUNTING, *words],
            env=os.environ | {"PYTHONPATH": str(EXAMPLES)} | variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        parsed: list[str] = ast.literal_eval(ran.stdout.rpartition("parsed: ")[2])
        return parsed

    def report(self) -> bytes:
        return (self.output / "census.json").read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write("a.py", SAMPLE)
    tree.write("b.py", UNRELATED)
    return tree


def test_a_second_census_parses_nothing_and_then_only_the_file_that_changed(tree: Tree) -> None:
    assert tree.functions_parsed() == ["render", "settle"]
    first = tree.report()
    assert tree.functions_parsed(PYTHONHASHSEED="7") == []
    assert tree.report() == first
    tree.write("b.py", UNRELATED.replace("render", "draw"))
    assert tree.functions_parsed() == ["draw"]
    assert b'"draw"' in tree.report()


@pytest.mark.parametrize("runner", ["inline", "process:2"])
def test_what_one_runner_found_serves_the_others(tree: Tree, runner: str) -> None:
    tree.functions_parsed(PENSTOCK_TASK_RUNNER=runner)
    first = tree.report()
    assert tree.functions_parsed(PENSTOCK_TASK_RUNNER="thread") == []
    assert tree.report() == first


def test_the_text_of_a_file_counts_and_neither_its_path_nor_its_time(tree: Tree) -> None:
    tree.functions_parsed()
    (tree.root / "b.py").rename(tree.root / "moved.py")
    os.utime(tree.root / "a.py", (1, 1))
    assert tree.functions_parsed() == []
    before = (tree.root / "a.py").stat()
    tree.write("a.py", SAMPLE.replace("settle", "unsett"))
    os.utime(tree.root / "a.py", (before.st_atime, before.st_mtime))
    assert tree.functions_parsed() == ["unsett"]


def test_without_the_cache_all_is_parsed_and_nothing_kept_and_the_report_is_equal(
    tree: Tree,
) -> None:
    for _ in range(2):
        assert tree.functions_parsed(cache=False) == ["render", "settle"]
    uncached = tree.report()
    assert not Path(os.environ["PENSTOCK_RESULTS_LOCAL_STORAGE_PATH"]).exists()
    tree.functions_parsed()
    tree.functions_parsed()
    assert tree.report() == uncached


def test_equal_files_are_parsed_once_and_the_flow_says_how_many(
    census: Any, tree: Tree, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In order: side by side, each of two equal files may be the first in one of the two steps.
    monkeypatch.setenv("PENSTOCK_TASK_RUNNER", "inline")
    tree.write("copy/of_a.py", SAMPLE)
    run_flow(census, tree.output, tree.root)
    assert "2 files parsed, 1 found in the cache" in capfd.readouterr().err
    run_flow(census, tree.output, tree.root)
    assert "0 files parsed, 3 found in the cache" in capfd.readouterr().err


def test_another_python_has_results_of_its_own(
    census: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del census
    module = importlib.import_module("code_census")
    module.measure_file(SAMPLE)
    assert module.measure_file.explain(SAMPLE).is_cached
    monkeypatch.setattr(module, "sys", types.SimpleNamespace(version_info=(3, 99)))
    (reason,) = module.measure_file.explain(SAMPLE).reasons
    assert reason.endswith("to 3.99")
