"""GradNorm without learning: gradient norms are set to its target at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import COST, RateBalancer, inverse_norm_weights
from equipoise.balance._registry import register


@register("gradnorm_closed")
class GradNormClosedForm(RateBalancer):
    """Sets each task's gradient norm to what GradNorm steers it to.

    L = sum_i w_i L_i,   w_i = K (r_i^alpha / n_i) / sum_j (r_j^alpha / n_j)

    n_i is the norm of task i's gradient at `shared`; r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)), above 1 where a task
    lags behind; K the number of tasks. Then w_i n_i is in proportion to r_i^alpha, which is where GradNorm's descent
    would come to rest if norms and rates stood still; the sum is the one that GradNorm keeps. No learning rate, no delay.
    With alpha = 0 it is `norm_equaliser`, or `dao` without floors.

    References:
        The target is that of GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks
        (Chen et al., 2018)
        https://arxiv.org/abs/1711.02257

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        alpha: how strongly a lagging task is raised, 0 (equal norms) or more. GradNorm's paper: 1.5 on NYUv2, 0.12 on
            its synthetic tasks.
        smoothing: share of the old norm that a running average keeps, in [0, 1); None uses each batch's own norms.
        every: measure the norms each so many steps, and keep them between.
        epsilon: a norm not above this share of the largest one counts as zero.
        double_batch: weigh each half of the batch by the norms of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range; a loss is negative.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = GradNormClosedForm()
        >>> loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 0.5, 'label': 1.5}

    Note:
        This closed form is ours; GradNorm's paper learns the weights. A task whose gradient is zero, or that was never
        seen, is left out of the sum and gets the weight that the median would have; r_i^alpha is kept within 1e-12 and
        1e12, so that a solved task is not given up for good.
    """

    family = "norms"
    source = "ours, after Chen et al., 2018: GradNorm"
    url = "https://arxiv.org/abs/1711.02257"
    rule = "weight_i = K (r_i^alpha / n_i) / sum_j (r_j^alpha / n_j), r_i = relative loss ratio, n_i = gradient norm"
    cost = COST
    state = "norm, first loss and loss ratio of each task"
    ours = "the method; the target is GradNorm's"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        alpha: float = 1.5,
        smoothing: float | None = None,
        every: int = 1,
        epsilon: float = 1e-8,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks,
            alpha=alpha,
            smoothing=smoothing,
            every=every,
            epsilon=epsilon,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        norms, active = self._updated(statistics)
        return inverse_norm_weights(norms / self._targets(losses, present), active, floor=None, scale="tasks")
