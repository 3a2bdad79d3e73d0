"""EnCodec's balancer: every task gets its share of a gradient of fixed length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import COST, NormBalancer, debiased_share, share
from equipoise.balance._registry import register
from equipoise.balance._settings import known_tasks, number, per_task
from equipoise.errors import BalanceError


@register("encodec")
class EnCodecBalancer(NormBalancer):
    """Scales each task's gradient to its share of a given total norm, by its running norm.

    L = sum_i w_i L_i,   w_i = R (lambda_i / sum_j lambda_j) / n_i

    n_i is the debiased running average of the norm of task i's gradient at `shared`, R the total norm, lambda_i the
    task's share. So lambda_i tells which part of the update comes from task i, whatever the unit of its loss.

    References:
        High Fidelity Neural Audio Compression (Défossez et al., 2022)
        https://arxiv.org/abs/2210.13438

    Args:
        tasks: every task's name; None takes them from `shares`, or from the first call, which must then carry all tasks.
        shares: task name -> lambda, zero or more, not all zero; None for equal shares.
        total_norm: R, above 0. The paper: 1. Gradients are about as long as this, so it acts with the learning rate.
        smoothing: share of the old norm that the average keeps, in [0, 1). The paper: 0.999.
        every: measure the norms each so many steps, and keep them between. The paper: 1.
        epsilon: a norm not above this share of the largest one counts as zero.
        double_batch: weigh each half of the batch by the norms of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range, or the shares are not of the tasks.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> balancer = EnCodecBalancer(shares={"polarity": 3, "label": 1})
        >>> loss = balancer({"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 0.5}, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 0.25, 'label': 0.5}

    Note:
        The paper's formula takes the norm of a gradient; its official code by default (`per_batch_item`) takes the mean
        of the norms of the batch's rows, at the network's output. We take the norm of the whole gradient, since the mean
        of rows depends on how many of them carry the task. The code replaces the gradient at the output only; here the
        weights act on the losses, so a task's head is trained under its weight too. The code sums the shares of the
        tasks that it has seen; we sum all of them. A task without a known norm counts as if it had the median one, and
        before any norm is known the weights are the shares. A zero gradient does not enter the average.
    """

    family = "norms"
    source = "Défossez et al., 2022: High Fidelity Neural Audio Compression"
    url = "https://arxiv.org/abs/2210.13438"
    rule = "weight_i = R (lambda_i / sum_j lambda_j) / n_i, n_i = running average of task i's gradient norm"
    cost = COST
    state = "norm of each task, number of measurements"
    ours = "norm of the whole gradient (code: mean over rows), heads under the weight too, every, double_batch"

    measured: Tensor  # [tasks] int64, how many norms the average holds

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        shares: Mapping[str, float] | None = None,
        total_norm: float = 1.0,
        smoothing: float = 0.999,
        every: int = 1,
        epsilon: float = 1e-8,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        share("smoothing", smoothing)
        number("total_norm", total_norm, above=0)
        given = None if shares is None else per_task("shares", shares, low=0)
        if given is not None and not any(given.values()):
            raise BalanceError(f"shares must have a number above 0, found {shares!r}")
        super().__init__(
            tasks=list(given) if tasks is None and given is not None else tasks,
            smoothing=smoothing,
            every=every,
            epsilon=epsilon,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        if given is not None:
            known_tasks("shares", list(given), self.tasks)
            if missing := [task for task in self.tasks if task not in given]:
                raise BalanceError(f"shares lack a number for {', '.join(missing)}")
        self.shares, self.total_norm, self.beta = given, total_norm, smoothing
        self.add_task_buffer("measured", dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns lambda_i / sum_j lambda_j, `[tasks]`."""
        shares = [1.0 if self.shares is None else self.shares[task] for task in self.tasks]
        total = sum(shares)
        return torch.tensor([one / total for one in shares], dtype=torch.float64)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        norms, _ = self._updated(statistics)
        known = norms.where(norms > 0, torch.nan)
        scale = self.total_norm / known.where(norms > 0, known.nanquantile(0.5))
        return self.initial_weights().to(norms) * scale.nan_to_num(nan=1.0)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the norms and how many were measured."""
        super().observe(losses, present, statistics)
        if statistics is not None:
            self.measured += statistics.present & self.active

    def _kept(self) -> Tensor | float:
        return debiased_share(self.beta, self.measured.to(self.norms))
