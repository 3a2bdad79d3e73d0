"""The model card in words: what the model predicts, how to use it, how it was made, how good it is, what to mind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.report._card_text import bullets, markdown, table
from equipoise.report._numbers import seconds
from equipoise.report._run_facts import RunFacts, TaskFacts
from equipoise.report._run_verdict import Standing, headline, sentence, standing
from equipoise.report._terminal import SHOWN

if TYPE_CHECKING:
    from equipoise.report._card import Saved

__all__ = ["words"]

MOST_CLASSES = 40


def words(facts: RunFacts, saved: Saved) -> str:
    """Everything below the metadata."""
    name = markdown(facts.run.folder.resolve().name) or "run"
    standings = [one for task in facts.tasks if (one := standing(facts, task, facts.judged)) is not None]
    parts = [
        f"# {name}",
        _lead(facts, saved, standings),
        "## What it predicts",
        _predicts(facts),
        "## How to use it",
        _use(facts, saved),
        "## How it was trained",
        _trained(facts, saved),
        "## How good it is",
        _results(facts, standings),
        "## What to mind",
        bullets(_limits(facts, saved)),
    ]
    return "\n\n".join(parts) + "\n"


def _lead(facts: RunFacts, saved: Saved, standings: Sequence[Standing]) -> str:
    """What it is, and whether it beats its baselines."""
    count = len(facts.tasks)
    tasks = "one task" if count == 1 else f"{count} tasks on the same text, in one pass"
    base = saved.hub_id
    origin = f"[{markdown(base)}](https://huggingface.co/{base})" if base else "a language model of the author's own"
    return f"A language model for {tasks}, fine-tuned with Equipoise from {origin}. " + markdown(
        headline(facts, standings), 1000
    )


# What it predicts ----------------------------------------------------------------------------------------------------


def _predicts(facts: RunFacts) -> str:
    return table(
        ("task", "what", "values"), ((f"**{markdown(one.name)}**", _what(one), _values(one)) for one in facts.tasks)
    )


def _what(task: TaskFacts) -> str:
    return {
        "regression": "a score",
        "classification": "one of several classes",
        "ordinal": "one of several classes that have an order, lowest first",
        "multilabel": "any number of several classes",
    }.get(task.kind, markdown(task.kind))


def _values(task: TaskFacts) -> str:
    """Classes with thresholds, or the range of a score."""
    about = task.described
    if task.classes is None:
        ends = about.get("range")
        return "any number" if ends is None else f"from {ends[0]:g} to {ends[1]:g}"
    shown = ", ".join(markdown(one, 60) for one in task.classes[:MOST_CLASSES])
    if len(task.classes) > MOST_CLASSES:
        shown += f" and {len(task.classes) - MOST_CLASSES} more"
    cuts = about.get("thresholds")
    if cuts:
        source = (about.get("source") or {}).get("name", "its score")
        shown += f"; parted where {markdown(source)} is {', '.join(f'{cut:g}' for cut in cuts)}"
    if task.kind == "multilabel" and isinstance(about.get("threshold"), int | float):
        shown += f"; a class is named from a probability of {about['threshold']:g} on"
    return shown


# How to use it -------------------------------------------------------------------------------------------------------


def _use(facts: RunFacts, saved: Saved) -> str:
    pair = len(saved.text) > 1
    texts = '[("first text", "second text")]' if pair else '["a text", "another text"]'
    columns = " and ".join(f"**{markdown(one)}**" for one in saved.text)
    parts = [
        "In Python, with Equipoise installed:",
        "```python\nimport equipoise as eq\nfrom huggingface_hub import snapshot_download\n\n"
        '# or the folder of the run\nmodel = eq.load(snapshot_download("OWNER/NAME")'
        f"{', trust_remote_code=True' if saved.code else ''})\n"
        f"# a DataFrame: every task's value, and the probability of every class\nmodel.predict({texts})\n```",
        f"A table that has the column{'s' if pair else ''} {columns}:",
        "```sh\nhf download OWNER/NAME --local-dir FOLDER\nequipoise predict FOLDER new.csv -o scored.csv"
        f"{' --trust-remote-code' if saved.code else ''}\n```",
    ]
    if saved.stock:
        parts += [
            "With transformers alone, which gives the raw output of every class and score:",
            "```python\nfrom transformers import pipeline\n\n"
            "# or the folder model/ of the run\n"
            'pipe = pipeline("text-classification", model="OWNER/NAME", top_k=None)\npipe("a text")\n```',
            bullets(_reading(one) for one in facts.tasks),
        ]
    else:
        why = f"an adapter ({saved.adapter})" if saved.adapter else "parts that no stock class has"
        parts.append(f"transformers alone does not load it, because it has {why}.")
    return "\n\n".join(parts)


def _reading(task: TaskFacts) -> str:
    """How raw outputs become a prediction."""
    about, name = task.described, f"**{markdown(task.name)}**"
    if task.kind == "regression":
        ends = about.get("range")
        clipped = "" if ends is None else f", cut to {ends[0]:g} … {ends[1]:g}"
        scale, offset = about["scale"], about["offset"]
        times = "" if scale == 1 else f" × {scale:.9g}"
        plus = "" if offset == 0 else f" {'−' if offset < 0 else '+'} {abs(offset):.9g}"
        return f"{name}: output{times}{plus}{clipped}."
    if task.kind == "classification":
        return f"{name}: softmax over its {len(task.classes or ())} outputs, and over no other task's."
    if task.kind == "multilabel":
        return f"{name}: a sigmoid for each of its outputs."
    if task.kind == "ordinal":
        return f"{name}: sigmoids multiplied from the first output on are the probabilities of lying above each class."
    return f"{name}: see the documentation of Equipoise."


# How it was trained --------------------------------------------------------------------------------------------------


def _trained(facts: RunFacts, saved: Saved) -> str:
    training, data = facts.metrics.get("training") or {}, facts.metrics.get("data") or {}
    versions = facts.metrics.get("versions") or {}
    rows = {name: split.get("rows") for name, split in (data.get("splits") or {}).items() if isinstance(split, Mapping)}
    cells: list[tuple[str, Any]] = [
        ("backbone", saved.hub_id or Path(saved.backbone).name),
        ("balance of the tasks", training.get("method")),
        ("rows", ", ".join(f"{count:,} {name}" for name, count in rows.items() if isinstance(count, int))),
        ("rows that could not be used", data.get("rows_rejected")),
        ("steps", training.get("steps")),
        ("epochs", training.get("epochs")),
        ("step whose weights were kept", training.get("best_step")),
        ("learning rate", training.get("learning_rate")),
        ("precision", training.get("precision")),
        ("seed", training.get("seed")),
        ("parameters that trained", _of(training.get("trainable_parameters"), training.get("parameters"))),
        ("time", seconds(training["seconds"]) if isinstance(training.get("seconds"), int | float) else None),
        ("hardware", training.get("device")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    shown = [(name, _cell(value)) for name, value in cells if value not in (None, "")]
    return table(("", ""), ((name, markdown(value, 400)) for name, value in shown))


def _of(part: Any, whole: Any) -> str | None:
    return f"{part:,} of {whole:,}" if isinstance(part, int) and isinstance(whole, int) else None


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


# How good it is ------------------------------------------------------------------------------------------------------


def _results(facts: RunFacts, standings: Sequence[Standing]) -> str:
    """Every metric beside both baselines, the split that counts first."""
    parts = [bullets(markdown(sentence(one), 600) for one in standings)]
    for split in facts.splits:
        parts += [
            f"On the {markdown(split)} split:",
            table(
                ("task", "rows", "metric", "this model", "TF-IDF + linear", "mean / majority"),
                _rows(facts, split),
                numbers_from=3,
            ),
        ]
    parts.append(
        "The mean or the majority of the training labels never sees a text; TF-IDF is a linear model on words and pairs of "
        "words, fitted on the same rows."
    )
    return "\n\n".join(part for part in parts if part)


def _rows(facts: RunFacts, split: str) -> Iterator[tuple[str, ...]]:
    for task in facts.tasks:
        values, rivals = facts.values(task.name, split), facts.baselines(task.name, split)
        for at, metric in enumerate(name for name in SHOWN if name in values):
            others = ((rivals.get(key) or {}).get(metric) for key in ("tfidf", "constant"))
            name, rows = (markdown(task.name), f"{values.get('n', 0):,}") if at == 0 else ("", "")
            own = _number(values[metric])
            yield (
                name,
                rows,
                markdown(metric),
                f"**{own}**" if metric == task.main else own,
                *(_number(value) for value in others),
            )


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"


# What to mind --------------------------------------------------------------------------------------------------------


def _limits(facts: RunFacts, saved: Saved) -> Iterator[str]:
    data, tokens = facts.metrics.get("data") or {}, facts.metrics.get("tokens") or {}
    training = facts.metrics.get("training") or {}
    code = training.get("remote_code")
    if isinstance(code, Mapping) and code:
        named = ", ".join(f"{markdown(name)} (SHA-256 {markdown(str(digest)[:16])}…)" for name, digest in code.items())
        yield (
            f"**It runs code of its own** on the machine that loads it, as its backbone does: {named}. It was trained with "
            "`model.trust_remote_code: true`. Read the code, then load it with `trust_remote_code=True` or `--trust-remote-code`."
        )
    yield (
        "It was judged on rows like those it was trained on. Texts of another kind, source, time or language are not "
        "covered by the figures above: measure them with `equipoise evaluate` first."
    )
    if saved.max_length:
        cut = sum(one.get("cut", 0) for one in tokens.values() if isinstance(one, Mapping))
        texts = f"; that cut {cut:,} texts of this data" if cut else ""
        yield f"It reads the first {saved.max_length} tokens of a text{texts}."
    if data.get("rows_rejected"):
        yield f"{data['rows_rejected']:,} of {data.get('rows_read', 0):,} rows could not be used."
    for pair, found in (data.get("leaks") or {}).items():
        if isinstance(found, Mapping) and found.get("rows"):
            treated = "they were dropped from training" if found.get("dropped") else "they were left in"
            yield f"{found['rows']:,} texts stand on both sides of {markdown(pair)}; {treated}."
    for task in facts.tasks:
        yield from _thin_classes(task, data)
    yield (
        "One training with one seed: other seeds give other figures. A probability is the model's own, and need not be "
        "the share of cases in which it is right."
    )
    if saved.adapter:
        yield "It is an adapter and needs its backbone, whose license holds as well."
    yield "Labels carry the judgement of those who gave them. Don't decide about people by this model alone."


def _thin_classes(task: TaskFacts, data: Mapping[str, Any]) -> Iterator[str]:
    """Classes that training has hardly seen."""
    summary = (((data.get("splits") or {}).get("train") or {}).get("tasks") or {}).get(task.name) or {}
    counts = summary.get("counts")
    if not isinstance(counts, Mapping):
        return
    few = [(name, count) for name, count in counts.items() if isinstance(count, int) and count < 20]
    if few:
        shown = ", ".join(f"{markdown(name, 60)} ({count})" for name, count in few[:10])
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        yield f"{markdown(task.name)}: fewer than 20 training rows of {shown}{more}."
