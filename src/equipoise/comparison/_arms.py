"""What is compared: each arm is the recipe with some settings changed, or with some of its tasks only."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

from equipoise import recipe as recipes
from equipoise._recipe_problems import check_balance
from equipoise.comparison._search_space import Space
from equipoise.errors import RecipeError
from equipoise.recipe import Recipe
from equipoise.tasks import kind
from equipoise.tasks._base import did_you_mean

__all__ = ["FAMILIES", "Arm", "Unusable", "expand", "settings_of"]

Group = Literal["method", "single", "pair", "part", "tuned", "ablation", "setting"]

#: Names that stand for several arms, or for one that no method's name gives.
FAMILIES = {
    "single": "one model for each task",
    "pairs": "one model for each two tasks",
    "tuned-fixed": "fixed weights, searched on validation",
    "plain": "equal weights in a plain Trainer's usual settings, its learning rate chosen on validation",
    "dao-ablation": "DAO's task level and data level, each alone and both",
}

#: A plain `transformers.Trainer`: one rate for all weights, no warm-up, no decay, and nothing that it does not have.
PLAIN = {
    "balance.method": "equal",
    "training.warmup": 0.0,
    "training.weight_decay": 0.0,
    "training.schedule": "linear",
    "training.layer_decay": None,
    "training.consistency": None,
    "training.averaging": None,
    "training.calibrate": False,
}
#: Of an arm's settings, the only one that is none of the recipe: the tasks that it trains.
ONLY = "only"
#: In an override: the heads learn at the backbone's rate, whatever a search makes of it.
SAME = "same"
PLAIN_RATES = (2e-5, 5e-5, 1e-4)
#: What says of a task, beside its column and kind, what its labels are. Where one of them differs, so does what a metric means.
LABELS = ("labels", "casefold", "source", "bins", "thresholds", "separator", "empty")
#: Kinds that learn the same labels, one class a row, and are judged by the same accuracy.
_EXCLUSIVE = {"classification": "one class", "ordinal": "one class"}
#: Of a folder's name, in bytes; file systems end at 255.
LONGEST = 120


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
        other_labels: tasks whose labels are not the recipe's, so that their metrics say nothing beside the others'.
            `expand` finds them.
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
        """A name for its folder: the arm's and, where that cannot be used as it stands, a digest that keeps it apart."""
        plain = re.sub(r"[^\w+.-]+|^\.+", "-", self.name)  # and so never above its own place
        if plain == self.name and len(plain.encode()) <= LONGEST:
            return plain
        digest = blake2b(self.name.encode(errors="surrogatepass"), digest_size=4).hexdigest()
        return f"{plain.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"

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
    methods: Iterable[str],
    recipe: Recipe,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    tune: Mapping[str, Sequence[Any]] | None = None,
    taken: Iterable[str] = (),
) -> tuple[list[Arm], list[Unusable]]:
    """Arms of what a user asked for.

    Args:
        methods: names of balancing methods, `name(setting=value, ...)`, or keys of `FAMILIES`.
        recipe: what the arms change.
        extra: name -> recipe overrides, for arms that no method's name gives; with `only`, a list of tasks, the arm trains these.
        tune: recipe key -> values, for every arm that has no grid of its own.
        taken: names that stand in the comparison already.

    Returns:
        The arms, and what was asked for and cannot be made, with the reason, under names that no arm has.

    Raises:
        RecipeError: what was asked for is no list of methods, or no mapping of names to settings or values; two arms
            share a name; or there is none.
    """
    grid = Space(grid=_named("tune", tune, "values")).grid if tune else {}
    asked: list[Arm] = []
    unusable: list[Unusable] = []
    for text in _methods(methods):
        try:
            asked += _arms_of(text, recipe)
        except RecipeError as error:
            unusable.append(Unusable(text, _one_line(error)))
    for name, overrides in _named("arms", {} if extra is None else extra, "recipe settings").items():
        if not isinstance(overrides, Mapping):
            raise RecipeError(f"compare: arms: '{name}': expected a mapping of recipe settings, found {overrides!r}")
        try:
            asked.append(_own_arm(name, overrides, recipe))
        except RecipeError as error:
            unusable.append(Unusable(name, _one_line(error)))
    arms: list[Arm] = []
    for arm in asked:
        try:
            arms.append(_checked(replace(arm, grid=arm.grid or grid), recipe))
        except RecipeError as error:
            unusable.append(Unusable(arm.name, _one_line(error)))
    folders = [arm.folder for arm in arms]
    for position, folder in enumerate(folders):
        if folder in folders[:position]:
            raise RecipeError(f"compare: two arms are named '{arms[position].name}'. Give one another name")
    if not arms:
        reasons = "; ".join(f"{arm.name}: {arm.reason}" for arm in unusable) or "no method was named"
        raise RecipeError(f"compare: nothing can be trained. {reasons}")
    return arms, _apart(unusable, {*taken, *(arm.name for arm in arms)})


def _methods(given: Iterable[str]) -> list[str]:
    methods: object = given
    # A name alone would pass for a list of its letters.
    listed: list[Any] = list(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else [None]
    if not all(isinstance(text, str) and text.strip() for text in listed):
        raise RecipeError(f"compare: methods: expected a list of names such as ['equal', 'dao'], found {given!r}")
    return [text.strip() for text in listed]


def _named(setting: str, given: Mapping[Any, Any], of: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise RecipeError(f"compare: {setting}: expected a mapping of names to {of}, found {given!r}")
    for name in given:
        if not isinstance(name, str) or not name.strip():
            raise RecipeError(f"compare: {setting}: a name is text that is not blank, found {name!r}")
    return given


def _apart(unusable: Iterable[Unusable], taken: set[str]) -> list[Unusable]:
    """Each once, and under a name of its own: they stand in one table with the arms."""
    found: dict[str, Unusable] = {}
    for one in dict.fromkeys(unusable):
        name, number = one.name, 1
        while name in taken or name in found:
            number += 1
            name = f"{one.name} ({number})"
        found[name] = replace(one, name=name)
    return list(found.values())


def settings_of(arm: Arm, recipe: Recipe, found: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of an arm.

    An arm of some tasks keeps the recipe's others, which say how rows are split; only its balance says nothing of them.

    Args:
        arm: the arm.
        recipe: the comparison's.
        found: what the arm's search found, recipe key -> value.

    Raises:
        RecipeError: its settings are not valid.
    """
    changes = dict(arm.overrides) | dict(found or {})
    data = recipe.model_dump(mode="json", by_alias=True)
    if arm.tasks is not None and recipe.training.select.rpartition(".")[0] not in ("", *arm.tasks):
        data["training"]["select"] = "mean_rank"
    method = changes.get("balance.method", recipe.balance.method)
    if method != recipe.balance.method:
        # Another method has settings of its own, and a place of its own where it is measured.
        data["balance"] = {"held_out": recipe.balance.held_out}
    for name, task in recipe.tasks.items():
        wanted = str(changes.get(f"tasks.{name}.type", task.type))
        if wanted != task.type:
            # Another kind, too, has settings of its own; what it has in common with the old one stays.
            known = {setting.alias or key for key, setting in kind(wanted).Settings.model_fields.items()}
            said = task.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            data["tasks"][name] = {key: value for key, value in said.items() if key in known}
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[last] = value
    for section in ("model", "data", "tasks", "balance", "training"):
        if not isinstance(
            data[section], dict
        ):  # in a file of recipes null means the defaults, not the recipe's settings
            raise RecipeError(f"{section}: expected settings, found {data[section]!r}")
    if data["training"].get("head_learning_rate") == SAME:
        data["training"]["head_learning_rate"] = data["training"]["learning_rate"]
    made = recipes.load(data)
    if arm.tasks is None:
        return made
    options = {key: _of_tasks(value, arm.tasks, set(made.tasks)) for key, value in made.balance.options.items()}
    return made.model_copy(update={"balance": made.balance.model_copy(update=options)})


def _of_tasks(setting: Any, tasks: Iterable[str], known: set[str]) -> Any:
    """A method's setting without what it says of other tasks; a wrapper has settings inside its settings."""
    if not isinstance(setting, Mapping):
        return setting
    by_task = set(setting) <= known
    return {
        key: value if by_task else _of_tasks(value, tasks, known)
        for key, value in setting.items()
        if not by_task or key in tasks
    }


def _arms_of(text: str, recipe: Recipe) -> list[Arm]:
    match = re.fullmatch(r"([\w+/-]+)\s*(?:\((.*)\))?", text)
    if match is None:
        raise RecipeError(f"'{text}' is no method. Expected NAME or NAME(setting=value, ...)")
    name, settings = match[1], _settings(match[2] or "")
    tasks = list(recipe.tasks)
    if (name in FAMILIES or name == "auto") and settings:
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

    if name not in available() and name != "auto":
        names = [*available(), "auto", *FAMILIES]
        raise RecipeError(
            f"no method '{name}'.{did_you_mean(name, names)} `equipoise balancers` lists the methods; "
            f"beside them: {', '.join(FAMILIES)}"
        )
    return [
        Arm(text, "method", {"balance.method": name} | {f"balance.{key}": value for key, value in settings.items()})
    ]


def _own_arm(name: str, overrides: Mapping[str, Any], recipe: Recipe) -> Arm:
    settings = _flat({key: value for key, value in overrides.items() if key != ONLY})
    if ONLY not in overrides:
        return Arm(name, "setting", settings)
    wanted, tasks = overrides[ONLY], list(recipe.tasks)
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(wanted, list | tuple) or not wanted:
        raise RecipeError(f"{ONLY}: expected a list of tasks, found {wanted!r}. Tasks: {', '.join(tasks)}")
    for task in wanted:
        if task not in tasks:
            raise RecipeError(f"{ONLY}: no task {task!r}.{did_you_mean(str(task), tasks)} Tasks: {', '.join(tasks)}")
    if len(set(wanted)) == 1:  # nothing is to be balanced
        settings = {"balance.method": "equal"} | settings
    return Arm(name, "part", settings, tuple(task for task in tasks if task in wanted))


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
    fixed = {name: getattr(task, "thresholds", None) for name, task in recipe.tasks.items() if task.derived_from}
    balanced: dict[str, Any] = {}
    for name, thresholds in fixed.items():
        if thresholds:
            balanced |= {f"tasks.{name}.bins": len(thresholds) + 1, f"tasks.{name}.thresholds": None}
    if balanced:
        overrides = dao | {"balance.data_weights": labels} | balanced
        arms.append(Arm("dao/lambda+w+thresholds", "ablation", overrides))
    return arms


def _settings(text: str) -> dict[str, Any]:
    settings = {}
    for part in filter(None, re.split(r",\s*(?=[\w.]+\s*=)", text.strip())):
        key, equals, value = part.partition("=")
        if not equals:
            raise RecipeError(f"'{part}' is no setting. Expected setting=value")
        settings[key.strip()] = recipes.value_of(value)
    if "method" in settings:
        raise RecipeError("method: the name before the brackets is the method")
    return settings


def _flat(overrides: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        # A mapping below a section is a setting of its own (an adapter, weights by task), not more keys.
        nested = isinstance(value, Mapping) and not prefix and "." not in str(key)
        flat |= _flat(value, f"{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _checked(arm: Arm, recipe: Recipe) -> Arm:
    """The arm, if a recipe can be made with each value of its grid; with the tasks whose labels become others."""
    first = {key: values[0] for key, values in arm.grid.items()}
    if arm.search_weights:
        first["balance.weights"] = dict.fromkeys(recipe.tasks, 1.0)
    others = [first | {key: value} for key, values in arm.grid.items() for value in values[1:]]
    unlike = set()
    for found in [first, *others]:
        made = settings_of(arm, recipe, found)
        problems = [] if arm.tasks is None else check_balance(made.balance, list(arm.tasks))
        if problems:
            raise RecipeError("; ".join(problems))
        unlike |= {name for name in recipe.tasks if _labels(made, name) != _labels(recipe, name)}
    return replace(arm, other_labels=tuple(name for name in recipe.tasks if name in unlike))


def _labels(recipe: Recipe, name: str) -> list[Any]:
    """What makes a task's labels what they are; those of a derived task are made of its source's."""
    task = recipe.tasks[name]
    own = [
        task.column or name,
        _EXCLUSIVE.get(task.type, task.type),
        *(getattr(task, key, None) or None for key in LABELS),
    ]
    return own if task.derived_from is None else [own, _labels(recipe, task.derived_from)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
