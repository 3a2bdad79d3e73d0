"""Gradient statistics: how hard, and which way, each task pulls at what the tasks share.

The only place of this room that calls autograd, and so the only place where statistics would be reduced over ranks.
`torch.autograd.grad` fills no `.grad` and fires no hook of DDP, so the caller's own backward stays the only one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.errors import BalanceError


@dataclass(frozen=True)
class GradientStatistics:
    """What was measured in one step, on the device, in the order of the tasks.

    Attributes:
        norms: `[tasks]`, Euclidean norm of each task's gradient at what is shared; 0 where not measured.
        gramian: `[tasks, tasks]`, inner products of the gradients.
        cosines: `[tasks, tasks]`, NaN where a cosine has no meaning: a gradient is zero or missing, or the two tasks
            touch no common row of a representation (orthogonal by construction, which says nothing on conflict).
        present: `[tasks]` bool, which tasks were measured.
    """

    norms: Tensor
    gramian: Tensor
    cosines: Tensor
    present: Tensor

    def only(self, present: Tensor) -> GradientStatistics:
        """Leaves out the tasks that are False in `present` (`[tasks]` bool)."""
        keep = present & self.present
        pairs = keep[:, None] & keep[None, :]
        return GradientStatistics(
            self.norms.where(keep, 0), self.gramian.where(pairs, 0), self.cosines.where(pairs, torch.nan), keep
        )


def average(parts: Sequence[GradientStatistics]) -> GradientStatistics:
    """Averages statistics of several parts of a batch; a task counts in the parts that carry it."""
    if len(parts) == 1:
        return parts[0]
    present = torch.stack([part.present for part in parts])  # [parts, tasks]
    pairs = present[:, :, None] & present[:, None, :]
    norms = torch.stack([part.norms for part in parts]).sum(0) / present.sum(0).clamp(min=1)
    gramian = torch.stack([part.gramian for part in parts]).sum(0) / pairs.sum(0).clamp(min=1)
    cosines = torch.stack([part.cosines for part in parts]).nanmean(0)
    return GradientStatistics(norms, gramian, cosines, present.any(0))


def measure(losses: Sequence[Tensor | None], shared: Tensor | Iterable[Tensor]) -> GradientStatistics:
    """Measures each task's gradient at what the tasks share.

    A tensor that is no `torch.nn.Parameter` is a representation, with one row an example in its first dimension: only
    the heads are walked back. Parameters are exact and cost one backward a task.

    Args:
        losses: `[tasks]` scalars, None for a task that is absent.
        shared: a representation `[n, d]` or `[n, length, d]`, or parameters. Those that need no gradient are left out.

    Returns:
        The statistics, in float32 or in what is shared's type if that is wider.

    Raises:
        BalanceError: nothing shared needs a gradient, or no loss depends on what is shared.

    Example:
        >>> hidden = torch.ones(1, 2, requires_grad=True)
        >>> measure([3 * hidden[0, 0], 4 * hidden.sum()], hidden).cosines[0, 1]
        tensor(0.7071)
    """
    given = [shared] if isinstance(shared, Tensor) else list(shared)
    points = [point for point in given if point.requires_grad]
    if not points:
        raise BalanceError(
            "shared needs no gradient, so no task can be measured there. "
            "Pass the representation before it is detached, or the shared parameters that are trained"
        )
    pulls = [
        None if loss is None else torch.autograd.grad(loss, points, retain_graph=True, allow_unused=True)
        for loss in losses
    ]
    if not any(gradient is not None for pull in pulls if pull is not None for gradient in pull):
        raise BalanceError("no loss depends on shared: pass the very tensor that the heads were fed with")
    with torch.no_grad():
        return _statistics(points, pulls)


def _statistics(points: Sequence[Tensor], pulls: Sequence[Sequence[Tensor | None] | None]) -> GradientStatistics:
    device = points[0].device
    dtype = torch.float32
    for point in points:
        dtype = torch.promote_types(dtype, point.dtype)
    tasks = len(pulls)
    norms: list[Tensor] = []
    gramian = torch.zeros(tasks, tasks, dtype=dtype, device=device)
    meet = torch.zeros(tasks, tasks, dtype=dtype, device=device)  # > 0 where two tasks touch something in common
    for number, point in enumerate(points):
        found = [None if pull is None else pull[number] for pull in pulls]
        if all(gradient is None for gradient in found):
            continue
        zero = torch.zeros((), dtype=dtype, device=point.device).expand(point.shape)
        # One tensor at a time: the stack is a copy, and all parameters' at once would double the memory.
        stack = torch.stack([zero if gradient is None else gradient.to(dtype) for gradient in found])
        flat = stack.flatten(1)  # [tasks, elements]
        norms.append(torch.linalg.vector_norm(flat, dim=1).to(device))
        gramian += (flat @ flat.T).to(device)
        is_parameter = isinstance(point, torch.nn.Parameter) or point.dim() == 0
        rows = flat if is_parameter else stack.reshape(tasks, point.shape[0], -1)
        touched = rows.ne(0).any(-1).to(dtype).reshape(tasks, -1)  # [tasks, rows], or [tasks, 1] for a parameter
        meet += (touched @ touched.T).to(device)
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)
    cosines = (gramian / (total[:, None] * total[None, :])).where(meet > 0, torch.nan)
    present = torch.tensor([pull is not None for pull in pulls], device=device)
    return GradientStatistics(total, gramian, cosines, present)
