"""One run from recipe to folder: what it writes, and that a stopped run ends as if it had not stopped."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_table
from safetensors.torch import load_file
from stopped_runs import StopAt, comparable, weights
from transformers import TrainerCallback

import equipoise as eq
from equipoise.errors import BalanceError, DataError, RunError
from equipoise.training import resume, train


def test_a_run_writes_everything_that_the_design_promises(tiny_recipe: dict[str, Any]) -> None:
    run = train(tiny_recipe, progress=False)
    names = {path.name for path in run.folder.iterdir()}
    written = {"recipe.yaml", "model", "metrics.json", "history.jsonl", "predictions", "rejected.jsonl"}
    assert names == written | {"report.html", "README.md"}
    assert not [p for p in run.folder.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".tmp"}]

    metrics = run.metrics
    assert set(metrics["splits"]) == {"validation", "test"}
    assert metrics["splits"]["test"]["label"]["n"] == metrics["data"]["splits"]["test"]["labelled"]["label"]
    for split, task in (("validation", "polarity"), ("test", "label")):
        assert set(metrics["baselines"][split][task]) == {"constant", "tfidf", "fitted_on"}
    assert metrics["training"]["method"] == "dao"
    assert metrics["training"]["precision_reason"] == "as the recipe says"
    assert metrics["versions"]["torch"] == torch.__version__

    steps = [line for line in run.history if "tasks" in line]
    assert [line["step"] for line in steps][:3] == [1, 3, 6]
    first = steps[0]
    assert set(first["tasks"]) == {"polarity", "label", "topic"}
    assert set(first["tasks"]["label"]) == {"loss", "weight", "norm"}
    assert set(first["cosines"]) <= {"polarity|label", "polarity|topic", "label|topic"}
    # DAO: every task pushes with the same norm, and the weights sum to the number of tasks.
    pushes = [values["weight"] * values["norm"] for values in first["tasks"].values()]
    assert max(pushes) == pytest.approx(min(pushes), rel=1e-4)
    assert sum(values["weight"] for values in first["tasks"].values()) == pytest.approx(3, rel=1e-4)
    evaluations = [line for line in run.history if line.get("split") == "validation"]
    assert len(evaluations) == 3

    predictions = pq.read_table(run.predictions_file("test")).to_pydict()
    assert list(predictions)[:4] == ["row", "file", "line", "polarity/true"]
    total = sum(np.array(predictions[f"label/{c}"]) for c in ("negative", "neutral", "positive"))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_training_learns_what_single_words_tell(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    # A random encoder of 32 dimensions finds the topic's words in a few epochs; counting good and bad ones takes longer.
    table = write_table(tmp_path / "more.csv", rows=400)
    settings = [f"data.train={table}", "model.pooling=mean", "training.epochs=4", "training.learning_rate=3e-3"]
    run = train(tiny_recipe, overrides=settings, progress=False)
    found, base = run.metrics["splits"]["test"], run.metrics["baselines"]["test"]
    assert found["topic"]["accuracy"] > 0.95 > 0.7 > base["topic"]["constant"]["accuracy"]
    assert found["polarity"]["mse"] < 0.8 * base["polarity"]["constant"]["mse"]


def test_the_resolved_recipe_reproduces_the_run_bit_for_bit(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    first = train(tiny_recipe, progress=False)
    second = train(first.recipe_file, output=tmp_path / "again", progress=False)
    assert all(torch.equal(a, weights(second)[name]) for name, a in weights(first).items())
    assert comparable(first.history) == comparable(second.history)
    assert first.metrics["splits"] == second.metrics["splits"]


@pytest.mark.parametrize(
    ("stop", "overrides"),
    [
        (2, ["training.checkpoint_every_steps=2"]),
        pytest.param(13, ["training.checkpoint_every_steps=4"], marks=pytest.mark.slow),
        (11, ["training.accumulation=2", "training.checkpoint_every_steps=3", "balance.smoothing=0.9"]),
        (17, ["model.adapter={rank: 4, dropout: 0.2}", "training.checkpoint_every_steps=5"]),
        (1, []),
    ],
)
def test_a_stopped_run_ends_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, stop: int, overrides: list[str]
) -> None:
    whole = train(tiny_recipe, overrides=overrides, output=tmp_path / "whole", progress=False)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=overrides, output=broken, progress=False, callbacks=[StopAt(stop)])
    with pytest.raises(RunError, match="has not finished: equipoise train --resume"):
        eq.Run.open(broken)
    continued = resume(broken, progress=False)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(continued).items())
    assert comparable(continued.history) == comparable(whole.history)
    assert continued.metrics["splits"] == whole.metrics["splits"]
    with pytest.raises(RunError, match="is finished"):
        resume(broken, progress=False)


class Poison(TrainerCallback):
    """Puts a NaN where one task's output comes from."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                model.classifier.bias[0] = math.nan


def test_nan_stops_the_run_names_the_task_and_keeps_the_last_good_checkpoint(tiny_recipe: dict[str, Any]) -> None:
    with pytest.raises(BalanceError, match=r"step 11: task 'polarity': the loss is not finite.*checkpoint-9") as caught:
        train(tiny_recipe, overrides=["training.checkpoint_every_steps=3"], progress=False, callbacks=[Poison(10)])
    run = eq.Run(Path(tiny_recipe["output"]))
    assert str(run.checkpoints()[-1]) in str(caught.value)
    saved = load_file(run.checkpoints()[-1] / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())
    text = run.history_file.read_text()
    assert "NaN" not in text
    assert max(json.loads(line)["step"] for line in text.splitlines() if "event" not in line) <= 10


def test_a_folder_with_a_run_is_not_overwritten_unasked(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = ["training.max_steps=2"]
    run = train(tiny_recipe, overrides=settings, progress=False)
    before = run.metrics
    with pytest.raises(RunError, match=r"--resume.*--overwrite"):
        train(tiny_recipe, overrides=settings, progress=False)
    assert run.metrics == before
    train(tiny_recipe, overrides=[*settings, "training.seed=1"], overwrite=True, progress=False)
    assert run.metrics["training"]["seed"] == 1


def test_early_stopping_and_the_best_checkpoint(tiny_recipe: dict[str, Any]) -> None:
    # A rate that wrecks the weights: what comes after the first evaluation is worse.
    settings = ["training.learning_rate=0.3", "training.epochs=10", "training.early_stopping=2", "training.warmup=0.5"]
    run = train(tiny_recipe, overrides=[*settings, "training.select=polarity.mse"], progress=False)
    evaluations = [line for line in run.history if line.get("split") == "validation"]
    scores = [line["metrics"]["polarity"]["mse"] for line in evaluations]
    best = int(np.argmin(scores))
    assert len(evaluations) == best + 3 < 10
    assert run.metrics["training"]["best_step"] == evaluations[best]["step"]
    assert run.metrics["splits"]["validation"]["polarity"]["mse"] == pytest.approx(scores[best], rel=1e-5)


def test_without_validation_the_last_weights_are_kept(tiny_recipe: dict[str, Any]) -> None:
    run = train(tiny_recipe, overrides=["data.validation=null", "training.epochs=1"], progress=False)
    assert run.metrics["training"]["best_step"] is None
    assert set(run.metrics["splits"]) == {"test"}


@pytest.mark.parametrize(
    "balance", ["{method: equal}", "{method: fixed, weights: {polarity: 2, label: 1, topic: 0.5}}"]
)
def test_the_other_balancers_train(tiny_recipe: dict[str, Any], balance: str) -> None:
    run = train(tiny_recipe, overrides=[f"balance={balance}", "training.max_steps=3"], progress=False)
    assert set(run.history[0]["tasks"]["label"]) == {"loss", "weight", "norm"}
    assert "polarity|label" in run.history[0]["cosines"]


@pytest.mark.parametrize("shared", ["last_layer", "all", "adapter"])
def test_gradients_can_be_measured_elsewhere(tiny_recipe: dict[str, Any], shared: str) -> None:
    settings = [f"balance.shared={shared}", "training.max_steps=2"]
    if shared == "adapter":
        settings.append("model.adapter={rank: 2}")
    run = train(tiny_recipe, overrides=settings, progress=False)
    assert all(values["norm"] > 0 for values in run.history[0]["tasks"].values())


def test_an_adapter_is_saved_merged_and_alone(tiny_recipe: dict[str, Any]) -> None:
    run = train(tiny_recipe, overrides=["model.adapter={rank: 4}"], progress=False)
    merged, alone = eq.load(run, precision="fp32"), eq.load(run.adapter_folder, precision="fp32")
    texts = ["strong profit beat", "weak market , loss and fall", "the court"]
    np.testing.assert_allclose(merged.outputs(texts), alone.outputs(texts), atol=1e-5)


def test_accumulating_two_half_batches_equals_one_batch_for_equal_weights(
    tiny_recipe: dict[str, Any], tmp_path: Path
) -> None:
    # Every row carries every label, so the mean of the halves' means is the mean of the whole.
    table = Path(tiny_recipe["data"]["train"])
    rows = [line for line in table.read_text().splitlines() if ",," not in line and not line.endswith(",")]
    table.write_text("\n".join(rows[:49]) + "\n")
    settings = [
        "balance={method: equal}", "training.max_steps=3", "training.group_by_length=false", "model.dropout=0.0",
        "data.validation=null", "data.test=null", "training.max_grad_norm=null",
    ]  # fmt: skip
    tiny = json.loads((Path(tiny_recipe["model"]["backbone"]) / "config.json").read_text())
    still = tmp_path / "still"
    still.mkdir()
    for file in Path(tiny_recipe["model"]["backbone"]).iterdir():
        (still / file.name).write_bytes(file.read_bytes())
    (still / "config.json").write_text(
        json.dumps({**tiny, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )
    settings.append(f"model.backbone={still}")
    one = train(tiny_recipe, overrides=[*settings, "training.batch_size=16"], output=tmp_path / "one", progress=False)
    two = train(
        tiny_recipe,
        overrides=[*settings, "training.batch_size=8", "training.accumulation=2"],
        output=tmp_path / "two",
        progress=False,
    )
    # AdamW forgives a wrong scale of the gradient; its norm does not.
    first, second = (next(line for line in run.history if "tasks" in line) for run in (one, two))
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(two)[name], atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_bf16_trains_in_bf16_and_judges_in_fp32(tiny_recipe: dict[str, Any]) -> None:
    seen: list[torch.dtype] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            layer = model.bert.encoder.layer[0].attention.self.query
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    run = train(tiny_recipe, overrides=["training.precision=bf16"], progress=False, callbacks=[Watch()])
    assert set(seen) == {torch.bfloat16}
    assert run.metrics["training"]["precision"] == "bf16"
    assert {value.dtype for value in weights(run).values()} == {torch.float32}
    assert all(values["norm"] > 0 for values in run.history[0]["tasks"].values())


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.checkpoint_every_steps=9", "training.epochs=2"],  # a checkpoint falls on an epoch's last step
        ["training.evaluate_every_steps=4", "training.max_steps=10"],
        ["training.epochs=1.5", "training.schedule=constant"],
    ],
)
def test_a_run_stopped_when_all_steps_are_done_ends_bit_equal(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    whole = train(tiny_recipe, overrides=overrides, output=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patched:
        patched.setattr("equipoise.training._run._save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe, overrides=overrides, output=tmp_path / "broken", progress=False)
    continued = resume(tmp_path / "broken", progress=False)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(continued).items())
    assert comparable(continued.history) == comparable(whole.history)


def stop(*args: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_stopped_between_save_and_evaluation_makes_the_evaluation(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.checkpoint_every_steps=9", "training.epochs=2"]  # nine steps are one epoch
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "whole", progress=False)
    assert [line["step"] for line in whole.history if "metrics" in line] == [9, 18]
    with monkeypatch.context() as patched:
        patched.setattr("equipoise.training._trainer.MultiTaskTrainer.score", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe, overrides=settings, output=tmp_path / "broken", progress=False)
    continued = resume(tmp_path / "broken", progress=False)
    assert comparable(continued.history) == comparable(whole.history)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(continued).items())


def test_a_run_stopped_after_early_stopping_trains_no_further(
    tiny_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.learning_rate=0.3", "training.epochs=10", "training.early_stopping=1", "training.warmup=0.5"]
    whole = train(tiny_recipe, overrides=settings, output=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patched:
        patched.setattr("equipoise.training._run._save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe, overrides=settings, output=tmp_path / "broken", progress=False)
    continued = resume(tmp_path / "broken", progress=False)
    assert comparable(continued.history) == comparable(whole.history)
    assert continued.metrics["splits"] == whole.metrics["splits"]


def test_a_failed_replacement_leaves_the_old_run(tiny_recipe: dict[str, Any]) -> None:
    run = train(tiny_recipe, overrides=["training.max_steps=2"], progress=False)
    before = run.metrics
    with pytest.raises(DataError, match=r"no such file"):
        train(tiny_recipe, overrides=["data.train=absent.csv"], overwrite=True, progress=False)
    assert run.metrics == before
    assert len(eq.load(run).predict(["profit"])) == 1


def test_checkpoints_that_hold_weights_only_are_not_continued(tiny_recipe: dict[str, Any]) -> None:
    settings = ["training.checkpoint_every_steps=2", "training.arguments={save_only_model: true}"]
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=settings, progress=False, callbacks=[StopAt(5)])
    run = eq.Run(Path(tiny_recipe["output"]))
    with pytest.raises(RunError, match="hold weights only"):
        resume(run.folder, progress=False)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "rank": 2}])
def test_unscaled_scores_are_learned(tiny_recipe: dict[str, Any], tmp_path: Path, adapter: Any) -> None:
    """Scores around 50: from outputs around 0 a short run would never get there."""
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "hundreds.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"score": row["score"] and 50 + 10 * float(row["score"])} for row in rows)
    tiny_recipe["data"]["train"] = str(tmp_path / "hundreds.csv")
    tiny_recipe["tasks"]["polarity"] = {"type": "regression", "column": "score", "scaling": "none"}
    tiny_recipe["model"]["adapter"] = adapter
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "hundreds")}, progress=False)
    assert run.metrics["splits"]["test"]["polarity"]["mse"] < 100  # it was 2,500
    assert 30 < eq.load(run.folder).predict(["profit rise"])["polarity"][0] < 70
