"""Whether one column is a function of another: a label that was cut from a score, or a coarser copy of a finer label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Relation", "explained_by"]

_FEWEST_ROWS = 20


@dataclass(frozen=True)
class Relation:
    """How a column follows from another.

    Attributes:
        text: a half sentence with `{other}` for the other column's name.
        one_to_one: the other one follows from this one as well.
    """

    text: str
    one_to_one: bool


def explained_by(classes: Sequence[str | None], other: Sequence[str | None], *, scores: bool) -> Relation | None:
    """Looks for a function from one column to another.

    Args:
        classes: `[n]` the column that may follow from the other.
        other: `[n]` the column that it may follow from.
        scores: the other one holds scores; then each class must be one interval of them.

    Returns:
        None where there is no such function, or too few rows carry both to tell.
    """
    both = [(mine, theirs) for mine, theirs in zip(classes, other, strict=True) if mine and theirs]
    if len(both) < _FEWEST_ROWS:
        return None
    value_of: dict[str, str] = {}
    if any(value_of.setdefault(theirs, mine) != mine for mine, theirs in both) or len(set(value_of.values())) < 2:
        return None
    if not scores:
        if 2 * len(value_of) > len(both):  # hardly a value comes twice, so that there is a function means nothing
            return None
        one_to_one = len(set(value_of.values())) == len(value_of)
        return Relation("it is a function of '{other}'", one_to_one)
    thresholds = _thresholds(value_of)
    if thresholds is None:
        return None
    shown = ", ".join(f"{threshold:g}" for threshold in thresholds)
    return Relation(f"it is '{{other}}' cut near {shown}", False)


def _thresholds(class_of: dict[str, str]) -> list[float] | None:
    """Half-way marks between neighbouring classes, if every class is one interval of the scores."""
    try:
        ordered = sorted((float(score), label) for score, label in class_of.items())
    except ValueError:
        return None
    cuts: list[float] = []
    left: set[str] = set()
    for (score, label), (following, next_label) in pairwise(ordered):
        if label == next_label:
            continue
        left.add(label)
        if next_label in left or score == following:
            return None
        cuts.append(round((score + following) / 2, 4))
    return cuts
