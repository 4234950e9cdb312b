"""Promises of `penstock.plain_forms` about the standard library and numpy (row 079)."""

from __future__ import annotations

import collections
import functools
import io
import itertools
import os
import subprocess
import sys
import types
import warnings
import zoneinfo
from typing import Any, Optional

import pytest

from penstock.exceptions import UnhashableInputError
from penstock.hashing import hash_arguments, stable_hash


def all_differ(values: list[Any]) -> bool:
    hashes = [stable_hash(value) for value in values]
    equal = [
        (one, two)
        for (one, a), (two, b) in itertools.combinations(zip(values, hashes, strict=True), 2)
        if a == b
    ]
    assert not equal, equal
    return True


def all_agree(values: list[Any]) -> bool:
    assert len({stable_hash(value) for value in values}) == 1
    return True


def refusal(value: Any) -> str:
    with pytest.raises(UnhashableInputError) as caught:
        hash_arguments({"x": value})
    return str(caught.value)


# --- the standard library ---------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def remembered(x: int) -> int:
    return x


def test_079_containers_that_wrap_others_count_by_kind_and_content() -> None:
    filled = {"a": 1}
    values = [filled.keys(), filled.values(), filled.items(), ["a"], [1], [("a", 1)]]
    values += [collections.ChainMap(filled), collections.ChainMap({}, filled)]
    values += [collections.UserDict(filled), collections.UserList([1]), collections.UserString("a")]
    values += [filled, types.MappingProxyType(filled), types.SimpleNamespace(a=1)]
    assert all_differ(values)


def test_079_types_and_functions_that_are_passed_count_by_what_they_are() -> None:
    cached_twice = functools.lru_cache(maxsize=3)(remembered.__wrapped__)
    values = [remembered, cached_twice, remembered.__wrapped__, int, list[int], int | None]
    assert all_differ([*values, dict[str, int], Optional[str]])  # noqa: UP045  (the older form)


def test_079_a_class_that_is_made_inside_a_function_is_not_known_by_its_name() -> None:
    class Local:
        pass

    assert "(Local is made inside a function)" in refusal(Local)


def test_079_a_time_zone_without_a_key_has_no_hash() -> None:
    data = b"TZif" + bytes(16) + b"\0\0\0\0" * 3 + b"\0\0\0\0\0\0\0\1\0\0\0\4" + bytes(6) + b"UTC\0"
    zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(data))
    assert "has no key" in refusal(zone)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (iter([1]), "pass a list"),
        ((x for x in "ab"), "pass a list"),
        (map(str, [1]), "pass a list"),
        (io.StringIO(), "pass its path"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_users_19_the_error_knows_what_to_pass_instead(value: Any, advice: str) -> None:
    assert advice in refusal(value)


def test_users_19_the_path_in_an_error_leads_through_what_functions_hold() -> None:
    handle = io.StringIO()
    calls = functools.partial(remembered, handle)
    assert refusal(calls).startswith("argument 'x' -> .args -> [0] cannot be part of")
    assert refusal(lambda: handle).startswith("argument 'x' -> captured 'handle' -> [0] cannot")


def test_hashing_imports_none_of_the_libraries_it_knows() -> None:
    program = (
        "import sys, penstock.hashing\n"
        "known = ('numpy', 'pandas', 'pyarrow', 'polars', 'pydantic', 'attr')\n"
        "print([name for name in known if name in sys.modules])"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    answer = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": paths},
        capture_output=True,
        check=True,
    )
    assert answer.stdout.strip() == b"[]"


# --- numpy ------------------------------------------------------------------------------


def test_079_arrays_count_by_dtype_shape_and_values_and_not_by_layout() -> None:
    np = pytest.importorskip("numpy")
    square = np.arange(12.0).reshape(3, 4)
    wide = np.repeat(square, 2, axis=1)[:, ::2]
    backwards = square[::-1, ::-1].copy()[::-1, ::-1]
    same = [square.copy(order="F"), square.T.copy().T, np.vstack([square, square])[:3]]
    read_only = square.copy()
    read_only.flags.writeable = False
    assert all_agree([square, wide, backwards, read_only, *same])
    others = [square.ravel(), square.astype("f4"), square + 1, square.tolist()]
    others += [square.astype(object), square.astype(">f8"), square.reshape(3, 4, 1)]
    assert all_differ([square, *others])


def test_079_arrays_without_dimensions_or_items_keep_their_shape_and_dtype() -> None:
    np = pytest.importorskip("numpy")
    values = [np.array(1), np.array([1]), np.array(1.0), np.int64(1), 1]
    values += [np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0)), np.zeros(0, int), np.zeros(0, "U")]
    assert all_differ(values)


def test_079_every_nan_of_an_array_is_the_same_and_zeros_have_signs() -> None:
    np = pytest.importorskip("numpy")
    for name in ("f2", "f4", "f8", ">f8", "c8", "c16"):
        plain = np.array([1, np.nan, 2], name)
        other = plain.copy()
        parts = other.view(other.real.dtype)
        parts[np.isnan(parts)] = -np.float64("nan")
        assert plain.tobytes() != other.tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all_agree([plain, other])
        assert all_differ([plain, np.nan_to_num(plain)])
    assert all_differ([np.array([0.0]), np.array([-0.0])])
    assert all_agree([np.float64("nan"), -np.float64("nan")])


def test_079_unused_bytes_of_an_array_do_not_count() -> None:
    np = pytest.importorskip("numpy")
    padded = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    clean, dirty = np.zeros(3, padded), np.frombuffer(b"\xff" * 48, padded).copy()
    dirty["a"], dirty["b"] = 0, 0
    assert clean.tobytes() != dirty.tobytes()
    assert all_agree([clean, dirty])


def test_079_structured_object_text_and_date_arrays_count_by_value() -> None:
    np = pytest.importorskip("numpy")
    record = np.array([(1, "a")], [("n", "i8"), ("s", "O")])
    values = [record, record[["n"]], record.astype([("m", "i8"), ("s", "O")]), record[0]]
    values += [np.array(dates, f"M8[{unit}]") for dates in (["2020"], ["NaT"]) for unit in "Ds"]
    values += [np.array([1], "m8[s]"), np.array([1], "m8[ms]"), np.array([1])]
    values += [np.array(["1"]), np.array(["1"], "U2"), np.array([b"1"]), np.array(["1"], object)]
    values += [np.array(["1"], np.dtypes.StringDType()), np.array([1.0], "g")]
    values += [np.array(["1"], np.dtypes.StringDType(na_object=None))]
    values += [np.array([[1, None]], object), np.array([[1], [None]], object), np.char.array(["1"])]
    assert all_differ(values)
    assert all_agree([np.array([{"a": [1]}], object), np.array([{"a": [1]}], object)])
    assert "argument 'x' -> [1] cannot" in refusal(np.array([1, object()], object))
    recarray = record.view(np.recarray)
    assert all_agree([recarray, recarray.copy()])


def test_079_a_masked_array_counts_by_mask_too() -> None:
    np = pytest.importorskip("numpy")
    masked = np.ma.array([1, 2], mask=[0, 1])
    assert all_agree([masked, masked.copy()])
    assert all_differ([masked, np.ma.array([1, 2]), np.array([1, 2]), np.ma.masked])


def test_079_an_array_in_a_file_counts_by_its_values(tmp_path: Any) -> None:
    np = pytest.importorskip("numpy")
    maps = [np.memmap(tmp_path / name, "f8", "w+", shape=3) for name in "ab"]
    assert all_agree(maps)


def test_079_numpy_scalars_dtypes_and_functions_are_not_python_ones() -> None:
    np = pytest.importorskip("numpy")
    values = [1, 1.0, True, np.int64(1), np.int32(1), np.float64(1), np.bool_(True), np.array(1)]
    values += [np.dtype("i8"), np.dtype("f8"), np.float64, np.add, np.str_("1"), "1"]
    values += [np.datetime64("2020"), np.datetime64("2020-01-01"), np.array([None, 1]), [None, 1]]
    assert all_differ([*values, np.mean, np.median, np.subtract])
    assert "what it computes cannot be seen" in refusal(np.frompyfunc(abs, 1, 1))
