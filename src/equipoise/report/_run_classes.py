"""Pictures of class tasks: what is taken for what, how each class does, and whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.evaluation import reliability
from equipoise.report._figures import Figure, axis, layout, readable, rounded
from equipoise.report._numbers import number
from equipoise.report._run_data import CLASSES_DRAWN, LEGEND, axis_labels
from equipoise.report._run_facts import TaskFacts

__all__ = ["class_figure", "confusion_figure", "distance_figure", "hits_figure", "reliability_figure"]

#: Above this many classes a cell has no room for a number; it is under the pointer.
NUMBERED = 9
#: Above this many, the classes with the most rows are drawn and the others are one row and one column.
MATRIX = 20
OTHERS = "others"


def confusion_figure(task: TaskFacts, matrix: NDArray[np.int64], split: str) -> Figure | None:
    """Counts and row shares: a row is a true class, and its cells say what its rows were taken for.

    Args:
        task: with exclusive or ordered classes.
        matrix: `[true, predicted]`.
        split: its name.
    """
    names, counts, more = _folded(list(task.classes or ()), matrix)
    held = counts.sum(axis=1, keepdims=True)
    if not held.any():
        return None
    shares = np.divide(counts, held, out=np.zeros(counts.shape), where=held > 0)
    labels = axis_labels(names)
    numbered = len(names) <= NUMBERED
    cells = [
        [_cell(counts[i, j], shares[i, j], bool(held[i, 0]), two_lines=len(names) <= 6) for j in range(len(names))]
        for i in range(len(names))
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": [rounded(row, 3) for row in shares.tolist()],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "$heat0"], [1, "$heat+"]],
        "showscale": False,
        "customdata": counts.tolist(),
        "hovertemplate": "true <b>%{y}</b>, predicted <b>%{x}</b><br>%{customdata:,} rows, %{z:.1%} of its row<extra></extra>",
        "xgap": 2 if numbered else 1,
        "ygap": 2 if numbered else 1,
    }
    if numbered:
        trace |= {"text": cells, "texttemplate": "%{text}", "textfont": {"size": 12, "color": "$ink"}}
    ink = {"size": 11.5, "color": "$ink"}
    side = 54 if numbered else 24
    return Figure(
        "What is taken for what",
        _confusion_words(task.classes or (), matrix, split, len(names)) + more,
        [trace],
        layout(
            max(330, 110 + side * len(names)),
            axis("predicted", gridcolor="rgba(0,0,0,0)", type="category", tickfont=ink, side="bottom"),
            axis("true", gridcolor="rgba(0,0,0,0)", type="category", autorange="reversed", tickfont=ink),
        ),
        widest=None if len(names) > 6 else 620,
    )


def _folded(names: list[str], matrix: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64], str]:
    """All classes, or the most frequent ones with the rest in one row and column, and the words for that."""
    if len(names) <= MATRIX:
        return names, matrix, ""
    chosen = np.sort(np.argsort(-matrix.sum(axis=1), kind="stable")[:MATRIX])
    rest = np.setdiff1d(np.arange(len(names)), chosen)
    top = np.concatenate(
        [matrix[np.ix_(chosen, chosen)], matrix[np.ix_(chosen, rest)].sum(axis=1, keepdims=True)], axis=1
    )
    low = np.append(matrix[np.ix_(rest, chosen)].sum(axis=0), matrix[np.ix_(rest, rest)].sum())
    said = (
        f" Shown are the {MATRIX} of {len(names)} classes with the most rows; the last row and column hold the other "
    )
    said += f"{len(rest)} together, so that a cell of both counts them as if they were one class."
    label = f"{len(rest)} {OTHERS}"
    return [*(names[at] for at in chosen), label], np.concatenate([top, low[None]], axis=0), said


def _cell(count: int, share: float, known: bool, *, two_lines: bool) -> str:
    if not known:
        return ""
    if not count:
        return "0"
    return f"{count:,}<br>{100 * share:.0f} %" if two_lines else f"{100 * share:.0f}"


def _confusion_words(names: Sequence[str], matrix: NDArray[np.int64], split: str, drawn: int) -> str:
    """`names` and `matrix`: of all classes; `drawn`: so many of them have a row of their own or share one."""
    words = f"A row holds the {split} rows of one true class; its cells say what they were taken for. "
    if drawn <= NUMBERED:
        words += "Numbers: rows, and their share of the row. " if drawn <= 6 else "Numbers: share of the row in %. "
    words += "The stronger the colour, the larger the share; the diagonal is right."
    wrong = matrix * (1 - np.eye(len(names), dtype=np.int64))
    if wrong.any():
        i, j = divmod(int(wrong.argmax()), len(names))
        words += (
            f" Most frequent mistake: {names[i]} taken for {names[j]}, {wrong[i, j]:,} of {matrix[i].sum():,} rows "
        )
        words += f"({100 * wrong[i, j] / matrix[i].sum():.0f} %)."
    return words


def class_figure(task: TaskFacts, values: Mapping[str, Any], train: Mapping[str, int] | None) -> Figure | None:
    """F1, precision and recall of each class; in order of their training rows, because rare classes fare worse."""
    per_class: Mapping[str, Mapping[str, Any]] = values.get("per_class") or {}
    if not per_class:
        return None
    names = list(per_class)
    if task.kind != "ordinal":  # an order of their own is worth more than that of their size
        names.sort(key=lambda name: -(train or {}).get(name, per_class[name].get("n", 0)))
    shown = names[:CLASSES_DRAWN]
    labels = axis_labels(shown)
    data: list[dict[str, Any]] = []
    styles = {
        "recall": {"symbol": "line-ns", "size": 11, "color": "$arm1", "line": {"width": 2.5, "color": "$arm1"}},
        "precision": {"symbol": "diamond-open", "size": 8, "color": "$arm2", "line": {"width": 1.8, "color": "$arm2"}},
    }
    data.append(
        {
            "type": "bar",
            "orientation": "h",
            "name": "F1",
            "y": labels,
            "x": rounded((per_class[name].get("f1") for name in shown), 4),
            "marker": {"color": "$arm0", "opacity": 0.75},
            "hovertext": [_class_hover(name, per_class[name], train) for name in shown],
            "hoverinfo": "text",
        }
    )
    for metric, marker in styles.items():
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": metric,
                "y": labels,
                "x": rounded((per_class[name].get(metric) for name in shown), 4),
                "marker": marker,
                "hoverinfo": "skip",
            }
        )
    order = "in their own order" if task.kind == "ordinal" else "the most frequent in training first"
    words = (
        f"F1 (bar), recall (line) and precision (diamond) of each class, {order}. Recall: which share of the class was "
    )
    words += "found; precision: which share of what was called so is so."
    worst = min(names, key=lambda name: per_class[name].get("f1") or 0.0)
    words += f" Lowest F1: {worst}, {number(per_class[worst].get('f1'), 2)} on {per_class[worst].get('n', 0):,} rows"
    words += f", {train[worst]:,} in training." if train and worst in train else "."
    if len(shown) < len(names):
        words += f" Drawn are the {len(shown)} most frequent of {len(names)} classes; the table below has more."
    ink = {"size": 12, "color": "$ink"}
    return Figure(
        "Class by class",
        words,
        data,
        layout(
            max(330, 100 + 26 * len(shown)),
            axis("", range=[0, 1.03], tickformat=".1f"),
            axis(
                "", type="category", autorange="reversed", tickfont=ink, gridcolor="rgba(0,0,0,0)", ticklabelstandoff=5
            ),
            bargap=0.35,
            **LEGEND,
        ),
    )


def _class_hover(name: str, one: Mapping[str, Any], train: Mapping[str, int] | None) -> str:
    known = ", ".join(f"{key} {number(one.get(key), 2)}" for key in ("f1", "precision", "recall"))
    rows = f"{one.get('n', 0):,} rows" + (f", {train[name]:,} in training" if train and name in train else "")
    return f"<b>{readable(name)}</b><br>{known}<br>{rows}"


def reliability_figure(confidence: NDArray[np.float64], correct: NDArray[np.bool_], every_class: bool) -> Figure | None:
    """Confidence against accuracy, over a histogram of the confidences.

    Args:
        confidence: `[n]`.
        correct: `[n]`.
        every_class: each class of each row is an answer of its own (classes that don't exclude each other).
    """
    found = reliability(confidence, correct)
    if not found["n"]:
        return None
    bins = found["bins"]
    hover = [
        f"<b>{100 * one['low']:.0f} to {100 * one['high']:.0f} %</b><br>said {100 * one['confidence']:.1f} %, came true "
        f"{100 * one['accuracy']:.1f} %<br>{one['n']:,} answers"
        for one in bins
    ]
    sure = "what it said of each class" if every_class else "the probability of the class it chose"
    said, came = 100 * float(confidence.mean()), 100 * float(correct.mean())
    words = f"Across: {sure}; up: how often that came true, with 95 % intervals. Below the dashed line it is over-confident. "
    words += f"Expected calibration error {found['ece']:.3f} (15 bins of equal width); probabilities without fault would leave "
    words += f"about {found['expected']:.3f} on {found['n']:,} answers. It says {said:.1f} % on average, and {came:.1f} % came "
    words += "true: "
    words += f"{'over' if said > came else 'under'}-confident. The bars count the answers."
    x = rounded((one["confidence"] for one in bins), 4)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "$quiet", "width": 1.3, "dash": "dash"},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": x,
            "y": rounded((one["accuracy"] for one in bins), 4),
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": rounded((one["accuracy_high"] - one["accuracy"] for one in bins), 4),
                "arrayminus": rounded((one["accuracy"] - one["accuracy_low"] for one in bins), 4),
                "color": "$arm0",
                "thickness": 1.2,
                "width": 0,
            },
            "line": {"color": "$arm0", "width": 2},
            "marker": {"color": "$arm0", "size": 7},
            "hovertext": hover,
            "hoverinfo": "text",
        },
        {
            "type": "bar",
            "x": rounded(((one["low"] + one["high"]) / 2 for one in bins), 4),
            "y": [one["n"] for one in bins],
            "width": [0.9 * (one["high"] - one["low"]) for one in bins],
            "yaxis": "y2",
            "marker": {"color": "$base", "opacity": 0.65},
            "hovertext": hover,
            "hoverinfo": "text",
        },
    ]
    shape = layout(
        350,
        axis("probability that was given", range=[-0.02, 1.02], tickformat=".0%", anchor="y2"),
        axis("share that came true", range=[-0.03, 1.05], tickformat=".0%", domain=[0.3, 1]),
        yaxis2=axis("answers", domain=[0, 0.2], nticks=3),
    )
    return Figure("Calibration", words, data, shape, widest=620)


def distance_figure(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> Figure | None:
    """How many ranks the prediction of ordered classes is off, and to which side."""
    if not len(true):
        return None
    off = predicted - true
    reach = max(1, int(np.abs(off).max()))
    steps = list(range(-reach, reach + 1))
    counts = [int((off == step).sum()) for step in steps]
    near = float((np.abs(off) <= 1).mean())
    words = f"How many ranks the prediction lies above (right) or below (left) the truth. {100 * (off == 0).mean():.0f} % of "
    words += f"the rows are met, {100 * near:.0f} % within one rank."
    data = [
        {
            "type": "bar",
            "x": steps,
            "y": rounded((100 * count / len(off) for count in counts), 4),
            "marker": {"color": ["$arm0" if step == 0 else "$arm1" for step in steps], "opacity": 0.8},
            "hovertext": [f"{step:+d}: {count:,} rows" for step, count in zip(steps, counts, strict=True)],
            "hoverinfo": "text",
        }
    ]
    shape = layout(
        270,
        axis("ranks off", dtick=max(1, reach // 5), tickformat="+d"),
        axis("share of rows", ticksuffix=" %"),
        bargap=0.25,
    )
    return Figure("How far off", words, data, shape, widest=620)


def hits_figure(task: TaskFacts, true: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Figure | None:
    """Found, missed and wrongly said of each class, for classes that don't exclude each other: no row of a matrix fits."""
    names = list(task.classes or ())
    if not len(true) or not names:
        return None
    parts = {
        "found": ((true & predicted).sum(axis=0), "$arm2"),
        "missed": ((true & ~predicted).sum(axis=0), "$arm1"),
        "wrongly said": ((~true & predicted).sum(axis=0), "$arm3"),
    }
    order = np.argsort(-true.sum(axis=0), kind="stable")[:CLASSES_DRAWN]
    labels = axis_labels([names[at] for at in order])
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": labels,
            "x": counts[order].tolist(),
            "marker": {"color": colour, "opacity": 0.85},
            "hovertext": [f"<b>{readable(names[at])}</b><br>{label}: {counts[at]:,}" for at in order],
            "hoverinfo": "text",
        }
        for label, (counts, colour) in parts.items()
    ]
    found, missed, said = (int(counts.sum()) for counts, _ in parts.values())
    words = (
        f"Rows in which each class was found, missed, or said without being there. In all {found:,} found, {missed:,} "
    )
    words += (
        f"missed, {said:,} wrongly said; {100 * (true == predicted).all(axis=1).mean():.0f} % of the rows are right in "
    )
    words += "every class."
    if len(order) < len(names):
        words += f" Drawn are the {len(order)} most frequent of {len(names)} classes; the sums are over all."
    ink = {"size": 12, "color": "$ink"}
    shape = layout(
        max(330, 100 + 24 * len(order)),
        axis("rows"),
        axis("", type="category", autorange="reversed", tickfont=ink, gridcolor="rgba(0,0,0,0)", ticklabelstandoff=5),
        barmode="stack",
        bargap=0.3,
        **LEGEND,
    )
    return Figure("Found, missed, wrongly said", words, data, shape)
