"""Prediction in Python and from table to table: order, columns, types, and rows that cannot be predicted."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_table

import equipoise as eq
from equipoise.data import Collator
from equipoise.errors import DataError, RunError
from equipoise.inference import Model, evaluate_file, export_task, predict_file, predict_lines

CLASSES = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module")
def run(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> eq.Run:
    folder = tmp_path_factory.mktemp("predict")
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24, "pooling": "native"},
        "data": {"train": str(write_table(folder / "table.csv")), "validation": 0.2},
        "tasks": {
            "polarity": {"type": "regression", "column": "score", "range": [-1, 1]},
            "label": {"type": "classification"},
            "band": {"type": "classification", "from": "polarity", "bins": 3},
        },
        "training": {"max_steps": 4, "precision": "fp32", "learning_rate": 1e-3},
    }
    return eq.train(recipe, output=folder / "run", progress=False)


@pytest.fixture(scope="module")
def model(run: eq.Run) -> Model:
    return eq.load(run, precision="fp32")


def test_a_frame_comes_back_in_the_order_given(model: Model) -> None:
    texts = ["strong profit", "loss " * 30, "the court deal", "market"]
    found = model.predict(texts)
    assert list(found.columns)[:5] == ["polarity", "label", *(f"label/{c}" for c in CLASSES[:3])]
    assert found["polarity"].between(-1, 1).all()
    assert set(found["label"]) <= set(CLASSES)
    np.testing.assert_allclose(found[[f"label/{c}" for c in CLASSES]].sum(axis=1), 1, rtol=1e-5)
    # Whatever stands beside a text in its batch, and in whatever order, its prediction is the same.
    backwards = model.predict(texts[::-1])
    np.testing.assert_allclose(backwards["polarity"].to_numpy()[::-1], found["polarity"].to_numpy(), atol=1e-5)
    for position, text in enumerate(texts):
        alone = model.predict([text])
        assert alone["polarity"][0] == pytest.approx(found["polarity"][position], abs=1e-5)


def test_a_table_keeps_its_index_and_no_text_gives_no_row(model: Model) -> None:
    frame = pd.DataFrame({"text": ["strong profit", "loss"], "id": [7, 8]}, index=["x", "y"])
    assert list(model.predict(frame).index) == ["x", "y"]
    assert list(model.predict([]).columns) == list(model.predict(["profit"]).columns)
    assert len(model.predict([])) == 0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"predict takes a list of texts.*predict\(\[text\]\)"),
        (["good", "  "], r"text 1 \(text\) is empty"),
        (["good", None], r"text 1 \(text\) is no text: None"),
        ([3.5], r"text 0 \(text\) is no text: 3.5"),
        (pd.DataFrame({"headline": ["good"]}), "no column 'text'. The model reads text; found headline"),
    ],
)
def test_what_is_no_text_is_refused_by_position(model: Model, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict(texts)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_keeps_order_and_columns_and_marks_bad_rows(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(
        'id,text,label,note\n1,strong profit,positive,"a, b"\n2,,neutral,empty text\n3,loss\n4,the deal,neutral,"x\ny"\n',
        encoding="utf-8",
    )
    counts = predict_file(model, source, tmp_path / "out.csv")
    found = rows_of(tmp_path / "out.csv")
    assert (counts.rows, counts.bad) == (4, 2)
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    assert list(found[0])[:4] == ["id", "text", "label", "note"]
    assert [row["label"] for row in found] == ["positive", "neutral", "", "neutral"]  # the input's own
    assert found[0]["predicted/label"] in CLASSES
    assert [row["error"] for row in found] == [
        "", "column 'text' is empty", "has 2 cells, the header has 4", "",
    ]  # fmt: skip
    assert [bool(row["polarity"]) for row in found] == [True, False, False, True]
    assert found[3]["note"] == "x\ny"
    assert float(found[0]["polarity"]) == pytest.approx(model.predict(["strong profit"])["polarity"][0], abs=1e-5)


def test_small_batches_give_the_same_table(model: Model, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.csv", rows=50, seed=3)
    predict_file(model, source, tmp_path / "one.jsonl", batch_rows=1000)
    predict_file(model, source, tmp_path / "many.jsonl", batch_rows=7)
    one, many = ([json.loads(x) for x in (tmp_path / n).read_text().splitlines()] for n in ("one.jsonl", "many.jsonl"))
    assert len(one) == 50
    for a, b in zip(one, many, strict=True):
        assert a["id"] == b["id"]
        assert a["polarity"] == pytest.approx(b["polarity"], abs=1e-5)
        assert a["band"] == b["band"]


def test_jsonl_keeps_types_and_late_keys(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl.gz"
    records = [{"id": 1, "text": "profit", "tags": ["a"], "x": 1.5}, {"id": 2, "text": "loss", "late": {"k": None}}]
    with gzip.open(source, "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, records)) + "\nnot json\n")
    counts = predict_file(model, source, tmp_path / "out.jsonl.gz")
    with gzip.open(tmp_path / "out.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    assert (counts.rows, counts.bad) == (3, 1)
    for record, row in zip(records, found, strict=False):
        assert record.items() <= row.items()
        assert isinstance(row["polarity"], float)
        assert row["error"] is None
    assert found[2]["polarity"] is None
    assert "not JSON" in found[2]["error"]


def test_parquet_keeps_its_schema(model: Model, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int16()),
            "text": ["profit", None, "loss"],
            "when": pa.array([0, 1, 2], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(model, tmp_path / "in.parquet", tmp_path / "out.parquet", batch_rows=1)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.schema.names).schema == table.schema
    assert found.column("id").to_pylist() == [1, 2, 3]
    assert found.column("polarity").null_count == 1
    assert found.column("error").to_pylist() == [None, "column 'text' is empty", None]


def test_a_stray_byte_spoils_one_line_and_nothing_gives_columns(model: Model, tmp_path: Path) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b"profit\nlo\xffss\nbank\n"), encoding="utf-8", errors="surrogateescape")
    counts = predict_lines(model, lines, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (counts.rows, counts.bad) == (3, 1)
    assert found[1] == {**found[1], "text": "lo\ufffdss", "polarity": None, "error": "is not valid UTF-8"}
    predict_lines(model, io.StringIO(""), tmp_path / "empty.parquet")
    empty = pq.read_table(tmp_path / "empty.parquet")
    assert empty.num_rows == 0
    assert {"text", "polarity", "label", "error"} <= set(empty.column_names)


def test_what_is_no_json_is_written_as_null(model: Model, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["profit"], "x": [float("nan")]}), tmp_path / "in.parquet")
    predict_file(model, tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["x"] is None


def test_lines_from_a_pipe(model: Model, tmp_path: Path) -> None:
    counts = predict_lines(model, io.StringIO("strong profit\n\nloss\n"), tmp_path / "out.jsonl", batch_rows=2)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (counts.rows, counts.bad) == (3, 1)
    assert [row["text"] for row in found] == ["strong profit", "", "loss"]
    assert found[1]["error"] == "column 'text' is empty"


@pytest.mark.parametrize(
    ("name", "text", "output", "message"),
    [
        (
            "in.csv",
            "headline\nprofit\n",
            "out.csv",
            "in.csv has no column 'text'. The model reads text; columns: headline",
        ),
        ("in.csv", "text\nprofit\n", "out.xlsx", r"out.xlsx: cannot write files of this kind. Known: .csv"),
        ("in.csv", "text\nprofit\n", "in.csv", "the output would replace the input"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_no_file(
    model: Model, tmp_path: Path, name: str, text: str, output: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError, match=message):
        predict_file(model, tmp_path / name, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / name).read_text() == text


def test_evaluate_agrees_with_the_run_and_tells_what_took_no_part(run: eq.Run, model: Model, tmp_path: Path) -> None:
    source = tmp_path / "labelled.csv"
    source.write_text(
        "text,score,label\nstrong profit,0.5,positive\nloss,-0.5,Negative\nthe deal,,neutral\nfall,7,negative\n"
    )
    found = evaluate_file(model, source)
    assert (found["rows"], found["rejected"]) == (4, 2)
    assert [(row["line"], row["reason"][:6]) for row in found["rejected_rows"]] == [(3, "label:"), (5, "polari")]
    assert found["tasks"]["label"]["n"] == 2
    assert found["tasks"]["polarity"]["n"] == 1
    predicted = model.predict(["strong profit"])["polarity"][0]
    assert found["tasks"]["polarity"]["mse"] == pytest.approx((predicted - 0.5) ** 2, rel=1e-4)
    # The run's own validation rows, read anew from its table, give the run's own figures.
    truth = pq.read_table(run.predictions_file("validation")).to_pydict()
    rows = rows_of(Path(truth["file"][0]))
    with (tmp_path / "validation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows[row] for row in truth["row"])
    again = evaluate_file(model, tmp_path / "validation.csv")["tasks"]
    for task, metrics in run.metrics["splits"]["validation"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert again[task][name] == pytest.approx(value, abs=1e-5), (task, name)
    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("text\nprofit\n")
    with pytest.raises(DataError, match=r"has no label column\. Expected score, label; columns: text"):
        evaluate_file(model, unlabelled)


def test_a_task_cut_out_is_a_stock_model(run: eq.Run, model: Model, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    export_task(run, "label", tmp_path / "label")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "label").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "label")(["strong profit"], return_tensors="pt")
    with torch.no_grad():
        logits = stock(**batch).logits.numpy()
    assert stock.config.id2label == dict(enumerate(CLASSES))
    # Not to the bit: a product with fewer rows may sum in another order.
    whole = model.task_outputs(model.outputs(["strong profit"]), "label")
    np.testing.assert_allclose(logits, whole, rtol=1e-5, atol=1e-7)
    with pytest.raises(RunError, match=r"no task 'lable'.*polarity, label, band"):
        export_task(run, "lable", tmp_path / "other")
    with pytest.raises(RunError, match="exists and is not empty"):
        export_task(run, "label", tmp_path / "label")


def test_pairs(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "target", "score"])
        writer.writerows([[f"profit rise {i}", "bank" if i % 2 else "oil", i % 2] for i in range(40)])
    recipe = {
        "model": {"backbone": str(tiny_backbone("bert")), "max_length": 24},
        "data": {"train": str(table), "text": ["text", "target"], "validation": None},
        "tasks": {"polarity": {"type": "regression", "column": "score", "range": [0, 1]}},
        "training": {"max_steps": 2, "precision": "fp32"},
    }
    model = eq.load(eq.train(recipe, output=tmp_path / "run", progress=False), precision="fp32")
    assert len(model.predict([("profit", "bank"), ("profit", "oil")])) == 2
    assert len(model.predict(pd.DataFrame({"target": ["bank"], "text": ["profit"]}))) == 1
    with pytest.raises(DataError, match=r"text 1: the model was trained on pairs \(text, target\); found 'profit'"):
        model.predict([("profit", "bank"), "profit"])
    predict_lines(model, io.StringIO("profit\tbank\nprofit\n"), tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found[1]["error"] == "has 1 texts, the model reads 2 (with a tab between)"


def test_folders_that_are_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        eq.load(tmp_path / "absent")
    with pytest.raises(RunError, match="holds no trained model"):
        eq.load(tmp_path)


def test_bf16_keeps_the_output_layer_and_stays_near(run: eq.Run, model: Model) -> None:
    texts = ["strong profit", "loss " * 30, "the court deal", "market"]
    half = eq.load(run, precision="bf16")
    assert half.precision == "bf16"
    wanted, found = model.outputs(texts), half.outputs(texts)
    assert not np.array_equal(wanted, found)  # it did compute in bf16
    np.testing.assert_allclose(found, wanted, atol=0.05)
    # Eight bits would put every score on a multiple of a power of two: the outputs are float32 to the last digit.
    assert (found.view(np.uint32) & 0xFFFF).any()
    exact = half.exact()
    assert {parameter.dtype for parameter in exact.model.parameters()} == {torch.float32}


def test_an_unknown_precision_is_told(run: eq.Run) -> None:
    with pytest.raises(RunError, match="expected auto, fp32, bf16, found 'fp17'"):
        eq.load(run, precision="fp17")


def test_auto_is_bf16_only_where_the_hardware_has_it(run: eq.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for hardware, expected in ((None, "fp32"), ("amx_bf16", "bf16")):
        monkeypatch.setattr("equipoise.inference._engine.bf16_hardware", lambda device, name=hardware: name)
        assert eq.load(run).precision == expected


def test_lengths_are_rounded_up_but_never_past_what_the_model_reads(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    compute = model._engine.compute
    monkeypatch.setattr(
        model._engine, "compute", lambda batch: (widths.append(batch["input_ids"].shape[1]), compute(batch))[1]
    )
    for words in (1, 7, 14, 100):
        model.outputs(["profit " * words])
    assert widths == [8, 16, 16, 24]  # the recipe reads 24 tokens


def test_a_limit_that_is_no_multiple_of_eight_holds(model: Model) -> None:
    rows = [{"input_ids": np.arange(18, dtype=np.int32)}, {"input_ids": np.arange(3, dtype=np.int32)}]
    collate = Collator(model._loaded.tokenizer, {}, pad_to_multiple_of=8, max_length=20)
    assert collate(rows)["input_ids"].shape == (2, 20)
