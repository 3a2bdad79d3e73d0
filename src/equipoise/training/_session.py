"""One process's time with a run folder: held against others, taken over from what stood or stopped there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from equipoise import recipe as recipes
from equipoise.errors import RunError
from equipoise.runs import Run, atomic_path
from equipoise.terminal import Console
from equipoise.training._faults import disk_faults
from equipoise.training._lock import locked
from equipoise.training._plan import Plan
from equipoise.training._ranks import processes
from equipoise.training._resumable import Found, resumable_or_start

__all__ = ["begin", "keep_rejected", "note", "take_up", "vacate", "writing"]


@contextlib.contextmanager
def writing(run: Run) -> Iterator[None]:
    """Holds the folder against other processes, and makes one error of what its disk does."""
    with disk_faults(run), locked(run) if processes().is_main_process else contextlib.nullcontext():
        yield


def vacate(run: Run, overwrite: bool) -> None:
    """Clears up after a kill, and checks that a new run may go there; see `Run.vacant`."""
    run.tidy()
    Run.vacant(run.folder, overwrite=overwrite)


def begin(run: Run, plan: Plan, overwrite: bool) -> None:
    """Makes the folder of a new run."""
    Run.create(run.folder, overwrite=overwrite, recipe=recipes.dump(plan.recipe))
    keep_rejected(run, plan)


def keep_rejected(run: Run, plan: Plan) -> None:
    """Writes `rejected.jsonl`."""
    with atomic_path(run.rejected_file) as temporary:
        shutil.copyfile(plan.rejected_file, temporary)


def take_up(run: Run) -> Found:
    """Clears up after a kill, and finds what the run goes on from; or that it was killed over its pages.

    Raises:
        RunError: it is finished, a newer version wrote it, or none of its checkpoints is whole.
    """
    run.tidy()
    run.refuse_newer()
    if run.metrics_file.exists() and run.cache_folder.is_dir():
        return Found(finished=True)
    if run.metrics_file.exists():
        raise RunError(
            f"the run in '{run.folder}' is finished. Train a new one, or replace it: equipoise train RECIPE --overwrite"
        )
    return resumable_or_start(run)


def note(run: Run, step: int, notes: Sequence[str], console: Console | None = None) -> None:
    """Leaves notes in the history, where the report finds them, and says them."""
    for text in notes:
        line = {"step": step, "note": text}
        if line not in run.history:  # this end of a run may be reached again
            run.append_history(line)
        if console is not None:
            console.print(f"warning: {text}", highlight=False, markup=False)
