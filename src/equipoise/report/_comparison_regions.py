"""Where the errors are: by how common a score was in training, and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._arms import Arm
from equipoise.report._figures import Figure, View, axis, layout, readable, rounded
from equipoise.report._html import Html, arm_cell, table
from equipoise.report._numbers import decimals, half_width, plus_minus

__all__ = ["region_tables", "region_views"]

#: Metrics of the parts of a task, the first choice first.
METRICS = ("mse", "mae", "f1", "recall", "precision")
LOWER = {"mse", "mae"}


def region_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """Bars by region or class. The first view has each task's first metric, the second its second, and so on."""
    by_task = {task: [arm for arm in arms if _parts(arm, task)] for task in summary["tasks"]}
    metrics = {task: _metrics(_parts(own[0], task)) for task, own in by_task.items() if own}
    views = []
    for turn in range(max((len(names) for names in metrics.values()), default=0)):
        chosen = {task: names[turn] for task, names in metrics.items() if turn < len(names)}
        label = " and ".join(dict.fromkeys(chosen.values()))
        views.append(View(label, [_bars(summary, by_task[task], task, metric) for task, metric in chosen.items()]))
    return views


def region_tables(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[Html]:
    """The same as numbers: one table per task and metric."""
    tables = []
    for task in summary["tasks"]:
        own = [arm for arm in arms if _parts(arm, task)]
        for metric in _metrics(_parts(own[0], task)) if own else []:
            found = [part[metric] for arm in own for part in _parts(arm, task) if part[metric]]
            places = decimals([one["mean"] for one in found], [half_width(one) for one in found])
            head = ["arm", *(f"{part['name']} ({part['n']:,} rows)" for part in _parts(own[0], task))]
            rows = [[arm_cell(arm), *(plus_minus(part[metric], places) for part in _parts(arm, task))] for arm in own]
            tables.append(table(head, rows, f"{task}: {metric}, mean ± half of the interval over seeds"))
    return tables


def _bars(summary: Mapping[str, Any], arms: Sequence[Arm], task: str, metric: str) -> Figure:
    data = []
    for arm in arms:
        parts = [part for part in _parts(arm, task) if (part[metric] or {}).get("mean") is not None]
        found = [part[metric] for part in parts]
        places = decimals([one["mean"] for one in found], [half_width(one) for one in found])
        data.append(
            {
                "type": "bar",
                "meta": arm.key,
                "x": [_tick(part) for part in parts],
                "y": rounded(one["mean"] for one in found),
                "error_y": {
                    "type": "data",
                    "array": rounded(half_width(one) or 0.0 for one in found),
                    "color": "$ink",
                    "thickness": 1.2,
                    "width": 2,
                },
                "marker": {"color": arm.colour, "opacity": 0.9},
                "hovertext": [
                    f"<b>{readable(arm.name)}</b><br>{readable(part['name'])}: {plus_minus(part[metric], places)}"
                    f"<br>{part['n']:,} rows"
                    for part in parts
                ],
                "hoverinfo": "text",
            }
        )
    lower = metric in LOWER
    words = f"{metric} of {task} by {'region of the score' if lower else 'class'}; {'lower' if lower else 'higher'} is better. "
    words += "Under each name: judged rows. Lines are intervals over seeds."
    return Figure(
        f"{task}: {metric}",
        words,
        data,
        layout(
            320,
            axis("", type="category", tickfont={"size": 12.5, "color": "$ink"}),
            axis(readable(metric), rangemode="tozero"),
            barmode="group",
            bargap=0.25,
            bargroupgap=0.08,
        ),
    )


def _parts(arm: Arm, task: str) -> list[Mapping[str, Any]]:
    """Regions of a score or classes of a label, each with its name, rows and metrics."""
    found = (arm.facts.get("regions") or {}).get(task) or {}
    return list(found.get("regions") or found.get("classes") or [])


def _metrics(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in METRICS if any(name in part for part in parts)]


def _tick(part: Mapping[str, Any]) -> str:
    return f"{readable(part['name'])}<br>{part['n']:,} rows"
