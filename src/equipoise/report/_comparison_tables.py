"""The comparison's tables on the page: every number that the pictures show, and those that they can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._arms import MARKS, Arm, judged_of, verdict_of
from equipoise.report._html import Html, arm_cell, table, text
from equipoise.report._numbers import (
    MISSING,
    decimals,
    half_width,
    interval,
    number,
    plus_minus,
    ratio,
    seconds,
    signed,
)

__all__ = [
    "all_metrics",
    "column_places",
    "cost_table",
    "difference_table",
    "equal_time_table",
    "failed_table",
    "multi_task_table",
    "results_table",
    "settings_table",
]

SPOKEN = {
    "better": "better than the baseline",
    "worse": "worse than the baseline",
    "same": "not told apart from chance",
}


def column_places(arms: Sequence[Arm], judged: str) -> int:
    """Decimals of a judged metric in a column over all arms."""
    found = [one for arm in arms if (one := arm.metric(judged))]
    return decimals([one["mean"] for one in found], [half_width(one) for one in found])


def results_table(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Html:
    """Every arm's mean and interval on each judged metric, and how it stands beside the baseline."""
    places = {judged: column_places(arms, judged) for judged in summary["judged"]}
    rows = []
    for arm in arms:
        cells: list[str] = [arm_cell(arm, kind=True)]
        for judged in summary["judged"]:
            found = arm.facts.get("differences", {}).get(judged)
            cells.append(Html(text(plus_minus(arm.metric(judged), places[judged])) + _mark(found)))
        rows.append([*cells, f"{arm.facts['runs']}"])
    head = ["arm", *(judged_of(judged) for judged in summary["judged"]), "runs"]
    return table(head, rows, f"Mean ± half of the {summary['level']:.0%} interval over seeds".replace("%", " %"))


def _mark(found: Mapping[str, Any] | None) -> Html:
    """The verdict in a colour and a shape, with the difference in per cent under the value."""
    verdict = verdict_of(found)
    if found is None or not verdict:
        return Html("")
    relative = found.get("relative") or {}
    change = f"{signed(relative['mean'], 1)} %" if relative.get("mean") is not None else ""
    return Html(
        f'<span class="verdict {verdict}"><span aria-hidden="true">{MARKS[verdict]}</span> {change}'
        f'<span class="spoken"> {SPOKEN[verdict]}</span></span>'
    )


def all_metrics(arms: Sequence[Arm], task: str) -> Html | None:
    """All metrics of one task."""
    metrics = list(dict.fromkeys(name for arm in arms for name in arm.facts["metrics"].get(task, {}) if name != "n"))
    own = [arm for arm in arms if arm.facts["metrics"].get(task)]
    if not own:
        return None
    places = {name: column_places(own, f"{task}.{name}") for name in metrics}
    rows = [
        [arm_cell(arm), *(plus_minus(arm.facts["metrics"][task].get(name), places[name]) for name in metrics)]
        for arm in own
    ]
    return table(["arm", *metrics], rows, f"All metrics of {task}, mean ± half of the interval over seeds")


def difference_table(arms: Sequence[Arm], key: str, judged: str, rival: str) -> Html | None:
    """Differences of one judged metric in its own units, with p values and what it would take to tell."""
    compared = [(arm, found) for arm in arms if (found := (arm.facts.get(key) or {}).get(judged))]
    if not compared:
        return None
    places = decimals([], [half_width(found) for _, found in compared])
    rows = []
    for arm, found in compared:
        relative = found.get("relative") or {}
        rows.append(
            [
                arm_cell(arm),
                Html(f'<span class="verdict {found["verdict"]}">{MARKS[found["verdict"]]} {found["verdict"]}</span>'),
                signed(found["mean"], places),
                interval(found, places) or MISSING,
                f"{signed(relative.get('mean'), 1)} {interval(relative, 1)}".strip() if relative else MISSING,
                number(found.get("p"), 4),
                number(found.get("p_holm"), 4),
                number(found.get("seeds_needed"), 0),
                number(found.get("rows_needed"), 0),
            ]
        )
    head = ["arm", "verdict", "difference", "interval", "better by, %", "p", "p (Holm)", "seeds needed", "rows needed"]
    return table(head, rows, f"{judged_of(judged)}: arm minus {rival}", words=2)


def multi_task_table(arms: Sequence[Arm]) -> Html | None:
    """Delta_m and mean rank."""
    known = [arm for arm in arms if arm.facts.get("delta_m") is not None or arm.facts.get("mean_rank") is not None]
    if not known:
        return None
    gains = [arm.facts["delta_m"] for arm in known if arm.facts.get("delta_m")]
    places = min(2, decimals([], [half_width(gain) for gain in gains])) if gains else 1
    rows = [
        [
            arm_cell(arm),
            signed((arm.facts.get("delta_m") or {}).get("mean"), places),
            interval(arm.facts.get("delta_m"), places) or MISSING,
            number(arm.facts.get("mean_rank"), 2),
        ]
        for arm in sorted(known, key=lambda one: one.facts.get("mean_rank") or float("inf"))
    ]
    return table(["arm", "Δm, %", "interval", "mean rank"], rows, "All tasks together, best mean rank first")


def cost_table(arms: Sequence[Arm]) -> Html:
    """What each arm cost."""
    rows = []
    for arm in arms:
        cost = arm.facts["cost"]
        search = cost.get("search")
        looked = MISSING
        if search:
            seeds = f" of {search['seeds']} seeds" if search.get("seeds", 1) > 1 else ""
            looked = f"{search['trials']} trials{seeds}, {seconds(search.get('seconds'))}"
        rows.append(
            [
                arm_cell(arm),
                seconds(cost["seconds"]),
                ratio(cost["seconds_ratio"]),
                number(cost["peak_memory_mb"], 0),
                ratio(cost["memory_ratio"]),
                number(cost["extra_backwards_per_step"], 1),
                number(cost["examples"], 0),
                looked,
            ]
        )
    head = ["arm", "time", "× baseline", "memory, MB", "× baseline", "extra backward passes", "examples", "search"]
    return table(head, rows, "Means over seeds; a search for weights counts beside the run")


def equal_time_table(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Html | None:
    """What each arm had reached on validation when the reference time was over."""
    judged = summary["judged"]
    found = {arm.name: arm.facts.get("equal_time") or {} for arm in arms}
    known = [arm for arm in arms if any(one is not None for one in found[arm.name].values())]
    if not known:
        return None
    places = {}
    for name in judged:
        values = [one for arm in known if (one := found[arm.name].get(name))]
        places[name] = decimals([one["mean"] for one in values], [half_width(one) for one in values])
    rows = [[arm_cell(arm), *(plus_minus(found[arm.name].get(name), places[name]) for name in judged)] for arm in known]
    took = seconds(summary.get("equal_time_seconds"))
    head = ["arm", *(judged_of(name) for name in judged)]
    return table(head, rows, f"Validation metrics after {took} of training, mean ± half of the interval over seeds")


def failed_table(arms: Sequence[Arm]) -> Html | None:
    """Runs that failed, and why."""
    rows = [
        [arm_cell(arm), str(one["seed"]), MISSING if one.get("fold") is None else str(one["fold"]), str(one["reason"])]
        for arm in arms
        for one in arm.facts["failed"]
    ]
    return table(["arm", "seed", "fold", "reason"], rows, "Runs that failed", words=4) if rows else None


def settings_table(arms: Sequence[Arm]) -> Html | None:
    """What each arm changes in the recipe."""
    rows = [
        [arm_cell(arm), "; ".join(f"{name}: {_value(value)}" for name, value in arm.facts["settings"].items())]
        for arm in arms
        if arm.facts.get("settings")
    ]
    return table(["arm", "differs from the recipe in"], rows, "Settings of the arms", words=2) if rows else None


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
