"""Odd requests: arms that mean other labels, names that clash, settings of tasks that an arm has not, wrong types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import equipoise as eq
from equipoise import balance
from equipoise import recipe as recipes
from equipoise.comparison._arms import Arm, expand, settings_of
from equipoise.errors import BalanceError, RecipeError
from equipoise.recipe import Recipe

BASE: dict[str, Any] = {
    "data": {"train": "train.csv"},
    "tasks": {
        "polarity": {"type": "regression", "column": "score"},
        "label": {"type": "classification"},
        "band": {"type": "classification", "from": "polarity", "thresholds": [-0.2, 0.2]},
        "topics": {"type": "multilabel"},
    },
    "balance": {"method": "equal"},
}


def recipe_with(**balance_settings: Any) -> Recipe:
    return recipes.load(BASE | ({"balance": balance_settings} if balance_settings else {}))


def by_name(arms: list[Arm]) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


# Labels that are not the recipe's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"tasks.band.thresholds": [-0.5, 0.5]}, ("band",)),
        ({"tasks.band.bins": 4, "tasks.band.thresholds": None}, ("band",)),
        ({"tasks.label.labels": ["a", "b"]}, ("label",)),
        ({"tasks.label.casefold": True}, ("label",)),
        ({"tasks.label.column": "other"}, ("label",)),
        ({"tasks.label": {"type": "ordinal", "labels": ["a", "b"]}}, ("label",)),
        ({"tasks.band": {"type": "ordinal", "from": "polarity", "bins": 3}}, ("band",)),
        ({"tasks.label": {"type": "classification", "from": "polarity", "bins": 2}}, ("label",)),
        ({"tasks.polarity.column": "other"}, ("polarity", "band")),  # the bands are made of it
        ({"tasks.topics.separator": ";"}, ("topics",)),
        ({"tasks.topics.empty": "none"}, ("topics",)),
        # The same labels, learned or decided in another way.
        ({"tasks.label.column": "label"}, ()),
        ({"tasks.polarity.scaling": "none", "tasks.polarity.loss": "huber"}, ()),
        ({"tasks.label.class_weights": "balanced", "tasks.topics.threshold": 0.4}, ()),
        ({"tasks.band.type": "ordinal"}, ()),
        ({"training.epochs": 2}, ()),
        ({"tasks.new": {"type": "classification"}}, ()),
    ],
)
def test_tasks_whose_labels_are_others_are_found(overrides: dict[str, Any], expected: tuple[str, ...]) -> None:
    (arm,), unusable = expand([], recipe_with(), {"arm": overrides})
    assert not unusable
    assert arm.other_labels == expected


def test_another_kind_keeps_what_it_knows() -> None:
    tasks = BASE["tasks"] | {
        "band": BASE["tasks"]["band"] | {"label_smoothing": 0.1, "labels": ["low", "middle", "high"]}
    }
    (arm,), unusable = expand([], recipes.load(BASE | {"tasks": tasks}), {"arm": {"tasks.band.type": "ordinal"}})
    assert not unusable
    band = settings_of(arm, recipes.load(BASE | {"tasks": tasks})).tasks["band"]
    assert (band.type, band.labels, band.thresholds) == ("ordinal", ["low", "middle", "high"], [-0.2, 0.2])
    _, (wrong,) = expand(["equal"], recipe_with(), {"arm": {"tasks.band.type": "ordinary"}})
    assert "no task type 'ordinary'" in wrong.reason


def test_a_grid_over_labels_makes_them_others() -> None:
    recipe = recipe_with()
    (arm,), _ = expand(["equal"], recipe, tune={"tasks.label.casefold": [False, True]})
    assert arm.other_labels == ("label",)
    assert arm.grid == {"tasks.label.casefold": (False, True)}


def test_other_classes_and_another_kind_stop_no_comparison(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["data"]["max_rejected"] = 0.5  # a row in seven has no score
    tiny_recipe["tasks"] = {
        "polarity": tiny_recipe["tasks"]["polarity"],
        "band": {"type": "classification", "from": "polarity", "thresholds": [-0.2, 0.2]},
    }
    found = eq.compare(
        tiny_recipe,
        methods=["equal"],
        arms={
            "bins": {"tasks.band.bins": 4, "tasks.band.thresholds": None},
            "kind": {"tasks.band": {"type": "regression", "column": "score"}},
            "all": {f"tasks.{name}": {"type": "classification", "column": "label"} for name in ("polarity", "band")},
        },
        seeds=1,
        output=tmp_path / "c",
        progress=False,
    )
    arms = {arm["arm"]: arm for arm in found.summary["arms"]}
    assert {name: arm["failed"] for name, arm in arms.items()} == {"equal": [], "bins": [], "kind": [], "all": []}
    tasks = {name: set(part["task"]) for name, part in found.results.groupby("arm")}
    assert tasks == {"equal": {"polarity", "band"}, "bins": {"polarity"}, "kind": {"polarity"}}
    assert found.summary["curves"]["equal"]["validation"].keys() == {"polarity.mse", "band.macro_f1"}
    assert found.summary["curves"]["bins"]["validation"].keys() == {"polarity.mse"}
    assert arms["all"]["runs"] == 1, "it was trained, and nothing of it can be compared"


# What some arms cannot take ------------------------------------------------------------------------------------------


def test_a_grid_that_one_arm_cannot_take_costs_that_arm_only() -> None:
    arms, unusable = expand(["equal", "dao", "plain"], recipe_with(), tune={"balance.every": [1, 2]})
    assert {arm.name: arm.grid.keys() for arm in arms} == {
        "dao": {"balance.every"},
        "plain": {"training.learning_rate"},  # it has a grid of its own
    }
    (equal,) = unusable
    assert equal.name == "equal"
    assert "no setting 'every'" in equal.reason


def test_every_value_of_a_grid_is_checked() -> None:
    with pytest.raises(RecipeError, match=r"nothing can be trained\. equal: .*training\.learning_rate.*-1"):
        expand(["equal"], recipe_with(), tune={"training.learning_rate": [1e-4, -1]})


def test_what_cannot_be_made_is_told_once_and_under_a_name_of_its_own() -> None:
    arms, unusable = expand(
        ["equal", "foo", "foo", "dao(foo=1)"], recipe_with(), {"dao(foo=1)": {"training.epochs": 1}}
    )
    assert [arm.name for arm in arms] == ["equal", "dao(foo=1)"]
    assert [one.name for one in unusable] == ["foo", "dao(foo=1) (2)"]
    _, unusable = expand(["equal", "foo"], recipe_with(), {"foo": {"training.epocs": 1}}, taken=["foo"])
    assert [one.name for one in unusable] == ["foo (2)", "foo (3)"]
    assert "epocs" in unusable[1].reason


def test_one_arm_of_a_family_that_cannot_be_made_costs_no_other() -> None:
    arms, unusable = expand(["pairs"], recipe_with(method="pcd", primary="polarity"))
    assert {arm.name for arm in arms} == {"pair:polarity+label", "pair:polarity+band", "pair:polarity+topics"}
    assert {one.name for one in unusable} == {"pair:label+band", "pair:label+topics", "pair:band+topics"}
    assert all("primary" in one.reason for one in unusable)


WEIGHTS = {"polarity": 1.0, "label": 2.0, "band": 3.0, "topics": 0.5}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "fixed", "weights": WEIGHTS}, {"weights": {"polarity": 1.0, "band": 3.0}}),
        (
            {"method": "dao", "data_weights": {"polarity": "density", "label": "inverse_frequency"}},
            {"data_weights": {"polarity": "density"}},
        ),
        ({"method": "dao", "data_weights": {"label": "inverse_frequency"}}, {"data_weights": {}}),
        ({"method": "dao", "data_weights": "inverse_frequency"}, {"data_weights": "inverse_frequency"}),
        (
            {"method": "running_average", "of": {"method": "fixed", "weights": WEIGHTS}},
            {"of": {"method": "fixed", "weights": {"polarity": 1.0, "band": 3.0}}},
        ),
    ],
)
def test_a_pairs_balance_says_nothing_of_other_tasks(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = recipe_with(**settings)
    arms, unusable = expand(["pairs"], recipe)
    assert not unusable
    made = settings_of(by_name(arms)["pair:polarity+band"], recipe)
    options = made.balance.options
    assert {key: options[key] for key in expected} == expected
    balance.create(made.balance.method, ["polarity", "band"], **options)
    if expected != {"data_weights": "inverse_frequency"}:  # which names no task
        with pytest.raises(BalanceError, match=r"label|topics"):
            balance.create(made.balance.method, ["polarity", "band"], **recipe.balance.options)
    # The others are still in the recipe: they have a say in how rows are split.
    assert list(made.tasks) == list(recipe.tasks)
    (whole,), _ = expand([settings["method"]], recipe)
    assert settings_of(whole, recipe).balance.options == recipe.balance.options


def test_pairs_train_where_the_balance_names_tasks(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny_recipe["tasks"]["band"] = {"type": "classification", "from": "polarity", "bins": 2}
    tiny_recipe["tasks"] = {name: tiny_recipe["tasks"][name] for name in ("polarity", "label", "band")}
    weights = {"polarity": 1, "label": 2, "band": 1}
    tiny_recipe["balance"] = {"method": "fixed", "weights": weights}
    found = eq.compare(tiny_recipe, methods=["fixed", "pairs"], seeds=1, output=tmp_path / "c", progress=False)
    assert {arm["arm"]: (arm["runs"], arm["failed"]) for arm in found.summary["arms"]} == {
        name: (1, []) for name in ("fixed", "pair:polarity+label", "pair:polarity+band", "pair:label+band")
    }


# What stands in the folder -------------------------------------------------------------------------------------------


def test_the_baseline_stays_when_arms_are_added(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"output": tmp_path / "c", "progress": False}
    eq.compare(tiny_recipe, methods=["equal", "dao"], seeds=[0], **asked)
    found = eq.compare(tiny_recipe, methods=["famo", "foo"], seeds=[0], **asked)
    assert found.summary["baseline"] == "equal"
    # Any arm that stands can be the baseline, and then stays it; a name that stands is no name for what cannot be made.
    found = eq.compare(tiny_recipe, methods=["famo", "dao(foo=1)"], baseline="dao", seeds=[0], **asked)
    assert found.summary["baseline"] == "dao"
    found = eq.compare(
        tiny_recipe, methods=["famo"], arms={"equal": {"training.epocs": 1}}, seeds=[0], budget=None, **asked
    )
    assert found.summary["baseline"] == "dao"
    names = [arm["arm"] for arm in found.summary["arms"]]
    assert names == ["equal", "dao", "famo", "equal (2)"]
    with pytest.raises(RecipeError, match=r"no arm 'doa'\. Did you mean 'dao'\? Arms: equal, dao, famo"):
        eq.compare(tiny_recipe, methods=["famo"], baseline="doa", seeds=[0], **asked)
    settings = json.loads((found.folder / "comparison.json").read_text())
    assert settings["budget"] is None
    assert "--seeds 0, " in settings["command"]


def test_a_budget_is_what_it_means(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": ["equal"], "seeds": 1, "output": tmp_path / "c", "progress": False}
    for budget in (64, "64", " 64 "):
        found = eq.compare(tiny_recipe, **asked, budget=budget)
    assert json.loads((found.folder / "comparison.json").read_text())["budget"] == {"examples": 64}
    asked["output"] = tmp_path / "t"
    for budget in ("60s", "1min"):
        found = eq.compare(tiny_recipe, **asked, budget=budget)
    assert json.loads((found.folder / "comparison.json").read_text())["budget"] == {"seconds": 60}


# Wrong types ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"arms": {"a": 5}}, r"arms: 'a': expected a mapping of recipe settings, found 5"),
        ({"arms": {"a": None}}, r"arms: 'a': expected a mapping of recipe settings, found None"),
        ({"arms": {8: {"training.epochs": 1}}}, r"arms: a name is text that is not blank, found 8"),
        ({"arms": {"": {"training.epochs": 1}}}, r"arms: a name is text that is not blank, found ''"),
        ({"arms": [1]}, r"arms: expected a mapping of names to recipe settings, found \[1\]"),
        ({"methods": "equal"}, r"methods: expected a list of names such as \['equal', 'dao'\], found 'equal'"),
        ({"methods": 5}, r"methods: expected a list of names"),
        ({"methods": ["equal", ""]}, r"methods: expected a list of names"),
        ({"tune": ["training.epochs"]}, r"tune: expected a mapping of names to values"),
        ({"tune": {1: [1]}}, r"tune: a name is text that is not blank, found 1"),
        ({"tune": {"training.epochs": 5}}, r"training\.epochs: a grid needs a list of values, found 5"),
        ({"tune": {"training.epochs": []}}, r"training\.epochs: a grid needs a list of values, found \[\]"),
        ({"seeds": 0}, r"seeds: expected how many, 1 to 10000, found 0"),
        ({"seeds": -3}, r"seeds: expected how many, 1 to 10000, found -3"),
        ({"seeds": 2**40}, r"seeds: expected how many, .* For one seed write \[7\], or --seeds 7,"),
        ({"seeds": []}, r"seeds: expected how many, or a list such as \[0, 1, 7\], found \[\]"),
        ({"seeds": "0,1"}, r"seeds: expected how many, or a list"),
        ({"seeds": 2.0}, r"seeds: expected how many, or a list"),
        ({"seeds": [0, -1]}, r"seeds: a seed is a whole number from 0 to 4294967295, found -1"),
        ({"seeds": [2**32]}, r"seeds: a seed is a whole number from 0 to 4294967295, found 4294967296"),
        ({"seeds": [0.5]}, r"seeds: a seed is a whole number from 0 to 4294967295, found 0\.5"),
    ],
)
def test_wrong_types_are_told_in_one_sentence(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        eq.compare(recipe_with(), **({"methods": ["equal"]} | asked), output=tmp_path / "c", progress=False)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("section", ["training", "balance", "model", "tasks", "data"])
@pytest.mark.parametrize("value", [None, 5, "x", [1]])
def test_a_section_that_is_no_settings_costs_its_arm_only(section: str, value: Any) -> None:
    arms, (odd,) = expand(["equal"], recipe_with(), {"odd": {section: value}})
    assert [arm.name for arm in arms] == ["equal"]
    assert f"{section}: expected settings, found {value!r}" in odd.reason


def test_a_methods_name_is_not_a_setting() -> None:
    _, (odd,) = expand(["equal", "dao(method=equal)"], recipe_with())
    assert odd.reason == "method: the name before the brackets is the method"


@pytest.mark.parametrize(
    ("text", "name"), [("8: {training: {epochs: 9}}", "8"), ("on: {training: {epochs: 9}}", "True")]
)
def test_names_in_a_file_of_arms_are_text(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "arms.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"arms\.yaml: a name is text, found {name}\. Put it in quotes: '{name}'"):
        recipes.mapping_of(path)
    path.write_text(text.replace("8", "'8'").replace("on", "'on'", 1))
    assert list(recipes.mapping_of(path)) == [text.partition(":")[0]]
