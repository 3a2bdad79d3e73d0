"""MGDA: the shortest of all weighted means of the gradients, which lowers every loss or shows that none can be lowered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number, whole
from equipoise.errors import BalanceError


@register("mgda")
class MGDA(GramianBalancer):
    """Weights the tasks so that the weighted mean of their gradients is as short as it can be.

    w = argmin ||sum_i w_i g_i / s_i||^2   with w_i >= 0, sum_i w_i = 1

    g_i is the gradient of task i's loss L_i; s_i = 1 unless `normalise` is set.

    References:
        Multi-Task Learning as Multi-Objective Optimization (Sener and Koltun, 2018)
        https://arxiv.org/abs/1810.04650

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        normalise: what the gradients are divided by for the solve: None for nothing, as in the paper's algorithm;
            `"norm"`: s_i = |g_i|; `"loss"`: s_i = L_i; `"loss_norm"`: s_i = L_i |g_i|. The official code has all four.
        tolerance: the solver stops when its step is shorter, in (0, 1). TorchJD's default.
        max_steps: of the solver.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}
        >>> balancer = MGDA()
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.1, 'label': 0.9}

    Note:
        At a representation this is the paper's MGDA-UB. The solver is TorchJD's Frank-Wolfe, as the paper's Algorithm 2:
        exact for two tasks, within the tolerance for more. With a noisy batch the task with the larger noise gets too
        little weight (see MoDo). Where the gradients cancel, as at a Pareto-stationary point, the update is zero.
    """

    family = "gramian"
    source = "Sener and Koltun, 2018: Multi-Task Learning as Multi-Objective Optimization"
    url = "https://arxiv.org/abs/1810.04650"
    rule = "w = argmin ||sum_i w_i g_i||, w on the simplex"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE + "; last losses"
    ours = "absent tasks, smoothing, every, scale, double_batch"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        normalise: Literal["norm", "loss", "loss_norm"] | None = None,
        tolerance: float = 0.001,
        max_steps: int = 100,
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
        self.normalise = None if normalise is None else choice("normalise", normalise, ("norm", "loss", "loss_norm"))
        self.tolerance = number("tolerance", tolerance, above=0, below=1)
        self.max_steps = whole("max_steps", max_steps, low=1)
        self._solver = Solver("MGDAWeighting", epsilon=self.tolerance, max_iters=self.max_steps)

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        sizes = torch.ones_like(losses)
        if self.normalise in ("norm", "loss_norm"):
            sizes = sizes * gramian.diagonal().sqrt()
        if self.normalise in ("loss", "loss_norm"):
            for row, loss in zip(rows, losses.tolist(), strict=True):
                if loss <= 0:
                    raise BalanceError(
                        f"task {self.tasks[row]!r}: normalise={self.normalise!r} divides by the loss, which is {loss:.6g}"
                    )
            sizes = sizes * losses
        return self._solver(gramian / (sizes[:, None] * sizes[None, :]))
