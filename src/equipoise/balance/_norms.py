"""What methods from gradient norms have in common: running norms, and how a norm turns into a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import defaults_of
from equipoise.balance._settings import number
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

COST = "one walk back through each head at a representation; one backward a task at parameters"


class NormBalancer(Balancer):
    """Keeps each task's gradient norm, for the steps and for the absent tasks that come without one.

    n_i <- smoothing n_i + (1 - smoothing) |g_i|

    The first norm starts the average. A zero gradient does not enter it: it would drag the average down, and with it, in
    methods that divide by norms, all other tasks. It makes the task inactive until its next gradient.

    Args:
        tasks: every task's name; None takes them from the first call.
        smoothing: share of the old norm that the average keeps, in [0, 1); None keeps the last norm itself.
        epsilon: a norm not above this share of the largest one counts as zero, in [0, 1).
        every: measure each so many steps.
        double_batch: weigh each half of the batch by the norms of the other.
        on_nonfinite: `"raise"` or `"skip"`.

    Raises:
        BalanceError: a setting is of a wrong type or out of its range.
    """

    requires = frozenset({"shared"})
    needs_angles = False

    norms: Tensor  # [tasks], running norm; 0 before a task was first seen
    active: Tensor  # [tasks] bool, whether the last measurement was above zero

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        smoothing: float | None,
        every: int,
        epsilon: float = 1e-8,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        share("smoothing", smoothing, none=True)
        share("epsilon", epsilon)
        super().__init__(
            tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every, double_batch=double_batch
        )
        self.smoothing, self.every, self.epsilon = smoothing, every, epsilon
        self.add_task_buffer("norms")
        self.add_task_buffer("active", dtype=torch.bool)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the norms."""
        norms, active = self._updated(statistics)
        self.norms.copy_(norms)
        self.active.copy_(active)

    def extra_repr(self) -> str:
        """Shows the tasks and the settings that differ from the defaults."""
        own = {name: value for name, value in vars(self).items() if name != "on_nonfinite"}
        changed = [
            f"{name}={own[name]!r}"
            for name, default in defaults_of(type(self)).items()
            if name in own and own[name] != default
        ]
        return ", ".join([super().extra_repr(), *changed])

    def _kept(self) -> Tensor | float:
        """The share of the old average that stays when a new norm comes: one for all tasks, or `[tasks]`."""
        return self.smoothing or 0.0

    def _updated(self, statistics: GradientStatistics | None) -> tuple[Tensor, Tensor]:
        """Returns the norms and which of them count, `[tasks]` each, after what was measured."""
        if statistics is None:
            return self.norms, self.active
        measured, present = statistics.norms.to(self.norms), statistics.present
        largest = measured.where(present, self.norms.where(self.active, 0)).max()
        alive = present & (measured > self.epsilon * largest)
        norms = measured
        if self.smoothing is not None:
            kept = self._kept()
            norms = (kept * self.norms + (1 - kept) * measured).where(self.norms > 0, measured)
        return norms.where(alive, self.norms), alive.where(present, self.active)


class RateBalancer(NormBalancer):
    """Keeps besides how far each task's loss has come, which GradNorm calls the inverse training rate.

    r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),   L_i(0) = the first loss above zero

    The mean runs over all tasks seen so far; a task that is absent keeps its last ratio.
    """

    positive_losses = True

    first_losses: Tensor  # [tasks], 0 before a task was first seen
    ratios: Tensor  # [tasks], last known L_i / L_i(0)

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        alpha: float,
        smoothing: float | None,
        every: int,
        epsilon: float = 1e-8,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        number("alpha", alpha, low=0)
        super().__init__(
            tasks=tasks,
            smoothing=smoothing,
            every=every,
            epsilon=epsilon,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        self.alpha = alpha
        self.add_task_buffer("first_losses")
        self.add_task_buffer("ratios", fill=1.0)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the norms and the losses' ratios."""
        super().observe(losses, present, statistics)
        first, ratios = self._compared(losses, present)
        self.first_losses.copy_(first)
        self.ratios.copy_(ratios)

    def _compared(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns first losses and ratios, `[tasks]` each, after this step's losses."""
        losses = losses.to(self.ratios)
        first = self.first_losses.where(self.first_losses > 0, losses.where(present, 0).clamp(min=0))
        # Bounded: a first loss that happens to be next to nothing must not make the others' rates vanish.
        ratios = (losses / first).nan_to_num().clamp(0, 1e6)
        return first, ratios.where(present & (first > 0), self.ratios)

    def _targets(self, losses: Tensor, present: Tensor) -> Tensor:
        """Returns r_i ** alpha, `[tasks]`; 1 for a task that has not been seen."""
        first, ratios = self._compared(losses, present)
        seen = first > 0
        mean = ratios.where(seen, 0).sum() / seen.sum().clamp(min=1)
        rates = (ratios / mean).where(seen & (mean > 0), 1)
        return rates.pow(self.alpha).clamp(1e-12, 1e12)  # finite for any alpha; a solved task is not stopped for good


def inverse_norm_weights(
    norms: Tensor,  # [tasks]
    active: Tensor,  # [tasks] bool
    *,
    floor: float | None,
    scale: str,
) -> Tensor:
    """Returns lambda_i = (1 / n_i) / sum_j (1 / n_j) over the active tasks, and the median norm's weight elsewhere.

    Example:
        >>> norms, active = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([True, True, False])
        >>> inverse_norm_weights(norms, active, floor=None, scale="one")
        tensor([0.8000, 0.2000, 0.3200])
    """
    known = norms.where(active, torch.nan)
    # Midpoint median: the lower one of two tasks would be the very norm that the floor is to lift.
    median = known.nanquantile(0.5)
    if floor is not None:
        known = known.clamp(min=floor * median)
    known = known.where(active, median)
    ratio = known.where(active, torch.inf).min() / known  # [tasks] in (0, 1]: 1 / n could overflow, this cannot
    total = active.sum() if scale == "tasks" else 1
    equal = 1.0 if scale == "tasks" else 1.0 / len(norms)
    weights = total * ratio / ratio.where(active, 0).sum()
    return weights.where(active.any(), equal)


def debiased_share(
    beta: float,
    count: Tensor,  # [...], how many values the average holds
) -> Tensor:
    """Returns which share of its old value a debiased running average keeps: 0 at first, towards beta later.

    The average of v_1 .. v_t with weights beta^(t - s), scaled to sum 1: what Adam has after its correction, and what a
    sum that starts from zero becomes when it is divided by the sum of its weights.

    Example:
        >>> debiased_share(0.5, torch.tensor([0, 1, 50]))
        tensor([0.0000, 0.3333, 0.5000])
    """
    if beta == 0:
        return torch.zeros_like(count)
    rate = math.log(beta)
    # expm1, since 1 - beta ** n loses its digits in float32 when beta is close to 1.
    return beta * torch.expm1(count * rate) / torch.expm1((count + 1) * rate)


def sized(owner: TaskState, name: str, size: int) -> Tensor:
    """Returns the task buffer `[tasks, size]`; zeros if it has no size yet, for the caller to keep.

    Raises:
        BalanceError: the buffer has another size, from other shared tensors.
    """
    buffer: Tensor = getattr(owner, name)
    if buffer.shape[1] == size:
        return buffer
    if buffer.shape[1] == 0:
        return buffer.new_zeros(len(buffer), size)
    raise BalanceError(
        f"the state is of other shared tensors: {name} holds {buffer.shape[1]} numbers a task, but shared now has {size}. "
        "Pass the same shared tensors in every step, or start with a new balancer"
    )


def share(setting: str, value: object, *, one: bool = False, none: bool = False) -> None:
    """Raises if a setting is no number in [0, 1), or in [0, 1] if `one` itself is allowed, nor None if that is."""
    if value is None and none:
        return
    real = number(setting, value)
    if not (0 <= real < 1 or (one and real == 1)):
        raise BalanceError(
            f"{setting} must lie in [0, 1{']' if one else ')'}{' or be None' if none else ''}, found {value!r}"
        )
