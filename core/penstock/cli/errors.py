"""What a command says when it was called wrongly, or could not do what it was asked."""

from __future__ import annotations

import typer

__all__ = ["CommandError", "UsageError", "complain"]


class UsageError(Exception):
    """The command line cannot be followed; its text goes to the user, and the exit code is 2."""


class CommandError(Exception):
    """What was asked for is not there, or cannot be done; as above, and the exit code is 1."""


def complain(text: str) -> None:
    """Write a line to stderr, as from this program."""
    typer.echo(f"penstock: {text}", err=True)
