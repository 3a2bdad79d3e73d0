"""The model card of a run: metadata that a model hub reads, then the same in words.

Everything comes from the run's own files, and whatever came from data is text in it and nothing else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import RunError
from equipoise.report._card_text import plain
from equipoise.report._card_words import words
from equipoise.report._run_facts import RunFacts, TaskFacts, read_run
from equipoise.runs import Run, write_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

__all__ = ["Saved", "card_text", "write_card"]

#: Our metrics -> the hub's id of the same, its arguments, and its name on the card. The hub has no id for the others.
HUB_METRICS: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "mse": ("mse", None, "MSE"),
    "mae": ("mae", None, "MAE"),
    "r2": ("r_squared", None, "R²"),
    "pearson": ("pearsonr", None, "Pearson"),
    "spearman": ("spearmanr", None, "Spearman"),
    "accuracy": ("accuracy", None, "Accuracy"),
    "macro_f1": ("f1", {"average": "macro"}, "Macro F1"),
    "micro_f1": ("f1", {"average": "micro"}, "Micro F1"),
    "mcc": ("matthews_correlation", None, "Matthews correlation"),
}
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
#: The loader that the hub's datasets library has for a file, by its suffix.
LOADERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Saved:
    """What the model's folder says of itself.

    Attributes:
        stock: whether transformers alone loads it, with all weights.
        adapter: `lora` or `mtl_lora`, where an adapter was saved that needs its backbone; else None.
        backbone: as the recipe named it.
        max_length: tokens that a text is cut to; None where the file does not say.
        text: the names of the text columns.
        code: files of code that the model brings along, without which nothing loads it.
    """

    stock: bool
    adapter: str | None
    backbone: str
    max_length: int | None
    text: tuple[str, ...]
    code: tuple[str, ...] = ()

    @classmethod
    def read(cls, run: Run) -> Saved:
        """Reads it off a run's `model/`."""
        try:
            data = json.loads(run.tasks_file.read_text(encoding="utf-8"))
            text = tuple(map(str, data.get("text", ["text"])))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{run.tasks_file} cannot be read: {error}") from None
        names = {path.name for path in run.model_folder.iterdir()}
        adapter = "mtl_lora" if "mtl_lora.json" in names else "lora" if "adapter_config.json" in names else None
        whole = bool(names & {"model.safetensors", "model.safetensors.index.json"})
        code = tuple(sorted(name for name in names if name.endswith(".py")))
        stock = whole and adapter is None and data.get("pooling", "native") == "native" and not code
        return cls(stock, adapter, str(data.get("backbone", "")), data.get("max_length"), text, code)

    @property
    def hub_id(self) -> str | None:
        """The backbone's id on the hub, or None for a folder of somebody's own."""
        if self.backbone == "minilm":
            return MINILM_HUB_ID
        # A folder that has gone since looks like an id; `./` and `/` never do.
        name = self.backbone.removeprefix("hub:")
        folder = name == self.backbone and os.path.isdir(os.path.expanduser(name))
        known = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name, re.ASCII)
        return None if folder or known is None else name


def card_text(run: Run | str | Path, *, language: str | list[str] | None = None, license: str | None = None) -> str:
    """The card of a finished run, Markdown with YAML before it. `OWNER/NAME` in it stands for the repository.

    Args:
        run: a run or its folder.
        language: ISO 639 codes of the texts; nothing in a run says what they are.
        license: an identifier that the hub knows, such as `apache-2.0`; it is yours to choose.

    Raises:
        RunError: it is no run, its training has not finished, or a file is damaged.
    """
    facts = read_run(run)
    saved = Saved.read(facts.run)
    data = _metadata(facts, saved, language, license)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{words(facts, saved)}"


def write_card(run: Run | str | Path, *, language: str | list[str] | None = None, license: str | None = None) -> Path:
    """Writes a run's `README.md`, its model card, and replaces what stands there. Arguments as for `card_text`.

    Returns:
        Where it is.
    """
    text = card_text(run, language=language, license=license)
    file = (run if isinstance(run, Run) else Run(Path(run))).card_file
    write_text(file, text)
    return file


def _metadata(facts: RunFacts, saved: Saved, language: str | list[str] | None, license: str | None) -> ModelCardData:
    from huggingface_hub import ModelCardData

    results = list(_results(facts))
    tags = ["equipoise", *(["multi-task-learning"] if len(facts.tasks) > 1 else [])]
    tags += sorted({f"{one.kind}-task" for one in facts.tasks})
    tags += ["custom_code"] if saved.code or _trusted(facts) else []
    datasets = sorted({name for name in map(_dataset, _files(facts)) if name})
    return ModelCardData(
        language=language,
        license=license,
        library_name="transformers" if saved.stock else "equipoise",
        pipeline_tag="text-classification",
        base_model=saved.hub_id,
        datasets=datasets or None,
        tags=tags,
        metrics=sorted({one.metric_type for one in results}) or None,
        model_name=_name(facts),
        eval_results=results or None,
    )


def _trusted(facts: RunFacts) -> bool:
    return bool((facts.metrics.get("training") or {}).get("remote_code"))


def _name(facts: RunFacts) -> str:
    return plain(facts.run.folder.resolve().name) or "run"


def _results(facts: RunFacts) -> Iterator[EvalResult]:
    """One result a split, task and metric that the hub has an id for."""
    from huggingface_hub import EvalResult

    files = _files(facts)
    hub = next((name for name in map(_dataset, files) if name), None)
    suffix = next((loader for end, loader in LOADERS.items() if files and end in Path(files[0]).suffixes), "csv")
    name = plain(", ".join(dict.fromkeys(Path(file).name for file in files))) or "rows of the user's own"
    for split in facts.splits:
        for task in facts.tasks:
            for metric, value in facts.values(task.name, split).items():
                if metric not in HUB_METRICS or not _is_number(value):
                    continue
                kind, arguments, shown = HUB_METRICS[metric]
                yield EvalResult(
                    task_type="text-classification",
                    task_name=plain(f"{task.name} ({task.kind})"),
                    dataset_type=hub or suffix,
                    dataset_name=hub or name,
                    # The hub puts together what has the same dataset, so the task's labels are told apart here.
                    dataset_config=plain(task.name),
                    dataset_split=split,
                    metric_type=kind,
                    metric_name=shown + _unit(task, metric),
                    metric_args=arguments,
                    metric_value=float(f"{value:.6g}"),
                )


def _unit(task: TaskFacts, metric: str) -> str:
    return " (in ranks)" if task.kind == "ordinal" and metric == "mae" else ""


def _files(facts: RunFacts) -> list[str]:
    """The sources of the rows, as the recipe named them."""
    found = (facts.metrics.get("data") or {}).get("files") or []
    return [str(one["file"]) for one in found if isinstance(one, Mapping) and "file" in one]


def _dataset(file: str) -> str | None:
    """`hub:org/name:config@split` -> `org/name`."""
    if not file.startswith("hub:"):
        return None
    return file.removeprefix("hub:").partition("@")[0].partition(":")[0] or None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
