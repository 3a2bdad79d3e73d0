"""What a user's list of methods stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from equipoise import recipe as recipes
from equipoise.comparison import grid_of, seeds_of, split_methods
from equipoise.comparison._arms import Arm, expand, settings_of
from equipoise.errors import RecipeError
from equipoise.recipe import Recipe

BASE: dict[str, Any] = {
    "data": {"train": "train.csv"},
    "tasks": {
        "polarity": {"type": "regression", "column": "score"},
        "label": {"type": "classification"},
        "band": {"type": "classification", "from": "polarity", "thresholds": [-0.2, 0.2]},
    },
    "balance": {"method": "dao", "every": 3},
    "training": {"learning_rate": 1e-4, "select": "label.accuracy"},
}


@pytest.fixture
def recipe() -> Recipe:
    return recipes.load(BASE)


def names(arms: list[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def test_families_stand_for_their_arms(recipe: Recipe) -> None:
    arms, unusable = expand(["equal", "single", "pairs", "tuned-fixed", "plain", "dao-ablation"], recipe)
    assert not unusable
    assert names(arms) == [
        "equal",
        *("single:polarity", "single:label", "single:band"),
        *("pair:polarity+label", "pair:polarity+band", "pair:label+band"),
        *("tuned-fixed", "plain"),
        *("dao/lambda", "dao/w", "dao/lambda+w", "dao/lambda+w+thresholds"),
    ]
    assert len({arm.folder for arm in arms}) == len(arms)
    assert all(Arm.from_dict(arm.to_dict()) == arm for arm in arms)


def test_the_recipes_own_method_keeps_its_settings_and_another_has_its_own(recipe: Recipe) -> None:
    (dao, famo, pcgrad), _ = expand(["dao", "famo", "pcgrad"], recipe)
    assert settings_of(dao, recipe).balance.options["every"] == 3
    assert "every" not in settings_of(famo, recipe).balance.options
    # The place where gradients are measured is each method's own.
    assert settings_of(dao, recipe).balance.shared == "representation"
    assert settings_of(pcgrad, recipe).balance.shared == "last_layer"


def test_settings_in_brackets(recipe: Recipe) -> None:
    methods = split_methods(
        "fixed(weights={polarity: 1, label: 2, band: 0.5}),pcd(primary=polarity, floor=null), equal"
    )
    assert methods == [
        "fixed(weights={polarity: 1, label: 2, band: 0.5})",
        "pcd(primary=polarity, floor=null)",
        "equal",
    ]
    (fixed,), _ = expand(methods[:1], recipe)
    assert settings_of(fixed, recipe).balance.options["weights"] == {"polarity": 1, "label": 2, "band": 0.5}


def test_single_task_arms_select_by_a_task_that_they_have(recipe: Recipe) -> None:
    arms, _ = expand(["single"], recipe)
    assert [settings_of(arm, recipe).training.select for arm in arms] == ["mean_rank", "label.accuracy", "mean_rank"]


def test_the_plain_trainers_heads_learn_at_its_rate(recipe: Recipe) -> None:
    (plain,), _ = expand(["plain"], recipe)
    assert plain.grid == {"training.learning_rate": (2e-5, 5e-5, 1e-4)}
    training = settings_of(plain, recipe, {"training.learning_rate": 2e-5}).training
    assert (training.learning_rate, training.head_learning_rate) == (2e-5, 2e-5)
    assert (training.warmup, training.weight_decay) == (0, 0)


def test_auto_is_an_arm_that_takes_no_settings(recipe: Recipe) -> None:
    (auto,), (refused,) = expand(["auto", "auto(every=2)"], recipe)
    assert settings_of(auto, recipe).balance.method == "dao"
    assert refused.reason == "'auto' takes no settings"


def test_the_plain_trainer_has_nothing_that_only_ours_has(recipe: Recipe) -> None:
    ours = {"consistency": 1.0, "averaging": "ema", "layer_decay": 0.9, "calibrate": True}
    full = recipe.model_copy(update={"training": recipe.training.model_copy(update=ours)})
    (plain,), _ = expand(["plain"], full)
    training = settings_of(plain, full, {"training.learning_rate": 2e-5}).training
    assert [getattr(training, name) for name in ours] == [None, None, None, False]


def test_balanced_thresholds_replace_fixed_ones_and_their_metrics_do_not_count(recipe: Recipe) -> None:
    arms, _ = expand(["dao-ablation"], recipe)
    balanced = arms[-1]
    assert balanced.other_labels == ("band",)
    task: Any = settings_of(balanced, recipe).tasks["band"]
    assert (task.bins, task.thresholds) == (3, None)
    weights_only = settings_of(arms[1], recipe).balance.options
    assert weights_only["task_level"] is False
    assert weights_only["data_weights"] == {
        "polarity": "density",
        "label": "inverse_frequency",
        "band": "inverse_frequency",
    }


def test_what_cannot_be_made_is_told_and_the_others_stay(recipe: Recipe) -> None:
    arms, unusable = expand(["equal", "gradnrom", "pcd"], recipe, {"odd": {"training": {"epocs": 2}}})
    assert names(arms) == ["equal"]
    reasons = {arm.name: arm.reason for arm in unusable}
    assert "Did you mean 'gradnorm'?" in reasons["gradnrom"]
    assert "primary" in reasons["pcd"]
    assert "training.epocs: unknown key" in reasons["odd"]


def test_nothing_to_train_is_an_error(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"nothing can be trained\. gradnrom: no method"):
        expand(["gradnrom"], recipe)
    with pytest.raises(RecipeError, match=r"two arms are named 'equal'"):
        expand(["equal", "equal"], recipe)


def test_further_arms_are_recipe_settings(recipe: Recipe) -> None:
    arms, _ = expand(
        [], recipe, {"long": {"training": {"epochs": 9}}, "lora": {"model.adapter": {"type": "lora", "rank": 4}}}
    )
    assert settings_of(arms[0], recipe).training.epochs == 9
    adapter = settings_of(arms[1], recipe).model.adapter
    assert adapter is not None
    assert adapter.rank == 4
    assert settings_of(arms[1], recipe).balance.method == "dao"


def test_no_name_leads_out_of_the_folder(recipe: Recipe) -> None:
    folders = [Arm(name, "setting").folder for name in ("..", "../../x", "/etc/passwd", ".data", "a b", "x" * 999)]
    assert [folder.rpartition("-")[0] for folder in folders[:5]] == ["-", "--..-x", "-etc-passwd", "-data", "a-b"]
    assert [len(folder.rpartition("-")[2]) for folder in folders] == [8] * 6
    assert len(folders[5]) == 120


@pytest.mark.parametrize(
    "names",
    [
        ("lr 1", "lr:1", "lr/1", "lr-1"),
        ("x" * 120, "x" * 121, "x" * 121 + "y"),
        ("\u597d" * 200, "\u597d" * 201),  # three bytes each
        (".", "..", "-"),
        ("single:a b", "single:a-b", "single-a-b"),
    ],
)
def test_no_two_names_share_a_folder(names: tuple[str, ...]) -> None:
    folders = [Arm(name, "setting").folder for name in names]
    assert len(set(folders)) == len(names)
    assert all(len(folder.encode()) <= 120 for folder in folders)
    assert folders == [Arm(name, "setting").folder for name in names], "the same the next time"


def test_a_name_that_can_be_a_folder_is_its_folder() -> None:
    for name in ("equal", "dao+uw", "x" * 120, "\u597d" * 40, "v1.2_b"):
        assert Arm(name, "setting").folder == name


@pytest.mark.parametrize(
    ("text", "expected"), [("5", 5), ("0,1,7", [0, 1, 7]), ("7,", [7]), (" 7 , ", [7]), ("0,1,", [0, 1])]
)
def test_seeds(text: str, expected: object) -> None:
    assert seeds_of(text) == expected


def test_bad_seeds_and_grids() -> None:
    with pytest.raises(
        RecipeError, match=r"seeds: expected a number or a list such as 0,1,7 \(or 7, for one\), found 'many'"
    ):
        seeds_of("many")
    for bad in ("\u00b2", "1,\u00b2", ",", "", "1,,2", ",7", "-1", "1.5", "9" * 5000):
        with pytest.raises(RecipeError, match=r"seeds: expected a number or a list"):
            seeds_of(bad)
    with pytest.raises(RecipeError, match=r"tune: expected KEY=A,B"):
        grid_of(["training.learning_rate"])
    assert grid_of(["training.learning_rate=2e-5,1e-4"]) == {"training.learning_rate": [2e-5, 1e-4]}


def test_a_file_of_arms(tmp_path: Path) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text("long: {training: {epochs: 9}}\n")
    assert recipes.mapping_of(path) == {"long": {"training": {"epochs": 9}}}
    path.write_text("- long\n")
    with pytest.raises(RecipeError, match=r"arms.yaml: expected a mapping of names to recipe settings"):
        recipes.mapping_of(path)


def test_an_arm_of_some_tasks_keeps_its_own_settings(recipe: Recipe) -> None:
    given: dict[str, Any] = {
        "alone": {"only": ["label"], "training": {"averaging": "swa"}},
        "two": {"only": ["label", "polarity"]},
    }
    (alone, two), unusable = expand([], recipe, given)
    assert not unusable
    assert (alone.group, alone.tasks, alone.overrides) == (
        "part",
        ("label",),
        {"balance.method": "equal", "training.averaging": "swa"},
    )
    assert settings_of(alone, recipe).training.averaging == "swa"
    assert two.tasks == ("polarity", "label")
    assert settings_of(two, recipe).balance.method == recipe.balance.method
    assert Arm.from_dict(alone.to_dict()) == alone


@pytest.mark.parametrize(
    ("only", "said"),
    [(["lable"], "no task 'lable'. Did you mean 'label'?"), ([], "expected a list of tasks"), (3, "expected a list")],
)
def test_an_arm_of_tasks_that_are_not_there(recipe: Recipe, only: Any, said: str) -> None:
    arms, unusable = expand(["equal"], recipe, {"odd": {"only": only}})
    assert [arm.name for arm in arms] == ["equal"]
    assert unusable[0].name == "odd"
    assert said in unusable[0].reason
