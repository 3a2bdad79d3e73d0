"""GradVac: each pair of gradients is brought to the cosine that it usually has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import number, whole
from equipoise.balance._streams import stream

_LARGEST = 1 - 1e-6  # a goal of 1 can be reached by no finite multiple of the other gradient


@register("gradvac")
class GradVac(GramianBalancer):
    """Sums the tasks' gradients after each one was turned towards those that it is unusually far from.

    h_i = g_i;  for every other j in random order, with c = cos(h_i, g_j) and the pair's goal p_ij:
    if c < p_ij then  h_i += |h_i| (p_ij sqrt(1 - c^2) - c sqrt(1 - p_ij^2)) / (|g_j| sqrt(1 - p_ij^2)) g_j;
    p_ij <- (1 - beta) p_ij + beta c;   update = sum_i h_i = sum_i w_i g_i

    The goals start at 0, so the first step is PCGrad's.

    References:
        Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual Models
        (Wang et al., 2021)
        https://arxiv.org/abs/2010.05874

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        beta: share of the new cosine that a goal takes, in [0, 1]. LibMTL and TorchJD: 0.5.
        seed: of the orders. Each step draws from a generator of its own, so that resuming changes nothing.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between. The paper: 1.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, or a setting is out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0], "label": hidden[:, 1] - hidden[:, 0]}
        >>> balancer = GradVac()
        >>> loss = balancer(losses, shared=hidden)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 2.0, 'label': 1.5}

    Note:
        A goal is updated whether or not the gradient was turned, as in the paper; LibMTL updates it only then. The goals
        of a pair stay while one of its tasks is absent. One grouping: all that is measured at `shared` (the paper
        also groups by layer). TorchJD's small constant in the denominators is 1e-20 here, since it would change the
        cosines of tasks in small units. As with PCGrad, the weights act on the heads too.
    """

    family = "gramian"
    source = "Wang et al., 2021: Gradient Vaccine"
    url = "https://arxiv.org/abs/2010.05874"
    rule = "each g_i is turned towards every g_j until their cosine is the pair's running mean; the sum"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE + "; goal of each pair"
    ours = "absent tasks, seed, smoothing, every, double_batch; the weights act on the heads too"

    goals: Tensor  # [tasks, tasks]

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        beta: float = 0.5,
        seed: int = 0,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks, smoothing=smoothing, every=every, double_batch=double_batch, on_nonfinite=on_nonfinite
        )
        self.beta = number("beta", beta, low=0, high=1)
        self.seed = whole("seed", seed, low=0)
        self._solver = Solver("GradVacWeighting", beta=self.beta, eps=1e-20)
        self._turned: tuple[Tensor, Tensor] | None = None  # the Gramian last solved, and the goals after it
        self.add_pair_buffer("goals")

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns w, `[m]`."""
        goals = self.goals.cpu().double()[rows][:, rows]
        module = self._solver.module
        module._phi_t, module._state_key = goals.clamp(max=_LARGEST), (len(rows), torch.float64)
        weights = self._solver(gramian, stream(self.seed, self._steps))
        self._turned = (gramian, module._phi_t)
        return weights

    def learn(self, gramian: Tensor, rows: Sequence[int], fresh: Tensor) -> None:
        """Moves the goals of the pairs that are here."""
        if self._turned is None or self._turned[0] is not gramian:
            self.solve(gramian, gramian, rows)
        assert self._turned is not None
        goals = self.goals.cpu().double()
        now = torch.tensor(rows)[fresh]
        goals[now[:, None], now] = self._turned[1][fresh][:, fresh]
        self.goals.copy_(goals)
        self._turned = None
