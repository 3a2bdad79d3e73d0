"""PCD: one task leads, and every other one is promised a minimum of progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._gramian import COST, STATE, GramianBalancer
from equipoise.balance._registry import register
from equipoise.balance._settings import known_tasks, number, per_task
from equipoise.errors import BalanceError


@register("pcd")
class PCD(GramianBalancer):
    """Follows the primary task's gradient as closely as a floor of progress for the others allows.

    d = argmin |d - h_1|  with  h_j . d >= floor_j |h_j|^2  for every secondary task j;   update = d |g_1| / |d|
    h_i = g_i / sqrt(v_i + epsilon),   v_i = debiased running average of |g_i|^2

    Task 1 is the primary one. floor_j is the share of the progress that a step along task j's own gradient would make.

    References:
        Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective Optimization
        (Varam and AlHajri, 2026)
        https://arxiv.org/abs/2606.29521

    Args:
        primary: the task that leads.
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        floor: from 0 to 1, for all secondary tasks or task name -> number for each. The authors' code: 0.02.
        decay: share of the old value that the average of squared norms keeps, in [0, 1). The authors' code: 0.999.
        epsilon: added to the squared norms, 0 or more. The authors' code: 1e-8.
        smoothing: share of the old value that running averages of norms and cosines keep, in [0, 1); None: no average.
        every: measure and solve each so many steps, and keep the weights between.
        double_batch: weigh each half of the batch by the Gramian of the other. Needs per-example losses.
        on_nonfinite: `"raise"`, or `"skip"` to leave a task out of a step in which its loss or gradient is not finite.

    Raises:
        BalanceError: TorchJD is not installed, a setting is out of its range, or names no task.

    Example:
        >>> hidden = torch.tensor([[1.0, 1.0]], requires_grad=True)  # [n, d]
        >>> losses = {"polarity": hidden[:, 0] * 2, "label": hidden[:, 1] * 5}
        >>> balancer = PCD(primary="polarity", floor=1.0)
        >>> loss = balancer(losses, shared=hidden)  # d = (1, 1), of length sqrt(2), made as long as (2, 0)
        >>> {task: round(weight, 4) for task, weight in balancer.last["weights"].items()}
        {'polarity': 0.7071, 'label': 0.2828}

    Note:
        Floors that cannot hold together are dropped, and the update is the primary gradient. The averages are each
        task's own, so an absent task's stays; TorchJD counts calls. While the primary task has no gradient at all, the
        paper's update is zero; ours is the plain sum of the others, which would otherwise not train.
    """

    family = "gramian"
    source = "Varam and AlHajri, 2026: Priority-Constrained Descent"
    url = "https://arxiv.org/abs/2606.29521"
    rule = "the update nearest to the primary gradient that gives each other task a share of its own step's progress"
    needs = "shared; extra `torchjd`"
    cost = COST
    state = STATE + "; running squared norm of each task"
    ours = "tasks by name, absent tasks, a step without a primary gradient, smoothing, every, double_batch"

    scale_free = False  # the averages are in the gradients' own units

    squares: Tensor  # [tasks], running average of squared norms, not debiased
    counts: Tensor  # [tasks] int64, how many values it holds

    def __init__(
        self,
        *,
        primary: str,
        tasks: Sequence[str] | None = None,
        floor: float | Mapping[str, float] = 0.02,
        decay: float = 0.999,
        epsilon: float = 1e-8,
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        leader: object = primary
        if not isinstance(leader, str):
            raise BalanceError(f"primary must be a task's name, found {primary!r}")
        self.primary, self.floor = leader, floor
        floors = per_task("floor", floor, low=0) if isinstance(floor, Mapping) else {"": number("floor", floor, low=0)}
        for task, value in floors.items():
            number(f"floor.{task}" if task else "floor", value, low=0, high=1)
        self._floors = floors
        super().__init__(
            tasks=tasks, smoothing=smoothing, every=every, double_batch=double_batch, on_nonfinite=on_nonfinite
        )
        self.decay = number("decay", decay, low=0, below=1)
        self.epsilon = number("epsilon", epsilon, low=0)
        self._solver = Solver("PCDWeighting", beta=self.decay, eps=self.epsilon)
        self.add_task_buffer("squares")
        self.add_task_buffer("counts", dtype=torch.int64)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those in the settings."""
        super().name_tasks(tasks)
        known_tasks("primary", [self.primary], self.tasks)
        if "" not in self._floors:
            known_tasks("floor", list(self._floors), self.tasks)
            if missing := [task for task in self.tasks if task not in self._floors and task != self.primary]:
                raise BalanceError(f"floor lacks a number for {', '.join(missing)}")

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns the weights, `[m]`."""
        first = self.index(self.primary)
        if first not in rows:
            return torch.ones(len(rows), dtype=torch.float64)
        places = sorted(range(len(rows)), key=lambda place: rows[place] != first)  # the primary task first
        chosen = [rows[place] for place in places]
        gramian = gramian[places][:, places]
        module = self._solver.module
        module._sq_norm_ema, module._n_steps = self._primed(gramian.diagonal(), chosen)
        module._state_key = len(chosen)
        names = [self.tasks[row] for row in chosen[1:]]
        floors = [self._floors.get(name, self._floors.get("", 0.0)) for name in names]
        module.tau = torch.tensor(floors, dtype=torch.float64)
        weights = torch.empty(len(rows), dtype=torch.float64)
        weights[places] = self._solver(gramian)
        return weights

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Moves the averages of the tasks that were measured; a zero gradient counts as one."""
        if statistics is not None:
            here = statistics.present
            now = self.decay * self.squares + (1 - self.decay) * statistics.norms.to(self.squares).square()
            self.squares.copy_(now.where(here, self.squares))
            self.counts += here
        super().observe(losses, present, statistics)

    def _primed(self, now: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the averages before this step as TorchJD keeps them: in the units of one count, that of its calls.

        An average v over c values, debiased by 1 - decay^c, is told as one over the largest count.
        """
        old, counts = self.squares.cpu().double()[rows], self.counts.cpu()[rows]
        calls = counts.max()
        if bool((counts == calls).all()) or self.decay == 0:
            return old, calls
        goal = (self.decay * old + (1 - self.decay) * now) / (1 - self.decay ** (counts + 1.0))
        told = (goal * (1 - self.decay ** (calls + 1.0)) - (1 - self.decay) * now) / self.decay
        return told.where(counts < calls, old), calls
