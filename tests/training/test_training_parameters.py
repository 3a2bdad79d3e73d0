"""Which parameters learn at the heads' rate, and which gradients are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES
from model_helpers import make_tasks

import equipoise as eq
from equipoise.errors import RecipeError, RunError
from equipoise.models import build, load_backbone, output_layer
from equipoise.recipe import AdapterSettings, ModelSettings
from equipoise.training import make_plan
from equipoise.training._parameters import head_parameters, parameter_groups, plain_model, shared_parameters
from equipoise.training._run import build_trainer


def model_of(folder: Path, adapter: AdapterSettings | None = None) -> Any:
    settings = ModelSettings(backbone=str(folder), adapter=adapter, max_length=32)
    return build(settings, load_backbone(str(folder)), make_tasks())


def names_of(model: Any, parameters: list[Any]) -> set[str]:
    wanted = {id(p) for p in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_are_all_that_is_not_backbone_and_the_pooler(
    tiny_backbone: Callable[[str], Path], architecture: str
) -> None:
    model = model_of(tiny_backbone(architecture))
    heads = names_of(model, head_parameters(model))
    assert names_of(model, list(output_layer(model).parameters())) <= heads
    outside = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    assert heads == outside | {name for name, _ in model.named_parameters() if ".pooler." in f".{name}"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_where_gradients_are_measured(tiny_backbone: Callable[[str], Path], architecture: str) -> None:
    model = model_of(tiny_backbone(architecture))
    every = names_of(model, shared_parameters(model, "all"))
    last = names_of(model, shared_parameters(model, "last_layer"))
    assert every == {n for n, _ in model.named_parameters()} - names_of(model, list(output_layer(model).parameters()))
    assert last < every
    assert all(".1." in name for name in last)  # two layers: the second one
    with pytest.raises(RunError, match="'adapter' names no trained parameter"):
        shared_parameters(model, "adapter")


def test_with_an_adapter_the_trained_copies_count(tiny_backbone: Callable[[str], Path]) -> None:
    model = model_of(tiny_backbone("bert"), AdapterSettings(rank=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapter = names_of(model, shared_parameters(model, "adapter"))
    assert adapter == {name for name in trained if "lora_" in name}
    heads = names_of(model, head_parameters(model)) & trained
    assert heads
    assert heads == {name for name in trained if "modules_to_save" in name} | {n for n in trained if ".pooler." in n}
    assert plain_model(model) is model.get_base_model()


def test_heads_have_a_rate_of_their_own_and_only_some_parameters_decay(tiny_backbone: Callable[[str], Path]) -> None:
    model = model_of(tiny_backbone("bert"))
    decays = {name for name, _ in model.named_parameters() if name.endswith("weight") and "LayerNorm" not in name}
    groups = parameter_groups(model, decays=decays, learning_rate=1.0, head_learning_rate=10.0, weight_decay=0.1)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_head = name.startswith("classifier.") or ".pooler." in name
        assert found.pop(id(parameter)) == (10.0 if is_head else 1.0, 0.1 if name in decays else 0.0), name
    assert not found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rates_fall_from_block_to_block_down_to_the_embeddings(
    tiny_backbone: Callable[[str], Path], architecture: str
) -> None:
    model = model_of(tiny_backbone(architecture))
    groups = parameter_groups(
        model, decays=set(), learning_rate=1.0, head_learning_rate=10.0, weight_decay=0.0, layer_decay=0.5
    )
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert groups[0]["lr"] == 1.0, "the rate that is logged is the recipe's"
    heads = names_of(model, head_parameters(model))
    for name, parameter in model.named_parameters():
        block = next((part for part in name.split(".") if part in {"0", "1"}), None)
        if name in heads:
            expected = 10.0
        elif block is not None:
            expected = {"1": 1.0, "0": 0.5}[block]
        elif "embed" in name:
            expected = 0.25
        else:  # the norm behind the highest block
            assert name.endswith(".norm.weight") or "final_norm" in name, name
            expected = 1.0
        assert rates.pop(id(parameter)) == expected, name
    assert not rates


def test_rates_fall_inside_an_adapter_too(tiny_backbone: Callable[[str], Path]) -> None:
    model = model_of(tiny_backbone("bert"), AdapterSettings(rank=2))
    settings = {"decays": set(), "learning_rate": 1.0, "head_learning_rate": 10.0, "weight_decay": 0.0}
    rates = {
        id(p): group["lr"] for group in parameter_groups(model, **settings, layer_decay=0.1) for p in group["params"]
    }
    found = {(".1." in n, rates[id(p)]) for n, p in model.named_parameters() if "lora_" in n and ".layer." in n}
    assert found == {(True, 1.0), (False, 0.1)}
    even = parameter_groups(model, **settings, layer_decay=1.0)
    plain = parameter_groups(model, **settings)
    assert sorted(g["lr"] for g in plain) == sorted({g["lr"] for g in even})


def test_a_backbone_without_a_list_of_blocks_has_no_layers_to_tell_apart(
    tiny_backbone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tiny_backbone("bert"))
    monkeypatch.setattr(model.bert, "encoder", torch.nn.Linear(2, 2))
    with pytest.raises(RunError, match=r"training\.layer_decay: this backbone has no list of layers. Set it to null"):
        parameter_groups(
            model, decays=set(), learning_rate=1.0, head_learning_rate=1.0, weight_decay=0.0, layer_decay=0.9
        )
    with pytest.raises(RunError, match=r"balance\.shared: last_layer: this backbone has no list of layers"):
        shared_parameters(model, "last_layer")


def test_the_recipe_s_layer_decay_reaches_the_optimiser(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = eq.recipe.load(
        tiny_recipe, ["training.layer_decay=0.5", "training.schedule=constant", "training.warmup=0"]
    )
    (tmp_path / "cache").mkdir()
    trainer = build_trainer(make_plan(recipe, tmp_path / "cache"), eq.Run.create(tmp_path / "r"), [], in_memory=True)
    rates = {group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {1e-3, 5e-4, 2.5e-4, 1e-2}
    trainer.train()
    line = next(line for line in trainer.run.history if "learning_rate" in line)
    assert line["learning_rate"] == 1e-3


@pytest.mark.parametrize("value", ["0", "1.5"])
def test_an_impossible_layer_decay_is_told(tiny_recipe: dict[str, Any], value: str) -> None:
    with pytest.raises(RecipeError, match=r"training\.layer_decay: input should be"):
        eq.recipe.load(tiny_recipe, [f"training.layer_decay={value}"])
