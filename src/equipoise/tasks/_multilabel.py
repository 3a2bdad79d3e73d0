"""Any number of classes a text: emotions, aspects, topics."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from equipoise.errors import DataError
from equipoise.tasks import _linear, _probabilities, _scores
from equipoise.tasks._base import Encoded, Outputs, Targets, Task, TaskSettings, register
from equipoise.tasks._divergences import symmetric_bernoulli_kl
from equipoise.tasks._labels import Names, distinct, encode_distinct, in_order, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

logger = logging.getLogger(__name__)


class MultilabelSettings(TaskSettings):
    """What a recipe may say of classes that do not exclude each other."""

    type: Literal["multilabel"] = Field(default="multilabel", description="any number of several classes a text")
    labels: Names | None = Field(
        default=None, description="the classes in the order wanted; by default those of the training split, sorted"
    )
    separator: str = Field(
        default="|", min_length=1, description="what stands between the classes of a cell, unless it is a JSON list"
    )
    empty: str | None = Field(
        default=None,
        description="the cell that means none of the classes, as a JSON list [] always does; a blank cell is a missing label",
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="the probability from which on a class is predicted")

    @model_validator(mode="after")
    def _possible(self) -> MultilabelSettings:
        for label in self.labels or []:
            if self.separator in label:
                raise ValueError(f"class '{label}' holds the separator '{self.separator}'. Set another separator")
            if label == self.empty:
                raise ValueError(f"empty: '{label}' means none of the classes, so it cannot be one of the labels")
        if self.empty is not None and (not self.empty.strip() or self.empty != self.empty.strip()):
            raise ValueError("empty must not be blank or have white space around it; a blank cell is a missing label")
        return self


@register
@dataclass(frozen=True)
class Multilabel(Task):
    """Classes c = 1..C, each present (y_c = 1) or not, learned by binary cross-entropy.

        loss = -1/C sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)],    p = sigmoid(outputs)

    Every class with p_c >= threshold is predicted.

    Example:
        >>> import pyarrow as pa
        >>> task = Multilabel.fit("emotions", MultilabelSettings(), pa.chunked_array([["joy|awe", '["fear"]', ""]]))
        >>> task.labels, task.encode(pa.array(["joy|fear", "[]"])).targets.tolist()
        (('awe', 'fear', 'joy'), [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    """

    kind: ClassVar[str] = "multilabel"
    Settings: ClassVar[type[TaskSettings]] = MultilabelSettings
    # Not micro-F1: a few frequent classes decide it, and rare emotions are what one looks for.
    main_metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("macro_f1", "max")
    directions: ClassVar[Mapping[str, Literal["max", "min"]]] = {
        "micro_f1": "max",
        "macro_f1": "max",
        "average_precision": "max",
        "subset_accuracy": "max",
    }

    name: str
    column: str
    labels: tuple[str, ...]
    separator: str = "|"
    empty: str | None = None
    threshold: float = 0.5

    @classmethod
    def fit(
        cls, name: str, settings: MultilabelSettings, labels: pa.ChunkedArray, *, source: Task | None = None
    ) -> Multilabel:
        """See `Task.fit`."""
        column, reader = settings.column or name, _Cells(settings.separator, settings.empty)
        names = settings.labels
        if names is None:
            cells = [reader.read(text) for text in distinct(labels)[1]]
            names = in_order({one for cell in cells if not isinstance(cell, str) for one in cell})
        for one in names:
            if settings.separator in one:
                raise DataError(
                    f"{name}: class '{one}' holds the separator '{settings.separator}'. Set tasks.{name}.separator"
                )
        task = cls(name, column, tuple(names), settings.separator, settings.empty, settings.threshold)
        encoded = task.encode(labels)
        counts = np.nansum(encoded.targets, axis=0)
        if np.count_nonzero(counts) < 2:
            first = f": {next(iter(encoded.reasons.values()))}" if encoded.reasons else ""
            raise DataError(
                f"{name}: {np.count_nonzero(counts)} classes in column '{column}' of the {len(labels)} training rows; "
                f"at least two are needed{first}"
            )
        if not counts.all():
            missing = [one for one, count in zip(names, counts, strict=True) if not count]
            logger.warning("%s: no training example of %s", name, listed(missing))
        return task

    @property
    def outputs(self) -> list[str]:
        """`<task>/<class>`, the logits of the classes in order."""
        return [f"{self.name}/{label}" for label in self.labels]

    def encode(self, labels: pa.Array | pa.ChunkedArray) -> Encoded:
        """Cells -> 1 where a class is named, else 0: `[n, classes]`."""
        index = {label: k for k, label in enumerate(self.labels)}
        reader = _Cells(self.separator, self.empty)

        def read(text: str) -> NDArray[np.float32] | str:
            names = reader.read(text)
            if isinstance(names, str):
                return f"{self.column} {quoted(text)} {names}"
            target = np.zeros(len(self.labels), dtype=np.float32)
            for one in names:
                if one not in index:
                    return (
                        f"{self.column} {quoted(text)}: {quoted(one)} is not one of {listed(self.labels)}. "
                        f"Set tasks.{self.name}.labels"
                    )
                target[index[one]] = 1.0
            return target

        return encode_distinct(labels, read, (len(self.labels),))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """`[n, classes]`, `[n, classes]` -> `[n]`."""
        from torch.nn import functional

        losses = functional.binary_cross_entropy_with_logits(outputs.float(), targets.float(), reduction="none")
        return losses.mean(dim=1)

    def divergence(self, outputs_a: Tensor, outputs_b: Tensor) -> Tensor:
        """`[n, classes]` twice -> `[n]`, the mean over the classes of (KL(p||q) + KL(q||p)) / 2 of there or not."""
        return symmetric_bernoulli_kl(outputs_a.float(), outputs_b.float()).mean(dim=1)

    def balance_targets(self, targets: Tensor) -> Tensor:
        """1 where a class is present, else 0: whole numbers `[n, classes]`."""
        return targets.long()

    def predict(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """`<task>`: the classes present, between separators; `<task>/<class>`: the sigmoid probability."""
        _scores.check_finite(self.name, outputs)
        probabilities = _probabilities.sigmoid(outputs)
        columns: dict[str, NDArray[Any]] = {self.name: self._join(probabilities >= self.threshold)}
        return columns | dict(zip(self.outputs, probabilities.T, strict=True))

    def decode(self, targets: Targets) -> NDArray[Any]:
        """The names of the classes present, between separators; None where there is no label."""
        cells = self._join(targets == 1)
        cells[np.isnan(targets).any(axis=1)] = None
        return cells

    def _join(self, present: NDArray[np.bool_]) -> NDArray[np.object_]:
        """`[n, classes]` -> cells `[n]`; where no class is present, the cell that means so, or a blank one."""
        none = self.empty or ""
        names = np.array(self.labels, dtype=object)
        # Few sets of classes recur over many rows, so each is joined once.
        sets, which = np.unique(present, axis=0, return_inverse=True)
        cells = np.array([self.separator.join(names[one]) or none for one in sets], dtype=object)
        return cells[which.reshape(-1)]

    def metrics(self, outputs: Outputs, targets: Targets) -> dict[str, Any]:
        """`micro_f1`, `macro_f1`, `average_precision`, `subset_accuracy`, `per_class`, `n`."""
        held = ~np.isnan(targets).any(axis=1)
        _scores.check_finite(self.name, outputs[held])
        scores = _probabilities.sigmoid(outputs[held])
        true, predicted = targets[held] == 1, scores >= self.threshold
        hits, positive, said = (true & predicted).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0)
        counts = positive.sum() + said.sum()
        n = len(true)
        return {
            # 0/0 where no class is true or predicted anywhere: it then has no meaning.
            "micro_f1": float(2 * hits.sum() / counts) if counts else None,
            "macro_f1": float(np.mean(_scores.f1_of(hits, positive, said))) if n else None,
            "average_precision": _scores.average_precision(true.astype(np.float64), scores),
            "subset_accuracy": float((true == predicted).all(axis=1).mean()) if n else None,
            "per_class": _scores.per_class(list(self.labels), hits, positive, said),
            "n": n,
        }

    def constant_outputs(self, targets: Targets) -> Outputs:
        """The logits of the class frequencies, `[classes]`."""
        held = targets[~np.isnan(targets).any(axis=1)]
        return _probabilities.logit(held.sum(axis=0, dtype=np.float64) / max(len(held), 1))

    def fit_baseline(self, features: Any, targets: Targets) -> Callable[[Any], Outputs]:
        """One logistic regression a class; their logits."""
        models = [_linear.logistic(features, column.astype(np.int64), 2) for column in targets.T]
        return lambda rows: _probabilities.logit(np.stack([model(rows)[:, 1] for model in models], axis=1))

    def summary(self, targets: Targets) -> dict[str, Any]:
        """`n`, `counts` by class, and how many rows carry `none` of them."""
        held = targets[~np.isnan(targets).any(axis=1)]
        counts = dict(zip(self.labels, held.sum(axis=0, dtype=np.float64).astype(int).tolist(), strict=True))
        return {"n": len(held), "counts": counts, "none": int((held.sum(axis=1) == 0).sum())}

    def to_dict(self) -> dict[str, Any]:
        """See `Task.to_dict`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "column": self.column,
            "labels": list(self.labels),
            "separator": self.separator,
            "empty": self.empty,
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Multilabel:
        """See `Task.from_dict`."""
        return cls(
            data["name"], data["column"], tuple(data["labels"]), data["separator"], data["empty"], data["threshold"]
        )


@dataclass(frozen=True)
class _Cells:
    """How the cells of a column name classes."""

    separator: str
    empty: str | None

    def read(self, text: str) -> list[str] | str:
        """The classes that a cell names, or, as a string, why it cannot be read."""
        if text == self.empty:
            return []
        if text.startswith("["):
            return self._read_list(text)
        names = [name for name in (one.strip() for one in text.split(self.separator)) if name]
        if not names:
            return "names no class"
        if self.empty in names:
            return f"names classes, and '{self.empty}', which means none of them"
        return names

    def _read_list(self, text: str) -> list[str] | str:
        try:
            cell = json.loads(text)
        # Deep nesting ends in RecursionError, a number of thousands of digits in ValueError.
        except (ValueError, RecursionError):
            return "is not a JSON list"
        if any(isinstance(one, bool) or not isinstance(one, str | int) for one in cell):
            return "is not a JSON list of class names"
        names = [str(one).strip() for one in cell]
        if not all(names) or self.empty in names:
            return "holds what is not the name of a class"
        return names
