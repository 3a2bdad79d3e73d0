"""Numbers that sum several tasks up: relative gain, mean rank, the Pareto front, who helps whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from equipoise.evaluation._significance import Better, mean_interval

__all__ = ["delta_m", "mean_ranks", "pareto_front", "relative_gain", "transfer"]

Pair = tuple[str, str]  # (task, metric)


def relative_gain(value: float, reference: float, better: Better) -> float | None:
    """By how many per cent of the reference a value is better; None where the reference is 0.

    Example:
        >>> relative_gain(0.75, 1.0, "min"), relative_gain(0.75, 1.0, "max")
        (25.0, -25.0)
    """
    if reference == 0:
        return None
    gain = 100.0 * (value - reference) / abs(reference)
    return gain if better == "max" else -gain


def delta_m(
    values: Mapping[str, Mapping[int, float]],
    alone: Mapping[str, Mapping[int, float]],
    better: Mapping[str, Better],
    level: float = 0.95,
) -> dict[str, float | None] | None:
    """Mean relative gain over training each task alone, in per cent.

        Delta_m = 1/K sum_k (-1)^[less is better] (M_k - M_alone,k) / |M_alone,k|

    for each seed, then the mean and its t interval over seeds. The paper divides by M_alone,k; the sign of a reference
    below 0 (a correlation can be) would turn a gain into a loss.

    References:
        Attentive Single-Tasking of Multiple Tasks (Maninis, Radosavovic, Kokkinos, 2019)
        https://arxiv.org/abs/1904.08918
        Multi-Task Learning for Dense Prediction Tasks: A Survey (Vandenhende et al., 2021)
        https://arxiv.org/abs/2004.13379

    Args:
        values: task -> seed -> the arm's metric of that task.
        alone: the same of the models trained on that task only.
        better: task -> whether less or more is better.
        level: of the interval.

    Returns:
        `mean`, `low`, `high`; None where no seed has every number.

    Example:
        >>> delta_m({"a": {0: 0.75}, "b": {0: 0.75}}, {"a": {0: 1.0}, "b": {0: 0.5}}, {"a": "min", "b": "max"})["mean"]
        37.5
    """
    seeds = set.intersection(*(set(values[task]) & set(alone.get(task, {})) for task in values)) if values else set()
    gains = []
    for seed in sorted(seeds):
        found = [relative_gain(values[task][seed], alone[task][seed], better[task]) for task in values]
        known = [gain for gain in found if gain is not None]
        if len(known) == len(found):
            gains.append(float(np.mean(known)))
    if not gains:
        return None
    interval = mean_interval(gains, level)
    return {key: interval[key] for key in ("mean", "low", "high")}


def mean_ranks(
    values: Mapping[str, Mapping[Pair, float | None]], better: Mapping[Pair, Better]
) -> dict[str, float | None]:
    """Each arm's rank (1 is best, ties share the mean of their ranks), averaged over metrics.

    References:
        FAMO: Fast Adaptive Multitask Optimization (Liu et al., 2023), which compares methods by it
        https://arxiv.org/abs/2306.03792

    Args:
        values: arm -> (task, metric) -> mean over seeds.
        better: (task, metric) -> whether less or more is better.

    Returns:
        Arm -> mean rank; None for an arm that lacks a metric, which is ranked nowhere.

    Example:
        >>> mean_ranks({"x": {("a", "mse"): 1.0}, "y": {("a", "mse"): 2.0}}, {("a", "mse"): "min"})
        {'x': 1.0, 'y': 2.0}
    """
    complete = [arm for arm in values if all(values[arm].get(metric) is not None for metric in better)]
    ranks: dict[str, float | None] = dict.fromkeys(values)
    if not complete or not better:
        return ranks
    table = np.array([[values[arm][metric] for metric in better] for arm in complete], dtype=np.float64)
    signs = np.array([1.0 if way == "min" else -1.0 for way in better.values()])
    means = rankdata(table * signs, axis=0).mean(axis=1)
    return ranks | {arm: float(mean) for arm, mean in zip(complete, means, strict=True)}


def pareto_front(
    points: ArrayLike,  # [n, m]
    better: Sequence[Better],
) -> list[int]:
    """Which points no other point beats: none is at least as good in everything and better in something.

    Returns:
        Their positions, in the order of the first coordinate. Equal points are all kept.

    Example:
        >>> pareto_front([[1.0, 5.0], [2.0, 4.0], [2.0, 6.0]], ["min", "max"])
        [0, 2]
    """
    costs: NDArray[np.float64] = np.asarray(points, dtype=np.float64).reshape(-1, len(better))
    costs = costs * [1.0 if way == "min" else -1.0 for way in better]
    beaten = [
        bool(np.any(np.all(costs <= cost, axis=1) & np.any(costs < cost, axis=1)))  # [n] compared with one
        for cost in costs
    ]
    kept = np.flatnonzero(~np.array(beaten, dtype=bool))
    order = np.argsort(np.asarray(points, dtype=np.float64).reshape(-1, len(better))[kept, 0], kind="stable")
    return [int(place) for place in kept[order]]


def transfer(tasks: Sequence[str], gains: Mapping[Pair, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """Who helps whom: how much better task i is when trained with task j than alone.

    Args:
        tasks: names, in the order of rows and columns.
        gains: (i, j) -> the difference of task i with j and alone, as `paired_difference` gives it, with its verdict.
        source: `pairs` where each two were trained together, `all tasks` where the comparison's own model of two tasks
            is that pair.

    Returns:
        `tasks`, `source` and, as rows i of columns j, `gain`, `low`, `high` (per cent of alone, positive is better) and
        `verdict`; None on the diagonal and where a pair was not trained.
    """

    def table(read: Any) -> list[list[Any]]:
        return [[read(gains[i, j]) if (i, j) in gains else None for j in tasks] for i in tasks]

    return {
        "tasks": list(tasks),
        "source": source,
        "gain": table(lambda one: one["relative"]["mean"]),
        "low": table(lambda one: one["relative"]["low"]),
        "high": table(lambda one: one["relative"]["high"]),
        "verdict": table(lambda one: one["verdict"]),
    }
