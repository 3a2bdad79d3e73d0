"""Adam and plain descent for numbers that a balancer learns: one a task, kept in buffers, no parameters of the model."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from equipoise.balance._settings import number
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError


class TaskOptimizer:
    """Descends a `[tasks]` buffer of its owner; tasks without a gradient this time keep their number and their moments.

    Adam as `torch.optim.Adam` has it, weight decay added to the gradient and corrections for the first steps included,
    except that each task counts its own updates: a task that is absent gets neither a step out of its momentum nor a
    decay. Plain descent is `buffer -= lr (gradient + weight_decay buffer)`. With every task present in every step both
    equal PyTorch's, which a test holds to rounding in float64.

    All that it remembers are task buffers of the owner (`<name>_mean`, `<name>_square`, `<name>_updates`), so it is in
    the owner's `state_dict`, follows the order of the tasks on load, and goes where the owner goes. Nothing waits for
    the device. It holds no `torch.nn.Parameter`: the user's optimiser never sees what a balancer learns.

    Args:
        owner: the balancer, which has called its base's constructor.
        name: the buffer to descend; made here if the owner has none of that name.
        lr: learning rate, zero or more.
        fill: what the buffer starts from, if it is made here.
        kind: `"adam"` or `"sgd"`.
        betas: shares of the old mean and of the old mean square that Adam keeps, each in [0, 1).
        epsilon: what Adam adds to the root of the mean square, zero or more.
        weight_decay: times the buffer, added to the gradient; zero or more.
        limit: the buffer stays within [-limit, limit]; None for no limit. For logarithms, whose exponential must stay
            finite although nothing stops them when a loss is zero.

    Raises:
        BalanceError: a setting is out of its range.

    Example:
        >>> owner = TaskState(["a", "b"])
        >>> optimizer = TaskOptimizer(owner, "xi", lr=0.1)
        >>> optimizer.step(torch.tensor([2.0, -3.0]), torch.tensor([True, False]))
        >>> owner.xi
        tensor([-0.1000,  0.0000])
    """

    def __init__(
        self,
        owner: TaskState,
        name: str,
        *,
        lr: float,
        fill: float = 0.0,
        kind: Literal["adam", "sgd"] = "adam",
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        limit: float | None = None,
    ) -> None:
        if kind not in ("adam", "sgd"):
            raise BalanceError(f"kind must be one of 'adam', 'sgd', found {kind!r}")
        self.owner, self.name, self.kind, self.limit = owner, name, kind, limit
        self.lr = number("lr", lr, low=0)
        self.weight_decay = number("weight_decay", weight_decay, low=0)
        self.epsilon = number("epsilon", epsilon, low=0)
        self.betas = (number("betas", betas[0], low=0, below=1), number("betas", betas[1], low=0, below=1))
        if name not in owner._task_buffers:
            owner.add_task_buffer(name, fill=fill)
        if kind == "adam":
            owner.add_task_buffer(f"{name}_mean")
            owner.add_task_buffer(f"{name}_square")
            owner.add_task_buffer(f"{name}_updates", dtype=torch.int64)

    @torch.no_grad()
    def step(
        self,
        gradient: Tensor,  # [tasks]
        present: Tensor,  # [tasks] bool, which tasks to move
    ) -> None:
        """Moves the buffer of the present tasks against their gradient, in place."""
        for name, moved in self._moved(gradient, present).items():
            getattr(self.owner, name).copy_(moved)

    @torch.no_grad()
    def preview(
        self,
        gradient: Tensor,  # [tasks]
        present: Tensor,  # [tasks] bool
    ) -> Tensor:
        """Returns what `step` would make of the buffer, `[tasks]`, and changes nothing: for `weigh`."""
        return self._moved(gradient, present)[self.name]

    def _moved(self, gradient: Tensor, present: Tensor) -> dict[str, Tensor]:
        # Looked up each time: the owner puts wider buffers into the place of the old ones.
        value: Tensor = getattr(self.owner, self.name)
        gradient = gradient.to(value) + self.weight_decay * value
        moved: dict[str, Tensor] = {}
        step = gradient
        if self.kind == "adam":
            first, second = self.betas
            mean: Tensor = getattr(self.owner, f"{self.name}_mean")
            square: Tensor = getattr(self.owner, f"{self.name}_square")
            updates: Tensor = getattr(self.owner, f"{self.name}_updates") + present
            mean = (first * mean + (1 - first) * gradient).where(present, mean)
            square = (second * square + (1 - second) * gradient.square()).where(present, square)
            moved = {f"{self.name}_mean": mean, f"{self.name}_square": square, f"{self.name}_updates": updates}
            count = updates.clamp(min=1).to(value.dtype)
            step = (mean / _gap(first, count)) / ((square / _gap(second, count)).sqrt() + self.epsilon)
        after = (value - self.lr * step).where(present, value)
        moved[self.name] = after if self.limit is None else after.clamp(-self.limit, self.limit)
        return moved


def _gap(share: float, count: Tensor) -> Tensor:
    """Returns 1 - share ** count, without the digits that 1 - 0.999 loses in float32."""
    return torch.ones_like(count) if share == 0 else -torch.expm1(count * math.log(share))
