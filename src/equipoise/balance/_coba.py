"""CoBa: tasks are to converge together, and one that diverges is held back, judged from validation losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number, whole
from equipoise.errors import BalanceError


@register("coba")
class CoBa(Balancer):
    """Balances the convergence of the validation losses (convergence balancer).

    L = sum_i w_i L_i,   w = softmax(K (D R + (1 - D) A))
    R = softmax(K a / sum_j |a_j|)                          relative convergence: slow tasks count more
    A = softmax(-N a / sum_s |a(s)|)                        absolute convergence: diverging tasks count less
    D = min(1, t softmax_s(-tau t m(s) / sum_u |m(u)|)_t)   divergence factor: near 1 while all converge

    a_i is the slope of a straight line, by least squares, through task i's last N validation losses, each divided by its
    first; a(s) are the slopes of the last N observations s; m(s) = max_i a_i(s), over all t observations s since the
    warm-up; K is the number of tasks. All softmaxes run over the tasks of the run, except D's, which runs over s.

    References:
        CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models (Gong et al., 2024)
        https://arxiv.org/abs/2410.06741

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        window: N, in observations, 2 or more. The authors: 2 to 5 times the warm-up, 200 in their code.
        warmup: observations with equal weights before the first balance, 2 or more. The authors: about the number of
            validation batches, 100 in their code.
        tau: temperature of D, above 0. The authors: 5.
        every: training steps from one observation to the next. The trainer reads it; in a loop of your own, call
            `observe_validation` as often as you like.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> balancer = CoBa(tasks=["a", "b"], window=4, warmup=3)
        >>> for a, b in ((4.0, 4.0), (3.0, 3.6), (2.0, 3.2)):
        ...     balancer.observe_validation({"a": torch.tensor(a), "b": torch.tensor(b)})
        ...     loss = balancer({"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(1.0, requires_grad=True)})
        >>> balancer.last["weights"]["b"] > balancer.last["weights"]["a"]
        True

    Note:
        Validation rows that weigh the tasks must choose neither the model nor its settings: that would leak. An
        observation is one call of `observe_validation`; window, warm-up and t are all counted in them, the slope per
        training step. The formulas were checked against the authors' code (github.com/codefuse-ai/MFTCoder) and accounts
        of the paper, not against its own text. We follow the paper where the code differs: there D has no bound, m is the
        slope of the largest loss instead of the largest slope, a window starts in updates but ends in steps, the slopes
        of A are cut by an index that leaves the warm-up out of account, the weights are divided by the sum over the
        tasks in the micro-batch, and each weight is at least 1 / (10 K). Ours: `scale`, `every`, all history in the
        state, and absent tasks: one that is missing from an observation keeps its slope, and with fewer than two losses
        counts as flat. Slopes that are all 0 give equal shares.
    """

    family = "losses"
    source = "Gong et al., 2024: CoBa: Convergence Balancer for Multitask Finetuning"
    url = "https://arxiv.org/abs/2410.06741"
    rule = (
        "weight = softmax(K (D R + (1 - D) A)), from slopes of validation losses: R raises slow tasks, A lowers "
        "diverging ones, D is near 1 while all converge"
    )
    needs = "validation losses (observe_validation)"
    cost = "one forward on validation rows an observation"
    state = "the last N validation losses of each task, all slopes since the start"
    ours = "scale, every; D as in the paper, not its code; absent tasks keep their slope"

    requires = frozenset({"validation"})

    first: Tensor  # [tasks], first validation loss above 0
    ratios: Tensor  # [tasks, window], validation losses over the first, the latest at the end
    places: Tensor  # [tasks, window] int64, the training steps they were seen at
    count: Tensor  # [tasks] int64, how many there were
    slopes: Tensor  # [tasks, observations], grows
    shares: Tensor  # [tasks], the weights after the latest observation, summing to 1

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        window: int = 200,
        warmup: int = 100,
        tau: float = 5.0,
        every: int = 1,
        scale: Scale = "one",
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.window, self.warmup = whole("window", window, low=2), whole("warmup", warmup, low=2)
        self.tau, self.every = number("tau", tau, above=0), whole("every", every, low=1)
        self.validate_every = self.every
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.add_task_buffer("first")
        self.add_task_buffer("ratios", self.window)
        self.add_task_buffer("places", self.window, dtype=torch.int64)
        self.add_task_buffer("count", dtype=torch.int64)
        self.add_task_buffer("slopes", 0)
        self.add_task_buffer("shares")

    def initial_weights(self) -> Tensor:
        """Returns equal weights, `[tasks]`, in the configured scale."""
        return torch.full((len(self.tasks),), self._total() / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        if self.slopes.shape[1] < self.warmup:
            return torch.full_like(losses, self._total() / len(self.tasks))
        return self._total() * self.shares

    @torch.no_grad()
    def observe_validation(self, losses: Mapping[str, Tensor]) -> None:
        """Adds an observation, and balances anew once the warm-up is over."""
        means, present = self._plain(losses)
        self.first.copy_(means.where(present & (self.first == 0) & (means > 0), self.first))
        ratio = (means / self.first).where(self.first > 0, 1)[:, None]
        step = torch.full_like(self.places[:, :1], self._steps)
        self.ratios.copy_(torch.cat([self.ratios[:, 1:], ratio], 1).where(present[:, None], self.ratios))
        self.places.copy_(torch.cat([self.places[:, 1:], step], 1).where(present[:, None], self.places))
        self.count += present
        self.slopes = torch.cat([self.slopes, self._slope()[:, None]], 1)
        if self.slopes.shape[1] >= self.warmup:
            self.shares.copy_(coba_weights(self.slopes[:, self.warmup - 1 :], self.window, self.tau))

    def _slope(self) -> Tensor:
        """Returns the slope of each task's line, `[tasks]`; 0 for fewer than two points."""
        kept = torch.arange(self.window, 0, -1, device=self.count.device) <= self.count[:, None]  # [tasks, window]
        size = kept.sum(1, keepdim=True).clamp(min=1)
        # Relative to the latest step, whose number is exact; a large number of steps would cost digits.
        x = (self.places - self.places[:, -1:]).to(self.ratios)
        x = (x - x.where(kept, 0).sum(1, keepdim=True) / size).where(kept, 0)
        y = (self.ratios - self.ratios.where(kept, 0).sum(1, keepdim=True) / size).where(kept, 0)
        spread = x.square().sum(1)
        return ((x * y).sum(1) / spread).where(spread > 0, 0)

    def _load_from_state_dict(self, state_dict: Mapping[str, object], prefix: str, *rest: object) -> None:
        saved = state_dict.get(f"{prefix}ratios")
        if isinstance(saved, Tensor) and len(saved) and saved.shape[1] != self.window:
            raise BalanceError(f"the saved state has window={saved.shape[1]}, not window={self.window}")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _total(self) -> float:
        return len(self.tasks) if self.scale == "tasks" else 1


def coba_weights(
    slopes: Tensor,  # [tasks, observations since the warm-up], the latest last
    window: int,
    tau: float,
) -> Tensor:
    """Returns the weights, `[tasks]`, which sum to 1.

    Example:
        >>> coba_weights(torch.tensor([[-0.5], [-0.5]]), window=10, tau=5.0)
        tensor([0.5000, 0.5000])
    """
    tasks, latest = len(slopes), slopes[:, -1]
    recent = slopes[:, -window:]
    relative = (tasks * _ratio(latest, latest.abs().sum())).softmax(0)
    absolute = (-recent.shape[1] * _ratio(latest, recent.abs().sum(1))).softmax(0)
    steepest = slopes.max(0).values  # [observations]
    size = len(steepest)
    factor = size * (-tau * size * _ratio(steepest, steepest.abs().sum())).softmax(0)[-1]
    factor = factor.clamp(max=1)
    return (tasks * (factor * relative + (1 - factor) * absolute)).softmax(0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Returns part / whole, 0 where the whole is 0."""
    return (part / whole).where(whole > 0, 0)
