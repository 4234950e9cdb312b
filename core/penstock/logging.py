"""Penstock's loggers: how a line looks, where it goes, and which run it belongs to."""

from __future__ import annotations

import datetime
import json
import logging
import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

from penstock.context import current_run
from penstock.exceptions import MissingContextError
from penstock.settings import Settings
from penstock.tracebacks import format_user_traceback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from penstock.runs import FlowRun, Run

__all__ = [
    "ConsoleHandler",
    "JsonFormatter",
    "RunLoggerAdapter",
    "TextFormatter",
    "configure",
    "get_logger",
    "get_run_logger",
    "level_number",
    "prepare_to_log",
    "replay",
    "run_logger",
]

ROOT = "penstock"
FLOW_RUNS = "penstock.flow_runs"
TASK_RUNS = "penstock.task_runs"

RUN_FIELDS = (
    "flow_run_name",
    "flow_run_id",
    "flow_name",
    "task_run_name",
    "task_run_id",
    "task_name",
    "tags",
    "worker",
)
"""The attributes of a record that was logged by a run; None where there is no such run.

The last one is there if it was logged in a worker elsewhere.
"""


# --- loggers ---------------------------------------------------------------------------


def get_logger(name: str | None = None) -> logging.Logger:
    """Return Penstock's logger, or the one of that name below it."""
    if not name or name == ROOT:
        return logging.getLogger(ROOT)
    return logging.getLogger(name if name.startswith(f"{ROOT}.") else f"{ROOT}.{name}")


def get_run_logger() -> RunLoggerAdapter:
    """Return the logger of the current task run or flow run.

    Works in tasks, flows and their hooks.

    Raises:
        MissingContextError: The calling code is not part of a run.
    """
    run = current_run()
    if run is None:
        raise MissingContextError(
            "get_run_logger() works inside of a task or flow run only, and this code is in none; "
            "elsewhere use penstock.logging.get_logger(__name__) or logging.getLogger(__name__)"
        )
    return run_logger(run)


def run_logger(run: Run) -> RunLoggerAdapter:
    """Return a logger whose records carry the names, ids and tags of a run."""
    return RunLoggerAdapter(_flow_runs if run.is_flow_run else _task_runs, run)


_flow_runs = logging.getLogger(FLOW_RUNS)
_task_runs = logging.getLogger(TASK_RUNS)


class RunLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """A logger of one run. An `extra=` of the caller's is added to the run's own fields."""

    def __init__(self, logger: logging.Logger, run: Run) -> None:
        super().__init__(logger, None)
        self.run = run

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's fields. Called for records that will be made, not for those too low."""
        extra = kwargs.get("extra")
        fields = _fields_of(self.run)
        kwargs["extra"] = {**fields, **extra} if extra else fields
        return msg, kwargs


def _fields_of(run: Any) -> dict[str, Any]:
    flow_run = run if run.is_flow_run else run.flow_run
    task_run = None if run.is_flow_run else run
    return {
        "flow_run_name": None if flow_run is None else flow_run.name,
        "flow_run_id": None if flow_run is None else _LazyId(flow_run),
        "flow_name": None if flow_run is None else flow_run.flow_name,
        "task_run_name": None if task_run is None else task_run.name,
        "task_run_id": None if task_run is None else _LazyId(task_run),
        "task_name": None if task_run is None else task_run.task_name,
        "tags": run.tags,
    }


def replay(record: tuple[Any, ...], run: Run | None, worker: str) -> None:
    """Log what was logged in a worker elsewhere, as if it had been here.

    Args:
        record: as `penstock.worker.output.packed_record` makes it.
        run: the run whose attempt logged it, if that is still known.
        worker: where.
    """
    name, level, created, thread, process, path, line, function, text, error, stack, extra = record
    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, Any] = {} if run is None else _fields_of(run)
    fields["worker"] = worker
    if extra is not None:
        fields.update(_loaded(extra))
    fields.update(
        name=name,
        levelno=level,
        levelname=logging.getLevelName(level),
        created=created,
        msecs=created % 1 * 1000,
        threadName=thread,
        process=process,
        processName=worker,
        pathname=path,
        filename=os.path.basename(path),
        module=os.path.splitext(os.path.basename(path))[0],
        lineno=line,
        funcName=function,
        msg=text,
        exc_text=error,
        stack_info=stack,
    )
    made = logging.makeLogRecord(fields)
    try:
        logger.handle(made)
    except Exception:  # noqa: BLE001  (a filter of the user's; the run that said it goes on)
        _console.handleError(made)


def _loaded(extra: bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = pickle.loads(extra)
    except Exception as error:  # noqa: BLE001  (user code; the line must not be lost for it)
        return {"extra_lost": f"it could not be unpickled here: {error!r}"}
    return fields


class _LazyId:
    """A run's id as text, made when somebody looks: most log lines do not show it."""

    __slots__ = ("_run",)

    def __init__(self, run: Any) -> None:
        self._run = run

    def __str__(self) -> str:
        return str(self._run.id)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # A record may be pickled by a handler of the user's; the run itself does not travel.
        return str, (str(self),)


# --- formats ---------------------------------------------------------------------------

_TIME_FORMAT = "%H:%M:%S"
_BEGINNING = "%(asctime)s.%(msecs)03d | %(levelname)-7s | "
_LINE = _BEGINNING + "%(name)s - %(message)s"
_FLOW_RUN_LINE = _BEGINNING + "Flow run %(flow_run_name)r - %(message)s"
_TASK_RUN_LINE = _BEGINNING + "Task run %(task_run_name)r - %(message)s"


class _Formatter(logging.Formatter):
    """A formatter that leaves Penstock's frames out of tracebacks."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  (the name in logging)
        error = ei[1]
        return super().formatException(ei) if error is None else format_user_traceback(error)

    def format(self, record: logging.LogRecord) -> str:
        # A record keeps the text of its exception for the next handler. Ours is not for others,
        # who may want every frame, and theirs is not for us. Without an exception the text is
        # all there is: the record came from another process.
        if not record.exc_info:
            return super().format(record)
        kept, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = kept


class TextFormatter(_Formatter):
    """`09:55:55.412 | INFO    | Flow run 'great-ammonite' - message`."""

    def __init__(self) -> None:
        super().__init__(_LINE, _TIME_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record: its run's, or else its logger's."""
        return _line_for(record) % record.__dict__


def _line_for(record: logging.LogRecord) -> str:
    """Choose by the logger, as a task run's record has the names of both."""
    name, fields = record.name, record.__dict__
    if _is_below(name, TASK_RUNS) and fields.get("task_run_name") is not None:
        return _TASK_RUN_LINE
    if _is_below(name, FLOW_RUNS) and fields.get("flow_run_name") is not None:
        return _FLOW_RUN_LINE
    return _LINE


def _is_below(name: str, logger: str) -> bool:
    return name == logger or name.startswith(f"{logger}.")


class JsonFormatter(_Formatter):
    """One JSON object a line; fields that a record does not have are left out.

    What the caller gave as `extra=` is in the field `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        fields = record.__dict__
        line: dict[str, Any] = {
            "timestamp": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                timespec="microseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for field in RUN_FIELDS:
            value = fields.get(field)
            if value is not None:
                line[field] = _sorted_tags(value) if field == "tags" else str(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        extra = {key: fields[key] for key in fields.keys() - _NOT_EXTRA}
        if extra:
            line["extra"] = {key: _jsonable(extra[key]) for key in sorted(extra)}
        # ASCII, with escapes: whatever the stream's encoding, the line stays valid JSON.
        return json.dumps(line)


_NOT_EXTRA = logging.makeLogRecord({}).__dict__.keys() | {
    "asctime",
    "message",
    "taskName",  # from Python 3.12
    *RUN_FIELDS,
}


def _sorted_tags(tags: Any) -> list[str]:
    if isinstance(tags, str):  # an `extra=` of the user's own
        return [tags]
    try:
        names: Iterable[Any] = iter(tags)
        return sorted(map(str, names))
    except TypeError:
        return [str(tags)]


def _jsonable(value: Any) -> Any:
    """Return the value if JSON can say it, else its `repr`: a log line must not fail for it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


# --- where it goes ---------------------------------------------------------------------


class ConsoleHandler(logging.Handler):
    """Writes to what is `sys.stderr` at that moment, so that redirection and pytest work."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; an error while doing so is reported as `logging` does."""
        try:
            line = self.format(record) + "\n"
            stream = sys.stderr
            if stream is None:  # pyright: ignore[reportUnnecessaryComparison]  # pythonw.exe
                return
            try:
                stream.write(line)
            except UnicodeEncodeError as error:
                # A line with a few escapes beats no line, for example in an ASCII log file.
                encoded = line.encode(error.encoding, "backslashreplace")
                stream.write(encoded.decode(error.encoding))
            stream.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  (whatever a record or a stream raises)
            self.handleError(record)


_console = ConsoleHandler()
_lock = threading.Lock()
_applied: Settings | None = None


def configure(settings: Settings) -> None:
    """Bring the logger `penstock` in line with the settings.

    Nothing happens unless one of them changed since the last time, so that a level or handler
    that the user set in between stays. A level set before the first time stays too, unless the
    setting says other than its default.
    """
    global _applied
    if settings is _applied:
        return
    with _lock:
        before = _applied
        logger = logging.getLogger(ROOT)
        level_before = Settings().logging_level if before is None else before.logging_level
        is_first_level = before is None and logger.level == logging.NOTSET
        if is_first_level or settings.logging_level != level_before:
            logger.setLevel(level_number(settings.logging_level))
        if before is None or settings.logging_format != before.logging_format:
            is_json = settings.logging_format == "json"
            _console.setFormatter(JsonFormatter() if is_json else TextFormatter())
        was_ours = before is not None and before.logging_console
        if settings.logging_console and not was_ours:
            logger.addHandler(_console)
            logger.propagate = False  # or a root handler would write every line again
        elif was_ours and not settings.logging_console:
            logger.removeHandler(_console)
            logger.propagate = True
        _applied = settings  # last: who finds it in place finds the work done


def prepare_to_log(run: FlowRun, settings: Settings) -> None:
    """Settle how the creation of runs inside of a flow run is logged."""
    run.creation_level = level_number(settings.logging_task_created_level)
    run.logs_creation = _flow_runs.isEnabledFor(run.creation_level)


def level_number(level: str) -> int:
    """Return the number of a level given by name or number, as the settings hold it."""
    if level.isdecimal():
        return int(level)
    names: Mapping[str, int] = logging.getLevelNamesMapping()
    return names[level]
