"""What of a task is explained: one number a text that can be walked back through, and the name of the class it is of.

A score is explained in its own units, before it is clipped to its range. Of classes it is the logit of the class's
probability, log p / (1 - p): what speaks for the class against all others. (The raw output of a class would not do:
what raises all classes' outputs alike changes nothing.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from equipoise.errors import DataError
from equipoise.tasks import Task
from equipoise.tasks._base import did_you_mean
from equipoise.tasks._divergences import ordinal_log_probabilities

__all__ = ["SCORE", "class_of", "reader"]

SCORE, LOG_ODDS = "score", "log-odds"


def class_of(task: Task, outputs: Any, target: str | None) -> str | None:
    """The class to be explained; None for a score.

    Args:
        task: any that can be explained.
        outputs: `[1, size]` float32, what the model says of the text.
        target: the class asked for; None is the predicted one (of classes that don't exclude each other the most probable).

    Raises:
        DataError: there is no such class, or a class of a score is asked for.
    """
    columns = task.predict(outputs)
    predicted = columns.pop(task.name)[0]
    probabilities = {name.removeprefix(f"{task.name}/"): float(column[0]) for name, column in columns.items()}
    if not probabilities:
        if target is not None:
            raise DataError(f"target: '{task.name}' is a score and has no class '{target}'. Leave the target out")
        return None
    if target is None:
        return (
            str(predicted) if predicted in probabilities else max(probabilities, key=lambda name: probabilities[name])
        )
    if target not in probabilities:
        raise DataError(
            f"target: no class '{target}' in task '{task.name}'.{did_you_mean(target, list(probabilities))} "
            f"Classes: {', '.join(probabilities)}"
        )
    return target


def reader(task: Task, target: str | None) -> tuple[Callable[[Tensor], Tensor], str]:
    """How the number is read off a task's outputs.

    Args:
        task: as for `class_of`.
        target: what `class_of` gave.

    Returns:
        A function `[n, size]` -> `[n]` that can be differentiated, and its unit: `score` or `log-odds`.

    Raises:
        DataError: this kind of task has no such number.
    """
    if task.kind == "regression":
        offset, one = task.decode(np.array([0.0, 1.0], dtype=np.float32)).tolist()
        return lambda outputs: outputs[:, 0] * (one - offset) + offset, SCORE
    labels: tuple[str, ...] = getattr(task, "labels", ())
    if target not in labels:
        raise DataError(f"task: '{task.name}' is of the kind {task.kind}, which cannot be explained")
    index = labels.index(target)
    if task.kind == "multilabel":
        return lambda outputs: outputs[:, index], LOG_ODDS
    if task.kind == "classification":
        return lambda outputs: _log_odds(outputs, index), LOG_ODDS
    if task.kind == "ordinal":
        return lambda outputs: _log_odds(ordinal_log_probabilities(outputs), index), LOG_ODDS
    raise DataError(f"task: '{task.name}' is of the kind {task.kind}, which cannot be explained")


def _log_odds(
    logs: Tensor,  # [n, classes], log-probabilities, or what differs from them by a constant of the row
    index: int,
) -> Tensor:
    """Log p / (1 - p) of one class, `[n]`: exact where p is next to 1, as 1 - p is never formed."""
    import torch

    others = [k for k in range(logs.shape[1]) if k != index]
    return logs[:, index] - torch.logsumexp(logs[:, others], dim=1)
