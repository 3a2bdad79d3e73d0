"""SDMGrad: MoDo's unbiased weights, pulled towards a direction of choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._cross import COST, CrossBalancer
from equipoise.balance._foreign import Solver
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, number, whole


@register("sdmgrad")
class SDMGrad(CrossBalancer):
    """Finds the worst-off task's direction, kept near the mean gradient, from two independent half batches.

    w = (v + pull p) / (1 + pull),   p = 1 / K each,
    u <- momentum u + A (v + pull p) / s^2,  v <- P(v - rate u),   repeated `iterations` times each step

    A_ij = g_i(even half) . g_j(odd half),  s = mean_i sqrt(max(A_ii, 0)),  P is the projection onto the simplex. v starts
    at 1 / K each and goes on from step to step; u starts anew.

    References:
        Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms (Xiao et al., 2023)
        https://arxiv.org/abs/2305.18409

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        pull: towards the mean gradient, 0 or more: 0 is MGDA's direction, much is equal weights. The official
            experiments: 0.3 (the class there: 0.6).
        rate: step of v, above 0. The official code: 10; LibMTL: 5.
        momentum: in [0, 1). The official code: 0.5.
        iterations: a step, 1 or more. The official code: 20.
        scale: `"one"`: the weights sum to 1, as in the official code; `"tasks"`: to the number of tasks.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> hidden = layer(torch.ones(4, 2))
        >>> losses = {"polarity": hidden[:, 0] * 2, "label": hidden[:, 1] * 2}  # [n] each
        >>> balancer = SDMGrad()
        >>> loss = balancer(losses, shared=layer.parameters())
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.5, 'label': 0.5}

    Note:
        The paper takes three batches: two for A and a third for the update. We take the two halves of one batch for A and
        both of them for the update, so the weights and the update share noise. The division by s^2, in the official code
        and named in the paper's section 6.1, makes `rate` free of the losses' units. The tasks of a batch are solved
        for among themselves.
    """

    family = "gramian"
    source = "Xiao et al., 2023: Direction-oriented Multi-objective Learning"
    url = "https://arxiv.org/abs/2305.18409"
    rule = "w ~ v + pull / K, v minimises ||sum_i (v_i + pull / K) g_i|| on the simplex by SGD between two half batches"
    needs = "shared parameters, per-example losses; extra `torchjd`"
    cost = COST
    state = "point on the simplex"
    ours = "two halves of one batch, absent tasks, scale, every"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        pull: float = 0.3,
        rate: float = 10.0,
        momentum: float = 0.5,
        iterations: int = 20,
        scale: Scale = "one",
        every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, scale=scale, every=every, on_nonfinite=on_nonfinite)
        self.pull = number("pull", pull, low=0)
        self.rate = number("rate", rate, above=0)
        self.momentum = number("momentum", momentum, low=0, below=1)
        self.iterations = whole("iterations", iterations, low=1)
        self._solver = Solver(
            "SDMGradWeighting", lr=self.rate, momentum=self.momentum, n_iter=self.iterations, lambda_=self.pull
        )

    def advance(self, cross: Tensor, point: Tensor) -> Tensor:
        """Returns v after the step, `[m]`."""
        module = self._solver.module
        module._w, module._state_key = point, (len(point), cross.dtype, cross.device)
        self._solver(cross)
        moved: Tensor = module._w
        return moved

    def answer(self, point: Tensor) -> Tensor:
        """Returns w, `[tasks]`."""
        return (point + self.pull / len(point)) / (1 + self.pull)
