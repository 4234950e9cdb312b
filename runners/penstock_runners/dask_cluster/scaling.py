"""The least number of workers of an adaptive cluster, raised while there is work."""

from __future__ import annotations

from typing import Any

__all__ = ["Floor"]


class Floor:
    """The least number of workers of an adaptive cluster, raised for a while and put back."""

    def __init__(self, adaptive: Any) -> None:
        self._adaptive = adaptive
        self._own = adaptive.minimum

    def hold(self, workers: int) -> None:
        """Keep up to so many of the workers that are there. It is no order for more."""
        # The cluster may see a worker later than we do; that it wants one it knows at once.
        known = max(len(self._adaptive.plan), len(self._adaptive.observed))
        present = min(workers, known, self._adaptive.maximum)
        self._adaptive.minimum = max(self._own, present)

    def release(self) -> None:
        """Let the cluster shrink again as its owner meant it."""
        self._adaptive.minimum = self._own
