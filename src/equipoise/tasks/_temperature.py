"""One number that makes class probabilities as sure as they are right (temperature scaling, Guo et al. 2017, 1706.04599)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equipoise.tasks._probabilities import softmax

__all__ = ["temperature_scale"]

#: Beyond these, nothing in the rows says how sure to be: nearly all are right, or outputs tell nothing.
LEAST, MOST = 1 / 64, 64.0


def temperature_scale(
    outputs: NDArray[np.floating],  # [n, classes]
    targets: NDArray[np.floating],  # [n], class indices
) -> float | None:
    """The scale a = 1 / temperature under which the log loss of softmax(a outputs) is least.

        f(a) = sum_i [log sum_c exp(a o_ic) - a o_iy],   which is convex in a

    It is used where rows are met better under the scale of all the others than under 1. Without n fits: leaving row i
    out moves a by g_i / H, with g_i the row's slope in a and H the curvature of f, and so its loss by about g_i^2 / H.

    Returns:
        a > 0; None where 1 is as good, or where nothing says how sure to be (every row is right).
    """
    from scipy.optimize import minimize_scalar

    rows, true = outputs.astype(np.float64), targets.astype(np.int64)
    if len(rows) < 2 or not np.isfinite(rows).all():
        return None
    rows = rows - rows[np.arange(len(rows)), true][:, None]  # 0 for the true class: a loss is log sum exp
    if rows.max() <= 0:
        return None

    def losses(scale: float) -> NDArray[np.float64]:
        scaled = scale * rows
        top = scaled.max(axis=1)
        found: NDArray[np.float64] = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return found

    # In the logarithm, since twice and half as sure are as far from 1.
    found = minimize_scalar(lambda power: losses(np.exp(power)).sum(), bounds=np.log([LEAST, MOST]), method="bounded")
    scale = float(np.exp(found.x))
    if not 1.01 * LEAST < scale < MOST / 1.01:
        return None
    shares = softmax(scale * rows)
    slopes = (shares * rows).sum(axis=1)
    curvature = float(((shares * rows**2).sum(axis=1) - slopes**2).sum())
    if not curvature > 0:
        return None
    unseen = float(losses(scale).sum() + (slopes**2).sum() / curvature)
    return scale if unseen < float(losses(1.0).sum()) else None
