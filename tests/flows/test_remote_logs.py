"""Promises of users' pain 15: what is logged or printed in a worker elsewhere comes home.

Every record of any logger, in order, with its run and its worker, also the last before a death.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.logging import TextFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Log

USERS = "somebodys.library"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, log: Log) -> Iterator[Callable[[], list[Any]]]:
    """Return the records that are not the engine's own, in order."""
    caplog.set_level(logging.INFO)
    caplog.handler.setLevel(logging.NOTSET)
    users = logging.getLogger(USERS)

    def read() -> list[Any]:
        own = ("penstock.flow_runs", "penstock.engine", "asyncio")
        kept = [record for record in caplog.records if record.name not in own]
        return [one for one in kept if not one.getMessage().startswith(("Finished", "Attempt"))]

    yield read
    users.setLevel(logging.NOTSET)


def texts(records: list[Any]) -> list[str]:
    return [record.getMessage() for record in records]


# --- the records --------------------------------------------------------------------------


def test_users_015_records_of_every_logger_come_home_in_order(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk(rounds: int) -> None:
        logger = get_run_logger()
        for number in range(rounds):
            logging.getLogger(USERS).info("library %d", number)
            logger.warning("run %d", number)
            logging.getLogger("somebodys").error("parent %d", number)
            logging.warning("root %d", number)

    @flow(task_runner=anywhere)
    def main() -> None:
        talk.submit(20).result()

    main()
    assert texts(said()) == [
        f"{who} {number}" for number in range(20) for who in ("library", "run", "parent", "root")
    ]
    assert [record.name for record in said()[:4]] == [
        USERS,
        "penstock.task_runs",
        "somebodys",
        "root",
    ]


def test_users_015_a_record_names_its_run_its_task_and_its_worker(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task(tags=["own"])
    def talk() -> tuple[int, str]:
        logging.getLogger(USERS).info("library")
        get_run_logger().info("run")
        return os.getpid(), threading.current_thread().name

    @flow(task_runner=elsewhere, flow_run_name="the-flow")
    def main() -> Any:
        future = talk.submit()
        return future.result(), future.task_run_id

    (pid, thread_name), run_id = main()
    records = said()
    assert texts(records) == ["library", "run"]
    for record in records:
        assert record.task_run_name == "talk-0"
        assert record.task_name == "talk"
        assert record.flow_run_name == "the-flow"
        assert record.flow_name == "main"
        assert str(record.task_run_id) == str(run_id)
        assert record.tags == {"own"}
        assert record.worker
        assert record.processName == record.worker
        assert record.process == pid
        assert record.threadName == thread_name


def test_users_015_a_record_tells_where_it_was_made_and_when(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        logging.getLogger(USERS).info("%s and %d", "text", 3, stack_info=True)

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.submit().result()

    main()
    (record,) = said()
    assert record.getMessage() == "text and 3"
    assert record.funcName == "talk"
    assert record.filename == os.path.basename(__file__)
    assert record.lineno == talk.fn.__code__.co_firstlineno + 2
    assert record.levelname == "INFO"
    assert record.stack_info.splitlines()[-1].strip().startswith("logging.getLogger(USERS).info")
    later = logging.makeLogRecord({}).created
    assert 0 <= later - record.created < 60


def test_users_015_a_line_reads_as_if_it_had_been_written_here(
    anywhere: str, log: Log, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        get_run_logger().info("hello")

    @flow(task_runner=anywhere)
    def main() -> None:
        talk.submit().result()

    main()
    assert "INFO    | Task run 'talk-0' - hello" in log.lines


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_users_015_a_worker_is_as_talkative_as_the_drivers_loggers(
    anywhere: str, caplog: pytest.LogCaptureFixture, said: Callable[[], list[Any]], level: int
) -> None:
    caplog.set_level(logging.WARNING)
    caplog.handler.setLevel(logging.NOTSET)
    logging.getLogger(USERS).setLevel(level)

    @task
    def talk() -> list[bool]:
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        for each in levels:
            logging.getLogger(USERS).log(each, "users %d", each)
            logging.getLogger("other").log(each, "other %d", each)
        return [logging.getLogger(USERS).isEnabledFor(each) for each in levels]

    @flow(task_runner=anywhere)
    def main() -> list[bool]:
        return talk.submit().result()

    # A worker that others use, too, is not made quieter than it was.
    least = min(level, logging.WARNING) if anywhere.startswith("dask") else level
    assert main() == [each >= least for each in (10, 20, 30, 40)], "what is too low is not made"
    assert texts(said()) == [
        f"{who} {each}"
        for each in (10, 20, 30, 40)
        for who, least in (("users", level), ("other", 30))
        if each >= least
    ]


def test_users_015_a_level_that_changes_between_two_flows_is_followed(
    elsewhere: str, caplog: pytest.LogCaptureFixture, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        logging.getLogger(USERS).debug("debug")
        logging.getLogger(USERS).warning("warning")

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.submit().result()

    heard = []
    for level in (logging.DEBUG, logging.ERROR, logging.NOTSET):
        logging.getLogger(USERS).setLevel(level)
        caplog.clear()
        main()
        heard.append(texts(said()))
    assert heard == [["debug", "warning"], [], ["warning"]], "without one, the root logger's counts"


def test_users_015_an_exception_is_told_as_text_without_our_frames(
    elsewhere: str, log: Log, said: Callable[[], list[Any]]
) -> None:
    class Local(Exception):
        def __init__(self, needed: object) -> None:
            super().__init__("of the worker's")

    def fail() -> None:
        raise Local(1)

    @task
    def talk() -> None:
        try:
            fail()
        except Local:
            get_run_logger().exception("it failed")

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.submit().result()

    main()
    (record,) = said()
    line = TextFormatter().format(record)
    assert "it failed\nTraceback (most recent call last):" in line
    assert line.count("in fail") == 1
    assert line.endswith("Local: of the worker's")
    assert "penstock" not in line.partition("Traceback")[2].replace(__file__, "")


def test_users_015_extra_fields_come_along_and_what_cannot_be_pickled_as_its_repr(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        lock = threading.Lock()
        logging.getLogger(USERS).info("one", extra={"rows": [1, 2], "unit": {"m": 1}})
        get_run_logger().info("two", extra={"lock": lock, "rows": 3})

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.submit().result()

    main()
    one, two = said()
    assert (one.rows, one.unit) == ([1, 2], {"m": 1})
    assert two.rows == 3
    assert "lock" in two.lock
    assert two.task_run_name == "talk-0"


def test_users_015_a_record_that_cannot_be_made_hurts_nobody(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @task
    def talk() -> int:
        logging.raiseExceptions = False  # what it does by default goes to the worker's stderr
        logging.getLogger(USERS).info("%s", Mute())
        logging.raiseExceptions = True
        logging.getLogger(USERS).info("next")
        return 1

    @flow(task_runner=elsewhere)
    def main() -> int:
        return talk.submit().result()

    assert main() == 1
    assert texts(said()) == ["next"]


def test_users_015_an_extra_that_cannot_be_loaded_here_hurts_nobody(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> int:
        import types

        module = types.ModuleType("only_in_the_worker")
        exec("class Thing:\n  pass", vars(module))
        sys.modules["only_in_the_worker"] = module
        logging.getLogger(USERS).info("first", extra={"thing": module.Thing()})
        logging.getLogger(USERS).info("second")
        return 1

    @flow(task_runner=elsewhere)
    def main() -> int:
        return talk.submit().result()

    assert main() == 1
    assert texts(said()) == ["first", "second"]
    assert "only_in_the_worker" in said()[0].extra_lost


def test_users_015_a_filter_that_raises_is_told_and_hurts_no_run(
    elsewhere: str, said: Callable[[], list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise LookupError("a broken filter")

    @task
    def talk() -> int:
        logging.getLogger(USERS).info("first")
        return 1

    @flow(task_runner=elsewhere)
    def main() -> int:
        return talk.submit().result()

    logging.getLogger(USERS).addFilter(refuse)
    try:
        assert main() == 1
    finally:
        logging.getLogger(USERS).removeFilter(refuse)
    assert "a broken filter" in capsys.readouterr().err


# --- who speaks ---------------------------------------------------------------------------


def test_users_015_threads_that_a_task_starts_are_heard_as_their_run(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        threads = [
            threading.Thread(target=logging.getLogger(USERS).info, args=("in %d", n), name=f"n{n}")
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
            thread.join()

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.submit().result()

    main()
    assert texts(said()) == ["in 0", "in 1", "in 2"]
    assert [record.threadName for record in said()] == ["n0", "n1", "n2"]
    assert {record.task_run_name for record in said()} == {"talk-0"}


def test_users_015_each_of_many_runs_is_heard_as_itself(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk(number: int) -> None:
        for part in range(3):
            logging.getLogger(USERS).info("%d.%d", number, part)

    @flow(task_runner=anywhere)
    def main() -> None:
        talk.map(range(40)).result()

    main()
    heard: dict[str, list[str]] = {}
    for record in said():
        heard.setdefault(record.getMessage().split(".")[0], []).append(record.getMessage())
    assert heard == {str(number): [f"{number}.{part}" for part in range(3)] for number in range(40)}


def test_users_015_each_record_of_a_map_carries_its_own_run(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    @task(task_run_name="item-{number}")
    def talk(number: int) -> None:
        logging.getLogger(USERS).info("%d", number)

    @flow(task_runner=elsewhere)
    def main() -> None:
        talk.map(range(40)).result()

    main()
    assert sorted(record.task_run_name for record in said()) == sorted(
        f"item-{record.getMessage()}" for record in said()
    )


def test_users_015_a_record_comes_while_its_task_still_runs(
    elsewhere: str, caplog: pytest.LogCaptureFixture, log: Log, tmp_path: Any
) -> None:
    caplog.set_level(logging.INFO)
    heard = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            (tmp_path / "heard").touch()
            heard.set()

    @task
    def talk(path: str) -> bool:
        import time

        logging.getLogger(USERS).info("now")
        deadline = time.monotonic() + 10
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.005)
        return os.path.exists(path)

    @flow(task_runner=elsewhere)
    def main() -> bool:
        return talk.submit(str(tmp_path / "heard")).result()

    listener = Listener()
    logging.getLogger(USERS).addHandler(listener)
    try:
        assert main()
    finally:
        logging.getLogger(USERS).removeHandler(listener)


def test_users_015_what_is_logged_while_arguments_are_unpickled_is_heard(
    elsewhere: str, said: Callable[[], list[Any]]
) -> None:
    class Noisy:
        def __reduce__(self) -> Any:
            return make_noise, ()

    @task
    def use(value: Any) -> Any:
        return value

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return use.submit(Noisy()).result()

    assert main() == 7
    assert texts(said()) == ["unpickled"]


def make_noise() -> int:
    logging.getLogger(USERS).info("unpickled")
    return 7


# --- prints -------------------------------------------------------------------------------


def test_users_015_prints_of_a_run_go_to_its_log_in_order(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task(log_prints=True)
    def talk() -> None:
        print("one", 1, sep="-")
        logging.getLogger(USERS).info("two")
        print("three\nlines", end="")
        print("not this", file=open(os.devnull, "w"))  # noqa: SIM115

    @flow(task_runner=anywhere)
    def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            talk.submit().result()

    main()
    assert texts(said()) == ["one-1", "two", "three\nlines"]
    assert [record.name for record in said()] == [
        "penstock.task_runs",
        USERS,
        "penstock.task_runs",
    ]


def test_users_015_log_prints_of_the_flow_counts_for_its_tasks(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task
    def talk() -> None:
        print("as the flow has it")

    @task(log_prints=False)
    def whisper() -> None:
        print("not logged", file=sys.stderr if anywhere == "inline" else None)

    @flow(task_runner=anywhere, log_prints=True)
    def main() -> None:
        talk.submit().result()
        whisper.submit().result()

    main()
    assert texts(said()) == ["as the flow has it"]


def test_users_015_prints_of_a_coroutine_are_logged_too(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task(log_prints=True)
    async def talk() -> None:
        import asyncio

        print("before")
        await asyncio.sleep(0)
        print("after")

    @flow(task_runner=anywhere)
    def main() -> None:
        talk.submit().result()

    main()
    assert texts(said()) == ["before", "after"]


# --- what comes just before the end -------------------------------------------------------


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize("die", [exit_at_once, kill_itself, segfault])
def test_users_015_the_last_lines_before_a_death_are_kept(
    elsewhere: str, said: Callable[[], list[Any]], die: Callable[[], None]
) -> None:
    @task(crash_retries=0, log_prints=True)
    def talk() -> None:
        for number in range(10):
            logging.getLogger(USERS).info("%d", number)
        print("the last")
        die()

    @flow(task_runner=elsewhere)
    def main() -> bool:
        future = talk.submit()
        future.wait()
        return future.is_crashed() and bool(future.exception())

    assert main()
    assert texts(said()) == [*map(str, range(10)), "the last"]


def test_users_015_nothing_is_lost_when_a_task_fails(
    anywhere: str, said: Callable[[], list[Any]]
) -> None:
    @task(retries=1)
    def talk() -> None:
        logging.getLogger(USERS).info("before the failure")
        raise ValueError("no luck")

    @flow(task_runner=anywhere)
    def main() -> None:
        talk.submit().wait()

    main(return_state=True)
    heard = [text for text in texts(said()) if not text.startswith("Task run failed")]
    assert heard == ["before the failure"] * 2


def test_users_015_the_records_come_before_the_runs_end(
    anywhere: str, caplog: pytest.LogCaptureFixture, log: Log
) -> None:
    caplog.set_level(logging.INFO)

    @task
    def talk(number: int) -> None:
        logging.getLogger(USERS).info("said %d", number)

    @flow(task_runner=anywhere)
    def main() -> None:
        for number in range(5):
            talk.submit(number).result()

    main()
    own = ("penstock.flow_runs", "penstock.engine")
    lines = [record.getMessage() for record in caplog.records if record.name not in own]
    assert lines == [
        text for number in range(5) for text in (f"said {number}", "Finished in state Completed()")
    ]
