"""FAMO: every task's loss is to fall at the same rate, judged from losses alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._adam import TaskOptimizer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._last_losses import LastLosses, fill_unknown
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, flag, known_tasks, per_task

# As in the authors' code: what is added to a loss before its logarithm.
EPSILON = 1e-8

_log = logging.getLogger(__name__)
_PATIENCE = 100  # batches; accumulation makes several an update


@register("famo")
class FAMO(LastLosses):
    """Decreases all losses at an equal rate (fast adaptive multitask optimization).

    L = sum_i w_i L_i,   w_i = c z_i / D_i,   c = 1 / sum_j (z_j / D_j),   z = softmax(xi),   D_i = L_i - b_i + 1e-8

    After the update of the model, xi takes a step of Adam, with weight decay gamma, against
    d_i = z_i (delta_i - sum_j z_j delta_j),   delta_i = log D_i(before) - log D_i(after)
    so a task whose loss fell faster than the others' gets less. b_i is the lowest loss that task i can reach. The weights
    sum to 1; the gradient is that of c sum_i z_i log D_i.

    References:
        FAMO: Fast Adaptive Multitask Optimization (Liu et al., 2023)
        https://arxiv.org/abs/2306.03792

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        exact: True is the paper's method: after each update of the model call `observe_after` with the losses of the same
            batch, computed again; that costs one forward a step. False takes the next step's losses in their place:
            nothing more to compute, but delta then holds the difference between two batches too.
        lr: rate of the Adam that learns xi, zero or more. The paper and its code: 0.025.
        gamma: its weight decay, zero or more. The paper: 0.001.
        min_losses: task -> b_i; a task without one has 0.
        scale: `"one"`: the weights sum to 1, as in the paper; `"tasks"`: to the number of tasks.
        monitor: measure gradient norms and cosines at `shared`, so that logs can be compared with other methods.
        monitor_every: measure each so many steps.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss is not finite.

    Raises:
        BalanceError: a setting is out of its range, or names unknown tasks.

    Example:
        >>> losses = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(4.0, requires_grad=True)}
        >>> balancer = FAMO()
        >>> loss = balancer(losses)
        >>> {task: round(weight, 3) for task, weight in balancer.last["weights"].items()}
        {'a': 0.8, 'b': 0.2}

    Note:
        The authors' code (github.com/Cranial-XIX/FAMO) has gamma = 0.01 as its default, in the version that we read;
        its QM9 run, the paper's algorithm and LibMTL have 0.001, which we follow. It also clips the shared gradient to
        norm 1: that is the training loop's. Ours: `exact=False`, `scale`, and absent tasks: one that is missing before
        or after takes no step, and counts in sum_j z_j delta_j as if it had gone with the others' mean; in c it stands
        with its last loss or, never seen, as the others make it. With `exact=False`, delta reaches back to the batch in
        which the task was last seen. A loss below b_i counts as b_i. The value returned is sum_i w_i L_i.
    """

    family = "losses"
    source = "Liu et al., 2023: FAMO: Fast Adaptive Multitask Optimization"
    url = "https://arxiv.org/abs/2306.03792"
    rule = "weight_i ~ z_i / L_i, z = softmax(xi), xi learned from how much each log loss fell"
    needs = "the batch's losses after the update (observe_after); nothing with exact=False"
    cost = "one forward a step; none with exact=False"
    state = "xi, Adam's moments and last loss of each task"
    ours = "exact=False (next batch's losses), scale; absent tasks count with their last loss"

    positive_losses = True

    xi: Tensor  # [tasks]
    pending: Tensor  # [tasks] bool, present in the latest batch, whose losses after the update are still to come

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        exact: bool = True,
        lr: float = 0.025,
        gamma: float = 0.001,
        min_losses: Mapping[str, float] | None = None,
        scale: Scale = "one",
        monitor: bool = False,
        monitor_every: int = 1,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(tasks=tasks, monitor=monitor, monitor_every=monitor_every, on_nonfinite=on_nonfinite)
        self.exact = flag("exact", exact)
        if exact:
            self.requires = self.requires | {"after"}
        self._unanswered = 0  # batches since the losses after an update were last told
        self.min_losses = {} if min_losses is None else per_task("min_losses", min_losses)
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.optimizer = TaskOptimizer(self, "xi", lr=lr, weight_decay=gamma)
        self.add_task_buffer("pending", dtype=torch.bool)
        known_tasks("min_losses", list(self.min_losses), self.tasks)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those in `min_losses`."""
        super().name_tasks(tasks)
        known_tasks("min_losses", list(getattr(self, "min_losses", {})), self.tasks)

    def initial_weights(self) -> Tensor:
        """Returns the weights of equal losses, `[tasks]`."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights, `[tasks]`."""
        xi = self.xi
        if not self.exact:
            xi = self.optimizer.preview(*self._pull(self.latest, losses, present & self.seen))
        losses, known = self.with_latest(losses, present)
        pulls = xi.softmax(0) / fill_unknown(self._distance(losses), known)
        shares = xi.softmax(0).where(known, 0).sum() * pulls / pulls.where(known, 0).sum()
        return shares * (len(self.tasks) if self.scale == "tasks" else 1)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the losses and, without the exact ones to come, takes the step on xi that `weigh` has looked ahead to."""
        if not self.exact:
            self.optimizer.step(*self._pull(self.latest, losses, present & self.seen))
        super().observe(losses, present, statistics)
        self.pending.copy_(present)
        self._unanswered += self.exact
        if self._unanswered == _PATIENCE:
            _log.warning(
                "FAMO has seen %d batches and not once the losses after an update, so its weights stand still. Call "
                "balancer.observe_after(losses) after the optimiser's step, or set exact=False",
                _PATIENCE,
            )

    @torch.no_grad()
    def observe_after(self, losses: Mapping[str, Tensor]) -> None:
        """Takes a step on xi, with the latest batch's losses after the update; does nothing with `exact=False`."""
        if not self.exact:
            return
        self._unanswered = 0
        after, present = self._plain(losses)
        self.optimizer.step(*self._pull(self.latest, after, present & self.pending))
        self.pending.zero_()  # a second call would count the same fall twice

    def _distance(self, losses: Tensor) -> Tensor:
        return (losses - self.row(self.min_losses, 0.0, losses)).clamp(min=0) + EPSILON

    def _pull(self, before: Tensor, after: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradient of xi and which tasks have one, `[tasks]` each."""
        z = self.xi.softmax(0)
        delta = (self._distance(before).log() - self._distance(after).log()).where(both, 0)
        mean = (z * delta).sum() / z.where(both, 0).sum().clamp(min=1e-30)
        return z * (delta - mean), both
