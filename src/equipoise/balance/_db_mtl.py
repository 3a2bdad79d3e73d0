"""DB-MTL: gradients of the losses' logarithms, all made as long as the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import NormBalancer, share, sized
from equipoise.balance._registry import register
from equipoise.balance._settings import number

_LOG = 1e-8  # the paper's: log(L + 1e-8)


@register("db_mtl")
class DBMTL(NormBalancer):
    """Balances losses by their logarithm, and gradients by scaling them to the longest one.

    v_i <- b v_i + (1 - b) g_i / L_i,   update = sum_i (max_j |v_j| / |v_i|) v_i,   b = beta / t^decay

    g_i / L_i is the gradient of log L_i at the shared parameters, v_i its running average, t the number of task i's
    measurements. The heads get the gradient of sum_i log L_i.

    At a representation the rows are other examples in every batch, so a gradient has no running average there; its norm
    has one: w_i = (max_j m_j / m_i) / L_i with m_i <- b m_i + (1 - b) |g_i| / L_i, for heads and backbone alike.

    References:
        Dual-Balancing for Multi-Task Learning (Lin et al., 2023)
        https://arxiv.org/abs/2308.12029

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        beta: share of the old average that is kept, in [0, 1). LibMTL, by the paper's authors: 0.9.
        decay: how fast that share falls with t, 0 (not at all) or more. LibMTL: 0.
        every: measure each so many steps. The paper: 1. Between, the losses are weighed as at a representation, with the
            lengths last known.
        epsilon: a norm not above this share of the largest one counts as zero.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range; a loss is negative; the shared parameters are not
            those of the state.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = DBMTL()  # log-losses: gradients 1 and 1; 4 (h + 1) = 8 has log-gradient 0.5
        >>> loss = balancer({"polarity": hidden[:, 0] * 5, "label": 4 * (hidden[:, 1] + 1)}, shared=hidden)
        >>> {task: round(weight, 6) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.2, 'label': 0.25}

    Note:
        The paper's method needs the shared parameters, which a recipe's `auto` takes (`balance.shared: all`). What it
        does at a representation is ours.
        The authors' code starts v at zero, which makes the first updates (1 - b) times as long; here the first gradient
        starts the average, so that a task that comes late starts like the others. The code counts the steps of the run,
        we count each task's own. The code allows parameters only. A task that is absent keeps its average and is in the
        maximum, but adds nothing to the update. The value that is returned is sum_i w_i L_i, not the sum of the
        logarithms.
    """

    family = "norms"
    source = "Lin et al., 2023: Dual-Balancing for Multi-Task Learning"
    url = "https://arxiv.org/abs/2308.12029"
    rule = "update = sum_i (max_j |v_j| / |v_i|) v_i, v_i = running average of the gradient of log L_i"
    cost = "one backward a task at parameters; one walk back through each head at a representation (ours)"
    state = "at parameters a running gradient of each task; norm of each task, number of measurements"
    ours = (
        "all of it at a representation, where norms are averaged, not gradients; first gradient starts the average, "
        "absent tasks, every"
    )

    measured_at = "all"
    needs_gradients = True
    weighted_sum = False
    positive_losses = True

    measured: Tensor  # [tasks] int64, how many gradients the average holds
    averages: Tensor  # [tasks, elements], v; no elements before the first measurement at parameters

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        beta: float = 0.9,
        decay: float = 0.0,
        every: int = 1,
        epsilon: float = 1e-8,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        share("beta", beta)
        super().__init__(tasks=tasks, smoothing=beta, every=every, epsilon=epsilon, on_nonfinite=on_nonfinite)
        self.beta, self.decay = beta, number("decay", decay, low=0)
        self.add_task_buffer("measured", dtype=torch.int64)
        self.add_task_buffer("averages", 0)
        self._made: tuple[GradientStatistics, list[Tensor], Tensor] | None = None

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`: 1 / L where `combine` has the rest, else with the lengths too."""
        weights = 1 / (losses + _LOG)
        if statistics is None:
            weights = self._lengthened(self.norms) * weights
        elif statistics.at == "representation":
            norms, _ = self._updated(replace(statistics, norms=statistics.norms * weights))
            weights = self._lengthened(norms) * weights
        # An absent task's loss is told as 0; scoring must not meet 1 / 0.
        return weights.where(present, self.weights)

    def combine(self, statistics: GradientStatistics, weights: Tensor) -> Sequence[Tensor] | None:
        """Returns sum_i (max_j |v_j| / |v_i|) v_i over the present tasks, at each measured parameter."""
        if statistics.at != "parameters":
            return None
        averages, norms = self._averaged(statistics, weights)
        self._made = statistics, averages, norms
        factors = self._lengthened(norms).where(statistics.present, 0)
        return [torch.tensordot(factors.to(average), average, dims=1) for average in averages]

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the averages."""
        if statistics is None:
            return
        inverse = 1 / (losses + _LOG)
        if statistics.at == "representation":
            super().observe(losses, present, replace(statistics, norms=statistics.norms * inverse))
            self.measured += statistics.present & self.active
            return
        # They are as many numbers as all tasks' gradients: `combine` has made them for the same losses, if it was asked.
        made, self._made = self._made, None
        averages, norms = made[1:] if made and made[0] is statistics else self._averaged(statistics, inverse)
        self.averages = torch.cat([average.flatten(1).to(self.averages) for average in averages], dim=1)
        self.norms.copy_(norms)
        self.active.copy_((norms > 0).where(statistics.present, self.active))
        self.measured += statistics.present

    def _kept(self) -> Tensor | float:
        times = (self.measured + 1).to(self.norms)
        return (self.beta / times.pow(self.decay)).where(self.measured > 0, 0)

    def _averaged(self, statistics: GradientStatistics, weights: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns v `[tasks, *shape]` for each measured parameter and its norm over all of them, `[tasks]`."""
        gradients = statistics.gradients or ()
        sizes = [stack[0].numel() for stack in gradients]
        before = torch.split(sized(self, "averages", sum(sizes)), sizes, dim=1)
        kept, squares, averages = self._kept(), torch.zeros_like(self.norms), []
        for stack, old in zip(gradients, before, strict=True):
            old = old.reshape(stack.shape).to(stack)
            column = [-1, *[1] * (stack.dim() - 1)]
            part = torch.as_tensor(kept).to(stack).reshape(column)
            new = torch.lerp(old, weights.to(stack).reshape(column) * stack, 1 - part)
            averages.append(new.where(statistics.present.to(stack.device).reshape(column), old))
            squares += torch.linalg.vector_norm(averages[-1].flatten(1), dim=1).square().to(squares)
        return averages, squares.sqrt()

    def _lengthened(self, norms: Tensor) -> Tensor:
        """Returns max_j n_j / n_i, `[tasks]`; 1 where a norm is zero or not known."""
        longest = norms.max()
        return (longest / norms).where(norms > self.epsilon * longest, 1)
