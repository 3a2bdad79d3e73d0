"""The data half of DAO: weights that answer how a batch's labels are distributed.

What DAO's paper does here is not public knowledge, so these three rules are named choices of ours. They read labels only,
never the model, and can serve any balancer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.balance._ranks import Ranks, send
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

    With several processes a batch is that of all of them: shares, grids, entropies and means are joined, and every
    process must call in every step, also one without an example.

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
        self.process_group: Any = "world"  # which processes train together, as in a balancer
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
        ranks = Ranks(self.process_group)
        first = next((loss for loss in losses if loss is not None), None)
        if first is not None:
            self.fit(first.device, torch.promote_types(first.dtype, torch.float32))
        labels, problem = self._labels(losses, targets)
        if problem is not None and not ranks:
            raise problem
        seen = self._bounds(labels, problem, ranks) if labels or ranks else {}
        if not seen:
            return [None] * len(self.tasks)
        shares, spans = self.shares.clone(), self.spans.clone()
        classes = max([int(found.high) + 1 for found in seen.values() if not found.floating], default=0)
        shares = torch.nn.functional.pad(shares, (0, max(classes - shares.shape[1], 0)))
        counts, bins = shares.new_zeros(len(seen), shares.shape[1]), dict[int, Tensor]()
        for row, (k, found) in zip(counts, seen.items(), strict=True):
            if found.floating:
                _widen(found, shares[k], spans[k])
            if k in labels:
                bins[k] = _bins(labels[k], spans[k]) if found.floating else labels[k].long()
                row.index_add_(0, bins[k], row.new_ones(len(bins[k])))
        counts = ranks.sum_(counts)
        factors: list[Tensor | None] = [None] * len(self.tasks)
        entropies: dict[int, Tensor] = {}
        for row, (k, found) in zip(counts, seen.items(), strict=True):
            batch = row / row.sum()
            blend = self.smoothing * shares[k] + (1 - self.smoothing) * batch
            shares[k] = torch.where(shares[k].sum() > 0, blend, batch)
            if self._rule_of(self.tasks[k]) == "entropy":
                entropies[k] = _entropy(batch, shares[k], row.sum(), coarse=found.floating)
            elif k in bins:
                joined = row if ranks else None
                factors[k] = _rarity(shares[k], bins[k], joined, exponent=self.exponent, smooth=found.floating)
        self.shares, self.spans = shares, spans  # only now: an error above leaves the state as it was
        return _spread(factors, entropies)

    def _labels(
        self, losses: Sequence[Tensor | None], targets: Mapping[str, Tensor] | None
    ) -> tuple[dict[int, Tensor], BalanceError | None]:
        """Returns the labels `[n_t]` that are weighed here, or what is wrong with them, which every rank must hear."""
        found: dict[int, Tensor] = {}
        try:
            if targets is None:
                raise BalanceError("data_weights need targets: call balancer(losses, shared=hidden, targets=labels)")
            for task in targets:
                self.index(task)
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
                found[k] = labels.detach().to(self.shares.device)
        except BalanceError as error:
            return {}, error
        return found, None

    def _bounds(self, labels: dict[int, Tensor], problem: BalanceError | None, ranks: Ranks) -> dict[int, _Bounds]:
        """Returns what the labels of all ranks span, of each task that has some. The only place that waits for the device."""
        size, device = len(self.tasks), self.spans.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
        none = torch.full((2,), -math.inf, dtype=dtype, device=device)
        ends = [_ends(labels[k], self.spans.dtype).to(dtype) if k in labels else none for k in range(size)]
        kinds = [k in labels and labels[k].is_floating_point() is kind for kind in (True, False) for k in range(size)]
        # A rank that never had a loss does not know yet that the others' state is in float64.
        flags = send([*kinds, problem is not None, self.spans.dtype == torch.float64], device, dtype)
        joined = ranks.max_(torch.cat([torch.stack(ends, 1).flatten(), flags]))
        numbers = torch.cat([joined, self.spans.t().flatten().to(dtype)]).tolist()
        trouble, wide = numbers[4 * size : 4 * size + 2]
        if trouble:  # on every rank, else the others would wait for this one for ever
            raise problem or BalanceError("another process cannot weigh its targets; its own message says why")
        if wide:
            self.fit(device, torch.float64)
        columns = [numbers[at : at + size] for at in (*range(0, 4 * size, size), 4 * size + 2, 5 * size + 2)]
        found = {}
        for k, (high, low, floating, whole, left, right) in enumerate(zip(*columns, strict=True)):
            if floating or whole:
                found[k] = _Bounds(-low, high, bool(floating), left, right)
                _check(self.tasks[k], found[k], mixed=bool(floating and whole))
        return found

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


class _Bounds(NamedTuple):
    """What the labels of a task span over all ranks, and the grid before this batch."""

    low: float
    high: float
    floating: bool
    left: float  # NaN without a grid
    right: float


def _ends(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the largest label and the largest negated one, `[2]`; infinite if one is not finite."""
    low, high = torch.aminmax(labels.to(dtype)) if labels.is_floating_point() else torch.aminmax(labels.long())
    ends = torch.stack([high, -low])
    # A maximum over ranks may lose a NaN, and would lose -inf.
    return ends.nan_to_num(math.inf, math.inf, math.inf) if labels.is_floating_point() else ends


def _check(task: str, bounds: _Bounds, *, mixed: bool) -> None:
    if mixed:
        raise BalanceError(f"task {task!r}: targets are integers in one process and floating-point in another")
    if not (math.isfinite(bounds.low) and math.isfinite(bounds.high)):
        raise BalanceError(f"task {task!r}: a target is not finite")
    if not bounds.floating and bounds.low < 0:
        raise BalanceError(f"task {task!r}: class {bounds.low:.0f} in targets. Pass only the rows that carry a label")


def _widen(bounds: _Bounds, shares: Tensor, span: Tensor) -> None:
    """Makes the grid hold all labels, in place: `shares` is `[bins]`, `span` is `[2]`."""
    low, high, _, left, right = bounds
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


def _rarity(
    shares: Tensor,  # [bins], running
    bins: Tensor,  # [n_t], of this rank's labels
    joined: Tensor | None,  # [bins], how many labels of all ranks; None in a single process
    *,
    exponent: float,
    smooth: bool,
) -> Tensor:
    """Returns share^-exponent of each label, scaled to mean 1 over the batch of all ranks."""
    if smooth:
        place = torch.arange(_GRID, dtype=shares.dtype, device=shares.device)
        kernel = torch.exp(-0.5 * ((place[:, None] - place[None, :]) / _KERNEL_BINS) ** 2)
        shares = kernel @ shares[:_GRID]
    raw = shares[bins] ** -exponent
    if joined is None:
        return raw / raw.mean()
    joined = joined[: len(shares)]
    # All labels of a bin count the same, so the counts tell the sum without another exchange.
    mean = (joined * shares**-exponent).where(joined > 0, 0).sum() / joined.sum()
    return raw / mean


def _entropy(batch: Tensor, known: Tensor, count: Tensor, *, coarse: bool) -> Tensor:
    """Returns H / log C in [0.1, 1], or NaN where one example or one known class says nothing."""
    if coarse:
        batch, known = (row[:_GRID].reshape(-1, _COARSE).sum(1) for row in (batch, known))
    classes = (known > 0).sum().clamp(max=count)  # in the type of the count: log of an integer is but float32
    return (-torch.xlogy(batch, batch).sum() / classes.log()).clamp(min=_LEAST_ENTROPY).where(classes > 1, torch.nan)


def _spread(factors: list[Tensor | None], entropies: dict[int, Tensor]) -> list[Tensor | None]:
    """Scales the entropies to mean 1 over the tasks that have one; the others keep weight 1."""
    if entropies:
        values = torch.stack(list(entropies.values()))
        scaled = (values / values.nanmean()).nan_to_num(nan=1.0)
        for k, weight in zip(entropies, scaled, strict=True):
            factors[k] = weight
    return factors
