"""The environment variables that say how many threads a numerical library uses, and our share.

Values of the user's are left alone, and so are the libraries that would follow them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["THREAD_VARIABLES", "describe_share", "share_of_cpus", "variables_for"]

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_FOLLOW_OMP: Final = frozenset(
    {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
)
"""Their libraries take `OMP_NUM_THREADS` unless they have a variable of their own."""


def share_of_cpus(slots: int) -> int:
    """Return how many threads a library may use in each of so many slots."""
    return max(1, usable_cpus() // slots)


def variables_for(slots: int, given: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to an environment so that libraries keep to their share.

    Args:
        slots: how many processes will have that environment.
        given: the environment as the user made it.
    """
    threads = str(share_of_cpus(slots))
    return {
        name: threads
        for name in THREAD_VARIABLES
        if name not in given and not (name in _FOLLOW_OMP and "OMP_NUM_THREADS" in given)
    }


def describe_share(slots: int, given: Mapping[str, str]) -> str:
    """Return how many threads libraries use, for a header."""
    for name in THREAD_VARIABLES:
        if name in given:
            return f"numerical libraries as {name}={given[name]} says"
    threads = share_of_cpus(slots)
    return f"{threads} thread{'' if threads == 1 else 's'} each for numerical libraries"
