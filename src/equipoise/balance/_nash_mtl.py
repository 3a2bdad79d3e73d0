"""Nash-MTL: the update on which the tasks, each bargaining for its own gain, would agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import number

_LARGEST = 1e3  # of a weight in units of its task's norm; larger ones mean that the gradients cancel
_RIDGE = 1e-6


@register("nash_mtl")
class NashMTL(GramianBalancer):
    """Weights the tasks by the Nash bargaining solution.

    G a = 1 / a,   w = a min(1, max_norm / |sum_i a_i g_i|)

    G is the Gramian, 1 / a is elementwise. The a that solves this is the minimum of the convex
    a'Ga / 2 - sum_i log a_i,  and its update d maximises sum_i log(g_i . d) among all of its length, which is sqrt(K).

    References:
        Multi-Task Learning as a Bargaining Game (Navon et al., 2022)
        https://arxiv.org/abs/2202.01017

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        max_norm: the update is shortened to this norm where it is measured, above 0; None: it is not. The official
            code: 1.0.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The official code: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 4, "label": hidden[:, 1] * 1}
        >>> balancer = NashMTL(max_norm=2**0.5)
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.25, 'label': 1.0}

    Note:
        The paper and its official code solve a sequence of convex approximations with a solver; the problem is convex
        as it stands, so we minimise it by Newton's method on the cosines, where a task's unit cancels, to the last
        digits. The length sqrt(K) does not depend on the gradients, so `max_norm=1.0` always binds for two tasks or more:
        the update has length 1 where it is measured, however near the end. Not so in the official code: it divides G by
        its Frobenius norm before it solves, so its update is sqrt(K |G|_F) long before it is shortened, and fades with
        the gradients once they are small. The directions are the same. The official code shortens the shared gradient
        only; our weights act on the heads too. Where gradients cancel there is no solution: 1e-6 is then added to the
        cosines' diagonal, which keeps the weights finite.
    """

    family = "gramian"
    source = "Navon et al., 2022: Multi-Task Learning as a Bargaining Game"
    url = "https://arxiv.org/abs/2202.01017"
    rule = "G w = 1 / w elementwise, G = Gramian; then shortened so that the update is at most max_norm long"
    cost = COST
    state = STATE
    ours = (
        "solved by Newton's method, G not divided by its norm (official code), absent tasks, smoothing, double_batch; "
        "max_norm shortens the heads' gradients too"
    )

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        max_norm: float | None = 1.0,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, smoothing=smoothing, every=every, double_batch=double_batch, on_nonfinite=on_nonfinite
        )
        self.max_norm = None if max_norm is None else number("max_norm", max_norm, above=0)

    scale_free = False

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        norms = gramian.diagonal().sqrt()
        cosines = gramian / (norms[:, None] * norms[None, :])
        shares = bargain(cosines)
        if shares.max() > _LARGEST:
            shares = bargain(cosines + _RIDGE * torch.eye(len(cosines), dtype=cosines.dtype))
        weights: Tensor = shares / norms
        if self.max_norm is not None:
            length = (weights @ gramian @ weights).clamp(min=0).sqrt()
            weights = weights * (self.max_norm / length).clamp(max=1)
        return weights


def bargain(
    cosines: Tensor,  # [m, m] float64, positive semidefinite, 1 on the diagonal
) -> Tensor:
    """Returns the v > 0 with  C v = 1 / v,  the minimum of  v'Cv / 2 - sum_i log v_i,  `[m]`.

    Example:
        >>> bargain(torch.eye(2, dtype=torch.float64))
        tensor([1., 1.], dtype=torch.float64)
    """
    v = torch.full((len(cosines),), len(cosines) ** -0.5, dtype=cosines.dtype)
    for _ in range(200):
        slope = cosines @ v - 1 / v
        step = torch.linalg.solve(cosines + torch.diag(v**-2), slope)
        decrement = (slope @ step).clamp(min=0).sqrt()
        # The objective is self-concordant: with this damping a step never leaves v > 0, and the end is quadratic.
        v = v - step / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-14 or v.max() > 10 * _LARGEST:
            break
    return v
