"""Arms against arms: paired differences with all that is known of their doubt, judged together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation._measurements import Arm, Rows, classes_of
from equipoise.evaluation._metric_functions import METRICS
from equipoise.evaluation._significance import Better, holm, paired_difference, row_bootstrap
from equipoise.tasks import Task

__all__ = ["Differences", "direction", "judge"]

Floats = NDArray[np.float64]


class Differences:
    """Paired differences between the arms of one comparison.

    Every run of a task is drawn again on the same test rows, once a metric, so that any two arms can be paired.

    Args:
        arms: all arms that may be asked for.
        tasks: name -> fitted task.
        level: of the intervals.
        seed: of the row draws.
    """

    def __init__(self, arms: Iterable[Arm], tasks: Mapping[str, Task], level: float, seed: int) -> None:
        self.arms, self.tasks, self.level, self.seed = list(arms), tasks, level, seed
        self._drawn: dict[tuple[str, str], dict[tuple[str, int], tuple[int, Floats]]] = {}
        #: Tasks whose test rows are not the same in all runs: there the rows' share of the doubt is unknown.
        self.unpaired: set[str] = set()

    def __call__(self, ours: Arm, theirs: Arm, task: str, metric: str) -> dict[str, Any] | None:
        """`ours` less `theirs`, see `paired_difference`; None where they have no seed in common."""
        mine, other = ours.values(task, metric), theirs.values(task, metric)
        seeds = sorted(set(mine) & set(other))
        if not seeds:
            return None
        rows_se, rows = self._rows_error(ours, theirs, task, metric, seeds)
        return paired_difference(
            [mine[seed] for seed in seeds],
            [other[seed] for seed in seeds],
            better=direction(self.tasks[task], metric),
            rows_se=rows_se,
            rows=rows,
            level=self.level,
        )

    def _rows_error(
        self, ours: Arm, theirs: Arm, task: str, metric: str, seeds: Sequence[int]
    ) -> tuple[float | None, int]:
        """The standard error from test rows, and how many there are; None where they cannot be drawn again."""
        drawn = self._draws(task, metric)
        pairs = [(drawn.get((ours.name, seed)), drawn.get((theirs.name, seed))) for seed in seeds]
        found = [(mine, other) for mine, other in pairs if mine is not None and other is not None]
        if len(found) < len(pairs):
            return None, 0
        apart = np.mean([mine[1] - other[1] for mine, other in found], axis=0)
        # A resample without a varying truth has no correlation; a few of them change nothing, many would.
        known = apart[np.isfinite(apart)]
        if len(known) < 0.9 * len(apart):
            return None, 0
        return float(np.std(known, ddof=1)), found[0][0][0]

    def _draws(self, task: str, metric: str) -> dict[tuple[str, int], tuple[int, Floats]]:
        """(arm, seed) -> number of rows, and the metric on each resample of them."""
        if (task, metric) not in self._drawn:
            self._drawn[task, metric] = self._draw(task, metric)
        return self._drawn[task, metric]

    def _draw(self, task: str, metric: str) -> dict[tuple[str, int], tuple[int, Floats]]:
        runs: dict[tuple[str, int], Rows] = {
            (arm.name, seed): one.rows[task]
            for arm in self.arms
            for seed, one in arm.measured.items()
            if task in one.rows
        }
        if metric not in METRICS or not runs:
            return {}
        true = next(iter(runs.values())).true
        if any(not np.array_equal(rows.true, true) for rows in runs.values()):
            self.unpaired.add(task)
            return {}
        if len(true) < 2:
            return {}
        classes = len(classes_of(self.tasks[task]) or ())
        predicted = np.stack([rows.predicted for rows in runs.values()])
        drawn = row_bootstrap(metric, true, predicted, classes=classes, seed=self.seed)
        return {key: (len(true), values) for key, values in zip(runs, drawn, strict=True)}


def direction(task: Task, metric: str) -> Better:
    """Whether less or more of a metric is better."""
    return task.selectable()[metric]


def judge(family: Sequence[tuple[dict[str, Any], Better]], level: float = 0.95) -> None:
    """Adds `p_holm` and `verdict` to differences that are judged together.

    The verdict is `better` or `worse` where the corrected p is below 1 - level, by the sign of the difference; else
    `same`: not told apart from noise.

    Args:
        family: differences as `paired_difference` gives them, each with the direction of its metric.
        level: 1 less the level of the tests.
    """
    for (one, better), corrected in zip(family, holm([one["p"] for one, _ in family]), strict=True):
        one["p_holm"] = corrected
        sure = corrected is not None and corrected < 1 - level
        one["verdict"] = ("better" if (one["mean"] > 0) == (better == "max") else "worse") if sure else "same"
