"""Dynamic adaptive optimization: every task pushes the shared part with the same force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._data_weights import DataWeights
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._norms import COST, NormBalancer, inverse_norm_weights, share
from equipoise.balance._registry import register
from equipoise.balance._settings import Scale, choice, number
from equipoise.errors import BalanceError


@register("dao")
class DAO(NormBalancer):
    """Weights each task by the inverse of its gradient's norm at what the tasks share, and by its labels.

    L = sum_i lambda_i w_i L_i,   lambda_i = (1 / n_i) / sum_j (1 / n_j)

    n_i is the norm of the gradient of task i's plain loss, taken at `shared`; lambda_i is a constant of the step; w_i is
    the data weight (1 unless `data_weights` is set). The sum runs over all tasks: a task that is absent from a batch
    keeps its last norm. For two tasks lambda_1 = n_2 / (n_1 + n_2).

    References:
        Dynamic Adaptive Optimization for Effective Sentiment Analysis Fine-Tuning on Large Language Models
        (Ding et al., 2024)
        https://arxiv.org/abs/2408.11856

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        smoothing: share of the old norm that the running average keeps, in [0, 1); None uses each batch's own norms, as
            the paper does. The first norm starts the average, so there is no bias to correct.
        every: measure the norms each so many steps, and keep them between. The paper: 1.
        scale: `"one"`: the lambdas sum to 1, as in the paper, which divides the effective learning rate by the number of
            tasks against a plain sum. `"tasks"`: they sum to that number, which keeps the learning rate's meaning.
        epsilon: a norm not above this share of the largest one counts as zero.
        floor: a norm counts as at least this share of the median norm, in [0, 1]; None for no floor. All tasks
            together push no harder than the weakest alone, so a task that is nearly solved slows the others down;
            the floor bounds by how much.
        own_floor: a norm counts as at least this share of the task's own mean norm so far, in [0, 1]; None for no such
            floor, as in the paper. `floor` compares tasks with each other, so it also takes back part of the balance
            between tasks in unlike units; `own_floor` compares a task with its past, so it acts only when a task is
            nearly solved.
        task_level: false leaves all lambdas equal, so that the data weights act alone. No gradient is measured then,
            `shared` is not needed, and the settings of the norms have no effect.
        data_weights: `"inverse_frequency"`, `"density"`, `"entropy"`, a mapping of task to one of them, or None.
            See `DataWeights` for their definitions.
        data_exponent: how strongly rare labels are raised, from 0 (not at all) to 1 (by the full inverse).
        data_smoothing: share of the old label shares that their running average keeps, in [0, 1).
        double_batch: weigh each half of the batch by the norms of the other, so that a batch's noise does not bias
            its own weights. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 3, "label": hidden[:, 1] * 1}
        >>> balancer = DAO(scale="one")
        >>> loss = balancer(losses, shared=hidden)
        >>> balancer.last["weights"]
        {'polarity': 0.25, 'label': 0.75}
        >>> loss.backward()

    Note:
        The paper gives lambda for two tasks. Ours: any number of tasks, where the gradient is measured, `scale`,
        `smoothing`, `every`, `epsilon`, `floor`, `own_floor`, `double_batch`, `task_level` and the form of w. A task
        whose gradient is zero, or that was never seen, is left out of the sum (else it would take all the weight and stop
        the others) and gets the weight that the median norm would have; `scale="tasks"` then counts the tasks in the sum.
        Without any norm, the weights are equal.
    """

    family = "norms"
    source = "Ding et al., 2024: Dynamic Adaptive Optimization"
    url = "https://arxiv.org/abs/2408.11856"
    rule = "weight_i = w_i (1/n_i) / sum_j (1/n_j), n_i = norm of task i's gradient at what is shared"
    needs = "shared (not without task_level); targets and per-example losses with data weights"
    cost = COST
    state = "norm of each task; label shares with data weights"
    ours = (
        "more than two tasks, where gradients are measured, the form of w, smoothing, every, scale, floor, own_floor, "
        "double_batch, task_level"
    )

    mean_norms: Tensor  # [tasks], mean of all measurements above zero
    measured: Tensor  # [tasks] int64, how many those were

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        smoothing: float | None = None,
        every: int = 1,
        scale: Scale = "tasks",
        epsilon: float = 1e-8,
        floor: float | None = None,
        own_floor: float | None = 0.5,
        task_level: bool = True,
        data_weights: str | Mapping[str, str | None] | None = None,
        data_exponent: float = 0.5,
        data_smoothing: float = 0.9,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        level: object = task_level
        if not isinstance(level, bool):
            raise BalanceError(f"task_level must be true or false, found {level!r}")
        share("floor", floor, one=True, none=True)
        share("own_floor", own_floor, one=True, none=True)
        number("data_exponent", data_exponent)  # its range is the data weights' matter, if there are any
        number("data_smoothing", data_smoothing)
        given: object = data_weights
        if given is not None and not isinstance(given, (str, Mapping)):
            raise BalanceError(f"data_weights must be a name, a mapping of task to name, or None, found {given!r}")
        super().__init__(
            tasks=tasks,
            smoothing=smoothing,
            every=every,
            epsilon=epsilon,
            double_batch=double_batch and task_level,
            on_nonfinite=on_nonfinite,
        )
        self.task_level, self.floor, self.own_floor = task_level, floor, own_floor
        if not task_level:
            self.monitor = False
            self.requires = self.requires - {"shared"}
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.add_task_buffer("mean_norms")
        self.add_task_buffer("measured", dtype=torch.int64)
        self.data: DataWeights | None = None
        if data_weights is not None:
            self.data = DataWeights(data_weights, tasks=tasks, exponent=data_exponent, smoothing=data_smoothing)
            self.requires = self.requires | {"targets"}

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, those of the data weights' state too."""
        super().name_tasks(tasks)
        data: DataWeights | None = getattr(self, "data", None)  # names may come before `data`, from the constructor
        if data is not None:
            data.name_tasks(tasks)

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def data_weights(
        self, losses: Sequence[Tensor | None], targets: Mapping[str, Tensor] | None
    ) -> list[Tensor | None]:
        """Returns what the labels of this batch ask for, if data weights are on."""
        if self.data is None:
            return super().data_weights(losses, targets)
        self.data.process_group = self.process_group
        weights: list[Tensor | None] = self.data(losses, targets)
        return weights

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns lambda, `[tasks]`."""
        norms, active = self._updated(statistics)
        if self.own_floor is not None:
            norms = torch.maximum(norms, self.own_floor * self.mean_norms)
        return inverse_norm_weights(norms, active, floor=self.floor, scale=self.scale)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the norms, and each task's mean norm so far."""
        super().observe(losses, present, statistics)
        if statistics is not None:
            seen = statistics.present & self.active
            self.measured += seen
            step = (statistics.norms.to(self.norms) - self.mean_norms) / self.measured.clamp(min=1)
            self.mean_norms += step.where(seen, 0)
