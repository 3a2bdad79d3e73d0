"""How runs went: means and bands over seeds, from the lines of `history.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.evaluation._significance import mean_interval

__all__ = ["MOST_POINTS", "band", "curves"]

Run = Mapping[str, Any]
Points = dict[int, float]  # step -> value

#: A logged curve keeps every k-th of its steps, so that no more than this remain; evaluations are all kept.
MOST_POINTS = 200


def curves(runs: Sequence[Run], judged: Sequence[tuple[str, str]], level: float = 0.95) -> dict[str, Any]:
    """The curves of one arm.

    Args:
        runs: done runs, each with `seed`, `history` and `training`.
        judged: (task, metric) to draw on validation.
        level: of the bands.

    Returns:
        `validation`: `task.metric` -> band, with `examples` seen beside `step`; `weights`, `losses`, `norms`: task ->
        band; `cosines`: `a|b` -> band. A band has `step`, `mean`, `low`, `high`, lists of equal length. What was never
        logged is absent.
    """
    logged = [[line for line in run["history"] if "tasks" in line] for run in runs]
    evaluated = [[line for line in run["history"] if line.get("split") == "validation"] for run in runs]
    seeds = [run["seed"] for run in runs]

    def bands(lines: Sequence[Sequence[Run]], names: Sequence[Any], read: Callable[[Run, Any], Any]) -> dict[Any, Any]:
        found = {}
        for name in names:
            points = [{line["step"]: value for line in one if (value := read(line, name)) is not None} for one in lines]
            if any(points):
                found[name] = band(points, seeds, level=level, most=None if lines is evaluated else MOST_POINTS)
        return found

    tasks = list(dict.fromkeys(task for one in logged for line in one for task in line["tasks"]))
    pairs = list(dict.fromkeys(pair for one in logged for line in one for pair in line.get("cosines") or {}))
    validation = bands(evaluated, judged, lambda line, name: line["metrics"].get(name[0], {}).get(name[1]))
    rates = [run["training"]["examples"] / run["training"]["steps"] for run in runs if run["training"].get("steps")]
    for one in validation.values():
        one["examples"] = [round(step * float(np.mean(rates))) for step in one["step"]] if rates else None
    return {
        "validation": {f"{task}.{metric}": one for (task, metric), one in validation.items()},
        "weights": bands(logged, tasks, lambda line, task: line["tasks"].get(task, {}).get("weight")),
        "losses": bands(logged, tasks, lambda line, task: line["tasks"].get(task, {}).get("loss")),
        "norms": bands(logged, tasks, lambda line, task: line["tasks"].get(task, {}).get("norm")),
        "cosines": bands(logged, pairs, lambda line, pair: (line.get("cosines") or {}).get(pair)),
    }


def band(
    points: Sequence[Points], seeds: Sequence[int], *, level: float = 0.95, most: int | None = None
) -> dict[str, list[Any]]:
    """Mean and t interval over seeds at the steps that runs have in common.

    Runs of one seed (its folds) are averaged first. Where a run stopped early, the curve ends there. Where runs have
    fewer than half of the shortest run's steps in common (folds whose epochs end at different steps), they are aligned by
    order instead: the i-th point of each, at their mean step.

    Args:
        points: one a run, step -> value. Runs without a point take no part.
        seeds: of the runs.
        level: of the interval.
        most: how many points to keep at most, evenly spread.

    Returns:
        `step`, `mean`, `low`, `high`; the last two None with one seed.

    Example:
        >>> band([{10: 1.0, 20: 3.0}, {10: 2.0}], [0, 1])["mean"]
        [1.5]
    """
    held = [(seed, one) for seed, one in zip(seeds, points, strict=True) if one]
    if not held:
        return {"step": [], "mean": [], "low": [], "high": []}
    shortest = min(len(one) for _, one in held)
    common = sorted(set.intersection(*(set(one) for _, one in held)))
    if 2 * len(common) >= shortest:
        steps, table = common, [[one[step] for step in common] for _, one in held]
    else:
        ordered = [sorted(one.items())[:shortest] for _, one in held]
        steps = [round(float(np.mean(at))) for at in zip(*([step for step, _ in one] for one in ordered), strict=True)]
        table = [[value for _, value in one] for one in ordered]
    values = np.array(table, dtype=np.float64)  # [runs, steps]
    of_run = np.array([seed for seed, _ in held])
    by_seed = np.stack([values[of_run == seed].mean(axis=0) for seed in dict.fromkeys(of_run.tolist())])
    if most is not None and len(steps) > most:
        kept = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
        steps, by_seed = [steps[place] for place in kept], by_seed[:, kept]
    found = [mean_interval(column.tolist(), level) for column in by_seed.T]
    return {"step": [int(step) for step in steps]} | {
        key: [_short(one[key]) for one in found] for key in ("mean", "low", "high")
    }


def _short(value: float | None) -> float | None:
    """Six digits, as `history.jsonl` has: more would only make the summary long."""
    return None if value is None else float(f"{value:.6g}")
