"""Arms against arms: paired differences with all that is known of their doubt, judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation._measurements import Arm, Rows, classes_of, same_truth
from equipoise.evaluation._metric_functions import METRICS
from equipoise.evaluation._significance import (
    Better,
    holm,
    paired_difference,
    row_bootstrap,
    rows_needed,
    seeds_needed,
)
from equipoise.tasks import Task

__all__ = ["Differences", "direction", "judge"]

Floats = NDArray[np.float64]
Key = tuple[str, int]  # (arm, seed)


class Differences:
    """Paired differences between the arms of one comparison.

    All runs of a task that were judged on the same labels are drawn again on the same test rows, once a metric, so that
    any two of them can be paired. Runs on other labels have no part in each other's differences.

    Args:
        arms: all arms that may be asked for.
        tasks: name -> fitted task.
        level: of the intervals.
        seed: of the row draws.
    """

    def __init__(self, arms: Iterable[Arm], tasks: Mapping[str, Task], level: float, seed: int) -> None:
        self.arms, self.tasks, self.level, self.seed = list(arms), tasks, level, seed
        self._alike: dict[str, list[dict[Key, Rows]]] = {}
        self._drawn: dict[tuple[str, str, int], dict[Key, Floats]] = {}
        #: Tasks whose judged labels are not the same in all runs: there some runs cannot be compared.
        self.unpaired: set[str] = set()

    def __call__(self, ours: Arm, theirs: Arm, task: str, metric: str) -> dict[str, Any] | None:
        """`ours` less `theirs`, see `paired_difference`; None where no seed has both, judged on the same labels."""
        mine, other = ours.values(task, metric), theirs.values(task, metric)
        places = {
            seed: (self._place(task, (ours.name, seed)), self._place(task, (theirs.name, seed)))
            for seed in sorted(set(mine) & set(other))
        }
        # Without rows, as with several classes a text, nothing says that they differ.
        places = {seed: (a, b) for seed, (a, b) in places.items() if a == b or a is None or b is None}
        if not places:
            return None
        rows_se, rows = None, 0
        found = {place for both in places.values() for place in both}
        # One set of rows for all seeds, as everywhere but in records of several tables: else the draws do not add up.
        if len(found) == 1 and (place := found.pop()) is not None:
            rows_se, rows = self._rows_error(ours, theirs, task, metric, list(places), place)
        return paired_difference(
            [mine[seed] for seed in places],
            [other[seed] for seed in places],
            better=direction(self.tasks[task], metric),
            rows_se=rows_se,
            rows=rows,
            level=self.level,
        )

    def _rows_error(
        self, ours: Arm, theirs: Arm, task: str, metric: str, seeds: Sequence[int], place: int
    ) -> tuple[float | None, int]:
        """The standard error from test rows, and how many there are; None where they cannot be drawn again."""
        rows = len(next(iter(self._groups(task)[place].values())).true)
        if metric not in METRICS or rows < 2:
            return None, 0
        drawn = self._draws(task, metric, place)
        apart = np.mean([drawn[ours.name, seed] - drawn[theirs.name, seed] for seed in seeds], axis=0)
        # A resample without a varying truth has no correlation; a few of them change nothing, many would.
        known = apart[np.isfinite(apart)]
        if len(known) < 0.9 * len(apart):
            return None, 0
        return float(np.std(known, ddof=1)), rows

    def _place(self, task: str, run: Key) -> int | None:
        """Which group a run is of; None where it has no rows."""
        return next((place for place, group in enumerate(self._groups(task)) if run in group), None)

    def _groups(self, task: str) -> list[dict[Key, Rows]]:
        """The runs of a task, those together that were judged on the same labels."""
        if task not in self._alike:
            groups = self._alike[task] = []
            for arm in self.arms:
                for seed, one in arm.measured.items():
                    if task in one.rows:
                        _join(groups, (arm.name, seed), one.rows[task])
            if len(groups) > 1:
                self.unpaired.add(task)
        return self._alike[task]

    def _draws(self, task: str, metric: str, place: int) -> dict[Key, Floats]:
        """(arm, seed) -> the metric on each resample of the rows of its group."""
        key = (task, metric, place)
        if key not in self._drawn:
            group = self._groups(task)[place]
            drawn = row_bootstrap(
                metric,
                next(iter(group.values())).true,
                np.stack([rows.predicted for rows in group.values()]),
                classes=len(classes_of(self.tasks[task]) or ()),
                seed=self.seed,
            )
            self._drawn[key] = dict(zip(group, drawn, strict=True))
        return self._drawn[key]


def _join(groups: list[dict[Key, Rows]], run: Key, rows: Rows) -> None:
    """Adds a run to the group of its labels, or to a new one."""
    for group in groups:
        if same_truth(next(iter(group.values())).true, rows.true):
            group[run] = rows
            return
    groups.append({run: rows})


def direction(task: Task, metric: str) -> Better:
    """Whether less or more of a metric is better."""
    return task.selectable()[metric]


def judge(family: Sequence[tuple[dict[str, Any], Better]], level: float = 0.95, tests: int | None = None) -> None:
    """Adds `p_holm`, `verdict`, `tests`, `seeds_needed` and `rows_needed` to differences that are judged together.

    The verdict is `better` or `worse` where the corrected p is below 1 - level, by the sign of the difference; else
    `same`: not told apart from noise. What would be needed to tell it is at the level that the smallest p of so many
    tests is held to, (1 - level) / tests: what is shown alone is not shown among many.

    Args:
        family: differences as `paired_difference` gives them, each with the direction of its metric.
        level: 1 less the level of the tests.
        tests: the differences that these were chosen from after a look at them: every p is multiplied by their number.
            None: chosen beforehand; Holm's correction over the family.
    """
    known = [one["p"] for one, _ in family]
    corrected = holm(known) if tests is None else [None if p is None else min(1.0, p * tests) for p in known]
    count = sum(p is not None for p in known) if tests is None else tests
    strict = 1 - (1 - level) / max(count, 1)
    for (one, better), p in zip(family, corrected, strict=True):
        sure = p is not None and p < 1 - level
        seeds = rows = None
        if one["seeds_sd"] is not None:
            seeds = seeds_needed(one["mean"], one["seeds_sd"], one["rows_se"], one["rows"], strict)
        if seeds is None:
            rows = rows_needed(one["mean"], one["rows_se"], one["rows"], strict)
        one |= {
            "p_holm": p,
            "verdict": ("better" if (one["mean"] > 0) == (better == "max") else "worse") if sure else "same",
            "tests": count,
            "seeds_needed": seeds,
            "rows_needed": rows,
        }
