"""What every reader gives: a table of strings, batch by batch, in the file's order, broken rows in their places."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equipoise.errors import DataError

__all__ = ["BATCH_CHARACTERS", "RowBatch", "Table", "build_batch", "check_columns", "file_errors", "open_text"]

#: A batch is closed when its cells hold this many characters, so that a file of long texts stays bounded in memory.
BATCH_CHARACTERS = 1 << 25

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a table.

    Attributes:
        rows: every column as string or null, in the file's order. A row with an error keeps what could be read of it.
        lines: `[rows]` the line, from 1, in which each row starts (parquet and hub: the number of the row, from 1).
        errors: position in `rows` -> why that row is broken.
        typed: the same rows with the types of the source (parquet and hub), for who writes them out again.
        records: the same rows as the objects that stood there (JSON lines; `{}` for a broken one), likewise.
    """

    rows: pa.RecordBatch
    lines: list[int]
    errors: dict[int, str] = field(default_factory=dict)
    typed: pa.RecordBatch | None = None
    records: list[dict[str, Any]] | None = None


class Table:
    """A table of strings that can be read from its start any number of times; between readings no file is open.

    Attributes:
        name: the source as the user wrote it; error messages name it.
        columns: the column names, in the file's order.
    """

    def __init__(self, name: str, columns: list[str], batches: Callable[[], Iterator[RowBatch]]) -> None:
        self.name = name
        self.columns = columns
        self._batches = batches

    def __iter__(self) -> Iterator[RowBatch]:
        empty = True
        for batch in self._batches():
            if batch.lines:
                empty = False
                yield batch
        if empty:
            raise DataError(f"{self.name} has columns ({', '.join(self.columns)}) but no rows.")


def build_batch(columns: Sequence[str], cells: Sequence[Any], lines: list[int], errors: dict[int, str]) -> RowBatch:
    """Makes a batch of strings and marks the rows whose text no tokenizer should see.

    Args:
        columns: the column names.
        cells: one sequence of `str | None`, or one Arrow string array, per column.
        lines: `[rows]` where each row starts.
        errors: what is already known to be broken; more is added, the first reason for a row stays.
    """
    arrays = []
    for column, values in zip(columns, cells, strict=True):
        try:
            array = pa.array(values, type=pa.string())
        except UnicodeEncodeError:
            # `surrogateescape` reads a stray byte as a lone surrogate, and JSON may hold one outright.
            values = list(values)
            for position, value in enumerate(values):
                if value is not None and _SURROGATE.search(value):
                    errors.setdefault(position, f"column '{column}' is not valid UTF-8")
                    values[position] = _SURROGATE.sub("\ufffd", value)
            array = pa.array(values, type=pa.string())
        nul = pc.match_substring(array, "\0")
        if pc.any(nul).as_py():
            for position in np.flatnonzero(nul.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
                errors.setdefault(position, f"column '{column}' holds a NUL character")
        arrays.append(array)
    schema = pa.schema([(column, pa.string()) for column in columns])
    return RowBatch(pa.RecordBatch.from_arrays(arrays, schema=schema), lines, errors)


def check_columns(name: str, columns: Sequence[str]) -> list[str]:
    """Strips the names and refuses two columns of one name.

    Raises:
        DataError: two columns share a name, or a name is no text.
    """
    stripped = [column.strip() for column in columns]
    for position, column in enumerate(stripped):
        if _SURROGATE.search(column) or "\0" in column:
            raise DataError(f"{name}: the name of column {position + 1} is not valid UTF-8. Save the file as UTF-8.")
        first = stripped.index(column)
        if first != position:
            raise DataError(f"{name}: columns {first + 1} and {position + 1} are both named '{column}'. Rename one.")
    return stripped


@contextmanager
def open_text(path: Path, name: str, *, newline: str) -> Iterator[TextIO]:
    """Opens a file, gzipped or not, as UTF-8 with or without a byte order mark. Stray bytes become lone surrogates.

    Raises:
        DataError: the file is UTF-16 or UTF-32.
    """
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as raw:
        if raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{name} is UTF-16, not UTF-8. Save it as UTF-8.")
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield text


@contextmanager
def file_errors(name: str, line: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turns what the operating system and gzip say about a file into one `DataError` that names it.

    Args:
        name: the file as the user wrote it.
        line: how many lines have been read so far.
    """
    try:
        yield
    except EOFError as error:
        reached = f" after line {line()}" if line() else ""
        raise DataError(f"{name}: the gzip file breaks off{reached}. Copy it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        reached = f" after line {line()}" if line() else ""
        raise DataError(f"{name}: not a sound gzip file{reached} ({error}).") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}).") from error
