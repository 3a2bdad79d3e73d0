"""`comparison.html`: the story of a comparison from its verdict down to the command that repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.report._arms import PARTS, Arm, arms_of
from equipoise.report._comparison_curves import conflict_views, learning_views, weight_views
from equipoise.report._comparison_forest import delta_figure, difference_views
from equipoise.report._comparison_regions import region_tables, region_views
from equipoise.report._comparison_tables import (
    all_metrics,
    cost_table,
    difference_table,
    equal_time_table,
    failed_table,
    multi_task_table,
    results_table,
    settings_table,
)
from equipoise.report._comparison_trade import cost_figures, trade_views
from equipoise.report._comparison_transfer import transfer_figure, transfer_table
from equipoise.report._figures import View
from equipoise.report._html import Gallery, Html, copied, details, paragraph, section, table, text
from equipoise.report._page import page

__all__ = ["comparison_page"]

REGIONS = (
    "Scores are parted by how common they were in training: dense, middle and rare. A good mean may hide bad errors where "
    "examples were few."
)
EQUAL_TIME = (
    "Taken from the line between the last evaluation within the time and the next, before any calibration. An arm that "
    "needs more time is not at the end of its learning rate's schedule by then."
)


def comparison_page(
    summary: Mapping[str, Any], *, title: str, recipe_text: str, command: str, versions: Mapping[str, str]
) -> str:
    """One self-contained HTML file: no address outside it, and no script in it but plotly's and ours.

    Args:
        summary: what `equipoise.evaluation.summarise` gives.
        title: of the page.
        recipe_text: the recipe as YAML.
        command: the command that made the comparison.
        versions: package -> version.

    Returns:
        The page's text, a little over the 5 MB that plotly's script takes.

    Raises:
        RunError: plotly isn't installed.
    """
    everyone, gallery = arms_of(summary), Gallery()
    # Pairs of tasks are there for the transfer matrix; drawn everywhere, there would be more of them than of methods.
    arms = [arm for arm in everyone if arm.group != "pair"]
    parts = [
        _verdict(summary),
        _results(summary, everyone),
        _differences(summary, arms, gallery),
        _together(summary, arms, gallery),
        _trade(summary, arms, gallery),
        _learning(summary, arms, gallery),
        _weights(summary, arms, gallery),
        _conflict(summary, arms, gallery),
        _transfer(summary, gallery),
        _regions(summary, arms, gallery),
        _cost(summary, everyone, gallery),
        _failed(everyone),
        _repeat(summary, everyone, recipe_text, command, versions),
    ]
    return page(title, _about(summary, everyone), [part for part in parts if part], gallery.drawn)


def _about(summary: Mapping[str, Any], arms: Sequence[Arm]) -> str:
    seeds = len(summary["seeds"])
    rows = f"{max(summary['rows'].values(), default=0):,} rows of the {summary['split']} split"
    if summary["folds"]:
        rows += f", {summary['folds']} folds"
    return f"{_count(len(arms), 'arm')} · {_count(seeds, 'seed')} · judged on {rows} · baseline {summary['baseline']}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _verdict(summary: Mapping[str, Any]) -> Html:
    first, *others = summary["verdict"] or ["Nothing could be judged: no run was finished."]
    listed = "".join(f"<li>{text(one)}</li>" for one in others)
    return Html(
        f'<section id="verdict"><h2>Verdict</h2><p class="headline">{text(first)}</p>'
        f"{f'<ul>{listed}</ul>' if others else ''}{details('The rule behind it', paragraph(summary['rule']))}</section>"
    )


def _results(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Html:
    more = [found for task in summary["tasks"] if (found := all_metrics(arms, task))]
    return section(
        "results",
        "Results",
        "Under each value stands the difference to the baseline, where above zero is better: ▲ better and ▼ worse than the "
        "baseline beyond chance, • not told apart from chance.",
        results_table(summary, arms),
        details("All metrics", *more),
    )


def _differences(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = difference_views(summary, arms)
    if not views:
        return None
    rivals = (
        ("differences", str(summary["baseline"])),
        ("versus_single", "the single-task model"),
        ("versus_tuned", "tuned fixed weights"),
    )
    tables = [
        found
        for key, rival in rivals
        for judged in summary["judged"]
        if (found := difference_table(arms, key, judged, rival))
    ]
    return section(
        "differences",
        "Paired differences",
        "Each arm is compared seed by seed and row by row. An interval that crosses the line at zero is compatible with no "
        "difference; the verdict also allows for the number of comparisons (Holm).",
        gallery.views(views),
        details("In the metrics' own units, with p values and the seeds it would take", *tables),
    )


def _together(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    found, figure = multi_task_table(arms), delta_figure(summary, arms)
    if not found:
        return None
    return section(
        "together",
        "All tasks together",
        "Δm is the mean gain over models that train each task alone; the mean rank is taken over the judged metrics "
        "among arms that train all tasks, 1 is the best.",
        *([gallery.views([View("", [figure])])] if figure else []),
        found,
    )


def _trade(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = trade_views(summary, arms)
    if not views:
        return None
    lead = "What one task gains and the other pays. Axes are turned so that better is up and to the right."
    both = [arm for arm in arms if len(arm.facts["tasks"]) > 1]
    return section("trade", "Trade-off between tasks", lead, gallery.views(views, both))


def _learning(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = learning_views(summary, arms)
    lead = (
        "Means over seeds with their interval as a band. The buttons show and hide arms in every picture of this page."
    )
    return section("learning", "Learning curves", lead, gallery.views(views, arms)) if views else None


def _weights(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = weight_views(summary, arms)
    lead = "What each method made of the tasks while it trained: their weights, their losses and their gradients."
    return section("weights", "Weights over time", lead, gallery.views(views, arms)) if views else None


def _conflict(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = conflict_views(summary, arms)
    lead = (
        "Below zero two tasks pull in opposite directions. Each method's gradients are taken where it measures them: at the "
        "text's representation, or at shared weights. So curves of unlike methods don't compare, and methods that measure "
        "none aren't drawn; equal(monitor=true) is equal weights that measure."
    )
    own = [arm for arm in arms if (summary["curves"].get(arm.name) or {}).get("cosines")]
    return section("conflict", "Conflict between tasks", lead, gallery.views(views, own)) if views else None


def _transfer(summary: Mapping[str, Any], gallery: Gallery) -> Html | None:
    figure = transfer_figure(summary)
    if not figure:
        return None
    lead = "Bold numbers differ from zero beyond chance."
    return section(
        "transfer",
        "Which task helps which",
        lead,
        gallery.views([View("", [figure])]),
        details("Numbers", transfer_table(summary)),
    )


def _regions(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html | None:
    views = region_views(summary, arms)
    if not views:
        return None
    cuts = dict.fromkeys(one["definition"] for one in (summary.get("regions") or {}).values() if one.get("definition"))
    folded = details("Numbers", *region_tables(summary, arms), *(paragraph(said, "note") for said in cuts))
    own = [arm for arm in arms if arm.facts.get("regions")]
    return section("regions", "Where the errors are", REGIONS, gallery.views(views, own), folded)


def _cost(summary: Mapping[str, Any], arms: Sequence[Arm], gallery: Gallery) -> Html:
    figures, at_equal_time = cost_figures(summary, arms), equal_time_table(summary, arms)
    parts: list[Html] = [cost_table(arms)]
    if figures:
        parts.append(gallery.views([View("", figures)], [arm for arm in arms if arm.group not in PARTS]))
    if at_equal_time:
        parts += [Html("<h3>At equal wall time</h3>"), paragraph(EQUAL_TIME), at_equal_time]
    unlike = "; ".join(f"{key}: {', '.join(values)}" for key, values in (summary.get("unlike") or {}).items())
    lead = (
        "Training time leaves evaluation out. Memory is the graphics device's where there is one, else the process's."
    )
    if unlike:
        lead += f" These runs were made under unlike conditions ({unlike}): their times and memory don't compare."
    return section("cost", "Cost", lead, *parts)


def _failed(arms: Sequence[Arm]) -> Html | None:
    found = failed_table(arms)
    return section("failed", "Failed runs", "They are left out of every number above.", found) if found else None


def _repeat(
    summary: Mapping[str, Any], arms: Sequence[Arm], recipe_text: str, command: str, versions: Mapping[str, str]
) -> Html:
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    settings = settings_table(arms)
    return section(
        "repeat",
        "How to repeat it",
        "",
        copied("command", command),
        paragraph(f"Seeds: {seeds}."),
        table(["package", "version"], versions.items(), "Versions", words=2),
        *([details("What each arm changes", settings)] if settings else []),
        details("The recipe", Html(f"<pre>{text(recipe_text)}</pre>")),
    )
