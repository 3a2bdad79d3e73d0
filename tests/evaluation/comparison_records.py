"""Made-up runs of a comparison, as `equipoise.comparison` hands them to `equipoise.evaluation.summarise`.

Tests of this folder write `from comparison_records import records`, those of other folders
`from evaluation.comparison_records import records`: tests/ is on the path, and has no packages.

Every number follows from names and seeds. An arm's quality per task scales its errors; rows are hard or easy for every
arm alike, and a seed moves a whole run a little, as in real comparisons.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from equipoise.tasks import Task, kind

ALL_TASKS = ("polarity", "label", "intensity", "topic")
CLASSES = {
    "label": ["negative", "neutral", "positive"],
    "intensity": ["low", "medium", "high"],
    "topic": ["bank", "court", "market", "oil"],
    "flags": ["new", "rumour"],
}
STEPS, LOGGED, EVALUATIONS, BATCH = 400, 40, 6, 32
#: Below 1: smaller errors than the baseline's on that task.
QUALITY = {
    "equal": {},
    "dao": {"polarity": 0.93, "label": 0.94, "intensity": 0.96, "topic": 0.97},
    "tuned-fixed": {"polarity": 0.97, "label": 0.98},
    "single:polarity": {"polarity": 0.95},
    "single:label": {"label": 1.04},
}
#: What a step costs beside the baseline's, and how many backward passes it takes beside its own.
COST = {"dao": (1.12, 2.0), "mgda": (2.1, 2.0), "pcgrad": (2.4, 2.0), "gradnorm": (1.3, 2.0), "famo": (1.05, 0.0)}


def records(
    arms: Sequence[str] = ("equal", "dao", "uncertainty"),
    seeds: int = 3,
    tasks: Sequence[str] = ("polarity", "label"),
    *,
    rows: int = 300,
    folds: int | None = None,
    singles: bool = True,
    pairs: bool = False,
    tuned: bool = False,
    search: int = 0,
    failed: Sequence[tuple[str, int]] = (),
    quality: dict[str, dict[str, float]] | None = None,
    test: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, Task]]:
    """Runs of a comparison, and the fitted tasks that judge them.

    Args:
        arms: methods; `dao/no-data-weights` is an ablation of `dao`.
        seeds: how many, from 0.
        tasks: some of `polarity`, `label`, `intensity`, `topic`, `flags` (multilabel: without predictions).
        rows: of the judged split, of each fold.
        folds: cross-validation with so many folds.
        singles: whether each task is also trained alone.
        pairs: whether each two tasks are also trained together (of use with three and more).
        tuned: whether there is an arm `tuned-fixed`.
        search: how many trials of fixed weights there are.
        failed: (arm, seed) of runs that failed.
        quality: arm -> task -> what its errors are multiplied by; what is not named is as in `QUALITY`, else made up.
        test: whether there is a test split; else validation is judged.
    """
    fitted = fitted_tasks(tasks)
    wanted = [(arm, arm.split("/")[0], "ablation" if "/" in arm else "method", list(tasks)) for arm in arms]
    if tuned:
        wanted.append(("tuned-fixed", "fixed", "tuned", list(tasks)))
    if singles:
        wanted += [(f"single:{task}", "equal", "single", [task]) for task in tasks]
    if pairs:
        wanted += [
            (f"pair:{a}+{b}", "equal", "pair", [a, b]) for i, a in enumerate(tasks) for b in list(tasks)[i + 1 :]
        ]
    made = [
        _run(fitted, arm, method, group, own, seed, fold, rows, test, quality or {}, (arm, seed) in failed)
        for arm, method, group, own in wanted
        for seed in range(seeds)
        for fold in ([None] if folds is None else range(folds))
    ]
    return made + _trials(fitted, list(tasks), search, rows, test), fitted


def fitted_tasks(tasks: Sequence[str]) -> dict[str, Task]:
    """The named tasks, fitted."""
    fitted: dict[str, Task] = {}
    for name in tasks:
        kinds = {"polarity": "regression", "intensity": "ordinal", "flags": "multilabel"}
        found = kind(kinds.get(name, "classification"))
        settings = {"range": (-1, 1)} if name == "polarity" else {"labels": CLASSES[name]}
        labels = ["-1", "0", "1"] if name == "polarity" else CLASSES[name]
        fitted[name] = found.fit(name, found.Settings(**settings), pa.chunked_array([labels]))
    return fitted


def train_targets(tasks: Sequence[str], rows: int = 1500) -> dict[str, np.ndarray]:
    """Encoded training targets, as `Task.encode` gives them."""
    return {task: _truth(task, rows, "train") for task in tasks}


def _random(*parts: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def _truth(task: str, rows: int, part: str) -> np.ndarray:
    """Targets as `Task.encode` gives them: a score that is mostly mild, or classes of uneven size."""
    rng = _random("truth", task, part)
    if task == "polarity":
        return np.clip(0.15 + 0.35 * rng.standard_t(4, rows), -1, 1).astype(np.float32)
    if task == "flags":
        return (rng.random((rows, 2)) < (0.3, 0.1)).astype(np.float32)
    classes = len(CLASSES[task])
    share = np.arange(classes, 0, -1.0) ** 1.5
    return rng.choice(classes, rows, p=share / share.sum()).astype(np.float32)


def _errors(arm: str, task: str, seed: int, part: str, shape: tuple[int, ...], quality: float) -> np.ndarray:
    """Errors of variance about `quality`^2: half of it the rows', some the arm's, some the seed's own."""
    row, own = _random("row", task, part).normal(size=shape), _random("arm", arm, task, part).normal(size=shape)
    alone = _random("seed", arm, task, seed, part).normal(size=shape)
    luck = _random("luck", task, seed).normal(0, 0.01) + _random("luck", arm, task, seed).normal(0, 0.01)
    return (quality + luck) * (np.sqrt(0.6) * row + np.sqrt(0.2) * own + np.sqrt(0.2) * alone)


def _outputs(arm: str, task: str, seed: int, part: str, true: np.ndarray, quality: float) -> np.ndarray:
    """What the head gives for these targets."""
    if task == "polarity":
        return (0.9 * true + 0.3 * _errors(arm, task, seed, part, true.shape, quality))[:, None].astype(np.float32)
    if task == "flags":
        return (2 * true - 1 + _errors(arm, task, seed, part, true.shape, quality)).astype(np.float32)
    classes = len(CLASSES[task])
    near = np.eye(classes)[true.astype(int)] * 2.6
    scores = near + _errors(arm, task, seed, part, (len(true), classes), quality)
    if task != "intensity":
        return scores.astype(np.float32)
    rank = scores.argmax(axis=1)
    return np.where(rank[:, None] > np.arange(classes - 1), 4.0, -4.0).astype(np.float32)


def _quality(arm: str, tasks: list[str], task: str, given: dict[str, dict[str, float]]) -> float:
    known = {**QUALITY, **given}
    if arm in known:
        return known[arm].get(task, 1.0)
    if arm.startswith("pair:"):
        other = next(one for one in tasks if one != task)
        return known.get(f"single:{task}", {}).get(task, 1.0) * _random("pair", task, other).uniform(0.9, 1.1)
    return float(_random("quality", arm, task).uniform(0.97, 1.04))


def _run(
    fitted: dict[str, Task],
    arm: str,
    method: str,
    group: str,
    tasks: list[str],
    seed: int,
    fold: int | None,
    rows: int,
    test: bool,
    quality: dict[str, dict[str, float]],
    fails: bool,
) -> dict[str, Any]:
    run: dict[str, Any] = {"arm": arm, "method": method, "group": group, "tasks": tasks, "seed": seed, "fold": fold}
    run["settings"] = {"balance.method": method}
    if "/" in arm:
        run["settings"][f"balance.{arm.split('/')[1].replace('-', '_')}"] = False
    if fails:
        reason = f"step 57: the loss of {tasks[0]} is not finite"
        return {**run, "status": "failed", "reason": reason, "metrics": {}, "training": {}, "history": []} | {
            "predictions": {}
        }
    splits = ["validation", "test"] if test else ["validation"]
    metrics: dict[str, Any] = {split: {} for split in splits}
    predictions = {}
    for task in tasks:
        for split in splits:
            part = split if fold is None else f"{split}{fold}"
            true = _truth(task, rows, part)
            outputs = _outputs(arm, task, seed, part, true, _quality(arm, tasks, task, quality))
            metrics[split][task] = fitted[task].metrics(outputs, true)
        if task != "flags":
            predictions[task] = {"true": fitted[task].decode(true), "predicted": fitted[task].predict(outputs)[task]}
    rate, extra = COST.get(method, (1.0, 0.0))
    seconds = 60 * rate * len(tasks) ** 0.2 * _random("seconds", arm, seed, fold).uniform(0.98, 1.02)
    return run | {
        "status": "done",
        "reason": None,
        "metrics": metrics,
        "training": {
            "seconds": seconds,
            "steps": STEPS,
            "examples": STEPS * BATCH,
            "peak_memory_mb": 900.0 + 40 * extra,
            "extra_backwards_per_step": extra,
            "best_step": STEPS,
        },
        "history": _history(arm, tasks, seed, fold, metrics["validation"], seconds),
        "predictions": predictions,
    }


def _history(
    arm: str, tasks: list[str], seed: int, fold: int | None, metrics: dict[str, Any], seconds: float
) -> list[dict[str, Any]]:
    """Forty logged steps and six evaluations whose last is that of the run."""
    rng = _random("history", arm, seed, fold)
    lines: list[tuple[int, dict[str, Any]]] = []
    tilt = {task: _random("tilt", arm, task).uniform(-0.5, 0.5) for task in tasks}
    for step in np.linspace(STEPS / LOGGED, STEPS, LOGGED).astype(int).tolist():
        done = step / STEPS
        raw = {task: float(np.exp(tilt[task] * done + rng.normal(0, 0.05))) for task in tasks}
        by_task = {
            task: {
                "loss": float((0.2 + 0.8 * np.exp(-4 * done)) * rng.uniform(0.9, 1.1)),
                "weight": 1.0 if arm == "equal" else raw[task] * len(tasks) / sum(raw.values()),
                "norm": float(0.05 * np.exp(-done) * rng.uniform(0.8, 1.2)),
            }
            for task in tasks
        }
        line = {"step": step, "epoch": 4 * done, "loss": sum(one["loss"] for one in by_task.values()), "tasks": by_task}
        pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
        line["cosines"] = {f"{a}|{b}": float(np.clip(0.3 - 0.5 * done + rng.normal(0, 0.1), -1, 1)) for a, b in pairs}
        lines.append((step, line))
    for part in range(1, EVALUATIONS + 1):
        step = round(STEPS * part / EVALUATIONS)
        far = float(np.exp(-4 * part / EVALUATIONS) - np.exp(-4))
        found = {
            task: {name: _earlier(name, value, far) for name, value in one.items() if _is_number(value)}
            for task, one in metrics.items()
        }
        line = {"step": step, "epoch": 4 * step / STEPS, "split": "validation", "metrics": found, "best": True}
        lines.append((step, {**line, "replaces": None, "seconds": seconds * step / STEPS}))
    return [line for _, line in sorted(lines, key=lambda pair: (pair[0], "split" in pair[1]))]


def _earlier(name: str, value: float, far: float) -> float:
    """A metric as it stood while the model still had some way to go: nearer to knowing nothing."""
    if name == "n":
        return value
    start = 3 * value if name in {"mse", "mae"} else 0.3 * value
    return value + far * (start - value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _trials(fitted: dict[str, Task], tasks: list[str], trials: int, rows: int, test: bool) -> list[dict[str, Any]]:
    """Trials of fixed weights: the more weight a task has, the smaller its errors, up to a point."""
    made = []
    for trial in range(trials):
        share = _random("weights", trial).dirichlet(np.ones(len(tasks)))
        if trial == 0:
            share = np.full(len(tasks), 1 / len(tasks))
        quality = {task: 0.94 + 0.12 * (1 - part) ** 2 for task, part in zip(tasks, share, strict=True)}
        run = _run(
            fitted,
            f"search:{trial}",
            "fixed",
            "search",
            tasks,
            0,
            None,
            rows,
            test,
            {f"search:{trial}": quality},
            False,
        )
        weights = {task: round(len(tasks) * float(part), 3) for task, part in zip(tasks, share, strict=True)}
        made.append(run | {"settings": {"balance.method": "fixed", "balance.weights": weights}})
    return made
