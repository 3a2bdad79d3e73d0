"""Runs of a comparison -> its summary: plain numbers, tested differences, and a verdict in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import RunError
from equipoise.evaluation._cost import unlike
from equipoise.evaluation._curves import curves
from equipoise.evaluation._differences import direction
from equipoise.evaluation._judgement import Judgement
from equipoise.evaluation._measurements import Arm, Run, arms_of, classes_of, judged_split, measurement
from equipoise.evaluation._summary import Pair, pareto_front
from equipoise.evaluation._verdict import RULE, verdict
from equipoise.tasks import Task

__all__ = ["summarise"]

FORMAT_VERSION = 1


def summarise(
    records: Sequence[Run],
    *,
    tasks: Mapping[str, Task],
    baseline: str,
    judged: Sequence[str] | None = None,
    level: float = 0.95,
    train_targets: Mapping[str, NDArray[np.float32]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Judges the runs of a comparison.

    Args:
        records: one mapping a run: `arm`, `method`, `group` (method, single, pair, tuned, ablation or search), `tasks`,
            `seed`, `fold`, `status`, `reason`, `metrics` (split -> task -> metric), `training`, `history` (lines of
            `history.jsonl`), `predictions` (task -> `true`, `predicted`), and where known `settings` (what differs from
            the recipe) and, for trials of a search, `search_for`: the arm whose settings it chose (the tuned arm, if not
            said); what a trial trained with several seeds has one `arm`, and is one point of the trade-off.
        tasks: name -> fitted task.
        baseline: the arm that the others are compared with.
        judged: what is tested, as `task.metric`; each task's main metric if not said.
        level: of intervals; 1 less the level of tests.
        train_targets: task -> encoded training targets, for errors by region.
        seed: of the draws of test rows.

    Returns:
        The summary as plain JSON data; numbers that do not exist are None. `arms` holds for each arm its `metrics`
        (mean and interval over seeds), `differences` to the baseline, `versus_single`, `versus_tuned` (see
        `paired_difference` and `judge`), `delta_m`, `mean_rank`, `cost`, `equal_time`, `regions` and
        what `failed`; beside it stand `best`, `pareto`, `transfer`, `losing` (tasks that every shared model is worse on),
        `unlike` (conditions under which times don't compare), `regions`, `curves`, and `verdict`, sentences by the `rule`.

    Raises:
        RunError: runs contradict each other, or `judged` names what there is not.
    """
    search = [run for run in records if run["group"] == "search"]
    split = judged_split([run for run in records if run["group"] != "search"])
    arms = arms_of([run for run in records if run["group"] != "search"], tasks, split)
    pairs = _judged(judged, tasks)
    found = Judgement(arms, tasks, pairs, baseline, level, seed, train_targets or {})
    rows = {task: _rows(arms, task) for task in tasks}
    summary: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "baseline": baseline,
        "seeds": found.seeds,
        "folds": len({run["fold"] for run in records} - {None}) or None,
        "level": level,
        "split": split,
        "rows": rows,
        "train_rows": max((len(one) for one in (train_targets or {}).values()), default=None),
        "tasks": {name: _about(task, name, pairs) for name, task in tasks.items()},
        "judged": [f"{task}.{metric}" for task, metric in pairs],
        "arms": found.arms(search),
        "equal_time_seconds": found.equal_time_seconds,
        "unlike": unlike(arms.values()),
        "best": found.best(),
        "pareto": _pareto(search, tasks, pairs, split),
        "transfer": found.transfer(),
        "losing": found.losing(),
        "regions": {task: one.to_dict() for task, one in found.regions.items()},
        "curves": {arm.name: curves(arm.runs, pairs, level) for arm in arms.values() if arm.runs},
        "unpaired": sorted(found.differences.unpaired),
    }
    summary |= {"verdict": verdict(summary), "rule": RULE}
    clean: dict[str, Any] = _plain(summary)
    return clean


def _judged(judged: Sequence[str] | None, tasks: Mapping[str, Task]) -> list[Pair]:
    """`task.metric` -> (task, metric), checked."""
    if judged is None:
        return [(name, task.main_metric[0]) for name, task in tasks.items()]
    pairs = []
    for one in judged:
        task, _, metric = one.rpartition(".")
        if task not in tasks or metric not in tasks[task].selectable():
            known = [f"{name}.{key}" for name, kind in tasks.items() for key in kind.selectable()]
            raise RunError(f"'{one}' cannot be judged. What can be, as task.metric: {', '.join(known)}")
        pairs.append((task, metric))
    return list(dict.fromkeys(pairs))


def _about(task: Task, name: str, judged: Sequence[Pair]) -> dict[str, Any]:
    metric = next((metric for one, metric in judged if one == name), task.main_metric[0])
    return {
        "kind": task.kind,
        "metric": metric,
        "better": direction(task, metric),
        "directions": dict(task.selectable()),
        "classes": classes_of(task),
    }


def _rows(arms: Mapping[str, Arm], task: str) -> int:
    """Judged rows that carry the task's label."""
    for arm in arms.values():
        for one in arm.measured.values():
            if task in one.counts:
                return one.counts[task]
    return 0


def _pareto(
    search: Sequence[Run], tasks: Mapping[str, Task], judged: Sequence[Pair], split: str
) -> dict[str, Any] | None:
    """The trade-off of fixed weights, for the first two judged metrics; further pairs of tasks are in `others`."""
    done = [run for run in search if run["status"] == "done" and run["method"] == "fixed"]
    # A search looks at validation; its trials need not have been judged on test.
    where = split if done and all(run["metrics"].get(split) for run in done) else "validation"
    trials: dict[str, list[Run]] = {}
    for run in done:
        trials.setdefault(run["arm"], []).append(run)
    measured = [
        (runs[0], _mean([measurement([run], tasks, where).metrics for run in runs])) for runs in trials.values()
    ]
    fronts = []
    for x, y in combinations(judged, 2):
        if x[0] == y[0]:
            continue
        values = [(run, found.get(x[0], {}).get(x[1]), found.get(y[0], {}).get(y[1])) for run, found in measured]
        points = [
            {"x": a, "y": b, "arm": run["arm"], "settings": dict(run.get("settings") or {})}
            for run, a, b in values
            if a is not None and b is not None
        ]
        better = [direction(tasks[task], metric) for task, metric in (x, y)]
        front = pareto_front([[one["x"], one["y"]] for one in points], better)
        if points:
            about = {"x": ".".join(x), "y": ".".join(y), "split": where}
            fronts.append({**about, "front": [points[place] for place in front], "points": points})
    return {**fronts[0], "others": fronts[1:]} if fronts else None


def _mean(seeds: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float]]:
    """Over the seeds of a trial, of what all of them have."""
    found: dict[str, dict[str, float]] = {}
    for task, metrics in seeds[0].items():
        for metric in metrics:
            values = [value for one in seeds if (value := one.get(task, {}).get(metric)) is not None]
            if len(values) == len(seeds):
                found.setdefault(task, {})[metric] = statistics.mean(values)
    return found


def _plain(value: Any) -> Any:
    """Only what JSON knows; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
