"""Which devices code in a worker process sees: those that its attempt was given."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["showing"]

VARIABLES: Final = {"GPU": "CUDA_VISIBLE_DEVICES"}
"""By name of the resource."""


@contextlib.contextmanager
def showing(resources: tuple[tuple[str, float, tuple[int, ...]], ...]) -> Iterator[None]:
    """Set the variables for the devices of an attempt in the block.

    An index counts those that the variable named before, if it named any.

    Args:
        resources: of its `Own`.
    """
    before: dict[str, str | None] = {}
    for name, _, indices in resources:
        variable = VARIABLES.get(name)
        if variable is not None and indices:
            was = before[variable] = os.environ.get(variable)
            known = [device for device in (was or "").split(",") if device]
            os.environ[variable] = ",".join(
                known[index] if index < len(known) else str(index) for index in indices
            )
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
