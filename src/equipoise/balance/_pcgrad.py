"""PCGrad: each gradient drops what it has against the others, in a random order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import whole
from equipoise.balance._streams import stream


@register("pcgrad")
class PCGrad(GramianBalancer):
    """Sums the tasks' gradients after each one was projected off those that it conflicts with.

    h_i = g_i;  for every other j in random order: if h_i . g_j < 0 then h_i -= (h_i . g_j / |g_j|^2) g_j;
    update = sum_i h_i = sum_i w_i g_i

    References:
        Gradient Surgery for Multi-Task Learning (Yu et al., 2020)
        https://arxiv.org/abs/2001.06782

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        seed: of the orders. Each step draws from a generator of its own, so that resuming changes nothing.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0], "label": hidden[:, 1] - hidden[:, 0]}
        >>> balancer = PCGrad()
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 2.0, 'label': 1.5}

    Note:
        The paper's update is the sum, and so is ours; some codes average. The weights act on the heads too, which the
        paper trains on the plain losses: a task in conflict trains its own head faster. The paper and its official
        code leave the heads out of the projection.
    """

    family = "gramian"
    source = "Yu et al., 2020: Gradient Surgery for Multi-Task Learning"
    url = "https://arxiv.org/abs/2001.06782"
    rule = "each g_i drops its component against every g_j it conflicts with; the sum of what is left"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE
    ours = "absent tasks, seed, smoothing, every, double_batch; the weights act on the heads too"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        seed: int = 0,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, smoothing=smoothing, every=every, double_batch=double_batch, on_nonfinite=on_nonfinite
        )
        self.seed = whole("seed", seed, low=0)
        self._solver = Solver("PCGradWeighting")

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        return self._solver(gramian, stream(self.seed, self._steps))
