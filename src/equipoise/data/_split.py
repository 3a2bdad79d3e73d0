"""A split that has been checked and encoded: text in an Arrow file, targets as plain numbers, both memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from equipoise.tasks import Task

__all__ = ["Split", "SplitWriter"]

_SCHEMA = [
    ("row", pa.int64()),
    ("file", pa.int32()),
    ("line", pa.int64()),
    ("text", pa.string()),
    ("text_pair", pa.string()),
]


class Split:
    """One split, read only, on disk; it crosses to another process as its path.

    Attributes:
        path: its Arrow file.
        files: the sources that its rows come from, as the user wrote them.
        targets: task -> `[n]` or `[n, classes]` float32, memory-mapped; NaN where a row carries no label.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with pa.memory_map(str(self.path)) as source:
            self._table = pa.ipc.open_file(source).read_all()
        metadata = json.loads(self._table.schema.metadata[b"equipoise"])
        self.files: list[str] = metadata["files"]
        self.targets: dict[str, NDArray[np.float32]] = {}
        for task, target in metadata["targets"].items():
            shape = (len(self),) if target["width"] is None else (len(self), target["width"])
            file = self.path.parent / target["file"]
            # An empty file cannot be mapped.
            self.targets[task] = (
                np.memmap(file, dtype=np.float32, mode="r", shape=shape) if len(self) else np.empty(shape, np.float32)
            )

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __reduce__(self) -> tuple[type[Split], tuple[Path]]:
        return Split, (self.path,)

    @property
    def texts(self) -> pa.ChunkedArray:
        """`[n]` strings."""
        return self._table.column("text")

    @property
    def pairs(self) -> pa.ChunkedArray | None:
        """`[n]` strings, the second texts; None where the recipe names one text column."""
        column = self._table.column("text_pair")
        return None if column.null_count else column

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """`[n]` the number of each row in its file, from 0, counting every row that was read."""
        return np.asarray(self._table.column("row"), dtype=np.int64)

    @property
    def file_ids(self) -> NDArray[np.int32]:
        """`[n]` which of `files` each row comes from."""
        return np.asarray(self._table.column("file"), dtype=np.int32)

    @property
    def lines(self) -> NDArray[np.int64]:
        """`[n]` the line in which each row starts."""
        return np.asarray(self._table.column("line"), dtype=np.int64)

    def where(self, index: int) -> str:
        """`file:line` of a row, for messages."""
        file = self.files[self._table.column("file")[index].as_py()]
        return f"{file}:{self._table.column('line')[index].as_py()}"

    def text_list(self, indices: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> list[str]:
        """The texts of some rows, or of all."""
        return _strings(self.texts, indices)

    def pair_list(self, indices: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> list[str] | None:
        """The second texts of some rows, or of all; None where there are none."""
        return None if self.pairs is None else _strings(self.pairs, indices)


def _strings(column: Any, indices: Sequence[int] | NDArray[np.integer[Any]] | None) -> list[str]:
    chosen = column if indices is None else column.take(pa.array(np.asarray(indices, dtype=np.int64)))
    texts: list[str] = chosen.to_pylist()
    return texts


class SplitWriter:
    """Writes a split batch by batch; the files appear under their names when it is closed, not before.

    Args:
        folder: where to.
        name: the split's name.
        tasks: the tasks whose targets come with each batch.
        files: the sources that rows may come from.
    """

    def __init__(self, folder: Path, name: str, tasks: Mapping[str, Task], files: Sequence[str]) -> None:
        self.path = folder / f"{name}.arrow"
        self._temporary = folder / f"{name}.arrow.tmp"
        self._files = list(files)
        # Numbered, because a task's name need not be a file name. One plain file a task and not a column: only so are the
        # targets of all rows one array, however many batches wrote them.
        self._names = {task: f"{name}.target{position}.f32" for position, task in enumerate(tasks)}
        self._numbers = {task: folder / f"{file}.tmp" for task, file in self._names.items()}
        self._writer: Any = None
        self.rows = 0

    def write(self, batch: pa.RecordBatch, targets: Mapping[str, NDArray[np.float32]]) -> None:
        """Adds rows. `targets`: task -> `[rows]` or `[rows, classes]`."""
        first = self._writer is None
        if first:
            shapes = {
                task: {"file": file, "width": None if targets[task].ndim == 1 else targets[task].shape[1]}
                for task, file in self._names.items()
            }
            metadata = {"equipoise": json.dumps({"files": self._files, "targets": shapes})}
            self._schema = pa.schema(_SCHEMA, metadata=metadata)
            self._writer = pa.ipc.new_file(str(self._temporary), self._schema)
        columns = [batch.column(name) for name, _ in _SCHEMA]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        for task, path in self._numbers.items():
            # Opened for each batch: a failure in between leaves nothing open. Not numpy's `tofile`, which does not say why a
            # disk refuses, and at the end of a buffer not even that it does.
            with path.open("wb" if first else "ab") as file:
                file.write(np.ascontiguousarray(targets[task], dtype=np.float32).tobytes())
        self.rows += batch.num_rows

    def close(self) -> Split:
        """Finishes the files and opens the split. At least one batch, be it empty, must have been written."""
        self._writer.close()
        for task, path in self._numbers.items():
            os.replace(path, self.path.parent / self._names[task])
        os.replace(self._temporary, self.path)
        return Split(self.path)
