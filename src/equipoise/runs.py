"""The run folder: the only place that knows its files.

Whatever is written is written whole: to a temporary name, flushed to disk, then renamed, so that a reader never sees
half a file. `history.jsonl` is the exception by nature: it grows by whole lines, flushed one by one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise._runs_disk import (
    atomic_path,
    recover_folder,
    remove_folder,
    replace_folder,
    sync,
    write_json,
    write_text,
)
from equipoise._runs_links import plain_split, refuse_links
from equipoise.errors import RunError

__all__ = [
    "RUN_VERSION",
    "Run",
    "atomic_path",
    "recover_folder",
    "remove_folder",
    "replace_folder",
    "sync",
    "write_json",
    "write_text",
]

#: Of the folder as a whole, written into `metrics.json`. Checkpoints, the sidecar and the recipe have their own.
RUN_VERSION = 1

#: Everything that may lie in a run folder beside hidden, temporary names.
CONTENTS = {
    "recipe.yaml",
    "model",
    "adapter",
    "checkpoints",
    "metrics.json",
    "history.jsonl",
    "predictions",
    "rejected.jsonl",
    "tensorboard",
    "report.html",
    "README.md",
}
#: Where a run lies that `overwrite` replaces, until the new one has its recipe.
REPLACED = ".replaced.old"
#: What a kill leaves half written or half removed.
RUBBISH = re.compile(r"\.({}|replaced\.old|checkpoint-\d+|partial)(\.\d+|\.gone)?(\.tmp|\.old)|\.partial".format(
    "|".join([*(re.escape(name) for name in sorted(CONTENTS)), r"[^.]+\.parquet", r"worst\.jsonl"])
))  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder. Its attributes are paths; reading one that is missing raises a `RunError`."""

    folder: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe as resolved."""
        return self.folder / "recipe.yaml"

    @property
    def model_folder(self) -> Path:
        """The trained model: safetensors, config, tokenizer, sidecar."""
        return self.folder / "model"

    @property
    def tasks_file(self) -> Path:
        """What the model's outputs mean: the fitted tasks, as JSON."""
        return self.model_folder / "multitask.json"

    @property
    def adapter_folder(self) -> Path:
        """The adapter alone, where one was trained and merged into the model."""
        return self.folder / "adapter"

    @property
    def checkpoint_folder(self) -> Path:
        """Resumable states."""
        return self.folder / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """Metrics per split and task, baselines, and what the run cost."""
        return self.folder / "metrics.json"

    @property
    def history_file(self) -> Path:
        """One line per logged step and per evaluation."""
        return self.folder / "history.jsonl"

    @property
    def rejected_file(self) -> Path:
        """The rows that could not be used: file, line, reason."""
        return self.folder / "rejected.jsonl"

    @property
    def tensorboard_folder(self) -> Path:
        """TensorBoard's event files, where `training.trackers` asks for them."""
        return self.folder / "tensorboard"

    @property
    def card_file(self) -> Path:
        """The model card."""
        return self.folder / "README.md"

    @property
    def cache_folder(self) -> Path:
        """Arrow files of the rows and tokens, while training; gone when it is finished.

        It lies beside the folder, so that data can be checked before a run that stands there is replaced.
        """
        folder = self.folder.resolve()
        return folder.with_name(f".{folder.name}.cache")

    @property
    def lock_file(self) -> Path:
        """Held by the one process that trains here. Beside the folder, which `overwrite` empties."""
        folder = self.folder.resolve()
        return folder.with_name(f".{folder.name}.lock")

    @property
    def replaced_folder(self) -> Path:
        """The run that `overwrite` replaces, until the new one has its recipe."""
        return self.folder / REPLACED

    def predictions_file(self, split: str) -> Path:
        """Row id, true, predicted, per-class probability."""
        return self.folder / "predictions" / f"{plain_split(split)}.parquet"

    @property
    def worst_file(self) -> Path:
        """The texts of the rows with the largest errors, for the report."""
        return self.folder / "predictions" / "worst.jsonl"

    @property
    def report_file(self) -> Path:
        """The pictures: one self-contained page."""
        return self.folder / "report.html"

    @property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` holds."""
        data = self._read_json(self.metrics_file)
        if not isinstance(data, dict):
            raise RunError(f"{self.metrics_file} is damaged: it holds no mapping")
        return data

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of `history.jsonl`; a last line that a kill cut off is left out."""
        lines = self._lines()
        for number, line in enumerate(lines, 1):
            if line is None:
                raise self._damaged_line(number)
        return [line for line in lines if line is not None]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A finished run.

        Raises:
            RunError: there is no such folder, it holds no trained model (yet), or a later version wrote it.
        """
        run = cls(Path(folder))
        if not run.folder.is_dir():
            raise RunError(f"there is no run folder '{folder}'")
        if not run.model_folder.is_dir():
            if run.replaced_folder.is_dir():
                raise RunError(
                    f"an --overwrite of the run in '{folder}' was cut off. To have the earlier run back: "
                    f"equipoise train --resume {folder}"
                )
            unfinished = run.recipe_file.exists()
            raise RunError(
                f"'{folder}' holds no trained model. "
                + (
                    f"Its training has not finished: equipoise train --resume {folder}"
                    if unfinished
                    else "Is it a run?"
                )
            )
        refuse_links(run.folder)
        run.refuse_newer()
        return run

    @classmethod
    def vacant(cls, folder: str | Path, *, overwrite: bool = False) -> Run:
        """Checks that a run may be written to a folder, and changes nothing.

        Raises:
            RunError: something stands there already and `overwrite` is false, or it is not a run.
        """
        run = cls(Path(folder))
        if run.folder.exists() and not run.folder.is_dir():
            raise RunError(f"output: '{folder}' is a file")
        names = sorted(path.name for path in run.folder.iterdir()) if run.folder.is_dir() else []
        found = [name for name in names if not RUBBISH.fullmatch(name)]
        if found:
            if not run.recipe_file.exists():
                raise RunError(f"output: the folder '{folder}' is not empty and is no run. Choose another")
            foreign = [name for name in found if name not in CONTENTS and not re.fullmatch(r"\..*\.(tmp|old)", name)]
            if foreign:
                # Someone's own folder with a recipe in it: its data must not go with `overwrite`.
                raise RunError(
                    f"output: the folder '{folder}' holds '{foreign[0]}', which is no part of a run. Choose another"
                )
            if found == ["recipe.yaml"] and not run.cache_folder.is_dir():
                # Nothing but a recipe: more likely someone's own than what a run left. One that a kill cut off there left
                # its cache beside the folder too; who is refused here makes none.
                raise RunError(f"output: the folder '{folder}' holds a recipe of yours, it seems. Choose another")
            if not overwrite and run.started:
                raise RunError(
                    f"output: there is a run in '{folder}' already. Continue it with --resume, replace it with "
                    "--overwrite, or choose another folder with -o"
                )
        return run

    @classmethod
    def create(cls, folder: str | Path, *, overwrite: bool = False, recipe: str | None = None) -> Run:
        """A run folder with a recipe, or an empty one; what `vacant` allows to be replaced is gone.

        What is replaced is moved aside first, and goes once the new recipe is written: stopped before, it is put back, by
        this call where that fails and by `tidy` where it was killed.

        Args:
            folder: where.
            overwrite: whether a run that was started there may be replaced.
            recipe: the new run's `recipe.yaml`; None writes none.

        Raises:
            RunError: as `vacant`, or the folder cannot be made.
        """
        if (Path(folder) / REPLACED).is_dir():
            cls(Path(folder)).tidy()
        run = cls.vacant(folder, overwrite=overwrite)
        try:
            if run.folder.is_dir():
                run._move_aside()
            run.folder.mkdir(parents=True, exist_ok=True)
            if recipe is not None:
                write_text(run.recipe_file, recipe)
            sync(run.folder.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                run._put_back()
            raise RunError(f"output: the folder '{folder}' cannot be made: {error.strerror}") from None
        if run.replaced_folder.is_dir():
            remove_folder(run.replaced_folder)
        return run

    def _move_aside(self) -> None:
        # Within the folder, which may be what a link points to or a disk of its own.
        aside = self.replaced_folder
        paths = sorted(self.folder.iterdir())
        aside.mkdir()
        for path in paths:
            os.replace(path, aside / path.name)
        sync(aside)
        sync(self.folder)

    def _put_back(self) -> None:
        aside = self.replaced_folder
        if aside.is_dir():
            for path in sorted(aside.iterdir()):
                os.replace(path, self.folder / path.name)
            aside.rmdir()
            sync(self.folder)

    def tidy(self) -> None:
        """Clears away what a kill left half done, and puts back what it left under a hidden name.

        Only the process that holds the run's lock may call it. A folder that is no run is left alone.
        """
        replaced = self.replaced_folder
        if replaced.is_dir():
            if self.recipe_file.is_file() and (replaced / "recipe.yaml").is_file():
                remove_folder(replaced)  # the new run had begun
            else:
                self._put_back()
        if not self.recipe_file.is_file():
            return
        for folder in (self.folder, self.checkpoint_folder, self.predictions_file("-").parent):
            for path in list(folder.iterdir()) if folder.is_dir() else []:
                old = re.fullmatch(r"\.(.+)\.old", path.name)
                if not RUBBISH.fullmatch(path.name) or (old and recover_folder(folder / old[1])):
                    continue
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def refuse_newer(self) -> None:
        """Raises a RunError where a later version wrote the folder: nobody here knows what it holds."""
        try:
            data = json.loads(self.metrics_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # whoever needs it says so
        found = data.get("format_version") if isinstance(data, dict) else None
        if type(found) is int and found > RUN_VERSION:
            versions = data.get("versions")
            writer = versions.get("equipoise") if isinstance(versions, dict) else None
            raise RunError(
                f"{self.metrics_file} has format version {found}; this Equipoise reads {RUN_VERSION}. Install a newer "
                f"Equipoise{'' if writer is None else f': {writer} wrote it'}"
            )

    @property
    def started(self) -> bool:
        """Whether anything was trained here that would be lost."""
        return bool(self.checkpoints() or self.model_folder.exists() or self.history_file.exists())

    def checkpoints(self) -> list[Path]:
        """The checkpoints that are complete, oldest first. Whether their bytes are still right is for others to find."""
        found = []
        for path in self.checkpoint_folder.glob("checkpoint-*"):
            match = re.fullmatch(r"checkpoint-(\d+)", path.name)
            if match and path.is_dir():
                found.append((int(match.group(1)), path))
        return [path for _, path in sorted(found)]

    def truncate_history(self, step: int, then: dict[str, Any] | None = None) -> int:
        """Drops lines after a step, so that a resumed run writes none twice; says how many are left. `then`: a line to add.

        Lines that a lost power supply left damaged go with them, if no line up to the step stands behind.
        """
        lines, kept, damaged = self._lines(), [], 0
        for number, line in enumerate(lines, 1):
            if line is None:
                damaged = damaged or number
            elif line.get("step", 0) <= step:
                if damaged:
                    raise self._damaged_line(damaged)
                kept.append(line)
        kept += [then] if then else []
        if self.history_file.exists() or then:
            write_text(self.history_file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        return len(kept)

    def append_history(self, line: dict[str, Any]) -> None:
        """Adds one line, at once and whole, so that others can watch; where the disk refuses it, nothing of it."""
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        with self.history_file.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def sync_history(self) -> None:
        """Has the disk keep the history so far: after a loss of power it reaches at least as far as the checkpoint."""
        if self.history_file.exists():
            sync(self.history_file)
            sync(self.folder)

    def _lines(self) -> list[dict[str, Any] | None]:
        """The whole lines; None for one that holds no mapping. One that a kill cut off is left out."""
        try:
            data = self.history_file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self.history_file} cannot be read: {error.strerror}") from None
        # A whole line ends with a line feed; what stands behind the last one is cut off. Only line feeds count: a text
        # may hold any of Unicode's other line ends.
        lines: list[dict[str, Any] | None] = []
        for line in data.split(b"\n")[:-1]:
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            lines.append(values if isinstance(values, dict) else None)
        return lines

    def _damaged_line(self, number: int) -> RunError:
        return RunError(f"{self.history_file}:{number} is damaged. Take the line away to go on without it")

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path} is missing") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
