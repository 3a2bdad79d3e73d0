"""The unit of work over many files, in every engine: one file in, one file out, and a record of it.

Both engines call `score_file` with the same job, so a file is cut into the same blocks of rows and the same batches
wherever it is scored: with as many threads, on the same kind of machine, the results are equal to the bit.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import DataError, EquipoiseError
from equipoise.inference._files import predict_file
from equipoise.inference._predictor import Model, load

__all__ = ["ModelHolder", "checksum", "model_identity", "score_file"]


class ModelHolder:
    """Loads a model when it is first asked for, and keeps it.

    Args:
        folder: a run's `model` folder, or an ONNX export.
        options: of `load`, all of them plain data. `threads` are those of this process, too; None leaves them.
    """

    def __init__(self, folder: str, options: Mapping[str, Any]) -> None:
        self._folder, self._options = folder, dict(options)
        self._model: Model | None = None

    def __call__(self) -> Model:
        """The model.

        Raises:
            RunError: it cannot be loaded.
        """
        if self._model is None:
            if self._options["threads"] is not None:
                import torch

                torch.set_num_threads(self._options["threads"])
            self._model = load(self._folder, **self._options)
        return self._model


def score_file(model: Callable[[], Model], job: Mapping[str, Any]) -> dict[str, Any]:
    """Scores one file.

    Args:
        model: gives the model.
        job: `input` and `path` (shown and absolute), `output` (its name) and `target` (absolute), `made_with` (what the
            result depends on beside the file: `batch_rows`, and `raw_cells` where they are wanted) and `ours` (an output
            that stands there is of an earlier run, and is not to be kept if this one fails).

    Returns:
        The record: `output`, `input`, `status` (`scored` or `failed`), `seconds`, and `bytes`, `sha256` (of the
        input), `rows`, `bad` (rows not predicted), `output_bytes`, `precision`, `made_with`; or `reason`.
    """
    started = time.perf_counter()
    record: dict[str, Any] = {"output": job["output"], "input": job["input"]}
    source, target = Path(job["path"]), Path(job["target"])
    loaded = model()  # a model that cannot be loaded is no fault of the file's
    try:
        if source.exists() and not source.is_file():
            raise DataError(f"{source} is no regular file")
        before = _stamp(source)
        size, digest = checksum(source)
        settings = {"batch_rows": job["made_with"]["batch_rows"], "raw_cells": job["made_with"].get("raw_cells", False)}
        counts = predict_file(loaded, source, target, **settings)
        if _stamp(source) != before:
            target.unlink()
            raise DataError(f"{source} changed while it was read. Run the command again")
        record |= {"status": "scored", "rows": counts.rows, "bad": counts.bad, "bytes": size, "sha256": digest}
        record |= {"output_bytes": target.stat().st_size, "precision": loaded.precision}
        record |= {"made_with": dict(job["made_with"])}
    except (EquipoiseError, OSError) as error:
        if job["ours"]:
            target.unlink(missing_ok=True)
        told = f"{error.filename or source}: {error.strerror}" if isinstance(error, OSError) else str(error)
        told = " ".join(told.split()).replace(str(source), job["input"])
        record |= {"status": "failed", "reason": told}
    return record | {"seconds": round(time.perf_counter() - started, 3)}


def checksum(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def model_identity(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder: another one means other predictions."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size, digest = checksum(path)
        whole.update(f"{path.relative_to(folder).as_posix()}\0{size}\0{digest}\n".encode())
    return whole.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
