"""Forest plots: a mean and its interval for every arm, beside the line of no difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._arms import MARKS, Arm, judged_of, verdict_of
from equipoise.report._figures import Figure, View, axis, layout, readable, rounded, vertical
from equipoise.report._numbers import decimals, half_width, interval, signed

__all__ = ["delta_figure", "difference_views"]

COLOURS = {"better": "$good", "worse": "$bad", "same": "$quiet"}
SYMBOLS = {"better": "triangle-up", "worse": "triangle-down", "same": "circle"}
#: What arms are compared with: the key in the summary, and its name for the reader.
RIVALS = {"differences": "the baseline", "versus_single": "single-task models", "versus_tuned": "tuned fixed weights"}


def difference_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """One view per rival, with one forest plot per judged metric; views without any difference are left out."""
    views = []
    for key, rival in RIVALS.items():
        named = f"{rival} ({summary['baseline']})" if key == "differences" else rival
        found = [_forest(summary, arms, key, judged, named) for judged in summary["judged"]]
        figures = [figure for figure in found if figure is not None]
        if figures:
            views.append(View(f"against {named}", figures))
    return views


def _forest(summary: Mapping[str, Any], arms: Sequence[Arm], key: str, judged: str, rival: str) -> Figure | None:
    compared = [(arm, found) for arm in arms if (found := (arm.facts.get(key) or {}).get(judged))]
    if not compared:
        return None
    relative = all((found.get("relative") or {}).get("mean") is not None for _, found in compared)
    ranges = [found["relative"] if relative else found for _, found in compared]
    words = {
        name: [arm.name for arm, found in compared if verdict_of(found) == name] for name in ("better", "worse", "same")
    }
    unit = "%, right is better"
    said = "; ".join(
        f"{said} {', '.join(names) if len(names) <= 5 else f'{len(names)} arms'}"
        for said, names in (
            ("better:", words["better"]),
            ("worse:", words["worse"]),
            ("not told apart from chance:", words["same"]),
        )
        if names
    )
    return Figure(
        title=judged_of(judged),
        words=f"Difference to {rival}{', in per cent of its mean' if relative else ''}, with its {_level(summary)} interval. "
        f"{_capital(said)}.",
        data=_traces([arm for arm, _ in compared], ranges, [verdict_of(found) for _, found in compared], relative),
        layout=_layout(
            [arm for arm, _ in compared], unit if relative else f"difference in {judged_of(judged)}, own units"
        ),
    )


def delta_figure(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Figure | None:
    """Delta_m of every arm that has one: its mean gain over the single-task models."""
    known = [arm for arm in arms if arm.facts.get("delta_m")]
    if not known:
        return None
    best = max(known, key=lambda arm: float(arm.facts["delta_m"]["mean"]))
    ranges = [arm.facts["delta_m"] for arm in known]
    return Figure(
        title="Mean gain over single-task models (Δm)",
        words=f"Mean over the tasks of the gain over one model per task, in per cent, with its {_level(summary)} interval "
        f"over seeds. Highest: {best.name}, {signed(best.facts['delta_m']['mean'], 1)} %.",
        data=_traces(known, ranges, [_side(found) for found in ranges], True),
        layout=_layout(known, "Δm, %, right is better"),
    )


def _side(found: Mapping[str, Any]) -> str:
    """On which side of zero an interval lies."""
    if half_width(found) is None or found["low"] <= 0 <= found["high"]:
        return "same"
    return "better" if found["low"] > 0 else "worse"


def _traces(
    arms: Sequence[Arm], ranges: Sequence[Mapping[str, Any]], verdicts: Sequence[str], percent: bool
) -> list[dict[str, Any]]:
    """One trace per verdict: arms stand at 0, 1, 2, ... from the top."""
    places = min(2, decimals([], [half_width(found) for found in ranges])) if percent else 4
    unit = " %" if percent else ""
    traces = []
    for verdict in COLOURS:
        chosen = [at for at, given in enumerate(verdicts) if given == verdict]
        if not chosen:
            continue
        means = [ranges[at]["mean"] for at in chosen]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": verdict,
                "x": rounded(means),
                "y": chosen,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(_end(ranges[at], "high") for at in chosen),
                    "arrayminus": rounded(_end(ranges[at], "low") for at in chosen),
                    "color": COLOURS[verdict],
                    "thickness": 2,
                    "width": 0,
                },
                "marker": {"color": COLOURS[verdict], "size": 11, "symbol": SYMBOLS[verdict]},
                "hovertext": [
                    f"<b>{readable(arms[at].name)}</b><br>{signed(ranges[at]['mean'], places)}{unit} "
                    f"{interval(ranges[at], places)}<br>{MARKS[verdict]} {_plain(verdict)}"
                    for at in chosen
                ],
                "hoverinfo": "text",
            }
        )
    return traces


def _end(found: Mapping[str, Any], side: str) -> float:
    """How far an interval reaches from its mean; 0 where there is none."""
    return 0.0 if found[side] is None else abs(found[side] - found["mean"])


def _layout(arms: Sequence[Arm], unit: str) -> dict[str, Any]:
    return layout(
        64 + 30 * len(arms),
        axis(unit),
        axis(
            "",
            tickvals=list(range(len(arms))),
            ticktext=[readable(arm.label) for arm in arms],
            range=[len(arms) - 0.4, -0.6],
            gridcolor="rgba(0,0,0,0)",
            tickfont={"size": 12.5, "color": "$ink"},
        ),
        shapes=[vertical(0)],
    )


def _plain(verdict: str) -> str:
    return "not told apart from chance" if verdict == "same" else verdict


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _level(summary: Mapping[str, Any]) -> str:
    return f"{summary['level']:.0%}".replace("%", " %")
