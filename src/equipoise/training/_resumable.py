"""Which checkpoint a training goes on from: the latest that is whole. Damaged ones are named and set aside."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from equipoise.errors import RunError
from equipoise.runs import Run, sync
from equipoise.training._manifest import condition_of

__all__ = ["Found", "find_resumable", "latest_whole", "resumable_or_start"]


@dataclass
class Found:
    """The outcome of a search.

    Attributes:
        checkpoint: the latest whole one that a training can go on from, or None.
        notes: one line for each damaged one that was met before it.
        weights_only: how many whole ones hold weights only.
        finished: the run was killed when its metrics were written, over its pages.
    """

    checkpoint: Path | None = None
    notes: list[str] = field(default_factory=list)
    weights_only: int = 0
    finished: bool = False


def latest_whole(run: Run) -> Path | None:
    """The latest checkpoint that a training can go on from, every byte of it verified; None where there is none.

    Damaged ones that are met on the way are set aside. In one process only: of several, the main one.

    Raises:
        RunError: a newer version wrote it, somebody else's file lies in it, or it cannot be read.
    """
    return find_resumable(run).checkpoint


def find_resumable(run: Run) -> Found:
    """As `latest_whole`, and tells what it met."""
    found = Found()
    for path in reversed(run.checkpoints()):
        condition = condition_of(path)
        if condition.fault is not None:
            aside = _set_aside(path)
            found.notes.append(f"{path.name} is damaged ({condition.fault}); set aside as {aside.name}")
        elif condition.resumable:
            found.checkpoint = path
            return found
        else:
            found.weights_only += 1
    return found


def resumable_or_start(run: Run) -> Found:
    """What a stopped run goes on from; without a checkpoint, a run that never had one begins at its start.

    Raises:
        RunError: there are checkpoints, and none can be continued; or as `latest_whole`.
    """
    found = find_resumable(run)
    if found.checkpoint is not None:
        return found
    aside = sorted(path.name for path in run.checkpoint_folder.glob("checkpoint-*.damaged*"))
    again = f"Train it anew: equipoise train {run.recipe_file} --overwrite"
    if found.notes or aside:
        told = "; ".join(found.notes) or f"{', '.join(aside)} were set aside before"
        raise RunError(f"no checkpoint in '{run.folder}' is whole, so the run cannot go on: {told}. {again}")
    if found.weights_only:
        raise RunError(f"the checkpoints in '{run.folder}' hold weights only, so the run cannot go on. {again}")
    return found


def _set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint, so that nobody loads it and nothing of it is lost."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    os.replace(path, aside)
    sync(path.parent)
    return aside
