"""Random weights: the baseline that tells whether a method's weights carry any information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, whole
from equipoise.balance._streams import stream


@register("random")
class RandomWeighting(Balancer):
    """Draws new weights in every step.

    L = sum_i w_i L_i,   w = softmax(z),   z_i ~ N(0, 1), drawn anew in each step for each task of the run

    References:
        Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning (Lin et al., 2022)
        https://arxiv.org/abs/2111.10603

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks, which keeps the learning
            rate's meaning against a plain sum.
        seed: what the draws are made from, a whole number, zero or more.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(1.0, requires_grad=True)}
        >>> RandomWeighting()(losses)
        tensor(1., grad_fn=<SumBackward0>)

    Note:
        The paper names several distributions; this is its standard one, the softmax of normal numbers. Ours: `scale`, and
        that a draw depends on `seed`, the step and the task's place in alphabetical order alone. So a resumed run, every
        process of a distributed one and another order of the tasks get the same weights, and the program's own random
        numbers are left alone. Under `no_grad` the last weights hold, and equal ones before the first step.
    """

    family = "baselines"
    source = "Lin et al., 2022: Reasonable Effectiveness of Random Weighting"
    url = "https://arxiv.org/abs/2111.10603"
    rule = "weight = softmax(z), z_i ~ N(0, 1) drawn in each step"
    cost = "none"
    state = "none (the draw follows from seed and step)"
    ours = "scale; draws that resume, and that agree between processes"

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        scale: Scale = "one",
        seed: int = 0,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.seed = whole("seed", seed, low=0)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), self._total() / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights of this step, `[tasks]`."""
        # The factor keeps runs of neighbouring seeds apart: seed + step would give them the same draws, one step later.
        draw = torch.Generator().manual_seed(stream(self.seed, self._steps))
        normal = torch.randn(len(self.tasks), generator=draw, dtype=torch.float64)
        places = {task: place for place, task in enumerate(sorted(self.tasks))}
        weights = self._total() * normal[[places[task] for task in self.tasks]].softmax(0)
        return weights.to(losses.device, losses.dtype, non_blocking=True)

    def _total(self) -> float:
        return len(self.tasks) if self.scale == "tasks" else 1
