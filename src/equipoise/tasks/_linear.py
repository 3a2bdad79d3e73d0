"""Classical models that a fine-tuned one must beat: ridge and logistic regression, with their strength chosen by hold-out.

Each returns a function from features to outputs in the task's own space, and gives no warnings: where a fit stops
before it has converged, that is logged.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.tasks import _probabilities

logger = logging.getLogger(__name__)

Predict = Callable[[Any], NDArray[np.float64]]

ALPHAS = (0.1, 1.0, 10.0)  # penalties of ridge
INVERSE_PENALTIES = (1.0, 10.0)  # C of logistic regression
# The strength is chosen on at most so many rows: it hardly depends on more, and time does.
ROWS_TO_CHOOSE_ON = 10_000


def ridge(features: Any, values: NDArray[np.float64]) -> Predict:
    """Ridge regression. `[n, d]`, `[n]` -> (features -> `[n]`)."""
    from sklearn.linear_model import Ridge

    def fit(alpha: float, rows: Any) -> Predict:
        return _fitted(Ridge(alpha=alpha), features[rows], values[rows]).predict  # type: ignore[no-any-return]

    def error(predict: Predict, rows: Any) -> float:
        return float(np.mean((predict(features[rows]) - values[rows]) ** 2))

    return _best(fit, error, ALPHAS, len(values))


def logistic(features: Any, classes: NDArray[np.int64], count: int) -> Predict:
    """Logistic regression. `[n, d]`, class indices `[n]` -> (features -> probabilities `[n, count]`).

    A class without a training example has probability 0; a single class has probability 1.
    """
    present = np.unique(classes)
    if len(present) < 2:
        alone = np.zeros(count)
        alone[present] = 1.0
        return lambda rows: np.tile(alone, (rows.shape[0], 1))

    def fit(strength: float, rows: Any) -> Predict:
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(classes[rows])) < 2:  # all of the held-in rows are of one class
            return lambda asked: np.eye(count)[np.repeat(classes[rows][:1], asked.shape[0])]
        model = _fitted(LogisticRegression(C=strength, max_iter=1000), features[rows], classes[rows])

        def predict(asked: Any) -> NDArray[np.float64]:
            probabilities = np.zeros((asked.shape[0], count))
            probabilities[:, model.classes_] = model.predict_proba(asked)
            return probabilities

        return predict

    def error(predict: Predict, rows: Any) -> float:
        chosen = predict(features[rows])[np.arange(len(rows)), classes[rows]]
        return -float(np.mean(_probabilities.log(chosen)))

    return _best(fit, error, INVERSE_PENALTIES, len(classes))


def _best(
    fit: Callable[[float, Any], Predict], error: Callable[[Predict, Any], float], strengths: Sequence[float], n: int
) -> Predict:
    """Fits on all rows with the strength that errs least on a held-out fifth; with few rows, the middle one."""
    strength = strengths[len(strengths) // 2]
    if n >= 50:
        rows = np.random.default_rng(0).permutation(n)[:ROWS_TO_CHOOSE_ON]
        held_out, rest = np.split(rows, [len(rows) // 5])
        strength = min(strengths, key=lambda one: error(fit(one, rest), held_out))
    return fit(strength, np.arange(n))


def _fitted(model: Any, features: Any, values: Any) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, values)
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            logger.warning("baseline %s stopped before it had converged", model)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model
