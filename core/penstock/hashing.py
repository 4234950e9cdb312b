"""One stable hash for the values people pass to tasks: exact in types, equal in every process.

A value is written as bytes that can be read in one way only (`encoding`), and those are hashed.
What counts as equal:

- The exact type does: ``(1, 2)`` and ``[1, 2]``, ``1``, ``True`` and ``1.0``, a subclass and its
  base all differ. So do ``0.0`` and ``-0.0``; every nan is the same, in arrays too.
- The order of a dict's items and of a set's members does not (it does in an `OrderedDict`).
- All fields of a dataclass do, also those with ``compare=False``: they can change a result.
  Attributes set beside the fields do as well, cached properties do not.
- Arrays and frames count by dtype, shape, labels and values: not by memory layout, chunks, or
  what lies under a null. The class of an index counts, and the distance between its moments.
- A class counts by its module and qualified name. A function does too, and by its bytecode,
  defaults and captured values; neither by its file nor by its lines. The bytecode differs
  between Python versions, so those keys do not outlive an upgrade. Globals are not followed.
- A path counts by its text, not by what the file holds.
- A container inside itself counts by how many containers up it is.

What is not known by its value (a connection, a lock, an open file, an object of a plain class)
has no stable hash, and is an error rather than a guess: pickled bytes are not the same from run
to run, and a wrong cache hit is worse than none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.encoding import digest, encode
from penstock.exceptions import UnhashableInputError
from penstock.plain_forms import NoStableHashError, full_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["argument_hashes", "hash_arguments", "parameter_hashes", "stable_hash", "text_hash"]

_FORMAT = b"penstock.hash.2\n"  # a change of the format must change this, and so every key
_TEXT_FORMAT = b"penstock.text.1\n"
_REFUSED = (NoStableHashError, RecursionError)


def stable_hash(value: object) -> str:
    """Hash a value to 32 hexadecimal digits, the same in every process and on every machine.

    A class takes part by a method `__stable_hash__()` that returns anything with a stable hash.

    Raises:
        UnhashableInputError: part of the value has none; the message says where it is.
    """
    try:
        return _hash(value)
    except _REFUSED as error:
        way_out = "leave the argument out of the key (INPUTS - 'its name')"
        raise _unhashable(error, "the value", way_out) from None


def text_hash(text: str) -> str:
    """Hash a text to 32 hexadecimal digits: sooner done than `stable_hash`, and another hash."""
    return digest(_TEXT_FORMAT + text.encode("utf-8", "surrogatepass")).hex()


def argument_hashes(
    arguments: Mapping[str, object], without: Collection[str] = ()
) -> dict[str, str]:
    """Hash a call's arguments one by one, sorted by name; errors name the argument."""
    hashes: dict[str, str] = {}
    for name in sorted(arguments):
        if name not in without:
            try:
                hashes[name] = _hash(arguments[name])
            except _REFUSED as error:
                way_out = f"leave the argument out of the key (cache_policy=INPUTS - {name!r})"
                raise _unhashable(error, f"argument {name!r}", way_out) from None
    return hashes


def parameter_hashes(parameters: Mapping[str, object]) -> dict[str, str]:
    """Hash a flow's parameters one by one, sorted by name; errors name the parameter."""
    hashes: dict[str, str] = {}
    for name in sorted(parameters):
        try:
            hashes[name] = _hash(parameters[name])
        except _REFUSED as error:
            way_out = "leave FLOW_PARAMETERS out of the cache policy"
            raise _unhashable(error, f"flow parameter {name!r}", way_out) from None
    return hashes


def hash_arguments(arguments: Mapping[str, object]) -> str:
    """Hash a call's arguments by name; as `stable_hash`, with errors that name the argument."""
    return stable_hash(argument_hashes(arguments))


def _hash(value: object) -> str:
    return digest(_FORMAT + encode(value)).hex()


def _unhashable(
    error: NoStableHashError | RecursionError, place: str, way_out: str
) -> UnhashableInputError:
    if isinstance(error, RecursionError):
        return UnhashableInputError(
            f"{place} cannot be part of a cache key: it is nested too deeply. Ways out: {way_out}, "
            "keep it flat, or give the task a cache_key_fn."
        )
    where = " -> ".join([place, *filter(None, reversed(error.steps))])
    advice = f" ({error.advice})" if error.advice else ""
    return UnhashableInputError(
        f"{where} cannot be part of a cache key: {full_name(error.type)} has no stable hash"
        f"{advice}. Ways out: {way_out}, give {error.type.__name__} a method __stable_hash__(), "
        "or give the task a cache_key_fn."
    )
