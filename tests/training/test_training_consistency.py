"""Two passes under different dropout: one forward of the doubled batch, the loss by hand, exact resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import equipoise as eq
from equipoise.errors import RecipeError
from equipoise.tasks import Task, kind
from equipoise.training import MultiTaskTrainer, make_plan, resume, train
from equipoise.training._feeds import task_losses
from equipoise.training._run import build_trainer

ON = ["training.consistency=1.5"]


def trainer_of(recipe: dict[str, Any], folder: Path, *overrides: str) -> MultiTaskTrainer:
    (folder / "cache").mkdir(parents=True)
    plan = make_plan(eq.recipe.load(recipe, overrides), folder / "cache")
    return build_trainer(plan, eq.Run.create(folder / "run"), [], in_memory=True)


def test_an_example_s_loss_by_hand() -> None:
    task = kind("regression").from_dict(
        {"kind": "regression", "name": "s", "column": "s", "range": None, "offset": 0.0, "scale": 1.0, "loss": "mse"}
        | {"huber_delta": 1.0}
    )
    logits = torch.tensor([[1.0], [5.0], [3.0], [2.0], [9.0], [3.0]])  # three rows, and the same again
    losses, labels = task_losses(
        {"s": task},
        {"s": slice(0, 1)},
        logits,
        {"s": torch.tensor([0.0, torch.nan, 3.0])},
        {"s": torch.tensor([0, 2])},
        0.5,
    )
    # (1^2 + 2^2) / 2 + 0.5 (1 - 2)^2, and nothing for the third; the second row has no label.
    assert losses["s"].tolist() == [3.0, 0.0]
    assert labels["s"].tolist() == [0.0, 3.0]


def test_a_batch_goes_through_the_model_once_and_doubled(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    trainer = trainer_of(tiny_recipe, tmp_path, *ON)
    shapes: list[int] = []
    trainer.model.register_forward_hook(lambda module, args, output: shapes.append(len(output.logits)))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(6)])
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch))
    assert (shapes, trainer.rows_trained) == ([12], 6)
    trainer.model.eval()
    with torch.no_grad():
        _, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert len(outputs.logits) == 6, "an evaluation sees each row once"


def still(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe on a backbone without dropout."""
    shutil.copytree(recipe["model"]["backbone"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return recipe | {"model": recipe["model"] | {"backbone": str(folder), "dropout": 0.0}}


@pytest.mark.parametrize("method", ["equal", "dao", "famo"])
def test_without_dropout_the_second_pass_changes_nothing(
    tiny_recipe: dict[str, Any], tmp_path: Path, method: str
) -> None:
    recipe = still(tiny_recipe, tmp_path / "still")
    settings = [f"balance={{method: {method}}}", "training.max_steps=4", "data.test=null", "training.log_every_steps=1"]
    once = train(recipe, overrides=settings, output=tmp_path / "once", progress=False)
    twice = train(recipe, overrides=[*settings, *ON], output=tmp_path / "twice", progress=False)
    for first, second in zip(once.history, twice.history, strict=True):
        for task, values in first.get("tasks", {}).items():
            assert second["tasks"][task].get("loss") == pytest.approx(values.get("loss"), rel=1e-3)
            assert second["tasks"][task].get("weight") == pytest.approx(values.get("weight"), rel=1e-3)


def test_with_dropout_the_answers_come_closer(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    def spread(*overrides: str) -> float:
        trainer = trainer_of(tiny_recipe, tmp_path / str(len(overrides)), "model.dropout=0.3", *overrides)
        trainer.train()
        trainer.model.train()
        torch.manual_seed(0)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(40)])
        rows = {k: v for k, v in batch.items() if k not in ("targets", "labelled")}
        with torch.no_grad():
            a, b = trainer.model(**rows).logits, trainer.model(**rows).logits
        found = [
            task.divergence(a[:, s], b[:, s]).mean()
            for task, s in zip(trainer.tasks.values(), trainer.task_slices.values(), strict=True)
        ]
        return float(sum(found))

    # A heavy hand, so that the difference is no matter of luck.
    assert spread("training.consistency=20") < 0.5 * spread()


class StopAt(TrainerCallback):
    """Ends the training without warning."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "more",
    [
        ["balance={method: famo}"],  # asks for the same batch's losses after the update
        pytest.param(["balance={method: dao, double_batch: true}", "training.accumulation=2"], marks=pytest.mark.slow),
        pytest.param(
            ["balance={method: coba, window: 4, warmup: 2}", "balance.shared=last_layer"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_stopped_run_ends_bit_equal(tiny_recipe: dict[str, Any], tmp_path: Path, more: list[str]) -> None:
    overrides = [*ON, *more, "training.max_steps=12", "training.checkpoint_every_steps=5", "data.test=null"]
    whole = train(tiny_recipe, overrides=overrides, output=tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=overrides, output=tmp_path / "broken", progress=False, callbacks=[StopAt()])
    resumed = resume(tmp_path / "broken", progress=False)
    expected = load_file(whole.model_folder / "model.safetensors")
    found = load_file(resumed.model_folder / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_losses_after_an_update_are_of_the_same_doubled_batch(tiny_recipe: dict[str, Any]) -> None:
    # With a learning rate of nothing the update changes nothing, so FAMO must see no change at all.
    tiny_recipe["training"] |= {"max_steps": 4, "learning_rate": 1e-30, "log_every_steps": 1, "consistency": 2.0}
    tiny_recipe["model"] |= {"dropout": 0.5}
    tiny_recipe["balance"] = {"method": "famo", "gamma": 0.0}
    run = train(tiny_recipe, progress=False)
    for line in run.history:
        if "tasks" in line:
            pulls = [values["weight"] * values["loss"] for values in line["tasks"].values()]
            assert max(pulls) / min(pulls) - 1 < 1e-4


def test_a_kind_without_a_divergence_is_told_with_the_recipe(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind("regression"), "divergence", Task.divergence)
    with pytest.raises(
        RecipeError, match=r"training\.consistency: tasks\.polarity of type regression has no divergence"
    ):
        eq.recipe.load(tiny_recipe, ON)
    eq.recipe.load(tiny_recipe)
    with pytest.raises(RecipeError, match=r"training\.consistency: input should be greater than 0"):
        eq.recipe.load(tiny_recipe, ["training.consistency=0"])
