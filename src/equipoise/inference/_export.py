"""A trained run for tools that know nothing of us."""

from __future__ import annotations

from pathlib import Path

from equipoise.errors import RunError
from equipoise.models import cut_task, load_model
from equipoise.runs import Run, replace_folder

__all__ = ["export_task"]


def export_task(run: Run | str | Path, task: str, output: str | Path) -> None:
    """Writes one task as a stock `AutoModelForSequenceClassification` folder, whole or not at all.

    Raises:
        RunError: no such run or task, the output exists, or the model has no stock form.
    """
    source = run if isinstance(run, Run) else Run.open(run)
    final = Path(output)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise RunError(f"{output} exists and is not empty. Choose another folder")
    temporary = final.with_name(f".{final.name}.tmp")
    cut_task(load_model(source.model_folder), task, temporary)
    replace_folder(temporary, final)
