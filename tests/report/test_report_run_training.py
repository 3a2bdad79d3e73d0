"""The report at the end of a training: it is there, it quotes the right rows, and its failure loses nothing."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq
from equipoise import cli
from equipoise.training import _pages


@pytest.fixture
def few_steps(tiny_recipe: dict[str, Any]) -> dict[str, Any]:
    return tiny_recipe | {"training": tiny_recipe["training"] | {"max_steps": 4}}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command line; gives its exit code."""
    monkeypatch.setattr(sys, "argv", ["equipoise", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return int(done.value.code or 0)


def test_a_training_ends_with_a_report_that_quotes_the_rows(few_steps: dict[str, Any]) -> None:
    run = eq.train(few_steps, progress=False)
    page = run.report_file.read_text(encoding="utf-8")
    assert '<section id="verdict">' in page
    assert set(run.metrics["scores"]) == {"polarity"}
    counts = run.metrics["scores"]["polarity"]["counts"]
    for split, summary in run.metrics["data"]["splits"].items():
        assert sum(counts[split]) == summary["labelled"]["polarity"]
    kept = [json.loads(line) for line in run.worst_file.read_text(encoding="utf-8").splitlines()]
    assert 10 <= len(kept) <= 30
    with Path(few_steps["data"]["train"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for one in kept:
        assert one["split"] == "test"
        assert one["text"] == [rows[one["row"]]["text"]]
        assert one["line"] == one["row"] + 2
        assert one["characters"] == [len(one["text"][0])]
        assert one["text"][0] in page
    # The page needs nothing but the folder: neither the source nor the model's weights.
    Path(few_steps["data"]["train"]).unlink()
    run.report_file.unlink()
    assert eq.write_report(run).read_text(encoding="utf-8") == page


def test_long_texts_are_cut_and_pairs_keep_both(tiny_backbone: Any, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "target", "score"])
        writer.writerows([["profit " * 200 + str(i), "bank" if i % 2 else "oil", i % 2] for i in range(40)])
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(table), "text": ["text", "target"], "validation": None},
        "tasks": {"polarity": {"type": "regression", "column": "score", "range": [0, 1]}},
        "training": {"max_steps": 2, "precision": "fp32"},
    }
    run = eq.train(recipe, output=tmp_path / "run", progress=False)
    kept = [json.loads(line) for line in run.worst_file.read_text(encoding="utf-8").splitlines()]
    assert {len(one["text"][0]) for one in kept} == {1000}
    assert {one["text"][1] for one in kept} <= {"bank", "oil"}
    page = run.report_file.read_text(encoding="utf-8")
    assert "characters)" in page
    assert "there is no validation and no test split" in page


def test_a_report_that_fails_loses_no_run(
    few_steps: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(run: eq.Run) -> Path:
        raise ZeroDivisionError("a bug\nof two lines")

    with monkeypatch.context() as patch:
        patch.setattr(_pages, "write_report", broken)
        run = eq.train(few_steps)
    said = capsys.readouterr().out
    assert "warning: report.html was not written (ZeroDivisionError: a bug). The run is whole; try again: " in said
    assert f"equipoise report {run.folder}\n" in said
    assert not run.report_file.exists()
    assert not run.checkpoint_folder.exists()
    assert run.metrics["splits"]["test"]
    assert len(eq.load(run).predict(["strong profit"])) == 1
    # What the warning says helps.
    assert command(monkeypatch, "report", str(run.folder)) == 0
    assert run.report_file.exists()


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "report", str(tmp_path / "absent")) == 2
    assert capsys.readouterr().err == f"error: there is no run folder '{tmp_path / 'absent'}'\n"
    (tmp_path / "recipe.yaml").write_text("data: {}\n")
    assert command(monkeypatch, "report", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "Its training has not finished: equipoise train --resume" in error
    assert error.count("\n") == 1
