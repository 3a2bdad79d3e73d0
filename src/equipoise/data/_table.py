"""What every reader gives: a table of strings, batch by batch, in the file's order, broken rows in their places."""

from __future__ import annotations

import gzip
import re
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equipoise.errors import DataError

__all__ = [
    "BATCH_CHARACTERS",
    "CELL_COST",
    "MOST_COLUMNS",
    "RowBatch",
    "Table",
    "build_batch",
    "check_columns",
    "file_errors",
    "nothing_to_read",
    "unreadable",
]

#: A batch is closed when its cells hold this many characters, so that a file of long texts stays bounded in memory.
BATCH_CHARACTERS = 1 << 25
#: What a cell counts beside its characters, so that a batch of very many empty cells is bounded, too.
CELL_COST = 8
#: A table with more columns is no table of texts and labels.
MOST_COLUMNS = 20_000

_SURROGATE = re.compile("[\ud800-\udfff]")
#: Nothing but white space, control characters and those without a shape: zero width spaces, joiners, byte order marks.
_INVISIBLE = r"^[\s\p{Z}\p{Cf}\p{Cc}]*$"
_SHAPELESS = frozenset({"Zs", "Zl", "Zp", "Cf", "Cc"})


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


def build_batch(
    columns: Sequence[str],
    cells: Sequence[Any],
    lines: list[int],
    errors: dict[int, str],
    *,
    checked: Collection[str] | None = None,
) -> RowBatch:
    """Makes a batch of strings and marks the rows whose text no tokenizer should see.

    Args:
        columns: the column names.
        cells: one sequence of `str | None`, or one Arrow string array, per column.
        lines: `[rows]` where each row starts.
        errors: what is already known to be broken; more is added, the first reason for a row stays.
        checked: the columns whose cells can break a row; None = all.
    """
    arrays = []
    for column, values in zip(columns, cells, strict=True):
        found: dict[int, str] = {}
        try:
            array = pa.array(values, type=pa.string())
        except UnicodeEncodeError:
            # `surrogateescape` reads a stray byte as a lone surrogate, and JSON may hold one outright.
            values = list(values)
            for position, value in enumerate(values):
                if value is not None and _SURROGATE.search(value):
                    found[position] = f"column '{column}' is not valid UTF-8"
                    values[position] = _SURROGATE.sub("\ufffd", value)
            array = pa.array(values, type=pa.string())
        nul = pc.match_substring(array, "\0")
        if pc.any(nul).as_py():
            for position in np.flatnonzero(nul.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
                found.setdefault(position, f"column '{column}' holds a NUL character")
        if checked is None or column in checked:
            for position, reason in found.items():
                errors.setdefault(position, reason)
        arrays.append(array)
    schema = pa.schema([(column, pa.string()) for column in columns])
    return RowBatch(pa.RecordBatch.from_arrays(arrays, schema=schema), lines, errors)


def check_columns(name: str, columns: Sequence[str]) -> list[str]:
    """Strips the names (of white space and of a byte order mark) and refuses two columns of one name.

    Raises:
        DataError: two columns share a name, a name is no text, or there are too many.
    """
    if len(columns) > MOST_COLUMNS:
        raise DataError(
            f"{name} has {len(columns)} columns; at most {MOST_COLUMNS} are read. Keep the text and the labels."
        )
    first: dict[str, int] = {}
    for position, column in enumerate(columns, 1):
        stripped = column.strip().strip("\ufeff").strip()
        if _SURROGATE.search(stripped) or "\0" in stripped:
            raise DataError(f"{name}: the name of column {position} is not valid UTF-8. Save the file as UTF-8.")
        if first.setdefault(stripped, position) != position:
            raise DataError(
                f"{name}: columns {first[stripped]} and {position} are both named '{stripped}'. Rename one."
            )
    return list(first)


def unreadable(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Which texts say nothing: `[n]` strings or null -> `[n]` missing or blank, `[n]` filled with what cannot be seen."""
    blank = pc.equal(pc.utf8_trim_whitespace(texts), "").fill_null(True)
    unseen = pc.match_substring_regex(texts, _INVISIBLE).fill_null(False)
    return blank, pc.and_not(unseen, blank)


def nothing_to_read(text: str) -> bool:
    """Whether a text is blank or has no character with a shape, as `unreadable` finds it in a column.

    Example:
        >>> nothing_to_read(" \\u200b"), nothing_to_read(" .")
        (True, False)
    """
    return all(character.isspace() or unicodedata.category(character) in _SHAPELESS for character in text)


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
