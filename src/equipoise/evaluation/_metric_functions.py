"""Metrics of many runs on many resampled sets of rows at once.

A resampled set is a weight for each row: how often the row was drawn. Nearly every metric is a function of a few weighted
sums over rows, so all runs and all resamples are one matrix product, `[runs, rows] @ [rows, resamples]`. With a weight of
1 for every row the values are those of `Task.metrics`; NaN stands where a metric has no meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "metric_values"]

Floats = NDArray[np.float64]
True_ = NDArray[Any]  # [rows], scores, or class indices
Predicted = NDArray[Any]  # [runs, rows]
#: (true, predicted, weights `[resamples, rows]`, number of classes) -> `[runs, resamples]`
Metric = Callable[[True_, Predicted, Floats, int], Floats]

#: A variance below this share of the squared values is rounding: the resample is constant.
CONSTANT = 1e-12


def metric_values(name: str, true: True_, predicted: Predicted, classes: int = 0) -> Floats:
    """One metric of several runs on the same rows.

    Args:
        name: a key of `METRICS`.
        true: `[rows]`, scores in the user's units, or class indices.
        predicted: `[runs, rows]`, the same.
        classes: how many classes there are; 0 for scores.

    Returns:
        `[runs]`, NaN where the metric has no meaning.

    Example:
        >>> metric_values("mse", np.array([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 1.0]]))
        array([0. , 0.5])
    """
    if not len(true):
        return np.full(len(predicted), np.nan)
    return METRICS[name](true, predicted, np.ones((1, len(true))), classes)[:, 0]


def _mean(values: Floats, weights: Floats) -> Floats:
    """Weighted means over rows, `[runs, resamples]`."""
    found: Floats = values.astype(np.float64) @ weights.T / weights.sum(axis=1)
    return found


def _divide(part: Floats, whole: Floats, otherwise: float = np.nan) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    found: Floats = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return found


def _squares(values: Floats, weights: Floats) -> Floats:
    """Weighted population variances of values that are centred roughly; exactly 0 for a constant resample."""
    second = _mean(values**2, weights)
    variance = second - _mean(values, weights) ** 2
    return np.where(variance > CONSTANT * second, variance, 0.0)


def _mse(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    return _mean((predicted - true) ** 2, weights)


def _mae(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    return _mean(np.abs(predicted - true), weights)


def _r2(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    # Multiplied out to a share of unexplained variance; a constant truth divides by 0.
    return 1.0 - _divide(_mse(true, predicted, weights, classes), _squares((true - true.mean())[None], weights))


def _pearson(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    x, y = _unit(true[None]), _unit(predicted)
    together = _mean(x * y, weights) - _mean(x, weights) * _mean(y, weights)
    return np.clip(_divide(together, np.sqrt(_squares(x, weights) * _squares(y, weights))), -1.0, 1.0)


def _unit(values: NDArray[Any]) -> Floats:
    """Centred, the farthest at 1: products of tiny numbers vanish, products of huge ones overflow."""
    centred = values - values.mean(axis=1, keepdims=True)
    # Compared exactly: a constant minus its rounded mean is not 0, and would correlate with something.
    centred[values.min(axis=1) == values.max(axis=1)] = 0.0
    return _divide(centred, np.abs(centred).max(axis=1, keepdims=True), otherwise=0.0)


def _spearman(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    x = _ranks(true, weights)
    return np.stack([_weighted_pearson(x, _ranks(one, weights), weights) for one in predicted])


def _ranks(
    values: NDArray[Any],  # [rows]
    weights: Floats,  # [resamples, rows]
) -> Floats:
    """Ranks from 0 to 1 in each resample, `[resamples, rows]`, ties at their mean. The rows are sorted only once."""
    distinct, which = np.unique(values, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(len(distinct)))
    held = np.add.reduceat(weights[:, order], starts, axis=1)  # [resamples, distinct]
    below = np.cumsum(held, axis=1) - held
    ranks: Floats = ((below + held / 2) / weights.sum(axis=1, keepdims=True))[:, which.reshape(-1)]
    return ranks


def _weighted_pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Correlation within each resample, all `[resamples, rows]` -> `[resamples]`."""
    share = weights / weights.sum(axis=1, keepdims=True)
    x, y = (one - np.sum(share * one, axis=1, keepdims=True) for one in (x, y))
    spread = np.sum(share * x * x, axis=1) * np.sum(share * y * y, axis=1)
    return np.clip(_divide(np.sum(share * x * y, axis=1), np.sqrt(np.where(spread > CONSTANT**2, spread, 0.0))), -1, 1)


def _ccc(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    # The same shift for both sides keeps the difference of their means, which this metric punishes.
    shift = true.mean()
    x, y = (true - shift)[None], predicted - shift
    apart = _mean(x, weights) - _mean(y, weights)
    together = _mean(x * y, weights) - _mean(x, weights) * _mean(y, weights)
    return _divide(2.0 * together, _squares(x, weights) + _squares(y, weights) + apart**2)


def _accuracy(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    return _mean(predicted == true, weights)


def _counts(true: True_, predicted: Predicted, weights: Floats, classes: int) -> tuple[Floats, Floats, Floats]:
    """Hits, true and predicted rows of each class, `[classes, runs or 1, resamples]`."""
    hits, held, said = [], [], []
    for k in range(classes):
        guess = predicted == k
        hits.append((guess & (true == k)).astype(np.float64) @ weights.T)
        held.append((true == k).astype(np.float64)[None] @ weights.T)
        said.append(guess.astype(np.float64) @ weights.T)
    return np.stack(hits), np.stack(held), np.stack(said)


def _macro_f1(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    hits, held, said = _counts(true, predicted, weights, classes)
    found: Floats = _divide(2 * hits, held + said, otherwise=0.0).mean(axis=0)
    return found


def _mcc(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    hits, held, said = _counts(true, predicted, weights, classes)
    n = weights.sum(axis=1)
    spread = (n * n - np.sum(said**2, axis=0)) * (n * n - np.sum(held**2, axis=0))
    return _divide(np.sum(hits, axis=0) * n - np.sum(held * said, axis=0), np.sqrt(spread), otherwise=0.0)


def _quadratic_kappa(true: True_, predicted: Predicted, weights: Floats, classes: int) -> Floats:
    # sum_ij (i - j)^2 t_i p_j / n for counts t, p that are independent, multiplied out.
    x, y = true.astype(np.float64)[None], predicted.astype(np.float64)
    expected = _mean(x * x, weights) + _mean(y * y, weights) - 2 * _mean(x, weights) * _mean(y, weights)
    return 1.0 - _divide(_mse(true, predicted, weights, classes), np.where(expected > CONSTANT, expected, 0.0))


#: What can be computed again from truth and prediction, by the names of `Task.metrics`. `mae` of ordered classes counts
#: ranks, as class indices do.
METRICS: dict[str, Metric] = {
    "mse": _mse,
    "mae": _mae,
    "r2": _r2,
    "pearson": _pearson,
    "spearman": _spearman,
    "ccc": _ccc,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
    "quadratic_kappa": _quadratic_kappa,
}
