"""Admission: what a run needs before it may go to its runner, a place of each limit and a token.

Everything here happens under the turn. A run that waits here holds nothing: it has its token and
all of its places, or none of them.

A run that was admitted and then waits for resources of its runner is *parked*. What it was admitted
with may be what a run inside of another one waits for, while that other one has the resources. So
as long as any such run waits here, parked ones give back what they have, and are admitted anew when
they have their resources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from penstock.engine.limits import Limits
from penstock.engine.rates import RateLine
from penstock.runs import is_inside_a_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.engine.loop import Clock, Timer
    from penstock.engine.rates import Rate
    from penstock.runs import Run

__all__ = ["Admission", "Timers"]


class Timers(Protocol):
    """What is needed of the loop: the time, and to be called at one."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    def call_at(self, when: float, fn: Callable[[], None]) -> Timer:
        """Call a function under the turn at a monotonic time."""
        ...

    def take_back(self, timer: Timer) -> None:
        """Never mind that timer."""
        ...


class Admission:
    """Lets runs go on as the limits and rates of their tasks allow.

    Args:
        limits: how many runs with a tag may be under way at once.
        go_on: told of each run that had to wait and need not wait any more.
        timers: for rates.
    """

    def __init__(
        self, limits: Mapping[str, int], go_on: Callable[[Run], None], timers: Timers | None
    ) -> None:
        self.limits: Limits = Limits(limits)
        self._go_on = go_on
        self._timers = timers
        self._lines: dict[Rate, RateLine] = {}
        self._rings: dict[Rate, Timer] = {}
        self._inside: set[Run] = set()
        """Runs inside of others that wait here."""
        self._parked: dict[Run, None] = {}
        self._gave_back: set[Run] = set()
        """Runs that wait for resources and are not admitted any more."""

    def admit(self, run: Run) -> bool:
        """Let a run go on; or have it wait, to be told of later (or at once, by that)."""
        is_nested = is_inside_a_task(run)
        if self._admit(run, is_nested=is_nested):
            return True
        if is_nested:
            self._inside.add(run)
            while self._inside and self._parked:
                self._give_back(self._parked.popitem()[0])
        return False

    def park(self, run: Run) -> None:
        """An admitted run waits for resources."""
        if run in self._gave_back:
            return
        if self._inside:
            self._give_back(run)
        else:
            self._parked[run] = None

    def unpark(self, run: Run) -> bool:
        """It has its resources: whether it may go on. If not, it waits here, and needs none."""
        self._parked.pop(run, None)
        if run not in self._gave_back:
            return True
        self._gave_back.discard(run)
        return self.admit(run)

    def _give_back(self, run: Run) -> None:
        self._gave_back.add(run)
        self._take(run)

    def _admit(self, run: Run, *, is_nested: bool) -> bool:
        rate = run.plan.rate
        if rate is None:
            return self.limits.acquire(run)
        line, now = self._line(rate), self._now()
        # A run inside of another one goes first: what has a token now may need what that one has.
        if (line.waiting and not is_nested) or not line.has_token(now, beside_scouts=not is_nested):
            line.line_up(run, first=is_nested)
            self._serve(rate)
            return False
        return self._try_places(run, line)

    def begin(self, run: Run) -> None:
        """The function of an admitted run has begun: its token is spent."""
        rate = run.plan.rate
        if rate is not None and self._line(rate).begin(run, self._now()):
            self._serve(rate)

    def release(self, run: Run) -> None:
        """Take back what a run has; a token only if it has not begun with it."""
        self._parked.pop(run, None)
        self._gave_back.discard(run)
        self._take(run)

    def _take(self, run: Run) -> None:
        self._free_places(run)
        rate = run.plan.rate
        if rate is not None and self._line(rate).give_back(run, self._now()):
            self._serve(rate)

    def withdraw(self, run: Run) -> bool:
        """Take a run out of the lines; true if it waited here."""
        self._inside.discard(run)
        rate = run.plan.rate
        if rate is None:
            return self.limits.withdraw(run)
        line = self._line(rate)
        found = line.withdraw(run) or self.limits.withdraw(run)
        line.scouts.discard(run)
        if found:
            self._serve(rate)
        return found

    # --- inside ------------------------------------------------------------------------

    def _tell(self, run: Run) -> None:
        self._inside.discard(run)
        self._go_on(run)

    def _line(self, rate: Rate) -> RateLine:
        line = self._lines.get(rate)
        if line is None:
            line = self._lines[rate] = RateLine(rate, self._now())
        return line

    def _now(self) -> float:
        assert self._timers is not None, "a rate needs timers"
        return self._timers.clock.monotonic()

    def _try_places(self, run: Run, line: RateLine) -> bool:
        """Go for the places of a run that there is a token for."""
        if not self.limits.acquire(run):
            line.scouts.add(run)
            return False
        took = line.take(run, self._now())
        assert took
        return True

    def _free_places(self, run: Run) -> None:
        if not run.plan.limits:
            return
        returned = [run]
        while returned:
            for admitted in self.limits.release(returned.pop()):
                rate = admitted.plan.rate
                if rate is None:
                    self._tell(admitted)
                    continue
                line = self._line(rate)
                line.scouts.discard(admitted)
                if line.take(admitted, self._now()):
                    self._tell(admitted)
                else:  # a run inside of another has taken it: the place is for somebody else
                    line.line_up(admitted, first=True)
                    returned.append(admitted)
                self._serve(rate)

    def _serve(self, rate: Rate) -> None:
        """Let those go on for whom there are tokens, and set a timer for the next."""
        line, now = self._line(rate), self._now()
        while line.waiting and line.has_token(now, beside_scouts=True):
            run, _ = line.waiting.popitem(last=False)
            if self._try_places(run, line):
                self._tell(run)
        self._set_timer(rate, line.next_at(now) if line.waiting else None)

    def _set_timer(self, rate: Rate, when: float | None) -> None:
        timers = self._timers
        assert timers is not None, "a rate needs timers"
        ring = self._rings.get(rate)
        if ring is not None:
            if when is not None and ring.when <= when:
                return  # when it rings, it is set again
            timers.take_back(self._rings.pop(rate))
        if when is not None:
            self._rings[rate] = timers.call_at(when, lambda: self._ring(rate))

    def _ring(self, rate: Rate) -> None:
        del self._rings[rate]
        self._serve(rate)
