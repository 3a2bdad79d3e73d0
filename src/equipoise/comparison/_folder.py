"""The comparison folder: the only place that knows its files.

comparison.json      what is compared: recipe, arms, seeds, budget; what a continued comparison is checked against
runs/ARM/seed-S/     one training: recipe.yaml, metrics.json, history.jsonl, predictions/; or failed.json
runs/ARM/search/     the trials of an arm that is searched, and search.json, what came of them
results.parquet      one row for each method, seed, split, task and metric
summary.json         every number of the table and the page
comparison.html      the page
rejected.jsonl       the rows that could not be used
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import RunError
from equipoise.runs import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Job"]

#: What must be the same for runs to stand beside each other. Arms and seeds may be added to a comparison that stands.
FIXED = ("recipe", "folds", "budget", "data")


@dataclass(frozen=True)
class Job:
    """One training: an arm, a seed, and the fold where there are folds."""

    arm: str
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm} seed {self.seed}" + (f" fold {self.fold}" if self.fold is not None else "")


@dataclass(frozen=True)
class Comparison:
    """A comparison folder."""

    folder: Path

    @property
    def page(self) -> Path:
        """The page, `comparison.html`."""
        return self.folder / "comparison.html"

    @property
    def settings_file(self) -> Path:
        """What is compared."""
        return self.folder / "comparison.json"

    @property
    def results_file(self) -> Path:
        """One row for each method, seed, split, task and metric."""
        return self.folder / "results.parquet"

    @property
    def summary_file(self) -> Path:
        """Every number of the table and the page."""
        return self.folder / "summary.json"

    @property
    def rejected_file(self) -> Path:
        """The rows that could not be used."""
        return self.folder / "rejected.jsonl"

    @property
    def lock_file(self) -> Path:
        """Held by the one process that compares here."""
        return self.folder / ".lock"

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; docs/compare.md describes it."""
        found: dict[str, Any] = _read(self.summary_file)
        return found

    @property
    def results(self) -> pd.DataFrame:
        """What `results.parquet` holds."""
        import pandas as pd

        if not self.results_file.is_file():
            raise RunError(f"{self.results_file} is missing: the comparison has not finished")
        return pd.read_parquet(self.results_file)

    def run(self, job: Job, folder: str) -> Run:
        """The run of a job. `folder`: its arm's."""
        fold = f"-fold-{job.fold}" if job.fold is not None else ""
        return Run(self.folder / "runs" / folder / f"seed-{job.seed}{fold}")

    def search_folder(self, folder: str) -> Path:
        """Where an arm's trials are."""
        return self.folder / "runs" / folder / "search"

    def search(self, folder: str) -> dict[str, Any] | None:
        """What an arm's search found, or None where it has not ended."""
        path = self.search_folder(folder) / "search.json"
        return _read(path) if path.is_file() else None

    def outcome(self, job: Job, folder: str) -> dict[str, Any] | None:
        """What came of a job: its metrics, `{"reason": ...}` where it failed, None where it has not been done."""
        run = self.run(job, folder)
        if run.metrics_file.is_file():
            return run.metrics
        failed = run.folder / "failed.json"
        return _read(failed) if failed.is_file() else None

    @classmethod
    def open(cls, folder: str | Path) -> Comparison:
        """A folder for a new comparison, or one with a comparison that can go on. Writes nothing into it.

        Raises:
            RunError: something else stands there.
        """
        comparison = cls(Path(folder))
        if comparison.folder.exists() and not comparison.folder.is_dir():
            raise RunError(f"output: '{folder}' is a file")
        found = sorted(path.name for path in comparison.folder.iterdir()) if comparison.folder.is_dir() else []
        if not comparison.settings_file.is_file() and [name for name in found if not name.startswith(".")]:
            raise RunError(f"output: the folder '{folder}' is not empty and is no comparison. Choose another with -o")
        try:
            comparison.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"output: the folder '{folder}' cannot be made: {error.strerror}") from None
        return comparison

    def joined(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What is asked for, joined with what stands here: its arms and seeds stay in the table.

        Args:
            settings: as of `comparison.json`.

        Raises:
            RunError: it was made on other terms; `FIXED` names those that cannot change.
        """
        if not self.settings_file.is_file():
            return settings
        before = _read(self.settings_file)
        if before.get("format_version") != settings["format_version"]:
            raise RunError(
                f"output: the comparison in '{self.folder}' was made by another version of equipoise. "
                "Choose another folder with -o"
            )
        unlike = [key for key in FIXED if before.get(key) != settings.get(key)]
        searched = dict(settings["searched"])
        if any(map(_searched, before["arms"].values())):
            # The same runs may be judged by other metrics; what was searched stays as it was found.
            searched["judged"] = before["searched"]["judged"]
            if changed := [key for key, value in before["searched"].items() if searched.get(key) != value]:
                unlike.append(f"search ({', '.join(changed)})")
        if unlike:
            raise RunError(
                f"output: the comparison in '{self.folder}' was made with another {' and '.join(unlike)}, and runs on "
                "unlike terms can't be compared. Choose another folder with -o, or remove this one"
            )
        for name, arm in settings["arms"].items():
            if name in before["arms"] and before["arms"][name] != arm:
                raise RunError(
                    f"output: '{name}' means something else in the comparison in '{self.folder}'. Give it another name"
                )
        return settings | {
            "arms": before["arms"] | settings["arms"],
            "seeds": sorted({*before["seeds"], *settings["seeds"]}),
            "searched": searched,
        }


def _searched(arm: dict[str, Any]) -> bool:
    return bool(arm["search_weights"] or arm["grid"])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
