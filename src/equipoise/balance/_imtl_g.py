"""IMTL-G: the update has the same projection on every task's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale


@register("imtl_g")
class IMTLG(GramianBalancer):
    """Weights the tasks so that their weighted sum has the same projection on each task's direction.

    w = v / sum_j v_j,   v = G^+ d,   which solves  g . g_i / |g_i| = g . g_j / |g_j|  with  g = sum_i w_i g_i

    G^+ is the pseudo-inverse of the Gramian, d_i = |g_i|. Weights can be negative.

    References:
        Towards Impartial Multi-task Learning (Liu et al., 2021)
        https://discovery.ucl.ac.uk/id/eprint/10120667/

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}
        >>> balancer = IMTLG()
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.25, 'label': 0.75}

    Note:
        The paper solves for linearly independent gradients; TorchJD's form with the pseudo-inverse, used here, agrees
        there and extends it. Where the v sum to zero all weights are zero. For orthogonal gradients this is DAO's rule.
        IMTL of the paper is IMTL-G and IMTL-L together.
    """

    family = "gramian"
    source = "Liu et al., 2021: Towards Impartial Multi-task Learning"
    url = "https://discovery.ucl.ac.uk/id/eprint/10120667/"
    rule = "w ~ G^+ d, G = Gramian, d_i = |g_i|: equal projections on all tasks' directions"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE
    ours = "absent tasks, smoothing, every, scale, double_batch"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
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
        self._solver = Solver("IMTLGWeighting")

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        return self._solver(gramian)
