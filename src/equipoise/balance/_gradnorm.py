"""GradNorm: loss weights that are learned, so that gradient norms follow the tasks' training rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._adam import TaskOptimizer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import COST, RateBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import choice

_LEAST = 1e-3  # an Adam step is of size lr whatever the slope, and would carry a small weight below zero


@register("gradnorm")
class GradNorm(RateBalancer):
    """Learns weights under which slower tasks have larger gradients.

    L = sum_i w_i L_i;   w descends   sum_i |w_i n_i - G r_i^alpha|,   and is scaled to sum_i w_i = K

    n_i is the norm of task i's gradient at `shared`; G = mean_j w_j n_j; r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),
    above 1 where a task lags behind; K the number of tasks. G r_i^alpha is held constant, as in the paper, so the slope
    is known without a second differentiation: n_i sign(w_i n_i - G r_i^alpha).

    References:
        GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks (Chen et al., 2018)
        https://arxiv.org/abs/1711.02257

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        alpha: how strongly a lagging task is raised, 0 (equal norms) or more. The paper: 1.5 on NYUv2, 0.12 on its
            synthetic tasks.
        lr: learning rate of the weights, zero or more. Commonly given for the paper's runs: 0.025.
        optimizer: `"adam"` or `"sgd"`. A step of SGD is in proportion to n_i, so its lr depends on the losses' units.
        every: measure and learn each so many steps. The paper: 1.
        epsilon: a norm not above this share of the largest one counts as zero.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range; a loss is negative.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = GradNorm(lr=0.1, optimizer="sgd")
        >>> for _ in range(2):  # norms 3 and 2, mean 2.5: 1 - 0.1 * 3 and 1 + 0.1 * 2, then scaled to sum 2
        ...     loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 2}, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.7368, 'label': 1.2632}

    Note:
        The paper measures at the weights of the last shared layer: pass those; a recipe's `auto` does.
        As in the paper's algorithm, a step is weighed by what was learned before it. LibMTL learns K softmax(w) with the
        model's own optimiser and starts from the first epoch's mean losses instead; we follow the paper: w itself, scaled
        after each update, L_i(0) from the first batch (the first loss above zero). Ours: the weights and their Adam are
        state of the balancer, not parameters of a model; w_i >= 0.001 before it is scaled (the paper's may turn
        negative); a task that is absent or has no gradient is not learned from, but its last norm and ratio stay in the
        means, and its weight is scaled with the others.
    """

    family = "norms"
    source = "Chen et al., 2018: GradNorm"
    url = "https://arxiv.org/abs/1711.02257"
    rule = "weights descend sum_i |w_i n_i - mean_j(w_j n_j) r_i^alpha|, r_i = relative loss ratio; sum_i w_i = K"
    cost = COST
    state = "weight, norm, first loss and loss ratio of each task; moments of Adam"
    ours = (
        "measuring at a representation (the paper: weights of the last shared layer), own Adam in buffers, no double "
        "backward, weights stay positive, absent tasks, every"
    )

    measured_at = "last_layer"

    learned: Tensor  # [tasks], w of the next step

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        alpha: float = 1.5,
        lr: float = 0.025,
        optimizer: Literal["adam", "sgd"] = "adam",
        every: int = 1,
        epsilon: float = 1e-8,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, alpha=alpha, smoothing=None, every=every, epsilon=epsilon, on_nonfinite=on_nonfinite
        )
        choice("optimizer", optimizer, ("adam", "sgd"))
        self.lr, self.optimizer = lr, optimizer
        self.learner = TaskOptimizer(self, "learned", lr=lr, fill=1.0, kind=optimizer)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights learned so far, `[tasks]`."""
        return self.learned.clone()

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Learns from the step."""
        targets = self._targets(losses, present)
        super().observe(losses, present, statistics)
        if statistics is None:
            return
        known = self.norms > 0
        forces = self.learned * self.norms
        mean = forces.sum() / known.sum().clamp(min=1)  # an unknown norm is 0
        slope = self.norms * torch.sign(forces - mean * targets)
        self.learner.step(slope, statistics.present & self.active)
        self.learned.clamp_(min=_LEAST)
        self.learned *= len(self.learned) / self.learned.sum()
