"""Periodic weights, after PSMGD: any method's weights, computed anew each so many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import whole
from equipoise.balance._wrapper import Wrapper
from equipoise.errors import BalanceError


@register("recompute_every")
class RecomputeEvery(Wrapper):
    """Asks another balancer for weights each N steps, and keeps them between, where no gradients are measured.

    w_t = w_new(t) if t is a multiple of N, else w_(t-1)

    References:
        PSMGD: Periodic Stochastic Multi-Gradient Descent for Fast Multi-Objective Optimization (Xu et al., 2024)
        https://arxiv.org/abs/2412.10961

    Args:
        of: the balancer, its name, or a mapping with its name as `method` and its settings.
        tasks: every task's name; None takes them from the balancer, or from the first call.
        every: N, 1 or more. The paper calls it R.
        on_nonfinite: `"raise"` or `"skip"`, for the balancer too; None: as the balancer has it.

    Raises:
        BalanceError: a setting is out of its range; the balancer has an interval of its own, or its update is no weighted
            sum of the gradients.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = RecomputeEvery(of={"method": "dao", "scale": "one"}, every=2)
        >>> for norm in (3, 1):
        ...     loss = balancer({"polarity": hidden[:, 0] * norm, "label": hidden[:, 1]}, shared=hidden)
        >>> balancer.last["weights"]  # those of the first step
        {'polarity': 0.25, 'label': 0.75}

    Note:
        Methods that measure gradients have `every` as a setting of their own; most keep what was measured rather than the
        weights, so for methods whose weights depend on the losses too the two differ. The inner balancer sees the losses
        of every step. A task that is absent when the weights are computed keeps the weight it had.
        A method that makes its own combination of the gradients (MetaBalance, DB-MTL) or adds a penalty
        (`cosine_penalty`) does so only in steps that measure, so between them it would be another method. It is refused,
        and has an `every` of its own.
    """

    family = "wrappers"
    source = "Xu et al., 2024: PSMGD, Periodic Stochastic Multi-Gradient Descent"
    url = "https://arxiv.org/abs/2412.10961"
    rule = "weights of another method, computed anew each N steps"
    needs = "what the other method needs"
    cost = "that of the other method, once in N steps"
    state = "weights; the other method's"
    ours = "any method, absent tasks"

    keeps_penalty: ClassVar[bool] = False

    def __init__(
        self,
        *,
        of: Balancer | str | Mapping[str, object],
        tasks: Sequence[str] | None = None,
        every: int = 10,
        on_nonfinite: Literal["raise", "skip"] | None = None,
    ) -> None:
        self.every = whole("every", every, low=1)
        super().__init__(of=of, tasks=tasks, on_nonfinite=on_nonfinite, every=self.every)
        if self.of.monitor_every not in (1, self.every):
            raise BalanceError(
                f"every is set twice, to {self.every} here and to {self.of.monitor_every} in the inner balancer. "
                "Leave it out there"
            )

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the inner balancer's weights, or the ones kept, `[tasks]`."""
        if self._steps % self.every:
            return self.weights.to(losses)
        found = super().weigh(losses, present, statistics).to(losses)
        return found.where(present, self.weights.to(losses)) if self._steps else found
