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


def string_batch(table: Any, columns: Sequence[str], first_row: int, names: dict[str, list[str]]) -> RowBatch:
    """Turns a typed Arrow table or record batch into a batch of strings.

    Numbers are written the shortest way that reads back equal (1.0 becomes "1"), booleans as "true" and "false", lists
    and structs as JSON. NaN is missing: that is how pandas and numpy write a missing number.

    Args:
        table: the rows.
        columns: the names to use, in the table's order.
        first_row: the number of the first row, from 1.
        names: column -> class names, for columns that hold class numbers. A negative number is missing.
    """
    errors: dict[int, str] = {}
    cells = []
    for position, column in enumerate(columns):
        array = table.column(position)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        cells.append(_strings(array, column, names.get(column), errors))
    lines = list(range(first_row, first_row + table.num_rows))
    batches = table.combine_chunks().to_batches() if isinstance(table, pa.Table) else [table]
    typed = batches[0].rename_columns(list(columns)) if len(batches) == 1 else None
    return replace(build_batch(columns, cells, lines, errors), typed=typed)


def _strings(array: Any, column: str, names: list[str] | None, errors: dict[int, str]) -> Any:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if names is not None and pa.types.is_integer(kind):
        values = [names[i] if i is not None and 0 <= i < len(names) else None for i in array.to_pylist()]
        return pa.array(values, type=pa.string())
    if pa.types.is_nested(kind):
        values = [None if value is None else _json(value, names) for value in array.to_pylist()]
        return pa.array(values, type=pa.string())
    if pa.types.is_floating(kind):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:  # bytes that are not UTF-8, or (decimals, times) nothing that Arrow can write
        values = array.to_pylist()
        for row, value in enumerate(values):
            if isinstance(value, bytes):
                try:
                    values[row] = value.decode()
                except UnicodeDecodeError:
                    errors.setdefault(row, f"column '{column}' is not valid UTF-8")
                    values[row] = value.decode(errors="replace")
            elif value is not None:
                values[row] = str(value)
        return pa.array(values, type=pa.string())


def _json(value: Any, names: list[str] | None) -> str:
    if names is not None and isinstance(value, list):
        value = [names[i] if isinstance(i, int) and 0 <= i < len(names) else i for i in value]
    return json.dumps(value, ensure_ascii=False, default=str)
