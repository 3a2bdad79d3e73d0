"""What arms cost, and how good each is within the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.evaluation._measurements import Arm

__all__ = ["cost", "equal_time", "reference_seconds"]

Run = Mapping[str, Any]
#: A run counts as within the time if it took no more than this much over: clocks of like runs differ as much.
TOLERANCE = 1.05


def cost(arm: Arm, baseline: Arm | None, trials: Sequence[Run]) -> dict[str, Any]:
    """Time, memory and extra work of one run of an arm, means over its runs.

    Args:
        arm: the arm.
        baseline: what the ratios are to; None where it has no run.
        trials: runs of the search that chose the arm's settings; none for an arm without one.

    Returns:
        `seconds`, `peak_memory_mb`, `extra_backwards_per_step`, `examples`, `seconds_ratio`, `memory_ratio`, and `search`:
        `trials`, `examples`, `seconds` of them all, the `settings` found; None without a search.
    """
    found: dict[str, Any] = {
        key: _mean(arm.facts(key)) for key in ("seconds", "peak_memory_mb", "extra_backwards_per_step", "examples")
    }
    for ratio, key in (("seconds_ratio", "seconds"), ("memory_ratio", "peak_memory_mb")):
        reference = None if baseline is None else _mean(baseline.facts(key))
        found[ratio] = found[key] / reference if found[key] is not None and reference else None
    found["search"] = None
    if trials:
        spent = [run.get("training") or {} for run in trials]
        found["search"] = {
            "trials": len(trials),
            "examples": int(sum(one.get("examples") or 0 for one in spent)),
            "seconds": float(sum(one.get("seconds") or 0.0 for one in spent)),
            "settings": arm.settings,
        }
    return found


def reference_seconds(baseline: Arm | None) -> dict[tuple[int, int | None], float]:
    """(seed, fold) -> training seconds of the baseline up to its last evaluation."""
    found = {}
    for run in [] if baseline is None else baseline.runs:
        lines = _evaluations(run)
        if lines:
            found[run["seed"], run["fold"]] = float(lines[-1]["seconds"])
    return found


def equal_time(arm: Arm, task: str, metric: str, reference: Mapping[tuple[int, int | None], float]) -> float | None:
    """The validation value that an arm has reached when the baseline's run of the same seed is done.

    That is the value at the best evaluation so far (`best` in its line), as a run stopped then would keep it.

    Returns:
        The mean over runs; None where a run has none by then, so that no arm is judged on its quick runs alone.
    """
    values = []
    for run in arm.runs:
        limit = reference.get((run["seed"], run["fold"]))
        if limit is None:
            continue
        lines = [line for line in _evaluations(run) if line["seconds"] <= TOLERANCE * limit]
        best = [line for line in lines if line.get("best")] or lines
        value = best[-1]["metrics"].get(task, {}).get(metric) if best else None
        if value is None:
            return None
        values.append(float(value))
    return _mean(values)


def _evaluations(run: Run) -> list[Run]:
    return [line for line in run["history"] if line.get("split") == "validation" and line.get("seconds") is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
