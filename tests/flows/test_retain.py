"""What futures keep of results that were read: users row 10."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest

from penstock import PenstockFuture, as_completed, flow, task
from penstock.exceptions import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable


class Block:
    """Something large."""


@task
def make(x: int) -> Block:
    return Block()


@task
def kind_of(block: Block) -> str:
    return type(block).__name__


light = make.with_options(retain="states")


def all_at_once(futures: list[PenstockFuture[Block]]) -> list[Any]:
    return [weakref.ref(future.result()) for future in futures]


def as_they_come(futures: list[PenstockFuture[Block]]) -> list[Any]:
    return [weakref.ref(future.result()) for future in as_completed(futures)]


@pytest.mark.parametrize("read", [all_at_once, as_they_come])
@pytest.mark.parametrize(("chosen", "are_kept"), [(make, True), (light, False)])
def test_user_010_results_that_were_read_are_let_go_and_states_kept(
    read: Callable[[Any], list[Any]], chosen: Any, are_kept: bool
) -> None:
    @flow(task_runner="thread:2")
    def main() -> None:
        futures = list(chosen.map(range(20)))
        references = read(futures)
        assert [reference() is not None for reference in references] == [are_kept] * 20
        assert all(future.state.is_completed() for future in futures)

    main()


def test_a_list_of_results_lets_go_of_each_as_well() -> None:
    @flow(task_runner="inline")
    def main() -> None:
        futures = light.map(range(3))
        assert [type(block) for block in futures.result()] == [Block] * 3
        with pytest.raises(LookupError, match=r"'make-0' was read.*retain='states'"):
            futures[0].result()

    main()


def test_what_nobody_has_read_is_a_good_argument_and_stays_one(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> list[str]:
        future = light.submit(1)
        return [kind_of.submit(future).result(), kind_of.submit(future).result()]

    assert main() == ["Block", "Block"]


def test_what_is_read_from_storage_can_be_read_again() -> None:
    stored = make.with_options(retain="states", persist_result=True, cache_result_in_memory=False)

    @flow(task_runner="thread:1")
    def main() -> None:
        future = stored.submit(1)
        assert type(future.result()) is type(future.result()) is Block

    main()


def test_another_word_is_refused() -> None:
    with pytest.raises(DefinitionError, match="retain is 'results' or 'states', not 'nothing'"):
        make.with_options(retain="nothing")  # type: ignore[arg-type]  # the point
