"""Every balancing method trains from a recipe; those that ask for more than training losses get it, and resume exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from stopped_runs import StopAt

import equipoise as eq
from equipoise.balance import available
from equipoise.errors import RecipeError
from equipoise.training import resume, train

SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"weights": {"polarity": 1.0, "label": 0.5, "topic": 2.0}},
    "metabalance": {"target": "polarity"},
    "pcd": {"primary": "polarity"},
    "priority": {"of": "dao", "priorities": {"polarity": 2.0}},
    "recompute_every": {"of": {"method": "dao"}, "every": 2},
    "running_average": {"of": {"method": "imtl_g"}},
    "torchjd": {"weighting": "MGDAWeighting"},
    "coba": {"window": 4, "warmup": 2},
}


def recipe_of(method: str, recipe: dict[str, Any]) -> dict[str, Any]:
    return recipe | {"balance": {"method": method, **SETTINGS.get(method, {})}}


@pytest.mark.parametrize("method", sorted(available()))
def test_every_method_trains_from_a_recipe(method: str, tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["training"] |= {"max_steps": 2, "log_every_steps": 1}
    tiny_recipe["data"] |= {"test": None}
    run = train(recipe_of(method, tiny_recipe), progress=False)
    lines = [line for line in run.history if "tasks" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert math.isfinite(line["loss"])
        assert all(values["weight"] >= 0 or method in {"imtl_g", "aligned_mtl"} for values in line["tasks"].values())


def test_dwa_s_windows_are_the_epochs(tiny_recipe: dict[str, Any]) -> None:
    tiny_recipe["training"] |= {"epochs": 3, "log_every_steps": 1}
    tiny_recipe["data"] |= {"test": None}
    run = train(recipe_of("dwa", tiny_recipe), progress=False)
    lines = [line for line in run.history if "tasks" in line]
    epoch = len(lines) // 3
    weights = [[values["weight"] for values in line["tasks"].values()] for line in lines]
    assert all(weight == 1 for line in weights[: 2 * epoch] for weight in line)
    assert all(weight != 1 for weight in weights[2 * epoch])
    assert all(line == weights[2 * epoch] for line in weights[2 * epoch :])


def comparable(run: eq.Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in {"samples_per_second", "seconds"}} for line in run.history]


@pytest.mark.parametrize(  # every method: test_training_kills.py
    "method",
    ["famo", "gradvac", "torchjd", *(pytest.param(method, marks=pytest.mark.slow) for method in ("coba", "db_mtl"))],
)
def test_a_stopped_run_ends_as_if_it_had_not_stopped(method: str, tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["training"] |= {"max_steps": 12, "log_every_steps": 1, "checkpoint_every_steps": 5, "accumulation": 2}
    tiny_recipe["data"] |= {"test": None}
    settings = recipe_of(method, tiny_recipe)
    whole = train(settings, output=tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(settings, progress=False, callbacks=[StopAt(8)])
    resumed = resume(settings["output"], progress=False)
    assert comparable(resumed) == comparable(whole)
    weights = [line["tasks"]["label"]["weight"] for line in whole.history if "tasks" in line]
    assert len(set(weights)) > 3, "weights that never move would prove nothing"


def test_validation_losses_come_from_rows_that_nothing_else_sees(tiny_recipe: dict[str, Any]) -> None:
    from equipoise.training._plan import make_plan

    tiny_recipe = recipe_of("coba", tiny_recipe)
    tiny_recipe["balance"]["held_out"] = 0.25
    folder = Path(tiny_recipe["output"]).parent / "plan"
    folder.mkdir()
    plan = make_plan(eq.recipe.load(tiny_recipe), folder)
    assert plan.held_out is not None
    held, trained = set(plan.held_out.rows.tolist()), set(plan.training_rows.rows.tolist())  # type: ignore[union-attr]
    assert not held & trained
    assert held | trained == set(range(len(plan.tokens["train"])))
    assert len(held) == round(0.25 * len(plan.tokens["train"]))
    assert plan.steps == 3 * math.ceil(len(trained) / 8)


def test_the_losses_after_an_update_are_of_the_same_batch_with_the_same_dropout(tiny_recipe: dict[str, Any]) -> None:
    # With a learning rate of nothing the update changes nothing, so FAMO must see no change at all.
    tiny_recipe["training"] |= {"max_steps": 4, "learning_rate": 1e-30, "log_every_steps": 1}
    tiny_recipe["model"] |= {"dropout": 0.5}
    settings = recipe_of("famo", tiny_recipe)
    settings["balance"]["gamma"] = 0.0
    seen = []
    run = train(settings, progress=False)
    for line in run.history:
        if "tasks" in line:
            pulls = [values["weight"] * values["loss"] for values in line["tasks"].values()]
            seen.append(max(pulls) / min(pulls) - 1)
    # z stays 1 / K, and the weight is c z / L: every task's weight times its loss is the same.
    assert max(seen) < 1e-4


@pytest.mark.parametrize("method", ["modo", "sdmgrad", "excess_mtl"])
def test_a_place_that_a_method_is_not_defined_at_is_told_before_training(
    method: str, tiny_recipe: dict[str, Any]
) -> None:
    tiny_recipe["balance"] = {"method": method, "shared": "representation"}
    with pytest.raises(RecipeError, match=rf"balance\.shared: {method} cannot be measured at the representation"):
        train(tiny_recipe, progress=False)
