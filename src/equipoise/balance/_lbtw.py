"""LBTW: weights by how much of its first loss each task still has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import LastLosses, fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number, whole


@register("lbtw")
class LBTW(LastLosses):
    """Weights each task by the share of its first loss that is left (loss-balanced task weighting).

    L = sum_i w_i L_i,   w_i = (L_i / L_i0)^alpha,  constants of the step

    L_i0 is the task's loss in its first batch. Tasks that lag behind count more; alpha = 0 gives equal weights.

    References:
        Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task Learning (Liu et al., 2019)
        https://doi.org/10.1609/aaai.v33i01.33019977

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        alpha: the exponent, zero or more. The authors' configuration: 0.5.
        restart: take the first losses anew each so many steps; None keeps those of the run's first batch. The paper's
            code takes them anew in each epoch: give an epoch's steps for that.
        scale: None uses the powers as they stand; `"tasks"` divides the weights so that they sum to the number of tasks,
            as the paper's code does; `"one"` so that they sum to 1.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> balancer = LBTW(alpha=0.5)
        >>> for a, b in ((1.0, 4.0), (0.25, 4.0)):
        ...     loss = balancer({"a": torch.tensor(a, requires_grad=True), "b": torch.tensor(b, requires_grad=True)})
        >>> balancer.last["weights"]
        {'a': 0.5, 'b': 1.0}

    Note:
        The authors' code (github.com/chao1224/Loss-Balanced-Task-Weighting) normalises the weights to the number of tasks
        and restarts in every epoch; a balancer knows no epochs, so both are settings here, and `scale="tasks"` with
        `restart` at an epoch's steps is that code. Ours: a loss that is not above
        0 cannot be a first loss, so the ratio is 1 until there is one; negative losses count as 0; an absent task keeps
        its ratio, and one that was never seen counts as the mean of the others' powers.
    """

    family = "losses"
    source = "Liu et al., 2019: Loss-Balanced Task Weighting"
    url = "https://doi.org/10.1609/aaai.v33i01.33019977"
    rule = "weight_i = (L_i / L_i0)^alpha, L_i0 = loss in the first batch: what lags behind counts more"
    cost = "none"
    state = "first and last loss of each task"
    ours = (
        "by default the run's first batch, not each epoch's, and no fixed sum (restart and scale make it the authors' "
        "code); absent tasks count with their last ratio"
    )

    positive_losses = True

    first: Tensor  # [tasks], L_i0; 0 until there is one
    round: Tensor  # [tasks] int64, the restart at which it was taken; -1 before

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        alpha: float = 0.5,
        restart: int | None = None,
        scale: Scale | None = None,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, monitor=monitor, monitor_every=monitor_every, on_nonfinite=on_nonfinite)
        self.alpha = number("alpha", alpha, low=0)
        self.restart = None if restart is None else whole("restart", restart, low=1)
        self.scale = None if scale is None else choice("scale", scale, ("tasks", "one"))
        self.add_task_buffer("first")
        self.add_task_buffer("round", fill=-1, dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), 1 / len(self.tasks) if self.scale == "one" else 1.0)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        first = self._first(losses, present)
        losses, known = self.with_latest(losses, present)
        ratio = (losses.clamp(min=0) / first).where(first > 0, 1)
        powers = fill_unknown(ratio.clamp(max=1e12) ** self.alpha, known)  # stays finite for a first loss near 0
        if self.scale is None:
            return powers
        total = len(self.tasks) if self.scale == "tasks" else 1
        return (total * powers / powers.sum()).where(powers.sum() > 0, total / len(self.tasks))

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the first losses, and the last ones."""
        self.first.copy_(self._first(losses, present))
        self.round.copy_(torch.where(self._fresh_ones(losses, present), self._number(), self.round))
        super().observe(losses, present, statistics)

    def _number(self) -> int:
        return 0 if self.restart is None else self._steps // self.restart

    def _fresh_ones(self, losses: Tensor, present: Tensor) -> Tensor:
        # By number rather than by step: a task that is absent from the step of a restart starts anew when it comes back.
        return present & (losses > 0) & (self.round != self._number())

    def _first(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.where(self._fresh_ones(losses, present), self.first.to(losses))
