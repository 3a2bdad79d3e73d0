"""IMTL-L: learned scales that bring every loss to the same size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._adam import TaskOptimizer
from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register

# exp(30) is 1e13: more than any weight has use for, and finite in float32.
LIMIT = 30.0


@register("imtl_l")
class IMTLL(Balancer):
    """Learns a scale for each task, so that the scaled losses are alike.

    min sum_i exp(s_i) L_i - s_i,   so L = sum_i w_i L_i  with  w_i = exp(s_i)

    s_i is learned, from 0. At its optimum w_i = 1 / L_i: every weighted loss is 1, and the update is that of the sum of
    the logarithms (`log_sum`), only with the noise of single batches averaged out.

    References:
        Towards Impartial Multi-task Learning (Liu et al., 2021), its loss balance
        https://openreview.net/forum?id=IMPnRXEWpvr

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        lr: rate of the Adam that learns s, zero or more; s moves by about this much a step.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> import torch
        >>> balancer = IMTLL(lr=0.1)
        >>> for _ in range(300):
        ...     loss = balancer({"a": torch.tensor(0.5, requires_grad=True), "b": torch.tensor(4.0, requires_grad=True)})
        >>> {task: round(weight, 2) for task, weight in balancer.last["weights"].items()}
        {'a': 2.0, 'b': 0.25}

    Note:
        The paper learns s by the model's optimiser. Ours: s lives in this balancer's state and is moved by an Adam of
        its own, from the closed-form gradient exp(s_i) L_i - 1; it stays within +-30, so that a solved task's weight
        stays finite. The value returned is sum_i w_i L_i without the penalty. An absent task keeps its s. The paper's other
        half, IMTL-G, balances gradients and is a method of its own.
    """

    family = "losses"
    source = "Liu et al., 2021: Towards Impartial Multi-task Learning (loss balance)"
    url = "https://openreview.net/forum?id=IMPnRXEWpvr"
    rule = "weight_i = exp(s_i), s_i learned on exp(s_i) L_i - s_i"
    cost = "none"
    state = "s and Adam's moments of each task"
    ours = "s is learned by an optimiser of its own, kept in the state; the bound on s"

    positive_losses = True

    log_scale: Tensor  # [tasks], s

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        lr: float = 0.01,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.optimizer = TaskOptimizer(self, "log_scale", lr=lr, limit=LIMIT)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return self.log_scale.exp()

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Takes one step on s."""
        self.optimizer.step(self.log_scale.exp() * losses - 1, present)
