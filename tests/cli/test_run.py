"""Promises of `penstock run` and of the commands beside it: targets, parameters, exit codes."""

from __future__ import annotations

import datetime
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
from typing import TYPE_CHECKING

import cloudpickle
import pytest
from typer.testing import CliRunner

import penstock
from penstock.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

PENSTOCK = [sys.executable, "-m", "penstock"]
COMPLETED, FAILED, USED_WRONGLY, INTERRUPTED = 0, 1, 2, 130
LONGEST_WAIT_SECONDS = 20.0
"""For the start of a process: only a test that fails waits so long."""

HEAD = "from penstock import flow, get_run_logger, task\n"


@pytest.fixture(autouse=True)
def a_clean_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what running a file leaves behind, and work where no project's file is found."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    return path


def penstock_run(*words: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["run", *map(str, words)])


def as_process(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PENSTOCK, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT_SECONDS,
        env={**os.environ, **environment},
        check=False,
    )


ONE_FLOW = """
    @flow
    def greet(name: str = "world") -> None:
        print("hello", name)
"""

TWO_FLOWS = """
    @flow
    def first_flow() -> None:
        print("this is the first")

    @flow(name="The Second")
    def second_flow() -> None:
        print("this is the second")
"""


# --- what a target means -----------------------------------------------------------------


def test_a_file_with_one_flow_needs_no_name(tmp_path: Path) -> None:
    result = penstock_run(write(tmp_path / "one.py", ONE_FLOW))
    assert (result.exit_code, "hello world" in result.output) == (COMPLETED, True)


def test_a_flow_that_a_file_imports_is_not_one_that_it_defines(tmp_path: Path) -> None:
    write(tmp_path / "theirs.py", TWO_FLOWS)
    target = write(tmp_path / "mine.py", "from theirs import first_flow, second_flow\n" + HEAD)
    target.write_text(target.read_text() + textwrap.dedent(ONE_FLOW))
    assert "hello world" in penstock_run(target).output


@pytest.mark.parametrize(
    "name", ["second_flow", "The Second"], ids=["by its function", "by its own name"]
)
def test_a_flow_is_chosen_by_name(tmp_path: Path, name: str) -> None:
    result = penstock_run(f"{write(tmp_path / 'two.py', TWO_FLOWS)}:{name}")
    assert (result.exit_code, "this is the second" in result.output) == (COMPLETED, True)


def test_with_several_flows_and_no_name_the_error_lists_them(tmp_path: Path) -> None:
    target = write(tmp_path / "two.py", TWO_FLOWS)
    result = penstock_run(target)
    assert result.exit_code == USED_WRONGLY
    assert f"{target}:first_flow\n  {target}:second_flow" in result.output


def test_an_unknown_flow_is_refused_with_those_there_are(tmp_path: Path) -> None:
    result = penstock_run(f"{write(tmp_path / 'two.py', TWO_FLOWS)}:third")
    assert result.exit_code == USED_WRONGLY
    assert "no flow 'third'; there are: first_flow, second_flow" in result.output


def test_a_file_without_a_flow_is_refused(tmp_path: Path) -> None:
    result = penstock_run(write(tmp_path / "none.py", "x = 1\n"))
    assert (result.exit_code, "defines no flow" in result.output) == (USED_WRONGLY, True)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("nowhere.py:greet", "there is no file nowhere.py"),
        ("no/where", "there is no file no/where"),
        (".", "no name of a module"),
        ("no_such_module:greet", "no module 'no_such_module'"),
        ("penstock.no_such_module:greet", "no module 'penstock.no_such_module'"),
    ],
)
def test_what_is_not_there_is_refused(target: str, words: str) -> None:
    result = penstock_run(target)
    assert result.exit_code == USED_WRONGLY
    assert words in result.output


def test_no_target_is_refused() -> None:
    result = penstock_run()
    assert (result.exit_code, "which flow?" in result.output) == (USED_WRONGLY, True)


def test_a_flow_in_a_module_of_the_working_directory(tmp_path: Path) -> None:
    write(tmp_path / "some_package/__init__.py", "")
    write(tmp_path / "some_package/jobs.py", TWO_FLOWS)
    result = penstock_run("some_package.jobs:first_flow")
    assert (result.exit_code, "this is the first" in result.output) == (COMPLETED, True)


# --- how a file is loaded ----------------------------------------------------------------


def test_the_main_block_does_not_run_and_neighbours_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/neighbour_of_main.py").write_text("WORD = 'next door'\n")
    text = """
        import sys
        from neighbour_of_main import WORD

        @flow
        def greet() -> None:
            print(WORD, sys.path[0], __name__)

        if __name__ == "__main__":
            raise AssertionError("the main block ran")
    """
    result = penstock_run(write(tmp_path / "folder/with_main.py", text))
    assert f"next door {tmp_path / 'folder'} with_main" in result.output


WITH_A_TASK = """
    def twice(x: int) -> int:
        return 2 * x

    @task
    def double(x: int) -> int:
        return twice(x)

    @flow
    def doubling() -> int:
        return double.submit(4).result()
"""


def unpickle_elsewhere(pickled: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Call a pickled function in another process, as a worker with the driver's path does."""
    return subprocess.run(
        [sys.executable, "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer)(21))"],
        input=pickled,
        capture_output=True,
        timeout=LONGEST_WAIT_SECONDS,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
    )


def test_what_a_file_defines_travels_to_workers_by_its_name(tmp_path: Path) -> None:
    assert penstock_run(write(tmp_path / "by_name.py", WITH_A_TASK)).exit_code == COMPLETED
    assert pickle.loads(pickle.dumps(sys.modules["by_name"].twice)) is sys.modules["by_name"].twice
    done = unpickle_elsewhere(cloudpickle.dumps(sys.modules["by_name"].double.fn), tmp_path)
    assert (done.stdout, done.stderr) == (b"42\n", b"")


@pytest.mark.parametrize("name", ["taken.py", "my-flow.py"], ids=["taken", "no identifier"])
def test_functions_travel_by_value_where_no_worker_would_find_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    taken = types.ModuleType("taken")
    monkeypatch.setitem(sys.modules, "taken", taken)
    assert penstock_run(write(tmp_path / name, WITH_A_TASK)).exit_code == COMPLETED
    assert sys.modules["taken"] is taken
    module = sys.modules[f"{name.removesuffix('.py').replace('-', '_')}_1"]
    done = unpickle_elsewhere(cloudpickle.dumps(module.double.fn), tmp_path / "elsewhere")
    assert (done.stdout, done.stderr) == (b"42\n", b"")


def test_a_file_that_cannot_be_loaded_shows_its_own_traceback_only(tmp_path: Path) -> None:
    target = write(tmp_path / "broken.py", "def load():\n    raise OSError('no disk')\nload()\n")
    result = penstock_run(target)
    assert result.exit_code == FAILED
    files = re.findall(r'File "([^"]+)"', result.output)
    assert set(files) == {str(target)}
    assert result.output.endswith("OSError: no disk\npenstock: broken.py could not be loaded\n")


def test_an_import_that_fails_in_a_module_is_not_taken_for_a_wrong_target(tmp_path: Path) -> None:
    write(tmp_path / "needs_more.py", "import no_such_library\n")
    result = penstock_run("needs_more:greet")
    assert (result.exit_code, "no_such_library" in result.output) == (FAILED, True)


# --- parameters --------------------------------------------------------------------------

KINDS = """
    import dataclasses, datetime, enum
    from pathlib import Path
    from typing import Any, Literal

    class Colour(enum.Enum):
        RED = 1
        BLUE = 2

    @dataclasses.dataclass
    class Box:
        wide: int
        high: int = 0

    @flow
    def all_kinds(
        whole: int = 0, maybe: int | None = 3, text: str | None = None, many: list[int] = [],
        table: dict[str, float] = {}, flag: bool = False, no_cache: bool = False,
        choice: Literal["a", 7] = "a", colour: Colour = Colour.RED, path: Path = Path("."),
        day: datetime.date | None = None, box: Box | None = None, like_a_number=5,
        like_a_tuple=(), anything: Any = None, from_: str = "", retries: int = 0, **more: Any,
    ) -> None:
        values = dict(locals())
        print({name: value for name, value in values.items() if value != DEFAULTS.get(name)})

    DEFAULTS = {
        name: each.default for name, each in all_kinds.signature.parameters.items()
    } | {"more": {}}
"""


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", "{}"),
        ("--whole 3", "{'whole': 3}"),
        ("--whole=-3", "{'whole': -3}"),
        ("--whole -3", "{'whole': -3}"),
        ("--maybe none", "{'maybe': None}"),
        ("--text 5 --many 4", "{'text': '5', 'many': [4]}"),
        ("--text=--flag", "{'text': '--flag'}"),
        ("--many 1 --many 2", "{'many': [1, 2]}"),
        ("--many [1,2]", "{'many': [1, 2]}"),
        ('--table {"a":1}', "{'table': {'a': 1.0}}"),
        ("--flag", "{'flag': True}"),
        ("--flag --no-flag", "{}"),
        ("--flag=yes --no-cache", "{'flag': True, 'no_cache': True}"),
        ("--no_cache", "{'no_cache': True}"),
        ("--choice 7", "{'choice': 7}"),
        ("--colour BLUE", "{'colour': <Colour.BLUE: 2>}"),
        ("--colour 2", "{'colour': <Colour.BLUE: 2>}"),
        ("--path /tmp", "{'path': PosixPath('/tmp')}"),
        ("--day 2026-01-05", "{'day': datetime.date(2026, 1, 5)}"),
        ('--box {"wide":"2"}', "{'box': Box(wide=2, high=0)}"),
        ("--like-a-number 7", "{'like_a_number': 7}"),
        ("--like-a-tuple x", "{'like_a_tuple': ('x',)}"),
        ("--anything 7", "{'anything': '7'}"),
        ("--from here", "{'from_': 'here'}"),
        ("--other 7", "{'more': {'other': '7'}}"),
        ("-- --retries 7", "{'retries': 7}"),
    ],
)
def test_words_become_values_by_the_flows_annotations(
    tmp_path: Path, words: str, values: str
) -> None:
    result = penstock_run(write(tmp_path / "kinds.py", KINDS), *words.split())
    assert result.exit_code == COMPLETED, result.output
    assert f"\n{values}\n" in f"\n{result.stdout}"


NEEDS = """
    @flow
    def needy(day: str, limit: int = 3, tables: dict[str, int] = {}) -> None:
        '''Do what must be done.

        Args:
            day: Which day, in
                so many words.
            limit: How much.
        '''
        print("ran")
"""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "flow 'needy' needs --day"),
        ("--day", "--day needs a value"),
        ("--day --limit 3", "--day needs a value"),
        ("--day x --dya y", "there is no parameter --dya"),
        ("--day x --no-limit", "there is no parameter --no-limit"),
        ("--day x y", "'y' belongs to nothing"),
        ("--day x --day y", "--day is given 2 times"),
        ("--day x --limit many", "parameter 'limit': Input should be a valid integer"),
        ("--day x --tables y", "--tables takes JSON"),
    ],
)
def test_a_wrong_parameter_is_refused_with_those_there_are(
    tmp_path: Path, words: str, complaint: str
) -> None:
    result = penstock_run(write(tmp_path / "needs.py", NEEDS), *words.split())
    assert result.exit_code == USED_WRONGLY
    assert f"penstock: {complaint}" in result.output.replace("flow 'needy', ", "")
    assert re.search(r"--day TEXT +Which day, in so many words\. \[required\]", result.output)
    assert re.search(r"--limit INT +How much\. \[default: 3\]", result.output)
    assert "ran" not in result.stdout
    assert "Created flow run" not in result.output


def test_help_shows_the_flow_and_does_not_run_it(tmp_path: Path) -> None:
    result = penstock_run(write(tmp_path / "needs.py", NEEDS), "--help")
    assert result.exit_code == COMPLETED
    assert "Do what must be done." in result.output
    assert re.search(r"--limit INT +How much\. \[default: 3\]", result.output)
    assert "--runner" in result.output
    assert "ran" not in result.output.split()


def test_help_without_a_target_shows_the_command() -> None:
    result = penstock_run("--help")
    assert (result.exit_code, "--tag-limit" in result.output) == (COMPLETED, True)


# --- options -----------------------------------------------------------------------------


def test_a_task_runner_of_the_command_line_goes_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TASK_RUNNER", "thread:2")
    target = write(tmp_path / "runs.py", WITH_A_TASK)
    result = penstock_run(target, "--runner", "inline", "--log-level", "DEBUG")
    head = "Task runner inline (in the calling thread, one at a time): given with the call"
    assert head in result.output


@pytest.mark.parametrize("where", ["option", "environment"])
def test_an_unknown_task_runner_is_refused_before_the_flow_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    words = ["--runner", "steam"] if where == "option" else []
    if where == "environment":
        monkeypatch.setenv("PENSTOCK_TASK_RUNNER", "steam")
    result = penstock_run(write(tmp_path / "runs.py", WITH_A_TASK), *words)
    assert result.exit_code == USED_WRONGLY
    assert "no task runner is called 'steam'" in result.output
    assert "thread" in result.output
    assert "Created flow run" not in result.output


def test_a_tag_limit_holds(tmp_path: Path) -> None:
    text = """
        import threading, time

        running, most = 0, 0
        lock = threading.Lock()

        @task(tags=["db"])
        def query(_: int) -> None:
            global running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1

        @flow(task_runner="thread:8", tag_limits={"db": 8})
        def querying() -> None:
            query.map(range(12)).wait()
            print("most", most)
    """
    target = write(tmp_path / "limited.py", text)
    assert "most 2\n" in penstock_run(target, "--tag-limit", "db=2").stdout


def test_stored_results_are_made_anew_by_the_name_of_a_task_or_a_tag(tmp_path: Path) -> None:
    text = """
        from penstock.cache_policies import INPUTS

        @task(cache_policy=INPUTS, tags=["db"])
        def query(x: int = 1) -> int:
            return x

        @task(cache_policy=INPUTS)
        def load(x: int = 1) -> int:
            return x

        @flow
        def nightly() -> None:
            print(query(return_state=True).name, load(return_state=True).name)
    """
    target = write(tmp_path / "refreshed.py", text)
    assert "Completed Completed\n" in as_process("run", target).stdout
    assert "Cached Cached\n" in as_process("run", target).stdout
    assert "Cached Completed\n" in as_process("run", target, "--refresh", "load").stdout
    assert "Completed Cached\n" in as_process("run", target, "--refresh", "db").stdout


def test_retries_of_the_command_line_are_the_flows(tmp_path: Path) -> None:
    text = """
        attempts = []

        @flow
        def flaky() -> None:
            attempts.append(1)
            if len(attempts) < 3:
                raise ValueError("not yet")
            print("attempt", len(attempts))
    """
    result = penstock_run(write(tmp_path / "flaky.py", text), "--retries", "2")
    assert (result.exit_code, "attempt 3\n" in result.stdout) == (COMPLETED, True)


def test_a_flow_waits_for_the_time_it_is_given(tmp_path: Path) -> None:
    start = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.3)
    target = write(
        tmp_path / "later.py",
        "import time\n@flow\ndef late() -> None:\n    print('at', time.time())\n",
    )
    result = penstock_run(target, "--at", start.isoformat())
    began = float(result.stdout.rpartition("at ")[2])
    assert start.timestamp() <= began < start.timestamp() + 5


def test_the_log_level_is_that_of_the_run(tmp_path: Path) -> None:
    result = penstock_run(write(tmp_path / "one.py", ONE_FLOW), "--log-level", "error")
    assert result.output == "hello world\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--at tomorrow", "--at takes a time such as"),
        ("--tag-limit db", "--tag-limit takes TAG=N"),
        ("--tag-limit db=0", "--tag-limit takes TAG=N"),
        ("--log-level LOUD", "logging_level"),
        ("--retries -1", "--retries"),
        ("--retries many", "--retries"),
    ],
)
def test_an_option_with_an_impossible_value_is_refused(
    tmp_path: Path, words: str, complaint: str
) -> None:
    result = penstock_run(write(tmp_path / "one.py", ONE_FLOW), *words.split())
    assert result.exit_code == USED_WRONGLY
    assert complaint in result.output
    assert "hello" not in result.output


# --- how it went -------------------------------------------------------------------------


def test_a_failure_is_one_line_after_the_log_that_has_its_traceback(tmp_path: Path) -> None:
    text = """
        @flow
        def failing() -> None:
            raise ValueError("wrong\\nin two lines")
    """
    done = as_process("run", write(tmp_path / "failing.py", text))
    assert done.returncode == FAILED
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.endswith("\npenstock: flow 'failing' did not complete: ValueError: wrong\n")


@pytest.mark.parametrize("body", ["async def", "def"])
@pytest.mark.parametrize("ending", ["return None", "yield 1"], ids=["function", "generator"])
def test_flows_of_every_kind_run_to_their_end(tmp_path: Path, body: str, ending: str) -> None:
    text = f"@flow\n{body} of_a_kind():\n    {ending}\n"
    done = as_process("run", write(tmp_path / "kind.py", text))
    assert done.returncode == COMPLETED
    assert "Finished in state Completed()" in done.stderr


def test_a_flow_that_leaves_the_process_does_so_with_its_own_code(tmp_path: Path) -> None:
    text = "import sys\n@flow\ndef leaving():\n    sys.exit(7)\n"
    assert as_process("run", write(tmp_path / "leaving.py", text)).returncode == 7


# --- Ctrl-C ------------------------------------------------------------------------------


class Interrupted:
    """A `penstock run` in a process group of its own, on which Ctrl-C can be pressed."""

    def __init__(self, target: Path, *words: str) -> None:
        # A shell's background jobs ignore Ctrl-C, and what they start inherits that: these
        # tests may be such a job.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [*PENSTOCK, "run", str(target), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def wait_until_it_says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def press_ctrl_c(self) -> None:
        self.pressed_at = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)

    def log_at_the_end(self) -> str:
        _, log = self.process.communicate(timeout=LONGEST_WAIT_SECONDS)
        self.seconds = time.monotonic() - self.pressed_at
        return log


@pytest.mark.parametrize(
    ("call", "task_states"),
    [
        ("naps = nap.map([60, 60, 60]); say(); naps.wait()", 3),
        ("nap(60, aloud=True)", 1),
        ("say(); time.sleep(60)", 0),
    ],
    ids=["submitted tasks", "a direct call", "the flow's own code"],
)
def test_ctrl_c_cancels_everything_soon_and_without_a_traceback(
    tmp_path: Path, call: str, task_states: int
) -> None:
    text = f"""
        import time

        def say() -> None:
            print("ready", flush=True)

        @task
        def nap(seconds: float, aloud: bool = False) -> None:
            if aloud:
                say()
            time.sleep(seconds)

        @flow
        def sleeping() -> None:
            {call}
    """
    run = Interrupted(write(tmp_path / "sleeping.py", text))
    run.wait_until_it_says("ready")
    run.press_ctrl_c()
    log = run.log_at_the_end()
    assert run.process.returncode == INTERRUPTED
    assert run.seconds < 3
    assert "Traceback" not in log
    assert len(re.findall(r"Task run 'nap-\d' - Finished in state Cancelled", log)) == task_states
    assert "Finished in state Cancelled('interrupted by Ctrl-C')" in log
    assert log.endswith("penstock: interrupted by Ctrl-C\n")


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    text = """
        import time

        @flow
        def clinging() -> None:
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("cleaning up", flush=True)
                time.sleep(60)
    """
    run = Interrupted(write(tmp_path / "clinging.py", text))
    run.wait_until_it_says("ready")
    run.press_ctrl_c()
    run.wait_until_it_says("cleaning up")
    run.press_ctrl_c()
    log = run.log_at_the_end()
    assert run.process.returncode == INTERRUPTED
    assert run.seconds < 1
    assert "Traceback" not in log


# --- the other commands ------------------------------------------------------------------


def test_version_says_which() -> None:
    result = CliRunner().invoke(app, ["version"])
    assert result.output.startswith(f"penstock {penstock.__version__} on ")


def test_runners_are_listed_with_where_they_are_from() -> None:
    result = CliRunner().invoke(app, ["runners"])
    assert result.exit_code == COMPLETED
    assert re.search(rf"inline +penstock {penstock.__version__} +penstock_runners\.", result.output)
    assert "'thread' (the default)" in result.output


def test_a_runner_that_cannot_be_loaded_is_listed_with_how_to_install_it(tmp_path: Path) -> None:
    folder = tmp_path / "steam-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: steam\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[penstock.task_runners]\nsteam = no_such_steam:SteamTaskRunner\n"
    )
    done = as_process("runners", PYTHONPATH=str(tmp_path), COLUMNS="200")
    assert done.returncode == COMPLETED
    line = next(line for line in done.stdout.splitlines() if line.startswith("steam"))
    assert "steam 1.0" in line
    assert "cannot be loaded: No module named 'no_such_steam'" in line
    assert "pip install" in line
