"""How near an exported model is to its run: on rows that the run did not train on, output by output and metric by metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from equipoise.data import RowBatch, open_table
from equipoise.errors import DataError, RunError
from equipoise.inference._predictor import Model, load
from equipoise.models import LoadedModel, Sidecar
from equipoise.runs import Run

__all__ = ["TOLERANCE", "LabelledRows", "Parity", "judge_parity", "labelled_rows"]

#: By how much, relatively, a task's main metric may be worse than the run's.
TOLERANCE = 0.005
#: Rows that are compared at most; of more, the first. What is left out is told.
MOST_ROWS = 20_000


@dataclass(frozen=True)
class LabelledRows:
    """Rows to compare on.

    Attributes:
        source: where they come from, in words.
        columns: the texts, a list for each text column.
        targets: task -> `[n]` or `[n, classes]`, NaN where a row carries no label.
        left_out: rows beyond `MOST_ROWS`.
    """

    source: str
    columns: list[list[str]]
    targets: dict[str, NDArray[np.float32]]
    left_out: int


def labelled_rows(run: Run, sidecar: Sidecar, data: str | Path | None) -> LabelledRows:
    """The rows of a labelled table; without one, those of the run's test split (validation without one), read again.

    Raises:
        RunError: the run's own rows are not to be had.
        DataError: the table cannot be read, or carries no row with a label.
    """
    if data is not None:
        return _gather(str(data), {str(data): None}, sidecar)
    for split in ("test", "validation"):
        file = run.predictions_file(split)
        if file.is_file():
            table = pq.read_table(file, columns=["file", "line"]).to_pandas()
            wanted = {str(name): set(rows["line"].tolist()) for name, rows in table.groupby("file")}
            try:
                return _gather(f"the {split} split", wanted, sidecar)
            except DataError as error:
                raise RunError(
                    f"the run's {split} rows cannot be read again: {error} Give a labelled table: --data FILE"
                ) from error
    raise RunError("the run kept no rows to compare on. Give a labelled table: --data FILE")


def _gather(source: str, files: Mapping[str, set[int] | None], sidecar: Sidecar) -> LabelledRows:
    columns: list[list[str]] = [[] for _ in sidecar.text]
    targets: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sidecar.tasks}
    left_out = 0
    for batch, lines in _batches(files, sidecar):
        names = batch.rows.schema.names
        texts = [batch.rows.column(names.index(name)).to_pylist() for name in sidecar.text]
        encoded = {
            name: task.encode(batch.rows.column(names.index(task.column)))
            for name, task in sidecar.tasks.items()
            if task.column in names
        }
        bad = set(batch.errors).union(*(found.reasons for found in encoded.values()))
        good = [
            at
            for at, line in enumerate(batch.lines)
            if at not in bad and (lines is None or line in lines) and all(t[at] and t[at].strip() for t in texts)
        ]
        room = max(0, MOST_ROWS - len(columns[0]))
        left_out += len(good[room:])
        good = good[:room]
        for column, found in zip(columns, texts, strict=True):
            column += [found[at] for at in good]
        for name, task in sidecar.tasks.items():
            shape = (len(good),) if task.kind != "multilabel" else (len(good), task.size)
            targets[name].append(encoded[name].targets[good] if name in encoded else np.full(shape, np.nan, np.float32))
    joined = {name: np.concatenate(parts) for name, parts in targets.items() if parts}
    held = {name: found for name, found in joined.items() if not np.isnan(found).all()}
    if not held:
        raise DataError(f"{source} holds no row with a usable text and label.")
    return LabelledRows(source, columns, held, left_out)


def _batches(files: Mapping[str, set[int] | None], sidecar: Sidecar) -> Iterator[tuple[RowBatch, set[int] | None]]:
    for name, lines in files.items():
        table = open_table(name, needed=[*sidecar.text, *(task.column for task in sidecar.tasks.values())])
        missing = [column for column in sidecar.text if column not in table.columns]
        if missing:
            raise DataError(f"{table.name} has no column '{missing[0]}'. Columns: {', '.join(table.columns)}.")
        for batch in table:
            yield batch, lines


@dataclass(frozen=True)
class Parity:
    """What a comparison found.

    Attributes:
        precision: of the exported model.
        source: where the rows come from.
        rows: how many, and how many were left out.
        largest_difference: task -> the largest absolute difference of a raw output.
        metrics: task -> metric -> `run`, `export` and `worse`: the relative change in the bad direction (negative: better),
            None for metrics that have no direction.
        tolerance: for the main metric of each task.
    """

    precision: str
    source: str
    rows: int
    left_out: int
    largest_difference: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    main: Mapping[str, str]
    tolerance: float

    @property
    def beyond(self) -> dict[str, float]:
        """The tasks whose main metric is worse by more than the tolerance, and by how much."""
        found = {task: self.metrics[task][name]["worse"] for task, name in self.main.items()}
        return {task: worse for task, worse in found.items() if worse is not None and worse > self.tolerance}

    def check(self, output: str | Path) -> None:
        """Raises a `RunError` where the export is not good."""
        if self.beyond:
            told = "; ".join(
                f"{task} {self.main[task]} {self.metrics[task][self.main[task]]['run']:.4g} becomes "
                f"{self.metrics[task][self.main[task]]['export']:.4g}, {worse:.2%} worse"
                for task, worse in self.beyond.items()
            )
            raise RunError(
                f"the {self.precision} export is not good: {told} (on {self.rows} rows of {self.source}; allowed "
                f"{self.tolerance:.2%}). {output} was not written; --tolerance {max(self.beyond.values()) * 1.05:.2g} "
                "would accept it"
            )

    def as_dict(self) -> dict[str, Any]:
        """For `parity.json`."""
        return {
            "rows": self.rows,
            "rows_left_out": self.left_out,
            "source": self.source,
            "tolerance": self.tolerance,
            "largest_difference": dict(self.largest_difference),
            "main": dict(self.main),
            "metrics": {task: {name: dict(found) for name, found in of.items()} for task, of in self.metrics.items()},
        }


def judge_parity(loaded: LoadedModel, folder: Path, rows: LabelledRows, tolerance: float) -> Parity:
    """Runs both models over the rows. The run's stays in float32, in which it was judged."""
    ours, theirs = Model(loaded, device="cpu"), load(folder)
    outputs = [model.outputs(*rows.columns) for model in (ours, theirs)]
    metrics: dict[str, dict[str, dict[str, float | None]]] = {}
    differences, main = {}, {}
    for name, task in ours.tasks.items():
        parts = [ours.task_outputs(one, name) for one in outputs]
        differences[name] = float(np.abs(parts[0] - parts[1]).max())
        if name not in rows.targets:
            continue
        before, after = (task.metrics(part, rows.targets[name]) for part in parts)
        directions = task.selectable()
        metrics[name] = {
            metric: {
                "run": value,
                "export": after[metric],
                "worse": _worse(value, after[metric], directions.get(metric)),
            }
            for metric, value in before.items()
            if isinstance(value, float) and isinstance(after[metric], float)
        }
        if task.main_metric[0] in metrics[name]:
            main[name] = task.main_metric[0]
    return Parity(
        theirs.precision, rows.source, len(rows.columns[0]), rows.left_out, differences, metrics, main, tolerance
    )


def _worse(before: float, after: float, direction: str | None) -> float | None:
    if direction is None:
        return None
    change = after - before if direction == "min" else before - after
    return change / max(abs(before), 1e-12)
