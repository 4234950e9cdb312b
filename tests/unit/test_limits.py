"""Promises of limits: all places of a run or none, in order, and all given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.limits import Limits, Owner, TaskLimit


def a_run(*tags: Any, parent: Any = None) -> Any:
    # Runs are compared by identity; a namespace would be compared by content.
    return type("Run", (), {"plan": SimpleNamespace(limits=tags), "parent": parent})()


def test_a_run_shares_the_places_of_the_runs_around_it() -> None:
    limits = Limits({"db": 1, "api": 1})
    outer = a_run("db")
    assert limits.acquire(outer)
    inner = a_run("db", "api", parent=a_run(parent=outer))
    assert limits.acquire(inner), "or outer, which waits for inner, would hold it up for ever"
    assert not limits.acquire(a_run("api")), "what outer has no place for is taken"
    assert limits.release(inner) != []
    assert not limits.acquire(a_run("db")), "outer has its place still"


def test_only_limits_are_of_interest() -> None:
    limits = Limits({"db": 1, "api": 2})
    assert limits.limited(frozenset({"db", "nightly", "api"})) == ("api", "db")


def test_places_are_had_up_to_the_limit() -> None:
    limits = Limits({"db": 2})
    assert [limits.acquire(a_run("db")) for _ in range(3)] == [True, True, False]


def test_a_released_place_goes_to_the_first_in_line() -> None:
    limits = Limits({"db": 1})
    first, second, third = (a_run("db") for _ in range(3))
    for run in (first, second, third):
        limits.acquire(run)
    assert limits.release(first) == [second]
    assert limits.release(second) == [third]
    assert limits.release(third) == []


def test_a_run_of_two_tags_takes_both_places_or_none() -> None:
    limits = Limits({"db": 1, "api": 1})
    holds_db = a_run("db")
    limits.acquire(holds_db)
    assert not limits.acquire(a_run("db", "api"))
    assert limits.acquire(a_run("api"))


def test_a_run_of_two_tags_gives_both_places_back() -> None:
    limits = Limits({"db": 1, "api": 1})
    both = a_run("db", "api")
    limits.acquire(both)
    waiting = [a_run("db"), a_run("api")]
    for run in waiting:
        limits.acquire(run)
    assert limits.release(both) == waiting


def test_whoever_needs_a_tag_that_is_free_does_not_wait_for_others() -> None:
    limits = Limits({"db": 1, "api": 1})
    first = a_run("db")
    limits.acquire(first)
    limits.acquire(a_run("db", "api"))
    assert limits.acquire(a_run("api"))


def test_to_release_what_is_not_held_changes_nothing() -> None:
    limits = Limits({"db": 1})
    limits.acquire(a_run("db"))
    assert limits.release(a_run("db")) == []
    assert not limits.acquire(a_run("db"))


def test_a_place_is_released_once() -> None:
    limits = Limits({"db": 1})
    first = a_run("db")
    limits.acquire(first)
    limits.release(first)
    limits.release(first)
    assert limits.acquire(a_run("db"))
    assert not limits.acquire(a_run("db"))


def test_who_withdraws_from_the_line_gets_no_place() -> None:
    limits = Limits({"db": 1})
    first, second, third = (a_run("db") for _ in range(3))
    for run in (first, second, third):
        limits.acquire(run)
    assert limits.withdraw(second)
    assert limits.release(first) == [third]


def test_who_does_not_stand_in_line_cannot_withdraw() -> None:
    limits = Limits({"db": 1})
    first = a_run("db")
    limits.acquire(first)
    assert not limits.withdraw(first)


def test_who_has_withdrawn_stands_in_no_line_any_more() -> None:
    limits = Limits({"db": 1, "api": 1})
    first, second = a_run("db", "api"), a_run("db", "api")
    limits.acquire(first)
    limits.acquire(second)
    assert limits.has_waiting()
    assert limits.withdraw(second)
    assert not limits.has_waiting()


def test_of_two_lines_the_one_who_came_first_is_admitted_first() -> None:
    limits = Limits({"db": 1, "api": 1})
    both = a_run("api", "db")
    limits.acquire(both)
    only_db, needs_both, only_api = a_run("db"), a_run("db", "api"), a_run("api")
    for run in (only_db, needs_both, only_api):
        limits.acquire(run)
    assert limits.release(both) == [only_db, only_api]
    assert limits.release(only_db) == []
    assert limits.release(only_api) == [needs_both]


def test_who_shared_a_place_that_was_given_back_needs_its_own() -> None:
    limits = Limits({"db": 1, "api": 1})
    outer, other = a_run("db"), a_run("api")
    limits.acquire(outer)
    limits.acquire(other)
    inner = a_run("db", "api", parent=outer)
    assert not limits.acquire(inner)
    next_one = a_run("db")
    assert not limits.acquire(next_one)
    assert limits.release(outer) == [next_one]
    assert limits.release(other) == [], "the place that inner shared is somebody else's now"
    assert limits.release(next_one) == [inner]


def test_the_limit_of_a_task_stands_beside_those_of_its_tags() -> None:
    limits = Limits({"db": 3})
    own = TaskLimit(2, Owner(len))
    limits.add(own)
    runs = [a_run("db", own) for _ in range(3)]
    assert [limits.acquire(run) for run in runs] == [True, True, False]
    assert limits.acquire(a_run("db"))
    assert limits.release(runs[0]) == [runs[2]]


def test_copies_of_a_task_share_its_limit_and_equal_functions_do_not() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    first, second = Equal(), Equal()
    assert TaskLimit(2, Owner(first)) == TaskLimit(2, Owner(first))
    assert len({TaskLimit(2, Owner(each)) for each in (first, first, second)}) == 2
    assert TaskLimit(2, Owner(first)) != TaskLimit(3, Owner(first))


def test_a_limit_that_is_added_again_keeps_its_count() -> None:
    limits = Limits({})
    own = TaskLimit(1, Owner(len))
    limits.add(own)
    assert limits.acquire(a_run(own))
    limits.add(TaskLimit(1, Owner(len)))
    assert not limits.acquire(a_run(own))


TAGS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True).map(tuple)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 3), min_size=3),
    st.lists(TAGS, max_size=20),
    st.randoms(use_true_random=False),
)
def test_no_limit_is_ever_exceeded_and_everybody_has_a_turn(
    sizes: dict[str, int], wanted: list[tuple[str, ...]], rng: Any
) -> None:
    limits = Limits(sizes)
    runs = [a_run(*tags) for tags in wanted]
    holding = [run for run in runs if limits.acquire(run)]
    served = list(holding)
    while holding:
        for tag, size in sizes.items():
            assert sum(tag in run.plan.limits for run in holding) <= size
        over = holding.pop(rng.randrange(len(holding)))
        admitted = limits.release(over)
        holding += admitted
        served += admitted
    assert set(map(id, served)) == set(map(id, runs))
