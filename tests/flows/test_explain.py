"""Promises of `task.explain(...)`: whether a call would run, and why (users row 20)."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import pytest

from penstock import allow_failure, flow, settings, task
from penstock.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE_DEEP
from penstock.exceptions import UnhashableInputError
from penstock.storage_choice import store_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG_AGO = datetime.timedelta(microseconds=1)


def reasons(subject: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = subject.explain(*args, **kwargs).reasons
    return found


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def train(calls: list[Any]) -> Any:
    @task(cache_policy=INPUTS)
    def train(lr: float, n: int = 3) -> float:
        calls.append(lr)
        return lr * n

    return train


def test_users_20_before_and_after_the_first_run(train: Any) -> None:
    assert reasons(train, 0.1) == ("no earlier result",)
    train(0.1)
    found = train.explain(0.1)
    assert found.is_cached
    assert found.record is not None
    assert (found.record.run_name, found.record.task_name) == ("train", "train")


def test_users_20_a_miss_says_which_input_changed(train: Any) -> None:
    train(0.1)
    assert reasons(train, lr=0.2, n=3) == ("input 'lr' changed 0.1 to 0.2",)


def test_explaining_runs_nothing_and_stores_nothing(train: Any, calls: list[Any]) -> None:
    train.explain(0.1)
    assert calls == []
    assert list(store_of().keys()) == []


def test_what_is_said_to_be_cached_is_and_what_is_said_to_run_does(
    train: Any, calls: list[Any]
) -> None:
    for lr in (0.1, 0.2, 0.1, 0.3, 0.2):
        before, said = len(calls), train.explain(lr)
        train(lr)
        assert said.is_cached == (len(calls) == before)


def test_users_20_a_changed_helper_is_named(tmp_path: Path) -> None:
    def trained_with(body: str) -> Any:
        text = f"def clean(x):\n    return {body}\ndef train(lr):\n    return clean(lr)\n"
        file = tmp_path / f"code{len(list(tmp_path.iterdir()))}.py"
        file.write_text(text)
        names: dict[str, Any] = {"__name__": "their_code"}
        exec(compile(text, str(file), "exec"), names)
        return task(cache_policy=INPUTS + TASK_SOURCE_DEEP)(names["train"])

    trained_with("x")(0.1)
    assert reasons(trained_with("x + 0"), 0.1) == ("helper clean() changed",)


def test_an_expired_result_says_so() -> None:
    @task(cache_policy=INPUTS, cache_expiration=LONG_AGO)
    def brief(x: int) -> int:
        return x

    brief(1)
    assert reasons(brief, 1) == ("expired just now",)
    assert reasons(brief, 2) == ("input 'x' changed 1 to 2", "expired just now")


def test_a_damaged_result_says_what_ails_it(train: Any) -> None:
    train(0.1)
    store = store_of()
    (key,) = store.keys()
    path = f"{key}.record"
    content = bytearray(store.filesystem.read_path(path))
    content[-1] ^= 1
    store.filesystem.write_path(path, bytes(content))
    assert reasons(train, 0.1) == (
        "the stored result cannot be used: its value was changed: the checksum differs",
    )


def test_a_pickled_result_is_not_for_a_task_that_reads_json_only(train: Any) -> None:
    train(0.1)
    (why,) = reasons(train.with_options(result_serializer="json"), 0.1)
    assert "written by 'pickle'" in why


def plain(x: int = 1) -> int:
    return x


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "the task has no cache policy"),
        ({"cache_policy": NO_CACHE}, "its cache policy is NO_CACHE"),
        ({"persist_result": False}, "persist_result is False"),
        ({"cache_key_fn": lambda *_: None}, "CacheKeyFnPolicy(<lambda>) gives no key for this"),
    ],
)
def test_a_call_that_is_not_cached_says_why(options: dict[str, Any], why: str) -> None:
    found = task(**options)(plain).explain()
    assert (found.is_cached, found.key) == (False, None)
    assert found.reasons[0].startswith(f"not cached: {why}")


def test_settings_count_as_they_do_for_a_run(train: Any) -> None:
    train(0.1)
    with settings.temporary_settings(tasks_refresh_cache=True):
        assert reasons(train, 0.1) == ("refresh_cache is set",)


@pytest.mark.parametrize(
    ("setting", "policy", "why"),
    [
        ("tasks_disable_caching", INPUTS, "the setting tasks_disable_caching is on"),
        ("tasks_default_no_cache", None, "the setting tasks_default_no_cache is on"),
    ],
)
def test_a_setting_that_turns_caching_off_is_named(
    calls: list[Any], setting: str, policy: Any, why: str
) -> None:
    @task(cache_policy=policy, persist_result=True)
    def load(x: int) -> None:
        calls.append(x)

    @flow
    def loading() -> None:
        load(1)
        load(1)

    with settings.temporary_settings({setting: True}):
        loading()
        assert load.explain(1).reasons[0].startswith(f"not cached: {why}")
    assert calls == [1, 1]


def test_a_setting_for_tasks_without_a_policy_leaves_the_others(
    calls: list[Any], train: Any
) -> None:
    with settings.temporary_settings(tasks_default_no_cache=True):
        train(0.1)
        train(0.1)
    assert calls == [0.1]


def test_a_key_by_template_is_compared_too() -> None:
    saved = task(result_storage_key="day-{parameters[x]}")(plain)
    saved(1)
    assert saved.explain(1).is_cached
    assert reasons(saved, 2) == ("result_storage_key changed day-1 to day-2",)


@pytest.mark.parametrize("runner", ["inline", "thread:2"])
def test_inside_of_a_flow_futures_are_waited_for(train: Any, runner: str) -> None:
    @task
    def double(x: float) -> float:
        return 2 * x

    @flow(task_runner=runner)
    def asking() -> list[Any]:
        train(0.2)
        rate = double.submit(0.1)
        return [train.explain(rate), train.explain(lr=double.submit(0.2))]

    here, there = asking()
    assert here.is_cached
    assert here.record.run_name == "train-0"
    assert there.reasons == ("input 'lr' changed 0.2 to 0.4",)


def test_a_failed_input_is_raised_unless_it_may_fail(train: Any) -> None:
    @task
    def failing() -> float:
        raise KeyError("no such rate")

    @flow
    def asking() -> Any:
        rate = failing.submit()
        with pytest.raises(KeyError, match="no such rate"):
            train.explain(rate)
        open_minded = task(cache_policy=INPUTS - "x")(plain)
        return open_minded.explain(allow_failure(rate))

    assert asking().reasons == ("no earlier result",)


def test_runs_are_counted_as_if_nobody_had_asked(train: Any) -> None:
    @flow
    def asking() -> list[str]:
        train.explain(0.1)
        return [train.submit(0.1).run.name]

    assert asking() == ["train-0"]


def test_methods_are_explained_with_what_they_are_bound_to() -> None:
    @dataclasses.dataclass(frozen=True)
    class Model:
        depth: int

        @task(cache_policy=INPUTS)
        def fit(self, lr: float) -> float:
            return lr

    model = Model(3)
    model.fit(0.1)
    assert model.fit.explain(0.1).is_cached
    assert reasons(model.fit, 0.2) == ("input 'lr' changed 0.1 to 0.2",)
    (reason,) = reasons(Model(4).fit, 0.1)
    assert reason.startswith("input 'self' changed")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda train: train.explain(), TypeError),
        (lambda train: train.explain(object()), UnhashableInputError),
    ],
)
def test_a_call_that_cannot_be_is_refused(
    train: Any, call: Callable[[Any], Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="lr"):
        call(train)
