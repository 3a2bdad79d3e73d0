"""Whether a task is worse on validation than a constant would be: a sign of wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.tasks import Task

__all__ = ["ConstantBaseline", "worse_than_constant"]

#: Fewer rows tell nothing.
LEAST = 20
#: So many rows at most are drawn each time, so that it takes a moment on any table.
MOST = 2_000
#: It is worse by this share of the constant's value or more: what learned nothing is a little worse, and no alarm.
MARGIN = 0.1
#: Draws of rows, and in how many of them the constant may come off worse.
DRAWS, FAILURES = 100, 2


def worse_than_constant(
    task: Task,
    outputs: NDArray[np.float32],  # [n, size]
    targets: NDArray[np.float32],  # [n] or [n, classes], NaN where a row carries no label
    constant: NDArray[np.float32],  # [size], of the training labels
) -> str | None:
    """What is worse, in words, or None.

    A task is worse where its main metric is by a tenth or more, and at all in 98 of 100 draws of the labelled rows with
    replacement, each judged for the model and for the constant (a paired bootstrap). Classes are also worse where their
    accuracy is and their Matthews correlation is not above chance: the main metric of classes, macro F1, flatters whoever
    guesses at random.

    References:
        An Introduction to the Bootstrap (Efron and Tibshirani, 1993)
    """
    held = ~np.isnan(targets.reshape(len(targets), -1)).any(axis=1)
    outputs, targets = outputs[held], targets[held]
    if len(targets) < LEAST:
        return None
    own, rival = task.metrics(outputs, targets), task.metrics(_said(constant, len(targets)), targets)
    directions = task.selectable()
    metrics = [task.main_metric[0]]
    if {"accuracy", "mcc"} <= set(directions) and _by_chance(own):
        metrics.append("accuracy")
    for metric in metrics:
        lower = directions[metric] == "min"
        if _behind(own, rival, metric, lower, MARGIN) and _in_most_draws(
            task, outputs, targets, constant, metric, lower
        ):
            return f"{metric} {own[metric]:.3g} on validation is worse than {rival[metric]:.3g}, what a constant gives,"
    return None


class ConstantBaseline:
    """What a constant gives for every task, and which tasks are worse.

    Args:
        tasks: name -> fitted task.
        slices: name -> its outputs.
        rows: the training rows, whose labels the constants are of.
    """

    def __init__(self, tasks: Mapping[str, Task], slices: Mapping[str, slice], rows: Any) -> None:
        self.tasks, self.slices, self.rows = tasks, slices, rows
        self._constants: dict[str, NDArray[np.float32]] = {}

    def worse(self, outputs: NDArray[np.float32] | None, dataset: Any) -> dict[str, str]:
        """The tasks that are worse than their constant -> what is, in words.

        Args:
            outputs: `[n, outputs]` of the model; None tells nothing.
            dataset: the tokenised rows that it was given.
        """
        found = {}
        for name, task in self.tasks.items():
            targets = dataset.split.targets.get(name)
            if outputs is None or targets is None:
                continue
            if name not in self._constants:
                self._constants[name] = task.constant_outputs(self.rows.split.targets[name])
            words = worse_than_constant(task, outputs[:, self.slices[name]], targets, self._constants[name])
            if words is not None:
                found[name] = words
        return found


def _by_chance(metrics: Mapping[str, Any]) -> bool:
    """Whether a Matthews correlation could be had by guessing: its spread over rows is then 1 / sqrt(n)."""
    found = metrics["mcc"]
    return found is None or bool(found < 2 / np.sqrt(metrics["n"]))


def _in_most_draws(
    task: Task,
    outputs: NDArray[np.float32],
    targets: NDArray[np.float32],
    constant: NDArray[np.float32],
    metric: str,
    lower: bool,
) -> bool:
    rng, failures = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        rows = rng.integers(len(targets), size=min(len(targets), MOST))
        own, rival = task.metrics(outputs[rows], targets[rows]), task.metrics(_said(constant, len(rows)), targets[rows])
        failures += not _behind(own, rival, metric, lower)
        if failures > FAILURES:  # most of what is not clear ends here, after a few draws
            return False
    return True


def _behind(own: Mapping[str, Any], rival: Mapping[str, Any], metric: str, lower: bool, margin: float = 0.0) -> bool:
    a, b = own.get(metric), rival.get(metric)
    if a is None or b is None:
        return False
    return bool(a > b + margin * abs(b) if lower else a < b - margin * abs(b))


def _said(constant: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    return np.tile(constant, (rows, 1))
