"""Scores of predictions against truth, as pure functions. `None` stands where a score has no meaning.

`confusion_matrix` is all that the class scores need: `[true, predicted]` counts over the known classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import EquipoiseError

Values = NDArray[np.float64]  # [n]
Counts = NDArray[np.int64]  # [classes, classes], rows true, columns predicted


def check_finite(name: str, outputs: NDArray[np.floating]) -> None:
    """Refuses outputs that are not finite: the largest of NaNs would pass for a class.

    Raises:
        EquipoiseError: names the task and counts the rows.
    """
    bad = int((~np.isfinite(outputs).all(axis=1)).sum())
    if bad:
        raise EquipoiseError(
            f"{name}: the model's output is not finite in {bad} of {len(outputs)} rows. "
            "Train with a lower learning rate, or predict in higher precision."
        )


def mse(true: Values, predicted: Values) -> float | None:
    """Mean squared error."""
    return float(np.mean((true - predicted) ** 2)) if len(true) else None


def mae(true: Values, predicted: Values) -> float | None:
    """Mean absolute error."""
    return float(np.mean(np.abs(true - predicted))) if len(true) else None


def r2(true: Values, predicted: Values) -> float | None:
    """Share of the variance that is explained; None where the truth has none."""
    if not _varies(true):
        return None
    return float(1.0 - np.sum((true - predicted) ** 2) / np.sum((true - true.mean()) ** 2))


def pearson(true: Values, predicted: Values) -> float | None:
    """Linear correlation; None where one side is constant."""
    if not _varies(true) or not _varies(predicted):
        return None
    x, y = true - true.mean(), predicted - predicted.mean()
    # Each side to length 1 first: products of tiny numbers vanish, products of huge ones overflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)), -1.0, 1.0))


def spearman(true: Values, predicted: Values) -> float | None:
    """Correlation of ranks, ties at their mean rank; None where one side is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(true), rankdata(predicted))


def ccc(true: Values, predicted: Values) -> float | None:
    """Lin's concordance correlation: 2 cov / (var + var + squared difference of means), with population moments.

    A constant prediction of a varying truth scores 0; None where both are the same constant.
    """
    if len(true) == 0:
        return None
    x, y = true - true.mean(), predicted - predicted.mean()
    below = np.mean(x * x) + np.mean(y * y) + (true.mean() - predicted.mean()) ** 2
    if below == 0 or not (_varies(true) or _varies(predicted) or true[0] != predicted[0]):
        return None
    return float(2.0 * np.mean(x * y) / below)


def confusion_matrix(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Counts:
    """Counts of (true, predicted) class indices, `[classes, classes]`."""
    flat = np.bincount(true * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Counts) -> float | None:
    """Share of right predictions."""
    n = confusion.sum()
    return float(np.trace(confusion) / n) if n else None


def f1_of(hits: NDArray[np.int64], true: NDArray[np.int64], predicted: NDArray[np.int64]) -> Values:
    """F1 per class from counts; 0 for a class that is neither true nor predicted anywhere."""
    return _share(2 * hits, true + predicted)


def per_class(names: list[str], hits: Any, true: Any, predicted: Any) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1 and the number of true examples of each class; 0 stands for 0/0, as in scikit-learn."""
    precision, recall, f1 = _share(hits, predicted), _share(hits, true), f1_of(hits, true, predicted)
    return {
        name: {"precision": float(precision[k]), "recall": float(recall[k]), "f1": float(f1[k]), "n": int(true[k])}
        for k, name in enumerate(names)
    }


def of_classes(confusion: Counts, names: list[str]) -> dict[str, Any]:
    """What every task of exclusive classes reports: accuracy, macro-F1, scores per class, the matrix, `n`."""
    return {
        "accuracy": accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "per_class": per_class(names, np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)),
        "confusion_matrix": confusion.tolist(),
        "n": int(confusion.sum()),
    }


def macro_f1(confusion: Counts) -> float | None:
    """Mean F1 over all known classes.

    A class that a split neither holds nor is predicted in counts 0 (scikit-learn: `labels=` all, `zero_division=0`), so
    that the same classes are averaged whatever a model predicts.
    """
    if not confusion.sum():
        return None
    return float(np.mean(f1_of(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))))


def mcc(confusion: Counts) -> float | None:
    """Matthews correlation for any number of classes; 0 where truth or prediction is constant, as in scikit-learn."""
    c = confusion.astype(np.float64)
    n, true, predicted = c.sum(), c.sum(axis=1), c.sum(axis=0)
    if n == 0:
        return None
    spread = (n * n - np.sum(predicted**2)) * (n * n - np.sum(true**2))
    return float((np.trace(c) * n - np.sum(true * predicted)) / np.sqrt(spread)) if spread > 0 else 0.0


def quadratic_kappa(confusion: Counts) -> float | None:
    """Cohen's kappa where a mistake costs the square of its ranks; None where truth and prediction are one class."""
    c = confusion.astype(np.float64)
    if c.sum() == 0:
        return None
    ranks = np.arange(len(c))
    cost = (ranks[:, None] - ranks[None, :]) ** 2
    expected = np.sum(cost * np.outer(c.sum(axis=1), c.sum(axis=0))) / c.sum()
    return float(1.0 - np.sum(cost * c) / expected) if expected > 0 else None


def average_precision(
    true: NDArray[np.float64],  # [n, classes], 0 or 1
    scores: NDArray[np.float64],  # [n, classes]
) -> float | None:
    """Mean over classes of the area under precision and recall; classes without a true example take no part."""
    from sklearn.metrics import average_precision_score

    held = [k for k in range(true.shape[1]) if true[:, k].any()]
    if not held:
        return None
    return float(np.mean([average_precision_score(true[:, k], scores[:, k]) for k in held]))


def describe(values: Values) -> dict[str, Any]:
    """`n`, `mean`, `sd` (population), `min` and `max`."""
    if len(values) == 0:
        return {"n": 0, "mean": None, "sd": None, "min": None, "max": None}
    numbers = {"mean": values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
    return {"n": len(values), **{key: float(value) for key, value in numbers.items()}}


def _varies(values: Values) -> bool:
    # Compared exactly: a constant minus its rounded mean is not 0, and would correlate with something.
    return len(values) > 1 and bool(values.min() != values.max())


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Values:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
