"""The sum of the losses' logarithms: no task gains weight by its unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import number


@register("log_sum")
class LogSum(Balancer):
    """Descends the sum of the losses' logarithms.

    min sum_i log L_i,   so L = sum_i w_i L_i  with  w_i = 1 / L_i, a constant of the step

    A loss in another unit, c L_i, gets the weight w_i / c: the update stays the same ("scale-invariant").

    References:
        Multi-Task Learning as a Bargaining Game (Navon et al., 2022), where it is the baseline SI
        https://arxiv.org/abs/2202.01017

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        epsilon: a loss counts as at least this much, above 0, in the loss's unit. The weight of a solved task is then
            1 / epsilon, and its gradient near 0.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> import torch
        >>> losses = {"a": torch.tensor(0.5, requires_grad=True), "b": torch.tensor(4.0, requires_grad=True)}
        >>> balancer = LogSum()
        >>> loss = balancer(losses)
        >>> balancer.last["weights"]
        {'a': 2.0, 'b': 0.25}

    Note:
        The returned value is sum_i w_i L_i, which is the number of tasks, whatever the losses: watch the plain losses
        instead. Only the gradient is that of sum_i log L_i. Ours: `epsilon`; a loss below it, negative ones included,
        counts as `epsilon`. An absent task's weight stands as it last was.
    """

    family = "baselines"
    source = "Navon et al., 2022: Multi-Task Learning as a Bargaining Game (baseline SI)"
    url = "https://arxiv.org/abs/2202.01017"
    rule = "weight_i = 1 / L_i, the gradient of sum_i log L_i"
    cost = "none"
    state = "none"
    ours = "epsilon"

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
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.epsilon = number("epsilon", epsilon, low=1e-30)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return (1 / losses.clamp(min=self.epsilon)).where(present, self.weights.to(losses))
