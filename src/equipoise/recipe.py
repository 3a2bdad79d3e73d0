"""The recipe: what to train on what, as typed and validated settings. Knows no torch.

A recipe is YAML. `load` reads it, applies `a.b=c` overrides, checks everything and reports all problems together, each
naming the key, the value, what was expected and the nearest valid key. A path to data is relative to the recipe's own
folder, and may hold `${NAME}` or `${NAME:-default}` for an environment variable.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from equipoise import _recipe_yaml
from equipoise._recipe_problems import balance_options, check_balance, cross_check, explain
from equipoise._recipe_sections import (
    AdapterSettings,
    BalanceSettings,
    DataSettings,
    ModelSettings,
    Section,
    TableSettings,
    TrainingSettings,
)
from equipoise.errors import RecipeError
from equipoise.tasks import TaskSettings, available, kind

__all__ = [
    "AdapterSettings",
    "BalanceSettings",
    "DataSettings",
    "ModelSettings",
    "Recipe",
    "TableSettings",
    "TrainingSettings",
    "dump",
    "load",
    "mapping_of",
    "parse",
    "schema",
    "value_of",
]


#: What `balance: auto` stands for: docs/study.md tells what it rests on. With one task it weighs nothing.
AUTO_METHOD = "dao"

#: A recipe is written by hand; PyYAML needs a minute for this much.
_MOST_BYTES = 1 << 22
#: A later Equipoise that reads recipes otherwise counts on from here.
FORMAT_VERSION: Literal[1] = 1


class Recipe(Section):
    """Everything that one run needs."""

    model: ModelSettings = Field(default_factory=ModelSettings, description="the language model")
    data: DataSettings = Field(description="the rows")
    tasks: dict[str, SerializeAsAny[TaskSettings]] = Field(description="name -> task", min_length=1)
    balance: BalanceSettings = Field(default_factory=BalanceSettings, description="the weights of the tasks' losses")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="the optimisation")
    output: str = Field(default="runs/run", min_length=1, description="the run folder")
    format_version: Literal[1] = Field(default=FORMAT_VERSION, description="of this file; leave it to `equipoise`")

    @model_validator(mode="before")
    @classmethod
    def _tasks_by_kind(cls, data: Any) -> Any:
        # Each task is checked by its own kind's settings; `parse` has done so already for a recipe from a file.
        if isinstance(data, Mapping) and isinstance(data.get("tasks"), Mapping):
            built = {
                name: value if isinstance(value, TaskSettings) else kind(value["type"]).Settings.model_validate(value)
                for name, value in data["tasks"].items()
            }
            return {**data, "tasks": built}
        return data


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Reads, completes and checks a recipe.

    Args:
        source: a YAML file, or the same as a mapping.
        overrides: `a.b=c` settings that win over the file; the value is YAML.

    Raises:
        RecipeError: one message that lists every problem.
    """
    if isinstance(source, Mapping):
        if _recipe_yaml.too_deep(source):
            raise RecipeError(f"recipe: nested more than {_recipe_yaml.DEPTH} levels deep, or in itself")
        data, where, base, name = copy.deepcopy(dict(source)), "recipe", Path.cwd(), "run"
    else:
        path = Path(source)
        data, where, base, name = _read(path), str(path), path.resolve().parent, path.stem
    for override in overrides:
        _override(data, override)
    if data.get("output") is None:
        data["output"] = f"runs/{name}"
    recipe = parse(data, where=where)
    update: dict[str, Any] = {"data": _resolve_paths(recipe.data, base)}
    folder = os.path.join(base, os.path.expanduser(recipe.model.backbone))
    named = recipe.model.backbone == "minilm" or recipe.model.backbone.startswith("hub:")
    if not named and os.path.isdir(folder):  # else a hub id
        update["model"] = recipe.model.model_copy(update={"backbone": os.path.realpath(folder)})
    return recipe.model_copy(update=update)


def parse(data: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Checks a mapping; see `load`. Paths are left as they are."""
    version = data.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise RecipeError(
            f"{where}: format_version {version}; this Equipoise reads {FORMAT_VERSION}. Install a newer Equipoise"
        )
    problems: list[str] = []
    tasks = _parse_tasks(data.get("tasks"), problems)
    # A section with nothing below it, or with comments only, is null in YAML.
    given = {key: value for key, value in data.items() if value is not None}
    try:
        # A stand-in keeps the other sections' problems visible where the tasks are wrong.
        recipe = Recipe.model_validate({**given, "tasks": tasks or {"-": TaskSettings(type="-")}})
    except ValidationError as error:
        problems += explain(error, Recipe)
    else:
        problems += cross_check(recipe) if not problems else []
    names = [str(name) for name in given["tasks"]] if isinstance(given.get("tasks"), Mapping) else []
    with contextlib.suppress(ValidationError):  # told already
        settings = BalanceSettings.model_validate(given.get("balance", {}))
        if settings.method == "auto":
            settings = settings.model_copy(update={"method": AUTO_METHOD})
        problems += check_balance(settings, names) if names else []
    if problems:
        head = f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RecipeError("\n  - ".join([head, *problems]))
    return recipe.model_copy(update={"balance": settings.model_copy(update=balance_options(settings, names))})


def dump(recipe: Recipe, defaults: bool = True) -> str:
    """The recipe as YAML; `load` of it gives an equal recipe.

    Args:
        recipe: a checked recipe.
        defaults: write every default out. Without, only what differs from the defaults is written, and what a reader
            looks for in any case: each task's type, the balancing method, the output.
    """
    data = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
    data["tasks"] = {name: {"type": task.type} | data["tasks"][name] for name, task in recipe.tasks.items()}
    plain = {} if defaults else balance_options(BalanceSettings(method=recipe.balance.method))
    kept = {key: value for key, value in data.get("balance", {}).items() if key not in plain or value != plain[key]}
    data["balance"] = {"method": recipe.balance.method} | kept
    if recipe.model.adapter is not None:
        data["model"]["adapter"] = {"type": recipe.model.adapter.type} | data["model"]["adapter"]
    data["output"] = recipe.output  # its default is the recipe file's name
    return _recipe_yaml.dump({name: data[name] for name in Recipe.model_fields if name in data})


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors; each task kind is one branch of `tasks`."""
    result = Recipe.model_json_schema()
    branches = []
    for name in available():
        branch = kind(name).Settings.model_json_schema()
        result["$defs"].update(branch.pop("$defs", {}))
        branch["required"] = sorted({"type", *branch.get("required", ())})  # else a task without one fits several
        branches.append(branch)
    result["properties"]["tasks"]["additionalProperties"] = {"oneOf": branches}
    # A method's name alone stands for its mapping.
    balance = result["properties"]["balance"]
    result["properties"]["balance"] = {"anyOf": [{"$ref": balance.pop("$ref")}, {"type": "string"}], **balance}
    result["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return result


def mapping_of(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, such as the arms of a comparison.

    Raises:
        RecipeError: there is no such file, or it holds something else.
    """
    try:
        data = _recipe_yaml.load(_text_of(path))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except _recipe_yaml.YamlError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(value, dict) for value in data.values()):
        raise RecipeError(f"{path}: expected a mapping of names to recipe settings, found {data!r}"[:300])
    for name in data:
        if not isinstance(name, str):  # 8, true, null or a date: YAML sees no text in it
            raise RecipeError(f"{path}: a name is text, found {name!r}. Put it in quotes: '{name}'")
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        text = _text_of(path)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe. `equipoise init DATA.csv` writes one from a table") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        data = _recipe_yaml.load(text)
    except _recipe_yaml.YamlError as error:
        line = f":{error.line}" if error.line else ""
        raise RecipeError(f"{path}{line}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}; found {_short(data)}"
        )
    return data


def _text_of(path: Path) -> str:
    """A text file that somebody wrote by hand: no pipe, which could wait for ever, and no gigabytes."""
    try:
        if not path.is_dir() and path.exists() and not path.is_file():
            raise RecipeError(f"{path}: is a pipe, a socket or a device. Save the recipe as a file first")
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            raise RecipeError(f"{path}: has {path.stat().st_size} bytes; a recipe has at most {_MOST_BYTES}")
        return path.read_text(encoding="utf-8")
    except ValueError as error:  # no UTF-8, or a name that no file can have
        raise RecipeError(f"{str(path)!r}: cannot be read: {error}") from None


def _short(value: Any) -> str:
    found = repr(value)
    return found if len(found) <= 200 else f"{found[:200]}..."


def value_of(text: str, where: str = "setting") -> Any:
    """A value as it stands in YAML: `2` is a number, `null` is None, `{a: 1}` a mapping."""
    try:
        return _recipe_yaml.load(text)
    except _recipe_yaml.YamlError as error:
        raise RecipeError(f"{where}: the value is not valid YAML: {error}") from None


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override}: expected KEY=VALUE, such as training.epochs=2")
    value = value_of(text, f"--set {override}")
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        elif not isinstance(child, dict):
            raise RecipeError(f"--set {override}: '{part}' is {child!r}, which has no keys of its own")
        node = child
    node[parts[-1]] = value


def _parse_tasks(raw: Any, problems: list[str]) -> dict[str, TaskSettings]:
    if not isinstance(raw, Mapping) or not raw:
        problems.append(f"tasks: expected a mapping of task names to settings, found {_short(raw)}")
        return {}
    tasks: dict[str, TaskSettings] = {}
    for name, value in raw.items():
        key = f"tasks.{name}"[:100]
        if isinstance(value, TaskSettings):
            tasks[name] = value
            continue
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w -]*", name):
            problems.append(
                f"{key}: a task's name is text made of letters, digits, '_', '-' and spaces, found {_short(name)}"
            )
        elif not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            problems.append(f"{key}.type: missing. Expected one of {', '.join(available())}")
        else:
            try:
                tasks[name] = kind(value["type"]).Settings.model_validate(value)
            except RecipeError as error:
                problems.append(f"{key}.type: {error}")
            except ValidationError as error:
                problems += explain(error, kind(value["type"]).Settings, prefix=key)
    return tasks


def _resolve_paths(data: DataSettings, base: Path) -> DataSettings:
    def resolve(key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        expanded = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", partial(_environment, key), value)
        return expanded if expanded.startswith("hub:") else _placed(key, base, expanded)

    update: dict[str, Any] = {
        key: resolve(f"data.{key}", getattr(data, key)) for key in ("train", "validation", "test")
    }
    if not isinstance(data.train, str):
        update["train"] = [
            table.model_copy(
                update={
                    key: resolve(f"data.train.{index}.{key}", getattr(table, key))
                    for key in ("path", "validation", "test")
                }
            )
            for index, table in enumerate(data.train)
        ]
    return data.model_copy(update=update)


def _placed(key: str, base: Path, value: str) -> str:
    """A path in full: one that is relative begins in a folder."""
    try:
        return str((base / Path(value).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a circle of links, a NUL
        raise RecipeError(f"{key}: {_short(value)} is no path: {error}") from None


def _environment(key: str, match: re.Match[str]) -> str:
    name, default = match.group(1), match.group(2)
    value = os.environ.get(name)
    if value:
        # A relative folder at the start is meant from where the command runs, not from the recipe's folder.
        return value if match.start() > 0 or value.startswith("hub:") else str(Path(value).expanduser().resolve())
    if default is None:
        raise RecipeError(f"{key}: environment variable {name} is not set. Set it, or write ${{{name}:-default}}")
    return default
