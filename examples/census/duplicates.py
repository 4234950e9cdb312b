"""Grouping functions that are copies of each other, over all files, without comparing all pairs.

Copies that differ in names only have one shape and are put together first. The likeness of two
shapes is the *resemblance* of their sets of hashes, |A & B| / |A | B| (A. Broder, "On the
Resemblance and Containment of Documents", 1997). Two shapes that are alike can miss few of each
other's hashes, so they meet in an index of the few rarest of each, and those that do not meet need
no comparing. It is exact, and common idioms make nobody meet (*prefix filtering*, S. Chaudhuri,
V. Ganti, R. Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006).

Groups are stars: the shape with the most look-alikes takes them in, then the next of those left.
Every member is alike to the centre; in chains, where each is alike to the one before, the ends of
a long one have nothing in common.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .fingerprints import FunctionPrint

__all__ = ["ALIKE", "DuplicateGroup", "Place", "find_groups"]

ALIKE = 0.75  # one changed statement in twenty lines


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function is."""

    path: str
    line: int
    name: str
    lines: int

    @property
    def where(self) -> str:
        """The place as editors and terminals understand it."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Functions that are near copies of each other.

    Attributes:
        similarity: The least resemblance of a member to the centre of the group; 1.0 is the same
            code but for names and literals, as far as fingerprints tell.
        repeated_lines: What would go if only the longest stayed.
        places: The members, in order of path and line.
    """

    similarity: float
    repeated_lines: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """All functions with one sequence of nodes."""

    hashes: frozenset[int]
    places: tuple[Place, ...]


def find_groups(
    prints: Mapping[str, Iterable[FunctionPrint]], *, min_lines: int
) -> tuple[DuplicateGroup, ...]:
    """Group near-duplicates among the functions of `min_lines` and more, the costliest first.

    Args:
        prints: The functions of each file by its path; the order does not matter.
        min_lines: How long a function must be to be looked at.
    """
    shapes = _shapes(prints, min_lines)
    return tuple(sorted(_stars(shapes), key=_rank))


def _rank(group: DuplicateGroup) -> tuple[int, float, str, int]:
    first = group.places[0]
    return (-group.repeated_lines, -group.similarity, first.path, first.line)


def _shapes(prints: Mapping[str, Iterable[FunctionPrint]], min_lines: int) -> list[_Shape]:
    """Put equal shapes together, in an order that depends on their places alone."""
    places = defaultdict[str, list[Place]](list)
    hashes: dict[str, frozenset[int]] = {}
    for path in sorted(prints):
        for found in prints[path]:
            if found.lines >= min_lines:
                places[found.shape].append(Place(path, found.line, found.name, found.lines))
                hashes[found.shape] = frozenset(found.hashes)
    return [_Shape(hashes[shape], tuple(where)) for shape, where in places.items()]


def _alike(shapes: Sequence[_Shape]) -> dict[int, dict[int, float]]:
    """Return the numbers of the shapes alike to each shape, with their resemblance."""
    frequency = Counter(hash_ for shape in shapes for hash_ in shape.hashes)
    having = defaultdict[int, list[int]](list)  # by a hash, the shapes so far that go by it
    alike = defaultdict[int, dict[int, float]](dict)
    for number, shape in enumerate(shapes):
        rarest = sorted(shape.hashes, key=lambda hash_: (frequency[hash_], hash_))
        may_be_missing = len(rarest) - math.ceil(ALIKE * len(rarest))
        going_by = rarest[: may_be_missing + 1]
        for other in {other for hash_ in going_by for other in having[hash_]}:
            likeness = _resemblance(shape.hashes, shapes[other].hashes)
            if likeness >= ALIKE:
                alike[number][other] = alike[other][number] = likeness
        for hash_ in going_by:
            having[hash_].append(number)
    return alike


def _resemblance(one: frozenset[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _stars(shapes: Sequence[_Shape]) -> Iterator[DuplicateGroup]:
    alike = _alike(shapes)
    # Most look-alikes first; of equals the one that was found first, so that the order is total.
    centres = sorted(range(len(shapes)), key=lambda number: (-len(alike.get(number, ())), number))
    taken: set[int] = set()
    for centre in centres:
        if centre in taken:
            continue
        members = {centre: 1.0} | {
            number: likeness
            for number, likeness in alike.get(centre, {}).items()
            if number not in taken
        }
        taken.update(members)
        places = _apart(place for number in members for place in shapes[number].places)
        if len(places) > 1:
            lengths = [place.lines for place in places]
            yield DuplicateGroup(
                similarity=round(min(members.values()), 3),
                repeated_lines=sum(lengths) - max(lengths),
                places=places,
            )


def _apart(places: Iterable[Place]) -> tuple[Place, ...]:
    """Sort places and leave out those within another: a wrapper is like what it wraps."""
    apart: list[Place] = []
    for place in sorted(places, key=lambda place: (place.path, place.line, -place.lines)):
        last = apart[-1] if apart else None
        within = last and last.path == place.path and place.line < last.line + last.lines
        if not within:
            apart.append(place)
    return tuple(apart)
