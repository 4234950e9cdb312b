"""What a command says when it was called wrongly."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """The command line cannot be followed; its text goes to the user, and the exit code is 2."""
