"""A finished run, judged: the model as it was saved and both baselines, on every split that it did not train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data import Collator
from equipoise.evaluation import baselines
from equipoise.models import LoadedModel, forward_all, slices
from equipoise.runs import Run, atomic_path
from equipoise.tasks import Task
from equipoise.training._plan import Plan

__all__ = ["evaluate_splits", "fit_baselines", "judge", "judged_splits"]


def evaluate_splits(loaded: LoadedModel, plan: Plan, run: Run) -> dict[str, Any]:
    """Metrics and baselines of every split but train, from the model as it was saved; predictions go to the folder."""
    found = judge(loaded.model, loaded.tokenizer, loaded.sidecar.tasks, plan, run)
    return {"splits": found, "baselines": fit_baselines(plan)}


def judged_splits(plan: Plan) -> list[str]:
    """The splits that nothing trains on, or train where there is no other."""
    return [name for name in plan.tokens if name != "train"] or ["train"]


def judge(
    model: Any, tokenizer: Any, tasks: Mapping[str, Task], plan: Plan, run: Run, splits: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Split -> task -> metrics of a model; every row's prediction goes to `predictions/`. `splits`: None = all."""
    columns, collate = slices(tasks), Collator(tokenizer, tasks)
    metrics: dict[str, dict[str, Any]] = {}
    for name in judged_splits(plan) if splits is None else splits:
        tokens = plan.tokens[name]
        split = tokens.split
        outputs = forward_all(model, tokens, tokens.lengths, collate)
        targets = {task: split.targets[task] for task in tasks if task in split.targets}
        metrics[name] = {task: tasks[task].metrics(outputs[:, columns[task]], own) for task, own in targets.items()}
        found: dict[str, Any] = {
            "row": split.row_ids,
            "file": [split.files[i] for i in split.file_ids],
            "line": split.lines,
        }
        for task, own in targets.items():
            found[f"{task}/true"] = pa.array(tasks[task].decode(own).tolist())
            found |= tasks[task].predict(outputs[:, columns[task]])
        with atomic_path(run.predictions_file(name)) as path:
            pq.write_table(pa.table(found), path)
    return metrics


def fit_baselines(plan: Plan) -> dict[str, Any]:
    """Split -> task -> metrics of both baselines, fitted to the training split."""
    splits, seed, tasks = plan.prepared.splits, plan.recipe.training.seed, plan.prepared.tasks
    judged = judged_splits(plan)
    rows = _sample(len(splits["train"]), seed)
    return baselines(
        tasks,
        _joined(splits["train"], rows),
        {task: splits["train"].targets[task][rows] for task in tasks},
        {name: _joined(splits[name]) for name in judged},
        {name: splits[name].targets for name in judged},
        seed=seed,
    )


BASELINE_ROWS = 200_000


def _sample(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The training rows that the baselines may see: of a large table a seeded sample, so that memory stays bounded."""
    if rows <= BASELINE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, BASELINE_ROWS, replace=False))


def _joined(split: Any, rows: np.ndarray[Any, np.dtype[np.int64]] | None = None) -> list[str]:
    pairs = split.pair_list(rows)
    texts: list[str] = split.text_list(rows)
    return texts if pairs is None else [f"{a} {b}" for a, b in zip(texts, pairs, strict=True)]
