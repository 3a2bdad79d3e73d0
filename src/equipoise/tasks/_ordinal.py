"""Classes with an order: intensity, stars, urgency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from equipoise.errors import DataError
from equipoise.tasks import _base, _linear, _probabilities, _scores
from equipoise.tasks._base import Encoded, Outputs, Targets, Task, TaskSettings, register
from equipoise.tasks._derived import DerivableSettings, derive, encode_derived
from equipoise.tasks._divergences import ordinal_log_probabilities, symmetric_kl
from equipoise.tasks._labels import (
    Names,
    are_integers,
    check_classes,
    distinct,
    encode_distinct,
    in_order,
    listed,
    names_of,
    quoted,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


class OrdinalSettings(DerivableSettings):
    """What a recipe may say of ordered classes."""

    type: Literal["ordinal"] = Field(default="ordinal", description="one of several classes that have an order")
    labels: Names | None = Field(
        default=None,
        description="the classes from the lowest up; may be left out where all labels are whole numbers, and for a derived "
        "task",
    )


@register
@dataclass(frozen=True)
class Ordinal(Task):
    """Ranks y = 0..K-1, learned by conditional ordinal regression (CORN).

    Output k of K-1 is the logit of P(y > k | y > k-1). An example takes part in output k if y > k-1:

        loss = -1/(K-1) sum_{k <= y} [ [y > k] log s_k + [y = k] log(1 - s_k) ],    s_k = sigmoid(output k)
        P(y > k) = s_0 ... s_k        predicted rank = #{k: P(y > k) > 1/2}

    A derived task reads the numbers of its source; its rank is the number of thresholds less than or equal to them.

    References:
        Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional Probabilities
        (Shi, Cao, Raschka, 2021)
        https://arxiv.org/abs/2111.08851

    Note:
        The paper divides the sum over a batch of n by the number of terms in it, N = sum_k #{i: y_i > k-1}, which no
        single example knows. Here each example is divided by K-1, so the mean over a batch is the paper's loss times
        N / (n (K-1)): the same gradient direction in every batch, and a factor of at most 1.

    Example:
        >>> import pyarrow as pa
        >>> task = Ordinal.fit("intensity", OrdinalSettings(labels=["low", "medium", "high"]), pa.array(["low", "high"]))
        >>> task.outputs
        ['intensity>low', 'intensity>medium']
    """

    kind: ClassVar[str] = "ordinal"
    Settings: ClassVar[type[TaskSettings]] = OrdinalSettings
    # Not the kappa: it has no meaning while a model still says one class only, and selection needs a number.
    main_metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("mae", "min")
    directions: ClassVar[Mapping[str, Literal["max", "min"]]] = {
        "mae": "min",
        "quadratic_kappa": "max",
        "accuracy": "max",
        "macro_f1": "max",
    }

    name: str
    column: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] | None = None
    source: Task | None = None

    @classmethod
    def fit(
        cls, name: str, settings: OrdinalSettings, labels: pa.ChunkedArray, *, source: Task | None = None
    ) -> Ordinal:
        """See `Task.fit`."""
        if settings.source is not None:
            task = cls(name, **derive(name, settings, labels, source)._asdict())
        else:
            names = settings.labels
            if names is None:
                names = in_order(distinct(labels)[1])
                if not are_integers(names):
                    raise DataError(
                        f"{name}: the order of {listed(names)} is not known. Set tasks.{name}.labels, from the lowest up"
                    )
            task = cls(name, settings.column or name, tuple(names))
        encoded = task.encode(labels)
        ranks = encoded.targets[~np.isnan(encoded.targets)].astype(np.int64)
        counts = np.bincount(ranks, minlength=len(task.labels))
        by_class = dict(zip(task.labels, counts.tolist(), strict=True))
        check_classes(name, task.column, by_class, encoded, len(labels))
        return task

    @property
    def outputs(self) -> list[str]:
        """`<task>><class>` for all classes but the highest: the conditional logits."""
        return [f"{self.name}>{label}" for label in self.labels[:-1]]

    def encode(self, labels: pa.Array | pa.ChunkedArray) -> Encoded:
        """Class names, or the source's numbers, as text -> ranks `[n]`."""
        if self.source is not None and self.thresholds is not None:
            return encode_derived(labels, self.source, self.thresholds)
        index = {label: k for k, label in enumerate(self.labels)}

        def read(text: str) -> float | str:
            if text in index:
                return float(index[text])
            return (
                f"{self.column} {quoted(text)} is not one of {listed(self.labels)}. "
                f"Set tasks.{self.name}.labels, from the lowest up"
            )

        return encode_distinct(labels, read, ())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`[n, classes - 1]`, `[n]` -> `[n]`."""
        import torch
        from torch.nn import functional

        ranks = targets.long()[:, None]  # [n, 1]
        steps = torch.arange(self.size, device=outputs.device)[None, :]  # [1, classes - 1]
        above = (ranks > steps).float()
        terms = functional.binary_cross_entropy_with_logits(outputs.float(), above, reduction="none")
        # `where`, not a product: an output that takes no part may be anything, and 0 times infinity is no number.
        return torch.where(ranks >= steps, terms, 0.0).sum(dim=1) / self.size

    def divergence(self, outputs_a: Tensor, outputs_b: Tensor) -> Tensor:
        """`[n, classes - 1]` twice -> `[n]`, (KL(p||q) + KL(q||p)) / 2 of the classes' probabilities."""
        return symmetric_kl(ordinal_log_probabilities(outputs_a.float()), ordinal_log_probabilities(outputs_b.float()))

    def balance_targets(self, targets: Tensor) -> Tensor:
        """Ranks `[n]`."""
        return targets.long()

    def predict(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """`<task>`: the class of the predicted rank; `<task>/<class>`: its probability."""
        _scores.check_finite(self.name, outputs)
        above = _above(outputs)
        edges = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        probabilities = edges[:, :-1] - edges[:, 1:]
        columns: dict[str, NDArray[Any]] = {self.name: names_of(_rank(outputs), self.labels)}
        return columns | {f"{self.name}/{label}": probabilities[:, k] for k, label in enumerate(self.labels)}

    def decode(self, targets: Targets) -> NDArray[Any]:
        """Ranks -> class names, None where there is none."""
        return names_of(targets, self.labels)

    def metrics(self, outputs: Outputs, targets: Targets) -> dict[str, Any]:
        """`mae` (in ranks), `quadratic_kappa`, `accuracy`, `macro_f1`, `per_class`, `confusion_matrix`, `n`."""
        held = ~np.isnan(targets)
        _scores.check_finite(self.name, outputs[held])
        true, predicted = targets[held].astype(np.int64), _rank(outputs[held])
        confusion = _scores.confusion_matrix(true, predicted, len(self.labels))
        return {
            "mae": _scores.mae(true.astype(np.float64), predicted.astype(np.float64)),
            "quadratic_kappa": _scores.quadratic_kappa(confusion),
            **_scores.of_classes(confusion, list(self.labels)),
        }

    def constant_outputs(self, targets: Targets) -> Outputs:
        """The conditional logits of the class frequencies, `[classes - 1]`: the median is predicted."""
        held = targets[~np.isnan(targets)].astype(np.int64)
        counts = np.bincount(held, minlength=len(self.labels))
        outputs: Outputs = _conditional_logits(counts[None, :] / max(len(held), 1))[0]
        return outputs

    def fit_baseline(self, features: Any, targets: Targets) -> Callable[[Any], Outputs]:
        """Logistic regression, its class probabilities turned into conditional logits."""
        predict = _linear.logistic(features, targets.astype(np.int64), len(self.labels))
        return lambda rows: _conditional_logits(predict(rows))

    def summary(self, targets: Targets) -> dict[str, Any]:
        """`n` and `counts` by class; `thresholds` of a derived task."""
        held = targets[~np.isnan(targets)].astype(np.int64)
        counts = np.bincount(held, minlength=len(self.labels)).tolist()
        cuts = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return {"n": len(held), "counts": dict(zip(self.labels, counts, strict=True)), **cuts}

    def to_dict(self) -> dict[str, Any]:
        """See `Task.to_dict`. Holds the source of a derived task, which reads its labels."""
        return {
            "kind": self.kind,
            "name": self.name,
            "column": self.column,
            "labels": list(self.labels),
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "source": None if self.source is None else self.source.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ordinal:
        """See `Task.from_dict`."""
        # Models of earlier versions have neither thresholds nor source: no ordered class was derived then.
        thresholds, source = data.get("thresholds"), data.get("source")
        return cls(
            data["name"],
            data["column"],
            tuple(data["labels"]),
            None if thresholds is None else tuple(thresholds),
            None if source is None else _base.from_dict(source),
        )


def _above(outputs: Outputs) -> NDArray[np.float64]:
    """P(y > k), `[n, classes - 1]`: never rises with k, as a product of probabilities."""
    return np.cumprod(_probabilities.sigmoid(outputs), axis=1, dtype=np.float64)


def _rank(outputs: Outputs) -> NDArray[np.int64]:
    result: NDArray[np.int64] = (_above(outputs) > 0.5).sum(axis=1)
    return result


def _conditional_logits(
    probabilities: NDArray[np.float64],  # [n, classes]
) -> Outputs:
    """Class probabilities -> logits of P(y > k | y > k-1) = P(y > k) / (P(y > k) + P(y = k))."""
    above = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return _probabilities.log(above) - _probabilities.log(probabilities[:, :-1])
