"""One attempt in a worker: whatever happens, an ending comes of it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.attempt import RemoteError
from penstock.worker import packing, running
from penstock.worker.calling import call, call_async, call_to_end
from penstock.worker.here import ATTEMPT, Here
from penstock.worker.output import forwarding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from penstock.worker.running import Ending

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def here_of(said: list[Any] | None = None, **shared: Any) -> Here:
    return Here(shared, (), (said if said is not None else []).append)


def run(fn: Callable[..., Any], *args: Any, here: Here | None = None, **options: Any) -> Ending:
    return running.run(here or here_of(), lambda: (fn, args, {}), **options)


def error_of(ending: Ending) -> RemoteError:
    assert ending.how == running.RAISED
    return RemoteError(*ending.payload)


def test_a_scalar_stands_inline_and_anything_else_is_packed() -> None:
    assert run(abs, -3)[:3] == (running.INLINE, 3, [])
    ending = run(list, "ab")
    assert ending.how == running.PACKED
    assert packing.load(ending.payload, ending.buffers) == ["a", "b"]


def refuse(value: Any, packed: packing.Packing) -> int | None:
    if value[0] == 0:
        raise OSError("no space left")
    return None


def measure(value: Any, packed: packing.Packing) -> int | None:
    return len(value) + packed.nbytes


def test_a_large_result_is_shown_to_the_writer_and_does_not_travel() -> None:
    writer = pickle.dumps(measure)
    ending = run(bytes, 1_000_000, writer=writer)
    assert ending[:3] == (running.INLINE, None, [])
    assert ending.stored_bytes is not None
    assert ending.stored_bytes > 2_000_000
    small = run(bytes, 100_000, writer=writer)
    assert small.stored_bytes is None
    assert packing.load(small.payload, small.buffers) == bytes(100_000)


@pytest.mark.parametrize("first", [0, 1])
def test_what_the_writer_does_not_store_travels(first: int) -> None:
    value = bytes([first]) * 1_000_000
    ending = run(lambda: value, writer=pickle.dumps(refuse))
    assert ending.stored_bytes is None
    assert packing.load(ending.payload, ending.buffers) == value


def test_what_is_stored_may_stay_with_the_worker_as_well() -> None:
    ending = run(bytes, 1_000_000, writer=pickle.dumps(measure), keep=lambda *_: "a key")
    assert ending[:2] == (running.KEPT, "a key")
    assert ending.stored_bytes is not None


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_is_raised_is_data(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    ending = run(fail)
    assert error_of(ending).type_name == kind.__name__
    assert type(ending.error) is kind
    assert forwarding.running == []


def test_what_loading_raises_says_that_it_was_there() -> None:
    def load() -> Any:
        return running.loading("arguments", pickle.loads, b"no pickle")

    error = error_of(running.run(here_of(), load))
    assert "while the arguments of the call were unpickled in the worker" in error.traceback_text


def test_a_result_that_cannot_be_pickled_is_named() -> None:
    error = error_of(run(lambda: [threading.Lock()]))
    assert error.message == "result -> [0]: cannot pickle '_thread.lock' object"


def test_the_function_is_told_of_its_attempt_and_only_it() -> None:
    here = here_of(name="n")
    seen: list[Any] = []
    run(lambda: seen.append(ATTEMPT.get()), here=here)
    assert seen == [here]
    assert ATTEMPT.get() is None


def test_variables_are_set_in_a_context_of_its_own() -> None:
    pairs = packing.dumps([(VARIABLE, "given")])

    def change() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    assert run(change, variables=pairs).payload == "given"
    assert VARIABLE.get() == "unset"


def test_prints_go_home_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[Any] = []
    root = logging.getLogger()
    level = root.level
    try:
        forwarding.install({"": logging.INFO}, is_own_process=True)
        run(lambda: print("logged"), here=here_of(said, log_prints=True))
        run(lambda: print("printed"), here=here_of(said))
    finally:
        root.removeHandler(forwarding)
        root.setLevel(level)
    assert [record[8] for record in said] == ["logged"]
    assert capsys.readouterr().out == "printed\n"


def test_what_is_to_be_done_at_the_end_is_done_last_first_also_after_a_failure() -> None:
    here, order = here_of(), []

    def fail() -> None:
        here.at_end += [lambda: order.append("first"), lambda: order.append("second")]
        raise ValueError

    run(fail, here=here)
    assert order == ["second", "first"]


def test_children_go_home_with_either_ending() -> None:
    for fn in (abs, divmod):
        here = here_of()
        here.children.append(("described",))
        ending = run(fn, 1, here=here)
        assert ending.children is not None
        assert pickle.loads(ending.children) == [("described",)]
    assert run(abs, 1).children is None


def test_what_is_kept_here_is_stood_for() -> None:
    ending = run(list, "ab", keep=lambda value, packed: ("kept", len(value)))
    assert ending[:3] == (running.KEPT, ("kept", 2), [])
    assert run(abs, -1, keep=lambda value, packed: None).how == running.INLINE


# --- calling ------------------------------------------------------------------------------


def count(stop: int) -> Iterator[int]:
    yield from range(stop)


async def count_async(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def make_generator(stop: int) -> Iterator[int]:
    return count(stop)


def test_generators_are_consumed_and_coroutines_run_to_their_end() -> None:
    assert call(count, (3,), {}) == [0, 1, 2]
    assert call_to_end(count, (3,), {}) == [0, 1, 2]
    assert call_to_end(count_async, (3,), {}) == [0, 1, 2]
    assert call_to_end(double, (3,), {}) == 6
    assert call_to_end(make_generator, (3,), {}) == [0, 1, 2]
    assert call_to_end(abs, (-3,), {}) == 3


def test_so_they_are_where_a_loop_runs_already() -> None:
    async def both() -> Any:
        return [
            await call_async(count_async, (2,), {}),
            await call_async(double, (2,), {}),
            await call_async(count, (2,), {}),
            await call_async(make_generator, (2,), {}),
        ]

    assert asyncio.run(both()) == [[0, 1], 4, [0, 1], [0, 1]]
