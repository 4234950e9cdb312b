"""Promises of users' pains 13 and 14: exceptions from elsewhere are those that were raised.

And what cannot be pickled is named, fails its own run only, and never hangs.
"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from penstock import allow_failure, flow, task, unmapped
from penstock.exceptions import CrashedRun, RemoteTaskError, UpstreamTaskError

if TYPE_CHECKING:
    import pathlib

    from tests.flows.conftest import Log


class Refused(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why


class NeedsTwoArguments(Exception):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} and {second}")


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> Any:
        return functools.partial(KeywordOnly, code=self.code), ()


def refuse() -> None:
    try:
        raise KeyError("the key")
    except KeyError as cause:
        error = Refused(7, "no")
        error.add_note("a note")
        raise error from cause


def error_of(runner: str, fn: Any, *args: Any, **options: Any) -> BaseException:
    """Return what a function raises in a task on a runner."""
    failing = task(fn, name="failing", **options)

    @flow(task_runner=runner)
    def main() -> BaseException:
        future = failing.submit(*args)
        error: BaseException | None = future.exception(timeout=20)
        assert future.is_failed()
        assert error is not None
        return error

    return main()


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# --- exceptions that travel -----------------------------------------------------------------


def test_users_014_type_attributes_notes_and_causes_are_kept(anywhere: str) -> None:
    error = error_of(anywhere, refuse)
    assert type(error) is Refused
    assert (error.args, error.code, error.why) == ((7, "no"), 7, "no")
    assert error.__notes__[0] == "a note"
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == ("the key",)


def test_users_014_what_is_made_from_its_parts_is_whole(anywhere: str) -> None:
    def fail() -> None:
        raise KeywordOnly(code=3)

    error = error_of(anywhere, fail)
    assert type(error) is KeywordOnly
    assert error.code == 3


def test_users_014_the_context_is_kept_as_well(anywhere: str) -> None:
    def fail() -> None:
        try:
            raise LookupError("first")
        except LookupError:
            raise ValueError("second")  # noqa: B904  (no cause, on purpose)

    error = error_of(anywhere, fail)
    assert type(error.__context__) is LookupError
    assert not error.__suppress_context__
    assert "During handling of the above exception" in text_of(error)


def test_users_014_from_none_hides_the_context(anywhere: str) -> None:
    def fail() -> None:
        try:
            raise LookupError("hidden")
        except LookupError:
            raise ValueError("second") from None

    error = error_of(anywhere, fail)
    assert error.__suppress_context__
    assert "hidden" not in text_of(error)
    assert "in fail" in text_of(error)


def test_users_014_a_group_keeps_its_members(anywhere: str) -> None:
    def fail() -> None:
        errors: list[Exception] = [ValueError("v")]
        try:
            refuse()
        except Refused as error:
            errors.append(error)
        raise ExceptionGroup("several", errors)

    error = error_of(anywhere, fail)
    assert type(error) is ExceptionGroup
    value_error, refused = error.exceptions
    assert isinstance(value_error, ValueError)
    assert isinstance(refused, Refused)
    assert refused.code == 7
    assert isinstance(refused.__cause__, KeyError)
    with pytest.raises(ExceptionGroup):
        raise error


def test_users_014_the_traceback_shows_the_remote_frames_and_none_of_ours(elsewhere: str) -> None:
    def inner() -> None:
        raise ValueError("deep")

    def fail() -> None:
        inner()

    text = text_of(error_of(elsewhere, fail))
    assert "in fail" in text
    assert "in inner" in text
    assert '    raise ValueError("deep")' in text
    remote = text.partition("The above exception was the direct cause")[0]
    assert "penstock/worker" not in remote
    assert "process_pool" not in remote
    assert remote.count("  File ") == 2


def test_users_014_raised_again_from_the_future_it_shows_both_sides(elsewhere: str) -> None:
    def fail() -> None:
        raise ValueError("deep")

    failing = task(fail)

    @flow(task_runner=elsewhere)
    def main() -> None:
        failing.submit().result()

    with pytest.raises(ValueError, match="deep") as raised:
        main()
    text = text_of(raised.value)
    assert "in fail" in text
    assert "in main" in text
    assert text.count("RemoteTraceback") == 1


def test_users_014_the_log_shows_the_remote_traceback(elsewhere: str, log: Log) -> None:
    error_of(elsewhere, refuse)
    (line,) = [line for line in log.lines if "Task run failed with exception" in line]
    assert "in refuse" in line
    assert "'the key'" in line
    assert "process_pool" not in line


def test_users_014_the_message_of_the_state_is_the_same_everywhere() -> None:
    failing = task(refuse, name="failing")

    @flow
    def main() -> str:
        future = failing.submit()
        future.wait()
        return str(future.state)

    states = {
        runner: main.with_options(task_runner=runner)()
        for runner in ("inline", "thread", "process:2")
    }
    assert len(set(states.values())) == 1, states


def test_users_014_a_retry_condition_sees_the_original(anywhere: str) -> None:
    def again(task: Any, run: Any, state: Any) -> bool:
        error = state.exception()
        return isinstance(error, Refused) and error.code == 7

    assert type(error_of(anywhere, refuse, retries=2, retry_condition_fn=again)) is Refused


def test_users_014_an_upstream_failure_names_the_original(anywhere: str) -> None:
    failing, using = task(refuse, name="failing"), task(lambda x: x, name="using")

    @flow(task_runner=anywhere)
    def main() -> Any:
        failed = failing.submit()
        return using.submit(failed).exception(), using.submit(allow_failure(failed)).result()

    upstream, passed = main()
    assert isinstance(upstream, UpstreamTaskError)
    assert isinstance(upstream.__cause__, Refused)
    assert isinstance(passed, Refused)
    assert passed.code == 7


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_of_the_work_does_not_end_the_worker(
    elsewhere: str, kind: type[BaseException]
) -> None:
    @task(crash_retries=0)
    def end() -> None:
        raise kind(3)

    @task
    def pid() -> int:
        return os.getpid()

    @flow(task_runner=elsewhere.replace(":2", ":1"))
    def main() -> Any:
        before = pid.submit().result()
        future = end.submit()
        future.wait()
        return future.state, future.exception(), before == pid.submit().result()

    state, error, is_same = main()
    assert is_same
    if kind is KeyboardInterrupt:
        assert state.is_cancelled() or state.is_crashed()
    else:
        assert state.is_crashed()
        assert isinstance(error, CrashedRun)
        assert kind.__name__ in str(error)


# --- exceptions that do not -----------------------------------------------------------------


def needs_two() -> None:
    raise NeedsTwoArguments(1, 2)


def holds_a_lock() -> None:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # the point of this one
    raise error


def known_to_the_worker_only() -> None:
    import types

    module = types.ModuleType("only_there")
    exec("class OnlyThere(Exception):\n  pass", vars(module))
    sys.modules["only_there"] = module
    raise module.OnlyThere("far away")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def speechless() -> None:
    raise Speechless


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (needs_two, "NeedsTwoArguments: 1 and 2"),
        (holds_a_lock, "ValueError: with a lock"),
        (known_to_the_worker_only, "only_there.OnlyThere: far away"),
    ],
)
def test_users_014_what_cannot_travel_is_told_by_type_text_and_traceback(
    elsewhere: str, fn: Any, named: str
) -> None:
    error = error_of(elsewhere, fn)
    assert isinstance(error, RemoteTaskError)
    assert named in str(error)
    assert f"in {fn.__name__}" in text_of(error)


def test_users_014_an_exception_that_has_no_words_fails_its_run(anywhere: str) -> None:
    @task
    def fine() -> int:
        return 1

    failing = task(speechless)

    @flow(task_runner=anywhere)
    def main() -> Any:
        future = failing.submit()
        future.wait(20)
        return future.is_failed(), fine.submit().result()

    assert main() == (True, 1)


def test_users_014_a_bad_cause_does_not_spoil_a_good_exception(elsewhere: str) -> None:
    def fail() -> None:
        try:
            needs_two()
        except NeedsTwoArguments as cause:
            raise Refused(1, "because") from cause

    error = error_of(elsewhere, fail)
    assert isinstance(error, Refused)
    assert "NeedsTwoArguments: 1 and 2" in text_of(error)


# --- what cannot be pickled -----------------------------------------------------------------


class Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()


class Connection:
    def __init__(self) -> None:
        self.pool = Pool()


WHY = "cannot pickle '_thread.lock' object"


def load(table: str, conn: object = None) -> str:
    return table


def test_users_013_an_argument_that_cannot_be_pickled_is_named(elsewhere: str) -> None:
    error = error_of(elsewhere, load, "t", Connection())
    assert type(error) is TypeError
    assert str(error) == f"argument 'conn' -> .pool -> ._lock: {WHY}"


def test_users_013_the_state_says_it_and_the_log_names_the_run(elsewhere: str, log: Log) -> None:
    @flow(task_runner=elsewhere)
    def main() -> str:
        future = task(load).submit("t", conn=Connection())
        future.wait()
        return str(future.state)

    text = f"argument 'conn' -> .pool -> ._lock: {WHY}"
    assert main() == f"Failed({f'Task run encountered an exception TypeError: {text}'!r})"
    assert any("'load-0'" in line and text in line for line in log.lines)


def test_users_013_a_closure_that_cannot_be_pickled_is_named(elsewhere: str) -> None:
    lock = threading.Lock()

    def guarded() -> bool:
        return lock.locked()

    error = error_of(elsewhere, guarded)
    assert type(error) is TypeError
    assert "guarded" in str(error)
    assert f"closure 'lock': {WHY}" in str(error)


A_LOCK = threading.Lock()


def test_users_013_a_global_that_cannot_be_pickled_is_named(elsewhere: str) -> None:
    def guarded() -> bool:
        return A_LOCK.locked()

    assert f"global 'A_LOCK': {WHY}" in str(error_of(elsewhere, guarded))


def test_users_013_a_result_that_cannot_be_pickled_is_named(elsewhere: str) -> None:
    def give() -> Any:
        return [1, {"conn": Connection()}]

    error = error_of(elsewhere, give)
    assert type(error) is TypeError
    assert str(error) == f"result -> [1] -> ['conn'] -> .pool -> ._lock: {WHY}"


@pytest.mark.parametrize("where", ["position", "keyword"])
def test_users_013_a_constant_of_a_map_that_cannot_be_pickled_is_named(
    elsewhere: str, where: str
) -> None:
    @flow(task_runner=elsewhere)
    def main() -> list[Any]:
        bad = unmapped(Connection())
        loading = task(load)
        futures = (
            loading.map(["a", "b"], bad)
            if where == "position"
            else loading.map(["a", "b"], conn=bad)
        )
        futures.wait(20)
        return [future.exception() for future in futures]

    for error in main():
        assert type(error) is TypeError
        assert str(error) == f"argument 'conn' -> .pool -> ._lock: {WHY}"


def test_users_013_one_bad_item_of_a_map_hurts_that_item_only(elsewhere: str) -> None:
    @flow(task_runner=elsewhere)
    def main() -> Any:
        conns = [Connection() if number == 3 else number for number in range(8)]
        futures = task(load).map([str(number) for number in range(8)], conns)
        futures.wait(20)
        return [future.is_failed() for future in futures]

    assert main() == [number == 3 for number in range(8)]


class Explosive:
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise RuntimeError("exploded")


def test_users_013_what_cannot_be_unpickled_in_the_worker_fails_its_run(elsewhere: str) -> None:
    error = error_of(elsewhere, load, "t", Explosive())
    assert type(error) is RuntimeError
    assert "arguments" in "".join(error.__notes__)


def test_users_013_a_result_that_cannot_be_unpickled_here_is_told_to_who_asks(
    elsewhere: str,
) -> None:
    @task
    def give() -> Any:
        return Explosive()

    @task
    def fine() -> int:
        return 1

    @flow(task_runner=elsewhere)
    def main() -> int:
        future = give.submit()
        with pytest.raises(RuntimeError, match="exploded"):
            future.result(timeout=20)
        return fine.submit().result()

    assert main() == 1


def test_users_013_such_a_result_as_an_input_fails_the_run_that_needs_it(elsewhere: str) -> None:
    @task
    def give() -> Any:
        return Explosive()

    @flow(task_runner=elsewhere)
    def main() -> Any:
        future = task(load).submit(give.submit())
        future.wait(20)
        return future.is_failed(), str(future.exception())

    is_failed, text = main()
    assert is_failed
    assert "exploded" in text


def test_users_013_retries_of_what_cannot_be_pickled_end(elsewhere: str) -> None:
    error = error_of(elsewhere, load, "t", Connection(), retries=2)
    assert type(error) is TypeError


def test_users_013_the_flow_goes_on_after_each_of_them(elsewhere: str) -> None:
    @flow(task_runner=elsewhere)
    def main() -> list[str]:
        loading = task(load)
        for _ in range(20):
            for bad in (Connection(), Explosive()):
                assert loading.submit("bad", bad).exception(timeout=20) is not None
        return loading.map([str(number) for number in range(20)]).result()

    assert main() == [str(number) for number in range(20)]


# --- scripts --------------------------------------------------------------------------------

SCRIPT = """
from penstock import flow, task

class OfMain(Exception):
    def __init__(self, code, *, more=None):
        super().__init__(code)
        self.code, self.more = code, more

@task
def fail():
    error = OfMain(3)
    error.more = [OfMain(4)]
    raise error

@flow(task_runner="process:1")
def main():
    fail.submit().result()

try:
    main()
except OfMain as error:
    print(type(error) is OfMain, error.code, error.more[0].code, type(error.more[0]) is OfMain)
"""


def test_users_014_classes_of_a_script_are_those_of_the_script(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PENSTOCK_LOGGING_LEVEL": "CRITICAL"},
    )
    assert (done.stdout, done.stderr) == ("True 3 4 True\n", "")


def test_an_error_from_elsewhere_can_be_pickled_again(elsewhere: str) -> None:
    error = error_of(elsewhere, refuse)
    again = pickle.loads(pickle.dumps(error.__cause__))
    assert type(again) is KeyError
