"""Exports: stock folders, and ONNX graphs that say what the run says, or are not called good."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_table
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import equipoise as eq
from equipoise.errors import EquipoiseError, RunError
from equipoise.inference import explain, export_onnx, export_tasks

pytest.importorskip("onnxruntime", reason="ONNX exports need the extra onnx")

TEXTS = ["strong profit", "loss " * 30, "the court deal", "market rises sharply ! ?", "a"]


def recipe(backbone: Path, table: Path, **model: Any) -> dict[str, Any]:
    return {
        "model": {"backbone": str(backbone), "max_length": 24, **model},
        "data": {"train": str(table), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
        },
        "training": {"max_steps": 4, "precision": "fp32", "learning_rate": 1e-3},
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("export") / "table.csv")


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[[str], Path], table: Path) -> eq.Run:
    return eq.train(recipe(tiny_backbone("bert"), table), output=table.parent / "run", progress=False)


@pytest.fixture(scope="module")
def exported(run: eq.Run) -> Path:
    folder = run.folder.parent / "onnx"
    export_onnx(run, folder)
    return folder


def test_an_onnx_export_predicts_what_the_run_predicts(run: eq.Run, exported: Path) -> None:
    model = eq.load(exported)
    assert model.precision == "fp32"
    # Lengths and batches that the exporter has not seen.
    for texts in (TEXTS, TEXTS[:1], TEXTS * 40):
        np.testing.assert_allclose(model.outputs(texts), eq.load(run, precision="fp32").outputs(texts), atol=1e-5)
    assert {file.name for file in exported.iterdir()} >= {
        "model.onnx",
        "config.json",
        "tokenizer.json",
        "multitask.json",
    }


def test_the_report_of_an_export_is_of_the_runs_own_validation_rows(run: eq.Run, exported: Path) -> None:
    parity = json.loads((exported / "parity.json").read_text())
    assert parity["source"] == "the validation split"
    for task, metric in (("polarity", "mse"), ("label", "macro_f1")):
        kept = run.metrics["splits"]["validation"][task][metric]
        assert parity["metrics"][task][metric]["run"] == pytest.approx(kept, rel=1e-5)
        assert abs(parity["metrics"][task][metric]["worse"]) <= parity["tolerance"]
    assert parity["rows"] == len(pd.read_parquet(run.predictions_file("validation")))
    assert max(parity["largest_difference"].values()) < 1e-4


def test_int8_is_smaller_and_is_compared(run: eq.Run, exported: Path, tmp_path: Path) -> None:
    parity = export_onnx(run, tmp_path / "int8", int8=True, tolerance=0.5)
    assert parity.precision == eq.load(tmp_path / "int8").precision == "int8"
    assert 1e-6 < max(parity.largest_difference.values()) < 0.5  # quantised, and not another model
    size = {folder: (folder / "model.onnx").stat().st_size for folder in (exported, tmp_path / "int8")}
    assert size[tmp_path / "int8"] < size[exported]


def test_an_export_that_is_not_near_enough_is_not_written(run: eq.Run, tmp_path: Path, monkeypatch: Any) -> None:
    from equipoise.inference import _onnx

    compute = _onnx.OnnxEngine.compute
    monkeypatch.setattr(_onnx.OnnxEngine, "compute", lambda self, batch: compute(self, batch) + 0.5)
    with pytest.raises(RunError, match=r"fp32 export is not good: polarity mse .* allowed 0.50%.*--tolerance"):
        export_onnx(run, tmp_path / "off")
    assert list(tmp_path.iterdir()) == []


def test_an_onnxscript_that_does_not_know_this_torch_is_told(
    run: eq.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*args: Any, **kwargs: Any) -> Any:
        importlib.import_module("onnxscript._framework_apis.torch_99")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(EquipoiseError, match=r"^onnxscript \S+ is too old for torch 2\S+: pip install -U onnxscript$"):
        export_onnx(run, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_read_again_ask_for_a_table(
    tiny_backbone: Callable[[str], Path], table: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.csv"
    own.write_bytes(table.read_bytes())
    run = eq.train(recipe(tiny_backbone("bert"), own), output=tmp_path / "run", progress=False)
    own.unlink()
    with pytest.raises(RunError, match="--data FILE"):
        export_onnx(run, tmp_path / "onnx")
    parity = export_onnx(run, tmp_path / "onnx", data=table)
    assert parity.rows > 100
    assert parity.source == str(table)


@pytest.mark.parametrize(
    ("architecture", "model"),
    [
        ("llama", {"pooling": "native"}),
        ("bert", {"private_layers": 1, "pooling": "mean"}),
        pytest.param("bert", {"adapter": {"type": "mtl_lora", "rank": 4}}, marks=pytest.mark.slow),
        *[
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("roberta", "distilbert", "deberta-v2", "modernbert", "qwen3")
        ],
    ],
)
def test_families_and_what_tasks_have_for_themselves(
    tiny_backbone: Callable[[str], Path], table: Path, tmp_path: Path, architecture: str, model: dict[str, Any]
) -> None:
    run = eq.train(recipe(tiny_backbone(architecture), table, **model), output=tmp_path / "run", progress=False)
    export_onnx(run, tmp_path / "onnx")
    found, wanted = eq.load(tmp_path / "onnx"), eq.load(run, precision="fp32")
    np.testing.assert_allclose(found.outputs(TEXTS * 3), wanted.outputs(TEXTS * 3), atol=2e-5)


def test_an_onnx_folder_has_no_gradients(exported: Path) -> None:
    pytest.importorskip("captum", reason="explaining needs the extra explain")
    with pytest.raises(RunError, match="no gradients"):
        explain(eq.load(exported), "profit", "polarity")


@pytest.mark.parametrize(
    ("setting", "message"), [({"precision": "bf16"}, "export in fp32"), ({"device": "cuda"}, "runs on the processor")]
)
def test_an_onnx_folder_refuses_what_it_cannot_do(exported: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        eq.load(exported, **setting)


def test_a_damaged_onnx_folder_is_told(exported: Path, tmp_path: Path) -> None:
    for name, content, message in (("model.onnx", b"no graph", "cannot be loaded"), ("parity.json", b"{", "not whole")):
        folder = tmp_path / name
        folder.mkdir()
        for file in exported.iterdir():
            (folder / file.name).write_bytes(content if file.name == name else file.read_bytes())
        with pytest.raises(RunError, match=message):
            eq.load(folder)


def test_every_task_becomes_a_stock_folder(run: eq.Run, tmp_path: Path) -> None:
    folders = export_tasks(run, tmp_path / "stock")
    assert [folder.name for folder in folders] == ["polarity", "label"]
    model = eq.load(run, precision="fp32")
    for folder in folders:
        stock = AutoModelForSequenceClassification.from_pretrained(folder)
        encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
        wanted = model.task_outputs(model.outputs(TEXTS), folder.name)
        np.testing.assert_allclose(stock(**encoded).logits.detach().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--task", "label"], "--task goes with --format transformers"),
        (["--int8"], "--int8 goes with --format onnx"),
        (["--tolerance", "0.1"], "--tolerance goes with --format onnx"),
        (["--format", "gguf"], "expected transformers or onnx, found 'gguf'"),
        (["--task", "lable"], "no task 'lable'"),
    ],
)
def test_options_that_do_not_go_together(run: eq.Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    from equipoise.cli import app

    found = CliRunner().invoke(app, ["export", str(run.folder), "-o", str(tmp_path / "out"), *arguments])
    assert found.exit_code != 0
    assert message in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_it_compared(run: eq.Run, tmp_path: Path) -> None:
    from equipoise.cli import app

    found = CliRunner().invoke(app, ["export", str(run.folder), "-o", str(tmp_path / "out"), "--format", "onnx"])
    assert found.exit_code == 0, found.exception
    assert "polarity" in found.stdout
    assert "largest difference of an output" in found.stdout.replace("\n", " ")
