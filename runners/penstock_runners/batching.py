"""How many calls travel together: pure policy, from the durations that workers report.

A batch holds as much work as makes its message cheap, and must not hold much more, to be fair.
What is slow or unknown travels alone.
"""

from __future__ import annotations

import dataclasses
from typing import Final

__all__ = ["MOST_CALLS", "Pace", "most_in_batch"]

MOST_CALLS: Final = 256
_WEIGHT_OF_NEW: Final = 0.1


@dataclasses.dataclass(slots=True)
class Pace:
    """How long one function takes, as far as it is known."""

    batch_seconds: float
    """The work that a batch should hold."""
    seconds: float | None = None
    """A moving average; None before the first outcome."""
    has_crashed: bool = False
    """A worker died of it: from then on it travels alone."""

    def learn(self, seconds: float, calls: int = 1) -> None:
        """Take the duration of a call into account, or of several that took so long on average."""
        if self.seconds is None:
            self.seconds = seconds
        else:
            self.seconds += (1 - (1 - _WEIGHT_OF_NEW) ** calls) * (seconds - self.seconds)

    @property
    def travels_alone(self) -> bool:
        """Whether a call of it must not share a batch."""
        return self.has_crashed or self.seconds is None or self.seconds > self.batch_seconds


def most_in_batch(waiting: int, workers: int) -> int:
    """Return how many calls a batch may hold, so that all workers share the tail."""
    return min(MOST_CALLS, waiting // (2 * workers) + 1)
