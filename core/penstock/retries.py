"""How often a run is tried again, and how long it waits before each retry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from typing import TYPE_CHECKING, Final, TypeAlias

from penstock.exceptions import DefinitionError

if TYPE_CHECKING:
    import random

__all__ = ["RetryDelays", "RetryPolicy", "exponential_backoff"]

RetryDelays: TypeAlias = float | Iterable[float] | Callable[[int], float | Iterable[float]] | None
"""What `retry_delay_seconds` takes: a number, several, a function from `retries` to them."""

MAX_DELAYS: Final = 50


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Decides how long to wait before each retry; made and checked by `RetryPolicy.of`.

    Attributes:
        retries: How many attempts may follow the first one.
        delays_seconds: The n-th retry waits for the n-th; the last stands for all after it.
        jitter_factor: Spreads each delay at random up to `delay * (1 + jitter_factor)`, with
            the same mean; None or 0 leaves it as it is.
        max_delay_seconds: No wait is longer than this, jitter included.
    """

    retries: int
    delays_seconds: tuple[float, ...]
    jitter_factor: float | None
    max_delay_seconds: float | None = None

    @classmethod
    def of(
        cls,
        retries: int,
        retry_delay_seconds: RetryDelays = None,
        retry_jitter_factor: float | None = None,
        max_delay_seconds: float | None = None,
        owner: str = "this task",
    ) -> RetryPolicy:
        """Return the policy that a decorator's options ask for.

            >>> RetryPolicy.of(3, exponential_backoff(10)).delays_seconds
            (10.0, 20.0, 40.0)

        Args:
            retries: A whole number, 0 for none.
            retry_delay_seconds: A function is called here, once, with `retries`.
            retry_jitter_factor: 0.5 lets a delay of 10 s become up to 15 s.
            max_delay_seconds: Holds for the delay and for what jitter makes of it.
            owner: For messages, such as `"task 'fetch'"`.

        Raises:
            DefinitionError: One of them has a value that cannot work.
        """
        count = _checked_retries(retries, owner)
        given = retry_delay_seconds
        if callable(given):
            given = given(count)
        jitter = _checked_number(retry_jitter_factor, "retry_jitter_factor", owner)
        longest = _checked_number(max_delay_seconds, "max_delay_seconds", owner)
        return cls(count, _checked_delays(given, owner), jitter, longest)

    def delay_seconds(self, retry: int, rng: random.Random) -> float:
        """Return how long to wait before this retry.

        Args:
            retry: 1 is the first retry, which is the second attempt.
            rng: Drawn from once if there is jitter to add, and not at all otherwise.
        """
        assert retry >= 1, "retries count from 1"
        if not self.delays_seconds:
            return 0.0
        longest = math.inf if self.max_delay_seconds is None else self.max_delay_seconds
        # Cut before the jitter too: long delays would else all end at the limit, and the runs
        # that failed together would all come back at the same moment.
        delay = min(self.delays_seconds[min(retry, len(self.delays_seconds)) - 1], longest)
        if self.jitter_factor and delay:
            delay = min(_jittered(delay, self.jitter_factor, rng), longest)
        return delay


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Return a function for `retry_delay_seconds` whose delays double: 10, 20, 40 for factor 10.

    Raises:
        DefinitionError: The factor is not a number from 0 on.
    """
    if _checked_number(backoff_factor, "backoff_factor", "exponential_backoff") is None:
        raise DefinitionError(_refusal("exponential_backoff", "backoff_factor", None, _A_NUMBER))

    def delays_seconds(retries: int) -> list[float]:
        return [backoff_factor * 2**i for i in range(min(retries, MAX_DELAYS))]

    return delays_seconds


# --- jitter -----------------------------------------------------------------------------


def _jittered(average: float, factor: float, rng: random.Random) -> float:
    """Draw from the exponential distribution around `average`, kept within two bounds.

    Waits of a Poisson process are what independent clients would show, so a crowd that failed
    together comes back spread out. In units of the average, a draw lies between a and b:

        b = 1 + factor                  the longest wait that was promised
        a * exp(-a) = b * exp(-b)       with a < 1: the shortest, which keeps the mean

    For the density exp(-x), given a <= x <= b, has the mean

        1 + (a * exp(-a) - b * exp(-b)) / (exp(-a) - exp(-b))

    which is 1 exactly when the numerator is 0. A factor of 0.5 gives 0.626 to 1.5, a factor of 1
    gives 0.406 to 2. The draw is by inversion: exp(-x) is uniform between exp(-b) and exp(-a).
    """
    upper = 1.0 + factor
    lower = _shortest(upper)
    shares = math.exp(-lower), math.exp(-upper)
    # random() is in [0, 1), so this share is above 0 even where exp(-upper) is not.
    share = shares[0] - (shares[0] - shares[1]) * rng.random()
    return average * min(max(-math.log(share), lower), upper)


@functools.lru_cache(maxsize=64)  # a program has few jitter factors
def _shortest(upper: float) -> float:
    """Return the a of 0 <= a <= 1 with a * exp(-a) = upper * exp(-upper), by bisection."""
    target = upper * math.exp(-upper)
    low, high = 0.0, 1.0  # a * exp(-a) only rises from 0 to 1, and has its maximum there
    for _ in range(53):  # bits in a float's fraction
        middle = (low + high) / 2
        if middle * math.exp(-middle) < target:
            low = middle
        else:
            high = middle
    return high


# --- checks -----------------------------------------------------------------------------

_A_NUMBER: Final = "a number of at least 0"


def _refusal(owner: str, option: str, value: object, taken: str) -> str:
    return f"{owner}: {option}={value!r} cannot be used; it takes {taken}."


def _checked_retries(value: object, owner: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise DefinitionError(_refusal(owner, "retries", value, "a whole number of at least 0"))
    return int(value)


def _checked_number(value: object, option: str, owner: str) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None:
        raise DefinitionError(_refusal(owner, option, value, _A_NUMBER))
    return number


def _checked_delays(value: object, owner: str) -> tuple[float, ...]:
    option = "retry_delay_seconds"
    taken = f"{_A_NUMBER}, up to {MAX_DELAYS} of them in a list, or a function that returns these"
    if value is None:
        return ()
    # An order is needed, so no sets; and a text or a mapping iterates over something else.
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, Set)):
        number = _number(value)
        if number is None:
            raise DefinitionError(_refusal(owner, option, value, taken))
        return (number,)
    # One more than allowed is enough to know; what is given may never end.
    entries: list[object] = list(islice(value, MAX_DELAYS + 1))
    if len(entries) > MAX_DELAYS:
        raise DefinitionError(f"{owner}: {option} has too many entries; it takes {taken}.")
    delays: list[float] = []
    for position, entry in enumerate(entries):
        number = _number(entry)
        if number is None:
            raise DefinitionError(_refusal(owner, f"{option}[{position}]", entry, taken))
        delays.append(number)
    return tuple(delays)


def _number(value: object) -> float | None:
    """Return a finite number of at least 0 as a float, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond what a float holds
        return None
    return number if math.isfinite(number) and number >= 0 else None
