"""Run folders made without a training: real tasks, metrics and predictions of random outputs, so that they are there at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.evaluation import score_histograms
from equipoise.tasks import Task, kind

#: Name -> (kind, settings, labels to draw from; None draws scores).
FOUR: dict[str, tuple[str, dict[str, Any], Sequence[str] | None]] = {
    "polarity": ("regression", {"range": (-1, 1)}, None),
    "label": ("classification", {}, ["negative", "neutral", "positive"]),
    "intensity": ("ordinal", {"labels": ["low", "medium", "high", "extreme"]}, ["low", "medium", "high", "extreme"]),
    "emotions": ("multilabel", {}, ["joy", "fear", "anger", "joy|fear", "[]"]),
}


def tasks_of(specs: Mapping[str, Any], labels: Mapping[str, Sequence[str | None]]) -> dict[str, Task]:
    found = {}
    for name, (sort, settings, _) in specs.items():
        cls = kind(sort)
        found[name] = cls.fit(name, cls.Settings(**settings), pa.chunked_array([pa.array(labels[name], pa.string())]))
    return found


def drawn(specs: Mapping[str, Any], rows: int, rng: np.random.Generator, missing: float) -> dict[str, list[str | None]]:
    """Labels as they stand in a file."""
    found: dict[str, list[str | None]] = {}
    for name, (_, _, choices) in specs.items():
        if choices is None:
            values = [f"{one:.3f}" for one in np.clip(rng.normal(0.1, 0.4, rows), -1, 1)]
        else:
            weights = 1 / np.arange(1, len(choices) + 1)
            values = [str(one) for one in rng.choice(list(choices), rows, p=weights / weights.sum())]
        found[name] = [None if rng.random() < missing else one for one in values]
    return found


def outputs_of(task: Task, targets: Any, noise: float, rng: np.random.Generator) -> Any:
    """Outputs that know the truth up to noise."""
    n, size = len(targets), task.size
    made = rng.normal(0, noise, (n, size))
    held = np.nan_to_num(targets)
    if task.kind == "regression":
        made[:, 0] = 0.8 * held + 0.4 * made[:, 0]
    elif task.kind == "classification":
        made[np.arange(n), held.astype(int)] += 2.0
    elif task.kind == "ordinal":
        made += 2.5 * (np.sign(held[:, None] - np.arange(size) - 0.5))
    else:
        made += 3 * (held - 0.5)
    return made.astype(np.float32)


def write_run(
    folder: Path,
    specs: Mapping[str, Any] = FOUR,
    *,
    rows: Mapping[str, int] | None = None,
    steps: int = 300,
    seed: int = 0,
    noise: float = 1.0,
    missing: float = 0.1,
    file: str = "data/news.csv",
    texts: Sequence[str] = ("shares rise <b>sharply</b> after strong results",),
    norms: bool = True,
) -> Path:
    """Writes a run.

    Args:
        folder: where to.
        specs: tasks, as `FOUR`.
        rows: split -> rows; of train, validation and test.
        steps: of the history.
        seed: of everything.
        noise: how bad the model is.
        missing: share of labels that a row lacks.
        file: where the rows come from, as the user wrote it.
        texts: of the worst rows, in turn.
        norms: whether the balancer measures gradients.
    """
    rng = np.random.default_rng(seed)
    rows = {"train": 400, "validation": 90, "test": 200} if rows is None else rows
    labels = {split: drawn(specs, n, rng, missing if split != "train" else 0.0) for split, n in rows.items()}
    tasks = tasks_of(specs, labels["train"])
    targets = {
        split: {name: task.encode(pa.array(own[name], pa.string())).targets for name, task in tasks.items()}
        for split, own in labels.items()
    }
    judged = [split for split in rows if split != "train"] or ["train"]
    splits: dict[str, Any] = {}
    baselines: dict[str, Any] = {}
    (folder / "predictions").mkdir(parents=True)
    (folder / "model").mkdir()
    for split in judged:
        columns: dict[str, Any] = {
            "row": np.arange(rows[split]),
            "file": [file] * rows[split],
            "line": np.arange(rows[split]) + 2,
        }
        splits[split], baselines[split] = {}, {}
        for name, task in tasks.items():
            true = targets[split][name]
            made = outputs_of(task, true, noise, rng)
            splits[split][name] = task.metrics(made, true)
            constant = np.tile(task.constant_outputs(targets["train"][name]), (len(true), 1))
            baselines[split][name] = {
                "constant": task.metrics(constant, true),
                "tfidf": task.metrics(outputs_of(task, true, 2.2, rng), true),
                "fitted_on": rows["train"],
            }
            columns[f"{name}/true"] = pa.array(task.decode(true).tolist())
            columns |= task.predict(made)
        pq.write_table(pa.table(columns), folder / "predictions" / f"{split}.parquet")
    _write_metrics(folder, tasks, targets, splits, baselines, rows, file, steps)
    with (folder / "predictions" / "worst.jsonl").open("w", encoding="utf-8") as out:
        for row in range(rows[judged[-1]]):
            text = texts[row % len(texts)]
            line = {
                "split": judged[-1],
                "file": file,
                "line": row + 2,
                "row": row,
                "text": [text],
                "characters": [len(text)],
            }
            out.write(json.dumps(line) + "\n")
    _write_history(folder, list(tasks), splits.get("validation"), steps, rng, norms)
    (folder / "rejected.jsonl").write_text("")
    (folder / "recipe.yaml").write_text(f"# a recipe\ndata:\n  train: {file}\n")
    return folder


def _write_metrics(
    folder: Path,
    tasks: Mapping[str, Task],
    targets: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Any],
    baselines: Mapping[str, Any],
    rows: Mapping[str, int],
    file: str,
    steps: int,
) -> None:
    summaries = {
        split: {
            "rows": rows[split],
            "labelled": {n: int((~np.isnan(t.reshape(len(t), -1)[:, 0])).sum()) for n, t in own.items()},
            "tasks": {name: tasks[name].summary(target) for name, target in own.items()},
        }
        for split, own in targets.items()
    }
    data = {
        "files": [{"file": file, "split": "train", "rows": sum(rows.values()) + 3}],
        "rows_read": sum(rows.values()) + 3,
        "rows_rejected": 3,
        "stratified_by": "label",
        "rejected": {"train": [{"reason": "column 'text' is empty", "count": 3, "example": f"{file}:17"}]},
        "leaks": {"train/test": {"rows": 2, "dropped": False}},
        "sampled_out": 0,
        "duplicates": {"train": 5},
        "splits": summaries,
        "warnings": [],
    }
    training = {
        "method": "dao",
        "seed": 0,
        "steps": steps,
        "epochs": 3.0,
        "best_step": steps // 3 * 2 if "validation" in splits else None,
        "seconds": 100.0,
        "samples_per_second": 31.2,
        "total_seconds": 131.0,
        "peak_memory_mb": 1433.0,
        "device": "x86_64",
        "threads": 2,
        "precision": "fp32",
        "precision_reason": "as the recipe says",
        "parameters": 22_000_000,
        "trainable_parameters": 22_000_000,
        "extra_backwards_per_step": 0.0,
    }
    tokens = {split: {"median": 18, "p95": 40, "longest": 61, "cut": 0} for split in rows}
    found = {
        "format_version": 1,
        "splits": splits,
        "baselines": baselines,
        "training": training,
        "data": data,
        "tokens": tokens,
        "scores": score_histograms(tasks, targets),
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
    }
    (folder / "metrics.json").write_text(json.dumps(found, allow_nan=False))
    start, entries = 0, []
    for task in tasks.values():
        entries.append({"outputs": [start, start + task.size], **task.to_dict()})
        start += task.size
    sidecar = {"format_version": 1, "backbone": "minilm", "tasks": entries}
    (folder / "model" / "multitask.json").write_text(json.dumps(sidecar))


def _write_history(
    folder: Path, names: Sequence[str], validation: Mapping[str, Any] | None, steps: int, rng: Any, norms: bool
) -> None:
    lines = []
    for step in [1, *range(10, steps + 1, 10)]:
        length = {name: (0.02 + 0.03 * at) * float(rng.lognormal(0, 0.25)) for at, name in enumerate(names)}
        total = sum(1 / one for one in length.values())
        values = {
            name: {
                "loss": (0.1 + at) * float(np.exp(-step / steps * 2) * rng.lognormal(0, 0.15)),
                "weight": len(names) / length[name] / total,
            }
            | ({"norm": length[name]} if norms else {})
            for at, name in enumerate(names)
        }
        if len(names) > 1 and step == 10:
            values[names[-1]] = {}
        pairs = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
        cosines = {f"{a}|{b}": float(rng.normal(-0.1 if k == 0 else 0.08, 0.06)) for k, (a, b) in enumerate(pairs)}
        line = {"step": step, "epoch": step / 100, "loss": 1.0, "tasks": values, "cosines": cosines if norms else {}}
        lines.append(line)
        if validation is not None and step % (steps // 3 // 10 * 10) == 0:
            metrics = {
                task: {
                    name: value * (1 + (steps - step) / steps)
                    for name, value in found.items()
                    if isinstance(value, float)
                }
                for task, found in validation.items()
            }
            lines.append({"step": step, "epoch": step / 100, "split": "validation", "seconds": 1.0, "metrics": metrics})
    (folder / "history.jsonl").write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
