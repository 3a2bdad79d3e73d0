"""A trained run judged on a labelled table that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equipoise.data import open_table
from equipoise.errors import DataError
from equipoise.inference._predictor import Model

__all__ = ["evaluate_file"]


def evaluate_file(model: Model, source: str | Path, *, batch_rows: int = 8192) -> dict[str, Any]:
    """Metrics of every task whose labels the table has.

    Args:
        model: of `equipoise.load`.
        source: a table with the text columns and the label columns of at least one task.
        batch_rows: rows in memory at once; outputs and targets of all rows are kept, texts are not.

    Returns:
        `tasks`: task -> metrics; `rows`, `rejected`: counts; `rejected_rows`: line and reason of each row that took no part.

    Raises:
        DataError: the table cannot be read, or has no text or no label column.
    """
    table = open_table(source, batch_rows=batch_rows, needed=[*model.text, *(t.column for t in model.tasks.values())])
    missing = [name for name in model.text if name not in table.columns]
    if missing:
        raise DataError(
            f"{table.name} has no column '{missing[0]}'. The model reads {', '.join(model.text)}; "
            f"columns: {', '.join(table.columns)}"
        )
    tasks = {name: task for name, task in model.tasks.items() if task.column in table.columns}
    if not tasks:
        wanted = ", ".join(dict.fromkeys(task.column for task in model.tasks.values()))
        raise DataError(f"{table.name} has no label column. Expected {wanted}; columns: {', '.join(table.columns)}")
    outputs: list[Any] = []
    targets: dict[str, list[Any]] = {name: [] for name in tasks}
    rejected: list[dict[str, Any]] = []
    rows = 0
    for batch in table:
        rows += len(batch.lines)
        reasons = dict(batch.errors)
        texts = [_column(batch.rows, name).to_pylist() for name in model.text]
        for name, column in zip(model.text, texts, strict=True):
            for position, value in enumerate(column):
                if value is None or not value.strip():
                    reasons.setdefault(position, f"column '{name}' is empty")
        encoded = {name: task.encode(_column(batch.rows, task.column)) for name, task in tasks.items()}
        for name, found in encoded.items():
            for position, reason in found.reasons.items():
                reasons.setdefault(position, f"{name}: {reason}")
        good = [position for position in range(len(batch.lines)) if position not in reasons]
        outputs.append(model.outputs(*[[column[i] for i in good] for column in texts]))
        for name, found in encoded.items():
            targets[name].append(found.targets[good])
        rejected += [{"line": batch.lines[i], "reason": reason} for i, reason in sorted(reasons.items())]
    together = np.concatenate(outputs)
    metrics = {
        name: task.metrics(model.task_outputs(together, name), np.concatenate(targets[name]))
        for name, task in tasks.items()
        if not np.isnan(np.concatenate(targets[name])).all()
    }
    if not metrics:
        raise DataError(f"{table.name}: not one of its {rows} rows carries a usable label")
    return {"tasks": metrics, "rows": rows, "rejected": len(rejected), "rejected_rows": rejected}


def _column(rows: Any, name: str) -> Any:
    return rows.column(rows.schema.get_field_index(name))
