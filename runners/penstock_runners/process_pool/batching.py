"""How many calls travel together: pure policy, from the durations that workers report.

A message costs some 30 us, so a batch need not be longer than 5 ms of work to be cheap, and must
not be much longer to be fair. What is slow or unknown travels alone.
"""

from __future__ import annotations

import dataclasses
from typing import Final

__all__ = ["Pace", "most_in_batch", "takes_another_batch"]

BATCH_SECONDS: Final = 0.005
"""The work that a batch should hold."""
MOST_CALLS: Final = 256
SLOW_SECONDS: Final = 0.02
"""Whoever takes longer gets nothing sent ahead: it saves nothing, and might have to come back."""
_WEIGHT_OF_NEW: Final = 0.1


@dataclasses.dataclass(slots=True)
class Pace:
    """How long one function takes, as far as it is known."""

    seconds: float | None = None
    """A moving average; None before the first outcome."""
    has_crashed: bool = False
    """A worker died of it: from then on it travels alone."""

    def learn(self, seconds: float) -> None:
        """Take one duration into account."""
        if self.seconds is None:
            self.seconds = seconds
        else:
            self.seconds += _WEIGHT_OF_NEW * (seconds - self.seconds)

    @property
    def travels_alone(self) -> bool:
        """Whether a call of it must not share a batch."""
        return self.has_crashed or self.seconds is None or self.seconds > BATCH_SECONDS


def most_in_batch(waiting: int, workers: int) -> int:
    """Return how many calls a batch may hold, so that all workers share the tail."""
    return min(MOST_CALLS, waiting // (2 * workers) + 1)


def takes_another_batch(calls_ahead: int, seconds_ahead: float, has_slow: bool) -> bool:
    """Whether a busy worker gets one batch more into its pipe."""
    return not has_slow and calls_ahead <= MOST_CALLS and seconds_ahead <= BATCH_SECONDS
