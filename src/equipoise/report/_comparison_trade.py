"""Pictures of two qualities at once: task against task, and quality against time. Better is always up, or up and right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from equipoise.report._arms import PARTS, Arm, judged_of, lower_is_better
from equipoise.report._figures import Figure, View, axis, layout, points, readable, rounded
from equipoise.report._numbers import decimals, half_width, plus_minus, ratio

__all__ = ["cost_figures", "trade_views"]


def trade_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """One view for each two judged metrics that some arm has both of."""
    views = []
    for one, other in combinations(summary["judged"], 2):
        both = [arm for arm in arms if _mean(arm, one) is not None and _mean(arm, other) is not None]
        if both:
            views.append(View(f"{judged_of(one)} and {judged_of(other)}", [_trade(summary, both, one, other)]))
    return views


def _trade(summary: Mapping[str, Any], arms: Sequence[Arm], one: str, other: str) -> Figure:
    data, trials = _front(summary, one, other)
    for arm in arms:
        data += _arm(arm, one, other, named=sum(arm.shown for arm in arms) <= 8)
    return Figure(
        title=f"{judged_of(one)} and {judged_of(other)}",
        words=f"Every seed is a small dot, every arm's mean a large one; better is up and to the right. {trials}".rstrip(),
        data=data,
        layout=layout(
            460,
            _better(summary, one, "right"),
            _better(summary, other, "up"),
            annotations=[
                {
                    "text": "better ↗",
                    "xref": "paper",
                    "yref": "paper",
                    "x": 0.995,
                    "y": 0.99,
                    "xanchor": "right",
                    "yanchor": "top",
                    "showarrow": False,
                    "font": {"color": "$quiet", "size": 12.5},
                }
            ],
        ),
        widest=860,
    )


def _arm(arm: Arm, one: str, other: str, named: bool) -> list[dict[str, Any]]:
    """An arm's seeds and its mean, with a name beside it where there is room for names."""
    first, second = arm.metric(one) or {}, arm.metric(other) or {}
    seeds = [
        (x, y)
        for x, y in zip(first.get("values", []), second.get("values", []), strict=True)
        if x is not None and y is not None
    ]
    name = readable(arm.name)
    small = points(
        arm, [x for x, _ in seeds], [y for _, y in seeds], [f"{name}, one seed"] * len(seeds), size=6, opacity=0.5
    )
    places = [decimals([found["mean"]], [half_width(found)]) for found in (first, second)]
    hover = (
        f"<b>{name}</b><br>{readable(judged_of(one))} {plus_minus(first, places[0])}"
        f"<br>{readable(judged_of(other))} {plus_minus(second, places[1])}"
    )
    outline = {"color": "$card", "width": 1.5}
    large = points(arm, [first["mean"]], [second["mean"]], [hover], size=14, line=outline)
    if named and arm.shown:
        large |= {
            "mode": "markers+text",
            "text": [readable(arm.label)],
            "textposition": "top center",
            "textfont": {"color": "$ink", "size": 12},
        }
    return [small, large]


def _front(summary: Mapping[str, Any], one: str, other: str) -> tuple[list[dict[str, Any]], str]:
    """Trials of fixed weights and a sentence about them, where the summary has them for these two metrics."""
    found = summary.get("pareto") or {}
    fronts = [front for front in (found, *found.get("others", [])) if {front.get("x"), front.get("y")} == {one, other}]
    if not fronts:
        return [], ""
    pareto = fronts[0]
    x, y = ("x", "y") if pareto["x"] == one else ("y", "x")
    line = sorted(pareto["front"], key=lambda point: float(point[x]))
    common = {"type": "scatter", "hoverinfo": "text"}
    trials = {
        **common,
        "mode": "markers",
        "x": rounded(point[x] for point in pareto["points"]),
        "y": rounded(point[y] for point in pareto["points"]),
        "marker": {"color": "$quiet", "symbol": "diamond-open", "size": 6, "opacity": 0.6},
        "hovertext": [_settings(point) for point in pareto["points"]],
    }
    best = {
        **common,
        "mode": "lines+markers",
        "x": rounded(point[x] for point in line),
        "y": rounded(point[y] for point in line),
        "line": {"color": "$quiet", "width": 1.2},
        "marker": {"color": "$quiet", "symbol": "diamond-open", "size": 7},
        "hovertext": [_settings(point) for point in line],
    }
    words = "Diamonds are trials of fixed weights; the thin line joins the best of them (Pareto front)."
    if pareto.get("split", summary["split"]) != summary["split"]:
        words += f" They were judged on the {pareto['split']} split, so their distance to the arms says little."
    return [trials, best], words


def _settings(point: Mapping[str, Any]) -> str:
    said = ["fixed weights, one trial"]
    for name, value in (point.get("settings") or {}).items():
        said.append(readable(f"{name}: {value}"))
    return "<br>".join(said)


def cost_figures(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[Figure]:
    """Quality against training time, one picture per judged metric."""
    figures = []
    for judged in summary["judged"]:
        known = [
            arm
            for arm in arms
            if arm.group not in PARTS
            and _mean(arm, judged) is not None
            and arm.facts["cost"]["seconds_ratio"] is not None
        ]
        if len(known) < 2:
            continue
        data = []
        for arm in known:
            found = arm.metric(judged) or {}
            places = decimals([found["mean"]], [half_width(found)])
            cost = arm.facts["cost"]
            hover = (
                f"<b>{readable(arm.name)}</b><br>{readable(judged_of(judged))} {plus_minus(found, places)}"
                f"<br>time {ratio(cost['seconds_ratio'])}"
            )
            trace = points(arm, [cost["seconds_ratio"]], [found["mean"]], [hover], size=11)
            half = half_width(found)
            if half is not None:
                trace["error_y"] = {
                    "type": "data",
                    "array": rounded([half]),
                    "color": arm.colour,
                    "thickness": 1.6,
                    "width": 0,
                }
            data.append(trace)
        quick = min(known, key=lambda arm: float(arm.facts["cost"]["seconds_ratio"]))
        slow = max(known, key=lambda arm: float(arm.facts["cost"]["seconds_ratio"]))
        figures.append(
            Figure(
                title=f"{judged_of(judged)} and training time",
                words=f"Mean and interval against training time, as a multiple of {summary['baseline']}'s. Quickest: "
                f"{quick.name} ({ratio(quick.facts['cost']['seconds_ratio'])}), slowest: {slow.name} "
                f"({ratio(slow.facts['cost']['seconds_ratio'])}). Better is up, cheaper is left.",
                data=data,
                layout=layout(
                    320, axis("training time, × the baseline", rangemode="normal"), _better(summary, judged, "up")
                ),
            )
        )
    return figures


def _better(summary: Mapping[str, Any], judged: str, way: str) -> dict[str, Any]:
    """An axis on which better is right or up, whichever way the metric goes."""
    lower = lower_is_better(summary, judged)
    arrow = {"right": "→", "up": "↑"}[way]
    note = f"{'lower' if lower else 'higher'} is better {arrow}"
    more: dict[str, Any] = {"autorange": "reversed"} if lower else {}
    return axis(f"{readable(judged_of(judged))} ({note})", **more)


def _mean(arm: Arm, judged: str) -> float | None:
    found = arm.metric(judged)
    return None if found is None else found.get("mean")
