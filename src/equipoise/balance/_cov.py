"""CoV: weights by how much each task's loss still varies, relative to its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice

# As in the authors' code: a variance counts as at least this much.
EPSILON = 1e-8


@register("cov")
class CoV(Balancer):
    """Weights each task by the coefficient of variation of its loss ratio.

    L = sum_i w_i L_i,   w_i = c_i / sum_j c_j,   c_i = sigma(l_i) / mu(l_i),   l_i(t) = L_i(t) / mu(L_i)(t - 1)

    mu(L_i)(t - 1) is task i's mean loss over all steps before t; mu(l_i) and sigma(l_i) are mean and standard deviation
    of the loss ratio l_i so far, l_i = 1 in the first step. A task whose loss no longer moves counts as solved; the unit
    of a loss plays no role.

    References:
        Multi-Loss Weighting with Coefficient of Variations (Groenendijk et al., 2021)
        https://arxiv.org/abs/2009.01717

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> balancer = CoV()
        >>> for a, b in ((1.0, 1.0), (3.0, 2.0), (1.0, 1.0)):  # ratios 1, 3 and 1, 2: c = 1/2 and 1/3
        ...     loss = balancer({"a": torch.tensor(a, requires_grad=True), "b": torch.tensor(b, requires_grad=True)})
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'a': 0.6, 'b': 0.4}

    Note:
        Where the formula leaves it open we follow the authors' code (github.com/rickgroen/cov-weighting), with its
        full-history means: the weights of a step come from the steps before it, so a batch's noise does not weigh
        itself; the first two steps have equal weights; the variance is over n, not n - 1 (a comment there says
        otherwise), plus 1e-8. Its decaying mean is left out: there the mean decays, but the sum of squares does not.
        Averages are Welford's. Ours: `scale`; each task counts its own steps, and one with fewer than two counts as the
        mean of the others' c; a ratio over a mean of 0 is 1, and none counts as more than 1e6.
    """

    family = "losses"
    source = "Groenendijk et al., 2021: Multi-Loss Weighting with Coefficient of Variations"
    url = "https://arxiv.org/abs/2009.01717"
    rule = "weight_i ~ sigma(l_i) / mu(l_i), deviation over mean so far of l_i = loss / mean loss before"
    cost = "none"
    state = "running means and variance of each task"
    ours = "scale; each task counts its own steps"

    positive_losses = True

    mean_loss: Tensor  # [tasks], mu(L)
    mean_ratio: Tensor  # [tasks], mu(l)
    squares: Tensor  # [tasks], sum of squared deviations of l from its mean
    count: Tensor  # [tasks] int64, steps in which the task was present

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        scale: Scale = "one",
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.scale = choice("scale", scale, ("tasks", "one"))
        for name in ("mean_loss", "mean_ratio", "squares"):
            self.add_task_buffer(name)
        self.add_task_buffer("count", dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        known = self.count >= 2
        deviation = (self.squares / self.count.clamp(min=1) + EPSILON).sqrt()
        variation = (deviation / self.mean_ratio).where(known & (self.mean_ratio > 0), 0)
        variation = fill_unknown(variation, known).where(known.any(), 1)
        total = len(self.tasks) if self.scale == "tasks" else 1
        return (total * variation / variation.sum()).where(variation.sum() > 0, total / len(self.tasks))

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Adds the step to the averages of the tasks that are present."""
        ratio = (losses / self.mean_loss).clamp(0, 1e6).where(self.mean_loss > 0, 1)
        self.count += present
        count = self.count.clamp(min=1)
        deviation = ratio - self.mean_ratio
        self.mean_ratio += (deviation / count).where(present, 0)
        self.squares += (deviation * (ratio - self.mean_ratio)).where(present, 0)
        self.mean_loss += ((losses - self.mean_loss) / count).where(present, 0)
