"""How often attempts of a task may start: token buckets, and who waits for a token. Pure.

The rule: a bucket holds what one second brings, in whole tokens, and at least one. It is full at
first and fills evenly. A start takes a token, so that in any time of `t` seconds there are at most
`burst + per_second * t` starts. A token that was given to a run which has not begun yet counts as
if it were in the bucket: what a busy runner holds back does not pile up to start all at once.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from penstock.engine.limits import Owner
    from penstock.runs import Run

__all__ = ["Rate", "RateLine", "parse_rate"]

SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_WRITTEN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*([smh])\s*", re.ASCII)
_ALMOST_ONE: Final = 1 - 1e-6
"""A timer may ring when all but a rounding error of a token is there; what is missing is owed."""
_SHORTEST_SECONDS: Final = 1e-6


class Rate(NamedTuple):
    """How often attempts of one task may start. The copies of a task share it."""

    per_second: float
    owner: Owner

    @property
    def burst(self) -> int:
        """How many may start at once after a time without any."""
        return max(1, int(self.per_second))


def parse_rate(value: object) -> float:
    """Return starts a second, of ``"10/s"``, ``"100/m"``, ``"1000/h"``, or a number of them.

    Raises:
        ValueError: it is none of these, or not positive.
    """
    per_second = math.nan
    if isinstance(value, str):
        written = _WRITTEN.fullmatch(value)
        if written is not None:
            per_second = float(written[1]) / SECONDS[written[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        per_second = float(value)
    if not 0 < per_second < math.inf:
        raise ValueError(
            f'a rate is a number of starts a second, or such as "10/s", "100/m" or "1000/h", '
            f"and more than 0, not {value!r}"
        )
    return per_second


class RateLine:
    """One bucket, and the runs that wait for a token, in order.

    A run whose token is there may have to wait for a place of some limit. Meanwhile it is a
    *scout* and has no token yet: the run that holds its place may wait for one that needs it.

    Args:
        rate: how fast the bucket fills.
        now: the time, as in all methods: seconds of any clock that does not go back.
    """

    def __init__(self, rate: Rate, now: float) -> None:
        self.waiting: OrderedDict[Run, None] = OrderedDict()
        self.scouts: set[Run] = set()
        self._per_second = rate.per_second
        self._burst = rate.burst
        self._tokens = float(rate.burst)
        self._at = now
        self._given: set[Run] = set()  # to runs that have not begun

    def _fill(self, now: float) -> None:
        most = self._burst - len(self._given)
        self._tokens = min(most, self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = max(now, self._at)

    def has_token(self, now: float, *, beside_scouts: bool) -> bool:
        """Whether there is a token, or one more than the scouts may take."""
        self._fill(now)
        return self._tokens >= _ALMOST_ONE + (len(self.scouts) if beside_scouts else 0)

    def take(self, run: Run, now: float) -> bool:
        """Give a token to a run that will begin with it; false if there is none."""
        if not self.has_token(now, beside_scouts=False):
            return False
        self._tokens -= 1
        self._given.add(run)
        return True

    def begin(self, run: Run, now: float) -> bool:
        """The run has begun, and its token is spent; false if it had none."""
        if run not in self._given:
            return False
        self._fill(now)
        self._given.discard(run)
        return True

    def give_back(self, run: Run, now: float) -> bool:
        """The run will not begin with its token; false if it had none."""
        if not self.begin(run, now):
            return False
        self._tokens += 1
        return True

    def next_at(self, now: float) -> float | None:
        """Return when there will be a token for who waits; None if that depends on other runs."""
        self._fill(now)
        needed = 1 + len(self.scouts)
        if needed > self._burst - len(self._given):
            return None
        return now + max(_SHORTEST_SECONDS, (needed - self._tokens) / self._per_second)

    def line_up(self, run: Run, *, first: bool) -> None:
        """Have a run wait for its token, behind all others or before them."""
        self.waiting[run] = None
        if first:
            self.waiting.move_to_end(run, last=False)

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the line; true if it stood there."""
        if run not in self.waiting:
            return False
        del self.waiting[run]
        return True
