"""The arms of a comparison as every table and picture shows them: their order, colour, line and who is seen first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equipoise.report._series import DASHES, HUES, SYMBOLS, Series, shortened

__all__ = [
    "GROUPS",
    "HUES",
    "MARKS",
    "PARTS",
    "Arm",
    "arms_of",
    "judged_of",
    "lower_is_better",
    "metric_of",
    "verdict_of",
]

#: In the order in which they are listed, and what the reader is told they are.
GROUPS = {
    "method": "method",
    "tuned": "tuned fixed weights",
    "ablation": "ablation",
    "setting": "other settings",
    "single": "single-task model",
    "pair": "two tasks together",
    "part": "some of the tasks",
}
#: Of these, what trains some of the tasks only: for questions of its own, and not drawn among the others everywhere.
PARTS = ("single", "pair", "part")
MARKS = {"better": "▲", "worse": "▼", "same": "•"}


@dataclass(frozen=True)
class Arm(Series):
    """One arm and how it is drawn.

    Attributes:
        baseline: whether the others are compared with it.
        facts: its part of the summary.
    """

    baseline: bool
    facts: Mapping[str, Any]

    @property
    def group(self) -> str:
        """What kind of arm it is: a key of `GROUPS`."""
        return str(self.facts["group"])

    def metric(self, judged: str) -> Mapping[str, Any] | None:
        """Mean, interval and values of a judged metric, where the arm trains that task."""
        task, metric = metric_of(judged)
        found: Mapping[str, Any] | None = self.facts["metrics"].get(task, {}).get(metric)
        return found


def arms_of(summary: Mapping[str, Any]) -> list[Arm]:
    """All arms that are judged: the baseline first, then by group, in the summary's order."""
    ranks = list(GROUPS)
    listed = sorted(summary["arms"], key=lambda one: (one["arm"] != summary["baseline"], ranks.index(one["group"])))
    shown = _shown(summary, listed)
    # DAO has the first colour of every page, tuned weights the second: readers learn them once. Those that are seen first
    # come next, so that no two of them share a colour.
    painted = sorted(
        (one for one in listed if one["arm"] != summary["baseline"]),
        key=lambda one: (not _is_dao(one), one["group"] != "tuned", one["arm"] not in shown),
    )
    paint = {one["arm"]: position for position, one in enumerate(painted)}
    return [_arm(one, position, paint.get(one["arm"]), shown) for position, one in enumerate(listed)]


def _arm(one: Mapping[str, Any], position: int, paint: int | None, shown: set[str]) -> Arm:
    name = str(one["arm"])
    lap, hue = divmod(paint or 0, HUES)
    return Arm(
        key=f"a{position}",
        name=name,
        label=shortened(name),
        colour="$base" if paint is None else f"$arm{hue}",
        dash="dash" if paint is None else DASHES[lap % len(DASHES)],
        symbol="circle" if paint is None else SYMBOLS[lap % len(SYMBOLS)],
        shown=name in shown,
        baseline=paint is None,
        facts=one,
    )


def _is_dao(one: Mapping[str, Any]) -> bool:
    return bool(one["method"] == "dao" and one["group"] == "method")


def _shown(summary: Mapping[str, Any], listed: list[Mapping[str, Any]]) -> set[str]:
    """Baseline, tuned weights, DAO and the best three others; all of them where there are few."""
    together = [one for one in listed if one["group"] not in PARTS]
    if len(together) <= 6:
        return {one["arm"] for one in together}
    always = {
        one["arm"] for one in together if one["arm"] == summary["baseline"] or one["group"] == "tuned" or _is_dao(one)
    }
    ranked = sorted(
        (one for one in together if one["arm"] not in always and one["runs"]),
        key=lambda one: float("inf") if one["mean_rank"] is None else one["mean_rank"],
    )
    return always | {one["arm"] for one in ranked[:3]}


def metric_of(judged: str) -> tuple[str, str]:
    """`a.b.mse` -> task `a.b`, metric `mse`: tasks may have dots in their names, metrics don't."""
    task, _, metric = judged.rpartition(".")
    return task, metric


def judged_of(judged: str) -> str:
    """`polarity.mse` -> `polarity mse`."""
    return " ".join(metric_of(judged))


def lower_is_better(summary: Mapping[str, Any], judged: str) -> bool:
    """Whether less of a judged metric is better: a task's main metric and its others may differ."""
    task, metric = metric_of(judged)
    facts = summary["tasks"][task]
    return bool(facts.get("directions", {}).get(metric, facts["better"]) == "min")


def verdict_of(difference: Mapping[str, Any] | None) -> str:
    """`better`, `worse`, `same`, or nothing where the arm has no such difference."""
    return "" if difference is None else str(difference["verdict"])
