"""Did it work: every task beside both baselines, and pictures of what it gets right and wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.report._figures import Figure, View, axis, layout, readable, rounded
from equipoise.report._html import Gallery, Html, details, paragraph, section, table, text
from equipoise.report._numbers import MISSING, decimals, number
from equipoise.report._run_arrays import class_indices, memberships, probabilities
from equipoise.report._run_classes import (
    class_figure,
    confusion_figure,
    distance_figure,
    hits_figure,
    reliability_figure,
)
from equipoise.report._run_data import LEGEND
from equipoise.report._run_facts import RunFacts, TaskFacts
from equipoise.report._run_scores import error_figure, region_figure, scatter_figure
from equipoise.report._run_verdict import BASELINES, Standing, named
from equipoise.report._series import shortened

__all__ = ["results_section"]

#: So many tasks stand open; further ones unfold.
OPENED = 4
#: Up to so many classes, a confusion matrix has room beside two other pictures.
FEW_CLASSES = 4
#: Rows of all tables of classes together, and of one of them.
TABLE_ROWS, TABLE_EACH = 500, 100
MARKS = {"better": "▲", "worse": "▼", "same": "•"}
SPOKEN = {"better": "better than this", "worse": "worse than this", "same": "not told apart from this"}


def results_section(facts: RunFacts, standings: Sequence[Standing], gallery: Gallery) -> Html:
    """The section, one part a task."""
    split = facts.judged
    lead = (
        f"Judged on the {split} split. ▲ the model is better than this baseline, ▼ worse, • not told apart from it, by "
    )
    lead += "the rule of the verdict."
    if split == "train":
        lead += " These are the rows that it was trained on: the figures say what it has learned by heart, not what it knows."
    parts: list[Html] = []
    if overview := _overview(standings):
        parts.append(gallery.views([View("", [overview])]))
    room = TABLE_ROWS
    for position, one in enumerate(standings):
        inside, used = _task(facts, one, gallery, min(room, TABLE_EACH))
        room -= used
        parts.append(_unfolding(one, inside, opened=position < OPENED))
    missing = [task.name for task in facts.tasks if task.name not in {one.task.name for one in standings}]
    if missing:
        parts.append(
            paragraph(f"No {split} row carries a label of {', '.join(missing)}, so nothing can be said of it.")
        )
    return section("results", "Did it work?", lead, *parts)


def _unfolding(one: Standing, inside: Sequence[Html], *, opened: bool) -> Html:
    """A task's part, with its main figure in the line that unfolds it."""
    value = (
        f"{named(one.task.main, one.task.kind)} {number(one.value, one.places)}"
        if one.value is not None
        else "no value"
    )
    head = f'<b>{text(one.task.name)}</b> <span class="note">{text(one.task.kind)}, {text(value)}, {one.rows:,} rows</span>'
    return Html(
        f'<details class="task"{" open" if opened else ""}><summary>{head}</summary>{"".join(inside)}</details>'
    )


def _overview(standings: Sequence[Standing]) -> Figure | None:
    """All tasks on one scale: 0 is the constant, 100 % is a model without fault."""
    known = [one for one in standings if one.skill(one.value) is not None]
    if not known:
        return None
    labels = [f"{readable(shortened(one.task.name, 18))} " for one in known]
    data: list[dict[str, Any]] = []
    ours = [one.skill(one.value) for one in known]
    ends = [sorted(one.skill(end) or 0.0 for end in one.interval) if one.interval else None for one in known]
    rivals = [one.skill(one.baselines.get("tfidf")) for one in known]
    hover = [
        f"<b>{readable(one.task.name)}</b><br>{named(one.task.main, one.task.kind)} {number(one.value, 4)}"
        + "".join(f"<br>{BASELINES[key][0]} {number(value, 4)}" for key, value in one.baselines.items())
        for one in known
    ]
    common = {"type": "scatter", "mode": "markers", "y": labels, "hovertext": hover, "hoverinfo": "text"}
    data.append(
        {
            **common,
            "name": "this model",
            "x": rounded((100 * value for value in ours if value is not None), 4),
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": rounded(
                    max(0.0, 100 * (span[1] - value)) if span and value is not None else 0.0
                    for value, span in zip(ours, ends, strict=True)
                ),
                "arrayminus": rounded(
                    max(0.0, 100 * (value - span[0])) if span and value is not None else 0.0
                    for value, span in zip(ours, ends, strict=True)
                ),
                "color": "$arm0",
                "thickness": 2.2,
                "width": 0,
            },
            "marker": {"color": "$arm0", "size": 11},
        }
    )
    data.append(
        {
            **common,
            "name": "TF-IDF + linear",
            "x": [None if value is None else round(100 * value, 3) for value in rivals],
            "marker": {"color": "$arm1", "size": 10, "symbol": "diamond-open", "line": {"width": 2, "color": "$arm1"}},
        }
    )
    words = "How far each task is on the way from the constant (0 %) to a model without fault (100 %), by its main metric; the "
    words += "line through the dot is the 95 % interval over rows."
    below = [one.task.name for one, value in zip(known, ours, strict=True) if value is not None and value < 0]
    if below:
        words += f" Left of zero, and so worse than saying the same of every text: {', '.join(below)}."
    if left := [one.task.name for one in standings if one not in known]:
        words += f" Without such a scale: {', '.join(left)}."
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "$quiet", "width": 1.4},
    }
    ink = {"size": 12.5, "color": "$ink"}
    shape = layout(
        104 + 36 * len(known),
        axis("", ticksuffix=" %", rangemode="tozero"),
        axis("", type="category", autorange="reversed", tickfont=ink),
        shapes=[zero],
        **LEGEND,
    )
    return Figure("All tasks on one scale", words, data, shape)


def _task(facts: RunFacts, one: Standing, gallery: Gallery, room: int) -> tuple[list[Html], int]:
    """A task's tables and pictures, and how many rows of `room` its table of classes took."""
    task, split = one.task, facts.judged
    values = facts.values(task.name, split)
    parts: list[Html] = [_metrics(facts, task, split, one)]
    rows = facts.rows(task, split)
    if rows is None:
        parts.append(
            paragraph(
                f"The predictions of the {split} split are not in the run folder, so what needs them is left out."
            )
        )
    figures = _figures(facts, task, values, rows, split)
    if figures:
        parts.append(
            gallery.views([View("", figures)], narrow=len(figures) == 3 and len(task.classes or ()) <= FEW_CLASSES)
        )
    elif rows is not None:
        parts.append(paragraph(f"No picture is made for tasks of kind {task.kind}."))
    others = [_metrics(facts, task, name, None) for name in facts.splits[1:] if facts.values(task.name, name)]
    classes, used = _classes_table(facts, task, values, room)
    folded = [*others, *([classes] if classes else [])]
    if folded:
        parts.append(details("More numbers", *folded))
    return parts, used


def _figures(facts: RunFacts, task: TaskFacts, values: Mapping[str, Any], rows: Any, split: str) -> list[Figure]:
    train = (((facts.metrics.get("data") or {}).get("splits") or {}).get("train") or {}).get("tasks") or {}
    counts = (train.get(task.name) or {}).get("counts")
    found: list[Figure | None] = []
    if task.classes is None:
        if rows is not None:
            true, predicted = rows["true"].to_numpy(), rows["predicted"].to_numpy()
            regions = ((facts.metrics.get("scores") or {}).get(task.name) or {}).get("regions")
            found = [
                scatter_figure(task, true, predicted, split),
                error_figure(task, true, predicted),
                region_figure(task, true, predicted, regions),
            ]
    elif task.kind == "multilabel":
        if rows is not None:
            there, said = memberships(task, rows)
            found += [hits_figure(task, there, said)]
        found += [class_figure(task, values, counts)]
        if rows is not None:
            found += [reliability_figure(probabilities(task, rows).reshape(-1), there.reshape(-1), every_class=True)]
    else:
        matrix = values.get("confusion_matrix")
        if matrix:
            found += [confusion_figure(task, np.asarray(matrix, dtype=np.int64), split)]
        found += [class_figure(task, values, counts)]
        if rows is not None and len(rows):
            true, predicted = class_indices(task, rows)
            chosen = probabilities(task, rows)[np.arange(len(rows)), predicted]
            found += [reliability_figure(chosen, true == predicted, every_class=False)]
            if task.kind == "ordinal":
                found += [distance_figure(true, predicted)]
    return [figure for figure in found if figure is not None]


def _metrics(facts: RunFacts, task: TaskFacts, split: str, one: Standing | None) -> Html:
    """Every metric that is one number, beside both baselines; the main one with its interval and verdict."""
    values, rivals = facts.values(task.name, split), facts.baselines(task.name, split)
    names = [name for name in values if name != "n" and (values[name] is None or isinstance(values[name], int | float))]
    names.sort(key=lambda name: name != task.main)
    rows = []
    for name in names:
        held = [values.get(name), *((rivals.get(key) or {}).get(name) for key in BASELINES)]
        places = decimals([value for value in held if isinstance(value, int | float)])
        main = one is not None and name == task.main
        ours = number(values.get(name), places)
        if main and one is not None and one.interval is not None:
            span = f"{number(one.interval[0], places)} to {number(one.interval[1], places)}"
            ours = Html(f'<b>{text(ours)}</b> <span class="note">{text(span)}</span>')
        cells = []
        for key in BASELINES:
            cell = number((rivals.get(key) or {}).get(name), places)
            verdict = one.against.get(key) if main and one is not None else None
            if verdict:
                cell = Html(
                    f'{text(cell)} <span class="verdict {verdict}"><span aria-hidden="true">{MARKS[verdict]}</span>'
                    f'<span class="spoken"> {SPOKEN[verdict]}</span></span>'
                )
            cells.append(cell)
        direction = {"min": "lower", "max": "higher"}.get(task.directions.get(name, ""), MISSING)
        rows.append([named(name, task.kind), ours, *cells, direction])
    fitted = rivals.get("fitted_on")
    head = ["metric", "this model", *(BASELINES[key][0] for key in BASELINES), "better is"]
    caption = f"{task.name} on {split}, {values.get('n', 0):,} rows"
    return table(head, rows, caption + (f"; TF-IDF fitted on {fitted:,}" if fitted else ""))


def _classes_table(facts: RunFacts, task: TaskFacts, values: Mapping[str, Any], room: int) -> tuple[Html | None, int]:
    """Each class in numbers, those with the lowest F1 first where there is no room for all."""
    per_class: Mapping[str, Mapping[str, Any]] = values.get("per_class") or {}
    if not per_class:
        return None, 0
    names = list(per_class)
    if len(names) > room:
        names = sorted(names, key=lambda name: per_class[name].get("f1") or 0.0)[:room]
    if not names:
        return paragraph(f"{task.name}: its {len(per_class)} classes stand in metrics.json (per_class).", "note"), 0
    rows = [
        [
            name,
            *(number(per_class[name].get(key), 3) for key in ("precision", "recall", "f1")),
            f"{per_class[name].get('n', 0):,}",
        ]
        for name in names
    ]
    shown = "" if len(names) == len(per_class) else f", the {len(names)} of {len(per_class)} with the lowest F1"
    return table(
        ["class", "precision", "recall", "F1", "rows"], rows, f"Classes of {task.name} on {facts.judged}{shown}"
    ), len(rows)
