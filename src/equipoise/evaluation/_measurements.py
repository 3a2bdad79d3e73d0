"""Runs, sorted into arms and measurements: what one seed of one arm says, over all folds where there are any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import RunError
from equipoise.evaluation._metric_functions import METRICS, metric_values
from equipoise.tasks import Task

__all__ = [
    "CLOSE",
    "PARTS",
    "Arm",
    "Measurement",
    "Rows",
    "arms_of",
    "classes_of",
    "judged_split",
    "measurement",
    "same_truth",
]

Run = Mapping[str, Any]

#: Groups of arms that train some of the tasks only, for questions of their own. All other arms claim to balance.
PARTS = frozenset({"single", "pair", "part"})
#: Scores that are apart by less than this share of their span are one score. Targets are kept in 32 bits, and runs that
#: scale differently (other folds, arms with another scaling) decode 5 to 4.9999999 and 5.0000001.
CLOSE = 1e-6


@dataclass(frozen=True)
class Rows:
    """Judged rows of one task that carry its label.

    Attributes:
        true: `[rows]`, scores in the user's units, or class indices.
        predicted: `[rows]`, the same.
    """

    true: NDArray[Any]
    predicted: NDArray[Any]


@dataclass(frozen=True)
class Measurement:
    """One seed of one arm.

    Attributes:
        metrics: task -> name -> value, None where one has no meaning.
        counts: task -> judged rows that carry its label.
        rows: task -> those rows; absent for tasks without one prediction a row.
        sets: task -> the rows of a task whose classes don't exclude each other: `[rows, classes]`, whether each is there.
    """

    metrics: dict[str, dict[str, float | None]]
    counts: dict[str, int]
    rows: dict[str, Rows]
    sets: dict[str, Rows]


@dataclass
class Arm:
    """All runs of one arm."""

    name: str
    method: str
    group: str
    tasks: list[str]
    settings: dict[str, Any]
    runs: list[Run] = field(default_factory=list)  # done runs of complete measurements
    measured: dict[int, Measurement] = field(default_factory=dict)  # by seed
    failed: list[dict[str, Any]] = field(default_factory=list)

    def values(self, task: str, metric: str) -> dict[int, float]:
        """Seed -> value, only where there is one."""
        found = {seed: one.metrics.get(task, {}).get(metric) for seed, one in self.measured.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, task: str, metric: str) -> float | None:
        """Mean over seeds; None where there is no value."""
        values = list(self.values(task, metric).values())
        return float(np.mean(values)) if values else None

    def facts(self, key: str) -> list[float]:
        """What the runs' `training` says under a key."""
        found = [run["training"].get(key) for run in self.runs]
        return [float(value) for value in found if value is not None]


def classes_of(task: Task) -> list[str] | None:
    """The class names of a task in order; None for a score."""
    labels = task.to_dict().get("labels")
    return None if labels is None else list(labels)


def same_truth(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two runs were judged on the same labels, but for the rounding of scaled scores.

    Example:
        >>> same_truth(np.array([1.0, 5.0]), np.array([1.0, 5.0000001]))
        True
    """
    if len(one) != len(other) or not len(one):
        return len(one) == len(other)
    # Scores far from 0 that are not scaled have 24 bits of themselves, whatever their span.
    return bool(np.allclose(one, other, rtol=2.0**-22, atol=CLOSE * float(np.ptp(one))))


def judged_split(records: Sequence[Run]) -> str:
    """`test` where any run was judged on it, else `validation`."""
    return "test" if any(run["metrics"].get("test") for run in records if run["status"] == "done") else "validation"


def arms_of(records: Sequence[Run], tasks: Mapping[str, Task], split: str) -> dict[str, Arm]:
    """Sorts runs into arms, in the order in which they first appear.

    One seed's runs over all folds are one measurement: their predictions are joined and metrics computed again. What
    cannot be computed from predictions is the mean over folds, weighted by rows. A seed with a failed or missing fold is
    a failed measurement.

    Raises:
        RunError: a run is there twice, an arm's runs differ in method, group or tasks, or a task is unknown.
    """
    arms: dict[str, Arm] = {}
    by_seed: dict[tuple[str, int], list[Run]] = {}
    for run in records:
        given = Arm(run["arm"], run["method"], run["group"], list(run["tasks"]), dict(run.get("settings") or {}))
        arm = arms.setdefault(given.name, given)
        _check(arm, given, run, by_seed.setdefault((arm.name, run["seed"]), []), tasks)
        by_seed[arm.name, run["seed"]].append(run)
    folds = {run["fold"] for run in records}
    for (name, seed), runs in by_seed.items():
        arm = arms[name]
        bad = [_failure(run) for run in runs if run["status"] != "done"]
        missing = set() if bad else folds - {run["fold"] for run in runs}
        bad += [{"seed": seed, "fold": fold, "reason": "this fold was not run"} for fold in sorted(missing - {None})]
        if bad:
            arm.failed += bad
            continue
        runs = sorted(runs, key=lambda run: -1 if run["fold"] is None else run["fold"])
        arm.runs += runs
        arm.measured[seed] = measurement(runs, tasks, split)
    return arms


def _check(arm: Arm, given: Arm, run: Run, others: Sequence[Run], tasks: Mapping[str, Task]) -> None:
    for key in ("method", "group", "tasks"):
        if getattr(arm, key) != getattr(given, key):
            raise RunError(
                f"arm '{arm.name}': {key} is {getattr(arm, key)} in one run and {getattr(given, key)} in another. "
                "Runs of one arm differ in seed and fold only"
            )
    if any(other["fold"] == run["fold"] for other in others):
        fold = "" if run["fold"] is None else f", fold {run['fold']}"
        raise RunError(f"arm '{arm.name}': seed {run['seed']}{fold} is there twice. Keep one of the two runs")
    unknown = [task for task in given.tasks if task not in tasks]
    if unknown:
        raise RunError(f"arm '{arm.name}': trains '{unknown[0]}', which is none of the tasks {', '.join(tasks)}")


def _failure(run: Run) -> dict[str, Any]:
    return {"seed": run["seed"], "fold": run["fold"], "reason": run.get("reason") or "no reason was recorded"}


def measurement(runs: Sequence[Run], tasks: Mapping[str, Task], split: str) -> Measurement:
    """One seed's runs over all folds, or one run without folds, as one measurement."""
    names = [task for task in runs[0]["tasks"] if all(task in run["metrics"].get(split, {}) for run in runs)]
    found = {task: one for task in names if (one := _rows(runs, task, tasks[task])) is not None}
    rows = {task: one for task, one in found.items() if one.true.ndim == 1}
    sets = {task: one for task, one in found.items() if task not in rows}
    metrics = {}
    for task in names:
        by_fold = [run["metrics"][split][task] for run in runs]
        plain = [key for key in by_fold[0] if key != "n" and all(_is_number(one.get(key)) for one in by_fold)]
        count = len(classes_of(tasks[task]) or ())
        metrics[task] = {
            # A single run's own metrics stand as they are: they were computed from the same rows.
            key: _again(key, rows[task], count)
            if len(runs) > 1 and task in rows and key in METRICS
            else _mean(by_fold, key)
            for key in plain
        }
    counts = {task: sum(int(run["metrics"][split][task].get("n", 0)) for run in runs) for task in names}
    return Measurement(metrics, counts, rows, sets)


def _rows(runs: Sequence[Run], task: str, kind: Task) -> Rows | None:
    found = [run["predictions"].get(task) for run in runs]
    if any(one is None for one in found):
        return None
    labels = classes_of(kind)
    true, predicted = (
        np.concatenate([_numbers(one[side], labels, task) for one in found]) for side in ("true", "predicted")
    )
    return Rows(_levelled(true) if labels is None and len(found) > 1 else true, predicted)


def _levelled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of several folds, rounded to about six digits of their span: ranks know equal scores only if they are equal."""
    span = float(np.ptp(scores)) if len(scores) else 0.0
    # Below this no power of ten reaches the sixth digit.
    return np.round(scores, 5 - math.floor(math.log10(span))) if span > 1e-300 else scores


def _numbers(values: Any, labels: list[str] | None, task: str) -> NDArray[Any]:
    """Scores as they are; class names as their indices; `[rows, classes]` as it is."""
    if labels is None:
        return np.asarray(values, dtype=np.float64)
    if np.ndim(values) > 1:
        return np.asarray(values, dtype=np.bool_)
    index = {label: k for k, label in enumerate(labels)}
    try:
        return np.array([index[str(value)] for value in values], dtype=np.int64)
    except KeyError as error:
        raise RunError(f"{task}: a prediction says {error}, which is none of the classes {', '.join(labels)}") from None


def _again(metric: str, rows: Rows, classes: int) -> float | None:
    value = float(metric_values(metric, rows.true, rows.predicted[None], classes)[0])
    return value if math.isfinite(value) else None


def _mean(by_fold: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Mean over folds, weighted by rows; None where a fold has none."""
    values = [one[key] for one in by_fold]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return (
        float(np.average(values, weights=[one.get("n", 1) for one in by_fold])) if len(values) > 1 else float(values[0])
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
