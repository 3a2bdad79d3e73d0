"""Exclusive classes: one of several names a text, from a column or derived from a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from equipoise.errors import DataError, RecipeError
from equipoise.tasks import _base, _linear, _probabilities, _scores
from equipoise.tasks._base import Encoded, Outputs, Targets, Task, TaskSettings, register
from equipoise.tasks._derived import DerivableSettings, derive, encode_derived
from equipoise.tasks._divergences import symmetric_kl
from equipoise.tasks._labels import (
    Names,
    Weights,
    check_classes,
    check_unique,
    distinct,
    encode_distinct,
    in_order,
    listed,
    names_of,
    quoted,
)
from equipoise.tasks._temperature import temperature_scale

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


class ClassificationSettings(DerivableSettings):
    """What a recipe may say of classes."""

    type: Literal["classification"] = Field(default="classification", description="one of several classes a text")
    labels: Names | None = Field(
        default=None,
        description="the classes in the order wanted; by default those of the training split, sorted, as numbers where "
        "all are whole numbers. For a derived task: the names of its classes, from the lowest score up",
    )
    casefold: bool = Field(default=False, description="read labels without regard to capitals")
    class_weights: Literal["balanced"] | Weights | None = Field(
        default=None,
        description="weight of each class in the loss: null, balanced (inverse frequency, mean 1 over the training "
        "examples), or a weight for each class by name",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="the share of the target that is spread evenly over all classes"
    )

    @model_validator(mode="after")
    def _possible(self) -> ClassificationSettings:
        if self.source is not None and self.casefold:
            raise ValueError("casefold has no effect with from: the classes are derived from numbers")
        if self.labels is not None and self.casefold:
            check_unique([label.casefold() for label in self.labels])
        if isinstance(self.class_weights, dict):
            _check_weights(self.class_weights, self.labels)
        return self


def _check_weights(weights: Mapping[str, float], labels: list[str] | None) -> None:
    wrong = [name for name, weight in weights.items() if not 0 < weight < float("inf")]
    if wrong:
        raise ValueError(f"class_weights must be greater than 0: {', '.join(f'{n}: {weights[n]}' for n in wrong)}")
    if labels is not None and set(weights) != set(labels):
        odd = sorted(set(weights) ^ set(labels))
        raise ValueError(f"class_weights must name every class once, and differs from labels in {listed(odd)}")


#: More classes than this are taken for a column of another kind, unless the recipe lists them.
MAX_CLASSES = 1000


@register
@dataclass(frozen=True)
class Classification(Task):
    """Classes c = 1..C, learned by cross-entropy.

        loss = -v_y sum_c q_c log p_c,    q_c = (1 - s) [c = y] + s / C,    p = softmax(outputs)

    with v_y the weight of the true class (1 by default) and s the label smoothing. Balanced weights are
    v_c = n / (C' n_c) over the C' classes that the training split holds, so that their mean over its n examples is 1.

    A derived task reads the numbers of its source; its class is the number of thresholds less than or equal to them.

    Example:
        >>> import pyarrow as pa
        >>> labels = pa.chunked_array([["negative", "positive", "positive"]])
        >>> task = Classification.fit("label", ClassificationSettings(class_weights="balanced"), labels)
        >>> task.outputs, task.weights
        (['label/negative', 'label/positive'], (1.5, 0.75))
    """

    kind: ClassVar[str] = "classification"
    Settings: ClassVar[type[TaskSettings]] = ClassificationSettings
    # Not accuracy: sentiment classes are uneven, and a model that always says the most frequent one is accurate.
    main_metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("macro_f1", "max")
    directions: ClassVar[Mapping[str, Literal["max", "min"]]] = {"accuracy": "max", "macro_f1": "max", "mcc": "max"}

    name: str
    column: str
    labels: tuple[str, ...]
    casefold: bool = False
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    thresholds: tuple[float, ...] | None = None
    source: Task | None = None

    @classmethod
    def fit(
        cls, name: str, settings: ClassificationSettings, labels: pa.ChunkedArray, *, source: Task | None = None
    ) -> Classification:
        """See `Task.fit`."""
        if settings.source is not None:
            task = cls(name, **derive(name, settings, labels, source)._asdict())
        else:
            names = settings.labels
            if names is None:
                names = in_order({_key(text, settings.casefold) for text in distinct(labels)[1]})
                if len(names) > MAX_CLASSES:
                    raise DataError(
                        f"{name}: column '{settings.column or name}' holds {len(names)} different labels, such as "
                        f"{quoted(names[0])}. Is it a score (type: regression) or a text? Set tasks.{name}.labels if not"
                    )
            task = cls(name, settings.column or name, tuple(names), settings.casefold)
        encoded = task.encode(labels)
        counts = np.bincount(encoded.targets[~np.isnan(encoded.targets)].astype(np.int64), minlength=task.size)
        by_class = dict(zip(task.labels, counts.tolist(), strict=True))
        check_classes(name, task.column, by_class, encoded, len(labels))
        weights = _weights(task, settings.class_weights, counts)
        return replace(task, weights=weights, label_smoothing=settings.label_smoothing)

    @property
    def outputs(self) -> list[str]:
        """`<task>/<class>`, the logits of the classes in order."""
        return [f"{self.name}/{label}" for label in self.labels]

    def encode(self, labels: pa.Array | pa.ChunkedArray) -> Encoded:
        """Class names, or the source's numbers, as text -> class indices `[n]`."""
        if self.source is not None and self.thresholds is not None:
            return encode_derived(labels, self.source, self.thresholds)
        index = {_key(label, self.casefold): k for k, label in enumerate(self.labels)}

        def read(text: str) -> float | str:
            k = index.get(_key(text, self.casefold))
            return self._unknown(text) if k is None else float(k)

        return encode_distinct(labels, read, ())

    def _unknown(self, text: str) -> str:
        folded = not self.casefold and text.casefold() in {label.casefold() for label in self.labels}
        what_to_do = f"Set tasks.{self.name}.labels" + (", or casefold: true" if folded else "")
        return f"{self.column} {quoted(text)} is not one of {listed(self.labels)}. {what_to_do}"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`[n, classes]`, `[n]` -> `[n]`."""
        import torch
        from torch.nn import functional

        true = targets.long()
        losses = functional.cross_entropy(outputs.float(), true, reduction="none", label_smoothing=self.label_smoothing)
        if self.weights is None:
            return losses
        return losses * torch.tensor(self.weights, device=losses.device)[true]

    def divergence(self, outputs_a: Tensor, outputs_b: Tensor) -> Tensor:
        """`[n, classes]` twice -> `[n]`, (KL(p||q) + KL(q||p)) / 2."""
        return symmetric_kl(outputs_a.float().log_softmax(dim=1), outputs_b.float().log_softmax(dim=1))

    def calibration(self, outputs: Outputs, targets: Targets) -> tuple[float, float] | None:
        """A scale that makes probabilities as sure as they are right; the class that is predicted stays the same.

        Not with class weights, under which probabilities are not meant to be frequencies.
        """
        scale = None if self.weights is not None else temperature_scale(outputs, targets)
        return None if scale is None else (scale, 0.0)

    def balance_targets(self, targets: Tensor) -> Tensor:
        """Class indices `[n]`."""
        return targets.long()

    def predict(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """`<task>`: the most probable class; `<task>/<class>`: its softmax probability."""
        _scores.check_finite(self.name, outputs)
        columns: dict[str, NDArray[Any]] = {self.name: names_of(outputs.argmax(axis=1), self.labels)}
        return columns | dict(zip(self.outputs, _probabilities.softmax(outputs).T, strict=True))

    def decode(self, targets: Targets) -> NDArray[Any]:
        """Class indices -> class names, None where there is none."""
        return names_of(targets, self.labels)

    def metrics(self, outputs: Outputs, targets: Targets) -> dict[str, Any]:
        """`accuracy`, `macro_f1`, `mcc`, `per_class`, `confusion_matrix`, `n`."""
        held = ~np.isnan(targets)
        _scores.check_finite(self.name, outputs[held])
        confusion = _scores.confusion_matrix(
            targets[held].astype(np.int64), outputs[held].argmax(axis=1), len(self.labels)
        )
        return {**_scores.of_classes(confusion, list(self.labels)), "mcc": _scores.mcc(confusion)}

    def constant_outputs(self, targets: Targets) -> Outputs:
        """The logarithms of the class frequencies, `[classes]`: the majority is predicted."""
        held = targets[~np.isnan(targets)].astype(np.int64)
        return _probabilities.log(np.bincount(held, minlength=self.size) / max(len(held), 1))

    def fit_baseline(self, features: Any, targets: Targets) -> Callable[[Any], Outputs]:
        """Logistic regression; its log-probabilities."""
        predict = _linear.logistic(features, targets.astype(np.int64), self.size)
        return lambda rows: _probabilities.log(predict(rows))

    def summary(self, targets: Targets) -> dict[str, Any]:
        """`n` and `counts` by class; `thresholds` of a derived task."""
        held = targets[~np.isnan(targets)].astype(np.int64)
        counts = dict(zip(self.labels, np.bincount(held, minlength=self.size).tolist(), strict=True))
        cuts = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return {"n": len(held), "counts": counts, **cuts}

    def to_dict(self) -> dict[str, Any]:
        """See `Task.to_dict`. Holds the source of a derived task, which reads its labels."""
        return {
            "kind": self.kind,
            "name": self.name,
            "column": self.column,
            "labels": list(self.labels),
            "casefold": self.casefold,
            "weights": None if self.weights is None else list(self.weights),
            "label_smoothing": self.label_smoothing,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "source": None if self.source is None else self.source.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Classification:
        """See `Task.from_dict`."""
        return cls(
            data["name"],
            data["column"],
            tuple(data["labels"]),
            data["casefold"],
            None if data["weights"] is None else tuple(data["weights"]),
            data["label_smoothing"],
            None if data["thresholds"] is None else tuple(data["thresholds"]),
            None if data["source"] is None else _base.from_dict(data["source"]),
        )


def _key(text: str, casefold: bool) -> str:
    return text.casefold() if casefold else text


def _weights(
    task: Classification, wanted: Literal["balanced"] | dict[str, float] | None, counts: NDArray[np.int64]
) -> tuple[float, ...] | None:
    if wanted is None:
        return None
    if wanted == "balanced":
        # A class without an example has no frequency to invert; nothing in training is weighted by its 1.
        even = counts.sum() / np.count_nonzero(counts)
        return tuple(float(even / count) if count else 1.0 for count in counts)
    weights = {_key(label, task.casefold): float(weight) for label, weight in wanted.items()}
    classes = [_key(label, task.casefold) for label in task.labels]
    if len(weights) != len(wanted) or set(weights) != set(classes):
        raise RecipeError(
            f"tasks.{task.name}.class_weights: names {listed(list(wanted))}, but the classes are {listed(task.labels)}. "
            "Name each of them once"
        )
    return tuple(weights[label] for label in classes)
