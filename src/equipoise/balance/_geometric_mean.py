"""The geometric mean of the losses: scale-invariant, and slower the nearer the tasks are to their aim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import LastLosses, fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import number


@register("geometric_mean")
class GeometricMean(LastLosses):
    """Descends the geometric mean of the losses (GLS).

    min G,   G = (prod_i L_i)^(1/K),   so L = sum_i w_i L_i  with  w_i = G / (K L_i), a constant of the step

    K is the number of tasks of the run. A loss in another unit, c L_i, scales every weight alike, so the direction of the
    update stays the same. The returned value sum_i w_i L_i is G itself when all tasks are present.

    References:
        MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning
        (Chennupati et al., 2019)
        https://arxiv.org/abs/1902.08325

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        epsilon: a loss counts as at least this much, above 0, in the loss's unit.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(4.0, requires_grad=True)}
        >>> balancer = GeometricMean()
        >>> loss = balancer(losses)
        >>> balancer.last["weights"]
        {'a': 1.0, 'b': 0.25}

    Note:
        A task that is solved draws G, and with it every weight, towards 0: that is the method. Ours: `epsilon`, where the
        product alone would give 0 times infinity (a loss below it, negative ones included, counts as `epsilon`), and that
        an absent task stands in G with its last loss; one that was never seen leaves G as the others make it.
    """

    family = "baselines"
    source = "Chennupati et al., 2019: MultiNet++ (geometric loss strategy, GLS)"
    url = "https://arxiv.org/abs/1902.08325"
    rule = "weight_i = G / (K L_i), the gradient of G = (prod_i L_i)^(1/K)"
    cost = "none"
    state = "last loss of each task"
    ours = "epsilon; absent tasks count with their last loss"

    positive_losses = True

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        epsilon: float = 1e-8,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, monitor=monitor, monitor_every=monitor_every, on_nonfinite=on_nonfinite)
        self.epsilon = number("epsilon", epsilon, low=1e-30)

    def initial_weights(self) -> Tensor:
        """Returns the weights of equal losses, `[tasks]`."""
        return torch.full((len(self.tasks),), 1 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        losses, known = self.with_latest(losses, present)
        logs = fill_unknown(losses.clamp(min=self.epsilon).log(), known)
        return (logs.mean() - logs).exp() / len(self.tasks)
