"""What the tasks of the benchmarks do: functions that workers can import."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

BLOCK_ITEMS = 10_000_000
"""80 MB of floats."""


def nothing(x: Any = None) -> None:
    """Do nothing."""


def burn(seconds: float) -> None:
    """Use the CPU for so long, of this process's own time: other load on the machine adds."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def block(items: int) -> Any:
    """Return so many floats."""
    return np.ones(items)


def total(array: Any) -> float:
    """Return the sum of an array."""
    return float(array.sum())


def peek(index: int, array: Any) -> float:
    """Look at one item of a large array that many calls have in common."""
    return float(array[index])
