"""One run on a cluster: a thread that hands out attempts, hears of them, and reports.

Each batch goes to one worker, which is chosen here. So a lost worker shows which attempts were
with it; and Dask cannot run them elsewhere by itself, since they are for that worker only.

All that comes from elsewhere is put into the inbox; everything is decided in this thread.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import re
import threading
import time
import uuid
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from distributed import KilledWorker

from penstock.task_runners import Broken, Output, SlotsChanged
from penstock_runners.batching import Pace
from penstock_runners.dask_cluster.answers import opened, outcome_of
from penstock_runners.dask_cluster.claims import Claims
from penstock_runners.dask_cluster.demand import Demand
from penstock_runners.dask_cluster.ends import Ends
from penstock_runners.dask_cluster.flight import Batch, Open, nearness_of
from penstock_runners.dask_cluster.lanes import Lanes
from penstock_runners.dask_cluster.letters import BATCH_SECONDS, PostOffice
from penstock_runners.dask_cluster.picking import Picker
from penstock_runners.dask_cluster.roster import DaskWorker, Roster
from penstock_runners.dask_cluster.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import distributed

    from penstock.task_runners import Attempt, Event, TaskRunner
    from penstock_runners.attempt_queue import AttemptQueue
    from penstock_runners.dask_cluster.connection import Connection

__all__ = ["Session"]

_log = logging.getLogger("penstock.dask")

TICK_SECONDS: Final = 0.25
LOOK_SECONDS: Final = 1.0
"""How often the scheduler is asked which workers there are."""
ATTEMPTS_PER_SLOT: Final = 1024
"""Taken ahead for each slot, so that batches are full."""
BATCH_BEGAN, CALL_BEGAN, OUTPUT, ANSWER = 0, 1, 2, 3
"""What an event tells, as in `far`. An answer that is not told is Dask's to bring."""
SCHEDULER_LOST: Final = "the connection to the Dask scheduler was lost"


class Session:
    """Serves one open runner.

    Args:
        connection: to the cluster, open.
        client: of it.
        runner: for which it works.
        report: takes events.
        ship_modules: names of modules that go by value.
        worker_timeout_seconds: how long there may be work and no worker.
        check: is shown the workers, and raises what there is against them; they have got nothing
            from us then.
    """

    def __init__(
        self,
        connection: Connection,
        client: distributed.Client,
        runner: TaskRunner,
        report: Callable[[Event], None],
        ship_modules: Sequence[str],
        worker_timeout_seconds: float,
        check: Callable[[Mapping[str, Any]], object],
    ) -> None:
        self._runner = runner
        self._report = report
        self._worker_timeout = worker_timeout_seconds
        self._inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._name = uuid.uuid4().hex[:12]
        self._wire = Wire(connection, client, self._name, self._inbox.put)
        self._post = PostOffice(self._put, ship_modules, is_elsewhere=not connection.where.is_local)
        self._numbers = itertools.count(1)
        self._ends = Ends(report)
        self._picker = Picker(self._post, self._numbers, self._ends.refuse)
        self._roster = Roster()
        self._lanes = Lanes()
        self._batches: dict[int, Batch] = {}
        self._claims = Claims(self._wire)
        self._no_worker_since: float | None = None
        self._floor = 0
        self._demand = Demand(self._wire.stand_in, self._wire.drop)
        self._pace = Pace(BATCH_SECONDS)
        """Of all that runs here."""
        self._looked_at = 0.0
        self._broken: BaseException | None = None
        self._close_by: float | None = None
        self.taken = 0
        """How many attempts were submitted; written by the engine's thread."""
        try:
            workers = self._wire.listen()
            check(workers)
            self._wire.set_up()
            self._note_workers(workers)
        except BaseException:
            self._wire.take_down([])
            raise
        self._thread = threading.Thread(target=self._run, name="penstock-dask", daemon=True)
        self._thread.start()

    # --- any thread --------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many attempts can run at once, now."""
        return self._roster.slots

    @property
    def credit(self) -> int:
        """Enough for full batches; also where no worker is yet, as then one may be started."""
        return ATTEMPTS_PER_SLOT * max(2, self._roster.slots) - (self.taken - self._ends.count)

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Take attempts."""
        self.taken += len(attempts)
        self._inbox.put(("take", attempts))

    def cancel(self, attempt_ids: Sequence[int]) -> None:
        """Drop what has not begun."""
        self._inbox.put(("cancel", tuple(attempt_ids)))

    def close(self, grace_seconds: float) -> None:
        """Drop what has not begun, wait for what runs and is wanted, and give the rest up."""
        self._inbox.put(("close", time.monotonic() + grace_seconds))
        self._thread.join()

    # --- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._turn()
        except BaseException as error:  # noqa: BLE001  (a bug in here: nobody must wait for ever)
            self._break(error)
        finally:
            self._end_all()
            self._claims.claim()
            self._post.close()
            futures = [batch.future for batch in self._batches.values()]
            self._wire.take_down([*futures, *self._claims.answered(), *self._demand.futures])
            self._claims.close()
            for held in (self._batches, self._demand.futures):
                held.clear()

    def _is_over(self) -> bool:
        if self._close_by is None:
            return False
        if time.monotonic() >= self._close_by:
            return True
        return all(one.is_given_up for one in self._ends.open.values())

    def _turn(self) -> None:
        timeout = TICK_SECONDS
        for by in (self._close_by, self._claims.by):
            if by is not None:
                timeout = max(0.0, min(timeout, by - time.monotonic()))
        order = None
        try:
            order = self._inbox.get(timeout=timeout)
            while True:
                self._act(order)
                order = self._inbox.get(block=False)
        except Empty:
            self._claims.tidy(is_quiet=order is None)
        self._look_at_clock(time.monotonic())
        has_sent = self._broken is None and self._close_by is None and self._feed()
        self._claims.claim_if_due(has_sent=has_sent)

    def _act(self, order: tuple[Any, ...]) -> None:
        kind = order[0]
        if kind == "event":
            for event in order[1]:
                self._on_event(*event)
        elif kind == "ended":
            self._on_ended(order[1])
        elif kind == "answered":
            self._on_answer(order[1], order[2])
        elif kind == "take":
            self._take(order[1])
        elif kind == "cancel":
            self._cancel(order[1])
            for attempt_id in self._ends.open.keys() & order[1]:
                self._ends.open[attempt_id].is_given_up = True
        elif kind == "refused":
            self._on_refused(order[1], order[2])
        elif kind == "add-worker":
            self._look_around()
        elif kind == "workers":
            self._note_workers(order[1])
        elif kind == "remove-worker":
            self._on_lost_worker(order[1], expected=order[2])
        elif kind == "close":
            self._close_by = order[1]
            self._cancel(tuple(self._ends.open))

    def _look_around(self) -> None:
        self._looked_at = time.monotonic()
        if not self._wire.is_lost:
            self._wire.look()

    def _note_workers(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        self._looked_at = time.monotonic()
        before = self._roster.slots
        gone = self._roster.update(infos)
        if self._roster.slots != before:
            self._report(SlotsChanged(self._roster.slots))
        for worker in gone:
            self._on_lost_worker(worker.address, expected=False)

    # --- handing out ---------------------------------------------------------------------

    def _take(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            one = self._ends.take(attempt)
            if self._broken is None:
                self._lanes.push(attempt)
            else:
                self._ends.lose(one, f"the cluster is gone: {self._broken}", began=False)

    def _feed(self) -> bool:
        """Hand out what there is room for; return whether anything was."""
        before = len(self._batches)
        for names, resources, queue in self._lanes:
            while queue:
                worker = self._roster.choose(names, resources, nearness_of(queue.first()))
                if worker is None:
                    break
                self._send_batch(worker, queue, resources)
        self._lanes.note(time.monotonic())
        floor = len(self._roster) if self._ends.open else 0
        if floor != self._floor:
            self._floor = floor
            self._wire.hold_floor(floor)
        return len(self._batches) > before

    def _send_batch(
        self, worker: DaskWorker, queue: AttemptQueue, resources: Mapping[str, float]
    ) -> None:
        picked = self._picker.pick(queue, self._roster.slots, self._roster.most_bytes)
        if not picked:
            return
        batch = Batch(next(self._numbers), worker)
        for attempt, call, pace in picked:
            one = self._ends.open[attempt.id]
            one.number, one.pace, one.batch = call.plain[0], pace, batch
            batch.calls[one.number] = self._ends.calls[one.number] = one
            batch.parcels.update(call.parcels)
        calls = [each.call for each in picked]
        payload, beside = self._post.letter(
            self._name, self._wire.topic, batch.number, calls, worker
        )
        self._batches[batch.number] = batch
        worker.batches += 1
        self._wire.send(
            batch,
            payload,
            beside,
            label=_key_part(picked[0].attempt.name),
            priority=picked[0].attempt.priority,
            resources=resources,
        )

    def _put(self, blob: bytes) -> Any:
        """Put bytes on the cluster; None where there is no worker to hold them."""
        if not len(self._roster) or self._wire.is_lost:
            return None
        return self._wire.put(blob)

    # --- what workers say ------------------------------------------------------------------

    def _on_event(self, kind: int, number: int, what: Any) -> None:
        if kind in (BATCH_BEGAN, ANSWER):
            batch = self._batches.get(number)
            if batch is None:
                return
            if kind == BATCH_BEGAN:
                batch.has_begun = True
            elif what is None:
                batch.has_ended = True
                self._bring_if_there(batch)
            else:
                self._wire.note_told(len(what))
                self._on_answer(number, what)
            return
        one = self._ends.calls.get(number)
        if one is None or one.batch is None:
            return
        if kind == CALL_BEGAN:
            one.batch.has_begun = True
            self._ends.note_start(one, one.batch.worker, time.monotonic())
        elif kind == OUTPUT:
            record = pickle.loads(what)
            self._report(Output(one.attempt.id, (record,), one.batch.worker.label))
            self._wire.note_told(len(what))

    def _on_ended(self, number: int) -> None:
        """Dask says that a task of its own is over."""
        self._claims.note_ended(number)
        batch = self._batches.get(number)
        if batch is None:
            return
        if batch.future.status == "finished":
            self._bring_if_there(batch)
        elif self._wire.is_lost:
            self._break(ConnectionError(SCHEDULER_LOST))
        elif batch.future.status == "error":
            self._on_error(batch, batch.future.exception())
        else:
            self._lose_batch(batch, f"its Dask task was {batch.future.status}")

    def _bring_if_there(self, batch: Batch) -> None:
        # What a worker tells comes another way than what Dask says of it, before that or after.
        if batch.has_ended and batch.future.status == "finished" and not batch.is_coming:
            batch.is_coming = True
            self._wire.bring(batch)

    def _on_error(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, KilledWorker):
            self._on_lost_worker(batch.worker.address, expected=False)
        if batch.number in self._batches:
            self._lose_batch(batch, f"Dask could not run it there: {error!r}; it was lost")

    def _on_answer(self, number: int, packed: bytes) -> None:
        batch = self._batches.get(number)
        if batch is None:
            return
        answer = opened(packed)
        worker = batch.worker
        if answer.missing:
            worker.parcels.difference_update(answer.missing)
            back = list(batch.calls)
        else:
            worker.parcels.update(batch.parcels)
            back = answer.left
        futures = self._claims.futures_of(answer.kept, worker.address)
        kept = dict(zip(answer.kept, futures, strict=True))
        for ending in answer.endings:
            one = batch.calls.pop(ending[0], None)
            if one is None:
                continue  # it was said to be cancelled
            del self._ends.calls[one.number]
            outcome = outcome_of(one.attempt.id, ending, worker, self._runner, kept)
            assert one.pace is not None
            one.pace.learn(outcome.duration_seconds)
            self._pace.learn(outcome.duration_seconds)
            self._ends.note_start(one, worker, time.monotonic() - outcome.duration_seconds)
            self._ends.end(one, outcome)
        for number in back:
            one = batch.calls.pop(number, None)
            if one is not None:
                self._go_back(one)
        self._forget(batch)
        for one in tuple(batch.calls.values()):  # refused there; the answer to that is on its way
            self._ends.stop_early(one)

    # --- losses ------------------------------------------------------------------------------

    def _on_lost_worker(self, address: str, *, expected: bool) -> None:
        self._claims.note_lost(address)
        worker = self._roster.remove(address)
        if worker is None:
            return
        self._report(SlotsChanged(self._roster.slots))
        reason = "it left the cluster as planned"
        if not expected:
            reason = (
                "it left the cluster unexpectedly (killed, out of memory, or silent for longer "
                "than Dask's worker-ttl, as code that holds the GIL makes it)"
            )
        batches = [batch for batch in self._batches.values() if batch.worker is worker]
        is_explained = any(batch.has_begun and not batch.has_ended for batch in batches)
        for batch in batches:
            self._lose_batch(batch, reason, is_explained=is_explained)

    def _lose_batch(self, batch: Batch, reason: str, *, is_explained: bool = False) -> None:
        """The worker of a batch is lost.

        Args:
            batch: which.
            reason: for people.
            is_explained: something else ran there, so that what had not begun has no part in it.
        """
        fates = tuple(batch.fates())
        self._forget(batch)
        if not self._wire.is_lost:
            self._wire.drop([batch.future])
        for one, began in fates:
            if began is not False and one.pace is not None:
                one.pace.has_crashed = True
            if one.is_unwanted and began is False:
                self._ends.stop_early(one)
            elif is_explained and began is False:
                self._go_back(one)
            else:
                doing = "while it ran this attempt" if began else "with this attempt"
                if batch.has_ended:
                    doing = "with what came of this attempt"
                self._ends.lose(one, f"{reason} {doing}", began=began, worker=batch.worker.label)

    def _forget(self, batch: Batch) -> None:
        del self._batches[batch.number]
        batch.worker.batches -= 1
        self._claims.let_go(batch.number, batch.future, is_large=batch.is_coming)

    def _go_back(self, one: Open) -> None:
        """Line up again what was sent and has not begun."""
        self._ends.calls.pop(one.number, None)
        one.batch = None
        if one.is_unwanted:
            self._ends.stop_early(one)
        else:
            self._lanes.push(one.attempt)

    def _break(self, error: BaseException) -> None:
        """The cluster is gone: every attempt is lost."""
        if self._broken is not None:
            return
        self._broken = error
        for batch in tuple(self._batches.values()):
            self._lose_batch(batch, str(error))
        for one in tuple(self._ends.open.values()):
            self._ends.lose(one, str(error), began=False)
        self._lanes.clear()
        self._report(Broken(error, self._runner))

    # --- cancelling ----------------------------------------------------------------------------

    def _cancel(self, attempt_ids: Sequence[int]) -> None:
        asked: dict[str, list[int]] = {}
        for attempt_id in attempt_ids:
            one = self._ends.open.get(attempt_id)
            if one is None:
                continue  # it has ended
            if one.batch is None:
                self._lanes.drop(attempt_id)
                self._ends.stop_early(one)
            elif not one.is_started:
                one.is_unwanted = True
                asked.setdefault(one.batch.worker.address, []).append(one.number)
        for address, numbers in asked.items():
            self._wire.ask_to_refuse(address, numbers)

    def _on_refused(self, numbers: Sequence[int], begun: Sequence[int]) -> None:
        for number in numbers:
            one = self._ends.calls.get(number)
            if one is None or one.batch is None:
                continue
            if number in begun:
                one.is_unwanted = False
                continue
            batch = one.batch
            del batch.calls[number]
            self._ends.stop_early(one)
            if not batch.calls and batch.number in self._batches:
                self._wire.drop([batch.future])
                self._forget(batch)

    # --- the clock -----------------------------------------------------------------------------

    def _look_at_clock(self, now: float) -> None:
        if self._broken is not None:
            return
        if self._wire.is_lost:
            self._break(ConnectionError(SCHEDULER_LOST))
            return
        self._post.sweep()
        if now - self._looked_at > LOOK_SECONDS:  # at what no event has told of, a status, say
            self._look_around()
        if len(self._roster) or not self._ends.open:
            self._no_worker_since = None
        elif self._no_worker_since is None:
            self._no_worker_since = now
        elif now - self._no_worker_since > self._worker_timeout:
            self._break(
                TimeoutError(
                    f"no worker came to the Dask cluster within {self._worker_timeout:g} s, with "
                    f"work waiting; start some (dask worker {self._wire.address}), see that they "
                    "reach the scheduler, or give them longer by worker_timeout_seconds"
                )
            )
        if self._wire.is_elastic and self._close_by is None:
            self._demand.update(self._lanes.wanting(now, self._roster), self._pace.seconds)
        self._lanes.warn(now, self._roster)

    # --- the end -------------------------------------------------------------------------------

    def _end_all(self) -> None:
        while not self._inbox.empty():
            order = self._inbox.get()
            if order[0] == "take":
                self._take(order[1])
        self._ends.leave(is_ours=self._wire.is_ours)


def _key_part(name: str) -> str:
    """Return what the names of a task's runs begin with: Dask groups tasks by it, for ever."""
    found = re.match(r"\w+", name)
    return found[0] if found else "task"
