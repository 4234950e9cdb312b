"""Whether a scheduler answers at an address, and if not, why, in words that help.

A `distributed.Client` is made only after this. Its own constructor waits without limit for
something that listens and is no scheduler, and one that failed may hang when it is collected.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any, Final

import distributed
from distributed.comm.core import connect

__all__ = ["probe", "why_unreachable"]

_GREETING_SECONDS: Final = 1.5


def probe(address: str, security: distributed.Security | None, timeout_seconds: float) -> None:
    """Return when a scheduler has answered at an address.

    Raises:
        ConnectionError: it has not, within the limit; the message says why and what to try.
    """
    # In a thread of its own: the calling one may be running an event loop.
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            asyncio.run(_shake_hands(address, security, timeout_seconds))
        except Exception as error:  # noqa: BLE001  (handed to the thread that asked)
            failures.append(error)

    thread = threading.Thread(target=ask, name="penstock-dask-probe", daemon=True)
    thread.start()
    # A name server that does not answer is out of asyncio's reach.
    thread.join(timeout_seconds + 2 * _GREETING_SECONDS)
    if thread.is_alive():
        failures.append(TimeoutError())
    if failures:
        failures.insert(0, _look_closer(address, failures[0]))
        raise ConnectionError(
            why_unreachable(
                address, failures[0], timeout_seconds, has_security=security is not None
            )
        ) from failures[0]


def why_unreachable(
    address: str, error: BaseException, timeout_seconds: float, *, has_security: bool
) -> str:
    """Return one sentence on why no connection came about, and one on what to try."""
    chain = _chain(error)
    start = f"no connection to a Dask scheduler at {address!r}: "
    tls_hint = (
        "Give `security=distributed.Security(tls_ca_file=..., tls_client_cert=..., "
        "tls_client_key=..., require_encryption=True)` and an address that begins with 'tls://'."
    )
    if any(isinstance(each, socket.gaierror) for each in chain):
        return start + "its host name is not known. Is it spelt right, and known on this machine?"
    if any(isinstance(each, ConnectionRefusedError) for each in chain):
        return (
            start + f"nothing listens there (tried for {timeout_seconds:g} s). Does the scheduler "
            "run? It prints its address as 'Scheduler at:'."
        )
    if any(isinstance(each, ValueError) and "scheme" in str(each) for each in chain):
        return start + f"{error}. It is usually 'tcp://' or, with `security`, 'tls://'."
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return (
            start + "its certificate is not signed by the authority in `security`. Use the "
            "tls_ca_file, certificate and key that the cluster was started with."
        )
    if any(isinstance(each, TypeError) and "ssl_context" in str(each) for each in chain):
        return start + "it wants TLS, and no certificates were given. " + tls_hint
    if any("encryption required" in str(each) for each in chain):
        return (
            start + "`security` requires encryption, and this address is without. "
            "Use its 'tls://' address, or leave `security` out."
        )
    speaks_other = any("cannot convert to SSL" in str(each) for each in chain)
    if speaks_other or any(isinstance(each, ssl.SSLError) for each in chain):
        return (
            start + "it does not accept TLS as given. Is it a 'tcp://' scheduler, or are the "
            "certificates in `security` not those of its cluster?"
        )
    if any(isinstance(each, ConnectionResetError) for each in chain) and not has_security:
        return start + "it closed the connection at once, as one with TLS does. " + tls_hint
    if any(isinstance(each, TimeoutError) for each in chain):
        return (
            start + f"no answer within {timeout_seconds:g} s. Is it a scheduler of Dask, reachable "
            "from here (firewall, network), and not too busy? A longer time is "
            "`timeout_seconds=`."
        )
    return start + f"{type(error).__name__}: {error}"


def _look_closer(address: str, error: BaseException) -> BaseException:
    """Return why nothing came within the limit: on a busy machine, Dask may not get that far."""
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    known = (OSError, TimeoutError, asyncio.TimeoutError, asyncio.CancelledError)
    is_late = all(type(each) in known for each in _chain(error))
    if not is_late or scheme not in ("", "tcp", "tls") or not port.isdecimal():
        return error
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_GREETING_SECONDS).close()
    except TimeoutError:
        return error
    except OSError as reason:
        return reason
    return error


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


async def _shake_hands(address: str, security: Any, timeout_seconds: float) -> None:
    if security is None:
        security = distributed.Security()  # type: ignore[no-untyped-call]
    connection_args = security.get_connection_args("client")
    # Dask's own limit, which knows the reason, is the first to come; but it ends with the greeting.
    async with asyncio.timeout(timeout_seconds + _GREETING_SECONDS):
        comm = await connect(  # type: ignore[no-untyped-call]
            address, timeout=timeout_seconds, **connection_args
        )
    comm.abort()
