"""The model card: metadata that the hub's own reader takes, the run's numbers in it, and data that stays text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_table
from fake_runs import FOUR, write_run
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from markdown_it import MarkdownIt

import equipoise as eq
from equipoise.errors import RunError
from equipoise.report import card_text, write_card
from equipoise.report._card_text import markdown, plain
from equipoise.training import train

#: Metric ids that have a page on the hub, as far as ours could be among them.
KNOWN_METRICS = {"mse", "mae", "r_squared", "pearsonr", "spearmanr", "accuracy", "f1", "matthews_correlation"}
PARSER = MarkdownIt("commonmark").enable("table")


def body(text: str) -> str:
    return ModelCard(text).text


def cells(text: str) -> list[list[str]]:
    """Every row of every table as text, as a Markdown reader sees it."""
    rows: list[list[str]] = []
    for token in PARSER.parse(body(text)):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4 and rows:
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def check(text: str) -> dict[str, Any]:
    """The metadata, taken by all that the hub's library can check without the hub."""
    card = ModelCard(text)  # raises where the model index cannot be read
    data: dict[str, Any] = card.data.to_dict()
    assert str(card) == text  # nothing is lost or changed on the way through
    name, results = model_index_to_eval_results(data["model-index"])
    assert eval_results_to_model_index(name, results) == data["model-index"]
    assert data["pipeline_tag"] == "text-classification"
    assert set(data["metrics"]) <= KNOWN_METRICS
    assert {one.metric_type for one in results} == set(data["metrics"])
    assert all(isinstance(one.metric_value, float) for one in results)
    return data


# A fake run of all four kinds ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("card") / "reviews")


def test_the_metadata_has_a_result_a_split_and_task(fake: Path) -> None:
    data = check(card_text(fake))
    assert data["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "language" not in data  # nothing in a run says so
    assert "license" not in data
    (index,) = data["model-index"]
    assert index["name"] == "reviews"
    places = [(one["task"]["name"], one["dataset"]["config"], one["dataset"]["split"]) for one in index["results"]]
    kinds = {name: kind for name, (kind, _, _) in FOUR.items()}
    assert places == [
        (f"{name} ({kind})", name, split) for split in ("test", "validation") for name, kind in kinds.items()
    ]
    assert {one["dataset"]["name"] for one in index["results"]} == {"news.csv"}  # the file, and not where it lies
    splits = json.loads((fake / "metrics.json").read_text())["splits"]
    for one in index["results"]:
        own = splits[one["dataset"]["split"]][one["dataset"]["config"]]
        values = {metric["name"]: metric["value"] for metric in one["metrics"]}
        for ours, theirs in (
            ("mse", "MSE"),
            ("pearson", "Pearson"),
            ("macro_f1", "Macro F1"),
            ("micro_f1", "Micro F1"),
        ):
            assert (theirs in values) == (ours in own)
            if ours in own:
                assert values[theirs] == pytest.approx(own[ours], rel=1e-5)
    ordinal = next(one for one in index["results"] if one["dataset"]["config"] == "intensity")
    assert ordinal["metrics"][0]["name"] == "MAE (in ranks)"


def test_the_words_tell_tasks_and_metrics_beside_both_baselines(fake: Path) -> None:
    rows = cells(card_text(fake))
    assert ["polarity", "a score", "from -1 to 1"] in rows
    assert ["emotions", "any number of several classes",
            "anger, fear, joy; a class is named from a probability of 0.5 on"] in rows  # fmt: skip
    metrics = json.loads((fake / "metrics.json").read_text())
    own, base = metrics["splits"]["test"]["label"], metrics["baselines"]["test"]["label"]
    shown = [f"{one['macro_f1']:.4f}" for one in (own, base["tfidf"], base["constant"])]
    assert ["", "", "macro_f1", *shown] in rows
    assert ["balance of the tasks", "dao"] in rows
    assert ["rows", "400 train, 90 validation, 200 test"] in rows
    text = body(card_text(fake))
    assert "3 of 693 rows could not be used" in text
    assert "2 texts stand on both sides of train/test; they were left in" in text
    assert "transformers alone does not load it" in text  # the fake run has no weights


def test_what_only_the_user_knows_is_taken_from_the_user(fake: Path) -> None:
    data = check(card_text(fake, language=["en", "de"], license="apache-2.0"))
    assert (data["language"], data["license"]) == (["en", "de"], "apache-2.0")


NASTY = ["# a\n---\nb: |", "`x` *y* _z_ [l](http://evil.example) <script>alert(1)</script>", "a|b", "{{x}}: &b !!python/object",
         "yes", "a\u2028b\u202e\x07c", "www.evil.example", "-", "1.", "ключ 🎉"]  # fmt: skip


def test_what_comes_from_data_breaks_neither_yaml_nor_markdown(tmp_path: Path) -> None:
    specs = {
        "no": ("classification", {"labels": NASTY}, NASTY),
        "1e3": ("regression", {"range": (-1, 1)}, None),
        "a - b": ("ordinal", {"labels": NASTY[:4]}, NASTY[:4]),
    }
    file = "odd: dir/---\n<b>|x|</b>`*.csv"
    text = card_text(write_run(tmp_path / "# [r](x): | <i>", specs, file=file))
    data = check(text)
    (index,) = data["model-index"]
    assert index["name"] == "# [r](x): | <i>"
    assert {one["dataset"]["config"] for one in index["results"]} == {"no", "1e3", "a - b"}
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) == data
    html = PARSER.render(body(text))
    assert "<script" not in html
    assert "<b>" not in html
    assert [line for line in html.splitlines() if "evil.example" in line and "href" in line] == []
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 5
    (row,) = [row for row in cells(text) if row and row[0] == "no" and row[1].startswith("one of")]
    assert row[2] == ", ".join(plain(name, 60) for name in NASTY)
    for head, *rest in tables(text):
        assert {len(row) for row in rest} == {len(head)}


def tables(text: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    for row in cells(text):
        if row[0] in {"task", ""} and (row[1:] in (["what", "values"], [""]) or "metric" in row):
            found.append([])
        found[-1].append(row)
    return found


def test_text_reads_as_it_was() -> None:
    for text in [*NASTY, "__init__", "~~no~~", "$x$", "a\\b", "&amp;", "+ x", "= y", "12) z", "@someone"]:
        paragraph = PARSER.parseInline(markdown(text))[0]
        assert "".join(child.content for child in paragraph.children or []) == plain(text)
        assert PARSER.render(markdown(text) + "\n").startswith("<p>") or not plain(text)
    assert plain("x" * 500) == "x" * 199 + "…"
    assert plain("\udcff") == "?"


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("answerdotai/ModernBERT-base", "answerdotai/ModernBERT-base"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("./models/mine", None),
        ("/home/someone/models/mine", None),
        ("~/mine", None),
    ],
)
def test_only_a_hub_id_is_a_base_model(fake: Path, tmp_path: Path, backbone: str, expected: str | None) -> None:
    folder = shutil.copytree(fake, tmp_path / "run")
    sidecar = json.loads((folder / "model" / "multitask.json").read_text())
    (folder / "model" / "multitask.json").write_text(json.dumps(sidecar | {"backbone": backbone}))
    text = card_text(folder)
    assert check(text).get("base_model") == expected
    assert "/home/someone" not in text


def test_a_dataset_of_the_hub_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"label": FOUR["label"]}, file="hub:org/reviews:en@train")
    data = check(card_text(folder))
    assert data["datasets"] == ["org/reviews"]
    assert {one["dataset"]["type"] for one in data["model-index"][0]["results"]} == {"org/reviews"}
    assert "multi-task-learning" not in data["tags"]


def test_what_is_no_run_has_no_card(tmp_path: Path, fake: Path) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        write_card(tmp_path / "nowhere")
    folder = shutil.copytree(fake, tmp_path / "run")
    (folder / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"its training has not finished"):
        write_card(folder)
    assert not (folder / "README.md").exists()


# A real one ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    folder = tmp_path_factory.mktemp("carded")
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [0, 10], "scaling": "range"},
            "band": {"type": "classification", "from": "polarity", "thresholds": [3, 7]},
        },
        "training": {"max_steps": 2, "precision": "fp32"},
    }
    table = folder / "table.csv"
    table.write_text("text,score\n" + "".join(f"profit {n % 7} rise,{n % 11}\n" for n in range(120)))
    return train(recipe, output=folder / "run", progress=False)


def test_every_run_has_a_card(run: eq.Run) -> None:
    text = run.card_file.read_text(encoding="utf-8")
    assert metadata_load(run.card_file) == check(text)
    assert check(text)["library_name"] == "transformers"
    assert str(run.folder.parent) not in text  # no path of this machine
    assert ["band", "one of several classes", "bin1, bin2, bin3; parted where polarity is 3, 7"] in cells(text)
    before = run.card_file.read_text()
    assert write_card(run, language="en") == run.card_file
    assert run.card_file.read_text() == before.replace("---\n", "---\nlanguage: en\n", 1)


def test_what_the_card_says_of_raw_outputs_is_true(run: eq.Run) -> None:
    import numpy as np
    from transformers import pipeline

    pipe = pipeline("text-classification", model=str(run.model_folder), top_k=None, device="cpu")
    raw = {one["label"]: one["score"] for one in pipe(["strong profit"])[0]}
    found = eq.load(run, precision="fp32").predict(["strong profit"])
    assert "output × 5 + 5, cut to 0 … 10" in run.card_file.read_text()
    assert np.clip(raw["polarity"] * 5 + 5, 0, 10) == pytest.approx(found["polarity"][0], abs=1e-4)
    outputs = np.array([raw[f"band/bin{k}"] for k in (1, 2, 3)])
    shares = np.exp(outputs) / np.exp(outputs).sum()
    assert shares == pytest.approx(found[[f"band/bin{k}" for k in (1, 2, 3)]].to_numpy()[0], abs=1e-4)


def test_a_run_outlives_its_card(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from equipoise.training import _pages

    def broken(run: eq.Run) -> None:
        raise ValueError("a bug\nof ours")

    monkeypatch.setattr(_pages, "write_card", broken)
    run = train(tiny_recipe, overrides=["training.max_steps=1"])
    assert run.metrics_file.exists()
    assert run.report_file.exists()
    assert not run.checkpoint_folder.exists()
    assert "README.md was not written (ValueError: a bug). The run is whole; try again: " in capsys.readouterr().out
