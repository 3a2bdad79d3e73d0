"""UW-SO: the weights that uncertainty weighting would learn, in closed form, through a softmax with a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import LastLosses, fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number


@register("uw_so")
class UWSO(LastLosses):
    """Weights each task by the softmax of its inverse loss (soft optimal uncertainty weighting).

    L = sum_i w_i L_i,   w = softmax((1 / L_i) / T),  constants of the step

    1 / L_i is, up to a factor, the weight at which uncertainty weighting would end for a loss that stayed at L_i; T, the
    temperature, says how much of the difference between tasks to keep: large T, equal weights. The softmax runs over all
    tasks of the run.

    References:
        Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning (Kirchdorfer et al., 2024)
        https://arxiv.org/abs/2408.07985

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        temperature: T, above 0, in the unit of 1 / loss. To be tuned: the paper tunes it for each data set and model.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        epsilon: a loss counts as at least this much, above 0, in the loss's unit.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(0.5, requires_grad=True)}
        >>> balancer = UWSO(temperature=1 / 1.0986123)  # ln 3, so that the weights come out as 1 to 3
        >>> loss = balancer(losses)
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'a': 0.25, 'b': 0.75}

    Note:
        The method is not scale-invariant: a loss near 0 takes all the weight unless T is large. Ours: the default T = 1
        (the paper has none), `scale`, `epsilon` (a loss below it, negative ones included, counts as `epsilon`), and that
        an absent task counts with its last loss; one that was never seen counts as the mean of the others' exponents.
    """

    family = "losses"
    source = "Kirchdorfer et al., 2024: Analytical Uncertainty-Based Loss Weighting"
    url = "https://arxiv.org/abs/2408.07985"
    rule = "weight = softmax((1 / L_i) / T)"
    cost = "none; T has to be tuned"
    state = "last loss of each task"
    ours = "scale, epsilon, the default of T; absent tasks count with their last loss"

    positive_losses = True

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        temperature: float = 1.0,
        scale: Scale = "one",
        epsilon: float = 1e-8,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, monitor=monitor, monitor_every=monitor_every, on_nonfinite=on_nonfinite)
        self.temperature = number("temperature", temperature, low=1e-20)
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.epsilon = number("epsilon", epsilon, low=1e-15)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        losses, known = self.with_latest(losses, present)
        exponents = fill_unknown(1 / losses.clamp(min=self.epsilon) / self.temperature, known)
        return (len(self.tasks) if self.scale == "tasks" else 1) * exponents.softmax(0)
