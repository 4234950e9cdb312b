"""The parts of the Dask runner, without a cluster: who gets what, and what a loss means."""

from __future__ import annotations

import itertools
import marshal
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock.attempt import Attempt, Environment, Outcome, Packed, RemoteError, Siblings
from penstock.by_value import is_installed
from penstock.worker import packing, running
from penstock.worker.errors import pack_error
from penstock_runners.attempt_queue import AttemptQueue
from penstock_runners.dask_cluster import claims, far, news
from penstock_runners.dask_cluster.answers import Answer, opened, outcome_of
from penstock_runners.dask_cluster.bundle import bundle
from penstock_runners.dask_cluster.claims import Claims
from penstock_runners.dask_cluster.demand import MOST, Demand, stand_ins_for
from penstock_runners.dask_cluster.flight import Batch, Open, nearness_of
from penstock_runners.dask_cluster.kept import KeptOnCluster
from penstock_runners.dask_cluster.letters import (
    LARGE_BYTES,
    LostInputs,
    PostOffice,
    TooLargeForWorkers,
)
from penstock_runners.dask_cluster.picking import Picker
from penstock_runners.dask_cluster.roster import DaskWorker, Roster

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeFuture:
    """As far as we look at Dask's."""

    def __init__(self, status: str = "finished") -> None:
        self.status = status


def worker(name: str = "a", threads: int = 1, **resources: float) -> DaskWorker:
    return DaskWorker(f"tcp://10.0.0.{ord(name[0])}:8000", name, threads, 0, resources)


def info(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "nthreads": 1, "memory_limit": 0, "status": "running", **more}


# --- flight: what a loss means ----------------------------------------------------------------


def fates(count: int, *started: int, begun: bool = True, ended: bool = False) -> list[bool | None]:
    batch = Batch(1, worker(), has_begun=begun, has_ended=ended)
    for number in range(count):
        one = Open(Attempt(number, abs, (1,)), number=number, is_started=number in started)
        batch.calls[number] = one
    return [began for _, began in batch.fates()]


def test_of_a_batch_that_had_not_begun_nothing_had() -> None:
    assert fates(3, begun=False) == [False] * 3


def test_of_a_batch_that_told_of_no_call_nobody_knows() -> None:
    assert fates(3) == [None] * 3


def test_the_last_call_that_was_told_of_is_the_one_that_ran() -> None:
    assert fates(1, 0) == [True]
    assert fates(4, 1) == [None, True, False, False]
    assert fates(4, 0, 2) == [None, None, True, False]


def test_a_batch_that_had_ended_is_to_blame_for_nothing() -> None:
    assert fates(2, 0, 1, ended=True) == [None, None]


def test_arguments_draw_a_call_to_where_they_are() -> None:
    first, second = kept("here", 10), kept("there", 30)
    attempt = Attempt(1, max, (first, [second, first]), {"key": second})
    assert nearness_of(attempt) == {"here": 20, "there": 60}
    assert nearness_of(None) == {}


def kept(place: str, nbytes: int, status: str = "finished") -> KeptOnCluster:
    return KeptOnCluster(nbytes, None, FakeFuture(status), place)


# --- roster: who is there, and who is next ----------------------------------------------------


def test_the_least_loaded_worker_that_fits_is_next() -> None:
    roster = Roster()
    roster.update({"tcp://h:1": info("a"), "tcp://h:2": info("b", resources={"GPU": 2})})
    a, b = roster
    assert roster.choose((), {}, {}) is a
    a.batches = 1
    assert roster.choose((), {}, {}) is b
    assert roster.choose(("a",), {}, {}) is a
    assert roster.choose(("tcp://h:1",), {}, {}) is a
    assert roster.choose(("h",), {}, {}) is b
    assert roster.choose((), {"GPU": 2}, {}) is b
    assert roster.choose((), {"GPU": 3}, {}) is None
    assert roster.choose((), {}, {"tcp://h:1": 5}) is a, "data is worth more than a free worker"
    a.batches = b.batches = 2
    assert roster.choose((), {}, {"tcp://h:1": 5}) is None, "one runs and one waits: that is enough"


def test_who_is_missing_gets_nothing_and_is_given_up_at_the_second_look() -> None:
    roster = Roster()
    roster.update({"tcp://h:1": info("a")})
    (one,) = roster
    assert roster.update({}) == []
    assert roster.choose((), {}, {}) is None
    assert roster.update({"tcp://h:1": info("a")}) == []
    assert roster.choose((), {}, {}) is one
    assert roster.update({}) == []
    assert roster.update({}) == [one]


def test_a_worker_counts_when_it_runs() -> None:
    roster = Roster()
    roster.update({"tcp://h:1": info("a", status="init")})
    assert (len(roster), roster.slots) == (0, 0)
    roster.update({"tcp://h:1": info("a", nthreads=4)})
    assert (len(roster), roster.slots) == (1, 4)
    assert roster.remove("tcp://h:1") is not None
    assert roster.remove("tcp://h:1") is None


def test_the_largest_memory_is_what_there_is_at_most() -> None:
    roster = Roster()
    assert roster.most_bytes == 0
    roster.update({"t:1": info("a", memory_limit=5), "t:2": info("b", memory_limit=9)})
    assert roster.most_bytes == 9
    roster.update({"t:1": info("a"), "t:2": info("b"), "t:3": info("c", memory_limit=0)})
    assert roster.most_bytes == 0, "one has no limit"


# --- letters: what is sent --------------------------------------------------------------------


class Cluster:
    """Takes what is put there."""

    def __init__(self, *, has_workers: bool = True) -> None:
        self.blobs: list[bytes] = []
        self.has_workers = has_workers

    def put(self, blob: bytes) -> FakeFuture | None:
        if not self.has_workers:
            return None
        self.blobs.append(blob)
        return FakeFuture()


def plain(x: Any, y: Any = None) -> Any:
    return x, y


def call(post: PostOffice, *args: Any, most_bytes: int = 0, **options: Any) -> Any:
    attempt = Attempt(1, plain, args, **options)
    return post.call(7, attempt, post.function(plain)[0], most_bytes)


def test_a_plain_call_is_small_and_holds_plain_values_only() -> None:
    post, there = PostOffice(Cluster().put), worker()
    environment = Environment(marshal.dumps({"levels": {"": 30}}), ("id", "name", 1, 0, ()), None)
    first = call(post, 5, environment=environment)
    payload, beside = post.letter("sender", "topic", 1, [first], there)
    there.parcels.update(first.parcels)
    again, _ = post.letter("sender", "topic", 2, [first], there)
    assert beside == []
    assert len(payload) < 2000
    assert len(again) < 300, "the function and what the run says of itself are there by now"
    assert b"penstock" not in again
    for name in (b"Flow", b"Task", b"penstock_runners"):
        assert name not in payload


def test_a_function_goes_to_each_worker_once() -> None:
    post, one, other = PostOffice(Cluster().put), worker("a"), worker("b")
    some = call(post, 5)
    for each in (one, other):
        sent = marshal.loads(post.letter("s", "t", 1, [some], each)[0])[3]
        assert [blob is not None for blob in sent.values()] == [True]
        each.parcels.update(some.parcels)
        sent = marshal.loads(post.letter("s", "t", 2, [some], each)[0])[3]
        assert [blob is not None for blob in sent.values()] == [False]


def test_a_large_argument_is_put_on_the_cluster_by_itself() -> None:
    cluster = Cluster()
    post = PostOffice(cluster.put)
    large = call(post, bytes(LARGE_BYTES))
    assert [len(blob) > LARGE_BYTES for blob in cluster.blobs] == [True]
    assert (len(large.inputs), large.nbytes) == (1, 0)
    payload, beside = post.letter("s", "t", 1, [large, call(post, 1)], worker())
    assert len(payload) < 2000
    assert beside == list(large.inputs)


def test_with_no_worker_to_hold_it_a_large_argument_goes_along() -> None:
    large = call(PostOffice(Cluster(has_workers=False).put), bytes(LARGE_BYTES))
    assert large.inputs == ()
    assert large.nbytes >= LARGE_BYTES


def test_a_constant_of_many_is_put_there_once_and_forgotten_with_them() -> None:
    cluster = Cluster()
    post = PostOffice(cluster.put)
    constant = bytes(2 * LARGE_BYTES)
    siblings: Siblings | None = Siblings((1,))
    calls = [call(post, number, constant, siblings=siblings) for number in range(5)]
    assert len({each.parcels for each in calls}) == 1
    for name in "ab":
        post.letter("s", "t", 1, calls, worker(name))
    assert len(cluster.blobs) == 1
    assert any(len(blob) > LARGE_BYTES for blob in post.blobs.values())
    del siblings
    post.sweep()
    assert not any(len(blob) > LARGE_BYTES for blob in post.blobs.values())


def test_a_kept_result_travels_as_its_future() -> None:
    post, some = PostOffice(Cluster().put), kept("here", 10)
    with_it = call(post, some, [some, 1])
    assert with_it.inputs == (some.future,)
    with pytest.raises(LostInputs) as caught:
        call(post, kept("here", 10, "cancelled"))
    assert len(caught.value.kept) == 1


def test_arguments_larger_than_any_worker_are_refused() -> None:
    post = PostOffice(Cluster().put)
    with pytest.raises(TooLargeForWorkers, match="split them"):
        call(post, [bytes(1000)], most_bytes=500)
    call(post, [bytes(1000)], most_bytes=5000)


# --- picking: what travels together -----------------------------------------------------------


class Bench:
    """A picker, and what it refused."""

    def __init__(self, *attempts: Attempt) -> None:
        self.post = PostOffice(Cluster().put)
        self.refused: list[Outcome] = []
        self.queue = AttemptQueue()
        for attempt in attempts:
            self.queue.push(attempt)
        self.picker = Picker(
            self.post, itertools.count(1), lambda _, outcome: self.refused.append(outcome)
        )

    def learn(self, fn: Callable[..., Any], seconds: float) -> None:
        self.post.function(fn)[1].learn(seconds)

    def pick(self, slots: int = 1) -> list[int]:
        return [each.attempt.id for each in self.picker.pick(self.queue, slots, 0)]


def several(count: int, **options: Any) -> list[Attempt]:
    return [Attempt(number, plain, (number,), **options) for number in range(count)]


def test_what_is_not_known_to_be_short_travels_alone() -> None:
    bench = Bench(*several(9))
    assert bench.pick() == [0]
    bench.learn(plain, 0.001)
    assert bench.pick() == [1, 2, 3, 4, 5], "and leaves the half of the tail to others"


def test_a_function_that_killed_a_worker_travels_alone() -> None:
    bench = Bench(*several(9))
    bench.learn(plain, 0.001)
    bench.post.function(plain)[1].has_crashed = True
    assert bench.pick() == [0]


def test_what_asks_for_resources_travels_alone() -> None:
    bench = Bench(*several(9, resources={"GPU": 1}))
    bench.learn(plain, 0.001)
    assert bench.pick() == [0]


def test_a_chunk_that_was_asked_for_travels_whole() -> None:
    bench = Bench(*several(20, siblings=Siblings((), 7)))
    assert bench.pick(slots=100) == list(range(7))


def test_what_cannot_be_sent_is_refused_and_the_rest_goes() -> None:
    lost = kept("there", 1, "cancelled")
    bench = Bench(
        Attempt(0, plain, (1,)),
        Attempt(1, plain, (1,), {"y": threading.Lock()}),
        Attempt(2, plain, (lost,)),
        Attempt(3, plain, (3,)),
        *(Attempt(number, plain, (number,)) for number in range(4, 12)),
    )
    bench.learn(plain, 0.001)
    assert bench.pick()[:2] == [0, 3]
    bad, without = bench.refused
    assert (bad.kind, bad.began) == ("raised", False)
    assert "argument 'y'" in str(bad.error)
    assert (without.kind, without.began, without.lost_inputs) == ("lost", False, (lost,))
    assert "lost with worker there" in without.reason


# --- answers ----------------------------------------------------------------------------------


def ending(how: int, payload: Any, buffers: Any = (), stored: int | None = None) -> tuple[Any, ...]:
    return 7, how, payload, list(buffers), 0.5, None, stored


def test_an_answer_says_how_each_call_ended() -> None:
    try:
        raise ValueError("bad")
    except ValueError as caught:
        packed = pack_error(caught)
    large = packing.pack([bytes(LARGE_BYTES)])
    endings = [
        ending(running.INLINE, 5),
        ending(running.RAISED, packed),
        ending(running.PACKED, large.payload, map(bytes, large.buffers)),
        ending(running.KEPT, ("key", 99), stored=120),
    ]
    answer = opened(pickle.dumps(([], [3, 4], endings)))
    assert (answer.missing, answer.left, answer.kept) == ([], [3, 4], ["key"])
    there, future = worker("w"), FakeFuture()
    outcomes = [outcome_of(1, each, there, "runner", {"key": future}) for each in answer.endings]
    value, raised, loaded, stayed = outcomes
    assert (value.kind, value.value, value.duration_seconds) == ("returned", 5, 0.5)
    assert value.worker == "w (tcp://10.0.0.119:8000)"
    assert isinstance(raised.error, RemoteError)
    assert raised.error.type_name == "ValueError"
    assert isinstance(loaded.value, Packed)
    assert loaded.value.load() == [bytes(LARGE_BYTES)]
    assert isinstance(stayed.value, KeptOnCluster)
    assert (stayed.value.future, stayed.value.worker) == (future, there.address)
    assert [each.stored_bytes for each in outcomes] == [None, None, None, 120]


def test_an_answer_may_say_that_something_is_missing() -> None:
    assert opened(pickle.dumps(([b"digest"], [], []))) == Answer([b"digest"], [], [])


# --- kept results -----------------------------------------------------------------------------


def test_a_lost_result_stands_for_the_one_made_again() -> None:
    lost, again = kept("there", 5, "cancelled"), kept("here", 5)
    assert lost.is_lost
    lost.superseded_by(again)
    assert [lost.is_lost] == [False]
    assert lost.current() is again
    again.superseded_by("the value itself")
    assert [lost.current(), lost.fetch()] == ["the value itself"] * 2


def test_a_kept_result_is_no_argument_elsewhere() -> None:
    with pytest.raises(TypeError, match="same runner only"):
        pickle.dumps(kept("there", 5))


# --- what waits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "seconds_each", "wanted"),
    [(0, None, 0), (3, None, 3), (10_000, 0.0001, 2), (10_000, 10, MOST), (5, 3600, 5)],
)
def test_work_that_waits_is_as_many_tasks_as_dask_takes_it_for(
    waiting: int, seconds_each: float | None, wanted: int
) -> None:
    assert stand_ins_for(waiting, seconds_each) == wanted


def test_what_is_about_right_is_left_as_it_is() -> None:
    made: list[int] = []
    dropped: list[int] = []

    def make(count: int) -> list[Any]:
        made.append(count)
        return [object()] * count

    demand = Demand(make, lambda futures: dropped.append(len(futures)))
    for waiting in (0, 10, 12, 8, 30, 0, 0):
        demand.update(waiting, None)
    assert (made, dropped) == ([10, 30], [10, 30])


# --- news -------------------------------------------------------------------------------------


class FakeClient:
    """As far as we look at Dask's."""

    def __init__(self) -> None:
        self._event_handlers: dict[str, Callable[[Any], object]] = {}
        self.subscribed = False

    def subscribe_topic(self, topic: str, handler: Callable[[Any], object]) -> None:
        self._event_handlers[topic] = handler
        self.subscribed = True

    def unsubscribe_topic(self, topic: str) -> None:
        self.subscribed = False

    def tell(self, event: Any) -> None:
        if self.subscribed:
            self._event_handlers["all"](event)


@pytest.mark.parametrize("is_owned", [True, False])
def test_news_reaches_all_sessions_and_the_owner(is_owned: bool) -> None:
    client = FakeClient()
    owner: list[Any] = []
    first: list[Any] = []
    second: list[Any] = []
    if is_owned:
        client.subscribe_topic("all", owner.append)
    for _ in range(2):  # and once more, later
        news.listen(client, "first", first.append)
        news.listen(client, "second", second.append)
        client.subscribed = True
        client.tell("both")
        assert not news.leave(client, "first")
        assert news.is_heard(client)
        client.tell("one")
        client.subscribed = not news.leave(client, "second")
        assert not news.is_heard(client)
        assert not news.leave(client, "second")
        client.tell("none")
    assert first == ["both"] * 2
    assert second == ["both", "one"] * 2
    assert owner == (["both", "one", "none"] * 2 if is_owned else [])
    assert client.subscribed is is_owned


# --- what is sent there -----------------------------------------------------------------------


def test_the_far_side_imports_nothing_of_ours_by_name() -> None:
    package = bundle()
    assert f"{package.name}.far" in package.sources
    for source in package.sources.values():
        assert "import penstock" not in source
        assert "from penstock" not in source


@pytest.mark.parametrize(
    ("module", "installed"),
    [("json", True), ("sys", True), ("pytest", True), ("cloudpickle", True), (__name__, False)],
)
def test_what_is_installed_is_known_from_files_of_a_project(module: str, installed: bool) -> None:
    assert is_installed(module) is installed


# --- the far side -----------------------------------------------------------------------------


def test_a_result_goes_home_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_client() -> Any:
        raise AssertionError("as when the scheduler greets a client and tells it something else")

    monkeypatch.setattr(far, "get_client", get_client)
    batch = far._Batch("sender", None, 1, (), ())  # type: ignore[arg-type]  # nothing is sent
    keep = batch._keeping(0)
    assert keep is not None
    assert keep([1], packing.pack([1])) is None


# --- claims -----------------------------------------------------------------------------------


class BatchFuture:
    def __init__(self, key: str, status: str = "finished") -> None:
        self.key = key
        self.status = status
        self.is_released = False

    def release(self) -> None:
        self.is_released = True


class FakeWire:
    is_lost = False

    def __init__(self) -> None:
        self.claimed: list[list[str]] = []

    def futures_of(self, keys: list[str]) -> list[BatchFuture]:
        return [BatchFuture(key, "pending") for key in keys]

    def claim(self, futures: list[BatchFuture]) -> None:
        self.claimed.append([future.key for future in futures])

    def lose(self, futures: list[BatchFuture]) -> None:
        for future in futures:
            future.status = "cancelled"


@pytest.fixture
def wire() -> FakeWire:
    return FakeWire()


@pytest.fixture
def unclaimed(wire: FakeWire) -> Claims:
    return Claims(wire)  # type: ignore[arg-type]  # as far as it is used


def test_kept_results_are_claimed_with_the_next_task_or_soon(
    wire: FakeWire, unclaimed: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclaimed.futures_of([], "w")
    unclaimed.claim_if_due(has_sent=True)
    assert wire.claimed == [], "there is nothing to say"
    unclaimed.futures_of(["a", "b"], "w")
    assert unclaimed.by is not None
    unclaimed.claim_if_due(has_sent=True)
    assert wire.claimed == [["a", "b"]]
    monkeypatch.setattr(claims, "CLAIM_SECONDS", 1000.0)
    unclaimed.futures_of(["c"], "w")
    unclaimed.claim_if_due(has_sent=False)
    assert len(wire.claimed) == 1, "there is time"
    unclaimed.by = 0.0
    unclaimed.claim_if_due(has_sent=False)
    assert wire.claimed[1:] == [["c"]]


def test_no_future_goes_before_what_its_worker_holds_is_claimed(
    wire: FakeWire, unclaimed: Claims
) -> None:
    unclaimed.futures_of(["a"], "w")
    for number in range(claims.MOST_SPENT - 1):
        unclaimed.let_go(number, BatchFuture("batch"), is_large=False)
        unclaimed.tidy(is_quiet=True)
    assert wire.claimed == []
    unclaimed.let_go(1000, BatchFuture("batch"), is_large=False)
    unclaimed.tidy(is_quiet=False)
    assert wire.claimed == [["a"]]
    unclaimed.futures_of(["b"], "w")
    large = BatchFuture("large")
    unclaimed.let_go(1001, large, is_large=True)
    assert wire.claimed[1:] == [["b"]]
    assert large.is_released


def test_what_dask_does_not_know_to_be_ours_is_lost_with_its_worker(unclaimed: Claims) -> None:
    early = unclaimed.futures_of(["confirmed", "claimed"], "w")
    unclaimed.claim()
    early[0].status = "finished"
    late = [*unclaimed.futures_of(["unclaimed"], "w"), *unclaimed.futures_of(["there"], "v")]
    unclaimed.note_lost("w")
    assert [each.status for each in early + late] == [
        "finished",  # Dask itself tells what becomes of it
        "cancelled",
        "cancelled",
        "pending",
    ]


def test_a_future_that_dask_takes_for_unfinished_is_held(unclaimed: Claims) -> None:
    future = BatchFuture("batch", "pending")
    unclaimed.let_go(1, future, is_large=False)
    unclaimed.tidy(is_quiet=True)
    assert unclaimed.answered() == [future]
    unclaimed.note_ended(1)
    unclaimed.note_ended(2)
    assert unclaimed.answered() == []
