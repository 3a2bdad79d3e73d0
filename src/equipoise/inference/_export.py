"""A trained run for tools that know nothing of us."""

from __future__ import annotations

import shutil
from pathlib import Path

from equipoise.errors import RunError
from equipoise.models import cut_task, load_model
from equipoise.runs import Run, replace_folder

__all__ = ["export_task", "export_tasks", "vacant"]


def export_task(run: Run | str | Path, task: str, output: str | Path, *, trust_remote_code: bool = False) -> None:
    """Writes one task as a stock `AutoModelForSequenceClassification` folder, whole or not at all.

    Args:
        run: a run or its folder.
        task: of its tasks.
        output: the folder to write.
        trust_remote_code: run the code that the model brings along; see `load`.

    Raises:
        RunError: no such run or task, the output exists, or the model has no stock form.
    """
    source = run if isinstance(run, Run) else Run.open(run)
    final = vacant(output)
    temporary = final.with_name(f".{final.name}.tmp")
    cut_task(load_model(source.model_folder, trusted=trust_remote_code), task, temporary)
    replace_folder(temporary, final)


def export_tasks(run: Run | str | Path, output: str | Path, *, trust_remote_code: bool = False) -> list[Path]:
    """Writes every task as a stock folder of its own, `output/<task>`, all or none.

    Returns:
        The folders.

    Raises:
        RunError: as `export_task`, or a task's name cannot be a folder's.
    """
    source = run if isinstance(run, Run) else Run.open(run)
    final = vacant(output)
    loaded = load_model(source.model_folder, trusted=trust_remote_code)
    names = list(loaded.sidecar.tasks)
    odd = [name for name in names if name in ("", ".", "..") or set(name) & set("/\\\0")]
    if odd:
        raise RunError(f"task '{odd[0]}' cannot be the name of a folder. Export it alone: --task '{odd[0]}'")
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in names:
            cut_task(loaded, name, temporary / name)
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [final / name for name in names]


def vacant(output: str | Path) -> Path:
    """The folder to write, if nothing stands there."""
    final = Path(output)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise RunError(f"{output} exists and is not empty. Choose another folder")
    return final
