"""From token vectors `[n, length, hidden]` to one vector per text `[n, hidden]`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["POOLINGS"]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens that are not padding."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token that is not padding."""
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(dim=1)]


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token that is not padding."""
    positions = torch.arange(mask.shape[1], device=mask.device) * mask
    return hidden[torch.arange(len(hidden), device=hidden.device), positions.argmax(dim=1)]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "cls": cls, "last": last}
