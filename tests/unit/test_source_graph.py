"""Promises of `penstock.source_graph`: what counts of the code a task reaches (row 080)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import subprocess
import sys
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest

from penstock import task
from penstock.function_syntax import canonical_source
from penstock.key_parts import KeyParts, explain
from penstock.source_graph import SourceGraph, source_graph
from penstock.source_hashing import source_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPELINE = """
import functools
import json
from dataclasses import dataclass, field

import shop
import shop.prices
from penstock import task
from shop.cleaning import Cleaner, clean as tidy

LIMIT = 3
CONFIG = {"rate": 0.1, "names": ["a"]}
STEPS = {"first": tidy, "second": [lambda x: x + 11]}
double = functools.partial(shop.scale, factor=2)
handle = object()

def timed(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        label = "timed"
        return fn(*args)
    return wrapper

@timed
def decorated(x):
    return x + 100

@task(retries=3)
def other_task(x):
    return x + 200

@functools.lru_cache
def remembered(x):
    return x + 300

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

@dataclass(frozen=True)
class Options:
    size: int = 4
    tags: list = field(default_factory=lambda: [5])

    @property
    def area(self):
        return self.size * 6

    @staticmethod
    def make():
        return Options(7)

class Base:
    def run(self, x):
        return self.step(x)

class Machine(Base):
    speed = 8
    def __init__(self):
        self.lock = object()
    def step(self, x):
        return x + 400

machine = Machine()

def with_default(x, y=LIMIT):
    return x + y

def unrelated(x):
    return x + 1000

def work(x, y=1):
    from shop.late import later
    inner = [even(x) for _ in range(LIMIT)]
    options = Options.make()
    shop.prices.price(x)
    STEPS["first"](x)
    Cleaner().sweep(x)
    return json.dumps([
        tidy(x), decorated(x), other_task(x), remembered(x), double(x), later(x), str(handle)[:7],
        CONFIG["rate"], machine.run(x), with_default(x), inner, options.area,
    ])
"""
FILES = {
    "pipeline.py": PIPELINE,
    "shop/__init__.py": "def scale(x, factor):\n    return x * factor * 500\n",
    "shop/prices.py": (
        "TAX = 0.2\ndef price(x):\n    return x * (1 + TAX)\n"
        "def unused(x):\n    return 9\n"
    ),
    "shop/cleaning.py": (
        "import re\nPATTERN = re.compile('a+')\n"
        "def clean(x):\n    '''Cleans.'''\n    return helper(x)  # really\n\n"
        "def helper(x):\n    return PATTERN.sub('b', str(x))\n\n"
        "class Cleaner:\n    def sweep(self, x):\n        return helper(x) + '600'\n"
    ),
    "shop/late.py": (
        "def later(x):\n    from . import later_still\n    return later_still.last(x)\n"
    ),
    "shop/later_still.py": "def last(x):\n    return x + 700\n",
}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a program of several files from a folder of its own."""
    count = 0

    def forget() -> None:
        for name in [n for n in sys.modules if n.split(".")[0] in {"pipeline", "shop", "plans"}]:
            del sys.modules[name]

    def load(files: dict[str, str] | None = None, *edits: tuple[str, str, str]) -> Any:
        nonlocal count
        count += 1
        files = dict(FILES if files is None else files)
        for file, old, new in edits:
            assert old in files[file], old
            files[file] = files[file].replace(old, new)
        for name, text in files.items():
            path = tmp_path / str(count) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        monkeypatch.syspath_prepend(tmp_path / str(count))
        importlib.invalidate_caches()
        return importlib.import_module("pipeline")

    yield load
    forget()


def why(old: SourceGraph, new: SourceGraph) -> list[str]:
    return explain(KeyParts(old.hash, old.parts), KeyParts(new.hash, new.parts))


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pipeline.py", 'STEPS["first"](x)', 'STEPS["first"](x + 1)', "source of the task changed"),
        ("pipeline.py", "LIMIT = 3", "LIMIT = 33", "constant LIMIT changed 3 to 33"),
        ("pipeline.py", "0.1", "0.2", "constant CONFIG changed {'names': ['a'], 'rate': 0.1} to "),
        ("pipeline.py", "x + 11", "x + 12", "helper <lambda>() changed"),
        ("pipeline.py", "factor=2", "factor=3", "constant double.keywords changed"),
        ("pipeline.py", 'label = "timed"', 'label = "Timed"', "helper timed.wrapper() changed"),
        ("pipeline.py", "x + 100", "x + 101", "helper decorated() changed"),
        ("pipeline.py", "x + 200", "x + 201", "helper other_task() changed"),
        ("pipeline.py", "x + 300", "x + 301", "helper remembered() changed"),
        ("pipeline.py", "True if n == 0", "True if n == 1", "helper even() changed"),
        ("pipeline.py", "False if n == 0", "False if n == 1", "helper odd() changed"),
        ("pipeline.py", "size: int = 4", "size: int = 44", "class Options changed"),
        ("pipeline.py", "size: int = 4", "size: float = 4", "class Options changed"),
        ("pipeline.py", "frozen=True", "frozen=False", "class Options changed"),
        ("pipeline.py", "[5]", "[55]", "helper Options.<lambda>() changed"),
        ("pipeline.py", "self.size * 6", "self.size * 66", "helper Options.area() changed"),
        ("pipeline.py", "Options(7)", "Options(77)", "helper Options.make() changed"),
        ("pipeline.py", "self.step(x)", "self.step(x) + 1", "helper Base.run() changed"),
        ("pipeline.py", "speed = 8", "speed = 88", "constant Machine.speed changed 8 to 88"),
        ("pipeline.py", "x + 400", "x + 401", "helper Machine.step() changed"),
        ("pipeline.py", "y=LIMIT", "y=LIMIT + 1", "constant defaults of with_default()"),
        ("shop/__init__.py", "500", "501", "helper scale() changed"),
        ("shop/prices.py", "0.2", "0.3", "constant TAX changed 0.2 to 0.3"),
        ("shop/prices.py", "1 + TAX", "2 + TAX", "helper price() changed"),
        ("shop/cleaning.py", "a+", "a*", "constant PATTERN changed re.compile('a+') to "),
        ("shop/cleaning.py", "'b'", "'c'", "helper helper() changed"),
        ("shop/cleaning.py", "'600'", "'601'", "helper Cleaner.sweep() changed"),
        ("shop/late.py", "last(x)", "last(x) + 1", "helper later() changed"),
        ("shop/later_still.py", "700", "701", "helper last() changed"),
    ],
)
def test_080_a_change_in_anything_the_task_reaches_counts_and_is_named(
    load: Any, file: str, old: str, new: str, sentence: str
) -> None:
    before, after = source_graph(load().work), source_graph(load(None, (file, old, new)).work)
    assert before.hash != after.hash
    sentences = why(before, after)
    assert any(each.startswith(sentence) for each in sentences), sentences


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pipeline.py", "import functools\n", "# moved down\n\n\nimport functools\n"),
        ("pipeline.py", "def odd(n):\n", 'def odd(n):\n    """Says what it does."""\n    # note\n'),
        ("pipeline.py", "x + 1000", "x + 1001"),
        ("pipeline.py", "retries=3", "retries=4"),
        ("pipeline.py", "x * factor", "x * factor"),
        ("shop/prices.py", "return 9", "return 99"),
        ("shop/cleaning.py", "'''Cleans.'''", "'''Cleans well.'''"),
        ("shop/cleaning.py", "  # really", ""),
    ],
)
def test_080_comments_docstrings_layout_and_what_is_not_reached_do_not_count(
    load: Any, file: str, old: str, new: str
) -> None:
    if old != new:
        assert source_graph(load().work) == source_graph(load(None, (file, old, new)).work)


def test_080_functions_may_move_within_a_file_and_to_another(load: Any) -> None:
    before = source_graph(load().work)
    definition = "def odd(n):\n    return False if n == 0 else even(n - 1)\n\n"
    within = (("pipeline.py", definition, ""), ("pipeline.py", "def work", f"{definition}def work"))
    assert source_graph(load(None, *within).work) == before
    moved = {**FILES, "shop/elsewhere.py": FILES["shop/cleaning.py"]}
    moved["shop/cleaning.py"] = "from shop.elsewhere import *\n"
    assert source_graph(load(moved).work) == before


def test_080_it_is_the_same_in_every_process_and_whatever_ran_before(
    load: Any, tmp_path: Any
) -> None:
    module = load()
    before = source_graph(module.work)
    module.work(1)
    assert source_graph(module.work) == before
    program = "import pipeline\nfrom penstock.source_graph import source_graph\n"
    program += "print(source_graph(pipeline.work).hash)"
    for seed in ("0", "4242"):
        answer = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path / "1")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.strip() == before.hash


def test_080_a_helper_that_is_defined_anew_is_noticed_as_in_a_notebook() -> None:
    cells = types.ModuleType("__main__")
    exec("def clean(x):\n  return x\ndef work(x):\n  return clean(x)", vars(cells))
    work = vars(cells)["work"]
    before = source_graph(work)
    assert source_graph(work) == before
    exec("def clean(x):\n  return x + 1", vars(cells))
    after = source_graph(work)
    assert why(before, after) == ["helper clean() changed"]
    exec("def clean(x):\n  return x", vars(cells))
    assert source_graph(work) == before
    exec("del clean", vars(cells))
    assert why(before, source_graph(work)) == ["helper clean() is gone"]


def test_080_a_variable_that_is_changed_in_place_is_noticed() -> None:
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec("SEEN = []\nSTEPS = [len]\ndef work(x):\n  return SEEN, STEPS", cells)
    hashes = [source_graph(cells["work"]).hash]
    cells["SEEN"].append(1)
    hashes.append(source_graph(cells["work"]).hash)
    cells["STEPS"].append(max)
    hashes.append(source_graph(cells["work"]).hash)
    cells["STEPS"][0] = min
    hashes.append(source_graph(cells["work"]).hash)
    assert len(set(hashes)) == 4
    cells["SEEN"].clear()
    cells["STEPS"][:] = [len]
    assert source_graph(cells["work"]).hash == hashes[0]


def test_080_a_method_that_is_replaced_is_noticed() -> None:
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec("class C:\n  def f(self):\n    return 1\ndef work():\n  return C().f()", cells)
    before = source_graph(cells["work"])
    cells["C"].f = lambda self: 2
    assert source_graph(cells["work"]).hash != before.hash


def test_080_what_a_function_captures_counts() -> None:
    def make(n: int, helper: Any) -> Any:
        def work(x: int) -> Any:
            return helper(x) + n

        return work

    graphs = [source_graph(make(n, f)) for n, f in [(1, len), (1, len), (2, len), (1, max)]]
    assert graphs[0] == graphs[1]
    assert len({graph.hash for graph in graphs}) == 3
    assert why(graphs[0], graphs[2])[0].endswith("work: n changed 1 to 2")


def triple(x: int) -> int:
    return x * 3


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by
        self.how = triple

    def __call__(self, x: int) -> int:
        return self.how(x * self.by)

    def method(self, x: int) -> int:
        return self(x)


def test_080_tasks_of_other_kinds_are_followed_too() -> None:
    kinds = [triple, Scale(2), Scale(2).method, functools.partial(triple, 1), lambda x: triple(x)]
    kinds += [functools.partial(triple, 2), functools.lru_cache(triple), len, str.upper]
    graphs = [source_graph(kind) for kind in kinds]
    assert len({graph.hash for graph in graphs}) == len(kinds)
    for graph in (graphs[1], graphs[2], graphs[4]):
        assert "helper triple()" in graph.parts
    assert "class Scale" in graphs[2].parts


def test_080_a_task_among_the_helpers_counts_by_its_function_and_not_by_its_options() -> None:
    def make(helper: Any) -> Any:
        return lambda x: helper(x)

    options: list[dict[str, Any]] = [{}, {"retries": 3}, {"name": "other"}]
    hashes = {source_graph(make(task(triple, **each))).hash for each in options}
    assert len(hashes) == 1


def test_080_cycles_between_functions_classes_and_values_end() -> None:
    cells: dict[str, Any] = {"__name__": "__main__"}
    text = """
    class Node:
        def next(self):
            return NODE, work
    NODE = Node()
    NODE.self = NODE
    RING = [len]
    RING.append(RING)
    def work():
        return Node, NODE, RING, work
    """
    exec(textwrap.dedent(text), cells)
    assert source_graph(cells["work"]) == source_graph(cells["work"])


def test_080_installed_code_counts_by_name_only() -> None:
    def dumps(x: int) -> str:
        return json.dumps(x)

    def loads(x: str) -> Any:
        return json.loads(x)

    for fn in (dumps, loads):
        assert not [name for name in source_graph(fn).parts if name.startswith(("helper", "class"))]

    def of(function: Any) -> str:
        return source_graph(lambda x: function(x)).hash

    assert len({of(json.dumps), of(json.loads), of(textwrap.dedent)}) == 3


def test_080_an_installed_package_is_followed_from_its_own_tasks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "shop.py").write_text("import plans\ndef near(x): return plans.far(x)\n")
    (site / "plans.py").write_text("def far(x): return x\n")
    (tmp_path / "pipeline.py").write_text("import shop\ndef work(x): return shop.near(x)\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(tmp_path)
    modules = {name: importlib.import_module(name) for name in ("pipeline", "shop", "plans")}
    try:
        assert [*source_graph(modules["pipeline"].work).parts] == ["source", "reach"]
        inside = types.FunctionType(modules["plans"].far.__code__, vars(modules["shop"]))
        vars(modules["shop"])["beside"] = inside
        exec("def both(x): return near(x), beside(x)", vars(modules["shop"]))
        assert [*source_graph(modules["shop"].both).parts] == [
            "source",
            "helper far()",
            "helper near()",
            "reach",
        ]
    finally:
        for name in modules:
            del sys.modules[name]


def test_080_functions_by_type_of_argument_are_followed_each(load: Any) -> None:
    text = textwrap.dedent(
        """
        import functools

        @functools.singledispatch
        def show(x):
            return 1

        @show.register
        def show_int(x: int):
            return 2

        class Shower:
            @functools.singledispatchmethod
            def show(self, x):
                return 3

            @show.register
            def _(self, x: int):
                return 4

        def work(x):
            return show(x), Shower().show(x)
        """
    )
    before = source_graph(load({"pipeline.py": text}).work)
    for number in "1234":
        edit = ("pipeline.py", f"return {number}", f"return 5{number}")
        assert source_graph(load({"pipeline.py": text}, edit).work).hash != before.hash, number
    assert source_graph(load({"pipeline.py": "#\n" + text}).work) == before


def test_080_members_fields_and_validators_of_models_are_followed(load: Any) -> None:
    text = textwrap.dedent(
        """
        import enum
        import pydantic

        class Size(enum.Enum):
            S = 1
            M = 2
            def double(self):
                return self.value * 2

        class Inner(pydantic.BaseModel):
            a: int = pydantic.Field(default=1, gt=0)

        class Order(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(extra="forbid")
            inner: list[Inner]
            size: Size = Size.S

            @pydantic.field_validator("size")
            @classmethod
            def checked(cls, value):
                return check(value)

        def check(value):
            return value

        def work(x):
            return Order(inner=x)
        """
    )
    before = source_graph(load({"pipeline.py": text}).work)
    assert source_graph(load({"pipeline.py": "#\n" + text}).work) == before
    edits = [("M = 2", "M = 3"), ("value * 2", "value * 3"), ("default=1", "default=2")]
    edits += [
        ("gt=0", "ge=0"),
        ('"forbid"', '"allow"'),
        ("    return value\n\ndef", "    return 1\n\ndef"),
    ]
    for old, new in edits:
        after = source_graph(load({"pipeline.py": text}, ("pipeline.py", old, new)).work)
        assert after.hash != before.hash, old
        assert why(before, after)


# --- the syntax of a function -----------------------------------------------------------


def test_080_a_file_that_changed_after_it_was_loaded_is_not_taken_for_what_runs(load: Any) -> None:
    module = load({"pipeline.py": "def work(x):\n    return x + 1\n"})
    with open(module.__file__, "w") as file:
        file.write("def work(x):\n    return x - 1\n")
    assert canonical_source(module.work) is None
    edited = load({"pipeline.py": "def work(x):\n    return x - 1\n"})
    assert canonical_source(edited.work) is not None
    assert source_hash(module.work) != source_hash(edited.work)


@pytest.mark.parametrize(
    "text",
    [
        "def work(x):\n    return '\\d'\n",  # would warn
        "class C:\n    def __init__(self):\n        super().__init__()\n"
        "        self.__x = 1\nwork = C.__init__\n",
        "def make(n):\n    def work(x):\n        return x + n\n    return work\nwork = make(1)\n",
        "from __future__ import annotations\ndef work(x: Unknown):\n    return x\n",
        "async def work(x):\n    async with x:\n        pass\n",
        "if True:\n    @staticmethod\n    def work(x): return x\nwork = work.__func__\n",
    ],
    ids=["escape", "method", "closure", "future", "async", "nested"],
)
def test_080_the_syntax_of_functions_in_all_places_is_found(load: Any, text: str) -> None:
    with pytest.warns() if "\\d" in text else contextlib.nullcontext():
        module = load({"pipeline.py": text})
    assert canonical_source(module.work) is not None
