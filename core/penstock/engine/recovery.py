"""Results that stayed with a worker and were lost there: the work is done again, for all to see.

Nothing runs again before somebody needs the result: who asks for it, or a run that has it among its
arguments. The run that made it then leaves its final state, and gets another attempt.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from penstock.attempt import KeptResult, Outcome
from penstock.engine.commands import RESOLVE, Report
from penstock.engine.performing import Performing
from penstock.engine.task_run import once_more
from penstock.states import StateType

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from penstock.runs import Run

__all__ = ["Recovering", "has_kept_result", "is_lost"]

COMPLETED = StateType.COMPLETED


def has_kept_result(run: Run) -> bool:
    """Whether the value of a run stayed with a worker."""
    data = run.state.data
    return run.state.type is COMPLETED and isinstance(data, KeptResult) and not data.is_read_anew


def is_lost(run: Run) -> bool:
    """Whether the value of a run stayed with a worker, and is not there any more."""
    if not has_kept_result(run):
        return False
    try:
        run.state.value()
    except LookupError:
        return True
    return False


class Recovering(Performing):
    """The part of the engine that has lost results made again; under the turn, but `recover`."""

    rng: random.Random
    active: set[Run]
    _lost: dict[Run, KeptResult]
    """Of runs that are made again, what was lost."""
    _resuming: dict[Run, tuple[Any, tuple[Run, ...]]]
    """Runs that wait for inputs to be made again: the answer their life waits for, and by whom."""

    def step(self, run: Run, answer: Any, error: BaseException | None = None) -> None:
        """Let a submitted run go on; see `Engine.step`."""
        raise NotImplementedError

    def resolve(self, run: Run) -> Any:
        """Put the values of inputs in place; see `Engine.resolve`."""
        raise NotImplementedError

    def recover(self, run: Run) -> None:
        """Have a lost result made again, and wait until the run is over; from any thread."""

        def begin() -> None:
            if has_kept_result(run):
                self._make_again(run)

        self.loop.run_home(begin)
        self.wait_for_run(run, None)

    def note_kept(self, run: Run) -> None:
        """A run has ended with a result that stays with a worker: it keeps what made it."""
        run.life = None
        kept: KeptResult = run.state.data
        if kept.producer is None:  # else it is another's, and was found by this one
            kept.producer = weakref.ref(run)

    def _make_again(self, run: Run) -> None:
        self._lost[run] = run.state.data
        self.loop.in_flight += 1
        (run.flow_run if run.flow_run is not None else self).active.add(run)
        run.life = once_more(run, self.rng)  # type: ignore[arg-type]  # only task runs keep results
        self.step(run, None)

    def note_made_again(self, run: Run) -> None:
        """A run is over: if it was made again, who refers to what was lost finds the new value."""
        lost = self._lost.pop(run, None)
        if lost is not None and run.state.type is COMPLETED:
            lost.superseded_by(run.state.data if has_kept_result(run) else run.state.value())

    def wait_for_lost(self, run: Run, lost: Iterable[KeptResult], answer: Any) -> bool:
        """Let a run wait until inputs are made again, and then go on with an answer.

        Returns:
            Whether it waits; false: nobody knows how to make them.
        """
        producers: dict[Run, None] = {}
        for kept in lost:
            producer: Run | None = None if kept.producer is None else kept.producer()
            if producer is None:
                return False
            if has_kept_result(producer) and producer.state.data is kept:
                self._make_again(producer)
            if not producer.state.is_final():
                producers[producer] = None
        self._resuming[run] = answer, tuple(producers)
        run.left = len(producers)
        for producer in producers:
            if producer.dependents is None:
                producer.dependents = []
            producer.dependents.append(run)  # type: ignore[arg-type]  # either kind of run
        if not producers:
            self.resume(run)
        return True

    def resume(self, run: Run) -> bool:
        """Let a run go on whose inputs were made again, or could not be; false if it is no such."""
        if run not in self._resuming:
            return False
        answer, producers = self._resuming.pop(run)
        if answer is RESOLVE:
            answer = self.resolve(run)
            if answer is not RESOLVE:  # else it waits again: something was lost meanwhile
                self.step(run, answer)
        elif all(producer.state.type is COMPLETED for producer in producers):
            self.step(run, answer)
        else:
            reason = "an input was lost with its worker, and could not be made again"
            outcome = Outcome(answer.outcome.attempt_id, "abandoned", reason=reason, began=False)
            self.step(run, Report(outcome, answer.at))
        return True
