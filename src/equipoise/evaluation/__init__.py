"""Judging models: the baselines that stand beside every result, and whether a difference is more than noise.

`summarise` turns the runs of a comparison into one plain summary: means and intervals, tested differences, Delta_m, the
Pareto front, transfer between tasks, errors by region, curves, cost, and a verdict in words. The functions behind it can
be called alone. `reliability` says whether probabilities mean what they say.
"""

from equipoise.evaluation._baselines import baselines
from equipoise.evaluation._calibration_error import expected_calibration_error, reliability
from equipoise.evaluation._comparison import summarise
from equipoise.evaluation._score_histograms import score_histograms
from equipoise.evaluation._significance import (
    holm,
    mean_interval,
    paired_difference,
    row_bootstrap,
    rows_needed,
    seeds_needed,
)
from equipoise.evaluation._summary import delta_m, mean_ranks, pareto_front

__all__ = [
    "baselines",
    "delta_m",
    "expected_calibration_error",
    "holm",
    "mean_interval",
    "mean_ranks",
    "paired_difference",
    "pareto_front",
    "reliability",
    "row_bootstrap",
    "rows_needed",
    "score_histograms",
    "seeds_needed",
    "summarise",
]
