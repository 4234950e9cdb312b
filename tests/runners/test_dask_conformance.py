"""The conformance kit over the Dask runner: on a cluster of its own, and on one that is given."""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from penstock.task_runners import TaskRunner
from penstock.testing.conformance import TaskRunnerConformance
from penstock_runners.dask import DaskTaskRunner
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where


class TestDaskTaskRunnerOnAClusterThatIsGiven(TaskRunnerConformance):
    address: ClassVar[str] = ""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cluster(cls) -> Iterator[None]:
        cluster = LocalClusterProcess(Where(n_workers=2))
        cls.address = cluster.address
        yield
        cluster.close()

    def make_runner(self) -> TaskRunner:
        return DaskTaskRunner(self.address)


class TestDaskTaskRunnerOnAClusterOfItsOwn(TaskRunnerConformance):
    def make_runner(self) -> TaskRunner:
        return DaskTaskRunner(n_workers=1)
