"""Promises of `penstock.cache_policies` and `source_hashing` (spec rows 064, 065, 077-084)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pickle
import sqlite3
import textwrap
import types
from typing import TYPE_CHECKING, Any

import pytest

from penstock.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    TASK_SOURCE_DEEP,
    CacheKeyFnPolicy,
    CachePolicy,
    CompoundCachePolicy,
    Inputs,
    task_input_hash,
)
from penstock.exceptions import UnhashableInputError
from penstock.source_hashing import source_hash
from penstock.transactions import IsolationLevel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclasses.dataclass
class Run:
    id: str
    flow_run: Run | None = None


@dataclasses.dataclass
class Task:
    fn: Callable[..., Any]
    task_key: str = "key"


@dataclasses.dataclass
class Context:
    task: Task
    task_run: Run


def double(x: int) -> int:
    return x * 2


def halve(x: int) -> int:
    return x // 2


def context(
    fn: Callable[..., Any] = double,
    *,
    key: str = "key",
    run: str = "run",
    flow: str | None = "flow",
) -> Context:
    return Context(Task(fn, key), Run(run, Run(flow) if flow else None))


def key_of(policy: CachePolicy, here: Context | None = None, /, **inputs: Any) -> str | None:
    return policy.compute_key(here or context(), inputs, {})


# --- the single policies ----------------------------------------------------------------


def test_079_inputs_tells_arguments_apart_by_type_and_name() -> None:
    calls: list[dict[str, Any]] = [{"x": (1, 2)}, {"x": [1, 2]}, {"y": (1, 2)}, {"x": {1: 2}}]
    calls += [{"x": {"1": 2}}, {"x": 1}, {"x": True}, {"x": 1.0}, {"x": 1, "y": 1}]
    assert len({key_of(INPUTS, **call) for call in calls}) == len(calls)
    assert key_of(INPUTS, x={"a", "b", "c"}) == key_of(INPUTS, x={"c", "b", "a"})


def test_079_a_call_without_inputs_has_no_key_of_inputs() -> None:
    assert key_of(INPUTS) is None


def test_080_task_source_changes_with_the_function_only() -> None:
    assert key_of(TASK_SOURCE, x=1) == key_of(TASK_SOURCE, x=2)
    assert key_of(TASK_SOURCE, context(halve)) != key_of(TASK_SOURCE, context(double))


def test_081_run_id_is_of_the_flow_run_or_else_of_the_task_run() -> None:
    assert key_of(RUN_ID, context(run="a")) == key_of(RUN_ID, context(run="b"))
    assert key_of(RUN_ID, context(flow="a")) != key_of(RUN_ID, context(flow="b"))
    alone = [context(run="a", flow=None), context(run="b", flow=None)]
    assert key_of(RUN_ID, alone[0]) != key_of(RUN_ID, alone[1])


def test_082_flow_parameters_are_those_of_the_flow_around_the_task() -> None:
    keys = [FLOW_PARAMETERS.compute_key(context(), {}, {"day": day}) for day in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]
    assert FLOW_PARAMETERS.compute_key(context(), {"x": 1}, {}) is None


def test_083_none_and_no_cache_are_the_same_and_give_no_key() -> None:
    assert NONE == NO_CACHE
    assert key_of(NONE, x=1) is None


@pytest.mark.parametrize(
    "policy", [INPUTS, TASK_SOURCE, RUN_ID, DEFAULT, INPUTS + RUN_ID], ids=repr
)
def test_two_tasks_never_share_a_key_that_a_policy_made(policy: CachePolicy) -> None:
    one, two = context(key="one"), context(key="two")
    assert key_of(policy, one, x=1) != key_of(policy, two, x=1)


def test_077_a_key_function_gets_the_context_and_the_arguments() -> None:
    here = context()
    policy = CachePolicy.from_cache_key_fn(lambda ctx, inputs: f"{ctx is here} {inputs}")
    assert isinstance(policy, CacheKeyFnPolicy)
    assert key_of(policy, here, x=1) == "True {'x': 1}"


def test_077_a_key_function_may_return_none_and_nothing_but_strings_else() -> None:
    assert key_of(CacheKeyFnPolicy(lambda _, __: None), x=1) is None
    wrong: Any = CacheKeyFnPolicy(lambda _, __: 3)  # type: ignore[arg-type, return-value]  # the point
    with pytest.raises(TypeError, match="has to return a str or None, but it returned 3"):
        key_of(wrong, x=1)


# --- adding and leaving out -------------------------------------------------------------


def test_084_a_sum_changes_when_one_of_its_parts_does() -> None:
    policy = INPUTS + RUN_ID
    here, there = context(flow="a"), context(flow="b")
    keys = [key_of(policy, here, x=1), key_of(policy, here, x=2), key_of(policy, there, x=1)]
    assert len(set(keys)) == 3
    assert key_of(policy, here, x=1) == keys[0]


def test_084_parts_without_a_key_do_not_count_in_a_sum() -> None:
    none = CacheKeyFnPolicy(lambda _, __: None)
    assert key_of(INPUTS + none + FLOW_PARAMETERS, x=1) == key_of(
        CompoundCachePolicy([INPUTS]), x=1
    )
    assert key_of(none + FLOW_PARAMETERS, x=1) is None


def test_084_adding_none_changes_nothing() -> None:
    assert NONE + INPUTS == INPUTS
    assert INPUTS + NONE == INPUTS
    assert NONE + NONE == NONE


def test_084_default_is_inputs_source_and_run() -> None:
    assert DEFAULT == INPUTS + TASK_SOURCE + RUN_ID


def test_084_sums_are_flat_and_hold_each_part_once() -> None:
    assert (INPUTS + RUN_ID) + (RUN_ID + TASK_SOURCE) == INPUTS + RUN_ID + TASK_SOURCE


@pytest.mark.parametrize("policy", [INPUTS, DEFAULT, RUN_ID + INPUTS], ids=repr)
def test_084_an_input_left_out_does_not_count_and_need_not_have_a_hash(policy: CachePolicy) -> None:
    connections = [sqlite3.connect(":memory:") for _ in range(2)]
    keys = [key_of(policy - "conn", x=1, conn=each) for each in connections]
    assert keys[0] == keys[1]
    assert key_of(policy - "conn", x=2, conn=connections[0]) != keys[0]
    with pytest.raises(UnhashableInputError, match="argument 'conn'"):
        key_of(policy, x=1, conn=connections[0])
    for each in connections:
        each.close()


@pytest.mark.parametrize("policy", [RUN_ID, TASK_SOURCE, FLOW_PARAMETERS, RUN_ID + TASK_SOURCE])
def test_084_a_policy_that_looks_at_no_inputs_has_none_to_leave_out(policy: CachePolicy) -> None:
    assert policy - "x" == policy
    assert key_of(RUN_ID - "x", x=1, y=1) == key_of(RUN_ID - "x", x=1, y=2)


def test_084_what_one_part_leaves_out_is_left_out_of_the_sum() -> None:
    assert INPUTS + RUN_ID + (INPUTS - "x") == INPUTS - "x" + RUN_ID


def test_084_no_caching_stays_no_caching_without_an_input() -> None:
    assert NONE - "x" == NONE


def test_084_tasks_with_and_without_an_input_may_share_a_policy_that_leaves_it_out() -> None:
    assert key_of(DEFAULT - "conn", x=1) != key_of(DEFAULT - "conn", x=2)


@pytest.mark.parametrize("other", [3, ["x"], None])
def test_only_policies_are_added_and_only_names_left_out(other: Any) -> None:
    with pytest.raises(TypeError):
        INPUTS - other
    with pytest.raises(TypeError):
        INPUTS + other


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["key_storage", "isolation_level", "lock_manager"])
def test_084_options_of_the_parts_become_those_of_the_sum_unless_they_disagree(option: str) -> None:
    one, two = INPUTS.configure(**{option: "one"}), RUN_ID.configure(**{option: "two"})
    for policy in (one + RUN_ID, RUN_ID + one, one + one, TASK_SOURCE + RUN_ID + one):
        assert getattr(policy, option) == "one"
    with pytest.raises(ValueError, match=option):
        one + two


def test_084_a_policy_takes_its_options_when_it_is_made_too() -> None:
    assert Inputs(key_storage="here") == INPUTS.configure(key_storage="here")
    by_name = INPUTS.configure(isolation_level="serializable")
    summed = by_name + RUN_ID.configure(isolation_level=IsolationLevel.SERIALIZABLE)
    assert summed.isolation_level == "serializable"
    whole = CompoundCachePolicy(policies=[INPUTS, RUN_ID], isolation_level="SERIALIZABLE")
    assert whole == (INPUTS + RUN_ID).configure(isolation_level="SERIALIZABLE")
    assert whole - "x" == (INPUTS - "x" + RUN_ID).configure(isolation_level="SERIALIZABLE")


def test_configuring_leaves_the_original_and_the_other_options_alone() -> None:
    policy = INPUTS.configure(key_storage="here").configure(lock_manager="lock")
    assert (policy.key_storage, policy.lock_manager) == ("here", "lock")
    assert INPUTS.key_storage is None
    assert policy != INPUTS
    assert key_of(policy, x=1) == key_of(INPUTS, x=1)


# --- policies are values ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (INPUTS + TASK_SOURCE - "conn", "INPUTS + TASK_SOURCE - 'conn'"),
        (Inputs(exclude=["b", "a"]), "INPUTS - 'a' - 'b'"),
        (Inputs(exclude="conn"), "INPUTS - 'conn'"),
        (FLOW_PARAMETERS + NO_CACHE, "FLOW_PARAMETERS"),
        (NONE, "NONE"),
        (DEFAULT.configure(key_storage="/keys"), f"({DEFAULT!r}).configure(key_storage='/keys')"),
    ],
)
def test_a_policy_prints_as_the_code_that_makes_it(policy: CachePolicy, text: str) -> None:
    assert repr(policy) == text
    names = {
        "INPUTS": INPUTS,
        "TASK_SOURCE": TASK_SOURCE,
        "RUN_ID": RUN_ID,
        "FLOW_PARAMETERS": FLOW_PARAMETERS,
        "NONE": NONE,
    }
    assert eval(text, names) == policy


def test_policies_compare_hash_and_pickle_by_value() -> None:
    policies: list[CachePolicy] = [INPUTS, INPUTS - "a", TASK_SOURCE, TASK_SOURCE_DEEP, RUN_ID]
    policies += [FLOW_PARAMETERS, NONE, DEFAULT]
    policies += [
        DEFAULT - "a",
        CacheKeyFnPolicy(task_input_hash),
        INPUTS.configure(key_storage="k"),
    ]
    for policy in policies:
        again = pickle.loads(pickle.dumps(policy))
        assert again == policy
        assert hash(again) == hash(policy)
    assert all(one != two for one, two in itertools.combinations(policies, 2))


class Plain(CachePolicy):
    def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
        return "Monday"


@dataclasses.dataclass
class Changeable(CachePolicy):
    day: str = "Monday"

    def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
        return self.day


@dataclasses.dataclass(frozen=True)
class Frozen(CachePolicy):
    day: str = "Monday"

    def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
        return self.day


@pytest.mark.parametrize("own", [Plain(), Changeable(), Frozen()], ids=lambda p: type(p).__name__)
def test_a_policy_of_ones_own_overrides_one_method_and_adds_up_with_the_others(
    own: CachePolicy,
) -> None:
    assert key_of(own) == "Monday"
    assert key_of(own + INPUTS, x=1) != key_of(own + INPUTS, x=2)
    assert (own + INPUTS) + own == own + INPUTS
    assert own.configure(key_storage="there").key_storage == "there"
    assert (INPUTS + own.configure(key_storage="there")).key_storage == "there"
    assert own - "x" == own
    with pytest.raises(ValueError, match="key_storage"):
        own.configure(key_storage="here") + INPUTS.configure(key_storage="there")


class Prefixed(Inputs):
    def compute_key(self, *args: Any, **kwargs: Any) -> str | None:
        key = super().compute_key(*args, **kwargs)
        return None if key is None else f"v2-{key}"


def test_a_policy_that_changes_the_key_of_another_counts_as_it_is_changed() -> None:
    key = key_of(Prefixed(), x=1)
    assert key is not None
    assert key.startswith("v2-")
    seen = Prefixed().look(context(), {"x": 1}, {})
    assert seen is not None
    assert seen.key == key
    assert key_of(Prefixed() + TASK_SOURCE, x=1) != key_of(Prefixed() + TASK_SOURCE, x=2)


def test_084_a_key_of_ones_own_is_never_taken_for_what_another_policy_looks_at() -> None:
    term = TASK_SOURCE._term(context(), {}, {})
    assert term is not None
    imitation = CachePolicy.from_cache_key_fn(lambda *_: term.key)
    nothing = CachePolicy.from_cache_key_fn(lambda *_: None)
    assert key_of(nothing + imitation) != key_of(nothing + TASK_SOURCE)


def test_082_only_who_looks_at_the_parameters_of_the_flow_asks_for_them() -> None:
    assert not (INPUTS + TASK_SOURCE - "x").uses_flow_parameters
    for policy in (
        FLOW_PARAMETERS,
        FLOW_PARAMETERS + INPUTS,
        Plain(),
        INPUTS + Plain(),
        Prefixed(),
    ):
        assert policy.uses_flow_parameters


def test_policies_that_need_no_context_do_without() -> None:
    inputs: dict[str, Any] = {"x": 1}
    assert INPUTS.compute_key(None, inputs, None) is not None
    assert FLOW_PARAMETERS.compute_key(None, inputs, {"day": 1}) is not None
    for policy in (TASK_SOURCE, TASK_SOURCE_DEEP, RUN_ID):
        assert policy.compute_key(None, inputs, None) is None


def test_082_a_flow_parameter_without_a_hash_is_named_as_such() -> None:
    with pytest.raises(
        UnhashableInputError, match=r"^flow parameter 'lock' cannot be .* leave FLOW"
    ):
        FLOW_PARAMETERS.compute_key(context(), {}, {"lock": object()})


def test_080_the_deep_policy_sees_a_helper_change_that_the_shallow_one_does_not() -> None:
    cells: dict[str, Any] = {"__name__": "__main__"}
    exec("def clean(x): return x\ndef work(x): return clean(x)", cells)
    here = context(cells["work"])
    deep, shallow = key_of(TASK_SOURCE_DEEP, here), key_of(TASK_SOURCE, here)
    exec("def clean(x): return x + 1", cells)
    assert key_of(TASK_SOURCE, here) == shallow
    assert key_of(TASK_SOURCE_DEEP, here) != deep


# --- task_input_hash --------------------------------------------------------------------


def test_064_task_input_hash_depends_on_task_source_and_arguments() -> None:
    calls: list[tuple[Context, dict[str, Any]]] = [
        (context(), {"x": 1}),
        (context(), {"x": 2}),
        (context(halve), {"x": 1}),
        (context(key="other"), {"x": 1}),
        (context(), {}),
    ]
    keys = [task_input_hash(*call) for call in calls]
    assert len(set(keys)) == len(calls)
    assert task_input_hash(context(), {"x": 1}) == keys[0]


def test_064_task_input_hash_names_the_argument_it_cannot_hash() -> None:
    with pytest.raises(UnhashableInputError, match="argument 'lock'"):
        task_input_hash(context(), {"x": 1, "lock": object()})


# --- the source of a function -----------------------------------------------------------

PLAIN = """
def f(x, y=1):
    if x:
        return "a # b"
    return [y for y in range(x)]
"""
NOISY = '''
import functools

# moved down

@functools.lru_cache(
    maxsize=3,
)
def f(  x,
        y = 1):   # a comment
    """Says what it does."""

    if (x):
        return 'a # b'
    return [ y
        for y in range(x) ]
'''


def load(text: str, file: Path | None) -> Any:
    """Run a module's text, from a file if there is to be a source."""
    if file:
        file.write_text(text)
    scope: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(text, str(file or "<nowhere>"), "exec"), scope)
    return scope.get("f") or scope["C"].f


def test_065_comments_docstring_decorators_layout_and_place_do_not_count(tmp_path: Path) -> None:
    plain, noisy = load(PLAIN, tmp_path / "plain.py"), load(NOISY, tmp_path / "noisy.py")
    assert source_hash(plain) == source_hash(noisy)


@pytest.mark.parametrize(("old", "new"), [("y=1", "y=2"), ("a # b", "a # c"), ("if x", "if not x")])
@pytest.mark.parametrize("in_file", [True, False])
def test_080_a_change_in_the_code_counts(
    tmp_path: Path, old: str, new: str, *, in_file: bool
) -> None:
    before = load(PLAIN, tmp_path / "before.py" if in_file else None)
    after = load(PLAIN.replace(old, new), tmp_path / "after.py" if in_file else None)
    same = load("#\n\n" + PLAIN, tmp_path / "same.py" if in_file else None)
    if in_file or old != "y=1":  # a default is an input of the run, and not in the bytecode
        assert source_hash(before) != source_hash(after)
    assert source_hash(before) == source_hash(same)


def test_080_without_a_source_neither_lines_nor_names_of_files_count() -> None:
    text = textwrap.dedent(
        """
        def f(x):
            def inner(y):
                "Says."
                return lambda z: (x, y, z, {1, 2})
            return inner
        """
    )
    hashes = {source_hash(load("\n" * n + text, None)) for n in (0, 70, 300)}
    assert len(hashes) == 1
    assert source_hash(load(text.replace("{1, 2}", "{1, 3}"), None)) not in hashes


def test_080_a_method_with_text_at_the_margin_has_a_source_too(tmp_path: Path) -> None:
    text = 'class C:\n    def f(self):\n        return """\nmargin"""\n'
    one = load(text, tmp_path / "one.py")
    two = load("# moved\n" + text.replace("    def", "    # comment\n    def"), tmp_path / "two.py")
    assert source_hash(one) == source_hash(two)
    assert source_hash(load(text.replace("margin", "edge"), tmp_path / "three.py")) != source_hash(
        one
    )


def test_080_callables_of_other_kinds_count_by_the_function_behind_them() -> None:
    class Scale:
        def __call__(self, x: int) -> int:
            return x * 3

        def triple(self, x: int) -> int:
            return x * 3

    assert source_hash(Scale()) == source_hash(Scale.__call__)
    assert source_hash(Scale().triple) == source_hash(Scale.triple)
    assert source_hash(functools.partial(double, 1)) != source_hash(functools.partial(double, 2))
    assert source_hash(functools.partial(double, 1)) != source_hash(double)
    assert source_hash(lambda x: x + 1) != source_hash(lambda x: x + 2)
    assert source_hash(len) != source_hash(max)
    wrapped = functools.wraps(double)(lambda *args: double(*args))
    assert source_hash(wrapped) == source_hash(double)
    assert source_hash(types.MethodType(double, 3)) == source_hash(double)
