"""What wrappers have in common: they hold another balancer, and pass on all that they do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

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
    "on_nonfinite",
    "process_group",
    "epoch",
)


class _Inner:
    """An attribute that is the inner balancer's, read and set there, so that the two cannot differ.

    The class itself, and a wrapper whose inner balancer is not there yet, have the base class's.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Wrapper | None, cls: type[Wrapper]) -> Any:
        inner = None if wrapper is None else wrapper._modules.get("of")
        return getattr(Balancer if inner is None else inner, self.name)

    def __set__(self, wrapper: Wrapper, value: object) -> None:
        if "of" in wrapper._modules:  # before, it is the base class's constructor that sets its defaults
            setattr(wrapper.of, self.name, value)


class Wrapper(Balancer):
    """Changes what another balancer says. Its state holds the other one's, under `of.`.

    What the other one declares, how it treats what is not finite, its `process_group` and its `epoch` are the wrapper's too;
    setting them on the wrapper sets them there.

    Args:
        of: the balancer, its name, or a mapping with its name as `method` and its settings.
        tasks: every task's name; None takes them from the balancer, or from the first call.
        on_nonfinite: `"raise"` or `"skip"`, for the balancer too; None: as the balancer has it.
        every: measure each so many steps; None: as the balancer has it.

    Raises:
        BalanceError: `of` is none of these, its tasks are others, or its update is no weighted sum of the gradients.
    """

    keeps_penalty: ClassVar[bool] = True  # a penalty is in every step that it would be in without the wrapper

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
        if not (inner.weighted_sum or (self.keeps_penalty and inner.differentiable and not inner._combines)):
            raise BalanceError(
                f"{type(self).__name__} changes weights, and the update of {type(inner).__name__} is no weighted sum of the "
                "gradients, so they do not say what it is. Use it by itself, or wrap a method that only weighs, such as dao"
            )
        names = tasks if tasks is not None else inner.tasks or None
        super().__init__(
            tasks=None,
            on_nonfinite=inner.on_nonfinite if on_nonfinite is None else on_nonfinite,  # type: ignore[arg-type]
            monitor=inner.monitor,
            monitor_every=inner.monitor_every if every is None else every,
            double_batch=inner.double_batch,
        )
        self.of = inner
        if on_nonfinite is not None:
            self.on_nonfinite = on_nonfinite
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

    def penalty(self, gramian: Tensor, cosines: Tensor) -> Tensor | None:
        """Returns the inner balancer's."""
        return self.of.penalty(gramian, cosines)

    def observe_after(self, losses: Mapping[str, Tensor]) -> None:
        """Passes on."""
        self.of.observe_after(losses)

    def observe_validation(self, losses: Mapping[str, Tensor]) -> None:
        """Passes on."""
        self.of.observe_validation(losses)

    @property
    def skipped(self) -> dict[str, int]:
        """How often each task was left out because its loss or gradient was not finite, in either balancer."""
        inner = self.of.skipped  # it checks the losses that come after a step or from validation rows
        return {task: count + inner[task] for task, count in super().skipped.items()}


for _name in _TAKEN_OVER:
    setattr(Wrapper, _name, _Inner(_name))


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
