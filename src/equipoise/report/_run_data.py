"""What was trained on what: rows, rejected ones, leaks, and how labels are spread over the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from equipoise.report._figures import Figure, View, axis, layout, readable, rounded
from equipoise.report._html import Gallery, Html, details, in_threes, listing, paragraph, section, table, text
from equipoise.report._numbers import MISSING, number
from equipoise.report._run_facts import RunFacts, TaskFacts
from equipoise.report._series import shortened

__all__ = ["CLASSES_DRAWN", "LEGEND", "axis_labels", "data_section"]

#: So many classes a picture has room for; of more, those with the most training rows are drawn and the caption says so.
CLASSES_DRAWN = 24
LABEL = 22
COLOURS = {"train": "$base", "validation": "$arm0", "test": "$arm1"}
LEGEND = {
    "showlegend": True,
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12, "color": "$quiet"}},
}


def data_section(facts: RunFacts, gallery: Gallery, *, beside_run: bool) -> Html:
    """The section; `beside_run`: the page lies in the run folder, so that its files can be linked."""
    data: Mapping[str, Any] = facts.metrics.get("data") or {}
    splits: Mapping[str, Any] = data.get("splits") or {}
    lead = "What was read, what was left out and why, and how the labels are spread over the splits."
    if not splits:
        return section("data", "What it learned from", "", paragraph("This run keeps no record of its data."))
    parts = [paragraph(_rows_read(data)), _splits_table(facts, splits), *_rejected(data, beside_run), *_leaks(data)]
    figures = [figure for task in facts.tasks if (figure := _distribution(facts, task, splits)) is not None]
    if figures:
        parts.append(Html("<h3>How the labels are spread</h3>"))
        parts.append(gallery.views([View("", figures)], narrow=in_threes(len(figures))))
    without = [task.name for task in facts.tasks if task.classes is None and task.name not in _scores(facts)]
    if without:
        parts.append(
            paragraph(
                f"How the scores of {', '.join(without)} are spread in training is not known: the run was made before that "
                "was kept.",
                "note",
            )
        )
    folded = [
        found for found in (_labels_table(facts, splits), _files_table(data), _counts_tables(facts, splits)) if found
    ]
    if folded:
        parts.append(details("Numbers: labels and files", *folded))
    return section("data", "What it learned from", lead, *parts)


def _rows_read(data: Mapping[str, Any]) -> str:
    files, read = data.get("files") or [], data.get("rows_read")
    rejected, sampled = data.get("rows_rejected") or 0, data.get("sampled_out") or 0
    said = f"{read:,} rows were read from {_count(len(files), 'file')}. " if isinstance(read, int) else ""
    said += f"{rejected:,} of them could not be used." if rejected else "All of them could be used."
    if sampled:
        said += f" {sampled:,} training rows were left out at random, as the recipe asks (max_train_rows)."
    repeated = (data.get("duplicates") or {}).get("train") or 0
    return said + (f" {repeated:,} training rows repeat the text of another one." if repeated else "")


def _splits_table(facts: RunFacts, splits: Mapping[str, Any]) -> Html:
    tokens: Mapping[str, Any] = facts.metrics.get("tokens") or {}
    rows = []
    for split, summary in splits.items():
        lengths = tokens.get(split) or {}
        cut = lengths.get("cut")
        rows.append(
            [
                split,
                number(summary.get("rows"), 0),
                *(number(lengths.get(key), 0) for key in ("median", "p95", "longest")),
                number(cut, 0),
            ]
        )
    head = ["split", "rows", "tokens: median", "95 %", "longest", "texts cut"]
    return table(head, rows, "Rows and their lengths; a text that is cut loses its end")


def _rejected(data: Mapping[str, Any], beside_run: bool) -> list[Html]:
    kinds = [(split, one) for split, found in (data.get("rejected") or {}).items() for one in found]
    if not kinds:
        return []
    rows = [[split, str(one["reason"]), str(one["example"]), number(one["count"], 0)] for split, one in kinds]
    file = Html('<a href="rejected.jsonl">rejected.jsonl</a>') if beside_run else text("rejected.jsonl")
    return [
        table(["split", "reason", "the first of them", "rows"], rows, "Rows that were left out", words=3, wrapped=True),
        Html(f'<p class="note">Each of them stands in {file} with its file, line, reason and cells.</p>'),
    ]


def _leaks(data: Mapping[str, Any]) -> list[Html]:
    said = []
    for pair, leak in (data.get("leaks") or {}).items():
        if leak.get("rows"):
            one, _, other = str(pair).partition("/")
            done = (
                "they were left out"
                if leak.get("dropped")
                else "they are still there (data.drop_leaks leaves them out)"
            )
            said.append(f"{leak['rows']:,} rows of {one} have a text that is in {other} too: {done}.")
    if not said and len(data.get("splits") or {}) > 1:
        said = ["No text stands in two splits."]
    told = [one for one in data.get("warnings") or [] if "have a text that is in" not in one]
    return [listing([*said, *(f"Warning: {one}" for one in told)])] if said or told else []


def _scores(facts: RunFacts) -> Mapping[str, Any]:
    return facts.metrics.get("scores") or {}


def _distribution(facts: RunFacts, task: TaskFacts, splits: Mapping[str, Any]) -> Figure | None:
    if task.classes is not None:
        counts = {
            split: found["counts"]
            for split, summary in splits.items()
            if (found := (summary.get("tasks") or {}).get(task.name)) and found.get("counts") and found.get("n")
        }
        sizes = {split: splits[split]["tasks"][task.name]["n"] for split in counts}
        return _classes(task, counts, sizes) if counts else None
    found = _scores(facts).get(task.name)
    return _histogram(task, found) if found else None


def _classes(task: TaskFacts, counts: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int]) -> Figure:
    """Share of a split's labelled rows in each class."""
    first = next(iter(counts))
    names = list(counts[first])
    shown = names
    if len(names) > CLASSES_DRAWN:
        most = set(sorted(names, key=lambda name: -counts[first][name])[:CLASSES_DRAWN])
        shown = [name for name in names if name in most]
    total = sum(counts[first].values()) or 1
    largest = max(names, key=lambda name: counts[first][name])
    words = (
        f"Rows of each class, as a share of the {'labelled ' if task.kind != 'multilabel' else ''}rows of its split. "
    )
    words += f"Most frequent in {first}: {largest}, {counts[first][largest]:,} of {sizes[first]:,} rows."
    if never := [name for name in names if not counts[first][name]]:
        words += (
            f" Without a {first} row: {', '.join(never[:5])}{f' and {len(never) - 5} more' if len(never) > 5 else ''}."
        )
    if len(shown) < len(names):
        kept = sum(counts[first][name] for name in shown) / total
        words += f" Drawn are the {len(shown)} most frequent of {len(names)} classes, {_percent(kept)} of all {first} labels; "
        words += "the numbers below have all."
    if cuts := task.described.get("thresholds"):
        words += f" The classes are cut from a score at {', '.join(f'{cut:.4g}' for cut in cuts)}."
    labels = axis_labels(shown)
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": split,
            "y": labels,
            "x": rounded((100 * own.get(name, 0) / sizes[split] for name in shown), 4),
            "marker": {"color": COLOURS.get(split, "$arm2")},
            "hovertext": [
                f"<b>{readable(name)}</b><br>{readable(split)}: {own.get(name, 0):,} of {sizes[split]:,} rows"
                for name in shown
            ],
            "hoverinfo": "text",
        }
        for split, own in counts.items()
    ]
    height = 96 + len(shown) * (10 + 9 * len(counts))
    ink = {"size": 12, "color": "$ink"}
    return Figure(
        f"{task.name}: classes",
        words,
        data,
        layout(
            height,
            axis("share of rows", ticksuffix=" %", rangemode="tozero"),
            axis(
                "", type="category", autorange="reversed", tickfont=ink, gridcolor="rgba(0,0,0,0)", ticklabelstandoff=5
            ),
            barmode="group",
            bargap=0.3,
            bargroupgap=0.1,
            **LEGEND,
        ),
    )


def _histogram(task: TaskFacts, found: Mapping[str, Any]) -> Figure:
    """Share of a split's scores in each bin."""
    grades = found.get("values")
    edges = found.get("edges") or []
    middles = grades or [(low + high) / 2 for low, high in pairwise(edges)]
    data: list[dict[str, Any]] = []
    for split, counts in found["counts"].items():
        total = sum(counts)
        if not total:
            continue
        colour = COLOURS.get(split, "$arm2")
        spans = (
            [f"{value:.4g}" for value in grades]
            if grades
            else [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        )
        hover = [f"{readable(split)}, {span}: {n:,} of {total:,} rows" for span, n in zip(spans, counts, strict=True)]
        shares = rounded((100 * n / total for n in counts), 4)
        common = {"name": split, "x": rounded(middles), "y": shares, "hovertext": hover, "hoverinfo": "text"}
        if grades:
            data.append({"type": "bar", **common, "marker": {"color": colour}})
        else:
            shape = {"type": "scatter", "mode": "lines", "line": {"shape": "hvh", "width": 2, "color": colour}}
            fill = {"fill": "tozeroy", "fillcolor": f"{colour}~"} if split == "train" else {}
            data.append({**common, **shape, **fill})
    words = f"Share of each split's labelled rows by {task.name}, "
    words += "counted score by score." if grades else f"in {len(middles)} bins of equal width."
    if regions := found.get("regions"):
        words += f" Half of the training rows lie densest at {_spans(regions['intervals'].get('dense') or [])}."
    return Figure(
        f"{task.name}: scores",
        words,
        data,
        layout(
            300,
            axis(readable(task.name)),
            axis("share of rows", ticksuffix=" %", rangemode="tozero"),
            barmode="group",
            **LEGEND,
        ),
    )


def _spans(intervals: Sequence[Sequence[float]]) -> str:
    named = [f"{low:.3g} to {high:.3g}".replace("-", "−") for low, high in intervals[:3]]
    return " and ".join(named) + (f" and {len(intervals) - 3} more places" if len(intervals) > 3 else "")


def _labels_table(facts: RunFacts, splits: Mapping[str, Any]) -> Html:
    rows = [
        [task.name, *(number((summary.get("labelled") or {}).get(task.name), 0) for summary in splits.values())]
        for task in facts.tasks
    ]
    return table(["task", *splits], rows, "Rows that carry a label of each task")


def _files_table(data: Mapping[str, Any]) -> Html | None:
    rows = [[str(one["file"]), str(one["split"]), number(one["rows"], 0)] for one in data.get("files") or []]
    return table(["file", "read for", "rows"], rows, "Files as the recipe names them", words=2) if rows else None


#: Rows of all tables of classes together: each takes about a hundred bytes of the page.
TABLE_ROWS = 500


def _counts_tables(facts: RunFacts, splits: Mapping[str, Any]) -> Html | None:
    """Counts by class, for those classes that the picture has no room for and for who can't hover."""
    found = []
    room = TABLE_ROWS
    for task in facts.tasks:
        if task.classes is None:
            continue
        rows = []
        for name in task.classes[:room]:
            counts = [((s.get("tasks") or {}).get(task.name) or {}).get("counts") or {} for s in splits.values()]
            rows.append([name, *(number(own.get(name), 0) for own in counts)])
        room -= len(rows)
        if rows:
            all_of = "" if len(rows) == len(task.classes) else f" (the first {len(rows)} of {len(task.classes)})"
            found.append(table(["class", *splits], rows, f"{task.name}: rows of each class{all_of}"))
        else:
            found.append(paragraph(f"{task.name}: its {len(task.classes)} counts stand in metrics.json.", "note"))
    return Html("".join(found)) if found else None


def axis_labels(names: Sequence[str]) -> list[str]:
    """Names for an axis, shortened. What became equal by that would fall on one bar, and is numbered."""
    seen: dict[str, int] = {}
    found = []
    for label in (shortened(name, LABEL) for name in names):
        seen[label] = seen.get(label, 0) + 1
        found.append(readable(label if seen[label] == 1 else f"{label} ({seen[label]})"))
    return found


def _percent(share: float) -> str:
    return MISSING if share != share else f"{100 * share:.0f} %"


def _count(many: int, what: str) -> str:
    return f"{many} {what}{'' if many == 1 else 's'}"
