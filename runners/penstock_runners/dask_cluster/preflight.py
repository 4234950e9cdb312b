"""Whether driver, scheduler and workers fit together, by their versions. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Disagreement", "Report", "compare"]

_SHOWN: Final = 5
"""So many workers of a kind are named; of the others, the number."""

_CHECKED: Final = {
    # What crosses is code, and code objects of two minor versions are not the same thing.
    "python": (2, True),
    "cloudpickle": (2, False),
    "distributed": (3, False),
}
"""Package: how many parts of its version must agree, and whether nothing may run if they do not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Disagreement:
    """A place where a package has another version than the driver."""

    place: str
    """``"scheduler"`` or the address of a worker."""
    package: str
    here: str
    there: str
    is_fatal: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """All the disagreements that were found."""

    disagreements: tuple[Disagreement, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether all versions agree."""
        return not self.disagreements

    def is_fatal(self, *, strict: bool = False) -> bool:
        """Whether nothing should run there; with `strict`, any disagreement is enough."""
        return any(each.is_fatal or strict for each in self.disagreements)

    def message(self) -> str:
        """Return everything in one text, with what to do; empty when all is fine."""
        if self.is_fine:
            return ""
        kinds: dict[tuple[str, str, str], list[str]] = {}
        for each in self.disagreements:
            kinds.setdefault((each.package, each.here, each.there), []).append(each.place)
        lines = [
            f"  {package} {there} on {_listed(places)}; here it is {here}"
            for (package, here, there), places in kinds.items()
        ]
        return "\n".join(
            [
                "the versions here and on the Dask cluster differ:",
                *lines,
                _advice({package for package, _, _ in kinds}),
            ]
        )


def compare(versions: Mapping[str, Any]) -> Report:
    """Compare the driver with the scheduler and each worker.

    Args:
        versions: what ``client.get_versions(check=False)`` returns.
    """
    here = _packages(versions.get("client"))
    places = [("scheduler", versions.get("scheduler"))]
    places += sorted((versions.get("workers") or {}).items())
    return Report(
        tuple(
            found
            for place, there in places
            if there is not None  # it left while it was asked
            for found in _differences(place, here, _packages(there))
        )
    )


def _differences(
    place: str, here: Mapping[str, Any], there: Mapping[str, Any]
) -> Iterable[Disagreement]:
    for package, (parts, is_fatal) in _CHECKED.items():
        ours, theirs = (_version(each.get(package)) for each in (here, there))
        if ours.split(".")[:parts] != theirs.split(".")[:parts]:
            yield Disagreement(place, package, ours, theirs, is_fatal)


def _packages(node: Any) -> Mapping[str, Any]:
    packages: Mapping[str, Any] = (node or {}).get("packages") or {}
    return packages


def _version(given: Any) -> str:
    # Python's is "3.11.7.final.0".
    return ".".join(str(given).split(".")[:3]) if given else "(none)"


def _listed(places: list[str]) -> str:
    workers = [place for place in places if place != "scheduler"]
    shown = [place for place in places if place == "scheduler"] + workers[:_SHOWN]
    text = ", ".join("the scheduler" if each == "scheduler" else each for each in shown)
    more = len(workers) - _SHOWN
    return f"{text} and {more} more workers" if more > 0 else text


def _advice(packages: set[str]) -> str:
    if "python" in packages:
        return (
            "Run the flow with the Python of the cluster, or start scheduler and workers with "
            "this one: functions travel as code, and code of one Python minor version may crash "
            "another."
        )
    names = " ".join(sorted(packages))
    return f"Install the same versions on both sides ({names}), for instance from one list."
