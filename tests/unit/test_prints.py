"""`log_prints`: a print goes to the sink of its own context, and to no other."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import io
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock.worker.prints import captured

if TYPE_CHECKING:
    from collections.abc import Iterator

REAL_PRINT = builtins.print


@pytest.fixture(autouse=True)
def _print_is_as_it_was() -> Iterator[None]:
    yield
    assert builtins.print is REAL_PRINT


def test_seed_035_a_print_becomes_one_text_without_its_newline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts: list[str] = []
    with captured(texts.append):
        print("Stars 🌠 :", 12157)
    assert texts == ["Stars 🌠 : 12157"]
    assert capsys.readouterr().out == ""


def test_seed_149_without_a_capture_print_is_pythons_own() -> None:
    with captured(lambda _: None):
        assert builtins.print is not REAL_PRINT
    assert builtins.print is REAL_PRINT


def test_separator_and_end_are_honoured() -> None:
    texts: list[str] = []
    with captured(texts.append):
        print("a", "b", sep="-", end="!")
        print("two\nlines\n")
        print()
        print("x", sep=None, end=None, flush=True)
    assert texts == ["a-b!", "two\nlines\n", "", "x"]


def test_seed_019_a_print_to_another_file_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts: list[str] = []
    other = io.StringIO()
    with captured(texts.append):
        print("kept", file=other)
        print("out", file=sys.stdout)
        print("err", file=sys.stderr)
    assert other.getvalue() == "kept\n"
    assert texts == ["out", "err"]
    assert capsys.readouterr() == ("", "")


def test_stdout_is_what_it_is_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    replaced = io.StringIO()
    with captured(texts.append):
        monkeypatch.setattr(sys, "stdout", replaced)
        print("redirected", file=replaced)
    assert texts == ["redirected"]


def test_a_wrong_print_raises_what_print_raises() -> None:
    wrong: Any = print
    with captured(lambda _: None):
        wrong = print
        with pytest.raises(TypeError, match="sep must be None or a string"):
            wrong("a", sep=3)
        with pytest.raises(TypeError, match="colour"):
            wrong("a", colour="red")


def test_a_sink_that_prints_does_not_call_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with captured(lambda text: print(f"[{text}]")):
        print("once")
    assert capsys.readouterr().out == "[once]\n"


def test_captures_nest_and_none_ends_one_inside(capsys: pytest.CaptureFixture[str]) -> None:
    outer: list[str] = []
    inner: list[str] = []
    with captured(outer.append):
        with captured(inner.append):
            print("inner")
        with captured(None):
            print("plain")
        print("outer")
    assert (inner, outer) == (["inner"], ["outer"])
    assert capsys.readouterr().out == "plain\n"


def test_a_capture_ends_with_an_exception_too() -> None:
    with pytest.raises(KeyError), captured(lambda _: None):
        raise KeyError
    assert builtins.print is REAL_PRINT


def test_a_capture_is_entered_once() -> None:
    capture = captured(lambda _: None)
    with capture, pytest.raises(RuntimeError, match="entered once"), capture:
        pass


def test_seed_019_captures_that_overlap_in_threads_do_not_leak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The overlap that leaves Prefect's patch in place: the first begins, the second begins, the
    # first ends, the second ends.
    steps = [threading.Event() for _ in range(3)]
    texts: dict[str, list[str]] = {"first": [], "second": []}

    def first() -> None:
        with captured(texts["first"].append):
            steps[0].set()
            assert steps[1].wait(5)
            print("first, while both are active")
        print("first, after its end")
        steps[2].set()

    def second() -> None:
        assert steps[0].wait(5)
        with captured(texts["second"].append):
            steps[1].set()
            assert steps[2].wait(5)
            print("second, after the first has ended")

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {
        "first": ["first, while both are active"],
        "second": ["second, after the first has ended"],
    }
    assert capsys.readouterr().out == "first, after its end\n"
    assert builtins.print is REAL_PRINT


def test_threads_that_begin_and_end_at_once_leave_print_as_it_was() -> None:
    barrier = threading.Barrier(8)
    texts: list[list[str]] = [[] for _ in range(8)]

    def work(number: int) -> None:
        barrier.wait(5)
        for turn in range(200):
            with captured(texts[number].append):
                print(number, turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [[f"{number} {turn}" for turn in range(200)] for number in range(8)]


def test_coroutines_side_by_side_print_to_their_own_sinks() -> None:
    texts: dict[str, list[str]] = {"a": [], "b": []}

    async def work(name: str) -> None:
        with captured(texts[name].append):
            for turn in range(3):
                print(name, turn)
                await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())
    assert texts == {"a": ["a 0", "a 1", "a 2"], "b": ["b 0", "b 1", "b 2"]}


def test_seed_019_work_that_carries_the_context_prints_to_the_same_sink() -> None:
    texts: list[str] = []
    with captured(texts.append):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(print, "from a thread"))
        thread.start()
        thread.join()
    assert texts == ["from a thread"]


def test_a_print_that_somebody_put_over_ours_stays(capsys: pytest.CaptureFixture[str]) -> None:
    texts: list[str] = []
    try:
        with captured(texts.append):
            ours: Any = builtins.print

            def theirs(*values: Any, **options: Any) -> None:
                ours("theirs:", *values, **options)

            builtins.print = theirs
            print("during")
        assert builtins.print is theirs
        print("after")
        with captured(texts.append):
            print("again")
        print("at last")
        assert builtins.print is theirs
    finally:
        builtins.print = REAL_PRINT
    assert texts == ["theirs: during", "again"]
    assert capsys.readouterr().out == "theirs: after\ntheirs: at last\n"


def test_print_as_an_argument_travels_to_another_process_as_pythons_own() -> None:
    with captured(lambda _: None):
        sent = [pickle.dumps(print), cloudpickle.dumps(print)]
    assert all(pickle.loads(one) is REAL_PRINT for one in sent)
