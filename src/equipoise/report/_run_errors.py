"""Where it is wrong: the largest errors of each task, with their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.report._html import Html, details, paragraph, section, text
from equipoise.report._numbers import decimals, number, signed
from equipoise.report._run_arrays import class_indices, memberships, probabilities
from equipoise.report._run_facts import RunFacts, TaskFacts

__all__ = ["errors_section", "largest_errors", "worst_positions"]

#: Rows of each task whose texts are kept, and those that stand open on the page; the others unfold.
KEPT, OPENED = 10, 6
#: Of so many tasks, the errors stand open.
TASKS_OPENED = 4
TINY = 1e-12


def worst_positions(facts: RunFacts) -> list[int]:
    """Positions, in the predictions of the judged split, of all rows that the page shows."""
    found: set[int] = set()
    for task in facts.tasks:
        rows = facts.rows(task, facts.judged)
        if rows is not None and len(rows):
            found |= {int(rows["position"].iloc[at]) for at, _ in largest_errors(task, rows)}
    return sorted(found)


def largest_errors(task: TaskFacts, rows: pd.DataFrame, most: int = KEPT) -> list[tuple[int, str]]:
    """The rows that a task gets most wrong, and how, in words.

    A score's error is |predicted - true|. Of exclusive classes a wrong row counts the more, the less probable the truth
    was held; of ordered ones, the more ranks it is off, and then likewise. Of classes that don't exclude each other, it is
    the mean over the classes of the negative logarithm of what was held of the truth; rows that are right in every class
    don't count.

    Args:
        task: the task.
        rows: as `RunFacts.rows` gives them.
        most: how many.

    Returns:
        (position in `rows`, words), the largest first.
    """
    if task.classes is None:
        return _of_scores(rows, most)
    if task.kind == "multilabel":
        return _of_sets(task, rows, most)
    true, predicted = class_indices(task, rows)
    held = probabilities(task, rows)
    every = np.arange(len(rows))
    truth, chosen = held[every, true], held[every, predicted]
    off = np.abs(predicted - true) if task.kind == "ordinal" else (predicted != true).astype(np.int64)
    order = [at for at in np.lexsort((truth, -off)).tolist() if off[at]][:most]
    names = task.classes
    return [
        (
            at,
            f"true {names[true[at]]}, predicted {names[predicted[at]]} ({_percent(chosen[at])}"
            + f"; the truth had {_percent(truth[at])})"
            + (f", {off[at]} ranks off" if task.kind == "ordinal" and off[at] > 1 else ""),
        )
        for at in order
    ]


def _of_scores(rows: pd.DataFrame, most: int) -> list[tuple[int, str]]:
    true, predicted = rows["true"].to_numpy(), rows["predicted"].to_numpy()
    error = np.abs(predicted - true)
    places = min(decimals([float(np.abs(true).max(initial=0))]), 3)
    order = [at for at in np.argsort(-error, kind="stable").tolist() if error[at] > 0][:most]
    return [
        (
            at,
            f"true {number(true[at], places)}, predicted {number(predicted[at], places)}, off by "
            f"{signed(predicted[at] - true[at], places)}",
        )
        for at in order
    ]


def _of_sets(task: TaskFacts, rows: pd.DataFrame, most: int) -> list[tuple[int, str]]:
    true, predicted = memberships(task, rows)
    held = probabilities(task, rows)
    loss = -np.log(np.maximum(np.where(true, held, 1 - held), TINY)).mean(axis=1)
    wrong = (true != predicted).any(axis=1)
    order = [at for at in np.argsort(-loss, kind="stable").tolist() if wrong[at]][:most]
    return [(at, _sets(task, true[at], predicted[at])) for at in order]


def _sets(task: TaskFacts, true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> str:
    def named(which: NDArray[np.bool_]) -> str:
        return ", ".join(task.classes[k] for k in np.flatnonzero(which)) if which.any() and task.classes else "none"

    return f"true {named(true)}; predicted {named(predicted)}"


def errors_section(facts: RunFacts) -> Html:
    """The section."""
    title, name = "Where is it wrong?", "errors"
    lead = f"The largest errors on the {facts.judged} split. Read them before anything else is tuned: many a confident "
    lead += "mistake is a wrong label."
    parts: list[Html] = []
    if facts.texts is None:
        parts.append(
            paragraph(
                "The run keeps no texts of these rows (it was made before they were kept, or predictions/worst.jsonl has been "
                "removed), so they are named by file and line."
            )
        )
    for position, task in enumerate(facts.tasks):
        rows = facts.rows(task, facts.judged)
        if rows is None or not len(rows):
            continue
        found = largest_errors(task, rows)
        if not found:
            parts.append(paragraph(f"{task.name}: none of {len(rows):,} rows is wrong."))
            continue
        wrong = _how_many(task, rows)
        items = [_item(facts, rows.iloc[at], words) for at, words in found]
        inside = [Html(f'<ul class="errors">{"".join(items[:OPENED])}</ul>')]
        if items[OPENED:]:
            more = f'<ul class="errors">{"".join(items[OPENED:])}</ul>'
            inside.append(details(f"{len(items) - OPENED} more", Html(more)))
        head = f'<b>{text(task.name)}</b> <span class="note">{text(wrong)}</span>'
        opened = " open" if position < TASKS_OPENED else ""
        parts.append(Html(f'<details class="task"{opened}><summary>{head}</summary>{"".join(inside)}</details>'))
    if not parts or (facts.texts is None and len(parts) == 1):
        parts = [paragraph(f"The predictions of the {facts.judged} split are not in the run folder.")]
    return section(name, title, lead, *parts)


def _how_many(task: TaskFacts, rows: pd.DataFrame) -> str:
    if task.classes is None:
        error = np.abs(rows["predicted"] - rows["true"])
        places = decimals([float(error.max())])
        return f"{number(float(error.mean()), places)} off on average, {number(float(error.max()), places)} at most"
    if task.kind == "multilabel":
        true, predicted = memberships(task, rows)
        return f"{int((true != predicted).any(axis=1).sum()):,} of {len(rows):,} rows are wrong in some class"
    true_classes, said = class_indices(task, rows)
    return f"{int((true_classes != said).sum()):,} of {len(rows):,} rows are wrong"


def _item(facts: RunFacts, row: Any, words: str) -> Html:
    file, line = str(row["file"]), int(row["line"])
    kept = (facts.texts or {}).get((facts.judged, file, int(row["row"])))
    said = _passages(kept["text"], kept["characters"]) if kept else ""
    if not kept and facts.texts is not None:
        said = '<p class="note">Its text was not kept.</p>'
    where = f"{file.rpartition('/')[2]}:{line}"
    return Html(f'<li>{said}<p class="note">{text(words)} · <span title="{text(file)}">{text(where)}</span></p></li>')


def _passages(passages: Sequence[str], characters: Sequence[int]) -> str:
    found = []
    for passage, whole in zip(passages, characters, strict=True):
        cut = f' <span class="note">… ({whole:,} characters)</span>' if whole > len(passage) else ""
        found.append(f'<p class="text" dir="auto">{text(passage)}{cut}</p>')
    return "".join(found)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "below 1 %"
