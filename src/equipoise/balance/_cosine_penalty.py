"""Gradient-cosine penalty: the plain sum, and a price on gradients that do not point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import number


@register("cosine_penalty")
class GradientCosinePenalty(Balancer):
    """Adds to the plain sum what the tasks' gradients lack in alignment.

    L = sum_i L_i + strength * mean over pairs i < j of (1 - cos(g_i, g_j))

    g_i is the gradient of task i's loss at `shared`. The penalty is differentiated too (a second differentiation of the
    losses), so it looks for parameters at which the tasks agree, rather than weighing the tasks.

    References:
        The idea, not the formula, is ascribed to Optimizing Multi-Task Learning for Enhanced Performance in Large
        Language Models (Qi et al., 2024)
        https://arxiv.org/abs/2412.06249

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        strength: price of one unit of (1 - cosine), zero or more. It is in the losses' unit: a penalty is at most twice it.
        every: measure, and penalise, each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = GradientCosinePenalty(strength=1.0)
        >>> losses = {"polarity": hidden[:, 0] ** 2, "label": (hidden ** 2).sum(1)}  # gradients (2, 0) and (2, 2)
        >>> round(balancer(losses, shared=hidden).item(), 4)  # 1 + 2 + (1 - 0.7071)
        3.2929

    Note:
        What that paper's penalty is, is not known to us; this form is ours. A pair is left out where a cosine has no
        meaning: a gradient is zero or missing, or the two meet in no row, a row being an entry of the first dimension of
        a shared tensor: an example of a representation, or a row of a matrix of parameters. At a representation with
        tasks on different examples nothing is left and the method is the plain sum. The backbone or the heads must allow
        a second differentiation, which fused attention kernels may not. The value that is returned includes the penalty;
        scored without gradients it does not.
    """

    family = "norms"
    source = "ours; the idea is ascribed to Qi et al., 2024, whose equations are not known"
    url = "https://arxiv.org/abs/2412.06249"
    rule = "L = sum_i L_i + strength * mean over pairs of (1 - cos(g_i, g_j))"
    cost = "one differentiable walk back for each task, and a second differentiation"
    state = "none"
    ours = "the form of the penalty, pairs that are left out, every"

    requires = frozenset({"shared"})
    differentiable = True
    weighted_sum = False

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        strength: float = 0.1,
        every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every)
        self.strength, self.every = number("strength", strength, low=0), every

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns ones, `[tasks]`."""
        return torch.ones_like(losses)

    def penalty(self, gramian: Tensor, cosines: Tensor) -> Tensor | None:
        """Returns strength * mean over pairs of (1 - cosine); pairs without a cosine are left out."""
        squares = gramian.diagonal()
        products = squares[:, None] * squares[None, :]
        valid = (~cosines.isnan()).triu(1)
        # Ones before the root: its slope at zero is infinite, and infinity times the mask's zero is no number.
        lacking = (1 - gramian / products.where(valid, 1).sqrt()).where(valid, 0)
        return self.strength * lacking.sum() / valid.sum().clamp(min=1)
