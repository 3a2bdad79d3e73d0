"""What TorchJD's weightings with preferences share: how much each task is to count where none harms another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from equipoise.balance._foreign import Solver
from equipoise.balance._gramian import GramianBalancer
from equipoise.balance._settings import Scale, known_tasks, per_task
from equipoise.errors import BalanceError


class PreferenceBalancer(GramianBalancer):
    """Hands the Gramian and the tasks' preferences to a weighting of TorchJD. A method is a subclass that names it.

    Args:
        tasks: every task's name; None takes them from the first call, which must then carry all tasks.
        preferences: task -> number above 0; None for equal ones.
        scale: what the weights sum to where tasks don't conflict.
        smoothing: share of the old norms and cosines that their running average keeps, or None.
        every: measure and solve each so many steps.
        double_batch: weigh each half of the batch by the other.
        on_nonfinite: `"raise"` or `"skip"`.

    Raises:
        BalanceError: TorchJD or its solver is not installed, or a setting is out of its range.
    """

    weighting: ClassVar[str]  # the class in torchjd.aggregation

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        scale: Scale = "one",
        smoothing: float | None = None,
        every: int = 1,
        double_batch: bool = False,
        on_nonfinite: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(
            tasks=tasks,
            scale=scale,
            smoothing=smoothing,
            every=every,
            double_batch=double_batch,
            on_nonfinite=on_nonfinite,
        )
        self.preferences = None if preferences is None else per_task("preferences", preferences, above=0)
        if self.tasks:
            preferred(self.preferences, self.tasks, range(len(self.tasks)))
        self._solver = Solver(self.weighting)

    def solve(self, gramian: Tensor, losses: Tensor, rows: Sequence[int]) -> Tensor:
        """Returns the weights, `[m]`."""
        self._solver.module.pref_vector = preferred(self.preferences, self.tasks, rows)
        return self._solver(gramian)


def preferred(
    preferences: dict[str, float] | None,
    tasks: Sequence[str],
    rows: Sequence[int],
) -> Tensor | None:
    """Returns the preferences of the tasks in the solve, `[m]` float64 with sum 1; None if there are none.

    Raises:
        BalanceError: the preferences are not of the tasks.

    Example:
        >>> preferred({"a": 3.0, "b": 1.0, "c": 9.0}, ["a", "b", "c"], [0, 1])
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    if preferences is None:
        return None
    known_tasks("preferences", list(preferences), tasks)
    if missing := [task for task in tasks if task not in preferences]:
        raise BalanceError(f"preferences lack a number for {', '.join(missing)}")
    found = torch.tensor([preferences[tasks[row]] for row in rows], dtype=torch.float64)
    return found / found.sum()
