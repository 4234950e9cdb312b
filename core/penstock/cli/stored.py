"""The results in a store, as the commands of `penstock cache` see them: looked at, never loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

from penstock.cli.errors import CommandError, UsageError
from penstock.cli.tables import printable
from penstock.durations import since
from penstock.exceptions import SettingsError
from penstock.sizes import format_size
from penstock.storage_choice import store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from penstock.results import RecordMetadata, ResultStore, Surveyed

__all__ = ["Stored", "StoredResults", "only_one", "reaching"]

_SUFFIX = ".record"


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One result in a store."""

    seen: Surveyed
    now: datetime.datetime

    @property
    def metadata(self) -> RecordMetadata | None:
        """What is known of it; None if it cannot be read."""
        return self.seen.metadata

    @property
    def key(self) -> str:
        """Its key or, if it cannot be read, the path that stands for it."""
        if self.metadata is not None:
            return self.metadata.key
        return self.seen.entry.path.removesuffix(_SUFFIX)

    @property
    def is_expired(self) -> bool:
        """Whether it is not to be used any more."""
        return self.metadata is not None and self.metadata.is_expired(self.now)

    @property
    def problem(self) -> str:
        """Why it cannot be read; empty if it can."""
        if self.metadata is not None:
            return ""
        return f"{'damaged' if self.seen.is_damaged else 'unreadable'}: {self.seen.why_not}"

    @property
    def made_at(self) -> datetime.datetime:
        """When it was made, or else the file."""
        if self.metadata is not None:
            return self.metadata.created_at
        return datetime.datetime.fromtimestamp(self.seen.entry.used_at or 0.0, datetime.UTC)

    @property
    def made(self) -> str:
        """When, for people; nothing is said of what cannot be read."""
        return "-" if self.metadata is None else since(self.metadata.created_at, self.now)

    @property
    def size(self) -> str:
        """How large the file is."""
        return format_size(self.seen.entry.size_bytes)

    @property
    def expiry(self) -> str:
        """Until when it is used, or why it is not."""
        if self.metadata is None:
            return self.problem
        expires_at = self.metadata.expires_at
        if expires_at is None:
            return "never"
        return f"{'expired ' if self.is_expired else ''}{since(expires_at, self.now)}"

    def as_json(self) -> dict[str, Any]:
        """Return all that is known, but for the parts of the key."""
        known = {} if self.metadata is None else self.metadata._asdict()
        known.pop("parts", None)
        times = {
            name: None if known.get(name) is None else known[name].isoformat()
            for name in ("created_at", "expires_at")
        }
        return {
            **known,
            **times,
            "key": self.key,
            "path": self.seen.entry.path,
            "file_bytes": self.seen.entry.size_bytes,
            "is_expired": self.is_expired,
            "problem": self.problem or None,
        }


class StoredResults:
    """All results of a store at one moment.

    Args:
        place: a folder or a URL; None is where the settings say.
    """

    def __init__(self, place: str | None) -> None:
        try:
            self.store: ResultStore = store_of(place)
        except SettingsError:
            raise
        except (TypeError, ValueError) as error:
            raise UsageError(f"--store takes a folder or a URL: {error}") from error
        self.place: str = str(getattr(self.store.filesystem, "basepath", self.store.filesystem))
        self.now: datetime.datetime = datetime.datetime.now(datetime.UTC)
        with reaching(self.place):
            found = [Stored(each, self.now) for each in self.store.survey()]
        self.all: list[Stored] = sorted(found, key=lambda each: each.made_at, reverse=True)
        """The newest first."""

    def chosen(self, *, task: str | None = None, expired: bool = False) -> list[Stored]:
        """Return those of a task, those that expired, those of which both is true; or all."""
        return [
            each
            for each in self.all
            if (task is None or (each.metadata is not None and each.metadata.task_name == task))
            and (not expired or each.is_expired)
        ]

    def named(self, word: str) -> list[Stored]:
        """Return what a word means: a key, a run's name or id, or the start of a key or an id.

        Raises:
            CommandError: it means nothing.
        """
        exact = [each for each in self.all if word in _names(each)]
        found = exact or [
            each
            for each in self.all
            if each.key.startswith(word)
            or (each.metadata is not None and each.metadata.run_id.startswith(word))
        ]
        if not word or not found:
            raise CommandError(
                f"no result in {self.place} has the key or was made by the run {word!r}. "
                "A run that was Cached made none; `penstock cache ls` lists what there is."
            )
        return found

    def metadata(self) -> Iterable[RecordMetadata]:
        """Iterate over what is known of those that can be read."""
        return (each.metadata for each in self.all if each.metadata is not None)


def _names(each: Stored) -> tuple[str, ...]:
    metadata = each.metadata
    if metadata is None:
        return each.key, each.seen.entry.path
    return metadata.key, metadata.run_name, metadata.run_id


def only_one(found: list[Stored], word: str) -> Stored:
    """Return the only one.

    Raises:
        UsageError: there are several, which it lists.
    """
    if len(found) == 1:
        return found[0]
    keys = "\n".join(f"  {printable(each.key)}  made {each.made}" for each in found[:10])
    more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
    raise UsageError(f"{word!r} means {len(found)} results, so say which by key:\n{keys}{more}")


@contextlib.contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn whatever a file system raises into words for the user."""
    try:
        yield
    except Exception as error:
        raise CommandError(
            f"the results in {place} cannot be reached: {type(error).__name__}: {error}"
        ) from error
