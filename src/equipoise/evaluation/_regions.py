"""Errors where training data was plenty and where it was rare: regions of a score, classes of a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from equipoise.evaluation._measurements import CLOSE, Rows
from equipoise.evaluation._significance import mean_interval

__all__ = ["DEFINITION", "REGIONS", "ScoreRegions", "errors_by_class", "errors_by_region", "score_regions"]

REGIONS = ("dense", "middle", "rare")
BINS = 100
SIGMA = 2.0  # bins, as the label smoothing of the paper
#: Up to so many distinct training scores are taken for grades, such as stars, each of which is a bin of its own.
GRADES = 20
DENSE_SHARE, RARE_SHARE = 0.5, 0.1

DEFINITION = (
    "The training scores are counted in 100 equal bins from the least to the greatest, and the counts smoothed by a "
    "Gaussian kernel of 2 bins; up to 20 distinct scores are counted each by itself. Regions are cut by this density: "
    "dense are the scores where it is highest and that half of the training rows have, rare those where it is lowest and "
    "that a tenth of the training rows have, middle the rest. Scores outside the training scores are rare."
)


@dataclass(frozen=True)
class ScoreRegions:
    """Where training scores are dense, middling and rare.

    Attributes:
        edges: `[bins + 1]`, rising.
        regions: `[bins]`, 0 dense, 1 middle, 2 rare.
        train_share: the share of the training rows in each of the three.
    """

    edges: NDArray[np.float64]
    regions: NDArray[np.int64]
    train_share: tuple[float, float, float]

    def of(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """The region of each score, `[n]` -> `[n]`."""
        bins = _bins(self.edges, scores)
        outside = (bins < 0) | (bins >= len(self.regions))
        return np.where(outside, 2, self.regions[np.clip(bins, 0, len(self.regions) - 1)])

    def to_dict(self) -> dict[str, Any]:
        """`definition`, `train_share` by region, and `intervals`: region -> [[from, to], ...]."""
        ends = np.flatnonzero(np.diff(self.regions)) + 1
        starts = [0, *ends.tolist()]
        intervals: dict[str, list[list[float]]] = {name: [] for name in REGIONS}
        for start, end in zip(starts, [*starts[1:], len(self.regions)], strict=True):
            intervals[REGIONS[self.regions[start]]].append([float(self.edges[start]), float(self.edges[end])])
        share = dict(zip(REGIONS, self.train_share, strict=True))
        return {"definition": DEFINITION, "train_share": share, "intervals": intervals}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreRegions:
        """The inverse of `to_dict`, with neighbouring bins of one region joined."""
        parts = sorted(
            (float(low), float(high), number)
            for number, name in enumerate(REGIONS)
            for low, high in data["intervals"][name]
        )
        share = data["train_share"]
        return cls(
            np.array([parts[0][0], *(high for _, high, _ in parts)]),
            np.array([number for _, _, number in parts]),
            (float(share["dense"]), float(share["middle"]), float(share["rare"])),
        )


def score_regions(train_scores: NDArray[np.float64]) -> ScoreRegions | None:
    """Cuts a score into a dense, a middle and a rare region by the density of the training scores.

    With f the density of the bin that a score falls into, and q_a the a-quantile of f over the training rows,

        dense: f >= q_{1/2}    rare: f < q_{1/10}    middle: the rest

    so that the dense region is the smallest that holds half of the training rows (a highest-density region). A bin is
    never cut, and equal densities fall on one side: `train_share` says what came of it.

    References:
        Delving into Deep Imbalanced Regression (Yang et al., 2021): smoothed label density, errors by many, medium and
        few examples. Its counts of 100 and 20 examples a bin fit one data set; quantiles fit any.
        https://arxiv.org/abs/2102.09554
        Computing and Graphing Highest Density Regions (Hyndman, 1996): regions by quantiles of the density
        https://doi.org/10.2307/2684423

    Args:
        train_scores: `[n]` in the user's units; NaN where there is no label.

    Returns:
        The regions; None without a training score.
    """
    known = train_scores[~np.isnan(train_scores)]
    if not len(known):
        return None
    distinct, each = np.unique(known, return_counts=True)
    if 1 < len(distinct) <= GRADES:
        edges = np.concatenate([distinct[:1], (distinct[1:] + distinct[:-1]) / 2, distinct[-1:]])
        counts, density = each, each.astype(np.float64)
    else:
        edges = np.histogram_bin_edges(known, bins=BINS)
        counts = np.bincount(_bins(edges, known), minlength=BINS)
        # Mirrored at the ends: a kernel that leaks there would halve the density of scores that simply have a limit.
        density = gaussian_filter1d(counts.astype(np.float64), SIGMA, mode="reflect")
    of_rows = np.repeat(density, counts)
    middle, rare = np.quantile(of_rows, [1 - DENSE_SHARE, RARE_SHARE], method="inverted_cdf")
    regions = np.where(density >= middle, 0, np.where(density < rare, 2, 1))
    shares = np.bincount(regions, weights=counts, minlength=3) / len(known)
    return ScoreRegions(edges, regions, (float(shares[0]), float(shares[1]), float(shares[2])))


def _bins(
    edges: NDArray[np.float64],  # [bins + 1], rising
    scores: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The bin of each score, lower edges included and the last upper one; -1 and `bins` are outside.

    Scores that were scaled otherwise than those that made the edges are rounded otherwise. So a score within a hair of an
    edge counts as on it.
    """
    hair = CLOSE * (edges[-1] - edges[0])
    limits = np.append(edges[:-1] - hair, edges[-1] + hair)
    return np.searchsorted(limits, scores, side="right") - 1


def errors_by_region(regions: ScoreRegions, measured: Sequence[Rows], level: float = 0.95) -> list[dict[str, Any]]:
    """Errors of an arm in each region of the true score.

    Args:
        regions: as `score_regions` gives them.
        measured: one a seed.
        level: of the intervals over seeds.

    Returns:
        For each region `name`, `n` (judged rows in it), `mse` and `mae` with `mean`, `low`, `high`, `sd` over seeds;
        None where no row lies in it.
    """
    found = []
    for number, name in enumerate(REGIONS):
        apart = [(one.predicted - one.true)[regions.of(one.true) == number] for one in measured]
        held = [one for one in apart if len(one)]
        found.append(
            {
                "name": name,
                "n": len(apart[0]) if apart else 0,
                "mse": mean_interval([float(np.mean(one**2)) for one in held], level),
                "mae": mean_interval([float(np.mean(np.abs(one))) for one in held], level),
            }
        )
    return found


def errors_by_class(
    classes: Sequence[str],
    measured: Sequence[Rows],
    train_counts: Sequence[int] | None = None,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of an arm in each class; 0 stands for 0/0, as in scikit-learn.

    Args:
        classes: names, in order of their indices.
        measured: one a seed, of class indices `[rows]` or, where several classes go together, of `[rows, classes]`.
        train_counts: training rows of each class; None where not known.
        level: of the intervals over seeds.

    Returns:
        For each class `name`, `n` (judged rows of it), `train` and `precision`, `recall`, `f1` with `mean`, `low`, `high`,
        `sd` over seeds.
    """
    found = []
    for k, name in enumerate(classes):
        true, predicted = ([_members(getattr(one, side), k) for one in measured] for side in ("true", "predicted"))
        hits = [int(np.sum(ours & theirs)) for ours, theirs in zip(true, predicted, strict=True)]
        held, said = ([int(np.sum(one)) for one in side] for side in (true, predicted))
        found.append(
            {
                "name": name,
                "n": held[0] if held else 0,
                "train": None if train_counts is None else int(train_counts[k]),
                "precision": mean_interval([_share(*pair) for pair in zip(hits, said, strict=True)], level),
                "recall": mean_interval([_share(*pair) for pair in zip(hits, held, strict=True)], level),
                "f1": mean_interval([_share(2 * h, t + p) for h, t, p in zip(hits, held, said, strict=True)], level),
            }
        )
    return found


def _members(values: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Which rows are of class k."""
    found: NDArray[np.bool_] = values[:, k] if values.ndim > 1 else values == k
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
