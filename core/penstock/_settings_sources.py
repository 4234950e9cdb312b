"""Where settings are read: names in the environment, the project's file, and noticing change."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from penstock.exceptions import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: list[str] = []
"""The names of all settings, filled in by `settings`, which owns them."""

PREFIX = "PENSTOCK_"
PREFIXES = (PREFIX, "PREFECT_")
INTERNAL_PREFIX = "PENSTOCK__"
"""Variables of Penstock's own, between its processes; never settings."""
TABLES = ("tasks", "flows", "logging", "results")
"""First words of setting names that are tables in a file."""
SINGULAR = {"tasks_": "task_", "flows_": "flow_"}
"""Prefect's older spelling, `TASK_DEFAULT_RETRIES`, which its documentation still uses."""

FILE_NAMES = ("penstock.toml", "pyproject.toml")
UNSETTLED_NS = 50_000_000
"""A file younger than this may change again without a change of its time stamp."""


# --- names -----------------------------------------------------------------------------


def setting_name(key: str) -> str | None:
    """Return the setting that `key` means: its name, its variable's name, or `table.key`."""
    name = key.lower().replace(".", "_")
    for prefix in PREFIXES:
        name = name.removeprefix(prefix.lower())
    for plural, singular in SINGULAR.items():
        if name not in NAMES and name.startswith(singular):
            name = plural + name.removeprefix(singular)
    return name if name in NAMES else None


def variables_of(name: str) -> list[str]:
    """Return the environment variables that set a setting, the winning one first."""
    spellings = [name]
    for plural, singular in SINGULAR.items():
        if name.startswith(plural):
            spellings.append(singular + name.removeprefix(plural))
    return [prefix + spelling.upper() for prefix in PREFIXES for spelling in spellings]


def dotted(name: str) -> str:
    """Return a setting's name as a file spells it: `logging_level` is `logging.level`."""
    table, _, rest = name.partition("_")
    return f"{table}.{rest}" if table in TABLES else name


def nearest(key: str) -> str:
    """Return the end of a message about an unknown name: what may have been meant."""
    if key.upper().startswith(PREFIXES):
        known = [variable for name in NAMES for variable in variables_of(name)]
        known = [variable for variable in known if variable.startswith(key.partition("_")[0])]
        close = difflib.get_close_matches(key.upper(), known, 1)
    else:
        known = [*(dotted(name) for name in NAMES), *NAMES, *TABLES]
        close = difflib.get_close_matches(key.lower(), known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the settings are {', '.join(map(dotted, NAMES))}"


# --- the environment -------------------------------------------------------------------

_warned: set[str] = set()


def _raw() -> Any:
    # The dict under `os.environ` compares in a microsecond where `os.environ` takes fifty, since
    # nothing has to be decoded. It is private: without it, or with another object in the place
    # of `os.environ`, the slow way gives the same answer.
    return getattr(os.environ, "_data", None) or dict(os.environ)


def raw_environment() -> dict[Any, Any]:
    """Return a copy of the whole environment, for `is_environment` later."""
    return dict(_raw())


def is_environment(seen: dict[Any, Any]) -> bool:
    """Whether the environment is as it was when `seen` was taken."""
    return bool(_raw() == seen)


def read_variables() -> dict[str, str]:
    """Return the environment variables that are ours or that we honour."""
    found: dict[str, str] = {}
    for variable in os.environ:
        if variable.startswith(PREFIXES):
            value = os.environ.get(variable)
            if value is not None:  # None: another thread took it away just now
                found[variable] = value
    return found


def warn_of_unknown(variables: Mapping[str, str]) -> None:
    """Log a warning, once, for each variable that looks like a setting and is none."""
    known = {variable for name in NAMES for variable in variables_of(name)}
    for variable in variables:
        if (
            variable.startswith(PREFIX)
            and not variable.startswith(INTERNAL_PREFIX)
            and variable not in known
            and variable not in _warned
        ):
            _warned.add(variable)
            logging.getLogger("penstock").warning(
                "The environment variable %s sets nothing%s", variable, nearest(variable)
            )


# --- the project's file ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ProjectFile:
    """What the project's file says. Two are never equal: `is` asks whether it was read again."""

    path: str
    values: dict[str, tuple[str, Any]]
    """By setting: the key as it stands in the file, and the value."""
    flows: dict[str, dict[str, Any]]
    """The options of single flows, by the flow's name."""

    def shown(self) -> str:
        """Return the path for people: seen from the working directory."""
        return _shown(self.path)


class _Seen(NamedTuple):
    path: str
    mtime_ns: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The project's file for one working directory, and how to tell that this still holds.

    Watched are the directories searched, since a file that appears changes its directory's time,
    and the files that were looked into.
    """

    directory: str | None
    """None where the working directory has been deleted."""
    watched: tuple[_Seen, ...]
    settled: bool
    """Whether the time stamps are old enough to be trusted to show the next change."""
    file: ProjectFile | None

    def is_unchanged(self) -> bool:
        """Whether a new search would find the same."""
        if not self.settled:
            return False
        try:
            if os.getcwd() != self.directory:
                return False
            for path, mtime_ns, size in self.watched:
                now = os.stat(path)
                if now.st_mtime_ns != mtime_ns or now.st_size != size:
                    return False
        except OSError:
            return False
        return True


# By path: what the file said when it had that time and size. A search that runs again since
# some other file came or went does not parse anything anew.
_parsed: dict[str, tuple[_Seen, ProjectFile | None]] = {}


def find_place() -> Place:
    """Search for the project's file from the working directory upwards."""
    try:
        directory = os.getcwd()
    except OSError:
        return Place(None, (), settled=False, file=None)
    watched: list[_Seen] = []
    newest_allowed = time.time_ns() - UNSETTLED_NS
    file = None
    above = directory
    while True:
        seen = _look(above)
        if seen is not None:
            watched.append(seen)
        for name in FILE_NAMES:
            path = os.path.join(above, name)
            seen = _look(path, regular=True)
            if seen is None:
                continue
            watched.append(seen)
            file = _parse(seen, keep=seen.mtime_ns < newest_allowed)
            if file is not None:
                break
        parent = os.path.dirname(above)
        if file is not None or parent == above:
            break
        above = parent
    settled = all(seen.mtime_ns < newest_allowed for seen in watched)
    return Place(directory, tuple(watched), settled, file)


def _look(path: str, *, regular: bool = False) -> _Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    if regular and not stat.S_ISREG(found.st_mode):
        return None
    return _Seen(path, found.st_mtime_ns, found.st_size)


def _parse(seen: _Seen, *, keep: bool) -> ProjectFile | None:
    """Read a file that may hold settings; None if it holds none."""
    before = _parsed.get(seen.path)
    if before is not None and before[0] == seen and keep:
        return before[1]
    file = _read(seen.path)
    if keep:
        _parsed[seen.path] = (seen, file)
    return file


def _read(path: str) -> ProjectFile | None:
    shown = _shown(path)
    is_own = path.endswith(FILE_NAMES[0])
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        # Most pyproject.toml files are not about us: not parsed, and not ours to complain about.
        if not is_own and b"penstock" not in content:
            return None
        import tomllib  # 3 ms of every start, where no file is about us

        document = tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(f"{shown} cannot be read: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{shown} is not valid TOML: {error}") from error
    if is_own:
        return _project_file(path, shown, document)
    tool: Any = document.get("tool", {})
    if not isinstance(tool, dict) or "penstock" not in tool:
        return None
    table = cast("dict[str, Any]", tool)["penstock"]
    if not isinstance(table, dict):
        raise SettingsError(f"{shown}: tool.penstock is {table!r}, and takes a table")
    return _project_file(path, f"{shown} [tool.penstock]", cast("dict[str, Any]", table))


def _project_file(path: str, where: str, table: dict[str, Any]) -> ProjectFile:
    """Sort a table into settings and options of flows; refuse what is neither."""
    values: dict[str, tuple[str, Any]] = {}
    flows: dict[str, dict[str, Any]] = {}

    def take(key: str, value: Any) -> None:
        name = setting_name(key)
        if name is None:
            raise SettingsError(f"{where}: there is no setting {key!r}{nearest(key)}")
        if name in values:
            raise SettingsError(f"{where}: {values[name][0]!r} and {key!r} set the same thing")
        values[name] = (key, value)

    for key, value in table.items():
        if key not in TABLES or not isinstance(value, dict):
            take(key, value)
            continue
        for inner, inner_value in cast("dict[str, Any]", value).items():
            # No setting under `flows` takes a table, so that a table there is always a flow.
            if key == "flows" and isinstance(inner_value, dict):
                flows[inner] = cast("dict[str, Any]", inner_value)
            else:
                take(f"{key}.{inner}", inner_value)
    return ProjectFile(path, values, flows)


def _shown(path: str) -> str:
    try:
        return os.path.relpath(path)
    except (OSError, ValueError):  # another drive, or the working directory is gone
        return path
