"""What two arms differ by, and how sure that is: seeds and test rows are both chance.

Seeds alone tell how a run varies on these test rows; other rows would have given other numbers. Both count here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equipoise.evaluation._metric_functions import METRICS

__all__ = ["holm", "mean_interval", "paired_difference", "row_bootstrap", "rows_needed", "seeds_needed"]

Floats = NDArray[np.float64]
Better = Literal["min", "max"]

RESAMPLES = 1000
#: Row weights of one batch of resamples: 8 bytes each.
BATCH_CELLS = 4_000_000
POWER = 0.8
MOST_SEEDS = 1000
MOST_ROWS = 10**9


def mean_interval(values: Sequence[float | None], level: float = 0.95) -> dict[str, Any]:
    """Mean and t interval over seeds.

        mean +- t_{n-1} sd / sqrt(n)

    Args:
        values: one number a seed; None and NaN take no part.
        level: how often such an interval holds the true mean.

    Returns:
        `mean`, `low`, `high`, `sd` (of the sample, n - 1). One value has a mean and nothing else.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0])
        >>> found["mean"], round(found["low"], 3), round(found["high"], 3)
        (2.0, -0.484, 4.484)
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
    if not len(known):
        return {"mean": None, "low": None, "high": None, "sd": None}
    mean = float(known.mean())
    if len(known) == 1:
        return {"mean": mean, "low": None, "high": None, "sd": None}
    sd = _sd(known)
    half = float(stats.t.ppf((1 + level) / 2, len(known) - 1)) * sd / math.sqrt(len(known))
    return {"mean": mean, "low": mean - half, "high": mean + half, "sd": sd}


def row_bootstrap(
    metric: str,
    true: NDArray[Any],
    predicted: NDArray[Any],
    *,
    classes: int = 0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """Values of a metric on test rows drawn again with replacement, the same draws for every run.

    The standard error of a difference between two arms is the standard deviation over resamples of the difference of
    their seed means: `np.std((ours - theirs).mean(axis=0), ddof=1)`. As the rows are the same on both sides, rows that
    are hard for both cancel.

    References:
        Bootstrap Methods: Another Look at the Jackknife (Efron, 1979)
        https://doi.org/10.1214/aos/1176344552

    Args:
        metric: a key of `METRICS`.
        true: `[rows]`, two at least.
        predicted: `[runs, rows]`.
        classes: how many classes there are; 0 for scores.
        resamples: how many.
        seed: of the draws; the same seed and number of rows give the same draws.

    Returns:
        `[runs, resamples]`; NaN where the metric has no meaning on a resample.
    """
    rows, compute = len(true), METRICS[metric]

    def statistic(drawn: NDArray[np.int64], axis: int) -> Floats:  # [resamples, rows] -> [runs, resamples]
        offset = np.arange(len(drawn))[:, None] * rows
        counts = np.bincount((drawn + offset).reshape(-1), minlength=drawn.size)
        return compute(true, predicted, counts.reshape(drawn.shape).astype(np.float64), classes)

    found = stats.bootstrap(
        (np.arange(rows),),
        statistic,
        n_resamples=resamples,
        batch=max(1, min(resamples, BATCH_CELLS // rows)),
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return np.asarray(found.bootstrap_distribution, dtype=np.float64)


def paired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    better: Better,
    rows_se: float | None = None,
    rows: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """What one arm's metric is more than another's, with the doubt from seeds and from test rows.

        d_s = ours_s - theirs_s,    variance = s_d^2 / n + v,    interval = mean +- t_df sqrt(variance)
        df = variance^2 / ((s_d^2 / n)^2 / (n - 1) + v^2 / (rows - 1))        (Welch and Satterthwaite)

    with s_d the standard deviation of d over n seeds and v = `rows_se`^2 the variance that other test rows would bring.
    By the law of total variance the two add up; what a seed does on particular rows is in both, so that the interval is a
    little wide rather than narrow. With one seed only v counts; without v only the seeds.

    References:
        An Approximate Distribution of Estimates of Variance Components (Satterthwaite, 1946)
        https://doi.org/10.2307/3002019

    Args:
        ours: one number a seed.
        theirs: of the same seeds, in the same order.
        better: whether less (`min`) or more (`max`) of the metric is better.
        rows_se: the standard error from test rows (see `row_bootstrap`); None where it is not known.
        rows: how many test rows there are.
        level: of the interval.

    Returns:
        `mean`, `low`, `high` in the metric's units; `relative`: the same in per cent of their mean, positive where ours
        is better; `p`, two-sided; `seeds_sd`, `rows_se`, `n`, `seeds_needed`, `rows_needed`. None where nothing is known.

    Raises:
        ValueError: no seeds, or not the same number on both sides.

    Example:
        >>> found = paired_difference([0.8, 0.9], [1.0, 1.0], better="min")
        >>> round(found["mean"], 3), round(found["relative"]["mean"], 1), round(found["p"], 3)
        (-0.15, 15.0, 0.205)
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(
            f"{len(ours)} and {len(theirs)} values: a difference needs the same seeds on both sides, one at least"
        )
    apart = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    n, mean = len(apart), float(apart.mean())
    seeds_sd = _sd(apart) if n > 1 else None
    found: dict[str, Any] = {"mean": mean, "low": None, "high": None, "p": None}
    if seeds_sd is not None or rows_se is not None:
        error, df = _error(seeds_sd, n, rows_se, rows)
        half = float(stats.t.ppf((1 + level) / 2, df)) * error if error > 0 else 0.0
        found |= {"low": mean - half, "high": mean + half, "p": _p(mean, error, df)}
    needed = None if seeds_sd is None else seeds_needed(mean, seeds_sd, rows_se, rows, level)
    return {
        **found,
        "relative": _relative(found, float(np.mean(theirs)), better),
        "seeds_sd": seeds_sd,
        "rows_se": rows_se,
        "n": n,
        "seeds_needed": needed,
        "rows_needed": None if needed is not None else rows_needed(mean, rows_se, rows, level),
    }


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: how likely the least surprising of these results is by chance among so many.

    The j-th smallest of m values is multiplied by m - j + 1, never less than the one before, at most 1. None stays None
    and is not counted.

    References:
        A Simple Sequentially Rejective Multiple Test Procedure (Holm, 1979)
        https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - step)))
        corrected[place] = highest
    return corrected


def seeds_needed(
    mean: float, seeds_sd: float, rows_se: float | None = None, rows: int = 0, level: float = 0.95
) -> int | None:
    """The fewest seeds that would show a difference of this size four times in five.

    Power is that of the two-sided test of `paired_difference`, by the noncentral t distribution. The doubt from test rows
    is taken to stay as it is.

    Args:
        mean: the difference, in the metric's units.
        seeds_sd: the standard deviation of the paired differences over seeds.
        rows_se: the standard error from test rows.
        rows: how many test rows there are.
        level: 1 less the level of the test.

    Returns:
        From 2 to 1,000; None where that is not enough, or there is no difference.
    """

    def enough(n: int) -> bool:
        return _power(mean, *_error(seeds_sd, n, rows_se, rows), level) >= POWER

    return _least(enough, 2, MOST_SEEDS)


def rows_needed(mean: float, rows_se: float | None, rows: int, level: float = 0.95) -> int | None:
    """The fewest test rows that would show a difference of this size four times in five, with any number of seeds.

    The variance from rows falls as 1 / rows.

    Returns:
        None where the present rows are enough, nothing is known of them, or there is no difference.
    """
    if rows_se is None or rows < 2:
        return None

    def enough(n: int) -> bool:
        return _power(mean, rows_se * math.sqrt(rows / n), n - 1, level) >= POWER

    return None if enough(rows) else _least(enough, rows, MOST_ROWS)


def _least(enough: Any, low: int, high: int) -> int | None:
    """The least number that is enough; what is enough stays so as numbers grow."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _error(seeds_sd: float | None, n: int, rows_se: float | None, rows: int) -> tuple[float, float]:
    """The standard error of a mean difference, and its degrees of freedom."""
    from_seeds = 0.0 if seeds_sd is None else seeds_sd**2 / n
    from_rows = 0.0 if rows_se is None else rows_se**2
    total = from_seeds + from_rows
    if total == 0:
        return 0.0, 1.0
    below = (from_seeds / total) ** 2 / max(n - 1, 1) + (from_rows / total) ** 2 / max(rows - 1, 1)
    return math.sqrt(total), 1.0 / below


def _p(mean: float, error: float, df: float) -> float:
    if mean == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / error, df)) if error > 0 else 0.0


def _power(mean: float, error: float, df: float, level: float) -> float:
    """How often the two-sided t test shows a true difference of `mean`, on its own side.

    A finding with the wrong sign is no success; that tail, below 1 % at most, is also where scipy's `nct` gives NaN.
    """
    if mean == 0:
        return 0.0
    edge = float(stats.t.ppf((1 + level) / 2, df))
    # Beyond this all of the distribution lies above the edge, and scipy's tables are inaccurate.
    if error == 0 or abs(mean) / error > edge + 30:
        return 1.0
    shift = abs(mean) / error
    return float(stats.nct.sf(edge, df, shift))


def _relative(found: dict[str, Any], reference: float, better: Better) -> dict[str, float | None]:
    """Per cent of the reference, positive where better."""
    if reference == 0:
        return {"mean": None, "low": None, "high": None}
    factor = (100.0 if better == "max" else -100.0) / abs(reference)
    low, high = ("low", "high") if factor > 0 else ("high", "low")
    scaled = {key: None if found[key] is None else factor * found[key] for key in ("mean", "low", "high")}
    return {"mean": scaled["mean"], "low": scaled[low], "high": scaled[high]}


def _sd(values: Floats) -> float:
    # Compared exactly: the rounded mean of equal values may differ from them, and leave a deviation of 1e-17.
    return 0.0 if values.min() == values.max() else float(values.std(ddof=1))
