"""The engine of runs that code in a worker elsewhere makes: everything at once, in that worker.

It belongs to one attempt, and ends with it; its runs go home with the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock import settings
from penstock.context import TAGS
from penstock.engine.ambient import ambient_engine
from penstock.engine.driver import Engine
from penstock.engine.loop import Waiter
from penstock.logging import prepare_to_log
from penstock.remote_runs import description_of, settings_of, tags_around
from penstock.states import StateType
from penstock.task_runners import show_resources
from penstock.worker.here import ATTEMPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.engine.dispatch import RunnerHandle
    from penstock.runs import FlowRun, Run, TaskRun
    from penstock.worker.here import Here

__all__ = ["VisitingEngine", "engine_for"]

NESTED_RUNNER = "inline"


class VisitingEngine(Engine):
    """Serves the runs inside of one attempt.

    Args:
        here: the attempt.
    """

    def __init__(self, here: Here) -> None:
        super().__init__(settings.Settings(**settings_of(here)))
        self.sole_runner: str | None = NESTED_RUNNER
        self._here = here
        self._unseen: list[tuple[int, Run]] = []
        """Failures that somebody may yet look at, with their places among the descriptions."""
        here.at_end.append(self._end)

    def count_in(self, run: Run) -> None:
        """As any engine does; named with the run around, as its like are counted per attempt."""
        super().count_in(run)
        if not run.is_flow_run:
            run.name = f"{self._here.run.name}/{run.name}"

    def close_books(self, run: Run) -> None:
        """As any engine does, and describe the run for the driver."""
        if not run.seen and run.state.type in (StateType.FAILED, StateType.CRASHED):
            self._unseen.append((len(self._here.children), run))
        self._here.children.append(description_of(run))
        super().close_books(run)

    def cannot_offer(self, handle: RunnerHandle, resources: Mapping[str, float]) -> str:
        """Return why there is not enough of what the attempt has, which runs inside share."""
        del handle  # it has nothing of its own
        has = self._here.run.plan.resources
        if all(amount <= has.get(name, 0) for name, amount in resources.items()):
            return ""
        return (
            f"in a worker elsewhere it shares what the run around it has, "
            f"{show_resources(has) or 'nothing'}, and {show_resources(resources)} is asked for"
        )

    def _end(self) -> None:
        """Wait for what was submitted, as a flow does, and close."""
        flow_run: FlowRun | None = self._here.run.flow_run
        active = self.active if flow_run is None else flow_run.active
        try:
            while active:
                for run in list(active):
                    waiter = Waiter()
                    self.watch([run], waiter)
                    self.loop.wait(waiter)
        finally:
            for place, run in self._unseen:
                if run.seen:
                    self._here.children[place] = description_of(run)
            self.close()


def engine_for(parent: Run | None) -> Any:
    """Return the engine of a run that is made inside of another one, or of none."""
    if parent is None:
        return ambient_engine()
    if parent.engine is None:  # it stands for a run of the driver's
        here = ATTEMPT.get()
        assert here is not None
        run: TaskRun = here.run
        run.engine = VisitingEngine(here)
        if run.flow_run is not None:
            run.flow_run.engine = run.engine
            prepare_to_log(run.flow_run, run.engine.settings)
        TAGS.set(TAGS.get() | tags_around(here))
    return parent.engine
