"""Pictures of score tasks: predicted against true, and where on the scale the errors are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation._measurements import Rows
from equipoise.evaluation._regions import REGIONS, ScoreRegions, errors_by_region
from equipoise.report._figures import Figure, axis, layout, readable, rounded
from equipoise.report._numbers import decimals, number
from equipoise.report._run_facts import TaskFacts

__all__ = ["error_figure", "region_figure", "scatter_figure"]

#: Points of one picture: more make the page large and the picture black.
POINTS = 1200
BINS = 12
#: A bin of the band holds so many rows at least, so that its quantiles mean something.
FEWEST = 10


def scatter_figure(
    task: TaskFacts, true: NDArray[np.float64], predicted: NDArray[np.float64], split: str
) -> Figure | None:
    """Predicted against true, with the median and the middle 80 % of the predictions along the scale."""
    if not len(true):
        return None
    chosen = np.arange(len(true))
    more = ""
    if len(true) > POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(len(true), POINTS, replace=False))
        more = f" Drawn is a random sample of {POINTS:,} of {len(true):,} rows; line and band are of all."
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    pad = 0.04 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    places = decimals([low, high])
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "predicted = true",
            "x": ends,
            "y": ends,
            "line": {"color": "$quiet", "width": 1.3, "dash": "dash"},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "rows",
            "x": rounded(true[chosen].tolist(), 4),
            "y": rounded(predicted[chosen].tolist(), 4),
            "marker": {"color": "$arm0", "size": 5, "opacity": 0.45},
            "hovertemplate": f"true %{{x:.{places}f}}, predicted %{{y:.{places}f}}<extra></extra>",
        },
    ]
    words = f"Each point is a {split} row: on the dashed line it is met, above it predicted too high."
    along = _along(true, predicted)
    if len(along) > 1:
        x, middle, under, over = (list(column) for column in zip(*along, strict=True))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "median",
                "x": rounded(x),
                "y": rounded(middle),
                "line": {"color": "$arm1", "width": 2.4},
                "band": {"low": rounded(under), "high": rounded(over), "color": "$arm1~"},
                "hovertemplate": f"true about %{{x:.{places}f}}: median %{{y:.{places}f}}<extra></extra>",
            }
        )
        words += " The orange line is the median prediction, and its band holds the middle 80 % of the predictions, in "
        words += f"{len(along)} parts of the scale with as many rows each."
        flat = np.polyfit(true, predicted, 1)[0] if np.ptp(true) > 0 else 1.0
        if flat < 0.8:
            words += f" A slope of {flat:.2f} says that it keeps to the middle of the scale."
    shape = layout(360, axis(f"true {readable(task.name)}", range=ends), axis("predicted", range=ends))
    return Figure("Predicted against true", words + more, data, shape, widest=620)


def _along(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> list[tuple[float, float, float, float]]:
    """Mean truth, and median, 10 % and 90 % of the predictions, in parts of the scale with about as many rows each."""
    parts = min(BINS, len(true) // FEWEST)
    if parts < 2:
        return []
    cuts = np.unique(np.quantile(true, np.linspace(0, 1, parts + 1)[1:-1]))
    which = np.searchsorted(cuts, true, side="right")
    found = []
    for part in np.unique(which):
        held = which == part
        low, middle, high = np.quantile(predicted[held], [0.1, 0.5, 0.9])
        found.append((float(true[held].mean()), float(middle), float(low), float(high)))
    return found


def error_figure(task: TaskFacts, true: NDArray[np.float64], predicted: NDArray[np.float64]) -> Figure | None:
    """How the errors are spread: a histogram of predicted minus true."""
    if not len(true):
        return None
    error = predicted - true
    edges = np.histogram_bin_edges(error, bins=min(40, max(8, len(error) // 12)))
    counts, _ = np.histogram(error, bins=edges)
    places = decimals([float(np.abs(error).max())])
    mean = float(error.mean())
    share = float((np.abs(error) <= 0.1 * (np.ptp(true) or 1.0)).mean())
    words = f"Predicted minus true. Mean {number(mean, places)}: it predicts too {'high' if mean > 0 else 'low'} on average. "
    words += f"{100 * share:.0f} % of the rows are met within a tenth of the scale of the true scores."
    hover = [
        f"{number(low, places)} to {number(high, places)}: {n:,} rows"
        for low, high, n in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
    data = [
        {
            "type": "bar",
            "x": rounded(((edges[:-1] + edges[1:]) / 2).tolist()),
            "y": counts.tolist(),
            "width": float(edges[1] - edges[0]) * 0.94,
            "marker": {"color": "$arm0", "opacity": 0.8},
            "hovertext": hover,
            "hoverinfo": "text",
        }
    ]
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "$ink", "width": 1.2},
    }
    shape = layout(330, axis("predicted minus true"), axis("rows"), shapes=[zero], bargap=0)
    return Figure("How large the errors are", words, data, shape, widest=620)


def region_figure(
    task: TaskFacts, true: NDArray[np.float64], predicted: NDArray[np.float64], regions: Mapping[str, Any] | None
) -> Figure | None:
    """The mean absolute error where training scores were dense, middling and rare."""
    if not regions or not any(regions["intervals"].values()) or not len(true):
        return None
    cut = ScoreRegions.from_dict(regions)
    found = [one for one in errors_by_region(cut, [Rows(true, predicted)]) if one["n"]]
    which = cut.of(true)
    values = [one["mae"]["mean"] for one in found]
    half = [_half(np.abs(predicted - true)[which == REGIONS.index(one["name"])]) for one in found]
    places = decimals(values)
    share = regions["train_share"]
    data = [
        {
            "type": "bar",
            "x": [f"{one['name']}<br>{one['n']:,} rows" for one in found],
            "y": rounded(values),
            "error_y": {"type": "data", "array": rounded(half), "color": "$ink", "thickness": 1.2, "width": 3},
            "marker": {"color": "$arm0", "opacity": 0.8},
            "hovertext": [
                f"<b>{one['name']}</b>: mean absolute error {number(one['mae']['mean'], places)}, mse "
                f"{number(one['mse']['mean'], decimals([one['mse']['mean']]))}<br>{one['n']:,} judged rows, "
                f"{100 * share[one['name']]:.0f} % of training"
                for one in found
            ],
            "hoverinfo": "text",
        }
    ]
    words = "Mean absolute error by how common the true score was in training, with 95 % intervals: dense scores hold half of "
    words += "the training rows, rare ones the tenth with the fewest like them, middle the rest. A good mean may hide bad errors "
    words += "where examples were few."
    by_name = {one["name"]: one["mae"]["mean"] for one in found}
    if by_name.get("rare") and by_name.get("dense"):
        words += f" Here rare scores are {by_name['rare'] / by_name['dense']:.1f} times as far off as dense ones."
    ink = {"size": 12.5, "color": "$ink"}
    shape = layout(
        330, axis("", type="category", tickfont=ink), axis("mean absolute error", rangemode="tozero"), bargap=0.45
    )
    return Figure("Common and rare scores", words, data, shape, widest=620)


def _half(errors: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of a mean, by the normal approximation; 0 of one row."""
    return float(1.96 * errors.std(ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else 0.0
