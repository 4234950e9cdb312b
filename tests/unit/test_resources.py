"""Promises of the account of resources: who has how much of what, which, and who goes next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.resources import MOST_INDICES, Place, Resources


class Bench:
    """An account, and runs in the order in which they are made."""

    def __init__(self, **totals: float) -> None:
        self.account = Resources(totals)
        self.number = 0
        self.places: dict[Any, Place] = {}

    def ask(self, priority: int = 0, parent: Any = None, **needs: float) -> Any:
        """A run that asks for what it needs; it has it, if that is what its `resources` say."""
        run = self.a_run(parent, **needs)
        self.number += 1
        self.places[run] = (-priority, self.number, run)
        self.account.acquire(self.places[run])
        return run

    def a_run(self, parent: Any = None, **needs: float) -> Any:
        plan = SimpleNamespace(resources=needs)
        names = {"plan": plan, "parent": parent, "resources": {}, "is_flow_run": False}
        return type("Run", (), names)()

    def end(self, run: Any) -> list[Any]:
        """The runs that have what they need since this one has ended."""
        self.account.release(run)
        found = self.account.freed()
        assert all(self.account.acquire(place) for place in found)
        return [place[2] for place in found]


def test_a_whole_amount_is_so_many_indices_the_lowest_that_are_free() -> None:
    bench = Bench(GPU=4)
    first, second, third = bench.ask(GPU=1), bench.ask(GPU=2), bench.ask(GPU=1)
    assert [run.resources for run in (first, second, third)] == [
        {"GPU": (0,)},
        {"GPU": (1, 2)},
        {"GPU": (3,)},
    ]
    bench.end(second)
    assert second.resources == {}
    assert bench.ask(GPU=1).resources == {"GPU": (1,)}


def test_there_is_never_more_than_there_is() -> None:
    bench = Bench(GPU=2)
    first, second, third = (bench.ask(GPU=1) for _ in range(3))
    assert third.resources == {}
    assert bench.end(first) == [third]
    assert third.resources == {"GPU": (0,)}
    assert bench.end(second) == []


def test_who_fits_beside_one_that_waits_for_something_else_goes_on() -> None:
    bench = Bench(GPU=1, memory=10, disk=5)
    bench.ask(GPU=1)
    bench.ask(GPU=1, memory=4)
    assert bench.ask(disk=1).resources == {"disk": (0,)}
    assert bench.ask(memory=7).resources == {}, "one before it waits, and needs some of that"


def test_what_the_runner_does_not_list_is_not_counted() -> None:
    bench = Bench(GPU=1)
    assert bench.account.acquire((0, 1, bench.a_run(disk=1)))
    assert bench.ask(GPU=1, disk=7).resources == {"GPU": (0,)}


def test_one_that_needs_much_is_not_overtaken_by_many_that_need_little() -> None:
    bench = Bench(GPU=2)
    first, second = bench.ask(GPU=1), bench.ask(GPU=1)
    large = bench.ask(GPU=2)
    small = [bench.ask(GPU=1) for _ in range(3)]
    assert bench.end(first) == []
    assert bench.ask(GPU=1).resources == {}, "one is free, and is kept for the large one"
    assert bench.end(second) == [large]
    assert bench.end(large) == small[:2]


def test_a_higher_priority_goes_before_those_who_wait() -> None:
    bench = Bench(GPU=1)
    first = bench.ask(GPU=1)
    low, high = bench.ask(GPU=1), bench.ask(priority=5, GPU=1)
    assert bench.end(first) == [high]
    assert bench.end(high) == [low]


def test_who_may_ask_again_can_lose_it_to_a_higher_priority_and_keeps_its_turn() -> None:
    bench = Bench(GPU=1)
    first, second, third = (bench.ask(GPU=1) for _ in range(3))
    bench.account.release(first)
    (place,) = bench.account.freed()
    assert place[2] is second
    high = bench.ask(priority=1, GPU=1)
    assert high.resources == {"GPU": (0,)}
    assert not bench.account.acquire(place)
    assert bench.end(high) == [second]
    assert bench.end(second) == [third]


def test_a_run_that_withdraws_lets_those_behind_it_go() -> None:
    bench = Bench(GPU=2)
    bench.ask(GPU=1)
    large, small = bench.ask(GPU=2), bench.ask(GPU=1)
    assert bench.account.withdraw(large)
    assert not bench.account.withdraw(large)
    assert [place[2] for place in bench.account.freed()] == [small]


def test_fractions_add_up_to_one_and_have_no_indices() -> None:
    bench = Bench(GPU=1)
    runs = [bench.ask(GPU=0.1) for _ in range(10)]
    assert all(run.resources == {"GPU": ()} for run in runs)
    waiting = bench.ask(GPU=1)
    assert waiting.resources == {}
    for run in runs[:-1]:
        assert bench.end(run) == []
    assert bench.end(runs[-1]) == [waiting]
    assert waiting.resources == {"GPU": (0,)}


@pytest.mark.parametrize("total", [1.5, MOST_INDICES + 1])
def test_of_a_broken_or_a_huge_total_there_are_no_indices(total: float) -> None:
    assert Bench(memory=total).ask(memory=1).resources == {"memory": ()}


def test_a_run_shares_what_the_runs_around_it_have_and_takes_the_rest() -> None:
    bench = Bench(GPU=3)
    outer = bench.ask(GPU=2)
    between = bench.a_run(parent=outer)
    inner = bench.ask(parent=between, GPU=1)
    assert inner.resources == {"GPU": (0,)}
    larger = bench.ask(parent=between, GPU=3)
    assert larger.resources == {"GPU": (0, 1, 2)}
    assert bench.end(larger) == []
    assert bench.end(inner) == []
    assert bench.ask(GPU=1).resources == {"GPU": (2,)}
    assert bench.ask(GPU=1).resources == {}, "outer has its own still"


def test_a_run_inside_of_another_goes_before_those_who_wait_outside() -> None:
    bench = Bench(GPU=1, memory=1)
    holder = bench.ask(memory=1)
    bench.ask(GPU=1, memory=1)  # is kept the GPU for, until holder ends
    inner = bench.ask(parent=holder, GPU=1)
    assert inner.resources == {"GPU": (0,)}, "or holder, which waits for it, would never end"


def test_to_release_what_is_not_held_changes_nothing() -> None:
    bench = Bench(GPU=1)
    stranger = bench.a_run(GPU=1)
    bench.account.release(stranger)
    bench.ask(GPU=1)
    assert bench.ask(GPU=1).resources == {}


def test_of_a_broken_runner_everybody_is_told() -> None:
    bench = Bench(GPU=1)
    bench.ask(GPU=1)
    waiting = [bench.ask(GPU=1) for _ in range(3)]
    assert [place[2] for place in bench.account.give_up()] == waiting
    assert not bench.account.has_waiting()
    assert bench.account.freed() == []


NEEDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 3), min_size=1)


@given(
    st.fixed_dictionaries({name: st.integers(3, 5) for name in ("a", "b", "c")}),
    st.lists(st.tuples(NEEDS, st.integers(-1, 1)), max_size=25),
    st.randoms(use_true_random=False),
)
def test_nothing_is_given_twice_and_everybody_has_a_turn(
    totals: dict[str, int], wanted: list[tuple[dict[str, int], int]], rng: Any
) -> None:
    bench = Bench(**totals)
    runs = [bench.ask(priority, **needs) for needs, priority in wanted]
    holding = [run for run in runs if run.resources]
    served = list(holding)
    while holding:
        for name, total in totals.items():
            given_out = [index for run in holding for index in run.resources.get(name, ())]
            assert len(given_out) == len(set(given_out)) <= total
            assert all(
                len(run.resources.get(name, ())) == run.plan.resources.get(name, 0)
                for run in holding
            )
        admitted = bench.end(holding.pop(rng.randrange(len(holding))))
        holding += admitted
        served += admitted
    assert set(map(id, served)) == set(map(id, runs))
    assert not bench.account.has_waiting()
