"""Predictions for many files: one output for each, and a record that lets a run that was killed go on."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.errors import DataError
from equipoise.inference._manifest import Manifest, open_manifest
from equipoise.inference._ray import on_ray
from equipoise.inference._score import ModelHolder, checksum, model_identity, score_file
from equipoise.inference._sources import Source, find_sources
from equipoise.runs import Run
from equipoise.tasks._base import did_you_mean

__all__ = ["FileResult", "Scored", "predict_files"]

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Attributes:
        input: the file, as the pattern gave it.
        output: where its predictions are, or would be.
        status: `scored` now, `kept` of an earlier run, or `failed`.
        rows: in it.
        bad: rows that could not be predicted; their reasons are in the output's column `error`.
        reason: why it failed.
        redone: why the result of an earlier run was not kept.
    """

    input: str
    output: Path
    status: str
    rows: int = 0
    bad: int = 0
    reason: str | None = None
    redone: str | None = None


@dataclass(frozen=True)
class Scored:
    """What became of all files, in the order of the inputs."""

    folder: Path
    files: tuple[FileResult, ...]

    @property
    def rows(self) -> int:
        """Rows of all files that are scored, now or before."""
        return sum(file.rows for file in self.files)

    @property
    def bad(self) -> int:
        """How many of them could not be predicted."""
        return sum(file.bad for file in self.files)

    def having(self, status: str) -> tuple[FileResult, ...]:
        """The files of one status."""
        return tuple(file for file in self.files if file.status == status)


def predict_files(
    run: Run | str | Path,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    format: str | None = None,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    batch_rows: int = 4096,
    raw_cells: bool = False,
    progress: Callable[[FileResult, int, int], None] | None = None,
) -> Scored:
    """Predicts every row of many tables and writes a table for each, with the same name.

    The same call goes on where an earlier one stopped: a file is kept when its output stands there as it was left and
    size and checksum of the input, the model, `precision`, `batch_rows` and `raw_cells` are what its record in
    `_manifest.jsonl` says. A file that cannot be read stops no other one.

    Args:
        run: a run, its folder, its `model` folder, or an ONNX export.
        inputs: files and patterns with `*`, `?`, `[...]` and `**`.
        output: a folder, not among the inputs.
        format: of the outputs: csv, tsv, jsonl or parquet; None: each as its input.
        engine: `local` scores one file after the other in this process, `ray` several at a time on Ray Data, on the
            cluster of `RAY_ADDRESS` or on one of this machine. A file is scored by one worker.
        workers: files at a time on Ray; None: as many as there are processors, and graphics processors if there are
            any, for.
        threads: processor threads of one worker; None: 1 on Ray, torch's own number here.
        device: as of `load`.
        precision: as of `load`. Where machines of several kinds work together, name one: `auto` is each machine's own.
        batch_rows: rows of a file in memory at once.
        raw_cells: as for `predict_file`.
        progress: is told of each file when it is done, how many are done, and of how many.

    Raises:
        DataError: no file fits, names collide, the output is among the inputs, or an option is unknown.
        RunError: the run cannot be loaded, or the output folder cannot be used.
        RecipeError: Ray is not installed, or has not the processors asked for.

    Example:
        >>> import equipoise as eq
        >>> eq.predict_files("runs/reviews", "in/*.parquet", "out", engine="ray")  # doctest: +SKIP
    """
    if engine not in ENGINES:
        raise DataError(f"no engine '{engine}'.{did_you_mean(engine, ENGINES)} Available: {', '.join(ENGINES)}")
    if engine == "local" and workers not in (None, 1):
        raise DataError(f"workers={workers} goes with the engine ray; local scores one file after the other")
    for option, value in (("workers", workers), ("threads", threads), ("batch_rows", batch_rows)):
        if value is not None and value < 1:
            raise DataError(f"{option} must be 1 or more, found {value}")
    folder = Path(output)
    sources = find_sources([inputs] if isinstance(inputs, str | Path) else inputs, folder, format)
    model = _model_folder(run)
    made_with = {
        "model": model_identity(model),
        "precision": precision,
        "batch_rows": batch_rows,
        "raw_cells": raw_cells,
    }
    results: dict[str, FileResult] = {}

    def done(result: FileResult, name: str) -> None:
        results[name] = result
        if progress is not None:
            progress(result, len(results), len(sources))

    with open_manifest(folder) as manifest:
        redone = _outdated(sources, manifest, folder, made_with)
        for source in sources:
            if redone.get(source.name, "") is None:
                record = manifest.records[source.name]
                done(FileResult(source.shown, folder / source.name, "kept", record["rows"], record["bad"]), source.name)
        jobs = [_job(source, folder, manifest, made_with) for source in sources if source.name not in results]
        _sweep(folder, jobs)
        options = {"device": device, "precision": precision, "threads": threads}
        place = str(model.resolve())
        records = on_ray(jobs, place, options, workers=workers) if engine == "ray" else _in_turn(jobs, place, options)
        with contextlib.closing(records):
            for record in records:
                manifest.add(record)
                name = record["output"]
                done(_result(record, folder / name, redone.get(name)), name)
    return Scored(folder, tuple(results[source.name] for source in sources))


def _in_turn(
    jobs: Iterable[Mapping[str, Any]], folder: str, options: Mapping[str, Any]
) -> Generator[dict[str, Any], None, None]:
    import torch

    before = torch.get_num_threads()
    model = ModelHolder(folder, options)
    try:
        for job in jobs:
            yield score_file(model, job)
    finally:
        torch.set_num_threads(before)


def _model_folder(run: Run | str | Path) -> Path:
    folder = run.folder if isinstance(run, Run) else Path(run)
    return folder if (folder / "multitask.json").is_file() else Run.open(folder).model_folder


def _job(source: Source, folder: Path, manifest: Manifest, made_with: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input": source.shown,
        "path": str(source.path),
        "output": source.name,
        "target": os.path.abspath(folder / source.name),
        "made_with": dict(made_with),
        "ours": source.name in manifest.records,
    }


def _result(record: Mapping[str, Any], output: Path, redone: str | None) -> FileResult:
    rows, bad = record.get("rows", 0), record.get("bad", 0)
    return FileResult(record["input"], output, record["status"], rows, bad, record.get("reason"), redone)


def _outdated(
    sources: Iterable[Source], manifest: Manifest, folder: Path, made_with: Mapping[str, Any]
) -> dict[str, str | None]:
    """Of each file that was scored before: why it must be once more, or None. Reads inputs, several at a time."""

    def why(source: Source) -> str | None:
        record = manifest.records[source.name]
        output = folder / source.name
        if not output.is_file():
            return "its output is gone"
        if output.stat().st_size != record.get("output_bytes"):
            return "its output was changed"
        before = record.get("made_with", {})
        if before.get("model") != made_with["model"]:
            return "the model is another one"
        if before != made_with:
            return "it was made with other settings"
        try:
            same = source.path.stat().st_size == record.get("bytes") and checksum(source.path)[1] == record["sha256"]
        except OSError:
            return "the input cannot be read now"
        return None if same else "the input is another one"

    scored = [one for one in sources if manifest.records.get(one.name, {}).get("status") == "scored"]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip([one.name for one in scored], pool.map(why, scored), strict=True))


def _sweep(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Removes what a killed run left half-written, under its temporary name, of the files that are scored now."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        target = folder / job["output"]
        names.setdefault(target.parent, set()).add(target.name)
    for parent, mine in names.items():
        for path in parent.iterdir() if parent.is_dir() else ():
            match = re.fullmatch(r"\.(.+)\.(\d+\.tmp|tries)", path.name)
            if match and match[1] in mine:
                path.unlink(missing_ok=True)
