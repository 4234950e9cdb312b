"""Log records and prints on their way home: as plain values, with what the worker can say."""

from __future__ import annotations

import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

from .errors import format_error
from .here import ATTEMPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .here import Here

__all__ = ["PRINT_LOGGER", "Forwarding", "forwarding", "packed_record", "print_to_log"]

PRINT_LOGGER: Final = "penstock.task_runs"
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})


def packed_record(record: logging.LogRecord) -> tuple[Any, ...]:
    """Return a record as plain values, in the order in which `penstock.logging` takes them."""
    error = record.exc_info[1] if record.exc_info else None
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return (
        record.name,
        record.levelno,
        record.created,
        record.threadName,
        record.process,
        record.pathname,
        record.lineno,
        record.funcName,
        record.getMessage(),
        record.exc_text if error is None else format_error(error),
        record.stack_info,
        _packed_extra(extra) if extra else None,
    )


def _packed_extra(extra: dict[str, Any]) -> bytes:
    try:
        return pickle.dumps(extra)
    except Exception:  # noqa: BLE001  (a line must not be lost for what it cannot carry)
        return pickle.dumps({name: _plain(value) for name, value in extra.items()})


def _plain(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001  (as above)
        return repr(value)
    return value


def print_to_log(text: str) -> None:
    """Take what `print` has written in a run whose prints are logged."""
    logging.getLogger(PRINT_LOGGER).info("%s", text)


class Forwarding(logging.Handler):
    """Sends what any logger says in an attempt home, as it is said.

    Threads that a task starts have no context of the attempt's; what they log is taken for the
    attempt that runs, where no other one does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Here] = []
        self._levels_of: Mapping[str, int] | None = None
        self._levels_before: dict[str, int] = {}
        """Of the loggers whose level is the driver's: what it was without that."""
        self._install_lock = threading.Lock()

    def install(self, levels: Mapping[str, int], *, is_own_process: bool) -> None:
        """Be a handler of the root logger, and have loggers be as talkative as the driver's.

        Args:
            levels: by the logger's name, ``""`` for the root.
            is_own_process: else others use this worker, too, and none of their loggers is made
                quieter.
        """
        if levels is self._levels_of:
            return
        with self._install_lock:
            root = logging.getLogger()
            if self not in root.handlers:
                root.addHandler(self)
            if is_own_process or not self.running:  # what another run asked for does not stay
                while self._levels_before:
                    name, before = self._levels_before.popitem()
                    logging.getLogger(name).setLevel(before)
            for name, level in levels.items():
                logger = logging.getLogger(name or None)
                if is_own_process or level < logger.getEffectiveLevel():
                    self._levels_before.setdefault(name, logger.level)
                    logger.setLevel(level)
            self._levels_of = levels

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, as `logging` has it called."""
        here = ATTEMPT.get()
        if here is None:
            if len(self.running) != 1:
                return
            here = self.running[0]
        try:
            here.emit(packed_record(record))
        except Exception:  # noqa: BLE001  (whatever a record's arguments raise)
            self.handleError(record)


forwarding: Final = Forwarding()
