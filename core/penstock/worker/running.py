"""One attempt in a worker, from packed call to packed ending."""

from __future__ import annotations

import contextvars
import logging
import pickle
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from . import culprit, errors, packing
from .calling import call_to_end
from .here import ATTEMPT, Here
from .output import forwarding, print_to_log
from .prints import captured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["INLINE", "KEPT", "PACKED", "RAISED", "STATE", "Ending", "loading", "run"]

_log = logging.getLogger("penstock.results")

# How a call ended.
INLINE: Final = 0
PACKED: Final = 1
RAISED: Final = 2
KEPT: Final = 3
STATE: Final = 4

STORE_FROM_BYTES: Final = 1_000_000
"""Whoever has to send so much writes it to a file about as quickly."""


class Ending(NamedTuple):
    """What goes home, in plain values and buffers.

    Attributes:
        how: `INLINE`: the payload is the value. `PACKED`: it is what `packing.load` takes with
            the buffers. `STATE`: the same, and the value is a state of Penstock's. `RAISED`: it is
            what `errors.pack_error` returns. `KEPT`: it is what `keep` returned.
        children: the packed descriptions of runs inside of this one; None if there were none.
        error: what the function raised; for this process only.
        stored_bytes: how large the result is that was stored from here; it is not the payload.
    """

    how: int
    payload: Any
    buffers: list[Any]
    children: bytes | None
    error: BaseException | None
    stored_bytes: int | None = None


Load: TypeAlias = "Callable[[], tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]]"

Keep: TypeAlias = "Callable[[Any, packing.Packing], Any]"


def run(
    here: Here,
    load: Load,
    variables: bytes | None = None,
    writer: bytes | None = None,
    keep: Keep | None = None,
) -> Ending:
    """Perform an attempt in a context of its own.

    Args:
        here: what the code may know of its attempt.
        load: returns the function and its arguments; raises what unpickling them raises.
        variables: packed pairs of context variables and values to be set.
        writer: the pickle of what stores a large result: see `penstock.attempt.Environment`.
        keep: is shown a result and its packing, and may leave it here: then it returns what stands
            for it, else None.
    """
    forwarding.running.append(here)
    try:
        return contextvars.copy_context().run(_run, here, load, variables, writer, keep)
    finally:
        forwarding.running.remove(here)


def _run(
    here: Here, load: Load, variables: bytes | None, writer: bytes | None, keep: Keep | None
) -> Ending:
    ATTEMPT.set(here)
    try:
        if variables is not None:
            for variable, value in loading("context variables", pickle.loads, variables):
                variable.set(value)
        here.call = fn, args, kwargs = load()
        try:
            if here.shared.get("log_prints"):
                with captured(print_to_log):
                    value = call_to_end(fn, args, kwargs)
            else:
                value = call_to_end(fn, args, kwargs)
        finally:
            while here.at_end:
                here.at_end.pop()()
        try:
            packed = packing.pack(value)
        except Exception:  # noqa: BLE001  (user code; the text has all that is worth knowing)
            raise TypeError(culprit.explain_value("result", value)) from None
        is_state = not packed.is_inline and _is_state(value)
        stored = None if writer is None or is_state else _stored(writer, value, packed)
        kept = None if keep is None or is_state else keep(value, packed)
    except BaseException as error:  # noqa: BLE001  (whatever user code raises is data)
        return Ending(RAISED, errors.pack_error(error), [], _children(here), error)
    if kept is not None:
        return Ending(KEPT, kept, [], _children(here), None, stored)
    if stored is not None:
        return Ending(INLINE, None, [], _children(here), None, stored)
    how = INLINE if packed.is_inline else STATE if is_state else PACKED
    return Ending(how, packed.payload, packed.buffers, _children(here), None)


def _is_state(value: Any) -> bool:
    """Whether a result is a state; without importing that, as few functions return one."""
    return any(
        kind.__name__ == "State" and kind.__module__ == "penstock.states"
        for kind in type(value).__mro__
    )


def _stored(writer: bytes, value: Any, packed: packing.Packing) -> int | None:
    if packed.is_inline or packed.nbytes < STORE_FROM_BYTES:
        return None
    try:
        stored: int | None = pickle.loads(writer)(value, packed)
    except Exception as error:  # noqa: BLE001  (the driver does it then, or tells why it cannot)
        _log.debug("The result is sent home, as it cannot be stored from here: %r", error)
        return None
    return stored


def _children(here: Here) -> bytes | None:
    return pickle.dumps(here.children) if here.children else None


def loading(what: str, load: Callable[..., Any], *parts: Any) -> Any:
    """Load a part of a call; what that raises says that it was there."""
    try:
        return load(*parts)
    except BaseException as error:
        error.add_note(f"(raised while the {what} of the call were unpickled in the worker)")
        raise
