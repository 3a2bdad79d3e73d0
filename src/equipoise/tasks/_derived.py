"""Classes that are cut from a score: what a recipe says of them, and how labels become thresholds and classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from equipoise.errors import DataError, RecipeError
from equipoise.tasks._base import Encoded, Task, TaskSettings
from equipoise.tasks._labels import Names, listed, shown
from equipoise.tasks._thresholds import balanced_thresholds, class_of

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


class DerivableSettings(TaskSettings):
    """Settings of a kind whose classes may be derived from a score in place of being read from a column."""

    labels: Names | None = None
    source: str | None = Field(
        default=None,
        alias="from",
        description="the score task that the classes are derived from; needs bins or thresholds",
    )
    bins: int | None = Field(
        default=None, ge=2, description="derive so many classes, as balanced on the training split as ties allow"
    )
    thresholds: list[FiniteFloat] | None = Field(
        default=None,
        min_length=1,
        description="derive classes between these scores, which go up; a score on a threshold falls into the upper class",
    )

    @property
    def derived_from(self) -> str | None:
        """The score task that the classes are derived from."""
        return self.source

    @model_validator(mode="after")
    def _possible_derivation(self) -> DerivableSettings:
        if self.source is None:
            for key in ("bins", "thresholds"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} needs from: the score task that the classes are derived from")
            return self
        if self.column is not None:
            raise ValueError("from and column exclude each other: a derived task reads the column of its source")
        if (self.bins is None) == (self.thresholds is None):
            raise ValueError(
                "from needs either bins or thresholds, " + ("not both" if self.bins else "and has neither")
            )
        if self.thresholds is not None and any(np.diff(self.thresholds) <= 0):
            raise ValueError(f"thresholds must go up: {listed([shown(one) for one in self.thresholds])}")
        bins = self.bins or len(self.thresholds or ()) + 1
        if self.labels is not None and len(self.labels) != bins:
            raise ValueError(f"labels gives {len(self.labels)} names for {bins} classes: {listed(self.labels)}")
        return self


class Derived(NamedTuple):
    """What a task is made with whose classes are cut from a score."""

    column: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    source: Task


def derive(name: str, settings: DerivableSettings, labels: pa.ChunkedArray, source: Task | None) -> Derived:
    """The thresholds, as given or as fitted to the source's numbers, and the classes between them, lowest first.

    Args:
        name: the derived task's.
        settings: with `source`, and either `bins` or `thresholds`.
        labels: `[n]` the source's labels of the training split, as text.
        source: the score task, None where the recipe has none of that name.

    Raises:
        RecipeError: there is no such task.
        DataError: the training split has fewer distinct scores than classes.
    """
    if source is None:
        raise RecipeError(f"tasks.{name}.from: there is no task '{settings.source}'")
    if settings.thresholds is not None:
        thresholds = settings.thresholds
    else:
        values, _ = source.numbers(labels)
        bins = settings.bins or 2  # the settings have seen to it that there are some
        try:
            thresholds = balanced_thresholds(values[~np.isnan(values)], bins)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    names = settings.labels or [f"bin{k}" for k in range(1, len(thresholds) + 2)]
    logger.info("%s: derived from %s at thresholds %s", name, source.name, listed([shown(t) for t in thresholds]))
    return Derived(source.column, tuple(names), tuple(thresholds), source)


def encode_derived(labels: pa.Array | pa.ChunkedArray, source: Task, thresholds: Sequence[float]) -> Encoded:
    """The source's numbers, as text -> class indices `[n]`: how many thresholds are less than or equal to them."""
    values, reasons = source.numbers(labels)
    classes = class_of(values, thresholds).astype(np.float32)
    return Encoded(np.where(np.isnan(values), np.float32("nan"), classes), reasons)
