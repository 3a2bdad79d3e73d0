"""The base class: checks what comes in, measures, asks the method for weights, and returns one scalar."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from equipoise.balance._gradients import GradientStatistics, average, measure
from equipoise.balance._registry import did_you_mean
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

_log = logging.getLogger(__name__)

Scale = Literal["tasks", "one"]


class Balancer(TaskState):
    """Turns the losses of several tasks into one scalar whose backward is the balanced update.

    L = sum_i weight_i L_i, with constant (detached) weights. That one rule makes it work unchanged under autocast,
    gradient scaling, accumulation, checkpointing, LoRA, DDP and FSDP: the caller's own `backward` stays the only one.

    A method is a subclass with `weigh` and, if it remembers anything, `observe` and buffers made by `add_task_buffer`;
    it declares what it needs in `requires` and says in `source`, `url`, `rule`, `needs`, `cost`, `state` and `ours`
    what the table in `docs/balancers.md` says of it.

    Args:
        tasks: every task's name. None takes the names from the first call, which must then carry all tasks.
        on_nonfinite: what to do when a task's loss or gradient is NaN or infinite: `"raise"`, or `"skip"`, which
            leaves the task out of that step, counts it in `skipped` and logs a warning.
        monitor: measure gradient norms and cosines at `shared` for the logs, although the method does not need them.
        monitor_every: measure each so many steps.
        double_batch: take the statistics that weigh one half of the batch from the other half, both ways round, so
            that a weight is independent of the noise in the gradient that it multiplies. Needs per-example losses.
            The halves are the even and the odd positions of each task's examples.

    Note:
        Under `torch.no_grad()` or after `.eval()` the balancer returns the plain losses under the weights of the last
        training step (before the first: the method's initial weights), and changes neither its state nor `last`.
    """

    source: ClassVar[str] = ""
    url: ClassVar[str] = ""
    rule: ClassVar[str] = ""
    needs: ClassVar[str] = ""  # in words, where `requires` does not say it all
    cost: ClassVar[str] = ""
    state: ClassVar[str] = ""
    ours: ClassVar[str] = ""

    requires: frozenset[str] = frozenset()  # of "shared", "targets"; settings may add to it, so read the instance's

    weights: Tensor  # [tasks], of the last training step
    step: Tensor  # int64 scalar
    skip_counts: Tensor  # [tasks] int64

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        monitor: bool = False,
        monitor_every: int = 1,
        double_batch: bool = False,
    ) -> None:
        super().__init__(tasks)
        self.on_nonfinite = choice("on_nonfinite", on_nonfinite, ("raise", "skip"))
        interval: object = monitor_every  # recipes and notebooks bring what they like, so types are checked too
        if not isinstance(interval, int) or interval < 1:
            raise BalanceError(f"measuring each N steps needs a whole number N >= 1, found {interval!r}")
        self.monitor, self.monitor_every, self.double_batch = monitor, monitor_every, double_batch
        if monitor:
            self.requires = self.requires | {"shared"}
        self.add_task_buffer("weights", fill=1.0)
        self.add_task_buffer("skip_counts", dtype=torch.int64)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # the host's copy of `step`: reading the device's would wait for it
        self._record: dict[str, Tensor] = {}  # [tasks] or [tasks, tasks], NaN where there is nothing to tell

    # What a method writes -------------------------------------------------------------------------------------------

    def weigh(
        self,
        losses: Tensor,  # [tasks], plain means, detached; 0 where absent
        present: Tensor,  # [tasks] bool
        statistics: GradientStatistics | None,  # None on a step without measurement
    ) -> Tensor:
        """Returns the weights `[tasks]` of this step. Must change no state: two halves may ask in one step."""
        raise NotImplementedError

    def observe(self, losses: Tensor, present: Tensor, statistics: GradientStatistics | None) -> None:
        """Remembers the step: called once a step, after `weigh`, with the same arguments."""

    def data_weights(
        self, losses: Sequence[Tensor | None], targets: Mapping[str, Tensor] | None
    ) -> list[Tensor | None]:
        """Returns what multiplies each task's loss inside: None, a scalar, or one weight an example `[n_t]`."""
        return [None] * len(losses)

    def initial_weights(self) -> Tensor:
        """Returns the weights `[tasks]` before the first training step."""
        return torch.ones(len(self.tasks))

    # What a caller uses ---------------------------------------------------------------------------------------------

    def forward(
        self,
        losses: Mapping[str, Tensor],
        *,
        shared: Tensor | Iterable[Tensor] | None = None,
        targets: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Returns the balanced loss.

        Args:
            losses: task name -> scalar, or one value per example `[n_t]`, which is then averaged. A task that has no
                name here or no example (`[0]`) is absent from this step.
            shared: the representation `[n, d]` that the heads were fed with, or shared parameters.
            targets: task name -> labels of the batch, aligned with that task's losses.

        Returns:
            A scalar, in float32 or the losses' type if that is wider: sum_i weight_i L_i.

        Raises:
            BalanceError: no task is present; a task is unknown; a loss has a wrong shape, is not finite or carries no
                gradient; or something that the method requires is missing.
        """
        examples = self._read(losses)
        learning = self.training and torch.is_grad_enabled()
        if learning:
            self._check_gradient(examples)
        first = next(loss for loss in examples if loss is not None)
        means = _means(examples, first)
        self.fit(first.device, means.dtype)
        if not learning:
            kept = self._finite(means[None], examples, count=False)
            weights = (self.weights if self._steps else self.initial_weights()).to(means)
            return torch.stack([weights[k] * means[k] for k, keep in enumerate(kept) if keep]).sum()
        return self._train(examples, means, shared, targets)

    @property
    def last(self) -> dict[str, dict[str, float]]:
        """What the last training step did, as plain numbers by task: `losses`, `weights`, `norms`, `cosines`.

        `losses` are plain means; `weights` what multiplied them (data weights included, by their mean); `norms` and
        `cosines` (`"a|b"`) as last measured, cosines without meaning left out. `data_weights` is there if a method has
        them. The numbers leave the device when this is read, not before, so training does not wait for them.
        """
        read: dict[str, dict[str, float]] = {"losses": {}, "weights": {}, "norms": {}, "cosines": {}}
        for kind, tensor in self._record.items():
            values = tensor.tolist()
            if kind == "cosines":
                pairs = itertools.combinations(range(len(self.tasks)), 2)
                numbers = {f"{self.tasks[i]}|{self.tasks[j]}": values[i][j] for i, j in pairs}
            else:
                numbers = dict(zip(self.tasks, values, strict=True))
            read[kind] = {name: value for name, value in numbers.items() if not math.isnan(value)}
        return read

    @property
    def skipped(self) -> dict[str, int]:
        """How often each task was left out because its loss or gradient was not finite."""
        return dict(zip(self.tasks, self.skip_counts.tolist(), strict=True))

    def extra_repr(self) -> str:
        """Shows the settings that differ from the defaults."""
        return f"tasks={list(self.tasks)}" if self.tasks else "tasks=None"

    # How a step goes ------------------------------------------------------------------------------------------------

    def _train(
        self,
        examples: list[Tensor | None],
        means: Tensor,  # [tasks]
        shared: Tensor | Iterable[Tensor] | None,
        targets: Mapping[str, Tensor] | None,
    ) -> Tensor:
        parts = self._parts(examples)
        measured = self._measure(parts, shared)
        checked = torch.stack([means.detach(), *(found.norms.to(means) for found in measured)])
        kept = self._finite(checked, examples, count=True)
        examples = [loss if keep else None for loss, keep in zip(examples, kept, strict=True)]
        factors = self.data_weights(examples, targets)
        with torch.no_grad():
            present = torch.tensor(kept, device=means.device)
            plain = means.detach().where(present, 0)  # drops the NaN of a skipped task
            if any(loss is None for loss in examples):
                measured = [found.only(present) for found in measured]
            whole = average(measured) if measured else None
            # Each half is weighed by what the other one shows; undivided, a batch is weighed by itself.
            views: list[GradientStatistics | None] = [*reversed(measured)] or [None] * len(parts)
            weights = [self.weigh(plain, present, view).to(means) for view in views]
            self.observe(plain, present, whole)
            self.weights.copy_(torch.stack(weights).mean(0))
            self.step += 1
            self._steps += 1
            self._remember(present, plain, factors, whole)
        if len(parts) == 1 and all(kept) and not any(factor is not None for factor in factors):
            return (weights[0] * means).sum()
        terms = [
            weights[part][k] * _share(loss, factors[k], part, len(parts), means.dtype).to(means.device)
            for part in range(len(parts))
            for k, loss in enumerate(examples)
            if loss is not None and parts[part][k] is not None
        ]
        return torch.stack(terms).sum()

    def _parts(self, examples: list[Tensor | None]) -> list[list[Tensor | None]]:
        """Divides the batch for the statistics: one part, or two halves of every task's examples."""
        if not self.double_batch:
            return [examples]
        for task, loss in zip(self.tasks, examples, strict=True):
            if loss is not None and loss.dim() == 0:
                raise BalanceError(
                    f"task {task!r}: double_batch needs one loss per example, found a scalar. Use reduction='none'"
                )
        halves = [[None if loss is None else loss[part::2] for loss in examples] for part in (0, 1)]
        return [[None if half is None or half.numel() == 0 else half for half in part] for part in halves]

    def _measure(
        self, parts: list[list[Tensor | None]], shared: Tensor | Iterable[Tensor] | None
    ) -> list[GradientStatistics]:
        if "shared" not in self.requires:
            return []
        if shared is None:
            raise BalanceError(
                f"{type(self).__name__} needs shared: the representation that the heads were fed with, or the shared "
                "parameters. Call balancer(losses, shared=hidden)"
            )
        if self._steps % self.monitor_every:
            return []
        points = shared if isinstance(shared, Tensor) else list(shared)
        if all(loss is None for loss in parts[-1]):  # one example a task cannot be divided: it weighs itself
            parts = [parts[0], parts[0]]
        return [measure([None if loss is None else _mean(loss) for loss in part], points) for part in parts]

    def _read(self, losses: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Checks names, types and shapes, and puts the losses into the order of the tasks."""
        if not losses:
            raise BalanceError("no losses: the mapping of task name to loss is empty")
        if not self.tasks:
            self.name_tasks(list(losses))
        examples: list[Tensor | None] = [None] * len(self.tasks)
        given: Mapping[str, object] = losses
        for task, loss in given.items():
            if not (isinstance(loss, Tensor) and loss.is_floating_point() and loss.dim() <= 1):
                found = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise BalanceError(
                    f"task {task!r}: a loss is a floating-point tensor, a scalar or one value per example [n], "
                    f"found {found}"
                )
            examples[self.index(task)] = loss if loss.numel() else None
        if all(loss is None for loss in examples):
            raise BalanceError(f"no task is present: not one example for {', '.join(losses)}. Leave out such a batch")
        return examples

    def _check_gradient(self, examples: list[Tensor | None]) -> None:
        flat = [task for task, x in zip(self.tasks, examples, strict=True) if x is not None and not x.requires_grad]
        if flat:
            raise BalanceError(
                f"task {flat[0]!r}: the loss carries no gradient. Was it detached or computed under torch.no_grad()? "
                "To score without training, call the balancer under torch.no_grad() or after .eval()"
            )

    def _finite(self, values: Tensor, examples: list[Tensor | None], *, count: bool) -> list[bool]:
        """Tells which tasks to keep. `values` is `[rows, tasks]`, losses first, then norms. The step's only wait."""
        finite: list[list[bool]] = values.detach().isfinite().tolist()
        kept = [loss is not None and all(row[k] for row in finite) for k, loss in enumerate(examples)]
        bad = [k for k, loss in enumerate(examples) if loss is not None and not kept[k]]
        if not bad:
            return kept
        words = "; ".join(
            f"task {self.tasks[k]!r}: the {'gradient at shared' if finite[0][k] else 'loss'} is not finite" for k in bad
        )
        if self.on_nonfinite == "raise":
            raise BalanceError(f"{words}. Look at its data and learning rate, or set on_nonfinite='skip'")
        if not any(kept):
            raise BalanceError(f"{words}. No task is left to train on")
        if count:
            self.skip_counts[bad] += 1
            _log.warning("step %d: %s; left out", self._steps, words)
        return kept

    def _remember(
        self, present: Tensor, plain: Tensor, factors: list[Tensor | None], found: GradientStatistics | None
    ) -> None:
        """Keeps what `last` tells, on the device."""
        weights = self.weights
        if any(factor is not None for factor in factors):
            data = torch.stack([plain.new_ones(()) if f is None else f.mean().to(plain) for f in factors])
            weights = weights * data
            self._record["data_weights"] = data.where(present, torch.nan)
        self._record["losses"] = plain.where(present, torch.nan)
        self._record["weights"] = weights.where(present, torch.nan)
        if found is not None:
            self._record["norms"] = found.norms.where(found.present, torch.nan)
            self._record["cosines"] = found.cosines

    def _load_from_state_dict(self, state_dict: Mapping[str, object], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]
        self._steps = int(self.step)


def choice(setting: str, value: str, options: tuple[str, ...]) -> str:
    """Returns a setting's value, or raises with the valid ones if it is none of them."""
    if value not in options:
        hint = did_you_mean(value, options)
        raise BalanceError(f"{setting} must be one of {', '.join(map(repr, options))}, found {value!r}.{hint}")
    return value


def _mean(loss: Tensor) -> Tensor:
    """Averages in float32 at least: a mean of bfloat16 numbers loses what distinguishes them."""
    return loss.to(torch.promote_types(loss.dtype, torch.float32)).mean()


def _means(examples: list[Tensor | None], first: Tensor) -> Tensor:
    """Returns the plain mean loss of each task, `[tasks]`, 0 where absent."""
    means = [None if loss is None else _mean(loss).to(first.device) for loss in examples]
    dtype = torch.float32
    for mean in means:
        dtype = dtype if mean is None else torch.promote_types(dtype, mean.dtype)
    return torch.stack([torch.zeros((), dtype=dtype, device=first.device) if m is None else m.to(dtype) for m in means])


def _share(loss: Tensor, factor: Tensor | None, part: int, parts: int, dtype: torch.dtype) -> Tensor:
    """Returns what one part of the examples adds to the task's mean of (data weight x loss)."""
    weighted = loss.to(dtype) if factor is None else loss.to(dtype) * factor.to(loss.device, dtype)
    return weighted[part::parts].sum() / loss.numel() if parts > 1 else weighted.mean()
