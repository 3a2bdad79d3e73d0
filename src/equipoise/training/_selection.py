"""Which evaluation was the best, when there are several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from equipoise.errors import RecipeError
from equipoise.tasks import Task

__all__ = ["Selection"]


class Selection:
    """The rule `training.select`: `mean_rank`, or one metric such as `polarity.mse`.

    `mean_rank` ranks all evaluations so far by each task's main metric (1 is the best, ties share their mean rank) and
    takes the one with the lowest mean over the tasks: no task's scale matters. Of equals it takes the one that is nearest
    to every task's best (0 is a task's best evaluation, 1 its worst, the mean over the tasks counts), then the earlier.

    Args:
        rule: the recipe's `training.select`.
        tasks: name -> task.
    """

    def __init__(self, rule: str, tasks: Mapping[str, Task]) -> None:
        self.criteria: list[tuple[str, str, str]]
        if rule == "mean_rank":
            self.criteria = [(name, *task.main_metric) for name, task in tasks.items()]
        else:
            name, _, metric = rule.rpartition(".")
            directions = tasks[name].selectable()
            if metric not in directions:
                raise RecipeError(f"training.select: {name} has no metric '{metric}'. It has {', '.join(directions)}")
            self.criteria = [(name, metric, directions[metric])]

    def scores(self, evaluations: Sequence[Mapping[str, Mapping[str, Any]]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`[evaluations, criteria]`, less is better. A metric without meaning is worse than any number."""
        table = np.empty((len(evaluations), len(self.criteria)))
        for column, (task, metric, direction) in enumerate(self.criteria):
            for row, evaluation in enumerate(evaluations):
                found = evaluation.get(task, {})
                value = found.get(metric)
                table[row, column] = np.inf if value is None else value if direction == "min" else -value
        return table

    def best(self, evaluations: Sequence[Mapping[str, Mapping[str, Any]]]) -> int:
        """The index of the best evaluation."""
        table = self.scores(evaluations)
        ranks = rankdata(table, axis=0).mean(axis=1)
        # Two tasks of which one rises while the other falls tie in rank throughout; how far each is from its best and
        # worst evaluation so far tells them apart.
        least, most = table.min(axis=0), np.where(np.isfinite(table), table, -np.inf).max(axis=0)
        span = np.where(most > least, most - least, 1.0)
        distance = np.where(np.isfinite(table), (table - least) / span, 2.0).mean(axis=1)
        return int(np.lexsort((np.arange(len(table)), distance, ranks))[0])

    def candidates(self, evaluations: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[int]:
        """Evaluations that can still turn out best, whatever comes; the others' weights may be thrown away.

        One that another equals or beats in everything, and beats in something, ranks behind it in every future table.
        """
        table = self.scores(evaluations)
        kept = []
        for row, own in enumerate(table):
            beaten = (table <= own).all(axis=1) & (table < own).any(axis=1)
            earlier_twin = any((table[other] == own).all() for other in range(row))
            if not beaten.any() and not earlier_twin:
                kept.append(row)
        return kept
