"""DWA: weights by how fast each task's loss fell of late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number, whole

#: Steps in a window of an epoch of unknown length.
UNTOLD = 100


@register("dwa")
class DWA(Balancer):
    """Weights each task by its recent rate of descent (dynamic weight average).

    L = sum_i w_i L_i,   w = K softmax(r / T),   r_i = M_i(t - 1) / M_i(t - 2)

    M_i(t) is task i's mean loss in window t, T a temperature, K the number of tasks. A task whose loss falls slowly
    (r near 1) counts more than one whose loss falls fast; large T gives equal weights. Equal weights in the first two
    windows, for want of a ratio.

    References:
        End-to-End Multi-Task Learning with Attention (Liu et al., 2019)
        https://arxiv.org/abs/1803.10704

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        temperature: T, above 0. The paper: 2.
        window: steps in a window, 1 or more. None: an epoch's, the paper's window, where a trainer has said how many those
            are (`epoch`; ours and `BalancedTrainer` do), else 100. Shorter windows react sooner and follow the noise of
            batches more.
        scale: `"tasks"`: the weights sum to K, as in the paper; `"one"`: to 1.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> balancer = DWA(window=1)
        >>> for a, b in ((2.0, 2.0), (1.0, 2.0), (1.0, 2.0)):  # r = 1/2 and 1
        ...     loss = balancer({"a": torch.tensor(a, requires_grad=True), "b": torch.tensor(b, requires_grad=True)})
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'a': 0.876, 'b': 1.124}

    Note:
        Ours: `window` in other steps than an epoch's, `scale`, and what the paper leaves open: a window's mean is over the
        steps in which the task was present; a task without an example in a whole window keeps the means it has; r is 1
        for a task that has not two means yet, or whose earlier mean is not above 0.
    """

    family = "losses"
    source = "Liu et al., 2019: End-to-End Multi-Task Learning with Attention"
    url = "https://arxiv.org/abs/1803.10704"
    rule = "weight = K softmax(r / T), r_i = mean loss of the last window / of the one before"
    cost = "none"
    state = "mean losses of two windows, sum and count of the running one"
    ours = "windows of any number of steps, scale; absent tasks keep their means"

    positive_losses = True

    older: Tensor  # [tasks], M(t - 2); 0 until there is one
    newer: Tensor  # [tasks], M(t - 1)
    total: Tensor  # [tasks], sum of the losses in the running window
    count: Tensor  # [tasks] int64, steps of the running window in which the task was present

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        temperature: float = 2.0,
        window: int | None = None,
        scale: Scale = "tasks",
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.temperature = number("temperature", temperature, low=1e-20)
        self.window = None if window is None else whole("window", window, low=1)
        self.scale = choice("scale", scale, ("tasks", "one"))
        for name in ("older", "newer", "total"):
            self.add_task_buffer(name)
        self.add_task_buffer("count", dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        # Finite, however small the earlier mean; that is 0 until a task has two.
        ratio = (self.newer / self.older).clamp(max=1e6).where(self.older > 0, 1)
        return (len(self.tasks) if self.scale == "tasks" else 1) * (ratio / self.temperature).softmax(0)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Adds the losses to the running window, and closes the window when it is full."""
        self.total += losses.where(present, 0)
        self.count += present
        if (self._steps + 1) % (self.window or self.epoch or UNTOLD):
            return
        filled = self.count > 0
        mean = self.total / self.count.clamp(min=1)
        self.older.copy_(self.newer.where(filled, self.older))
        self.newer.copy_(mean.where(filled, self.newer))
        self.total.zero_()
        self.count.zero_()
