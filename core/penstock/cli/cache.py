"""`penstock cache`: what is stored, why it was made, and how to be rid of it.

0 done; 1 what was asked for is not there or cannot be done; 2 called wrongly. An empty store is no
error. Values are not loaded, as that may run code, but for `show --value`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.pretty import pretty_repr

from penstock import settings
from penstock.cli.errors import CommandError, UsageError, complain
from penstock.cli.stored import Stored, StoredResults, only_one, reaching
from penstock.cli.tables import is_terminal, printable, show_pairs, show_table
from penstock.durations import since
from penstock.exceptions import SettingsError
from penstock.explaining import explain_record, made_by
from penstock.results import StoreStats
from penstock.serializers import serializer_named
from penstock.sizes import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penstock.results import RecordMetadata

__all__ = ["cache_app"]

FAILED, USED_WRONGLY = 1, 2
_MOST_EXPLAINED = 10
_BEFORE_ALL = datetime.datetime.min.replace(tzinfo=datetime.UTC)

cache_app: typer.Typer = typer.Typer(
    help="Look into the stored results of tasks, and clear them. Values are not loaded.",
    no_args_is_help=True,
)

Place = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH_OR_URL",
        help="Where the results are, such as s3://bucket/results; by default where the settings "
        "say (results_local_storage_path).",
    ),
]
OfTask = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="Only results of this task.")
]
Expired = Annotated[bool, typer.Option("--expired", help="Only results that expired.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
_MEANING = "A key, the name or id of the run that made it, or the start of a key or an id."
Word = Annotated[str, typer.Argument(metavar="KEY|RUN", help=_MEANING)]


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except (UsageError, SettingsError) as error:
        complain(str(error))
        raise typer.Exit(USED_WRONGLY) from None
    except CommandError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None


# --- looking ---------------------------------------------------------------------------


@cache_app.command("ls")
def show_list(
    task: OfTask = None, store: Place = None, expired: Expired = False, as_json: AsJson = False
) -> None:
    """List the stored results, the newest first; also those that cannot be read, and why."""
    with _exit_codes():
        results = StoredResults(store)
        found = results.chosen(task=task, expired=expired)
        if as_json:
            typer.echo(json.dumps([each.as_json() for each in found], indent=2))
            return
        if not found:
            which = " like that" if results.all else ""
            typer.echo(f"There are no results{which} in {results.place}.", err=True)
            return
        show_table(
            ("key", "task", "run", "made", "size", "expires"), [_row(each) for each in found]
        )
        if is_terminal():
            total = sum(each.seen.entry.size_bytes for each in found)
            typer.echo(f"{_count(len(found))}, {format_size(total)}, in {results.place}")


def _row(each: Stored) -> tuple[str, ...]:
    known = each.metadata
    names = ("-", "-") if known is None else (known.task_name or "-", known.run_name or "-")
    return each.key, *names, each.made, each.size, each.expiry


def _count(number: int) -> str:
    return f"{number} result{'' if number == 1 else 's'}"


@cache_app.command("show")
def show_one(
    word: Word,
    store: Place = None,
    value: Annotated[
        bool,
        typer.Option("--value", help="Load the value and show it. This may run code that is in it"
                     " (pickles can): only for stores that you trust."),
    ] = False,
) -> None:  # fmt: skip
    """Show what is known of one result, and what its key was made of."""
    with _exit_codes():
        results = StoredResults(store)
        one = only_one(results.named(word), word)
        _show_known(one)
        if one.metadata is None:
            return
        if one.metadata.parts:
            typer.echo("parts of the key")
            show_pairs(_parts(one.metadata, digests=True), indent="  ")
        if value:
            _show_value(results, one.metadata)


def _show_known(one: Stored) -> None:
    known = one.metadata
    pairs = [("key", one.key)]
    if known is not None:
        by = f"{known.run_name} ({known.run_id})" if known.run_id else "-"
        pairs += [
            ("task", known.task_name or "-"),
            ("run", by),
            ("made", f"{known.created_at.isoformat(' ', 'seconds')} ({one.made})"),
            ("value", f"{format_size(known.size_bytes)}, by {known.serializer}"),
            ("written by", f"penstock {known.penstock_version}, Python {known.python_version}"),
        ]
    pairs += [
        ("file", f"{one.seen.entry.path}, {one.size}"),
        ("expires" if known is not None else "problem", one.expiry),
    ]
    show_pairs(pairs)


def _parts(known: RecordMetadata, *, digests: bool = False) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for name, part in known.parts.items():
        digest, text = (*map(str, part), "", "")[:2] if isinstance(part, list) else ("", str(part))
        parts.append((name, f"{text}  [{digest[:8]}]".strip() if digests or not text else text))
    return parts


def _show_value(results: StoredResults, known: RecordMetadata) -> None:
    with contextlib.suppress(ValueError):  # a serializer that is not known here: it will be told
        if serializer_named(known.serializer).can_run_code:
            complain(f"loading a value by {known.serializer!r}, which may run code that is in it")
    with reaching(results.place):
        record = results.store.read(known.key, now=_BEFORE_ALL)  # also if it expired
    if record is None:
        raise CommandError("the value cannot be loaded; the line above says why")
    shown = pretty_repr(record.value, max_length=100, max_string=2000)
    typer.echo("value\n" + "\n".join(f"  {printable(line)}" for line in shown.splitlines()))


@cache_app.command("explain")
def explain(
    word: Annotated[str, typer.Argument(metavar="TASK_RUN", help=_MEANING)], store: Place = None
) -> None:
    """Say why a task run ran: what had changed since the nearest earlier result of its task."""
    with _exit_codes():
        results = StoredResults(store)
        found = results.named(word)
        for number, one in enumerate(found[:_MOST_EXPLAINED]):
            if number:
                typer.echo()
            _explain(one, results)
        if len(found) > _MOST_EXPLAINED:
            left = _count(len(found) - _MOST_EXPLAINED)
            typer.echo(f"\nand {left} more; give a key or a run's id to see one of them")


def _explain(one: Stored, results: StoredResults) -> None:
    known = one.metadata
    if known is None:
        typer.echo(f"{printable(one.key)}: {printable(one.problem)}")
        return
    what = f"task {known.task_name!r}" if known.task_name else f"flow run {known.run_name!r}"
    typer.echo(printable(f"{what}: result {made_by(known, results.now)}"))
    why = explain_record(known, results.metadata())
    pairs = [
        ("why it ran", "; ".join(why.reasons)),
        ("key", known.key),
        ("size", one.size),
        ("expires", one.expiry),
    ]
    if why.earlier is not None:
        about = f"{why.earlier.key}, {made_by(why.earlier, results.now)}"
        pairs.insert(1, ("compared with", about))
    show_pairs(pairs, indent="  ")
    if known.parts:
        typer.echo("  parts of the key")
        show_pairs(_parts(known), indent="    ")


@cache_app.command("stats")
def show_stats(store: Place = None, as_json: AsJson = False) -> None:
    """Count the results, and say how large they are, in all and by task."""
    with _exit_codes():
        results = StoredResults(store)
        stats = StoreStats.of([each.seen for each in results.all], results.now)
        counts, sizes = Counter[str](), Counter[str]()
        for each in results.all:
            if each.metadata is not None:
                counts[each.metadata.task_name] += 1
                sizes[each.metadata.task_name] += each.seen.entry.size_bytes
        if as_json:
            moments = {name: _iso(getattr(stats, name)) for name in ("oldest", "newest")}
            tasks = {
                name: {"records": counts[name], "size_bytes": sizes[name]}
                for name in sorted(counts)
            }
            whole = {"store": results.place, **stats._asdict(), **moments, "tasks": tasks}
            typer.echo(json.dumps(whole, indent=2))
            return
        show_pairs(
            [
                ("store", results.place),
                ("results", str(stats.records)),
                ("size", format_size(stats.size_bytes)),
                ("expired", str(stats.expired)),
                ("unreadable", str(stats.unreadable)),
                ("oldest", "-" if stats.oldest is None else since(stats.oldest, results.now)),
                ("newest", "-" if stats.newest is None else since(stats.newest, results.now)),
            ]
        )
        if counts:
            typer.echo()
            rows = [
                (name or "(flows)", str(counts[name]), format_size(sizes[name]))
                for name, _ in sizes.most_common()
            ]
            show_table(("task", "results", "size"), rows)


def _iso(moment: Any) -> str | None:
    return None if moment is None else str(moment.isoformat())


# --- clearing --------------------------------------------------------------------------


@cache_app.command("rm")
def remove(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY|RUN]...", help=_MEANING)
    ] = None,
    task: OfTask = None,
    expired: Expired = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All results of the store; asks before.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: Place = None,
) -> None:
    """Remove results: those named, those of a task, those that expired, or all of them.

    With --task and --expired, those of the task that expired.
    """
    with _exit_codes():
        _check_choice(words or (), by_option=task is not None or expired, everything=everything)
        results = StoredResults(store)
        found = [only_one(results.named(word), word) for word in words or ()]
        if not words:
            found = results.chosen(task=task, expired=expired)
        if everything and found and not yes:
            _ask(f"Remove all {_count(len(found))} in {results.place}?")
        _remove(results, list({each.seen.entry.path: each for each in found}.values()))


def _check_choice(words: Sequence[str], *, by_option: bool, everything: bool) -> None:
    ways = bool(words) + by_option + everything
    if ways != 1:
        raise UsageError(
            "say which results: KEY|RUN..., or --task NAME and --expired, or --all"
            + ("; one of these at a time" if ways else "")
        )


def _ask(question: str) -> None:
    try:
        sure = typer.confirm(question, err=True)
    except typer.Abort:  # nobody is there to answer
        typer.echo(err=True)
        raise CommandError("nothing was removed, as nobody answered; --yes does not ask") from None
    if not sure:
        raise CommandError("nothing was removed")


def _remove(results: StoredResults, found: Sequence[Stored]) -> None:
    with reaching(results.place):
        removed = [each for each in found if results.store.remove(each.seen)]
    size = format_size(sum(each.seen.entry.size_bytes for each in removed))
    typer.echo(f"Removed {_count(len(removed))}, {size}.")
    if len(removed) < len(found):
        raise CommandError(
            f"{_count(len(found) - len(removed))} stayed: changed or removed by somebody else "
            "meanwhile, or not to be deleted, which a line above says"
        )


@cache_app.command("gc")
def collect(
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How large what stays may be, such as 2GB; the longest unused go first. By "
            "default the setting results_max_bytes.",
        ),
    ] = None,
    store: Place = None,
) -> None:
    """Remove what expired or is damaged and, above a size, the longest unused.

    The same happens in the background, once an hour at most, after results were stored.
    """
    with _exit_codes():
        limit = settings.current().results_max_bytes if max_bytes is None else _bytes(max_bytes)
        results = StoredResults(store)
        with reaching(results.place):
            gone = results.store.collect(limit, results.now)
        typer.echo(f"Removed {_count(gone.records)}, {format_size(gone.size_bytes)}.")


def _bytes(text: str) -> int:
    if text.isdecimal() and text.isascii():
        return int(text)
    try:
        return parse_size("--max-bytes", text)
    except ValueError as error:
        raise UsageError(str(error)) from error
