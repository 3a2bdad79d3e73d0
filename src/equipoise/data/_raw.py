"""The first pass: files -> rows with text and some label, as they stand, in one Arrow file a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equipoise.data._assign import Hashes, text_hashes
from equipoise.data._readers import open_table
from equipoise.data._rejected import RejectedWriter
from equipoise.data._table import RowBatch, Table, unreadable
from equipoise.errors import DataError
from equipoise.tasks._base import did_you_mean

__all__ = ["RawSplit", "Source", "label_field", "raw_path", "read_sources"]

_NULL = pa.scalar(None, pa.string())
_SHOWN_COLUMNS = 30


@dataclass(frozen=True)
class Source:
    """A file, the split that it is read for, and where its text and labels stand.

    Attributes:
        path: the source as the user wrote it.
        split: `train`, `validation` or `test`.
        text: one text column, or two for a pair.
        columns: task -> label column, for the tasks whose labels it holds.
    """

    path: str
    split: str
    text: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class RawSplit:
    """The sound rows read for one split.

    Attributes:
        table: row, file, line, text, text_pair and `label/<task>` as strings; memory-mapped.
        hashes: `[rows]` of the normalised texts.
    """

    table: pa.Table
    hashes: Hashes


def label_field(task: str) -> str:
    """The raw column that holds a task's labels."""
    return f"label/{task}"


def raw_path(folder: Path, split: str) -> Path:
    """The file that holds a split's raw rows while the data is prepared."""
    return folder / f"raw.{split}.arrow"


def read_sources(
    sources: Sequence[Source], tasks: Sequence[str], folder: Path, rejected: RejectedWriter
) -> tuple[dict[str, RawSplit], list[int]]:
    """Reads every source; rows without text or without any label are rejected.

    Returns:
        Split -> its rows, and how many rows each source has.

    Raises:
        DataError: a file cannot be read, or lacks a column.
    """
    # Opened before the first row is read, so that a missing column in the last file is known at once.
    tables = [_open(source) for source in sources]
    schema = pa.schema(
        [("row", pa.int64()), ("file", pa.int32()), ("line", pa.int64()), ("text", pa.string())]
        + [("text_pair", pa.string())]
        + [(label_field(task), pa.string()) for task in tasks]
    )
    rows = [0] * len(sources)
    raw: dict[str, RawSplit] = {}
    for split in dict.fromkeys(source.split for source in sources):
        path = raw_path(folder, split)
        hashes: list[Hashes] = [np.empty(0, dtype=np.uint64)]
        with pa.ipc.new_file(str(path), schema) as writer:
            for index, (source, table) in enumerate(zip(sources, tables, strict=True)):
                if source.split != split:
                    continue
                for batch in table:
                    sound = _sound(batch, source, index, rows[index], schema, rejected)
                    rows[index] += len(batch.lines)
                    if sound.num_rows:
                        writer.write_batch(sound)
                        pairs = sound.column("text_pair").to_pylist() if len(source.text) == 2 else None
                        hashes.append(text_hashes(sound.column("text").to_pylist(), pairs))
        with pa.memory_map(str(path)) as file:
            raw[split] = RawSplit(pa.ipc.open_file(file).read_all(), np.concatenate(hashes))
    return raw, rows


def _open(source: Source) -> Table:
    needed = list(dict.fromkeys([*source.text, *source.columns.values()]))
    table = open_table(source.path, needed=needed)
    for column in needed:
        if column not in table.columns:
            names = [name if len(name) <= 60 else f"{name[:57]}..." for name in table.columns[:_SHOWN_COLUMNS]]
            shown = ", ".join(names) + (", ..." if len(table.columns) > _SHOWN_COLUMNS else "")
            raise DataError(
                f"column '{column}' is not in {source.path}.{did_you_mean(column, table.columns)} Columns: {shown}"
            )
    return table


def _sound(
    batch: RowBatch, source: Source, file: int, first_row: int, schema: pa.Schema, rejected: RejectedWriter
) -> pa.RecordBatch:
    """The usable rows of a batch in the raw schema; the others are rejected."""
    size = len(batch.lines)
    reasons = dict(batch.errors)
    for column in source.text:
        blank, unseen = unreadable(batch.rows.column(column))
        for position in _positions(blank):
            reasons.setdefault(position, f"column '{column}' is empty")
        for position in _positions(unseen):
            reasons.setdefault(position, f"column '{column}' holds no character that can be seen")
    columns: dict[str, Any] = {
        "row": pa.array(np.arange(first_row, first_row + size)),
        "file": pa.array(np.full(size, file, dtype=np.int32)),
        "line": pa.array(batch.lines, type=pa.int64()),
        "text": batch.rows.column(source.text[0]),
        "text_pair": batch.rows.column(source.text[1]) if len(source.text) == 2 else pa.nulls(size, pa.string()),
    }
    labels = {column: _stripped(batch.rows.column(column)) for column in set(source.columns.values())}
    unlabelled = np.ones(size, dtype=bool)
    for array in labels.values():
        if array.null_count < size:
            unlabelled &= array.is_null().to_numpy(zero_copy_only=False)
    for position in np.flatnonzero(unlabelled).tolist():
        reasons.setdefault(position, f"no label for any task (in {', '.join(sorted(labels))})")
    for name in schema.names[len(columns) :]:
        label_column = source.columns.get(name.removeprefix("label/"))
        columns[name] = pa.nulls(size, pa.string()) if label_column is None else labels[label_column]
    result = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    if not reasons:
        return result
    bad = sorted(reasons)
    for position, row in zip(bad, batch.rows.take(pa.array(bad)).to_pylist(), strict=True):
        rejected.write(source.path, batch.lines[position], source.split, reasons[position], row)
    keep = np.ones(size, dtype=bool)
    keep[bad] = False
    return result.filter(pa.array(keep))


def _stripped(labels: pa.Array) -> pa.Array:
    """Labels without white space around them; nothing but white space is no label."""
    labels = pc.utf8_trim_whitespace(labels)
    return pc.if_else(pc.equal(labels, ""), _NULL, labels)


def _positions(mask: pa.Array) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist() if pc.any(mask).as_py() else []
