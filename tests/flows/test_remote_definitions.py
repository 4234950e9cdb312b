"""Promises of users' pains 33 and 38: wherever a task is defined, workers elsewhere can run it.

A script without main guard, `python -c`, standard input, a REPL, a notebook; lambdas, closures,
methods; modules that only this process has.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.util
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from penstock import Task, flow, task
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    import pathlib
    import types
    from collections.abc import Callable


def run_python(*arguments: str, stdin: str = "", cwd: object = None) -> tuple[str, str]:
    """Run Python on some code, and return what it wrote."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=None if cwd is None else str(cwd),
        env={**os.environ, "PENSTOCK_LOGGING_LEVEL": "ERROR"},
    )
    return done.stdout, done.stderr


# --- programs -----------------------------------------------------------------------------

PROGRAM = """
import dataclasses, enum, functools
from penstock import flow, task

SCALE = 10

@functools.lru_cache(maxsize=50)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

@task
def ask_cache(n):
    return fibonacci(n), fibonacci.cache_info().maxsize, fibonacci.__name__

class Base:
    def scaled(self):
        return self.x * SCALE

@dataclasses.dataclass(frozen=True)
class Point(Base):
    x: int

class Colour(enum.Enum):
    RED = 1

def helper(point):
    return Point(point.scaled())

@task
def move(point, by=1):
    return helper(Point(point.x + by))

@task
def chain(point):
    return move(move(point))

@task
def colour(value):
    return value is Colour.RED, Colour.RED

@flow(task_runner="process:1")
def main():
    moved = move.submit(Point(1)).result()
    chained = chain.submit(Point(0)).result()
    squares = task(lambda x: x * x).map([1, 2, 3]).result()
    same, red = colour.submit(Colour.RED).result()
    cached = ask_cache.submit(30).result(), task(fibonacci).submit(10).result()
    return moved == Point(20), chained == Point(110), squares, same, red is Colour.RED, cached

print(main())
"""
EXPECTED = "(True, True, [1, 4, 9], True, True, ((832040, 50, 'fibonacci'), 55))\n"


@pytest.mark.parametrize("how", ["script", "-c", "stdin", "-m", "directory"])
def test_users_033_a_program_needs_no_main_guard(tmp_path: pathlib.Path, how: str) -> None:
    path = tmp_path / ("__main__.py" if how == "directory" else "program.py")
    path.write_text(PROGRAM)
    arguments = {
        "script": [str(path)],
        "-c": ["-c", PROGRAM],
        "stdin": ["-"],
        "-m": ["-m", "program"],
        "directory": [str(tmp_path)],
    }[how]
    stdin = PROGRAM if how == "stdin" else ""
    assert run_python(*arguments, stdin=stdin, cwd=tmp_path) == (EXPECTED, "")


def test_users_033_a_main_guard_does_no_harm(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("print(main())", 'if __name__ == "__main__":\n  print(main())'))
    assert run_python(str(path)) == (EXPECTED, "")


def test_users_033_a_script_runs_in_its_own_name_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"print('top level')\n{PROGRAM}")
    assert run_python(str(path)) == (f"top level\n{EXPECTED}", "")


def test_users_033_modules_beside_the_script_are_found(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text(
        "from penstock import task\n"
        "from parts.other import double\n"
        "@task\ndef twice(x):\n    return double(x), __name__\n"
    )
    (package / "other.py").write_text("def double(x):\n    return 2 * x\n")
    path = tmp_path / "program.py"
    path.write_text(
        "from penstock import flow\nfrom parts.work import twice\n"
        "@flow(task_runner='process:1')\ndef main():\n    return twice.submit(4).result()\n"
        "print(main())\n"
    )
    assert run_python(str(path), cwd="/") == ("(8, 'parts.work')\n", "")


CELLS = [
    "from penstock import flow, task",
    "factor = 2",
    "@task\ndef work(x):\n    return x * factor\n",
    "@flow(task_runner='process:1')\ndef main():\n    return work.map([1, 2, 3]).result()\n",
    "print(main())",
    "factor = 5",
    "print(main())",
    "@task\ndef work(x):\n    return -x\n",
    "print(main())",
    "class Thing:\n    def value(self):\n        return 'old'\n",
    "@task\ndef use(thing):\n    return thing.value(), Thing().value()\n",
    "@flow(task_runner='process:1')\ndef things():\n    return use.submit(Thing()).result()\n",
    "print(things())",
    "class Thing:\n    def value(self):\n        return 'new'\n",
    "print(things())",
]
SAID = [
    "[2, 4, 6]",
    "[5, 10, 15]",
    "[-1, -2, -3]",
    "('old', 'old')",
    "('new', 'new')",
]


def test_users_033_a_repl_may_define_and_redefine(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "repl.py"
    path.write_text(
        textwrap.dedent(
            f"""
            import code, sys
            names = vars(sys.modules["__main__"])
            console = code.InteractiveConsole(names)
            for cell in {CELLS!r}:
                for line in [*cell.splitlines(), ""]:
                    is_unfinished = console.push(line)
                assert not is_unfinished
            """
        )
    )
    out, err = run_python(str(path))
    assert (out.splitlines(), err) == (SAID, "")


def test_users_033_python_reading_a_terminal_may_too() -> None:
    out, err = run_python("-q", "-i", stdin="\n".join([*CELLS, ""]))
    assert out.splitlines() == SAID
    assert "Error" not in err


KERNEL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
sys.modules["__main__"] = shell.user_module
for cell in {cells!r}:
    shell.run_cell(cell, store_history=True).raise_error()
"""


def test_users_033_a_notebook_may_define_and_redefine(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL.format(cells=CELLS))
    out, err = run_python(str(path))
    assert (out.splitlines(), err) == (SAID, "")


# --- functions ----------------------------------------------------------------------------


def plus(x: int, y: int) -> int:
    return x + y


class Account:
    total = 7

    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, x: int) -> int:
        return self.start + x

    def __call__(self, x: int) -> int:
        return self.start * x

    @classmethod
    def of_class(cls, x: int) -> int:
        return cls.total + x

    @staticmethod
    def static(x: int) -> int:
        return x + 1


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs), "decorated"

    return wrapper


@decorated
def wrapped(x: int) -> int:
    return x


@functools.cache
def cached(x: int) -> int:
    return x * 3


def make_counter(step: int) -> Callable[[int], int]:
    def count(x: int) -> int:
        return x + step

    return count


FUNCTIONS: list[tuple[str, Any, Any]] = [
    ("lambda", lambda x: x * 2, 8),
    ("closure", make_counter(3), 7),
    ("partial", functools.partial(plus, 10), 14),
    ("bound method", Account(100).add, 104),
    ("class method", Account.of_class, 11),
    ("static method", Account.static, 5),
    ("callable object", Account(5), 20),
    ("decorated", wrapped, (4, "decorated")),
    ("cached", cached, 12),
    ("builtin", abs, 4),
    ("class", Account, None),
    ("C method", "{}!".format, "4!"),
]


@pytest.mark.parametrize(
    ("fn", "expected"), [each[1:] for each in FUNCTIONS], ids=[each[0] for each in FUNCTIONS]
)
def test_users_033_whatever_can_be_called_can_be_a_task(
    anywhere: str, fn: Any, expected: Any
) -> None:
    work = task(fn, name="work")

    @flow(task_runner=anywhere)
    def main() -> Any:
        value = work.submit(4).result()
        return value.add(1) == 5 if isinstance(value, Account) else value == expected

    assert main()


class Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    @task
    def add(self, x: int) -> int:
        return self.start + x

    @task
    @classmethod
    def name_of(cls, x: int) -> str:
        return f"{cls.__name__}{x}"

    @task
    @staticmethod
    def double(x: int) -> int:
        return 2 * x


def test_users_033_methods_that_are_tasks(anywhere: str) -> None:
    @flow(task_runner=anywhere)
    def main() -> Any:
        counter: Any = Counter(10)
        return (
            counter.add.submit(1).result(),
            counter.add.map([1, 2]).result(),
            counter.name_of.submit(3).result(),
            counter.double.submit(4).result(),
        )

    assert main() == (11, [11, 12], "Counter3", 8)


def test_users_033_a_task_may_use_a_task_of_its_surroundings(anywhere: str) -> None:
    @task
    def inner(x: int) -> int:
        return x + 1

    @task
    def outer(x: int) -> int:
        return inner(x) + inner.submit(x).result() + module_task(x) + inner.fn(x)

    @flow(task_runner=anywhere)
    def main() -> int:
        return outer.submit(1).result()

    assert main() == 2 + 2 + 100 + 2


@task
def module_task(x: int) -> int:
    return x * 100


def test_users_033_a_task_and_a_flow_as_arguments(anywhere: str) -> None:
    @flow
    def sub(x: int) -> int:
        return module_task(x)

    @task
    def apply(what: Any, also: Any, x: int) -> Any:
        return what(x), also(x), isinstance(what, Task)

    @flow(task_runner=anywhere)
    def main() -> Any:
        return apply.submit(module_task, sub, 2).result()

    assert main() == (200, 200, True)


def test_users_033_recursion_through_a_closure(anywhere: str) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    @flow(task_runner=anywhere)
    def main() -> int:
        return task(factorial).submit(10).result()

    assert main() == 3628800


def test_a_closure_that_changes_between_two_submits_is_seen(elsewhere: str) -> None:
    number = 1

    @task
    def ask() -> int:
        return number

    @flow(task_runner=elsewhere)
    def main() -> list[int]:
        nonlocal number
        seen = []
        for number in range(5):  # noqa: B007
            seen.append(ask.submit().result())
        return seen

    assert main() == [0, 1, 2, 3, 4]


def test_a_list_in_a_closure_that_changes_in_place_is_seen(elsewhere: str) -> None:
    numbers: list[int] = []

    @task
    def ask() -> int:
        return len(numbers)

    @flow(task_runner=elsewhere)
    def main() -> list[int]:
        seen = []
        for number in range(5):
            seen.append(ask.submit().result())
            numbers.append(number)
        return seen

    assert main() == [0, 1, 2, 3, 4]


# --- classes ------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    number: int
    parts: list[Row] = dataclasses.field(default_factory=list)


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(enum.Enum):
    RED = "red"


def test_users_033_classes_come_back_as_themselves(elsewhere: str) -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    @task
    def make(colour: Colour, local: Any) -> Any:
        assert colour is Colour.RED
        assert type(local) is Local
        return Row(1, [Row(2)]), Pair(1, Colour.RED), Local(local.x + 1)

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return make.submit(Colour.RED, Local(1)).result()

    row, pair, local = main()
    assert row == Row(1, [Row(2)])
    assert type(pair) is Pair
    assert pair.right is Colour.RED
    assert type(local) is Local
    assert local.x == 2


# --- modules that workers do not have -----------------------------------------------------

ODD_MODULE = """
from penstock import task

FACTOR = 3

class Thing:
    def __init__(self, x):
        self.x = x

def helper(thing):
    return Thing(thing.x * FACTOR)

@task
def work(thing):
    return helper(thing)
"""


@pytest.fixture
def loaded_from_a_file(tmp_path: pathlib.Path) -> Any:
    path = tmp_path / "odd_module.py"
    path.write_text(ODD_MODULE)
    spec = importlib.util.spec_from_file_location("odd_module", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["odd_module"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["odd_module"]


def test_users_038_a_module_loaded_from_a_file_goes_by_value(
    elsewhere: str, loaded_from_a_file: Any
) -> None:
    module = loaded_from_a_file

    @flow(task_runner=elsewhere)
    def main() -> Any:
        one = module.work.submit(module.Thing(2)).result()
        many = module.work.map([module.Thing(number) for number in range(3)]).result()
        return one, many

    one, many = main()
    assert type(one) is module.Thing
    assert one.x == 6
    assert [thing.x for thing in many] == [0, 3, 6]


def test_users_038_a_module_of_a_directory_that_workers_do_not_see_is_shipped(
    tmp_path: pathlib.Path,
) -> None:
    helpers = tmp_path / "shipped_helpers"
    helpers.mkdir()
    (helpers / "__init__.py").write_text("")
    (helpers / "deep.py").write_text(
        "import os\nimported_in = os.getpid()\ndef where():\n    return imported_in\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        deep: types.ModuleType = importlib.import_module("shipped_helpers.deep")
        runner = ProcessPoolTaskRunner(1, ship_modules=["shipped_helpers"])

        @task
        def ask() -> Any:
            return deep.where(), "shipped_helpers.deep" in sys.modules

        @flow(task_runner=runner)
        def main() -> Any:
            return task(deep.where, name="direct").submit().result(), ask.submit().result()

        direct, (asked, is_imported) = main()
        assert direct == os.getpid(), "what it defines has crossed, and was not imported there"
        assert asked == os.getpid()
        assert not is_imported
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("shipped_helpers", "shipped_helpers.deep"):
            sys.modules.pop(name, None)


def test_users_038_a_module_that_workers_cannot_import_fails_the_run_with_its_name(
    processes: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_in_the_driver.py").write_text(
        "import os, sys\n"
        f"if os.getpid() != {os.getpid()}:\n    import no_such_library\n"
        "def work():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("only_in_the_driver")

    @flow(task_runner=processes)
    def main() -> Any:
        future = task(module.work).submit()
        return future.exception(timeout=20), future.is_failed()

    try:
        error, is_failed = main()
    finally:
        del sys.modules["only_in_the_driver"]
    assert is_failed
    assert isinstance(error, ModuleNotFoundError)
    assert "no_such_library" in str(error)
    assert "function" in "".join(error.__notes__)
