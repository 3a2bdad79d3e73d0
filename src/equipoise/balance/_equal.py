"""Equal weights: the plain sum, the baseline that most methods fail to beat clearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice


@register("equal")
class Equal(Balancer):
    """Gives every task the same constant weight.

    L = sum_i L_i  (`scale="tasks"`),   L = (1 / K) sum_i L_i  (`scale="one"`),   K = number of tasks of the run

    K counts the tasks that are absent from the batch too, so a task's weight does not depend on who else is there.

    References:
        In Defense of the Unitary Scalarization for Deep Multi-Task Learning (Kurin et al., 2022)
        https://arxiv.org/abs/2201.04122

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        scale: `"tasks"`: the weights sum to K; `"one"`: they sum to 1.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0, requires_grad=True)}
        >>> Equal()(losses)
        tensor(3., grad_fn=<SumBackward0>)
    """

    family = "baselines"
    source = "Kurin et al., 2022: In Defense of the Unitary Scalarization"
    url = "https://arxiv.org/abs/2201.04122"
    rule = "weight_i = 1"
    cost = "none"
    state = "none"
    ours = "scale"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        scale: Scale = "tasks",
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.scale = choice("scale", scale, ("tasks", "one"))

    def initial_weights(self) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return torch.full_like(losses, 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))
