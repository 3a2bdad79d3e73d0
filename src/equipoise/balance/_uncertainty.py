"""Uncertainty weighting: each task's noise is learned, and noisy tasks count less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._adam import TaskOptimizer
from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import register
from equipoise.balance._settings import choice, known_tasks
from equipoise.errors import BalanceError

# exp(30) is 1e13: more than any weight has use for, and finite in float32.
LIMIT = 30.0


@register("uncertainty")
class UncertaintyWeighting(Balancer):
    """Weights each task by its learned homoscedastic uncertainty.

    form="original":  min sum_i f_i exp(-s_i) L_i + s_i / 2
    form="positive":  min sum_i f_i exp(-s_i) L_i + log(1 + exp(s_i))
    so L = sum_i w_i L_i  with  w_i = f_i exp(-s_i)

    s_i = log sigma_i^2 is task i's log variance, starting from 0; f_i = 1/2 for regressions (their loss is a squared
    error, from a normal likelihood), 1 for classifications (a softmax likelihood). The second form's penalty is never
    negative, so the objective stays above 0.

    References:
        Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics (Kendall et al., 2018)
        https://arxiv.org/abs/1705.07115
        Auxiliary Tasks in Multi-task Learning (Liebel and Körner, 2018), for form="positive"
        https://arxiv.org/abs/1805.06334

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        form: `"original"` or `"positive"`.
        regressions: names of the tasks with f_i = 1/2, `[]` for none. None takes all tasks for regressions, as public
            implementations and the second paper do.
        lr: rate of the Adam that learns s, zero or more; s moves by about this much a step.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range or names an unknown task.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(4.0, requires_grad=True)}
        >>> balancer = UncertaintyWeighting(regressions=["a"])
        >>> loss = balancer(losses)
        >>> balancer.last["weights"]
        {'a': 0.5, 'b': 1.0}

    Note:
        The papers learn s (the second one sigma itself) by the model's optimiser. Ours: s lives in this balancer's state
        and is moved by an Adam of its own, from the closed-form gradient, so nothing has to be put into the user's
        optimiser; a language model's rate, such as 1e-5, would not move s within a run. s stays within +-30, so that a
        solved task's weight stays finite. The value returned is sum_i w_i L_i without the penalty on s. An absent
        task keeps its s. LibMTL starts s from -0.5; the first paper reports that the start makes little difference.
    """

    family = "losses"
    source = "Kendall et al., 2018: Multi-Task Learning Using Uncertainty; form='positive': Liebel and Körner, 2018"
    url = "https://arxiv.org/abs/1705.07115"
    rule = "weight_i = f_i exp(-s_i), s_i learned; f_i = 1/2 for regressions, else 1"
    cost = "none"
    state = "s and Adam's moments of each task"
    ours = "s is learned by an optimiser of its own, kept in the state; regressions; the bound on s"

    log_variance: Tensor  # [tasks], s

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        form: Literal["original", "positive"] = "original",
        regressions: Sequence[str] | None = None,
        lr: float = 0.01,
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.form = choice("form", form, ("original", "positive"))
        given: object = regressions
        if isinstance(given, str) or not isinstance(given, Sequence | None):
            raise BalanceError(f"regressions must be a list of tasks' names or None, found {regressions!r}")
        self.regressions = None if regressions is None else list(regressions)
        self.optimizer = TaskOptimizer(self, "log_variance", lr=lr, limit=LIMIT)
        known_tasks("regressions", self.regressions or [], self.tasks)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those in `regressions`."""
        super().name_tasks(tasks)
        known_tasks("regressions", getattr(self, "regressions", None) or [], self.tasks)

    def initial_weights(self) -> Tensor:
        """Returns f, `[tasks]`."""
        return self._factors(self.weights)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        return self._factors(self.log_variance) * (-self.log_variance).exp()

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Takes one step on s."""
        pull = 0.5 if self.form == "original" else self.log_variance.sigmoid()
        self.optimizer.step(pull - self.weigh(losses, present, None) * losses, present)

    def _factors(self, like: Tensor) -> Tensor:
        known = self.tasks if self.regressions is None else self.regressions
        factors = torch.tensor([0.5 if task in known else 1.0 for task in self.tasks], dtype=like.dtype)
        return factors.to(like.device, non_blocking=True)  # made on the device, it would wait for it
