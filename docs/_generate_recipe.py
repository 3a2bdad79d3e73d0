"""Writes docs/recipe.md from the recipe's schema: `python docs/_generate_recipe.py`, or `--check` to compare."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _page import write_or_check
from pydantic import BaseModel

from equipoise import balance, recipe, tasks
from equipoise._recipe_problems import balance_options

PAGE = Path(__file__).with_name("recipe.md")

HEAD = """\
# The recipe

<!-- Written by docs/_generate_recipe.py from the settings' classes. Change those, then run it again. -->

A recipe is one YAML file. It needs `data.train` and `tasks`; every other key has a default.

```yaml
data: {train: reviews.csv}
tasks:
  polarity: {type: regression, column: score, range: [-1, 1]}
  label:    {type: classification}
```

- `equipoise init TABLE` writes a first one from a table, with a comment on every choice.
- `equipoise validate RECIPE` checks it and its data, and says what training would do.
- `equipoise recipe --resolved RECIPE` prints it with every default, as the run folder keeps it.
- `equipoise recipe --schema` prints the JSON Schema, for editors.
- `--set KEY=VALUE` (`validate`, `recipe`, `train`, `demo`) wins over the file; the value is YAML:
  `--set training.epochs=2 --set 'model.adapter={type: lora}'`.

An unknown key is an error that names the nearest valid one, and all problems are told at once. A path to data is
relative to the recipe's own folder, and may hold `${NAME}` or `${NAME:-default}` for an environment variable; the run
folder (`output`) is relative to where the command runs, and is `runs/NAME` for a recipe `NAME.yaml` that names none.
`1e-4` and `1.0e-4` are both numbers here.
"""

SECTIONS = {
    "model": recipe.ModelSettings,
    "model.adapter": recipe.AdapterSettings,
    "data": recipe.DataSettings,
    "data.train, as a list of tables": recipe.TableSettings,
    "training": recipe.TrainingSettings,
}

TASKS = """
Rules, costs and sources of the methods: [balancers.md](balancers.md).

## tasks

A task's name is yours, and names the prediction's column. Losses, predictions and metrics of each kind:
[tasks.md](tasks.md).
"""

TAIL = """
## Python

A recipe is also a mapping, for notebooks and pipelines:

```python
from equipoise import Recipe, recipe

loaded: Recipe = recipe.load(
    {
        "data": {"train": "reviews.csv"},
        "tasks": {"polarity": {"type": "regression", "column": "score", "range": [-1, 1]}},
    },
    ["training.epochs=2"],
)
assert loaded.training.epochs == 2
```
"""


def page() -> str:
    """Returns the page as it should be."""
    parts = [HEAD, "## The sections\n", _table(recipe.Recipe)]
    for title, model in SECTIONS.items():
        parts += [f"\n## {title}\n", _about(model), _table(model)]
    parts += ["\n## balance\n", _about(recipe.BalanceSettings), _table(recipe.BalanceSettings)]
    parts += [_method(method) for method in balance.describe()]
    parts.append(TASKS)
    for name in tasks.available():
        settings = tasks.kind(name).Settings
        about = settings.model_fields["type"].description or ""
        parts += [f"\n### {name}\n", f"{about[:1].upper()}{about[1:]}.\n", _table(settings, drop=("type",))]
    return "\n".join(part.strip("\n") + "\n" for part in [*parts, TAIL])


def _about(model: type[BaseModel]) -> str:
    return f"{str(model.__doc__).strip()}\n"


def _table(model: type[BaseModel], drop: tuple[str, ...] = ()) -> str:
    schema = model.model_json_schema()
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in drop:
            continue
        default = "**required**" if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            default = ""  # a section: its keys have defaults of their own
        shown = default if default in ("", "**required**") else _code(default)
        lines.append(_row(f"`{key}`", _type(schema["properties"][key]), shown, field.description or ""))
    return "\n".join(lines)


def _type(field: Mapping[str, Any]) -> str:
    """A JSON Schema type in words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(branch) for branch in field["anyOf"]))
    if "$ref" in field:
        return "mapping"
    if "const" in field or "enum" in field:
        return ", ".join(_code(value) for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(_type(item) for item in field['prefixItems'])}]"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_plural(_type(field.get('items', {})))}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{word} {field[key]:g}" for key, word in bounds.items() if key in field]
    return " ".join([words.get(kind, "mapping"), ", ".join(said)]).strip()


def _plural(kind: str) -> str:
    return {"text": "texts", "number": "numbers", "mapping": "mappings"}.get(kind, kind)


def _method(method: Mapping[str, str]) -> str:
    """One balancing method's settings: names and defaults from its constructor, meanings from its docstring."""
    cls = balance.available()[method["method"]]
    meanings = _arguments(cls.__doc__ or "")
    lines = [f"\n### method: {method['method']}\n", f"`{method['rule']}`\n"]
    in_recipe = balance_options(recipe.BalanceSettings(method=method["method"]))
    lines += ["| key | default | meaning |", "| --- | --- | --- |"]
    parameters = inspect.signature(cls).parameters
    for name in method["settings"].split(", "):
        default = in_recipe.get(name, parameters[name].default)  # a recipe's defaults are the run's, not the class's
        shown = "**required**" if default is inspect.Parameter.empty else _code(default)
        lines.append(_row(f"`{name}`", shown, meanings[name]))
    return "\n".join(lines) + "\n"


def _arguments(docstring: str) -> dict[str, str]:
    """The `Args:` of a Google-style docstring: name -> text, in a recipe's words."""
    block = re.search(r"\n +Args:\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL)
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: re.sub(r"\bNone\b", "null", " ".join(text.split()).rstrip(".")) for name, text in found}


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page, __file__))
