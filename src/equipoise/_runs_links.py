"""Links in a run folder. One that leads out would put a file of somebody else's into the report, the card or a push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from equipoise.errors import RunError

__all__ = ["plain_split", "refuse_links"]

#: What people put on another disk, and what only training writes and reads.
ELSEWHERE = {"checkpoints", "tensorboard"}


def refuse_links(folder: Path) -> None:
    """Looks at a run's own files; whoever loads its model looks into that.

    Raises:
        RunError: one is a link that leads out of the folder. The folder itself may be reached by one.
    """
    home = folder.resolve()
    for path in _entries(folder):
        if path.is_symlink():
            try:
                inside = path.resolve().is_relative_to(home)
            except (OSError, RuntimeError):  # links in a circle
                inside = False
            if not inside:
                raise RunError(
                    f"{path} is a link that leads out of the run. Put the file itself there, or delete the link"
                )


def _entries(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.iterdir()) if path.name not in ELSEWHERE)
    predictions = folder / "predictions"
    if predictions.is_dir():
        yield from sorted(predictions.iterdir())


def plain_split(name: str) -> str:
    """A split's name, which becomes a file's.

    Raises:
        RunError: it could lead out of its folder. `metrics.json` of a run that came from elsewhere may say anything.
    """
    if set(name) & set("/\\:\0") or name in ("", ".", ".."):
        raise RunError(f"{name!a} is no name of a split: it would lead out of the run's folder")
    return name
