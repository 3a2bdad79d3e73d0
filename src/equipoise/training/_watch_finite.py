"""Where a number that is not finite comes from. Nothing here is asked before one was found, or a checkpoint is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["bad_labels", "bad_weight"]


@torch.no_grad()
def bad_weight(model: nn.Module) -> str | None:
    """The first parameter or buffer, by name, that holds NaN or infinity; None where all are finite."""
    named = [(name, value) for name, value in (*model.named_parameters(), *model.named_buffers()) if _numbers(value)]
    if not named:
        return None
    devices = {value.device for _, value in named}
    found = {d: torch.stack([torch.isfinite(v).all() for _, v in named if v.device == d]).tolist() for d in devices}
    finite = {d: iter(answers) for d, answers in found.items()}
    return next((name for name, value in named if not next(finite[value.device])), None)


def bad_labels(tasks: Iterable[str], targets: Mapping[str, Tensor], labelled: Mapping[str, Tensor]) -> list[str]:
    """Those of some tasks whose labels in a batch are not finite.

    Args:
        tasks: their names.
        targets: task -> `[rows]` or `[rows, classes]`.
        labelled: task -> the rows that carry a label, `[n_t]`.
    """
    return [task for task in tasks if not torch.isfinite(targets[task][labelled[task]]).all()]


def _numbers(value: Tensor) -> bool:
    return value.numel() > 0 and (value.is_floating_point() or value.is_complex())
