"""Promises of `penstock.explaining`: why a call would run or is cached (users row 20)."""

from __future__ import annotations

import datetime
import random

import pytest

from penstock.durations import format_duration, since
from penstock.explaining import explain_call, explain_record, not_cached
from penstock.key_parts import KeyPart, KeyParts
from penstock.records import RecordMetadata

NOW = datetime.datetime(2026, 1, 5, 12, tzinfo=datetime.UTC)


def hours(count: float) -> datetime.timedelta:
    return datetime.timedelta(hours=count)


def call(key: str, **parts: object) -> KeyParts:
    """Parts by name, `input_lr` for `input lr`."""
    named = {name.replace("_", " ", 1): str(value) for name, value in parts.items()}
    return KeyParts(key, {name: KeyPart(f"digest of {v}", v) for name, v in named.items()})


def record(
    key: str,
    *,
    made: float = 1,
    expired: float | None = None,
    task: str = "train",
    run: str = "train-0",
    **parts: object,
) -> RecordMetadata:
    """Made and expired so many hours ago."""
    return RecordMetadata(
        key,
        NOW - hours(made),
        None if expired is None else NOW - hours(expired),
        run_name=run,
        task_name=task,
        parts=call(key, **parts).as_json()["parts"],
    )


# --- what would become of a call --------------------------------------------------------


def test_a_stored_result_is_named_with_the_run_that_made_it() -> None:
    own = record("k", made=3, expired=-21)
    found = explain_call("train", call("k"), own, [own], NOW)
    assert found.is_cached
    assert (found.key, found.record) == ("k", own)
    assert str(found) == (
        "task 'train' is cached: made by run 'train-0' 3 h ago (2026-01-05 09:00:00+00:00); "
        "expires in 21 h"
    )


def test_users_20_a_miss_says_which_parts_changed_and_what_expired() -> None:
    older = record("old", made=5, expired=3, input_lr=0.1, input_n=3)
    found = explain_call("train", call("new", input_lr=0.2, input_n=3), None, [older], NOW)
    assert not found.is_cached
    assert found.reasons == ("input 'lr' changed 0.1 to 0.2", "expired 3 h ago")
    assert str(found) == (
        "task 'train' would run: input 'lr' changed 0.1 to 0.2; expired 3 h ago\n"
        "(compared with the result made by run 'train-0' 5 h ago (2026-01-05 07:00:00+00:00))"
    )


def test_an_expired_result_of_the_very_call_says_when_it_expired() -> None:
    own = record("k", made=5, expired=3)
    found = explain_call("train", call("k"), own, [own], NOW)
    assert (found.is_cached, found.reasons) == (False, ("expired 3 h ago",))


def test_without_an_earlier_result_of_the_task_that_is_the_reason() -> None:
    others = [record("a", task="test"), record("b", task=""), RecordMetadata("c", NOW)]
    found = explain_call("train", call("k", input_lr=1), None, others, NOW)
    assert str(found) == "task 'train' would run: no earlier result"


def test_a_result_that_cannot_be_used_says_why() -> None:
    found = explain_call("train", call("k"), None, [], NOW, problem="it is not whole")
    assert found.reasons == ("the stored result cannot be used: it is not whole",)


def test_a_refreshed_task_runs_although_its_result_is_there() -> None:
    own = record("k")
    found = explain_call("train", call("k"), own, [own], NOW, refresh=True)
    assert (found.is_cached, found.reasons) == (False, ("refresh_cache is set",))


def test_a_task_that_caches_nothing_says_so() -> None:
    found = not_cached("train", "the task has no cache policy")
    assert found.key is None
    assert str(found) == "task 'train' would run; not cached: the task has no cache policy"


def test_the_stored_results_are_not_gone_through_for_a_hit() -> None:
    stored = iter([record("other")])
    assert explain_call("train", call("k"), record("k"), stored, NOW).is_cached
    assert next(stored).key == "other"


# --- what is compared -------------------------------------------------------------------


def test_of_several_results_the_one_with_most_equal_parts_is_compared() -> None:
    near = record("near", made=9, input_lr=0.1, input_n=3)
    far = record("far", made=1, input_lr=0.7, input_n=4)
    new = call("new", input_lr=0.2, input_n=3)
    for order in ([near, far], [far, near]):
        assert explain_call("train", new, None, order, NOW).record == near


def test_of_equally_near_results_the_latest_is_compared() -> None:
    stored = [record(f"k{age}", made=age, input_lr=age) for age in range(1, 9)]
    random.Random(3).shuffle(stored)
    found = explain_call("train", call("new", input_lr=0), None, stored, NOW)
    assert found.record is not None
    assert found.record.key == "k1"


@pytest.mark.parametrize("parts", [{}, {"input lr": 3}, {"input lr": ["one", "two", "three"]}])
def test_a_result_without_readable_parts_is_not_compared(parts: dict[str, object]) -> None:
    strange = RecordMetadata("k", NOW, task_name="train", parts=parts)
    found = explain_call("train", call("new"), None, [strange], NOW)
    assert found.reasons == ("no earlier result",)


# --- why a stored result was made -------------------------------------------------------


def test_a_result_is_compared_with_one_made_before_it() -> None:
    earlier = record("a", made=3, input_lr=0.1)
    later = record("c", made=1, input_lr=0.2)
    asked = record("b", made=2, input_lr=0.2)
    found = explain_record(asked, [later, asked, earlier])
    assert (found.reasons, found.earlier) == (("input 'lr' changed 0.1 to 0.2",), earlier)


def test_the_first_result_of_a_task_had_none_before_it() -> None:
    asked = record("b", made=2, input_lr=0.2)
    assert explain_record(asked, [asked]) == (("no earlier result",), None)


def test_a_result_without_parts_cannot_be_explained_and_says_so() -> None:
    flow_value = RecordMetadata("id", NOW, run_name="census")
    assert explain_record(flow_value, []).reasons == ("the parts of its key were not kept",)


# --- lengths of time --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "under 1 s"),
        (1, "1 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
    ],
)
def test_lengths_of_time_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_moments_lie_before_now_or_after() -> None:
    assert since(NOW - hours(3), NOW) == "3 h ago"
    assert since(NOW, NOW) == "just now"
    assert since(NOW + hours(3), NOW) == "in 3 h"
