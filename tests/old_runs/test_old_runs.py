"""Runs that earlier versions made: each is read, or its error says what to do. A new format gets a folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import equipoise as eq
from equipoise.cli import app
from equipoise.inference import evaluate_file

FOLDERS = sorted(Path(__file__).parent.glob("format-*"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy whose recipes point to where it lies now, as a user who moved it would have them."""
    folder = tmp_path / "old"
    shutil.copytree(request.param, folder)
    for recipe in folder.glob("*/recipe.yaml"):
        recipe.write_text(recipe.read_text(encoding="utf-8").replace("/old-run", str(folder)), encoding="utf-8")
    return folder


def expected(old: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((old / "expected.json").read_text(encoding="utf-8"))
    return found


def test_there_is_a_run_of_the_first_format() -> None:
    assert [folder.name for folder in FOLDERS][:1] == ["format-1"]


def test_it_predicts_what_it_predicted(old: Path) -> None:
    then = expected(old)
    now = eq.load(old / "finished", precision="fp32").predict(then["texts"])
    # Another machine may round in another way; what a wrong weight or label order does is far above this.
    pd.testing.assert_frame_equal(now, pd.DataFrame(then["predictions"]), rtol=1e-3, atol=1e-4, check_dtype=False)


def test_it_is_judged_as_it_was(old: Path) -> None:
    run = eq.Run.open(old / "finished")
    assert run.metrics["splits"] == expected(old)["metrics"]
    found = evaluate_file(eq.load(run, precision="fp32"), old / "table.csv")["tasks"]
    assert set(found) == {"polarity", "band", "topic"}
    assert found["topic"]["accuracy"] > 0.5


def test_its_report_is_made(old: Path) -> None:
    assert eq.write_report(old / "finished").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("transformers", []),
        # The table that it was tested on is elsewhere now, as the error would say; the same rows lie here.
        pytest.param("onnx", ["--data", "table.csv"], marks=pytest.mark.slow),
    ],
)
def test_it_is_exported(kind: str, more: list[str], old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    done = CliRunner().invoke(app, ["export", "finished", "-o", f"exported-{kind}", "--format", kind, *more])
    assert done.exit_code == 0, done.exception


def test_it_goes_on_where_it_was_stopped(old: Path) -> None:
    then = expected(old)
    run = eq.resume(old / "stopped", progress=False)
    steps = [line["step"] for line in run.history if "tasks" in line]
    assert steps == sorted(set(steps))
    for task, metrics in then["metrics"]["test"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert run.metrics["splits"]["test"][task][name] == pytest.approx(value, abs=0.1), (task, name)
