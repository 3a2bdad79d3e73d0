"""What a task is: labels -> head -> loss -> prediction -> metrics.

A task kind is one file: a settings model (what the recipe may say), a `Task` subclass (what it means) and one
`@register` line. Nothing here imports torch at module level, so that checking a recipe stays quick; `loss` imports it
when it is first called.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from equipoise.errors import RecipeError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

__all__ = ["Encoded", "Task", "TaskSettings", "available", "from_dict", "kind", "register"]

Outputs = NDArray[np.float32]  # [n, size], what the head gives
Targets = NDArray[np.float32]  # [n] or [n, classes]; NaN where a row carries no label


class TaskSettings(BaseModel):
    """The keys that every task kind understands. A kind adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: str = Field(description="the task kind")
    column: str | None = Field(default=None, description="the column that holds the labels; the task's name by default")

    @property
    def derived_from(self) -> str | None:
        """The task whose labels this one is derived from; None for a task that has labels of its own."""
        return None


@dataclass(frozen=True)
class Encoded:
    """Labels as numbers.

    Attributes:
        targets: `[n]` or `[n, classes]` float32; a row without a label is NaN throughout. Class indices are whole
            numbers, exact in float32.
        reasons: position -> why the label of that row cannot be used. Such a row is NaN in `targets`.
    """

    targets: Targets
    reasons: dict[int, str] = field(default_factory=dict)


class Task(ABC):
    """One task, fitted to its training labels: it knows its label order, scaling and thresholds.

    A task is built by `fit` (from the recipe and the training labels) or by `from_dict` (from a saved model), and is
    never changed afterwards.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[TaskSettings]]
    #: The metric that model selection looks at, and whether more or less of it is better.
    main_metric: ClassVar[tuple[str, Literal["max", "min"]]]
    #: Every metric that a run can be selected by, and whether more or less of it is better. Empty: only the main one.
    directions: ClassVar[Mapping[str, Literal["max", "min"]]] = {}

    name: str
    column: str  # the column of the table that labels are read from (a derived task reads its source's)

    @classmethod
    @abstractmethod
    def fit(cls, name: str, settings: Any, labels: pa.ChunkedArray, *, source: Task | None = None) -> Task:
        """Learns label order, scaling and thresholds from the training split.

        Args:
            name: the task's name.
            settings: this kind's settings.
            labels: `[n]` strings as they stand in the file, null where missing. Lists (from JSON lines or parquet)
                arrive as JSON text.
            source: the task that a derived task is derived from.

        Raises:
            DataError: the labels cannot be learned from (one class only, no number in them, ...).
        """

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """One name per output of the head: `polarity`, or `label/positive`. Its length is the head's size."""

    @property
    def size(self) -> int:
        """How many outputs the head has."""
        return len(self.outputs)

    @abstractmethod
    def encode(self, labels: pa.Array | pa.ChunkedArray) -> Encoded:
        """Turns labels as they stand in a file into targets. `[n]` strings or null -> `Encoded`."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example.

        Args:
            outputs: `[n, size]`, only rows that carry this task's label.
            targets: `[n]` or `[n, classes]` float32, as `encode` made them, without NaN.

        Returns:
            `[n]`, not reduced.
        """

    def divergence(self, outputs_a: Tensor, outputs_b: Tensor) -> Tensor:
        """How far two answers to the same texts lie apart, for `training.consistency`. A kind may do without.

        Args:
            outputs_a: `[n, size]`.
            outputs_b: the same rows under another dropout.

        Returns:
            `[n]`, 0 where both are the same, with a gradient in both.
        """
        raise RecipeError(f"training.consistency: {self.kind} (tasks.{self.name}) has no divergence. Set it to null")

    def calibration(self, outputs: Outputs, targets: Targets) -> tuple[float, float] | None:
        """A scale and an offset for this task's outputs, for `training.calibrate`. A kind may do without.

        Args:
            outputs: `[n, size]` of rows that the model has not trained on and that carry a label.
            targets: theirs, as `encode` made them.

        Returns:
            `(a, b)`: `a * outputs + b` is to be expected to be nearer to the labels of further rows; None where nothing is.
        """
        return None

    def first_outputs(self, targets: Targets) -> Outputs | None:
        """Where this task's outputs should start, for a kind whose labels may lie far from zero. A kind may do without.

        Args:
            targets: of the training split, as `encode` made them.

        Returns:
            `[size]`; None where near zero is as good as any place.
        """
        return None

    def numbers(self, labels: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Labels as numbers in the user's units, for a task derived from this one. Only scores have them.

        Returns:
            `[n]`, NaN where there is none, and position -> why a label cannot be used.
        """
        raise RecipeError(f"tasks.{self.name}: nothing can be derived from a {self.kind} task, only from a score")

    def balance_targets(self, targets: Tensor) -> Tensor:
        """The targets as a balancer's data-level weights read them: integers for classes, floats for scores."""
        return targets

    @abstractmethod
    def predict(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """The prediction columns: `<task>` (in the user's units or names), then `<task>/<class>` probabilities."""

    @abstractmethod
    def decode(self, targets: Targets) -> NDArray[Any]:
        """Targets in the user's units or names, as the column `<task>` of `predict` would show them."""

    @abstractmethod
    def metrics(self, outputs: Outputs, targets: Targets) -> dict[str, Any]:
        """Every metric of the kind, in the user's units. Rows with NaN targets take no part.

        Returns:
            Plain numbers (or None where a metric has no meaning, such as a correlation with a constant), `n`, and for
            class tasks `confusion_matrix` as a list of rows (true) of columns (predicted).

        Raises:
            EquipoiseError: an output of a labelled row is not finite: the model has diverged.
        """

    @abstractmethod
    def constant_outputs(self, targets: Targets) -> Outputs:
        """`[size]`: what a model would say that has never seen a text, the mean or the majority of the targets."""

    @abstractmethod
    def fit_baseline(self, features: Any, targets: Targets) -> Callable[[Any], Outputs]:
        """Fits a classical model (ridge, logistic regression) on sparse features `[n, d]` of rows that carry a label.

        Returns:
            A function from features to outputs `[n, size]` that `metrics` and `predict` understand.
        """

    @abstractmethod
    def summary(self, targets: Targets) -> dict[str, Any]:
        """What to show of one split's targets: class counts, or n, mean, standard deviation, least and greatest."""

    @classmethod
    def selectable(cls) -> dict[str, Literal["max", "min"]]:
        """The metrics of this kind that `training.select` may name, with their direction."""
        name, direction = cls.main_metric
        return {name: direction, **cls.directions}

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything needed to build this task again, as JSON. Holds `kind`, `name` and `column`."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`."""


T = TypeVar("T", bound=type[Task])
_KINDS: dict[str, type[Task]] = {}


def register(cls: T) -> T:
    """Makes a task kind available under `cls.kind`."""
    _KINDS[cls.kind] = cls
    return cls


def available() -> list[str]:
    """The registered kinds, sorted."""
    return sorted(_KINDS)


def kind(name: str) -> type[Task]:
    """The class of a task kind.

    Raises:
        RecipeError: there is no such kind; the message lists those that exist and the nearest.
    """
    if name in _KINDS:
        return _KINDS[name]
    raise RecipeError(f"no task type '{name}'.{did_you_mean(name, available())} Available: {', '.join(available())}")


def from_dict(data: Mapping[str, Any]) -> Task:
    """Builds a task from what its `to_dict` gave."""
    return kind(data["kind"]).from_dict(data)


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no choice is near."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
