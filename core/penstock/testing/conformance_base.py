"""What the groups of checks share: the one method to supply, the harness, and skipping."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

import pytest

from penstock.testing.harness import RunnerHarness

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from penstock.task_runners import TaskRunner

__all__ = ["ConformanceChecks", "skip_if", "skip_unless"]


class ConformanceChecks(abc.ABC):
    """Base of the groups of checks."""

    patience_seconds: ClassVar[float] = 20.0
    """How long anything may take; a subclass may give a slow substrate more."""

    @abc.abstractmethod
    def make_runner(self) -> TaskRunner:
        """Return a new runner, as a user would configure it, not open."""

    @pytest.fixture
    def harness(self, tmp_path: pathlib.Path) -> Iterator[RunnerHarness]:
        """A runner that is open; at the end the harness checks that every attempt had one end."""
        harness = RunnerHarness(self.make_runner(), tmp_path, self.patience_seconds)
        harness.open()
        try:
            yield harness
        finally:
            harness.close(grace_seconds=1.0)


def skip_unless(offered: bool, what: str) -> None:
    """Skip a check of something that the runner does not offer."""
    if not offered:
        pytest.skip(f"the runner does not offer it: {what}")


def skip_if(unfit: bool, why: str) -> None:
    """Skip a check that makes no sense for this runner."""
    if unfit:
        pytest.skip(why)
