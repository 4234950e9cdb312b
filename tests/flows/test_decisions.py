"""Promises of decisions D3, D5, D9, D10: what a failure does to others, what a flow gives."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import (
    PenstockFuture,
    State,
    allow_failure,
    as_completed,
    flow,
    task,
    unmapped,
    wait,
)
from penstock.context import current_task_run
from penstock.exceptions import (
    CancelledRun,
    UnobservedFailureError,
    UpstreamTaskError,
)
from penstock.settings import temporary_settings
from penstock.states import Completed, Failed, StateType

if TYPE_CHECKING:
    from collections.abc import Callable

FINE = "Completed('All states completed.')"


@task
def good() -> str:
    return "good"


@task
def bad() -> str:
    raise ValueError("no luck")


def end_of(body: Callable[[], Any], runner: str, **options: Any) -> str:
    """Return the final state of a flow with this body, as text."""
    return str(flow(body, name="main", task_runner=runner, **options)(return_state=True))


# --- D3: a failure that nobody looked at -------------------------------------------------


def test_d3_a_flow_without_tasks_is_just_completed(runner: str) -> None:
    assert end_of(lambda: None, runner) == "Completed()"


def test_d3_and_034_all_fine(runner: str) -> None:
    def body() -> None:
        good()
        good.submit()
        good.map([]).result()

    assert end_of(body, runner) == FINE


def test_d3_a_flow_that_returns_a_value_says_nothing_about_its_tasks(runner: str) -> None:
    assert end_of(lambda: good.submit().result(), runner) == "Completed()"


@pytest.mark.parametrize(
    ("goods", "bads", "text"), [(2, 1, "1/3"), (0, 1, "1/1"), (1, 2, "2/3"), (0, 3, "3/3")]
)
def test_d3_a_failure_nobody_looked_at_fails_the_flow(
    runner: str, goods: int, bads: int, text: str
) -> None:
    def body() -> None:
        for _ in range(goods):
            good.submit()
        for _ in range(bads):
            bad.submit()

    assert end_of(body, runner) == f"Failed('{text} states failed.')"


def test_d3_not_even_a_returned_value_hides_it(runner: str) -> None:
    def body() -> str:
        bad.submit()
        return "all fine, is it not?"

    assert end_of(body, runner) == "Failed('1/1 states failed.')"


def test_d3_the_error_names_the_runs_and_the_way_out(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> None:
        bad.submit()

    with pytest.raises(UnobservedFailureError) as caught:
        main()
    text = str(caught.value)
    assert "bad-0 Failed('Task run encountered an exception ValueError: no luck')" in text
    assert "return_state=True" in text
    assert isinstance(caught.value.__cause__, ValueError)


def look_by_call() -> None:
    with contextlib.suppress(ValueError):
        bad()


def look_by_call_for_the_state() -> None:
    bad(return_state=True)


def look_by_result() -> None:
    with contextlib.suppress(ValueError):
        bad.submit().result()


def look_by_result_without_raising() -> None:
    bad.submit().result(raise_on_failure=False)


def look_by_exception() -> None:
    bad.submit().exception()


def look_by_submit_for_the_state() -> None:
    bad.submit(return_state=True)


def look_by_state_after_the_end() -> None:
    future = bad.submit()
    future.wait()
    assert future.state.is_failed()


def look_by_test_after_the_end() -> None:
    future = bad.submit()
    future.wait()
    assert future.is_failed()


def look_by_list_result() -> None:
    with contextlib.suppress(ZeroDivisionError):
        task(lambda by: 1 / by, name="divide").map([0, 0]).result()


def look_by_as_completed() -> None:
    for future in as_completed([bad.submit(), bad.submit()]):
        assert isinstance(future.exception(), ValueError)


def look_by_wait() -> None:
    done, _ = wait([bad.submit(), bad.submit()])
    assert [future.state.name for future in done] == ["Failed", "Failed"]


def look_by_allow_failure() -> None:
    kind = task(lambda error: type(error).__name__, name="kind")
    assert kind.submit(allow_failure(bad.submit())).result() == "ValueError"


def look_by_the_end_of_a_dependant() -> None:
    after = task(lambda value: value, name="after")
    assert isinstance(after.submit(bad.submit()).exception(), UpstreamTaskError)


def look_by_a_task() -> None:
    @task
    def parent() -> None:
        with contextlib.suppress(ValueError):
            bad.submit().result()

    parent.submit()


LOOKS = [value for name, value in sorted(globals().items()) if name.startswith("look_by_")]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
def test_d3_and_148_a_failure_that_somebody_looked_at_is_handled(
    runner: str, look: Callable[[], None]
) -> None:
    assert end_of(look, runner) == FINE


def test_d3_awaiting_a_future_is_looking(runner: str) -> None:
    @flow(task_runner=runner)
    async def main() -> None:
        with pytest.raises(ValueError, match="no luck"):
            await bad.submit()
        with pytest.raises(ValueError, match="no luck"):
            bad()

    assert str(asyncio.run(main(return_state=True))) == FINE


def test_d3_asking_before_the_end_is_not_looking(threads: str, gate: Any) -> None:
    @task
    def fails_later() -> None:
        gate.wait()
        raise ValueError("no luck")

    def body() -> None:
        future = fails_later.submit()
        assert not future.state.is_final()
        assert not future.is_failed()
        with contextlib.suppress(TimeoutError):
            future.result(timeout=0.01)
        gate.open()

    assert end_of(body, threads) == "Failed('1/1 states failed.')"


def test_d3_waiting_alone_is_not_looking(runner: str) -> None:
    def body() -> None:
        bad.submit().wait()
        wait([bad.submit()])

    assert end_of(body, runner) == "Failed('2/2 states failed.')"


def test_d3_asking_a_map_for_its_results_is_looking_at_all_of_it(runner: str) -> None:
    divide = task(lambda by: 1 / by, name="divide")

    def raises_the_first() -> None:
        with contextlib.suppress(ZeroDivisionError):
            divide.map([0, 1, 0]).result()

    def shows_all() -> None:
        divide.map([0, 1, 0]).result(raise_on_failure=False)

    def asks_one() -> None:
        with contextlib.suppress(ZeroDivisionError):
            divide.map([0, 1, 0])[0].result()

    assert end_of(shows_all, runner) == FINE
    assert end_of(raises_the_first, runner) == FINE
    assert end_of(asks_one, runner) == "Failed('1/3 states failed.')"


@pytest.mark.parametrize(
    ("setting", "text", "remarks"),
    [("fail", "Failed('1/1 states failed.')", 0), ("warn", FINE, 1), ("ignore", FINE, 0)],
)
def test_d3_the_setting_says_what_becomes_of_it(
    runner: str, setting: str, text: str, remarks: int, log: Any
) -> None:
    def body() -> None:
        bad.submit()

    with temporary_settings(flows_unobserved_failures=setting):
        assert end_of(body, runner) == text
    told = [line for line in log.lines if "Nobody looked at the failure of 'bad-0'" in line]
    assert len(told) == remarks


def test_d3_the_failure_is_named_in_the_log_where_the_state_does_not_show_it(
    runner: str, log: Any
) -> None:
    def body() -> None:
        bad.submit()
        raise RuntimeError("something else")

    assert "something else" in end_of(body, runner)
    assert any("Nobody looked at the failure of 'bad-0'" in line for line in log.lines)


def test_d3_a_crash_counts_as_a_failure(runner: str) -> None:
    @task
    def exits() -> None:
        raise SystemExit(3)

    def body() -> None:
        exits.submit()
        good.submit()

    assert end_of(body, runner) == "Failed('1/2 states failed.')"


def test_d3_what_was_cancelled_on_request_is_no_failure(gate: Any) -> None:
    blocked = task(gate.wait, name="blocked")

    def body() -> None:
        blocked.submit()
        assert good.submit().cancel()
        gate.open()

    assert end_of(body, "thread:1") == FINE


def test_d3_a_failure_in_a_sub_flow_is_the_sub_flows(runner: str) -> None:
    @flow
    def sub() -> None:
        bad.submit()

    def handled() -> None:
        with contextlib.suppress(UnobservedFailureError):
            sub()

    def looked_at() -> None:
        assert str(sub(return_state=True)) == "Failed('1/1 states failed.')"

    def submitted() -> None:
        sub.submit()
        good.submit()

    assert end_of(handled, runner) == FINE
    assert end_of(looked_at, runner) == FINE
    assert end_of(submitted, runner) == "Failed('1/2 states failed.')"

    def raised() -> None:
        sub()

    assert "Flow run encountered an exception: UnobservedFailureError" in end_of(raised, runner)


def test_d3_a_failure_inside_of_a_task_that_nobody_looked_at_counts(runner: str) -> None:
    @task
    def parent() -> str:
        bad.submit()
        return "fine"

    def body() -> None:
        parent()

    assert end_of(body, runner) == "Failed('1/2 states failed.')"


def test_d3_a_dropped_future_is_not_lost(threads: str, gate: Any) -> None:
    """Pain 7: the flow waits for everything, whether or not somebody holds the future."""
    done: list[int] = []

    @task
    def slow(number: int) -> None:
        gate.wait()
        done.append(number)

    def body() -> None:
        for number in range(10):
            slow.submit(number)
        threading.Timer(0.02, gate.open).start()

    assert end_of(body, threads) == FINE
    assert sorted(done) == list(range(10))


# --- D5: inputs that failed --------------------------------------------------------------


@pytest.mark.parametrize("place", ["argument", "keyword", "list", "dict", "wait_for"])
def test_d5_a_run_whose_input_failed_does_not_run(runner: str, place: str) -> None:
    calls: list[Any] = []

    @task(retries=3)
    def after(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    @flow(task_runner=runner)
    def main() -> list[PenstockFuture[Any]]:
        source = bad.submit()
        future: PenstockFuture[Any] = {
            "argument": lambda: after.submit(source),
            "keyword": lambda: after.submit(key=source),
            "list": lambda: after.submit([1, [source]]),
            "dict": lambda: after.submit({"key": (source,)}),
            "wait_for": lambda: after.submit(wait_for=[source]),
        }[place]()
        future.wait()
        state = future.state
        assert state.name == "UpstreamFailed"
        assert state.is_failed()
        assert state.is_final()
        assert "Upstream run 'bad-0' ended in state Failed(" in str(state)
        with pytest.raises(UpstreamTaskError, match="'after-0' did not run") as caught:
            future.result()
        assert caught.value.__cause__ is source.exception()
        assert future.run.run_count == 0  # no retries
        return []

    main()
    assert calls == []


def test_d5_a_direct_call_with_a_failed_input_raises_the_same(runner: str) -> None:
    after = task(lambda value: value, name="after")

    @flow(task_runner=runner)
    def main() -> None:
        with pytest.raises(UpstreamTaskError) as caught:
            after(bad.submit())
        assert isinstance(caught.value.__cause__, ValueError)

    assert str(main(return_state=True)) == FINE


def test_d5_it_goes_down_a_chain_and_the_first_failure_is_the_cause(runner: str) -> None:
    step = task(lambda value: value, name="step")

    @flow(task_runner=runner)
    def main() -> None:
        future: PenstockFuture[Any] = bad.submit()
        for _ in range(3):
            future = step.submit(future)
        error = future.exception()
        assert isinstance(error, UpstreamTaskError)
        assert "upstream run 'bad-0' ended in state Failed(" in str(error)
        assert isinstance(error.__cause__, ValueError)

    assert str(main(return_state=True)) == FINE


def test_d5_nobody_looked_at_any_of_them(runner: str) -> None:
    step = task(lambda value: value, name="step")

    def body() -> None:
        step.submit(step.submit(bad.submit()))

    assert end_of(body, runner) == "Failed('3/3 states failed.')"


def test_d5_a_very_long_chain_fails_to_its_end(runner: str) -> None:
    step = task(lambda value: value, name="step")

    @flow(task_runner=runner)
    def main() -> str:
        future: PenstockFuture[Any] = bad.submit()
        for _ in range(3000):
            future = step.submit(future)
        future.wait()
        return future.state.name

    assert main() == "UpstreamFailed"


@pytest.mark.parametrize("place", ["argument", "list", "keyword"])
def test_d5_allow_failure_passes_the_exception(runner: str, place: str) -> None:
    @task
    def look(value: Any) -> Any:
        return value

    @flow(task_runner=runner)
    def main() -> list[Any]:
        source = bad.submit()
        if place == "argument":
            got = look.submit(allow_failure(source)).result()
        elif place == "keyword":
            got = look.submit(value=allow_failure(source)).result()
        else:
            got = look.submit([allow_failure(source), good.submit()]).result()
            assert got[1] == "good"
            got = got[0]
        assert got is source.exception()
        assert look.submit(allow_failure(good.submit())).result() == "good"
        return []

    main()


@pytest.mark.parametrize("how", ["call", "submit", "map", "sub-flow"])
def test_d5_allow_failure_in_wait_for_lets_the_run_go_ahead(runner: str, how: str) -> None:
    sub_flow = flow(lambda: "went ahead", name="sub-flow")
    after = task(lambda value="went ahead": value, name="after")

    @flow(task_runner=runner)
    def main() -> Any:
        source = bad.submit()
        before = [allow_failure(source), good.submit()]
        if how == "call":
            return after(wait_for=before)
        if how == "map":
            return after.map(["went ahead"], wait_for=before).result()[0]
        return (after if how == "submit" else sub_flow).submit(wait_for=before).result()

    assert main() == "went ahead"


def test_d5_allow_failure_in_wait_for_is_for_what_it_is_around(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> str:
        after = good.submit(wait_for=[allow_failure(bad.submit()), bad.submit()])
        after.wait()
        return after.state.name

    assert main() == "UpstreamFailed"


def test_d5_allow_failure_over_a_map(runner: str) -> None:
    divide = task(lambda by: 1 / by, name="divide")
    kind = task(lambda value: type(value).__name__, name="kind")

    @flow(task_runner=runner)
    def main() -> list[str]:
        return kind.map(allow_failure(divide.map([1, 0]))).result()

    assert main() == ["float", "ZeroDivisionError"]


def test_d5_a_cancelled_input_cancels(gate: Any) -> None:
    blocked = task(gate.wait, name="blocked")
    after = task(lambda value: value, name="after")

    @flow(task_runner="thread:1")
    def main() -> list[str]:
        blocked.submit()
        queued = good.submit()
        first = after.submit(queued)
        second = after.submit(first)
        assert queued.cancel()
        second.wait(10)
        with pytest.raises(CancelledRun):
            second.result(timeout=10)
        gate.open()
        assert "Upstream run 'good-0' was cancelled" in str(first.state)
        return [future.state.name for future in (queued, first, second)]

    assert main() == ["Cancelled"] * 3


def test_d5_a_failed_input_goes_before_a_cancelled_one(gate: Any) -> None:
    blocked = task(gate.wait, name="blocked")
    after = task(lambda *values: values, name="after")

    @flow(task_runner="thread:1")
    def main() -> str:
        failed = bad.submit()
        failed.wait()
        blocked.submit()
        queued = good.submit()
        future = after.submit(queued, failed)
        queued.cancel()
        future.wait(10)
        gate.open()
        return future.state.name

    assert main() == "UpstreamFailed"


def test_d5_a_sub_flow_whose_input_failed_does_not_run(runner: str) -> None:
    calls: list[Any] = []
    sub = flow(calls.append, name="sub")

    @flow(task_runner=runner)
    def main() -> list[str]:
        source = bad.submit()
        with pytest.raises(UpstreamTaskError):
            sub(source)
        future = sub.submit(source)
        future.wait()
        return [future.state.name]

    assert main() == ["UpstreamFailed"]
    assert calls == []


def test_d5_the_states_of_the_inputs_can_be_read_by_the_run(runner: str) -> None:
    seen: dict[str, list[str]] = {}

    @task
    def look(value: Any) -> None:
        run = current_task_run()
        assert run is not None
        seen.update(
            {name: [s.name for s in states] for name, states in run.upstream_states.items()}
        )

    @flow(task_runner=runner)
    def main() -> None:
        look.submit(allow_failure(bad.submit()), wait_for=[good.submit()]).result()

    main()
    assert seen == {"value": ["Failed"], "wait_for": ["Completed"]}


# --- D9: what is mapped over -------------------------------------------------------------


def test_d9_a_dict_is_mapped_over_its_keys_with_a_warning(runner: str) -> None:
    upper = task(lambda key: key.upper(), name="upper")

    @flow(task_runner=runner)
    def main() -> list[str]:
        with pytest.warns(UserWarning, match=r"goes over the keys of a dict"):
            futures = upper.map({"a": 1, "b": 2})
        return futures.result()

    assert main() == ["A", "B"]


def test_d9_texts_and_marked_values_go_to_every_run_whole(runner: str) -> None:
    show = task(lambda *values: values, name="show")

    @flow(task_runner=runner)
    def main() -> list[Any]:
        return show.map([1, 2], "ab", b"cd", unmapped([3, 4]), None).result()

    assert main() == [(number, "ab", b"cd", [3, 4], None) for number in (1, 2)]


def test_d9_mapping_over_nothing_gives_nothing(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> list[Any]:
        futures = task(lambda value: value, name="show").map([])
        assert list(futures) == []
        return futures.result()

    assert main() == []


# --- D10: what a flow returns ------------------------------------------------------------


def test_d10_a_flow_that_returns_futures_gives_their_values(runner: str) -> None:
    number = task(lambda value: value, name="number")

    def give(value: Any) -> Any:
        return flow(lambda: value(), name="main", task_runner=runner)()

    assert give(lambda: number.submit(1)) == 1
    assert give(lambda: [number.submit(1), number.submit(2), 3]) == [1, 2, 3]
    assert give(lambda: {"a": number.submit(1), "b": [number.submit(2)]}) == {"a": 1, "b": [2]}
    assert give(lambda: (number.submit(1), number.submit(2))) == (1, 2)
    assert give(lambda: number.map([1, 2, 3])) == [1, 2, 3]
    assert give(lambda: {"all": number.map([1, 2, 3])}) == {"all": [1, 2, 3]}


def test_d10_an_async_flow_that_returns_futures_gives_their_values(runner: str) -> None:
    number = task(lambda value: value, name="number")

    @flow(task_runner=runner)
    async def main() -> Any:
        return [number.submit(1), number.submit(2)]

    assert asyncio.run(main()) == [1, 2]


def test_d10_a_failure_among_the_returned_futures_is_raised(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        return [good.submit(), bad.submit()]

    with pytest.raises(ValueError, match="no luck"):
        main()
    state: Any = main(return_state=True)
    assert str(state) == "Failed('Flow run encountered an exception: ValueError: no luck')"


def test_d10_a_returned_state_is_the_state_of_the_flow(runner: str) -> None:
    def give(state: State[Any]) -> State[Any]:
        return flow(lambda: state, name="main", task_runner=runner)(return_state=True)

    assert str(give(Failed("said so"))) == "Failed('said so')"
    assert give(Completed(7)).result() == 7
    assert give(Completed(7, message="well done")).message == "well done"


def test_d10_the_state_of_a_task_may_be_returned(runner: str) -> None:
    @flow(task_runner=runner)
    def main(subject: Any) -> Any:
        return subject(return_state=True)

    assert main(good) == "good"
    with pytest.raises(ValueError, match="no luck"):
        main(bad)


class Verdict(State[Any]):
    """A state of the user's own making."""


class NotThere:
    """What is in a state that comes home, and cannot be made there."""

    def __reduce__(self) -> Any:
        return vars, (0,)


def test_d10_a_state_that_a_task_returns_is_its_own_on_any_runner(anywhere: str) -> None:
    @task(retries=1)
    def say(word: str) -> Any:
        if word == "no":
            return Verdict(StateType.FAILED, "Failed", "said so")
        if word == "large":
            return Completed("x" * 2_000_000, message="well done")
        return Completed([word], message="well done")

    @flow(task_runner=anywhere)
    def main() -> Any:
        futures = [say.submit("yes"), *say.map(["large", "no", "yes"])]
        for future in futures:
            future.wait()
        states = [str(future.state) for future in futures]
        assert states == ["Completed('well done')"] * 2 + ["Failed('said so')"] + states[:1]
        assert [future.run.run_count for future in futures] == [1, 1, 2, 1]
        assert futures[0].result() == ["yes"]
        assert len(futures[1].result()) == 2_000_000

    main()


def test_d10_a_state_that_cannot_be_had_is_a_failure(elsewhere: str) -> None:
    @task
    def say() -> Any:
        return Completed(NotThere())

    @flow(task_runner=elsewhere)
    def main() -> Any:
        return say.submit().exception()

    assert isinstance(main(), TypeError)


def test_d10_return_state_gives_the_state_of_the_whole(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        return [good.submit(), good.submit()]

    state: Any = main(return_state=True)
    assert state.is_completed()
    assert state.result() == ["good", "good"]


def test_d10_several_states_returned_give_their_results(runner: str) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        return [good(return_state=True), good.submit(return_state=True)]

    returned = main()
    assert [getattr(each, "data", each) for each in returned] == ["good", "good"]


def test_d10_a_sub_flow_gives_values_to_its_parent(runner: str) -> None:
    @flow
    def sub() -> Any:
        return [good.submit()]

    @flow(task_runner=runner)
    def main() -> Any:
        return [sub(), sub.submit()]

    assert main() == [["good"], ["good"]]
