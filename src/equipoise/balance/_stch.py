"""Smooth Tchebycheff: most weight to the task that is worst off, without the jumps of a maximum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import LastLosses, fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, known_tasks, number, per_task
from equipoise.errors import BalanceError


@register("stch")
class STCH(LastLosses):
    """Descends a smooth version of the largest preferred loss (smooth Tchebycheff scalarization).

    min mu log sum_i exp(p_i (L_i - z_i) / mu),   so L = sum_i w_i L_i  with  w = p softmax(p (L - z) / mu)

    p_i is the preference for task i, z_i the lowest loss that it can reach (the ideal point), mu how smooth: for mu
    towards 0 only the largest p_i (L_i - z_i) counts, for large mu all tasks alike. The sum runs over all tasks of the run.

    References:
        Smooth Tchebycheff Scalarization for Multi-Objective Optimization (Lin et al., 2024)
        https://arxiv.org/abs/2402.19078

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        mu: above 0, in the unit of p L. The paper tries 0.01, 0.1, 0.5 and 1; LibMTL, on logarithms: 1.
        preferences: task -> p_i, above 0, for all tasks; None for 1 / K, as they sum to 1 in the paper.
        ideal: task -> z_i; a task without one has 0.
        scale: None uses the objective's own gradient, whose weights sum to between the least and the largest p (1 / K
            if all are alike); `"one"` and `"tasks"` divide the weights so that they sum to 1 or to K.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range, or names unknown tasks.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(1.0, requires_grad=True)}
        >>> balancer = STCH(mu=0.5)
        >>> loss = balancer(losses)
        >>> balancer.last["weights"]
        {'a': 0.25, 'b': 0.25}

    Note:
        This is the paper's formula on the losses themselves, as TorchJD's `STCH` has it. The authors' code for
        multi-task training (github.com/Xi-L/STCH) applies it to log(L_i / n_i) instead, n_i a mean loss from the end of
        a warm-up with the sum of the logarithms, and multiplies by K; without that, losses in unlike units need `preferences`.
        The value returned is sum_i w_i L_i, not the objective's value. Ours: the default mu = 0.1, `scale`, and that an
        absent task counts with its last loss; one that was never seen counts as the mean of the others' exponents.
    """

    family = "losses"
    source = "Lin et al., 2024: Smooth Tchebycheff Scalarization"
    url = "https://arxiv.org/abs/2402.19078"
    rule = (
        "weight = p softmax(p (L - z) / mu), p = preferences, z = lowest losses: the gradient of "
        "mu log sum_i exp(p_i (L_i - z_i) / mu), a smooth maximum"
    )
    cost = "none"
    state = "last loss of each task"
    ours = (
        "scale, the default of mu; absent tasks count with their last loss; the formula on plain losses (the authors' "
        "multi-task code: on logarithms, after a warm-up)"
    )

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        mu: float = 0.1,
        preferences: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
        scale: Scale | None = None,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, monitor=monitor, monitor_every=monitor_every, on_nonfinite=on_nonfinite)
        self.mu = number("mu", mu, low=1e-20)
        self.preferences = None if preferences is None else per_task("preferences", preferences, above=0)
        self.ideal = {} if ideal is None else per_task("ideal", ideal)
        self.scale = None if scale is None else choice("scale", scale, ("tasks", "one"))
        self._check_names()

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those in the settings."""
        super().name_tasks(tasks)
        if "ideal" in self.__dict__:  # the constructor gives names before the settings
            self._check_names()

    def initial_weights(self) -> Tensor:
        """Returns the weights of tasks that are equally far from their ideal, `[tasks]`."""
        preferences = self._preferences(self.weights)
        return self._scaled(preferences / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        losses, known = self.with_latest(losses, present)
        preferences = self._preferences(losses)
        distance = preferences * (losses - self.row(self.ideal, 0.0, losses))
        # Centred before the division: for large losses and small mu the quotient would overflow.
        centred = distance - distance.where(known, -torch.inf).max()
        return self._scaled(preferences * fill_unknown(centred / self.mu, known).softmax(0))

    def _preferences(self, like: Tensor) -> Tensor:
        return self.row(self.preferences or {}, 1 / len(self.tasks), like)

    def _scaled(self, weights: Tensor) -> Tensor:
        if self.scale is None:
            return weights
        return (len(self.tasks) if self.scale == "tasks" else 1) * weights / weights.sum()

    def _check_names(self) -> None:
        known_tasks("ideal", list(self.ideal), self.tasks)
        known_tasks("preferences", list(self.preferences or {}), self.tasks)
        missing = [task for task in self.tasks if self.preferences is not None and task not in self.preferences]
        if missing:
            raise BalanceError(f"preferences lack a number for {', '.join(missing)}")
