"""Weights that raise rare scores: the inverse of the smoothed density of the training labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BINS", "SIGMA", "DensityWeights", "Rule"]

Rule = Literal["inverse", "sqrt_inverse"]

BINS, SIGMA = 100, 2.0
#: What the paper's code clips the counts of `inverse` to.
LEAST, MOST = 5, 1000
# Of a bin. Scores with few digits lie on the edges of bins, where rounding would deal them out at random.
EDGE = 1e-3


@dataclass(frozen=True)
class DensityWeights:
    """The weight of an example by the bin that its score falls into (label distribution smoothing).

        v_b = s / d_b,   d = window * r(c)
        r(c_b) = sqrt(c_b) for sqrt_inverse,   min(max(c_b, 5), 1000) for inverse

    with c_b the training examples in bin b, * the convolution with a Gaussian window whose highest value is 1, and s such
    that the mean weight of the training examples is 1. No bin weighs more than the rarest that holds a training example.

    References:
        Delving into Deep Imbalanced Regression (Yang et al., 2021), and its code, for the order of steps, the bounds of
        the counts and the window of 5 bins for sigma 2
        https://arxiv.org/abs/2102.09554

    Args:
        low: the lower edge of the first bin, in scaled units.
        per_unit: bins in one scaled unit; 0 where there is one score only.
        weights: one a bin.

    Note:
        For other sigmas the window holds the bins up to one (rounded) sigma away, as 5 bins do for sigma 2.

    Example:
        >>> scores = np.array([0, 0, 0, 0, 1], dtype=np.float32)
        >>> found = DensityWeights.fit(scores, low=0, high=1, rule="sqrt_inverse", bins=2, sigma=0)
        >>> [round(weight, 4) for weight in found.weights]  # 4 of 1/2 and 1 of 1, less a third of each, are 5 of 1
        [0.8333, 1.6667]
    """

    low: float
    per_unit: float
    weights: tuple[float, ...]

    @classmethod
    def fit(
        cls, targets: NDArray[np.float32], *, low: float, high: float, rule: Rule, bins: int, sigma: float
    ) -> DensityWeights:
        """Counts the training scores.

        Args:
            targets: `[n]` scaled scores of the training split, without NaN; at least one.
            low: where the first bin begins, in scaled units.
            high: where the last bin ends.
            rule: `inverse` or `sqrt_inverse`.
            bins: how many.
            sigma: of the Gaussian window, in bins; 0 = no smoothing.
        """
        per_unit = bins / (high - low) if high > low else 0.0
        places = np.floor((targets - np.float32(low)) * np.float32(per_unit) + np.float32(EDGE))
        counts = np.bincount(places.astype(np.int64).clip(0, bins - 1), minlength=bins)
        level = np.sqrt(counts) if rule == "sqrt_inverse" else counts.clip(LEAST, MOST).astype(np.float64)
        density = level if sigma == 0 else _smoothed(level, sigma)
        weights = np.divide(1.0, density, out=np.full(bins, np.inf), where=density > 0)
        weights = np.minimum(weights, weights[counts > 0].max())
        weights *= counts.sum() / (counts * weights).sum()
        return cls(low, per_unit, tuple(weights.tolist()))

    def of(self, targets: Tensor) -> Tensor:
        """The weights of scaled scores, `[n]` -> `[n]`; scores beyond the bins have the outermost bin's."""
        import torch

        places = torch.floor((targets - self.low) * self.per_unit + EDGE).long().clamp(0, len(self.weights) - 1)
        return torch.tensor(self.weights, device=targets.device)[places]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"low": self.low, "per_unit": self.per_unit, "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DensityWeights:
        """The inverse of `to_dict`."""
        return cls(data["low"], data["per_unit"], tuple(data["weights"]))


def _smoothed(level: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    from scipy.ndimage import convolve1d, gaussian_filter1d

    reach = max(1, round(sigma))
    window = gaussian_filter1d(np.eye(1, 2 * reach + 1, reach)[0], sigma)
    result: NDArray[np.float64] = convolve1d(level, window / window.max(), mode="constant")
    return result
