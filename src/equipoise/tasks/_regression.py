"""Scores: one number a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from equipoise.errors import DataError
from equipoise.tasks import _linear, _scores
from equipoise.tasks._base import Encoded, Outputs, Targets, Task, TaskSettings, register
from equipoise.tasks._density import BINS, SIGMA, DensityWeights, Rule
from equipoise.tasks._labels import read_numbers, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

HUBER_DELTA = 1.0
LINE = 2  # rows that a line meets exactly, whatever it is worth
#: Half a step of bf16, in which a run may predict, relative to the value; and the share of the scores' standard deviation
#: that may be lost by it.
ROUNDING, LOST = 2.0**-9, 0.1


class RegressionSettings(TaskSettings):
    """What a recipe may say of a score."""

    type: Literal["regression"] = Field(default="regression", description="a score: one number a text")
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None,
        description="the least and the greatest score; labels outside are rejected, predictions are clipped to it",
    )
    scaling: Literal["auto", "range", "standard", "none"] = Field(
        default="auto",
        description="what the model learns: the range mapped to [-1, 1], or the score less the training mean, over its "
        "standard deviation; auto is range where a range is given, else standard",
    )
    loss: Literal["mse", "mae", "huber"] = Field(default="mse", description="the loss, in scaled units")
    huber_delta: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description=f"where the Huber loss turns from square to linear, in scaled units; null is {HUBER_DELTA}",
    )
    label_weights: Rule | None = Field(
        default=None,
        description="raise rare scores in the loss by the inverse of the smoothed density of the training scores, or of "
        "its square root; null = all examples count alike",
    )
    label_bins: int | None = Field(
        default=None,
        ge=2,
        description=f"bins of that density over the range, or from the least to the greatest training score; null is {BINS}. "
        "Of scores in steps, as many as there are steps",
    )
    label_kernel: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description=f"standard deviation of the smoothing, in bins; 0 is no smoothing, null is {SIGMA:g}",
    )

    @model_validator(mode="after")
    def _possible(self) -> RegressionSettings:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must go up, not from {shown(self.range[0])} to {shown(self.range[1])}")
        if self.scaling == "range" and self.range is None:
            raise ValueError("scaling: range needs a range, for example range: [-1, 1]")
        if self.huber_delta is not None and self.loss != "huber":
            raise ValueError(f"huber_delta has no effect with loss: {self.loss}. Set loss: huber, or leave it out")
        for key in ("label_bins", "label_kernel"):
            if getattr(self, key) is not None and self.label_weights is None:
                raise ValueError(f"{key} has no effect without label_weights. Set label_weights, or leave it out")
        return self


@register
@dataclass(frozen=True)
class Regression(Task):
    """A score y, learned as z = (y - offset) / scale.

        mse: (o - z)^2    mae: |o - z|    huber: (o - z)^2 / 2 up to delta, then delta (|o - z| - delta / 2)

    with o the model's output; `label_weights` multiplies it by the weight of z (see `DensityWeights`). Predictions are
    `o * scale + offset`, clipped to the range where one is given; metrics judge these, unweighted, in the user's units.

    Example:
        >>> import pyarrow as pa
        >>> task = Regression.fit("polarity", RegressionSettings(range=(0, 10)), pa.chunked_array([["0", "5", "10"]]))
        >>> task.encode(pa.array(["10", " 7.5 ", None, "11"]))
        Encoded(targets=array([1. , 0.5, nan, nan], dtype=float32), reasons={3: "polarity '11' is outside the range [0, 10]"})
    """

    kind: ClassVar[str] = "regression"
    Settings: ClassVar[type[TaskSettings]] = RegressionSettings
    main_metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("mse", "min")
    directions: ClassVar[Mapping[str, Literal["max", "min"]]] = {
        "mse": "min",
        "mae": "min",
        "r2": "max",
        "pearson": "max",
        "spearman": "max",
        "ccc": "max",
    }

    name: str
    column: str
    range: tuple[float, float] | None
    offset: float
    scale: float
    loss_name: Literal["mse", "mae", "huber"]
    huber_delta: float
    label_weights: DensityWeights | None = None

    @classmethod
    def fit(
        cls, name: str, settings: RegressionSettings, labels: pa.ChunkedArray, *, source: Task | None = None
    ) -> Regression:
        """See `Task.fit`."""
        column = settings.column or name
        values, reasons = read_numbers(labels, column, settings.range)
        values = values[~np.isnan(values)]
        if not len(values):
            first = f": {next(iter(reasons.values()))}" if reasons else ""
            raise DataError(f"{name}: none of the {len(labels)} training rows has a usable {column}{first}")
        scaling = settings.scaling
        if scaling == "auto":
            scaling = "standard" if settings.range is None else "range"
        offset, scale = 0.0, 1.0
        if scaling == "range" and settings.range is not None:
            offset, scale = sum(settings.range) / 2, (settings.range[1] - settings.range[0]) / 2
        elif scaling == "standard":
            offset, scale = float(values.mean()), float(values.std())
            # Rounding can leave a constant a tiny deviation, and differences below 1e-160 one of 0.
            if values.min() == values.max() or scale == 0:
                raise DataError(
                    f"{name}: every {column} of the training split is {shown(values[0])}; there is nothing to learn"
                )
        delta = HUBER_DELTA if settings.huber_delta is None else settings.huber_delta
        task = cls(name, column, settings.range, offset, scale, settings.loss, delta)
        if settings.label_weights is None:
            return task
        # Of the targets as training sees them, rounded to 32 bits, so that no score counts here and weighs elsewhere.
        targets = task.encode(labels).targets
        ends = settings.range or (float(values.min()), float(values.max()))
        low, high = ((end - offset) / scale for end in ends)
        weights = DensityWeights.fit(
            targets[~np.isnan(targets)],
            low=low,
            high=high,
            rule=settings.label_weights,
            bins=settings.label_bins or BINS,
            sigma=SIGMA if settings.label_kernel is None else settings.label_kernel,
        )
        return replace(task, label_weights=weights)

    @property
    def outputs(self) -> list[str]:
        """One, named as the task."""
        return [self.name]

    def encode(self, labels: pa.Array | pa.ChunkedArray) -> Encoded:
        """Numbers as text -> scaled scores `[n]`."""
        values, reasons = self.numbers(labels)
        with np.errstate(over="ignore"):
            targets = ((values - self.offset) / self.scale).astype(np.float32)
        # Only where the training scores lie in a tiny interval and this one far outside.
        for row in np.flatnonzero(np.isinf(targets)).tolist():
            reasons[row] = f"{self.column} '{values[row]}' is too far from the training scores"
            targets[row] = np.nan
        return Encoded(targets, reasons)

    def numbers(self, labels: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float64], dict[int, str]]:
        """See `Task.numbers`."""
        return read_numbers(labels, self.column, self.range)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`[n, 1]`, `[n]` -> `[n]`, in scaled units."""
        from torch.nn import functional

        scaled, targets = outputs.float()[:, 0], targets.float()
        if self.loss_name == "mse":
            losses = functional.mse_loss(scaled, targets, reduction="none")
        elif self.loss_name == "mae":
            losses = functional.l1_loss(scaled, targets, reduction="none")
        else:
            losses = functional.huber_loss(scaled, targets, reduction="none", delta=self.huber_delta)
        return losses if self.label_weights is None else losses * self.label_weights.of(targets)

    def divergence(self, outputs_a: Tensor, outputs_b: Tensor) -> Tensor:
        """`[n, 1]` twice -> `[n]`, the squared difference in scaled units."""
        return (outputs_a.float()[:, 0] - outputs_b.float()[:, 0]).square()

    def calibration(self, outputs: Outputs, targets: Targets) -> tuple[float, float] | None:
        """The least-squares line from outputs to targets, where each row is met better by the line through the others.

        Only where the loss is the squared error of all examples alike: other losses and weights want something else.
        Nor where outputs hardly differ (a training of a few steps): a line that steep multiplies what rounding leaves of them.
        """
        if self.loss_name != "mse" or self.label_weights is not None:
            return None
        x, y = outputs[:, 0].astype(np.float64), targets.astype(np.float64)
        spread = float(np.sum((x - x.mean()) ** 2)) if len(x) > LINE else 0.0
        if not spread > 0 or not np.isfinite(spread):
            return None
        slope = float(np.sum((x - x.mean()) * (y - y.mean()))) / spread
        offset = float(y.mean() - slope * x.mean())
        # Without fitting n lines: the residual of a row that its line has not seen is e / (1 - h), h the row's leverage.
        leverage = 1 / len(x) + (x - x.mean()) ** 2 / spread
        with np.errstate(divide="ignore", invalid="ignore"):
            unseen = (y - slope * x - offset) / (1 - leverage)
        if slope <= 0 or not float(np.sum(unseen**2)) < float(np.sum((y - x) ** 2)):
            return None
        if slope > 1 and slope * ROUNDING * float(np.abs(x).max()) > LOST * float(y.std()):
            return None
        return slope, offset

    def predict(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """`<task>`: the score in the user's units."""
        _scores.check_finite(self.name, outputs)
        values = self.decode(outputs[:, 0])
        return {self.name: values if self.range is None else np.clip(values, *self.range)}

    def decode(self, targets: Targets) -> NDArray[Any]:
        """Scaled scores -> scores in the user's units, NaN where there is none."""
        return targets.astype(np.float64) * self.scale + self.offset

    def metrics(self, outputs: Outputs, targets: Targets) -> dict[str, Any]:
        """`mse`, `mae`, `r2`, `pearson`, `spearman`, `ccc`, `n`: in the user's units, of clipped predictions."""
        held = ~np.isnan(targets)
        true, predicted = self.decode(targets[held]), self.predict(outputs[held])[self.name]
        names = ("mse", "mae", "r2", "pearson", "spearman", "ccc")
        return {**{name: getattr(_scores, name)(true, predicted) for name in names}, "n": len(true)}

    def constant_outputs(self, targets: Targets) -> Outputs:
        """The mean of the targets, `[1]`."""
        held = targets[~np.isnan(targets)]
        return np.array([held.mean(dtype=np.float64) if len(held) else 0.0], dtype=np.float32)

    def first_outputs(self, targets: Targets) -> Outputs | None:
        """The mean of the targets, where it is farther from zero than scaled scores are.

        AdamW moves a bias by its rate a step, so that outputs of a short run that start at 0 never get to scores around 50; and
        while they are all too low, every row's gradient says the same, and the representation learns nothing else.
        """
        mean = self.constant_outputs(targets)
        return mean if abs(float(mean[0])) > 1 else None

    def fit_baseline(self, features: Any, targets: Targets) -> Callable[[Any], Outputs]:
        """Ridge regression."""
        predict = _linear.ridge(features, targets.astype(np.float64))
        return lambda rows: predict(rows)[:, None].astype(np.float32)

    def summary(self, targets: Targets) -> dict[str, Any]:
        """`n`, `mean`, `sd`, `min`, `max` in the user's units."""
        return _scores.describe(self.decode(targets[~np.isnan(targets)]))

    def to_dict(self) -> dict[str, Any]:
        """See `Task.to_dict`. Without label weights it is what it was before there were any."""
        return {
            "kind": self.kind,
            "name": self.name,
            "column": self.column,
            "range": None if self.range is None else list(self.range),
            "offset": self.offset,
            "scale": self.scale,
            "loss": self.loss_name,
            "huber_delta": self.huber_delta,
            **({} if self.label_weights is None else {"label_weights": self.label_weights.to_dict()}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Regression:
        """See `Task.from_dict`."""
        range_ = None if data["range"] is None else (float(data["range"][0]), float(data["range"][1]))
        weights = data.get("label_weights")
        return cls(
            data["name"],
            data["column"],
            range_,
            data["offset"],
            data["scale"],
            data["loss"],
            data["huber_delta"],
            None if weights is None else DensityWeights.from_dict(weights),
        )
