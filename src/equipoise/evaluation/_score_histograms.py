"""How scores are spread over the splits: what a picture of them needs, small enough to be kept with a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation._measurements import classes_of
from equipoise.evaluation._regions import GRADES, score_regions
from equipoise.tasks import Task

__all__ = ["score_histograms"]

BINS = 40
#: Targets are float32: what stands behind the sixth digit is rounding.
DIGITS = 6


def score_histograms(
    tasks: Mapping[str, Task],
    targets: Mapping[str, Mapping[str, NDArray[np.float32]]],  # split -> task -> [n]
) -> dict[str, dict[str, Any]]:
    """Counts of every score task's labels in each split, and the regions of its training scores.

    Up to 20 distinct scores are grades, such as stars, and are counted each by itself; else there are 40 bins of equal
    width from the least to the greatest score of all splits.

    Args:
        tasks: name -> fitted task; those with classes are passed over.
        targets: split -> task -> targets as the task encoded them, NaN where a row carries no label.

    Returns:
        task -> `values` (of grades) or `edges` (of bins, one more than there are), `counts` (split -> numbers), and
        `regions`: dense, middle and rare training scores (`ScoreRegions.to_dict` without its definition), or None.
    """
    found = {}
    for name, task in tasks.items():
        if classes_of(task) is not None:
            continue
        scores = {split: _known(task, held[name]) for split, held in targets.items() if name in held}
        everything = np.concatenate(list(scores.values())) if scores else np.empty(0)
        if not len(everything):
            continue
        regions = score_regions(scores.get("train", np.empty(0)))
        distinct = np.unique(everything)
        if len(distinct) <= GRADES:
            counts = {
                split: np.bincount(np.searchsorted(distinct, own), minlength=len(distinct))
                for split, own in scores.items()
            }
            cut = {"values": distinct.tolist()}
        else:
            edges = np.linspace(distinct[0], distinct[-1], BINS + 1)
            counts = {split: np.histogram(own, bins=edges)[0] for split, own in scores.items()}
            cut = {"edges": _digits(edges).tolist()}
        found[name] = {
            **cut,
            "counts": {split: own.tolist() for split, own in counts.items()},
            "regions": None
            if regions is None
            else {key: value for key, value in regions.to_dict().items() if key != "definition"},
        }
    return found


def _known(task: Task, targets: NDArray[np.float32]) -> NDArray[np.float64]:
    return _digits(np.asarray(task.decode(targets[~np.isnan(targets)]), dtype=np.float64))


def _digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Six significant digits."""
    size = np.abs(values)
    places = DIGITS - 1 - np.floor(np.log10(np.where(size > 0, size, 1.0)))
    scale = 10.0 ** np.clip(places, -300, 300)
    rounded: NDArray[np.float64] = np.round(values * scale) / scale
    return rounded
