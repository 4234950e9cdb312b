"""The settings: what there is to set, the value of each here and now, and where it came from.

Highest first: `temporary_settings`, the environment, the project's file, the default. Reading and
naming live in `_settings_sources`, the check of values in `_settings_values`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from penstock import _settings_sources as sources
from penstock.exceptions import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Settings", "current", "flow_table", "source_of", "temporary_settings"]


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value.

    The setting `tasks_default_retries` is `PENSTOCK_TASKS_DEFAULT_RETRIES` in the environment
    (or `PENSTOCK_TASK_DEFAULT_RETRIES`, or either with `PREFECT_`), and `default_retries` under
    `[tool.penstock.tasks]` in `pyproject.toml` or under `[tasks]` in `penstock.toml`.
    """

    tasks_default_retries: int = 0
    """How often a failed task run is tried again, for tasks that do not say."""
    tasks_default_retry_delay_seconds: tuple[float, ...] = ()
    """The wait before each retry of a task; the last one serves for all further retries."""
    tasks_default_timeout_seconds: float | None = None
    """How long one attempt of a task may take, for tasks that do not say; None is for ever."""
    tasks_refresh_cache: bool = False
    """Whether every task with a cache runs in any case, and replaces what is cached."""
    tasks_refresh: tuple[str, ...] = ()
    """Tasks that make their results anew, by name or tag, with `*` and `?`: `load-*,nightly`."""
    tasks_default_no_cache: bool = False
    """Whether stored results of tasks that name no cache policy are found by no later run."""
    tasks_disable_caching: bool = False
    """Whether all tasks do without a cache, whatever policy they name."""
    results_persist_by_default: bool = False
    """Whether results are stored of tasks that say nothing about it."""
    tasks_crash_retries: int = 2
    """How often a task run is started again whose worker was lost; not counted as a retry."""
    flows_default_retries: int = 0
    """How often a failed flow run is tried again, for flows that do not say."""
    flows_default_retry_delay_seconds: tuple[float, ...] = ()
    """The wait before each retry of a flow; the last one serves for all further retries."""
    flows_unobserved_failures: Literal["fail", "warn", "ignore"] = "fail"
    """What a failed task run that nobody looked at does to a flow that returns nothing."""
    logging_level: str = "INFO"
    """The level of the logger `penstock`: a name in capitals, or a number."""
    logging_console: bool = True
    """Whether Penstock writes its log to stderr itself; if not, it goes to the root logger."""
    logging_format: Literal["text", "json"] = "text"
    """How a log line on stderr looks; `json` is one object a line."""
    logging_log_prints: bool = False
    """Whether `print` becomes log lines, for flows and tasks that do not say."""
    logging_task_created_level: str = "INFO"
    """The level of the lines Created, Submitted and Executing; `DEBUG` makes them quiet."""
    results_local_storage_path: str = "~/.penstock/storage"
    """Where results are kept that do not say where: a folder, or a URL such as `s3://bucket/x`."""
    results_default_serializer: str = "pickle"
    """How results are written that do not say how: `pickle`, `json`, `compressed/pickle`..."""
    results_signing_key: str | None = dataclasses.field(default=None, repr=False)
    """Signs the results that are written; those that are not signed with it are not read."""
    results_allow_shared_folder: bool = False
    """Whether a local folder for results may be one in which other users can write."""
    results_max_bytes: int | None = None
    """How large a place for results may grow before the longest unused go; None is as it likes."""
    task_runner: str | None = None
    """The task runner of flows that do not say, such as `process:4`; None is `thread`."""
    tag_limits: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """How many task runs with a tag may run at once: `db=3,api=10`, JSON, or a table."""
    cancel_grace_seconds: float = 1.0
    """How long a run that was asked to end may take to do so before its worker is given up."""


sources.NAMES.extend(field.name for field in dataclasses.fields(Settings))


class _Reading(NamedTuple):
    """One reading of environment and file: what was seen, and what came of it."""

    raw_environment: dict[Any, Any]
    variables: dict[str, str]
    place: sources.Place
    settings: Settings
    origins: dict[str, str | None]
    """The environment variable a setting came from; None says the file."""


class _Overrides:
    """The values of all `temporary_settings` blocks around some code, innermost winning."""

    __slots__ = ("_made", "hides_file", "values")

    def __init__(self, values: Mapping[str, Any], *, hides_file: bool = False) -> None:
        self.values = values
        self.hides_file = hides_file
        self._made: tuple[Settings, Settings] | None = None

    def over(self, base: Settings) -> Settings:
        made = self._made
        if made is None or made[0] is not base:
            made = self._made = (base, dataclasses.replace(base, **self.values))
        return made[1]


_overrides: ContextVar[_Overrides | None] = ContextVar("penstock_settings", default=None)
# Replaced as a whole, never changed: threads that read at once may each do the work, no harm done.
_last: _Reading | None = None


def current() -> Settings:
    """Return the settings as they are now, for the code that asks.

    Cheap to call often: sources are read again only when the environment, the working directory
    or the project's file changed.

    Raises:
        SettingsError: A source holds a value that its setting cannot take.
    """
    overrides = _overrides.get()
    base = _reading().settings
    return base if overrides is None else overrides.over(base)


@contextlib.contextmanager
def temporary_settings(
    updates: Mapping[str, Any] | None = None, /, **overrides: Any
) -> Iterator[Settings]:
    """Set some settings for the code in the block, above the environment and the file.

    Only the code in the block sees them: not other threads, except those that Penstock starts
    for work submitted in the block. Blocks nest.

    Args:
        updates: Settings by their name here or by that of their environment variable, such as
            `PENSTOCK_TASKS_DEFAULT_RETRIES`.
        overrides: The same, as keywords.

    Example:
        >>> with temporary_settings(tasks_default_retries=2) as settings:
        ...     settings.tasks_default_retries
        2
    """
    if "updates" in overrides:  # Prefect's keyword for the first argument
        updates = {**(updates or {}), **overrides.pop("updates")}
    given: dict[str, Any] = {}
    for key, value in {**(updates or {}), **overrides}.items():
        name = sources.setting_name(key)
        if name is None:
            raise SettingsError(
                f"temporary_settings: there is no setting {key!r}{sources.nearest(key)}"
            )
        if name in given:
            raise SettingsError(f"temporary_settings: {name} is given twice, once as {key!r}")
        given[name] = _checked(name, value, f"temporary_settings: {key}")
    outer = _overrides.get()
    values = {**(outer.values if outer else {}), **given}
    hides_file = outer is not None and outer.hides_file
    token = _overrides.set(_Overrides(values, hides_file=hides_file))
    try:
        yield current()
    finally:
        _overrides.reset(token)


@contextlib.contextmanager
def default_settings() -> Iterator[Settings]:
    """Set every setting to its default, for tests, but for a log that is quiet until a warning.

    Also the project's file is not seen, with its tables for single flows.
    """
    defaults = dataclasses.asdict(Settings(logging_level="WARNING"))
    token = _overrides.set(_Overrides(defaults, hides_file=True))
    try:
        yield current()
    finally:
        _overrides.reset(token)


def source_of(name: str) -> str:
    """Say where the value of a setting comes from.

    Returns:
        `default`, `environment PENSTOCK_...`, the path of a file seen from the working directory,
        or `temporary_settings`.
    """
    setting = sources.setting_name(name)
    if setting is None:
        raise SettingsError(f"there is no setting {name!r}{sources.nearest(name)}")
    overrides = _overrides.get()
    if overrides is not None and setting in overrides.values:
        return "temporary_settings"
    reading = _reading()
    if setting not in reading.origins:
        return "default"
    variable = reading.origins[setting]
    if variable is not None:
        return f"environment {variable}"
    file = reading.place.file
    return "default" if file is None else file.shown()


def flow_table(name: str) -> Mapping[str, Any]:
    """Return the options that the project's file has for one flow; empty if there are none.

    The table is `[tool.penstock.flows.<name>]` in `pyproject.toml`, `[flows.<name>]` in
    `penstock.toml`; the flow `get-data` is also found as its function, `get_data`. The values
    are as they stand there, unchecked.
    """
    overrides = _overrides.get()
    file = _reading().place.file
    if file is None or (overrides is not None and overrides.hides_file):
        return {}
    return file.flows.get(name) or file.flows.get(name.replace("-", "_")) or {}


def _reading() -> _Reading:
    """Return the last reading if it still holds, or a new one."""
    global _last
    last = _last
    if (
        last is not None
        and sources.is_environment(last.raw_environment)
        and last.place.is_unchanged()
    ):
        return last
    raw = sources.raw_environment()
    variables = sources.read_variables()
    place = sources.find_place()
    if last is not None and variables == last.variables and place.file is last.place.file:
        # Something changed that concerns nobody here. The settings stay the same object.
        new = last._replace(raw_environment=raw, place=place)
    else:
        sources.warn_of_unknown(variables)
        settings, origins = _settle(variables, place.file)
        new = _Reading(raw, variables, place, settings, origins)
    _last = new
    return new


def _settle(
    variables: Mapping[str, str], file: sources.ProjectFile | None
) -> tuple[Settings, dict[str, str | None]]:
    """Choose the source of each setting and check its value."""
    values: dict[str, Any] = {}
    origins: dict[str, str | None] = {}
    for name in sources.NAMES:
        # An empty variable is one that is not set: `VAR= command` is how a shell takes it away.
        variable = next(
            (v for v in sources.variables_of(name) if variables.get(v, "").strip()), None
        )
        if variable is not None:
            values[name] = _checked(name, variables[variable], f"environment variable {variable}")
            origins[name] = variable
        elif file is not None and name in file.values:
            key, value = file.values[name]
            values[name] = _checked(name, value, f"{file.shown()}: {key}")
            origins[name] = None
    return Settings(**values), origins


def _checked(name: str, value: Any, origin: str) -> Any:
    # Imported here since pydantic takes 40 ms, and most programs set nothing.
    from penstock._settings_values import coerce

    return coerce(name, value, origin)
