"""Which parameters learn at the heads' rate, and which gradients are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ARCHITECTURES
from model_helpers import make_tasks

from equipoise.errors import RunError
from equipoise.models import build, load_backbone, output_layer
from equipoise.recipe import AdapterSettings, ModelSettings
from equipoise.training._parameters import head_parameters, parameter_groups, plain_model, shared_parameters


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
