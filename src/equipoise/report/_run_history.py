"""How the tasks got along: losses, weights, gradients and their angles over the steps, and the validation curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from equipoise.report._figures import Figure, View, axis, layout, line, readable, rounded, vertical
from equipoise.report._html import Gallery, Html, choices, details, in_threes, listing, paragraph, section
from equipoise.report._numbers import decimals, number
from equipoise.report._run_data import axis_labels
from equipoise.report._run_events import events_part
from equipoise.report._run_facts import RunFacts, TaskFacts
from equipoise.report._run_held_back import RULE, balance_words, conflict_words, weighed
from equipoise.report._series import Series, series_of

__all__ = ["balance_section"]

#: Points of a line; of more logged steps, neighbours are joined to their mean.
POINTS = 60
#: Of each of many pairs, so that the page stays small.
FEWER = 24
#: From this ratio of the greatest to the least value on, an axis is logarithmic.
WIDE = 8
#: So many pairs of tasks have a picture each beside the others; of more there is a map, and the reader chooses.
PAIRS = 6
#: So many validation pictures stand beside each other; of more the reader chooses.
TOGETHER = 6
#: So many sentences stand open.
SAID = 6
#: Of more tasks than this, lines have no bands: they would cover each other.
BANDED = 4
QUANTITIES = {
    "loss": ("Training loss", "Loss of each task in the last batch of a logged step."),
    "weight": (
        "Weight",
        "What each task's loss was multiplied by. Equal heights are equal weights, not equal influence.",
    ),
    "norm": ("Gradient norm", "Length of each task's gradient where it was measured, before it was weighed."),
}


def balance_section(facts: RunFacts, gallery: Gallery) -> Html:
    """The section."""
    title, name = "How did the tasks get along?", "balance"
    steps = [one for one in facts.history if isinstance(one.get("tasks"), Mapping) and "step" in one]
    evaluations = [one for one in facts.history if isinstance(one.get("metrics"), Mapping) and "step" in one]
    if not steps and not evaluations:
        return section(name, title, "", paragraph("The run has no history.jsonl, so nothing is known of its steps."))
    method = str((facts.metrics.get("training") or {}).get("method", "the method"))
    tasks = [task.name for task in facts.tasks]
    said = (
        balance_words(weighed(steps, tasks), method)
        if len(tasks) > 1
        else ["There is one task, and nothing to balance."]
    )
    said += conflict_words(steps)
    said += [f"Step {one['step']:,}: {one['note']}" for one in facts.history if isinstance(one.get("note"), str)]
    parts: list[Html] = [listing(said[:SAID])]
    if said[SAID:]:
        parts.append(details(f"{len(said) - SAID} more", listing(said[SAID:])))
    if len(tasks) > 1:
        parts.append(details("The rule behind it", paragraph(RULE)))
    parts += events_part(facts.history)
    series = series_of(tasks, "t")
    figures = [
        figure
        for key, (label, words) in QUANTITIES.items()
        if (figure := _quantity(steps, series, key, label, words, method)) is not None
    ]
    if figures:
        if len(series) > 1:
            parts.append(choices(series, "Tasks to show", "chips legend"))
        parts.append(gallery.views([View("", figures)], narrow=True))
    best = (facts.metrics.get("training") or {}).get("best_step")
    if evaluations:
        parts.append(Html("<h3>On validation, while it trained</h3>"))
        parts.append(gallery.views(_validation(evaluations, facts.tasks, series, best), narrow=in_threes(len(tasks))))
    else:
        parts.append(
            paragraph("There is no validation split, so nothing was judged on the way and the last weights were kept.")
        )
    if views := _cosines(steps, tasks):
        parts.append(Html("<h3>Do their gradients agree?</h3>"))
        parts.append(gallery.views(views, narrow=len(views) == 1 and in_threes(len(views[0].figures))))
    elif len(tasks) > 1:
        parts.append(paragraph(f"Angles between the tasks' gradients are not known: {method} does not measure them."))
    lead = f"Balanced by {method}. A line is coloured by task in all pictures of this part."
    return section(name, title, lead, *parts)


def _quantity(
    steps: Sequence[Mapping[str, Any]], series: Sequence[Series], key: str, label: str, words: str, method: str
) -> Figure | None:
    curves = {one: found for one in series if (found := _curve(steps, lambda line, n=one.name: _value(line, n, key)))}  # type: ignore[misc]
    if not curves:
        return None
    values = [value for _, found in curves.values() for value in found["mean"]]
    places = min(4, decimals(values))
    logarithmic = min(values) > 0 and max(values) / min(values) > WIDE
    joined = max(found["joined"] for _, found in curves.values())
    if key == "weight" and all(max(found["mean"]) - min(found["mean"]) < 1e-6 for _, found in curves.values()):
        words += f" {method} kept them constant."
    banded = len(curves) <= BANDED
    if joined > 1:
        words += (
            f" A point is the mean of {joined} logged steps{', its band their least and greatest' if banded else ''}."
        )
    if logarithmic:
        words += " Logarithmic scale."
    y = _log_axis(min(values), max(values)) if logarithmic else {"rangemode": "tozero"}
    data = [line(one, x, found, places) for one, (x, found) in curves.items()]
    if not banded:
        for trace in data:
            trace.pop("band", None)
    return Figure(label, words, data, layout(300, axis("step", rangemode="tozero"), axis("", **y)))


def _log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with few ticks that say their value: 1, 2, 5 of each decade, or the decades alone where many."""
    steps = (1, 2, 5) if high / low < 100 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,.6g}" for tick in ticks]}


def _value(line: Mapping[str, Any], task: str, key: str) -> Any:
    values = line["tasks"].get(task)
    return values.get(key) if isinstance(values, Mapping) else None


def _curve(
    lines: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Any], points: int = POINTS
) -> tuple[list[float], dict[str, Any]] | None:
    """Steps, and `mean`, `low`, `high` of `joined` neighbours each; None where nothing was logged."""
    known = [
        (float(one["step"]), float(value))
        for one in lines
        if isinstance(value := read(one), int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    if not known:
        return None
    size = math.ceil(len(known) / points)
    groups = [known[at : at + size] for at in range(0, len(known), size)]
    values = [[value for _, value in group] for group in groups]
    found: dict[str, Any] = {
        "mean": [statistics.fmean(one) for one in values],
        "low": [min(one) for one in values],
        "high": [max(one) for one in values],
        "joined": size,
    }
    return [round(statistics.fmean(step for step, _ in group), 1) for group in groups], found


def _validation(
    evaluations: Sequence[Mapping[str, Any]], tasks: Sequence[TaskFacts], series: Sequence[Series], best: Any
) -> list[View]:
    """Each task's main metric, then its others by choice; the step whose weights were kept is marked."""
    main = [
        figure
        for task, one in zip(tasks, series, strict=True)
        if (figure := _evaluated(evaluations, task, one, task.main, best)) is not None
    ]
    views = [View("main metrics" if at == 0 else f"main metrics, {at + 1} to {at + TOGETHER}", main[at : at + TOGETHER])
             for at in range(0, len(main), TOGETHER)]  # fmt: skip
    others = list(dict.fromkeys(name for task in tasks for name in task.directions if name != task.main))
    for metric in others:
        found = [
            figure
            for task, one in zip(tasks, series, strict=True)
            if metric in task.directions
            and metric != task.main
            and (figure := _evaluated(evaluations, task, one, metric, best)) is not None
        ]
        if found:
            views.append(View(metric, found))
    return views


def _evaluated(
    evaluations: Sequence[Mapping[str, Any]], task: TaskFacts, one: Series, metric: str, best: Any
) -> Figure | None:
    found = _curve(evaluations, lambda line: (line["metrics"].get(task.name) or {}).get(metric))
    if found is None:
        return None
    x, curve = found
    lower = task.directions[metric] == "min"
    places = min(4, decimals(curve["mean"]))
    words = f"{metric} of {task.name} on validation; {'lower' if lower else 'higher'} is better."
    shapes, notes = [], []
    if isinstance(best, int):
        shapes.append(vertical(best))
        kept = [value for step, value in zip(x, curve["mean"], strict=True) if step == best]
        words += f" The weights of step {best:,} were kept" + (f", with {number(kept[0], places)}." if kept else ".")
        notes.append(
            {
                "x": best,
                "y": 1,
                "yref": "paper",
                "yanchor": "top",
                "xanchor": "right" if best > 0.5 * max(x) else "left",
                "text": " kept ",
                "showarrow": False,
                "font": {"size": 11.5, "color": "$quiet"},
            }
        )
    return Figure(
        f"{task.name}: {metric}",
        words,
        [line(one, x, curve, places)],
        layout(240, axis("step", rangemode="tozero"), axis(""), shapes=shapes, annotations=notes),
    )


def _cosines(steps: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[View]:
    """A picture for each pair of tasks; of many pairs a map of the means first."""
    pairs = list(dict.fromkeys(pair for one in steps for pair in one.get("cosines") or {}))
    points = POINTS if len(pairs) <= PAIRS else FEWER
    figures = [figure for pair in pairs if (figure := _pair(steps, pair, points)) is not None]
    if len(figures) <= PAIRS:
        return [View("", figures)] if figures else []
    return [View("all pairs", [_map(steps, tasks)]), *(View(figure.title, [figure]) for figure in figures)]


def _pair(steps: Sequence[Mapping[str, Any]], pair: str, points: int) -> Figure | None:
    found = _curve(steps, lambda line: (line.get("cosines") or {}).get(pair), points)
    if found is None:
        return None
    x, curve = found
    title = " and ".join(pair.split("|"))
    one = series_of([title])[0]
    mean = statistics.fmean(curve["mean"])
    words = (
        f"Cosine between the gradients of {title}: above zero a step for one helps the other, below zero it harms it. "
    )
    words += f"Mean {number(mean, 2)}."
    if curve["joined"] > 1:
        words += f" A point is the mean of {curve['joined']} logged steps, its band their least and greatest."
    y = axis("", zeroline=True, zerolinecolor="$quiet", zerolinewidth=1.3, nticks=5)
    reach = max(0.1, *(abs(value) for key in ("low", "high") for value in curve[key])) * 1.08
    y["range"] = [-min(1.05, reach), min(1.05, reach)]
    return Figure(title, words, [line(one, x, curve, 3)], layout(240, axis("step", rangemode="tozero"), y))


def _map(steps: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Figure:
    """Mean cosine of every two tasks."""
    sums: dict[tuple[str, str], list[float]] = {}
    for one in steps:
        for pair, value in (one.get("cosines") or {}).items():
            if isinstance(value, int | float):
                for a, b in _both(pair, tasks):
                    sums.setdefault((a, b), []).append(float(value))
    means = {pair: statistics.fmean(values) for pair, values in sums.items()}
    limit = max([abs(value) for value in means.values()], default=0.0) or 1.0
    cells = [[means.get((a, b)) if a != b else None for b in tasks] for a in tasks]
    lowest = min(means, key=lambda pair: means[pair])
    highest = max(means, key=lambda pair: means[pair])
    words = "Mean over the logged steps of the cosine between two tasks' gradients: blue they agree, orange they pull against "
    words += f"each other. Lowest: {lowest[0]} and {lowest[1]}, {number(means[lowest], 2)}; highest: {highest[0]} and "
    words += f"{highest[1]}, {number(means[highest], 2)}."
    labels = axis_labels(tasks)
    hover = [
        [
            "" if value is None else f"{readable(a)} and {readable(b)}: {number(value, 3)}"
            for b, value in zip(tasks, row, strict=True)
        ]
        for a, row in zip(tasks, cells, strict=True)
    ]
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": [rounded(row, 3) for row in cells],
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, "$heat-"], [0.5, "$heat0"], [1, "$heat+"]],
        "text": [["" if value is None else number(value, 2) for value in row] for row in cells],
        "texttemplate": "%{text}",
        "textfont": {"size": 10.5, "color": "$ink"},
        "hovertext": hover,
        "hoverinfo": "text",
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
    }
    ink = {"size": 11.5, "color": "$ink"}
    shape = layout(
        120 + 34 * len(tasks),
        axis("", gridcolor="rgba(0,0,0,0)", type="category", tickfont=ink),
        axis("", gridcolor="rgba(0,0,0,0)", type="category", autorange="reversed", tickfont=ink),
    )
    return Figure("Mean cosine of every two tasks", words, [trace], shape)


def _both(pair: str, tasks: Sequence[str]) -> list[tuple[str, str]]:
    """`a|b` both ways round; a task's own name may hold a bar."""
    for a in tasks:
        if pair.startswith(f"{a}|") and (b := pair[len(a) + 1 :]) in tasks:
            return [(a, b), (b, a)]
    return []
