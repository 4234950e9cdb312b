"""Promises of `penstock.hashing` (spec rows 064, 065, 079; users row 19)."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import os
import pathlib
import pickle
import re
import sqlite3
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import hashes_elsewhere

from penstock.exceptions import PenstockError, UnhashableInputError
from penstock.hashing import hash_arguments, stable_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
)
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=12,
)
NEAR = st.recursive(  # few enough for equal ones to meet, and for all that Python takes for equal
    st.sampled_from([None, False, True, 0, 1, 0.0, -0.0, 1.0, "", "1", b"", b"1"]),
    lambda inner: st.lists(inner, max_size=2) | st.lists(inner, max_size=2).map(tuple),
    max_leaves=3,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.IntEnum):
    RED = 1


class Missing(enum.Enum):
    MARK = object()


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Job:
    priority: int
    payload: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int


@dataclasses.dataclass
class Pool:
    pool: Any


class Distance(int):
    pass


class Path(list[int]):
    label: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)

    a: int
    handle: Any = None
    _hidden: int = pydantic.PrivateAttr(default=0)


class Client:
    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()

    def __stable_hash__(self) -> str:
        return self.url

    def get(self) -> str:
        return self.url


def double(x: int) -> int:
    return x * 2


def adder(n: int) -> Any:
    def add(x: int) -> int:
        return x + n

    return add


def distinct_values() -> list[Any]:
    """Return values of which no two may share a hash, many of them equal to Python."""
    hour = datetime.timedelta(hours=1)
    noon = datetime.datetime(2026, 1, 1, 12)
    return [
        *(None, True, 1, 1.0, 1 + 0j, "1", b"1", bytearray(b"1"), memoryview(b"1")),
        *(decimal.Decimal(1), decimal.Decimal("1.0"), fractions.Fraction(1), uuid.UUID(int=1)),
        *(False, 0, 0.0, -0.0, 0j, "", b"", (), [], {}, set(), frozenset()),
        *(math.inf, math.nan, -math.inf, 10**5000, -1, "nan", ..., NotImplemented),
        *((1, 2), [1, 2], {1, 2}, frozenset({1, 2}), {1: 2}, {"1": 2}, ((1,), 2), (1, (2,))),
        *(range(2), range(0, 2, 2), slice(2), slice(0, 2), array.array("i", [1]), array.array("b")),
        *(Colour.RED, Colour.BLUE, Shade.RED, Missing.MARK, Point(1, 2), Frozen(1), Distance(1)),
        *(Job(1), Job(1, "a"), Job(1, "b"), Path([1]), Model(a=1), Model(a=2)),
        *(Model.model_validate({"a": 1, "b": 2}), Model.model_validate({"a": 1, "b": 3})),
        *(pathlib.PurePosixPath("1"), pathlib.PureWindowsPath("1")),
        *(re.compile("1"), re.compile("1", re.I), re.compile(b"1"), [[1], 2]),
        *(noon, noon.replace(fold=1), noon.replace(tzinfo=datetime.UTC), noon.date(), noon.time()),
        *(noon.astimezone(datetime.timezone(hour)), noon.replace(tzinfo=zoneinfo.ZoneInfo("UTC"))),
        *(hour, datetime.UTC, datetime.timezone(hour), zoneinfo.ZoneInfo("UTC")),
        *(int, Colour, double, adder(1), adder(2), lambda: 1, lambda: 2, len, math.sqrt, str.upper),
        *("a".upper, list[int], int | None, functools.partial(double, 1), functools.partial(int)),
        *(collections.OrderedDict(), collections.Counter(), collections.defaultdict(int)),
        *(collections.defaultdict(list), collections.deque(), collections.deque(maxlen=1)),
        *(types.SimpleNamespace(a=1), types.MappingProxyType({}), Client("a"), Client("b"), "a"),
        *(pydantic.SecretStr("a"), pydantic.SecretStr("b"), math, "x" * 5000, ["x" * 5000]),
    ]  # fmt: skip


# --- nothing collides, nothing drifts ---------------------------------------------------


def test_079_values_that_differ_in_type_or_content_never_share_a_hash() -> None:
    values = distinct_values()
    seen: dict[str, Any] = {}
    for value in values:
        digest = stable_hash(value)
        assert digest not in seen, (value, seen[digest])
        seen[digest] = value


def exact(value: Any) -> Any:
    """Restate a value so that `==` compares the types as well, all the way down."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, [exact(each) for each in value])
    if isinstance(value, dict):
        return ("dict", sorted(repr((exact(k), exact(v))) for k, v in value.items()))
    if isinstance(value, set | frozenset):
        return (type(value).__name__, sorted(repr(exact(each)) for each in value))
    return (type(value).__name__, repr(value))


@given(NEAR, NEAR)
@settings(max_examples=500)
def test_079_two_values_share_a_hash_exactly_if_types_and_contents_agree(a: Any, b: Any) -> None:
    assert (stable_hash(a) == stable_hash(b)) == (exact(a) == exact(b))


@given(VALUES, VALUES)
@settings(max_examples=300)
def test_079_values_that_python_or_repr_tells_apart_never_share_a_hash(a: Any, b: Any) -> None:
    if stable_hash(a) == stable_hash(b):
        assert type(a) is type(b)
        assert repr(exact(a)) == repr(exact(b))


@given(VALUES)
def test_079_a_value_never_shares_its_hash_with_what_wraps_it(value: Any) -> None:
    wrapped = [value, [value], (value,), {"": value}, {0: value}, {"k": [value]}, ([value],)]
    wrapped += [collections.OrderedDict(k=value), types.SimpleNamespace(k=value), Job(1, value)]
    assert len({stable_hash(each) for each in wrapped}) == len(wrapped)


@given(VALUES)
def test_079_a_copy_has_the_hash_of_the_original(value: Any) -> None:
    assert stable_hash(pickle.loads(pickle.dumps(value))) == stable_hash(value)


@given(st.dictionaries(KEYS, SCALARS), st.randoms())
def test_079_the_order_in_which_a_dict_was_filled_does_not_matter(
    value: dict[Any, Any], random: Any
) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert stable_hash(dict(items)) == stable_hash(value)


def test_079_the_order_of_an_ordered_dict_does_matter() -> None:
    one = collections.OrderedDict([("a", 1), ("b", 2)])
    assert stable_hash(one) != stable_hash(collections.OrderedDict(reversed(one.items())))


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_079_every_process_gives_the_same_hashes_whatever_its_hash_seed(seed: str) -> None:
    there = hashes_elsewhere(__file__, __name__, "distinct_values", seed)
    assert there == [stable_hash(value) for value in distinct_values()]


class Elsewhere:
    """Another process with a hash seed of its own, that hashes what it is sent."""

    PROGRAM = (
        "import pickle, sys\n"
        "from penstock.hashing import stable_hash\n"
        "while True:\n"
        "    try:\n"
        "        value = pickle.load(sys.stdin.buffer)\n"
        "    except EOFError:\n"
        "        break\n"
        "    print(stable_hash(value), flush=True)\n"
    )

    def __init__(self, seed: str) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def stable_hash(self, value: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pickle.dump(value, self.process.stdin)
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[list[Elsewhere]]:
    others = [Elsewhere(seed) for seed in ("0", "1", "4242")]
    yield others
    for other in others:
        other.process.communicate()


@given(VALUES)
def test_079_whatever_the_value_its_hash_is_the_same_under_every_hash_seed(
    elsewhere: list[Elsewhere], value: Any
) -> None:
    assert {other.stable_hash(value) for other in elsewhere} == {stable_hash(value)}


# Whoever has to change it throws away every cache: say so in the changes, and change _FORMAT.
GOLDEN = "862649fa3207f3a3da7473d3df2f0bb1"


def test_079_the_format_of_the_hash_has_not_changed() -> None:
    assert stable_hash({"a": [1, 2.5, "x", None], "b": {(1, True)}}) == GOLDEN


# --- what counts, case by case ----------------------------------------------------------


def test_every_nan_is_the_same() -> None:
    assert stable_hash(float("nan")) == stable_hash(-float("nan"))


def test_a_field_that_does_not_compare_still_counts() -> None:
    assert Job(1, "a") == Job(1, "b")
    assert stable_hash(Job(1, "a")) != stable_hash(Job(1, "b"))


def test_attributes_beside_the_fields_count_and_cached_properties_do_not() -> None:
    @dataclasses.dataclass
    class Circle:
        radius: float

        @functools.cached_property
        def area(self) -> float:
            return 3 * self.radius**2

    plain, looked_at, marked = Circle(1), Circle(1), Circle(1)
    assert looked_at.area == 3
    marked.__dict__["unit"] = "m"
    assert stable_hash(looked_at) == stable_hash(plain)
    assert stable_hash(marked) != stable_hash(plain)


def test_attributes_of_a_subclass_of_a_built_in_count() -> None:
    one, two = Path([1]), Path([1])
    two.label = "home"
    assert stable_hash(one) != stable_hash(two)


def test_private_and_extra_fields_of_a_pydantic_model_count() -> None:
    one, two = Model(a=1), Model(a=1)
    two._hidden = 1
    assert stable_hash(one) != stable_hash(two)


def test_a_function_counts_by_its_code_and_not_by_its_place() -> None:
    def define(text: str, first_line: int) -> Any:
        scope: dict[str, Any] = {"__name__": "somewhere"}
        code = compile("\n" * first_line + text, f"file{first_line}.py", "exec")
        exec(code, scope)
        return scope["f"]

    text = "def f(x):\n  'says'\n  return [x + i for i in (1, 2)]"
    assert stable_hash(define(text, 1)) == stable_hash(define(text, 50))
    assert stable_hash(define(text, 1)) == stable_hash(define(text.replace("says", "said"), 1))
    assert stable_hash(define(text, 1)) != stable_hash(define(text.replace("(1, 2)", "(1, 3)"), 1))


def test_an_object_says_by_a_method_what_it_is() -> None:
    assert stable_hash(Client("a")) == stable_hash(Client("a"))
    assert stable_hash(Client("a").get) == stable_hash(Client("a").get)


def test_a_container_inside_itself_counts_by_how_far_up_it_is() -> None:
    def knot(depth: int) -> list[Any]:
        outer: list[Any] = [1]
        inner = outer
        for _ in range(depth):
            inner.append([1])
            inner = inner[-1]
        inner.append(outer)
        return outer

    assert stable_hash(knot(0)) == stable_hash(knot(0)) != stable_hash(knot(1))
    node = Pool(None)
    node.pool = {"me": node}
    stable_hash(node)


def test_the_same_object_twice_is_not_a_cycle() -> None:
    shared = [1]
    assert stable_hash([shared, shared]) == stable_hash([[1], [1]])


def test_attributes_that_attrs_adds_for_itself_do_not_count() -> None:
    @attrs.frozen(cache_hash=True)
    class Circle:
        radius: float
        name: str = attrs.field(eq=False, default="")

        @functools.cached_property
        def area(self) -> float:
            return 3.0 * self.radius**2

    plain, looked_at = Circle(1.0), Circle(1.0)
    assert looked_at.area == 3.0
    assert hash(looked_at) == hash(plain)
    assert stable_hash(looked_at) == stable_hash(Circle(1.0))
    assert stable_hash(Circle(1.0, "a")) != stable_hash(plain)


def test_a_container_that_others_add_to_is_read_at_one_moment() -> None:
    class Growing(dict[str, int]):
        def items(self) -> Any:
            raise AssertionError("only what dict itself says")

    growing = Growing(a=1)

    class Adds:
        def __stable_hash__(self) -> int:
            growing["b"] = 2
            return 1

    growing["x"] = Adds()  # type: ignore[assignment]  # whatever a thread may do meanwhile
    stable_hash(growing)
    assert "b" in growing


# --- what has no hash -------------------------------------------------------------------


def test_users_19_an_input_without_a_hash_is_an_error_that_says_where_and_what_to_do() -> None:
    with sqlite3.connect(":memory:") as connection:
        with pytest.raises(UnhashableInputError) as caught:
            hash_arguments({"a": 1, "conn": Pool([0, {"k": (connection,)}])})
        text = str(caught.value)
    connection.close()
    assert text.startswith("argument 'conn' -> .pool -> [1] -> ['k'] -> [0] cannot be part of")
    assert "sqlite3.Connection" in text
    assert "INPUTS - 'conn'" in text
    assert "__stable_hash__" in text
    assert "cache_key_fn" in text
    assert isinstance(caught.value, PenstockError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "value",
    [object(), threading.Lock(), iter([]), (i for i in "ab"), {1: object()}, ValueError()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_known_by_its_value_has_no_hash(value: Any) -> None:
    with pytest.raises(UnhashableInputError):
        stable_hash(value)


def test_a_value_nested_too_deeply_is_an_error_of_its_own() -> None:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        value = [value]
    with pytest.raises(UnhashableInputError, match=r"nested too deeply\. Ways out: .*cache_key_fn"):
        stable_hash(value)


def test_arguments_are_told_apart_by_name_and_not_by_order() -> None:
    assert hash_arguments({"a": 1, "b": 2}) == hash_arguments({"b": 2, "a": 1})
    assert hash_arguments({"a": 1, "b": 2}) != hash_arguments({"a": 2, "b": 1})
