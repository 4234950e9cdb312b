"""The suite that every task runner passes: the contract of `TaskRunner`, as tests.

The whole test module of a package that brings a runner::

    from penstock.task_runners import TaskRunner
    from penstock.testing.conformance import TaskRunnerConformance

    from ourpackage import OurTaskRunner


    class TestOurTaskRunner(TaskRunnerConformance):
        def make_runner(self) -> TaskRunner:
            return OurTaskRunner(2)

What `capabilities` does not offer is skipped, with the reason. A runner with few slots (1 to 4)
makes the suite quick. Workers must see the files that the tests write.
"""

from __future__ import annotations

from penstock.testing.conformance_cancelling import CancellingChecks
from penstock.testing.conformance_crossing import CrossingChecks
from penstock.testing.conformance_failures import FailureChecks
from penstock.testing.conformance_life import LifeChecks
from penstock.testing.conformance_outcomes import OutcomeChecks
from penstock.testing.conformance_series import SeriesChecks

__all__ = ["TaskRunnerConformance"]


class TaskRunnerConformance(
    OutcomeChecks, FailureChecks, CancellingChecks, CrossingChecks, SeriesChecks, LifeChecks
):
    """Subclass it in a test module, with a name that begins with `Test`, and add `make_runner`."""
