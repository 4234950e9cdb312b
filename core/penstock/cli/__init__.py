"""The command line: `penstock run`, `penstock cache`, `penstock runners`, `penstock version`.

Outermost: nothing in the library imports it, so that typer and rich are loaded for it alone.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import typer

from penstock.cli.cache import cache_app
from penstock.cli.listing import show_runners, show_version
from penstock.cli.run import INTERRUPTED, run

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["app", "main"]

app: typer.Typer = typer.Typer(
    help="Run flows on threads, processes or a Dask cluster, with no server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # what escapes is a bug of ours: plain, for the report
)
# `run` reads what stands behind its target itself: a flow's parameters are known only once the
# flow is. For the same reason `--help` is an option of its own there.
app.command(
    "run",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(run)
app.add_typer(cache_app, name="cache")
app.command("runners")(show_runners)
app.command("version")(show_version)


def main() -> None:
    """Run the command that the process's arguments say, and exit with its code."""
    try:
        app(prog_name="penstock")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # From here on Python cleans up, where an exception would end in noise.
            signal.signal(signal.SIGINT, _leave_at_once)
        raise


def _leave_at_once(_signal: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
