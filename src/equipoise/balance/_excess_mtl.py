"""ExcessMTL: tasks that are further from their own optimum get more weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import sized
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number, whole

_EPSILON = 1e-7  # LibMTL's, under the root and under the baseline


@register("excess_mtl")
class ExcessMTL(Balancer):
    """Raises the weights of tasks by an estimate of their excess risk: how much loss is left to lose.

    w_i <- w_i exp(eta e_i / e_i(0)) / sum_j w_j exp(eta e_j / e_j(0)),   e_i = sum_p g_ip^2 / sqrt(s_ip),   s_ip <- s_ip + g_ip^2

    g_ip is task i's gradient at shared parameter p. The sum of squares s stands for the diagonal of the curvature, as in
    Adagrad, so e_i approximates the gap between a task's loss and its optimum. A task whose labels are noisy has a
    large loss but a small gap, and is not raised. e_i(0) makes tasks in unlike units comparable.

    References:
        Robust Multi-Task Learning with Excess Risks (He et al., 2024)
        https://arxiv.org/abs/2402.02009

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        step_size: eta, above 0. The official code and LibMTL: 0.01; TorchJD: 1.
        warmup: e_i(0) is the mean over task i's first so many measurements, 1 or more, and weights stay equal during
            them. The paper's appendix C.1: three epochs; the official code and LibMTL: 1.
        every: measure each so many steps, and keep the weights between. The paper: 1.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks, as in LibMTL.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range; `shared` is a representation; the shared
            parameters are not those of the state.

    Example:
        >>> layer = torch.nn.Parameter(torch.ones(2))
        >>> balancer = ExcessMTL(step_size=1.0)
        >>> for slope in (1.0, 3.0):  # e = g^2 / sqrt(s): 1 / 1 and then 9 / sqrt(10); for the other task 1 and 1 / sqrt(2)
        ...     loss = balancer({"polarity": layer[0] * slope, "label": layer[1] * 1}, shared=[layer])
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.8946, 'label': 0.1054}

    Note:
        The paper and its official code, which LibMTL has too, differ in the sum of the weights (1; K) and the warm-up
        (three epochs; one step). Both are settings; the defaults take the paper's sum and the code's warm-up. At a
        representation the rows are other examples in every batch and a sum of squares has no meaning, so it is refused.
        Ours: warm-up is counted for each task; a task that is absent is taken to be where it was last seen, since
        weights of present tasks only ever rise against those that stand still; a step with a zero gradient does not
        count.
    """

    family = "norms"
    source = "He et al., 2024: Robust Multi-Task Learning with Excess Risks"
    url = "https://arxiv.org/abs/2402.02009"
    rule = (
        "w_i <- w_i exp(eta e_i / e_i(0)), normalised; e_i = sum of g^2 / sqrt(sum of g^2 so far) over the parameters"
    )
    needs = "shared parameters"
    cost = "one backward a task"
    state = (
        "sum of squared gradients of each task at every shared parameter; weight, baseline and excess risk of each task"
    )
    ours = "absent tasks keep their excess risk, warm-up for each task, every, scale"

    requires = frozenset({"shared"})
    measured_at = "last_layer"
    scopes = frozenset({"parameters"})
    needs_gradients = True

    squares: Tensor  # [tasks, elements], s; no elements before the first measurement
    log_shares: Tensor  # [tasks], log w
    baseline: Tensor  # [tasks], e(0)
    excess: Tensor  # [tasks], last known e / e(0)
    measured: Tensor  # [tasks] int64, how many risks the baseline holds

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        step_size: float = 0.01,
        warmup: int = 1,
        every: int = 1,
        scale: Scale = "one",
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every)
        self.step_size = number("step_size", step_size, above=0)
        self.warmup = whole("warmup", warmup, low=1)
        self.scale, self.every = choice("scale", scale, ("tasks", "one")), every
        self.add_task_buffer("squares", 0)
        self.add_task_buffer("log_shares")
        self.add_task_buffer("baseline")
        self.add_task_buffer("excess", fill=1.0)
        self.add_task_buffer("measured", dtype=torch.int64)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        log_shares = self.log_shares if statistics is None else self._updated(statistics)[0]
        return log_shares.softmax(0) * (len(log_shares) if self.scale == "tasks" else 1)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the squares, the risks and the weights."""
        if statistics is None:
            return
        found = self._updated(statistics)
        for name, value in zip(("log_shares", "baseline", "excess", "measured"), found, strict=True):
            getattr(self, name).copy_(value)
        gradients = statistics.gradients or ()  # zeros for a task that is absent
        sizes = [stack[0].numel() for stack in gradients]
        self.squares = sized(self, "squares", sum(sizes))
        for stack, sums in zip(gradients, torch.split(self.squares, sizes, dim=1), strict=True):
            sums += stack.flatten(1).to(sums).square()

    def _updated(self, statistics: GradientStatistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns log w, e(0), e / e(0) and the number of measurements, `[tasks]` each, after what was measured."""
        risks = self._risks(statistics)
        seen = statistics.present & (risks > 0)
        warm = self.measured >= self.warmup
        mean = self.baseline + (risks - self.baseline) / (self.measured + 1)
        baseline = mean.where(seen & ~warm, self.baseline)
        excess = (risks / (baseline + _EPSILON)).where(seen & warm, self.excess)
        log_shares = (self.log_shares + self.step_size * excess).log_softmax(0)
        return log_shares, baseline, excess, self.measured + (seen & ~warm)

    def _risks(self, statistics: GradientStatistics) -> Tensor:
        """Returns e, `[tasks]`, with this step's gradients in the sums already."""
        gradients = statistics.gradients or ()
        sizes = [stack[0].numel() for stack in gradients]
        risks = torch.zeros_like(self.baseline)
        for stack, sums in zip(gradients, torch.split(sized(self, "squares", sum(sizes)), sizes, dim=1), strict=True):
            square = stack.flatten(1).to(sums).square()
            risks += (square / (sums + square + _EPSILON).sqrt()).sum(1)
        return risks
