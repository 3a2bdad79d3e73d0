"""Fixed weights: the baseline that has to be tuned before any other method is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import did_you_mean, register
from equipoise.balance._settings import Scale, choice
from equipoise.errors import BalanceError


@register("fixed")
class Fixed(Balancer):
    """Gives every task the constant weight that the user chose.

    L = sum_i c_i L_i

    References:
        Do Current Multi-Task Optimization Methods in Deep Learning Even Help? (Xin et al., 2022)
        https://arxiv.org/abs/2209.11379

    Args:
        weights: task name -> weight, zero or more, not all zero.
        tasks: every task's name; None takes them from `weights`.
        normalise: None uses the weights as they stand; `"one"` divides them so that they sum to 1, `"tasks"` so that
            they sum to the number of tasks, as DAO's do.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: the weights' names are not the tasks, or a weight is negative or not finite.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0, requires_grad=True)}
        >>> Fixed(weights={"a": 3.0, "b": 0.5})(losses)
        tensor(4., grad_fn=<SumBackward0>)
    """

    family = "baselines"
    source = "Xin et al., 2022: Do Current Multi-Task Optimization Methods in Deep Learning Even Help?"
    url = "https://arxiv.org/abs/2209.11379"
    rule = "weight_i = c_i, chosen by the user"
    cost = "none; tuning costs one run a trial"
    state = "none"
    ours = "normalise"

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        tasks: Sequence[str] | None = None,
        normalise: Scale | None = None,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        settings: object = weights
        if not isinstance(settings, Mapping):
            raise BalanceError(f"weights must map every task's name to a number, found {weights!r}")
        super().__init__(
            tasks=list(weights) if tasks is None else tasks,
            on_nonfinite=on_nonfinite,
            monitor=monitor,
            monitor_every=monitor_every,
        )
        given: Mapping[str, object] = weights
        for task, weight in given.items():
            if task not in self.tasks:
                hint = did_you_mean(task, self.tasks)
                raise BalanceError(f"weights name no task {task!r}.{hint} Tasks: {', '.join(self.tasks)}")
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise BalanceError(f"weights.{task} must be a number, zero or more, found {weight!r}")
        if missing := [task for task in self.tasks if task not in weights]:
            raise BalanceError(f"weights lack a number for {', '.join(missing)}")
        if not any(weights.values()):
            raise BalanceError("weights must not all be zero")
        self.normalise = None if normalise is None else choice("normalise", normalise, ("tasks", "one"))
        total = sum(weights.values())
        factor = {None: 1.0, "one": 1 / total, "tasks": len(weights) / total}[self.normalise]
        # A setting, not state: a checkpoint must not bring back weights that the recipe has changed.
        self.constants = [weights[task] * factor for task in self.tasks]

    def initial_weights(self) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return torch.tensor(self.constants, dtype=torch.float64)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return torch.tensor(self.constants, dtype=losses.dtype, device=losses.device)
