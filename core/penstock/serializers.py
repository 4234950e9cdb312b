"""How the value of a task becomes bytes in a store, and a value again.

A serializer goes by a name, which is noted with what it wrote. One of your own is a subclass of
`Serializer` with a `name`; from then on the name can be given wherever a serializer is asked for,
``result_serializer="text"`` or, in compressed form, ``"compressed/text"``::

    class TextSerializer(Serializer):
        name = "text"
        can_run_code = False

        def dumps(self, value: str) -> bytes:
            return value.encode()

        def loads(self, data: bytes) -> str:
            return data.decode()
"""

from __future__ import annotations

import abc
import bz2
import inspect
import json
import lzma
import pickle
import zlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from penstock.attempt import Packed
from penstock.exceptions import SerializationError
from penstock.json_values import from_json_form, to_json_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Buffer",
    "CompressedJSONSerializer",
    "CompressedPickleSerializer",
    "CompressedSerializer",
    "CompressionName",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
    "serializer_named",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
CompressionName: TypeAlias = Literal["zlib", "bz2", "lzma"]

_COMPRESSED = "compressed/"
_by_name: dict[str, Callable[[], Serializer]] = {}


class Serializer(abc.ABC):
    """Turns a value into bytes and back. A subclass that sets `name` can be asked for by it.

    `loads` gives a value that equals the one that `dumps` was given, in type and content; where
    that cannot be, `dumps` raises. A serializer without a name serves for what is given to it as
    an object, and cannot be found again by another program.
    """

    name: str = ""
    """What it is called, and what a record says it was written by."""
    can_run_code: bool = True
    """Whether reading what somebody else wrote may run code of theirs, as pickle does."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name")
        if isinstance(name, str) and name and not inspect.isabstract(cls):
            _by_name[name] = cls

    @abc.abstractmethod
    def dumps(self, value: Any) -> bytes:
        """Return the value as bytes.

        Raises:
            SerializationError: it cannot be; the message says what to do about it.
        """

    @abc.abstractmethod
    def loads(self, data: bytes) -> Any:
        """Return the value that `dumps` made these bytes of."""

    def dump_parts(self, value: Any) -> list[Buffer]:
        """Return the value as bytes in several parts, so that large ones need not be copied."""
        return [self.dumps(value)]

    def load_parts(self, parts: Sequence[memoryview]) -> Any:
        """Return the value of what `dump_parts` made. The value may go on using the memory."""
        (part,) = parts
        return self.loads(bytes(part))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class PickleSerializer(Serializer):
    """Pickle, and cloudpickle for what pickle cannot do: functions and classes made on the spot.

    Large buffers, such as arrays of numpy, are kept beside the pickle and not copied into it.
    """

    name = "pickle"

    def dumps(self, value: Any) -> bytes:
        """Pickle the value whole."""
        return _pickled(value, None)

    def loads(self, data: bytes) -> Any:
        """Unpickle."""
        return pickle.loads(data)

    def dump_parts(self, value: Any) -> list[Buffer]:
        """Pickle the value; its large buffers follow the pickle. A `Packed` one is pickled."""
        if type(value) is Packed:
            return [value.data, *value.buffers]
        buffers: list[pickle.PickleBuffer] = []
        data = _pickled(value, buffers.append)
        try:
            return [data, *(buffer.raw() for buffer in buffers)]
        except BufferError:  # one that is not contiguous has to be copied into the pickle
            return [_pickled(value, None)]

    def load_parts(self, parts: Sequence[memoryview]) -> Any:
        """Unpickle; large buffers are used where they are."""
        data, *buffers = parts
        return pickle.loads(data, buffers=buffers)


def _pickled(value: Any, keep: Callable[[pickle.PickleBuffer], Any] | None) -> bytes:
    taken: list[pickle.PickleBuffer] = []
    apart = None if keep is None else taken.append
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=apart)
    except Exception:  # noqa: BLE001  (cloudpickle may know how, or tell why not)
        # Imported here since it takes 20 ms, and most results need only pickle.
        import cloudpickle

        taken.clear()
        try:
            data = cloudpickle.dumps(value, protocol=5, buffer_callback=apart)
        except Exception as error:
            kind = type(value)
            raise SerializationError(
                f"a {kind.__module__}.{kind.__qualname__} cannot be pickled, and so not stored: "
                f"{error}. Ways out: return plain data, such as a path or an id, instead of the "
                "object, give the task a result_serializer of your own, or persist_result=False."
            ) from error
    if keep is not None:
        for buffer in taken:
            keep(buffer)
    return data


class JSONSerializer(Serializer):
    """JSON that people and other programs can read, for values that come back as they were.

    Takes None, booleans, numbers, text, lists and dicts, and in a form of their own tuples, sets,
    bytes, dates, paths, UUIDs and decimals. Anything else is an error rather than a guess.
    """

    name = "json"
    can_run_code = False

    def dumps(self, value: Any) -> bytes:
        """Write the value as JSON."""
        form = to_json_form(value)
        try:
            return json.dumps(form, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a pair of surrogates: only the escaped form holds it
            return json.dumps(form).encode()
        except ValueError as error:  # an integer of more digits than Python writes
            raise SerializationError(f"JSON cannot hold the value: {error}") from error

    def loads(self, data: bytes) -> Any:
        """Read JSON."""
        return json.loads(data, object_hook=from_json_form)


class _Compression(NamedTuple):
    mark: bytes
    """The first byte of what it wrote."""
    compress: Callable[..., bytes]
    decompress: Callable[[Buffer], bytes]


_COMPRESSIONS: dict[str, _Compression] = {
    "zlib": _Compression(b"z", lambda data: zlib.compress(data, 6), zlib.decompress),
    "bz2": _Compression(b"b", bz2.compress, bz2.decompress),
    "lzma": _Compression(b"x", lzma.compress, lzma.decompress),
}


class CompressedSerializer(Serializer):
    """Another serializer, compressed: ``"compressed/json"``, or with a choice of the library.

    What one library compressed is read whatever library the reader prefers.

    Args:
        serializer: the other one, by name or as an object.
        compressionlib: ``"zlib"`` is quick, ``"bz2"`` and ``"lzma"`` are slow and make it smaller.
    """

    def __init__(
        self, serializer: str | Serializer = "pickle", compressionlib: CompressionName = "zlib"
    ) -> None:
        if compressionlib not in _COMPRESSIONS:
            raise ValueError(
                f"there is no compression {compressionlib!r}; it is one of "
                f"{', '.join(map(repr, _COMPRESSIONS))}"
            )
        self.serializer: Serializer = serializer_named(serializer)
        self.compressionlib: CompressionName = compressionlib
        self.name: str = _COMPRESSED + self.serializer.name
        self.can_run_code: bool = self.serializer.can_run_code

    def dumps(self, value: Any) -> bytes:
        """Serialize and compress."""
        mark, compress, _ = _COMPRESSIONS[self.compressionlib]
        return mark + compress(self.serializer.dumps(value))

    def loads(self, data: bytes) -> Any:
        """Expand and read."""
        for mark, _, decompress in _COMPRESSIONS.values():
            if data[:1] == mark:
                return self.serializer.loads(decompress(memoryview(data)[1:]))
        raise ValueError(f"data compressed in a way that is not known here: {data[:1]!r}")

    def __repr__(self) -> str:
        return f"<CompressedSerializer {self.name!r} by {self.compressionlib}>"


class CompressedPickleSerializer(CompressedSerializer):
    """``"compressed/pickle"`` as an object, as Prefect names it."""

    def __init__(self, compressionlib: CompressionName = "zlib") -> None:
        super().__init__("pickle", compressionlib)


class CompressedJSONSerializer(CompressedSerializer):
    """``"compressed/json"`` as an object, as Prefect names it."""

    def __init__(self, compressionlib: CompressionName = "zlib") -> None:
        super().__init__("json", compressionlib)


def serializer_named(serializer: str | Serializer | type[Serializer]) -> Serializer:
    """Return the serializer of that name: ``"pickle"``, ``"json"``, ``"compressed/..."``.

    A serializer is returned as it is, a class of one is called.

    Raises:
        ValueError: none goes by the name; the message lists those that do.
        TypeError: it is neither a name nor a serializer.
    """
    given: Any = serializer
    if isinstance(given, Serializer):
        return given
    if isinstance(given, type) and issubclass(given, Serializer):
        return given()
    if not isinstance(given, str):
        raise TypeError(
            f"a serializer is a name or a penstock.serializers.Serializer, not {given!r}"
        )
    if given.startswith(_COMPRESSED):
        return CompressedSerializer(given.removeprefix(_COMPRESSED))
    make = _by_name.get(given)
    if make is None:
        raise ValueError(
            f"there is no serializer {given!r}; there are {', '.join(map(repr, _by_name))}, "
            f"each also as '{_COMPRESSED}...'. One of your own is a subclass of "
            "penstock.serializers.Serializer with that name; import its module first."
        )
    return make()
