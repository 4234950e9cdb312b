"""Stretches in the process runner: parts of a series on their way to a worker and back."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.attempt import Attempt, Packed, Series, Siblings
from penstock.worker import running
from penstock_runners.batching import Pace
from penstock_runners.inline import SequentialTaskRunner
from penstock_runners.process_pool import child, frames
from penstock_runners.process_pool.batches import Batch, Row
from penstock_runners.process_pool.feeding import Feeder, are_plain
from penstock_runners.process_pool.frames import FrameReader
from penstock_runners.process_pool.jobs import Client, Job, JobQueue, Stretch
from penstock_runners.process_pool.outcomes import returned
from penstock_runners.process_pool.parcels import BATCH_SECONDS, ParcelStore
from penstock_runners.process_pool.slots import SlotTable
from penstock_runners.process_pool.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.task_runners import Outcome

ORIGIN = (1 << 100, "item", 40)


def new_client() -> Client:
    return Client(lambda event: None, SequentialTaskRunner())


def stretch_of(
    client: Client,
    count: int,
    number: int = 1,
    *,
    first_id: int = 100,
    offset: int = 0,
    **template: Any,
) -> Stretch:
    """Return a whole series of calls to `abs` as one stretch."""
    calls: list[Any] = [((index,), {}) for index in range(count)]
    series = Series(first_id, Attempt(0, abs, **template), calls, ORIGIN, offset)
    stretch = Stretch(number, client, series, 0, count)
    stretch.pace = Pace(0.005, 0.0001)
    return stretch


def span(stretch: Stretch) -> tuple[int, int, int]:
    return stretch.number, stretch.start, stretch.stop


# --- stretches ----------------------------------------------------------------------------


def test_what_is_taken_from_a_stretch_is_in_it_no_more() -> None:
    stretch = stretch_of(new_client(), 10, number=7)
    first = stretch.take(4)
    assert (span(first), len(first), first.key) == ((7, 0, 4), 4, 7)
    assert (span(stretch), len(stretch), stretch.key) == ((11, 4, 10), 6, 11)
    assert first.pace is stretch.pace
    whole = stretch.take(6)
    assert (span(whole), len(stretch)) == ((11, 4, 10), 0)
    assert len(whole.take(0)) == 0


def test_a_stretch_that_advances_keeps_its_key() -> None:
    stretch = stretch_of(new_client(), 10, number=7)
    stretch.advance(4)
    assert (span(stretch), stretch.key) == ((11, 4, 10), 7)


def test_unfolded_attempts_are_those_of_the_series_and_known_to_their_client() -> None:
    client = new_client()
    stretch = stretch_of(client, 5, number=7, first_id=100)
    stretch.estimate_seconds = 0.25
    stretch.advance(2)
    jobs = stretch.unfold()
    assert [job.number for job in jobs] == [9, 10, 11]
    assert [job.attempt.args for job in jobs] == [(2,), (3,), (4,)]
    forgotten = [
        attempt._replace(args=job.attempt.args)
        for attempt, job in zip(stretch.series[2:], jobs, strict=True)
    ]
    assert [job.attempt for job in jobs] == forgotten
    assert [args for args, _ in stretch.series.calls] == [(0,), (1,), (), (), ()], "jobs have them"
    assert client.jobs == {102: jobs[0], 103: jobs[1], 104: jobs[2]}
    assert all(job.pace is stretch.pace for job in jobs)
    assert {(job.estimate_seconds, job.is_started) for job in jobs} == {(0.25, False)}


def test_what_has_ended_has_no_arguments_any_more() -> None:
    stretch = stretch_of(new_client(), 5)
    stretch.take(1)
    stretch.forget(2)
    assert [args for args, _ in stretch.series.calls] == [(0,), (), (), (3,), (4,)]


# --- the queue ----------------------------------------------------------------------------


def numbers_in(queue: JobQueue) -> list[tuple[int, int]]:
    """Take all out; return the first number and the count of each."""
    found = []
    while (one := queue.pop()) is not None:
        found.append((one.number, len(one)))
    assert len(queue) == 0
    return found


def test_stretches_wait_in_order_and_by_priority_and_count_as_many() -> None:
    client, queue = new_client(), JobQueue()
    queue.push(stretch_of(client, 10, 1))
    queue.push(Job(11, client, Attempt(11, abs)))
    queue.push(stretch_of(client, 5, 12, priority=3))
    assert len(queue) == 16
    urgent = queue.pop()
    assert isinstance(urgent, Stretch)
    assert len(queue) == 11
    urgent.take(2)
    queue.push_front(urgent)
    assert len(queue) == 14
    assert numbers_in(queue) == [(14, 3), (1, 10), (11, 1)]


def test_what_is_put_back_goes_before_what_was_behind_it() -> None:
    client, queue = new_client(), JobQueue()
    queue.push(stretch_of(client, 10, 1))
    queue.push(stretch_of(client, 10, 11))
    first = queue.pop()
    assert isinstance(first, Stretch)
    taken = first.take(3)
    queue.push_front(first)
    queue.push_front(taken)
    assert numbers_in(queue) == [(1, 3), (4, 7), (11, 10)]


def test_only_the_stretches_of_one_client_are_unfolded_in_their_places() -> None:
    ours, theirs, queue = new_client(), new_client(), JobQueue()
    queue.push(stretch_of(theirs, 3, 1))
    queue.push(stretch_of(ours, 2, 4))
    queue.push(stretch_of(theirs, 2, 6))
    queue.push(Job(8, ours, Attempt(8, abs)))
    queue.push(stretch_of(ours, 2, 9, first_id=200, priority=1))
    before = len(queue)
    queue.unfold(ours)
    queue.unfold(ours)
    assert len(queue) == before
    assert sorted(ours.jobs) == [100, 101, 200, 201]
    assert theirs.jobs == {}
    queue.drop(ours.jobs[101])
    queue.drop(ours.jobs[101])
    assert len(queue) == before - 1
    assert numbers_in(queue) == [(9, 1), (10, 1), (1, 3), (4, 1), (6, 2), (8, 1)]


# --- with a worker --------------------------------------------------------------------------


class Outlet:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, head: Any, buffers: Any = ()) -> None:
        self.sent.append((head, list(buffers)))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that has no process; what is sent to it stays in `orders.sent`."""
    monkeypatch.setattr(Worker, "_spawn", lambda self, table, env: None)
    table = SlotTable(1)
    worker = Worker(table, 0, {})
    worker.orders = Outlet()  # type: ignore[assignment]  # nobody writes to a pipe
    yield worker
    table.close()


def test_a_worker_books_stretches_until_one_of_them_is_looked_at(worker: Worker) -> None:
    client = new_client()
    first, second = stretch_of(client, 5, 1), stretch_of(client, 5, 10, first_id=200)
    for one in (first, second):
        one.estimate_seconds = 0.5
        worker.put_on(one)
    assert (worker.calls, worker.seconds_ahead, worker.has_stretches) == (10, 5.0, True)
    worker.advance(first, 2)
    assert (worker.calls, worker.seconds_ahead, list(worker.sent)) == (8, 4.0, [1, 10])
    assert worker.job(2) is None, "it has ended"
    assert worker.job(7) is None, "it was never sent"
    assert client.jobs == {}, "to ask for what is not there sets nothing apart"
    job = worker.job(12)
    assert job is not None
    assert (job.attempt.id, job.worker) == (202, worker)
    assert list(worker.sent) == [3, 4, 5, 10, 11, 12, 13, 14], "in the order in which they run"
    assert (worker.calls, worker.has_stretches) == (8, False)
    assert worker.take_off(12) is job
    assert worker.take_off(12) is None
    assert [one.number for one in worker.jobs()] == [3, 4, 5, 10, 11, 13, 14]
    for number in (3, 4, 5, 10, 11, 13, 14):
        assert worker.take_off(number) is not None
    assert (worker.calls, worker.seconds_ahead, worker.sent) == (0, 0.0, {})


def test_a_stretch_that_has_ended_is_with_the_worker_no_more(worker: Worker) -> None:
    stretch = stretch_of(new_client(), 5, 1)
    worker.put_on(stretch)
    worker.advance(stretch, 2)
    worker.advance(stretch, 3)
    assert (worker.sent, worker.calls, worker.has_stretches) == ({}, 0, False)


def test_what_was_there_before_a_stretch_stays_before_it(worker: Worker) -> None:
    client = new_client()
    job = Job(1, client, Attempt(1, abs))
    for one in (job, stretch_of(client, 3, 2), Job(5, client, Attempt(5, abs))):
        worker.put_on(one)
    worker.unfold()
    assert list(worker.sent) == [1, 2, 3, 4, 5]
    assert worker.sent[1] is job


@pytest.mark.parametrize(
    ("chunk", "calls_left", "most", "room"),
    [
        (0, None, 256, 100),
        (0, None, 40, 40),
        (30, None, 4, 30),
        (30, 20, 20, 20),
        (30, 50, 50, 30),
        (300, None, 4, 100),
    ],
)
def test_a_batch_has_room_for_what_is_wanted_and_allowed(
    worker: Worker, chunk: int, calls_left: int | None, most: int, room: int
) -> None:
    worker.calls_left = calls_left
    siblings = Siblings((), chunk) if chunk else None
    stretch = stretch_of(new_client(), 100, siblings=siblings)
    stretch.pace = Pace(0.005, BATCH_SECONDS / 1000)
    batch = Batch(worker, most)
    assert batch.room_for(stretch) == room
    batch.add_row(stretch.take(room), row_of(room))
    assert batch.count == room
    if room < 100:
        assert not batch.has_room


def test_a_batch_is_full_when_it_takes_long_enough(worker: Worker) -> None:
    stretch = stretch_of(new_client(), 100)
    stretch.pace = Pace(0.005, BATCH_SECONDS / 10)
    batch = Batch(worker, 256)
    assert batch.room_for(stretch) in (10, 11)
    batch.add_row(stretch.take(8), row_of(8))
    assert batch.has_room
    assert batch.room_for(stretch) in (2, 3)
    stretch.pace = Pace(0.005, BATCH_SECONDS * 10)
    assert batch.room_for(stretch) == 1, "one at least"


def row_of(count: int) -> Row:
    return Row(3, [(number,) for number in range(count)], None, [], 0, (), None, [])


# --- packed ---------------------------------------------------------------------------------


@pytest.fixture
def refused() -> list[tuple[Job, Outcome]]:
    return []


def fed(worker: Worker, stretch: Stretch, refused: list[Any]) -> tuple[JobQueue, list[Any]]:
    """Feed a worker once from a queue with one stretch; return what is left, and what went."""
    queue = JobQueue()
    queue.push(stretch)
    store = ParcelStore((), lambda: None)
    _, pace = store.function(stretch.common.fn)
    pace.learn(0.00001)
    Feeder(queue, 1, store, lambda job, outcome: refused.append((job, outcome))).feed(worker)
    return queue, worker.orders.sent  # type: ignore[attr-defined]  # see `worker`


def test_a_stretch_travels_as_one_row(worker: Worker, refused: list[Any]) -> None:
    queue, sent = fed(worker, stretch_of(new_client(), 20, number=5, offset=60), refused)
    ((_, _, new, (row,)), _) = sent[0]
    first, function, payloads, counts, constants, shared, origin, offset = row
    assert (first, payloads, counts, constants, shared) == (
        *(5, [(n,) for n in range(len(payloads))], None, (), None),
    )
    assert (origin, offset, new) == (ORIGIN, 60, (function,))
    assert worker.calls + len(queue) == 20
    assert refused == []


def test_what_cannot_be_packed_splits_a_stretch(worker: Worker, refused: list[Any]) -> None:
    client = new_client()
    stretch = stretch_of(client, 0, number=5)
    values = [threading.Lock() if index == 3 else [index] for index in range(8)]
    stretch.series.calls = [((value,), {}) for value in values]
    stretch.stop = 8
    queue, sent = fed(worker, stretch, refused)
    ((job, outcome),) = refused
    assert (job.number, job.attempt.id) == (8, 103)
    assert (outcome.kind, outcome.began) == ("raised", False)
    assert list(client.jobs) == [103]
    ((_, _, _, rows), _) = sent[0]
    numbers = [row[0] + place for row in rows for place in range(len(row[2]))]
    assert numbers == [5, 6, 7, 9, 10, 11, 12][: len(numbers)]
    assert len(numbers) == worker.calls > 3, "those before it and some behind it went"
    assert [row[7] for row in rows] == [row[0] - 5 for row in rows], "places in the map"
    assert worker.calls + len(queue) == 7


def test_only_small_plain_arguments_go_unpacked() -> None:
    assert are_plain([((1, "a"), {}), ((), {}), ((None, 2.5), {})])
    assert not are_plain([((1,), {}), ((1,), {"by": 2})])
    assert not are_plain([((1,), {}), (([1],), {})])
    assert not are_plain([(("x" * 1_000_000,), {})])
    assert not are_plain([((1 << 100_000,), {})])


def test_a_row_is_unfolded_to_the_calls_it_stands_for() -> None:
    single = (4, 7, b"payload", 2, (), None)
    row = [5, 7, [(1,), b"x"], [0, 3], ((1, 9),), 8, ORIGIN, 60]
    outside = [9, 7, [(1,)], None, (), None, ORIGIN, 0]
    assert list(child.unfolded([single, row, outside])) == [
        single,
        (5, 7, (1,), 0, ((1, 9),), (8, (ORIGIN, 60))),
        (6, 7, b"x", 3, ((1, 9),), (8, (ORIGIN, 61))),
        (9, 7, (1,), 0, (), None),
    ]


# --- answers ----------------------------------------------------------------------------------


def answer(number: int, how: Any = running.INLINE, payload: Any = "value") -> tuple[Any, ...]:
    return (number, how, payload, 10.0 + number, 0.5, None, None)


def test_answers_in_a_row_are_one_report() -> None:
    answers = [answer(7), answer(8, running.PACKED, b"pickle"), answer(9, payload=None)]
    report = returned(100, 7, answers, "process 1")
    assert report is not None
    assert report.first_id == 100
    assert report.values == ["value", Packed(b"pickle"), None]
    assert (report.began_at, report.seconds) == ([17.0, 18.0, 19.0], [0.5] * 3)
    assert report.worker == "process 1"


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(answer(9), id="another-number"),
        pytest.param(answer(7), id="a-number-twice"),
        pytest.param(answer(8, running.RAISED), id="raised"),
        pytest.param((*answer(8)[:5], b"children", None), id="children"),
        pytest.param((*answer(8)[:6], 0), id="stored"),
    ],
)
def test_answers_with_more_to_tell_are_no_report(odd: tuple[Any, ...]) -> None:
    assert returned(100, 7, [answer(7), odd, answer(9)], "process 1") is None


def test_many_answers_are_one_frame_in_whatever_pieces_it_comes() -> None:
    answers = [answer(number, payload=[number, "same"]) for number in range(500)]
    parts = [frames.answer_part(each) for each in answers]
    stream = frames.answers_start(500, sum(map(len, parts))) + b"".join(parts)
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    reader = FrameReader(readable)
    got: list[Any] = []
    for start in range(0, len(stream), 999):
        os.write(writable, stream[start : start + 999])
        got += reader.read()
    os.close(writable)
    os.close(readable)
    assert got == [(answers, [])]


def test_the_journal_of_a_dead_worker_has_what_is_whole() -> None:
    table = SlotTable(1)
    slot = table.slot(0)
    assert slot.journal() == []
    answers = [answer(number) for number in range(100)]
    for each in answers:
        assert slot.note(frames.answer_part(each))
    assert slot.journal() == answers
    cut = frames.answer_part(answer(100))[:-3]
    slot._journal[slot._words[5] : slot._words[5] + len(cut)] = cut
    assert slot.journal() == answers, "what was being written does not count"
    slot.clear()
    assert slot.journal() == []
    table.close()
