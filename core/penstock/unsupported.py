"""Names of Prefect's that need its server: here so that calling one says what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

from penstock.exceptions import NotSupportedError

__all__ = ["adeploy", "aserve", "deploy", "get_client", "serve"]


def serve(*_: Any, **__: Any) -> NoReturn:
    """Not available: needs a server. Raises `NotSupportedError`."""
    raise NotSupportedError(
        "serve() needs a server, and Penstock has none; start `penstock run FILE:FLOW` from cron "
        "or a systemd timer"
    )


def deploy(*_: Any, **__: Any) -> NoReturn:
    """Not available: needs a server. Raises `NotSupportedError`."""
    raise NotSupportedError(
        "deploy() needs a server, and Penstock has none; run `penstock run FILE:FLOW` on the "
        "machine that should do the work"
    )


def get_client(*_: Any, **__: Any) -> NoReturn:
    """Not available: needs a server. Raises `NotSupportedError`."""
    raise NotSupportedError(
        "get_client() talks to a server, and Penstock has none; a run's own objects (futures, "
        "states, penstock.runtime) tell the same"
    )


async def aserve(*_: Any, **__: Any) -> NoReturn:
    """Not available, as `serve`."""
    serve()


async def adeploy(*_: Any, **__: Any) -> NoReturn:
    """Not available, as `deploy`."""
    deploy()
