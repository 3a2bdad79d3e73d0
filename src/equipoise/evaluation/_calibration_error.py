"""Whether probabilities mean what they say: of all answers given with 80 %, four in five should be right."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "expected_calibration_error", "reliability"]

#: As in the paper.
BINS = 15
#: The normal quantile of a 95 % interval.
Z = 1.959963984540054


def reliability(
    confidence: NDArray[np.floating[Any]],  # [n], in [0, 1]
    correct: NDArray[np.bool_],  # [n]
    bins: int = BINS,
) -> dict[str, Any]:
    """Confidence against accuracy in bins of equal width, and the expected calibration error.

        ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|,    B_m = {i: (m - 1) / M < p_i <= m / M},  m = 1..M

    with p_i the probability that answer i was given with, conf(B_m) the mean of p_i over the bin and acc(B_m) the share of
    its answers that are right. p_i = 0 falls into the first bin. Empty bins count nothing.

    Few answers scatter: even probabilities that are right in the long run leave an ECE above 0. `expected` is about what
    they would leave with these very p_i, by the normal approximation of each bin's number of right answers,

        expected = sum_m |B_m| / n * sqrt(2 / pi) * sqrt(sum_{i in B_m} p_i (1 - p_i)) / |B_m|

    References:
        On Calibration of Modern Neural Networks (Guo et al., 2017): the definition, and 15 bins
        https://arxiv.org/abs/1706.04599
        Obtaining Well Calibrated Probabilities Using Bayesian Binning (Naeini et al., 2015)
        https://doi.org/10.1609/aaai.v29i1.9602
        Probable Inference, the Law of Succession, and Statistical Inference (Wilson, 1927): the bins' intervals
        https://doi.org/10.1080/01621459.1927.10502953

    Args:
        confidence: `[n]` the probability of the answer that was given, or of a class that is there or not.
        correct: `[n]` whether that came true.
        bins: M, one at least.

    Returns:
        `n`; `ece` and `expected`, None without an answer; `bins`: the bins that hold any, each with `low`, `high` (its
        ends), `n`, `confidence`, `accuracy`, and `accuracy_low`, `accuracy_high` (Wilson's 95 % interval).

    Raises:
        ValueError: a confidence is outside [0, 1] or no number, the lengths differ, or `bins` is below 1.

    Example:
        >>> found = reliability(np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False]), bins=10)
        >>> round(found["ece"], 3), [one["accuracy"] for one in found["bins"]]
        (0.05, [0.5, 1.0])
    """
    p, hit = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if p.shape != hit.shape or p.ndim != 1:
        raise ValueError(f"confidence {p.shape} and correct {hit.shape} must be of one length")
    if bins < 1:
        raise ValueError(f"bins is {bins}, and one is the least")
    # A softmax in float32 may end a hair above 1; NaN fails this comparison as well.
    if not np.all((p >= 0) & (p <= 1 + 1e-6)):
        raise ValueError("a confidence is no number from 0 to 1")
    if not len(p):
        return {"n": 0, "ece": None, "expected": None, "bins": []}
    edges = np.arange(1, bins) / bins
    which = np.searchsorted(edges, p, side="left")
    counts = np.bincount(which, minlength=bins)
    sums, hits, variances = (np.bincount(which, weights=w, minlength=bins) for w in (p, hit, p * (1 - p)))
    # Multiplied out: the bin's size cancels.
    ece = float(np.abs(hits - sums).sum() / len(p))
    expected = float(math.sqrt(2 / math.pi) * np.sqrt(np.maximum(variances, 0)).sum() / len(p))
    found = []
    for m in np.flatnonzero(counts):
        n = int(counts[m])
        low, high = _wilson(hits[m] / n, n)
        found.append(
            {
                "low": float(m / bins),
                "high": float((m + 1) / bins),
                "n": n,
                "confidence": float(sums[m] / n),
                "accuracy": float(hits[m] / n),
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return {"n": len(p), "ece": ece, "expected": expected, "bins": found}


def expected_calibration_error(
    confidence: NDArray[np.floating[Any]],  # [n]
    correct: NDArray[np.bool_],  # [n]
    bins: int = BINS,
) -> float | None:
    """The ECE of `reliability` alone; None without an answer."""
    found: float | None = reliability(confidence, correct, bins)["ece"]
    return found


def _wilson(share: float, n: int) -> tuple[float, float]:
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
