"""User row 25: resources of threads and processes, counted and handed out by index."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock import flow, task, wait
from penstock.exceptions import RunnerCannotError
from penstock.runtime import task_run
from penstock_runners.process import ProcessPoolTaskRunner
from penstock_runners.thread import ThreadPoolTaskRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.flows.conftest import Gate


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Leaves no worker behind."""

    warm_seconds = 0.0


@pytest.fixture(autouse=True)
def this_module_by_value() -> Iterator[None]:
    """Workers cannot import test modules, which pytest loads in a way of its own."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def threads(**resources: float) -> ThreadPoolTaskRunner:
    return ThreadPoolTaskRunner(4, resources=resources)


def processes(**resources: float) -> ProcessPoolTaskRunner:
    return ColdProcessPoolTaskRunner(2, resources=resources)


@pytest.fixture(params=[threads, processes])
def two_gpus(request: pytest.FixtureRequest) -> Any:
    """A runner that has two."""
    return request.param(GPU=2)


@task(resources={"GPU": 1})
def indices() -> dict[str, list[int]]:
    time.sleep(0.01)
    return task_run.resources


@task
def devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_user_025_code_can_ask_which_devices_it_has(two_gpus: Any) -> None:
    @flow(task_runner=two_gpus)
    def body() -> Any:
        both = indices.with_options(resources={"GPU": 2, "GB": 0})
        return both.submit().result(), indices.submit().result(), task_run.resources

    assert body() == ({"GPU": [0, 1]}, {"GPU": [0]}, {})


def test_user_025_no_device_is_had_by_two_at_once(gate: Gate) -> None:
    now: list[int] = []
    most = 0
    lock = threading.Lock()

    @task(resources={"GPU": 1})
    def work() -> None:
        nonlocal most
        ((index,),) = task_run.resources.values()
        with lock:
            assert index not in now
            now.append(index)
            most = max(most, len(now))
        time.sleep(0.001)
        with lock:
            now.remove(index)

    @flow(task_runner=threads(GPU=2))
    def body() -> None:
        wait([work.submit() for _ in range(200)])

    body()
    assert most == 2


def test_user_025_those_without_a_need_go_on_while_others_wait(gate: Gate) -> None:
    @task(resources={"GPU": 1})
    def hold() -> None:
        gate.wait()

    @flow(task_runner=ThreadPoolTaskRunner(2, resources={"GPU": 1}))
    def body() -> Any:
        held = [hold.submit() for _ in range(5)]
        found = devices.submit().result(timeout=10)  # those that wait hold no thread
        gate.open()
        wait(held)
        return found

    assert body() == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_user_025_a_large_one_is_not_overtaken_for_ever(gate: Gate) -> None:
    order: list[str] = []

    @task
    def use(name: str) -> None:
        if name == "first":
            gate.wait()
        order.append(name)

    one, two = (use.with_options(resources={"GPU": amount}) for amount in (1, 2))

    @flow(task_runner=threads(GPU=2))
    def body() -> None:
        one.submit("first")
        two.submit("large")
        for number in range(3):
            one.submit(f"small {number}")
        devices.submit().wait()
        gate.open()

    body()
    assert order[:2] == ["first", "large"]
    assert len(order) == 5


@pytest.mark.parametrize("how", ["fail", "hang", "die"])
def test_user_025_devices_are_free_again_however_an_attempt_ends(how: str) -> None:
    @task(resources={"GPU": 2}, crash_retries=0)
    def end() -> None:
        if how == "fail":
            raise ValueError(how)
        if how == "die":
            os._exit(3)
        time.sleep(60)

    @flow(task_runner=processes(GPU=2))
    def body() -> Any:
        timeout = 0.2 if how == "hang" else None
        first = end.with_options(timeout_seconds=timeout).submit()
        first.wait()
        return first.state.name, indices.submit().result(timeout=30)

    names = {"fail": "Failed", "hang": "TimedOut", "die": "Crashed"}
    assert body() == (names[how], {"GPU": [0]})


def test_user_025_who_is_cancelled_while_it_waits_takes_nothing(gate: Gate) -> None:
    @task(resources={"GPU": 1})
    def hold() -> None:
        gate.wait()

    @flow(task_runner=threads(GPU=1))
    def body() -> Any:
        first, second = hold.submit(), hold.submit()
        last = indices.submit()
        assert second.cancel()
        gate.open()
        first.wait()
        return second.state.name, last.result(timeout=10)

    assert body() == ("Cancelled", {"GPU": [0]})


def test_user_025_a_retry_asks_for_its_devices_anew() -> None:
    found: list[Any] = []

    @task(resources={"GPU": 1}, retries=1, retry_delay_seconds=0.05)
    def flaky() -> None:
        found.append(task_run.resources)
        if task_run.run_count == 1:
            raise ValueError("once")

    @flow(task_runner=threads(GPU=1))
    def body() -> Any:
        first = flaky.submit()
        between = indices.submit().result()  # while flaky waits, it has none
        first.result()
        return between

    assert body() == {"GPU": [0]}
    assert found == [{"GPU": [0]}] * 2


@pytest.mark.parametrize("make", [threads, processes])
@pytest.mark.parametrize(
    ("needed", "reason"),
    [
        ({"GPU": 3}, "it has 2 GPU, 8 GB to offer, and 3 GPU is asked for"),
        ({"TPU": 1, "GPU": 1}, "it has 2 GPU, 8 GB to offer, and 1 TPU is asked for"),
    ],
)
def test_user_025_what_can_never_be_had_is_refused_when_it_is_submitted(
    make: Any, needed: Mapping[str, float], reason: str
) -> None:
    @flow(task_runner=make(GPU=2, GB=8))
    def body() -> None:
        indices.with_options(resources=needed).submit()

    with pytest.raises(RunnerCannotError, match=reason):
        body()


@pytest.mark.parametrize("runner", ["inline", "thread", "process"])
def test_user_025_a_runner_that_was_told_of_none_refuses(runner: str) -> None:
    @flow(task_runner=runner)
    def body() -> None:
        indices.submit()

    with pytest.raises(RunnerCannotError, match="no resources to offer, and 1 GPU is asked for"):
        body()


def test_user_025_a_direct_call_stays_here_and_takes_none() -> None:
    @flow(task_runner=threads(GPU=1))
    def body() -> Any:
        return indices()

    assert body() == {"GPU": []}


@pytest.mark.parametrize(
    "resources", [{"GPU": -1}, {"GPU": "2"}, {"GPU": True}, {"GPU": float("inf")}, {2: 1}]
)
@pytest.mark.parametrize("runner_class", [ThreadPoolTaskRunner, ProcessPoolTaskRunner])
def test_user_025_an_impossible_offer_is_refused(runner_class: Any, resources: Any) -> None:
    with pytest.raises(ValueError, match="resources must say how much there is by name"):
        runner_class(resources=resources)


def test_user_025_the_summary_of_a_runner_says_what_it_has(two_gpus: Any) -> None:
    assert two_gpus.summary().endswith(", 2 GPU")


# --- nested ------------------------------------------------------------------------------------


def test_user_025_a_run_inside_of_another_shares_its_devices(two_gpus: Any) -> None:
    @task(resources={"GPU": 2})
    def outer() -> Any:
        return indices.submit().result(timeout=20), indices()

    @flow(task_runner=two_gpus)
    def body() -> Any:
        return outer.submit().result()

    submitted, called = body()
    assert submitted in ({"GPU": [0]}, {"GPU": [0, 1]}), "in a process it is part of the attempt"
    assert called == {"GPU": [0, 1]}


def test_user_025_in_a_process_there_is_no_more_than_the_attempt_has() -> None:
    @task(resources={"GPU": 1})
    def outer() -> str:
        try:
            indices.with_options(resources={"GPU": 2}).submit()
        except RunnerCannotError as error:
            return str(error)
        return "was not refused"

    @flow(task_runner=processes(GPU=2))
    def body() -> str:
        return outer.submit().result()

    assert "it shares what the run around it has, 1 GPU, and 2 GPU is asked for" in body()


# --- CUDA_VISIBLE_DEVICES ----------------------------------------------------------------------


def test_user_025_a_process_shows_its_attempt_only_its_devices() -> None:
    @flow(task_runner=processes(GPU=4))
    def body() -> Any:
        two = devices.with_options(resources={"GPU": 2})
        broken = devices.with_options(resources={"GPU": 0.5})
        return two.submit().result(), broken.submit().result(), devices.submit().result()

    assert body() == ("0,1", None, None)


def test_user_025_devices_are_counted_among_those_that_were_visible_before() -> None:
    runner = ColdProcessPoolTaskRunner(1, env={"CUDA_VISIBLE_DEVICES": "5,7"}, resources={"GPU": 2})

    @flow(task_runner=runner)
    def body() -> Any:
        one = devices.with_options(resources={"GPU": 1})
        return one.submit().result(), devices.submit().result()

    assert body() == ("5", "5,7")


def test_user_025_the_variable_is_restored_after_a_failure() -> None:
    @task(resources={"GPU": 1})
    def fail() -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = "changed"
        raise ValueError("boom")

    @flow(task_runner=ColdProcessPoolTaskRunner(1, resources={"GPU": 1}))
    def body() -> Any:
        assert fail.submit(return_state=True).is_failed()
        return devices.submit().result()

    assert body() is None
