"""Norm equaliser: the inverse of each task's running gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import COST, NormBalancer, inverse_norm_weights
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice


@register("norm_equaliser")
class NormEqualiser(NormBalancer):
    """Weights each task by the inverse of the running average of its gradient's norm.

    L = sum_i w_i L_i,   w_i = K (1 / n_i) / sum_j (1 / n_j),   n_i <- smoothing n_i + (1 - smoothing) |g_i|

    g_i is the gradient of task i's plain loss at `shared`, K the number of tasks. The plainest of its family, without a
    paper of its own: `dao` is the same rule with each batch's own norms and floors under them; `encodec` fixes the
    length of the sum instead of the weights' sum.

    References:
        Folklore; a learned form of it is in GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks (Chen et al., 2018)
        https://arxiv.org/abs/1711.02257

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        smoothing: share of the old norm that the running average keeps, in [0, 1); None uses each batch's own norms.
        every: measure the norms each so many steps, and keep them between.
        scale: `"tasks"`: the weights sum to K; `"one"`: they sum to 1.
        epsilon: a norm not above this share of the largest one counts as zero.
        double_batch: weigh each half of the batch by the norms of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = NormEqualiser(scale="one")
        >>> loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 0.25, 'label': 0.75}

    Note:
        Ours, for want of a paper: the first norm starts the average; a task whose gradient is zero, or that was never
        seen, is left out of the sum and gets the weight that the median norm would have; `scale="tasks"` then counts the
        tasks that are in the sum; without any norm the weights are equal.
    """

    family = "norms"
    source = "folklore; see Chen et al., 2018: GradNorm"
    url = "https://arxiv.org/abs/1711.02257"
    rule = "weight_i = K (1/n_i) / sum_j (1/n_j), n_i = running average of task i's gradient norm"
    cost = COST
    state = "norm of each task"
    ours = "all details: start of the average, tasks without a gradient, scale, every, double_batch"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        smoothing: float | None = 0.9,
        every: int = 1,
        scale: Scale = "tasks",
        epsilon: float = 1e-8,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks,
            smoothing=smoothing,
            every=every,
            epsilon=epsilon,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        self.scale = choice("scale", scale, ("tasks", "one"))

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        norms, active = self._updated(statistics)
        return inverse_norm_weights(norms, active, floor=None, scale=self.scale)
