"""Promises of the ledger: values are known by identity, in bounded memory."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from penstock.engine.lineage import Ledger

MAKER: Any = object()
OTHER: Any = object()


class Table:
    """A value that takes weak references."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table)

    __hash__ = None  # type: ignore[assignment]  # as numpy's arrays and pandas' tables


@pytest.mark.parametrize("value", [Table(), [1], {"a": 1}, {1}, ("a", [1]), "text", b"bytes"])
def test_a_result_is_known_by_its_maker(value: Any) -> None:
    ledger = Ledger()
    ledger.note_result(value, MAKER)
    assert ledger.maker(value) is MAKER


@pytest.mark.parametrize("value", [1, 1.5, True, None, ..., 1j, int, range(3)])
def test_values_that_are_often_one_object_prove_nothing(value: Any) -> None:
    ledger = Ledger()
    ledger.note_result(value, MAKER)
    assert ledger.maker(value) is None
    assert ledger.is_empty()


def test_an_equal_value_is_another_value() -> None:
    ledger = Ledger()
    table, values = Table(), [1]
    ledger.note_result(table, MAKER)
    ledger.note_result(values, MAKER)
    assert ledger.maker(Table()) is None
    assert ledger.maker([1]) is None


def test_the_last_run_that_returned_an_object_is_its_maker() -> None:
    ledger = Ledger()
    for value in (Table(), [1]):
        ledger.note_result(value, OTHER)
        ledger.note_result(value, MAKER)
        assert ledger.maker(value) is MAKER


def test_an_object_that_is_gone_is_forgotten() -> None:
    ledger = Ledger()
    value = Table()
    ledger.note_result(value, MAKER)
    del value
    gc.collect()
    assert ledger.is_empty()


def test_of_lists_and_the_like_the_last_sixteen_are_known() -> None:
    ledger = Ledger()
    values = [[number] for number in range(20)]
    for value in values:
        ledger.note_result(value, MAKER)
    known = [ledger.maker(value) is MAKER for value in values]
    assert known == [False] * 4 + [True] * 16


@pytest.mark.parametrize("value", [1, None, "text", Table()])
def test_what_a_generator_yields_is_known_whatever_it_is(value: Any) -> None:
    ledger = Ledger()
    ledger.note_yield(value, MAKER)
    assert ledger.maker(value) is MAKER


def test_what_a_generator_has_yielded_is_forgotten_when_it_goes_on() -> None:
    ledger = Ledger()
    ledger.note_yield(1, MAKER)
    ledger.note_end(MAKER)
    assert ledger.maker(1) is None
    assert ledger.is_empty()


def test_a_generator_that_was_never_known_may_end() -> None:
    Ledger().note_end(MAKER)


def test_a_fresh_ledger_knows_nothing() -> None:
    assert Ledger().is_empty()
    assert Ledger().maker([1]) is None
