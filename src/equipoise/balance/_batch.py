"""One call's losses as the base class works with them: checked, joined over ranks, divided for the statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equipoise.balance._ranks import Ranks, send
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

Examples = Sequence[Tensor | None]  # [tasks], a scalar or `[n_t]` each, None where absent

# What to do about it, by `on_nonfinite`.
ADVICE = {
    "raise": "Look at its data and learning rate, or set on_nonfinite='skip'",
    "skip": "No task is left to train on",
}


class NotFiniteError(BalanceError):
    """A loss, a gradient or a weight is NaN or infinite.

    Args:
        words: what is not finite.
        advice: what to do.
        tasks: the tasks that it was found in -> `loss` or `gradient`; None where it is no single task's.
    """

    def __init__(self, words: str, advice: str = "", tasks: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{words}. {advice}" if advice else words)
        self.words, self.tasks = words, dict(tasks or {})


@dataclass(frozen=True)
class Batch:
    """The batch of all ranks together.

    Attributes:
        means: `[tasks]`, detached plain means over the examples of all ranks; 0 where absent.
        counts: `[parts][tasks]`, examples of this rank; a scalar counts as one.
        starts: how many examples of each task the ranks before this one have, where the batch is halved.
        totals: `[parts, tasks]`, examples of all ranks, on the device; None in a single process.
        idle: how many ranks have no loss with a graph, on the device; None in a single process.
        ranks: how many ranks there are.
    """

    means: Tensor
    counts: list[list[int]]
    starts: Sequence[int] = ()
    totals: Tensor | None = None
    idle: Tensor | None = None
    ranks: int = 1

    @classmethod
    def join(
        cls, parts: Sequence[Examples], means: Tensor, ranks: Ranks, *, graph: bool = True, starts: Sequence[int] = ()
    ) -> Batch:
        """Exchanges sums and counts with the other ranks."""
        counts = [[0 if loss is None else max(loss.numel(), 1) for loss in part] for part in parts]
        if not ranks:
            return cls(means.detach(), counts, starts)
        rows = send([float(n) for row in counts for n in row], means.device, torch.float64).reshape(len(parts), -1)
        own = rows.sum(0)
        # A task that is absent here may be NaN nowhere: 0 * NaN would reach the others.
        sums = (means.detach().double() * own).where(own > 0, 0)
        idle = send([0.0 if graph or any(map(any, counts)) else 1.0], means.device, torch.float64)
        payload = ranks.sum_(torch.cat([sums, rows.flatten(), idle]))
        size = len(means)
        totals = payload[size:-1].reshape(len(parts), size)
        joined = payload[:size] / totals.sum(0).clamp(min=1)
        return cls(joined.to(means.dtype), counts, starts, totals, payload[-1:], ranks.count)

    def shares(self, part: int) -> Tensor | None:
        """This rank's share of each task's examples in a part, `[tasks]`; None in a single process."""
        if self.totals is None:
            return None
        return send([float(n) for n in self.counts[part]], self.means.device, torch.float64) / self.totals[part].clamp(
            min=1
        )

    def share(self, loss: Tensor, factor: Tensor | None, part: int, task: int) -> Tensor:
        """What a part of this rank's examples adds to the task's mean of (data weight x loss).

        The ranks' gradients will be averaged, so with several each adds its sum times their number.
        """
        dtype = self.means.dtype
        weighted = loss.to(dtype) if factor is None else loss.to(dtype) * factor.to(loss.device, dtype)
        parts = len(self.counts)
        if self.totals is None and parts == 1:
            return weighted.mean().to(self.means.device)
        own = weighted[(part + self.starts[task]) % 2 :: 2] if parts > 1 else weighted
        added = own.sum().to(self.means.device)
        if self.totals is None:
            return added / loss.numel()
        return added * (self.ranks / self.totals.sum(0)[task]).to(dtype)

    def own_share(self, part: int, task: int) -> float | Tensor:
        """The factor of the gradient of this rank's mean over a part, in a sum that will be averaged over ranks."""
        count = self.counts[part][task]
        if self.totals is None:
            return count / max(sum(row[task] for row in self.counts), 1)
        return self.ranks * count / self.totals[:, task].sum().clamp(min=1)


def mean_of(loss: Tensor) -> Tensor:
    """Averages in float32 at least: a mean of bfloat16 numbers loses what distinguishes them."""
    return loss.to(torch.promote_types(loss.dtype, torch.float32)).mean()


def means_of(examples: Examples, device: torch.device) -> Tensor:
    """Returns the plain mean loss of each task, `[tasks]`, 0 where absent, on the first loss's device or `device`."""
    device = next((loss.device for loss in examples if loss is not None), device)
    means = [None if loss is None else mean_of(loss).to(device) for loss in examples]
    dtype = torch.float32
    for mean in means:
        dtype = dtype if mean is None else torch.promote_types(dtype, mean.dtype)
    return torch.stack([torch.zeros((), dtype=dtype, device=device) if m is None else m.to(dtype) for m in means])


def read_losses(
    losses: Mapping[str, Tensor], tasks: TaskState, *, several: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Checks names, types and shapes, and puts the losses into the order of the tasks.

    Args:
        losses: task name -> scalar or `[n_t]`.
        tasks: knows the tasks' order.
        several: whether other processes hold other rows, so that this one may have none.

    Returns:
        The losses, None where absent; and, for several processes, a zero for each task that came without an example,
        which hangs on the task's graph: every process has to walk back through every head, and as often as the others,
        because FSDP gathers weights at each walk.
    """
    if not losses and not (several and tasks.tasks):
        raise BalanceError("no losses: the mapping of task name to loss is empty")
    examples: list[Tensor | None] = [None] * len(tasks.tasks)
    empty: list[Tensor | None] = [None] * len(tasks.tasks)
    given: Mapping[str, object] = losses
    for task, loss in given.items():
        if not (isinstance(loss, Tensor) and loss.is_floating_point() and loss.dim() <= 1):
            found = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise BalanceError(
                f"task {task!r}: a loss is a floating-point tensor, a scalar or one value per example [n], "
                f"found {found}"
            )
        examples[tasks.index(task)] = loss if loss.numel() else None
        if several and not loss.numel() and loss.requires_grad:
            empty[tasks.index(task)] = loss.sum()
    if all(loss is None for loss in examples) and not several:
        raise BalanceError(f"no task is present: not one example for {', '.join(losses)}. Leave out such a batch")
    return examples, empty


def check_gradients(tasks: Sequence[str], examples: Examples) -> None:
    """Raises if a loss cannot be trained on."""
    flat = [task for task, loss in zip(tasks, examples, strict=True) if loss is not None and not loss.requires_grad]
    if flat:
        raise BalanceError(
            f"task {flat[0]!r}: the loss carries no gradient. Was it detached or computed under torch.no_grad()? "
            "To score without training, call the balancer under torch.no_grad() or after .eval()"
        )


def halve(tasks: Sequence[str], examples: Examples, starts: Sequence[int]) -> list[list[Tensor | None]]:
    """Divides every task's examples into those at even and those at odd positions of the joined batch: `[2][tasks]`.

    Args:
        tasks: their names.
        examples: `[tasks]` losses.
        starts: how many examples of each task the ranks before this one have.
    """
    for task, loss in zip(tasks, examples, strict=True):
        if loss is not None and loss.dim() == 0:
            raise BalanceError(
                f"task {task!r}: double_batch needs one loss per example, found a scalar. Use reduction='none'"
            )
    halves = [
        [None if loss is None else loss[(part + start) % 2 :: 2] for loss, start in zip(examples, starts, strict=True)]
        for part in (0, 1)
    ]
    return [[None if half is None or half.numel() == 0 else half for half in part] for part in halves]


def not_finite(losses: Mapping[str, float], policy: str) -> NotFiniteError:
    """Words what is not finite: a task's loss, or if that is, its gradient.

    Args:
        losses: those tasks -> their losses.
        policy: `on_nonfinite`.
    """
    tasks = {task: "gradient" if math.isfinite(loss) else "loss" for task, loss in losses.items()}
    places = {"gradient": "gradient at shared", "loss": "loss"}
    words = "; ".join(f"task {task!r}: the {places[kind]} is not finite" for task, kind in tasks.items())
    return NotFiniteError(words, ADVICE[policy], tasks)


def negative(task: str, loss: float, method: str) -> BalanceError:
    """Words that a method has no meaning for a loss."""
    return BalanceError(
        f"task {task!r}: its loss is {loss:.6g}, and {method} is defined for losses of zero or more. Shift it, or choose "
        "another method"
    )


def by_task(
    tasks: Sequence[str], here: Sequence[bool], numbers: Sequence[Sequence[float]]
) -> dict[str, dict[str, float]]:
    """Names what was read from the device: `losses`, and `norms` where gradients were measured, of the tasks that are here.

    Args:
        tasks: their names.
        here: `[tasks]`, whether there is an example.
        numbers: `[1 + readings][tasks]`: plain means, then the norms of each part of the batch, which are averaged.
    """
    means, *norms = numbers
    present = [k for k in range(len(tasks)) if here[k]]
    return {
        "losses": {tasks[k]: means[k] for k in present},
        "norms": {tasks[k]: sum(row[k] for row in norms) / len(norms) for k in present} if norms else {},
    }


def idle_words(idle: float, ranks: int) -> str:
    """Words that some processes have nothing to train on."""
    return (
        f"{idle:.0f} of {ranks} processes have no loss in this batch. Pass the losses of tasks without an example as "
        "empty tensors, heads(hidden[rows])[0:0], or give every process some rows"
    )
