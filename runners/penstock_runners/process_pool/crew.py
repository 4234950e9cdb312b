"""The workers of a pool: spawned, fed, heard, watched, killed, buried.

All of it under the pool's lock and, but for `is_idle` and `feed_ready`, on the pool's one thread.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import selectors
import time
from typing import TYPE_CHECKING, Any, Final

from penstock.task_runners import Output, Started
from penstock_runners.process_pool import frames
from penstock_runners.process_pool.endings import (
    describe_exit,
    died_with_worker,
    ended_before_kill,
    stopped_early,
)
from penstock_runners.process_pool.feeding import Feeder
from penstock_runners.process_pool.jobs import Job, Stretch
from penstock_runners.process_pool.memory import LOOK_SECONDS, MemoryWatch
from penstock_runners.process_pool.outcomes import outcome_of, returned
from penstock_runners.process_pool.parcels import ParcelStore
from penstock_runners.process_pool.slots import IDLE, SlotTable
from penstock_runners.process_pool.workers import Killing, Outlet, Phase, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from penstock.attempt import Outcome
    from penstock.task_runners import Returned
    from penstock_runners.process_pool.jobs import Client, JobQueue

__all__ = ["TICK_SECONDS", "Crew", "Plan", "is_running"]

TICK_SECONDS: Final = 0.02
"""How often the slots are looked at, while there is something to be seen there."""
STACK_SECONDS: Final = 0.25
"""How long a worker to be killed may take to show its stack. It needs a few milliseconds where the
machine is not overloaded."""
STACK_QUIET_SECONDS: Final = 0.05
"""So long after a piece, the stack is taken to be complete, though its end has not come: it may be
cut, if it is deep."""
LEAVE_SECONDS: Final = 0.4
"""How long a worker may take to leave by itself."""
LOADING_SECONDS: Final = 10.0
"""So long an attempt may load what it needs, modules mostly, before that counts as its own time."""
LONG_SECONDS: Final = LOOK_SECONDS
"""Too much memory for so long is the doing of the call that runs, and its end is not awaited."""
SPAWN_WORTH_SECONDS: Final = 0.3
"""What was sent ahead comes back for a new worker only if it has waited for longer than a spawn."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What tells one pool from another."""

    max_workers: int
    env: tuple[tuple[str, str], ...]
    initializer: bytes | None
    """The pickle of a function and its arguments."""
    max_tasks_per_worker: int | None
    ship_modules: tuple[str, ...]
    """Modules whose functions and classes go by value."""
    surroundings: tuple[str, ...]
    """Where workers look for modules and files: their current directory and `sys.path`."""
    warm_seconds: float
    """How long the pool stays when nobody uses it."""
    memory_limit_bytes: int | None = None
    """A worker that uses more is replaced, and killed if what it runs goes on for long."""


class Crew:
    """At most `plan.max_workers` workers, as many as there was work for.

    Args:
        plan: how they are to be.
        numbers: for jobs that set out a second time.
        queue: where attempts wait, and where those go back that were sent and have not begun.
        end: takes the one outcome of a job that is in the queue no more, and with no worker.
        end_row: takes what attempts of a client's have returned, of one stretch.
        start_failed: is told why a worker ended before it was ready.
        wake: has `sweep` called soon; from any thread.
    """

    def __init__(
        self,
        plan: Plan,
        numbers: Iterator[int],
        queue: JobQueue,
        end: Callable[[Job, Outcome], None],
        end_row: Callable[[Client, Returned], None],
        start_failed: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        """Its keys carry what to call with the events."""
        self._plan = plan
        self._numbers = numbers
        self._queue = queue
        self._end = end
        self._end_row = end_row
        self._start_failed = start_failed
        self._parcels = ParcelStore(plan.ship_modules, wake)
        self._feeder = Feeder(queue, plan.max_workers, self._parcels, end)
        self._tick_at = 0.0
        self._table = SlotTable(plan.max_workers)
        self._memory = MemoryWatch(plan.memory_limit_bytes)

    def sweep(self) -> None:
        """Let go, here and in the workers, of what no attempt needs any more."""
        numbers = self._parcels.sweep()
        if numbers:
            for worker in self.workers:
                self._feeder.forget(worker, numbers)
                self._watch_for_room(worker.orders)

    def wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something to happen, and return what has."""
        return self.selector.select(timeout)

    def see_to(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Do what is to be done about what has happened."""
        for key, events in ready:
            # One that came earlier in this round may have buried the worker of this one.
            if self.selector.get_map().get(key.fd) is key:
                key.data(events)

    def look_at_clock(self, now: float) -> float | None:
        """Do what is due, and return when the next thing is, if there is one."""
        due: list[float] = []
        watched = False
        for worker in self.workers:
            killing = worker.killing
            if killing is not None and killing.deadline is not None:
                if killing.deadline <= now:
                    self._kill_or_spare(worker, killing)
                else:
                    due.append(killing.deadline)
            if worker.leave_by is not None:
                if worker.leave_by <= now:
                    worker.leave_by = None
                    worker.kill()
                else:
                    due.append(worker.leave_by)
            watched = watched or self._is_worth_watching(worker)
        if watched:
            if self._tick_at <= now:
                self._tick_at = now + TICK_SECONDS
                self._watch(now)
            due.append(self._tick_at)
        for worker in self._memory.look(self.workers, now):
            self._replace(worker, now)
        if self._memory.due_at is not None:
            due.append(self._memory.due_at)
        return min(due, default=None)

    def unfold(self, client: Client) -> None:
        """Have a job for each of a client's attempts."""
        for worker in self.workers:
            if worker.client is client:
                worker.unfold()

    def stop(self, seconds: float = LEAVE_SECONDS) -> float:
        """Tell all to leave, kill those that are busy, and return when the others are killed."""
        leave_by = time.monotonic() + seconds
        for worker in self.workers:
            if worker.sent or worker.phase is not Phase.READY:
                worker.kill()
            else:
                worker.stop(leave_by)
        return leave_by

    def end(self, leave_by: float) -> None:
        """Bury all workers; must not return before, as the kernel kills them with this thread."""
        while self.workers:
            now = time.monotonic()
            if now >= leave_by:
                leave_by = now + LEAVE_SECONDS
                for worker in self.workers:
                    worker.kill()
            self.see_to(self.wait(leave_by - now))
        self._parcels.close()
        self.selector.close()
        self._table.close()

    def close_in_child(self) -> None:
        """In a fork of the driver: close what was inherited, which belongs to the parent."""
        for worker in self.workers:
            worker.close_in_child()
        os.close(self._table.descriptor)
        self._parcels.close()
        self.selector.close()

    def recall(self, worker: Worker, numbers: Sequence[int]) -> None:
        """Ask a worker to give back what it has not begun, and to tell what has ended."""
        worker.control.send((frames.RECALL, tuple(numbers)))
        self._watch_for_room(worker.control)

    # --- feeding --------------------------------------------------------------------------

    def feed(self) -> bool:
        """Send what can be sent, spawn one worker if needed; True if more may be needed."""
        self.feed_ready()
        if len(self._queue) and len(self.workers) < self._plan.max_workers:
            starting = sum(worker.phase is Phase.STARTING for worker in self.workers)
            if len(self._queue) > starting:
                self._spawn()
                # At once for the next, and after what came meanwhile: each takes milliseconds.
                return len(self._queue) > starting + 1
        return False

    def feed_ready(self) -> None:
        """Send what can be sent to the workers that there are."""
        while len(self._queue):
            worker = self._feeder.worker_with_room(self.workers)
            if worker is None or not self._feeder.feed(worker):
                break
            self._watch_for_room(worker.orders)

    def is_idle(self) -> bool:
        """Whether no worker has anything to do, and one at least is ready."""
        is_ready = False
        for worker in self.workers:
            if worker.sent:
                return False
            is_ready = is_ready or worker.phase is Phase.READY
        return is_ready

    def _spawn(self) -> None:
        taken = {worker.index for worker in self.workers}
        index = next(i for i in range(self._plan.max_workers) if i not in taken)
        try:
            worker = Worker(self._table, index, dict(self._plan.env))
        except Exception as error:  # noqa: BLE001  (no processes or descriptors left, mostly)
            self._start_failed(f"a worker process cannot be started: {error!r}")
            return
        worker.calls_left = self._plan.max_tasks_per_worker
        self.workers.append(worker)
        register = self.selector.register
        register(worker.answers, selectors.EVENT_READ, functools.partial(self._on_answer, worker))
        register(worker.stacks, selectors.EVENT_READ, functools.partial(self._on_stack, worker))
        register(worker.death, selectors.EVENT_READ, functools.partial(self._on_death, worker))
        worker.orders.send((frames.CONFIGURE, self._plan.initializer))
        self._watch_for_room(worker.orders)

    def _watch_for_room(self, outlet: Outlet) -> None:
        if outlet.wants_room == outlet.is_watched:
            return
        outlet.is_watched = not outlet.is_watched
        if outlet.is_watched:
            write = functools.partial(self._on_room, outlet)
            self.selector.register(outlet.descriptor, selectors.EVENT_WRITE, write)
        else:
            self.selector.unregister(outlet.descriptor)

    def _on_room(self, outlet: Outlet, events: int) -> None:
        del events
        outlet.write()
        self._watch_for_room(outlet)

    # --- what workers say -----------------------------------------------------------------

    def _on_answer(self, worker: Worker, events: int) -> None:
        del events
        answers = worker.read()
        if answers is None:  # the end of the pipe; of the process, too, in a moment
            self.selector.unregister(worker.answers)
            worker.hasten_end()
            return
        self._hear(worker, answers)

    def _hear(self, worker: Worker, answers: Iterable[frames.Frame]) -> None:
        for head, buffers in answers:
            if type(head) is list:
                self._on_answers(worker, head)
                continue
            kind = head[0]
            if kind == frames.DONE:
                self._on_done(worker, head[1], buffers)
            elif kind == frames.OUTPUT:
                self._on_output(worker, head[1], head[2])
            elif kind == frames.GIVEN_BACK:
                self._on_given_back(worker, head[1], head[2])
            elif kind == frames.READY and worker.phase is Phase.STARTING:
                worker.phase = Phase.READY
            elif kind == frames.INITIALIZER_FAILED:
                worker.failure = head[1]
        self._dismiss_if_spent(worker)

    def _on_answers(self, worker: Worker, answers: list[tuple[Any, ...]]) -> None:
        place = 0
        while place < len(answers):
            count = self._on_row(worker, answers[place:])
            if not count:
                self._on_done(worker, answers[place], [])
                count = 1
            place += count

    def _on_row(self, worker: Worker, answers: list[tuple[Any, ...]]) -> int:
        """Take the answers of a stretch, as far as that is at its front; return how many."""
        stretch = next(iter(worker.sent.values()), None)
        if not isinstance(stretch, Stretch) or stretch.number != answers[0][0] or worker.killing:
            return 0
        some = answers[: len(stretch)]
        first_id = stretch.series.first_id + stretch.start
        row = returned(first_id, stretch.number, some, worker.name)
        if row is None or max(row.seconds) >= LONG_SECONDS:
            worker.unfold()  # each has its own to tell
            return 0
        count = len(some)
        assert stretch.pace is not None
        stretch.pace.learn(sum(row.seconds) / count, count)
        worker.advance(stretch, count)
        self._end_row(stretch.client, row)
        worker.has_worked = True
        return count

    def _on_done(self, worker: Worker, answer: tuple[Any, ...], buffers: list[bytearray]) -> None:
        job = worker.take_off(answer[0])
        if job is None:
            return  # in the pipe and in the journal of a dead worker
        called, seconds = answer[3], answer[4]
        assert job.pace is not None
        job.pace.learn(seconds)
        began_at = called if job.attempt.report_start and not job.is_started else None
        outcome = outcome_of(job.attempt.id, answer, buffers, worker.name, began_at)
        killing = worker.killing
        if killing is not None and killing.job is job and called + seconds > killing.asked_at:
            # Perhaps only since asking for the stack interrupted a system call: no end to believe.
            outcome = ended_before_kill(killing, worker, outcome)
        self._end(job, outcome)
        worker.has_worked = True
        if seconds >= LONG_SECONDS and self._memory.is_above(worker):
            worker.is_too_large = True  # seen now, lest its next attempt gets the blame

    def _dismiss_if_spent(self, worker: Worker) -> None:
        if worker.is_spent and not worker.sent and worker.phase is Phase.READY:
            worker.stop(time.monotonic() + LEAVE_SECONDS)

    def _on_output(self, worker: Worker, number: int, record: tuple[Any, ...]) -> None:
        job = worker.job(number)
        if job is not None:
            job.client.report(Output(job.attempt.id, (record,), worker.name))

    def _on_given_back(self, worker: Worker, asked: Sequence[int], own: Sequence[int]) -> None:
        for number in reversed(own):
            job = worker.take_off(number)
            if job is None:
                continue  # ended in spite of that, when the pool did
            if worker.calls_left is not None:
                worker.calls_left += 1
            self.take_back(job)
        for number in asked:
            late = worker.job(number)
            if late is not None:  # it has begun meanwhile
                late.is_unwanted = False
                if late.must_die:
                    self.begin_killing(worker, late)

    def take_back(self, job: Job) -> None:
        """Put a job that has not begun back into the queue, or end it if it is unwanted."""
        job.worker = None
        if job.is_unwanted:
            self._end(job, stopped_early(job))
        else:
            job.number = next(self._numbers)  # the old one may still be in the worker's pipe
            self._queue.push_front(job)

    # --- looking at the slots ---------------------------------------------------------------

    def _is_worth_watching(self, worker: Worker) -> bool:
        if worker.calls != 1:
            return worker.calls > 1
        return any(
            one.common.report_start and not (isinstance(one, Job) and one.is_started)
            for one in worker.sent.values()
        )

    def _watch(self, now: float) -> None:
        has_idle = not len(self._queue) and any(
            worker.phase is Phase.READY and not worker.sent for worker in self.workers
        )
        for worker in self.workers:
            number, began = worker.slot.number, worker.slot.began
            if worker.has_stretches and now - began < TICK_SECONDS / 2:
                continue  # most likely it ends with those around it
            job = worker.job(number)
            if job is None:
                continue
            worker.unfold()
            if job.attempt.report_start and not job.is_started:
                at = worker.slot.called or (began if now - began > LOADING_SECONDS else 0.0)
                if at:
                    job.is_started = True
                    job.client.report(Started(job.attempt.id, worker.name, at))
            if worker.calls == 1 or now - began < TICK_SECONDS / 2:
                continue
            can_spawn = len(self.workers) < self._plan.max_workers and not len(self._queue)
            if worker.recalled_for != number and (
                has_idle or (can_spawn and now - began > SPAWN_WORTH_SECONDS)
            ):
                after = itertools.dropwhile(lambda one: one != number, worker.sent)  # noqa: B023
                worker.recalled_for = worker.flushed_for = number
                worker.has_slow = True  # or what comes back would go to this one again
                self.recall(worker, tuple(after)[1:])
            elif worker.flushed_for != number and next(iter(worker.sent)) != number:
                worker.flushed_for = number
                self.recall(worker, ())

    # --- killing and burying ----------------------------------------------------------------

    def begin_killing(self, worker: Worker, job: Job, fault: str = "") -> None:
        """Hold the worker before its next call, so that this one is hit and no other."""
        if worker.killing is None:
            worker.slot.hold(True)
            worker.killing = Killing(job, time.monotonic(), STACK_SECONDS, fault)
            worker.ask_for_stack()

    def _replace(self, worker: Worker, now: float) -> None:
        """Put an end to a worker that uses too much memory, at no cost if that will do."""
        if worker.phase is not Phase.READY or worker.killing is not None:
            return
        job = worker.job(worker.slot.number)
        if job is not None and now - worker.slot.began >= LONG_SECONDS:
            self.begin_killing(worker, job, self._memory.explain(worker))
        else:
            worker.is_too_large = True
            self._dismiss_if_spent(worker)

    def _on_stack(self, worker: Worker, events: int) -> None:
        del events
        if not worker.read_stack():
            self.selector.unregister(worker.stacks)
        elif worker.killing is not None and worker.killing.deadline is not None:
            quiet = 0.0 if worker.has_whole_stack else STACK_QUIET_SECONDS
            at = time.monotonic() + quiet
            worker.killing.deadline = min(worker.killing.deadline, at)

    def _kill_or_spare(self, worker: Worker, killing: Killing) -> None:
        killing.deadline = None
        if worker.slot.number == killing.job.number:
            worker.kill()
            return
        # It has ended meanwhile, and its outcome is on the way; or it is about to begin.
        worker.killing = None
        worker.slot.hold(False)
        if worker.job(killing.job.number) is not None:
            self.recall(worker, (killing.job.number,))
        following = worker.job(worker.slot.number)
        if following is not None and following.must_die:
            self.begin_killing(worker, following)

    def _on_death(self, worker: Worker, events: int) -> None:
        del events
        outlets = (worker.orders.descriptor, worker.control.descriptor)
        for descriptor in (worker.answers, worker.stacks, worker.death, *outlets):
            if descriptor in self.selector.get_map():
                self.selector.unregister(descriptor)
        was_starting = worker.phase is Phase.STARTING
        self._hear(worker, worker.read_all())
        code = worker.bury()
        self.workers.remove(worker)
        victim = worker.job(worker.slot.number)
        killing = worker.killing
        if killing is not None and killing.deadline is None and killing.job is not victim:
            victim = None  # it was held before it could begin, and the one before it has ended
        if victim is not None:
            worker.take_off(victim.number)
        for job in reversed(worker.jobs()):
            self.take_back(job)
        worker.sent.clear()
        if victim is not None:
            assert victim.pace is not None
            victim.pace.has_crashed |= not victim.must_die
            self._end(victim, died_with_worker(worker, victim, code))
        if was_starting:
            end = describe_exit(code, "before it was ready", worker.memory_bytes)
            self._start_failed(worker.failure or f"a worker process {end}")


def is_running(job: Job) -> bool:
    """Whether the worker that has it has begun it and has not begun another."""
    return job.worker is not None and job.worker.slot.number == job.number != IDLE
