"""What two arms differ by, and how sure that is: seeds and test rows are both chance.

Seeds alone tell how a run varies on these test rows; other rows would have given other numbers. Both count here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from equipoise.evaluation._metric_functions import METRICS

__all__ = ["holm", "mean_interval", "paired_difference", "row_bootstrap", "rows_needed", "seeds_needed"]

Floats = NDArray[np.float64]
Better = Literal["min", "max"]
#: Each source of chance: the variance it gives a mean difference, and how many degrees of freedom that was estimated with.
Sources = Sequence[tuple[float, int]]

RESAMPLES = 1000
#: Row weights of one batch of resamples: 8 bytes each.
BATCH_CELLS = 4_000_000
POWER = 0.8
MOST_SEEDS = 1000
MOST_ROWS = 10**9
#: Deviations below this share of the numbers are rounding.
ROUNDING = 1e-12
#: Smaller p are not told apart: squares of their quantiles overflow.
LEAST_P = 1e-100
#: Quantiles of an estimated variance that a power is averaged over.
QUANTILES = 100


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
    sd = _sd(known, float(np.abs(known).max()))
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

        d_s = ours_s - theirs_s,    interval = mean +- sqrt(t_{n-1}^2 s_d^2 / n + t_{rows-1}^2 v)

    with s_d the standard deviation of d over n seeds and v = `rows_se`^2 the variance that other test rows would bring.
    By the law of total variance the two add up; what a seed does on particular rows is in both, so that the interval is a
    little wide rather than narrow. With one seed only v counts; without v only the seeds.

    Each source has the quantile of its own degrees of freedom: where they are normal and independent, such an interval
    holds the truth at least as often as its level says, for any n and any ratio of the two (the chance that a squared
    normal is below x is concave in x). Degrees of freedom by Satterthwaite's formula do not hold with two or three
    seeds: an s_d that is small by chance makes them large. p is 1 less the level at which the interval ends at 0.

    References:
        Approximate Confidence Interval for Linear Functions of Means of k Populations When the Population Variances Are
        Not Equal (Banerjee, 1960), Sankhya 22, 357-358

    Args:
        ours: one number a seed.
        theirs: of the same seeds, in the same order.
        better: whether less (`min`) or more (`max`) of the metric is better.
        rows_se: the standard error from test rows (see `row_bootstrap`); None where it is not known.
        rows: how many test rows there are.
        level: of the interval.

    Returns:
        `mean`, `low`, `high` in the metric's units; `relative`: the same in per cent of their mean, positive where ours
        is better; `p`, two-sided; `seeds_sd`, `rows_se`, `n` seeds, `rows`. None where nothing is known: a difference with
        neither seeds nor rows that vary has no interval and no p, unless it is 0.

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
    size = float(np.abs([ours, theirs]).max())
    seeds_sd = _sd(apart, size) if n > 1 else None
    if rows_se is not None and rows_se <= ROUNDING * size:
        rows_se = 0.0
    sources = _sources(seeds_sd, n, rows_se, rows)
    found: dict[str, Any] = {"mean": mean, "low": None, "high": None, "p": None}
    if sources or (mean == 0 and (seeds_sd is not None or rows_se is not None)):
        half = float(_half(sources, 1 - level))
        found |= {"low": mean - half, "high": mean + half, "p": _p(mean, sources)}
    return {
        **found,
        "relative": _relative(found, float(np.mean(theirs)), better),
        "seeds_sd": seeds_sd,
        "rows_se": rows_se,
        "n": n,
        "rows": rows,
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

    Power is that of the two-sided test of `paired_difference`. The doubt from test rows is taken to stay as it is.

    Args:
        mean: the difference, in the metric's units.
        seeds_sd: the standard deviation of the paired differences over seeds.
        rows_se: the standard error from test rows.
        rows: how many test rows there are.
        level: 1 less the level of the test.

    Returns:
        From 2 to 1,000; None where that is not enough, there is no difference, or nothing varies.
    """

    def enough(n: int) -> bool:
        return _power(mean, _sources(seeds_sd, n, rows_se, rows), level) >= POWER

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
        return _power(mean, _sources(None, 0, rows_se * math.sqrt(rows / n), n), level) >= POWER

    return None if enough(rows) else _least(enough, rows, MOST_ROWS)


def _least(enough: Any, low: int, high: int) -> int | None:
    """The least number that is enough; what is enough stays so as numbers grow."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _sources(seeds_sd: float | None, n: int, rows_se: float | None, rows: int) -> list[tuple[float, int]]:
    """What a mean difference of n seeds varies by; sources that are unknown or do not vary are left out."""
    both = (0.0 if seeds_sd is None else seeds_sd**2 / n, n), (0.0 if rows_se is None else rows_se**2, rows)
    return [(variance, max(count - 1, 1)) for variance, count in both if variance > 0]


def _half(
    sources: Sequence[tuple[Any, int]],
    miss: float,  # 1 - level: a tiny p would be lost in it
) -> Any:
    """Half the width of an interval; of many at once where the variances are arrays."""
    return np.sqrt(sum(float(stats.t.isf(miss / 2, df)) ** 2 * variance for variance, df in sources))


def _p(mean: float, sources: Sources) -> float:
    """The p at which `_half` is the mean, so that an interval of level 1 - p ends at 0."""
    if mean == 0:
        return 1.0
    total = sum(variance for variance, _ in sources)
    z = abs(mean) / math.sqrt(total)
    # If all the variance were of one source; the truth lies between.
    ends = [2 * float(stats.t.sf(z, df)) for _, df in sources]
    if len(sources) == 1 or max(ends) <= LEAST_P:
        return max(ends)

    def beyond(log_p: float) -> float:
        return float(_half(sources, math.exp(log_p))) / abs(mean) - 1

    # Opened a little, since rounding may put the root on an end.
    low, high = math.log(max(min(ends), LEAST_P)) - 1e-3, min(math.log(max(ends)) + 1e-3, 0.0)
    return math.exp(optimize.brentq(beyond, low, high) if beyond(low) > 0 else low)


def _power(mean: float, sources: Sources, level: float) -> float:
    """How often the test shows a true difference of `mean`, on its own side: a finding with the wrong sign is no success.

    The chance that a normal difference is beyond `_half`, averaged over what the variances may be estimated as: over
    the quantiles of chi^2_df / df of each source, each with each.
    """
    if mean == 0 or not sources:
        return 0.0
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    estimated = np.ix_(*(variance * stats.chi2.ppf(middles, df) / df for variance, df in sources))
    half = _half([(one, df) for one, (_, df) in zip(estimated, sources, strict=True)], 1 - level)
    error = math.sqrt(sum(variance for variance, _ in sources))
    return float(np.mean(special.ndtr((abs(mean) - half) / error)))


def _relative(found: dict[str, Any], reference: float, better: Better) -> dict[str, float | None]:
    """Per cent of the reference, positive where better."""
    if reference == 0:
        return {"mean": None, "low": None, "high": None}
    factor = (100.0 if better == "max" else -100.0) / abs(reference)
    low, high = ("low", "high") if factor > 0 else ("high", "low")
    scaled = {key: None if found[key] is None else factor * found[key] for key in ("mean", "low", "high")}
    return {"mean": scaled["mean"], "low": scaled[low], "high": scaled[high]}


def _sd(
    values: Floats,
    size: float,  # the greatest of the numbers that the values were computed from
) -> float:
    # 0.85 - 0.8 and 0.75 - 0.7 differ by 1e-16: rounding, which would pass for a seed that changes hardly anything.
    sd = float(values.std(ddof=1))
    return sd if sd > ROUNDING * size else 0.0
