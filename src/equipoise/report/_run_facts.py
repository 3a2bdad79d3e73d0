"""A run folder as the report reads it: what is there is checked, what isn't becomes None and a sentence on the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from equipoise.errors import EquipoiseError, RunError
from equipoise.runs import Run
from equipoise.tasks import Task, from_dict

__all__ = ["Place", "RunFacts", "TaskFacts", "read_run"]

METRICS_VERSION = 1
TASKS_VERSION = 1
#: Cells of a table of predictions that is kept for the next part of the page; a larger one is read again.
REMEMBERED = 5_000_000
#: (split, file, row)
Place = tuple[str, str, int]


@dataclass(frozen=True)
class TaskFacts:
    """A task and what the report asks about it.

    Attributes:
        name: the user's.
        kind: `regression`, `classification`, `multilabel`, `ordinal`, or one that came later.
        task: the fitted task.
        classes: its classes in order; None for a score.
        main: the metric that it is judged by.
        directions: metric -> `min` or `max`, whether less or more is better.
    """

    name: str
    kind: str
    task: Task
    classes: tuple[str, ...] | None
    main: str
    directions: Mapping[str, str]

    @property
    def described(self) -> Mapping[str, Any]:
        """What its `to_dict` says: thresholds, range, separator."""
        return self.task.to_dict()


@dataclass(frozen=True)
class RunFacts:
    """Everything of a run that the report shows.

    Attributes:
        run: the folder.
        metrics: what `metrics.json` holds.
        tasks: in their order.
        backbone: as the recipe named it.
        history: the lines of `history.jsonl`.
        recipe_text: None where the file has gone.
        texts: the texts of the worst rows; None where the run kept none.
        frames: predictions that were read before.
    """

    run: Run
    metrics: Mapping[str, Any]
    tasks: Sequence[TaskFacts]
    backbone: str
    history: Sequence[Mapping[str, Any]]
    recipe_text: str | None
    texts: Mapping[Place, Mapping[str, Any]] | None
    frames: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)

    @property
    def splits(self) -> list[str]:
        """The splits that were judged, the one that counts first."""
        order = {"test": 0, "validation": 1, "train": 2}
        return sorted(self.metrics["splits"], key=lambda name: order.get(name, 3))

    @property
    def judged(self) -> str:
        """The split that the verdict is about: test, else validation, else train."""
        return self.splits[0]

    def values(self, task: str, split: str) -> Mapping[str, Any]:
        """A task's metrics on a split; empty where it was not judged there."""
        found: Mapping[str, Any] = self.metrics["splits"].get(split, {}).get(task) or {}
        return found

    def baselines(self, task: str, split: str) -> Mapping[str, Any]:
        """`constant` and `tfidf`, each with metrics or None."""
        found: Mapping[str, Any] = ((self.metrics.get("baselines") or {}).get(split) or {}).get(task) or {}
        return found

    @cached_property
    def columns(self) -> Mapping[str, list[str]]:
        """The columns of each split's predictions; a split without them is absent."""
        return {split: found for split in self.splits if (found := _columns(self.run.predictions_file(split)))}

    def rows(self, task: TaskFacts, split: str) -> pd.DataFrame | None:
        """The judged rows that carry a task's label.

        Returns:
            `position` (in the file of predictions), `row`, `file`, `line`, `true`, `predicted` and one column a class,
            numbered; None where the predictions are not there.

        Raises:
            RunError: the file is damaged.
        """
        key = (task.name, split)
        if key in self.frames:
            return self.frames[key]
        known = set(self.columns.get(split, []))
        probabilities = [] if task.classes is None else [f"{task.name}/{label}" for label in task.classes]
        wanted = ["row", "file", "line", f"{task.name}/true", task.name, *probabilities]
        if not known.issuperset(wanted):
            return None
        frame = _parquet(self.run.predictions_file(split), list(dict.fromkeys(wanted)))
        # By position, because a class may be called `true`.
        places = {name: frame[name] for name in ("row", "file", "line")}
        found = pd.DataFrame({"position": range(len(frame)), **places})
        found["true"], found["predicted"] = frame[f"{task.name}/true"], frame[task.name]
        if probabilities:
            block = frame[probabilities].to_numpy(dtype="float64")
            found = pd.concat([found, pd.DataFrame(block, columns=range(block.shape[1]))], axis=1)
        if task.classes is None:
            found["true"], found["predicted"] = found["true"].astype("float64"), found["predicted"].astype("float64")
        found = found[found["true"].notna()].reset_index(drop=True)
        if found.size <= REMEMBERED:
            self.frames[key] = found
        return found


def read_run(folder: str | Path | Run) -> RunFacts:
    """Reads a finished run.

    Raises:
        RunError: it is no run, its training has not finished, or a file is damaged or of a later format.
    """
    run = Run.open(folder.folder if isinstance(folder, Run) else folder)
    if not run.metrics_file.exists():
        raise RunError(
            f"'{run.folder}' has no metrics.json: its training has not finished. Go on with it: "
            f"equipoise train --resume {run.folder}"
        )
    metrics = run.metrics
    _version(metrics.get("format_version"), METRICS_VERSION, run.metrics_file)
    _check(metrics, run.metrics_file)
    backbone, tasks = _tasks(run.tasks_file)
    return RunFacts(run, metrics, tasks, backbone, run.history, _text(run.recipe_file), _texts(run.worst_file))


def _version(found: Any, known: int, path: Path) -> None:
    if found == known and not isinstance(found, bool):
        return
    newer = isinstance(found, int) and not isinstance(found, bool) and found > known
    raise RunError(
        f"{path} has format version {found!r}; this Equipoise reads {known}. "
        f"{'Install a newer Equipoise' if newer else 'It is damaged'}"
    )


def _check(metrics: Mapping[str, Any], path: Path) -> None:
    """The parts that nothing can be said without; what else is missing is left out of the page."""
    splits = metrics.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise RunError(f"{path} is damaged: it holds no judged split")
    for split, tasks in splits.items():
        if not isinstance(tasks, dict) or not all(isinstance(one, dict) for one in tasks.values()):
            raise RunError(f"{path} is damaged: splits.{split} holds no metrics by task")
    for key in ("training", "data", "baselines", "tokens", "versions", "scores"):
        if not isinstance(metrics.get(key, {}), dict):
            raise RunError(f"{path} is damaged: {key} is no mapping")


def _tasks(path: Path) -> tuple[str, list[TaskFacts]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the folder is not a model that Equipoise saved") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    _version(data.get("format_version") if isinstance(data, dict) else None, TASKS_VERSION, path)
    try:
        tasks = [_task(from_dict(one)) for one in data["tasks"]]
        return str(data["backbone"]), tasks
    except (EquipoiseError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _task(task: Task) -> TaskFacts:
    labels = task.to_dict().get("labels")
    name, _ = task.main_metric
    return TaskFacts(task.name, task.kind, task, None if labels is None else tuple(labels), name, task.selectable())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _texts(path: Path) -> dict[Place, dict[str, Any]] | None:
    """The kept texts by place; None where there is no such file."""
    text = _text(path)
    if text is None:
        return None
    found: dict[Place, dict[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            one = json.loads(line)
            passages, lengths = [str(part) for part in one["text"]], [int(part) for part in one["characters"]]
            if len(passages) != len(lengths):
                raise ValueError("text and characters differ in length")
            place = str(one["split"]), str(one["file"]), int(one["row"])
            found[place] = {"text": passages, "characters": lengths}
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path}:{number} is damaged. Remove the file to have a report without texts") from None
    return found


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        # No row is read: the file's own list of columns.
        return list(pd.read_parquet(path, filters=[("row", "<", -1)], columns=None).columns)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {_first(error)}") from None


def _parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
