"""A plain map on worker processes, whose runs are one object while nothing sets them apart.

Nobody can tell: each of them has a name, an id, states, logs, retries and its one end. How an item
ends depends on the level of the log, as each end is a line at INFO; so most is tried at both.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.flows.conftest import PROCESSES
from tests.support import wait_until

from penstock import as_completed, flow, get_run_logger, task, unmapped, wait
from penstock.exceptions import CancelledRun, UnobservedFailureError, WorkerLost
from penstock.futures import FIRST_COMPLETED, FIRST_EXCEPTION
from penstock.runtime import task_run
from penstock.settings import temporary_settings
from penstock_runners.process import ProcessPoolTaskRunner

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from tests.flows.conftest import Log

pytestmark = pytest.mark.usefixtures("sent_by_value")

MANY = 1500
PATIENCE_SECONDS = 20.0


@pytest.fixture(params=[logging.WARNING, logging.INFO], ids=["quiet", "told"], autouse=True)
def level(request: pytest.FixtureRequest, log: Log) -> Iterator[int]:
    """Show the ends of task runs in the log, or not; that they are made is not shown."""
    log.show(request.param)
    with temporary_settings(logging_task_created_level="DEBUG"):
        yield request.param


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Leaves no worker behind."""

    warm_seconds = 0.0


class Notes:
    """A file to which workers append: who ran, how often."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def add(self, label: object) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{label}\n".encode())
        os.close(file)

    def read(self) -> dict[str, int]:
        return collections.Counter(self.path.read_text().split()) if self.path.exists() else {}

    def await_(self, label: str) -> None:
        """Wait until somebody has noted this."""
        deadline = time.monotonic() + 20.0
        while label not in self.read():
            assert time.monotonic() < deadline, f"nobody noted {label}"
            time.sleep(0.002)


@pytest.fixture
def notes(tmp_path: pathlib.Path) -> Notes:
    return Notes(tmp_path / "notes")


@task
def double(number: int) -> int:
    return 2 * number


def ends(futures: Any) -> dict[str, int]:
    """Return how many ended how."""
    return dict(collections.Counter(future.state.name for future in futures))


# --- what is known of each ------------------------------------------------------------------------


def test_each_item_knows_itself_as_its_future_does() -> None:
    @task
    def about(number: int) -> Any:
        return task_run.id, task_run.name, task_run.run_count, task_run.parameters

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        futures = about.map(range(200)) + about.map(range(200, 1500))
        told = [future.result() for future in futures]
        return told, [(str(f.task_run_id), f.name, f.run.run_count) for f in futures]

    told, known = main()
    assert [each[:3] for each in told] == known
    assert [name for _, name, _ in known] == [f"about-{number}" for number in range(1500)]
    assert [parameters for *_, parameters in told] == [{"number": n} for n in range(1500)]
    assert len({identity for identity, *_ in known}) == 1500


def test_each_item_has_the_states_and_times_of_a_run() -> None:
    @task
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        before = time.time()
        futures = nap.map([0.0] * 60 + [0.06] + [0.0] * 60)
        futures.wait(PATIENCE_SECONDS)
        return before, time.time(), [future.run.states for future in futures]

    before, after, histories = main()
    for states in histories:
        assert [state.name for state in states] == ["Pending", "Running", "Completed"]
        times = [before - 0.01, *(state.timestamp.timestamp() for state in states), after + 0.01]
        assert times == sorted(times)
    pending, running, completed = (state.timestamp.timestamp() for state in histories[60])
    assert completed - running > 0.05
    del pending


def test_what_items_log_and_print_comes_home_as_theirs(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    @task(log_prints=True)
    def speak(number: int) -> None:
        if number % 50 == 7:
            get_run_logger().warning("I am %s", task_run.name)
            logging.getLogger("somebodys.library").warning("so is %d", number)
        if number % 50 == 8:
            print(f"printed by {number}")

    @flow(task_runner=PROCESSES)
    def main() -> None:
        speak.map(range(400)).wait(PATIENCE_SECONDS)

    log.show(logging.INFO)
    main()
    spoken = [line for line in log.lines if "I am" in line or "printed" in line]
    wanted = [f"WARNING | Task run 'speak-{n}' - I am speak-{n}" for n in range(7, 400, 50)]
    wanted += [f"INFO    | Task run 'speak-{n}' - printed by {n}" for n in range(8, 400, 50)]
    assert sorted(spoken) == sorted(wanted)
    texts = [each.getMessage() for each in caplog.records if each.name == "somebodys.library"]
    assert sorted(texts) == sorted(f"so is {number}" for number in range(7, 400, 50))


# --- what goes in and comes out -------------------------------------------------------------------


@pytest.mark.parametrize("chunk", ["auto", 1, 40])
def test_arguments_of_all_kinds_arrive(chunk: Any) -> None:
    @task
    def collect(one: Any, large: list[int], *, word: str, pair: Any = (1, 2), rest: Any) -> Any:
        return one, large[-1], word, pair, rest

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        return collect.map(
            range(100),
            unmapped(list(range(50_000))),
            word=[str(number) for number in range(100)],
            rest=unmapped([3, 4]),
            chunk=chunk,
        ).result()

    assert main() == [(n, 49_999, str(n), (1, 2), [3, 4]) for n in range(100)]


def test_results_of_all_sizes_come_home_and_stay_the_same_object() -> None:
    @task
    def make(number: int) -> Any:
        if number % 40 == 1:
            return b"x" * 100_000
        if number % 40 == 2:
            return bytearray(2_000_000)
        return {"number": number} if number % 3 == 0 else number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = make.map(range(90))
        first = futures[3].result()
        values = futures.result()
        assert values[3] is first
        for number, value in enumerate(values):
            if number % 40 in (1, 2):
                assert len(value) == (100_000, 2_000_000)[number % 40 - 1]
            else:
                assert value == ({"number": number} if number % 3 == 0 else number)
            assert futures[number].result() is value
            assert futures[number].state.result() is value
        assert futures.result() == values

    main()


def test_tasks_of_other_kinds_are_mapped_as_well() -> None:
    @task
    async def later(number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    @task
    def count(stop: int) -> Iterator[int]:
        yield from range(stop)

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        return later.map(range(100)).result(), [list(each) for each in count.map(range(5)).result()]

    assert main() == (list(range(1, 101)), [list(range(stop)) for stop in range(5)])


def test_runs_inside_of_items_come_home() -> None:
    @task
    def outer(number: int) -> int:
        return double(number) if number % 20 == 3 else number

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        futures = outer.map(range(100))
        return futures.result(), [future.run.children for future in futures]

    values, children = main()
    assert values == [2 * n if n % 20 == 3 else n for n in range(100)]
    for number, inside in enumerate(children):
        names = [child.plan.name for child in inside or ()]
        assert names == (["double"] if number % 20 == 3 else [])


# --- what goes wrong ------------------------------------------------------------------------------


def test_one_that_fails_is_tried_again_and_the_others_are_not(
    notes: Notes, log: Log, level: int
) -> None:
    @task(retries=2)
    def work(number: int) -> int:
        notes.add(number)
        if number == 1234:
            raise ValueError(f"attempt {task_run.run_count}")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        futures = work.map(range(MANY))
        futures.wait(PATIENCE_SECONDS)
        for number, future in enumerate(futures):
            if number != 1234:
                assert future.result() == number
        return futures[1234].state, futures[1234].run

    state, run = main()
    assert state.is_failed()
    assert state.message == "Task run encountered an exception ValueError: attempt 3"
    assert run.run_count == 3
    assert [each.name for each in run.states] == [
        *("Pending", "Running", "Failed", "Retrying", "Failed", "Retrying", "Failed")
    ]
    assert notes.read() == {str(n): 3 if n == 1234 else 1 for n in range(MANY)}
    retries = [line for line in log.lines if "'work-1234'" in line and "Retry" in line]
    assert len(retries) == (2 if level == logging.INFO else 0)


def test_a_failure_that_nobody_looked_at_fails_the_flow(log: Log) -> None:
    @task
    def work(number: int) -> None:
        if number in (700, 900):
            raise ValueError("odd one out")

    @flow(task_runner=PROCESSES)
    def main() -> None:
        work.map(range(1000))

    with pytest.raises(UnobservedFailureError, match=r"2/1000 states failed"):
        main()
    assert sum("2 x ValueError: odd one out, first 'work-" in line for line in log.lines) == 1


def test_what_cannot_be_pickled_hurts_its_item_only() -> None:
    @task
    def work(value: Any) -> Any:
        return threading.Lock() if value == 150 else value

    @flow(task_runner=PROCESSES)
    def main() -> None:
        values = [threading.Lock() if number in (0, 100, 299) else number for number in range(300)]
        futures = work.map(values)
        futures.wait(PATIENCE_SECONDS)
        for number, future in enumerate(futures):
            if number in (0, 100, 150, 299):
                with pytest.raises(TypeError, match="pickle"):
                    future.result()
            else:
                assert future.result() == number

    main()


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("die", [exit_at_once, kill_itself])
def test_a_death_in_a_map_of_thousands_costs_one_run(die: Any, notes: Notes) -> None:
    @task(crash_retries=0)
    def work(number: int) -> int:
        notes.add(number)
        if number == 1200:
            die()
        return number

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        futures = work.map(range(MANY))
        futures.wait(PATIENCE_SECONDS)
        for number, future in enumerate(futures):
            if number != 1200:
                assert future.result() == number
                assert future.run.run_count == 1
        with pytest.raises(WorkerLost):
            futures[1200].result()
        return ends(futures)

    assert main() == {"Completed": MANY - 1, "Crashed": 1}
    assert notes.read() == {str(number): 1 for number in range(MANY)}


def test_deaths_in_a_map_of_thousands_are_survived_with_crash_retries(notes: Notes) -> None:
    deadly = (1100, 1101, 1300, 1499)

    @task(crash_retries=1)
    def work(number: int) -> int:
        notes.add(number)
        if number in deadly and task_run.run_count == 1:
            os._exit(3)
        return number

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        futures = work.map(range(MANY))
        return futures.result(PATIENCE_SECONDS), [future.run.run_count for future in futures]

    values, counts = main()
    assert values == list(range(MANY))
    assert counts == [2 if number in deadly else 1 for number in range(MANY)]
    assert notes.read() == {str(n): 2 if n in deadly else 1 for n in range(MANY)}


# --- a slow one, and waiting ----------------------------------------------------------------------


def test_one_that_takes_its_time_runs_and_holds_nobody_up(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number == 300:
            notes.await_("go")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = work.map(range(1000))
        others = [future for number, future in enumerate(futures) if number != 300]
        wait(others, timeout=PATIENCE_SECONDS)
        assert [future.result(0) for future in others] == [n for n in range(1000) if n != 300]
        slow = futures[300]
        assert slow.state.is_running()
        assert not slow.done()
        notes.add("go")
        assert slow.result(PATIENCE_SECONDS) == 300
        assert [state.name for state in slow.run.states] == ["Pending", "Running", "Completed"]

    main()


def test_to_wait_for_some_of_a_map_is_not_to_wait_for_all_of_it(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number >= 4:
            notes.await_("go")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = work.map(range(40))
        asked_at = time.monotonic()
        done, not_done = wait(futures[:4], timeout=PATIENCE_SECONDS / 4)
        assert (len(done), len(not_done)) == (4, 0)
        assert time.monotonic() - asked_at < PATIENCE_SECONDS / 4, "and at once"
        assert not any(future.done() for future in futures[4:])
        notes.add("go")
        assert futures.result(PATIENCE_SECONDS) == list(range(40))

    main()


def test_what_has_ended_is_told_while_the_next_one_of_its_batch_runs(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number == 10:
            notes.await_("go")
        return number

    @flow(task_runner="process:1")
    def main() -> None:
        futures = work.map(range(20), chunk=20)
        assert [future.result(PATIENCE_SECONDS) for future in futures[:10]] == list(range(10))
        assert not futures[10].done()
        notes.add("go")
        assert futures.result(PATIENCE_SECONDS) == list(range(20))

    main()


def test_wait_and_as_completed_serve_each_of_them(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        if number == 0:
            notes.await_("go")
        if number == 7:
            raise ValueError("seven")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = work.map(range(100))
        assert wait(futures, PATIENCE_SECONDS, FIRST_COMPLETED).done
        assert futures[7] in wait(futures, PATIENCE_SECONDS, FIRST_EXCEPTION).done
        with pytest.raises(TimeoutError, match="1 of 100 runs are not over"):
            futures.result(0.5)
        seen = []
        for future in as_completed(futures, PATIENCE_SECONDS):
            seen.append(future)
            if len(seen) == 99:
                notes.add("go")
        assert len(set(seen)) == 100
        assert seen[-1] is futures[0]
        assert ends(futures) == {"Completed": 99, "Failed": 1}

    main()


def test_maps_of_maps_take_what_the_ones_before_return() -> None:
    @flow(task_runner=PROCESSES)
    def main() -> Any:
        first = double.map(range(200))
        second = double.map(double.map(first))
        total = task(sum).submit(first)
        return second.result(PATIENCE_SECONDS), total.result(PATIENCE_SECONDS)

    assert main() == ([8 * number for number in range(200)], sum(range(0, 400, 2)))


def test_callbacks_are_called_of_each_item() -> None:
    seen: list[Any] = []

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = double.map(range(50))
        for future in futures:
            future.add_done_callback(lambda done: seen.append(done.result()))
        futures.wait(PATIENCE_SECONDS)

    main()
    assert sorted(seen) == list(range(0, 100, 2))


# --- cancelling, and ends from outside ------------------------------------------------------------


def test_one_that_waits_can_be_cancelled(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        notes.add(number)
        notes.await_("go")
        return number

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures = work.map(range(20))
        notes.await_("0")
        notes.await_("1")
        assert futures[15].cancel()
        with pytest.raises(CancelledRun):
            futures[15].result(PATIENCE_SECONDS)
        notes.add("go")
        futures.wait(PATIENCE_SECONDS)
        assert ends(futures) == {"Completed": 19, "Cancelled": 1}
        assert not futures[15].cancel(), "it is over"

    main()
    assert "15" not in notes.read()


@task
def run_up_to_a_hundred(number: int, notes: Notes) -> int:
    """Return, or be one of two that run for as long as the test wants."""
    notes.add(number)
    if number >= 100:
        notes.await_("go")
    return number


def two_that_run(notes: Notes) -> set[int]:
    """Wait until both workers are at something that lasts, and return what that is."""
    wait_until(lambda: len(begun_late(notes)) == 2)
    return begun_late(notes)


def begun_late(notes: Notes) -> set[int]:
    return {int(label) for label in notes.read() if label != "go" and int(label) >= 100}


def check_cancelled(futures: list[Any], notes: Notes) -> None:
    """Check that nothing began after the two that ran, and nothing ran twice."""
    assert len(futures) == MANY
    assert set(ends(futures[100:])) == {"Cancelled"}
    assert set(ends(futures[:100])) <= {"Completed", "Cancelled"}, "some end while they are asked"
    assert len(begun_late(notes)) <= 2
    assert set(notes.read().values()) == {1}


@pytest.mark.parametrize("kill", [False, True])
def test_a_whole_map_can_be_cancelled_in_the_middle(notes: Notes, kill: bool) -> None:
    futures: list[Any] = []

    @flow(task_runner=PROCESSES)
    def main() -> None:
        mapped = run_up_to_a_hundred.map(range(MANY), unmapped(notes))
        futures.extend(mapped)
        running = two_that_run(notes)
        assert mapped.cancel(kill=kill)
        if not kill:
            waiting = [future for number, future in enumerate(mapped) if number not in running]
            wait(waiting, PATIENCE_SECONDS)
            for number in running:
                wait_until(mapped[number].is_cancelling)
            notes.add("go")
        mapped.wait(PATIENCE_SECONDS)
        assert all(future.done() for future in mapped)

    main()
    check_cancelled(futures, notes)


def test_a_flow_can_leave_its_map_behind(notes: Notes) -> None:
    futures: list[Any] = []

    @flow(task_runner=PROCESSES, on_exit="cancel")
    def main() -> str:
        futures.extend(run_up_to_a_hundred.map(range(MANY), unmapped(notes)))
        two_that_run(notes)
        return "left"

    assert main() == "left"
    check_cancelled(futures, notes)


def test_the_time_of_a_flow_ends_its_map(notes: Notes) -> None:
    futures: list[Any] = []

    @flow(task_runner=PROCESSES, timeout_seconds=1.0)
    def main() -> None:
        futures.extend(run_up_to_a_hundred.map(range(MANY), unmapped(notes)))
        futures[100].result()

    assert main(return_state=True).name == "TimedOut"
    check_cancelled(futures, notes)


def test_a_flow_that_fails_ends_its_map(notes: Notes) -> None:
    futures: list[Any] = []

    @flow(task_runner=PROCESSES)
    def main() -> None:
        futures.extend(run_up_to_a_hundred.map(range(MANY), unmapped(notes)))
        two_that_run(notes)
        notes.add("go")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        main()
    assert set(ends(futures)) <= {"Completed", "Cancelled"}
    assert set(notes.read().values()) == {1}
    ran = notes.read()
    assert all(str(n) in ran or future.is_cancelled() for n, future in enumerate(futures))


# --- from where, and in which order ---------------------------------------------------------------


def test_a_map_may_be_submitted_by_other_threads_and_by_tasks_in_them() -> None:
    @task
    def fan_out(first: int) -> list[int]:
        return double.map(range(first, first + 100)).result(PATIENCE_SECONDS)

    thread_task = fan_out.with_options(task_runner="thread:2")

    @flow(task_runner=PROCESSES)
    def main() -> Any:
        inside = [thread_task.submit(first) for first in (0, 100, 200)]
        context = contextvars.copy_context()
        found: list[Any] = []
        thread = threading.Thread(
            target=context.run, args=(lambda: found.extend(double.map(range(100)).result()),)
        )
        thread.start()
        thread.join(PATIENCE_SECONDS)
        return found, [future.result(PATIENCE_SECONDS) for future in inside]

    found, inside = main()
    assert found == [2 * number for number in range(100)]
    assert inside == [[2 * n for n in range(first, first + 100)] for first in (0, 100, 200)]


def test_of_two_maps_the_more_urgent_one_runs_first(notes: Notes) -> None:
    @task
    def hold() -> None:
        notes.add("held")
        notes.await_("go")

    @task
    def work(label: str, number: int) -> None:
        notes.add(label)

    @flow(task_runner="process:1")
    def main() -> None:
        hold.submit()
        notes.await_("held")
        work.map(unmapped("low"), range(200))
        work.with_options(priority=1).map(unmapped("high"), range(200))
        notes.add("go")

    main()
    labels = notes.path.read_text().split()
    assert labels[2:] == ["high"] * 200 + ["low"] * 200


def test_workers_are_replaced_in_the_middle_of_a_map(notes: Notes) -> None:
    @task
    def work(number: int) -> int:
        notes.add(f"{os.getpid()}")
        return number

    @flow(task_runner=ColdProcessPoolTaskRunner(2, max_tasks_per_worker=25))
    def main() -> Any:
        return work.map(range(120)).result(PATIENCE_SECONDS)

    assert main() == list(range(120))
    assert sum(notes.read().values()) == 120
    assert max(notes.read().values()) <= 25


def test_one_that_takes_too_much_memory_is_alone_to_crash(notes: Notes) -> None:
    @task(crash_retries=0)
    def work(number: int) -> int:
        if number == 60:
            kept = bytearray(b"x") * 300_000_000
            notes.await_("never")
            del kept
        return number

    @flow(task_runner=ColdProcessPoolTaskRunner(2, worker_memory_limit="250 MB"))
    def main() -> Any:
        futures = work.map(range(120))
        futures.wait(PATIENCE_SECONDS)
        return ends(futures), futures[60].state

    found, state = main()
    assert found == {"Completed": 119, "Crashed": 1}
    assert "more than worker_memory_limit=250 MB" in state.message


def fail_to_initialize() -> None:
    raise OSError("no licence server")


def test_when_no_worker_starts_every_run_of_a_map_crashes_and_says_why() -> None:
    @flow(task_runner=ColdProcessPoolTaskRunner(1, initializer=fail_to_initialize))
    def main() -> Any:
        futures = double.map(range(MANY))
        futures.wait(PATIENCE_SECONDS)
        later = double.map(range(5))
        later.wait(PATIENCE_SECONDS)
        return ends(futures), ends(later), futures[-1].state.message

    found, later, message = main()
    assert (found, later) == ({"Crashed": MANY}, {"Crashed": 5})
    assert "OSError: no licence server" in message
