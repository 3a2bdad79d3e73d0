"""A finished run, judged: the model as it was saved and both baselines, on every split that it did not train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data import Collator
from equipoise.evaluation import baselines
from equipoise.models import LoadedModel, forward_all, slices
from equipoise.runs import Run, atomic_path
from equipoise.training._plan import Plan

__all__ = ["evaluate_splits"]


def evaluate_splits(loaded: LoadedModel, plan: Plan, run: Run) -> dict[str, Any]:
    """Metrics and baselines of every split but train, from the model as it was saved; predictions go to the folder."""
    tasks, columns = loaded.sidecar.tasks, slices(loaded.sidecar.tasks)
    judged = [name for name in plan.tokens if name != "train"] or ["train"]
    collate = Collator(loaded.tokenizer, tasks)
    metrics: dict[str, Any] = {}
    for name in judged:
        split, tokens = plan.prepared.splits[name], plan.tokens[name]
        outputs = forward_all(loaded.model, tokens, tokens.lengths, collate)
        metrics[name] = {
            task: tasks[task].metrics(outputs[:, columns[task]], target) for task, target in split.targets.items()
        }
        found: dict[str, Any] = {
            "row": split.row_ids,
            "file": [split.files[i] for i in split.file_ids],
            "line": split.lines,
        }
        for task, target in split.targets.items():
            found[f"{task}/true"] = pa.array(tasks[task].decode(target).tolist())
            found |= tasks[task].predict(outputs[:, columns[task]])
        with atomic_path(run.predictions_file(name)) as path:
            pq.write_table(pa.table(found), path)
    splits = plan.prepared.splits
    seed = plan.recipe.training.seed
    rows = _sample(len(splits["train"]), seed)
    return {
        "splits": metrics,
        "baselines": baselines(
            tasks,
            _joined(splits["train"], rows),
            {task: target[rows] for task, target in splits["train"].targets.items()},
            {name: _joined(splits[name]) for name in judged},
            {name: splits[name].targets for name in judged},
            seed=seed,
        ),
    }


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
