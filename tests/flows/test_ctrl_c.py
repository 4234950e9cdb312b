"""Promises of row 136 and users' pain 34: Ctrl-C ends everything soon, cleanly, and loses nothing.

The programs are real ones, with a real SIGINT to their process group. In each, tasks in threads
sleep for 30 s and cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import wait_until

from penstock import PenstockFuture, State, flow, task
from penstock.exceptions import TaskRunTimeoutError
from penstock.settings import temporary_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SOON_SECONDS = 3.0

HEADER = """
import asyncio, contextlib, sys, threading, time
from penstock import flow, task

began = threading.Semaphore(0)

def note(obj, run, state):
    print("HOOK", run.name if obj.name != "main" else "main", state.name, flush=True)

@task(on_cancellation=note)
def deaf(number=0):
    began.release()
    time.sleep(30)

@task(on_cancellation=note)
async def stubborn():
    began.release()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)

def ready(count=0):
    for _ in range(count):
        began.acquire()
    print("READY", flush=True)
"""


class Program:
    """A Python program in a process group of its own."""

    def __init__(self, path: Path, body: str, environment: dict[str, str]) -> None:
        path.write_text(HEADER + textwrap.dedent(body), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.output: list[str] = []
        self.errors = ""
        self.signalled_at = 0.0
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait_for(self, line: str) -> None:
        """Read until the program prints this line."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.output.append(text.strip())
            if text.strip() == line:
                return
        self._reader.join(10)
        raise AssertionError(f"no line {line!r}: {self.output}\n{self.errors}")

    def interrupt(self) -> None:
        """Press Ctrl-C, when the program has got on a little."""
        time.sleep(0.09)
        self.signalled_at = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self) -> float:
        """Wait for the end; return how long it took from the last signal."""
        assert self.process.stdout is not None
        self.output.extend(line.strip() for line in self.process.stdout)
        self.process.wait(20)
        took = time.monotonic() - self.signalled_at
        self._reader.join(10)
        return took

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    # --- what is asked of it ---

    @property
    def hooks(self) -> list[str]:
        return sorted(line.removeprefix("HOOK ") for line in self.output if line[:4] == "HOOK")

    @property
    def ends(self) -> list[str]:
        """The names of the final states in the log, task runs by name and the flow as `main`."""
        found = re.findall(r"(Flow|Task) run '([^']+)' - Finished in state (\w+)", self.errors)
        return sorted(f"{'main' if kind == 'Flow' else name} {end}" for kind, name, end in found)

    def assert_clean_interrupt(self, tracebacks: int = 1) -> None:
        """The program ended by Ctrl-C, and told of nothing else that went wrong."""
        assert self.process.returncode in (-signal.SIGINT, 130), self.errors
        assert "Exception ignored" not in self.errors, self.errors
        assert self.errors.count("Traceback") <= tracebacks, self.errors
        assert "destroyed" not in self.errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start programs; kill what is left of them at the end."""
    programs: list[Program] = []

    def run(body: str, **environment: str) -> Program:
        program = Program(tmp_path / f"program_{len(programs)}.py", body, environment)
        programs.append(program)
        return program

    yield run
    for program in programs:
        program.end()


# --- once --------------------------------------------------------------------------------


def test_users_034_once_while_the_flow_waits_for_a_result(start: Callable[..., Program]) -> None:
    program = start(
        """
        @flow(task_runner="thread:2", on_cancellation=note)
        def main():
            futures = [deaf.submit(n) for n in range(4)]
            ready(2)
            futures[0].result()

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    expected = [*(f"deaf-{n} Cancelled" for n in range(4)), "main Cancelled"]
    assert program.hooks == expected
    assert program.ends == expected


@pytest.mark.parametrize("body", ["time.sleep(30)", "while True: pass"])
def test_users_034_once_while_the_body_of_the_flow_is_busy(
    start: Callable[..., Program], body: str
) -> None:
    program = start(
        f"""
        @flow(task_runner="thread:2", on_cancellation=note)
        def main():
            futures = [deaf.submit(n) for n in range(4)]
            ready(2)
            {body}

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    expected = [*(f"deaf-{n} Cancelled" for n in range(4)), "main Cancelled"]
    assert program.hooks == expected
    assert program.ends == expected


def test_users_034_once_during_a_direct_call(start: Callable[..., Program]) -> None:
    program = start(
        """
        @flow(task_runner="thread:2", on_cancellation=note)
        def main():
            future = deaf.submit(1)
            ready(1)
            deaf(2, return_state=True)  # asking for the state does not swallow it
            print("went on", flush=True)

        main(return_state=True)
        print("went on", flush=True)
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    expected = ["deaf-0 Cancelled", "deaf-1 Cancelled", "main Cancelled"]
    assert program.hooks == expected
    assert program.ends == expected
    assert "went on" not in program.output


@pytest.mark.parametrize("body", ["await futures[0]", "await asyncio.sleep(30)"])
def test_users_034_once_in_an_async_flow(start: Callable[..., Program], body: str) -> None:
    program = start(
        f"""
        @flow(task_runner="thread:2", on_cancellation=note)
        async def main():
            futures = [deaf.submit(n) for n in range(4)]
            ready(2)
            {body}

        asyncio.run(main())
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt(tracebacks=2)  # asyncio's own: it chains CancelledError
    expected = [*(f"deaf-{n} Cancelled" for n in range(4)), "main Cancelled"]
    assert program.hooks == expected
    assert program.ends == expected


@pytest.mark.parametrize("work", ["time.sleep(30)", "while True: pass", "other.submit().result()"])
def test_users_034_once_on_the_inline_runner(start: Callable[..., Program], work: str) -> None:
    program = start(
        f"""
        @task(on_cancellation=note)
        def other():
            time.sleep(30)

        @task(on_cancellation=note)
        def inline():
            ready()
            {work}

        @flow(task_runner="inline", on_cancellation=note)
        def main():
            with contextlib.suppress(Exception):
                inline.submit().result()
            time.sleep(30)

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    inner = ["other-0 Cancelled"] if "other" in work else []
    assert program.ends == sorted(["inline-0 Cancelled", "main Cancelled", *inner])


def test_users_034_once_on_the_inline_runner_in_an_async_task(
    start: Callable[..., Program],
) -> None:
    program = start(
        """
        @task(on_cancellation=note)
        async def inline():
            ready()
            await asyncio.sleep(30)

        @flow(task_runner="inline", on_cancellation=note)
        def main():
            with contextlib.suppress(Exception):
                inline.submit().result()
            time.sleep(30)

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    assert program.ends == ["inline-0 Cancelled", "main Cancelled"]


def test_users_034_once_in_a_sub_flow_and_during_a_retry(start: Callable[..., Program]) -> None:
    program = start(
        """
        @task(retries=3, retry_delay_seconds=30)
        def fails():
            raise ValueError("no luck")

        @flow(on_cancellation=note, name="sub")
        def sub():
            waiting = fails.submit()
            submitted = deaf.submit()
            ready(1)
            fails()

        @flow(on_cancellation=note)
        def main():
            sub(return_state=True)
            print("went on", flush=True)

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    assert program.ends == [
        "deaf-0 Cancelled",
        "fails-0 Cancelled",
        "fails-1 Cancelled",
        "main Cancelled",
        "main Cancelled",
    ]
    assert "went on" not in program.output


def test_users_034_once_when_a_task_swallows_its_cancellation(
    start: Callable[..., Program],
) -> None:
    program = start(
        """
        @flow(on_cancellation=note)
        def main():
            future = stubborn.submit()
            ready(1)
            future.result()

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS + 1  # it is given a second to end by itself
    program.assert_clean_interrupt()
    assert program.ends == ["main Cancelled", "stubborn-0 Cancelled"]


def test_users_034_once_leaves_tasks_in_threads_a_moment_to_clean_up(
    start: Callable[..., Program],
) -> None:
    program = start(
        """
        @task
        def tidy(number):
            began.release()
            try:
                while True:
                    time.sleep(0.01)
            finally:
                time.sleep(0.2)
                sys.stdout.write(f"TIDIED {number}\\n")  # in one piece: two threads do so
                sys.stdout.flush()

        @flow(task_runner="thread:2")
        def main():
            futures = [tidy.submit(n) for n in range(2)]
            ready(2)
            futures[0].result()

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    assert sorted(program.output[-2:]) == ["TIDIED 0", "TIDIED 1"]


def test_users_034_once_outside_of_any_flow(start: Callable[..., Program]) -> None:
    program = start(
        """
        future = deaf.submit()
        ready(1)
        future.result()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_users_034_once_in_the_middle_of_a_map_on_processes(
    start: Callable[..., Program], tmp_path: Path, level: str
) -> None:
    program = start(
        f"""
        import os, pathlib
        here = pathlib.Path({str(tmp_path)!r})

        @task
        def work(number):
            if number >= 100:
                (here / f"held-{{number}}").touch()
                time.sleep(30)

        futures = []

        @flow(task_runner="process:2")
        def main():
            futures.extend(work.map(range(3000)))
            while len(list(here.glob("held-*"))) < 2:
                time.sleep(0.002)
            ready()
            futures[100].result()

        try:
            main()
        finally:
            states = [future.state.name for future in futures]
            print(sorted(set(states[:100])), sorted(set(states[100:])), flush=True)
            (here / "run").write_text(str(len(list(here.glob("held-*")))))
        """,
        PENSTOCK_LOGGING_LEVEL=level,
        PENSTOCK_LOGGING_TASK_CREATED_LEVEL="DEBUG",
    )
    program.wait_for("READY")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    assert program.output[-1] == "['Completed'] ['Cancelled']"
    assert (tmp_path / "run").read_text() == "2", "nothing began after it"
    wait_until(lambda: is_gone(program.process.pid))


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


# --- twice -------------------------------------------------------------------------------


def test_users_034_twice_ends_at_once(start: Callable[..., Program]) -> None:
    program = start(
        """
        @flow(on_cancellation=note)
        def main():
            future = stubborn.submit()
            ready(1)
            try:
                future.result()
            finally:
                print("CLEANING", flush=True)

        main()
        """,
        PENSTOCK_CANCEL_GRACE_SECONDS="25",
    )
    program.wait_for("READY")
    program.interrupt()
    program.wait_for("CLEANING")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    program.assert_clean_interrupt()
    assert program.ends == ["main Cancelled", "stubborn-0 Cancelled"]


def test_users_034_the_second_one_ends_the_cleaning_up_of_the_user(
    start: Callable[..., Program],
) -> None:
    program = start(
        """
        @flow(on_cancellation=note)
        def main():
            future = deaf.submit()
            ready(1)
            try:
                future.result()
            finally:
                print("CLEANING", flush=True)
                time.sleep(30)

        main()
        """
    )
    program.wait_for("READY")
    program.interrupt()
    program.wait_for("CLEANING")
    program.interrupt()
    assert program.finish() < SOON_SECONDS
    assert program.process.returncode in (-signal.SIGINT, 130)
    assert "Exception ignored" not in program.errors
    assert program.ends == ["deaf-0 Cancelled", "main Cancelled"]


# --- code that goes on -------------------------------------------------------------------


def test_users_034_code_that_catches_it_goes_on(start: Callable[..., Program]) -> None:
    program = start(
        """
        hold = threading.Event()

        @task
        def held():
            began.release()
            hold.wait()
            return "held"

        @task
        def quick():
            return "quick"

        @flow
        def main():
            future = held.submit()
            for number in range(5):
                try:
                    ready(1 if number == 0 else 0)
                    future.result()
                except KeyboardInterrupt:
                    print("CAUGHT", quick.submit().result(), flush=True)
            try:
                print("DIRECT", flush=True)
                deaf()
            except KeyboardInterrupt:
                print("CAUGHT", quick(), flush=True)
            hold.set()
            print(future.result(), flush=True)

        main()
        """
    )
    for _ in range(5):
        program.wait_for("READY")
        program.interrupt()
        program.wait_for("CAUGHT quick")
    program.wait_for("DIRECT")
    program.interrupt()
    program.finish()
    assert program.output[-2:] == ["CAUGHT quick", "held"]
    assert program.process.returncode == 0, program.errors
    assert program.ends == sorted(
        ["held-0 Completed", "deaf-0 Cancelled", "main Completed"]
        + [f"quick-{number} Completed" for number in range(6)]
    )


def test_users_034_a_handler_of_the_users_own_stays(start: Callable[..., Program]) -> None:
    program = start(
        """
        import signal
        pressed = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: pressed.set())

        @task
        def held():
            began.release()
            return pressed.wait(20)

        @flow
        def main():
            future = held.submit()
            ready(1)
            return future.result()

        print(main(), flush=True)
        """
    )
    program.wait_for("READY")
    program.interrupt()
    program.finish()
    assert program.process.returncode == 0, program.errors
    assert program.output[-1] == "True"


def test_users_034_the_handler_of_python_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    during: list[Any] = []
    flow(lambda: during.append(signal.getsignal(signal.SIGINT)), name="main")()
    assert signal.getsignal(signal.SIGINT) is before
    assert during != [before]


# --- storms ------------------------------------------------------------------------------

STORM = 20


@pytest.mark.parametrize("seed", range(5))
def test_no_event_is_lost_in_a_storm_of_deadlines(runner: str, seed: int) -> None:
    """Deadlines strike at random moments around thousands of submits and results."""
    rng = random.Random(seed)
    futures: list[PenstockFuture[int]] = []
    add = task(lambda a, b: a + b, name="add")
    ends: list[str] = []

    def work() -> None:
        while True:
            first = add.submit(1, 2)
            futures.append(first)
            second = add.submit(first, 3)
            futures.append(second)
            if rng.random() < 0.5:
                assert second.result() == 6
            if rng.random() < 0.1:
                futures[0].cancel()
            if rng.random() < 0.1:
                add(second, 1)

    @flow(task_runner=runner)
    def main() -> None:
        for _ in range(STORM):
            seconds = rng.uniform(0.0005, 0.03)
            storm = task(work, name="storm", timeout_seconds=seconds)
            state: State[None] = storm(return_state=True)
            ends.append(state.name)
            with pytest.raises(TaskRunTimeoutError):
                state.result()

    with quiet():
        state: State[None] = main(return_state=True)
    assert str(state) == "Completed('All states completed.')"
    assert ends == ["TimedOut"] * STORM
    assert len(futures) > STORM
    for future in futures:
        assert sum(each.is_final() for each in future.run.states) == 1, future.run.states
        assert future.run.state.is_final()
        if future.run.state.is_completed():
            assert future.run.state.result() in (3, 6)


@pytest.mark.parametrize("seed", range(3))
def test_no_event_is_lost_in_a_storm_of_ctrl_c(threads: str, seed: int) -> None:
    """SIGINT from another thread, at random moments, into code that catches it and goes on."""
    rng = random.Random(seed)
    futures: list[PenstockFuture[int]] = []
    add = task(lambda a, b: a + b, name="add")
    caught: list[int] = []
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    inside = threading.Event()
    over = threading.Event()

    def press() -> None:
        while not over.wait(rng.uniform(0.001, 0.02)):
            if inside.is_set():
                inside.clear()
                signal.pthread_kill(main_thread, signal.SIGINT)

    def work() -> None:
        while True:
            futures.append(add.submit(add.submit(1, 2), 3))
            futures[-1].result()
            inside.set()

    @flow(task_runner=threads)
    def main() -> None:
        while len(caught) < STORM:
            try:
                work()
            except KeyboardInterrupt:
                caught.append(1)
        over.set()

    presser = threading.Thread(target=press)
    presser.start()
    try:
        with quiet():
            state: State[None] = main(return_state=True)
    finally:
        over.set()
        presser.join(10)
    assert str(state) == "Completed('All states completed.')"
    for future in futures:
        assert [each.name for each in future.run.states][-1] == "Completed"
        assert future.run.state.result() == 6


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let only errors through: thousands of lines take longer than the work."""
    with temporary_settings(logging_level="CRITICAL"):
        yield
