"""The pure parts of the process runner: batching, shipping, culprits, frames and the slot table."""

import functools
import importlib
import os
import pathlib
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import shipping
from penstock.attempt import Attempt
from penstock.by_value import ByValue
from penstock.testing import subjects
from penstock.worker import culprit, errors, packing
from penstock_runners.batching import Pace, most_in_batch
from penstock_runners.inline import SequentialTaskRunner
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.feeding import takes_another_batch
from penstock_runners.process_pool.frames import FrameReader
from penstock_runners.process_pool.jobs import Client, Job, JobQueue
from penstock_runners.process_pool.slots import Slot, SlotTable

# --- batching ---------------------------------------------------------------------------


def test_what_is_unknown_slow_or_has_crashed_travels_alone() -> None:
    assert Pace(0.005).travels_alone
    assert not Pace(0.005, 0.001).travels_alone
    assert Pace(0.005, 0.01).travels_alone
    assert Pace(0.005, 0.001, has_crashed=True).travels_alone


def test_the_pace_follows_the_durations() -> None:
    pace = Pace(0.005)
    pace.learn(0.001)
    assert pace.seconds == 0.001
    pace.learn(0.101)
    assert pace.seconds == pytest.approx(0.011)


@pytest.mark.parametrize(
    ("waiting", "workers", "most"), [(1, 2, 1), (4, 2, 2), (40, 2, 11), (40, 10, 3), (9999, 2, 256)]
)
def test_the_tail_is_spread_over_the_workers(waiting: int, workers: int, most: int) -> None:
    assert most_in_batch(waiting, workers) == most


def test_a_busy_worker_gets_another_batch_only_of_short_work() -> None:
    def worker(calls: int, seconds: float, has_slow: bool = False) -> Any:
        return types.SimpleNamespace(sent=range(calls), seconds_ahead=seconds, has_slow=has_slow)

    assert takes_another_batch(worker(3, 0.001))
    assert not takes_another_batch(worker(3, 0.01))
    assert not takes_another_batch(worker(1, 0.0, has_slow=True))
    assert not takes_another_batch(worker(300, 0.0))


# --- functions ---------------------------------------------------------------------------


def make_main_function(source: str, **names: Any) -> tuple[Any, dict[str, Any]]:
    """Return `f` of a source as if it stood in a script."""
    module = types.ModuleType("__main__")
    vars(module).update(names)
    exec(source, vars(module))
    return vars(module)["f"], vars(module)


def test_the_bytes_of_a_function_are_used_again() -> None:
    store = shipping.FunctionStore()
    fn, _ = make_main_function("def f(x): return x + step", step=2)
    assert store.find(fn) is store.find(fn)
    assert pickle.loads(store.find(fn).blob)(1) == 3


def test_equal_content_is_one_function() -> None:
    store = shipping.FunctionStore()
    first, _ = make_main_function("def f(x): return x")
    second, _ = make_main_function("def f(x): return x")
    assert store.find(first) is store.find(second)


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("def f(): return a", 1, 2),
        ("def f(): return a", (1, 2), (1, 3)),
        ("def f(): return a.value", types.SimpleNamespace(value=1), types.SimpleNamespace(value=2)),
        ("def f(): return [a for _ in 'x'][0]", 1, 2),
        ("def g(): return a\ndef f(): return g()", 1, 2),
        ("def f(): return (lambda: a)()", 1, 2),
    ],
)
def test_a_changed_global_is_seen_wherever_it_is_used(source: str, before: Any, after: Any) -> None:
    store = shipping.FunctionStore()
    fn, names = make_main_function(source, a=before)
    first = pickle.loads(store.find(fn).blob)()
    names["a"] = after
    assert pickle.loads(store.find(fn).blob)() == fn() != first


def test_what_the_methods_of_a_class_see_is_not_guessed() -> None:
    fn, _ = make_main_function("class C:\n  def m(self): return a\ndef f(): return C().m()", a=1)
    assert shipping.what_it_sees(fn, ByValue()) is None


def test_what_changes_in_place_is_seen() -> None:
    store = shipping.FunctionStore()
    table = {"a": 1}
    fn, _ = make_main_function("def f(): return table['a']", table=table)
    assert pickle.loads(store.find(fn).blob)() == 1
    table["a"] = 2
    assert pickle.loads(store.find(fn).blob)() == 2
    assert shipping.what_it_sees(fn, ByValue()) is None


def test_a_changed_closure_and_a_changed_default_are_seen() -> None:
    store = shipping.FunctionStore()
    number = 1

    def fn(plus: int = 0) -> int:
        return number + plus

    vars(fn)["__module__"] = fn.__module__ = "__main__"
    assert pickle.loads(store.find(fn).blob)() == 1
    number = 2
    assert pickle.loads(store.find(fn).blob)() == 2
    fn.__defaults__ = (5,)
    assert pickle.loads(store.find(fn).blob)() == 7


class TaskLike:
    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn


@pytest.fixture
def module_with_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[types.ModuleType]:
    (tmp_path / "some_module_with_a_task.py").write_text("def f(x): return x + 1")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("some_module_with_a_task")
    del sys.modules["some_module_with_a_task"]


def test_an_importable_function_goes_by_name(module_with_task: types.ModuleType) -> None:
    fn = vars(module_with_task)["f"]
    assert shipping.reference_to(fn, ByValue()) == ("some_module_with_a_task", "f")
    assert pickle.loads(shipping.FunctionStore().find(fn).blob) is fn
    assert shipping.reference_to(subjects.add, ByValue()) == ("penstock.testing.subjects", "add")
    assert shipping.reference_to(len, ByValue()) == ("builtins", "len")
    assert shipping.reference_to(functools.partial(len), ByValue()) is None


def test_the_function_of_a_task_goes_by_the_name_of_the_task(
    module_with_task: types.ModuleType,
) -> None:
    fn = vars(module_with_task)["f"]
    vars(module_with_task)["f"] = TaskLike(fn)
    assert shipping.reference_to(fn, ByValue()) == ("some_module_with_a_task", "f")
    assert pickle.loads(shipping.FunctionStore().find(fn).blob) is fn


# --- arguments ------------------------------------------------------------------------------


def test_scalars_are_not_pickled() -> None:
    packed = shipping.pack_call(len, (1, "a", None, 2.5), {}, ByValue())
    assert packed == ((1, "a", None, 2.5), [], True)


@pytest.mark.parametrize(
    "value", [True, [1], "x" * 100_000, 2**300, {"a": (1,)}, bytearray(200_000), lambda: 0]
)
def test_a_call_is_the_same_after_the_journey(value: Any) -> None:
    packed = shipping.pack_call(len, (value,), {"k": value}, ByValue())
    args, kwargs = packing.load_call(packed.payload, list(packed.buffers))
    if callable(value):
        assert args[0]() == kwargs["k"]() == 0
    else:
        assert args == (value,)
        assert kwargs == {"k": value}


# --- culprits ---------------------------------------------------------------------------------


class Holder:
    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


LOCK = threading.Lock()
WHY = "cannot pickle '_thread.lock' object"


def load(table: str, conn: object, *more: object, **options: object) -> None:
    pass


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (("t", Holder(pool=Holder(_lock=LOCK))), {}, "argument 'conn' -> .pool -> ._lock"),
        (("t",), {"conn": [1, {"k": LOCK}]}, "argument 'conn' -> [1] -> ['k']"),
        (("t", 1, 2, LOCK), {}, "argument 'more' -> [1]"),
        (("t", 1), {"extra": (LOCK,)}, "argument 'extra' -> [0]"),
        (("t", Slotted([LOCK])), {}, "argument 'conn' -> .inner -> [0]"),
        (("t", functools.partial(print, LOCK)), {}, "argument 'conn' -> its state -> [0]"),
        ((1, 2, LOCK, 4), {"unfit": LOCK, "table": 3}, "argument '2'"),
    ],
)
def test_the_argument_that_cannot_be_pickled_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str
) -> None:
    assert culprit.explain_call(load, args, kwargs) == f"{path}: {WHY}"


def test_what_a_function_holds_is_named() -> None:
    fn, _ = make_main_function("def f(): return lock", lock=LOCK)
    assert culprit.explain_function(fn) == f"function f -> global 'lock': {WHY}"


def test_a_value_that_holds_itself_is_no_endless_search() -> None:
    ring: list[Any] = [LOCK]
    ring.insert(0, ring)
    assert culprit.explain_value("result", ring) == f"result -> [1]: {WHY}"


# --- errors ------------------------------------------------------------------------------------


class Unloadable(Exception):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} {second}")


def test_an_exception_that_cannot_be_loaded_travels_as_text() -> None:
    name, message, text, pickled = errors.pack_error(Unloadable(1, 2))
    assert name.endswith("Unloadable")
    assert message == "1 2"
    assert "Unloadable: 1 2" in text
    assert pickled is None


def test_a_bad_cause_does_not_spoil_a_good_exception() -> None:
    error = ValueError("good")
    error.__cause__ = Unloadable(1, 2)
    pickled = errors.pack_error(error)[3]
    assert pickled is not None
    assert repr(pickle.loads(pickled)) == "ValueError('good')"


def test_exceptions_in_a_circle_travel() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__context__ = second, first
    pickled = errors.pack_error(first)[3]
    assert pickled is not None
    loaded = pickle.loads(pickled)
    assert loaded.__context__.__context__ is loaded


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_travels() -> None:
    name, message, text, _ = errors.pack_error(Speechless())
    assert name.endswith("Speechless")
    assert "RuntimeError" in message
    assert "Speechless" in text


# --- frames and slots ----------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_frames_are_read_in_whatever_pieces_they_come(piece: int) -> None:
    sent: list[tuple[tuple[Any, ...], list[Any]]] = [
        ((1, "a"), []),
        ((2, b"b" * 100), [b"x" * 300, b"", bytearray(b"y" * 70)]),
        ((3,), [b"z"]),
        ((4, None, 2.5), []),
    ]
    stream = b"".join(bytes(part) for head, buffers in sent for part in frames.frame(head, buffers))
    readable, writable = os.pipe()
    reader = FrameReader(readable)
    os.set_blocking(readable, False)
    got: list[Any] = []
    for start in range(0, len(stream), piece):
        os.write(writable, stream[start : start + piece])
        while True:
            try:
                got += reader.read()
            except BlockingIOError:
                break
    os.close(writable)
    with pytest.raises(EOFError):
        reader.read()
    os.close(readable)
    assert got == sent


def test_a_slot_tells_what_its_worker_was_at() -> None:
    table = SlotTable(2)
    theirs = Slot(table.descriptor, 1)
    theirs.begin(7, 12.5)
    ours = table.slot(1)
    assert (ours.number, ours.began, ours.is_held) == (7, 12.5, False)
    ours.hold(True)
    assert theirs.is_held
    assert table.slot(0).number == 0
    for number in range(3):
        assert theirs.note(frames.frame((number,))[0])
    assert [head for head, _ in frames.parse_frames(ours.journal())] == [(0,), (1,), (2,)]
    assert not theirs.note(b"x" * (64 << 10)), "what does not fit is not noted"
    readable, writable = os.pipe()
    theirs.write_journal(writable)
    os.close(writable)
    assert ours.journal() == b""
    assert [head for head, _ in FrameReader(readable).read()] == [(0,), (1,), (2,)]
    os.close(readable)
    theirs.close()
    table.close()


def test_the_queue_keeps_order_within_priority() -> None:
    client = Client(lambda event: None, SequentialTaskRunner())
    queue = JobQueue()
    jobs = [
        Job(number, client, Attempt(number, len, priority=priority))
        for number, priority in enumerate([0, 5, 0, 5, -1], 1)
    ]
    for job in jobs:
        queue.push(job)
    first = queue.pop()
    assert first is jobs[1]
    queue.push_front(first)
    queue.drop(jobs[2])
    queue.drop(jobs[2])
    order = []
    while (job_or_none := queue.pop()) is not None:
        order.append(job_or_none.number)
    assert order == [2, 4, 1, 5]
    assert len(queue) == 0
