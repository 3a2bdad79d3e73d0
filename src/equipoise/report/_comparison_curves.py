"""What happened while the arms trained: validation, weights, losses, gradient norms and conflict, with bands over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._arms import Arm, judged_of, lower_is_better
from equipoise.report._figures import Figure, View, axis, layout, line
from equipoise.report._numbers import decimals, number

__all__ = ["conflict_views", "learning_views", "weight_views"]

#: Points of all curves of a page together, about half a megabyte; longer curves are drawn at evenly spaced points.
BUDGET = 15_000
FEWEST = 12
EXAMPLES = "examples seen"
#: So many pictures stand beside each other; of more, the reader chooses one at a time.
TOGETHER = 6
QUANTITIES = {
    "weights": ("weights", "weight", "Weight of {} in the loss, as logged."),
    "losses": ("training losses", "loss", "Training loss of {}, as logged (last batch)."),
    "norms": ("gradient norms", "norm", "Norm of the gradient of {}, as logged."),
}


def learning_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """Validation metrics against the examples seen."""
    found = _curves(summary, arms, "validation")
    main = [name for name in summary["judged"] if name in found]
    rest = sorted(set(found) - set(main))
    views = _choice("judged metrics", [_learning(summary, name, found[name]) for name in main])
    return views + [View(judged_of(name), [_learning(summary, name, found[name])]) for name in rest]


def _learning(summary: Mapping[str, Any], name: str, curves: Sequence[tuple[Arm, Mapping[str, Any]]]) -> Figure:
    lower = lower_is_better(summary, name)
    ends = [(curve["mean"][-1], arm) for arm, curve in curves if curve["mean"] and curve["mean"][-1] is not None]
    seen = EXAMPLES if all(curve.get("examples") for _, curve in curves) else "step"
    words = f"Validation {judged_of(name)} by {seen}; {'lower' if lower else 'higher'} is better."
    if ends:
        value, arm = (min if lower else max)(ends, key=lambda pair: float(pair[0]))
        words += f" Best at the end: {arm.name}, {number(value, decimals([value]))}."
    return _figure(judged_of(name), words, curves, (seen, ""), summary)


def weight_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """Weights, training losses and gradient norms of every task against the step."""
    views = []
    for key, (label, unit, words) in QUANTITIES.items():
        figures = []
        for task, curves in _curves(summary, arms, key).items():
            said = words.format(task)
            if key == "weights" and (still := [arm.name for arm, curve in curves if _constant(curve)]):
                said += f" Constant: {', '.join(still[:4])}{' and others' if len(still) > 4 else ''}."
            figures.append(_figure(task, said, curves, ("step", unit), summary))
        views += _choice(label, figures)
    return views


def conflict_views(summary: Mapping[str, Any], arms: Sequence[Arm]) -> list[View]:
    """Cosines between the tasks' gradients against the step, with the line of no conflict."""
    figures = []
    for pair, curves in _curves(summary, arms, "cosines").items():
        title = pair.replace("|", " and ")
        below = [arm.name for arm, curve in curves if _share_below(curve) > 0.5]
        words = f"Cosine between the gradients of {title}: below zero the tasks pull against each other."
        words += f" Mostly below zero: {', '.join(below)}." if below else " No arm is below zero most of the time."
        figure = _figure(title, words, curves, ("step", "cosine"), summary)
        figure.layout["yaxis"] |= {"zeroline": True, "zerolinecolor": "$quiet", "zerolinewidth": 1.2}
        figures.append(figure)
    return _choice("every pair", figures)


def _choice(label: str, figures: Sequence[Figure]) -> list[View]:
    if len(figures) > TOGETHER:
        return [View(f"{label}: {figure.title}", [figure]) for figure in figures]
    return [View(label, figures)] if figures else []


def _curves(
    summary: Mapping[str, Any], arms: Sequence[Arm], key: str
) -> dict[str, list[tuple[Arm, Mapping[str, Any]]]]:
    """Name of the curve -> the arms that have it."""
    found: dict[str, list[tuple[Arm, Mapping[str, Any]]]] = {}
    for arm in arms:
        for name, curve in (summary["curves"].get(arm.name) or {}).get(key, {}).items():
            if any(value is not None for value in curve["mean"]):
                found.setdefault(name, []).append((arm, curve))
    return found


def _figure(
    title: str,
    words: str,
    curves: Sequence[tuple[Arm, Mapping[str, Any]]],
    units: tuple[str, str],
    summary: Mapping[str, Any],
) -> Figure:
    """Lines of several arms; `units` names the two axes. Examples stand on the first where it says so, else steps."""
    x = "examples" if units[0] == EXAMPLES else "step"
    allowed = _allowed(summary)
    places = decimals([value for _, curve in curves for value in curve["mean"]])
    data: list[dict[str, Any]] = []
    thinned = 0
    for arm, curve in curves:
        chosen = _spread(len(curve["step"]), allowed)
        thinned = max(thinned, len(curve["step"]) if len(chosen) < len(curve["step"]) else 0)
        picked = {name: [curve[name][at] for at in chosen] for name in ("mean", "low", "high")}
        data.append(line(arm, [curve[x][at] for at in chosen], picked, min(places, 4)))
    if thinned:
        words += f" Drawn at {allowed} evenly spaced ones of up to {thinned:,} logged steps."
    return Figure(title, words, data, layout(290, axis(units[0], rangemode="tozero"), axis(units[1])))


def _allowed(summary: Mapping[str, Any]) -> int:
    """Points per curve, so that a page of many arms and tasks stays small."""
    count = sum(len(by_name) for arm in summary["curves"].values() for by_name in arm.values())
    return max(FEWEST, min(200, BUDGET // max(1, count)))


def _spread(length: int, most: int) -> list[int]:
    """Evenly spaced positions, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return sorted({math.floor(at * (length - 1) / (most - 1) + 0.5) for at in range(most)})


def _constant(curve: Mapping[str, Any]) -> bool:
    known = [value for value in curve["mean"] if value is not None]
    return bool(known) and max(known) - min(known) <= 1e-6 * max(1.0, abs(known[0]))


def _share_below(curve: Mapping[str, Any]) -> float:
    known = [value for value in curve["mean"] if value is not None]
    return sum(value < 0 for value in known) / len(known) if known else 0.0
