"""MoDo: MGDA by small steps, from two independent half batches, so that noise does not choose the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._cross import COST, CrossBalancer
from equipoise.balance._foreign import Solver
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, number


@register("modo")
class MoDo(CrossBalancer):
    """Moves the weights each step towards the shortest weighted mean of the gradients.

    w <- P(w - gamma (A w + rho w)),   A_ij = g_i(even half) . g_j(odd half)

    P is the projection onto the simplex, and w starts at 1 / K each. The update uses the new w, and the gradients of both
    halves.

    References:
        Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and Conflict-Avoidance
        (Chen et al., 2023)
        https://arxiv.org/abs/2305.20057

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        gamma: step of the weights in units of 1 / squared gradient norm, 0 or more; 0 keeps them equal. The official
            code: 0.1; LibMTL: 0.001.
        rho: pulls the weights towards each other, 0 or more. The official code: 0.1.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        every: measure and move each so many steps, and keep the weights between. The paper: 1.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> hidden = layer(torch.ones(4, 2))
        >>> losses = {"polarity": hidden[:, 0] * 2, "label": hidden[:, 1] * 1}  # [n] each; squared norms 8 and 2
        >>> balancer = MoDo(gamma=0.1, rho=0.0)
        >>> loss = balancer(losses, shared=layer.parameters())
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.35, 'label': 0.65}

    Note:
        The paper takes two independent batches of the full size; we take the two halves of one batch, so the noise in A
        is larger and the update's as in one batch. LibMTL takes a third batch for the update. The official code sums
        the two batches' gradients, which only doubles the learning rate; we average, as the paper does. gamma has a
        unit: losses in other units need another one. A task alone in its batch keeps its weight.
    """

    family = "gramian"
    source = "Chen et al., 2023: Three-Way Trade-Off in Multi-Objective Learning"
    url = "https://arxiv.org/abs/2305.20057"
    rule = (
        "w <- projection onto the simplex of w - gamma (A w + rho w), A = inner products between gradients of two half "
        "batches"
    )
    needs = "shared parameters, per-example losses; extra `torchjd`"
    cost = COST
    state = "weight of each task"
    ours = "two halves of one batch, absent tasks, scale, every"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        gamma: float = 0.1,
        rho: float = 0.1,
        scale: Scale = "one",
        every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, scale=scale, every=every, on_nonfinite=on_nonfinite)
        self.gamma = number("gamma", gamma, low=0)
        self.rho = number("rho", rho, low=0)
        self._solver = Solver("MoDoWeighting", gamma=self.gamma or 1.0, rho=self.rho)  # which refuses 0

    def advance(self, cross: Tensor, point: Tensor) -> Tensor:
        """Returns the weights after the step, `[m]`."""
        if self.gamma == 0:
            return point
        module = self._solver.module
        module._lambda, module._state_key = point, (len(point), cross.dtype, cross.device)
        return self._solver(cross)
