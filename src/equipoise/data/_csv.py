"""Comma- and tab-separated files, RFC 4180.

Only the empty cell is missing: texts and labels such as "NA", "null" and "None" are text. Blank lines are no rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from equipoise.data._table import (
    BATCH_CHARACTERS,
    CELL_COST,
    RowBatch,
    Table,
    build_batch,
    check_columns,
    file_errors,
)
from equipoise.data._text_files import LINE_CHARACTERS, Lines, LongLine, open_text
from equipoise.errors import DataError

__all__ = ["CELL_CHARACTERS", "open_csv"]

#: A longer cell is a quote that was never closed, not a text.
CELL_CHARACTERS = 1 << 22

_ENDS = "\r\n"


def open_csv(path: Path, name: str, *, delimiter: str, batch_rows: int) -> Table:
    """Opens a csv or tsv file. The first line that is not blank is the header.

    Raises:
        DataError: the file cannot be read, is empty, or its header is broken or names two columns alike.
    """
    with file_errors(name), open_text(path, name, newline="") as file:
        lines = Lines(file, _ENDS)
        columns = check_columns(name, _header(_reader(lines, delimiter), lines, name))

    def batches() -> Iterator[RowBatch]:
        lines_read = 0
        with file_errors(name, lambda: lines_read), open_text(path, name, newline="") as file:
            lines = Lines(file, _ENDS)
            reader = _reader(lines, delimiter)
            _header(reader, lines, name)
            for batch in _batches(reader, lines, columns, batch_rows):
                lines_read = lines.number
                yield batch

    return Table(name, columns, batches)


def _reader(lines: Lines, delimiter: str) -> Any:
    # The limit belongs to the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), CELL_CHARACTERS))
    # strict: a quote that is not closed where it should be is an error at its row, and does not swallow its neighbours
    # unseen.
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _header(reader: Any, lines: Lines, name: str) -> list[str]:
    start = 1
    try:
        for row in reader:
            if row:
                return list(row)
            start = lines.number + 1
    except (csv.Error, LongLine) as error:
        raise DataError(f"{name}:{start}: the header cannot be read: {_reason(error, start, lines.number)}.") from error
    raise DataError(f"{name} is empty. It needs a header line and rows.")


def _batches(reader: Any, lines: Lines, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
    width = len(columns)
    rows: list[Sequence[str]] = []
    starts: list[int] = []
    errors: dict[int, str] = {}
    weight = 0
    while True:
        start = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except (csv.Error, LongLine) as error:
            errors[len(rows)] = _reason(error, start, lines.number)
            row = [""] * width
        if not row:
            continue
        if len(row) != width:
            errors[len(rows)] = f"has {len(row)} cell{'s'[: len(row) != 1]}, the header has {width}"
            row = (row + [""] * width)[:width]
        rows.append(row)
        starts.append(start)
        weight += sum(map(len, row)) + CELL_COST * width
        if len(rows) >= batch_rows or weight >= BATCH_CHARACTERS:
            yield _batch(columns, rows, starts, errors)
            rows, starts, errors, weight = [], [], {}, 0
    if rows:
        yield _batch(columns, rows, starts, errors)


def _batch(columns: list[str], rows: list[Sequence[str]], lines: list[int], errors: dict[int, str]) -> RowBatch:
    batch = build_batch(columns, list(zip(*rows, strict=True)), lines, errors)
    null = pa.scalar(None, pa.string())
    cells = [pc.if_else(pc.equal(column, ""), null, column) for column in batch.rows.columns]
    return RowBatch(pa.RecordBatch.from_arrays(cells, schema=batch.rows.schema), lines, batch.errors)


def _reason(error: Exception, start: int, end: int) -> str:
    """The csv module's message in the user's words. A quote may have run over several lines, which the row then holds."""
    message = str(error)
    span = f" (lines {start} to {end})" if end > start else ""
    if isinstance(error, LongLine):
        return f"a line is longer than {LINE_CHARACTERS} characters{span}"
    if "unexpected end of data" in message:
        return f"a quote is opened and never closed{span}"
    if "expected after" in message:
        return f"a quote is closed in the middle of a cell{span}"
    if "field larger" in message:
        return f"a cell is longer than {csv.field_size_limit()} characters{span}"
    return f"cannot be read: {message}{span}"
