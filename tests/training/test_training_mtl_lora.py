"""Task-specific adapters in whole runs: trained from a recipe, stopped and resumed, loaded, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import make
from safetensors.torch import load_file
from stopped_runs import StopAt, comparable, weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import equipoise as eq
from equipoise.errors import RecipeError, RunError
from equipoise.inference import export_task
from equipoise.models import load_model
from equipoise.training import resume, train
from equipoise.training._parameters import parameter_groups, shared_parameters

OWN = "model.adapter={type: mtl_lora, rank: 4, dropout: 0.2}"


def test_a_run_trains_saves_predicts_and_exports(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    rate = ["training.learning_rate=0.03"]  # so that the adapters say something that the backbone alone does not
    run = train(tiny_recipe, overrides=[OWN, *rate], progress=False)
    assert {path.name for path in run.model_folder.glob("*.safetensors")} == {"mtl_lora.safetensors"}
    assert not run.adapter_folder.exists()
    assert eq.recipe.load(run.recipe_file).model.adapter == eq.recipe.load(tiny_recipe, [OWN]).model.adapter
    assert all(values["norm"] > 0 for values in run.history[0]["tasks"].values())

    loaded = load_model(run.model_folder)
    texts = ["strong profit beat", "weak oil loss", "the court may rule", "great"]
    table = eq.load(run, precision="fp32").predict(texts)
    assert len(table) == 4
    inputs = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = loaded.model(**inputs).logits
    spans = {"polarity": slice(0, 1), "label": slice(1, 4), "topic": slice(4, 6)}
    for task, columns in spans.items():
        folder = tmp_path / f"export-{task}"
        export_task(run, task, folder)
        stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            found = stock(**AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True)).logits
        torch.testing.assert_close(found, wanted[:, columns], rtol=1e-5, atol=1e-5)
    layers = [layer for layer in loaded.model.modules() if hasattr(layer, "lora_transform")]
    updates = [torch.stack([layer.update(task) for task in range(3)]) for layer in layers]
    assert len(layers) == 13  # six linear layers in each of two blocks, and the pooler
    assert all((update[0] - update[1]).abs().max() > 1e-3 for update in updates)


@pytest.mark.parametrize("settings", [[], ["balance={method: mgda, shared: adapter}", "training.averaging=ema"]])
def test_a_stopped_run_ends_bit_equal(tiny_recipe: dict[str, Any], tmp_path: Path, settings: list[str]) -> None:
    chosen = [OWN, "training.max_steps=8", "training.checkpoint_every_steps=3", *settings]
    whole = train(tiny_recipe, overrides=chosen, output=tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, overrides=chosen, output=tmp_path / "broken", progress=False, callbacks=[StopAt(5)])
    (last,) = [path for path in (tmp_path / "broken" / "checkpoints").iterdir() if any(path.glob("optimizer*"))]
    assert (last / "mtl_lora.safetensors").is_file()
    assert not (last / "model.safetensors").exists()  # the frozen backbone is not written again and again
    continued = resume(tmp_path / "broken", progress=False)
    expected = weights(whole)
    assert set(weights(continued)) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in weights(continued).items())
    assert comparable(continued.history) == comparable(whole.history)


def test_the_best_weights_come_back(tiny_recipe: dict[str, Any]) -> None:
    # A rate that wrecks the weights: what comes after the first evaluation is worse.
    settings = ["training.learning_rate=0.5", "training.warmup=0.9", "training.evaluate_every_steps=4"]
    settings += ["training.max_steps=12", "training.select=polarity.mse", "training.keep_checkpoints=true"]
    run = train(tiny_recipe, overrides=[OWN, *settings], progress=False)
    step = run.metrics["training"]["best_step"]
    assert step < 12
    best = load_file(run.checkpoint_folder / f"checkpoint-{step}" / "mtl_lora.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in weights(run).items())


@pytest.mark.parametrize(
    "settings",
    [
        ["balance={method: dao, shared: adapter}"],
        ["balance={method: dao, shared: last_layer}"],
        ["balance={method: pcgrad, shared: all}"],
        ["balance={method: mgda, shared: representation}"],
        ["model.gradient_checkpointing=true", "balance={method: dao, shared: adapter}"],
        ["training.consistency=1.0"],
        ["model.pooling=mean"],
    ],
)
def test_goes_with_the_rest(tiny_recipe: dict[str, Any], settings: list[str]) -> None:
    run = train(tiny_recipe, overrides=[OWN, "training.max_steps=3", *settings], progress=False)
    assert all(values["norm"] > 0 for values in run.history[0]["tasks"].values() if "norm" in values)
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_a_task_alone_has_an_adapter_too(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    del tiny_recipe["tasks"]["label"], tiny_recipe["tasks"]["topic"]
    run = train(tiny_recipe, overrides=[OWN, "training.max_steps=3", "data.max_rejected=0.5"], progress=False)
    assert weights(run)["bert.encoder.layer.0.attention.self.query.lora_mixture"].shape == (1, 3)
    export_task(run, "polarity", tmp_path / "stock")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock")


def test_shared_parameters_are_what_all_tasks_train(tiny_backbone: Callable[[str], Path]) -> None:
    model = make(tiny_backbone("bert"), adapter={"type": "mtl_lora", "rank": 2}).model
    names = {id(p): name for name, p in model.named_parameters()}

    def found(place: str) -> set[str]:
        return {names[id(p)] for p in shared_parameters(model, place)}

    adapter = {name for name in names.values() if name.endswith(("lora_A", "lora_B"))}
    assert len(adapter) == 26
    assert found("adapter") == adapter
    assert found("last_layer") == {name for name in adapter if name.startswith("bert.encoder.layer.1.")}
    assert found("all") == adapter
    groups = parameter_groups(model, decays=set(), learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=0.0)
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    head = ("bert.pooler.", "classifier.")
    assert {rate for name, rate in rates.items() if not name.startswith(head)} == {1e-3}
    assert {rate for name, rate in rates.items() if name.startswith(head)} == {1e-2}
    assert len(rates) == 4 * 13 + 2


@pytest.mark.parametrize("key", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_that_knows_no_task_is_refused(tiny_recipe: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=rf"training\.arguments\.{key}: does not go with mtl_lora\. Set model\.grad"):
        eq.recipe.load(tiny_recipe, [OWN, f"training.arguments={{{key}: true}}"])
    eq.recipe.load(tiny_recipe, ["model.adapter={rank: 2}", f"training.arguments={{{key}: true}}"])


def test_a_recipe_tells_what_does_not_belong_to_the_type(tiny_recipe: dict[str, Any]) -> None:
    with pytest.raises(
        RecipeError, match=r"model\.adapter: merge goes with type: lora, not with mtl_lora\. Every task"
    ):
        eq.recipe.load(tiny_recipe, ["model.adapter={type: mtl_lora, merge: true}"])
    with pytest.raises(RecipeError, match=r"model\.adapter\.tau: unknown key"):
        eq.recipe.load(tiny_recipe, ["model.adapter={type: mtl_lora, tau: 1}"])
    loaded = eq.recipe.load(tiny_recipe, ["model.adapter={type: mtl_lora, up_projections: 5}"])
    written = eq.recipe.dump(loaded, defaults=False)
    assert "merge" not in written
    assert "up_projections: 5" in written


def test_a_pooling_of_ours_has_no_stock_form(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = train(tiny_recipe, overrides=[OWN, "training.max_steps=1", "model.pooling=mean"], progress=False)
    with pytest.raises(RunError, match="pooling 'mean' has no stock head"):
        export_task(run, "label", tmp_path / "stock")
