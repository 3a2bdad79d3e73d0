"""What wrappers have in common: they hold another balancer, and pass on all that they do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._base import Balancer
from equipoise.balance._gradients import GradientStatistics
from equipoise.balance._registry import create
from equipoise.errors import BalanceError

_TAKEN_OVER = (
    "requires",
    "scopes",
    "positive_losses",
    "needs_angles",
    "needs_gradients",
    "measured_at",
    "validate_every",
    "differentiable",
    "weighted_sum",
)


class Wrapper(Balancer):
    """Changes what another balancer says. Its state holds the other one's, under `of.`.

    Args:
        of: the balancer, its name, or a mapping with its name as `method` and its settings.
        tasks: every task's name; None takes them from the balancer, or from the first call.
        on_nonfinite: `"raise"` or `"skip"`; None: as the balancer has it.

    Raises:
        BalanceError: `of` is none of these, or its tasks are others.
    """

    of: Balancer

    def __init__(
        self,
        *,
        of: Balancer | str | Mapping[str, object],
        tasks: Sequence[str] | None,
        on_nonfinite: Literal["raise", "skip"] | None = None,
        every: int | None = None,
    ) -> None:
        inner = _built(of, tasks)
        names = tasks if tasks is not None else inner.tasks or None
        super().__init__(
            tasks=None,
            on_nonfinite=inner.on_nonfinite if on_nonfinite is None else on_nonfinite,  # type: ignore[arg-type]
            monitor=inner.monitor,
            monitor_every=inner.monitor_every if every is None else every,
            double_batch=inner.double_batch,
        )
        self.of = inner
        for name in _TAKEN_OVER:
            setattr(self, name, getattr(inner, name))
        if names is not None:
            self.name_tasks(names)

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, the inner balancer's too."""
        super().name_tasks(tasks)
        if not self.of.tasks:
            self.of.name_tasks(tasks)
        if self.of.tasks != self.tasks:
            raise BalanceError(
                f"the inner balancer's tasks are {', '.join(self.of.tasks)}, in this order, not {', '.join(self.tasks)}. "
                "Build it with the same tasks=[...]"
            )

    def fit(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves and widens the state, the inner balancer's too."""
        super().fit(device, dtype)
        self.of.fit(device, dtype)

    def initial_weights(self) -> Tensor:
        """Returns the inner balancer's."""
        return self.of.initial_weights()

    def data_weights(
        self, losses: Sequence[Tensor | None], targets: Mapping[str, Tensor] | None
    ) -> list[Tensor | None]:
        """Returns the inner balancer's."""
        return self.of.data_weights(losses, targets)

    def weigh(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> Tensor:
        """Returns the inner balancer's."""
        return self.of.weigh(losses, present, statistics)

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Lets the inner balancer end its step, as it would by itself."""
        weights = self.of.weigh(losses, present, statistics)
        self.of.observe(losses, present, statistics)
        self.of.weights.copy_(weights)
        self.of.step += 1
        self.of._steps += 1

    def combine(self, statistics: GradientStatistics, weights: Tensor) -> Sequence[Tensor] | None:
        """Returns the inner balancer's, at the wrapper's weights."""
        return self.of.combine(statistics, weights)

    def penalty(self, gramian: Tensor, cosines: Tensor) -> Tensor | None:
        """Returns the inner balancer's."""
        return self.of.penalty(gramian, cosines)

    def observe_after(self, losses: Mapping[str, Tensor]) -> None:
        """Passes on."""
        self.of.process_group = self.process_group
        self.of.observe_after(losses)

    def observe_validation(self, losses: Mapping[str, Tensor]) -> None:
        """Passes on."""
        self.of.process_group = self.process_group
        self.of.observe_validation(losses)


def _built(of: object, tasks: Sequence[str] | None) -> Balancer:
    if isinstance(of, Balancer):
        return of
    if isinstance(of, str):
        of = {"method": of}
    if not isinstance(of, Mapping) or not isinstance(of.get("method"), str):
        raise BalanceError(
            "of must be a balancer, the name of one, or a mapping with its name as method and its settings, such as "
            f"{{method: dao, smoothing: 0.9}}; found {of!r}"
        )
    settings = {str(key): value for key, value in of.items() if key != "method"}
    return create(of["method"], tasks, **settings)
