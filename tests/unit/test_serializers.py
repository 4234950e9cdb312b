"""Values become bytes and come back as they were, or are refused with a way out."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import pathlib
import pickle
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import SerializationError
from penstock.serializers import (
    CompressedJSONSerializer,
    CompressedPickleSerializer,
    CompressedSerializer,
    CompressionName,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    serializer_named,
)

NAMES = ["pickle", "json", "compressed/pickle", "compressed/json"]


class Level(enum.IntEnum):
    LOW = 1


def exactly(value: Any) -> Any:
    """Restate a value so that `==` is exact in types and order."""
    if isinstance(value, dict):
        return (dict, [(exactly(key), exactly(item)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value), [exactly(member) for member in value])
    if isinstance(value, (set, frozenset)):
        return (type(value), sorted(map(repr, map(exactly, value))))
    return (type(value), repr(value))


KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.tuples(st.integers()))
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(codec=None)),
        st.binary(),
        st.complex_numbers(allow_nan=False),
        st.datetimes(timezones=st.sampled_from([None, datetime.UTC])).filter(lambda d: not d.fold),
        st.dates(),
        st.timedeltas(),
        st.decimals(),
        st.uuids(),
        st.sampled_from([pathlib.Path("a/b"), pathlib.PureWindowsPath("c:/d")]),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(KEYS, inner),
        st.dictionaries(st.sampled_from(["!tuple", "!dict", "!", "x"]), inner, max_size=1),
        st.sets(st.integers()),
        st.frozensets(st.text()),
    ),
    max_leaves=12,
)


@given(PLAIN)
@pytest.mark.parametrize("name", NAMES)
def test_plain_values_come_back_exactly(name: str, value: Any) -> None:
    serializer = serializer_named(name)
    assert exactly(serializer.loads(serializer.dumps(value))) == exactly(value)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_give_the_same_as_the_whole(name: str) -> None:
    serializer = serializer_named(name)
    parts = serializer.dump_parts({"rows": [1, 2], "name": "x"})
    views = [memoryview(bytearray(part)) for part in parts]
    assert serializer.load_parts(views) == {"rows": [1, 2], "name": "x"}


# --- pickle ----------------------------------------------------------------------------


class Sheet:
    """Offers its memory to pickle, as an array does."""

    def __init__(self, cells: bytearray | memoryview) -> None:
        self.cells = cells

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Sheet, (pickle.PickleBuffer(self.cells),)


def test_a_large_buffer_is_not_copied_into_the_pickle() -> None:
    cells = bytearray(b"x" * 100_000)
    data, buffer = PickleSerializer().dump_parts([Sheet(cells), "label"])
    assert len(data) < 1000
    cells[0] = ord("y")
    assert bytes(buffer[:2]) == b"yx"  # it is the memory itself


def test_a_loaded_buffer_can_be_written_to() -> None:
    parts = PickleSerializer().dump_parts(Sheet(bytearray(b"abc")))
    sheet = PickleSerializer().load_parts([memoryview(bytearray(part)) for part in parts])
    sheet.cells[0] = ord("z")
    assert bytes(sheet.cells) == b"zbc"


def test_a_function_made_on_the_spot_is_pickled_by_value() -> None:
    factor = 3
    again = pickle.loads(PickleSerializer().dumps(lambda x: x * factor))
    assert again(2) == 6


def test_a_class_that_can_be_imported_is_pickled_by_name() -> None:
    """So that a result of a later program is an instance of that program's class."""
    assert type(pickle.loads(PickleSerializer().dumps(Level.LOW))) is Level


def test_what_cannot_be_pickled_is_refused_with_the_ways_out() -> None:
    with pytest.raises(SerializationError, match=r"_thread.lock cannot be pickled.*Ways out"):
        PickleSerializer().dumps(threading.Lock())


# --- JSON ------------------------------------------------------------------------------


def test_json_of_plain_values_is_what_anybody_would_write() -> None:
    value = {"name": "Zoë", "rows": [1, 2.5, None, True]}
    assert JSONSerializer().dumps(value) == (
        '{"name": "Zoë", "rows": [1, 2.5, null, true]}'.encode()
    )


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": [1, object()]}, r"the value\['a'\]\[1\]: builtins.object would not come back"),
        ([Level.LOW], r"the value\[0\]: .*Level would not come back"),
        (datetime.datetime.now().astimezone(), "time zone"),
        (1 << 20_000, "digits"),
    ],
    ids=["an object", "a member", "a time zone", "a very long number"],
)
def test_json_refuses_what_would_not_come_back(value: Any, complaint: str) -> None:
    with pytest.raises(SerializationError, match=complaint):
        JSONSerializer().dumps(value)


def test_json_refuses_a_list_inside_itself() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(SerializationError, match="contains itself"):
        JSONSerializer().dumps(knot)


def test_json_keeps_what_is_not_a_number() -> None:
    assert math.isnan(JSONSerializer().loads(JSONSerializer().dumps(math.nan)))


def test_json_keeps_the_types_that_have_a_form_of_their_own() -> None:
    value = (uuid.UUID(int=7), decimal.Decimal("1.10"), pathlib.Path("x"), {1: {2, 3}})
    assert exactly(JSONSerializer().loads(JSONSerializer().dumps(value))) == exactly(value)


# --- compressed ------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["zlib", "bz2", "lzma"])
def test_what_any_library_compressed_is_read_by_all(library: CompressionName) -> None:
    text = "again and again " * 1000
    data = CompressedSerializer("json", library).dumps(text)
    assert len(data) < 500
    assert serializer_named("compressed/json").loads(data) == text


def test_compressed_data_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="not known here"):
        CompressedSerializer().loads(b"?abc")


def test_compressed_serializers_have_names_of_their_own_too() -> None:
    assert CompressedPickleSerializer().name == "compressed/pickle"
    made = CompressedJSONSerializer(compressionlib="lzma")
    assert made.name == "compressed/json"
    assert CompressedJSONSerializer().loads(made.dumps([1])) == [1]


def test_an_unknown_compression_is_refused() -> None:
    library: Any = "rar"
    with pytest.raises(ValueError, match=r"no compression 'rar'.*'zlib', 'bz2', 'lzma'"):
        CompressedSerializer("json", library)


# --- by name ---------------------------------------------------------------------------


class ShoutingSerializer(Serializer):
    name = "test-shouting"
    can_run_code = False

    def dumps(self, value: str) -> bytes:
        return value.upper().encode()

    def loads(self, data: bytes) -> str:
        return data.decode()


def test_a_subclass_with_a_name_can_be_asked_for() -> None:
    assert type(serializer_named("test-shouting")) is ShoutingSerializer
    assert type(serializer_named(ShoutingSerializer)) is ShoutingSerializer
    compressed = serializer_named("compressed/test-shouting")
    assert compressed.loads(compressed.dumps("hey")) == "HEY"
    assert compressed.name == "compressed/test-shouting"


def test_a_serializer_is_taken_as_it_is() -> None:
    serializer = CompressedSerializer("json", "lzma")
    assert serializer_named(serializer) is serializer


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"no serializer 'jsn'; there are 'pickle', 'json'"):
        serializer_named("jsn")


def test_something_else_is_refused() -> None:
    something: Any = 3
    with pytest.raises(TypeError, match="a name or a"):
        serializer_named(something)


@pytest.mark.parametrize(
    ("name", "runs_code"),
    [("pickle", True), ("json", False), ("compressed/pickle", True), ("compressed/json", False)],
)
def test_a_serializer_says_whether_reading_may_run_code(name: str, runs_code: bool) -> None:
    assert serializer_named(name).can_run_code is runs_code


def test_cloudpickle_is_loaded_on_first_need_only() -> None:
    code = (
        "import sys; from penstock.serializers import serializer_named as s;"
        "p = s('pickle'); p.loads(p.dumps([1])); print('cloudpickle' in sys.modules);"
        "p.dumps(lambda: 1); print('cloudpickle' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
