"""The work of one process: a training, or an arm's search. What comes in and goes out is plain data.

Data is read, checked and tokenised once a process, however many trainings it makes.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from equipoise import recipe as recipes
from equipoise.comparison._arms import Arm, settings_of
from equipoise.comparison._attempts import attempt
from equipoise.comparison._search import Space, TrialFailed, relative_gain, search
from equipoise.errors import EquipoiseError
from equipoise.recipe import Recipe
from equipoise.runs import Run, write_json
from equipoise.tasks import Task
from equipoise.training import Plan, RunData, count_steps, make_plan, read_data, run_trial

__all__ = ["data_of", "do", "in_epochs", "search_arm", "train_one", "trial_folder", "trial_name"]

#: Is told what share of a training is done and its metrics on validation, and says whether to stop.
Watch = Callable[[float, dict[str, Any]], bool]
#: Of a trial, what the search and the harness add up.
COST = ("examples", "seconds", "judging_seconds")


def do(payload: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """A search where the payload has a `space`, else a training."""
    return (search_arm if "space" in payload else train_one)(payload, callbacks)


def train_one(payload: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Trains and judges once; a training that fails leaves `failed.json` with the reason.

    Args:
        payload: `recipe` (resolved), `tasks` (None = all), `split_seed`, `folder`, `data_folder`, `seconds` (or None),
            `engine`.
        callbacks: transformers' callbacks, where the work is done in the caller's own process.

    Returns:
        `{"metrics": ...}` or `{"reason": ...}`.
    """
    folder = Path(payload["folder"])
    try:
        # Checked where the payload was made; what a recipe of some of the tasks names is not checked again.
        recipe = Recipe.model_validate(payload["recipe"])
        data = data_of(recipe, payload["split_seed"], payload["data_folder"])
        plan = _plan(recipe, folder, data, payload["tasks"])
        how = {"seconds": payload["seconds"], "callbacks": callbacks, "notes": {"engine": payload["engine"]}}
        with attempt(folder):
            return {"metrics": run_trial(plan, folder, **how)}
    except Exception as error:  # whatever a training died of, the other hours of trainings go on
        found = failed(folder, error)
    # Here the traceback is gone, which held on to the model: what it took of a device is the next training's.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def in_epochs(recipe: Recipe, examples: int, rows: int) -> Recipe:
    """The recipe for so many examples of a table of `rows`, told in epochs: a model of some tasks has fewer rows to see."""
    changes = {"epochs": examples / rows, "max_steps": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def _plan(recipe: Recipe, folder: Path, data: RunData, tasks: Sequence[str] | None) -> Plan:
    """The plan of a training that sees each of its rows as often as the other arms do.

    It makes up for rows that its method holds out: it trains on as many as the others.
    """
    if tasks is not None:
        training = recipe.training
        if training.max_steps is not None:
            examples = training.max_steps * training.batch_size * training.accumulation
            recipe = in_epochs(recipe, examples, len(data.tokens["train"]))
        data = data.only(tasks)
    plan, rows = make_plan(recipe, folder, data), len(data.tokens["train"])
    if len(plan.training_rows) == rows or recipe.training.max_steps is not None:
        return plan
    steps = {"max_steps": count_steps(recipe, rows)}
    whole = recipe.model_copy(update={"training": recipe.training.model_copy(update=steps)})
    return make_plan(whole, folder, data)


def failed(folder: Path, error: BaseException) -> dict[str, Any]:
    """Writes `failed.json`: the reason in one line and, for what is not the user's mistake, the traceback."""
    known = isinstance(error, EquipoiseError)
    text = " ".join(str(error).split())
    found = {"reason": text if known else f"{type(error).__name__}: {text}"}
    if not known:
        found["traceback"] = "".join(traceback.format_exception(error))
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "failed.json", found)
    return found


def search_arm(payload: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Searches an arm's settings on validation and writes `search.json`.

    Args:
        payload: as of `train_one`, where `recipe` is the comparison's, and `folder` is where the trials go; with `arm`,
            `space` (what `Space` takes), `trials`, `seeds` (each trial is trained with all of them, the first
            decides what is drawn), `judged` (metrics, `task.metric`) and `prune` (of one seed only).
        callbacks: see `train_one`.

    Returns:
        What `search.json` holds: `settings` (recipe key -> value), `seeds`, `score`, `trials`, `examples`, `seconds`; or
        `{"reason": ...}`.
    """
    folder = Path(payload["folder"])
    try:
        found = _search(payload, folder, callbacks)
    except Exception as error:
        return failed(folder / "failed", error)
    write_json(folder / "search.json", found)
    return found


def _search(payload: Mapping[str, Any], folder: Path, callbacks: Sequence[Any]) -> dict[str, Any]:
    arm, base = Arm.from_dict(payload["arm"]), recipes.load(payload["recipe"])
    space = Space(**payload["space"])

    def data_for(recipe: Recipe) -> RunData:
        return data_of(recipe, payload["split_seed"], payload["data_folder"])

    data = data_for(settings_of(arm, base, space.settings(space.parameters())))
    data = data if arm.tasks is None else data.only(arm.tasks)
    if "validation" not in data.tokens:
        raise TrialFailed("a search needs a validation split, and there is none. Set data.validation")
    judged = _judged(payload["judged"], data.prepared.tasks)
    seeds, reference = payload["seeds"], _Reference(folder / "reference.json", judged)

    def train(settings: Mapping[str, Any], seed: int, watch: Watch | None) -> dict[str, Any]:
        place = folder / trial_folder(settings, seed)
        recipe = settings_of(arm, base, settings)
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
        plan = _plan(recipe, place, data_for(recipe), arm.tasks)
        how = {"seconds": payload["seconds"], "callbacks": callbacks, "notes": {"engine": payload["engine"]}}
        with attempt(place):
            found = run_trial(plan, place, watch=watch, **how)
        write_json(place / "cost.json", {key: found["training"][key] for key in COST})
        splits: dict[str, Any] = found["splits"]
        return splits

    def trial(settings: Mapping[str, Any], report: Callable[[float, float], bool]) -> float:
        def watch(share: float, metrics: dict[str, Any]) -> bool:
            return bool(reference.seeds) and report(share, reference.gain({seeds[0]: metrics}))

        found = {}
        for seed in seeds:
            run = Run(folder / trial_folder(settings, seed))
            # What one seed says at a third of its training would decide which trials the others never see.
            alone = len(seeds) == 1
            if not alone and (run.folder / "cost.json").is_file():
                splits = run.metrics["splits"]  # was over before the search was killed
            else:
                splits = train(settings, seed, watch if alone else None)
            if not splits:
                return 0.0  # the search has stopped it, and reads no score
            found[seed] = splits["validation"]
        if not reference.seeds:
            reference.set(found)
        return reference.gain(found)

    result = search(
        trial,
        space,
        trials=payload["trials"],
        seed=seeds[0],
        prune=payload["prune"] and len(seeds) == 1,
        journal=folder / "journal.jsonl",
    )
    costs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("trial-*/cost.json"))]
    return {
        "settings": result.settings,
        "seeds": seeds,
        "score": result.score,
        "trials": result.trials,
        "examples": sum(cost["examples"] for cost in costs),
        "seconds": round(sum(cost["seconds"] for cost in costs), 2),
    }


class _Reference:
    """What all trials are measured by: the first one that came to its end, seed by seed.

    Args:
        path: where it is kept.
        judged: `task.metric` -> which is better.

    Attributes:
        seeds: seed -> its metrics on validation; empty before that.
    """

    def __init__(self, path: Path, judged: Mapping[str, str]) -> None:
        self.path, self.judged = path, judged
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.seeds: dict[int, dict[str, Any]] = {int(seed): metrics for seed, metrics in kept.items()}

    def set(self, seeds: dict[int, dict[str, Any]]) -> None:
        """Takes a trial for it.

        Raises:
            TrialFailed: a metric of it is missing, not finite or zero, so that nothing could be measured by it.
        """
        for metrics in seeds.values():
            relative_gain(metrics, metrics, self.judged)
        self.seeds = seeds
        write_json(self.path, {str(seed): metrics for seed, metrics in seeds.items()})

    def gain(self, seeds: Mapping[int, Mapping[str, Any]]) -> float:
        """By how many per cent a trial is better, in the mean over seeds and over what is judged."""
        gains = [relative_gain(metrics, self.seeds[seed], self.judged) for seed, metrics in seeds.items()]
        return statistics.mean(gains)


def _judged(names: Sequence[str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """`task.metric` -> which is better, of the tasks that are trained; their main metrics where none of them is judged."""
    parts = [name.rpartition(".") for name in names]
    wanted = [(task, metric) for task, _, metric in parts if task in tasks and metric in tasks[task].selectable()]
    wanted = wanted or [(name, task.main_metric[0]) for name, task in tasks.items()]
    return {f"{task}.{metric}": tasks[task].selectable()[metric] for task, metric in wanted}


def trial_name(settings: Mapping[str, Any]) -> str:
    """A name for a trial, by its settings."""
    text = json.dumps(settings, sort_keys=True)
    return f"trial-{blake2b(text.encode(), digest_size=6).hexdigest()}"


def trial_folder(settings: Mapping[str, Any], seed: int) -> str:
    """The name of the folder of a trial's training with a seed."""
    return f"{trial_name(settings)}-seed-{seed}"


def data_of(recipe: Recipe, split_seed: int, folder: str) -> RunData:
    """The data of a recipe, read once in this process for all recipes that read the same."""
    found = recipe.model_dump(mode="json", by_alias=True)
    model = {key: found["model"][key] for key in ("backbone", "revision", "trust_remote_code", "max_length")}
    # All that reading looks at, so that arms which differ in anything else share what was read.
    read = {"data": found["data"], "tasks": found["tasks"], "model": model, "training": {"seed": split_seed}}
    return _read_once(json.dumps(read), folder)


@lru_cache(maxsize=16)  # of memory-mapped files
def _read_once(recipe: str, folder: str) -> RunData:
    place = Path(folder) / f"{blake2b(recipe.encode(), digest_size=6).hexdigest()}-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return read_data(Recipe.model_validate(json.loads(recipe)), place)
