"""Plain forms of pyarrow's tables, arrays, types and scalars.

By type and values: where an array was cut from a longer one, and in how many chunks it comes,
does not count, nor what the memory holds in place of a null.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from penstock.plain_forms.arrays import one_nan
from penstock.plain_forms.base import NoStableHashError, Parts

if TYPE_CHECKING:
    from penstock.plain_forms.base import PlainForm

__all__ = ["BY_NAME", "COMPLETE"]


def _table(table: Any) -> object:
    parts = Parts(_schema=_schema(table.schema), _rows=table.num_rows)
    for place, (name, column) in enumerate(zip(table.schema.names, table.columns, strict=True)):
        parts[f"column {place} ({name!r})"] = _whole(column)
    return parts


def _schema(schema: Any) -> object:
    return ([_field(field) for field in schema], schema.metadata)


def _field(field: Any) -> object:
    return (field.name, str(field.type), field.nullable, field.metadata)


def _whole(column: Any) -> object:
    """Restate a chunked array as one array."""
    if not hasattr(column, "chunks"):
        return _array(column)
    arrow, kind = sys.modules["pyarrow"], str(column.type)
    if _is_text(column.type):  # all texts of a column may be too long for their own type
        column = column.cast(arrow.large_binary())
    array = column.unify_dictionaries().combine_chunks()
    if hasattr(array, "chunks"):
        array = arrow.concat_arrays(array.chunks)
    return (kind, _array(array))


def _array(array: Any) -> object:
    return Parts(_type=str(array.type), _nulls=_nulls(array), _values=_values(array))


def _nulls(array: Any) -> object:
    return _memory(array.is_null().cast("uint8")) if array.null_count else len(array)


def _values(array: Any) -> object:
    arrow, kind = sys.modules["pyarrow"], array.type
    types = arrow.types
    if isinstance(array, arrow.ExtensionArray):
        stated = getattr(kind, "__arrow_ext_serialize__", bytes)()
        return (kind.extension_name, stated, _array(array.storage))
    if types.is_boolean(kind):
        return _memory(array.fill_null(False).cast("uint8"))
    if types.is_primitive(kind) and kind.bit_width <= 64:
        return _numbers(array)
    if types.is_fixed_size_binary(kind):
        return _memory(array.fill_null(bytes(kind.byte_width)))
    if _is_text(kind):
        return _texts(array)
    if types.is_dictionary(kind):
        return (_array(array.indices), _array(array.dictionary))
    if types.is_struct(kind):
        fields = [kind.field(place).name for place in range(kind.num_fields)]
        named = enumerate(zip(fields, array.flatten(), strict=True))
        return Parts((f"field {place} ({name!r})", _array(each)) for place, (name, each) in named)
    if types.is_map(kind):
        entries = arrow.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _array(array.cast(arrow.list_(entries)))
    if types.is_nested(kind) and hasattr(array, "value_lengths"):
        return (_array(array.value_lengths()), _array(array.flatten()))
    if types.is_run_end_encoded(kind):
        return _array(sys.modules["pyarrow.compute"].run_end_decode(array))
    if types.is_union(kind):
        raise NoStableHashError(type(array), "unions are not supported")
    return array.to_pylist()


def _is_text(kind: Any) -> bool:
    types = sys.modules["pyarrow"].types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def _numbers(array: Any) -> object:
    types, kind = sys.modules["pyarrow"].types, array.type
    if types.is_floating(kind):
        memory = _memory(array.fill_null(0.0))
        numpy = sys.modules.get("numpy")
        if numpy is None or not len(memory):
            return memory
        return one_nan(numpy.frombuffer(memory, f"f{kind.bit_width // 8}")).view("u1").data
    if not types.is_integer(kind):  # moments and durations
        array = array.view(f"int{kind.bit_width}")
    return _memory(array.fill_null(0))


def _memory(array: Any) -> Any:
    """Return the memory of an array whose items take the same number of bytes each."""
    buffer, width = array.buffers()[1], array.type.bit_width // 8
    if buffer is None or not len(array):
        return b""
    return memoryview(buffer).cast("B")[array.offset * width : (array.offset + len(array)) * width]


def _texts(array: Any) -> object:
    array = array.cast(sys.modules["pyarrow"].large_binary()).fill_null(b"")
    _, offsets, content = array.buffers()
    if not len(array) or content is None:
        return (len(array), b"", b"")
    lengths = sys.modules["pyarrow.compute"].binary_length(array)
    place = memoryview(offsets).cast("B").cast("q")
    first, last = place[array.offset], place[array.offset + len(array)]
    return (len(array), _memory(lengths), memoryview(content).cast("B")[first:last])


def _scalar(scalar: Any) -> object:
    arrow = sys.modules["pyarrow"]
    return _array(arrow.array([scalar], scalar.type))


BY_NAME: dict[str, PlainForm] = {
    "pyarrow.Table": _table,
    "pyarrow.RecordBatch": _table,
    "pyarrow.Array": _array,
    "pyarrow.ChunkedArray": _whole,
    "pyarrow.Scalar": _scalar,
    "pyarrow.Schema": _schema,
    "pyarrow.Field": _field,
    "pyarrow.DataType": str,
    "pyarrow.Buffer": lambda b: memoryview(b),
}

COMPLETE = frozenset({"pyarrow.Array", "pyarrow.DataType", "pyarrow.Scalar", "pyarrow.Buffer"})
