"""What `auto` of `training` stands for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.tasks import Task, kind
from equipoise.training._auto import auto_learning_rate, settled


@pytest.mark.parametrize(
    ("width", "rate"), [(384, 2e-4), (768, 5e-5), (1024, 2.8e-5), (4096, 1e-5), (64, 5e-4), (None, 5e-5)]
)
def test_the_rate_falls_with_the_width(width: int | None, rate: float) -> None:
    assert auto_learning_rate(SimpleNamespace(hidden_size=width), adapter=False) == rate
    assert auto_learning_rate(SimpleNamespace(hidden_size=width), adapter=True) == 2e-4
    assert auto_learning_rate(SimpleNamespace(), adapter=False) == 5e-5


class Encoder(nn.Module):
    """As much of a model as the rules look at."""

    def __init__(self, dropout: float, attention_dropout: float | None = None) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.config = SimpleNamespace(hidden_size=768, attention_dropout=attention_dropout)


def test_what_the_recipe_says_stays(tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["training"] |= {"learning_rate": 0.003, "consistency": 0.5}
    loaded = recipes.load(tiny_recipe)
    assert settled(loaded, Encoder(0.1)) == loaded


@pytest.mark.parametrize(
    ("model", "adapter", "found"),
    [
        (Encoder(0.1), None, 1.0),
        (Encoder(0.0, attention_dropout=0.1), None, 1.0),
        (Encoder(0.0), None, None),  # two passes would be the same
        (Encoder(0.1), {"type": "lora"}, None),
    ],
)
def test_rows_pass_twice_where_that_was_measured(
    tiny_recipe: dict[str, Any], model: Encoder, adapter: Any, found: float | None
) -> None:
    tiny_recipe["training"]["consistency"] = "auto"
    tiny_recipe["model"]["adapter"] = adapter
    assert settled(recipes.load(tiny_recipe), model).training.consistency == found


def test_rows_pass_once_for_a_kind_that_cannot_compare_its_answers(
    tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_recipe["training"]["consistency"] = "auto"
    monkeypatch.setattr(kind("regression"), "divergence", Task.divergence)
    assert settled(recipes.load(tiny_recipe), Encoder(0.1)).training.consistency is None


LORA = {"type": "lora"}
PARTING = {"private_layers": 1, "private_when": "conflict"}


@pytest.mark.parametrize(
    ("model", "arguments", "averaging", "calibrate"),
    [
        ({}, {}, "ema", True),
        ({"adapter": LORA}, {}, None, True),
        (PARTING, {}, None, True),  # there is no average of models of two forms
        ({"private_layers": 1}, {}, "ema", True),
        ({}, {"fsdp": "full_shard"}, None, False),
        ({}, {"deepspeed": {"train_batch_size": 8}}, None, False),
    ],
)
def test_weights_are_averaged_and_scores_calibrated_where_that_can_be(
    tiny_recipe: dict[str, Any], model: dict[str, Any], arguments: dict[str, Any], averaging: Any, calibrate: bool
) -> None:
    tiny_recipe["training"] |= {"averaging": "auto", "calibrate": "auto", "arguments": arguments}
    tiny_recipe["model"] |= model
    found = settled(recipes.load(tiny_recipe), Encoder(0.1)).training
    assert (found.averaging, found.calibrate) == (averaging, calibrate)


def test_what_the_launcher_shards_is_known(tiny_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_recipe["training"] |= {"averaging": "auto", "calibrate": "auto"}
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    found = settled(recipes.load(tiny_recipe), Encoder(0.1)).training
    assert (found.averaging, found.calibrate) == (None, False)


def test_all_of_it_is_what_a_recipe_that_says_nothing_means(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    for key in ("consistency", "averaging", "calibrate", "learning_rate"):
        del tiny_recipe["training"][key]
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "run")}, progress=False)
    written = recipes.load(run.recipe_file)
    chosen = written.training
    assert written.balance.method == "dao"
    assert (chosen.learning_rate, chosen.consistency, chosen.averaging, chosen.calibrate) == (5e-4, 1.0, "ema", True)


def test_a_run_says_what_it_chose(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    del tiny_recipe["training"]["learning_rate"]
    tiny_recipe["balance"] = "auto"
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "run")}, progress=False)
    written = recipes.load(run.recipe_file)
    assert (written.balance.method, written.training.learning_rate) == ("dao", 5e-4)
    # The highest rate of the history is the one that was chosen: AdamW's first group is the backbone's.
    assert max(line["learning_rate"] for line in run.history if "learning_rate" in line) <= 5e-4
    assert run.metrics["training"]["learning_rate"] == 5e-4
