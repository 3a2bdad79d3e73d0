"""The base class: checks what comes in, measures, asks the method for weights, and returns one scalar."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from equipoise.balance._batch import (
    Batch,
    by_task,
    check_gradients,
    halve,
    idle_words,
    mean_of,
    means_of,
    negative,
    not_finite,
    read_losses,
)
from equipoise.balance._gradients import GradientStatistics, average
from equipoise.balance._graph import nothing
from equipoise.balance._ranks import Ranks
from equipoise.balance._readings import Reading, count_walks, differentiable_gramian, points_at, take_readings, update
from equipoise.balance._settings import choice
from equipoise.balance._state import TaskState, by_name
from equipoise.errors import BalanceError

_log = logging.getLogger(__name__)


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

    Attributes:
        epoch: how many calls make an epoch, None where nobody has said so. A trainer that knows sets it before the first step;
            methods whose settings are in epochs read it.
        walks: backward walks of all steps so far (not kept in the state; see `count_walks`): beside the caller's own,
            at the `representation` (heads only) and at `parameters`; `saved` by the caller's own, with nothing to walk.
        checked: what the check for finite numbers read in the last batch, `losses` and `norms`: on the host, unlike `last`.

    Note:
        Under `torch.no_grad()` or after `.eval()` the balancer returns the plain losses under the weights of the last
        training step (before the first: the method's initial weights), and changes neither its state nor `last`.
    """

    family: ClassVar[str] = "other"  # "baselines", "losses", "norms", "gramian" or "wrappers"
    source: ClassVar[str] = ""
    url: ClassVar[str] = ""
    rule: ClassVar[str] = ""
    needs: ClassVar[str] = ""  # in words, where `requires` does not say it all
    cost: ClassVar[str] = ""
    state: ClassVar[str] = ""
    ours: ClassVar[str] = ""

    # Settings may change these, so read the instance's.
    requires: frozenset[str] = frozenset()  # of "shared", "targets", "after", "validation"
    scopes: frozenset[str] = frozenset({"representation", "parameters"})  # where it may be measured
    measured_at: str = (
        "representation"  # by a recipe's `balance.shared: auto`; see docs/balancers.md for the measurement
    )
    positive_losses: bool = False  # a negative loss is an error
    needs_angles: bool = True  # inner products at parameters; at a representation they cost next to nothing
    needs_cross: bool = False  # inner products between the halves of the batch, with `double_batch` at parameters
    needs_gradients: bool = False  # keep the gradients in the statistics
    differentiable: bool = False  # make them differentiable, for `penalty`
    weighted_sum: bool = True  # the update is sum_i weight_i gradient_i
    validate_every: int = 1  # training steps from one `observe_validation` to the next, where "validation" is required

    weights: Tensor  # [tasks], of the last training step
    last_norms: Tensor  # [tasks], as last measured, infinite = never; in the state for what a resumed run logs
    last_cosines: Tensor  # [tasks, tasks], likewise
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
        self.add_task_buffer("last_norms", fill=math.inf, may_lack=True)
        self.add_pair_buffer("last_cosines", fill=math.inf, may_lack=True)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # the host's copy of `step`: reading the device's would wait for it
        self._masks: dict[tuple[object, ...], Tensor] = {}
        # Who trains together: "world" (the default group, where one was started), a process group, or None for nobody else.
        self.process_group: Any = "world"
        # At parameters the losses' graph is freed when it was measured. True keeps it for a backward of one's own.
        self.retain_graph = False
        self.epoch: int | None = None
        self.walks = {"representation": 0, "parameters": 0, "saved": 0}
        self._record: dict[str, Tensor] = {}  # [tasks] or [tasks, tasks], NaN where there is nothing to tell
        self.checked: dict[str, dict[str, float]] = {"losses": {}, "norms": {}}

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

    def combine(self, statistics: GradientStatistics, weights: Tensor) -> Sequence[Tensor] | None:
        """Returns the update at each measured parameter, of classes with `needs_gradients` and not `weighted_sum`.

        Asked once a step, between `weigh` and `observe`. What is not measured, such as the heads, still gets
        sum_i weight_i gradient_i.
        """

    def penalty(self, gramian: Tensor, cosines: Tensor) -> Tensor | None:
        """Returns what `differentiable` classes add to the loss.

        Both are `[tasks, tasks]`: differentiable inner products of the tasks' gradients, 0 where absent; and detached
        cosines, NaN where one has no meaning.
        """

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
        learning = self.training and torch.is_grad_enabled()
        if not (learning or self.tasks):  # an evaluation before the first step names nothing
            return torch.stack([mean_of(loss) for loss in losses.values() if loss.numel()]).sum()
        examples, empty = self._read(losses, several=learning and bool(Ranks(self.process_group)))
        means = means_of(examples, self.weights.device)
        if learning:
            check_gradients(self.tasks, examples)
            self.fit(means.device, means.dtype)
            return self._train(examples, empty, means, shared, targets)
        kept = self._finite(Batch.join([examples], means, Ranks(None)), [], examples, count=False)
        weights = (self.weights if self._steps else self.initial_weights()).to(means)
        return torch.stack([weights[k] * means[k] for k, keep in enumerate(kept) if keep]).sum()

    def observe_after(self, losses: Mapping[str, Tensor]) -> None:
        """Tells methods that require `"after"` the latest batch's plain losses, computed again after the update."""

    def observe_validation(self, losses: Mapping[str, Tensor]) -> None:
        """Tells methods that require `"validation"` the plain losses of held-out rows, before the next training batch.

        The rows should choose neither the model nor its settings.
        """

    @property
    def last(self) -> dict[str, dict[str, float]]:
        """What the last training step did, as plain numbers by task: `losses`, `weights`, `norms`, `cosines`.

        `losses` are plain means; `weights` what multiplied them (data weights included, by their mean); `norms` and
        `cosines` (`"a|b"`) as last measured, cosines without meaning left out; `data_weights` if a method has them.
        The numbers leave the device when this is read, not before, so training does not wait for them.
        """
        told = {**self._record, "norms": self.last_norms, "cosines": self.last_cosines}
        return {"losses": {}, "weights": {}} | {kind: by_name(values, self.tasks) for kind, values in told.items()}

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
        empty: list[Tensor | None],  # zeros with the graph of the tasks that came without an example
        means: Tensor,  # [tasks], of this process's rows
        shared: Tensor | Iterable[Tensor] | None,
        targets: Mapping[str, Tensor] | None,
    ) -> Tensor:
        ranks = Ranks(self.process_group)
        starts = ranks.before([0 if loss is None else loss.numel() for loss in examples]) if self.double_batch else []
        parts = halve(self.tasks, examples, starts) if self.double_batch else [examples]
        batch = Batch.join(parts, means, ranks, graph=any(zero is not None for zero in empty), starts=starts)
        readings = self._measure(parts, empty, shared, batch, ranks)
        count_walks(self.walks, readings, empty)
        kept = self._finite(batch, readings, examples)
        present = self._mask(kept)
        skipped = [loss.sum() for loss, keep in zip(examples, kept, strict=True) if loss is not None and not keep]
        examples = [loss if keep else None for loss, keep in zip(examples, kept, strict=True)]
        factors = self.data_weights(examples, targets)
        penalty = None
        if readings and self.differentiable:
            cosines = readings[0].statistics.only(present).cosines
            penalty = self.penalty(differentiable_gramian(readings[0], batch, kept, present), cosines)
        with torch.no_grad():
            plain = batch.means.where(present, 0)  # drops the NaN of a skipped task
            measured = [reading.statistics for reading in readings]
            if not all(kept):
                measured = [found.only(present) for found in measured]
            whole = average(measured) if measured else None
            # Each half is weighed by what the other one shows; undivided, a batch is weighed by itself.
            views: list[GradientStatistics | None] = [*reversed(measured)] or [None] * len(parts)
            weights = [self.weigh(plain, present, view).to(means) for view in views]
            chosen = None
            if whole is not None and whole.at == "parameters" and self._combines:
                chosen = self.combine(whole, weights[0])
            self.observe(plain, present, whole)
            self.weights.copy_(torch.stack(weights).mean(0))
            self.step += 1
            self._steps += 1
            self._remember(present, plain, factors, whole)
        if ranks or len(parts) > 1 or not all(kept) or any(factor is not None for factor in factors):
            terms = [
                weights[part][k] * batch.share(loss, factors[k], part, k)
                for part in range(len(parts))
                for k, loss in enumerate(examples)
                if loss is not None and parts[part][k] is not None
            ]
            total = torch.stack(terms).sum() if terms else means.new_zeros(())
        else:
            total = (weights[0] * means).sum()
        if readings and readings[0].plan.combine:
            keep = [k for k, keep in enumerate(kept) if keep]
            total = update(total, readings, weights, batch, keep, chosen)
        if ranks and skipped:
            total = total + nothing(skipped).to(total)
        for zero in empty:
            total = total if zero is None else total + zero.to(total)
        return total if penalty is None else total + penalty.to(total)

    def _measure(
        self,
        parts: list[list[Tensor | None]],
        empty: list[Tensor | None],
        shared: Tensor | Iterable[Tensor] | None,
        batch: Batch,
        ranks: Ranks,
    ) -> list[Reading]:
        if "shared" not in self.requires:
            return []
        if shared is None or self._steps % self.monitor_every == 0:
            points = points_at(shared, self.scopes, type(self).__name__)
        else:
            return []
        return take_readings(
            parts,
            empty,
            points,
            batch,
            ranks,
            # Weights of single examples act inside the losses, and what is measured is the gradient of the plain ones.
            reuse="always" if self._combines else "never" if "targets" in self.requires else "if cheaper",
            differentiable=self.differentiable,
            keep=self.needs_gradients,
            angles=self.needs_angles,
            cross=self.needs_cross,
            retain_graph=self.retain_graph,
        )

    @property
    def _combines(self) -> bool:
        return self.needs_gradients and not self.weighted_sum

    def _read(self, losses: Mapping[str, Tensor], *, several: bool) -> tuple[list[Tensor | None], list[Tensor | None]]:
        if not self.tasks and several:
            raise BalanceError("several processes train, and each may see the tasks in another order. Give tasks=[...]")
        if not self.tasks and losses:
            self.name_tasks(list(losses))
        return read_losses(losses, self, several=several)

    def _finite(
        self, batch: Batch, readings: Sequence[Reading], examples: list[Tensor | None], *, count: bool = True
    ) -> list[bool]:
        """Tells which tasks to keep, or raises. The only place of a step that waits for the device."""
        rows = [batch.means, *(reading.statistics.norms for reading in readings)]
        here = [loss is not None for loss in examples]
        if batch.totals is not None and batch.idle is not None:
            rows += [batch.totals.sum(0), batch.idle.expand(len(here))]
        numbers: list[list[float]] = torch.stack([row.to(batch.means) for row in rows]).tolist()
        if batch.totals is not None:
            idle, totals = numbers.pop(), numbers.pop()
            here = [total > 0 for total in totals]
            if idle[0]:  # on every rank, else the others would wait for this one for ever
                raise BalanceError(idle_words(idle[0], batch.ranks))
            if not any(here):
                raise BalanceError("no task is present: not one example in any process. Leave out such a batch")
        kept = [here[k] and all(math.isfinite(row[k]) for row in numbers) for k in range(len(here))]
        self.checked = by_task(self.tasks, here, numbers) if count else self.checked
        bad = [k for k in range(len(here)) if here[k] and not kept[k]]
        if self.positive_losses and (low := [k for k in range(len(here)) if kept[k] and numbers[0][k] < 0]):
            raise negative(self.tasks[low[0]], numbers[0][low[0]], type(self).__name__)
        if not bad:
            return kept
        lost = {self.tasks[k]: numbers[0][k] for k in bad}
        if self.on_nonfinite == "raise" or not any(kept):
            raise not_finite(lost, self.on_nonfinite)
        if count:
            self.skip_counts[bad] += 1
            _log.warning("step %d: %s; left out", self._steps, not_finite(lost, "skip").words)
        return kept

    def _mask(self, kept: list[bool]) -> Tensor:
        """`kept` on the device, `[tasks]`. There are few different ones, and making one would wait for the device."""
        key = (self.weights.device, *kept)
        if key not in self._masks:
            self._masks = dict([*self._masks.items()][-63:])
            self._masks[key] = torch.tensor(kept, device=self.weights.device)
        return self._masks[key]

    def _plain(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The means `[tasks]` of all ranks and which are present `[tasks]` bool, of losses that nothing is trained on."""
        ranks = Ranks(self.process_group)
        examples, _ = self._read(losses, several=bool(ranks))
        means = means_of(examples, self.weights.device).detach()
        self.fit(means.device, means.dtype)
        batch = Batch.join([examples], means, ranks)
        mask = self._mask(self._finite(batch, [], examples))
        return batch.means.where(mask, 0), mask

    def _remember(
        self, present: Tensor, plain: Tensor, factors: list[Tensor | None], found: GradientStatistics | None
    ) -> None:
        weights, self._record = self.weights, {}
        if any(factor is not None for factor in factors):
            # Weights of examples have mean 1 over the batch of all ranks, so one rank's own mean would mislead.
            several = bool(Ranks(self.process_group))
            known = [None if f is None or (f.dim() and several) else f.mean() for f in factors]
            data = torch.stack([plain.new_ones(()) if mean is None else mean.to(plain) for mean in known])
            weights = weights * data
            self._record["data_weights"] = data.where(present, torch.nan)
        self._record["losses"] = plain.where(present, torch.nan)
        self._record["weights"] = weights.where(present, torch.nan)
        if found is not None:
            self.last_norms.copy_(found.norms.where(found.present, torch.inf))
            self.last_cosines.copy_(found.cosines.nan_to_num(torch.inf))

    def _load_from_state_dict(self, state_dict: Mapping[str, object], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]
        self._steps = int(self.step)
