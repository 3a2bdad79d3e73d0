"""Typed Arrow columns (parquet, hub) as the strings that the rest of the room reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from equipoise.data._table import RowBatch, build_batch

__all__ = ["string_batch"]


def string_batch(
    table: Any, columns: Sequence[str], first_row: int, names: dict[str, list[str]], needed: Sequence[str] = ()
) -> RowBatch:
    """Turns a typed Arrow table or record batch into a batch of strings.

    Numbers are written the shortest way that reads back equal (1.0 becomes "1"), booleans as "true" and "false", lists
    and structs as JSON. NaN is missing: that is how pandas and numpy write a missing number.

    Args:
        table: the rows.
        columns: the names to use, in the table's order.
        first_row: the number of the first row, from 1.
        names: column -> class names, for columns that hold class numbers. A negative number is missing.
        needed: the columns whose cells can make a row unusable; none named = all. Text that is none does so in any column, a
            picture beside the text does not.
    """
    errors: dict[int, str] = {}
    cells, typed = [], []
    checked: set[str] = set()
    for position, column in enumerate(columns):
        array = table.column(position)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        found: dict[int, str] = {}
        strings = _strings(array, column, names.get(column), found)
        cells.append(strings)
        # Text that is no UTF-8 cannot be written out again as it is.
        typed.append(strings.cast(array.type) if found and _is_text(array.type) else array)
        if not needed or column in needed or _is_text(array.type):
            checked.add(column)
            for row, reason in found.items():
                errors.setdefault(row, reason)
    lines = list(range(first_row, first_row + table.num_rows))
    schema = pa.schema([field.with_name(name) for field, name in zip(table.schema, columns, strict=True)])
    batch = pa.RecordBatch.from_arrays(typed, schema=schema)
    return replace(build_batch(columns, cells, lines, errors, checked=checked), typed=batch)


def _strings(array: Any, column: str, names: list[str] | None, errors: dict[int, str]) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if names is not None and pa.types.is_integer(kind):
        values = [names[i] if i is not None and 0 <= i < len(names) else None for i in array.to_pylist()]
        return pa.array(values, type=pa.string())
    if pa.types.is_nested(kind):
        return _one_by_one(array, column, names, errors)
    try:
        if _is_text(kind):
            array.validate(full=True)  # files of others say text and hold any bytes
        if pa.types.is_floating(kind):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
        return array.cast(pa.string())
    except (pa.ArrowException, ValueError):
        # Bytes that are not UTF-8, or (decimals, times, spans of time) nothing that Arrow can write.
        return _one_by_one(array.cast(pa.large_binary()) if _is_text(kind) else array, column, names, errors)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _one_by_one(array: Any, column: str, names: list[str] | None, errors: dict[int, str]) -> pa.Array:
    values: list[str | None] = []
    for row, scalar in enumerate(array):
        try:
            values.append(_text(scalar.as_py(), names))
        except UnicodeDecodeError:
            errors.setdefault(row, f"column '{column}' is not valid UTF-8")
            values.append(bytes(scalar.as_buffer()).decode(errors="replace") if hasattr(scalar, "as_buffer") else None)
        except Exception:  # a year 300000, a time zone that there is none of, a record with two fields of one name
            errors.setdefault(row, f"column '{column}' holds a {str(array.type)[:60]} that cannot be read")
            values.append(None)
    return pa.array(values, type=pa.string())


def _text(value: Any, names: list[str] | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, (list, dict)):
        return None if value != value else str(value)  # NaN of a kind of its own
    if names is not None and isinstance(value, list):
        value = [names[i] if isinstance(i, int) and 0 <= i < len(names) else i for i in value]
    return json.dumps(value, ensure_ascii=False, default=str)
