"""Promises of `penstock.engine.arguments`: binding, finding futures, putting their values."""

from __future__ import annotations

import collections
import inspect
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from penstock.annotations import allow_failure, opaque, quote, unmapped
from penstock.engine.arguments import (
    compile_binder,
    find_runs,
    look_through,
    put_values,
    tolerated,
    upstream_problem,
)
from penstock.engine.lineage import Ledger
from penstock.exceptions import UpstreamTaskError
from penstock.futures import PenstockFuture, PenstockFutureList
from penstock.retries import RetryPolicy
from penstock.runs import FlowRun, Plan, TaskRun, made_at
from penstock.states import Cancelled, Completed, Crashed, Failed, Running, State, advance

KIND = inspect.Parameter
PLAN = Plan(
    subject=None,
    name="fetch",
    tags=frozenset(),
    retries=RetryPolicy.of(0),
    crash_retries=0,
    timeout_seconds=None,
    log_prints=False,
    hooks={},
    handlers=[],
    run_name=None,
    retry_condition=None,
    is_async=False,
    is_generator=False,
)


def a_run(end: State[Any] | None = None, *, number: int = 0, upstream: Any = ()) -> TaskRun:
    run = TaskRun(PLAN, None, None, None, (), {}, made_at(1.0), number)
    run.upstream = list(upstream)
    if end is not None:
        advance(run, Running(), 1.0)
        advance(run, end, 1.0)
    return run


def a_future(value: Any) -> PenstockFuture[Any]:
    return PenstockFuture(a_run(Completed(value)))


# --- binding ----------------------------------------------------------------------------


@st.composite
def signatures(draw: st.DrawFn) -> inspect.Signature:
    names = iter(["a", "b", "c", "d", "e", "f", "args", "kwargs", "_default_a", "call"])
    parameters: list[inspect.Parameter] = []
    may_lack_default = True
    for kind in (KIND.POSITIONAL_ONLY, KIND.POSITIONAL_OR_KEYWORD):
        for _ in range(draw(st.integers(0, 2))):
            has_default = not may_lack_default or draw(st.booleans())
            may_lack_default = not has_default
            default = draw(st.integers()) if has_default else KIND.empty
            parameters.append(KIND(next(names), kind, default=default))
    if draw(st.booleans()):
        parameters.append(KIND("args", KIND.VAR_POSITIONAL))
    for _ in range(draw(st.integers(0, 2))):
        default = draw(st.one_of(st.just(KIND.empty), st.integers()))
        parameters.append(KIND(next(names), KIND.KEYWORD_ONLY, default=default))
    if draw(st.booleans()):
        parameters.append(KIND("kwargs", KIND.VAR_KEYWORD))
    return inspect.Signature(parameters)


CALLS = st.tuples(
    st.lists(st.integers(), max_size=5),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e", "x", "args", "kwargs"]), st.text()),
)


def bound(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any] | None:
    try:
        arguments = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    arguments.apply_defaults()
    return dict(arguments.arguments)


def signature_of(fn: Any) -> inspect.Signature:
    return inspect.signature(fn)


@example(signature_of(lambda *, a, b=1: 0), ([], {"a": "x"}))
@given(signatures(), CALLS)
def test_a_compiled_binder_binds_as_inspect_does(
    signature: inspect.Signature, call: tuple[list[Any], dict[str, Any]]
) -> None:
    args, kwargs = call
    # `Signature.bind` of Python 3.11 refuses `f(a=1)` for `f(a=0, /, **kwargs)`, which is legal.
    only = {n for n, p in signature.parameters.items() if p.kind is KIND.POSITIONAL_ONLY}
    assume(not only & kwargs.keys() or "kwargs" not in signature.parameters)
    binder = compile_binder(signature, "work")
    expected = bound(signature, args, kwargs)
    if expected is None:
        with pytest.raises(TypeError):
            binder(*args, **kwargs)
    else:
        assert binder(*args, **kwargs) == expected


def test_a_positional_only_name_is_free_for_other_keywords() -> None:
    binder = compile_binder(signature_of(lambda a=0, /, **kwargs: 0), "work")
    assert binder(a=1) == {"a": 0, "kwargs": {"a": 1}}


@given(signatures())
def test_bound_parameters_come_in_the_order_of_the_signature(signature: inspect.Signature) -> None:
    args = [0] * sum(
        p.kind in (KIND.POSITIONAL_ONLY, KIND.POSITIONAL_OR_KEYWORD)
        for p in signature.parameters.values()
    )
    kwargs = {n: 0 for n, p in signature.parameters.items() if p.kind is KIND.KEYWORD_ONLY}
    assert list(compile_binder(signature, "work")(*args, **kwargs)) == list(signature.parameters)


@pytest.mark.parametrize("name", ["fetch", "<lambda>", "class", "my task", "é", "print", "a"])
def test_a_wrong_call_names_the_function_whatever_its_name(name: str) -> None:
    binder = compile_binder(signature_of(lambda a: 0), name)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'") as caught:
        binder()
    assert str(caught.value).startswith(name)


def test_defaults_are_the_very_objects() -> None:
    default: list[int] = []
    binder = compile_binder(signature_of(lambda a=default: 0), "work")
    assert binder()["a"] is default


# --- finding runs -----------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


class Own:
    """An object of a user's, with a future inside that is none of our business."""

    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda future: future,
        lambda future: [1, future],
        lambda future: (future,),
        lambda future: {future},
        lambda future: frozenset({future}),
        lambda future: {"key": future},
        lambda future: Pair(1, future),
        lambda future: [{"key": ({"inner": [future]},)}],
        lambda future: PenstockFutureList([future]),
        lambda future: collections.defaultdict(list, key=future),
        allow_failure,
        unmapped,
        lambda future: [allow_failure([future])],
    ],
)
def test_a_future_is_found_in_plain_containers_and_under_marks(wrap: Any) -> None:
    future = a_future(1)
    assert find_runs(wrap(future)) == [future.run]


@pytest.mark.parametrize("wrap", [Own, quote, opaque, lambda f: [quote(f)], lambda f: iter([f])])
def test_no_future_is_looked_for_in_own_objects_quotes_and_iterators(wrap: Any) -> None:
    assert find_runs(wrap(a_future(1))) == []


def test_runs_are_found_in_order_and_once_for_each_future() -> None:
    first, second = a_future(1), a_future(2)
    assert find_runs([second, {"a": first}, second]) == [second.run, first.run, second.run]


def cyclic(*items: Any) -> list[Any]:
    value: list[Any] = list(items)
    value.append(value)
    return value


def test_a_container_that_contains_itself_is_looked_through_once() -> None:
    future = a_future(1)
    assert find_runs(cyclic(future)) == [future.run]


# --- putting values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1, [2]],
        {"a": [1]},
        (1, 2),
        {1, 2},
        Pair(1, [2]),
        "text",
        7,
        None,
        range(3),
        Own(1),
        iter([1]),
        collections.Counter("aab"),
    ],
)
def test_what_holds_no_future_stays_the_very_same_object(value: Any) -> None:
    assert put_values(value) is value


def test_containers_beside_a_future_stay_the_very_same_objects() -> None:
    inner = [1, 2]
    put = put_values([a_future(5), inner])
    assert put == [5, [1, 2]]
    assert put[1] is inner


def test_a_container_with_a_future_is_not_changed_but_copied() -> None:
    value = [a_future(5)]
    assert put_values(value) == [5]
    assert isinstance(value[0], PenstockFuture)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (a_future(5), 5),
        ([a_future(5), 1], [5, 1]),
        ((a_future(5),), (5,)),
        ({a_future(5)}, {5}),
        (frozenset({a_future(5)}), frozenset({5})),
        ({"key": a_future(5)}, {"key": 5}),
        (Pair(1, a_future(5)), Pair(1, 5)),
        ([{"key": ({"inner": [a_future(5)]},)}], [{"key": ({"inner": [5]},)}]),
        (PenstockFutureList([a_future(5)]), [5]),
        (collections.OrderedDict(a=a_future(5)), collections.OrderedDict(a=5)),
    ],
)
def test_each_future_is_replaced_by_its_result(value: Any, expected: Any) -> None:
    put = put_values(value)
    assert put == expected
    assert type(put) is type(expected)


def test_a_default_dict_keeps_its_default() -> None:
    put = put_values(collections.defaultdict(list, key=a_future(5)))
    assert put["key"] == 5
    assert put["missing"] == []


@pytest.mark.parametrize("end", [Failed("no", ValueError("no")), Crashed("no")])
def test_a_future_that_failed_is_replaced_by_its_exception(end: State[Any]) -> None:
    assert isinstance(put_values([PenstockFuture(a_run(end))])[0], Exception)


@pytest.mark.parametrize("mark", [allow_failure, unmapped, quote, opaque])
@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda each: each, 5),
        (lambda each: [each], [5]),
        (lambda each: {"a": [each]}, {"a": [5]}),
        (lambda each: ((each,), 1), ((5,), 1)),
        (lambda each: {each}, {5}),
    ],
)
def test_marks_are_taken_off_however_deep(mark: Any, wrap: Any, expected: Any) -> None:
    assert put_values(wrap(mark(5))) == expected


def test_what_is_quoted_keeps_its_futures() -> None:
    future = a_future(5)
    assert put_values([quote([future])])[0][0] is future


def test_a_list_that_contains_itself_still_does_with_its_values_put() -> None:
    put = put_values(cyclic(a_future(5)))
    assert put[0] == 5
    assert put[1] is put


def test_a_dict_that_contains_itself_still_does_with_its_values_put() -> None:
    value: dict[str, Any] = {"a": a_future(5)}
    value["me"] = value
    put = put_values(value)
    assert put["a"] == 5
    assert put["me"] is put


def test_a_cycle_through_a_tuple_does_not_hang() -> None:
    value: list[Any] = [a_future(5)]
    value.append((value, a_future(6)))
    put = put_values(value)
    assert put[1][0] is put
    assert put[1][1] == 6


def test_a_container_that_is_shared_stays_shared() -> None:
    shared = [a_future(5)]
    put = put_values([shared, shared])
    assert put[0] is put[1]


# --- what a new run depends on ----------------------------------------------------------


def a_flow_run() -> FlowRun:
    run = FlowRun(PLAN, None, None, None, (), {}, made_at(1.0), "great-ammonite")
    run.ledger = Ledger()
    return run


def test_plain_arguments_depend_on_nothing() -> None:
    assert look_through({"a": 1, "b": [2, {"c": 3}]}, a_flow_run(), None) is None


def test_futures_among_the_arguments_are_inputs_by_name() -> None:
    first, second = a_future(1), a_future(2)
    seen = look_through({"a": first, "b": [second, first]}, a_flow_run(), None)
    assert seen is not None
    assert seen[0] == [first.run, second.run, first.run]
    assert seen[1] == {"a": [first.run], "b": [second.run, first.run]}


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: (f,), lambda f: {f}])
def test_wait_for_takes_one_future_or_several(wrap: Any) -> None:
    future = a_future(1)
    seen = look_through({"a": 1}, None, wrap(future))
    assert seen is not None
    assert (seen[0], seen[1]) == ([future.run], {"wait_for": [future.run]})


def test_an_empty_wait_for_is_still_no_dependency() -> None:
    seen = look_through({"a": 1}, None, [])
    assert seen is None or seen[0] == []


@pytest.mark.parametrize("value", [quote(1), [[allow_failure(1)]], {"a": (unmapped(1),)}])
def test_marks_are_noticed_however_deep(value: Any) -> None:
    seen = look_through({"a": value}, None, None)
    assert seen is not None
    assert seen[2]


def test_a_value_that_a_run_has_made_is_an_input_without_being_waited_for() -> None:
    flow_run, maker, value = a_flow_run(), a_run(Completed(1)), Own(1)
    assert flow_run.ledger is not None
    flow_run.ledger.note_result(value, maker)
    seen = look_through({"a": value}, flow_run, None)
    assert seen is not None
    assert (seen[0], seen[1]) == ([], {"a": [maker]})


def test_of_an_opaque_value_no_lineage_is_recorded() -> None:
    flow_run, value = a_flow_run(), Own(1)
    assert flow_run.ledger is not None
    flow_run.ledger.note_result(value, a_run(Completed(1)))
    seen = look_through({"a": opaque(value)}, flow_run, None)
    assert seen is not None
    assert seen[1] == {}


# --- inputs that cannot be had ----------------------------------------------------------

BOOM = ValueError("boom")


def test_inputs_that_ended_well_are_no_problem() -> None:
    assert upstream_problem(a_run(upstream=[a_run(Completed(1))]), set()) is None


@pytest.mark.parametrize("end", [Failed("no", BOOM), Crashed("no", BOOM)])
def test_d5_a_failed_input_fails_the_run_as_upstream_failed(end: State[Any]) -> None:
    problem = upstream_problem(a_run(number=1, upstream=[a_run(end)]), set())
    assert problem is not None
    assert (problem.type, problem.name) == ("FAILED", "UpstreamFailed")
    error = problem.exception()
    assert isinstance(error, UpstreamTaskError)
    assert error.__cause__ is BOOM
    assert "'fetch-1' did not run: upstream run 'fetch-0' ended in state" in str(error)


def test_a_cancelled_input_cancels_the_run() -> None:
    problem = upstream_problem(a_run(upstream=[a_run(Cancelled())]), set())
    assert problem is not None
    assert str(problem) == "Cancelled(\"Upstream run 'fetch-0' was cancelled\")"


def test_a_failed_input_goes_before_a_cancelled_one() -> None:
    run = a_run(upstream=[a_run(Cancelled()), a_run(Failed("no", BOOM))])
    problem = upstream_problem(run, set())
    assert problem is not None
    assert problem.is_failed()


@pytest.mark.parametrize("end", [Failed("no", BOOM), Crashed("no"), Cancelled()])
def test_what_is_tolerated_is_no_problem(end: State[Any]) -> None:
    upstream = a_run(end)
    assert upstream_problem(a_run(upstream=[upstream]), {upstream}) is None


def test_down_a_long_chain_the_text_names_the_first_cause_and_does_not_grow() -> None:
    run = a_run(Failed('it\'s "no"', BOOM))
    for number in range(1, 50):
        following = a_run(number=number, upstream=[run])
        problem = upstream_problem(following, set())
        assert problem is not None
        advance(following, problem, 1.0)
        run = following
    assert len(str(run.state)) < 200
    assert "'fetch-0' ended in state" in str(run.state.message)


@pytest.mark.parametrize(
    "wrap",
    [
        allow_failure,
        lambda future: [1, allow_failure([future])],
        lambda future: {"a": (allow_failure(future),)},
        lambda future: unmapped(allow_failure(future)),
        lambda future: cyclic(allow_failure(future)),
    ],
)
def test_a_run_under_allow_failure_is_tolerated(wrap: Any) -> None:
    future = a_future(1)
    assert tolerated(wrap(future)) == {future.run}


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], unmapped, quote])
def test_other_runs_are_not_tolerated(wrap: Any) -> None:
    assert tolerated(wrap(a_future(1))) == set()
