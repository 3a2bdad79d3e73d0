"""What is wrong with a recipe, in words: pydantic's findings, and what no single key shows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from equipoise.errors import EquipoiseError
from equipoise.tasks import Task, kind
from equipoise.tasks._base import did_you_mean

if TYPE_CHECKING:
    from equipoise.recipe import BalanceSettings, Recipe

__all__ = ["balance_options", "check_balance", "cross_check", "explain", "types_in"]


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line for each of pydantic's findings: key, what was expected, what was found, the nearest valid key."""
    lines = []
    for item in _without_other_branches(error.errors(include_url=False)):
        loc = [str(part) for part in item["loc"] if not _is_union_branch(part)]
        if item["type"] == "extra_forbidden" and _is_union_branch(item["loc"][-1]):
            loc.append(str(item["loc"][-1]))  # a key of the user's that looks like one
        key = ".".join([prefix, *loc] if prefix else loc) or "recipe"
        if item["type"] == "extra_forbidden":
            valid = _keys_at(model, loc[:-1])
            lines.append(f"{key}: unknown key.{did_you_mean(loc[-1], valid)} Valid keys: {', '.join(valid)}")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            lines.append(f"{key}: {_finding(item)}")
    return list(dict.fromkeys(lines))


def _finding(item: Mapping[str, Any]) -> str:
    message = re.sub(
        r"a valid dictionary( or instance of \w+)?", "a mapping", item["msg"].removeprefix("Value error, ")
    )
    message = message[0].lower() + message[1:]
    if isinstance(item["input"], Mapping) and item["type"] == "value_error":
        return message  # it says itself which of several keys do not go together
    found = repr(item["input"])
    found = found if len(found) <= 200 else f"{found[:200]}..."
    choices = re.findall(r"'([^']*)'", message) if item["type"] == "literal_error" else []
    hint = did_you_mean(str(item["input"]), choices)
    return f"{message}, found {found}{'.' if hint else ''}{hint}"


def _without_other_branches(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Of a value that may have several types, only what is wrong with the type that it has.

    pydantic reports every branch of a union: a table with a wrong key in it is also 'not a string'.
    """
    unions: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in items:
        branch = next((i for i, part in enumerate(item["loc"]) if _is_union_branch(part)), None)
        unions.setdefault(item["loc"][:branch], []).append(dict(item))
    result = []
    for place, group in unions.items():
        words = [item for item in group if item["type"] == "literal_error"]
        if words and len(group) > len(words):  # a number or a word such as auto: a text was meant for the word
            of_type = group if isinstance(group[0]["input"], str) else [item for item in group if item not in words]
            group = [item | {"msg": item["msg"].partition(", unable to parse")[0]} for item in of_type]
            expected = list(dict.fromkeys(item["msg"].removeprefix("Input should be ") for item in group))
            result.append(group[-1] | {"msg": f"Input should be {' or '.join(expected)}"})
            continue
        fitting = [item for item in group if len(item["loc"]) > len(place) + 1 or not item["type"].endswith("_type")]
        if fitting or len(group) == 1:
            result += fitting or group
        else:
            expected = list(dict.fromkeys(item["msg"].removeprefix("Input should be ") for item in group))
            result.append(group[0] | {"msg": f"Input should be {' or '.join(expected)}"})
    return result


def _is_union_branch(part: Any) -> bool:
    # pydantic names the branch of a union in an error's place: `data.train.list[TableSettings].0.path`
    return isinstance(part, str) and (
        part in {"str", "float", "int", "bool"} or part.startswith("constrained-") or part.endswith("]")
    )


def _keys_at(model: type[BaseModel], loc: Sequence[str]) -> list[str]:
    current = model
    for part in loc:
        if part.isdigit():
            continue
        field = current.model_fields.get(part)
        inner = [t for t in types_in(field.annotation) if issubclass(t, BaseModel)] if field is not None else []
        if not inner:
            break
        current = inner[0]
    return [field.alias or name for name, field in current.model_fields.items()]


def types_in(annotation: Any) -> set[type]:
    """The classes that an annotation mentions: `list[int] | None` -> int, NoneType."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return {annotation}
    return {inner for arg in getattr(annotation, "__args__", ()) for inner in types_in(arg)}


def cross_check(recipe: Recipe) -> list[str]:
    """Combinations of keys that are impossible though each key is right."""
    problems = []
    names = list(recipe.tasks)
    for name, task in recipe.tasks.items():
        source = task.derived_from
        if source is not None and (source not in recipe.tasks or recipe.tasks[source].type != "regression"):
            scores = [n for n in names if recipe.tasks[n].type == "regression"]
            problems.append(
                f"tasks.{name}.from: '{source}' is not a regression task.{did_you_mean(source, scores)} "
                f"Regression tasks: {', '.join(scores) or 'none'}"
            )
    if isinstance(recipe.data.train, list):
        problems += _check_tables(recipe.data.train, names)
        texts = [table.text or recipe.data.text for table in recipe.data.train]
        if len({isinstance(text, str) for text in texts}) > 1:
            problems.append(
                "data.train: some tables have one text column and some a pair. One model reads one or the other"
            )
    select = recipe.training.select
    if select != "mean_rank":
        selected, _, metric = select.rpartition(".")
        if selected not in names or not metric:
            choices = ["mean_rank", *(f"{n}.{kind(recipe.tasks[n].type).main_metric[0]}" for n in names)]
            problems.append(
                f"training.select: '{select}' is neither mean_rank nor TASK.METRIC.{did_you_mean(select, choices)} "
                f"Such as {', '.join(choices)}"
            )
        elif metric not in (valid := kind(recipe.tasks[selected].type).selectable()):
            problems.append(
                f"training.select: {selected} has no metric '{metric}'.{did_you_mean(metric, list(valid))} "
                f"It has {', '.join(valid)}"
            )
    if recipe.training.early_stopping and recipe.data.validation is None and isinstance(recipe.data.train, str):
        problems.append("training.early_stopping: needs data.validation, which is null")
    if isinstance(recipe.training.consistency, float):
        without = [n for n in names if kind(recipe.tasks[n].type).divergence is Task.divergence]
        problems += [
            f"training.consistency: tasks.{n} of type {recipe.tasks[n].type} has no divergence. Set it to null"
            for n in without
        ]
    sharding = recipe.training.sharding
    if recipe.training.averaging not in (None, "auto") and sharding is not None:
        problems.append(
            f"training.averaging: does not go with training.arguments.{sharding}, which gives each process a part of the "
            "model only. Set one of them to null"
        )
    if recipe.training.on_nonfinite != "stop" and sharding is not None:
        problems.append(
            f"training.on_nonfinite: {recipe.training.on_nonfinite} does not go with training.arguments.{sharding}, which gives "
            "each process a part of the model only. Set it to stop"
        )
    if recipe.training.calibrate is True and sharding is not None:
        problems.append(
            f"training.calibrate: does not go with training.arguments.{sharding}, which gives each process a part of the "
            "output layer only. Set one of them to false"
        )
    if recipe.model.private_when == "conflict" and recipe.training.compile:
        problems.append(
            "training.compile: a compiled model cannot part (model.private_when: conflict). Set it to false"
        )
    if recipe.training.averaging not in (None, "auto") and recipe.model.private_when == "conflict":
        problems.append(
            "training.averaging: does not go with model.private_when: conflict, which changes the model's form on the way. "
            "Set averaging to null, or private_when to always"
        )
    if recipe.model.adapter is not None and recipe.model.adapter.type == "mtl_lora":
        # It would compute activations again without knowing for which task.
        problems += [
            f"training.arguments.{key}: does not go with mtl_lora. Set model.gradient_checkpointing: true in its place"
            for key in ("gradient_checkpointing", "activation_checkpointing")
            if recipe.training.arguments.get(key)
        ]
    if recipe.balance.shared == "adapter" and recipe.model.adapter is None:
        problems.append("balance.shared: 'adapter' needs model.adapter, which is null")
    return problems


def _check_tables(tables: Sequence[Any], names: list[str]) -> list[str]:
    if not tables:
        return ["data.train: the list of tables is empty"]
    problems = []
    covered: set[str] = set()
    for index, table in enumerate(tables):
        key = f"data.train.{index}.tasks"
        if table.tasks == []:
            problems.append(f"{key}: names no task. null means all of them")
        for name in names if table.tasks is None else table.tasks:
            covered.add(name)
            if name not in names:
                problems.append(f"{key}: no task '{name}'.{did_you_mean(name, names)} Tasks: {', '.join(names)}")
    return problems + [
        f"tasks.{name}: no table of data.train carries its labels" for name in names if name not in covered
    ]


def check_balance(settings: BalanceSettings, tasks: list[str]) -> list[str]:
    """Builds the balancer once, which checks its settings."""
    from equipoise import balance  # imports torch, so only where a recipe is really checked

    cls = balance.available().get(settings.method)
    own = {"name", "task_names"} & set(() if cls is None else inspect.signature(cls).parameters)
    odd = sorted(set(settings.options) & {"name", "task_names", "tasks"} - own)
    if odd:
        return [f"balance.{odd[0]}: unknown key. The tasks are those of the recipe"]
    try:
        made = balance.create(settings.method, tasks, **settings.options)
    except EquipoiseError as error:
        return [f"balance: {error}"]
    except (ValueError, AttributeError) as error:
        return [f"balance: '{settings.method}' cannot be made with {settings.options}: {error}"]
    if settings.shared == "auto" or "shared" not in made.requires:
        return []
    place = "representation" if settings.shared == "representation" else "parameters"
    if place not in made.scopes:
        others = "representation" if place == "parameters" else "last_layer, adapter or all"
        return [f"balance.shared: {settings.method} cannot be measured at the {settings.shared}. Set it to {others}"]
    return []


def balance_options(settings: BalanceSettings, tasks: list[str] | None = None) -> dict[str, Any]:
    """The method's own settings and its place with every default written out, so that a later default changes no old run.

    Without the tasks' names, the place is that of the class; a wrapper's depends on what it wraps.
    """
    from equipoise import balance

    cls = balance.available()[settings.method]
    defaults = balance.defaults_of(cls)
    place: str = settings.shared
    if place == "auto":
        place = (
            cls.measured_at if tasks is None else balance.create(settings.method, tasks, **settings.options).measured_at
        )
    if "monitor" in defaults:
        # In a run the history shows every method's gradient norms, needed or not, where they cost next to nothing.
        defaults["monitor"] = place == "representation"
    return {**defaults, **settings.options, "shared": place}
