"""Priorities: what the user wants of the tasks, on top of any method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._ranks import send
from equipoise.balance._registry import register
from equipoise.balance._settings import known_tasks, per_task
from equipoise.balance._wrapper import Wrapper


@register("priority")
class Priority(Wrapper):
    """Multiplies the weights of another balancer by a factor a task, and keeps their sum.

    w_i = f_i v_i (sum_j v_j) / (sum_j f_j v_j),   v = the other balancer's weights

    A method balances the tasks by what it can see; which of them matters more it cannot see. The sum, and with it the
    learning rate's meaning, stays.

    References:
        In the words of Do Current Multi-Task Optimization Methods in Deep Learning Even Help? (Xin et al., 2022), fixed
        weights choose the point on the trade-off curve; here they do so on top of a method.
        https://arxiv.org/abs/2209.11379

    Args:
        of: the balancer, its name, or a mapping with its name as `method` and its settings.
        priorities: task name -> factor above 0; 1 for those that it does not name.
        tasks: every task's name; None takes them from the balancer, or from the first call.
        on_nonfinite: `"raise"` or `"skip"`, for the balancer too; None: as the balancer has it.

    Raises:
        BalanceError: a factor is not above 0, or names no task; the balancer's update is no weighted sum of the gradients.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = Priority(of="dao", priorities={"polarity": 3.0})
        >>> loss = balancer({"polarity": hidden[:, 0], "label": hidden[:, 1]}, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 1.5, 'label': 0.5}

    Note:
        Ours. Where weights can be negative (IMTL-G) and f_i v_i do not sum to a number above 0, the sum is not kept. Of
        a method that makes its own combination of the gradients (MetaBalance, DB-MTL) the lengths are its own, and a
        factor would act on the heads only, so it is refused. A penalty (`cosine_penalty`) stays as it is.
    """

    family = "wrappers"
    source = "ours; fixed weights as in Xin et al., 2022"
    url = "https://arxiv.org/abs/2209.11379"
    rule = "weight_i = factor_i x another method's weight_i, their sum kept"
    needs = "what the other method needs"
    cost = "that of the other method"
    state = "the other method's"
    ours = "all of it"

    def __init__(
        self,
        *,
        of: Balancer | str | Mapping[str, object],
        priorities: Mapping[str, float],
        tasks: Sequence[str] | None = None,
        on_nonfinite: Literal["raise", "skip"] | None = None,
    ) -> None:
        self.priorities = per_task("priorities", priorities, above=0)
        super().__init__(of=of, tasks=tasks, on_nonfinite=on_nonfinite)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those of the priorities."""
        known_tasks("priorities", list(self.priorities), tasks)
        super().name_tasks(tasks)

    def initial_weights(self) -> Tensor:
        """Returns the inner balancer's, by priority."""
        return self._by_priority(super().initial_weights())

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return self._by_priority(super().weigh(losses, present, statistics))

    def _by_priority(self, weights: Tensor) -> Tensor:
        factors = [self.priorities.get(task, 1.0) for task in self.tasks]
        raised = send(factors, weights.device, weights.dtype) * weights
        old, new = weights.sum(), raised.sum()
        return raised * (old / new).where((old > 0) & (new > 0), 1)
