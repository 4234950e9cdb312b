"""Promises of `penstock.plain_forms` about arrays and frames, if installed (row 079)."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys

import pytest

from penstock.hashing import stable_hash


def test_079_arrays_count_by_dtype_shape_and_values_and_not_by_layout() -> None:
    np = pytest.importorskip("numpy")
    square = np.arange(12.0).reshape(3, 4)
    same = [square.copy(order="F"), square.T.copy().T, np.vstack([square, square])[:3]]
    assert {stable_hash(each) for each in same} == {stable_hash(square)}
    others = [
        square.ravel(),
        square.astype("f4"),
        square + 1,
        square.tolist(),
        square.astype(object),
    ]
    assert len({stable_hash(each) for each in [square, *others]}) == 6


def test_079_unused_bytes_of_an_array_do_not_count() -> None:
    np = pytest.importorskip("numpy")
    padded = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    clean, dirty = np.zeros(3, padded), np.frombuffer(b"\xff" * 48, padded).copy()
    dirty["a"], dirty["b"] = 0, 0
    assert clean.tobytes() != dirty.tobytes()
    assert stable_hash(clean) == stable_hash(dirty)


def test_079_numpy_scalars_and_dtypes_are_not_python_ones() -> None:
    np = pytest.importorskip("numpy")
    values = [1, 1.0, True, np.int64(1), np.int32(1), np.float64(1), np.bool_(True), np.array(1)]
    values += [np.dtype("i8"), np.dtype("f8"), np.float64, np.add, np.str_("1"), "1"]
    values += [np.datetime64("2020"), np.datetime64("2020-01-01"), np.array([None, 1]), [None, 1]]
    assert len({stable_hash(value) for value in values}) == len(values)


def test_079_frames_count_by_names_index_dtypes_and_values() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert stable_hash(frame) == stable_hash(frame.copy())
    values = [frame, frame.rename(columns={"a": "c"}), frame.set_index("a"), frame[["b", "a"]]]
    values += [frame.astype({"a": "Int64"}), frame.astype({"b": "category"}), frame.iloc[:1]]
    values += [frame["a"], frame["b"], frame.index, frame.columns, pd.Index([0, 1]), pd.NA, pd.NaT]
    values += [pd.Timestamp("2020"), datetime.datetime(2020, 1, 1), pd.Timedelta("1s")]
    values += [pd.date_range("2020", periods=2), pd.date_range("2020", periods=2, tz="UTC")]
    values += [pd.Series([1, None], dtype="Int64"), pd.Series([1, 0], dtype="Int64")]
    assert len({stable_hash(value) for value in values}) == len(values)


def test_hashing_imports_none_of_the_libraries_it_knows() -> None:
    program = (
        "import sys, penstock.hashing\nprint([n for n in ('numpy', 'pandas') if n in sys.modules])"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    answer = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": paths},
        capture_output=True,
        check=True,
    )
    assert answer.stdout.strip() == b"[]"
