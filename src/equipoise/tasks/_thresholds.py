"""Classes of a score that are as balanced as ties allow."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equipoise.errors import DataError


def balanced_thresholds(values: ArrayLike, bins: int) -> list[float]:
    """Cuts a score into classes of sizes as equal as its ties allow.

    Equal values cannot be parted, so the thresholds minimise, over all ways to cut between distinct values into `bins`
    non-empty classes,

        sum_b (n_b - n / bins)^2,   n_b = how many values fall into class b

    exactly. As the n_b sum to n, that is the least sum_b n_b^2, which depends on the cumulated counts c alone:

        best_b(i) = min_{j < i} best_{b-1}(j) + (c_i - c_j)^2.

    The squared difference obeys the quadrangle inequality, so the best j never falls as i grows; each stage is solved by
    divide and conquer in O(m log m) for m distinct values.

    Args:
        values: `[n]` finite numbers.
        bins: how many classes, at least 2.

    Returns:
        `bins - 1` increasing thresholds, each midway between two neighbouring distinct values. The class of a value is
        the number of thresholds that are less than or equal to it: see `class_of`.

    Raises:
        DataError: there are fewer distinct values than classes.

    Example:
        >>> balanced_thresholds([0, 0, 0, 1, 2, 3], bins=3)
        [0.5, 1.5]
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    if len(distinct) < bins:
        raise DataError(
            f"{bins} bins need as many distinct values, and the training split has {len(distinct)}. Lower bins"
        )
    cumulated = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # [m + 1]; squares stay exact below 3e9 rows
    best = cumulated**2  # one class: [m + 1]
    choices = []
    for classes in range(2, bins + 1):
        best, choice = _one_class_more(best, cumulated, classes)
        choices.append(choice)
    cuts, end = [], len(distinct)
    for choice in reversed(choices):
        end = int(choice[end])
        cuts.append(end)
    return [_between(distinct[cut - 1], distinct[cut]) for cut in reversed(cuts)]


def class_of(values: NDArray[np.float64], thresholds: ArrayLike) -> NDArray[np.int64]:
    """The class of each value: how many thresholds are less than or equal to it. A value on a threshold goes up."""
    return np.searchsorted(np.asarray(thresholds, dtype=np.float64), values, side="right")


def _one_class_more(
    best: NDArray[np.int64],  # [m + 1], the least cost of the first i distinct values in one class less
    cumulated: NDArray[np.int64],  # [m + 1]
    classes: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One stage of the programme: the least cost of the first i distinct values, and where the last class starts."""
    cost, start = np.zeros_like(best), np.zeros_like(best)
    # Ranges [first, last] of i still to be solved, with the range [low, high] that their best j lies in. All ranges of
    # one depth are solved by the same few array operations.
    first, last = np.array([classes]), np.array([len(best) - 1])
    low, high = np.array([classes - 1]), np.array([len(best) - 2])
    while len(first):
        middle = (first + last) // 2
        tries = np.minimum(high, middle - 1) - low + 1
        begins = np.cumsum(tries) - tries
        j = np.arange(tries.sum()) + np.repeat(low - begins, tries)
        costs = best[j] + (np.repeat(cumulated[middle], tries) - cumulated[j]) ** 2
        cost[middle] = np.minimum.reduceat(costs, begins)
        hits = np.flatnonzero(costs == np.repeat(cost[middle], tries))
        chosen = j[hits[np.searchsorted(hits, begins)]]  # the first of equals, which the order of best j relies on
        start[middle] = chosen
        first, last = np.concatenate([first, middle + 1]), np.concatenate([middle - 1, last])
        low, high = np.concatenate([low, chosen]), np.concatenate([chosen, high])
        left = first <= last
        first, last, low, high = first[left], last[left], low[left], high[left]
    return cost, start


def _between(below: float, above: float) -> float:
    middle = float(below / 2 + above / 2)
    # Between neighbouring floats there is no room: the threshold is then the upper one, which the rule sends up.
    return middle if below < middle <= above else float(above)
