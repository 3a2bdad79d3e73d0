"""FairGrad: what the tasks gain from the update is shared out alpha-fairly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import number, whole


@register("fairgrad")
class FairGrad(GramianBalancer):
    """Weights the tasks so that their gains g_i . d from the update d are alpha-fair.

    G w = w^(-1 / alpha)  elementwise, which maximises  sum_i (g_i . d)^(1 - alpha) / (1 - alpha)  over updates of a length

    alpha = 0 is the mean of the gradients, 1 Nash-MTL's bargain, and towards infinity the worst-off task alone counts.

    References:
        Fair Resource Allocation in Multi-Task Learning (Ban and Ji, 2024)
        https://arxiv.org/abs/2402.15638

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        alpha: 0 or more. The official runs (QM9, CelebA, MetaWorld): 2.0; the official class and LibMTL: 1.0.
        max_steps: function evaluations of the solver; None: 100 a task.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 8, "label": hidden[:, 1] * 1}
        >>> balancer = FairGrad(alpha=2.0)
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.0625, 'label': 1.0}

    Note:
        The solver is scipy's least squares, as in the official code and by way of TorchJD. It stops short of the root
        where the tasks' norms are far apart, so we hand it the same problem in units in which every task alone would
        have weight 1: w_i = n_i^(-2 alpha / (1 + alpha)) x_i, for which the matrix is c_ij (n_i / n_j)^((alpha - 1) /
        (alpha + 1)). The root is the same. The size of the update is the problem's: above alpha = 1 it grows as
        gradients fade. The official code multiplies the shared gradient by K and clips it to norm 1; here clipping is
        the training loop's.
    """

    family = "gramian"
    source = "Ban and Ji, 2024: Fair Resource Allocation in Multi-Task Learning"
    url = "https://arxiv.org/abs/2402.15638"
    rule = "G w = w^(-1 / alpha) elementwise, G = Gramian"
    needs = "shared; extra `torchjd`"
    cost = COST + " (scipy: milliseconds)"
    state = STATE
    ours = "the solver's units, absent tasks, smoothing, every, double_batch"

    scale_free = False

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        alpha: float = 2.0,
        max_steps: int | None = None,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, smoothing=smoothing, every=every, double_batch=double_batch, on_nonfinite=on_nonfinite
        )
        self.alpha = number("alpha", alpha, low=0)
        self.max_steps = None if max_steps is None else whole("max_steps", max_steps, low=1)
        self._solver = Solver("FairGradWeighting", alpha=self.alpha, max_iters=self.max_steps)

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        if self.alpha == 0:
            return self._solver(gramian)
        norms = gramian.diagonal().sqrt()
        cosines = gramian / (norms[:, None] * norms[None, :])
        lean = norms ** ((self.alpha - 1) / (self.alpha + 1))
        units = norms ** (-2 * self.alpha / (1 + self.alpha))
        return units * self._solver(cosines * lean[:, None] / lean[None, :])
