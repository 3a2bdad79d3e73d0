"""A comparison on the terminal, in 100 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from equipoise.report._arms import MARKS, Arm, arms_of, judged_of, verdict_of
from equipoise.report._comparison_tables import column_places
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

__all__ = ["comparison_lines", "comparison_table"]

#: Judged metrics beside each other; more of them continue in a further table.
ABREAST = 3
STYLES = {"better": "green", "worse": "red", "same": "dim"}


def comparison_lines(summary: Mapping[str, Any]) -> list[str]:
    """The verdict in plain sentences, and the failed runs whose reason it does not give already."""
    lines = [str(sentence) for sentence in summary["verdict"]]
    for arm in arms_of(summary):
        for one in arm.facts["failed"]:
            if any(arm.name in said and str(one["reason"]) in said for said in lines):
                continue
            where = f"seed {one['seed']}" + ("" if one.get("fold") is None else f", fold {one['fold']}")
            lines.append(f"failed: {arm.name}, {where}: {one['reason']}")
    return lines


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """Tables under each other: the judged metrics, at most three abreast, then what belongs to an arm as a whole.

    A cell of the first kind shows mean ± half of the interval over seeds, and under it the difference to the baseline in
    per cent, above zero is better, with its interval and a mark: ▲ better, ▼ worse, • not told apart from chance.

    Args:
        summary: what `equipoise.evaluation.summarise` gives.
    """
    arms, judged = arms_of(summary), list(summary["judged"])
    level = f"{summary['level']:.0%}".replace("%", " %")
    whole = Table.grid()
    whole.add_row(Text(f"mean ± half of the {level} interval over seeds", style="italic"))
    whole.add_row(
        Text(
            f"below it: better than {summary['baseline']} by, in %   ▲ better ▼ worse • not told apart", style="italic"
        )
    )
    tables = math.ceil(len(judged) / ABREAST)
    for part in range(tables):
        whole.add_row(_metrics(arms, judged[part * len(judged) // tables : (part + 1) * len(judged) // tables]))
    whole.add_row(Text("arms as a whole; time and memory as multiples of the baseline's", style="italic"))
    whole.add_row(_together(arms))
    in_time = [arm for arm in arms if any((arm.facts.get("equal_time") or {}).values())]
    if in_time:
        took = seconds(summary["equal_time_seconds"])
        whole.add_row(Text(f"at equal wall time: validation after {took} of training", style="italic"))
        for part in range(tables):
            whole.add_row(_in_time(in_time, judged[part * len(judged) // tables : (part + 1) * len(judged) // tables]))
    return whole


def _metrics(arms: Sequence[Arm], judged: Sequence[str]) -> Table:
    table = _table()
    for name in judged:
        table.add_column(Text(judged_of(name)), justify="right")
    places = {name: column_places(arms, name) for name in judged}
    for arm in arms:
        cells = [_value(arm, name, places[name]) for name in judged]
        if any(cell.plain != MISSING for cell in cells) or not arm.facts["runs"]:
            table.add_row(_name(arm), *cells)
    return table


def _value(arm: Arm, judged: str, places: int) -> Text:
    text = Text(plus_minus(arm.metric(judged), places), overflow="fold")
    found = arm.facts.get("differences", {}).get(judged)
    if found is not None:
        verdict, relative = verdict_of(found), found.get("relative") or {}
        said = f"{signed(relative.get('mean'), 1)} {interval(relative, 1)}".strip() if relative else ""
        text.append(f"\n{MARKS[verdict]} {said}", style=STYLES[verdict])
    return text


def _in_time(arms: Sequence[Arm], judged: Sequence[str]) -> Table:
    table, found = _table(), {arm.name: arm.facts["equal_time"] for arm in arms}
    places = {}
    for name in judged:
        table.add_column(Text(judged_of(name)), justify="right")
        known = [one for arm in arms if (one := found[arm.name].get(name))]
        places[name] = decimals([one["mean"] for one in known], [half_width(one) for one in known])
    for arm in arms:
        cells = [plus_minus(found[arm.name].get(name), places[name]) for name in judged]
        if set(cells) != {MISSING}:
            table.add_row(_name(arm), *cells)
    return table


def _together(arms: Sequence[Arm]) -> Table:
    table = _table()
    searched = any(arm.facts["cost"].get("search") for arm in arms)
    for head in (
        "Δm, %",
        "mean rank",
        "time",
        "memory",
        "backward",
        *(["search"] if searched else []),
        "runs",
        "failed",
    ):
        table.add_column(head, justify="right")
    gains = [arm.facts["delta_m"] for arm in arms if arm.facts.get("delta_m")]
    places = min(2, decimals([], [half_width(gain) for gain in gains])) if gains else 1
    for arm in arms:
        cost, gain = arm.facts["cost"], arm.facts.get("delta_m")
        half = half_width(gain) if gain else None
        extra, search = cost["extra_backwards_per_step"], cost.get("search")
        looked = f"{search['trials']} in {seconds(search['seconds'])}" if search else ""
        table.add_row(
            _name(arm),
            signed(gain["mean"], places) + ("" if half is None else f" ± {number(half, places)}") if gain else MISSING,
            number(arm.facts.get("mean_rank"), 2),
            ratio(cost["seconds_ratio"]),
            ratio(cost["memory_ratio"]),
            f"+{number(extra, 1)}" if extra is not None else MISSING,
            *([looked] if searched else []),
            str(arm.facts["runs"]),
            str(len(arm.facts["failed"]) or ""),
        )
    return table


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("arm", max_width=24, overflow="fold")
    return table


def _name(arm: Arm) -> Text:
    return Text(arm.name, style="bold" if arm.baseline else "")
