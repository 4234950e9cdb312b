"""For tests of flows: settings that nobody else has touched, and an engine moved by hand.

`test_harness` is for users' own tests. `engine_for_test` puts a flow run around the code in a
block, on an engine whose task runner and clock do nothing unless told to.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

from penstock import settings
from penstock.context import CURRENT
from penstock.engine.ambient import close_ambient_engine
from penstock.engine.driver import Engine
from penstock.engine.lineage import Ledger
from penstock.flows import Flow
from penstock.logging import configure
from penstock.runs import FlowRun, made_at
from penstock.states import Running
from penstock.testing.manual import ManualClock, ManualTaskRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from penstock.engine.loop import Clock
    from penstock.task_runners import TaskRunner

__all__ = ["EngineForTest", "engine_for_test", "prefect_test_harness", "test_harness"]


@contextlib.contextmanager
def test_harness(**overrides: Any) -> Iterator[settings.Settings]:
    """Give the code in the block the default settings, whatever environment and project say.

    The log is quiet but for warnings. Takes no server and no database, so it may as well stand
    around every single test.

    Args:
        overrides: settings to change, as for `temporary_settings`.

    Example:
        >>> with test_harness(tasks_default_retries=1):
        ...     assert my_flow() == 42
    """
    close_ambient_engine()
    with settings.default_settings(), settings.temporary_settings(overrides) as now:
        configure(now)
        try:
            yield now
        finally:
            close_ambient_engine()


test_harness.__test__ = False  # type: ignore[attr-defined]  # pytest goes by the name
prefect_test_harness = test_harness


def _nothing() -> None:
    """Stands for the body of the flow, which is the code of the test."""


class EngineForTest:
    """An engine with one flow run that is Running; what is submitted goes to `runner`.

    Attributes:
        engine: the engine; it drives only when somebody waits, or `drain` is called.
        runner: where submitted task runs go.
        clock: the engine's time.
        flow_run: the run around the code of the test.
    """

    def __init__(self, engine: Engine, runner: Any, clock: Any, flow_run: FlowRun) -> None:
        self.engine = engine
        self.runner = runner
        self.clock = clock
        self.flow_run = flow_run

    def drain(self) -> None:
        """Act on all that has come in, and on what comes of that, without waiting."""
        loop = self.engine.loop
        with loop.turn():
            loop.drain()
            while not loop.inbox.empty():
                loop.drain()

    def sleep(self, seconds: float) -> None:
        """Let time pass for the engine, with all its timers."""
        self.engine.sleep(seconds)

    def settle(self) -> None:
        """Wait until every run is over."""
        self.engine.wait_until_idle(self.flow_run)


@contextlib.contextmanager
def engine_for_test(
    runner: TaskRunner | str | None = None,
    clock: Clock | None = None,
    *,
    standby: bool = False,
    tag_limits: Mapping[str, int] | None = None,
    seed: int = 0,
    **overrides: Any,
) -> Iterator[EngineForTest]:
    """Put a running flow run on an engine of its own around the code in the block.

    At the end of the block what is not over is cancelled, and the engine closed.

    Args:
        runner: a `ManualTaskRunner` by default.
        clock: a `ManualClock` by default.
        standby: whether a thread drives while the code of the test does not wait.
        tag_limits: how many runs with a tag may run at once.
        seed: for the jitter of retries.
        overrides: settings to change.

    Example:
        >>> with engine_for_test() as bench:
        ...     future = my_task.submit(1)
        ...     bench.runner.run(1)
        ...     assert future.result() == 2
    """
    with test_harness(**overrides) as now:
        time = ManualClock() if clock is None else clock
        engine = Engine(
            now,
            clock=time,
            rng=random.Random(seed),
            standby=standby,
            tag_limits={**now.tag_limits, **(tag_limits or {})},
        )
        plan = Flow(_nothing, name="test").plan(now, None, frozenset())
        run = FlowRun(plan, engine, None, None, (), {}, made_at(time.time()), "test")
        run.ledger = Ledger()
        run.task_runner = ManualTaskRunner() if runner is None else runner
        engine.enter(run, Running())
        token = CURRENT.set(run)
        try:
            yield EngineForTest(engine, run.task_runner, time, run)
        finally:
            CURRENT.reset(token)
            engine.cancel_children(run, "the test is over", kill=True)
            engine.abandon_children(run)
            engine.close()
