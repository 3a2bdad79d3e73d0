"""Gradient statistics: how hard, and which way, each task pulls at what the tasks share.

The only place of this room that calls autograd, and the only one where gradients are reduced over ranks.
`torch.autograd.grad` fills no `.grad` and fires no hook of DDP, so the caller's own backward stays the only one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from equipoise.balance._graph import Plan
from equipoise.balance._pieces import buckets, is_parameter, side_by_side, squared_norm, stack
from equipoise.balance._ranks import Ranks, send
from equipoise.errors import BalanceError

_HALF_NODES = 64  # of a graph that are looked at for float16


@dataclass(frozen=True)
class GradientStatistics:
    """What was measured in one step, on the device, in the order of the tasks.

    Attributes:
        norms: `[tasks]`, Euclidean norm of each task's gradient at what is shared; 0 where not measured.
        gramian: `[tasks, tasks]`, inner products of the gradients.
        cosines: `[tasks, tasks]`, NaN where a cosine has no meaning: a gradient is zero or missing, or the two tasks
            touch no common row of a representation (orthogonal by construction, which says nothing on conflict).
        present: `[tasks]` bool, which tasks were measured.
        at: where.
        gradients: the gradients themselves, `[tasks, *shape]` for each measured point, for methods that ask for them.
        cross: `[tasks, tasks]`, inner products of task i's gradient on the even half of the batch with task j's on the
            odd half; at parameters with `double_batch`.
    """

    norms: Tensor
    gramian: Tensor
    cosines: Tensor
    present: Tensor
    at: Literal["representation", "parameters"] = "representation"
    gradients: tuple[Tensor, ...] | None = None
    cross: Tensor | None = None

    def to(self, device: torch.device) -> GradientStatistics:
        """Moves what is small to the losses' device; the gradients stay where the parameters are."""
        moved = {name: getattr(self, name).to(device) for name in ("norms", "gramian", "cosines", "present")}
        return replace(self, **moved, cross=None if self.cross is None else self.cross.to(device))

    def only(self, present: Tensor) -> GradientStatistics:
        """Leaves out the tasks that are False in `present` (`[tasks]` bool)."""
        keep = present & self.present
        pairs = keep[:, None] & keep[None, :]
        gradients = self.gradients
        if gradients is not None:
            gradients = tuple(
                stack.where(keep.to(stack.device).reshape(-1, *[1] * (stack.dim() - 1)), 0) for stack in gradients
            )
        return replace(
            self,
            norms=self.norms.where(keep, 0),
            gramian=self.gramian.where(pairs, 0),
            cosines=self.cosines.where(pairs, torch.nan),
            present=keep,
            gradients=gradients,
            cross=None if self.cross is None else self.cross.where(pairs, 0),
        )


def average(parts: Sequence[GradientStatistics]) -> GradientStatistics:
    """Averages statistics of several parts of a batch; a task counts in the parts that carry it."""
    if len(parts) == 1:
        return parts[0]
    present = torch.stack([part.present for part in parts])  # [parts, tasks]
    pairs = present[:, :, None] & present[:, None, :]
    count = present.sum(0).clamp(min=1)
    norms = torch.stack([part.norms for part in parts]).sum(0) / count
    gramian = torch.stack([part.gramian for part in parts]).sum(0) / pairs.sum(0).clamp(min=1)
    cosines = torch.stack([part.cosines for part in parts]).nanmean(0)
    gradients = None
    if parts[0].gradients is not None:
        stacks = zip(*(part.gradients or () for part in parts), strict=True)
        gradients = tuple(sum(s) / count.reshape(-1, *[1] * (s[0].dim() - 1)) for s in stacks)
    return replace(parts[0], norms=norms, gramian=gramian, cosines=cosines, present=present.any(0), gradients=gradients)


def measure(losses: Sequence[Tensor | None], shared: Tensor | Iterable[Tensor]) -> GradientStatistics:
    """Measures each task's gradient at what the tasks share.

    A tensor that is no `torch.nn.Parameter` is a representation, with one row an example in its first dimension: only
    the heads are walked back. Parameters are exact and cost one backward a task.

    Args:
        losses: `[tasks]` scalars, None for a task that is absent.
        shared: a representation `[n, d]` or `[n, length, d]`, several of them where tasks have batches of their own, or
            parameters. Those that need no gradient are left out.

    Returns:
        The statistics of this process's rows, in float32 or in what is shared's type if that is wider.

    Raises:
        BalanceError: nothing shared needs a gradient, or no loss depends on what is shared.

    Example:
        >>> hidden = torch.ones(1, 2, requires_grad=True)
        >>> measure([3 * hidden[0, 0], 4 * hidden.sum()], hidden).cosines[0, 1]
        tensor(0.7071)
    """
    points = points_of(shared)
    pulls = walk_back(losses, points, retain=True)
    present = send([loss is not None for loss in losses], points[0].device, torch.bool)
    return summarise(points, pulls, present=present)


def points_of(shared: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The tensors behind `shared` that need a gradient."""
    given = [shared] if isinstance(shared, Tensor) else list(shared)
    points = list({id(point): point for point in given if point.requires_grad}.values())  # tied ones are given twice
    if any(hasattr(point, "full_tensor") for point in points):
        raise BalanceError(
            "shared holds parameters that are sharded (FSDP, tensor parallelism), and no process has a whole gradient. "
            "Measure at the representation"
        )
    if not points:
        raise BalanceError(
            "shared needs no gradient, so no task can be measured there. "
            "Pass the representation before it is detached, or the shared parameters that are trained"
        )
    return points


def walk_back(
    losses: Sequence[Tensor | None],
    points: Sequence[Tensor],
    *,
    retain: bool,
    create_graph: bool = False,
    plan: Plan | None = None,
    alone: bool = True,
) -> list[list[Tensor | None] | None]:
    """Returns each task's gradients at the points, then at the plan's other parameters: `[tasks][points + others]`.

    Args:
        losses: `[tasks]` scalars, None where absent.
        points: what is measured.
        retain: keep the graph for another walk. If not, the last walk frees it, and each one where graphs don't overlap.
        create_graph: make the gradients differentiable.
        plan: how the gradients become the update.
        alone: whether a point that no loss depends on is an error; another rank may hold the losses that do.
    """
    plan = plan or Plan()
    leaves = [*points, *plan.others] if plan.combine else list(points)
    walks = [k for k, loss in enumerate(losses) if loss is not None]
    half = plan.half or _is_half(points, [losses[k] for k in walks])
    pulls: list[list[Tensor | None] | None] = [None] * len(losses)
    for k in walks:
        keep = retain or create_graph or not plan.combine or (plan.overlap and k != walks[-1])
        loss = losses[k]
        assert loss is not None
        seed = _seed(loss) if half else None
        try:
            found: Sequence[Tensor | None] = torch.autograd.grad(
                loss, leaves, seed, retain_graph=keep, create_graph=create_graph, allow_unused=True
            )
        except RuntimeError as error:
            if (told := _explained(error)) is None:
                raise
            raise told from error
        if any(g is not None and g.layout != torch.strided for g in found):
            raise BalanceError(
                "shared holds a parameter with sparse gradients, such as of nn.Embedding(sparse=True). Leave it out of shared"
            )
        # A gradient of float16 is scaled back in float32, else it would underflow after all.
        pulls[k] = [g if g is None or seed is None else g.float() / seed.float() for g in found]
    if alone and not any(g is not None for pull in pulls if pull is not None for g in pull[: len(points)]):
        raise BalanceError("no loss depends on shared: pass the very tensor that the heads were fed with")
    return pulls


def summarise(
    points: Sequence[Tensor],
    pulls: list[list[Tensor | None] | None],  # [tasks][points, ...], of this rank
    *,
    present: Tensor,  # [tasks] bool
    ranks: Ranks | None = None,
    shares: Tensor | None = None,  # [tasks], this rank's share of each task's examples
    keep: bool = False,
    angles: bool = True,
) -> GradientStatistics:
    """Norms, inner products and cosines of the tasks' gradients.

    Args:
        points: where they were measured.
        pulls: the gradients.
        present: which tasks any rank has.
        ranks: the processes that train together.
        shares: this rank's share of each task's examples.
        keep: keep the gradients of all ranks in the result.
        angles: False leaves inner products at parameters out (NaN): they cost K times the shared parameters in
            multiplications for each task, and as much memory to read.
    """
    device = points[0].device
    ranks = ranks or Ranks(None)
    dtype = torch.float32
    for point in points:
        dtype = torch.promote_types(dtype, point.dtype)
    tasks = len(pulls)
    stacks: dict[int, Tensor] = {}
    local = torch.zeros(3, tasks, tasks, dtype=dtype, device=device)  # of rows that only this rank has: to be added up
    total = torch.zeros(2, tasks, tasks, dtype=dtype, device=device)  # of parameters: known to all ranks
    with torch.no_grad(), _full_precision(device):
        for number in (n for n, point in enumerate(points) if not is_parameter(point)):
            rows = stack(points[number], [None if pull is None else pull[number] for pull in pulls], dtype)
            if shares is not None:
                rows = rows * shares.to(dtype).reshape(-1, *[1] * (rows.dim() - 1))
            flat = rows.flatten(1)
            touched = rows.reshape(tasks, rows.shape[1], -1).ne(0).any(-1).to(dtype)  # [tasks, rows]
            local[0] += (flat @ flat.T).to(device)
            local[1] += (touched @ touched.T).to(device)
            local[2].diagonal().add_(flat.square().sum(1).to(device))
            stacks[number] = rows
        if not (angles or keep or ranks):
            total[1].diagonal().add_(torch.stack([squared_norm(pull, points, dtype) for pull in pulls]))
        else:
            for bucket in buckets(points, pulls, every=bool(ranks) or keep, whole=keep):
                rows = side_by_side(points, pulls, bucket, dtype)
                if ranks:
                    assert shares is not None
                    rows = ranks.sum_(rows * shares.to(dtype)[:, None])
                if angles:
                    total[0] += (rows @ rows.T).to(device)
                total[1].diagonal().add_(torch.linalg.vector_norm(rows, dim=1).square().to(device))
                if keep:
                    parts = torch.split(rows, [stop - start for _, start, stop in bucket], dim=1)
                    for (number, _, _), part in zip(bucket, parts, strict=True):
                        stacks[number] = part.reshape(tasks, *points[number].shape)
        _count_meetings(local[1], points, pulls, ranks)
        if ranks:
            local = ranks.sum_(local)
        # Not the Gramian's diagonal: a matrix product may be taken in fewer digits.
        norms = (local[2].diagonal() + total[1].diagonal()).sqrt()
        gramian = local[0] + total[0]
        at_parameters = all(map(is_parameter, points))
        if at_parameters and not angles:
            gramian = torch.full_like(gramian, torch.nan)
        cosines = (gramian / (norms[:, None] * norms[None, :])).where(local[1] > 0, torch.nan)
        return GradientStatistics(
            norms,
            gramian,
            cosines,
            present.to(device),
            "parameters" if at_parameters else "representation",
            tuple(stacks[n] for n in sorted(stacks)) if keep else None,
        )


def cross_products(even: Sequence[Tensor], odd: Sequence[Tensor]) -> Tensor:
    """Inner products `[tasks, tasks]` of the gradients on the even half with those on the odd half.

    Args:
        even: `[tasks, *shape]` for each parameter.
        odd: the same.
    """
    with torch.no_grad(), _full_precision(even[0].device):
        products = [one.flatten(1) @ other.flatten(1).T for one, other in zip(even, odd, strict=True)]
        return torch.stack([product.to(even[0].device) for product in products]).sum(0)


def _count_meetings(
    meetings: Tensor, points: Sequence[Tensor], pulls: list[list[Tensor | None] | None], ranks: Ranks
) -> None:
    """Adds to `meetings` `[tasks, tasks]` the parameters that two tasks both have a gradient at."""
    numbers = [n for n, point in enumerate(points) if is_parameter(point)]
    if not numbers:
        return
    touched = [[pull is not None and pull[n] is not None for n in numbers] for pull in pulls]
    if ranks or all(all(row) for row in touched):
        # After the reduction every rank has every gradient; one that is zero makes a cosine of 0 / 0.
        meetings += 1
        return
    flags = torch.tensor(touched, dtype=meetings.dtype)
    meetings += (flags @ flags.T).to(meetings.device)


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Leaves the caller's autocast, whose matrix products would be taken in half precision."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    leave: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return leave


def _is_half(points: Sequence[Tensor], losses: Sequence[Tensor | None]) -> bool:
    """Whether float16 takes part between the losses and the points, as far as it shows without a long walk."""
    if any(point.dtype == torch.float16 for point in points):
        return True
    nodes = [loss.grad_fn for loss in losses if loss is not None][:1]
    for _ in range(_HALF_NODES):
        node: Any = nodes.pop(0) if nodes else None
        if node is None:
            return False
        if any(given.dtype == torch.float16 for given in node._input_metadata):
            return True
        nodes += [child for child, _ in node.next_functions if child is not None]
    return False


def _seed(loss: Tensor) -> Tensor:
    """What a loss is scaled by for its walk through float16, which loses what is below 6e-8 or above 65504.

    A power of two, so that no digit changes, and the smaller the larger the loss is, as its gradient will be.
    """
    return torch.exp2((8 - loss.detach().abs().clamp(min=1).log2()).floor()).clamp(min=2.0**-14).to(loss)


def _explained(error: RuntimeError) -> BalanceError | None:
    words = str(error)
    if "donated" in words:
        return BalanceError(
            "the compiled backbone frees its buffers in the first walk back, but every task needs one. Set "
            "torch._functorch.config.donated_buffer = False before compiling, or measure at the representation"
        )
    if "second time" in words:
        return BalanceError(
            "the losses' graph was freed by an earlier backward. Call the balancer first, and its backward once"
        )
    return None
