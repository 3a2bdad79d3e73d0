"""What arms cost, and how good each is within the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.evaluation._measurements import Arm
from equipoise.evaluation._significance import mean_interval

__all__ = ["cost", "equal_time", "reference_seconds", "unlike"]

Run = Mapping[str, Any]
Reference = Mapping[tuple[int, int | None], float]
#: What times and memory hang on beside the arm.
CONDITIONS = ("device", "threads", "engine")


def cost(arm: Arm, baseline: Arm | None, trials: Sequence[Run]) -> dict[str, Any]:
    """Time, memory and extra work of one run of an arm, means over its runs.

    Args:
        arm: the arm.
        baseline: what the ratios are to; None where it has no run.
        trials: runs of the search that chose the arm's settings; none for an arm without one.

    Returns:
        `seconds`, `peak_memory_mb` (of the graphics device where the runs had one, else of the process),
        `extra_backwards_per_step`, `examples`, `seconds_ratio`, `memory_ratio`, and `search`: `trials`, `examples`,
        `seconds` of them all, the `settings` found; None without a search.
    """
    found, reference = _means(arm), {} if baseline is None else _means(baseline)
    for ratio, key in (("seconds_ratio", "seconds"), ("memory_ratio", "peak_memory_mb")):
        found[ratio] = found[key] / reference[key] if found[key] is not None and reference.get(key) else None
    found["search"] = None
    if trials:
        spent = [run.get("training") or {} for run in trials]
        found["search"] = {
            "trials": len({run["arm"] for run in trials}),
            "examples": int(sum(one.get("examples") or 0 for one in spent)),
            "seconds": float(sum(one.get("seconds") or 0.0 for one in spent)),
            "settings": arm.settings,
        }
    return found


def unlike(arms: Iterable[Arm]) -> dict[str, list[Any]]:
    """Under what unlike conditions runs were made, `CONDITIONS` -> values: their times and memory say little."""
    found = {}
    for key in CONDITIONS:
        values = {str(run["training"][key]) for arm in arms for run in arm.runs if run["training"].get(key) is not None}
        if len(values) > 1:
            found[key] = sorted(values)
    return found


def reference_seconds(baseline: Arm | None) -> dict[tuple[int, int | None], float]:
    """(seed, fold) -> training seconds of the baseline up to its last evaluation."""
    found = {}
    for run in [] if baseline is None else baseline.runs:
        lines = _evaluations(run)
        if lines:
            found[run["seed"], run["fold"]] = float(lines[-1]["seconds"])
    return found


def equal_time(arm: Arm, task: str, metric: str, reference: Reference, level: float) -> dict[str, Any] | None:
    """The validation value that an arm has reached when the baseline's run of the same seed is done.

    That is the value at the best evaluation so far (`best` in its line), as a run stopped then would keep it. Between two
    evaluations it is taken from the line between them: which of them was the last within the time would hang on how
    fast the clock happened to go. The learning rate of an arm that needs more time has not come to its end by then.

    Returns:
        Mean and t interval over seeds; None where a run has no evaluation by then, so that no arm is judged on its quick
        runs alone.
    """
    values: dict[int, list[float]] = {}
    for run in arm.runs:
        limit = reference.get((run["seed"], run["fold"]))
        if limit is None:
            continue
        seconds, kept = _kept(run, task, metric)
        if not kept or limit < seconds[0]:
            return None
        values.setdefault(run["seed"], []).append(float(np.interp(limit, seconds, kept)))
    if not values:
        return None
    return mean_interval([float(np.mean(folds)) for folds in values.values()], level)


def _kept(run: Run, task: str, metric: str) -> tuple[list[float], list[float]]:
    """Seconds of a run's evaluations, and the value of the best evaluation up to each."""
    seconds: list[float] = []
    kept: list[float] = []
    for line in _evaluations(run):
        value = line["metrics"].get(task, {}).get(metric)
        if value is None:
            continue
        seconds.append(float(line["seconds"]))
        kept.append(float(value) if line.get("best", True) or not kept else kept[-1])
    return seconds, kept


def _evaluations(run: Run) -> list[Run]:
    return [line for line in run["history"] if line.get("split") == "validation" and line.get("seconds") is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _means(arm: Arm) -> dict[str, Any]:
    found: dict[str, Any] = {key: _mean(arm.facts(key)) for key in ("seconds", "extra_backwards_per_step", "examples")}
    return found | {"peak_memory_mb": _mean(arm.facts("peak_device_memory_mb") or arm.facts("peak_memory_mb"))}
