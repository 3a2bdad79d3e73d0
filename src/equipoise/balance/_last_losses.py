"""What several methods remember: each task's last loss, so that a task which is absent from a batch still counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics


class LastLosses(Balancer):
    """A balancer that keeps the last loss of every task.

    Normalising over the tasks that happen to be in a batch would make the weights say nothing: a batch of one task
    would always give it everything. So sums run over all tasks of the run, an absent one with its last loss. A task
    that was never seen has none; it counts as the mean of the others (`fill_unknown`).

    Args:
        tasks: every task's name.
        monitor: as in `Balancer`.
        monitor_every: as in `Balancer`.
        on_nonfinite: as in `Balancer`.
    """

    latest: Tensor  # [tasks], each task's last loss; 0 before it was first seen
    seen: Tensor  # [tasks] bool

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        monitor: bool,
        monitor_every: int,
        on_nonfinite: Literal["raise", "skip"],
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=monitor, monitor_every=monitor_every)
        self.add_task_buffer("latest")
        self.add_task_buffer("seen", dtype=torch.bool)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the losses of the tasks that are present."""
        self.latest.copy_(losses.where(present, self.latest))
        self.seen |= present

    def with_latest(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns every task's loss, the last one where it is absent, and which are known at all, `[tasks]` each."""
        return losses.where(present, self.latest.to(losses)), present | self.seen

    def row(self, values: Mapping[str, float], default: float, like: Tensor) -> Tensor:
        """Returns a setting that maps tasks to numbers as `[tasks]`."""
        numbers = torch.tensor([values.get(task, default) for task in self.tasks], dtype=like.dtype)
        return numbers.to(like.device, non_blocking=True)  # made on the device, it would wait for it


def fill_unknown(
    values: Tensor,  # [tasks]
    known: Tensor,  # [tasks] bool, at least one True
) -> Tensor:
    """Puts the mean of the known values where a value is unknown, so that a sum over all tasks is defined.

    Example:
        >>> fill_unknown(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([True, False, True]))
        tensor([1., 2., 3.])
    """
    return values.where(known, values.where(known, 0).sum() / known.sum().clamp(min=1))
