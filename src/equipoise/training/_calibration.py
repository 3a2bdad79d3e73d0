"""Outputs that lie too far apart, or too near to each other, are drawn to where validation says they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equipoise.models import output_layer, slices
from equipoise.training._checkpoints import unwrapped
from equipoise.training._parameters import plain_model
from equipoise.training._trainer import MultiTaskTrainer

__all__ = ["calibrate"]

#: Task -> `scale` and `offset` of its outputs.
Lines = dict[str, dict[str, float]]


def calibrate(trainer: MultiTaskTrainer) -> tuple[Lines, dict[str, dict[str, Any]]]:
    """Puts each task's calibration into the weights of the output layer; nothing else has to know of it.

        o' = a o + b,   W' = a W,   bias' = a bias + b

    with the task's a and b from the validation split (`Task.calibration`). A model that has learned its training rows too
    well says scores too far from the mean: a < 1.

    Args:
        trainer: trained, with the weights in it that are to be kept.

    Returns:
        What was put in, of the tasks for which anything was; and task -> metrics on the validation split with it.
    """
    rows = trainer.eval_dataset
    if rows is None:
        return {}, {}
    outputs, columns = trainer.outputs_of(rows), slices(trainer.tasks)
    layer, found = output_layer(plain_model(unwrapped(trainer))), Lines()
    for name, task in trainer.tasks.items():
        targets = rows.split.targets.get(name)
        if targets is None or layer.bias is None:  # an offset would have no place
            continue
        held = ~np.isnan(targets.reshape(len(targets), -1)[:, 0])
        line = task.calibration(outputs[held][:, columns[name]], targets[held])
        if line is not None:
            found[name] = dict(zip(("scale", "offset"), line, strict=True))
            outputs[:, columns[name]] = line[0] * outputs[:, columns[name]] + line[1]
            _fold(layer, columns[name], *line)
    return found, trainer.metrics_of(outputs, rows)


@torch.no_grad()
def _fold(layer: torch.nn.Linear, rows: slice, scale: float, offset: float) -> None:
    layer.weight[rows] *= scale
    layer.bias[rows] = scale * layer.bias[rows] + offset
