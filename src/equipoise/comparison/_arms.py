"""What is compared: each arm is the recipe with some settings changed, or with some of its tasks only."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from equipoise import recipe as recipes
from equipoise.errors import RecipeError
from equipoise.recipe import Recipe
from equipoise.tasks._base import did_you_mean

__all__ = ["FAMILIES", "Arm", "Unusable", "expand", "settings_of"]

Group = Literal["method", "single", "pair", "tuned", "ablation", "setting"]

#: Names that stand for several arms, or for one that no method's name gives.
FAMILIES = {
    "single": "one model for each task",
    "pairs": "one model for each two tasks",
    "tuned-fixed": "fixed weights, searched on validation",
    "plain": "equal weights in a plain Trainer's usual settings, its learning rate chosen on validation",
    "dao-ablation": "DAO's task level and data level, each alone and both",
}

#: A plain `transformers.Trainer`: one rate for all weights, no warm-up, no decay.
PLAIN = {"balance.method": "equal", "training.warmup": 0.0, "training.weight_decay": 0.0, "training.schedule": "linear"}
#: In an override: the heads learn at the backbone's rate, whatever a search makes of it.
SAME = "same"
PLAIN_RATES = (2e-5, 5e-5, 1e-4)


@dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Attributes:
        name: unique in a comparison.
        group: what kind of arm it is.
        overrides: recipe key -> value, `balance.method` among them.
        tasks: the tasks that it trains; None = all.
        search_weights: fixed weights are searched before the runs.
        grid: recipe key -> values to choose from before the runs, on validation.
        other_labels: tasks whose classes are not the recipe's, so that their metrics say nothing beside the others'.
    """

    name: str
    group: Group
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    search_weights: bool = False
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    other_labels: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return re.sub(r"[^\w+.-]+|^\.+", "-", self.name)[:120]  # and so never above its own place

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Arm:
        """The inverse of `to_dict`."""
        return cls(
            data["name"],
            data["group"],
            dict(data["overrides"]),
            None if data["tasks"] is None else tuple(data["tasks"]),
            data["search_weights"],
            {key: tuple(values) for key, values in data["grid"].items()},
            tuple(data["other_labels"]),
        )


@dataclass(frozen=True)
class Unusable:
    """An arm that was asked for and cannot be made."""

    name: str
    reason: str


def expand(
    methods: Iterable[str], recipe: Recipe, extra: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[Arm], list[Unusable]]:
    """Arms of what a user asked for.

    Args:
        methods: names of balancing methods, `name(setting=value, ...)`, or keys of `FAMILIES`.
        recipe: what the arms change.
        extra: name -> recipe overrides, for arms that no method's name gives.

    Returns:
        The arms, and what was asked for and cannot be made, with the reason.

    Raises:
        RecipeError: two arms share a name, or there is none.
    """
    arms: list[Arm] = []
    unusable: list[Unusable] = []
    for text in methods:
        try:
            for arm in _arms_of(text.strip(), recipe):
                _check(arm, recipe)
                arms.append(arm)
        except RecipeError as error:
            unusable.append(Unusable(text.strip(), _one_line(error)))
    for name, overrides in (extra or {}).items():
        try:
            arm = Arm(name, "setting", _flat(overrides))
            _check(arm, recipe)
            arms.append(arm)
        except RecipeError as error:
            unusable.append(Unusable(name, _one_line(error)))
    folders = [arm.folder for arm in arms]
    for position, folder in enumerate(folders):
        if folder in folders[:position]:
            raise RecipeError(f"compare: two arms are named '{arms[position].name}'. Give one another name")
    if not arms:
        reasons = "; ".join(f"{arm.name}: {arm.reason}" for arm in unusable) or "no method was named"
        raise RecipeError(f"compare: nothing can be trained. {reasons}")
    return arms, unusable


def settings_of(arm: Arm, recipe: Recipe, found: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of an arm.

    Args:
        arm: the arm.
        recipe: the comparison's.
        found: what the arm's search found, recipe key -> value.
    """
    changes = dict(arm.overrides) | dict(found or {})
    data = recipe.model_dump(mode="json", by_alias=True)
    if arm.tasks is not None and recipe.training.select.rpartition(".")[0] not in ("", *arm.tasks):
        data["training"]["select"] = "mean_rank"
    method = changes.get("balance.method", recipe.balance.method)
    if method != recipe.balance.method:
        # Another method has settings of its own, and a place of its own where it is measured.
        data["balance"] = {"held_out": recipe.balance.held_out}
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[last] = value
    if data["training"]["head_learning_rate"] == SAME:
        data["training"]["head_learning_rate"] = data["training"]["learning_rate"]
    return recipes.load(data)


def _arms_of(text: str, recipe: Recipe) -> list[Arm]:
    match = re.fullmatch(r"([\w+/-]+)\s*(?:\((.*)\))?", text)
    if match is None:
        raise RecipeError(f"'{text}' is no method. Expected NAME or NAME(setting=value, ...)")
    name, settings = match[1], _settings(match[2] or "")
    tasks = list(recipe.tasks)
    if name in FAMILIES and settings:
        raise RecipeError(f"'{name}' takes no settings")
    if name == "single":
        return [Arm(f"single:{task}", "single", {"balance.method": "equal"}, (task,)) for task in tasks]
    if name == "pairs":
        if len(tasks) < 3:
            raise RecipeError("pairs: with two tasks every arm is the pair")
        return [Arm(f"pair:{a}+{b}", "pair", {}, (a, b)) for a, b in itertools.combinations(tasks, 2)]
    if name == "tuned-fixed":
        if len(tasks) < 2:
            raise RecipeError("tuned-fixed: needs two tasks or more")
        return [Arm(name, "tuned", {"balance.method": "fixed"}, search_weights=True)]
    if name == "plain":
        overrides = PLAIN | {"training.head_learning_rate": SAME}
        return [Arm(name, "setting", overrides, grid={"training.learning_rate": PLAIN_RATES})]
    if name == "dao-ablation":
        return _ablation(recipe)
    from equipoise.balance import available  # loads torch

    if name not in available():
        names = [*available(), *FAMILIES]
        raise RecipeError(
            f"no method '{name}'.{did_you_mean(name, names)} `equipoise balancers` lists the methods; "
            f"beside them: {', '.join(FAMILIES)}"
        )
    return [
        Arm(text, "method", {"balance.method": name} | {f"balance.{key}": value for key, value in settings.items()})
    ]


def _ablation(recipe: Recipe) -> list[Arm]:
    labels = {
        name: "density" if task.type in ("regression", "ordinal") else "inverse_frequency"
        for name, task in recipe.tasks.items()
        if task.type != "multilabel"
    }
    dao = {"balance.method": "dao"}
    arms = [
        Arm("dao/lambda", "ablation", dao | {"balance.data_weights": None}),
        Arm("dao/w", "ablation", dao | {"balance.data_weights": labels, "balance.task_level": False}),
        Arm("dao/lambda+w", "ablation", dao | {"balance.data_weights": labels}),
    ]
    fixed = [name for name, task in recipe.tasks.items() if getattr(task, "thresholds", None) and task.derived_from]
    if fixed:
        balanced: dict[str, Any] = {}
        for name in fixed:
            balanced[f"tasks.{name}.bins"] = len(getattr(recipe.tasks[name], "thresholds")) + 1  # noqa: B009
            balanced[f"tasks.{name}.thresholds"] = None
        overrides = dao | {"balance.data_weights": labels} | balanced
        arms.append(Arm("dao/lambda+w+thresholds", "ablation", overrides, other_labels=tuple(fixed)))
    return arms


def _settings(text: str) -> dict[str, Any]:
    settings = {}
    for part in filter(None, re.split(r",\s*(?=[\w.]+\s*=)", text.strip())):
        key, equals, value = part.partition("=")
        if not equals:
            raise RecipeError(f"'{part}' is no setting. Expected setting=value")
        settings[key.strip()] = recipes.value_of(value)
    return settings


def _flat(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        # A mapping below a section is a setting of its own (an adapter, weights by task), not more keys.
        nested = isinstance(value, Mapping) and not prefix and "." not in str(key)
        flat |= _flat(value, f"{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _check(arm: Arm, recipe: Recipe) -> None:
    first = {key: values[0] for key, values in arm.grid.items()}
    if arm.search_weights:
        first["balance.weights"] = dict.fromkeys(recipe.tasks, 1.0)
    settings_of(arm, recipe, first)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def split_methods(text: str) -> Sequence[str]:
    """`dao,fixed(weights={a: 1, b: 2}),equal` -> its parts; a comma inside brackets parts nothing."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def seeds_of(text: str) -> int | list[int]:
    """`5` -> five seeds from 0; `0,1,7` -> these."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdigit() for number in numbers):
        raise RecipeError(f"compare: seeds: expected a number or a list such as 0,1,7, found '{text}'")
    return int(numbers[0]) if len(numbers) == 1 else [int(number) for number in numbers]


def grid_of(texts: Iterable[str]) -> dict[str, list[Any]]:
    """`training.learning_rate=2e-5,1e-4` -> the key and its values, each as in YAML."""
    grid = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise RecipeError(
                f"compare: tune: expected KEY=A,B such as training.learning_rate=2e-5,1e-4, found '{text}'"
            )
        grid[key.strip()] = [recipes.value_of(value) for value in values.split(",")]
    return grid
