"""CR-MOGM: the running average of any method's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import number
from equipoise.balance._wrapper import Wrapper


@register("running_average")
class RunningAverage(Wrapper):
    """Averages the weights of another balancer over the steps.

    w <- decay w + (1 - decay) w_new

    A batch's noise is in its gradients and in the weights that come from them; the average makes the two nearly
    independent, which is what the paper's proof of convergence needs.

    References:
        On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond (Zhou et al., 2022)
        https://proceedings.neurips.cc/paper_files/paper/2022/file/f91bd64a3620aad8e70a27ad9cb3ca57-Paper-Conference.pdf

    Args:
        of: the balancer, its name, or a mapping with its name as `method` and its settings.
        tasks: every task's name; None takes them from the balancer, or from the first call.
        decay: share of the old weights, in [0, 1]. TorchJD: 0.9. The paper raises it from 0 towards 1 as the learning rate
            falls.
        on_nonfinite: `"raise"` or `"skip"`, for the balancer too; None: as the balancer has it.

    Raises:
        BalanceError: a setting is out of its range; the balancer's update is no weighted sum of the gradients.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = RunningAverage(of={"method": "dao", "scale": "one"}, decay=0.5)
        >>> for norm in (1, 3):
        ...     loss = balancer({"polarity": hidden[:, 0] * norm, "label": hidden[:, 1]}, shared=hidden)
        >>> balancer.last["weights"]  # between 1/2, 1/2 and 1/4, 3/4
        {'polarity': 0.375, 'label': 0.625}

    Note:
        The first weights start the average. A task's average stays while the task is absent. A method that makes its
        own combination of the gradients (MetaBalance, DB-MTL) has averages of its own, which these weights would not
        reach, so it is refused. A penalty (`cosine_penalty`) stays as it is.
    """

    family = "wrappers"
    source = "Zhou et al., 2022: On the Convergence of Stochastic Multi-Objective Gradient Manipulation (CR-MOGM)"
    url = "https://proceedings.neurips.cc/paper_files/paper/2022/file/f91bd64a3620aad8e70a27ad9cb3ca57-Paper-Conference.pdf"
    rule = "w <- decay w + (1 - decay) w_new of another method"
    needs = "what the other method needs"
    cost = "that of the other method"
    state = "average weight of each task; the other method's"
    ours = "any method, absent tasks; a constant decay, as TorchJD"

    average: Tensor  # [tasks]
    started: Tensor  # [tasks] bool

    def __init__(
        self,
        *,
        of: Balancer | str | Mapping[str, object],
        tasks: Sequence[str] | None = None,
        decay: float = 0.9,
        on_nonfinite: Literal["raise", "skip"] | None = None,
    ) -> None:
        self.decay = number("decay", decay, low=0, high=1)
        super().__init__(of=of, tasks=tasks, on_nonfinite=on_nonfinite)
        self.add_task_buffer("average")
        self.add_task_buffer("started", dtype=torch.bool)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the average, `[tasks]`."""
        found = super().weigh(losses, present, statistics).to(self.average)
        blend = (self.decay * self.average + (1 - self.decay) * found).where(self.started, found)
        return blend.where(present | ~self.started, self.average)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the average."""
        self.average.copy_(self.weigh(losses, present, statistics))
        self.started |= present
        super().observe(losses, present, statistics)
