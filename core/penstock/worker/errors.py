"""How an exception leaves a worker: as text always, and as an object if it survives the journey."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import traceback
from typing import Any, Final

from .here import travelling
from .packing import Pickler

__all__ = ["format_error", "message_of", "own_directories", "pack_error", "restore_links"]

_LINKS: Final = ("__cause__", "__context__", "__suppress_context__")


def pack_error(error: BaseException) -> tuple[str, str, str, bytes | None]:
    """Return type name, message, traceback text, and the pickled exception.

    The last is None unless it could be unpickled too, here, where it is one attempt's own affair.
    With it go its cause and context, and all that for the members of a group.
    """
    return _type_name(error), message_of(error), format_error(error), _pickled(error)


def format_error(error: BaseException) -> str:
    """Return the text of a traceback without our own frames, and without a final newline.

    As `penstock.tracebacks` does it in the driver.
    """
    try:
        whole = traceback.TracebackException.from_exception(error, compact=True)
        left = [whole]
        own = own_directories()
        while left:
            one = left.pop()
            kept = [step for step in one.stack if not step.filename.startswith(own)]
            if kept:
                one.stack = traceback.StackSummary.from_list(kept)
            chained = (one.__cause__, one.__context__, *(one.exceptions or ()))
            left.extend(following for following in chained if following is not None)
        return "".join(whole.format()).removesuffix("\n")
    except Exception as trouble:  # noqa: BLE001  (an exception whose __str__ raises, or worse)
        return f"{_type_name(error)} (its traceback cannot be shown: {type(trouble).__name__})"


@travelling
def restore_links(error: BaseException, state: tuple[Any, tuple[Any, ...]]) -> None:
    """Give an exception that was unpickled its state back, and what it followed from."""
    own_state, links = state
    if own_state is not None:
        if hasattr(error, "__setstate__"):
            error.__setstate__(own_state)
        else:
            vars(error).update(own_state)
    for name, value in zip(_LINKS, links, strict=True):
        setattr(error, name, value)


class _PlainErrorPickler(Pickler):
    """Pickles exceptions as Python does, whoever else has registered a way of their own for them.

    tblib, which Dask installs, takes causes along, and a bad one would spoil a good exception.
    """

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, BaseException):
            return super().reducer_override(obj)
        return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class _ErrorPickler(_PlainErrorPickler):
    """Pickles exceptions with what they followed from, which plain pickle drops."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, BaseException):
            return super().reducer_override(obj)
        reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if not isinstance(reduced, tuple) or len(reduced) > 3:
            return super().reducer_override(obj)
        make, arguments, own_state = (*reduced, None)[:3]
        links = tuple(getattr(obj, name) for name in _LINKS)
        return make, arguments, (own_state, links), None, None, restore_links


def _pickled(error: BaseException) -> bytes | None:
    # A bad cause must not spoil a good exception.
    for pickler in (_ErrorPickler, _PlainErrorPickler):
        try:
            file = io.BytesIO()
            pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(error)
            data = file.getvalue()
            loaded = pickle.loads(data)
        except BaseException:  # noqa: BLE001, S112  (the text tells of it; this is user code)
            continue
        if isinstance(loaded, BaseException) and _type_name(loaded) == _type_name(error):
            return data
    return None


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """Return the text of an exception, or why there is none."""
    try:
        return str(error)
    except Exception as trouble:  # noqa: BLE001  (user code)
        return f"(no message: its __str__ raised {type(trouble).__name__})"


def own_directories() -> tuple[str, ...]:
    """Return where our code lies, each with a separator at its end."""
    places = [os.path.dirname(format_error.__code__.co_filename)]  # where this was sent as source
    for package in ("penstock", "penstock_runners"):
        spec = importlib.util.find_spec(package)  # looks, and imports nothing
        places += (spec and spec.submodule_search_locations) or ()
    return tuple(os.path.join(place, "") for place in places)
