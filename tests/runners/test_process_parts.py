"""The pure parts of the process runner: batching, frames, the slot table, the queue, constants."""

import os
import pickle
import types
from typing import Any

import pytest

from penstock.attempt import Attempt, Siblings
from penstock.worker import packing
from penstock_runners.batching import Pace, most_in_batch
from penstock_runners.inline import SequentialTaskRunner
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.feeding import takes_another_batch
from penstock_runners.process_pool.frames import FrameReader
from penstock_runners.process_pool.jobs import Client, Job, JobQueue
from penstock_runners.process_pool.parcels import ParcelStore
from penstock_runners.process_pool.segments import Segment, blob_of, opened
from penstock_runners.process_pool.slots import Slot, SlotTable

# --- batching ---------------------------------------------------------------------------


def test_what_is_unknown_slow_or_has_crashed_travels_alone() -> None:
    assert Pace(0.005).travels_alone
    assert not Pace(0.005, 0.001).travels_alone
    assert Pace(0.005, 0.01).travels_alone
    assert Pace(0.005, 0.001, has_crashed=True).travels_alone


def test_the_pace_follows_the_durations() -> None:
    pace = Pace(0.005)
    pace.learn(0.001)
    assert pace.seconds == 0.001
    pace.learn(0.101)
    assert pace.seconds == pytest.approx(0.011)


@pytest.mark.parametrize(
    ("waiting", "workers", "most"), [(1, 2, 1), (4, 2, 2), (40, 2, 11), (40, 10, 3), (9999, 2, 256)]
)
def test_the_tail_is_spread_over_the_workers(waiting: int, workers: int, most: int) -> None:
    assert most_in_batch(waiting, workers) == most


def test_a_busy_worker_gets_another_batch_only_of_short_work() -> None:
    def worker(calls: int, seconds: float, has_slow: bool = False) -> Any:
        return types.SimpleNamespace(calls=calls, seconds_ahead=seconds, has_slow=has_slow)

    assert takes_another_batch(worker(3, 0.001))
    assert not takes_another_batch(worker(3, 0.01))
    assert not takes_another_batch(worker(1, 0.0, has_slow=True))
    assert not takes_another_batch(worker(300, 0.0))


# --- frames and slots ----------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_frames_are_read_in_whatever_pieces_they_come(piece: int) -> None:
    sent: list[tuple[tuple[Any, ...], list[Any]]] = [
        ((1, "a"), []),
        ((2, b"b" * 100), [b"x" * 300, b"", bytearray(b"y" * 70)]),
        ((3,), [b"z"]),
        ((4, None, 2.5), []),
    ]
    stream = b"".join(bytes(part) for head, buffers in sent for part in frames.frame(head, buffers))
    readable, writable = os.pipe()
    reader = FrameReader(readable)
    os.set_blocking(readable, False)
    got: list[Any] = []
    for start in range(0, len(stream), piece):
        os.write(writable, stream[start : start + piece])
        while True:
            try:
                got += reader.read()
            except BlockingIOError:
                break
    os.close(writable)
    with pytest.raises(EOFError):
        reader.read()
    os.close(readable)
    assert got == sent


def test_a_slot_tells_what_its_worker_was_at() -> None:
    table = SlotTable(2)
    theirs = Slot(table.descriptor, 1)
    theirs.begin(7, 12.5)
    ours = table.slot(1)
    assert (ours.number, ours.began, ours.called, ours.is_held) == (7, 12.5, 0.0, False)
    theirs.call(12.75)
    assert (ours.began, ours.called) == (12.5, 12.75)
    ours.hold(True)
    assert theirs.is_held
    assert table.slot(0).number == 0
    for number in range(3):
        assert theirs.note(frames.answer_part((number, "same", 0.5, None)))
    answers = [(number, "same", 0.5, None) for number in range(3)]
    assert ours.journal() == answers
    assert not theirs.note(b"x" * (64 << 10)), "what does not fit is not noted"
    readable, writable = os.pipe()
    theirs.write_journal(writable)
    os.close(writable)
    assert ours.journal() == []
    assert list(FrameReader(readable).read()) == [(answers, [])]
    os.close(readable)
    theirs.close()
    table.close()


def test_the_queue_keeps_order_within_priority() -> None:
    client = Client(lambda event: None, SequentialTaskRunner())
    queue = JobQueue()
    jobs = [
        Job(number, client, Attempt(number, len, priority=priority))
        for number, priority in enumerate([0, 5, 0, 5, -1], 1)
    ]
    for job in jobs:
        queue.push(job)
    first = queue.pop()
    assert first is jobs[1]
    queue.push_front(first)
    queue.drop(jobs[2])
    queue.drop(jobs[2])
    order = []
    while (job_or_none := queue.pop()) is not None:
        order.append(job_or_none.number)
    assert order == [2, 4, 1, 5]
    assert len(queue) == 0


# --- constants ------------------------------------------------------------------------------------


class Block:
    """As an array: its memory is one buffer, pickled out of band."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)


@pytest.mark.parametrize("value", [list(range(50_000)), "x" * 200_000, {"a": [b"y" * 100_000]}])
def test_a_segment_holds_a_value(value: Any) -> None:
    segment = Segment(packing.pack(value))
    load = opened(segment.path.encode())
    assert load() == value
    assert load() is not load() or isinstance(value, str)
    segment.close()
    assert load() == value, "what is mapped stays, whatever becomes of the driver's end"


def test_large_buffers_in_a_segment_are_mapped_and_cannot_be_changed() -> None:
    segment = Segment(packing.pack([Block(bytearray(b"z" * 100_000)), Block(bytearray(70_001))]))
    first, second = opened(segment.path.encode())()
    segment.close()
    assert bytes(first.memory) == b"z" * 100_000
    assert bytes(second.memory) == bytes(70_001)
    with pytest.raises(TypeError, match="read-only"):
        first.memory[0] = 1


def test_a_constant_travels_as_a_blob_where_memory_cannot_be_shared() -> None:
    value = [Block(bytearray(b"z" * 100_000)), list(range(100))]
    block, numbers = opened(blob_of(packing.pack(value)))()
    assert bytes(block.memory) == b"z" * 100_000
    assert numbers == list(range(100))


class Store:
    """A store of parcels, and how often it has asked to be swept."""

    def __init__(self) -> None:
        self.wakes = 0
        self.store = ParcelStore((), self.wake)

    def wake(self) -> None:
        self.wakes += 1


def test_a_constant_is_one_parcel_as_long_as_its_siblings_live() -> None:
    store, siblings, large = Store(), Siblings((0,)), list(range(50_000))
    attempts = [Attempt(number, len, (large,), siblings=siblings) for number in range(3)]
    parcels = {store.store.constant(attempt, 0) for attempt in attempts}
    assert len(parcels) == 1
    (parcel,) = parcels
    assert parcel is not None
    assert store.store.sweep() == []
    del attempts, siblings
    assert store.wakes == 1
    assert store.store.sweep() == [parcel.number]
    assert not os.path.exists(parcel.blob), "its memory is given back"


def test_a_small_constant_goes_with_each_call() -> None:
    store, siblings = Store(), Siblings((0, 1))
    attempt = Attempt(1, max, (3, [1, 2]), siblings=siblings)
    assert store.store.constant(attempt, 0) is None
    assert store.store.constant(attempt, 1) is None


def test_a_closed_store_has_let_go_and_hears_of_nothing() -> None:
    store, siblings = Store(), Siblings((0,))
    attempt = Attempt(1, len, (list(range(50_000)),), siblings=siblings)
    parcel = store.store.constant(attempt, 0)
    assert parcel is not None
    store.store.close()
    assert not os.path.exists(parcel.blob)
    del attempt, siblings
    assert store.wakes == 0


def test_surroundings_are_one_parcel_for_the_same_bytes() -> None:
    store = Store().store
    shared, other = b"shared".join([b"", b""]), bytes([1, 2])
    assert store.surroundings(shared) is store.surroundings(shared)
    assert store.surroundings(other) is not store.surroundings(shared)
