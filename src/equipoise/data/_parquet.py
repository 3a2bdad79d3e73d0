"""Parquet files, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.data._arrow import string_batch
from equipoise.data._table import BATCH_CHARACTERS, CELL_COST, RowBatch, Table, check_columns, file_errors
from equipoise.errors import DataError

__all__ = ["open_parquet"]

#: Rows that are decoded together before anyone looks at how long they are: a dictionary page makes much text of few bytes.
_PIECE = 64
# What the library raises at a file that is none, or is broken. OSError without a number is its own, too.
_BROKEN = (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError)


def open_parquet(path: Path, name: str, *, batch_rows: int, needed: Sequence[str]) -> Table:
    """Opens a parquet file.

    Args:
        path: the file.
        name: the file as the user wrote it.
        batch_rows: rows a batch at most; fewer where cells are long.
        needed: the columns whose cells can make a row unusable; none named = all.

    Raises:
        DataError: the file cannot be read, is no parquet file, or names two columns alike.
    """
    with file_errors(name):
        if not path.stat().st_size:
            raise DataError(f"{name} is empty.")
        try:
            with pq.ParquetFile(path) as file:
                columns = check_columns(name, file.schema_arrow.names)
        except (*_BROKEN, OSError) as error:
            raise _not_parquet(name, "not a parquet file", error) from error
    rows_at_once = max(1, min(batch_rows, BATCH_CHARACTERS // (CELL_COST * max(len(columns), 1))))

    def batches() -> Iterator[RowBatch]:
        rows = 0
        for batch in _joined(path, name, rows_at_once):
            yield string_batch(batch, columns, rows + 1, {}, needed)
            rows += batch.num_rows

    return Table(name, columns, batches)


def _joined(path: Path, name: str, rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of `rows`, the last one smaller, and any whose cells are long."""
    held: list[pa.RecordBatch] = []
    read = count = size = 0
    try:
        with pq.ParquetFile(path) as file:
            for piece in file.iter_batches(batch_size=min(rows, _PIECE)):
                read += piece.num_rows
                rest = piece
                while count + rest.num_rows >= rows:
                    yield from _one([*held, rest.slice(0, rows - count)])
                    rest = rest.slice(rows - count)
                    held, count, size = [], 0, 0
                if rest.num_rows:
                    held.append(rest)
                    count += rest.num_rows
                    size += sum(map(_bytes, rest.columns))
                if size >= BATCH_CHARACTERS:
                    yield from _one(held)
                    held, count, size = [], 0, 0
    except (*_BROKEN, OSError) as error:
        raise _not_parquet(name, f"broken after row {read}", error) from error
    yield from _one(held)


def _bytes(column: Any) -> int:
    """What a column takes once every row has its own text. A dictionary may hold a few, and all rows mean them."""
    if pa.types.is_dictionary(column.type):
        try:
            lengths = pc.binary_length(column.dictionary).take(column.indices)
        except pa.ArrowException:  # of what is no text, each takes what it takes
            return int(column.nbytes)
        return int(pc.sum(lengths).as_py() or 0)
    return int(column.nbytes)


def _one(pieces: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(pieces) < 2:
        return pieces
    batches: list[pa.RecordBatch] = pa.Table.from_batches(pieces).combine_chunks().to_batches()
    return batches


def _not_parquet(name: str, what: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{name}: cannot be read ({error.strerror}).")
    first = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
    return DataError(f"{name}: {what} ({first[:300]}).")
