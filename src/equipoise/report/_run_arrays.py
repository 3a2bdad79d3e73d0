"""A task's judged rows as arrays, and how sure its main metric is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.errors import RunError
from equipoise.evaluation import row_bootstrap
from equipoise.evaluation._metric_functions import METRICS
from equipoise.report._run_facts import TaskFacts

__all__ = ["DRAWS", "class_indices", "interval_over_rows", "memberships", "probabilities"]

#: Resampled sets of rows.
DRAWS = 1000
#: Of a large split fewer are drawn, so that a report takes seconds; below this many none, and there is no interval.
FEWEST = 100
CELLS = 100_000_000
LEVEL = 0.95


def class_indices(task: TaskFacts, rows: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True and predicted classes of exclusive or ordered classes, `[n]` each.

    Raises:
        RunError: a row says a class that the model doesn't know.
    """
    index = {label: k for k, label in enumerate(task.classes or ())}
    try:
        true, predicted = (
            np.array([index[str(value)] for value in rows[side]], dtype=np.int64) for side in ("true", "predicted")
        )
    except KeyError as error:
        raise RunError(f"predictions of {task.name}: {error} is none of its classes. The file is damaged") from None
    return true, predicted


def memberships(task: TaskFacts, rows: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which classes are true and which are predicted, of classes that don't exclude each other: `[n, classes]` each."""
    index = {label: k for k, label in enumerate(task.classes or ())}
    separator = str(task.described.get("separator", "|"))
    true, predicted = (np.zeros((len(rows), len(index)), dtype=bool) for _ in range(2))
    for found, side in ((true, "true"), (predicted, "predicted")):
        for row, cell in enumerate(rows[side]):
            for name in str(cell).split(separator):
                if name in index:
                    found[row, index[name]] = True
    return true, predicted


def probabilities(task: TaskFacts, rows: pd.DataFrame) -> NDArray[np.float64]:
    """`[n, classes]`, clipped to [0, 1]: what a softmax in float32 leaves above 1 is rounding."""
    found: NDArray[np.float64] = np.clip(rows[list(range(len(task.classes or ())))].to_numpy(dtype=np.float64), 0, 1)
    return found


def interval_over_rows(task: TaskFacts, rows: pd.DataFrame | None) -> tuple[float, float] | None:
    """95 % interval of the main metric over judged rows, by the percentile bootstrap.

    Returns:
        None where there are fewer than two rows, too many to draw them again, or no such function for the metric.
    """
    if rows is None or len(rows) < 2:
        return None
    draws = min(DRAWS, CELLS // (len(rows) * max(1, len(task.classes or ()))))
    if draws < FEWEST:
        return None
    if task.kind == "multilabel":
        values = _multilabel(*memberships(task, rows), draws) if task.main == "macro_f1" else None
    elif task.main not in METRICS:
        values = None
    elif task.classes is None:
        true, predicted = rows["true"].to_numpy(), rows["predicted"].to_numpy()
        values = row_bootstrap(task.main, true, predicted[None], resamples=draws)[0]
    else:
        indices, said = class_indices(task, rows)
        values = row_bootstrap(task.main, indices, said[None], classes=len(task.classes), resamples=draws)[0]
    if values is None:
        return None
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _multilabel(true: NDArray[np.bool_], predicted: NDArray[np.bool_], draws: int) -> NDArray[Any]:
    """Macro-F1 of sets of classes on resampled rows, `[draws]`; 0 stands for 0/0, as in `Multilabel.metrics`."""
    rng, n = np.random.default_rng(0), len(true)
    hits, sums = (true & predicted).astype(np.float64), true.astype(np.float64) + predicted
    found = np.empty(draws)
    for draw in range(draws):
        weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        both, either = weights @ hits, weights @ sums
        found[draw] = np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0).mean()
    return found
