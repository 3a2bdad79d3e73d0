"""Which task helps which: the transfer matrix as a heat map whose colours meet at zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equipoise.report._figures import Figure, axis, layout, readable, rounded
from equipoise.report._html import Html, table
from equipoise.report._numbers import interval, signed

__all__ = ["transfer_figure", "transfer_table"]

SOURCES = {
    "pairs": "Both trained together, the rest left out",
    "all tasks": "With two tasks, training both is what the baseline does",
}


def transfer_figure(summary: Mapping[str, Any]) -> Figure | None:
    """Gain of each task (row) when it is trained together with another (column), against training it alone."""
    transfer = summary.get("transfer")
    if not transfer or not any(value is not None for row in transfer["gain"] for value in row):
        return None
    tasks, gain = transfer["tasks"], transfer["gain"]
    known = [
        (value, task, other)
        for task, row in zip(tasks, gain, strict=True)
        for other, value in zip(tasks, row, strict=True)
        if value is not None and task != other
    ]
    ends = ""
    if known:
        (low, *losing), (high, *winning) = min(known), max(known)
        ends = f" Lowest: {losing[0]} with {losing[1]}, {signed(low, 1)} %; highest: {winning[0]} with {winning[1]}, "
        ends += f"{signed(high, 1)} %."
    limit = max([abs(value) for value, _, _ in known], default=1.0) or 1.0
    names = [readable(task) for task in tasks]
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": [rounded(row) for row in gain],
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, "$heat-"], [0.5, "$heat0"], [1, "$heat+"]],
        "text": [[_cell(transfer, row, column) for column in range(len(tasks))] for row in range(len(tasks))],
        "texttemplate": "%{text}",
        "textfont": {"size": 13, "color": "$ink"},
        "hovertext": [[_hover(transfer, row, column) for column in range(len(tasks))] for row in range(len(tasks))],
        "hoverinfo": "text",
        "xgap": 3,
        "ygap": 3,
        "showscale": False,
    }
    ink = {"size": 12.5, "color": "$ink"}
    return Figure(
        title="Transfer between tasks",
        words="Gain of a task (row) when it is trained with another (column), in per cent of training it alone: above zero the "
        f"other helps, below zero it hurts. {SOURCES[transfer['source']]}.{ends}",
        data=[trace],
        layout=layout(
            100 + 74 * len(tasks),
            axis("trained together with", gridcolor="rgba(0,0,0,0)", type="category", tickfont=ink),
            axis("this task", gridcolor="rgba(0,0,0,0)", autorange="reversed", type="category", tickfont=ink),
        ),
        widest=220 + 140 * len(tasks),
    )


def transfer_table(summary: Mapping[str, Any]) -> Html:
    """The same with intervals, for those who can't hover."""
    transfer = summary["transfer"]
    every = range(len(transfer["tasks"]))
    rows = [
        [task, *(f"{_plain(transfer, row, column)}" for column in every)] for row, task in enumerate(transfer["tasks"])
    ]
    return table(["this task", *transfer["tasks"]], rows, "Gain in per cent when trained together with (column)")


def _plain(transfer: Mapping[str, Any], row: int, column: int) -> str:
    bounds = {key: transfer[key][row][column] for key in ("low", "high")}
    return f"{signed(transfer['gain'][row][column], 1)} {interval(bounds, 1)}".strip()


def _cell(transfer: Mapping[str, Any], row: int, column: int) -> str:
    value = transfer["gain"][row][column]
    if value is None or row == column:
        return ""
    sure = transfer["verdict"][row][column] != "same"
    return f"<b>{signed(value, 1)} %</b>" if sure else f"{signed(value, 1)} %"


def _hover(transfer: Mapping[str, Any], row: int, column: int) -> str:
    value = transfer["gain"][row][column]
    if value is None:
        return ""
    names = [readable(transfer["tasks"][at]) for at in (row, column)]
    return f"<b>{names[0]} with {names[1]}</b><br>{_plain(transfer, row, column)} %"
