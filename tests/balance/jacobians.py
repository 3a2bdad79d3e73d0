"""Steps whose gradients are chosen: one row of a Jacobian a task, all at one row of a representation."""

from collections.abc import Mapping

import torch

from equipoise.balance import Balancer
from equipoise.balance._gradients import GradientStatistics

TASKS = ["a", "b", "c", "d"]


def draw(seed: int, tasks: int = 4, size: int = 7, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(tasks, size, generator=generator, dtype=torch.float64)


def step(balancer: Balancer, rows: Mapping[str, object]) -> dict[str, float]:
    """One training step with these gradients; returns the weights."""
    gradients = {task: torch.as_tensor(row, dtype=torch.float64) for task, row in rows.items()}
    size = len(next(iter(gradients.values())))
    hidden = torch.ones(1, size, dtype=torch.float64, requires_grad=True)
    balancer({task: (hidden[0] * row).sum() for task, row in gradients.items()}, shared=hidden)
    return balancer.last["weights"]


def named(jacobian: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(TASKS, jacobian, strict=False))


def combined(weights: Mapping[str, float], jacobian: torch.Tensor) -> torch.Tensor:
    """The update that the weights stand for."""
    return sum(weights[task] * row for task, row in named(jacobian).items())


def crossed(cross: object, present: list[bool] | None = None) -> GradientStatistics:
    """Statistics that hold nothing but the inner products between two halves."""
    found = torch.as_tensor(cross, dtype=torch.float64)
    here = torch.ones(len(found), dtype=torch.bool) if present is None else torch.tensor(present)
    empty = torch.zeros_like(found)
    return GradientStatistics(empty.diagonal(), empty, empty, here, "parameters", None, found)


def turn(balancer: Balancer, statistics: GradientStatistics) -> torch.Tensor:
    """One step at the level of weigh and observe; returns the weights."""
    losses = torch.ones(len(statistics.norms), dtype=torch.float64)
    weights = balancer.weigh(losses, statistics.present, statistics)
    balancer.observe(losses, statistics.present, statistics)
    balancer.weights.copy_(weights)
    balancer.step += 1
    balancer._steps += 1
    return weights
