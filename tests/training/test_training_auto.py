"""What `auto` of `training` stands for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import equipoise as eq
from equipoise import recipe as recipes
from equipoise.training._auto import auto_learning_rate, settled


@pytest.mark.parametrize(
    ("width", "rate"), [(384, 2e-4), (768, 5e-5), (1024, 2.8e-5), (4096, 1e-5), (64, 5e-4), (None, 5e-5)]
)
def test_the_rate_falls_with_the_width(width: int | None, rate: float) -> None:
    assert auto_learning_rate(SimpleNamespace(hidden_size=width), adapter=False) == rate
    assert auto_learning_rate(SimpleNamespace(hidden_size=width), adapter=True) == 2e-4
    assert auto_learning_rate(SimpleNamespace(), adapter=False) == 5e-5


def test_what_the_recipe_says_stays(tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["training"]["learning_rate"] = 0.003
    loaded = recipes.load(tiny_recipe)
    assert settled(loaded, SimpleNamespace(hidden_size=768)) == loaded


def test_a_run_says_what_it_chose(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    del tiny_recipe["training"]["learning_rate"]
    tiny_recipe["balance"] = "auto"
    run = eq.train(tiny_recipe | {"output": str(tmp_path / "run")}, progress=False)
    written = recipes.load(run.recipe_file)
    assert (written.balance.method, written.training.learning_rate) == ("dao", 5e-4)
    # The highest rate of the history is the one that was chosen: AdamW's first group is the backbone's.
    assert max(line["learning_rate"] for line in run.history if "learning_rate" in line) <= 5e-4
    assert run.metrics["training"]["learning_rate"] == 5e-4
