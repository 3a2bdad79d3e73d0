"""The work of one process: a training, or an arm's search. What comes in and goes out is plain data.

Data is read, checked and tokenised once a process, however many trainings it makes.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from equipoise import recipe as recipes
from equipoise.comparison._search import Space, TrialFailed, relative_gain, search
from equipoise.errors import EquipoiseError
from equipoise.recipe import Recipe
from equipoise.runs import write_json
from equipoise.training import RunData, make_plan, read_data, run_trial

__all__ = ["data_of", "search_arm", "train_one", "trial_name"]

#: Of a trial, what the search and the harness add up.
COST = ("examples", "seconds", "judging_seconds")


def train_one(payload: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Trains and judges once; a training that fails leaves `failed.json` with the reason.

    Args:
        payload: `recipe` (resolved), `tasks` (None = all), `split_seed`, `folder`, `data_folder`, `seconds` (or None).
        callbacks: transformers' callbacks, where the work is done in the caller's own process.

    Returns:
        `{"metrics": ...}` or `{"reason": ...}`.
    """
    folder = Path(payload["folder"])
    try:
        recipe = recipes.load(payload["recipe"])
        data = data_of(recipe, payload["split_seed"], payload["data_folder"])
        if payload["tasks"] is not None:
            data = data.only(payload["tasks"])
        metrics = run_trial(make_plan(recipe, folder, data), folder, seconds=payload["seconds"], callbacks=callbacks)
    except Exception as error:  # whatever a training died of, the other hours of trainings go on
        return failed(folder, error)
    return {"metrics": metrics}


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
        payload: as of `train_one`, with `space` (what `Space` takes), `trials`, `seed`,
            `judged` (metrics, `task.metric`), `prune`; `folder` is where the trials go.
        callbacks: see `train_one`.

    Returns:
        What `search.json` holds: `settings` (recipe key -> value), `trials`, `examples`, `seconds`, `best`; or `{"reason": ...}`.
    """
    folder = Path(payload["folder"])
    try:
        found = _search(payload, folder, callbacks)
    except Exception as error:
        return failed(folder / "failed", error)
    write_json(folder / "search.json", found)
    return found


def _search(payload: Mapping[str, Any], folder: Path, callbacks: Sequence[Any]) -> dict[str, Any]:
    base = payload["recipe"]
    data = data_of(recipes.load(base), payload["split_seed"], payload["data_folder"])
    if payload["tasks"] is not None:
        data = data.only(payload["tasks"])
    if "validation" not in data.tokens:
        raise TrialFailed("a search needs a validation split, and there is none. Set data.validation")
    judged = {}
    for name in payload["judged"]:
        task, _, metric = name.rpartition(".")
        if task in data.prepared.tasks:
            judged[name] = data.prepared.tasks[task].selectable()[metric]
    space = Space(**payload["space"])
    reference: dict[str, Any] = {}

    def trial(settings: Mapping[str, Any], report: Callable[[float, float], bool]) -> float:
        place = folder / trial_name(settings)

        def watch(share: float, metrics: dict[str, Any]) -> bool:
            # There is nothing to measure the first trial by: it is what the others are measured by.
            return bool(reference) and report(share, relative_gain(metrics, reference, judged))

        plan = make_plan(recipes.load(with_settings(base, settings)), place, data)
        found = run_trial(plan, place, seconds=payload["seconds"], watch=watch, callbacks=callbacks)
        write_json(place / "cost.json", {key: found["training"][key] for key in COST})
        if not found["splits"]:
            return 0.0  # the search has stopped it, and reads no score
        reference.update({} if reference else found["splits"]["validation"])
        return relative_gain(found["splits"]["validation"], reference, judged)

    first = folder / trial_name(space.settings(space.parameters())) / "metrics.json"
    if first.is_file():  # of a search that was killed
        reference.update(json.loads(first.read_text(encoding="utf-8"))["splits"]["validation"])
    result = search(
        trial,
        space,
        trials=payload["trials"],
        seed=payload["seed"],
        prune=payload["prune"],
        journal=folder / "journal.jsonl",
    )
    costs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("trial-*/cost.json"))]
    return {
        "settings": result.settings,
        "score": result.score,
        "best": trial_name(result.settings),
        "trials": result.trials,
        "examples": sum(cost["examples"] for cost in costs),
        "seconds": round(sum(cost["seconds"] for cost in costs), 2),
    }


def with_settings(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe with dotted keys set; a head's rate that is the backbone's follows it."""
    data: dict[str, Any] = json.loads(json.dumps(base))
    follows = data["training"]["head_learning_rate"] == data["training"]["learning_rate"]
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            node = node[part]
        node[last] = value
    if follows:
        data["training"]["head_learning_rate"] = data["training"]["learning_rate"]
    return data


def trial_name(settings: Mapping[str, Any]) -> str:
    """The folder of a trial, by its settings."""
    text = json.dumps(settings, sort_keys=True)
    return f"trial-{blake2b(text.encode(), digest_size=6).hexdigest()}"


def data_of(recipe: Recipe, split_seed: int, folder: str) -> RunData:
    """The data of a recipe, read once in this process for all recipes that read the same."""
    seeded = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": split_seed})})
    data = seeded.model_dump(mode="json", by_alias=True)
    model = {key: data["model"][key] for key in ("backbone", "revision", "max_length")}
    text = json.dumps({"data": data["data"], "tasks": data["tasks"], "model": model, "seed": split_seed})
    return _read_once(text, json.dumps(data), folder)


@lru_cache(maxsize=16)  # of memory-mapped files
def _read_once(key: str, recipe: str, folder: str) -> RunData:
    place = Path(folder) / f"{blake2b(key.encode(), digest_size=6).hexdigest()}-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return read_data(recipes.load(json.loads(recipe)), place)
