"""The conformance kit over the process runner, with workers that stay warm from test to test."""

import dataclasses

from penstock.task_runners import TaskRunner
from penstock.testing.conformance import TaskRunnerConformance
from penstock_runners.process import ProcessPoolTaskRunner


class ColdProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """Ends its workers with the last run that used them."""

    warm_seconds = 0.0
    capabilities = dataclasses.replace(ProcessPoolTaskRunner.capabilities, keeps_warm=False)


class TestProcessPoolTaskRunner(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return ProcessPoolTaskRunner(2)


class TestProcessPoolTaskRunnerWithOneProcess(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return ColdProcessPoolTaskRunner(1)
