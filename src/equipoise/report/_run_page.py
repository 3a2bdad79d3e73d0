"""`report.html`: the story of a run in the order in which a person asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equipoise.errors import RunError
from equipoise.report._html import Gallery, Html, details, listing, paragraph, text
from equipoise.report._page import page
from equipoise.report._run_cost import cost_section, repeat_section
from equipoise.report._run_data import data_section
from equipoise.report._run_errors import errors_section, worst_positions
from equipoise.report._run_facts import RunFacts, read_run
from equipoise.report._run_history import balance_section
from equipoise.report._run_results import results_section
from equipoise.report._run_verdict import RULE, Standing, headline, sentence, standing
from equipoise.runs import Run, write_text

__all__ = ["run_page", "worst_rows", "write_report"]

#: So many tasks have a sentence in the verdict that stands open.
SAID = 6


def write_report(run: str | Path | Run, output: str | Path | None = None) -> Path:
    """Writes the report of a finished run: one self-contained page that opens without a network.

    Args:
        run: a run folder, or what `train` gave.
        output: the file; None writes `report.html` into the run folder.

    Returns:
        Where it was written.

    Raises:
        RunError: the run has not finished, is damaged or of a later format, or the file can't be written.
    """
    facts = read_run(run)
    file = facts.run.report_file if output is None else Path(output)
    if file.is_dir():
        raise RunError(f"'{file}' is a folder. Name a file: -o {file}/report.html")
    try:
        words = run_page(facts, beside_run=file.parent.resolve() == facts.run.folder.resolve())
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # The files' outer shape has been checked; checking every number in them would be longer than the report.
        raise RunError(
            f"'{facts.run.folder}': metrics.json or history.jsonl holds what no run writes ({type(error).__name__}: {error}). "
            "Was it edited? If not, this is a bug; --debug shows where"
        ) from error
    try:
        write_text(file, words)
    except OSError as error:
        raise RunError(f"'{file}' can't be written: {error.strerror}") from None
    return file


def worst_rows(run: Run) -> tuple[str, list[int]]:
    """The judged split, and the positions in its predictions of the rows whose texts the report shows.

    Raises:
        RunError: as `write_report`.
    """
    facts = read_run(run)
    return facts.judged, worst_positions(facts)


def run_page(facts: RunFacts, *, beside_run: bool = True) -> str:
    """The page's text, a little over the 5 MB that plotly's script takes.

    Args:
        facts: what `read_run` gave.
        beside_run: the page lies in the run folder, so that its files can be linked.

    Raises:
        RunError: plotly isn't installed, or a file of the run is damaged.
    """
    gallery = Gallery()
    found = [standing(facts, task, facts.judged) for task in facts.tasks]
    standings = [one for one in found if one is not None]
    parts = [
        _verdict(facts, standings),
        data_section(facts, gallery, beside_run=beside_run),
        results_section(facts, standings, gallery),
        balance_section(facts, gallery),
        errors_section(facts),
        cost_section(facts),
        repeat_section(facts),
    ]
    name = facts.run.folder.resolve().name
    return page(name, _about(facts), parts, gallery.drawn, file="report.html")


def _about(facts: RunFacts) -> str:
    training = facts.metrics.get("training") or {}
    tasks = len(facts.tasks)
    said = [f"a run of {tasks} task{'' if tasks == 1 else 's'}", f"backbone {facts.backbone}"]
    if "method" in training:
        said.append(f"balanced by {training['method']}")
    if "seed" in training:
        said.append(f"seed {training['seed']}")
    return " · ".join([*said, f"judged on the {facts.judged} split"])


def _verdict(facts: RunFacts, standings: Sequence[Standing]) -> Html:
    said = [sentence(one) for one in standings]
    parts = [listing(said[:SAID])]
    if said[SAID:]:
        parts.append(details(f"{len(said) - SAID} more tasks", listing(said[SAID:])))
    return Html(
        f'<section id="verdict"><h2>Verdict</h2><p class="headline">{text(headline(facts, standings))}</p>'
        f"{''.join(parts)}{details('The rule behind it', paragraph(RULE))}</section>"
    )
