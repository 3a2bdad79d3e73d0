"""The report of a run: the whole story, whatever is missing said in a sentence, and nothing of anybody else's in it."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from fake_runs import FOUR, write_run
from test_report_figures import painted, pictures
from test_report_page import elements

import equipoise as eq
from equipoise.errors import RunError
from equipoise.report._run_facts import read_run
from equipoise.report._run_page import run_page

PARTS = ("verdict", "data", "results", "balance", "errors", "cost", "repeat")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&%{x}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tasks, one of each kind. Don't change it."""
    return write_run(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return run_page(read_run(run))


def part(page: str, name: str) -> str:
    """A section as plain text."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)
    assert found, name
    return html.unescape(re.sub(r"<[^>]+>", " ", found[1]))


def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    edit(metrics)
    (run / "metrics.json").write_text(json.dumps(metrics))


def test_it_tells_the_story_in_the_order_in_which_one_asks(page: str) -> None:
    places = [page.index(f'<section id="{name}">') for name in PARTS]
    assert places == sorted(places)
    for name in PARTS:
        assert f'<a href="#{name}">' in page
    assert "minilm, trained on 400 rows, beats both baselines on 3 of 4 tasks" in part(page, "verdict")
    data = part(page, "data")
    assert "693 rows were read from 1 file. 3 of them could not be used." in data
    assert "column 'text' is empty" in data
    assert "2 rows of train have a text that is in test too" in data
    assert '<a href="rejected.jsonl">' in page
    assert "emotions was held back" in part(page, "balance")
    assert "31.2 texts a second" in part(page, "cost")
    assert "1.4 GiB" in part(page, "cost")
    repeat = part(page, "repeat")
    assert "equipoise train" in repeat
    assert "Seed 0" in repeat
    assert "2.13.0" in repeat
    assert "# a recipe" in repeat


def test_every_metric_stands_beside_both_baselines(run: Path, page: str) -> None:
    results = part(page, "results")
    metrics = json.loads((run / "metrics.json").read_text())
    for task, values in metrics["splits"]["test"].items():
        for name, value in values.items():
            if isinstance(value, float):
                rivals = [metrics["baselines"]["test"][task][key][name] for key in ("tfidf", "constant")]
                for one in [value, *(rival for rival in rivals if rival is not None)]:
                    shown = [f"{one:.{places}f}".replace("-", "−") for places in (3, 4)]
                    assert any(text in results for text in shown), (task, name)


def test_every_kind_has_its_pictures(page: str) -> None:
    titles = re.findall(r"<h3>([^<]+)</h3><button", page)
    for wanted in (
        "All tasks on one scale",
        "Predicted against true",
        "How large the errors are",
        "Common and rare scores",
        "What is taken for what",
        "Class by class",
        "Calibration",
        "How far off",
        "Found, missed, wrongly said",
        "Training loss",
        "Weight",
        "Gradient norm",
        "polarity: mse",
        "polarity and label",
    ):
        assert wanted in titles
    assert titles.count("Calibration") == 3
    assert titles.count("What is taken for what") == 2
    assert all(len(words) > 20 for words in re.findall(r'role="img" aria-label="([^"]*)"', page))


def test_plotly_knows_every_property_and_every_colour_is_defined(page: str) -> None:
    drawn = pictures(page)
    assert len(drawn) > 25
    for picture in painted(drawn).values():
        for trace in picture["data"]:
            trace.pop("band", None)
            if isinstance(trace.get("marker", {}).get("color"), list):
                trace["marker"]["color"] = "#123456"
        go.Figure(picture)  # raises on an unknown property or a value that it can't have
    used = set(re.findall(r'"\$(\w+)~?"', json.dumps(drawn)))
    assert {name for name in used if not name.startswith("heat")} <= set(re.findall(r"--(\w+): #[0-9a-f]{6};", page))


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in elements(page):
        assert tag not in {"iframe", "object", "embed", "base", "form", "img"}
        assert not {"src", "srcset", "action", "data"} & set(attributes)
        target = attributes.get("href")
        assert target is None or target.startswith("#") or target in {"data:,", "rejected.jsonl"}
        assert not any(name.startswith("on") for name in attributes)
    outside = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    assert "http" not in outside.replace("http-equiv", "")
    assert "default-src 'none'; script-src 'sha256-" in outside
    identifiers = re.findall(r'\sid="([^"]+)"', outside)
    assert len(identifiers) == len(set(identifiers))


def test_the_worst_rows_come_with_their_texts(copy: Path) -> None:
    page = run_page(read_run(copy))
    assert "shares rise &lt;b&gt;sharply&lt;/b&gt; after strong results" in page
    (copy / "predictions" / "worst.jsonl").unlink()
    errors = part(run_page(read_run(copy)), "errors")
    assert "named by file and line" in errors
    assert "news.csv:" in errors
    assert "sharply" not in errors


def test_a_confusion_is_counted_as_in_the_metrics(run: Path, page: str) -> None:
    matrix = json.loads((run / "metrics.json").read_text())["splits"]["test"]["label"]["confusion_matrix"]
    found = [one["data"][0] for one in pictures(page).values() if one["data"][0]["type"] == "heatmap"]
    assert matrix in [one["customdata"] for one in found]


# What may be missing -------------------------------------------------------------------------------------------------


def test_one_task_and_no_split_to_judge_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"polarity": FOUR["polarity"]}, rows={"train": 60}, norms=False)
    page = run_page(read_run(run))
    assert "the very rows that it was trained on" in part(page, "verdict")
    balance = part(page, "balance")
    assert "There is one task, and nothing to balance." in balance
    assert "There is no validation split" in balance


@pytest.mark.parametrize(
    ("missing", "where", "said"),
    [
        ("history.jsonl", "balance", "no history.jsonl"),
        ("recipe.yaml", "repeat", "no recipe.yaml any more"),
        ("predictions/test.parquet", "results", "predictions of the test split are not in the run folder"),
        ("predictions/test.parquet", "errors", "predictions of the test split are not in the run folder"),
    ],
)
def test_a_missing_file_is_a_sentence(copy: Path, missing: str, where: str, said: str) -> None:
    (copy / missing).unlink()
    assert said in part(run_page(read_run(copy)), where)


@pytest.mark.parametrize("key", ["baselines", "training", "data", "tokens", "scores", "versions"])
def test_a_part_that_an_older_run_lacks_is_left_out(copy: Path, key: str) -> None:
    change(copy, lambda metrics: metrics.pop(key))
    page = run_page(read_run(copy))
    said = {
        "baselines": ("verdict", "could be compared with no baseline"),
        "training": ("cost", "no record of its training"),
        "data": ("data", "no record of its data"),
        "scores": ("data", "How the scores of polarity are spread in training is not known"),
    }
    for name in PARTS:
        part(page, name)
    if key in said:
        where, words = said[key]
        assert words in part(page, where)


def test_a_task_without_a_judged_label_is_told(copy: Path) -> None:
    change(copy, lambda metrics: metrics["splits"]["test"].pop("label"))
    assert "No test row carries a label of label" in part(run_page(read_run(copy)), "results")


def test_without_norms_the_reason_is_not_invented(tmp_path: Path) -> None:
    page = run_page(read_run(write_run(tmp_path / "run", norms=False)))
    assert "measures no gradient norms" in part(page, "balance")
    assert "Angles between the tasks' gradients are not known" in part(page, "balance")


# What is refused -----------------------------------------------------------------------------------------------------


def unfinished(run: Path) -> None:
    (run / "metrics.json").unlink()


def untrained(run: Path) -> None:
    shutil.rmtree(run / "model")


def cut(run: Path) -> None:
    (run / "metrics.json").write_text('{"format_version": 1, "spl')


def newer(run: Path) -> None:
    change(run, lambda metrics: metrics.update(format_version=2))


def newer_model(run: Path) -> None:
    (run / "model" / "multitask.json").write_text('{"format_version": 9}')


def no_tasks(run: Path) -> None:
    (run / "model" / "multitask.json").write_text(
        '{"format_version": 1, "tasks": [{"kind": "regression"}], "backbone": "x"}'
    )


def no_splits(run: Path) -> None:
    change(run, lambda metrics: metrics.update(splits={}))


def flat(run: Path) -> None:
    change(run, lambda metrics: metrics.update(splits={"test": {"label": 3}}))


def bent(run: Path) -> None:
    change(run, lambda metrics: metrics.update(training=[]))


def bent_within(run: Path) -> None:
    change(run, lambda metrics: metrics["data"].update(leaks=[1, 2]))


def not_parquet(run: Path) -> None:
    (run / "predictions" / "test.parquet").write_bytes(b"PAR1 no more")


def history(run: Path) -> None:
    (run / "history.jsonl").write_text('{"step": 1\n')


def texts(run: Path) -> None:
    (run / "predictions" / "worst.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unfinished, r"no metrics.json: its training has not finished. Go on with it: equipoise train --resume"),
        (untrained, "holds no trained model"),
        (cut, r"metrics.json cannot be read"),
        (newer, r"metrics.json has format version 2; this Equipoise reads 1. Install a newer Equipoise"),
        (newer_model, r"multitask.json has format version 9.*Install a newer Equipoise"),
        (no_tasks, r"multitask.json is damaged"),
        (no_splits, r"metrics.json is damaged: it holds no judged split"),
        (flat, r"metrics.json is damaged: splits.test holds no metrics by task"),
        (bent, r"metrics.json is damaged: training is no mapping"),
        (bent_within, r"metrics.json or history.jsonl holds what no run writes \(AttributeError"),
        (not_parquet, r"test.parquet cannot be read"),
        (history, r"history.jsonl:1 is damaged"),
        (texts, r"worst.jsonl:1 is damaged. Remove the file"),
    ],
)
def test_a_damaged_run_is_one_error(copy: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copy)
    with pytest.raises(RunError, match=message) as caught:
        eq.write_report(copy)
    assert "\n" not in str(caught.value)
    assert not (copy / "report.html").exists()


def test_where_it_is_written(copy: Path, tmp_path: Path) -> None:
    assert eq.write_report(eq.Run(copy)) == copy / "report.html"
    other = eq.write_report(copy, tmp_path / "elsewhere" / "one.html")
    page = other.read_text(encoding="utf-8")
    # Away from the run folder there is nothing that a link could lead to.
    assert 'href="rejected.jsonl"' not in page
    assert "rejected.jsonl" in page
    with pytest.raises(RunError, match=r"is a folder. Name a file: -o .*report.html"):
        eq.write_report(copy, tmp_path)
    with pytest.raises(RunError, match="there is no run folder"):
        eq.write_report(tmp_path / "absent")


def test_the_same_run_gives_the_same_page(run: Path, page: str) -> None:
    assert run_page(read_run(run)) == page


# Many, and evil ------------------------------------------------------------------------------------------------------


def test_twelve_tasks_with_hundreds_of_classes_stay_below_six_megabytes(tmp_path: Path) -> None:
    names = [f"class {k} of a set of three hundred" for k in range(300)]
    specs = {f"task {at}": ("classification", {"labels": names}, names) for at in range(9)}
    specs |= {f"score {at}": FOUR["polarity"] for at in range(3)}
    rows = {"train": 900, "validation": 100, "test": 1400}
    page = run_page(read_run(write_run(tmp_path / "run", specs, rows=rows, steps=6000, texts=["word " * 200])))
    assert len(page.encode()) < 6_000_000
    text = html.unescape(page)
    assert "Shown are the 20 of 300 classes with the most rows" in text
    assert "Drawn are the 24 most frequent of 300 classes" in text
    assert re.search(r"the \d+ of 300 with the lowest F1", text)
    assert "its 300 classes stand in metrics.json (per_class)" in text
    assert "its 300 counts stand in metrics.json" in text
    assert "Drawn is a random sample of 1,200 of" in text
    assert "Mean cosine of every two tasks" in text
    assert "6 more tasks" in text


def evil_run(folder: Path) -> Path:
    """Everything that a user names is an attack."""
    labels = [EVIL, f"{EVIL}|{EVIL}"[: len(EVIL)] + "2", "plain"]
    specs = {
        f"score {EVIL}": FOUR["polarity"],
        f"label {EVIL}": ("classification", {}, labels),
        f"rank {EVIL}": ("ordinal", {"labels": labels}, labels),
        f"set {EVIL}": ("multilabel", {}, labels),
    }
    run = write_run(folder, specs, file=f"data/{EVIL}.csv", texts=[EVIL])
    reasons = {EVIL: [{"reason": EVIL, "count": 3, "example": EVIL}]}

    def spoil(metrics: dict[str, Any]) -> None:
        metrics["data"]["rejected"] = reasons
        metrics["data"]["warnings"] = [EVIL]
        metrics["training"] |= {"method": EVIL, "device": EVIL, "precision": EVIL, "precision_reason": EVIL}
        metrics["versions"] = {EVIL: EVIL}

    change(run, spoil)
    sidecar = json.loads((run / "model" / "multitask.json").read_text())
    (run / "model" / "multitask.json").write_text(json.dumps(sidecar | {"backbone": EVIL}))
    (run / "recipe.yaml").write_text(EVIL)
    with (run / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "note": EVIL}) + "\n")
    return run


def test_whatever_comes_from_data_is_text(tmp_path: Path) -> None:
    page = run_page(read_run(evil_run(tmp_path / "run")))
    found = elements(page)
    assert len([tag for tag, _ in found if tag == "script"]) == 3  # the pictures' data, plotly, ours
    assert not [tag for tag, _ in found if tag == "img"]
    assert not [one for _, one in found if any(name.startswith("on") for name in one)]
    data = page.split('id="pictures">', 1)[1].split("</script>", 1)[0]
    assert "alert(1)" in data
    assert "<" not in data
    assert "\\u0026amp;%{x}" not in data  # plotly would put a number there; our own templates stand behind a tag
