"""What it costs to hash the arguments of a call, and to make a key of the code behind it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd

from penstock.cache_policies import INPUTS, TASK_SOURCE, TASK_SOURCE_DEEP
from penstock.hashing import stable_hash

if TYPE_CHECKING:
    from benchmarks.conftest import Course

ARRAY_LIMIT_SECONDS = 0.1
DICTS_LIMIT_SECONDS = 0.2


def hundred_megabytes(course: Course) -> Any:
    return np.random.default_rng(0).random(course.size(12_500_000))


def small_dicts(course: Course) -> list[dict[str, Any]]:
    return [
        {"id": i, "name": f"item {i}", "score": i / 7, "tags": ["a", "b"], "ok": i % 2 == 0}
        for i in range(course.size(10_000))
    ]


def test_hash_of_an_array_over_its_digest(course: Course) -> None:
    """100 MB of array; floor: bare SHA-256 of its memory."""
    array = hundred_megabytes(course)
    figure = course.against(
        lambda: hashlib.sha256(array.data.cast("B")).hexdigest(),
        lambda: stable_hash(array),
        items=1,
        target=1.3,
        unit="us an array",
    )
    if not course.is_smoke:
        assert figure.ours_us / 1e6 <= ARRAY_LIMIT_SECONDS


def test_hash_of_an_array(course: Course) -> None:
    """100 MB of array; floor: joblib.hash."""
    array = hundred_megabytes(course)
    course.against(
        lambda: joblib.hash(array),
        lambda: stable_hash(array),
        items=1,
        target=1.0,
        unit="us an array",
    )


def test_hash_of_a_frame(course: Course) -> None:
    """100 MB of frame, 10 columns; floor: joblib.hash."""
    frame = pd.DataFrame(hundred_megabytes(course)[: course.size(1_250_000) * 10].reshape(-1, 10))
    course.against(
        lambda: joblib.hash(frame),
        lambda: stable_hash(frame),
        items=1,
        target=1.0,
        unit="us a frame",
    )


def test_hash_of_small_dicts(course: Course) -> None:
    """10 000 small dicts, each on its own; floor: joblib.hash."""
    dicts = small_dicts(course)
    figure = course.against(
        lambda: [joblib.hash(each) for each in dicts],
        lambda: [stable_hash(each) for each in dicts],
        items=len(dicts),
        target=0.5,
        rounds=3,
    )
    if not course.is_smoke:
        assert figure.ours_us * len(dicts) / 1e6 <= DICTS_LIMIT_SECONDS


def test_hash_of_a_list_of_small_dicts(course: Course) -> None:
    """10 000 small dicts in one list; floor: joblib.hash."""
    dicts = small_dicts(course)
    course.against(
        lambda: joblib.hash(dicts), lambda: stable_hash(dicts), items=len(dicts), target=1.0
    )


class Flow:
    id = "flow"


class Run:
    id, flow_run = "run", Flow()


class Named:
    task_key = "work"

    @staticmethod
    def fn(x: int) -> Any:
        return small_dicts, hundred_megabytes, Run, Flow, x


class Context:
    task, task_run = Named(), Run()


def test_key_of_the_code_a_task_reaches(course: Course) -> None:
    """A key by INPUTS + TASK_SOURCE_DEEP of unchanged code; floor: INPUTS + TASK_SOURCE."""
    calls = range(course.size(1000))
    shallow, deep = INPUTS + TASK_SOURCE, INPUTS + TASK_SOURCE_DEEP
    course.against(
        lambda: [shallow.compute_key(Context(), {"x": x}, {}) for x in calls],
        lambda: [deep.compute_key(Context(), {"x": x}, {}) for x in calls],
        items=len(calls),
        target=2.0,
    )
