"""Aligned-MTL: the gradients are made orthogonal and equally long before they are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE
from equipoise.balance._preferences import PreferenceBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice


@register("aligned_mtl")
class AlignedMTL(PreferenceBalancer):
    """Weights the tasks so that the principal components of their gradients all have the same length.

    w = sqrt(s) V diag(1 / sqrt(l)) V' p,   G = V diag(l) V',   s = min_i l_i

    l are the eigenvalues of the Gramian that are not zero, p the preferences (1 / K each by default).

    References:
        Independent Component Alignment for Multi-Task Learning (Senushkin et al., 2023)
        https://arxiv.org/abs/2305.19000

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        preferences: task name -> number above 0, for every task; only their ratios count. None: all alike.
        component: what the common length is: s is the `"min"` of the eigenvalues, as in the paper, their `"median"`, or
            their mean, `"rmse"`. The official solver has the three, and `"min"` as its default.
        scale: `"one"`: as in the paper, where equal orthogonal tasks weigh 1 / K each; `"tasks"`: times the number of
            tasks.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, a setting is out of its range, or preferences are not of the tasks.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 4, "label": hidden[:, 1] * 1}
        >>> balancer = AlignedMTL()
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.125, 'label': 0.5}

    Note:
        With `"min"` the update is as short as its weakest component: gradients that are nearly dependent make it small.
        An eigenvalue counts as zero as in TorchJD: below K times the rounding error of the largest, in float64.
    """

    family = "gramian"
    source = "Senushkin et al., 2023: Independent Component Alignment for Multi-Task Learning"
    url = "https://arxiv.org/abs/2305.19000"
    rule = "w = sqrt(s) G^(-1/2) p, G = Gramian, s = its smallest eigenvalue, p = preferences"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE
    ours = "absent tasks, smoothing, every, scale, double_batch"

    weighting = "AlignedMTLWeighting"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        component: Literal["min", "median", "rmse"] = "min",
        scale: Scale = "one",
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks,
            preferences=preferences,
            scale=scale,
            smoothing=smoothing,
            every=every,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        self.component = choice("component", component, ("min", "median", "rmse"))
        self._solver = Solver(self.weighting, scale_mode=self.component)
