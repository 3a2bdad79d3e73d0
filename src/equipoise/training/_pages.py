"""What people are shown when a training is over. Nothing here may lose a run that is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from equipoise.report import worst_rows, write_card, write_report
from equipoise.runs import Run, write_text
from equipoise.training._plan import Plan

__all__ = ["keep_worst_texts", "wind_up", "write_pages"]

#: Of a text that is kept for the report; its length is kept beside it.
CHARACTERS = 1000


def keep_worst_texts(plan: Plan, run: Run) -> None:
    """Writes `predictions/worst.jsonl`: the texts of the rows with the largest errors, while the rows are still at hand.

    The source may move or change later, and a run shall tell its story alone.
    """
    name, positions = worst_rows(run)
    split: Any = plan.tokens[name].split
    texts = split.text_list(positions)
    pairs = split.pair_list(positions)
    lines = []
    for at, position in enumerate(positions):
        passages = [texts[at]] if pairs is None else [texts[at], pairs[at]]
        line = {
            "split": name,
            "file": split.files[int(split.file_ids[position])],
            "line": int(split.lines[position]),
            "row": int(split.row_ids[position]),
            "text": [passage[:CHARACTERS] for passage in passages],
            "characters": [len(passage) for passage in passages],
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(run.worst_file, "".join(lines))


def write_pages(plan: Plan, run: Run) -> list[str]:
    """Writes the report and the model card of a run whose `metrics.json` is written.

    Returns:
        Warnings, where one of them failed: the run is whole without it, and the page can be made later.
    """

    def report() -> None:
        keep_worst_texts(plan, run)
        write_report(run)

    return [
        *_tried("report.html", report, f"equipoise report {run.folder}"),
        *_tried("README.md", lambda: write_card(run), f'equipoise.write_card("{run.folder}")'),
    ]


def wind_up(plan: Plan, run: Run) -> list[str]:
    """Writes the pages of a run whose `metrics.json` is written, and clears up; gives warnings.

    The cache goes last: beside a run that has metrics it says that a kill cut this off.
    """
    warnings = write_pages(plan, run)
    if not plan.recipe.training.keep_checkpoints:
        shutil.rmtree(run.checkpoint_folder, ignore_errors=True)
    shutil.rmtree(run.cache_folder, ignore_errors=True)
    return warnings


def _tried(name: str, write: Callable[[], object], again: str) -> list[str]:
    try:
        write()
    # Whatever it is, a bug of ours too: hours of training must not end in a traceback over a picture. The command that
    # is named shows the same error, with --debug its traceback.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [f"{name} was not written ({reason}). The run is whole; try again: {again}"]
    return []
