"""`penstock runners` and `penstock version`: what is installed."""

from __future__ import annotations

import importlib.metadata
import platform

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import penstock
from penstock.exceptions import SettingsError, TaskRunnerNotFound
from penstock.runner_choice import choose, describe
from penstock.task_runners import ENTRY_POINTS, load_task_runner

__all__ = ["show_runners", "show_version"]


def show_version() -> None:
    """Show the versions of Penstock and of Python."""
    typer.echo(
        f"penstock {penstock.__version__} on {platform.python_implementation()} "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def show_runners() -> None:
    """List the task runners that are installed: where each is from, and whether it can be used."""
    table = Table("Name", "From", "Class", "Usable", box=None, pad_edge=False)
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS)):
        origin = "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        table.add_row(Text(point.name), Text(origin), Text(point.value), Text(_usable(point.name)))
    for column in table.columns:
        column.overflow = "fold"  # rather than cut off: people copy from here
    console = Console(soft_wrap=True)
    console.print(table)
    try:
        chosen = choose("", None, None)
    except SettingsError as error:
        typer.echo(f"penstock: {error}", err=True)
        raise typer.Exit(2) from error
    console.print(
        Text(f"Flows that do not say run on {describe(chosen.spec)!r} ({chosen.reason}).")
    )


def _usable(name: str) -> str:
    try:
        load_task_runner(name)
    except TaskRunnerNotFound as error:
        # A runner that wants an argument, as in "name:argument", can be used all the same.
        return f"with an argument: {error}" if _wants_argument(error) else f"no: {error}"
    return "yes"


def _wants_argument(error: TaskRunnerNotFound) -> bool:
    return isinstance(error.__cause__, ValueError)
