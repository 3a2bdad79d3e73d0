"""Parquet files, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data._arrow import string_batch
from equipoise.data._table import RowBatch, Table, check_columns, file_errors
from equipoise.errors import DataError

__all__ = ["open_parquet"]


def open_parquet(path: Path, name: str, *, batch_rows: int) -> Table:
    """Opens a parquet file.

    Raises:
        DataError: the file cannot be read, is no parquet file, or names two columns alike.
    """
    with file_errors(name):
        if not path.stat().st_size:
            raise DataError(f"{name} is empty.")
        try:
            with pq.ParquetFile(path) as file:
                columns = check_columns(name, file.schema_arrow.names)
        except pa.ArrowInvalid as error:
            raise DataError(f"{name}: not a parquet file ({_first_sentence(error)}).") from error

    def batches() -> Iterator[RowBatch]:
        rows = 0
        with file_errors(name), pq.ParquetFile(path) as file:
            try:
                for batch in file.iter_batches(batch_size=batch_rows):
                    yield string_batch(batch, columns, rows + 1, {})
                    rows += batch.num_rows
            except pa.ArrowException as error:
                raise DataError(f"{name}: broken after row {rows} ({_first_sentence(error)}).") from error

    return Table(name, columns, batches)


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".")
