"""Promises of deadlines in threads that get no signals: met once, and nothing left behind."""

from __future__ import annotations

import cProfile
from typing import TYPE_CHECKING

import pytest

from penstock.engine.deadlines import thread_deadline
from penstock.engine.interrupts import Deadline, DeadlineReached

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Stands for the loop: rings when the test says so."""

    def __init__(self) -> None:
        self.ring: Callable[[], None] = lambda: None

    def call_later(self, seconds: float, fn: Callable[[], None]) -> None:
        self.ring = fn


def spin(bell: Bell) -> None:
    bell.ring()
    while True:
        pass


def nothing() -> None:
    pass


def test_a_deadline_interrupts_the_code_in_its_block() -> None:
    bell = Bell()
    with pytest.raises(DeadlineReached), thread_deadline(Deadline(1.0), bell.call_later):
        spin(bell)


def test_a_deadline_that_was_not_reached_rings_in_vain() -> None:
    bell = Bell()
    deadline = Deadline(1.0)
    with thread_deadline(deadline, bell.call_later):
        pass
    bell.ring()
    assert not deadline.reached


def test_a_deadline_leaves_nothing_behind_that_hangs_a_profiler() -> None:
    bell = Bell()
    with pytest.raises(DeadlineReached), thread_deadline(Deadline(1.0), bell.call_later):
        spin(bell)
    cProfile.Profile().runcall(nothing)
