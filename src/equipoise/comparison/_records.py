"""From what stands in a comparison folder to what is judged: a record of each run, and `results.parquet`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.comparison._arms import Arm
from equipoise.comparison._folder import Comparison, Job
from equipoise.comparison._work import trial_folder, trial_name
from equipoise.runs import Run, atomic_path
from equipoise.tasks import Task, available, kind

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["record", "search_records", "write_results"]


def record(comparison: Comparison, job: Job, arm: Arm, method: str, tasks: Mapping[str, Task]) -> dict[str, Any] | None:
    """One run as `evaluation.summarise` takes it, or None where it has not been done.

    Args:
        comparison: the folder.
        job: which run.
        arm: its arm.
        method: the name of its balancing method.
        tasks: the comparison's tasks, fitted.
    """
    found = comparison.outcome(job, arm.folder)
    if found is None:
        return None
    return _record(comparison.run(job, arm.folder), found, tasks, job, arm, method, arm.group)


def search_records(comparison: Comparison, arm: Arm, method: str, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The trainings of an arm's search that came to their end: of each trial, one for each of the search's seeds."""
    found = comparison.search(arm.folder)
    records = []
    for trial in [] if found is None else found["trials"]:
        for seed in (found or {})["seeds"] if trial["state"] == "complete" else []:
            run = Run(comparison.search_folder(arm.folder) / trial_folder(trial["settings"], seed))
            made = _record(run, run.metrics, tasks, Job(arm.name, seed), arm, method, "search")
            name = f"{arm.name}/{trial_name(trial['settings'])}"
            records.append(made | {"arm": name, "settings": trial["settings"]})
    return records


def _record(
    run: Run, found: Mapping[str, Any], tasks: Mapping[str, Task], job: Job, arm: Arm, method: str, group: str
) -> dict[str, Any]:
    trained = [name for name in tasks if arm.tasks is None or name in arm.tasks]
    # Metrics of other labels than the recipe's say nothing beside the others'.
    judged = [name for name in trained if name not in arm.other_labels]
    base: dict[str, Any] = {
        "arm": arm.name,
        "method": method,
        "group": group,
        "tasks": judged,
        "seed": job.seed,
        "fold": job.fold,
        "status": "failed",
        "reason": found.get("reason"),
        "metrics": {},
        "training": {},
        "history": [],
        "predictions": {},
    }
    if "splits" not in found:
        return base

    def comparable(metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {name: values for name, values in metrics.items() if name in judged}

    splits = {split: comparable(metrics) for split, metrics in found["splits"].items()}
    last = "test" if "test" in splits else "validation"
    return base | {
        "status": "done",
        "reason": None,
        "metrics": splits,
        "training": found["training"],
        "history": [
            line | {"metrics": comparable(line["metrics"])} if "metrics" in line else line for line in run.history
        ],
        "predictions": _predictions(run.predictions_file(last), [tasks[name] for name in judged]),
    }


def _predictions(path: Path, tasks: Iterable[Task]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = pq.read_table(path)
    found: dict[str, Any] = {}
    for task in tasks:
        if task.name not in table.column_names:
            continue
        if task.kind == "multilabel":
            # The cells name the classes, between separators.
            cells = {"true": table.column(f"{task.name}/true"), "predicted": table.column(task.name)}
            targets = {side: task.encode(column).targets for side, column in cells.items()}
            labelled = ~np.isnan(targets["true"]).any(axis=1)
            found[task.name] = {side: encoded[labelled] == 1 for side, encoded in targets.items()}
            continue
        true = table.column(f"{task.name}/true").to_pandas()
        held = true.notna().to_numpy()
        predicted = table.column(task.name).to_pandas()
        found[task.name] = {"true": _values(true[held]), "predicted": _values(predicted[held])}
    return found


def _values(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    values = column.to_numpy()
    return values if values.dtype.kind in "fiub" else values.astype(str)


def write_results(path: Path, records: Iterable[Mapping[str, Any]], tasks: Mapping[str, Task]) -> None:
    """Writes `results.parquet`: one row for each arm, seed, fold, split, task and metric."""
    import pandas as pd

    # An arm may learn a task as another kind, which has metrics of its own.
    ways = {metric: way for name in available() for metric, way in kind(name).directions.items()}
    rows = []
    for one in records:
        for split, metrics in one["metrics"].items():
            for task, values in metrics.items():
                directions = ways | tasks[task].selectable()
                for metric, value in values.items():
                    if isinstance(value, int | float) or value is None:
                        key = {name: one[name] for name in ("arm", "method", "group", "seed", "fold")}
                        rows.append(
                            key
                            | {"split": split, "task": task, "metric": metric, "value": value}
                            | {"better": directions.get(metric), "main": metric == tasks[task].main_metric[0]}
                        )
    columns = ["arm", "method", "group", "seed", "fold", "split", "task", "metric", "value", "better", "main"]
    frame = pd.DataFrame(rows, columns=columns).astype({"fold": "Int64", "value": "float64"})
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
