"""Failures grouped by what they say, for the end of a run: counts, however many there are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from penstock.exceptions import WorkerLost

if TYPE_CHECKING:
    from penstock.states import State

__all__ = ["FailureGroups"]

MOST_GROUPS: Final = 200
"""From then on what is new is grouped by its type alone: texts may all differ."""
MOST_LINES: Final = 10
LONGEST_TEXT: Final = 200


@dataclasses.dataclass(slots=True)
class _Group:
    first: str
    """Name of a run."""
    count: int = 0


class FailureGroups:
    """Counts runs that failed by the type of their exception and the first line of its text."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}

    def note(self, name: str, state: State[Any]) -> None:
        """Count a run that has ended badly.

        Args:
            name: of the run.
            state: its final state.
        """
        kind, text = described(state)
        group = self._groups.get((kind, text))
        if group is None:
            if len(self._groups) >= MOST_GROUPS:
                text = "(of many texts)"
            group = self._groups.setdefault((kind, text), _Group(name))
        group.count += 1

    def lines(self) -> list[str]:
        """Return a line for each group of two or more, the largest first.

        What failed alone has said so in the log when it did.
        """
        found = [(key, group) for key, group in self._groups.items() if group.count > 1]
        found.sort(key=lambda each: -each[1].count)
        lines = [
            f"{group.count} x {kind}{': ' if text else ''}{text}, first {group.first!r}"
            for (kind, text), group in found[:MOST_LINES]
        ]
        rest = [group.count for _, group in found[MOST_LINES:]]
        if rest:
            lines.append(f"{sum(rest)} more failures in {len(rest)} more groups of equal ones")
        return lines


def described(state: State[Any]) -> tuple[str, str]:
    """Return what two failures must have in common to count as equal."""
    if state.name == "UpstreamFailed":  # it tells of another run, which is counted by itself
        return state.name, ""
    error = state.exception()
    if error is None:
        return state.name, ""
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001  (user code; the group is named for that)
        text = f"(its text cannot be had: {type(problem).__name__})"
    if isinstance(error, WorkerLost):  # who was lost, and where, stands before the cause
        text = text.partition(": ")[2] or text
    lines = text.strip().splitlines()
    return type(error).__name__, lines[0][:LONGEST_TEXT] if lines else ""
