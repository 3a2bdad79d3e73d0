"""The data half of DAO: weights that answer how a batch's labels are distributed.

What DAO's paper does here is not public knowledge, so these three rules are named choices of ours. They read labels only,
never the model, and can serve any balancer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from equipoise.balance._registry import did_you_mean
from equipoise.balance._state import TaskState
from equipoise.errors import BalanceError

RULES = ("inverse_frequency", "density", "entropy")

_GRID = 64  # bins over twice the range of the first batch, so about 32 over the labels
_KERNEL_BINS = 2.0  # standard deviation of the Gaussian kernel: a sixteenth of the labels' range
_COARSE = 4  # bins that `entropy` joins: a batch of 32 cannot fill more than a few cells
_LEAST_ENTROPY = 0.1  # a batch with a single label still counts a little


class DataWeights(TaskState):
    """Weights examples or tasks by their batch's labels.

    With s_c the share of class c, a running average over batches that contains this one, and gamma the exponent:

    - `inverse_frequency`, integer labels `[n]`: example with class c counts s_c^-gamma, scaled to mean 1 over the batch.
    - `density`, floating labels `[n]`: the same with the label's density, a histogram of 64 bins (a running average
      too) smoothed by a Gaussian kernel. The grid spans twice the first batch's range and grows when labels leave it.
    - `entropy`, either: one number a task, u = H / log C, where H is the entropy of this batch's labels and C the number
      of classes (or of coarse cells of the grid) seen so far, at most n; not below 0.1; scaled to mean 1 over the tasks
      that have it. A batch whose labels are spread counts more than one that shows a single class.

    One name for all tasks weighs those whose labels fit it and leaves the others at 1; labels with more dimensions are
    never weighed. A mapping task -> name is strict: labels that do not fit are an error.

    Args:
        rule: one of the names above, or a mapping of task to name or None.
        tasks: the tasks' names, or None to learn them later.
        exponent: gamma, from 0 (no weights) to 1 (every class counts the same in total).
        smoothing: share of the old average that is kept each step, in [0, 1). The first batch starts the average.

    Raises:
        BalanceError: an unknown rule or task, or a setting out of its range.

    Example:
        >>> weigh = DataWeights("inverse_frequency", tasks=["label"], exponent=1.0)
        >>> losses, labels = torch.ones(4), torch.tensor([0, 0, 0, 1])
        >>> weigh([losses], {"label": labels})[0]
        tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """

    shares: Tensor  # [tasks, bins], running shares of classes or grid cells; all 0 before the first batch
    spans: Tensor  # [tasks, 2], ends of the grid; NaN before the first batch and for classes

    def __init__(
        self,
        rule: str | Mapping[str, str | None],
        *,
        tasks: Sequence[str] | None = None,
        exponent: float = 0.5,
        smoothing: float = 0.9,
    ) -> None:
        if not 0 <= exponent <= 1:
            raise BalanceError(f"data_exponent must lie in [0, 1], found {exponent!r}")
        if not 0 <= smoothing < 1:
            raise BalanceError(f"data_smoothing must lie in [0, 1), found {smoothing!r}")
        for name in [rule] if isinstance(rule, str) else rule.values():
            if name is not None and name not in RULES:
                raise BalanceError(
                    f"no data weights {name!r}.{did_you_mean(name, RULES)} Available: {', '.join(RULES)}, or None"
                )
        super().__init__(tasks)
        self.rule = rule if isinstance(rule, str) else dict(rule)
        self.exponent, self.smoothing = exponent, smoothing
        self.add_task_buffer("shares", _GRID)
        self.add_task_buffer("spans", 2, fill=math.nan)
        self._check_mapping()

    def name_tasks(self, tasks: Sequence[str]) -> None:
        """Fixes the tasks' names, and checks those of the mapping against them."""
        super().name_tasks(tasks)
        self._check_mapping()

    def forward(
        self,
        losses: Sequence[Tensor | None],  # [tasks] of [n_t] or scalars; None where absent
        targets: Mapping[str, Tensor] | None,
    ) -> list[Tensor | None]:
        """Returns each task's weights, `[n_t]` or a scalar, and None where nothing is weighed."""
        if targets is None:
            raise BalanceError("data_weights need targets: call balancer(losses, shared=hidden, targets=labels)")
        for task in targets:
            self.index(task)
        first = next(loss for loss in losses if loss is not None)
        self.fit(first.device, torch.promote_types(first.dtype, torch.float32))
        shares, spans = self.shares.clone(), self.spans.clone()
        factors: list[Tensor | None] = [None] * len(self.tasks)
        entropies: dict[int, Tensor] = {}
        for k, (task, loss) in enumerate(zip(self.tasks, losses, strict=True)):
            rule, labels = self._rule_of(task), targets.get(task)
            if loss is None or labels is None or rule is None or not self._fits(task, rule, labels):
                continue
            if labels.shape[:1] != (loss.shape or labels.shape)[:1] or labels.numel() == 0:
                raise BalanceError(f"task {task!r}: {len(labels)} targets for {loss.numel()} losses")
            if rule != "entropy" and loss.dim() == 0:
                raise BalanceError(
                    f"task {task!r}: {rule} needs one loss per example, found a scalar. Use reduction='none'"
                )
            shares, bins, batch = self._count(k, task, labels.to(shares.device), shares, spans)
            if rule == "entropy":
                entropies[k] = _entropy(batch, shares[k], labels)
            else:
                factors[k] = self._rarity(shares[k], bins, smooth=labels.is_floating_point())
        self.shares, self.spans = shares, spans  # only now: an error above leaves the state as it was
        return _spread(factors, entropies)

    def _count(self, k: int, task: str, labels: Tensor, shares: Tensor, spans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Blends the batch's labels into row k; returns all shares, the bin of each label, and the batch's shares."""
        if labels.is_floating_point():
            _widen(task, labels, shares[k], spans[k])
            bins = _bins(labels, spans[k])
        else:
            bins = labels.long()
            low, high = torch.stack(torch.aminmax(bins)).tolist()
            if low < 0:
                raise BalanceError(f"task {task!r}: class {low} in targets. Pass only the rows that carry a label")
            if high >= shares.shape[1]:
                shares = torch.nn.functional.pad(shares, (0, high + 1 - shares.shape[1]))
        batch = torch.zeros_like(shares[k]).index_add_(0, bins, shares.new_ones(len(bins))) / len(bins)
        blend = self.smoothing * shares[k] + (1 - self.smoothing) * batch
        shares[k] = torch.where(shares[k].sum() > 0, blend, batch)
        return shares, bins, batch

    def _rarity(self, shares: Tensor, bins: Tensor, *, smooth: bool) -> Tensor:
        density = shares[:_GRID]
        if smooth:
            place = torch.arange(_GRID, dtype=shares.dtype, device=shares.device)
            density = torch.exp(-0.5 * ((place[:, None] - place[None, :]) / _KERNEL_BINS) ** 2) @ density
        raw = (density if smooth else shares)[bins] ** -self.exponent
        return raw / raw.mean()

    def _rule_of(self, task: str) -> str | None:
        return self.rule if isinstance(self.rule, str) else self.rule.get(task)

    def _fits(self, task: str, rule: str, labels: Tensor) -> bool:
        floating = labels.is_floating_point()
        fits = labels.dim() == 1 and {"inverse_frequency": not floating, "density": floating, "entropy": True}[rule]
        if not fits and not isinstance(self.rule, str):
            wanted = {"inverse_frequency": "integer [n]", "density": "floating-point [n]", "entropy": "[n]"}[rule]
            raise BalanceError(
                f"task {task!r}: {rule} weighs {wanted} targets, found {labels.dtype} {list(labels.shape)}"
            )
        return fits

    def _check_mapping(self) -> None:
        rule = getattr(self, "rule", None)  # names may come before the settings, from the constructor
        for task in rule if isinstance(rule, dict) and self.tasks else ():
            self.index(task)


def _widen(task: str, labels: Tensor, shares: Tensor, span: Tensor) -> None:
    """Makes the grid hold all labels, in place: `shares` is `[bins]`, `span` is `[2]`."""
    ends = torch.stack([*torch.aminmax(labels.detach().to(span.dtype)), span[0], span[1]])
    low, high, left, right = ends.tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BalanceError(f"task {task!r}: a target is not finite")
    new = math.isnan(left)
    if not new and left <= low and high <= right:
        return
    bottom, top = (low, high) if new else (min(low, left), max(high, right))
    margin = (top - bottom) / 2 or max(abs(top), 1.0) / 2
    centres = left + (right - left) * (torch.arange(_GRID, dtype=span.dtype, device=span.device) + 0.5) / _GRID
    span[0] = bottom - margin if new or low < left else left
    span[1] = top + margin if new or high > right else right
    if not new:
        old = shares[:_GRID].clone()
        shares[:_GRID] = torch.zeros_like(old).index_add_(0, _bins(centres, span), old)


def _bins(labels: Tensor, span: Tensor) -> Tensor:
    place = (labels.detach().to(span.dtype) - span[0]) / (span[1] - span[0])
    return (place * _GRID).long().clamp(0, _GRID - 1)


def _entropy(batch: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Returns H / log C in [0.1, 1], or NaN where one example or one known class says nothing."""
    if labels.is_floating_point():
        batch, known = (row[:_GRID].reshape(-1, _COARSE).sum(1) for row in (batch, known))
    classes = (known > 0).sum().clamp(max=len(labels))
    return (-torch.xlogy(batch, batch).sum() / classes.log()).clamp(min=_LEAST_ENTROPY).where(classes > 1, torch.nan)


def _spread(factors: list[Tensor | None], entropies: dict[int, Tensor]) -> list[Tensor | None]:
    """Scales the entropies to mean 1 over the tasks that have one; the others keep weight 1."""
    if entropies:
        values = torch.stack(list(entropies.values()))
        scaled = (values / values.nanmean()).nan_to_num(nan=1.0)
        for k, weight in zip(entropies, scaled, strict=True):
            factors[k] = weight
    return factors
