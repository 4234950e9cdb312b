"""Promises of `penstock.plain_forms` about frames: pandas, pyarrow, polars (row 079)."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pytest
from tests.support import hashes_elsewhere

from penstock.exceptions import UnhashableInputError
from penstock.hashing import hash_arguments, stable_hash


def all_differ(values: list[Any]) -> bool:
    hashes = [stable_hash(value) for value in values]
    seen = dict(zip(hashes, values, strict=True))
    assert len(seen) == len(values), [
        v for h, v in zip(hashes, values, strict=True) if seen[h] is not v
    ]
    return True


def all_agree(values: list[Any]) -> bool:
    assert len({stable_hash(value) for value in values}) == 1
    return True


def refusal(value: Any) -> str:
    with pytest.raises(UnhashableInputError) as caught:
        hash_arguments({"x": value})
    return str(caught.value)


def samples() -> list[Any]:
    """Return values of all three libraries and numpy, for other processes to make as well."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    arrays = [np.arange(3), np.array(["a", None], object), np.array([{"b", "c"}])]
    frames = [
        pd.DataFrame({"i": index}, index=index) for index in indexes(pd) if index.nlevels == 1
    ]
    return [*arrays, *frames, *extension_series(pd), *arrow_arrays(pa), *polars_series(pl)]


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_079_every_process_gives_arrays_and_frames_the_same_hashes(seed: str) -> None:
    there = hashes_elsewhere(__file__, __name__, "samples", seed)
    assert there == [stable_hash(value) for value in samples()]


# --- pandas -----------------------------------------------------------------------------


def test_079_frames_count_by_names_index_dtypes_and_values() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    values = [frame, frame.rename(columns={"a": "c"}), frame.set_index("a"), frame[["b", "a"]]]
    values += [frame.astype({"a": "Int64"}), frame.astype({"b": "category"}), frame.iloc[:1]]
    values += [frame["a"], frame["b"], frame["a"].rename("c"), frame.index, frame.columns]
    values += [pd.DataFrame(), pd.DataFrame(index=[0]), pd.DataFrame(columns=[0])]
    values += [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[2, 1]], columns=list("aa")),
    ]
    assert all_differ(values)
    described = frame.copy()
    described.attrs["unit"] = "m"
    assert all_differ([frame, described])


def test_079_frames_of_equal_content_agree_however_they_came_about() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1.0, float("nan")], "b": ["x", None], "c": [1.5, 2.5]})
    one_by_one = pd.DataFrame(index=pd.RangeIndex(2))
    for name in frame:
        one_by_one[name] = frame[name]
    twice = pd.concat([frame, frame]).iloc[:2].set_axis(pd.RangeIndex(2))
    assert all_agree(
        [frame, frame.copy(), one_by_one, twice, frame[["b", "a", "c"]][["a", "b", "c"]]]
    )


def indexes(pd: Any) -> list[Any]:
    days = pd.date_range("2020", periods=2)
    return [
        *(pd.RangeIndex(2), pd.Index([0, 1]), pd.Index([0, 1], dtype="int8"), pd.Index([0.0, 1.0])),
        *(pd.Index(["0", "1"]), pd.Index(["0", "1"], dtype=object), pd.Index([0, "1"])),
        *(pd.Index([0, 1], name="a"), pd.Index([True, False]), pd.Index([0, None], dtype="Int64")),
        *(days, days.tz_localize("UTC"), days.tz_localize("Europe/Paris"), days.as_unit("s")),
        *(days._with_freq(None), days.to_period("D"), days.to_period("M"), days - days[0]),
        *(pd.CategoricalIndex(["a", "b"]), pd.CategoricalIndex(["a", "b"], categories=["b", "a"])),
        *(pd.CategoricalIndex(["a", "b"], ordered=True), pd.interval_range(0, 2)),
        *(pd.interval_range(0, 2, closed="left"), pd.interval_range(0.0, 2.0)),
        *(pd.MultiIndex.from_product([[0], [1, 2]]), pd.MultiIndex.from_product([[0, 1], [1]])),
        pd.MultiIndex.from_product([[0], [1, 2]], names=["a", "b"]),
    ]


def test_079_every_kind_of_index_counts_by_itself_and_in_a_frame() -> None:
    pd = pytest.importorskip("pandas")
    assert all_differ(indexes(pd))
    assert all_differ([pd.DataFrame({"x": [1, 2]}, index=index) for index in indexes(pd)])
    for one, two in zip(indexes(pd), indexes(pd), strict=True):
        assert all_agree([one, two])


def extension_series(pd: Any) -> list[Any]:
    pa = pytest.importorskip("pyarrow")
    return [
        pd.Series(values, dtype=dtype)
        for values, dtype in [
            ([1, None], "Int64"),
            ([1, 0], "Int64"),
            ([1, 0], "UInt8"),
            ([1, None], "Float64"),
            ([True, None], "boolean"),
            (["1", None], "string"),
            (["1", ""], "string"),
            (["1", None], "str"),
            (["1", None], object),
            (["1", None], "category"),
            ([1, None], "Sparse[float]"),
            (["2020-01-01", None], "period[D]"),
            ([1, None], "datetime64[ns, UTC]"),
            ([1, None], "timedelta64[s]"),
            ([1, None], pd.ArrowDtype(pa.int64())),
            ([1, None], pd.ArrowDtype(pa.timestamp("ns"))),
            ([[1], None], pd.ArrowDtype(pa.list_(pa.int64()))),
            ([pd.Interval(0, 1), None], "interval[float64, right]"),
        ]
    ]


def test_079_every_extension_dtype_counts_by_dtype_and_values() -> None:
    pd = pytest.importorskip("pandas")
    series = extension_series(pd)
    assert all_differ(series)
    assert all_differ([each.array for each in series])
    for one, two in zip(series, extension_series(pd), strict=True):
        assert all_agree([one, two])
        assert all_differ([one, one[::-1].set_axis(one.index)])


def test_079_texts_agree_whatever_pandas_keeps_them_in() -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    kinds = [pd.StringDtype("python"), pd.StringDtype("pyarrow")]
    assert all_agree([pd.Series(["é", None, ""], dtype=kind) for kind in kinds])


def test_079_moments_dtypes_and_offsets_of_pandas_are_told_apart() -> None:
    pd = pytest.importorskip("pandas")
    moment = pd.Timestamp("2020")
    values = [moment, datetime.datetime(2020, 1, 1), moment.as_unit("s"), moment.tz_localize("UTC")]
    values += [pd.Timestamp("2020-01-01 00:00:00.000000001"), pd.NA, pd.NaT, None, float("nan")]
    values += [
        pd.Timedelta("1s"),
        datetime.timedelta(seconds=1),
        pd.Period("2020"),
        pd.Period("2020-01"),
    ]
    values += [pd.Interval(0, 1), pd.Interval(0, 1, closed="both"), pd.offsets.Day(2)]
    values += [pd.offsets.Day(1), pd.offsets.Hour(2), pd.offsets.MonthEnd(2)]
    dtypes = [
        pd.CategoricalDtype(["a"]),
        pd.CategoricalDtype(["b"]),
        pd.CategoricalDtype(["a"], ordered=True),
    ]
    dtypes += [
        pd.Int64Dtype(),
        pd.Int32Dtype(),
        pd.PeriodDtype("D"),
        pd.DatetimeTZDtype("ns", "UTC"),
    ]
    assert all_differ([*values, *dtypes])


def test_079_what_a_subclass_of_a_frame_adds_by_pandas_rules_counts() -> None:
    pd = pytest.importorskip("pandas")

    class Measured(pd.DataFrame):  # type: ignore[misc, name-defined]  # pandas has no types here
        _metadata = ["unit"]  # noqa: RUF012  (as pandas has it)

    metres, feet = Measured({"a": [1]}), Measured({"a": [1]})
    metres.unit, feet.unit = "m", "ft"
    assert all_differ([metres, feet, pd.DataFrame({"a": [1]})])


def test_users_19_an_error_inside_a_frame_names_the_column_and_the_row() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": [None, object()]})
    assert refusal(frame).startswith("argument 'x' -> column 1 ('b') -> [1] cannot be part of")


# --- pyarrow ----------------------------------------------------------------------------


def arrow_arrays(pa: Any) -> list[Any]:
    number, text = pa.int64(), pa.string()
    columns = [
        ([1, None, 3], number),
        ([1, 0, 3], number),
        ([1, None, 3], pa.int8()),
        ([1, None, 3], pa.uint64()),
        ([1.0, None, float("nan")], pa.float64()),
        ([1.0, None, 3.0], pa.float32()),
        ([1.0, None, 3.0], pa.float16()),
        ([True, None, False], pa.bool_()),
        (["a", None, "bc"], text),
        (["a", "", "bc"], text),
        (["ab", "", "c"], text),
        (["a", None, "bc"], pa.large_string()),
        (["a", None, "bc"], pa.string_view()),
        ([b"a", None, b"bc"], pa.binary()),
        ([b"ab", None, b"bc"], pa.binary(2)),
        ([b"a", None, b"bc"], pa.binary_view()),
        ([1, None, 3], pa.timestamp("ns", "UTC")),
        ([1, None, 3], pa.timestamp("ns")),
        ([1, None, 3], pa.timestamp("s")),
        ([1, None, 3], pa.date32()),
        ([86400000, None, 0], pa.date64()),
        ([1, None, 3], pa.time32("s")),
        ([1, None, 3], pa.duration("us")),
        ([(1, 2, 3), None, (0, 0, 1)], pa.month_day_nano_interval()),
        ([decimal.Decimal("1.10"), None, decimal.Decimal(0)], pa.decimal128(5, 2)),
        ([decimal.Decimal("1.10"), None, decimal.Decimal(0)], pa.decimal256(5, 2)),
        ([[1, None], None, []], pa.list_(number)),
        ([[1], [None], []], pa.list_(number)),
        ([[1, None], None, []], pa.large_list(number)),
        ([[1, None], None, []], pa.list_view(number)),
        ([[1, None], None, [2, 3]], pa.list_(number, 2)),
        (
            [{"a": 1, "b": "x"}, None, {"a": None, "b": None}],
            pa.struct([("a", number), ("b", text)]),
        ),
        ([[("a", 1)], None, [("b", None)]], pa.map_(text, number)),
        ([[["a"], None], None, [[]]], pa.list_(pa.list_(text))),
        (["a", None, "b"], pa.dictionary(pa.int32(), text)),
        (["a", None, "b"], pa.dictionary(pa.int8(), text)),
        ([None, None, None], pa.null()),
        ([b"0" * 16, None, b"1" * 16], pa.uuid()),
    ]
    return [pa.array(values, kind) for values, kind in columns]


def test_079_arrow_arrays_count_by_type_nulls_and_values() -> None:
    pa = pytest.importorskip("pyarrow")
    arrays = arrow_arrays(pa)
    assert all_differ(arrays)
    assert all_differ([array.type for array in arrays[:1] + arrays[2:9]])
    assert all_differ([array[0] for array in arrays[2:9]] + [1, 1.0, True, "a"])


def test_079_arrow_arrays_that_are_cut_or_joined_agree_with_whole_ones() -> None:
    pa = pytest.importorskip("pyarrow")
    for array in arrow_arrays(pa):
        long = pa.concat_arrays([array, array, array])
        assert all_agree(
            [array, long.slice(3, 3), pa.concat_arrays([array.slice(0, 1), array.slice(1)])]
        )
        if not pa.types.is_dictionary(array.type):  # what else the dictionary holds can be asked
            last = pa.concat_arrays([array, array]).slice(5, 1)
            assert all_agree([last, pa.array(last.to_pylist(), array.type)])
        chunked = [pa.chunked_array([array]), pa.chunked_array([array.slice(0, 2), array.slice(2)])]
        chunked += [pa.chunked_array([long.slice(2, 1), long.slice(6, 3)]).slice(1)]
        tables = [pa.table({"a": each}) for each in chunked]
        assert all_agree(chunked)
        assert all_agree(tables)
        assert all_differ([array, chunked[0], tables[0], tables[0].to_batches()[0]])
        empty = [array.slice(3), pa.array([], array.type)]
        if not pa.types.is_dictionary(array.type):
            assert all_agree(empty)


def test_079_what_lies_under_a_null_and_the_bits_of_a_nan_do_not_count() -> None:
    pa = pytest.importorskip("pyarrow")
    np = pytest.importorskip("numpy")
    mask = np.array([False, True])
    numbers = [pa.array(np.array([1, hidden]), mask=mask) for hidden in (2, 3)]
    assert all_agree([*numbers, pa.array([1, None])])
    hidden_text = pa.Array.from_buffers(
        pa.string(),
        2,
        [pa.py_buffer(b"\x01"), pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"abc")],
    )
    assert all_agree([hidden_text, pa.array(["a", None])])
    nans = [pa.array(np.array([1, sign * np.float64("nan")])) for sign in (1, -1)]
    assert all_agree(nans)


def test_079_arrow_tables_count_by_schema_and_columns() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    values = [table, table.select(["b", "a"]), table.rename_columns(["a", "c"]), table.slice(1)]
    values += [table.replace_schema_metadata({"k": "v"}), table.schema, table.schema.field("a")]
    values += [
        table.select([]),
        pa.table({}),
        table.cast(pa.schema([("a", "int8"), ("b", "string")])),
    ]
    assert all_differ([*values, pa.py_buffer(b"x"), b"x"])


def test_079_a_reader_of_arrow_batches_is_refused_with_advice() -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1]})
    assert "reader.read_all()" in refusal(table.to_reader())
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    assert "unions are not supported" in refusal(union)


# --- polars -----------------------------------------------------------------------------


def polars_series(pl: Any) -> list[Any]:
    letters = pl.Enum(["a", "b"])
    columns = [
        ([1, None, 3], pl.Int64),
        ([1, 0, 3], pl.Int64),
        ([1, None, 3], pl.UInt8),
        ([1, None, 3], pl.Int128),
        ([1.0, None, float("nan")], pl.Float64),
        ([1.0, None, 2.0], pl.Float32),
        ([True, None, False], pl.Boolean),
        (["a", None, "b"], pl.String),
        (["a", "", "b"], pl.String),
        (["a", None, "b"], pl.Categorical),
        (["a", None, "b"], letters),
        (["a", None, "b"], pl.Enum(["b", "a"])),
        ([b"a", None, b"b"], pl.Binary),
        ([1, None, 3], pl.Datetime("ns")),
        ([1, None, 3], pl.Datetime("us")),
        ([1, None, 3], pl.Datetime("us", "UTC")),
        ([1, None, 3], pl.Date),
        ([1, None, 3], pl.Time),
        ([1, None, 3], pl.Duration("ns")),
        ([decimal.Decimal(1), None, decimal.Decimal(2)], pl.Decimal(10, 2)),
        ([[1, None], None, []], pl.List(pl.Int64)),
        ([[1], [None], []], pl.List(pl.Int64)),
        ([[1], [], [None]], pl.List(pl.Int64)),
        ([[1, None], None, [2, 3]], pl.Array(pl.Int64, 2)),
        (
            [{"a": 1, "b": "x"}, None, {"a": None, "b": None}],
            pl.Struct({"a": pl.Int64, "b": pl.String}),
        ),
        ([None, None, None], pl.Null),
    ]
    return [pl.Series("s", values, dtype) for values, dtype in columns]


def test_079_polars_series_count_by_name_dtype_nulls_and_values() -> None:
    pl = pytest.importorskip("polars")
    series = polars_series(pl)
    assert all_differ([*series, series[0].rename("t")])
    assert all_differ([each.dtype for each in series[1:8]])


def test_079_polars_series_that_are_cut_or_joined_agree_with_whole_ones() -> None:
    pl = pytest.importorskip("polars")
    for series, again in zip(polars_series(pl), polars_series(pl), strict=True):
        long = pl.concat([series, series], rechunk=False)
        assert all_agree([series, again, long[3:], long[:3], long.rechunk()[3:]])
        frames = [
            pl.DataFrame([series]),
            pl.concat([pl.DataFrame([again[:1]]), again[1:].to_frame()]),
        ]
        assert all_agree(frames)
        assert all_differ([series, frames[0]])
        assert all_agree([series[3:], again[3:]])


def test_079_nanoseconds_inside_lists_count() -> None:
    pl = pytest.importorskip("polars")
    kind = pl.List(pl.Datetime("ns"))
    assert all_differ([pl.Series([[1, 2]]).cast(kind), pl.Series([[1, 3]]).cast(kind)])


def test_079_polars_frames_count_by_names_order_and_values() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    values = [frame, frame.select("b", "a"), frame.rename({"a": "c"}), frame[:1], pl.DataFrame()]
    assert all_differ([*values, frame.to_dicts(), frame.schema])
    assert all_agree([frame, frame.clone(), frame.sort("a")])


def test_079_lazy_frames_and_expressions_are_refused_with_advice() -> None:
    pl = pytest.importorskip("polars")
    assert "lazy_frame.collect()" in refusal(pl.LazyFrame({"a": [1]}))
    assert "inside the task" in refusal(pl.col("a"))
