"""Runs as another process sees them: what stands for the driver's there, and what comes back."""

from __future__ import annotations

import pickle
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.context import current_run
from penstock.remote_runs import Parameters, description_of, revived, standing_in
from penstock.worker.here import Here, Own

if TYPE_CHECKING:
    from penstock.runs import Run

TASK_ID, FLOW_ID, ROOT_ID, PARENT_ID, INPUT_ID = (uuid.uuid4().int for _ in range(5))


def here_of(**flow_fields: Any) -> Here:
    flow_run = {
        "id": FLOW_ID,
        "name": "the-flow-run",
        "flow_name": "the-flow",
        "version": "3",
        "tags": ("f",),
        "log_prints": False,
        "run_count": 2,
        "at": 12.5,
        "scheduled_at": None,
        "parent_id": None,
        "root_id": FLOW_ID,
        "parameters": {"a": pickle.dumps([1]), "b": "it is too large"},
        "options": {"persist_result": pickle.dumps(True)},
        **flow_fields,
    }
    shared = {"name": "work", "tags": ("t",), "log_prints": True, "flow_run": flow_run}
    own = Own(TASK_ID, "work-4", 3, 4, (("x", (INPUT_ID,)),), (("GPU", 1.0, (0,)),))
    here = Here(shared, tuple(own), lambda record: None)
    here.call = (lambda x, y=2, *rest: None), (1,), {}
    return here


# --- there --------------------------------------------------------------------------------


def test_the_stand_in_answers_what_code_may_ask() -> None:
    here = here_of()
    run = standing_in(here)
    assert run is standing_in(here), "always the same one"
    assert (run.id.int, run.name, run.task_name) == (TASK_ID, "work-4", "work")
    assert (run.run_count, run.number, run.tags) == (3, 4, frozenset({"t"}))
    assert run.state.is_running()
    assert run.parameters == {"x": 1, "y": 2, "rest": ()}
    assert [one.id.int for one in run.task_inputs["x"]] == [INPUT_ID]
    assert run.plan.log_prints
    assert run.engine is None


def test_so_does_that_of_the_flow_run_around() -> None:
    run = standing_in(here_of()).flow_run
    assert run is not None
    assert (run.id.int, run.name, run.flow_name) == (FLOW_ID, "the-flow-run", "the-flow")
    assert (run.run_count, run.tags) == (2, frozenset({"f"}))
    assert run.root is run
    assert getattr(run.flow, "options") == {"persist_result": True}  # noqa: B009
    assert run.parameters["a"] == [1]
    with pytest.raises(KeyError, match="parameter 'b' is not here: it is too large"):
        run.parameters["b"]


@pytest.mark.parametrize("parent", [ROOT_ID, PARENT_ID], ids=["root", "parent"])
def test_of_the_runs_further_out_the_ids_are_known(parent: int) -> None:
    run = standing_in(here_of(parent_id=parent, root_id=ROOT_ID)).flow_run
    assert run is not None
    assert run.flow_run is not None
    assert run.flow_run.id.int == parent
    assert run.root.id.int == ROOT_ID


def test_a_run_outside_of_any_flow_has_none() -> None:
    here = here_of()
    here.shared = {"name": "work", "flow_run": None}
    assert standing_in(here).flow_run is None


def test_a_parameter_that_there_is_not_is_just_missing() -> None:
    with pytest.raises(KeyError, match="'c'"):
        Parameters({})["c"]


# --- back ---------------------------------------------------------------------------------


class Refused(Exception):
    pass


@pytest.fixture
def made() -> list[Run]:
    """Some runs inside of each other, the innermost first, and the one around them last."""
    runs: list[Run] = []

    def note() -> None:
        run = current_run()
        assert run is not None
        runs.append(run)

    @task(tags=["deep"])
    def inner() -> None:
        note()
        raise Refused("no")

    @flow(flow_run_name="sub")
    def sub() -> None:
        inner(return_state=True)
        note()

    @task
    def outer() -> None:
        sub()
        note()

    outer()
    return runs


def test_a_run_is_the_same_after_the_journey_but_for_its_value(made: list[Run]) -> None:
    inner, sub, outer = made
    described = pickle.loads(pickle.dumps([description_of(run) for run in (inner, sub)]))
    again = list(revived(described, outer))
    for one, original in zip(again, (inner, sub), strict=True):
        assert one.id == original.id
        assert one.name == original.name
        assert one.plan.name == original.plan.name
        assert one.tags == original.tags
        assert one.is_flow_run == original.is_flow_run
        assert one.run_count == original.run_count
        assert one.seen == original.seen
        assert [str(state) for state in one.states] == [str(state) for state in original.states]
        assert [state.at for state in one.states] == [state.at for state in original.states]
    assert isinstance(again[0].state.exception(), Refused)


def test_runs_are_put_inside_of_each_other_again(made: list[Run]) -> None:
    inner, sub, outer = made
    again_inner, again_sub = revived([description_of(inner), description_of(sub)], outer)
    assert again_sub.parent is outer
    assert again_inner.parent is again_sub
    assert again_inner.flow_run is again_sub


def test_a_run_whose_parent_is_not_known_belongs_to_the_attempts_run(made: list[Run]) -> None:
    inner, _, outer = made
    (again,) = revived([description_of(inner)], outer)
    assert again.parent is outer
