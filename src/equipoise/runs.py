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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import RunError

__all__ = ["Run", "atomic_path", "replace_folder", "write_json", "write_text"]

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


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; what is written there takes its place if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Writes a whole JSON file or nothing. NaN is refused: it is no JSON, and would hide a failure."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def replace_folder(temporary: Path, final: Path) -> None:
    """Puts a finished folder in its place; the one that stood there goes."""
    for path in temporary.rglob("*"):
        if path.is_file():
            _sync(path)
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        os.replace(temporary, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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

    def predictions_file(self, split: str) -> Path:
        """Row id, true, predicted, per-class probability."""
        return self.folder / "predictions" / f"{split}.parquet"

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
        try:
            data = self.history_file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self.history_file} cannot be read: {error.strerror}") from None
        # A whole line ends with a line feed; what stands behind the last one is cut off. Only line feeds count: a text
        # may hold any of Unicode's other line ends.
        whole = data.split(b"\n")[:-1]
        lines = []
        for number, line in enumerate(whole, 1):
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if not isinstance(values, dict):
                raise RunError(f"{self.history_file}:{number} is damaged") from None
            lines.append(values)
        return lines

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """A finished run.

        Raises:
            RunError: there is no such folder, or it holds no trained model (yet).
        """
        run = cls(Path(folder))
        if not run.folder.is_dir():
            raise RunError(f"there is no run folder '{folder}'")
        if not run.model_folder.is_dir():
            unfinished = run.recipe_file.exists()
            raise RunError(
                f"'{folder}' holds no trained model. "
                + (
                    f"Its training has not finished: equipoise train --resume {folder}"
                    if unfinished
                    else "Is it a run?"
                )
            )
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
        found = sorted(path.name for path in run.folder.iterdir()) if run.folder.is_dir() else []
        if found:
            if not run.recipe_file.exists():
                raise RunError(f"output: the folder '{folder}' is not empty and is no run. Choose another")
            foreign = [name for name in found if name not in CONTENTS and not re.fullmatch(r"\..*\.(tmp|old)", name)]
            if foreign:
                # Someone's own folder with a recipe in it: its data must not go with `overwrite`.
                raise RunError(
                    f"output: the folder '{folder}' holds '{foreign[0]}', which is no part of a run. Choose another"
                )
            if found == ["recipe.yaml"]:
                # Nothing but a recipe: more likely someone's own than what a run left.
                raise RunError(f"output: the folder '{folder}' holds a recipe of yours, it seems. Choose another")
            if not overwrite and run.started:
                raise RunError(
                    f"output: there is a run in '{folder}' already. Continue it with --resume, replace it with "
                    "--overwrite, or choose another folder with -o"
                )
        return run

    @classmethod
    def create(cls, folder: str | Path, *, overwrite: bool = False) -> Run:
        """An empty run folder; what `vacant` allows to be replaced is gone.

        Raises:
            RunError: as `vacant`, or the folder cannot be made.
        """
        run = cls.vacant(folder, overwrite=overwrite)
        try:
            if run.folder.is_dir():
                # What a link points to is emptied, and the link stays.
                shutil.rmtree(run.folder.resolve())
                run.folder.resolve().mkdir()
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"output: the folder '{folder}' cannot be made: {error.strerror}") from None
        return run

    @property
    def started(self) -> bool:
        """Whether anything was trained here that would be lost."""
        return bool(self.checkpoints() or self.model_folder.exists() or self.history_file.exists())

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        found = []
        for path in self.checkpoint_folder.glob("checkpoint-*"):
            match = re.fullmatch(r"checkpoint-(\d+)", path.name)
            if match and path.is_dir():
                found.append((int(match.group(1)), path))
        return [path for _, path in sorted(found)]

    def truncate_history(self, step: int) -> None:
        """Drops lines after a step, so that a resumed run writes none twice."""
        if self.history_file.exists():
            kept = [line for line in self.history if line.get("step", 0) <= step]
            write_text(self.history_file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def append_history(self, line: dict[str, Any]) -> None:
        """Adds one line and flushes it, so that others can watch."""
        with self.history_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path} is missing") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None
