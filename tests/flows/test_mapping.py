"""`.map()`: over lists, futures, futures of lists, iterators; user rows 10 and 27."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import logging
import threading
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from penstock import (
    PenstockFuture,
    allow_failure,
    as_completed,
    flow,
    opaque,
    quote,
    tags,
    task,
    unmapped,
    wait,
)
from penstock.exceptions import (
    CancelledRun,
    MappingLengthMismatch,
    MappingMissingIterable,
    UpstreamTaskError,
)
from penstock.runtime import task_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.flows.conftest import Gate, Log


@task
def double(x: Any) -> Any:
    return 2 * x


@task
def pair(x: Any, y: Any = None) -> Any:
    return x, y


@task
def listed(count: int) -> list[int]:
    return list(range(count))


@task
def fail(x: Any = None) -> Any:
    raise ValueError(x)


def in_flow(runner: str, fn: Callable[[], Any], **options: Any) -> Any:
    return flow(fn, name="body", task_runner=runner, **options)()


# --- what is mapped over -------------------------------------------------------------------


class ListOfMine(list[int]): ...


@pytest.mark.parametrize(
    "items",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        ListOfMine([1, 2, 3]),
        {1: "a", 2: "b", 3: "c"}.keys(),
        memoryview(b"\x01\x02\x03"),
    ],
)
def test_seed_140_a_map_goes_over_things_with_a_length(items: Any, runner: str) -> None:
    assert in_flow(runner, lambda: double.map(items).result()) == [2, 4, 6]


def test_seed_140_a_map_goes_over_a_set(runner: str) -> None:
    assert sorted(in_flow(runner, lambda: double.map({1, 2, 3}).result())) == [2, 4, 6]


def test_seed_140_a_map_goes_over_a_generator(runner: str) -> None:
    items = (x for x in [1, 2, 3])
    assert in_flow(runner, lambda: double.map(items).result()) == [2, 4, 6]


def test_seed_140_several_iterables_are_gone_through_together(runner: str) -> None:
    assert in_flow(runner, lambda: pair.map([1, 2], y=("a", "b")).result()) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("static", ["text", b"bytes", 5, None, 1.5, bytearray(b"x")])
def test_d09_strings_bytes_and_scalars_go_to_every_run(static: Any, runner: str) -> None:
    assert in_flow(runner, lambda: pair.map([1, 2], static).result()) == [(1, static), (2, static)]


def test_d09_a_dict_is_mapped_over_its_keys_with_one_warning(runner: str) -> None:
    def body() -> Any:
        with pytest.warns(UserWarning, match="goes over the keys of a dict") as warned:
            found = double.map({1: "a", 2: "b"}).result()
        return found, len(warned), warned[0].filename

    assert in_flow(runner, body) == ([2, 4], 1, __file__)


def test_seed_140_an_empty_list_gives_an_empty_list(runner: str) -> None:
    futures = in_flow(runner, lambda: [double.map([])])[0]
    assert futures == []


def test_seed_140_the_result_of_an_empty_map_is_an_empty_list(runner: str) -> None:
    assert in_flow(runner, lambda: double.map([]).result()) == []


def test_seed_140_an_empty_generator_gives_nothing(runner: str) -> None:
    assert in_flow(runner, lambda: double.map(iter([])).result()) == []


def test_seed_140_unequal_lengths_are_refused(runner: str) -> None:
    def body() -> None:
        with pytest.raises(MappingLengthMismatch, match="x: 2, y: 3"):
            pair.map([1, 2], y=[1, 2, 3])

    in_flow(runner, body)


def test_seed_140_nothing_to_map_over_is_refused(runner: str) -> None:
    def body() -> None:
        with pytest.raises(MappingMissingIterable, match="nothing to map over"):
            pair.map("text", y=unmapped([1]))

    in_flow(runner, body)


@pytest.mark.parametrize("mistake", [{"on_error": "stop"}, {"max_in_flight": 0}])
def test_an_impossible_option_of_a_map_is_refused(mistake: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(mistake))):
        double.map([1], **mistake)


def test_a_bad_mapped_call_is_a_type_error_before_any_run_exists(log: Log) -> None:
    def body() -> None:
        with pytest.raises(TypeError):
            double.map([1, 2], z=3)

    in_flow("thread", body)
    assert not [line for line in log.lines if "task run" in line]


class Unreadable(list[int]):
    """A list that cannot be searched for futures."""

    def __iter__(self) -> Iterator[int]:
        raise OSError("not to be read")


def test_what_a_map_has_made_before_it_broke_off_comes_to_its_end(runner: str) -> None:
    ended: list[str] = []
    counted = task(len, on_completion=[lambda task_run: ended.append(task_run.name)])

    def body() -> None:
        with pytest.raises(OSError, match="not to be read"):
            counted.map([[1], [2], Unreadable(), [3]])

    in_flow(runner, body)
    assert sorted(ended) == ["len-0", "len-1"]


def test_a_map_outside_of_a_flow_runs() -> None:
    assert double.map([1, 2, 3]).result() == [2, 4, 6]


def test_a_hundred_thousand_pages_of_paper_are_not_needed_to_number_runs(runner: str) -> None:
    names = task(lambda x: task_run.name, name="load")
    assert in_flow(runner, lambda: names.map([7, 8]).result()) == ["load-0", "load-1"]


# --- marks -----------------------------------------------------------------------------------


def test_unmapped_goes_to_every_run_whole(runner: str) -> None:
    whole = [1, 2, 3]
    found = in_flow(runner, lambda: pair.map([1, 2], unmapped(whole)).result())
    assert found == [(1, whole), (2, whole)]


def test_unmapped_is_the_very_object(threads: str) -> None:
    whole = {"a": 1}
    found = in_flow(threads, lambda: pair.map([1, 2], unmapped(whole)).result())
    assert all(y is whole for _, y in found)


def test_an_unmapped_future_has_its_value_in_every_run(runner: str) -> None:
    found = in_flow(runner, lambda: pair.map([1, 2], unmapped(listed.submit(2))).result())
    assert found == [(1, [0, 1]), (2, [0, 1])]


def test_quote_is_not_mapped_over_and_not_looked_into(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        ((_, found),) = pair.map([1], quote([future])).result()
        return found[0] is future

    assert in_flow(runner, body)


def test_opaque_is_not_mapped_over_and_not_looked_into(runner: str) -> None:
    def body() -> Any:
        future = double.submit(1)
        ((_, found),) = pair.map([1], opaque([future])).result()
        return found[0] is future

    assert in_flow(runner, body)


def test_opaque_leaves_no_trace_of_where_a_value_came_from(runner: str) -> None:
    @task
    def make() -> list[int]:
        return [1]

    @task
    def inputs(x: Any) -> Any:
        return list(task_run.task_inputs)

    def body() -> Any:
        made = make()
        return inputs.submit(made).result(), inputs.submit(opaque(made)).result()

    assert in_flow(runner, body) == (["x"], [])


def test_allow_failure_maps_over_what_is_in_it_and_passes_the_exceptions(runner: str) -> None:
    @task
    def halve(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x // 2

    @task
    def kind(x: Any) -> str:
        return type(x).__name__

    def body() -> Any:
        return kind.map(allow_failure(halve.map([1, 2, 3]))).result()

    assert in_flow(runner, body) == ["ValueError", "int", "ValueError"]


def test_allow_failure_of_one_future_goes_to_every_run(runner: str) -> None:
    @task
    def kind(x: int, y: Any) -> str:
        return type(y).__name__

    def body() -> Any:
        return kind.map([1, 2], unmapped(allow_failure(fail.submit()))).result()

    assert in_flow(runner, body) == ["ValueError", "ValueError"]


@pytest.mark.parametrize("kind", [list, iter])
def test_every_run_waits_for_wait_for(threads: str, gate: Gate, kind: Any) -> None:
    began: list[int] = []

    @task
    def hold() -> None:
        gate.wait()
        began.append(-1)

    def body() -> None:
        futures = task(began.append).map([1, 2, 3], wait_for=kind([hold.submit()]))
        assert began == []
        gate.open()
        futures.wait()

    in_flow(threads, body)
    assert began[0] == -1
    assert sorted(began[1:]) == [1, 2, 3]


def test_no_run_begins_when_wait_for_has_failed(runner: str) -> None:
    def body() -> Any:
        futures = double.map([1, 2], wait_for=[fail.submit()])
        futures.wait()
        return [future.state.name for future in futures]

    assert in_flow(runner, body) == ["UpstreamFailed", "UpstreamFailed"]


# --- futures ------------------------------------------------------------------------------------


def test_user_027_mapping_over_a_list_of_futures_is_element_wise(runner: str) -> None:
    def body() -> Any:
        return double.map([double.submit(x) for x in range(4)]).result()

    assert in_flow(runner, body) == [0, 4, 8, 12]


def test_user_027_mapping_over_a_list_of_futures_does_not_wait(threads: str, gate: Gate) -> None:
    @task
    def hold(x: int) -> int:
        gate.wait()
        return x

    def body() -> Any:
        futures = double.map(hold.map([1, 2]))
        states = [future.done() for future in futures]
        gate.open()
        return states, futures.result()

    assert in_flow(threads, body) == ([False, False], [2, 4])


def test_user_027_nested_maps_are_three_deep(runner: str) -> None:
    def body() -> Any:
        return double.map(double.map(double.map([1, 2, 3]))).result()

    assert in_flow(runner, body) == [8, 16, 24]


def test_user_027_an_element_starts_when_its_own_input_is_there(
    gates: Callable[[int], list[Gate]],
) -> None:
    doors = gates(2)

    @task
    def hold(number: int) -> int:
        doors[number].wait()
        return number

    def body() -> Any:
        futures = double.map(hold.map([0, 1]))
        doors[1].open()
        found = futures[1].result()
        was_done = futures[0].done()
        doors[0].open()
        return found, was_done

    assert in_flow("thread:2", body) == (2, False)


def test_seed_140_a_future_of_a_list_is_mapped_over(runner: str) -> None:
    assert in_flow(runner, lambda: double.map(listed.submit(3)).result()) == [0, 2, 4]


def test_user_027_mapping_over_a_future_does_not_wait(threads: str, gate: Gate) -> None:
    @task
    def hold() -> list[int]:
        gate.wait()
        return [1, 2]

    def body() -> Any:
        origin = hold.submit()
        futures = double.map(origin)
        was_done = origin.done()
        gate.open()
        return was_done, futures.result()

    assert in_flow(threads, body) == (False, [2, 4])


def test_a_map_over_a_future_that_nobody_looks_at_runs_all_the_same(threads: str) -> None:
    ran: list[int] = []

    def body() -> None:
        task(ran.append).map(listed.submit(5))

    in_flow(threads, body)
    assert sorted(ran) == [0, 1, 2, 3, 4]


def test_a_map_over_a_map_over_a_future(runner: str) -> None:
    assert in_flow(runner, lambda: double.map(double.map(listed.submit(3))).result()) == [0, 4, 8]


def test_a_map_over_a_future_and_a_list_together(runner: str) -> None:
    found = in_flow(runner, lambda: pair.map(listed.submit(2), ["a", "b"]).result())
    assert found == [(0, "a"), (1, "b")]


def test_a_map_over_two_futures_together(runner: str) -> None:
    found = in_flow(runner, lambda: pair.map(listed.submit(2), y=listed.submit(2)).result())
    assert found == [(0, 0), (1, 1)]


def test_the_length_of_a_map_over_a_future_is_known_when_it_is_over(runner: str) -> None:
    def body() -> Any:
        futures = double.map(listed.submit(3))
        return len(futures), futures[2].result(), [f.result() for f in futures], bool(futures)

    assert in_flow(runner, body) == (3, 4, [0, 2, 4], True)


def test_a_map_over_a_future_of_nothing_gives_nothing(runner: str) -> None:
    assert in_flow(runner, lambda: double.map(listed.submit(0)).result()) == []


def test_a_map_over_a_future_can_be_waited_for_and_gone_through_as_completed(runner: str) -> None:
    def body() -> Any:
        futures = double.map(listed.submit(3))
        done, not_done = wait(futures)
        return len(done), len(not_done), sorted(f.result() for f in as_completed(futures))

    assert in_flow(runner, body) == (3, 0, [0, 2, 4])


def test_a_map_over_a_failed_future_is_one_run_that_tells_of_it(runner: str) -> None:
    def body() -> Any:
        futures = double.map(fail.submit("origin"))
        with pytest.raises(UpstreamTaskError) as caught:
            futures.result()
        return len(futures), type(caught.value.__cause__)

    assert in_flow(runner, body) == (1, ValueError)


def test_a_map_over_a_future_of_something_without_items_is_one_failed_run(runner: str) -> None:
    def body() -> Any:
        futures = double.map(double.submit(1))
        return [type(future.exception()) for future in futures]

    assert in_flow(runner, body) == [TypeError]


def test_lengths_that_turn_out_unequal_are_one_failed_run(runner: str) -> None:
    def body() -> Any:
        futures = pair.map(listed.submit(3), [1, 2])
        return [type(future.exception()) for future in futures]

    assert in_flow(runner, body) == [MappingLengthMismatch]


def test_many_threads_see_the_whole_of_a_map_over_a_future(threads: str) -> None:
    """Those who ask while the runs are being submitted must not find a part of them."""

    @task
    def length(futures: Any) -> int:
        return len(futures.value)

    def body() -> Any:
        for _ in range(20):
            futures = double.map(listed.submit(200))
            assert len(list(futures)) == 200
            futures.wait()

    in_flow(threads, body)


def test_a_map_over_a_future_is_passed_to_a_task_as_a_list(runner: str) -> None:
    def body() -> Any:
        return task(sum).submit(double.map(listed.submit(4))).result()

    assert in_flow(runner, body) == 12


def test_a_map_is_passed_to_a_task_as_a_list(runner: str) -> None:
    def body() -> Any:
        return task(sum).submit(double.map([1, 2, 3])).result()

    assert in_flow(runner, body) == 12


def test_tags_and_context_of_a_map_over_a_future_are_those_of_the_call(
    threads: str, gate: Gate
) -> None:
    @task
    def hold() -> list[int]:
        gate.wait()
        return [1, 2]

    @task
    def mine(x: int) -> list[str]:
        return task_run.tags

    def body() -> Any:
        with tags("A"):
            futures = mine.map(hold.submit())
        with tags("B"):
            gate.open()
            return futures.result()

    assert in_flow(threads, body) == [["A"], ["A"]]


# --- depth first ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "seconds"), [(20, 0.004), (1000, 0)])
@pytest.mark.parametrize("slots", ["thread:1", "thread:2"])
def test_user_027_the_first_of_the_second_level_starts_before_the_last_of_the_first(
    slots: str, count: int, seconds: float, gate: Gate
) -> None:
    order: list[str] = []

    @task
    def a(x: int) -> int:
        gate.wait()
        time.sleep(seconds)
        order.append("a")
        return x

    @task
    def b(x: int) -> None:
        order.append("b")

    def body() -> None:
        futures = b.map(a.map(range(count)))
        gate.open()
        futures.wait()

    in_flow(slots, body)
    assert order.count("a") == order.count("b") == count
    assert "a" in order[order.index("b") :]


# --- iterators ------------------------------------------------------------------------------------


class Pulled:
    """An endless iterator that counts what was taken."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.count += 1
        return self.count


def test_user_010_a_map_over_an_endless_iterator_is_consumed_as_far_as_wanted(runner: str) -> None:
    def body() -> Any:
        futures = double.map(itertools.count())
        return [future.result() for future in itertools.islice(futures, 20)]

    assert in_flow(runner, body) == list(range(0, 40, 2))


@pytest.mark.parametrize("most", [1, 3, 10])
def test_user_010_no_more_than_max_in_flight_items_are_pulled_ahead(most: int, runner: str) -> None:
    pulled = Pulled()

    def body() -> Any:
        ahead = [pulled.count]
        for number, _ in enumerate(double.map(pulled, max_in_flight=most), start=1):
            ahead.append(pulled.count - number)
            if number == 20:
                return max(ahead), ahead[0]
        return None

    most_ahead, at_first = in_flow(runner, body)
    assert (most_ahead, at_first) == (most, 0)


def test_user_010_by_default_four_items_a_slot_are_pulled_ahead() -> None:
    pulled = Pulled()

    def body() -> int:
        next(iter(double.map(pulled)))
        return pulled.count

    assert in_flow("thread:3", body) <= 4 * 3 + 2


def test_user_010_a_generator_that_nobody_goes_through_runs_to_its_end(runner: str) -> None:
    ran: list[int] = []

    def body() -> None:
        task(ran.append).map((x for x in range(50)), max_in_flight=4)

    in_flow(runner, body)
    assert sorted(ran) == list(range(50))


def test_user_010_an_async_flow_goes_through_what_nobody_did() -> None:
    ran: list[int] = []

    @flow
    async def body() -> None:
        task(ran.append).map((x for x in range(50)), max_in_flight=4)

    asyncio.run(body())
    assert sorted(ran) == list(range(50))


def test_user_010_a_map_over_an_iterator_that_was_left_is_not_pulled_further(runner: str) -> None:
    pulled = Pulled()

    def body() -> int:
        for future in double.map(pulled, max_in_flight=5):
            future.result()
            break
        return pulled.count

    assert in_flow(runner, body) == pulled.count


def test_user_010_results_are_let_go_once_consumed(log: Log) -> None:
    log.show(logging.ERROR)  # a record knows its run, and pytest keeps all

    class Big: ...

    alive: weakref.WeakSet[Big] = weakref.WeakSet()

    @task
    def make(x: int) -> Big:
        big = Big()
        alive.add(big)
        return big

    def body() -> int:
        most = 0
        for future in make.map(iter(range(100)), max_in_flight=2):
            future.result()
            most = max(most, len(alive))
        return most

    most = in_flow("thread:1", body)
    gc.collect()
    assert most < 20


def test_user_010_two_iterators_end_with_the_shorter(runner: str) -> None:
    found = in_flow(runner, lambda: pair.map(itertools.count(), iter("ab")).result())
    assert found == [(0, "a"), (1, "b")]


def test_user_010_a_map_over_a_map_over_an_iterator(runner: str) -> None:
    def body() -> Any:
        return double.map(iter(double.map(iter(range(10))))).result()

    assert in_flow(runner, body) == list(range(0, 40, 4))


def test_user_010_a_generator_that_raises_raises_where_it_is_pulled(runner: str) -> None:
    def breaking() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("in the generator")

    def body() -> Any:
        futures = iter(double.map(breaking(), max_in_flight=1))
        first = next(futures).result()
        with pytest.raises(KeyError, match="in the generator"):
            list(futures)
        return first

    assert in_flow(runner, body) == 2


@pytest.mark.parametrize("index", [0, -1, slice(2)])
def test_user_010_a_map_over_an_iterator_has_no_items_by_number(index: Any, runner: str) -> None:
    def body() -> list[int]:
        stream = double.map(iter([1, 2, 3]))
        with pytest.raises(TypeError, match="gone through once, in order"):
            stream[index]
        return [future.result() for future in stream]

    assert in_flow(runner, body) == [2, 4, 6]


def test_user_010_a_map_over_an_iterator_goes_on_as_completed(runner: str) -> None:
    def body() -> Any:
        return sorted(f.result() for f in as_completed(double.map(iter([1, 2, 3]))))

    assert in_flow(runner, body) == [2, 4, 6]


def test_user_010_a_map_over_an_iterator_can_be_cancelled(threads: str, gate: Gate) -> None:
    @task
    def hold(x: int) -> None:
        gate.wait()

    def body() -> Any:
        futures = hold.map(itertools.count(), max_in_flight=4)
        was_cancelled = futures.cancel()
        gate.open()
        return was_cancelled

    assert in_flow(threads, body)


# --- the whole list -------------------------------------------------------------------------------


def test_seed_141_the_list_has_results_in_order(runner: str) -> None:
    def body() -> Any:
        processed = double.map([1, 2, 3])
        return [task.result() for task in processed], processed.result()

    assert in_flow(runner, body) == ([2, 4, 6], [2, 4, 6])


def test_seed_141_the_list_can_be_waited_for(runner: str) -> None:
    def body() -> Any:
        processed = double.map([1, 2, 3])
        processed.wait()
        return [each.is_completed() for each in processed]

    assert in_flow(runner, body) == [True, True, True]


def test_seed_141_the_list_is_a_list_of_futures(runner: str) -> None:
    def body() -> Any:
        processed = double.map([1, 2])
        as_list: list[Any] = list.copy(processed)
        return {type(each) for each in as_list}

    assert in_flow(runner, body) == {PenstockFuture}


def test_the_list_raises_the_first_failure_in_order(runner: str) -> None:
    def body() -> Any:
        with pytest.raises(ValueError, match="one"):
            fail.map(["one", "two"]).result()

    in_flow(runner, body)  # the second failure was asked for, too: the flow ends well


def test_the_list_gives_exceptions_in_their_places_if_asked_to(runner: str) -> None:
    def body() -> Any:
        return fail.map(["one"]).result(raise_on_failure=False)

    ((error,),) = (in_flow(runner, body),)
    assert isinstance(error, ValueError)


def test_the_list_is_waited_for_no_longer_than_said(threads: str, gate: Gate) -> None:
    @task
    def hold(x: int) -> None:
        gate.wait()

    def body() -> None:
        futures = hold.map([1, 2])
        with pytest.raises(TimeoutError, match="2 of 2 runs are not over"):
            futures.result(timeout=0.01)
        gate.open()

    in_flow(threads, body)


def test_a_map_may_give_states(runner: str) -> None:
    def body() -> Any:
        options: Any = {"return_state": True}
        return [state.result() for state in double.map([1, 2], **options)]

    assert in_flow(runner, body) == [2, 4]


# --- on_error ------------------------------------------------------------------------------------


def outcomes(threads: str, gate: Gate, on_error: Any, count: int = 30) -> Counter[str]:
    """Map over items of which the first fails, while the others wait behind it."""

    @task
    def work(x: int) -> int:
        if x == 0:
            raise ValueError("the first fails")
        gate.wait()
        return x

    def body() -> Any:
        futures = work.map(range(count), on_error=on_error)
        futures[0].wait()
        gate.open()
        futures.wait()
        return Counter(future.state.name for future in futures)

    found: Counter[str] = in_flow(threads, body)
    assert found.total() == count
    return found


def test_by_default_the_others_go_on(threads: str, gate: Gate) -> None:
    assert outcomes(threads, gate, "continue") == {"Failed": 1, "Completed": 29}


def test_finish_running_cancels_what_has_not_begun(gate: Gate) -> None:
    found = outcomes("thread:2", gate, "finish_running")
    assert found["Failed"] == 1
    assert found["Cancelled"] >= 27
    assert found["Completed"] <= 2


def test_fail_fast_stops_what_runs_too(gate: Gate) -> None:
    found = outcomes("thread:2", gate, "fail_fast")
    assert found["Failed"] == 1
    assert found["Cancelled"] == 29


@pytest.mark.parametrize("on_error", ["finish_running", "fail_fast"])
def test_those_cancelled_for_another_say_for_which(on_error: Any, gate: Gate) -> None:
    @task
    def work(x: int) -> None:
        if x == 3:
            raise ValueError("the fourth fails")

    def body() -> Any:
        futures = work.map(range(50), on_error=on_error)
        futures.wait()
        return {f.state.message for f in futures if f.is_cancelled()}

    assert in_flow("thread:1", body) <= {"sibling [3] failed"}


@pytest.mark.parametrize("on_error", ["finish_running", "fail_fast"])
@pytest.mark.parametrize("kind", [list, iter])
def test_what_would_begin_after_the_failure_does_not(on_error: Any, kind: Any) -> None:
    began: list[int] = []

    @task
    def work(x: int) -> None:
        began.append(x)
        raise ValueError(x)

    def body() -> Any:
        return [f.state.name for f in work.map(kind([0, 1, 2]), on_error=on_error)]

    assert in_flow("inline", body) == ["Failed", "Cancelled", "Cancelled"]
    assert began == [0]


@pytest.mark.parametrize("on_error", ["continue", "finish_running", "fail_fast"])
def test_every_item_ends_in_one_final_state(on_error: Any, runner: str) -> None:
    @task
    def work(x: int) -> int:
        if x % 7 == 3:
            raise ValueError(x)
        return x

    def body() -> Any:
        futures = work.map(range(100), on_error=on_error)
        futures.wait()
        return [
            sum(state.is_final() for state in f.run.states) for f in futures if f.state.is_final()
        ]

    assert in_flow(runner, body) == [1] * 100


@pytest.mark.parametrize("on_error", ["finish_running", "fail_fast"])
def test_a_failed_sibling_cancels_those_that_wait_for_their_inputs(
    on_error: Any, gate: Gate
) -> None:
    @task
    def hold(x: int) -> int:
        if x:
            gate.wait()
        return x

    @task
    def work(x: int) -> int:
        raise ValueError(x)

    def body() -> Any:
        futures = work.map(hold.map([0, 1]), on_error=on_error)
        assert isinstance(futures[0].exception(), ValueError)
        futures[1].wait()
        gate.open()
        return futures[1].state.name, isinstance(
            futures[1].result(raise_on_failure=False), CancelledRun
        )

    assert in_flow("thread:2", body) == ("Cancelled", True)


@pytest.mark.parametrize("_", range(5))
def test_a_map_from_several_threads_at_once_loses_no_item(_: int) -> None:
    found: list[int] = []
    together = threading.Barrier(4, timeout=10)

    @flow(task_runner="thread:4")
    def body() -> None:
        def submit() -> None:
            together.wait()
            found.extend(double.map(range(100)).result())

        helpers = [
            threading.Thread(target=contextvars.copy_context().run, args=(submit,))
            for _ in range(4)
        ]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join(20)

    body()
    assert sorted(found) == sorted(list(range(0, 200, 2)) * 4)
