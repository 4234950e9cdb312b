"""asyncio, loaded when something of it is first used.

It takes a fifth of the time of an import of Penstock, and most programs have nothing asynchronous.
Imported as ``asyncio``, which is what type checkers take it for.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    import asyncio  # see above

    return getattr(asyncio, name)
