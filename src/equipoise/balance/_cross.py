"""What methods from two half batches have in common: weights on the simplex, moved by noise-free inner products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._settings import Scale, choice
from equipoise.errors import BalanceError

COST = "one backward a task and half batch at parameters; a small solve on the host"


class CrossBalancer(Balancer):
    """Moves weights on the simplex by the inner products between the gradients on the two halves of a batch.

    A_ij = g_i(even half) . g_j(odd half)

    The noise of the two halves is independent, so A is the Gramian without bias; on one batch the noise of a task adds to
    its own squared norm. A step moves the tasks of its batch only: the absent ones keep their part of the simplex, and
    the others share out what is left.

    A method is a subclass with `advance` and, if the weights are not the point on the simplex itself, `answer`.
    """

    requires = frozenset({"shared"})
    measured_at = "last_layer"
    scopes = frozenset({"parameters"})
    needs_cross = True

    point: Tensor  # [tasks], on the simplex; zeros before the first step

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        scale: Scale,
        every: int,
        on_nonfinite: Literal["raise", "skip"],
    ) -> None:
        super().__init__(tasks=tasks, on_nonfinite=on_nonfinite, monitor=True, monitor_every=every, double_batch=True)
        self.scale = choice("scale", scale, ("tasks", "one"))
        self.every = every
        self.add_task_buffer("point")
        self._moved: tuple[Tensor, Tensor] | None = None  # the losses of a step, and the point after it

    def advance(
        self,
        cross: Tensor,  # [m, m] float64 on the CPU
        point: Tensor,  # [m] float64, on the simplex
    ) -> Tensor:
        """Returns the point after the step, `[m]`."""
        raise NotImplementedError

    def answer(self, point: Tensor) -> Tensor:
        """Returns the weights at a point, `[tasks]` with sum 1."""
        return point

    def initial_weights(self) -> Tensor:
        """Returns equal weights, in the configured scale."""
        return torch.full((len(self.tasks),), 1.0 if self.scale == "tasks" else 1.0 / len(self.tasks))

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the weights after the step, `[tasks]`: the update uses the new ones."""
        if statistics is None:
            return (self.weights if self._steps else self.initial_weights()).to(losses)
        weights = self.answer(self._next(losses, present, statistics)).to(losses)
        return weights * len(self.tasks) if self.scale == "tasks" else weights

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Keeps the point."""
        if statistics is not None:
            self.point.copy_(self._next(losses, present, statistics))
        self._moved = None

    def _next(self, losses: Tensor, present: Tensor, statistics: GradientStatistics) -> Tensor:
        if self._moved is not None and self._moved[0] is losses:
            return self._moved[1]
        if statistics.cross is None:
            raise BalanceError(
                f"{type(self).__name__} needs the inner products between two halves of the batch, which are measured at "
                "shared parameters: balance.shared: last_layer, adapter or all"
            )
        cross = statistics.cross
        packed = torch.cat([self.point.to(cross)[None], present.to(cross)[None], cross]).to("cpu").double()
        point, here, cross = packed[0], packed[1] > 0, packed[2:]
        if not bool(point.any()):
            point = torch.full_like(point, 1 / len(point))
        rows = [k for k in sorted(range(len(point)), key=lambda k: self.tasks[k]) if here[k]]
        part = point[rows].sum() if len(rows) < len(point) else torch.ones((), dtype=point.dtype)
        if bool(part > 0):
            moved = point.clone()
            moved[rows] = part * self.advance(cross[rows][:, rows], point[rows] / part)
            if not bool(moved.isfinite().all()):
                raise BalanceError(f"{type(self).__name__} found no finite weights for {cross.tolist()}")
            point = moved
        self._moved = (losses, point)
        return point
