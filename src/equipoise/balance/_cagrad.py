"""CAGrad: the update near the mean gradient that serves the worst-off task best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, number


@register("cagrad")
class CAGrad(GramianBalancer):
    """Finds the best update for the worst-off task within a ball round the mean gradient.

    max_d min_i g_i . d   with  |d - g_0| <= c |g_0|,   g_0 = (1 / K) sum_i g_i;
    d = g_0 + c |g_0| g_v / |g_v|,   g_v = sum_i v_i g_i,   v = argmin g_v . g_0 + c |g_0| |g_v|  on the simplex

    References:
        Conflict-Averse Gradient Descent for Multi-task Learning (Liu et al., 2021)
        https://arxiv.org/abs/2110.14048

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        c: radius of the ball in units of the mean gradient, 0 or more: 0 is the mean, below 1 the method converges to a
            minimum of the mean loss. The class in the authors' FAMO code has 0.4, LibMTL 0.5.
        scale: `"one"`: as in the paper, where equal tasks weigh (1 + c) / K each; `"tasks"`: times the number of tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD or its solver is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 3}
        >>> balancer = CAGrad(c=0.5)
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.75, 'label': 0.75}

    Note:
        The official code divides the update by 1 + c^2, and its class multiplies it by K: constants that belong to the
        learning rate. The paper's Algorithm 1, TorchJD and we do neither. The problem is solved with Clarabel by way of
        TorchJD instead of by scipy. Where g_v is next to zero, at a Pareto-stationary point, all weights are zero.
    """

    family = "gramian"
    source = "Liu et al., 2021: Conflict-Averse Gradient Descent"
    url = "https://arxiv.org/abs/2110.14048"
    rule = "max_d min_i g_i . d within c |mean g| of the mean gradient"
    needs = "shared; extra `cvxpy`"
    cost = COST + " (cvxpy: milliseconds)"
    state = STATE
    ours = "absent tasks, smoothing, every, scale, double_batch"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        c: float = 0.4,
        scale: Scale = "one",
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks,
            scale=scale,
            smoothing=smoothing,
            every=every,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        self.c = number("c", c, low=0)
        self._solver = Solver("CAGradWeighting", c=self.c)

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns the weights, `[m]`."""
        return self._solver(gramian)
