"""After AutoScale: explore how hard the tasks pull, then train under fixed weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import NormBalancer, inverse_norm_weights
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, whole


class _WhileExploring:
    """`requires`, which follows from the step, whoever asks: what is fixed needs no measurement.

    The class itself tells what is required at first, as that of any method does.
    """

    def __get__(self, balancer: ExploreThenFreeze | None, cls: type[ExploreThenFreeze]) -> frozenset[str]:
        if balancer is None:
            return NormBalancer.requires
        own = vars(balancer)  # without steps yet while the base class's constructor runs
        return frozenset() if own.get("_steps", 0) >= balancer.explore else own.get("requires", NormBalancer.requires)

    def __set__(self, balancer: ExploreThenFreeze, value: frozenset[str]) -> None:
        vars(balancer)["requires"] = value  # while exploring


@register("explore_then_freeze")
class ExploreThenFreeze(NormBalancer):
    """Trains under equal weights for some steps, then under the fixed weights that make the gradients most alike in size.

    L = sum_i w_i L_i,   w_i = 1 in the first `explore` steps,   then w_i = K (1 / m_i) / sum_j (1 / m_j) for good

    m_i is the geometric mean of the norms of task i's gradient at `shared` over the exploration, K the number of tasks.
    The similarity of two sizes a and b is 2 a b / (a^2 + b^2), which is 1 where a = b. Summed over the pairs of tasks and
    over the steps, it is to second order a sum of squares of log (w_i n_i) - log (w_j n_j), whose least is at w_i = 1 / m_i.

    References:
        The two phases, not the rule, are those of AutoScale: Linear Scalarization Guided by Multi-Task Optimization
        Metrics (Yang et al., 2025)
        https://arxiv.org/abs/2508.13979

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        explore: steps of the first phase, 1 or more.
        every: measure each so many of these steps.
        scale: `"tasks"`: the weights sum to K; `"one"`: they sum to 1.
        epsilon: a norm not above this share of the largest one counts as zero.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = ExploreThenFreeze(explore=1)
        >>> for _ in range(2):
        ...     loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}, shared=hidden)
        >>> {task: round(weight, 6) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.5, 'label': 1.5}

    Note:
        Known of the paper: good fixed weights go with high similarity of gradient magnitudes, a low condition number and
        balanced losses; a first phase explores, in windows of steps, and a second one trains under fixed weights that
        such a metric chose. Of an earlier version a reviewer tells that the exploration runs under another balancing
        method, and that several cost functions are tried. The rest is not known to us, so ours: the length of the
        exploration, the weights during it (equal), the way to sum up its steps (geometric mean, no windows), the closed
        form, and that magnitude similarity alone decides. So the name is not the paper's either. Nothing is
        measured in the second phase, and `shared` may then be left out. A zero gradient does not count; a task that was
        never measured gets the weight of the median.
    """

    family = "norms"
    source = "ours, after Yang et al., 2025: AutoScale"
    url = "https://arxiv.org/abs/2508.13979"
    rule = (
        "weight_i = 1 for `explore` steps, then for good K (1/m_i) / sum_j (1/m_j), m_i = geometric mean of its norms"
    )
    cost = "while exploring as every method from norms; then none"
    state = "mean logarithm of each task's norm, number of measurements"
    ours = (
        "all but the two phases: length of the exploration, equal weights during it, one metric only, the closed form; "
        "the paper's are unknown"
    )

    requires = _WhileExploring()

    mean_logs: Tensor  # [tasks], mean logarithm of the norms
    measured: Tensor  # [tasks] int64, of how many

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        explore: int = 100,
        every: int = 1,
        scale: Scale = "tasks",
        epsilon: float = 1e-8,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        self.explore = whole("explore", explore, low=1)
        super().__init__(tasks=tasks, smoothing=None, every=every, epsilon=epsilon, on_nonfinite=on_nonfinite)
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.add_task_buffer("mean_logs")
        self.add_task_buffer("measured", dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        if self._steps < self.explore:
            return self.initial_weights().to(losses)
        known = self.measured > 0
        # Relative to the mean: a product of norms could leave the range of numbers.
        middle = self.mean_logs.where(known, 0).sum() / known.sum().clamp(min=1)
        return inverse_norm_weights((self.mean_logs - middle).exp(), known, floor=None, scale=self.scale)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Adds this step's norms to the means, while exploring."""
        if self._steps >= self.explore:
            return
        super().observe(losses, present, statistics)
        if statistics is not None:
            seen = statistics.present & self.active
            self.measured += seen
            step = (self.norms.log() - self.mean_logs) / self.measured.clamp(min=1)
            self.mean_logs += step.where(seen, 0)
