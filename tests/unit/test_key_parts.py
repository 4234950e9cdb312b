"""Promises of `penstock.key_parts`: what made two keys differ (users row 20)."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

from penstock.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    TASK_SOURCE_DEEP,
    CacheKeyFnPolicy,
    CachePolicy,
    Inputs,
)
from penstock.key_parts import KeyPart, KeyParts, explain, short_text

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass
class Run:
    id: str
    flow_run: Run | None = None


@dataclasses.dataclass
class Task:
    fn: Callable[..., Any]
    task_key: str


@dataclasses.dataclass
class Context:
    task: Task
    task_run: Run


def double(x: int) -> int:
    return x * 2


def halve(x: int) -> int:
    return x // 2


def parts_of(
    policy: CachePolicy,
    /,
    fn: Callable[..., Any] = double,
    *,
    key: str = "key",
    flow: str = "flow",
    day: Any = 1,
    **inputs: Any,
) -> KeyParts:
    context = Context(Task(fn, key), Run("run", Run(flow)))
    found = policy.compute(context, inputs, {"day": day})
    assert found is not None
    assert found.key == policy.compute_key(context, inputs, {"day": day})
    return found


def why(one: KeyParts, two: KeyParts) -> list[str]:
    # As they will be compared: after a time in a store.
    return explain(*(KeyParts.from_json(json.loads(json.dumps(p.as_json()))) for p in (one, two)))


# --- sentences --------------------------------------------------------------------------


def test_users_20_an_input_that_changed_is_named_with_both_values() -> None:
    assert why(parts_of(INPUTS, lr=0.1, n=1), parts_of(INPUTS, lr=0.2, n=1)) == [
        "input 'lr' changed 0.1 to 0.2"
    ]


def test_users_20_inputs_that_came_and_went_are_named() -> None:
    assert why(parts_of(INPUTS, x=1, old=2), parts_of(INPUTS, x=1, new=3)) == [
        "input 'new' is new: 3",
        "input 'old' is gone",
    ]


def test_users_20_a_value_that_reads_the_same_is_said_to_differ_in_content() -> None:
    text = "a" * 100
    sentences = why(parts_of(INPUTS, x=text + "b" + text), parts_of(INPUTS, x=text + "c" + text))
    assert sentences[0].startswith("input 'x' changed in content, still 'aaa")


def test_users_20_a_type_that_changed_shows_in_the_values() -> None:
    assert why(parts_of(INPUTS, x=(1, 2)), parts_of(INPUTS, x=[1, 2])) == [
        "input 'x' changed (1, 2) to [1, 2]"
    ]


@pytest.mark.parametrize("policy", [TASK_SOURCE, TASK_SOURCE_DEEP, DEFAULT], ids=repr)
def test_users_20_a_change_of_the_source_is_said(policy: CachePolicy) -> None:
    assert why(parts_of(policy, double, x=1), parts_of(policy, halve, x=1)) == [
        "source of the task changed"
    ]


def test_users_20_another_run_other_flow_parameters_another_task_are_said() -> None:
    policy = RUN_ID + FLOW_PARAMETERS
    other = parts_of(policy, flow="other", day=2, key="task two")
    assert why(parts_of(policy, key="task one"), other) == [
        "task changed task one to task two",
        "another run (RUN_ID is part of the policy)",
        "flow parameter 'day' changed 1 to 2",
    ]


def test_users_20_another_policy_is_said_without_listing_what_only_one_looks_at() -> None:
    before, after = parts_of(INPUTS, x=1), parts_of(INPUTS + TASK_SOURCE, x=2)
    assert why(before, after) == [
        "policy changed INPUTS to INPUTS + TASK_SOURCE",
        "input 'x' changed 1 to 2",
    ]


def test_users_20_helpers_and_constants_that_come_and_go_are_said() -> None:
    def graph(**parts: str) -> KeyParts:
        named = {name.replace("_", " "): KeyPart(text, text) for name, text in parts.items()}
        return KeyParts(repr(parts), named)

    before = graph(source="a", reach="a", helper_f="a", constant_N="1", class_C="a")
    after = graph(source="a", reach="b", helper_g="a", constant_N="2", class_C="b")
    assert why(before, after) == [
        "helper g is new",
        "constant N changed 1 to 2",
        "class C changed",
        "helper f is gone",
    ]


def test_users_20_the_same_helpers_in_other_roles_are_an_explanation_too() -> None:
    def add(x: Any, f: Any, g: Any) -> Any:
        return lambda: f(x) + g(x)

    one = parts_of(TASK_SOURCE_DEEP, add(1, double, halve))
    two = parts_of(TASK_SOURCE_DEEP, add(1, halve, double))
    assert one.key != two.key
    assert why(one, two) == ["how the task's functions refer to each other changed"]


def test_users_20_equal_keys_need_no_explanation() -> None:
    assert why(parts_of(DEFAULT, x=1), parts_of(DEFAULT, x=1)) == []


def test_users_20_different_keys_are_never_left_without_a_word() -> None:
    assert explain(KeyParts("a", {}), KeyParts("b", {})) == [
        "the key changed, in no part that was noted"
    ]


# --- what policies note -----------------------------------------------------------------


def test_the_parts_of_a_sum_are_those_of_its_parts_under_one_policy() -> None:
    found = parts_of(DEFAULT + FLOW_PARAMETERS - "secret", x=1, secret=object())
    assert [*found.parts] == ["policy", "task", "input x", "source", "run", "flow parameter day"]
    text = "INPUTS + TASK_SOURCE + RUN_ID + FLOW_PARAMETERS - 'secret'"
    assert found.parts["policy"].text == text


def test_a_policy_of_ones_own_notes_its_key() -> None:
    @dataclasses.dataclass
    class PerDay(CachePolicy):
        day: str

        def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
            return self.day

    assert why(parts_of(PerDay("Mo")), parts_of(PerDay("Tu"))) == [
        "policy changed PerDay(day='Mo') to PerDay(day='Tu')"
    ]
    functions = [CacheKeyFnPolicy(functools.partial(lambda key, *_: key, key)) for key in "ab"]
    assert why(*(parts_of(INPUTS + policy, x=1) for policy in functions)) == [
        "key by CacheKeyFnPolicy(partial) changed a to b"
    ]
    twice = parts_of(functions[0] + functions[1])
    assert [part.text for name, part in twice.parts.items() if "key by" in name] == ["a", "b"]


def test_a_subclass_of_a_policy_that_makes_the_key_itself_is_believed() -> None:
    class Rounded(Inputs):
        def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
            return "rounded"

    assert parts_of(Rounded(), x=1.2).key == "rounded"


def test_no_key_has_no_parts() -> None:
    context = Context(Task(double, "key"), Run("run"))
    for policy in (NONE, INPUTS, CacheKeyFnPolicy(lambda *_: None), INPUTS + FLOW_PARAMETERS):
        assert policy.compute(context, {}, {}) is None


# --- stored and read --------------------------------------------------------------------


def test_parts_come_back_from_json_as_they_were() -> None:
    parts = parts_of(DEFAULT, x="é\ud800"[:1], y=float("nan"))
    again = KeyParts.from_json(json.loads(json.dumps(parts.as_json())))
    assert again == KeyParts(parts.key, again.parts)
    assert {**again.parts} == {**parts.parts}
    assert [*again.parts] == [*parts.parts]


@pytest.mark.parametrize("stored", [{}, {"key": "a"}, {"key": "a", "parts": {"x": 1}}, []])
def test_what_is_no_parts_is_a_value_error(stored: Any) -> None:
    with pytest.raises(ValueError, match="no parts of a cache key"):
        KeyParts.from_json(stored)


# --- short texts ------------------------------------------------------------------------


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_short_texts_are_short_on_one_line_without_addresses_and_never_raise() -> None:
    values = [Rude(), [Rude()], "x" * 1000, [*range(1000)], {"a": "b" * 1000}, object(), "a\nb"]
    texts = [short_text(value) for value in [*values, functools.partial(double)]]
    assert all(len(text) <= 80 and "\n" not in text and " at 0x" not in text for text in texts)
    assert short_text([1, "a", {"b": None}]) == "[1, 'a', {'b': None}]"


def test_short_texts_describe_arrays_and_frames_without_writing_them_out() -> None:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    assert short_text(np.zeros((1000, 1000))) == "ndarray float64 (1000, 1000)"
    assert short_text(np.float64(0.5)) == "np.float64(0.5)"
    assert short_text({"a": pd.DataFrame({"a": [1]})}) == "{'a': DataFrame (1, 1)}"
    assert short_text(pd.Series([1])) == "Series int64 (1,)"
    assert short_text(pa.table({"a": [1]})) == "Table (1, 1)"
    assert short_text(pl.Series([1])) == "Series Int64 (1,)"
