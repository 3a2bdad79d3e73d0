"""What is to be trained, what has been, and what comes of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from equipoise import recipe as recipes
from equipoise.comparison._arms import Arm, Unusable, settings_of
from equipoise.comparison._display import Display
from equipoise.comparison._engines import in_turn, on_ray
from equipoise.comparison._folder import Comparison, Job
from equipoise.comparison._folds import fold_recipes
from equipoise.comparison._records import record, search_records, write_results
from equipoise.comparison._search import require_optuna
from equipoise.comparison._work import data_of, do, in_epochs, trial_folder
from equipoise.data import text_hashes
from equipoise.evaluation import summarise
from equipoise.recipe import Recipe
from equipoise.report import comparison_page
from equipoise.runs import write_json, write_text
from equipoise.terminal import Console
from equipoise.training import RunData, versions

__all__ = ["Runner"]


class Runner:
    """Trains what a comparison lacks and writes its table, summary and page.

    Args:
        comparison: the folder.
        recipe: what the arms change.
        settings: what `comparison.json` holds.
        unusable: arms that were asked for and cannot be made.
        seconds: time limit of one training, or None.
        examples: examples of one training, or None for the recipe's epochs.
        retry_failed: train again what failed before.
        console: where to print.
    """

    def __init__(
        self,
        comparison: Comparison,
        recipe: Recipe,
        settings: Mapping[str, Any],
        unusable: Sequence[Unusable],
        *,
        seconds: float | None,
        examples: int | None,
        retry_failed: bool,
        console: Console,
    ) -> None:
        self.comparison, self.recipe, self.settings, self.unusable = comparison, recipe, dict(settings), unusable
        self.seconds, self.examples, self.retry_failed, self.console = seconds, examples, retry_failed, console
        # A name of its own each time: what a worker process has read stays with its name.
        self.data_folder = comparison.folder / f".data-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.found: dict[str, dict[str, Any]] = {}  # arm -> what its search found

    def run(self, engine: str, *, workers: int | None, threads: int | None) -> dict[str, Any]:
        """Trains, judges, writes; returns the summary."""
        started = time.perf_counter()
        try:
            self._clear_up()
            self.data_folder.mkdir()
            self._read()
            if self.retry_failed:
                self._forget_failures()
            before = self._seconds()
            self.engine, local = engine, engine == "local"
            with _threads(threads if local else None), self._display() as display:
                # A worker imports its work by name, and has no terminal to show steps on.
                carry_out = in_turn if local else partial(on_ray, workers=workers, threads=threads or 1)
                work, done = partial(do, callbacks=[display]) if local else do, partial(self._done, display)
                searches = self._search_jobs(display)
                # A search is one worker's, and the others need not wait for it. In turn, all arms of a seed come together.
                early = [] if local else [name for name in self.arms if name not in searches]
                if first := [*searches.items(), *self._training_jobs(early, display)]:
                    carry_out(first, work, done)
                if second := self._training_jobs([name for name in self.arms if name not in early], display):
                    carry_out(second, work, done)
            return self._conclude(started, before)
        finally:
            shutil.rmtree(self.data_folder, ignore_errors=True)

    # What there is to do ---------------------------------------------------------------------------------------------

    def _clear_up(self) -> None:
        """Removes what a comparison that was killed has left."""
        for stale in self.comparison.folder.glob(".data-*"):  # nobody else is here: the folder is held
            shutil.rmtree(stale, ignore_errors=True)

    def _read(self) -> None:
        """Reads the data, so that what is wrong with it, or with the folder, is told before the first training."""
        split_seed = self.recipe.training.seed
        self.data = data_of(self.recipe, split_seed, str(self.data_folder))
        self.settings["data"] = _fingerprint(self.data)
        self.settings = self.comparison.joined(self.settings)
        self.arms = {name: Arm.from_dict(arm) for name, arm in self.settings["arms"].items()}
        self.seeds: list[int] = self.settings["seeds"]
        if any(self.comparison.search(arm.folder) is None for arm in self._searches()):
            require_optuna()
        self.recipes = [self.recipe]
        if self.settings["folds"]:
            self.recipes = fold_recipes(self.recipe, self.settings["folds"], self.data_folder)
        if self.examples is not None:
            self.recipes = [in_epochs(one, self.examples, self._rows(one)) for one in self.recipes]
        write_json(self.comparison.settings_file, self.settings)
        shutil.copyfile(self.data.rejected_file, self.comparison.rejected_file)

    def _forget_failures(self) -> None:
        for job in self._jobs():
            folder = self.comparison.run(job, self.arms[job.arm].folder).folder
            if (folder / "failed.json").is_file():
                shutil.rmtree(folder)

    def _rows(self, recipe: Recipe) -> int:
        return len(data_of(recipe, self.recipe.training.seed, str(self.data_folder)).tokens["train"])

    def _jobs(self) -> list[Job]:
        """Every training, a seed of all arms before the next seed, so that what is done so far can be compared."""
        folds = [None] if not self.settings["folds"] else list(range(self.settings["folds"]))
        return [Job(arm, seed, fold) for seed in self.seeds for fold in folds for arm in self.arms]

    def _searches(self) -> list[Arm]:
        return [arm for arm in self.arms.values() if arm.search_weights or arm.grid]

    def _trials(self, arm: Arm) -> int:
        if arm.search_weights:
            return int(self.settings["searched"]["trials"])
        return math.prod(len(values) for values in arm.grid.values())

    def _search_trainings(self, arm: Arm) -> int:
        return self._trials(arm) * len(self.settings["searched"]["seeds"])

    def _display(self) -> Display:
        total = len(self._jobs()) + sum(self._search_trainings(arm) for arm in self._searches())
        return Display(total, self.console)

    def _payload(self, recipe: Recipe, arm: Arm, seed: int, folder: Any) -> dict[str, Any]:
        seeded = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
        return {
            "recipe": seeded.model_dump(mode="json", by_alias=True),
            "tasks": None if arm.tasks is None else list(arm.tasks),
            "split_seed": self.recipe.training.seed,
            "folder": str(folder),
            "data_folder": str(self.data_folder.resolve()),
            "seconds": self.seconds,
            "engine": self.engine,
        }

    # Doing it --------------------------------------------------------------------------------------------------------

    def _search_jobs(self, display: Display) -> dict[str, dict[str, Any]]:
        jobs = {}
        for arm in self._searches():
            known = self.comparison.search(arm.folder)
            if known is not None:
                self.found[arm.name] = known
                display.skip(self._search_trainings(arm))
                continue
            searched = self.settings["searched"]
            folder = self.comparison.search_folder(arm.folder)
            payload = self._payload(self.recipes[0], arm, searched["seeds"][0], folder)
            jobs[arm.name] = payload | {
                "arm": arm.to_dict(),
                "space": {
                    "tasks": list(self.recipe.tasks) if arm.search_weights else None,
                    "grid": {key: list(values) for key, values in arm.grid.items()},
                },
                "trials": self._trials(arm),
                "prune": searched["prune"],
                "judged": searched["judged"],
                "seeds": searched["seeds"],
            }
        return jobs

    def _training_jobs(self, arms: Sequence[str], display: Display) -> list[tuple[Job, dict[str, Any]]]:
        """What the arms lack, and their payloads; whose searches are over."""
        jobs = []
        for job in self._jobs():
            arm = self.arms[job.arm]
            if job.arm not in arms:
                continue
            if self.comparison.outcome(job, arm.folder) is not None:
                display.skip(1)
                continue
            run = self.comparison.run(job, arm.folder)
            found = self.found.get(arm.name, {})
            if "reason" in found:  # told by the search; what made it fail may be gone the next time
                display.finish(job.name, "not trained: its search failed")
                continue
            if job.seed in found.get("seeds", ()) and job.fold is None:
                # The search's best trial was this very training.
                best = trial_folder(found["settings"], job.seed)
                _copy(self.comparison.search_folder(arm.folder) / best, run.folder)
                display.finish(job.name, "the search's best trial")
                continue
            recipe = settings_of(arm, self.recipes[job.fold or 0], found.get("settings"))
            jobs.append((job, self._payload(recipe, arm, job.seed, run.folder)))
        return jobs

    def _done(self, display: Display, job: Job | str, result: dict[str, Any]) -> None:
        """Keeps what a training, or the search of an arm, came to."""
        if isinstance(job, str):
            self.found[job] = result
            said = f"failed: {result['reason']}" if "reason" in result else _shown(result["settings"])
            display.finish(f"{job} search", said, self._search_trainings(self.arms[job]))
        elif "reason" in result:
            # A worker that was killed could not write it itself.
            folder = self.comparison.run(job, self.arms[job.arm].folder).folder
            if not (folder / "failed.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                write_json(folder / "failed.json", {"reason": result["reason"]})
            display.finish(job.name, f"failed: {result['reason']} (to try it again: --retry-failed)")
        else:
            display.finish(job.name, self._said(result["metrics"]))

    def _said(self, found: Mapping[str, Any]) -> str:
        split = "validation" if "validation" in found["splits"] else next(iter(found["splits"]))
        said = []
        for name in self.settings["judged"]:
            task, _, metric = name.rpartition(".")
            value = found["splits"][split].get(task, {}).get(metric)
            if value is not None:
                said.append(f"{name} {value:.4g}")
        return f"{split} {', '.join(said)} ({found['training']['seconds']:.0f} s)"

    # What came of it -------------------------------------------------------------------------------------------------

    def _seconds(self) -> Counter[str]:
        """Of training and of judging, of all trainings that stand in the folder."""
        seconds: Counter[str] = Counter()  # typed for whole numbers, and as good with others
        runs = [self.comparison.run(job, self.arms[job.arm].folder).folder for job in self._jobs()]
        trials = self.comparison.folder.glob("runs/*/search/trial-*")
        # A run that was a search's best trial is counted there.
        own = [run / "metrics.json" for run in runs if not (run / "cost.json").is_file()]
        for path in [*own, *(trial / "cost.json" for trial in trials)]:
            if path.is_file():
                facts = json.loads(path.read_text(encoding="utf-8"))
                facts = facts.get("training", facts)
                seconds.update(training=facts["seconds"], judging=facts["judging_seconds"])
        return seconds

    def _conclude(self, started: float, before: Counter[str]) -> dict[str, Any]:
        tasks = self.data.prepared.tasks
        methods = {
            arm.name: arm.overrides.get("balance.method", self.recipe.balance.method) for arm in self.arms.values()
        }
        records = []
        for job in self._jobs():
            found = self.found.get(job.arm, {})
            reason = f"its search failed: {found['reason']}" if "reason" in found else None
            made = record(self.comparison, job, self.arms[job.arm], methods[job.arm], tasks)
            records += [made] if made is not None else [_untrained(job, methods[job.arm], reason)] if reason else []
        for arm in self._searches():
            if arm.search_weights:
                records += search_records(self.comparison, arm, methods[arm.name], tasks)
        for missing in self.unusable:
            records += [_untrained(Job(missing.name, seed), missing.name, missing.reason) for seed in self.seeds]
        write_results(self.comparison.results_file, records, tasks)
        train = self.data.tokens["train"].split.targets
        summary = summarise(
            records,
            tasks=tasks,
            baseline=self.settings["baseline"],
            judged=self.settings["judged"],
            train_targets={name: train[name] for name in tasks},
        )
        for arm in summary["arms"]:
            known = self.arms.get(arm["arm"])
            found = self.found.get(arm["arm"], {})
            arm["settings"] = (dict(known.overrides) if known else {}) | found.get("settings", {})
            if "trials" in found:
                arm["cost"]["search"] = {key: found[key] for key in ("examples", "seconds", "settings")}
                arm["cost"]["search"] |= {"trials": len(found["trials"]), "seeds": len(found["seeds"])}
        summary["train_rows"] = len(self.data.tokens["train"])
        spent = self._seconds() - before
        summary["harness"] = {  # of this call; what is neither training nor judging is the harness's own
            "wall_seconds": round(time.perf_counter() - started, 2),
            "training_seconds": round(spent["training"], 2),
            "judging_seconds": round(spent["judging"], 2),
        }
        names = ", ".join(arm.name for arm in self._searches() if "settings" in self.found.get(arm.name, {}))
        if names and set(by := self.settings["searched"]["judged"]) != set(self.settings["judged"]):
            summary["verdict"].append(
                f"Chosen by {', '.join(by)}, not by what is judged here: the settings of {names}."
            )
        if names and self.settings["folds"]:
            summary["verdict"].append(
                f"Chosen on the first fold's training rows, which other folds test on: the settings of {names}."
            )
        write_json(self.comparison.summary_file, summary)
        page = comparison_page(
            summary,
            title=self.comparison.folder.resolve().name,
            recipe_text=recipes.dump(self.recipe, defaults=False),
            command=self.settings["command"],
            versions=versions(),
        )
        write_text(self.comparison.page, page)
        return summary


def _untrained(job: Job, method: str, reason: str) -> dict[str, Any]:
    return {
        "arm": job.arm,
        "method": method,
        "group": "method",
        "tasks": [],
        "seed": job.seed,
        "fold": job.fold,
        "status": "failed",
        "reason": reason,
        "metrics": {},
        "training": {},
        "history": [],
        "predictions": {},
    }


def _fingerprint(data: RunData) -> str:
    """Of texts and labels of all splits: runs on other data don't stand beside each other."""
    digest = blake2b(digest_size=8)
    for name, tokens in data.tokens.items():
        split = data.prepared.splits[name]
        digest.update(f"{name} {len(tokens)}".encode())
        digest.update(text_hashes(split.text_list(), split.pair_list()).tobytes())
        for task, targets in split.targets.items():
            digest.update(task.encode())
            digest.update(targets.tobytes())
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Copies a folder whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    for stale in (temporary, target):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(source, temporary)
    os.replace(temporary, target)


def _shown(settings: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{key}: {text(one)}" for key, one in value.items()) + "}"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} {text(value)}" for key, value in settings.items())


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's threads, and those of before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
