"""`penstock run`: find a flow, read its parameters, run it, and say with the exit code how it went.

0 completed; 1 failed or crashed, or its file could not be loaded; 2 called wrongly; 130 Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from penstock import settings
from penstock.cli.errors import UsageError, complain
from penstock.cli.flow_help import parameter_table, split_docstring
from penstock.cli.parameters import call_arguments
from penstock.cli.targets import LoadError, find_flow
from penstock.exceptions import DefinitionError, SettingsError, TaskRunnerNotFound
from penstock.runner_choice import choose
from penstock.task_runners import load_task_runner
from penstock.tracebacks import format_user_traceback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.flows import Flow

__all__ = ["INTERRUPTED", "run"]

FAILED, USED_WRONGLY, INTERRUPTED = 1, 2, 130
"""Exit codes; the last is 128 + SIGINT, as shells have it."""


def run(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="FILE.py, FILE.py:FLOW or MODULE:FLOW; its flow's parameters follow as "
            "--name value.",
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Where submitted runs go, such as thread:8."),
    ] = None,
    tag_limit: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG=N", help="At most N runs with this tag at once; repeatable."),
    ] = None,
    refresh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK|TAG",
            help="Make the stored results of such tasks anew; '*' is all, repeatable.",
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="How many more attempts a failed flow gets."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="ISO-TIME", help="Wait until then, such as 2026-01-05T06:30."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Such as DEBUG or WARNING."),
    ] = None,
    show_help: Annotated[
        bool,
        typer.Option("--help", help="Show this, and the parameters of the flow in TARGET."),
    ] = False,
) -> None:
    """Run a flow here and now.

    What stands behind TARGET and is none of the options below is a parameter
    of the flow; after a `--`, everything is.
    """
    flow: Flow[..., Any] | None = None
    try:
        with _logging_at(log_level), _refreshing(refresh or ()):
            if target is not None:
                flow = find_flow(target)
            if show_help:
                _show_help(context, flow, target)
                return
            if flow is None:
                raise UsageError("which flow? TARGET is FILE.py, FILE.py:FLOW or MODULE:FLOW")
            args, kwargs = _arguments(flow, context.args, _option_words(context))
            flow = _with_options(flow, runner, tag_limit or (), retries, at)
            _call(flow, args, kwargs)
    except (UsageError, SettingsError, TaskRunnerNotFound, DefinitionError) as error:
        complain(str(error))
        raise typer.Exit(USED_WRONGLY) from None
    except LoadError as error:
        typer.echo(format_user_traceback(error.reason), err=True)
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        complain("interrupted by Ctrl-C")
        raise typer.Exit(INTERRUPTED) from None


def _logging_at(level: str | None) -> contextlib.AbstractContextManager[object]:
    if level is None:
        return contextlib.nullcontext()
    return settings.temporary_settings(logging_level=level)


def _refreshing(names: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    if not names:
        return contextlib.nullcontext()
    return settings.temporary_settings(tasks_refresh=tuple(names))


def _option_words(context: typer.Context) -> frozenset[str]:
    return frozenset(word for option in context.command.params for word in option.opts)


def _arguments(
    flow: Flow[..., Any], words: Sequence[str], options: frozenset[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        return call_arguments(flow, words)
    except UsageError as error:
        console = Console(stderr=True)
        with console.capture() as captured:
            console.print(parameter_table(flow, options))
        table = "\n".join(line.rstrip() for line in captured.get().splitlines())
        raise UsageError(
            f"{str(error).rstrip('.')}. The parameters of flow {flow.name!r}:\n{table}"
        ) from error


def _with_options(
    flow: Flow[..., Any],
    runner: str | None,
    tag_limits: Sequence[str],
    retries: int | None,
    at: str | None,
) -> Flow[..., Any]:
    """Return the flow as the command line changes it, with a task runner that is known to exist."""
    changes: dict[str, Any] = {}
    if runner is not None:
        changes["task_runner"] = runner
    if retries is not None:
        changes["retries"] = retries
    if tag_limits:
        changes["tag_limits"] = {**(flow.options.get("tag_limits") or {}), **_limits(tag_limits)}
    spec = choose(flow.name, flow.options.get("task_runner"), runner).spec
    if isinstance(spec, str):
        load_task_runner(spec)  # a name that nobody answers to is refused before anything runs
    changed = flow.with_options(**changes)
    return changed if at is None else changed.starting_at(_time(at))


def _limits(words: Sequence[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for word in words:
        tag, _, number = word.rpartition("=")
        if not tag or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--tag-limit takes TAG=N with N >= 1, such as db=3, not {word!r}")
        limits[tag] = int(number)
    return limits


def _time(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--at takes a time such as 2026-01-05T06:30, or with a zone, not {text!r}"
        ) from error


def _call(flow: Flow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run the flow to its end; a failure has been logged, and is one more line here."""
    settings.current()  # what is set wrongly is no failure of the flow's
    try:
        if flow.is_async:
            asyncio.run(_awaited(flow, args, kwargs))
        else:
            result: Any = flow(*args, **kwargs)
            if flow.is_generator:
                for _ in result:
                    pass
    except Exception as error:  # noqa: BLE001  (whatever the flow raised)
        reason = next(iter(str(error).splitlines()), "")
        complain(
            f"flow {flow.name!r} did not complete: {type(error).__name__}"
            + (f": {reason}" if reason else "")
        )
        raise typer.Exit(FAILED) from None


async def _awaited(flow: Flow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    result: Any = flow(*args, **kwargs)
    if flow.is_generator:
        async for _ in result:
            pass
    else:
        await result


def _show_help(context: typer.Context, flow: Flow[..., Any] | None, target: str | None) -> None:
    typer.echo(context.get_help())
    if flow is None:
        return
    summary, _ = split_docstring(flow.description or "")
    console = Console()
    console.print(Text(f"Flow {flow.name!r} in {target}"), style="bold")
    if summary:
        console.print(Text(f"\n{summary}"))
    console.print(Text("\nParameters:"))
    console.print(parameter_table(flow, _option_words(context)))
