"""MetaBalance: auxiliary gradients are brought to the size of the target task's, parameter by parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import debiased_share, share, sized
from equipoise.balance._registry import register
from equipoise.errors import BalanceError


@register("metabalance")
class MetaBalance(Balancer):
    """Brings each auxiliary gradient nearer to the size of the target task's, in every shared tensor by itself.

    update = sum_i f_i g_i,   f_i = r m_target / m_i + (1 - r),   m_i <- beta m_i + (1 - beta) |g_i|, debiased

    g_i is task i's gradient at one shared tensor, m_i the running average of its norm there. The target's own factor is
    1. With r = 1 all gradients have the target's size, with r = 0 nothing changes. The heads get their plain gradients.

    At a representation there is one block: w_i = f_i from the norms there, for heads and backbone alike.

    References:
        MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient Magnitudes of Auxiliary Tasks
        (He et al., 2022)
        https://arxiv.org/abs/2203.06801

    Args:
        target: the task that the others are to help; there is no default, since only the user knows.
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        relax: r, from 0 (plain sum) to 1 (same size). The official code: 0.7; it is there to be tuned.
        beta: share of the old norm that the average keeps, in [0, 1). The official code: 0.9.
        every: measure each so many steps. The paper: 1. Between, the losses are weighed as one block, by the norms over all
            shared tensors.
        epsilon: a norm not above this share of the largest one counts as zero.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: the target is no task; a setting is of a wrong type or out of its range; the shared parameters are
            not those of the state.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = MetaBalance(target="polarity", relax=0.5)
        >>> loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 1.0, 'label': 2.0}

    Note:
        The paper's method needs the shared parameters, which a recipe's `auto` takes (`balance.shared: all`). What it
        does at a representation is ours.
        The official code starts m at zero and does not correct for it; in m_target / m_i that cancels as long as every
        task is in every batch, and ours equals it there. Ours: a zero gradient does not enter the average, a factor is 1
        while one of its two norms is not known, an absent target keeps its last norms, and `every`. The code stops at
        the first parameter without a gradient, which looks like a slip; we pass over it.
    """

    family = "norms"
    source = "He et al., 2022: MetaBalance"
    url = "https://arxiv.org/abs/2203.06801"
    rule = "in every shared tensor: update = sum_i (r m_target / m_i + 1 - r) g_i, m_i = running average of |g_i|"
    needs = "shared; the target task's name"
    cost = "one backward a task at parameters; one walk back through each head at a representation (ours)"
    state = "norm of each task at each shared tensor, number of measurements"
    ours = "all of it at a representation, which is one block; absent tasks, zero gradients, every"

    requires = frozenset({"shared"})
    measured_at = "all"
    needs_gradients = True
    weighted_sum = False

    norms: Tensor  # [tasks, blocks], m; no blocks before the first measurement
    measured: Tensor  # [tasks, blocks] int64, how many norms the average holds

    def __init__(
        self,
        *,
        target: str,
        tasks: Sequence[str] | None = None,
        relax: float = 0.7,
        beta: float = 0.9,
        every: int = 1,
        epsilon: float = 1e-8,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        share("relax", relax, one=True)
        share("beta", beta)
        share("epsilon", epsilon)
        given: object = target
        if not isinstance(given, str):
            raise BalanceError(f"target must be the name of a task, found {given!r}")
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every)
        self.target, self.relax, self.beta, self.every, self.epsilon = target, relax, beta, every, epsilon
        self.add_task_buffer("norms", 0)
        self.add_task_buffer("measured", 0, dtype=torch.int64)
        if self.tasks:
            self.index(target)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks that the target is among them."""
        target: str | None = getattr(self, "target", None)  # names may come before the settings, from the constructor
        if target is not None and target not in tasks:
            raise BalanceError(f"target must be one of the tasks {', '.join(tasks)}, found {target!r}")
        super().name_tasks(tasks)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`: 1 where `combine` has the rest, else the factors of one block."""
        if statistics is None:
            return self._factors(torch.linalg.vector_norm(self.norms, dim=1, keepdim=True))[:, 0]
        if statistics.at == "parameters":
            return torch.ones_like(losses)
        return self._factors(self._updated(statistics)[0])[:, 0]

    def combine(self, statistics: GradientStatistics, weights: Tensor) -> Sequence[Tensor] | None:
        """Returns sum_i f_i g_i at each measured parameter."""
        if statistics.at != "parameters":
            return None
        factors = self._factors(self._updated(statistics)[0])
        gradients = statistics.gradients or ()
        return [torch.tensordot(factors[:, p].to(stack), stack, dims=1) for p, stack in enumerate(gradients)]

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the norms."""
        if statistics is not None:
            self.norms, self.measured = self._updated(statistics)

    def _updated(self, statistics: GradientStatistics) -> tuple[Tensor, Tensor]:
        """Returns the norms and how many each holds, `[tasks, blocks]`, after what was measured."""
        found = statistics.norms[:, None].to(self.norms)
        if statistics.at == "parameters":
            blocks = [torch.linalg.vector_norm(stack.flatten(1), dim=1) for stack in statistics.gradients or ()]
            found = torch.stack([block.to(self.norms) for block in blocks], dim=1)
        norms, measured = (sized(self, name, found.shape[1]) for name in ("norms", "measured"))
        alive = statistics.present[:, None] & (found > self.epsilon * found.max(dim=0).values)
        kept = debiased_share(self.beta, measured.to(norms))
        return (kept * norms + (1 - kept) * found).where(alive, norms), measured + alive

    def _factors(self, norms: Tensor) -> Tensor:
        """Returns f `[tasks, blocks]`; 1 where a norm is not known."""
        target = norms[self.index(self.target)]  # [blocks]
        ratio = (target / norms).where((norms > 0) & (target > 0), 1)
        return self.relax * ratio + (1 - self.relax)
