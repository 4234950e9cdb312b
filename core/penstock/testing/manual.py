"""A task runner and a clock that do nothing unless told to: tests without threads or sleeps."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from penstock.task_runners import Capabilities, Outcome, Returned, Started, TaskRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from queue import SimpleQueue
    from typing import TypeVar

    from penstock.task_runners import Attempt, Event

    T = TypeVar("T")

__all__ = ["ManualClock", "ManualTaskRunner"]

WORKER = "manual"


class ManualTaskRunner(TaskRunner):
    """Stores what is submitted; the test says what becomes of it.

    Example:
        >>> runner = ManualTaskRunner()
        >>> runner.open(print, {})
        >>> runner.submit([Attempt(1, len, ("abc",))])
        >>> runner.finish(1, 3)
        Outcome(attempt_id=1, kind='returned', value=3, ...)

    Args:
        slots: what `slots()` says.
        credit: what `credit()` says, less the open attempts; by default as many as are wanted.
        capabilities: what the runner pretends to be able to do.
    """

    def __init__(
        self,
        slots: int = 4,
        credit: int = 1_000_000,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.slot_count = slots
        self.credit_limit = credit
        self.capabilities: Capabilities = capabilities or Capabilities(
            kill="hard", async_functions=True
        )
        self.submitted: list[Attempt] = []
        """Every attempt ever taken, in order."""
        self.cancelled: list[tuple[int, bool]] = []
        """Every id that `cancel()` was called with, and whether it was `hard`."""
        self.blocked_calls: list[tuple[int, bool]] = []
        self.is_open: bool = False
        self._open_attempts: dict[int, Attempt] = {}
        self._started: set[int] = set()
        self._report: Callable[[Event], None] | None = None

    # --- what the test calls ------------------------------------------------------------

    @property
    def open_attempts(self) -> list[Attempt]:
        """The attempts that were taken and have no outcome yet, in order."""
        return list(self._open_attempts.values())

    def start(self, attempt_id: int, at: float = 0.0) -> None:
        """The function of an attempt begins."""
        self._expect_open(attempt_id)
        self._started.add(attempt_id)
        self.report(Started(attempt_id, WORKER, at))

    def finish(self, attempt_id: int, value: Any = None) -> None:
        """An attempt returns `value`."""
        self._end(Outcome(attempt_id, "returned", value, worker=WORKER))

    def finish_row(self, first_id: int, values: Sequence[Any], at: float = 0.0) -> None:
        """Attempts of a `Series`, one after the other, return these values, as one event.

        Args:
            first_id: of the first of them.
            values: of as many as these.
            at: when their functions began, as in `start`.
        """
        ids = range(first_id, first_id + len(values))
        for attempt_id in ids:
            self._expect_open(attempt_id)
        for attempt_id in ids:
            del self._open_attempts[attempt_id]
        count = len(values)
        self.report(Returned(first_id, list(values), [at] * count, [0.0] * count, WORKER))

    def fail(self, attempt_id: int, error: BaseException) -> None:
        """An attempt raises `error`."""
        self._end(Outcome(attempt_id, "raised", error=error, worker=WORKER))

    def lose(
        self, attempt_id: int, reason: str = "the worker died", *, began: bool | None = True
    ) -> None:
        """The worker of an attempt dies."""
        self._end(Outcome(attempt_id, "lost", reason=reason, began=began, worker=WORKER))

    def stop(self, attempt_id: int, reason: str = "stopped on request") -> None:
        """An attempt is prevented from starting or, after `start()`, made to end."""
        began = attempt_id in self._started
        self._end(Outcome(attempt_id, "stopped", reason=reason, began=began, worker=WORKER))

    def abandon(self, attempt_id: int, reason: str = "it would not end") -> None:
        """An attempt cannot be made to end."""
        self._end(Outcome(attempt_id, "abandoned", reason=reason, worker=WORKER))

    def run(self, attempt_id: int) -> None:
        """Call the function of a sync attempt, here and now, and report how it ended."""
        attempt = self._expect_open(attempt_id)
        try:
            value = attempt.fn(*attempt.args, **attempt.kwargs)
        except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
            self.fail(attempt_id, error)
        else:
            self.finish(attempt_id, value)

    def report(self, event: Event) -> None:
        """Send any event to whoever opened the runner, sense or nonsense."""
        if self._report is None:
            raise RuntimeError("this ManualTaskRunner was never opened")
        self._report(event)

    # --- what the engine calls ----------------------------------------------------------

    def for_run(self) -> ManualTaskRunner:
        """Return this very runner, so that the test sees what the engine does with it."""
        return self

    def open(
        self,
        report: Callable[[Event], None],
        options: Mapping[str, Any],  # noqa: ARG002  (no hint matters here)
    ) -> None:
        """Remember where to report."""
        self._report = report
        self.is_open = True

    def slots(self) -> int:
        """Return what the test said."""
        return self.slot_count

    def credit(self) -> int:
        """Return what the test said, less what is open."""
        return max(0, self.credit_limit - len(self._open_attempts))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Store the attempts."""
        if not self.is_open:
            raise RuntimeError("this ManualTaskRunner is not open")
        for attempt in attempts:
            self.submitted.append(attempt)
            self._open_attempts[attempt.id] = attempt

    def cancel(self, attempt_ids: Sequence[int], *, hard: bool = False) -> None:
        """Store the ids. What becomes of them is for the test to say."""
        self.cancelled.extend((attempt_id, hard) for attempt_id in attempt_ids)

    def blocked(self, attempt_id: int, now: bool) -> None:
        """Store the call."""
        self.blocked_calls.append((attempt_id, now))

    def close(self, grace_seconds: float = 0.0) -> None:  # noqa: ARG002  (nothing runs)
        """End: what is still open is reported as stopped."""
        for attempt_id in tuple(self._open_attempts):
            self.stop(attempt_id, "the task runner was closed")
        self.is_open = False

    def _expect_open(self, attempt_id: int) -> Attempt:
        if attempt_id not in self._open_attempts:
            raise LookupError(
                f"attempt {attempt_id} is not open; open are {sorted(self._open_attempts)}"
            )
        return self._open_attempts[attempt_id]

    def _end(self, outcome: Outcome) -> None:
        self._expect_open(outcome.attempt_id)
        del self._open_attempts[outcome.attempt_id]
        self.report(outcome)


class ManualClock:
    """Time that passes when somebody waits, and at once.

    Args:
        start: what `time()` says at first, in seconds since the epoch.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._passed = 0.0

    def time(self) -> float:
        """Return the wall-clock time, in seconds since the epoch."""
        return self._start + self._passed

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds!r} s")
        self._passed += seconds

    def get(self, events: SimpleQueue[T], timeout: float | None) -> T:
        """Take the next event; where there is none, wait for `timeout` in no time at all.

        Raises:
            queue.Empty: there is no event, and `timeout` seconds have passed now.
            RuntimeError: there is no event and no timeout: a real engine would hang here.
        """
        try:
            return events.get_nowait()
        except queue.Empty:
            if timeout is None:
                raise RuntimeError(
                    "nothing will ever happen: no event is queued, and the engine waits for one "
                    "without a timeout. Did the test forget to finish an attempt?"
                ) from None
            self.advance(max(0.0, timeout))
            raise
