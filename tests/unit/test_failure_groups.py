"""Promises of the end summary: equal failures are counted together, in bounded memory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from penstock.exceptions import UpstreamTaskError, WorkerLost
from penstock.failure_groups import MOST_GROUPS, MOST_LINES, FailureGroups
from penstock.states import Crashed, Failed, UpstreamFailed

if TYPE_CHECKING:
    from penstock.states import State


def groups(*ends: tuple[str, State[object]]) -> FailureGroups:
    found = FailureGroups()
    for name, state in ends:
        found.note(name, state)
    return found


def failed(error: BaseException) -> State[object]:
    return Failed(data=error)


def test_equal_failures_are_counted_and_the_first_is_named() -> None:
    found = groups(*((f"load-{number}", failed(ValueError("no"))) for number in range(12, 49)))
    assert found.lines() == ["37 x ValueError: no, first 'load-12'"]


def test_what_failed_alone_is_not_told_again() -> None:
    assert groups(("a", failed(ValueError("1"))), ("b", failed(ValueError("2")))).lines() == []
    assert groups().lines() == []


def test_the_largest_group_comes_first_then_the_one_that_began_first() -> None:
    ends = [ValueError("a"), TypeError("a"), ValueError("b"), ValueError("b"), ValueError("b")]
    found = groups(*((f"x-{n}", failed(error)) for n, error in enumerate([*ends, *ends[:2]])))
    assert found.lines() == [
        "3 x ValueError: b, first 'x-2'",
        "2 x ValueError: a, first 'x-0'",
        "2 x TypeError: a, first 'x-1'",
    ]


def test_the_first_line_of_a_text_is_what_counts() -> None:
    errors = [ValueError("bad row\n17"), ValueError("bad row\n18"), KeyError(), KeyError()]
    found = groups(*(("x", failed(error)) for error in errors))
    assert found.lines() == ["2 x ValueError: bad row, first 'x'", "2 x KeyError, first 'x'"]


def test_a_long_text_is_cut() -> None:
    found = groups(*(("x", failed(ValueError("y" * 1000 + str(n)))) for n in range(2)))
    (line,) = found.lines()
    assert len(line) < 250


def test_lost_workers_count_as_equal_when_they_died_of_the_same() -> None:
    ends = [
        (
            f"x-{n}",
            Crashed(data=WorkerLost(f"Attempt 1 of 'x-{n}' was lost on worker {n}: SIGKILL")),
        )
        for n in range(3)
    ]
    assert groups(*ends).lines() == ["3 x WorkerLost: SIGKILL, first 'x-0'"]


def test_failures_of_inputs_are_one_group_whatever_they_say() -> None:
    ends = [(f"x-{n}", UpstreamFailed(f"{n}", UpstreamTaskError(f"{n}"))) for n in range(3)]
    assert groups(*ends).lines() == ["3 x UpstreamFailed, first 'x-0'"]


def test_an_exception_whose_text_cannot_be_had_is_counted_too() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    found = groups(*(("x", failed(Silent())) for _ in range(2)))
    assert found.lines() == ["2 x Silent: (its text cannot be had: RuntimeError), first 'x'"]


def test_texts_that_all_differ_take_no_more_memory_from_some_number_on() -> None:
    found = FailureGroups()
    for number in range(10_000):
        found.note(f"x-{number}", failed(ValueError(str(random.Random(number).random()))))
    assert len(found._groups) <= MOST_GROUPS + 1
    assert found.lines() == [
        f"{10_000 - MOST_GROUPS} x ValueError: (of many texts), first 'x-{MOST_GROUPS}'"
    ]


def test_of_many_groups_the_largest_are_told_and_the_others_are_counted() -> None:
    found = FailureGroups()
    for number in range(MOST_LINES + 3):
        for _ in range(2):
            found.note("x", failed(ValueError(str(number))))
    lines = found.lines()
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "6 more failures in 3 more groups of equal ones"
