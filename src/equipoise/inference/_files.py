"""Predictions for a whole table, batch by batch: memory does not grow with the file.

The input's order and columns are kept and the prediction columns added. A row that cannot be predicted stays in its
place with empty predictions and its reason in the column `error`.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data import open_table
from equipoise.data._table import nothing_to_read
from equipoise.errors import DataError
from equipoise.inference._predictor import Model
from equipoise.inference._spreadsheet import safe_cell, safe_header
from equipoise.runs import atomic_path
from equipoise.terminal import json_text

__all__ = ["OUTPUT_KINDS", "Counts", "predict_file", "predict_lines"]

OUTPUT_KINDS = ("csv", "tsv", "jsonl", "parquet")
ERROR_COLUMN = "error"


@dataclass(frozen=True)
class _Rows:
    """Rows to write: as they came, and what is said about them."""

    given: pa.RecordBatch
    records: list[dict[str, Any]] | None  # as they stood in JSON lines; None for other sources
    added: pa.RecordBatch

    def table(self) -> pa.RecordBatch:
        """All columns side by side."""
        return pa.RecordBatch.from_arrays(
            [*self.given.columns, *self.added.columns], schema=pa.schema([*self.given.schema, *self.added.schema])
        )


Write = Callable[[_Rows], None]


@dataclass
class Counts:
    """How many rows were seen, and how many of them could not be predicted."""

    rows: int = 0
    bad: int = 0


def predict_file(
    model: Model,
    source: str | Path,
    output: str | Path,
    *,
    batch_rows: int = 4096,
    raw_cells: bool = False,
    progress: Callable[[Counts], None] | None = None,
    most_characters: int | None = None,
) -> Counts:
    """Predicts every row of a table and writes it to another.

    Args:
        model: of `equipoise.load`.
        source: csv, tsv, jsonl, parquet or `hub:...`, with the model's text columns.
        output: csv, tsv, jsonl or parquet, by its name; written whole or not at all. `-` is jsonl on standard output.
        batch_rows: rows in memory at once.
        raw_cells: csv and tsv only: write texts that begin as a formula does as they are. Else they get an apostrophe
            before them, so that no spreadsheet runs them.
        progress: is told the counts after each batch.
        most_characters: of a text; a longer one is a row that cannot be predicted. A tokenizer reads a text whole, however
            little of it the model does, so one of a gigabyte takes many.

    Raises:
        DataError: the source cannot be read or has not the text columns, the output's kind is unknown, or it cannot be
            written.
    """
    table = open_table(source, batch_rows=batch_rows, needed=model.text)
    missing = [name for name in model.text if name not in table.columns]
    if missing:
        shown = ", ".join(table.columns[:30]) + (", ..." if len(table.columns) > 30 else "")
        raise DataError(
            f"{table.name} has no column '{missing[0]}'. The model reads {', '.join(model.text)}; columns: {shown}"
        )
    if str(output) != "-" and not str(source).startswith("hub:") and _same(output, source):
        raise DataError(f"{output}: the output would replace the input. Choose another name")
    names = prediction_names(model, table.columns)
    counts = Counts()
    with _open_output(str(output), raw_cells=raw_cells) as write:
        for batch in table:
            texts = [batch.rows.column(batch.rows.schema.get_field_index(name)).to_pylist() for name in model.text]
            added = _annotate(model, texts, dict(batch.errors), names, counts, most_characters)
            write(_Rows(batch.typed if batch.typed is not None else batch.rows, batch.records, added))
            if progress is not None:
                progress(counts)
    return counts


def predict_lines(
    model: Model, lines: TextIO, output: str | Path, *, batch_rows: int = 256, raw_cells: bool = False
) -> Counts:
    """Predicts one text a line (a pair: two texts with a tab between) as they come, for pipes.

    Args:
        model: of `equipoise.load`.
        lines: text that was read with `errors="surrogateescape"`, so that a stray byte spoils one line and not all.
        output: as for `predict_file`.
        batch_rows: lines in memory at once.
        raw_cells: as for `predict_file`.
    """
    names = prediction_names(model, model.text)
    counts = Counts()
    with _open_output(str(output), raw_cells=raw_cells) as write:
        for chunk in _chunks(lines, batch_rows):
            errors: dict[int, str] = {}
            texts: list[list[str | None]] = [[] for _ in model.text]
            for position, raw in enumerate(chunk):
                line = raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if line != raw:
                    errors[position] = "is not valid UTF-8"
                cells = line.rstrip("\r\n").split("\t") if len(model.text) > 1 else [line.rstrip("\r\n")]
                if len(cells) != len(model.text):
                    errors.setdefault(
                        position, f"has {len(cells)} texts, the model reads {len(model.text)} (with a tab between)"
                    )
                    cells = [*cells, *[""] * len(model.text)][: len(model.text)]
                for column, cell in zip(texts, cells, strict=True):
                    column.append(cell)
            rows = pa.RecordBatch.from_arrays(
                [pa.array(column, pa.string()) for column in texts], names=list(model.text)
            )
            write(_Rows(rows, None, _annotate(model, texts, errors, names, counts)))
        if not counts.rows:  # no line came: the output has its columns all the same
            empty = pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in model.text})
            write(_Rows(empty, None, _annotate(model, [[] for _ in model.text], {}, names, counts)))
    return counts


def prediction_names(model: Model, columns: Sequence[str]) -> dict[str, str]:
    """Prediction column -> its name in the output; one that the input has already becomes `predicted/<name>`."""
    made = list(model.read(np.zeros((1, sum(task.size for task in model.tasks.values())), dtype=np.float32)))
    taken = set(columns)
    names = {}
    for name in [*made, ERROR_COLUMN]:
        final = name
        while final in taken:
            final = f"predicted/{final}"
        taken.add(final)
        names[name] = final
    return names


def _annotate(
    model: Model,
    texts: list[list[str | None]],
    errors: dict[int, str],
    names: dict[str, str],
    counts: Counts,
    most_characters: int | None = None,
) -> pa.RecordBatch:
    count = len(texts[0])
    for name, column in zip(model.text, texts, strict=True):
        for position, value in enumerate(column):
            if value is None or not value.strip():
                errors.setdefault(position, f"column '{name}' is empty")
            elif nothing_to_read(value):
                errors.setdefault(position, f"column '{name}' holds no character that can be seen")
            elif most_characters is not None and len(value) > most_characters:
                what = f"has {len(value)} characters, at most {most_characters} are taken"
                errors.setdefault(position, f"column '{name}' {what}")
    good = [position for position in range(count) if position not in errors]
    found = model.read(model.outputs(*[[column[i] or "" for i in good] for column in texts]))
    places = np.full(count, -1, dtype=np.int64)
    places[good] = np.arange(len(good))
    index = pa.array(places, mask=places < 0)  # null where there is no prediction
    columns = {names[name]: pa.array(values.tolist(), _type_of(values)).take(index) for name, values in found.items()}
    columns[names[ERROR_COLUMN]] = pa.array([errors.get(position) for position in range(count)], pa.string())
    counts.rows += count
    counts.bad += len(errors)
    return pa.RecordBatch.from_pydict(columns)


def _type_of(values: np.ndarray[Any, Any]) -> pa.DataType:
    return pa.string() if values.dtype.kind in "OUT" else pa.from_numpy_dtype(values.dtype)


def _same(output: str | Path, source: str | Path) -> bool:
    try:
        return Path(output).resolve() == Path(source).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL
        raise DataError(f"{str(output)!r}: cannot be written ({error})") from error


def _chunks(lines: TextIO, size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@contextlib.contextmanager
def _open_output(output: str, *, raw_cells: bool) -> Iterator[Write]:
    if output == "-":
        yield _json_writer(sys.stdout)
        sys.stdout.flush()
        return
    try:
        with _open_file(output, raw_cells) as write:
            yield write
    except (OSError, pa.ArrowException) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{output}: cannot be written ({told})") from error


@contextlib.contextmanager
def _open_file(output: str, raw_cells: bool) -> Iterator[Write]:
    path = Path(output)
    suffixes = [suffix.lstrip(".").lower() for suffix in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == "gz"
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    if kind not in OUTPUT_KINDS or (zipped and kind == "parquet"):
        raise DataError(f"{output}: cannot write files of this kind. Known: {', '.join('.' + k for k in OUTPUT_KINDS)}")
    with atomic_path(path) as temporary:
        if kind == "parquet":
            with _parquet_writer(temporary) as write:
                yield write
            return
        with (
            gzip.open(temporary, "wb") if zipped else temporary.open("wb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="") as text,
        ):
            if kind == "jsonl":
                yield _json_writer(text)
            else:
                yield _csv_writer(text, "\t" if kind == "tsv" else ",", raw_cells)


def _json_writer(file: TextIO) -> Write:
    def write(rows: _Rows) -> None:
        given = rows.records if rows.records is not None else _records(rows.given)
        for row, added in zip(given, rows.added.to_pylist(), strict=True):
            # A key of the row's own that no column announced stays, and the prediction beside it gives way.
            found = {f"predicted/{name}" if name in row else name: value for name, value in added.items()}
            line = json_text(_json_value({**row, **found}), default=str)
            # Half a character, which JSON can hold, is written as the escape that it came as.
            file.write(line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
        file.flush()

    return write


def _json_value(value: Any) -> Any:
    """NaN and infinity are no JSON, and our own reader refuses them: they are written as null."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _LineFeeds:
    """Takes rows that end with both line ends, so that the csv module quotes cells that hold either; one is written."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        self._file.write(row[:-2] + "\n")


def _csv_writer(file: TextIO, delimiter: str, raw_cells: bool) -> Write:
    writer = csv.writer(_LineFeeds(file), delimiter=delimiter, lineterminator="\r\n")
    started = False

    def write(rows: _Rows) -> None:
        nonlocal started
        batch = rows.table()
        if not started:
            writer.writerow(batch.schema.names if raw_cells else safe_header(batch.schema.names))
            started = True
        names = batch.schema.names
        columns = [_cells(column, name) for column, name in zip(batch.columns, names, strict=True)]
        if not raw_cells:
            columns = [[safe_cell(_text(value)) for value in column] for column in columns]
        writer.writerows(zip(*columns, strict=True))

    return write


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = batch.schema.names
    columns = [_values(column, name) for column, name in zip(batch.columns, names, strict=True)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array, name: str) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except Exception as error:  # a year 300000, a time zone that there is none of, a record with two fields of one name
        raise DataError(
            f"column '{name}' ({column.type}) cannot be written as text ({error}). Leave it out, or write parquet."
        ) from error
    return values


def _text(value: Any) -> Any:
    """What the csv module would write of a value that is neither text nor number: a span of time may begin with a minus."""
    return value if value is None or isinstance(value, str | int | float | Decimal) else str(value)


def _cells(column: pa.Array, name: str) -> list[Any]:
    values = _values(column, name)
    if pa.types.is_nested(column.type):
        return [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return values


@contextlib.contextmanager
def _parquet_writer(path: Path) -> Iterator[Write]:
    writer: pq.ParquetWriter | None = None

    def write(rows: _Rows) -> None:
        nonlocal writer
        batch = rows.table()
        if writer is None:
            writer = pq.ParquetWriter(path, batch.schema)
        writer.write_batch(batch)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
